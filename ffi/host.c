/*
 * What main asks of the host and JavaScript cannot (host.ts). What libc offers in a form that Deno
 * can call as it is, host.ts calls there.
 */
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "native.h"

#define MOST_THREADS 1024

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
 * Reads at most `size` bytes of the file `name` of a thread of this process. It stands here because
 * main, once it has booted, may read no file of /proc. How many bytes, or -errno.
 */
EXPORT int tegula_host_read_thread(int thread, const char *name, char *into, uint32_t size)
{
	char path[64];
	int length, fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/%s", thread, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	length = result(read(fd, into, size));
	close(fd);
	return length;
}

static void *wait_for(void *lock)
{
	pthread_mutex_lock(lock);
	pthread_mutex_unlock(lock);
	return NULL;
}

/*
 * How many of `count` more threads this process can have at once. Found by trying: the user's limit, a
 * control group's and the kernel's are all that is left of them, and none says how much that is.
 */
EXPORT int tegula_host_threads(int count)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_t threads[MOST_THREADS];
	int started = 0;

	pthread_mutex_lock(&lock);
	while (started < count && started < MOST_THREADS &&
	       !pthread_create(&threads[started], NULL, wait_for, &lock))
		started++;
	pthread_mutex_unlock(&lock);
	for (int i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	return started;
}

/*
 * Writes `length` bytes to standard error as far as they are taken without waiting: where nobody reads
 * the log, or its disk is full, main goes on. 0 when all was written, or -errno.
 */
EXPORT int tegula_host_log(const char *text, uint32_t length)
{
	struct pollfd log = { .fd = STDERR_FILENO, .events = POLLOUT };

	while (length > 0) {
		/* A pipe that takes anything takes so much. */
		long count = poll(&log, 1, 0) == 1 && log.revents & POLLOUT ?
				     write(STDERR_FILENO, text, length < PIPE_BUF ? length : PIPE_BUF) :
				     (errno = EAGAIN, -1);

		if (count < 0)
			return -errno;
		text += count;
		length -= (uint32_t)count;
	}
	return 0;
}
