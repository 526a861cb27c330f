/* SPDX-License-Identifier: Apache-2.0
 * Reads rtnetlink and only counts: the peer of the mirror. It walks the messages to count them, and does not
 * parse them.
 *
 *     count_netlink dump      one dump of the IPv4 routes
 *     count_netlink events    joins the groups of neighbours and routes, says "ready", and then for
 *                             each line on standard input, which is a number: takes events until it
 *                             has that many
 *
 * Each prints {"messages":…,"overruns":…,"millis":…}, the time from the request, or from the line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BURST 64
/* The kernel fills at most 32 KiB. The odd bytes are as in the mirror's own socket. */
#define SLOT_BYTES (32768 + 256)
#define RECEIVE_BUFFER (64 << 20)
/* How long to wait for events that do not come. */
#define PATIENCE_MS 10000

static char memory[BURST * SLOT_BYTES];
static long messages, overruns;
static int done;

static void die(const char *what)
{
	fprintf(stderr, "count_netlink: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now_millis(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static int open_socket(void)
{
	const struct sockaddr_nl self = { .nl_family = AF_NETLINK };
	const int room = RECEIVE_BUFFER, one = 1;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)&self, sizeof(self)) < 0)
		die("bind");
	return fd;
}

static void walk(void *datagram, size_t length)
{
	int left = (int)length;

	for (struct nlmsghdr *message = datagram; NLMSG_OK(message, left);
	     message = NLMSG_NEXT(message, left)) {
		if (message->nlmsg_type == NLMSG_ERROR)
			die("the kernel refused");
		if (message->nlmsg_type == NLMSG_DONE)
			done = 1;
		else
			messages++;
	}
}

/* Reads what one call returns. */
static void take(int fd)
{
	struct mmsghdr headers[BURST];
	struct iovec slots[BURST];
	int received;

	for (int i = 0; i < BURST; i++) {
		slots[i] = (struct iovec){ memory + (size_t)i * SLOT_BYTES, SLOT_BYTES };
		headers[i].msg_hdr = (struct msghdr){ .msg_iov = &slots[i], .msg_iovlen = 1 };
	}
	received = recvmmsg(fd, headers, BURST, MSG_DONTWAIT, NULL);
	if (received < 0 && errno == ENOBUFS)
		overruns++;
	else if (received < 0 && errno != EAGAIN)
		die("recvmmsg");
	for (int i = 0; i < received; i++)
		walk(memory + (size_t)i * SLOT_BYTES, headers[i].msg_len);
}

static void print_since(double begin)
{
	printf("{\"messages\":%ld,\"overruns\":%ld,\"millis\":%.3f}\n", messages, overruns,
	       now_millis() - begin);
	fflush(stdout);
}

static void count_dump(void)
{
	struct {
		struct nlmsghdr header;
		struct rtmsg route;
	} request = {
		.header = {
			.nlmsg_len = sizeof(request), .nlmsg_type = RTM_GETROUTE,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 1,
		},
		.route.rtm_family = AF_INET,
	};
	int fd = open_socket();
	double begin = now_millis();

	if (send(fd, &request, sizeof(request), 0) < 0)
		die("send");
	while (!done)
		take(fd);
	print_since(begin);
}

static void count_events(void)
{
	const int groups[] = { RTNLGRP_NEIGH, RTNLGRP_IPV4_ROUTE };
	struct pollfd ready = { .fd = open_socket(), .events = POLLIN };
	char line[32];

	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
		if (setsockopt(ready.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &groups[i],
			       sizeof(groups[i])) < 0)
			die("join a group");
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		long wanted = atol(line);
		double begin = now_millis();

		messages = overruns = 0;
		while (messages < wanted && !overruns && poll(&ready, 1, PATIENCE_MS) > 0)
			take(ready.fd);
		print_since(begin);
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "dump") == 0) {
		count_dump();
	} else if (argc == 2 && strcmp(argv[1], "events") == 0) {
		count_events();
	} else {
		fprintf(stderr, "usage: count_netlink dump|events\n");
		return 2;
	}
	return 0;
}
