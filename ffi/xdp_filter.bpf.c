/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 * The XDP program: redirects Tegula's frames, and passes all others to the kernel.
 *
 * A frame is ours if it has an IPv4 UDP datagram without options, not a fragment, to our MAC
 * address, one of our addresses and one of our ports, in no VLAN or in our VLANs. Anything unusual
 * is passed to the kernel, which returns our datagrams through the kernel's socket. So only
 * redirected frames have to be right, and the net tile checks them again.
 *
 * Without a socket on the queue all frames are passed, so a dead Tegula does not affect the host.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "shared.h"

#define ADDRESS_SLOTS (1 << FILTER_SLOT_BITS)
#define VLAN_TAGS 2
#define FRAGMENT 0x3fff /* more fragments, or an offset */

/*
 * Describes our frames; written by tiles/netlink/xdp_filter.ts. Bitmaps are by VLAN id and by port.
 * `addresses` is open-addressed, in host order, 0 for empty. A lookup always examines FILTER_PROBES
 * slots from the hash on, so that one store adds or removes an address.
 */
struct filter {
	__u16 mac[3]; /* in network order */
	__u16 times; /* not 0: each frame gets its own timestamp */
	__u32 seed;
	__u32 vlans[4096 / 32];
	__u32 ports[65536 / 32];
	__u32 addresses[ADDRESS_SLOTS];
};
#define IS_AT(part, at) _Static_assert(__builtin_offsetof(struct filter, part) == (at), "FilterAt in shared.ts")
IS_AT(mac, FILTER_AT_MAC);
IS_AT(times, FILTER_AT_TIMES);
IS_AT(seed, FILTER_AT_SEED);
IS_AT(vlans, FILTER_AT_VLANS);
IS_AT(ports, FILTER_AT_PORTS);
IS_AT(addresses, FILTER_AT_ADDRESSES);
_Static_assert(sizeof(struct filter) <= FILTER_BYTES, "FILTER_BYTES in shared.ts");

struct vlan_tag {
	__be16 id;
	__be16 type;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct filter);
} filter SEC(".maps");

/* Frames handed to each queue's socket; the loader sets how many queues. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} redirected SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

static __always_inline int has_bit(const __u32 *words, __u32 bit)
{
	return words[bit >> 5] >> (bit & 31) & 1;
}

static __always_inline int is_our_address(const struct filter *ours, __u32 address)
{
	__u32 first = (address * FILTER_MULTIPLIER ^ ours->seed) >> (32 - FILTER_SLOT_BITS);

	for (__u32 i = 0; i < FILTER_PROBES; i++)
		if (ours->addresses[(first + i) & (ADDRESS_SLOTS - 1)] == address)
			return address != 0;
	return 0;
}

/* Skips our VLAN tags. Returns the header after them, or NULL, and stores its EtherType. */
static __always_inline void *skip_tags(const struct filter *ours, struct ethhdr *eth, void *end,
				       __be16 *type)
{
	struct vlan_tag *tag = (void *)(eth + 1);

	*type = eth->h_proto;
	for (int i = 0; i < VLAN_TAGS; i++, tag++) {
		if (*type != bpf_htons(ETH_P_8021Q) && *type != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > end || !has_bit(ours->vlans, bpf_ntohs(tag->id) & 0xfff))
			return 0;
		*type = tag->type;
	}
	return tag;
}

static __always_inline int is_ours(const struct filter *ours, struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	const __u16 *mac = (void *)eth->h_dest;
	struct iphdr *ip;
	struct udphdr *udp;
	__be16 type;

	if ((void *)(eth + 1) > end || mac[0] != ours->mac[0] || mac[1] != ours->mac[1] ||
	    mac[2] != ours->mac[2])
		return 0;
	ip = skip_tags(ours, eth, end, &type);
	if (!ip || type != bpf_htons(ETH_P_IP) || (void *)(ip + 1) > end)
		return 0;
	udp = (void *)(ip + 1);
	if (ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_UDP ||
	    (ip->frag_off & bpf_htons(FRAGMENT)) || (void *)(udp + 1) > end)
		return 0;
	return has_bit(ours->ports, bpf_ntohs(udp->dest)) &&
	       is_our_address(ours, bpf_ntohl(ip->daddr));
}

/* Stores the time (CLOCK_MONOTONIC, nanoseconds) directly before the frame, if the driver leaves room there. */
static __always_inline void put_time(struct xdp_md *ctx)
{
	__u64 *time;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*time)))
		return;
	time = (void *)(long)ctx->data_meta;
	if ((void *)(time + 1) <= (void *)(long)ctx->data)
		*time = bpf_ktime_get_ns();
}

SEC("xdp")
int tegula(struct xdp_md *ctx)
{
	__u32 zero = 0, queue = ctx->rx_queue_index;
	struct filter *ours = bpf_map_lookup_elem(&filter, &zero);
	int action = XDP_PASS;
	__u64 *count;

	if (ours && is_ours(ours, ctx))
		action = (int)bpf_redirect_map(&sockets, queue, XDP_PASS);
	if (action != XDP_REDIRECT)
		return action;
	if ((count = bpf_map_lookup_elem(&redirected, &queue)))
		__sync_fetch_and_add(count, 1);
	if (ours->times)
		put_time(ctx);
	return action;
}

char program_license[] SEC("license") = "GPL";
