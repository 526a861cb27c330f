/* SPDX-License-Identifier: Apache-2.0
 * Payloads of the load generator: as small as Ethernet allows for an echo, DNS queries for a name server
 * from a file, each preceded by its length in two bytes, as over TCP (RFC 1035 §4.2.2). The generator writes the
 * first two bytes of a payload, a query's ID.
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
	uint32_t sum;          /* RFC 1071 sum of all but the first two bytes, to be folded */
};

struct queries {
	struct query *all;
	unsigned count;
	bool is_dns;
};

/* Reads the DNS queries of the file `path`, or with NULL makes what an echo is sent. Ends the program
 * when they are no queries. */
void queries_open(struct queries *queries, const char *path);

/*
 * Whether `bytes` bytes of `payload` answer `query`, the number aside: for an echo the same, for a name
 * server a whole answer, NOERROR or NXDOMAIN, to the same question.
 */
bool query_answered(const struct queries *queries, const struct query *query,
		    const uint8_t *payload, unsigned bytes);

#endif
