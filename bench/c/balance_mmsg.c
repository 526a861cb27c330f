/* SPDX-License-Identifier: Apache-2.0
 * A UDP proxy in C over ordinary sockets, with recvmmsg and sendmmsg: the least that a load balancer of one thread does
 * with the kernel's socket layer. Each client, an address and a port, has a connected socket towards the backend,
 * which is not closed. There is one backend.
 *
 *     balance_mmsg PORT BACKEND BACKEND-PORT
 */
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define LONGEST_SECONDS 600
#define BUFFER (4 << 20)
#define SLOTS 65536u
#define MOST_CLIENTS (SLOTS / 2)

struct client {
	struct sockaddr_in address;
	int fd; /* towards the backend */
};

static struct client clients[MOST_CLIENTS];
static unsigned client_count;
/* Of clients plus one, by address and port, with linear probing; 0: free. */
static uint32_t slots[SLOTS];
static struct sockaddr_in backend = { .sin_family = AF_INET };
static int listener, epoll;

static uint8_t payload[BATCH][FRAME_BYTES];
static struct sockaddr_in peers[BATCH];
static struct iovec vectors[BATCH];
static struct mmsghdr messages[BATCH];

static int open_socket(void)
{
	const int buffer = BUFFER;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	if (fd < 0)
		die(0, "cannot make a socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer));
	return fd;
}

static void watch(int fd, uint32_t number)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = number };

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		die(0, "cannot watch a socket");
}

/* The client of an address, which may be new; NULL if there are too many. */
static struct client *client_of(const struct sockaddr_in *address)
{
	uint32_t hash = (address->sin_addr.s_addr ^ (uint32_t)address->sin_port << 8) * 0x9e3779b1u;
	struct client *client;

	for (hash >>= 16; slots[hash]; hash = (hash + 1) % SLOTS) {
		client = &clients[slots[hash] - 1];
		if (client->address.sin_addr.s_addr == address->sin_addr.s_addr &&
		    client->address.sin_port == address->sin_port)
			return client;
	}
	if (client_count == MOST_CLIENTS)
		return NULL;
	client = &clients[client_count++];
	client->address = *address;
	client->fd = open_socket();
	if (connect(client->fd, (struct sockaddr *)&backend, sizeof(backend)))
		die(0, "cannot connect to the backend");
	watch(client->fd, client_count);
	slots[hash] = client_count;
	return client;
}

/* Reads up to `room` datagrams into the messages from `first` on. Returns how many. */
static int receive(int fd, int first, int room)
{
	int count;

	for (int i = first; i < first + room; i++) {
		vectors[i] = (struct iovec){ payload[i], FRAME_BYTES };
		messages[i].msg_hdr = (struct msghdr){
			.msg_name = &peers[i],
			.msg_namelen = sizeof(peers[i]),
			.msg_iov = &vectors[i],
			.msg_iovlen = 1,
		};
	}
	count = recvmmsg(fd, messages + first, (unsigned)room, MSG_DONTWAIT, NULL);
	for (int i = first; i < first + count; i++)
		vectors[i].iov_len = messages[i].msg_len;
	return count > 0 ? count : 0;
}

static void to_backend(void)
{
	int count = receive(listener, 0, BATCH);

	for (int i = 0; i < count; i++) {
		struct client *client = client_of(&peers[i]);

		/* A datagram that the kernel refuses to send is dropped, as any may be. */
		if (client && send(client->fd, payload[i], vectors[i].iov_len, 0) < 0 && errno == EBADF)
			die(0, "cannot send");
	}
}

static void flush(int count)
{
	for (int done = 0, sent; done < count; done += sent > 0 ? sent : 1)
		sent = sendmmsg(listener, messages + done, (unsigned)(count - done), 0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in own = { .sin_family = AF_INET };
	struct epoll_event events[BATCH];

	if (argc != 4) {
		fprintf(stderr, "usage: balance_mmsg PORT BACKEND BACKEND-PORT\n");
		return 2;
	}
	own.sin_port = htobe16((uint16_t)atoi(argv[1]));
	backend.sin_addr.s_addr = inet_addr(argv[2]);
	backend.sin_port = htobe16((uint16_t)atoi(argv[3]));
	stop_after(LONGEST_SECONDS);
	epoll = epoll_create1(0);
	listener = open_socket();
	if (bind(listener, (struct sockaddr *)&own, sizeof(own)))
		die(0, "cannot bind UDP port %s", argv[1]);
	watch(listener, 0);
	printf("ready\n");
	fflush(stdout);
	while (!stopping) {
		int count = epoll_wait(epoll, events, BATCH, -1), waiting = 0;

		for (int i = 0; i < count; i++) {
			uint32_t number = events[i].data.u32;
			int got;

			if (!number)
				continue;
			if (waiting == BATCH) {
				flush(waiting);
				waiting = 0;
			}
			got = receive(clients[number - 1].fd, waiting, BATCH - waiting);
			for (int j = waiting; j < waiting + got; j++)
				peers[j] = clients[number - 1].address;
			waiting += got;
		}
		flush(waiting);
		for (int i = 0; i < count; i++)
			if (!events[i].data.u32)
				to_backend();
	}
	return 0;
}
