/* SPDX-License-Identifier: Apache-2.0
 * Attaches the XDP program `sink` until it is told to stop. It drops all requests, to measure the rate of the load
 * generator.
 *
 *     sink OBJECT IFNAME PORT
 */
#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LONGEST_SECONDS 600

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: sink OBJECT IFNAME PORT\n");
		return 2;
	}
	stop_after(LONGEST_SECONDS);
	attach_program(argv[1], "sink", argv[2],
		       (struct udp_ports){ (uint16_t)atoi(argv[3]), 1 }, NULL);
	printf("ready\n");
	fflush(stdout);
	while (!stopping)
		pause();
	return 0;
}
