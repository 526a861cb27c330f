/*
 * What all native libraries share. Each is a few functions that a TypeScript binding of the same
 * name calls: they take descriptors, sizes and memory, look into no packet and no message, and return
 * a count, 0, or -errno. Everything not marked EXPORT is hidden, so that a worker which may load one
 * library finds nothing in it besides what its binding names.
 */
#ifndef TEGULA_NATIVE_H
#define TEGULA_NATIVE_H

#include <errno.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* A system call's result as our functions return it. */
static inline int result(long value)
{
	return value < 0 ? -errno : (int)value;
}

#endif
