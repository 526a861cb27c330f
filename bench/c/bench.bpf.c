/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 * XDP programs of the benchmarks. `take` hands a UDP datagram from or to certain ports to the AF_XDP
 * socket of its queue and passes everything else on. `sink` drops it: its rate is the ceiling of the
 * load generator itself. `answer` sends a DNS query back as an answer without records: a backend that
 * costs next to nothing.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* UDP ports that are meant, host byte order; set before the program is loaded. */
const volatile struct {
	__u16 first, count;
} ports = { 0, 0 };

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct headers {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

static __always_inline bool is_meant(__u16 port_be)
{
	return (__u16)(bpf_ntohs(port_be) - ports.first) < ports.count;
}

/* The frame's headers when it is plain IPv4 UDP from or to one of the ports, else NULL. */
static __always_inline struct headers *ours(struct xdp_md *context)
{
	struct headers *frame = (void *)(long)context->data;

	if ((void *)(frame + 1) > (void *)(long)context->data_end ||
	    frame->eth.h_proto != bpf_htons(ETH_P_IP) || frame->ip.ihl != 5 ||
	    frame->ip.protocol != IPPROTO_UDP)
		return NULL;
	return is_meant(frame->udp.source) || is_meant(frame->udp.dest) ? frame : NULL;
}

SEC("xdp")
int take(struct xdp_md *context)
{
	if (!ours(context))
		return XDP_PASS;
	return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
}

SEC("xdp")
int sink(struct xdp_md *context)
{
	return ours(context) ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int answer(struct xdp_md *context)
{
	struct headers *frame = ours(context);
	__u8 *dns = (void *)(frame + 1);
	__u8 mac[ETH_ALEN];
	__be32 address;
	__be16 port;

	if (!frame || (void *)(dns + 3) > (void *)(long)context->data_end)
		return XDP_PASS;
	__builtin_memcpy(mac, frame->eth.h_source, ETH_ALEN);
	__builtin_memcpy(frame->eth.h_source, frame->eth.h_dest, ETH_ALEN);
	__builtin_memcpy(frame->eth.h_dest, mac, ETH_ALEN);
	address = frame->ip.saddr;
	frame->ip.saddr = frame->ip.daddr;
	frame->ip.daddr = address;
	port = frame->udp.source;
	frame->udp.source = frame->udp.dest;
	frame->udp.dest = port;
	frame->udp.check = 0; /* none (RFC 768) */
	dns[2] |= 0x80;       /* QR */
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
