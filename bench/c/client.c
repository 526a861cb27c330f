/* SPDX-License-Identifier: Apache-2.0
 * A client that sends requests at a constant rate, whatever comes back, and records when each was sent, when its
 * answer came, and how many answers came: how an interruption of the service looks from outside. Each request
 * carries its number; an answer counts for its request, however late it is.
 *
 *     client OBJECT IFNAME DESTINATION-MAC DESTINATION FIRST-PORT PORTS RATE
 *
 * Requests go to PORTS ports in turn, RATE a second in all, from 198.19.0.0 and the addresses after it,
 * whose answers have to be routed to IFNAME. Each line on standard input begins a phase of that name and
 * is answered by "began NAME"; a request belongs to the phase in which it was sent. At an empty line, or
 * the end of the input, it stops asking, waits a second for late answers, and prints one JSON object. Times
 * are in milliseconds; `losing` is the time from the first to the last request without an answer. Where the
 * machine did not let it run, `held` says for how long, and requests that were due then are left out, not
 * sent in a burst (`skipped`).
 */
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_SOURCE 0xc6130000u /* 198.19.0.0 */
#define FIRST_SOURCE_PORT 20000u
#define PEERS 256u
#define MOST_XDP_SOCKETS 8u
#define MOST_PHASES 16u
#define NAME_BYTES 32
#define TX_FRAMES (2 * RING_SLOTS)
/* Of 24 bytes each, which the kernel provides as they are used. */
#define MOST_REQUESTS (64u << 20)
#define LONGEST_SECONDS 900u
#define PATIENCE_NS 1000000000u
/* At lower rates it wakes for each answer, at higher ones once in this time. */
#define PROMPT_RATE 20000u
#define TICK_NS 100000u
/* Requests that are due for longer are skipped. */
#define HELD_NS 5000000u
#define MAGIC 0x7e601a00u

struct payload {
	uint32_t magic, sequence;
	uint8_t rest[24];
} __attribute__((packed));

struct request {
	struct headers headers;
	struct payload payload;
} __attribute__((packed));

struct record {
	uint64_t sent_ns, answered_ns;
	uint32_t answers;
};

/* The longest time without an answer ended in this phase. */
struct phase {
	char name[NAME_BYTES];
	uint32_t first;
	uint64_t begin_ns, gap_ns[MOST_XDP_SOCKETS], held_ns, skipped;
};

static struct client {
	struct port port;
	struct headers head;
	uint16_t first_port;
	unsigned ports, rate;
	struct record *records;
	uint32_t sent;
	uint64_t mismatched, last_answer_ns[MOST_XDP_SOCKETS], stop_ns;
	struct phase phases[MOST_PHASES];
	unsigned phase_count;
	bool done;
} client;

static unsigned which_port(uint32_t sequence)
{
	return sequence % client.ports;
}

static struct headers headers_of(uint32_t sequence)
{
	struct headers headers = client.head;
	const unsigned peer = sequence / client.ports % PEERS;

	headers.ip.saddr = htobe32(FIRST_SOURCE + peer);
	headers.udp.source = htobe16((uint16_t)(FIRST_SOURCE_PORT + peer));
	headers.udp.dest = htobe16((uint16_t)(client.first_port + which_port(sequence)));
	return headers;
}

static void make_request(uint32_t sequence, struct request *request)
{
	*request = (struct request){ headers_of(sequence), { MAGIC, sequence, { 0 } } };
	request->headers.ip.check = (uint16_t)~checksum_fold(
		checksum_add(0, &request->headers.ip, sizeof(request->headers.ip)));
	request->headers.udp.check = (uint16_t)~udp_sum(&request->headers);
	if (!request->headers.udp.check)
		request->headers.udp.check = 0xffff;
}

static struct phase *phase(void)
{
	return &client.phases[client.phase_count - 1];
}

static void send_requests(unsigned count, uint64_t now)
{
	struct port *port = &client.port;
	uint32_t first, done;
	unsigned finished = xsk_ring_cons__peek(&port->completion, RING_SLOTS, &done);

	xsk_ring_cons__release(&port->completion, finished);
	if (xsk_ring_prod__reserve(&port->tx, count, &first) != count)
		return; /* the kernel is behind: they are still due */
	for (unsigned i = 0; i < count; i++, client.sent++) {
		const uint64_t frame = (uint64_t)(client.sent % TX_FRAMES) * FRAME_BYTES;

		make_request(client.sent, (struct request *)(port->memory + frame));
		*xsk_ring_prod__tx_desc(&port->tx, first + i) =
			(struct xdp_desc){ frame, sizeof(struct request), 0 };
		client.records[client.sent].sent_ns = now;
	}
	xsk_ring_prod__submit(&port->tx, count);
	port_kick(port);
}

/* Whether a frame is an answer to the request that it names. */
static bool answers(const struct request *answer, unsigned bytes)
{
	const struct headers *a = &answer->headers;
	struct headers r;

	if (bytes < sizeof(*answer) || answer->payload.magic != MAGIC || answer->payload.sequence >= client.sent)
		return false;
	r = headers_of(answer->payload.sequence);
	return a->ip.saddr == r.ip.daddr && a->ip.daddr == r.ip.saddr && a->udp.source == r.udp.dest &&
	       a->udp.dest == r.udp.source && a->udp.len == r.udp.len;
}

static void take_answer(const struct request *answer, unsigned bytes, uint64_t now)
{
	struct record *record;
	unsigned port;
	uint64_t gap;

	if (!answers(answer, bytes)) {
		client.mismatched++;
		return;
	}
	record = &client.records[answer->payload.sequence];
	port = which_port(answer->payload.sequence);
	if (!record->answers++)
		record->answered_ns = now;
	gap = now - (client.last_answer_ns[port] ? client.last_answer_ns[port] : phase()->begin_ns);
	client.last_answer_ns[port] = now;
	if (gap > phase()->gap_ns[port])
		phase()->gap_ns[port] = gap;
}

static void take_answers(void)
{
	struct port *port = &client.port;
	uint32_t in, back = 0;
	unsigned count;

	while ((count = xsk_ring_cons__peek(&port->rx, BATCH, &in)) > 0) {
		const uint64_t now = now_ns();

		/* The kernel shows what it has received before it shows what it has taken for that. */
		while (xsk_ring_prod__reserve(&port->fill, count, &back) != count)
			;
		for (unsigned i = 0; i < count; i++) {
			const struct xdp_desc *descriptor = xsk_ring_cons__rx_desc(&port->rx, in + i);

			take_answer((void *)(port->memory + descriptor->addr), descriptor->len, now);
			*xsk_ring_prod__fill_addr(&port->fill, back + i) =
				descriptor->addr & ~(uint64_t)(FRAME_BYTES - 1);
		}
		xsk_ring_prod__submit(&port->fill, count);
		xsk_ring_cons__release(&port->rx, count);
	}
}

static void begin_phase(const char *name)
{
	struct phase *next = &client.phases[client.phase_count++];

	if (client.phase_count > MOST_PHASES)
		die(-E2BIG, "too many phases");
	snprintf(next->name, sizeof(next->name), "%.*s", NAME_BYTES - 1, name);
	next->first = client.sent;
	next->begin_ns = now_ns();
	printf("began %s\n", next->name);
	fflush(stdout);
}

/* Reads standard input: names of phases, or its end. */
static void take_input(void)
{
	static char line[NAME_BYTES];
	static size_t length;
	char byte;

	while (read(STDIN_FILENO, &byte, 1) == 1) {
		if (byte != '\n') {
			if (length + 1 < sizeof(line))
				line[length++] = byte;
			continue;
		}
		line[length] = 0;
		if (!length)
			break;
		length = 0;
		return begin_phase(line);
	}
	client.done = true;
}

/* Waits at most `ns` for input, and for answers if each is waited for. */
static void wait_for(uint64_t ns, bool answers_too)
{
	struct pollfd fds[] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = client.port.fd, .events = POLLIN } };
	const struct timespec time = { .tv_nsec = (long)ns };

	if (ppoll(fds, client.done ? 0 : answers_too ? 2 : 1, &time, NULL) > 0 && fds[0].revents)
		take_input();
}

static void ask(void)
{
	const uint64_t between = 1000000000u / client.rate;
	const bool prompt = client.rate < PROMPT_RATE;
	uint64_t due_ns = now_ns(), before = due_ns;

	while (!client.done && !stopping && client.sent + BATCH < MOST_REQUESTS) {
		uint64_t now = now_ns();

		take_answers();
		if (!client.phase_count) { /* nothing is asked before the first phase */
			due_ns = before = now;
			wait_for(TICK_NS, false);
			continue;
		}
		if (now - before > phase()->held_ns)
			phase()->held_ns = now - before;
		before = now;
		if (now > due_ns + HELD_NS) {
			const uint64_t skipped = (now - due_ns) * client.rate / 1000000000u;

			phase()->skipped += skipped;
			due_ns = now;
		}
		while (due_ns <= now) {
			unsigned count = (unsigned)((now - due_ns) * client.rate / 1000000000u) + 1;
			const uint32_t sent = client.sent;

			send_requests(count > BATCH ? BATCH : count, now);
			if (client.sent == sent)
				break;
			/* Without a drift: `between` is rounded where the rate is not a divisor. */
			due_ns += (client.sent - sent) * 1000000000ull / client.rate;
		}
		now = now_ns();
		if (prompt)
			wait_for(due_ns > now ? due_ns - now : 0, true);
		else
			wait_for(between > TICK_NS ? between : TICK_NS, false);
	}
	client.stop_ns = now_ns();
	while (client.phase_count && now_ns() < client.stop_ns + PATIENCE_NS) {
		take_answers();
		usleep(TICK_NS / 1000);
	}
}

static int compare(const void *a, const void *b)
{
	const uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return (left > right) - (left < right);
}

static double milliseconds(uint64_t ns)
{
	return (double)ns / 1e6;
}

static void report_port(const struct phase *of, unsigned port, uint32_t first, uint32_t last)
{
	uint64_t *took = malloc(((size_t)(last - first) + 1) * sizeof(*took));
	uint64_t sent = 0, lost = 0, duplicates = 0, first_lost_ns = 0, last_lost_ns = 0;
	size_t count = 0;

	if (!took)
		die(0, "cannot get memory");
	for (uint32_t i = first; i < last; i++) {
		const struct record *record = &client.records[i];

		if (which_port(i) != port)
			continue;
		sent++;
		if (record->answers) {
			took[count++] = record->answered_ns - record->sent_ns;
		} else if (!lost++) {
			first_lost_ns = last_lost_ns = record->sent_ns;
		} else {
			last_lost_ns = record->sent_ns;
		}
		if (record->answers > 1)
			duplicates += record->answers - 1;
	}
	qsort(took, count, sizeof(*took), compare);
	printf("{\"sent\":%llu,\"lost\":%llu,\"duplicates\":%llu,\"gap\":%.3f,\"p50\":%.3f,\"p99\":%.3f,"
	       "\"latest\":%.3f,\"losing\":%.3f}",
	       (unsigned long long)sent, (unsigned long long)lost, (unsigned long long)duplicates,
	       milliseconds(of->gap_ns[port]), milliseconds(count ? took[count / 2] : 0),
	       milliseconds(count ? took[count * 99 / 100] : 0), milliseconds(count ? took[count - 1] : 0),
	       milliseconds(last_lost_ns - first_lost_ns));
	free(took);
}

static void report(void)
{
	struct xdp_statistics kernel = { 0 };
	socklen_t bytes = sizeof(kernel);

	/* If no answer came any more: a gap without an end. */
	for (unsigned i = 0; client.phase_count && i < client.ports; i++) {
		const uint64_t last = client.last_answer_ns[i] ? client.last_answer_ns[i] : client.phases[0].begin_ns;

		if (client.stop_ns > last && client.stop_ns - last > phase()->gap_ns[i])
			phase()->gap_ns[i] = client.stop_ns - last;
	}
	getsockopt(client.port.fd, SOL_XDP, XDP_STATISTICS, &kernel, &bytes);
	/* Answers that this client lost because its ring was full. */
	printf("{\"missed\":%llu,\"mismatched\":%llu,\"phases\":[",
	       (unsigned long long)(kernel.rx_dropped + kernel.rx_ring_full),
	       (unsigned long long)client.mismatched);
	for (unsigned i = 0; i < client.phase_count; i++) {
		const struct phase *of = &client.phases[i];

		printf("%s{\"name\":\"%s\",\"held\":%.3f,\"skipped\":%llu,\"ports\":[", i ? "," : "",
		       of->name, milliseconds(of->held_ns), (unsigned long long)of->skipped);
		for (unsigned port = 0; port < client.ports; port++) {
			if (port)
				printf(",");
			report_port(of, port, of->first, i + 1 < client.phase_count ? of[1].first : client.sent);
		}
		printf("]}");
	}
	printf("]}\n");
}

static void make_head(const char *ifname, const char *mac, const char *destination)
{
	struct ifreq own = { 0 };
	struct headers *head = &client.head;
	const struct ether_addr *to = ether_aton(mac);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	strncpy(own.ifr_name, ifname, IFNAMSIZ - 1);
	if (!to || fd < 0 || ioctl(fd, SIOCGIFHWADDR, &own))
		die(0, "cannot read the MAC of %s", ifname);
	close(fd);
	memcpy(head->eth.h_dest, to, ETH_ALEN);
	memcpy(head->eth.h_source, own.ifr_hwaddr.sa_data, ETH_ALEN);
	head->eth.h_proto = htobe16(ETH_P_IP);
	head->ip.version = 4;
	head->ip.ihl = 5;
	head->ip.ttl = 64;
	head->ip.protocol = 17;
	head->ip.daddr = inet_addr(destination);
	head->ip.tot_len = htobe16(sizeof(struct request) - ETH_HLEN);
	head->udp.len = htobe16(sizeof(struct udphdr) + sizeof(struct payload));
}

int main(int argc, char **argv)
{
	const struct sched_param urgent = { .sched_priority = 50 };

	if (argc == 8) {
		client.first_port = (uint16_t)atoi(argv[5]);
		client.ports = (unsigned)atoi(argv[6]);
		client.rate = (unsigned)atoi(argv[7]);
	}
	if (client.ports - 1 >= MOST_XDP_SOCKETS || client.rate - 1 >= 10000000u) {
		fprintf(stderr, "usage: client OBJECT IFNAME DESTINATION-MAC DESTINATION FIRST-PORT PORTS RATE\n");
		return 2;
	}
	client.records = mmap(NULL, MOST_REQUESTS * sizeof(*client.records), PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (client.records == MAP_FAILED)
		die(0, "cannot get memory");
	stop_after(LONGEST_SECONDS);
	port_open(&client.port, argv[2], TX_FRAMES + RING_SLOTS);
	port_fill(&client.port, TX_FRAMES, RING_SLOTS);
	attach_program(argv[1], "take", argv[2],
		       (struct udp_ports){ client.first_port, (uint16_t)client.ports }, &client.port);
	make_head(argv[2], argv[3], argv[4]);
	/*
	 * Measures the service, not how long this program waits for the processor. Much of the
	 * work of a high rate is done in this process's name, more than the kernel lets FIFO have.
	 */
	if (client.rate < PROMPT_RATE)
		sched_setscheduler(0, SCHED_FIFO, &urgent);
	else
		setpriority(PRIO_PROCESS, 0, -20);
	printf("ready\n");
	fflush(stdout);
	ask();
	report();
	return 0;
}
