/*
 * The load generator: sends UDP requests through an AF_XDP socket and takes the answers, spinning on
 * one core, with a window of requests in flight. A window of 1 measures round trips, a large one how
 * many requests a second are answered, 0 how many can be sent when no answer is waited for. Every
 * answer is compared with its request; what does not come back is counted as lost. Bounded in time.
 *
 *     generator OBJECT IFNAME DESTINATION-MAC DESTINATION PORT WINDOW MILLISECONDS
 *
 * Requests come from 4,096 addresses, 198.19.0.0 to 198.19.15.255, each with a source port of its
 * own; their answers have to be routed to IFNAME. Prints one JSON object; times in nanoseconds.
 */
#include "common.h"

#include <arpa/inet.h>
#include <endian.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define FLOWS 4096u
#define FIRST_SOURCE 0xc6130000u /* 198.19.0.0 */
#define FIRST_SOURCE_PORT 20000u
/* 18 bytes make the smallest Ethernet frame: 60 bytes, 64 with its check sequence. */
#define PAYLOAD_BYTES 18u
#define FRAME_LENGTH (sizeof(struct headers) + PAYLOAD_BYTES)
#define FIRST_RX_FRAME FLOWS
#define WARM_UP_NS 200000000u
/* When nothing has come for so long, what is in flight is given up. */
#define SILENCE_NS 20000000u
#define LONGEST_MS 60000u
#define MOST_SAMPLES 4000000u

struct payload {
	uint32_t sequence;
	uint8_t filling[PAYLOAD_BYTES - 4];
} __attribute__((packed));

struct request {
	struct headers headers;
	struct payload payload;
} __attribute__((packed));

/* What is known of a flow's latest request. A flow has at most one request in flight. */
struct flow {
	uint32_t sequence;
	bool in_flight;
};

struct generator {
	struct port port;
	struct flow flows[FLOWS];
	uint32_t next; /* sequence of the next request; its low bits name its flow */
	unsigned window, in_flight;
	uint64_t sent, answered, lost, mismatched;
	uint64_t last_ns; /* when the latest request went or answer came */
	uint32_t *samples;
	unsigned sample_count;
};

static struct request *frame_of(const struct generator *generator, unsigned flow)
{
	return (struct request *)(generator->port.memory + (size_t)flow * FRAME_BYTES);
}

/* Sets the sums of a request whose other fields stand. */
static void seal(struct request *request)
{
	struct headers *headers = &request->headers;

	headers->udp.check = 0;
	headers->udp.check = (uint16_t)~udp_sum(headers);
	if (!headers->udp.check)
		headers->udp.check = 0xffff;
}

/* Writes every flow's request; later only sequence and checksum change. */
static void make_requests(struct generator *generator, const uint8_t *own_mac,
			  const struct ether_addr *mac, uint32_t destination_be, uint16_t port)
{
	for (unsigned flow = 0; flow < FLOWS; flow++) {
		struct request *request = frame_of(generator, flow);
		struct headers *headers = &request->headers;

		memset(request, 0, sizeof(*request));
		memcpy(headers->eth.h_dest, mac, ETH_ALEN);
		memcpy(headers->eth.h_source, own_mac, ETH_ALEN);
		headers->eth.h_proto = htobe16(ETH_P_IP);
		headers->ip.version = 4;
		headers->ip.ihl = 5;
		headers->ip.ttl = 64;
		headers->ip.protocol = 17;
		headers->ip.tot_len = htobe16(FRAME_LENGTH - ETH_HLEN);
		headers->ip.saddr = htobe32(FIRST_SOURCE + flow);
		headers->ip.daddr = destination_be;
		headers->ip.check = (uint16_t)~checksum_fold(
			checksum_add(0, &headers->ip, sizeof(headers->ip)));
		headers->udp.source = htobe16((uint16_t)(FIRST_SOURCE_PORT + flow));
		headers->udp.dest = htobe16(port);
		headers->udp.len = htobe16(sizeof(headers->udp) + PAYLOAD_BYTES);
		for (unsigned i = 0; i < sizeof(request->payload.filling); i++)
			request->payload.filling[i] = (uint8_t)(flow * 7 + i);
	}
}

/* Sends as many requests as window and ring allow, at most a batch. */
static void send_requests(struct generator *generator)
{
	struct port *port = &generator->port;
	unsigned room = generator->window ? generator->window - generator->in_flight : BATCH;
	uint32_t slot, done;
	unsigned count;

	count = xsk_ring_cons__peek(&port->completion, RING_SLOTS, &done);
	xsk_ring_cons__release(&port->completion, count);
	if (room > BATCH)
		room = BATCH;
	if (!room || xsk_ring_prod__reserve(&port->tx, room, &slot) != room)
		return;
	for (unsigned i = 0; i < room; i++, generator->next++) {
		unsigned index = generator->next % FLOWS;
		struct flow *flow = &generator->flows[index];
		struct request *request = frame_of(generator, index);
		struct xdp_desc *descriptor = xsk_ring_prod__tx_desc(&port->tx, slot + i);

		if (flow->in_flight) {
			generator->lost++;
			generator->in_flight--;
		}
		*flow = (struct flow){ generator->next, true };
		request->payload.sequence = generator->next;
		seal(request);
		*descriptor = (struct xdp_desc){ (uint64_t)index * FRAME_BYTES, FRAME_LENGTH, 0 };
	}
	generator->last_ns = now_ns();
	generator->in_flight += room;
	generator->sent += room;
	xsk_ring_prod__submit(&port->tx, room);
	port_kick(port);
}

/* The sum is right, or it is the bare pseudo-header sum that the kernel leaves on a veth. */
static bool udp_checksum_right(const struct headers *headers)
{
	uint32_t pseudo = (uint32_t)htobe16(headers->ip.protocol) + headers->udp.len;

	return udp_sum(headers) == 0xffff ||
	       headers->udp.check == checksum_fold(checksum_add(pseudo, &headers->ip.saddr, 8));
}

/* Whether `answer` is the right answer to a request of its flow, whichever. */
static bool answers(const struct generator *generator, const struct request *answer, unsigned flow)
{
	const struct request *request = frame_of(generator, flow);
	const struct headers *a = &answer->headers, *r = &request->headers;

	return a->ip.saddr == r->ip.daddr && a->ip.daddr == r->ip.saddr &&
	       a->udp.source == r->udp.dest && a->udp.dest == r->udp.source &&
	       a->udp.len == r->udp.len && a->ip.tot_len == r->ip.tot_len &&
	       !memcmp(a->eth.h_source, r->eth.h_dest, ETH_ALEN) &&
	       !memcmp(a->eth.h_dest, r->eth.h_source, ETH_ALEN) &&
	       !memcmp(answer->payload.filling, request->payload.filling,
		       sizeof(answer->payload.filling)) &&
	       checksum_fold(checksum_add(0, &a->ip, sizeof(a->ip))) == 0xffff &&
	       udp_checksum_right(a);
}

/* Takes a batch of answers. Returns how many frames came. */
static unsigned take_answers(struct generator *generator)
{
	struct port *port = &generator->port;
	uint32_t in, back = 0;
	unsigned count = xsk_ring_cons__peek(&port->rx, BATCH, &in);
	uint64_t sent_ns = generator->last_ns;

	if (!count || xsk_ring_prod__reserve(&port->fill, count, &back) != count)
		return 0;
	generator->last_ns = now_ns();
	for (unsigned i = 0; i < count; i++) {
		const struct xdp_desc *descriptor = xsk_ring_cons__rx_desc(&port->rx, in + i);
		const struct request *answer = (void *)(port->memory + descriptor->addr);
		unsigned index = answer->payload.sequence % FLOWS;
		struct flow *flow = &generator->flows[index];

		*xsk_ring_prod__fill_addr(&port->fill, back + i) =
			descriptor->addr & ~(uint64_t)(FRAME_BYTES - 1);
		if (descriptor->len < FRAME_LENGTH || !answers(generator, answer, index)) {
			generator->mismatched++;
		} else if (flow->in_flight && flow->sequence == answer->payload.sequence) {
			/* Another sequence is a late answer, to a request that was given up. */
			flow->in_flight = false;
			generator->in_flight--;
			generator->answered++;
			if (generator->window == 1 && generator->sample_count < MOST_SAMPLES)
				generator->samples[generator->sample_count++] =
					(uint32_t)(generator->last_ns - sent_ns);
		}
	}
	xsk_ring_prod__submit(&port->fill, count);
	xsk_ring_cons__release(&port->rx, count);
	return count;
}

/* Gives up what is in flight when nothing has come for long. */
static void give_up(struct generator *generator)
{
	if (now_ns() - generator->last_ns < SILENCE_NS)
		return;
	for (unsigned i = 0; i < FLOWS; i++)
		generator->flows[i].in_flight = false;
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
	printf("{\"sent\":%llu,\"answered\":%llu,\"lost\":%llu,\"mismatched\":%llu,\"kpps\":%.1f",
	       (unsigned long long)generator->sent, (unsigned long long)generator->answered,
	       (unsigned long long)generator->lost, (unsigned long long)generator->mismatched,
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

int main(int argc, char **argv)
{
	static struct generator generator;
	struct ether_addr *mac;
	uint8_t own_mac[ETH_ALEN];
	unsigned milliseconds;
	uint64_t begin_ns;

	if (argc != 8) {
		fprintf(stderr, "usage: generator OBJECT IFNAME DESTINATION-MAC DESTINATION PORT "
				"WINDOW MILLISECONDS\n");
		return 2;
	}
	mac = ether_aton(argv[3]);
	generator.window = (unsigned)atoi(argv[6]);
	milliseconds = (unsigned)atoi(argv[7]);
	if (!mac || generator.window > FLOWS || milliseconds > LONGEST_MS) {
		fprintf(stderr, "generator: bad MAC, window or time\n");
		return 2;
	}
	generator.samples = calloc(MOST_SAMPLES, sizeof(*generator.samples));
	if (!generator.samples)
		die(0, "cannot get memory");
	stop_after(2 * LONGEST_MS / 1000);
	port_open(&generator.port, argv[2], FIRST_RX_FRAME + RING_SLOTS);
	port_fill(&generator.port, FIRST_RX_FRAME, RING_SLOTS);
	attach_program(argv[1], "take", argv[2], (uint16_t)atoi(argv[5]), &generator.port);
	mac_of(argv[2], own_mac);
	make_requests(&generator, own_mac, mac, inet_addr(argv[4]), (uint16_t)atoi(argv[5]));

	run_until(&generator, now_ns() + WARM_UP_NS);
	generator.sent = generator.answered = generator.lost = generator.mismatched = 0;
	generator.sample_count = 0;
	begin_ns = now_ns();
	run_until(&generator, begin_ns + (uint64_t)milliseconds * 1000000u);
	report(&generator, now_ns() - begin_ns);
	return 0;
}
