/*
 * AF_XDP as a net tile sees it (xsk.ts): descriptors off and on the four rings of a socket, and the
 * system calls that move the kernel along. Offsets in the UMEM are 32 bits here, 64 in the rings.
 *
 * All functions take the slot of an open socket; only main hands these out, so they are not checked.
 */
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include "xsk.h"

/* In copy mode a kick sends 32 frames at most and says EAGAIN when more wait. */
#define KICKS 16

struct socket sockets[SOCKETS];

EXPORT int tegula_xsk_fd(int slot)
{
	return sockets[slot].fd;
}

/*
 * Takes up to `most` frames off the receive ring. `out` has room for two words, the CLOCK_REALTIME in
 * nanoseconds, low and high, and `most` pairs (offset, length). Returns how many.
 */
EXPORT int tegula_xsk_receive(int slot, uint32_t *out, uint32_t most)
{
	struct xsk_ring_cons *rx = &sockets[slot].rx;
	struct timespec now;
	uint32_t at, count = xsk_ring_cons__peek(rx, most, &at);
	uint64_t time;

	if (count == 0)
		return 0;
	clock_gettime(CLOCK_REALTIME, &now);
	time = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	*out++ = (uint32_t)time;
	*out++ = (uint32_t)(time >> 32);
	for (uint32_t i = 0; i < count; i++) {
		const struct xdp_desc *frame = xsk_ring_cons__rx_desc(rx, at + i);

		*out++ = (uint32_t)frame->addr;
		*out++ = frame->len;
	}
	xsk_ring_cons__release(rx, count);
	return (int)count;
}

/* Tells a driver that has run out of frames, and waits, that there are more. */
static void wake_receiver(int slot)
{
	if (xsk_ring_prod__needs_wakeup(&sockets[slot].fill))
		recvfrom(sockets[slot].fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

/* Frames on the transmit ring that the kernel has not taken. */
static uint32_t waiting(struct xsk_ring_prod *tx)
{
	return tx->cached_prod - __atomic_load_n(tx->consumer, __ATOMIC_ACQUIRE);
}

/* Has the kernel send what waits, as long as each call gets it further. */
static void wake_sender(int slot)
{
	struct xsk_ring_prod *tx = &sockets[slot].tx;
	uint32_t before = waiting(tx);

	for (int i = 0; i < KICKS && before > 0 && xsk_ring_prod__needs_wakeup(tx); i++) {
		uint32_t after;

		if (sendto(sockets[slot].fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0)
			return;
		after = waiting(tx);
		if (errno != EAGAIN || after == before)
			return;
		before = after;
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
	wake_receiver(slot);
	return (int)count;
}

/* Puts up to `count` pairs (offset, length) on the transmit ring. Returns how many it took. */
EXPORT int tegula_xsk_transmit(int slot, const uint32_t *pairs, uint32_t count)
{
	struct xsk_ring_prod *tx = &sockets[slot].tx;
	uint32_t at = 0, room = xsk_prod_nb_free(tx, count);

	count = xsk_ring_prod__reserve(tx, count < room ? count : room, &at);
	for (uint32_t i = 0; i < count; i++)
		*xsk_ring_prod__tx_desc(tx, at + i) =
			(struct xdp_desc){ .addr = pairs[2 * i], .len = pairs[2 * i + 1] };
	if (count > 0)
		xsk_ring_prod__submit(tx, count);
	wake_sender(slot);
	return (int)count;
}

/* Takes up to `most` frames that were sent, by the offset they were sent from. Returns how many. */
EXPORT int tegula_xsk_complete(int slot, uint32_t *frames, uint32_t most)
{
	struct xsk_ring_cons *completion = &sockets[slot].completion;
	uint32_t at, count = xsk_ring_cons__peek(completion, most, &at);

	for (uint32_t i = 0; i < count; i++)
		frames[i] = (uint32_t)*xsk_ring_cons__comp_addr(completion, at + i);
	if (count > 0)
		xsk_ring_cons__release(completion, count);
	return (int)count;
}

/* Makes the kernel look at the transmit and the fill ring, where it has to be told. */
EXPORT void tegula_xsk_kick(int slot)
{
	wake_sender(slot);
	wake_receiver(slot);
}

/* Stores the six totals of XDP_STATISTICS and the program's count of this queue. 0, or -errno. */
EXPORT int tegula_xsk_statistics(int slot, double out[7])
{
	struct xdp_statistics totals = { 0 };
	socklen_t length = sizeof(totals);

	/* Before Linux 5.9 the kernel fills in the first three alone. */
	if (getsockopt(sockets[slot].fd, SOL_XDP, XDP_STATISTICS, &totals, &length) < 0)
		return -errno;
	out[0] = (double)totals.rx_dropped;
	out[1] = (double)totals.rx_invalid_descs;
	out[2] = (double)totals.tx_invalid_descs;
	out[3] = (double)totals.rx_ring_full;
	out[4] = (double)totals.rx_fill_ring_empty_descs;
	out[5] = (double)totals.tx_ring_empty_descs;
	out[6] = sockets[slot].redirected ? (double)*sockets[slot].redirected : 0;
	return 0;
}

/* poll(2); a signal counts as time-out. How many are ready, or -errno. */
EXPORT int tegula_xsk_wait(struct pollfd *set, int count, int timeout_ms)
{
	int ready = poll(set, (nfds_t)count, timeout_ms);

	return ready < 0 && errno == EINTR ? 0 : result(ready);
}
