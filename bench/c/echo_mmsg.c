/* SPDX-License-Identifier: Apache-2.0
 * UDP echo (RFC 862) in C over an ordinary socket, with recvmmsg and sendmmsg: the best that the
 * kernel's socket layer offers a program of one thread.
 *
 *     echo_mmsg PORT
 */
#define _GNU_SOURCE
#include "common.h"

#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define LONGEST_SECONDS 600
#define RECEIVE_BUFFER (4 << 20)

int main(int argc, char **argv)
{
	static uint8_t payload[BATCH][FRAME_BYTES];
	static struct sockaddr_in peers[BATCH];
	static struct iovec vectors[BATCH];
	static struct mmsghdr messages[BATCH];
	const int buffer = RECEIVE_BUFFER;
	struct sockaddr_in own = { .sin_family = AF_INET };
	int fd;

	if (argc != 2) {
		fprintf(stderr, "usage: echo_mmsg PORT\n");
		return 2;
	}
	own.sin_port = htobe16((uint16_t)atoi(argv[1]));
	stop_after(LONGEST_SECONDS);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof(own)))
		die(0, "cannot bind UDP port %s", argv[1]);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer));
	printf("ready\n");
	fflush(stdout);
	while (!stopping) {
		int count, sent;

		for (unsigned i = 0; i < BATCH; i++) {
			vectors[i] = (struct iovec){ payload[i], FRAME_BYTES };
			messages[i].msg_hdr = (struct msghdr){
				.msg_name = &peers[i],
				.msg_namelen = sizeof(peers[i]),
				.msg_iov = &vectors[i],
				.msg_iovlen = 1,
			};
		}
		count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
		for (int i = 0; i < count; i++)
			vectors[i].iov_len = messages[i].msg_len;
		/* A datagram that the kernel refuses to send is dropped, as any UDP answer may be. */
		for (int done = 0; done < count; done += sent > 0 ? sent : 1)
			sent = sendmmsg(fd, messages + done, (unsigned)(count - done), 0);
	}
	return 0;
}
