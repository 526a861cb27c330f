/*
 * rtnetlink sockets (netlink.ts): opened, read in batches and written here, never looked into.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/sched/types.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "native.h"

#define BURST 64
#define TRUNCATED 0xffffffffu
#define DISCARD_PORT 9 /* RFC 863 */
#define SHORTEST_SLICE_NS 100000 /* what the kernel allows (__setparam_fair) */

/* Options, groups and address of a new socket. 0, or -errno. */
static int prepare(int fd, const int32_t *groups, int count, int receive_buffer, int strict)
{
	const struct sockaddr_nl self = { .nl_family = AF_NETLINK };
	const int one = 1;

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_buffer, sizeof(int)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(int));
	if (strict) /* before Linux 4.20 there is none: the dump is filtered again anyhow */
		setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)&self, sizeof(self)) < 0)
		return -errno;
	for (int i = 0; i < count; i++)
		if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &groups[i], sizeof(int)) < 0)
			return -errno;
	return 0;
}

/*
 * A non-blocking NETLINK_ROUTE socket that has joined `groups`. Returns the descriptor, which the
 * caller closes, or -errno.
 */
EXPORT int tegula_netlink_open(const int32_t *groups, int count, int receive_buffer, int strict)
{
	int error, fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	if (fd < 0)
		return -errno;
	error = prepare(fd, groups, count, receive_buffer, strict);
	if (error) {
		close(fd);
		return error;
	}
	return fd;
}

/* The socket's port id; 0, which is the kernel's own, when `fd` is no netlink socket. */
EXPORT uint32_t tegula_netlink_port_id(int fd)
{
	struct sockaddr_nl self = { 0 };
	socklen_t length = sizeof(self);

	if (getsockname(fd, (struct sockaddr *)&self, &length) < 0)
		return 0;
	return self.nl_family == AF_NETLINK ? self.nl_pid : 0;
}

/*
 * Receives up to `count` datagrams into slots of `slot_bytes` in `buffer`, which has `count` of them,
 * and their sizes into `lengths`: TRUNCATED for one that did not fit, 0 for one that another process
 * sent (any may). Returns how many, 0 when none waits, or -errno, ENOBUFS after an overrun.
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
			lengths[i] = TRUNCATED;
		else
			lengths[i] = messages[i].msg_len;
	}
	return received;
}

/* Sends `length` bytes to the kernel. `length`, or -errno. */
EXPORT int tegula_netlink_send(int fd, const void *buffer, uint32_t length)
{
	const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	return result(sendto(fd, buffer, length, 0, (const struct sockaddr *)&kernel,
			     sizeof(kernel)));
}

/* poll(2); a signal counts as time-out. How many are ready, or -errno. */
EXPORT int tegula_netlink_wait(struct pollfd *set, int count, int timeout_ms)
{
	int ready = poll(set, (nfds_t)count, timeout_ms);

	return ready < 0 && errno == EINTR ? 0 : result(ready);
}

/* The UDP socket that probes leave by; never read. The descriptor, or -errno. */
EXPORT int tegula_netlink_open_probe(void)
{
	return result(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/*
 * Makes the kernel resolve `address` (host order) on `ifindex`, by an empty datagram to its discard
 * port. IP_PKTINFO names the interface, MSG_DONTROUTE keeps it on-link: with both the socket needs
 * neither a capability nor to be bound to the device. 0, or -errno.
 */
EXPORT int tegula_netlink_probe(int fd, int ifindex, uint32_t address)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(struct in_pktinfo))];
	} control = { .header = { CMSG_LEN(sizeof(struct in_pktinfo)), IPPROTO_IP, IP_PKTINFO } };
	const struct in_pktinfo info = { .ipi_ifindex = ifindex };
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(DISCARD_PORT), .sin_addr = { htonl(address) },
	};
	struct msghdr message = {
		.msg_name = &to, .msg_namelen = sizeof(to),
		.msg_control = &control, .msg_controllen = sizeof(control.room),
	};

	memcpy(CMSG_DATA(&control.header), &info, sizeof(info));
	return result(sendmsg(fd, &message, MSG_DONTWAIT | MSG_DONTROUTE | MSG_NOSIGNAL));
}

/*
 * Asks for the shortest slices of a processor for the calling thread. It gets no more of it than
 * before, but when it wakes it runs at once, where another that never pauses would go on for
 * milliseconds. Before Linux 6.12 there are no such slices, and nothing changes. 0, or -errno.
 */
EXPORT int tegula_netlink_be_prompt(void)
{
	struct sched_attr attr = { 0 };

	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) < 0)
		return -errno;
	attr.sched_runtime = SHORTEST_SLICE_NS;
	return result(syscall(SYS_sched_setattr, 0, &attr, 0));
}

EXPORT int tegula_netlink_close(int fd)
{
	return result(close(fd));
}
