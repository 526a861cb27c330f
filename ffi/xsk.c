/* SPDX-License-Identifier: Apache-2.0
 * AF_XDP (xsk.ts). The master loads and attaches the XDP program, and creates and binds sockets; it
 * identifies them by descriptor. A net tile, in the same or another process, maps the rings of a
 * socket and moves descriptors on them; it identifies them by slot.
 *
 * libxdp provides ring accessors and the dispatcher. Its constructors bind a socket at once and do not
 * accept a socket of another process, so sockets are created with the kernel's interface (linux/if_xdp.h).
 * A program is attached by a bpf_link, which ends with the process, or on request by a dispatcher.
 *
 * All threads share the table of slots; the rings of a slot belong to the thread that adopted it.
 * Slot numbers are not checked, because they come only from `adopt` and `memory`.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xdp/libxdp.h>
#include <xdp/xsk.h>

#include "native.h"

#define SOCKETS 256
#define PRIORITY 100 /* in a dispatcher: after programs without a priority, which get 50 */
/* The most frames that a kick sends in copy mode. It returns EAGAIN if more wait. */
#define KICK_FRAMES 32
#define KICKS 16

/* The program, as compiled by clang. */
__asm__(".section .rodata\n"
	".balign 8\n"
	".globl filter_object, filter_object_end\n"
	".hidden filter_object, filter_object_end\n"
	"filter_object: .incbin \"" FILTER_OBJECT "\"\n"
	"filter_object_end:\n"
	".previous\n");
extern const char filter_object[], filter_object_end[];

/* The mapping of a ring. */
struct mapping {
	void *at; /* NULL: not mapped */
	size_t bytes;
};

static struct socket {
	int taken; /* 0: the slot is free */
	int fd;	   /* -1: rings in plain memory */
	int busy;
	uint32_t frame; /* bytes of a frame; only in plain memory */
	const void *area;
	struct xsk_ring_prod fill, tx;
	struct xsk_ring_cons rx, completion;
	struct mapping mappings[4];
} sockets[SOCKETS];

static const char *const MAPS[] = { "filter", "sockets", "redirected" }; /* the order of `load` */

/* Returns the program, not yet loaded; NULL and errno if memory runs out. */
static struct bpf_object *open_filter(void)
{
	libbpf_set_print(NULL);
	libxdp_set_print(NULL);
	return bpf_object__open_mem(filter_object, (size_t)(filter_object_end - filter_object), NULL);
}

/*
 * Loads the XDP program for `queues` queues, with maps of its own. Stores the descriptors, which the
 * caller closes, of the program and of its maps filter, sockets and redirected. Returns 0, or -errno.
 */
EXPORT int tegula_xsk_load(uint32_t queues, int32_t out[4])
{
	struct bpf_object *object = open_filter();
	int error;

	if (!object)
		return -errno;
	for (int i = 1; i < 3; i++)
		bpf_map__set_max_entries(bpf_object__find_map_by_name(object, MAPS[i]), queues);
	error = bpf_object__load(object);
	for (int i = 0; i < 4 && !error; i++) {
		int fd = i > 0 ? bpf_object__find_map_fd_by_name(object, MAPS[i - 1]) :
				 bpf_program__fd(bpf_object__next_program(object, NULL));

		/* It outlives the object. */
		error = (out[i] = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0 ? -errno : 0;
	}
	bpf_object__close(object);
	return error;
}

/*
 * Attaches `program` to `ifindex`. Returns the descriptor of the link, which detaches it when it is closed, or
 * -errno: EBUSY or EEXIST if another program is attached.
 */
EXPORT int tegula_xsk_attach(int program, int ifindex, int native)
{
	LIBBPF_OPTS(bpf_link_create_opts, options,
		    .flags = native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE);

	return bpf_link_create(program, ifindex, BPF_XDP, &options);
}

/*
 * Removes our programs from the dispatcher of `ifindex`. Others stay. A dispatcher without programs
 * is detached. Returns the dispatcher's xdp_attach_mode, 0 if there is none, or -errno.
 */
EXPORT int tegula_xsk_leave(int ifindex)
{
	struct xdp_multiprog *all = xdp_multiprog__get_from_ifindex(ifindex);
	enum xdp_attach_mode mode = xdp_multiprog__attach_mode(all);
	struct xdp_program *each = NULL;
	int error = 0;

	while (!error && (each = xdp_multiprog__next_prog(each, all)))
		if (strcmp(xdp_program__name(each), "tegula") == 0)
			error = xdp_program__detach(each, ifindex, mode, 0);
	xdp_multiprog__close(all);
	return error ? error : (int)mode;
}

/*
 * Makes libxdp's dispatcher run the program on `ifindex`, attached in `mode`, with the maps that
 * tegula_xsk_load stored in `fds`, until tegula_xsk_leave. Returns 0, or -errno.
 */
EXPORT int tegula_xsk_join(const int32_t fds[4], int ifindex, int mode)
{
	struct bpf_object *object = open_filter();
	DECLARE_LIBXDP_OPTS(xdp_program_opts, options, .obj = object);
	struct xdp_program *program = xdp_program__create(&options);
	int error = (int)libxdp_get_error(program);

	for (int i = 0; i < 3 && !error; i++)
		error = bpf_map__reuse_fd(bpf_object__find_map_by_name(object, MAPS[i]), fds[i + 1]);
	if (!error) {
		xdp_program__set_run_prio(program, PRIORITY);
		/* Without dispatcher support libxdp would attach the program alone, which must not happen here. */
		bpf_program__set_expected_attach_type(bpf_object__next_program(object, NULL),
						      BPF_XDP_DEVMAP);
		error = xdp_program__attach(program, ifindex, (enum xdp_attach_mode)mode, 0);
	}
	xdp_program__close(program);
	bpf_object__close(object);
	return error;
}

/*
 * Returns the id of the XDP program that is attached to `ifindex` in any mode, or 0. Stores its
 * name, "" if it is not readable.
 */
EXPORT uint32_t tegula_xsk_attached(int ifindex, char name[BPF_OBJ_NAME_LEN])
{
	struct bpf_prog_info info = { 0 };
	uint32_t id, length = sizeof(info);
	int fd;

	if (bpf_xdp_query_id(ifindex, 0, &id) < 0 || id == 0)
		return 0;
	fd = bpf_prog_get_fd_by_id(id);
	if (fd >= 0) {
		bpf_prog_get_info_by_fd(fd, &info, &length);
		close(fd);
	}
	memcpy(name, info.name, sizeof(info.name));
	return id;
}

/*
 * Maps the first page of a socket's receive ring, for tegula_xsk_statistics_of, and stores its address,
 * or NULL. Returns 0, or -errno: EBUSY if the socket is bound and the kernel is older than 6.4.
 */
EXPORT int tegula_xsk_map(int fd, const void **mapped)
{
	void *page = mmap(NULL, (size_t)getpagesize(), PROT_READ, MAP_SHARED, fd, XDP_PGOFF_RX_RING);

	*mapped = page == MAP_FAILED ? NULL : page;
	return page == MAP_FAILED ? -errno : 0;
}

/*
 * Creates an unbound socket with four rings of `ring` entries, and maps it as tegula_xsk_map does.
 * Returns the descriptor, or -errno: EAFNOSUPPORT if the kernel has no AF_XDP.
 */
EXPORT int tegula_xsk_prepare(uint32_t ring, const void **mapped)
{
	static const int RINGS[] = { XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING,
				     XDP_TX_RING };
	int error = 0, fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	for (size_t i = 0; i < COUNT(RINGS) && !error; i++)
		error = result(setsockopt(fd, SOL_XDP, RINGS[i], &ring, sizeof(ring)));
	if (!error)
		error = tegula_xsk_map(fd, mapped);
	return opened(fd, error);
}

/*
 * Registers `bytes` bytes at the page-aligned `area` as the UMEM of a prepared socket, in frames of `frame`
 * bytes with `headroom`. Returns 0, or -errno: EBUSY if it has one, ENOBUFS if the lock limit is too low.
 */
EXPORT int tegula_xsk_umem(int fd, void *area, uint32_t bytes, uint32_t frame, uint32_t headroom)
{
	const struct xdp_umem_reg umem = {
		.addr = (uintptr_t)area, .len = bytes, .chunk_size = frame, .headroom = headroom,
	};

	return result(setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)));
}

/*
 * Binds a prepared socket to `queue` of `ifindex`. A socket without a UMEM shares the UMEM and mode
 * of the bound socket `first`; otherwise `first` is -1. Returns 0, or -errno; then it can be retried.
 */
EXPORT int tegula_xsk_bind(int fd, uint32_t ifindex, uint32_t queue, int zero_copy, int first)
{
	/* A bind with XDP_ZEROCOPY fails if that is impossible. The kernel falls back only without a mode flag. */
	const int mode = (zero_copy ? XDP_ZEROCOPY : XDP_COPY) | XDP_USE_NEED_WAKEUP;
	const struct sockaddr_xdp address = {
		.sxdp_family = AF_XDP, .sxdp_ifindex = ifindex, .sxdp_queue_id = queue,
		.sxdp_flags = (uint16_t)(first < 0 ? mode : XDP_SHARED_UMEM),
		.sxdp_shared_umem_fd = (uint32_t)(first < 0 ? 0 : first),
	};

	return result(bind(fd, (const struct sockaddr *)&address, sizeof(address)));
}

/* Puts the socket into the program's map `map`: it then receives the frames of `queue`. Returns 0, or -errno. */
EXPORT int tegula_xsk_register(int map, uint32_t queue, int fd)
{
	return bpf_map_update_elem(map, &queue, &fd, BPF_ANY);
}

/*
 * Turns on busy polling: system calls of the net tile make the driver process its rings, for up to
 * `micros` and `budget` frames each, while the driver may leave interrupts off. Returns 0, or
 * -errno: ENOPROTOOPT before Linux 5.11, EPERM without CAP_NET_ADMIN.
 */
EXPORT int tegula_xsk_poll_busily(int fd, int micros, int budget)
{
	const int one = 1;

	if (!setsockopt(fd, SOL_SOCKET, SO_PREFER_BUSY_POLL, &one, sizeof(one)) &&
	    !setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL, &micros, sizeof(micros)) &&
	    !setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL_BUDGET, &budget, sizeof(budget)))
		return 0;
	return -errno;
}

/* Stores the six totals of XDP_STATISTICS; leaves those unchanged that an older kernel lacks. */
static int kernel_statistics(int fd, uint64_t out[6])
{
	socklen_t length = sizeof(struct xdp_statistics);

	_Static_assert(offsetof(struct xdp_statistics, rx_dropped) == 8 * XSK_STATISTIC_RX_DROPPED &&
		       offsetof(struct xdp_statistics, rx_ring_full) == 8 * XSK_STATISTIC_RX_RING_FULL &&
		       offsetof(struct xdp_statistics, tx_ring_empty_descs) == 8 * XSK_STATISTIC_TX_RING_EMPTY,
		       "as the kernel has them");
	return result(getsockopt(fd, SOL_XDP, XDP_STATISTICS, out, &length));
}

/*
 * Stores the six totals of XDP_STATISTICS and the number of frames that the kernel put on the
 * receive ring (modulo 2^32). Returns 0, or -errno: EBUSY if the ring is not `mapped`.
 */
EXPORT int tegula_xsk_statistics_of(int fd, const void *const *mapped, uint64_t out[XSK_STATISTICS])
{
	struct xdp_mmap_offsets at;
	socklen_t length = sizeof(at);

	if (!*mapped || getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &length) < 0)
		return *mapped ? -errno : -EBUSY;
	out[XSK_STATISTIC_RECEIVED] = __atomic_load_n((const uint32_t *)((const char *)*mapped + at.rx.producer),
				 __ATOMIC_RELAXED);
	return kernel_statistics(fd, out);
}

/* Closes a socket. Its queue is free when all processes have released it. */
EXPORT void tegula_xsk_close(int fd, void *const *mapped)
{
	if (*mapped)
		munmap(*mapped, (size_t)getpagesize());
	close(fd);
}

/* Takes a free slot. Returns its number, or -EMFILE. */
static int take_slot(void)
{
	for (int i = 0; i < SOCKETS; i++)
		if (!__atomic_exchange_n(&sockets[i].taken, 1, __ATOMIC_ACQ_REL))
			return i;
	return -EMFILE;
}

/* Unmaps the rings of a slot and frees it. The descriptor stays open. */
EXPORT void tegula_xsk_release(int slot)
{
	struct socket *s = &sockets[slot];

	for (size_t i = 0; i < COUNT(s->mappings); i++) {
		if (s->mappings[i].at)
			munmap(s->mappings[i].at, s->mappings[i].bytes);
		s->mappings[i].at = NULL;
	}
	__atomic_store_n(&s->taken, 0, __ATOMIC_RELEASE);
}

/*
 * Loads the cached cursors from the rings. Must be called again after the previous user of the
 * rings has ended.
 */
EXPORT void tegula_xsk_resume(int slot)
{
	struct socket *s = &sockets[slot];
	struct xsk_ring_prod *const producers[] = { &s->fill, &s->tx };
	struct xsk_ring_cons *const consumers[] = { &s->rx, &s->completion };
	socklen_t length = sizeof(s->busy);

	for (int i = 0; i < 2; i++) {
		struct xsk_ring_prod *out = producers[i];
		struct xsk_ring_cons *in = consumers[i];

		out->cached_prod = __atomic_load_n(out->producer, __ATOMIC_ACQUIRE);
		out->cached_cons = __atomic_load_n(out->consumer, __ATOMIC_ACQUIRE) + out->size;
		in->cached_prod = __atomic_load_n(in->producer, __ATOMIC_ACQUIRE);
		in->cached_cons = __atomic_load_n(in->consumer, __ATOMIC_ACQUIRE);
	}
	if (getsockopt(s->fd, SOL_SOCKET, SO_PREFER_BUSY_POLL, &s->busy, &length) < 0)
		s->busy = 0;
}

/* Producer and consumer rings have the same fields. */
#define SET_RING(ring_, entries_, base_, at_)                                                         \
	(ring_).mask = (entries_) - 1, (ring_).size = (entries_),                                     \
	(ring_).producer = (uint32_t *)((base_) + (at_)->producer),                                   \
	(ring_).consumer = (uint32_t *)((base_) + (at_)->consumer),                                   \
	(ring_).flags = (uint32_t *)((base_) + (at_)->flags), (ring_).ring = (base_) + (at_)->desc

/*
 * Maps the rings, of `ring` entries, of a socket that is prepared or, since Linux 6.4, bound; its UMEM
 * is mapped at `area`. Returns the slot, or -errno: EBUSY if it is bound and the kernel is older.
 */
EXPORT int tegula_xsk_adopt(int fd, const void *area, uint32_t ring)
{
	struct xdp_mmap_offsets at;
	socklen_t length = sizeof(at);
	const struct {
		const struct xdp_ring_offset *at;
		size_t entry;
		off_t offset;
	} rings[] = {
		{ &at.fr, sizeof(uint64_t), (off_t)XDP_UMEM_PGOFF_FILL_RING },
		{ &at.rx, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING },
		{ &at.tx, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING },
		{ &at.cr, sizeof(uint64_t), (off_t)XDP_UMEM_PGOFF_COMPLETION_RING },
	};
	char *bases[COUNT(rings)];
	struct socket *s;
	int error, slot;

	if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &length) < 0)
		return -errno;
	slot = take_slot();
	if (slot < 0)
		return slot;
	s = &sockets[slot];
	s->fd = fd;
	s->area = area;
	for (size_t i = 0; i < COUNT(rings); i++) {
		size_t bytes = rings[i].at->desc + ring * rings[i].entry;

		bases[i] = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
				rings[i].offset);
		if (bases[i] == MAP_FAILED) {
			error = -errno;
			tegula_xsk_release(slot);
			return error;
		}
		s->mappings[i] = (struct mapping){ bases[i], bytes };
	}
	SET_RING(s->fill, ring, bases[0], &at.fr);
	SET_RING(s->rx, ring, bases[1], &at.rx);
	SET_RING(s->tx, ring, bases[2], &at.tx);
	SET_RING(s->completion, ring, bases[3], &at.cr);
	tegula_xsk_resume(slot);
	return slot;
}

/*
 * Makes a slot whose rings, of `ring` entries, are plain memory: tegula_xsk_inject replaces the
 * kernel. Its frames have `frame` bytes and begin at `area`. Returns the slot, or -errno.
 */
EXPORT int tegula_xsk_memory(const void *area, uint32_t frame, uint32_t ring)
{
	static const struct xdp_ring_offset AT = {
		.producer = 0, .consumer = 64, .flags = 128, .desc = 192,
	};
	const size_t bytes = AT.desc + ring * sizeof(struct xdp_desc);
	int slot = take_slot();
	struct socket *s = &sockets[slot];
	char *base;

	if (slot < 0)
		return slot;
	base = mmap(NULL, 4 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED) {
		tegula_xsk_release(slot);
		return -ENOMEM;
	}
	s->mappings[0] = (struct mapping){ base, 4 * bytes };
	s->fd = -1;
	s->area = area;
	s->frame = frame;
	SET_RING(s->fill, ring, base, &AT);
	SET_RING(s->rx, ring, base + bytes, &AT);
	SET_RING(s->tx, ring, base + 2 * bytes, &AT);
	SET_RING(s->completion, ring, base + 3 * bytes, &AT);
	tegula_xsk_resume(slot);
	return slot;
}

/*
 * Simulates the kernel for a slot of tegula_xsk_memory. Moves up to `count` frames from the fill
 * ring to the receive ring. A pair gives each its offset in the frame and its length; the offset in
 * the UMEM replaces the former. Moves as many frames as fit from the transmit ring to the
 * completion ring. Returns how many were received.
 */
EXPORT int tegula_xsk_inject(int slot, uint32_t *pairs, uint32_t count)
{
	struct socket *s = &sockets[slot];
	uint32_t sent = *s->tx.producer - *s->tx.consumer;
	uint32_t filled = *s->fill.producer - *s->fill.consumer;
	uint32_t rx_room = s->rx.size - (*s->rx.producer - *s->rx.consumer);
	uint32_t room = s->completion.size - (*s->completion.producer - *s->completion.consumer);

	for (sent = sent < room ? sent : room; sent > 0; sent--)
		((uint64_t *)s->completion.ring)[(*s->completion.producer)++ & s->completion.mask] =
			xsk_ring_prod__tx_desc(&s->tx, (*s->tx.consumer)++)->addr;
	count = count < filled ? count : filled;
	count = count < rx_room ? count : rx_room;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t at = *xsk_ring_prod__fill_addr(&s->fill, (*s->fill.consumer)++);

		at = (at & ~(uint64_t)(s->frame - 1)) + pairs[2 * i];
		((struct xdp_desc *)s->rx.ring)[(*s->rx.producer)++ & s->rx.mask] =
			(struct xdp_desc){ .addr = at, .len = pairs[2 * i + 1] };
		pairs[2 * i] = (uint32_t)at;
	}
	return (int)count;
}

/* Stores producer and consumer of the rings for fill, receive, transmit, completion. */
EXPORT void tegula_xsk_cursors(int slot, uint32_t out[XSK_CURSORS])
{
	struct socket *s = &sockets[slot];
	const uint32_t *const words[XSK_CURSORS] = {
		[XSK_CURSOR_FILL_PRODUCER] = s->fill.producer,
		[XSK_CURSOR_FILL_CONSUMER] = s->fill.consumer,
		[XSK_CURSOR_RX_PRODUCER] = s->rx.producer,
		[XSK_CURSOR_RX_CONSUMER] = s->rx.consumer,
		[XSK_CURSOR_TX_PRODUCER] = s->tx.producer,
		[XSK_CURSOR_TX_CONSUMER] = s->tx.consumer,
		[XSK_CURSOR_COMPLETION_PRODUCER] = s->completion.producer,
		[XSK_CURSOR_COMPLETION_CONSUMER] = s->completion.consumer,
	};

	for (int i = 0; i < XSK_CURSORS; i++)
		out[i] = __atomic_load_n(words[i], __ATOMIC_ACQUIRE);
}

/*
 * Stores the number of entries in the fill, receive, transmit and completion rings, and then their
 * offsets in this order. `out` also has room for four full rings. Returns the number of offsets, or
 * -EINVAL if corrupt cursors enclose more entries than a ring has.
 */
EXPORT int tegula_xsk_visible(int slot, uint32_t *out)
{
	struct socket *s = &sockets[slot];
	const uint64_t *const addresses[] = { s->fill.ring, NULL, NULL, s->completion.ring };
	const struct xdp_desc *const frames[] = { NULL, s->rx.ring, s->tx.ring, NULL };
	uint32_t cursors[XSK_CURSORS], total = 0;

	tegula_xsk_cursors(slot, cursors);
	for (int i = 0; i < VISIBLE_HEADER_WORDS; i++) {
		out[i] = cursors[2 * i] - cursors[2 * i + 1];
		if (out[i] > s->fill.size)
			return -EINVAL;
		for (uint32_t j = 0; j < out[i]; j++) {
			uint32_t at = (cursors[2 * i + 1] + j) & s->fill.mask;

			out[VISIBLE_HEADER_WORDS + total++] = (uint32_t)(addresses[i] ? addresses[i][at] : frames[i][at].addr);
		}
	}
	return (int)total;
}

EXPORT int tegula_xsk_fd(int slot)
{
	return sockets[slot].fd;
}

/*
 * Takes up to `most` frames from the receive ring. `out` has room for two words, the time, and
 * `most` pairs (offset, length). Returns how many. UMEM offsets have 32 bits here, 64 in the rings.
 */
EXPORT int tegula_xsk_receive(int slot, uint32_t *out, uint32_t most)
{
	struct socket *s = &sockets[slot];
	uint32_t at, count = xsk_ring_cons__peek(&s->rx, most, &at);

	if (count == 0 && s->busy) {
		recvfrom(s->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
		count = xsk_ring_cons__peek(&s->rx, most, &at);
	}
	if (count == 0)
		return 0;
	stamp(out);
	for (uint32_t i = 0; i < count; i++) {
		const struct xdp_desc *frame = xsk_ring_cons__rx_desc(&s->rx, at + i);

		__builtin_prefetch((const char *)s->area + frame->addr); /* it is in another CPU's cache */
		out[RECEIVE_HEADER_WORDS + 2 * i] = (uint32_t)frame->addr;
		out[RECEIVE_HEADER_WORDS + 2 * i + 1] = frame->len;
	}
	xsk_ring_cons__release(&s->rx, count);
	return (int)count;
}

#define MOST_AGE 1000000000u /* an older time is a leftover in memory: the driver leaves no room for times */

/* CLOCK_REALTIME minus CLOCK_MONOTONIC, in nanoseconds modulo 2^64, from the attempt that took the least time. */
static uint64_t clock_offset(void)
{
	uint64_t gap, least = UINT64_MAX, offset = 0;
	struct timespec before, now, after;

	for (int tries = 0; tries < 3 && least > 1000; tries++) {
		clock_gettime(CLOCK_MONOTONIC, &before);
		clock_gettime(CLOCK_REALTIME, &now);
		clock_gettime(CLOCK_MONOTONIC, &after);
		gap = nanoseconds(&after) - nanoseconds(&before);
		if (gap >= least)
			continue;
		least = gap;
		offset = nanoseconds(&now) - nanoseconds(&before) - gap / 2;
	}
	return offset;
}

/* Stores in two words when the XDP program saw each frame of `tegula_xsk_receive`; if unknown, the burst's time. */
EXPORT void tegula_xsk_times(int slot, const uint32_t *frames, uint32_t count, uint32_t *times)
{
	const uint64_t burst = (uint64_t)frames[1] << 32 | frames[0];
	const uint64_t to_real = clock_offset();

	for (uint32_t i = 0; i < count; i++) {
		const char *frame = (const char *)sockets[slot].area + frames[RECEIVE_HEADER_WORDS + 2 * i];
		uint64_t time;

		memcpy(&time, frame - sizeof(time), sizeof(time));
		time += to_real;
		if (burst - time >= MOST_AGE)
			time = burst;
		times[2 * i] = (uint32_t)time;
		times[2 * i + 1] = (uint32_t)(time >> 32);
	}
}

/* Prefetches the cache lines of `words` at the indices `at`. */
EXPORT void tegula_xsk_prefetch(const uint32_t *words, const uint32_t *at, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		__builtin_prefetch(words + at[i]);
}

/* The current time by the clock of `stamp`, in units of 256 ns modulo 2^32. */
EXPORT int32_t tegula_xsk_ticks(void)
{
	uint32_t now[2];

	stamp(now);
	return (int32_t)(now[1] << 24 | now[0] >> 8);
}

/*
 * Makes the kernel send the frames on the ring, as long as each call makes progress. Many kernels
 * (seen with 6.1) move the consumer only after they have sent all known frames, so a ring counts as
 * stuck only after as many calls as that takes.
 */
static void wake_sender(struct socket *s)
{
	uint32_t waiting, all = 0, before = 0;

	for (uint32_t i = 0; i < KICKS; i++, before = waiting) {
		waiting = s->tx.cached_prod - __atomic_load_n(s->tx.consumer, __ATOMIC_ACQUIRE);
		if (i == 0)
			all = waiting;
		if (waiting == 0 || (waiting == before && i * KICK_FRAMES >= all))
			return;
		if (!s->busy && !xsk_ring_prod__needs_wakeup(&s->tx))
			return;
		if (sendto(s->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0 || errno != EAGAIN)
			return;
	}
}

/* Puts up to `count` frames, by offset, on the fill ring. Returns how many fit. */
EXPORT int tegula_xsk_fill(int slot, const uint32_t *frames, uint32_t count)
{
	struct xsk_ring_prod *fill = &sockets[slot].fill;
	uint32_t at = 0, room = xsk_prod_nb_free(fill, count);

	count = xsk_ring_prod__reserve(fill, count < room ? count : room, &at);
	if (count == 0)
		return 0;
	for (uint32_t i = 0; i < count; i++)
		*xsk_ring_prod__fill_addr(fill, at + i) = frames[i];
	xsk_ring_prod__submit(fill, count);
	if (xsk_ring_prod__needs_wakeup(fill)) /* the driver has no frames left, and waits */
		recvfrom(sockets[slot].fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
	return (int)count;
}

/*
 * Puts up to `count` pairs (offset, length) on the transmit ring, and makes the kernel send its
 * frames. Returns how many pairs fit.
 */
EXPORT int tegula_xsk_transmit(int slot, const uint32_t *pairs, uint32_t count)
{
	struct xsk_ring_prod *tx = &sockets[slot].tx;
	uint32_t at = 0, room = xsk_prod_nb_free(tx, count);

	count = xsk_ring_prod__reserve(tx, count < room ? count : room, &at);
	for (uint32_t i = 0; i < count; i++)
		*xsk_ring_prod__tx_desc(tx, at + i) =
			(struct xdp_desc){ .addr = pairs[2 * i], .len = pairs[2 * i + 1] };
	xsk_ring_prod__submit(tx, count);
	wake_sender(&sockets[slot]);
	return (int)count;
}

/*
 * Takes up to `most` sent frames from the completion ring, by their offsets, and puts the first
 * `again` of them on the fill ring. Returns how many there were | how many the fill ring took << 16.
 */
EXPORT int tegula_xsk_complete(int slot, uint32_t *frames, uint32_t most, uint32_t again)
{
	struct xsk_ring_cons *completion = &sockets[slot].completion;
	uint32_t at, count = xsk_ring_cons__peek(completion, most, &at);

	for (uint32_t i = 0; i < count; i++)
		frames[i] = (uint32_t)*xsk_ring_cons__comp_addr(completion, at + i);
	xsk_ring_cons__release(completion, count);
	return (int)count | tegula_xsk_fill(slot, frames, again < count ? again : count) << 16;
}

/*
 * Stores the six totals of XDP_STATISTICS, and the number of frames that the kernel put on the receive
 * ring (modulo 2^32). Kernels before 5.9 leave the last three totals unchanged. Returns 0, or -errno.
 */
EXPORT int tegula_xsk_statistics(int slot, uint64_t out[XSK_STATISTICS])
{
	struct socket *s = &sockets[slot];

	out[XSK_STATISTIC_RECEIVED] = __atomic_load_n(s->rx.producer, __ATOMIC_RELAXED);
	return kernel_statistics(s->fd, out);
}

/* poll(2) without a BigInt for the count. Returns how many are ready; -1 on a signal or an error. */
EXPORT int tegula_xsk_wait(struct pollfd *set, int count, int timeout_ms)
{
	return poll(set, (nfds_t)count, timeout_ms);
}

/*
 * Definitions for linking the static libelf and libbpf into a shared object. Debian compiles the
 * archives for executables (PIE): a thread-local variable of libelf and libbpf's reference to
 * libc's `stderr` cannot be linked here, and libelf.a lacks the search tree that its code names.
 * Definitions of the same names replace those of the archives (stderr by --wrap).
 *
 * They are never used: only our own ELF files are read, nothing is printed, and the tree belongs to
 * elf_getdata_rawchunk, which libbpf does not call (it would not link).
 */
FILE *__wrap_stderr;

void __libelf_seterrno(int value) { (void)value; }
int elf_errno(void) { return 0; }
const char *elf_errmsg(int error) { (void)error; return "libelf failed"; }
void eu_search_tree_init(void *tree) { (void)tree; }
void eu_search_tree_fini(void *tree, void (*release)(void *)) { (void)tree, (void)release; }
