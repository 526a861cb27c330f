/*
 * What main asks of the host and JavaScript cannot (host.ts). What libc offers in a form that Deno
 * can call as it is, host.ts calls there.
 */
#define _GNU_SOURCE
#include <net/if.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "native.h"

/* Arguments that `tegula_host_exec` takes. */
#define MOST_WORDS 512

/* An eventfd; non-blocking, so that neither who wakes nor who empties it can be held up. */
EXPORT int tegula_host_eventfd(void)
{
	return result(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

/*
 * One SIOC* request of netdevice(7). `about` is its struct ifreq, whose ifr_data is made to point at
 * `data` unless that is NULL; the answer is in either. 0, or -errno.
 */
EXPORT int tegula_host_ask(uint32_t request, struct ifreq *about, void *data)
{
	int error, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (data)
		about->ifr_data = data;
	error = result(ioctl(fd, request, about));
	close(fd);
	return error;
}

/*
 * execve(2) with the environment as it is. `words` holds `count` strings, one after the other, each
 * terminated; the first is the program's path and all are its arguments. Returns only with -errno.
 */
EXPORT int tegula_host_exec(char *words, uint32_t count)
{
	char *argv[MOST_WORDS + 1] = { 0 };

	if (count == 0 || count > MOST_WORDS)
		return -E2BIG;
	for (uint32_t i = 0; i < count; i++) {
		argv[i] = words;
		words += strlen(words) + 1;
	}
	return result(execv(argv[0], argv));
}
