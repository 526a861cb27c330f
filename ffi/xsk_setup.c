/*
 * AF_XDP as main sees it (xsk.ts): loads the XDP program with maps of its own, attaches it by
 * bpf_link, registers UMEMs, opens sockets. libxdp does UMEMs, rings and sockets; it never loads or
 * attaches a program here, because what it attaches stays when the process dies and a bpf_link does not.
 *
 * Programs, UMEMs and sockets are slots in tables; only main calls this, one call at a time.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xdp/libxdp.h>

#include "xsk.h"

#define PROGRAMS 64
#define UMEMS 64
#define SEED_AT 8 /* struct filter in xdp_filter.bpf.c */

/* The program, as clang made it. */
__asm__(".section .rodata\n"
	".balign 8\n"
	".globl filter_object, filter_object_end\n"
	".hidden filter_object, filter_object_end\n"
	"filter_object: .incbin \"" FILTER_OBJECT "\"\n"
	"filter_object_end:\n"
	".previous\n");
extern const char filter_object[], filter_object_end[];

static struct program {
	struct bpf_object *object; /* NULL: the slot is free */
	uint64_t *redirected;	   /* a counter per queue, shared with the program */
	uint32_t queues;
	int fd, filter, sockets, link, ifindex;
} programs[PROGRAMS];

static struct umem {
	struct xsk_umem *umem; /* NULL: the slot is free */
	void *area;
	uint32_t bytes;
	struct xsk_umem_config config;
	struct xsk_ring_prod fill; /* of the first socket, until that is open */
	struct xsk_ring_cons completion;
	int users, zero_copy;
} umems[UMEMS];

/* Gives the filter's hash a seed of its own. 0, or -errno. */
static int seed_filter(int filter)
{
	long page = sysconf(_SC_PAGESIZE);
	void *at = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_SHARED, filter, 0);

	if (at == MAP_FAILED)
		return -errno;
	if (getrandom((char *)at + SEED_AT, sizeof(uint32_t), 0) < 0)
		memset((char *)at + SEED_AT, 0, sizeof(uint32_t));
	munmap(at, (size_t)page);
	return 0;
}

/* Opens and loads `p->object` and looks up what is in it. 0, or -errno; the caller closes it. */
static int load_object(struct program *p)
{
	struct bpf_map *redirected = bpf_object__find_map_by_name(p->object, "redirected");
	struct bpf_map *map = bpf_object__find_map_by_name(p->object, "sockets");
	int error;

	bpf_map__set_max_entries(redirected, p->queues);
	bpf_map__set_max_entries(map, p->queues);
	error = bpf_object__load(p->object);
	if (error)
		return error;
	p->fd = bpf_program__fd(bpf_object__find_program_by_name(p->object, "tegula"));
	p->filter = bpf_object__find_map_fd_by_name(p->object, "filter");
	p->sockets = bpf_map__fd(map);
	p->redirected = mmap(NULL, p->queues * sizeof(uint64_t), PROT_READ, MAP_SHARED,
			     bpf_map__fd(redirected), 0);
	if (p->redirected == MAP_FAILED)
		return -errno;
	return seed_filter(p->filter);
}

/* Loads the XDP program for `queues` queues of `ifindex`. Program slot, or -errno. */
EXPORT int tegula_xsk_load(int ifindex, int queues)
{
	struct program fresh = { .link = -1, .ifindex = ifindex, .queues = (uint32_t)queues };
	int error, slot = 0;

	while (slot < PROGRAMS && programs[slot].object)
		slot++;
	if (slot == PROGRAMS || queues < 1)
		return slot == PROGRAMS ? -EMFILE : -EINVAL;
	libbpf_set_print(NULL);
	libxdp_set_print(NULL);
	fresh.object = bpf_object__open_mem(filter_object,
					    (size_t)(filter_object_end - filter_object), NULL);
	if (!fresh.object)
		return -errno;
	error = load_object(&fresh);
	if (error) {
		bpf_object__close(fresh.object);
		return error;
	}
	programs[slot] = fresh;
	return slot;
}

EXPORT int tegula_xsk_filter_fd(int program)
{
	return programs[program].filter;
}

/* Attaches a loaded program to its interface. 0, or -errno: EBUSY when another program is there. */
EXPORT int tegula_xsk_attach(int program, int native)
{
	LIBBPF_OPTS(bpf_link_create_opts, options,
		    .flags = native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE);
	struct program *p = &programs[program];

	p->link = bpf_link_create(p->fd, p->ifindex, BPF_XDP, &options);
	if (p->link < 0)
		return errno == EEXIST ? -EBUSY : -errno;
	return 0;
}

/*
 * Which XDP program is attached to `ifindex`, in whatever mode and by whomever: its id, 0 when there
 * is none, and its name, "" when that may not be read.
 */
EXPORT uint32_t tegula_xsk_attached(int ifindex, char name[16])
{
	LIBBPF_OPTS(bpf_xdp_query_opts, query);
	struct bpf_prog_info info = { 0 };
	uint32_t id, length = sizeof(info);
	int fd;

	if (bpf_xdp_query(ifindex, 0, &query) < 0)
		return 0;
	id = query.prog_id ? query.prog_id : query.drv_prog_id ? query.drv_prog_id : query.skb_prog_id;
	fd = id ? bpf_prog_get_fd_by_id(id) : -1;
	if (fd >= 0) {
		bpf_prog_get_info_by_fd(fd, &info, &length);
		close(fd);
	}
	memcpy(name, info.name, sizeof(info.name));
	return id;
}

/* Takes the program off its interface, if it is there. */
EXPORT int tegula_xsk_detach(int program)
{
	struct program *p = &programs[program];

	if (p->link >= 0)
		close(p->link);
	p->link = -1;
	return 0;
}

/* Detaches, and frees the slot. The sockets that were registered must be closed before. */
EXPORT int tegula_xsk_unload(int program)
{
	struct program *p = &programs[program];

	tegula_xsk_detach(program);
	munmap(p->redirected, p->queues * sizeof(uint64_t));
	bpf_object__close(p->object);
	p->object = NULL;
	return 0;
}

/* Hands the memory to the kernel. 0, or -errno, with `u->umem` NULL then. */
static int register_umem(struct umem *u)
{
	int error = xsk_umem__create(&u->umem, u->area, u->bytes, &u->fill, &u->completion,
				     &u->config);

	if (error)
		u->umem = NULL;
	return error;
}

/*
 * Makes a UMEM that has no socket as good as new. The descriptor of its first socket is the UMEM's
 * own: after a bind, done or failed, only a new one can be bound again.
 */
static void renew_umem(struct umem *u)
{
	if (xsk_umem__delete(u->umem) == 0)
		register_umem(u);
}

/*
 * Registers `bytes` bytes from `area`, page-aligned, as a UMEM, with ring sizes that all its sockets
 * get. The memory must stay as long as the UMEM does. UMEM slot, or -errno (ENOBUFS: more than may be
 * locked).
 */
EXPORT int tegula_xsk_create_umem(void *area, uint32_t bytes, uint32_t frame_bytes,
				  uint32_t headroom, uint32_t fill, uint32_t completion)
{
	int error, slot = 0;

	while (slot < UMEMS && umems[slot].umem)
		slot++;
	if (slot == UMEMS)
		return -EMFILE;
	umems[slot] = (struct umem){
		.area = area, .bytes = bytes,
		.config = { .fill_size = fill, .comp_size = completion,
			    .frame_size = frame_bytes, .frame_headroom = headroom },
	};
	error = register_umem(&umems[slot]);
	return error ? error : slot;
}

/* Frees a UMEM. 0, or -EBUSY while it has sockets. */
EXPORT int tegula_xsk_delete_umem(int umem)
{
	int error = umems[umem].umem ? xsk_umem__delete(umems[umem].umem) : 0;

	if (!error)
		umems[umem].umem = NULL;
	return error;
}

/*
 * Room for a full transmit ring: in copy mode each frame is an skb that counts against the socket's
 * send buffer until it is gone, and the default holds fewer than a ring has.
 */
static void size_send_buffer(int fd, uint32_t tx)
{
	int bytes = (int)(tx * 4096);

	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

/*
 * Opens a socket on `queue` of `ifname`, with fill and completion rings of its own on the UMEM. Later
 * sockets of a UMEM are bound as the first was; asking for another mode is -EINVAL. Socket slot, or
 * -errno: ENODEV when `ifname` is not `ifindex`, EBUSY when the queue has a socket.
 */
EXPORT int tegula_xsk_open(int umem, const char *ifname, uint32_t ifindex, int queue, int zero_copy,
			   uint32_t rx, uint32_t tx)
{
	const struct xsk_socket_config config = {
		.rx_size = rx, .tx_size = tx,
		.libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
		.bind_flags = (uint16_t)((zero_copy ? XDP_ZEROCOPY : XDP_COPY) | XDP_USE_NEED_WAKEUP),
	};
	struct umem *u = &umems[umem];
	int error, slot = 0;
	struct socket *s;

	while (slot < SOCKETS && sockets[slot].xsk)
		slot++;
	if (slot == SOCKETS || if_nametoindex(ifname) != ifindex)
		return slot == SOCKETS ? -EMFILE : -ENODEV;
	if (!u->umem || (u->users > 0 && u->zero_copy != zero_copy))
		return -EINVAL;
	s = &sockets[slot];
	*s = (struct socket){ .umem = umem, .queue = (uint32_t)queue };
	error = xsk_socket__create_shared(&s->xsk, ifname, s->queue, u->umem, &s->rx, &s->tx, &s->fill,
					  &s->completion, &config);
	if (error) {
		s->xsk = NULL;
		if (u->users == 0)
			renew_umem(u);
		return error;
	}
	s->fd = xsk_socket__fd(s->xsk);
	size_send_buffer(s->fd, tx);
	u->users++;
	u->zero_copy = zero_copy;
	return slot;
}

/* From now on the program hands frames of the socket's queue to it. 0, or -errno. */
EXPORT int tegula_xsk_register(int program, int slot)
{
	struct program *p = &programs[program];
	struct socket *s = &sockets[slot];

	if (bpf_map_update_elem(p->sockets, &s->queue, &s->fd, BPF_ANY) < 0)
		return -errno;
	s->redirected = &p->redirected[s->queue];
	return 0;
}

/* What the kernel says the socket's mode is: 1 zero-copy, 0 not. */
EXPORT int tegula_xsk_is_zero_copy(int slot)
{
	struct xdp_options options = { 0 };
	socklen_t length = sizeof(options);

	if (getsockopt(sockets[slot].fd, SOL_XDP, XDP_OPTIONS, &options, &length) < 0)
		return 0;
	return (options.flags & XDP_OPTIONS_ZEROCOPY) != 0;
}

/*
 * Closes a socket and frees its slot. The queue is free then, but for that of a UMEM's first socket,
 * which is when the last has been closed.
 */
EXPORT int tegula_xsk_close(int slot)
{
	struct umem *u = &umems[sockets[slot].umem];

	xsk_socket__delete(sockets[slot].xsk);
	sockets[slot].xsk = NULL;
	if (--u->users == 0)
		renew_umem(u);
	return 0;
}
