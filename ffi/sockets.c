/* SPDX-License-Identifier: Apache-2.0
 * Sockets (sockets.ts). First the kernel's sockets behind the served ports, which the master opens, and net tiles
 * read and write in bursts. They receive the datagrams that the XDP program passes, and send those that need the
 * kernel. Then rtnetlink sockets, which are opened, read in batches and written. Messages are not parsed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "native.h"

/* The messages of one call, each with its control messages. */
struct burst {
	struct mmsghdr messages[BURST];
	struct sockaddr_in peers[BURST];
	struct iovec parts[BURST];
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(struct in_pktinfo)) + 2 * CMSG_SPACE(sizeof(int)) +
			  CMSG_SPACE(sizeof(struct timespec))];
	} controls[BURST];
};

/*
 * Opens a non-blocking socket on 0.0.0.0:`port` that reports the destination address, interface,
 * TOS and TTL of each datagram. Does not set SO_REUSEADDR or SO_REUSEPORT, so a port of another
 * program is an error. Returns the descriptor, or -errno.
 */
EXPORT int tegula_udp_open(int port)
{
	const struct sockaddr_in self = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int error, one = 1, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IP, IP_RECVTTL, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof(one));
	error = result(bind(fd, (const struct sockaddr *)&self, sizeof(self)));
	return opened(fd, error);
}

/*
 * Returns a descriptor that is readable while one of the `count` sockets has a datagram or an error
 * (epoll(7)), or -errno. Waiting for thousands of sockets thus costs as much as waiting for one.
 */
EXPORT int tegula_udp_watch(const int32_t *fds, int count)
{
	int error = 0, watch = epoll_create1(EPOLL_CLOEXEC);

	if (watch < 0)
		return -errno;
	for (int i = 0; i < count && !error; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = (uint32_t)i };

		error = result(epoll_ctl(watch, EPOLL_CTL_ADD, fds[i], &event));
	}
	return opened(watch, error);
}

/*
 * Stores the indices of ready sockets in the list of `watch`, at most `most` and BURST of them; the
 * next call returns others. Returns how many, 0 if none is ready, or -errno. Never blocks.
 */
EXPORT int tegula_udp_ready(int watch, uint32_t *ready, int most)
{
	struct epoll_event events[BURST];
	int count = result(epoll_wait(watch, events, most < BURST ? most : BURST, 0));

	for (int i = 0; i < count; i++)
		ready[i] = events[i].data.u32;
	return count == -EINTR ? 0 : count;
}

/* Prepares the i-th message of a burst: `length` bytes at `bytes`, a peer and control messages. */
static void lay_out(struct burst *b, int i, uint8_t *bytes, uint32_t length)
{
	b->parts[i] = (struct iovec){ bytes, length };
	b->messages[i].msg_hdr = (struct msghdr){
		.msg_name = &b->peers[i], .msg_namelen = sizeof(b->peers[i]),
		.msg_iov = &b->parts[i], .msg_iovlen = 1,
		.msg_control = &b->controls[i], .msg_controllen = sizeof(b->controls[i]),
	};
}

/* Describes the i-th datagram, which was received at `offset` for `port`. */
static struct udp_descriptor describe(struct burst *b, int i, int port, uint32_t offset)
{
	struct msghdr *message = &b->messages[i].msg_hdr;
	struct in_pktinfo info = { 0 };
	struct timespec received = { 0 };
	uint32_t tos_ttl = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS)
			memcpy(&received, CMSG_DATA(c), sizeof(received));
		if (c->cmsg_level != IPPROTO_IP)
			continue;
		if (c->cmsg_type == IP_PKTINFO)
			memcpy(&info, CMSG_DATA(c), sizeof(info));
		else if (c->cmsg_type == IP_TOS) /* one byte */
			tos_ttl |= (uint32_t)*CMSG_DATA(c) << 8;
		else if (c->cmsg_type == IP_TTL) /* an int */
			tos_ttl |= *CMSG_DATA(c);
	}
	return (struct udp_descriptor){
		.offset = offset,
		.length = b->messages[i].msg_len | (message->msg_flags & MSG_TRUNC ? UDP_TRUNCATED : 0),
		.source = ntohl(b->peers[i].sin_addr.s_addr), .destination = ntohl(info.ipi_addr.s_addr),
		.ports = (uint32_t)ntohs(b->peers[i].sin_port) << 16 | (uint16_t)port,
		.interface = (uint32_t)info.ipi_ifindex, .tos_ttl = tos_ttl,
		.time_low = (uint32_t)nanoseconds(&received),
		.time_high = (uint32_t)(nanoseconds(&received) >> 32),
	};
}

/*
 * Receives up to `count` datagrams for `port`, each into UDP_BUFFER_BYTES at its offset in `memory`. `out`
 * has two words for the time, then `count` descriptors. Returns how many, 0 if none is queued, or -errno.
 */
EXPORT int tegula_udp_receive(int fd, int port, uint8_t *memory, const uint32_t *buffers, int count,
			      uint32_t *out)
{
	struct burst b;
	int received;

	count = count < BURST ? count : BURST;
	for (int i = 0; i < count; i++)
		lay_out(&b, i, memory + buffers[i], UDP_BUFFER_BYTES);
	received = recvmmsg(fd, b.messages, (unsigned)count, MSG_DONTWAIT, NULL);
	if (received <= 0)
		return received == 0 || errno == EAGAIN || errno == EINTR ? 0 : -errno;
	stamp(out);
	for (int i = 0; i < received; i++)
		((struct udp_descriptor *)(out + RECEIVE_HEADER_WORDS))[i] = describe(&b, i, port, buffers[i]);
	return received;
}

/* Writes a control message of IPv4 and returns where the next one goes. */
static struct cmsghdr *put(struct cmsghdr *control, int type, const void *value, size_t bytes)
{
	*control = (struct cmsghdr){ CMSG_LEN(bytes), IPPROTO_IP, type };
	memcpy(CMSG_DATA(control), value, bytes);
	return (struct cmsghdr *)((char *)control + CMSG_SPACE(bytes));
}

/* Sets the destination, source address, interface, TOS and TTL of the i-th message from `d`. */
static void address(struct burst *b, int i, const struct udp_descriptor *d)
{
	struct msghdr *message = &b->messages[i].msg_hdr;
	struct cmsghdr *control = message->msg_control;
	const int tos = (int)(d->tos_ttl >> 8), ttl = (int)(d->tos_ttl & 0xff);
	const struct in_pktinfo info = {
		.ipi_ifindex = (int)d->interface, .ipi_spec_dst = { htonl(d->source) },
	};

	b->peers[i] = (struct sockaddr_in){
		.sin_family = AF_INET, .sin_port = htons((uint16_t)d->ports),
		.sin_addr = { htonl(d->destination) },
	};
	control = put(control, IP_PKTINFO, &info, sizeof(info));
	control = put(control, IP_TOS, &tos, sizeof(tos));
	control = put(control, IP_TTL, &ttl, sizeof(ttl));
	message->msg_controllen = (size_t)((char *)control - b->controls[i].room);
}

/*
 * Sends up to `count` datagrams of `list` from `memory`, BURST at most. Returns how many the kernel
 * took, in order, 0 if its buffer is full, or -errno if it refused the first.
 */
EXPORT int tegula_udp_send(int fd, uint8_t *memory, const struct udp_descriptor *list, int count)
{
	struct burst b;
	int sent;

	count = count < BURST ? count : BURST;
	for (int i = 0; i < count; i++) {
		lay_out(&b, i, memory + list[i].offset, list[i].length);
		address(&b, i, &list[i]);
	}
	sent = result(sendmmsg(fd, b.messages, (unsigned)count, MSG_DONTWAIT | MSG_NOSIGNAL));
	return sent == -EAGAIN || sent == -EINTR ? 0 : sent;
}

/*
 * Opens a non-blocking NETLINK_ROUTE socket and joins `groups`. Returns the descriptor, which the
 * caller closes, or -errno.
 */
EXPORT int tegula_netlink_open(const int32_t *groups, int count)
{
	const struct sockaddr_nl self = { .nl_family = AF_NETLINK };
	int error, fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	if (fd < 0)
		return -errno;
	error = result(bind(fd, (const struct sockaddr *)&self, sizeof(self)));
	for (int i = 0; i < count && !error; i++)
		error = result(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &groups[i], sizeof(int)));
	return opened(fd, error);
}

/*
 * Receives up to `count` datagrams into the `count` slots of `slot_bytes` in `buffer`, and stores
 * their sizes in `lengths`: NETLINK_TRUNCATED for one that did not fit, 0 for one from another
 * process (any may send). Returns how many, 0 if none is queued, or -errno; ENOBUFS after an overrun.
 */
EXPORT int tegula_netlink_receive(int fd, uint8_t *buffer, uint32_t *lengths, int count,
				  uint32_t slot_bytes)
{
	struct mmsghdr messages[BURST];
	struct sockaddr_nl from[BURST];
	struct iovec slots[BURST];
	int received;

	count = count < BURST ? count : BURST;
	for (int i = 0; i < count; i++) {
		slots[i] = (struct iovec){ buffer + (size_t)i * slot_bytes, slot_bytes };
		messages[i].msg_hdr = (struct msghdr){
			.msg_name = &from[i], .msg_namelen = sizeof(from[i]),
			.msg_iov = &slots[i], .msg_iovlen = 1,
		};
	}
	received = recvmmsg(fd, messages, (unsigned)count, MSG_DONTWAIT, NULL);
	if (received < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (int i = 0; i < received; i++) {
		if (from[i].nl_pid != 0)
			lengths[i] = 0;
		else if (messages[i].msg_hdr.msg_flags & MSG_TRUNC)
			lengths[i] = NETLINK_TRUNCATED;
		else
			lengths[i] = messages[i].msg_len;
	}
	return received;
}
