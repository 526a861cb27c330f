/*
 * The host's clock, for an app that was granted it (clock.ts): read, never set. That takes
 * CAP_SYS_TIME, which no tile has.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#include "native.h"

/* CLOCK_REALTIME in nanoseconds: low word, high word. 0, or -errno. */
EXPORT int tegula_clock_now(uint32_t *out)
{
	struct timespec now;
	int error = result(clock_gettime(CLOCK_REALTIME, &now));
	uint64_t nanoseconds = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;

	out[0] = (uint32_t)nanoseconds;
	out[1] = (uint32_t)(nanoseconds >> 32);
	return error;
}

/*
 * The clock's state as adjtimex(2) returns it (TIME_OK, TIME_INS, …, TIME_ERROR), or -errno; the
 * maximum error in microseconds goes to `out`.
 */
EXPORT int tegula_clock_status(uint32_t *out)
{
	struct timex state = { .modes = 0 };
	int error = result(syscall(SYS_adjtimex, &state));

	out[0] = state.maxerror > UINT32_MAX ? UINT32_MAX : (uint32_t)state.maxerror;
	return error;
}
