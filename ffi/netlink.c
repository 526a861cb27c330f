/*
 * rtnetlink sockets (netlink.ts): opened, read in batches and written here, never looked into.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "native.h"

#define BURST 64
#define TRUNCATED 0xffffffffu
#define DISCARD_PORT 9 /* RFC 863 */
#define SHORTEST_SLICE_NS 100000 /* what the kernel allows (__setparam_fair) */

/*
 * A non-blocking NETLINK_ROUTE socket that has joined `groups`. Returns the descriptor, which the
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
	if (error) {
		close(fd);
		return error;
	}
	return fd;
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

/*
 * Makes the kernel resolve `address` (host order) on `ifindex`, by an empty datagram to its discard
 * port. IP_PKTINFO names the interface, MSG_DONTROUTE keeps it on-link: with both the socket needs
 * neither a capability nor to be bound to the device. 0, or -errno.
 */
EXPORT int tegula_netlink_probe(int fd, int ifindex, uint32_t address)
{
	struct {
		struct cmsghdr header;
		struct in_pktinfo info;
	} control = {
		{ CMSG_LEN(sizeof(control.info)), IPPROTO_IP, IP_PKTINFO }, { .ipi_ifindex = ifindex },
	};
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(DISCARD_PORT), .sin_addr = { htonl(address) },
	};
	struct msghdr message = {
		.msg_name = &to, .msg_namelen = sizeof(to),
		.msg_control = &control, .msg_controllen = sizeof(control),
	};

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
