// SPDX-License-Identifier: Apache-2.0
/* See queries.h. */
#include "queries.h"

#include "common.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 18 bytes make the smallest Ethernet frame: 60 bytes, 64 with its check sequence. */
#define ECHO_BYTES 18u
#define ECHOES 256u
#define MOST_FILE_BYTES (16u << 20)
#define MOST_QUERIES 65536u

/* RFC 1035 §4.1.1 */
#define DNS_HEADER_BYTES 12u
#define DNS_RESPONSE 0x80
#define DNS_TRUNCATED 0x02
#define DNS_RCODE 0x0f
#define DNS_NXDOMAIN 3

/* RFC 8489 §5, §14.2: a binding request, and the beginning of its answer's only attribute. */
#define STUN_BYTES 20u
#define STUN_COOKIE 0x2112a442u
#define STUN_ANSWER_BYTES 32u
static const uint8_t STUN_REQUEST[STUN_BYTES] = { 0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 't', 'e', 'g', 'u', 'l', 'a' };
static const uint8_t STUN_SUCCESS[4] = { 1, 1, 0, STUN_ANSWER_BYTES - STUN_BYTES };
static const uint8_t STUN_MAPPED[6] = { 0, 0x20, 0, 8, 0, 1 };

static void add(struct queries *queries, const uint8_t *payload, unsigned bytes)
{
	struct query *query = &queries->all[queries->count++];
	unsigned end = DNS_HEADER_BYTES;

	*query = (struct query){ .payload = payload, .bytes = (uint16_t)bytes };
	query->sum = checksum_add(0, payload, queries->number_at);
	query->sum = checksum_add(query->sum, payload + queries->number_at + 2,
				  bytes - queries->number_at - 2);
	if (!queries->is_dns)
		return;
	while (end < bytes && payload[end])
		end += payload[end] + 1u;
	end += 5; /* the root, type and class */
	if (end > bytes)
		die(-EINVAL, "query %u has no question", queries->count);
	query->question_end = (uint16_t)end;
}

static void make_echoes(struct queries *queries)
{
	static uint8_t payloads[ECHOES][ECHO_BYTES];

	for (unsigned i = 0; i < ECHOES; i++) {
		for (unsigned at = 0; at < ECHO_BYTES; at++)
			payloads[i][at] = (uint8_t)(i * 7 + at);
		add(queries, payloads[i], ECHO_BYTES);
	}
}

void queries_open(struct queries *queries, const char *path)
{
	uint8_t *content;
	size_t size;
	FILE *file;

	queries->all = calloc(MOST_QUERIES, sizeof(*queries->all));
	if (!queries->all)
		die(0, "cannot get memory");
	queries->is_stun = path && !strcmp(path, STUN);
	queries->is_dns = path && !queries->is_stun;
	if (queries->is_stun) {
		queries->number_at = STUN_BYTES - 2;
		add(queries, STUN_REQUEST, STUN_BYTES);
		return;
	}
	if (!path) {
		make_echoes(queries);
		return;
	}
	file = fopen(path, "r");
	content = malloc(MOST_FILE_BYTES);
	if (!file || !content)
		die(0, "cannot read %s", path);
	size = fread(content, 1, MOST_FILE_BYTES, file);
	fclose(file);
	for (size_t at = 0, bytes; at + 2 < size; at += bytes) {
		bytes = (size_t)content[at] << 8 | content[at + 1];
		at += 2;
		if (bytes < DNS_HEADER_BYTES || bytes > QUERY_BYTES || at + bytes > size ||
		    queries->count == MOST_QUERIES)
			die(-EINVAL, "query %u of %s", queries->count + 1, path);
		add(queries, content + at, (unsigned)bytes);
	}
	if (!queries->count)
		die(-ENODATA, "no queries in %s", path);
}

static bool stun_answered(const uint8_t *payload, unsigned bytes, uint32_t address_be, uint16_t port_be)
{
	const uint8_t *mapped = payload + STUN_BYTES;
	uint32_t address;
	uint16_t port;

	if (bytes != STUN_ANSWER_BYTES)
		return false;
	memcpy(&port, mapped + 6, sizeof(port));
	memcpy(&address, mapped + 8, sizeof(address));
	return !memcmp(payload, STUN_SUCCESS, 4) && !memcmp(payload + 4, STUN_REQUEST + 4, STUN_BYTES - 6) &&
	       !memcmp(mapped, STUN_MAPPED, sizeof(STUN_MAPPED)) &&
	       (port ^ htobe16(STUN_COOKIE >> 16)) == port_be && (address ^ htobe32(STUN_COOKIE)) == address_be;
}

bool query_answered(const struct queries *queries, const struct query *query,
		    const uint8_t *payload, unsigned bytes, uint32_t address_be, uint16_t port_be)
{
	unsigned rcode, question = query->question_end - DNS_HEADER_BYTES;

	if (queries->is_stun)
		return stun_answered(payload, bytes, address_be, port_be);
	if (!queries->is_dns)
		return bytes == query->bytes && !memcmp(payload + 2, query->payload + 2, bytes - 2);
	if (bytes < query->question_end)
		return false;
	rcode = payload[3] & DNS_RCODE;
	return (payload[2] & (DNS_RESPONSE | DNS_TRUNCATED)) == DNS_RESPONSE &&
	       (!rcode || rcode == DNS_NXDOMAIN) &&
	       !memcmp(payload + DNS_HEADER_BYTES, query->payload + DNS_HEADER_BYTES, question);
}
