// SPDX-License-Identifier: Apache-2.0
/* See common.h. */
#include "common.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <endian.h>
#include <errno.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* The kernel takes at most 32 descriptors a call in copy mode: enough calls for a full ring. */
#define KICKS (RING_SLOTS / 32)

/* The kernel releases a socket some time after its program has ended. */
#define RELEASE_NS 2000000000u

volatile bool stopping;

void die(int error, const char *what, ...)
{
	int reason = error ? -error : errno;
	va_list arguments;

	va_start(arguments, what);
	vfprintf(stderr, what, arguments);
	va_end(arguments);
	fprintf(stderr, ": %s\n", strerror(reason));
	exit(1);
}

static void on_signal(int signal)
{
	(void)signal;
	stopping = true;
}

void stop_after(unsigned seconds)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	alarm(seconds);
}

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void port_open(struct port *port, const char *ifname, unsigned frames)
{
	const struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	const struct xsk_umem_config umem = {
		.fill_size = RING_SLOTS,
		.comp_size = RING_SLOTS,
		.frame_size = FRAME_BYTES,
	};
	const struct xsk_socket_config socket = {
		.rx_size = RING_SLOTS,
		.tx_size = RING_SLOTS,
		.libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
		.bind_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
	};
	size_t bytes = (size_t)frames * FRAME_BYTES;
	uint64_t give_up_ns = now_ns() + RELEASE_NS;
	int error;

	memset(port, 0, sizeof(*port));
	setrlimit(RLIMIT_MEMLOCK, &unlimited);
	port->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (port->memory == MAP_FAILED)
		die(0, "cannot get %zu bytes", bytes);
	error = xsk_umem__create(&port->umem, port->memory, bytes, &port->fill, &port->completion,
				 &umem);
	if (error)
		die(error, "cannot register the UMEM");
	do {
		error = xsk_socket__create(&port->socket, ifname, 0, port->umem, &port->rx,
					   &port->tx, &socket);
	} while (error == -EBUSY && now_ns() < give_up_ns && !usleep(1000));
	if (error)
		die(error, "cannot open an AF_XDP socket on %s", ifname);
	port->fd = xsk_socket__fd(port->socket);
}

void port_fill(struct port *port, unsigned first, unsigned count)
{
	uint32_t slot;

	if (xsk_ring_prod__reserve(&port->fill, count, &slot) != count)
		die(-ENOBUFS, "cannot fill the fill ring");
	for (unsigned i = 0; i < count; i++)
		*xsk_ring_prod__fill_addr(&port->fill, slot + i) = (uint64_t)(first + i) * FRAME_BYTES;
	xsk_ring_prod__submit(&port->fill, count);
}

void port_kick(struct port *port)
{
	for (unsigned i = 0; i < KICKS; i++) {
		if (sendto(port->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0)
			return;
		if (errno != EAGAIN && errno != EBUSY && errno != ENOBUFS && errno != EINTR)
			die(0, "cannot send");
	}
}

void attach_program(const char *path, const char *name, const char *ifname, struct udp_ports ports,
		    const struct port *port)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_program *program;
	struct bpf_map *constants;
	unsigned ifindex = if_nametoindex(ifname);
	int error;

	if (!object)
		die(0, "cannot open %s", path);
	program = bpf_object__find_program_by_name(object, name);
	constants = bpf_object__find_map_by_name(object, ".rodata");
	if (!program || !constants || !ifindex)
		die(-ENOENT, "no program %s or no interface %s", name, ifname);
	error = bpf_map__set_initial_value(constants, &ports, sizeof(ports));
	if (!error)
		error = bpf_object__load(object);
	if (error)
		die(error, "cannot load %s", path);
	if (port) {
		error = xsk_socket__update_xskmap(
			port->socket, bpf_object__find_map_fd_by_name(object, "sockets"));
		if (error)
			die(error, "cannot enter the socket into the XSKMAP");
	}
	if (!bpf_program__attach_xdp(program, (int)ifindex))
		die(0, "cannot attach %s to %s", name, ifname);
}

uint32_t checksum_add(uint32_t sum, const void *data, unsigned bytes)
{
	const uint8_t *at = data;
	uint16_t word = 0;

	for (; bytes > 1; bytes -= 2, at += 2) {
		memcpy(&word, at, 2);
		sum += word;
	}
	if (bytes) {
		word = 0;
		memcpy(&word, at, 1);
		sum += word;
	}
	return sum;
}

uint16_t checksum_fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

uint16_t udp_sum(const struct headers *headers)
{
	uint32_t sum = (uint32_t)htobe16(headers->ip.protocol) + headers->udp.len;

	sum = checksum_add(sum, &headers->ip.saddr, 8);
	return checksum_fold(checksum_add(sum, &headers->udp, be16toh(headers->udp.len)));
}
