/* SPDX-License-Identifier: Apache-2.0
 * The load generator: sends UDP requests through an AF_XDP socket and reads the answers, spinning on one core, with a
 * window of requests in flight, and measures the rate of answers and their round trips; or with a window of 0 the
 * rate of requests without waiting for answers. Each answer is compared with its request; missing ones are counted as
 * lost. It runs for a limited time.
 *
 *     generator [-p PEERS] [-P PORTS] [-q QUERIES] OBJECT IFNAME DESTINATION-MAC DESTINATION PORT
 *               WINDOW MILLISECONDS
 *
 * Requests come from PEERS addresses, 4096 unless told, 198.19.0.0 and those that follow, each with a
 * source port of its own; their answers have to be routed to IFNAME. They go to PORTS ports in turn, 1
 * unless told, from PORT on. With QUERIES, DNS queries of that file (queries.h) are sent in turn; QUERIES "stun": binding requests.
 * Prints one JSON object; times in nanoseconds.
 */
#include "common.h"
#include "queries.h"

#include <arpa/inet.h>
#include <endian.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define FIRST_SOURCE 0xc6130000u /* 198.19.0.0 */
#define FIRST_SOURCE_PORT 20000u
#define MOST_PEERS 16384u
#define MOST_XDP_SOCKETS 1024u
/* Requests in flight are told apart by the low bits of their sequence. */
#define SLOTS 4096u
/* More than the kernel can have: RING_SLOTS to send, and as many sent and not reported. */
#define TX_FRAMES (2 * RING_SLOTS)
#define WARM_UP_NS 500000000u
/* Requests in flight are given up after this time without an answer. */
#define SILENCE_NS 20000000u
#define LONGEST_MS 60000u
#define MOST_SAMPLES 4000000u

struct request {
	struct headers headers;
	uint8_t payload[QUERY_BYTES]; /* its number is the low 16 bits of the sequence */
} __attribute__((packed));

/* The latest request of a slot. */
struct slot {
	uint32_t sequence;
	bool in_flight;
	uint64_t sent_ns;
};

struct generator {
	struct port port;
	struct queries queries;
	unsigned peers, ports;
	struct headers head; /* what all requests have in common */
	uint16_t first_port;
	struct slot slots[SLOTS];
	uint32_t next; /* sequence of the next request */
	unsigned window, in_flight;
	uint64_t sent, answered, lost, mismatched;
	uint64_t warm_up; /* answers before those that count */
	uint64_t last_ns; /* when the latest request went or answer came */
	uint32_t *samples;
	unsigned sample_count;
};

static void make_head(struct generator *generator, const uint8_t *own_mac,
		      const struct ether_addr *mac, uint32_t destination_be)
{
	struct headers *head = &generator->head;

	memcpy(head->eth.h_dest, mac, ETH_ALEN);
	memcpy(head->eth.h_source, own_mac, ETH_ALEN);
	head->eth.h_proto = htobe16(ETH_P_IP);
	head->ip.version = 4;
	head->ip.ihl = 5;
	head->ip.ttl = 64;
	head->ip.protocol = 17;
	head->ip.daddr = destination_be;
}

static const struct query *query_of(const struct generator *generator, uint32_t sequence)
{
	return &generator->queries.all[sequence % generator->queries.count];
}

/* The headers of the request with this sequence, but for the sums. */
static struct headers headers_of(const struct generator *generator, uint32_t sequence)
{
	struct headers headers = generator->head;
	const unsigned peer = sequence % generator->peers;
	const unsigned bytes = sizeof(headers.udp) + query_of(generator, sequence)->bytes;

	headers.ip.saddr = htobe32(FIRST_SOURCE + peer);
	headers.ip.tot_len = htobe16((uint16_t)(sizeof(headers.ip) + bytes));
	headers.udp.source = htobe16((uint16_t)(FIRST_SOURCE_PORT + peer));
	headers.udp.dest = htobe16((uint16_t)(generator->first_port + sequence % generator->ports));
	headers.udp.len = htobe16((uint16_t)bytes);
	return headers;
}

/* Writes the request with this sequence and returns its bytes. */
static unsigned make_request(const struct generator *generator, uint32_t sequence,
			     struct request *request)
{
	const struct query *query = query_of(generator, sequence);
	const uint16_t id = (uint16_t)sequence;
	struct headers headers = headers_of(generator, sequence);
	uint32_t sum = query->sum + id + headers.udp.len + htobe16(headers.ip.protocol);

	headers.ip.check = (uint16_t)~checksum_fold(
		checksum_add(0, &headers.ip, sizeof(headers.ip)));
	sum = checksum_add(checksum_add(sum, &headers.ip.saddr, 8), &headers.udp, 6);
	headers.udp.check = (uint16_t)~checksum_fold(sum);
	if (!headers.udp.check)
		headers.udp.check = 0xffff;
	request->headers = headers;
	memcpy(request->payload, query->payload, query->bytes);
	memcpy(request->payload + generator->queries.number_at, &id, sizeof(id));
	return (unsigned)sizeof(headers) + query->bytes;
}

/* Sends as many requests as window and ring allow, up to a batch. */
static void send_requests(struct generator *generator)
{
	struct port *port = &generator->port;
	unsigned room = generator->window ? generator->window - generator->in_flight : BATCH;
	uint32_t first, done;
	unsigned count;

	count = xsk_ring_cons__peek(&port->completion, RING_SLOTS, &done);
	xsk_ring_cons__release(&port->completion, count);
	if (room > BATCH)
		room = BATCH;
	if (!room || xsk_ring_prod__reserve(&port->tx, room, &first) != room)
		return;
	for (unsigned i = 0; i < room; i++, generator->next++) {
		struct slot *slot = &generator->slots[generator->next % SLOTS];
		uint64_t frame = (uint64_t)(generator->next % TX_FRAMES) * FRAME_BYTES;
		struct xdp_desc *descriptor = xsk_ring_prod__tx_desc(&port->tx, first + i);

		if (slot->in_flight) {
			generator->lost++;
			generator->in_flight--;
		}
		*slot = (struct slot){ generator->next, true, 0 };
		*descriptor = (struct xdp_desc){
			frame,
			make_request(generator, generator->next, (void *)(port->memory + frame)),
			0,
		};
	}
	generator->last_ns = now_ns();
	for (unsigned i = 1; i <= room; i++)
		generator->slots[(generator->next - i) % SLOTS].sent_ns = generator->last_ns;
	generator->in_flight += room;
	generator->sent += room;
	xsk_ring_prod__submit(&port->tx, room);
	port_kick(port);
}

/* The sum is right, or it is the bare pseudo-header sum that the kernel leaves on a veth. */
static bool udp_checksum_right(const struct headers *headers)
{
	uint32_t pseudo = (uint32_t)htobe16(headers->ip.protocol) + headers->udp.len;

	return headers->udp.check == checksum_fold(checksum_add(pseudo, &headers->ip.saddr, 8)) ||
	       udp_sum(headers) == 0xffff;
}

/* Whether a frame of `bytes` bytes is the right answer to the request with this sequence. */
static bool answers(const struct generator *generator, const struct request *answer,
		    unsigned bytes, uint32_t sequence)
{
	const struct headers r = headers_of(generator, sequence), *a = &answer->headers;
	const unsigned total = be16toh(a->ip.tot_len), udp = be16toh(a->udp.len);

	return bytes >= sizeof(*a) && a->ip.saddr == r.ip.daddr && a->ip.daddr == r.ip.saddr &&
	       a->udp.source == r.udp.dest && a->udp.dest == r.udp.source &&
	       !memcmp(a->eth.h_source, r.eth.h_dest, ETH_ALEN) &&
	       !memcmp(a->eth.h_dest, r.eth.h_source, ETH_ALEN) &&
	       udp >= sizeof(a->udp) && udp + sizeof(a->ip) == total && total + ETH_HLEN <= bytes &&
	       checksum_fold(checksum_add(0, &a->ip, sizeof(a->ip))) == 0xffff &&
	       udp_checksum_right(a) &&
	       query_answered(&generator->queries, query_of(generator, sequence), answer->payload,
			      udp - (unsigned)sizeof(a->udp), r.ip.saddr, r.udp.source);
}

/* Reads one frame, and counts it if it is the answer to a request in flight. */
static void take_answer(struct generator *generator, const struct request *answer, unsigned bytes)
{
	uint32_t sequence = generator->next - 1;
	struct slot *slot;
	uint16_t id;

	memcpy(&id, answer->payload + generator->queries.number_at, sizeof(id));
	/* The latest request that has these low bits. */
	sequence -= (uint16_t)(sequence - id);
	slot = &generator->slots[sequence % SLOTS];
	if (!answers(generator, answer, bytes, sequence)) {
		generator->mismatched++;
		return;
	}
	/* Else a late answer, to a request that was given up. */
	if (!slot->in_flight || slot->sequence != sequence)
		return;
	slot->in_flight = false;
	generator->in_flight--;
	generator->answered++;
	if (generator->sample_count < MOST_SAMPLES)
		generator->samples[generator->sample_count++] =
			(uint32_t)(generator->last_ns - slot->sent_ns);
}

/* Reads a batch of answers. Returns the number of frames. */
static unsigned take_answers(struct generator *generator)
{
	struct port *port = &generator->port;
	uint32_t in, back = 0;
	unsigned count = xsk_ring_cons__peek(&port->rx, BATCH, &in);

	if (!count || xsk_ring_prod__reserve(&port->fill, count, &back) != count)
		return 0;
	generator->last_ns = now_ns();
	for (unsigned i = 0; i < count; i++) {
		const struct xdp_desc *descriptor = xsk_ring_cons__rx_desc(&port->rx, in + i);
		const struct request *answer = (void *)(port->memory + descriptor->addr);

		take_answer(generator, answer, descriptor->len);
		*xsk_ring_prod__fill_addr(&port->fill, back + i) =
			descriptor->addr & ~(uint64_t)(FRAME_BYTES - 1);
	}
	xsk_ring_prod__submit(&port->fill, count);
	xsk_ring_cons__release(&port->rx, count);
	return count;
}

/* Gives up the requests in flight after a long time without an answer. */
static void give_up(struct generator *generator)
{
	if (now_ns() - generator->last_ns < SILENCE_NS)
		return;
	for (unsigned i = 0; i < SLOTS; i++)
		generator->slots[i].in_flight = false;
	generator->lost += generator->in_flight;
	generator->in_flight = 0;
}

static void run_until(struct generator *generator, uint64_t end_ns)
{
	while (!stopping && now_ns() < end_ns) {
		if (!take_answers(generator) && generator->in_flight)
			give_up(generator);
		if (!generator->window || generator->in_flight < generator->window)
			send_requests(generator);
	}
}

static int compare(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

	return (left > right) - (left < right);
}

static void report(struct generator *generator, uint64_t elapsed_ns)
{
	uint64_t counted = generator->window ? generator->answered : generator->sent;
	unsigned count = generator->sample_count;
	const uint32_t *samples = generator->samples;

	qsort(generator->samples, count, sizeof(*samples), compare);
	printf("{\"warm_up\":%llu,\"sent\":%llu,\"answered\":%llu,\"lost\":%llu,\"mismatched\":%llu,"
	       "\"kpps\":%.1f",
	       (unsigned long long)generator->warm_up, (unsigned long long)generator->sent,
	       (unsigned long long)generator->answered, (unsigned long long)generator->lost,
	       (unsigned long long)generator->mismatched,
	       (double)counted * 1e6 / (double)elapsed_ns);
	if (count)
		printf(",\"p50\":%u,\"p99\":%u", samples[count / 2], samples[(size_t)count * 99 / 100]);
	printf("}\n");
}

static void mac_of(const char *ifname, uint8_t *mac)
{
	struct ifreq request = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	strncpy(request.ifr_name, ifname, IFNAMSIZ - 1);
	if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &request))
		die(0, "cannot read the MAC of %s", ifname);
	memcpy(mac, request.ifr_hwaddr.sa_data, ETH_ALEN);
	close(fd);
}

/* Reads the options into `generator`. Returns false if they are invalid. */
static bool read_options(struct generator *generator, int argc, char **argv)
{
	const char *queries = NULL;

	generator->peers = 4096;
	generator->ports = 1;
	for (int option; (option = getopt(argc, argv, "p:P:q:")) != -1;) {
		if (option == 'p')
			generator->peers = (unsigned)atoi(optarg);
		else if (option == 'P')
			generator->ports = (unsigned)atoi(optarg);
		else if (option == 'q')
			queries = optarg;
		else
			return false;
	}
	queries_open(&generator->queries, queries);
	return argc - optind == 7 && generator->peers - 1 < MOST_PEERS &&
	       generator->ports - 1 < MOST_XDP_SOCKETS;
}

int main(int argc, char **argv)
{
	static struct generator generator;
	struct ether_addr *mac;
	uint8_t own_mac[ETH_ALEN];
	unsigned milliseconds;
	uint64_t begin_ns;

	if (!read_options(&generator, argc, argv)) {
		fprintf(stderr, "usage: generator [-p PEERS] [-P PORTS] [-q QUERIES] OBJECT IFNAME "
				"DESTINATION-MAC DESTINATION PORT WINDOW MILLISECONDS\n");
		return 2;
	}
	argv += optind;
	mac = ether_aton(argv[2]);
	generator.first_port = (uint16_t)atoi(argv[4]);
	generator.window = (unsigned)atoi(argv[5]);
	milliseconds = (unsigned)atoi(argv[6]);
	if (!mac || generator.window > SLOTS || milliseconds > LONGEST_MS) {
		fprintf(stderr, "generator: bad MAC, window or time\n");
		return 2;
	}
	generator.samples = calloc(MOST_SAMPLES, sizeof(*generator.samples));
	if (!generator.samples)
		die(0, "cannot get memory");
	stop_after(2 * LONGEST_MS / 1000);
	port_open(&generator.port, argv[1], TX_FRAMES + RING_SLOTS);
	port_fill(&generator.port, TX_FRAMES, RING_SLOTS);
	attach_program(argv[0], "take", argv[1],
		       (struct udp_ports){ generator.first_port, (uint16_t)generator.ports },
		       &generator.port);
	mac_of(argv[1], own_mac);
	make_head(&generator, own_mac, mac, inet_addr(argv[3]));

	run_until(&generator, now_ns() + WARM_UP_NS);
	generator.warm_up = generator.answered;
	generator.sent = generator.answered = generator.lost = generator.mismatched = 0;
	generator.sample_count = 0;
	begin_ns = now_ns();
	run_until(&generator, begin_ns + (uint64_t)milliseconds * 1000000u);
	report(&generator, now_ns() - begin_ns);
	return 0;
}
