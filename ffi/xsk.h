/*
 * The tables that both halves of the AF_XDP library share: xsk_setup.c, which main calls, fills them;
 * xsk.c, which net tiles call, uses them. An entry is written by main before a tile hears of its slot,
 * and let go after the tile has ended; in between its rings belong to that tile alone.
 */
#ifndef TEGULA_XSK_H
#define TEGULA_XSK_H

#include <xdp/xsk.h>
#include <linux/if_xdp.h>

#include "native.h"

#ifndef SOL_XDP
#define SOL_XDP 283
#endif

#define SOCKETS 256

struct socket {
	struct xsk_socket *xsk; /* NULL: the slot is free */
	struct xsk_ring_prod fill, tx;
	struct xsk_ring_cons rx, completion;
	const volatile uint64_t *redirected; /* the program's counter for this queue, or NULL */
	int fd, umem;
	uint32_t queue;
};

extern struct socket sockets[SOCKETS];

#endif
