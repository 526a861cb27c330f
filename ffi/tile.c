/*
 * What every tile may do (tile.ts): wake another, and confine itself.
 *
 * Confinement is per thread, and this is called on the tile's own: capabilities, no_new_privs,
 * landlock and seccomp take effect for the calling thread alone, so that main keeps what it needs.
 * Threads that the tile starts later inherit all of it. It is one layer of several, and says nothing
 * about memory, which all tiles share.
 *
 * No refusal is silent. A system call that the filter does not allow and does not expect is passed to
 * the observer, a thread of this file (seccomp_unotify(2)): it counts the call for the tile and
 * answers EPERM. The same thread writes to standard error what a confined thread writes there, so
 * that the last words of V8 and of Rust reach the log in the tile's name.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "native.h"

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "no system call policy for this architecture"
#endif

/* Newer than the headers of some hosts; the numbers are those of every architecture. */
#ifndef SYS_map_shadow_stack
#define SYS_map_shadow_stack 453
#endif
#ifndef SYS_futex_wake
#define SYS_futex_wake 454
#define SYS_futex_wait 455
#define SYS_futex_requeue 456
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

#define EVENTFDS 512

/* What may be kept besides; as KEEP in tile.ts. */
enum keep { KEEP_NET_ADMIN = 1, KEEP_CLOCK = 2, KEEP_FILES = 4 };

/* What tegula_tile_confine() has done; as in tile.ts. */
enum done { DONE_LANDLOCK = 1, DONE_OBSERVED = 2 };

enum role { NETLINK, NET, APP, STATUS };

/* Adds one to the eventfd: who polls it returns. Non-blocking, so a full counter is no matter. */
EXPORT void tegula_tile_wake(int fd)
{
	eventfd_write(fd, 1);
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/*
 * A seccomp filter in the making. Classic BPF jumps at most 255 instructions ahead when it compares,
 * so each rule is its own short piece: compare, return. Of arguments only the lower 32 bits are looked
 * at, as the kernel does with descriptors and commands.
 */
#define INSTRUCTIONS BPF_MAXINSNS
struct policy {
	struct sock_filter code[INSTRUCTIONS];
	unsigned length;
	/* What happens to a call that is neither allowed nor expected: SECCOMP_RET_*. */
	uint32_t refuse;
};

#define LOAD(p, field) emit(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, field))
#define IF_EQUAL(p, yes, no, value) emit(p, BPF_JMP | BPF_JEQ | BPF_K, yes, no, value)
#define RETURN(p, action) emit(p, BPF_RET | BPF_K, 0, 0, action)

static void emit(struct policy *p, uint16_t code, uint8_t yes, uint8_t no, uint32_t k)
{
	if (p->length < INSTRUCTIONS)
		p->code[p->length] = (struct sock_filter){ code, yes, no, k };
	p->length++;
}

/* The calls are allowed whatever their arguments. */
static void allow(struct policy *p, const uint32_t *calls, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		IF_EQUAL(p, 0, 1, calls[i]);
		RETURN(p, SECCOMP_RET_ALLOW);
	}
}

/* The call is allowed when its argument `index` is one of `values`, else refused. */
static void allow_only(struct policy *p, uint32_t call, int index, const int32_t *values, int count)
{
	IF_EQUAL(p, 1, 0, call);
	emit(p, BPF_JMP | BPF_JA, 0, 0, (uint32_t)(2 * count + 2));
	LOAD(p, args[index]);
	allow(p, (const uint32_t *)values, (size_t)count);
	RETURN(p, p->refuse);
}

static int by_number(const void *a, const void *b)
{
	int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;

	return (left > right) - (left < right);
}

/*
 * Each of the calls is allowed when its first argument is one of `fds`, else refused. Sorts `fds`. A run
 * of adjacent descriptors is one range, so that thousands of sockets that were opened together take
 * three instructions, and one check serves all the calls.
 */
static void allow_ranges(struct policy *p, const uint32_t *calls, size_t call_count, int32_t *fds,
			 int count)
{
	unsigned skip;

	qsort(fds, (size_t)count, sizeof(*fds), by_number);
	for (size_t i = 0; i < call_count; i++)
		IF_EQUAL(p, (uint8_t)(call_count - i), 0, calls[i]);
	skip = p->length;
	emit(p, BPF_JMP | BPF_JA, 0, 0, 0);
	LOAD(p, args[0]);
	for (int first = 0, next; first < count; first = next) {
		for (next = first + 1; next < count && fds[next] <= fds[next - 1] + 1; next++)
			;
		emit(p, BPF_JMP | BPF_JGE | BPF_K, 0, 2, (uint32_t)fds[first]);
		emit(p, BPF_JMP | BPF_JGT | BPF_K, 1, 0, (uint32_t)fds[next - 1]);
		RETURN(p, SECCOMP_RET_ALLOW);
	}
	RETURN(p, p->refuse);
	if (skip < INSTRUCTIONS)
		p->code[skip].k = p->length - skip - 1;
}

/* Standard output and error are the observer's, also where files may be written. */
static void observe_words(struct policy *p)
{
	IF_EQUAL(p, 1, 0, SYS_write);
	IF_EQUAL(p, 0, 5, SYS_writev);
	LOAD(p, args[0]);
	IF_EQUAL(p, 1, 0, STDOUT_FILENO);
	IF_EQUAL(p, 0, 1, STDERR_FILENO);
	RETURN(p, p->refuse);
	LOAD(p, nr);
}

/* mmap is allowed for anonymous memory alone: neither a ring nor a BPF map of another tile. */
static void allow_anonymous_mmap(struct policy *p)
{
	IF_EQUAL(p, 0, 4, SYS_mmap);
	LOAD(p, args[3]);
	emit(p, BPF_JMP | BPF_JSET | BPF_K, 0, 1, MAP_ANONYMOUS);
	RETURN(p, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse);
}

/* What each thread of glibc has, and what none may ask for. */
#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
#define NAMESPACE_FLAGS \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | \
	 CLONE_NEWNET)

/* clone makes threads alone, whose memory, descriptors and filter are the caller's. */
static void allow_threads(struct policy *p)
{
	IF_EQUAL(p, 0, 5, SYS_clone);
	LOAD(p, args[0]);
	emit(p, BPF_ALU | BPF_AND | BPF_K, 0, 0, (uint32_t)(THREAD_FLAGS | NAMESPACE_FLAGS));
	IF_EQUAL(p, 0, 1, THREAD_FLAGS);
	RETURN(p, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse);
}

/* tgkill sends SIGABRT within this process alone: abort(3). */
static void allow_abort(struct policy *p)
{
	IF_EQUAL(p, 0, 6, SYS_tgkill);
	LOAD(p, args[0]);
	IF_EQUAL(p, 0, 3, (uint32_t)getpid());
	LOAD(p, args[2]);
	IF_EQUAL(p, 0, 1, SIGABRT);
	RETURN(p, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse);
}

/* Whoever asks whether a descriptor is a terminal, as for colours, hears that it is none. */
static void refuse_terminal(struct policy *p)
{
	IF_EQUAL(p, 0, 5, SYS_ioctl);
	LOAD(p, args[1]);
	IF_EQUAL(p, 1, 0, TCGETS);
	IF_EQUAL(p, 0, 1, TIOCGWINSZ);
	RETURN(p, SECCOMP_RET_ERRNO | ENOTTY);
	RETURN(p, p->refuse);
}

/* Calls that are refused as a matter of course: the caller has another way, and takes it. */
static const struct {
	uint32_t call;
	int error;
	int role; /* -1: every role */
} EXPECTED[] = {
	/* Its flags are in memory, where no filter sees them; glibc falls back to clone. */
	{ SYS_clone3, ENOSYS, -1 },
	/* SQLite, by which Deno keeps compiled code: it gives the cache up at once. */
	{ SYS_pread64, EPERM, -1 }, { SYS_pwrite64, EPERM, -1 },
	/* And where that has changed it asks for the size before it reads. */
	{ SYS_fstat, EPERM, -1 },
	/* A thread's event loop, as the thread ends: the descriptors stay until the process does. Numbers
	 * are not told apart here, and others' sockets are among them. */
	{ SYS_close, EPERM, -1 },
	/* The control socket's listener, as its tile ends: main removes the file. */
#ifdef SYS_unlink
	{ SYS_unlink, EPERM, STATUS },
#endif
	{ SYS_unlinkat, EPERM, STATUS },
};

/* Beginnings of paths of files that are looked for as a matter of course; the caller goes on without. */
static const char *const EXPECTED_PATHS[] = {
	"/proc/sys/vm/overcommit_memory", /* malloc, when it shrinks an arena */
	"/proc/self/statm", /* Deno.memoryUsage() */
	"/proc/self/cgroup", "/sys/fs/cgroup/", /* Rust, to know how many processors it may use */
	"/sys/devices/system/cpu/", "/proc/stat", /* malloc likewise, where threads allocate at once */
	"/dev/sysgenid", /* the cryptographic library, in each thread that draws random numbers */
};

/* Parts of such paths, below Deno's own folder, wherever that is. */
static const char *const EXPECTED_PARTS[] = {
	"/gen/file/", /* the cache of emitted code, for a stack */
	"_cache_v", /* caches in SQLite, which looks for their journals */
};

/* What a busy Deno worker needs whatever it does, and why. None names a file or a process. */
static const uint32_t COMMON[] = {
	SYS_futex, /* locks, Atomics.wait, V8's own threads at work for us */
	SYS_epoll_pwait, /* the worker's event loop, and the wait for postMessage */
#ifdef SYS_epoll_wait
	SYS_epoll_wait,
	SYS_poll,
#endif
	SYS_ppoll, /* waiting, ours */
	SYS_restart_syscall, /* a wait goes on after SIGSTOP and SIGCONT */
	SYS_madvise, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_brk, /* heap, collector and JIT */
	/* As mprotect: V8's code pages, where the CPU has memory protection keys; aborts without. */
	SYS_pkey_mprotect, SYS_pkey_alloc, SYS_pkey_free,
	SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, /* timers, back-off in locks */
	/* The clock, where the kernel has no vDSO for it (clocksource hpet, acpi_pm, Xen). */
	SYS_gettimeofday,
#ifdef SYS_time
	SYS_time,
#endif
	SYS_sched_yield,
	SYS_getpid, SYS_getppid, SYS_gettid, SYS_getrandom, /* hash seeds, thread identity in locks */
	SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, /* V8's traps; a thread's end */
	SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_getaffinity, /* thread start and panic */
	SYS_set_robust_list, SYS_rseq, /* glibc, in each new thread; it aborts without the second */
	SYS_membarrier, /* V8's and Rust's fences between threads */
	SYS_getcpu, SYS_getrusage, SYS_sysinfo, /* what the process itself uses, and of how much */
	/* Deno.execPath(), which looks before it asks for a permission, and panics without. It discloses
	 * where symbolic links lead, and no file. */
#ifdef SYS_readlink
	SYS_readlink,
#endif
	SYS_readlinkat,
	SYS_getcwd, /* the text of an uncaught error */
	/* What a newer libc makes of the above (Linux 5.11 to 6.7). */
	SYS_epoll_pwait2, SYS_futex_waitv, SYS_futex_wake, SYS_futex_wait, SYS_futex_requeue,
	SYS_map_shadow_stack,
	SYS_exit, SYS_exit_group,
};

/*
 * fcntl asks about descriptors but changes none: flags are shared with the other tiles. Locks are
 * allowed because Deno's code cache is an SQLite file, looked at when a part of Deno is first used,
 * also to report an error: SQLite takes a refused lock for a busy one and tries again for minutes,
 * where a refused read makes it give up at once.
 */
static const int32_t FCNTL_COMMANDS[] = {
	F_GETFD, F_GETFL, F_SETLK,
	F_DUPFD_CLOEXEC, F_SETFD, /* the last two for apps with files alone: they remove a folder */
};

/*
 * V8 looks at a fault first and, where it is none of its own, sets the default action back and lets
 * it happen again: without rt_sigaction a store into another's region would fault for ever instead
 * of ending the process. abort(3) does the same with SIGABRT.
 */
static const int32_t FAULT_SIGNALS[] = { SIGSEGV, SIGBUS, SIGABRT };

/* prctl names a thread or a mapping, as runtimes do for who debugs them, and changes nothing else. */
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif
static const int32_t PRCTL_OPTIONS[] = { PR_SET_NAME, PR_SET_VMA };

/* What each role does on its own sockets, besides. */
static const uint32_t NET_CALLS[] = {
	SYS_sendto, SYS_recvfrom, /* AF_XDP kicks */
	SYS_recvmmsg, SYS_sendmmsg, /* kernel sockets */
	SYS_getsockopt, /* XDP_STATISTICS */
};
static const uint32_t NETLINK_CALLS[] = { SYS_recvmmsg, SYS_recvmsg, SYS_sendto, SYS_sendmsg };

/*
 * The status tile waits in Deno's event loop on sockets that it was listening on before; who connects
 * gets a descriptor that nobody knows beforehand. So these are not bound to descriptors, but what they
 * can do to another tile's is little: a connection is served without addresses (sendto has none, and
 * a UDP socket of ours sends nothing without), and netlink changes nothing without a capability.
 */
static const uint32_t STATUS_CALLS[] = {
	SYS_epoll_ctl, SYS_accept4, SYS_recvfrom, /* the listening sockets and who connects */
	SYS_getsockname, SYS_getpeername, /* Deno asks for both of each connection */
	SYS_shutdown, SYS_close,
};
static const int32_t NO_ADDRESS[] = { 0 };
static const int32_t TCP_LEVEL[] = { IPPROTO_TCP }; /* TCP_NODELAY */

/*
 * What an app needs that was granted files. Which ones is left to Deno's permissions: the descriptors
 * are not known beforehand, and of those that are open it can reach none from JavaScript.
 */
static const uint32_t FILE_CALLS[] = {
	SYS_openat, SYS_close, SYS_read, SYS_write, SYS_pread64, SYS_pwrite64, SYS_lseek,
	SYS_fstat, SYS_newfstatat, SYS_statx, SYS_readlinkat, SYS_getdents64, SYS_ftruncate, SYS_fsync,
	SYS_mkdirat, SYS_unlinkat, SYS_renameat, SYS_renameat2,
	/* Also a mere copy, or a write by Node's functions, sets the file's mode. */
	SYS_fchmod, SYS_fchmodat, SYS_faccessat2, SYS_copy_file_range,
	SYS_fdatasync, SYS_flock, SYS_utimensat, SYS_getuid,
#ifdef SYS_open
	SYS_access, SYS_chmod,
	SYS_open, SYS_stat, SYS_lstat, SYS_readlink, SYS_mkdir, SYS_unlink, SYS_rmdir, SYS_rename,
#endif
};

static const uint32_t EVENTFD_CALLS[] = { SYS_read, SYS_write };

/* Setting the clock takes a capability; libc reads it by the one call or the other. */
static const uint32_t CLOCK_CALLS[] = { SYS_adjtimex, SYS_clock_adjtime };

/*
 * The whole policy of a role. Calls of another architecture (whose numbers mean other things) are
 * refused; x32's carry a bit in their number that no rule here has.
 */
static void make_policy(struct policy *p, enum role role, int keep, int32_t *fds, int count,
			int32_t *eventfds, int eventfd_count)
{
	p->length = 0;
	LOAD(p, arch);
	IF_EQUAL(p, 1, 0, ARCHITECTURE);
	RETURN(p, p->refuse);
	LOAD(p, nr);
	observe_words(p);
	if (role == NET)
		allow_ranges(p, NET_CALLS, COUNT(NET_CALLS), fds, count);
	if (role == NETLINK)
		allow_ranges(p, NETLINK_CALLS, COUNT(NETLINK_CALLS), fds, count);
	if (role == STATUS) {
		allow(p, STATUS_CALLS, COUNT(STATUS_CALLS));
		allow_only(p, SYS_sendto, 5, NO_ADDRESS, COUNT(NO_ADDRESS));
		allow_only(p, SYS_setsockopt, 1, TCP_LEVEL, COUNT(TCP_LEVEL));
	}
	allow(p, COMMON, COUNT(COMMON));
	if (keep & KEEP_CLOCK)
		allow(p, CLOCK_CALLS, COUNT(CLOCK_CALLS));
	if (keep & KEEP_FILES)
		allow(p, FILE_CALLS, COUNT(FILE_CALLS));
	allow_ranges(p, EVENTFD_CALLS, COUNT(EVENTFD_CALLS), eventfds, eventfd_count);
	allow_only(p, SYS_rt_sigaction, 0, FAULT_SIGNALS, COUNT(FAULT_SIGNALS));
	allow_only(p, SYS_fcntl, 1, FCNTL_COMMANDS,
		   (int)COUNT(FCNTL_COMMANDS) - (keep & KEEP_FILES ? 0 : 2));
	allow_only(p, SYS_prctl, 0, PRCTL_OPTIONS, COUNT(PRCTL_OPTIONS));
	allow_anonymous_mmap(p);
	allow_threads(p);
	allow_abort(p);
	refuse_terminal(p);
	for (size_t i = 0; i < COUNT(EXPECTED); i++) { /* last: some roles may make these calls */
		if (EXPECTED[i].role >= 0 && EXPECTED[i].role != (int)role)
			continue;
		IF_EQUAL(p, 0, 1, EXPECTED[i].call);
		RETURN(p, SECCOMP_RET_ERRNO | (uint32_t)EXPECTED[i].error);
	}
	RETURN(p, p->refuse);
}

/*
 * Lists the eventfds of the process: those of the tiles, and those by which Deno's event loops wake
 * each other. Nothing else may be read or written: not stdout, no file, no pipe. Returns how many, at
 * most `most`, or -errno.
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
 * Leaves of all capabilities at most CAP_NET_ADMIN, and none to be had again: what is not inheritable
 * is not ambient either. 0, or -errno.
 */
static int drop_capabilities(int keep_net_admin)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	uint32_t keep = keep_net_admin ? 1u << CAP_NET_ADMIN : 0;

	/* The bounding set takes CAP_SETPCAP; without it nothing can be gained by an exec either. */
	for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
		prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	data[0].permitted &= keep;
	data[0].effective = data[0].permitted;
	data[0].inheritable = 0;
	data[1] = (struct __user_cap_data_struct){ 0 };
	return result(syscall(SYS_capset, &header, data));
}

/*
 * Takes away every file, by a landlock ruleset that handles all accesses and allows none. 1 when the
 * kernel did, 0 when it has no landlock, or -errno.
 */
static int forbid_files(void)
{
	/* How many accesses each version of landlock knows; the fourth added those of TCP. */
	static const uint8_t accesses[] = { 13, 14, 15, 15, 16 };
	struct landlock_ruleset_attr rules = { 0 };
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	int error, fd;

	if (version < 1)
		return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
	rules.handled_access_fs = (1ULL << accesses[version > 5 ? 4 : version - 1]) - 1;
	if (version >= 4)
		rules.handled_access_net = LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP;
	fd = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0);
	if (fd < 0)
		return -errno;
	error = result(syscall(SYS_landlock_restrict_self, fd, 0));
	close(fd);
	return error < 0 ? error : 1;
}

/*
 * The observer: one thread of the process, which answers for the filters of all tiles. Each tile has a
 * slot: a row of counters, by the number of the system call, in memory that only this thread writes,
 * and its name. It runs no JavaScript, blocks all signals, and ends with the process.
 */
#define SLOTS 256
#define CALLS 512 /* counters of a slot; the last is for numbers beyond, and other architectures */
#define NAME_BYTES 64
#define LINES_A_SECOND 50
#define LINE_BYTES 960 /* spelled out it is less than PIPE_BUF, which is written at once */
#define PIECE 4096

struct slot {
	_Atomic int arrived; /* a filter's listener + 1, until the observer has taken it; else 0 */
	char name[NAME_BYTES];
	char line[LINE_BYTES]; /* what has come of a line of its words */
	size_t length;
	time_t second; /* in which `lines` were written */
	int lines;
};

static struct slot slots[SLOTS];
static uint32_t *counters;
static int slot_count, knock = -1;
static const char *certificates; /* a file of them that the environment names, or NULL */

/* A listener that the observer has taken, and whose it is. */
struct listener {
	int fd, slot;
};

/*
 * Writes the slot's line to standard error as the log has lines: whole, in the tile's name, without
 * control characters, LINES_A_SECOND at most. Where the log is not read nothing waits for it.
 */
static void write_line(struct slot *slot)
{
	char out[NAME_BYTES + 4 * LINE_BYTES + 64];
	struct pollfd log = { .fd = STDERR_FILENO, .events = POLLOUT };
	time_t now = time(NULL);
	size_t used;

	if (now != slot->second) {
		slot->second = now;
		slot->lines = 0;
	}
	used = (size_t)sprintf(out, "%s: ", slot->name);
	if (++slot->lines > LINES_A_SECOND) {
		used += (size_t)sprintf(out + used, "it writes more than %d lines in a second: the rest is left out",
					LINES_A_SECOND);
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
	if (slot->lines <= LINES_A_SECOND + 1 && poll(&log, 1, 0) == 1 && log.revents & POLLOUT &&
	    write(STDERR_FILENO, out, used) < 0)
		return; /* nobody reads the log */
}

/* Takes what a tile writes; a line is written when it is complete, or too long. */
static void take_words(struct slot *slot, const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (text[i] != '\n')
			slot->line[slot->length++] = text[i];
		if (text[i] == '\n' || slot->length == LINE_BYTES)
			write_line(slot);
	}
}

/*
 * Copies `length` bytes, at most PIECE, at `address` of this process, as far as there is memory: the
 * kernel looks, by way of a pipe, page by page. How many were copied, or -errno.
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
			/* Before Linux 6.15 each fault leaves something in the pipe. */
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

/* Whether `call` writes to standard output or error, where a confined thread has no business but last words. */
static int is_words(const struct seccomp_data *call)
{
	return call->arch == ARCHITECTURE && (call->nr == SYS_write || call->nr == SYS_writev) &&
	       ((int32_t)call->args[0] == STDOUT_FILENO || (int32_t)call->args[0] == STDERR_FILENO);
}

/* Does write(2) or writev(2) in the caller's place. How many bytes it took, or -errno. */
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

/* Whether `call` looks for a file of EXPECTED_PATHS. */
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
	/* The first fetch() reads the host's certificates before it looks at its permission. */
	return certificates && strcmp(path, certificates) == 0;
}

/* Takes one call off a listener and answers it. */
static void answer(int pipe[2], const struct listener *listener)
{
	/* Larger than the kernel's structures will be for long: it writes what it knows. */
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
		return; /* its thread is gone */
	out.answer.id = in.call.id;
	if (is_words(call)) {
		int64_t taken = write_words(pipe, slot, call);

		out.answer.error = taken < 0 ? (int32_t)taken : 0;
		out.answer.val = taken < 0 ? 0 : taken;
	} else if (is_expected(pipe, call)) {
		out.answer.error = -EPERM;
	} else {
		uint32_t number = call->arch == ARCHITECTURE ? (uint32_t)call->nr : CALLS;
		uint32_t *counter = &counters[listener->slot * CALLS + (number < CALLS ? number : CALLS - 1)];

		__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
		out.answer.error = -EPERM;
	}
	ioctl(listener->fd, SECCOMP_IOCTL_NOTIF_SEND, &out);
}

static void *observe(void *pipe)
{
	static struct pollfd set[1 + 4 * SLOTS];
	static struct listener listeners[1 + 4 * SLOTS];
	size_t count = 1;
	uint64_t unused;

	set[0] = (struct pollfd){ .fd = knock, .events = POLLIN };
	for (;;) {
		if (poll(set, count, -1) < 0)
			continue;
		for (size_t i = 1; i < count; i++) {
			if (set[i].revents & POLLIN)
				answer(pipe, &listeners[i]);
			else if (set[i].revents) { /* the last thread that has the filter is gone */
				if (slots[listeners[i].slot].length > 0)
					write_line(&slots[listeners[i].slot]);
				close(set[i].fd);
				set[i] = set[--count];
				listeners[i] = listeners[count];
			}
		}
		if (!(set[0].revents & POLLIN))
			continue;
		eventfd_read(knock, &unused);
		for (int slot = 0; slot < slot_count; slot++) {
			int fd = atomic_exchange(&slots[slot].arrived, 0) - 1;

			if (fd < 0)
				continue;
			if (count == COUNT(set)) {
				close(fd); /* the kernel answers ENOSYS then; nobody waits for ever */
				continue;
			}
			set[count] = (struct pollfd){ .fd = fd, .events = POLLIN };
			listeners[count++] = (struct listener){ .fd = fd, .slot = slot };
		}
	}
	return NULL;
}

/*
 * Starts the observer, once in a process and before any tile confines itself. `memory` has CALLS
 * counters for each of `count` slots, and is kept. 0, or -errno.
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

/* The name of system call `number` into `name`, or its number where the headers know none. */
EXPORT void tegula_tile_call_name(int number, char *name, uint32_t size)
{
	static const char *const NAMES[CALLS] = {
#include "system_calls.inc"
	};

	if (number >= 0 && number < CALLS - 1 && NAMES[number])
		snprintf(name, size, "%s", NAMES[number]);
	else if (number == CALLS - 1)
		snprintf(name, size, "another architecture's, or beyond 510");
	else
		snprintf(name, size, "number %d", number);
}

/*
 * Refuses, on this thread and those that it starts, every call that sends a signal but an abort: before
 * a tile is confined, too, an app could stop the process or have it reload for ever. 0, or -errno.
 */
EXPORT int tegula_tile_refuse_signals(void)
{
	static const int SIGNALLING[] = {
		SYS_kill, SYS_tkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_pidfd_send_signal,
	};
	struct policy policy = { .refuse = SECCOMP_RET_ERRNO | EPERM };
	struct sock_fprog program = { .filter = policy.code };

	LOAD(&policy, arch);
	IF_EQUAL(&policy, 1, 0, ARCHITECTURE);
	RETURN(&policy, policy.refuse);
	LOAD(&policy, nr);
	emit(&policy, BPF_JMP | BPF_JGE | BPF_K, 0, 1, 0x40000000); /* x32 */
	RETURN(&policy, policy.refuse);
	allow_abort(&policy);
	for (size_t i = 0; i < COUNT(SIGNALLING); i++) {
		IF_EQUAL(&policy, 0, 1, (uint32_t)SIGNALLING[i]);
		RETURN(&policy, policy.refuse);
	}
	RETURN(&policy, SECCOMP_RET_ALLOW);
	program.len = (unsigned short)policy.length;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return result(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

/*
 * Puts the filter on this thread. With an observer its listener goes there, and without one, or where
 * the kernel has no such listener (before Linux 5.0, or inside another's), unexpected calls are just
 * refused. 1 when the observer answers, 0 when not, or -errno.
 */
static int filter(struct policy *policy, int slot)
{
	/* Signals wait while the observer answers, from Linux 5.19 on. */
	static const unsigned long WAYS[] = {
		SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
		SECCOMP_FILTER_FLAG_NEW_LISTENER,
		0,
	};
	struct sock_fprog program = { .len = (unsigned short)policy->length, .filter = policy->code };
	size_t way = policy->refuse == SECCOMP_RET_USER_NOTIF ? 0 : 2;
	int none = 0;
	long fd;

	while ((fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, WAYS[way], &program)) < 0 && way < 1)
		way++;
	if (fd < 0 || way == 2)
		return result(fd);
	/* A tile that starts beside another has its slot: the observer takes theirs one after the other. */
	while (!atomic_compare_exchange_strong(&slots[slot].arrived, &none, (int)fd + 1)) {
		none = 0;
		sched_yield();
	}
	eventfd_write(knock, 1);
	return 1;
}

/*
 * Gives up, on the calling thread and for good, all that `role` does not need. `fds` are the `count`
 * sockets that it sends and receives on, which this sorts; `keep` is of KEEP_*; `name` and `slot` are for the observer,
 * where there is one. Returns what was done, of DONE_*, or -errno, when some may have been done and
 * the tile must not go on.
 */
EXPORT int tegula_tile_confine(int role, int32_t *fds, int count, int keep, const char *name, int slot)
{
	struct policy policy;
	int32_t eventfds[EVENTFDS];
	int error, landlock, observed, found = list_eventfds(eventfds, EVENTFDS);
	int observable = knock >= 0 && slot >= 0 && slot < slot_count;

	if (found < 0)
		return found;
	if (observable)
		snprintf(slots[slot].name, NAME_BYTES, "%s", name);
	policy.refuse = observable ? SECCOMP_RET_USER_NOTIF : SECCOMP_RET_ERRNO | EPERM;
	make_policy(&policy, (enum role)role, keep, fds, count, eventfds, found);
	if (policy.length > INSTRUCTIONS || found == EVENTFDS)
		return -E2BIG;
	error = drop_capabilities(keep & KEEP_NET_ADMIN);
	if (!error)
		error = result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	landlock = error || keep & KEEP_FILES ? error : forbid_files();
	if (landlock < 0)
		return landlock;
	observed = filter(&policy, slot);
	if (observed < 0 && observable) { /* no listener to be had: the same filter, which just refuses */
		policy.refuse = SECCOMP_RET_ERRNO | EPERM;
		make_policy(&policy, (enum role)role, keep, fds, count, eventfds, found);
		observed = filter(&policy, slot);
	}
	if (observed < 0)
		return observed;
	return (landlock ? DONE_LANDLOCK : 0) | (observed ? DONE_OBSERVED : 0);
}
