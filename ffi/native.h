/* SPDX-License-Identifier: Apache-2.0
 * Shared by the C files, which make one library. A TypeScript binding of the same name calls the
 * functions of each file. They take descriptors, sizes and memory, do not parse packets or
 * messages, and return a count, 0, or -errno. Functions without EXPORT are hidden, so that a worker
 * that may load the library finds only those that the bindings name.
 */
#ifndef TEGULA_NATIVE_H
#define TEGULA_NATIVE_H

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "shared.h"

#define EXPORT __attribute__((visibility("default")))
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Converts a system call's result to -errno on failure. */
static inline int result(long value)
{
	return value < 0 ? -errno : (int)value;
}

/* Returns `fd`, or closes it and returns the error. */
static inline int opened(int fd, int error)
{
	if (!error)
		return fd;
	close(fd);
	return error;
}

/*
 * Writes to standard error without blocking, so that an unread log or a full disk stops nothing.
 * Returns 0 if all was written, or -errno.
 */
static inline int write_log(const char *text, size_t length)
{
	struct pollfd log = { .fd = STDERR_FILENO, .events = POLLOUT };

	while (length > 0) {
		/* A writable pipe takes this much. */
		long count = poll(&log, 1, 0) == 1 && log.revents & POLLOUT ?
				     write(STDERR_FILENO, text, length < PIPE_BUF ? length : PIPE_BUF) :
				     (errno = EAGAIN, -1);

		if (count < 0)
			return -errno;
		text += count;
		length -= (size_t)count;
	}
	return 0;
}

static inline uint64_t nanoseconds(const struct timespec *time)
{
	return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_nsec;
}

/* Stores CLOCK_REALTIME in nanoseconds: low word, high word. */
static inline void stamp(uint32_t out[2])
{
	struct timespec now;
	uint64_t time;

	clock_gettime(CLOCK_REALTIME, &now);
	time = nanoseconds(&now);
	out[0] = (uint32_t)time;
	out[1] = (uint32_t)(time >> 32);
}

/*
 * Makes `count` lists for execve(2) from the `size` bytes of `strings`, in which an empty string ends each
 * list. Returns the memory of the lists, for free(3), or NULL if memory runs out or lists are missing.
 */
static inline char **make_lists(char *strings, uint32_t size, char ***lists, size_t count)
{
	/* A string takes at least two bytes. */
	char **all = calloc((size_t)size / 2 + 2 * count, sizeof(*all)), **next = all;
	const char *end = strings + size;

	for (size_t i = 0; i < count && all; i++) {
		lists[i] = next;
		while (strings < end && *strings) {
			*next++ = strings;
			strings += strlen(strings) + 1;
		}
		next++; /* NULL */
		if (strings++ >= end) {
			free(all);
			return NULL;
		}
	}
	return all;
}

#endif
