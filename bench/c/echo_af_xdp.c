/* SPDX-License-Identifier: Apache-2.0
 * UDP echo (RFC 862) in C over AF_XDP: the peer of Tegula's echo, with the same socket mode, rings and batch. It
 * makes the answer in the request's frame, after the checks that IPv4 and UDP require. Checksums stay right,
 * because fields are only swapped.
 *
 *     echo_af_xdp OBJECT IFNAME PORT spin|poll
 */
#include "common.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FRAMES RING_SLOTS
/* It ends by itself if the benchmark forgets it. */
#define LONGEST_SECONDS 600

/* Turns a request into its answer. Returns false if it is not for us. */
static bool answer(uint8_t *frame, unsigned bytes, uint16_t port_be)
{
	struct headers *headers = (struct headers *)frame;
	uint8_t mac[ETH_ALEN];
	uint32_t address;
	unsigned total, udp;

	if (bytes < sizeof(*headers) || headers->eth.h_proto != htobe16(ETH_P_IP) ||
	    headers->ip.version != 4 || headers->ip.ihl != 5 ||
	    headers->ip.protocol != 17 || headers->udp.dest != port_be ||
	    checksum_fold(checksum_add(0, &headers->ip, sizeof(headers->ip))) != 0xffff)
		return false;
	total = be16toh(headers->ip.tot_len);
	udp = be16toh(headers->udp.len);
	if (total + ETH_HLEN > bytes || udp < sizeof(headers->udp) ||
	    udp + sizeof(headers->ip) > total)
		return false;
	if (headers->udp.check && udp_sum(headers) != 0xffff)
		return false;
	memcpy(mac, headers->eth.h_dest, ETH_ALEN);
	memcpy(headers->eth.h_dest, headers->eth.h_source, ETH_ALEN);
	memcpy(headers->eth.h_source, mac, ETH_ALEN);
	address = headers->ip.daddr;
	headers->ip.daddr = headers->ip.saddr;
	headers->ip.saddr = address;
	headers->udp.dest = headers->udp.source;
	headers->udp.source = port_be;
	return true;
}

/* Gives frames whose answers have been sent back to the fill ring. */
static void recycle(struct port *port)
{
	uint32_t done, slot = 0;
	unsigned count = xsk_ring_cons__peek(&port->completion, RING_SLOTS, &done);

	/* There are as many frames as the fill ring has slots, so there is room for each. */
	if (!count || xsk_ring_prod__reserve(&port->fill, count, &slot) != count)
		return;
	for (unsigned i = 0; i < count; i++)
		*xsk_ring_prod__fill_addr(&port->fill, slot + i) =
			*xsk_ring_cons__comp_addr(&port->completion, done + i) &
			~(uint64_t)(FRAME_BYTES - 1);
	xsk_ring_prod__submit(&port->fill, count);
	xsk_ring_cons__release(&port->completion, count);
}

/* One burst from the receive ring to the transmit ring. Returns how many frames came. */
static unsigned burst(struct port *port, uint16_t port_be)
{
	uint32_t in, out, back;
	unsigned answers = 0;
	unsigned count = xsk_ring_cons__peek(&port->rx, BATCH, &in);

	if (!count || xsk_ring_prod__reserve(&port->tx, count, &out) != count) {
		xsk_ring_cons__cancel(&port->rx, count);
		return 0;
	}
	for (unsigned i = 0; i < count; i++) {
		const struct xdp_desc *request = xsk_ring_cons__rx_desc(&port->rx, in + i);
		uint8_t *frame = port->memory + request->addr;

		if (answer(frame, request->len, port_be)) {
			*xsk_ring_prod__tx_desc(&port->tx, out + answers++) = *request;
		} else if (xsk_ring_prod__reserve(&port->fill, 1, &back) == 1) {
			*xsk_ring_prod__fill_addr(&port->fill, back) =
				request->addr & ~(uint64_t)(FRAME_BYTES - 1);
			xsk_ring_prod__submit(&port->fill, 1);
		}
	}
	/* Gives up what was reserved for frames without an answer. */
	port->tx.cached_prod -= count - answers;
	xsk_ring_prod__submit(&port->tx, answers);
	xsk_ring_cons__release(&port->rx, count);
	return count;
}

int main(int argc, char **argv)
{
	struct port port;
	uint16_t udp_port;
	bool spin;

	if (argc != 5 || (strcmp(argv[4], "spin") && strcmp(argv[4], "poll"))) {
		fprintf(stderr, "usage: echo_af_xdp OBJECT IFNAME PORT spin|poll\n");
		return 2;
	}
	udp_port = (uint16_t)atoi(argv[3]);
	spin = !strcmp(argv[4], "spin");
	stop_after(LONGEST_SECONDS);
	port_open(&port, argv[2], FRAMES);
	port_fill(&port, 0, FRAMES);
	attach_program(argv[1], "take", argv[2], (struct udp_ports){ udp_port, 1 }, &port);
	printf("ready\n");
	fflush(stdout);
	while (!stopping) {
		struct pollfd readable = { .fd = port.fd, .events = POLLIN };

		if (burst(&port, htobe16(udp_port)))
			port_kick(&port);
		else if (!spin && poll(&readable, 1, 1000) < 0 && errno != EINTR)
			die(0, "cannot poll");
		recycle(&port);
	}
	return 0;
}
