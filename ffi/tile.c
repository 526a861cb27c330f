/* SPDX-License-Identifier: Apache-2.0
 * Functions for every tile (tile.ts): wake another tile, and confine itself.
 *
 * Confinement is per thread: capabilities, no_new_privs, landlock and seccomp take effect only for
 * the calling thread, which is the tile's, so that main keeps its privileges. Threads that the tile
 * starts later inherit them. This is one layer of several, and does not protect memory, which all
 * tiles share.
 *
 * Unexpected refusals are counted. The filter passes a system call that it neither allows nor expects to
 * the observer, a thread of this file (seccomp_unotify(2)), which counts the call for the tile and
 * answers EPERM. The observer also writes the standard error of confined threads to the log under the
 * tile's name, so that final messages of V8 and Rust are not lost. It does both also for apps' processes
 * (process.c), whose filters are installed before exec, and whose output comes through a pipe.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/sched/types.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "native.h"
#include "policy.h"

#define SHORTEST_SLICE_NS 100000 /* the kernel's minimum (__setparam_fair) */
#define EVENTFDS 512

/* Adds one to the eventfd, so that a poll on it returns. It is non-blocking: a full counter does not matter. */
EXPORT void tegula_tile_wake(int fd)
{
	eventfd_write(fd, 1);
}

/*
 * Returns the calling thread's number in /proc, by which other processes can find it; gettid() is
 * valid only in its PID namespace. Returns 0 without /proc.
 */
EXPORT int tegula_tile_thread(void)
{
	char link[64] = { 0 }, *task;

	if (readlink("/proc/thread-self", link, sizeof(link) - 1) < 0)
		return 0;
	task = strrchr(link, '/');
	return task ? atoi(task + 1) : 0;
}

/*
 * Sets the calling thread's time slices to the shortest, or to the default. Short slices give it no
 * more processor time, but it runs as soon as it wakes. Otherwise it may wait milliseconds for a
 * thread that never pauses. Has no effect before Linux 6.12. Returns 0, or -errno.
 */
EXPORT int tegula_tile_be_prompt(int prompt)
{
	struct sched_attr attr = { 0 };

	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) < 0)
		return -errno;
	attr.sched_runtime = prompt ? SHORTEST_SLICE_NS : 0;
	return result(syscall(SYS_sched_setattr, 0, &attr, 0));
}

/*
 * Lists the eventfds of the process: those of the tiles, and those of Deno's event loops. A tile
 * may read and write only these: not stdout, files or pipes. Returns how many, at most `most`, or
 * -errno.
 */
static int list_eventfds(int32_t *fds, int most)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	int count = 0;

	if (!directory)
		return -errno;
	while ((entry = readdir(directory)) && count < most) {
		char target[32] = { 0 };

		if (readlinkat(dirfd(directory), entry->d_name, target, sizeof(target) - 1) > 0 &&
		    strcmp(target, "anon_inode:[eventfd]") == 0)
			fds[count++] = atoi(entry->d_name);
	}
	closedir(directory);
	return count;
}

/*
 * Denies access to all files with a landlock ruleset that handles all accesses and allows none.
 * Returns 1, 0 if the kernel has no landlock, or -errno.
 */
static int forbid_files(void)
{
	uint64_t files = ~0ULL;
	long version;
	int error, fd = make_ruleset(ALL_TCP, 0, &files, &version);

	if (fd < 0)
		return fd == -ENOSYS || fd == -EOPNOTSUPP ? 0 : fd;
	error = result(syscall(SYS_landlock_restrict_self, fd, 0));
	close(fd);
	return error < 0 ? error : 1;
}

/*
 * The observer: a thread of the process that serves the listeners of all tiles' filters. Each tile
 * has a slot with its name and its counters, one for each system call number, in memory that only
 * the observer writes. It runs no JavaScript, blocks all signals, and ends with the process.
 */
#define SLOTS 256
#define NAME_BYTES 64
#define LINES_A_SECOND 50
#define VERBATIM_LINES_A_SECOND 1000
#define LINE_BYTES 960 /* with escapes less than PIPE_BUF, so that writes are atomic */
#define VERBATIM_LINE_BYTES 8192 /* the longest line of a tile's console, with its name */
#define PIECE 4096
#define FLOOD_PAUSE_MS 100

struct slot {
	_Atomic int arrived; /* 4 × descriptor + kind + 1 until the observer takes it; else 0 */
	struct {
		char name[NAME_BYTES];
		int verbatim; /* its lines already contain its name */
	} next, now; /* of the arriving descriptor, and of the observed one */
	char line[VERBATIM_LINE_BYTES]; /* the beginning of an incomplete line */
	size_t length;
	time_t second; /* the second in which `lines` were written */
	int lines;
};

static struct slot slots[SLOTS];
static uint32_t *counters;
static int slot_count, knock = -1;
static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* held by the observer except while it waits */
static const char *certificates; /* the certificate file that the environment names, or NULL */

/*
 * Kinds of observed descriptors: the listener of a thread of this process; the listener of another
 * process, whose memory is not read; and the pipe of another process's standard output and error.
 */
enum kind { THREAD, PROCESS, WORDS };

struct listener {
	int fd, slot;
	enum kind kind;
};

/*
 * Writes the slot's line to standard error, with the tile's name unless the line contains it, and with
 * control characters escaped. Limits the lines per second. Does not block if the log is not read.
 */
static void write_line(struct slot *slot)
{
	char out[NAME_BYTES + 4 * VERBATIM_LINE_BYTES + 64];
	const int most = slot->now.verbatim ? VERBATIM_LINES_A_SECOND : LINES_A_SECOND;
	time_t now = time(NULL);
	size_t used = 0;

	if (now != slot->second) {
		slot->second = now;
		slot->lines = 0;
	}
	if (++slot->lines > most || !slot->now.verbatim)
		used = (size_t)sprintf(out, "%s: ", slot->now.name);
	else if (*slot->now.name == '<') /* the level of its lines, for the journal */
		used = (size_t)sprintf(out, "%.3s", slot->now.name);
	if (slot->lines > most) {
		used += (size_t)sprintf(out + used, "it writes more than %d lines in a second: the rest is left out",
					most);
		slot->length = 0;
	}
	for (size_t i = 0; i < slot->length; i++) {
		unsigned char c = (unsigned char)slot->line[i];
		unsigned char next = i + 1 < slot->length ? (unsigned char)slot->line[i + 1] : 0;

		if (c == 0xc2 && next >= 0x80 && next < 0xa0) /* U+0080 to U+009F, in UTF-8 */
			used += (size_t)sprintf(out + used, "\\x%02x", (unsigned char)slot->line[++i]);
		else if ((c < ' ' && c != '\t') || c == 0x7f)
			used += (size_t)sprintf(out + used, "\\x%02x", c);
		else
			out[used++] = (char)c;
	}
	out[used++] = '\n';
	slot->length = 0;
	if (slot->lines <= most + 1)
		write_log(out, used);
}

/* Takes the output of a tile, and writes each line when it is complete or too long. */
static void take_words(struct slot *slot, const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (text[i] != '\n')
			slot->line[slot->length++] = text[i];
		if (text[i] == '\n' || slot->length == (slot->now.verbatim ? VERBATIM_LINE_BYTES : LINE_BYTES))
			write_line(slot);
	}
}

/*
 * Copies up to `length` bytes, at most PIECE, from `address` of this process, which may be unmapped.
 * The kernel copies them page by page through a pipe. Returns how many were copied, or -errno.
 */
static int copy(int pipe[2], void *into, uint64_t address, size_t length)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), done = 0;

	if (length > PIECE)
		length = PIECE;
	while (done < length) {
		size_t left = page - (address + done) % page, size = length - done < left ? length - done : left;
		ssize_t count = write(pipe[1], (const void *)(uintptr_t)(address + done), size);

		if (count <= 0) {
			/* Before Linux 6.15 each fault leaves data in the pipe. */
			close(pipe[0]);
			close(pipe[1]);
			if (pipe2(pipe, O_CLOEXEC | O_NONBLOCK) < 0)
				return -errno;
			return done > 0 ? (int)done : -EFAULT;
		}
		done += (size_t)read(pipe[0], (char *)into + done, (size_t)count);
	}
	return (int)done;
}

/* Whether `call` writes to standard output or error, as V8 and Rust do before they abort. */
static int is_words(const struct seccomp_data *call)
{
	return call->arch == ARCHITECTURE && (call->nr == SYS_write || call->nr == SYS_writev) &&
	       ((int32_t)call->args[0] == STDOUT_FILENO || (int32_t)call->args[0] == STDERR_FILENO);
}

/* Performs write(2) or writev(2) for the caller. Returns how many bytes it took, or -errno. */
static int64_t write_words(int pipe[2], struct slot *slot, const struct seccomp_data *call)
{
	struct iovec parts[16] = { { .iov_base = (void *)(uintptr_t)call->args[1], .iov_len = call->args[2] } };
	size_t count = 1;
	int64_t taken = 0;
	char text[PIECE];

	if (call->nr == SYS_writev) {
		count = call->args[2] < COUNT(parts) ? call->args[2] : COUNT(parts);
		int copied = copy(pipe, parts, call->args[1], count * sizeof(parts[0]));

		if (copied < 0)
			return copied;
	}
	for (size_t i = 0; i < count; i++) {
		int copied = copy(pipe, text, (uintptr_t)parts[i].iov_base, parts[i].iov_len);

		if (copied < 0)
			return taken > 0 ? taken : copied;
		take_words(slot, text, (size_t)copied);
		taken += copied;
		if ((size_t)copied < parts[i].iov_len)
			break;
	}
	return taken;
}

/* Whether `call` opens or queries a file of EXPECTED_PATHS. */
static int is_expected(int pipe[2], const struct seccomp_data *call)
{
	char path[PIECE];
	int length, at;

	switch (call->arch == ARCHITECTURE ? call->nr : -1) {
#ifdef SYS_open
	case SYS_open:
	case SYS_stat:
	case SYS_access:
		at = 0;
		break;
#endif
	case SYS_openat:
	case SYS_newfstatat:
	case SYS_statx:
	case SYS_faccessat:
		at = 1;
		break;
	default:
		return 0;
	}
	length = copy(pipe, path, call->args[at], sizeof(path));
	if (length <= 0 || !memchr(path, 0, (size_t)length))
		return 0;
	if (strstr(path, "/../"))
		return 0;
	for (size_t i = 0; i < COUNT(EXPECTED_PATHS); i++)
		if (strncmp(path, EXPECTED_PATHS[i], strlen(EXPECTED_PATHS[i])) == 0)
			return 1;
	for (size_t i = 0; i < COUNT(EXPECTED_PARTS); i++)
		if (strstr(path, EXPECTED_PARTS[i]))
			return 1;
	/* The first fetch() reads the host's certificates before it checks its permission. */
	return certificates && strcmp(path, certificates) == 0;
}

/* Receives one call from a listener and answers it. */
static void answer(int pipe[2], const struct listener *listener)
{
	/* Larger than the kernel's structures, which may grow: the kernel writes its own size. */
	union {
		struct seccomp_notif call;
		char room[512];
	} in = { 0 };
	union {
		struct seccomp_notif_resp answer;
		char room[512];
	} out = { 0 };
	struct slot *slot = &slots[listener->slot];
	const struct seccomp_data *call = &in.call.data;

	if (ioctl(listener->fd, SECCOMP_IOCTL_NOTIF_RECV, &in) < 0)
		return; /* its thread has ended */
	out.answer.id = in.call.id;
	if (listener->kind == THREAD && is_words(call)) {
		int64_t taken = write_words(pipe, slot, call);

		out.answer.error = taken < 0 ? (int32_t)taken : 0;
		out.answer.val = taken < 0 ? 0 : taken;
	} else if (listener->kind == THREAD && is_expected(pipe, call)) {
		out.answer.error = -EPERM;
	} else {
		/* The last counter is for larger numbers, and for other architectures. */
		uint32_t last = OBSERVED_CALLS - 1, number = call->arch == ARCHITECTURE ? (uint32_t)call->nr : last;
		uint32_t *counter = &counters[listener->slot * OBSERVED_CALLS + (number < last ? number : last)];

		__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
		/* The errno that Deno reports without the permission (process.c). */
		out.answer.error = listener->kind == PROCESS && call->nr == SYS_socket ? -EACCES : -EPERM;
	}
	ioctl(listener->fd, SECCOMP_IOCTL_NOTIF_SEND, &out);
}

/*
 * Writes the lines that have arrived in a pipe. Returns false if the pipe should stay full for a
 * while, so that a process that floods its standard error slows down only itself.
 */
static int hear(const struct listener *listener)
{
	struct slot *slot = &slots[listener->slot];
	char text[PIECE];

	for (int pieces = 0; pieces < 16; pieces++) {
		ssize_t count = read(listener->fd, text, sizeof(text));

		if (count <= 0)
			return 1;
		take_words(slot, text, (size_t)count);
	}
	return slot->lines <= (slot->now.verbatim ? VERBATIM_LINES_A_SECOND : LINES_A_SECOND);
}

/* Writes the rest of the pipe of a process that has ended, or whose slot another process takes. */
static void hear_out(const struct listener *listener)
{
	hear(listener); /* takes as much as a pipe holds */
	if (slots[listener->slot].length > 0)
		write_line(&slots[listener->slot]);
}

static void *observe(void *pipe)
{
	static struct pollfd set[1 + 4 * SLOTS];
	static struct listener listeners[1 + 4 * SLOTS];
	size_t count = 1;
	uint64_t unused;
	int waiting = 0; /* whether pipes stay full for a while; their descriptors are negative then */

	set[0] = (struct pollfd){ .fd = knock, .events = POLLIN };
	for (;; pthread_mutex_unlock(&busy)) {
		int ready = poll(set, count, waiting ? FLOOD_PAUSE_MS : -1);

		pthread_mutex_lock(&busy);
		if (ready < 0)
			continue;
		waiting = 0;
		for (size_t i = 1; i < count; i++) {
			if (set[i].fd < 0)
				set[i].fd = listeners[i].fd;
			else if (listeners[i].kind == WORDS && set[i].revents & POLLIN) {
				if (!hear(&listeners[i])) {
					set[i].fd = -1;
					waiting = 1;
				}
			} else if (set[i].revents & POLLIN)
				answer(pipe, &listeners[i]);
			else if (set[i].revents) { /* the last thread with the filter, or the pipe, is gone */
				/* The last output of a process may still be in its pipe when its filter is gone. */
				if (listeners[i].kind == WORDS)
					hear_out(&listeners[i]);
				else if (listeners[i].kind == THREAD && slots[listeners[i].slot].length > 0)
					write_line(&slots[listeners[i].slot]);
				close(set[i].fd);
				set[i] = set[--count];
				listeners[i--] = listeners[count];
			}
		}
		if (!(set[0].revents & POLLIN))
			continue;
		eventfd_read(knock, &unused);
		for (int slot = 0; slot < slot_count; slot++) {
			int arrived = atomic_exchange(&slots[slot].arrived, 0) - 1, fd = arrived / 4;

			if (arrived < 0)
				continue;
			/* The slot's previous process may have just ended, or still run beside this one. */
			for (size_t i = 1; i < count && arrived % 4 == WORDS; i++) {
				if (listeners[i].slot == slot && listeners[i].kind == WORDS)
					hear_out(&listeners[i]);
			}
			if (arrived % 4 != PROCESS)
				slots[slot].now = slots[slot].next;
			if (count == COUNT(set)) {
				close(fd); /* calls of a tile then fail with ENOSYS; those of a process block until it dies */
				continue;
			}
			set[count] = (struct pollfd){ .fd = fd, .events = POLLIN };
			listeners[count++] = (struct listener){ fd, slot, (enum kind)(arrived % 4) };
		}
	}
	return NULL;
}

/*
 * Starts the observer. Must be called once in a process, before any tile confines itself. `memory` has
 * OBSERVED_CALLS counters for each of `count` slots, and must stay allocated. Returns 0, or -errno.
 */
EXPORT int tegula_tile_observe(uint32_t *memory, int count)
{
	static int pipe[2];
	sigset_t all, before;
	pthread_t thread;
	int error;

	if (count > SLOTS)
		return -E2BIG;
	counters = memory;
	slot_count = count;
	certificates = getenv("NODE_EXTRA_CA_CERTS");
	knock = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (knock < 0 || pipe2(pipe, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = -pthread_create(&thread, NULL, observe, pipe);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!error)
		pthread_detach(thread);
	return error;
}

/* Stores the name of system call `number`, or the number if the headers do not name it. */
EXPORT void tegula_tile_call_name(int number, char *name, uint32_t size)
{
	static const char *const NAMES[OBSERVED_CALLS] = {
#include "system_calls.inc"
	};

	if (number >= 0 && number < OBSERVED_CALLS - 1 && NAMES[number])
		snprintf(name, size, "%s", NAMES[number]);
	else if (number == OBSERVED_CALLS - 1)
		snprintf(name, size, "another architecture's, or beyond 510");
	else
		snprintf(name, size, "number %d", number);
}

/* Passes a descriptor to the observer, which closes it when the other end is closed. */
static void hand_over(int slot, int fd, enum kind kind)
{
	int none = 0;

	/* A successor has its predecessor's slot. The observer takes one descriptor after the other. */
	while (!atomic_compare_exchange_strong(&slots[slot].arrived, &none, 4 * fd + (int)kind + 1)) {
		none = 0;
		sched_yield();
	}
	eventfd_write(knock, 1);
}

/*
 * Makes the observer serve a process of process.c: the listener of its filter, or -1, and the
 * non-blocking pipe of its output. The observer copies both, and closes its copies when the process
 * has ended. The slot of an ended process can be reused. Returns 0, or -errno if there is no
 * observer, no such slot, or no free descriptor.
 */
EXPORT int tegula_tile_observe_process(int slot, const char *name, int verbatim, int listener, int words)
{
	int calls = -1, error;

	if (knock < 0)
		return -ENODEV;
	if (slot < 0 || slot >= slot_count)
		return -EINVAL;
	words = fcntl(words, F_DUPFD_CLOEXEC, 0);
	if (words < 0)
		return -errno;
	if (listener >= 0) {
		calls = fcntl(listener, F_DUPFD_CLOEXEC, 0);
		if (calls < 0) {
			error = -errno;
			close(words);
			return error;
		}
	}
	while (slots[slot].arrived) /* until the observer takes the previous name */
		sched_yield();
	snprintf(slots[slot].next.name, NAME_BYTES, "%s", name);
	slots[slot].next.verbatim = verbatim;
	if (calls >= 0)
		hand_over(slot, calls, PROCESS);
	hand_over(slot, words, WORDS);
	return 0;
}

/*
 * Pauses the observer until the same thread resumes it. So no call of a child is half answered when
 * this process executes another program.
 */
EXPORT void tegula_tile_observe_pause(int pause)
{
	if (pause)
		pthread_mutex_lock(&busy);
	else
		pthread_mutex_unlock(&busy);
}

/*
 * Installs the filter on this thread, and passes its listener to the observer, if there is one.
 * Without an observer, or if the kernel refuses a listener (before Linux 5.0, or inside a filter with
 * one), unexpected calls are only refused. Returns 1 if the observer answers, 0 if not, or -errno.
 */
static int filter(struct policy *policy, int slot)
{
	int fd = install(policy);

	if (fd <= 0)
		return fd;
	hand_over(slot, fd, THREAD);
	return 1;
}

/*
 * Gives up, for the calling thread and for good, everything that `role` does not need. `fds` are
 * the `count` sockets of the tile, which this sorts; `keep` has bits of KEEP_*; `name` and `slot`
 * are for the observer, if there is one. Returns bits of CONFINED_*, or -errno. After an error the
 * thread may be partly confined, and the tile must not continue.
 */
EXPORT int tegula_tile_confine(int role, int32_t *fds, int count, int keep, const char *name, int slot)
{
	struct policy policy;
	sigset_t foreign;
	int32_t eventfds[EVENTFDS];
	int error, landlock, observed, found = list_eventfds(eventfds, EVENTFDS);
	int observable = knock >= 0 && slot >= 0 && slot < slot_count;

	if (found < 0)
		return found;
	foreign_signals(&foreign); /* main handles SIGTERM and the like */
	pthread_sigmask(SIG_SETMASK, &foreign, NULL);
	if (observable)
		snprintf(slots[slot].next.name, NAME_BYTES, "%s", name);
	policy.refuse = observable ? SECCOMP_RET_USER_NOTIF : SECCOMP_RET_ERRNO | EPERM;
	make_policy(&policy, role, keep, fds, count, eventfds, found);
	if (policy.length > INSTRUCTIONS || found == EVENTFDS)
		return -E2BIG;
	bound_capabilities(0);
	error = keep_capabilities(keep & KEEP_NET_ADMIN ? 1ULL << CAP_NET_ADMIN : 0, 0);
	if (!error)
		error = result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	landlock = error ? error : forbid_files();
	if (landlock < 0)
		return landlock;
	observed = filter(&policy, slot);
	if (observed < 0 && observable) { /* retry without a listener: the same filter, which only refuses */
		policy.refuse = SECCOMP_RET_ERRNO | EPERM;
		make_policy(&policy, role, keep, fds, count, eventfds, found);
		observed = filter(&policy, slot);
	}
	if (observed < 0)
		return observed;
	return (landlock ? CONFINED_LANDLOCK : 0) | (observed ? CONFINED_OBSERVED : 0);
}
