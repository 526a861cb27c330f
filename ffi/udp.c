/*
 * Kernel sockets behind the served ports (udp.ts): opened by main, read and written in bursts by net
 * tiles. What the XDP program leaves alone comes in here, and what must go by the kernel leaves here.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "native.h"

#define BURST 64
#define BUFFER_BYTES 65536
#define TRUNCATED 0x80000000u
#define RECEIVE_BUFFER (8 << 20)
#define SEND_BUFFER (4 << 20)
#define DESCRIPTORS 4096

/* A datagram as udp.ts describes it; addresses and ports in host order. */
struct descriptor {
	uint32_t offset, length, source, destination, ports, interface, unused[2];
};

/* IP_PKTINFO, the one control message that is asked for or sent. */
union control {
	struct cmsghdr header;
	char room[CMSG_SPACE(sizeof(struct in_pktinfo))];
};

/* The port of each socket by its descriptor, so that a net tile need not ask the kernel. */
static uint16_t port_of[DESCRIPTORS];

/* A buffer as large as may be had: over the system's limit with CAP_NET_ADMIN, else up to it. */
static void size_buffer(int fd, int force, int option, int bytes)
{
	if (setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof(bytes)) < 0)
		setsockopt(fd, SOL_SOCKET, option, &bytes, sizeof(bytes));
}

/*
 * A socket on 0.0.0.0:`port`, non-blocking, that says to which address and on which interface each
 * datagram came. Without SO_REUSEADDR or SO_REUSEPORT, so that the port is ours or an error. Returns
 * the descriptor, or -errno.
 */
EXPORT int tegula_udp_open(int port)
{
	const struct sockaddr_in self = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int error, one = 1, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	size_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, RECEIVE_BUFFER);
	size_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, SEND_BUFFER);
	if (fd >= DESCRIPTORS)
		error = -EMFILE;
	else if (setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one)) < 0 ||
		 setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof(one)) < 0 ||
		 bind(fd, (const struct sockaddr *)&self, sizeof(self)) < 0)
		error = -errno;
	else {
		port_of[fd] = (uint16_t)port;
		return fd;
	}
	close(fd);
	return error;
}

EXPORT int tegula_udp_close(int fd)
{
	return result(close(fd));
}

/* Writes what is known of a received datagram to `out`. */
static void describe(int fd, struct mmsghdr *message, uint32_t offset, struct descriptor *out)
{
	const struct sockaddr_in *from = message->msg_hdr.msg_name;
	const struct cmsghdr *control = CMSG_FIRSTHDR(&message->msg_hdr);
	uint32_t truncated = message->msg_hdr.msg_flags & MSG_TRUNC ? TRUNCATED : 0;
	struct in_pktinfo info = { 0 };

	if (control && control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO)
		memcpy(&info, CMSG_DATA(control), sizeof(info));
	*out = (struct descriptor){
		.offset = offset, .length = message->msg_len | truncated,
		.source = ntohl(from->sin_addr.s_addr), .destination = ntohl(info.ipi_addr.s_addr),
		.ports = (uint32_t)ntohs(from->sin_port) << 16 | port_of[fd],
		.interface = (uint32_t)info.ipi_ifindex,
	};
}

/*
 * Receives up to `count` datagrams, each into BUFFER_BYTES at its offset in `memory`. `out` has two
 * words for the time and then `count` descriptors. Returns how many, 0 when none waits, or -errno.
 */
EXPORT int tegula_udp_receive(int fd, uint8_t *memory, const uint32_t *buffers, int count,
			      uint32_t *out)
{
	struct mmsghdr messages[BURST];
	struct sockaddr_in from[BURST];
	union control controls[BURST];
	struct iovec parts[BURST];
	struct timespec now;
	uint64_t time;
	int received;

	count = count < BURST ? count : BURST;
	for (int i = 0; i < count; i++) {
		parts[i] = (struct iovec){ memory + buffers[i], BUFFER_BYTES };
		messages[i].msg_hdr = (struct msghdr){
			.msg_name = &from[i], .msg_namelen = sizeof(from[i]),
			.msg_iov = &parts[i], .msg_iovlen = 1,
			.msg_control = &controls[i], .msg_controllen = sizeof(controls[i]),
		};
	}
	received = recvmmsg(fd, messages, (unsigned)count, MSG_DONTWAIT, NULL);
	if (received <= 0)
		return received == 0 || errno == EAGAIN || errno == EINTR ? 0 : -errno;
	clock_gettime(CLOCK_REALTIME, &now);
	time = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	out[0] = (uint32_t)time;
	out[1] = (uint32_t)(time >> 32);
	for (int i = 0; i < received; i++)
		describe(fd, &messages[i], buffers[i], (struct descriptor *)(out + 2) + i);
	return received;
}

/* Addresses a message to where `d` says, from the source address and interface it says. */
static void address(struct msghdr *message, const struct descriptor *d)
{
	struct cmsghdr *control = message->msg_control;
	const struct in_pktinfo info = {
		.ipi_ifindex = (int)d->interface, .ipi_spec_dst = { htonl(d->source) },
	};

	*(struct sockaddr_in *)message->msg_name = (struct sockaddr_in){
		.sin_family = AF_INET, .sin_port = htons((uint16_t)d->ports),
		.sin_addr = { htonl(d->destination) },
	};
	*control = (struct cmsghdr){ CMSG_LEN(sizeof(info)), IPPROTO_IP, IP_PKTINFO };
	memcpy(CMSG_DATA(control), &info, sizeof(info));
}

/* Sends at most BURST datagrams by one call; returns as tegula_udp_send does. */
static int send_burst(int fd, uint8_t *memory, const struct descriptor *list, int count)
{
	struct mmsghdr messages[BURST];
	struct sockaddr_in to[BURST];
	union control controls[BURST];
	struct iovec parts[BURST];

	for (int i = 0; i < count; i++) {
		parts[i] = (struct iovec){ memory + list[i].offset, list[i].length };
		messages[i].msg_hdr = (struct msghdr){
			.msg_name = &to[i], .msg_namelen = sizeof(to[i]),
			.msg_iov = &parts[i], .msg_iovlen = 1,
			.msg_control = &controls[i], .msg_controllen = sizeof(controls[i]),
		};
		address(&messages[i].msg_hdr, &list[i]);
	}
	return result(sendmmsg(fd, messages, (unsigned)count, MSG_DONTWAIT | MSG_NOSIGNAL));
}

/*
 * Sends `count` datagrams of `list` from `memory`. Returns how many the kernel took from the start, 0
 * when its buffer is full, or -errno when it refused the first.
 */
EXPORT int tegula_udp_send(int fd, uint8_t *memory, const struct descriptor *list, int count)
{
	int done = 0;

	while (done < count) {
		int burst = count - done < BURST ? count - done : BURST;
		int sent = send_burst(fd, memory, list + done, burst);

		if (sent < 0 && done == 0 && sent != -EAGAIN && sent != -EINTR)
			return sent;
		if (sent <= 0)
			break;
		done += sent;
		if (sent < burst)
			break;
	}
	return done;
}
