/*
 * AF_XDP (xsk.ts). Main loads the XDP program, attaches it and opens sockets; net tiles move
 * descriptors on the four rings of a socket and make the kernel go on. libxdp does UMEMs, rings and
 * sockets; it attaches a program only as one of a dispatcher's, where that is asked for, because what
 * it attaches stays when the process dies and a bpf_link does not.
 *
 * Sockets are slots in a table that all threads share: main fills an entry before a tile hears of its
 * slot and lets go of it after the tile has ended; in between its rings belong to that tile alone.
 * Only main hands slots out, so they are not checked.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>
#include <xdp/libxdp.h>
#include <xdp/xsk.h>

#include "native.h"

#define SOCKETS 256
#define PRIORITY 100 /* in a dispatcher, after those that say nothing: they have 50 */
/* In copy mode a kick sends 32 frames at most and says EAGAIN when more wait. */
#define KICKS 16

/* The program, as clang made it. */
__asm__(".section .rodata\n"
	".balign 8\n"
	".globl filter_object, filter_object_end\n"
	".hidden filter_object, filter_object_end\n"
	"filter_object: .incbin \"" FILTER_OBJECT "\"\n"
	"filter_object_end:\n"
	".previous\n");
extern const char filter_object[], filter_object_end[];

static struct socket {
	struct xsk_socket *xsk; /* NULL: the slot is free */
	struct xsk_umem *umem;	/* shared by all sockets on `area` */
	const void *area;
	struct xsk_ring_prod fill, tx;
	struct xsk_ring_cons rx, completion;
	uint64_t received;
	int fd, busy;
} sockets[SOCKETS];

static const char *const MAPS[] = { "filter", "sockets", "redirected" }; /* the order of `load` */

/* The program, not loaded yet. NULL, and errno, when there is no memory. */
static struct bpf_object *open_filter(void)
{
	libbpf_set_print(NULL);
	libxdp_set_print(NULL);
	return bpf_object__open_mem(filter_object, (size_t)(filter_object_end - filter_object), NULL);
}

/*
 * Loads the XDP program for `queues` queues, with maps of its own. Stores the descriptors, which the
 * caller closes, of the program and of its maps filter, sockets and redirected. 0, or -errno.
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
 * Attaches `program` to `ifindex`. The descriptor of the link, by whose closing it is detached, or
 * -errno: EBUSY or EEXIST when another program is there.
 */
EXPORT int tegula_xsk_attach(int program, int ifindex, int native)
{
	LIBBPF_OPTS(bpf_link_create_opts, options,
		    .flags = native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE);

	return bpf_link_create(program, ifindex, BPF_XDP, &options);
}

/*
 * Takes our programs out of the dispatcher of `ifindex`, which goes with the last; what else it runs
 * stays. Returns how the dispatcher was attached, as xdp_attach_mode, 0 when there is none, or -errno.
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
 * Has libxdp's dispatcher run the program on `ifindex`, attached as `mode`, with the maps that
 * tegula_xsk_load stored in `fds`; it stays until tegula_xsk_leave. 0, or -errno.
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
		/* Where there can be no dispatcher libxdp attaches it alone: such a one it cannot. */
		bpf_program__set_expected_attach_type(bpf_object__next_program(object, NULL),
						      BPF_XDP_DEVMAP);
		error = xdp_program__attach(program, ifindex, (enum xdp_attach_mode)mode, 0);
	}
	xdp_program__close(program);
	bpf_object__close(object);
	return error;
}

/*
 * Which XDP program is attached to `ifindex`, in whatever mode and by whomever: its id, 0 when there
 * is none, and its name, "" when that may not be read.
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
 * Opens a socket on `queue` of `ifname`, with four rings of `ring` entries. Its UMEM is the `bytes`
 * bytes from `area`, page-aligned, in frames of `frame` bytes with `headroom`; sockets on the same
 * memory share one, and are bound as the first was. The memory must stay as long as the sockets do.
 * Socket slot, or -errno: ENODEV when `ifname` is not `ifindex`, EBUSY when the queue has a socket,
 * ENOBUFS when that much may not be locked.
 */
EXPORT int tegula_xsk_open(void *area, uint32_t bytes, uint32_t frame, uint32_t headroom,
			   const char *ifname, uint32_t ifindex, int queue, int zero_copy, uint32_t ring)
{
	/* Zero-copy asked for is zero-copy or an error: the kernel falls back only for who asks neither. */
	const struct xsk_socket_config config = {
		.rx_size = ring, .tx_size = ring,
		.libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
		.bind_flags = (uint16_t)((zero_copy ? XDP_ZEROCOPY : XDP_COPY) | XDP_USE_NEED_WAKEUP),
	};
	const struct xsk_umem_config umem = {
		.fill_size = ring, .comp_size = ring, .frame_size = frame, .frame_headroom = headroom,
	};
	struct xsk_umem *shared = NULL;
	int error = 0, slot = -1;
	struct socket *s;

	for (int i = SOCKETS - 1; i >= 0; i--) {
		if (!sockets[i].xsk)
			slot = i;
		else if (sockets[i].area == area)
			shared = sockets[i].umem;
	}
	if (slot < 0 || if_nametoindex(ifname) != ifindex)
		return slot < 0 ? -EMFILE : -ENODEV;
	s = &sockets[slot];
	*s = (struct socket){ .umem = shared, .area = area };
	if (!shared)
		error = xsk_umem__create(&s->umem, area, bytes, &s->fill, &s->completion, &umem);
	if (error)
		return error;
	error = xsk_socket__create_shared(&s->xsk, ifname, (uint32_t)queue, s->umem, &s->rx, &s->tx,
					  &s->fill, &s->completion, &config);
	if (error) {
		s->xsk = NULL;
		xsk_umem__delete(s->umem); /* refuses while others use it */
		return error;
	}
	s->fd = xsk_socket__fd(s->xsk);
	return slot;
}

/* From now on the program of the map `map` hands frames of the socket's queue to it. 0, or -errno. */
EXPORT int tegula_xsk_register(int map, int slot)
{
	return xsk_socket__update_xskmap(sockets[slot].xsk, map);
}

/*
 * Busy polling: from now on it is the net tile's own calls that have the driver look at its rings, for
 * up to `micros` and `budget` frames a time, and while they keep on it may leave interrupts off. 0, or
 * -errno: ENOPROTOOPT before Linux 5.11, EPERM without CAP_NET_ADMIN.
 */
EXPORT int tegula_xsk_poll_busily(int slot, int micros, int budget)
{
	struct socket *s = &sockets[slot];
	const int one = 1;

	s->busy = !setsockopt(s->fd, SOL_SOCKET, SO_PREFER_BUSY_POLL, &one, sizeof(one)) &&
		  !setsockopt(s->fd, SOL_SOCKET, SO_BUSY_POLL, &micros, sizeof(micros)) &&
		  !setsockopt(s->fd, SOL_SOCKET, SO_BUSY_POLL_BUDGET, &budget, sizeof(budget));
	return s->busy ? 0 : -errno;
}

/*
 * Closes a socket and frees its slot. The queue is free then, but for that of a UMEM's first socket,
 * which is when the last has been closed.
 */
EXPORT void tegula_xsk_close(int slot)
{
	xsk_socket__delete(sockets[slot].xsk);
	xsk_umem__delete(sockets[slot].umem); /* refuses while others use it */
	sockets[slot].xsk = NULL;
}

EXPORT int tegula_xsk_fd(int slot)
{
	return sockets[slot].fd;
}

/*
 * Takes up to `most` frames off the receive ring. `out` has room for two words, the time, and `most`
 * pairs (offset, length). Returns how many. Offsets in the UMEM are 32 bits here, 64 in the rings.
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

		__builtin_prefetch((const char *)s->area + frame->addr); /* another CPU has it */
		out[2 + 2 * i] = (uint32_t)frame->addr;
		out[3 + 2 * i] = frame->len;
	}
	xsk_ring_cons__release(&s->rx, count);
	__atomic_store_n(&s->received, s->received + count, __ATOMIC_RELAXED); /* main reads it */
	return (int)count;
}

/* Has the cache lines of `words` that `at` lists, by word, on their way before they are read. */
EXPORT void tegula_xsk_prefetch(const uint32_t *words, const uint32_t *at, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		__builtin_prefetch(words + at[i]);
}

/* Has the kernel send what it has not taken off the ring, as long as each call gets it further. */
static void wake_sender(struct socket *s)
{
	uint32_t waiting, before = 0;

	for (int i = 0; i < KICKS; i++, before = waiting) {
		waiting = s->tx.cached_prod - __atomic_load_n(s->tx.consumer, __ATOMIC_ACQUIRE);
		if (waiting == 0 || waiting == before)
			return;
		if (!s->busy && !xsk_ring_prod__needs_wakeup(&s->tx))
			return;
		if (sendto(s->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0 || errno != EAGAIN)
			return;
	}
}

/* Puts up to `count` frames, by offset, on the fill ring. Returns how many it took. */
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
	if (xsk_ring_prod__needs_wakeup(fill)) /* the driver had run out, and waits */
		recvfrom(sockets[slot].fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
	return (int)count;
}

/*
 * Puts up to `count` pairs (offset, length) on the transmit ring, and has the kernel send what is on
 * it. Returns how many it took.
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
 * Takes up to `most` frames that were sent, by the offset they were sent from, and puts the first
 * `again` of them on the fill ring. How many there were | how many that took << 16.
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
 * Stores the six totals of XDP_STATISTICS, of which kernels before 5.9 leave the last three as they
 * are, and then how many frames were received. 0, or -errno.
 */
EXPORT int tegula_xsk_statistics(int slot, uint64_t out[7])
{
	socklen_t length = sizeof(struct xdp_statistics);

	out[6] = __atomic_load_n(&sockets[slot].received, __ATOMIC_RELAXED);
	return result(getsockopt(sockets[slot].fd, SOL_XDP, XDP_STATISTICS, out, &length));
}

/* poll(2), for those who may not allocate its count. How many are ready; -1 on a signal or an error. */
EXPORT int tegula_xsk_wait(struct pollfd *set, int count, int timeout_ms)
{
	return poll(set, (nfds_t)count, timeout_ms);
}
