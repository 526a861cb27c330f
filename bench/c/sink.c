/* SPDX-License-Identifier: Apache-2.0
 * Attaches an XDP program until it is told to stop: `sink`, which drops all requests, to measure the rate of the
 * load generator, or `answer`, a backend.
 *
 *     sink OBJECT IFNAME PORT [PROGRAM]
 */
#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LONGEST_SECONDS 600

int main(int argc, char **argv)
{
	if (argc != 4 && argc != 5) {
		fprintf(stderr, "usage: sink OBJECT IFNAME PORT [PROGRAM]\n");
		return 2;
	}
	stop_after(LONGEST_SECONDS);
	attach_program(argv[1], argc == 5 ? argv[4] : "sink", argv[2],
		       (struct udp_ports){ (uint16_t)atoi(argv[3]), 1 }, NULL);
	printf("ready\n");
	fflush(stdout);
	while (!stopping)
		pause();
	return 0;
}
