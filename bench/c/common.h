/* SPDX-License-Identifier: Apache-2.0
 * Shared by the C benchmarks: one AF_XDP socket with its UMEM and rings, its XDP program, the headers of a plain UDP
 * frame, and the end of a program. Any error ends the program with a sentence, since a benchmark that is only half set
 * up measures nothing.
 */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stdint.h>
#include <xdp/xsk.h>

#define FRAME_BYTES 2048u
#define RING_SLOTS 2048u
/* Descriptors of one batch: the net tile's burst. */
#define BATCH 64u

#define ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* A UDP frame without VLAN tag and IP options. */
struct headers {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

/* One AF_XDP socket on one queue, with a UMEM of its own. */
struct port {
	int fd;
	uint8_t *memory;
	struct xsk_umem *umem;
	struct xsk_socket *socket;
	struct xsk_ring_prod fill, tx;
	struct xsk_ring_cons completion, rx;
};

/* Set by SIGINT, SIGTERM and `stop_after`; every loop looks at it. */
extern volatile bool stopping;

/* Ends the program: what was tried, and what the system says (-error, or errno when 0). */
_Noreturn void die(int error, const char *what, ...) __attribute__((format(printf, 2, 3)));

/* Ends loops on SIGINT and SIGTERM, and after `seconds` at the latest (0: no limit). */
void stop_after(unsigned seconds);

/* Monotonic time, nanoseconds. */
uint64_t now_ns(void);

/* Opens queue 0 of `ifname` in copy mode with `frames` frames, none of them in a ring yet. */
void port_open(struct port *port, const char *ifname, unsigned frames);

/* Gives `count` frames from frame `first` on to the fill ring. */
void port_fill(struct port *port, unsigned first, unsigned count);

/* Makes the kernel send the transmit ring. It sends a part at each call. */
void port_kick(struct port *port);

/* UDP ports in a row, host byte order: what `ports` is in bench.bpf.c. */
struct udp_ports {
	uint16_t first, count;
};

/*
 * Loads the XDP program `name` of the object file, which takes UDP `ports`, attaches it to
 * `ifname` in native mode until this process ends, and puts `port`'s socket (may be NULL) into its
 * XSKMAP.
 */
void attach_program(const char *object, const char *name, const char *ifname, struct udp_ports ports,
		    const struct port *port);

/* One's complement sum of `bytes` bytes (RFC 1071), to be folded; `sum` is what it starts from. */
uint32_t checksum_add(uint32_t sum, const void *data, unsigned bytes);

/* Folds a sum to 16 bits, not complemented. Network byte order if the data was. */
uint16_t checksum_fold(uint32_t sum);

/* Sum of a UDP datagram and its pseudo-header (RFC 768), its checksum included: 0xffff is right. */
uint16_t udp_sum(const struct headers *headers);

#endif
