/* SPDX-License-Identifier: Apache-2.0
 * Calls that main needs and JavaScript cannot make (host.ts). host.ts calls libc directly where Deno can.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <net/if.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/un.h>

#include "native.h"
#include "policy.h"

#define MOST_THREADS 1024
#define BACKLOG 128
#define LISTENER (SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)

/*
 * Makes a SIOC* request of netdevice(7) with the struct ifreq `about`. The kernel answers in
 * `data`, to which ifr_data then points, or in `about` if `data` is NULL. Returns 0, or -errno.
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
 * Reads at most `size` bytes of the file `name` of a thread of this process. JavaScript cannot do
 * this: after booting, main may not read /proc. Returns the number of bytes, or -errno.
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
 * Tries to start `count` threads at once and returns how many the process could start. Limits of the
 * user, of control groups and of the kernel apply, and none of them reports how many threads are left.
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

/* Returns 1 if no process serves the socket at `address`, 0 if one does, or -errno; ENOTSOCK if it is not a socket. */
static int is_abandoned(const struct sockaddr_un *address)
{
	struct stat status;
	int error, fd;

	if (lstat(address->sun_path, &status) < 0)
		return -errno;
	if (!S_ISSOCK(status.st_mode))
		return -ENOTSOCK;
	fd = socket(AF_UNIX, LISTENER, 0);
	if (fd < 0)
		return -errno;
	error = result(connect(fd, (const struct sockaddr *)address, sizeof(*address)));
	close(fd);
	return error == -ECONNREFUSED;
}

/*
 * Opens a non-blocking Unix socket that listens at `path`. `mode` is the mode of its file: users
 * who can write it may connect. Replaces a socket that no process serves. Returns the descriptor,
 * or -errno: EADDRINUSE if a process serves the socket, ENOTSOCK if `path` is not a socket.
 */
EXPORT int tegula_host_listen_unix(const char *path, int mode)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int error, fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, LISTENER, 0);
	if (fd < 0)
		return -errno;
	/* bind creates the file with this mode less the umask; chmod below sets the rest. */
	error = result(fchmod(fd, (mode_t)mode));
	if (!error)
		error = result(bind(fd, (const struct sockaddr *)&address, sizeof(address)));
	if (error == -EADDRINUSE) {
		int abandoned = is_abandoned(&address);

		error = abandoned < 0 ? abandoned : !abandoned ? -EADDRINUSE : result(unlink(path));
		if (!error)
			error = result(bind(fd, (const struct sockaddr *)&address, sizeof(address)));
	}
	if (!error)
		error = result(listen(fd, BACKLOG));
	if (!error)
		error = result(chmod(path, (mode_t)mode));
	return opened(fd, error);
}

/* Opens a non-blocking TCP socket that listens at a numeric IPv4 or IPv6 address. Returns the descriptor, or -errno. */
EXPORT int tegula_host_listen_tcp(const char *address, int port)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} self = { 0 };
	int error, fd, one = 1;

	if (inet_pton(AF_INET, address, &self.v4.sin_addr) == 1)
		self.any.sa_family = AF_INET;
	else if (inet_pton(AF_INET6, address, &self.v6.sin6_addr) == 1)
		self.any.sa_family = AF_INET6;
	else
		return -EINVAL;
	self.v4.sin_port = htons((uint16_t)port); /* at the same offset as sin6_port */
	fd = socket(self.any.sa_family, LISTENER, 0);
	if (fd < 0)
		return -errno;
	/* Closing connections of a predecessor do not block the port. */
	error = result(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	if (!error)
		error = result(bind(fd, &self.any, sizeof(self)));
	if (!error)
		error = result(listen(fd, BACKLOG));
	return opened(fd, error);
}

/*
 * Restricts this thread, and programs that it executes, to write only in the folders `write`, and to the TCP
 * operations `tcp`. Reading and executing stay allowed. Returns 0, also without landlock, or -errno.
 */
static int restrict_writing(char **write, uint32_t tcp)
{
	const uint64_t reading = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE;
	const uint64_t devices = LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK;
	uint64_t files = ~reading;
	long version;
	int error, fd = make_ruleset(ALL_TCP & ~(uint64_t)tcp, 0, &files, &version);

	if (fd < 0)
		return fd == -ENOSYS || fd == -EOPNOTSUPP ? 0 : fd;
	error = allow_path(fd, LANDLOCK_ACCESS_FS_WRITE_FILE, "/dev/null");
	/*
	 * A child without privileges writes the map of its user namespace below /proc, where an
	 * ordinary user can write only its own files.
	 */
	if (!error && geteuid() != 0)
		error = allow_path(fd, LANDLOCK_ACCESS_FS_WRITE_FILE, "/proc");
	if (!error)
		error = allow_paths(fd, files & ~devices, write);
	if (!error)
		error = result(syscall(SYS_landlock_restrict_self, fd, 0));
	close(fd);
	return error;
}

/*
 * Executes another program in this process. `strings` are three lists: the program's path and
 * arguments, the environment, and, if it is to be confined, the folders that it may write in. Only
 * the main thread may call this: if another thread calls execve, the children of the main thread
 * die. Returns only on error, with -errno. The thread may be confined by then.
 */
EXPORT int tegula_host_exec(char *strings, uint32_t size, const struct confinement *confinement)
{
	char **list[3], **lists;
	sigset_t debugger, before;
	int error;

	if (gettid() != getpid())
		return -EPERM;
	lists = make_lists(strings, size, list, COUNT(list));
	if (!lists)
		return -ENOMEM;
	/* SIGUSR1 opens Deno's debugger. All threads of the new program inherit this mask. */
	sigemptyset(&debugger);
	sigaddset(&debugger, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &debugger, &before);
	error = result(access(list[0][0], X_OK));
	if (!error && confinement) {
		const uint64_t most = confinement->capabilities_low | (uint64_t)confinement->capabilities_high << 32;

		bound_capabilities(most);
		/* After exec, root has its bounding set; others have the ambient set. */
		error = keep_capabilities(most, geteuid() != 0);
		if (!error)
			error = result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		if (!error)
			error = restrict_writing(list[2], confinement->tcp);
	}
	if (!error)
		error = result(execve(list[0][0], list[0], list[1]));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	free(lists);
	return error;
}

/*
 * Opens a folder and locks it (flock(2)) until all copies of the descriptor are closed. The folder
 * must belong to this user, be writable only by it, and not be a symbolic link. Returns the
 * descriptor, or -errno: -EWOULDBLOCK if it is locked.
 */
EXPORT int tegula_host_lock_folder(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), error;
	struct stat folder;

	if (fd < 0)
		return -errno;
	error = result(fstat(fd, &folder));
	if (!error && (folder.st_uid != geteuid() || folder.st_mode & (S_IWGRP | S_IWOTH)))
		error = -EPERM;
	if (!error)
		error = result(flock(fd, LOCK_EX | LOCK_NB));
	return opened(fd, error);
}

EXPORT int tegula_host_log(const char *text, uint32_t length)
{
	return write_log(text, length);
}
