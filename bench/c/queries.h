/* SPDX-License-Identifier: Apache-2.0
 * Payloads of the load generator: as small as Ethernet allows for an echo, a binding request for a STUN server
 * (RFC 8489), DNS queries for a name server from a file, each preceded by its length in two bytes, as over TCP
 * (RFC 1035 §4.2.2). The generator writes a number of two bytes into a payload: a query's ID, the end of a
 * transaction's.
 */
#ifndef BENCH_QUERIES_H
#define BENCH_QUERIES_H

#include <stdbool.h>
#include <stdint.h>

/* The longest query that is sent. */
#define QUERY_BYTES 512u

struct query {
	const uint8_t *payload;
	uint16_t bytes;
	uint16_t question_end; /* of a DNS query: where what its answer repeats ends */
	uint32_t sum;          /* RFC 1071 sum of all but the number, to be folded */
};

struct queries {
	struct query *all;
	unsigned count;
	unsigned number_at; /* where the number is in a payload */
	bool is_dns, is_stun;
};

/* The path that stands for binding requests. */
#define STUN "stun"

/* Reads the DNS queries of the file `path`, or with STUN makes a binding request, or with NULL what an echo
 * is sent. Ends the program when they are no queries. */
void queries_open(struct queries *queries, const char *path);

/*
 * Whether `bytes` bytes of `payload` answer `query` from this address and port (in network byte order), the number aside:
 * for an echo the same, for a name server a whole answer, NOERROR or NXDOMAIN, to the same question, for a STUN
 * server that address and port.
 */
bool query_answered(const struct queries *queries, const struct query *query,
		    const uint8_t *payload, unsigned bytes, uint32_t address_be, uint16_t port_be);

#endif
