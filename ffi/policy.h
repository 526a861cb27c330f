/* SPDX-License-Identifier: Apache-2.0
 * System call policies, with the reason for each call: of tiles (tile.c: a filter for one thread),
 * and of the processes of apps and of the appliance (process.c: a filter for all threads, installed
 * before exec). docs/system_calls.md is generated from these lists, and a test compares them.
 */
#ifndef TEGULA_POLICY_H
#define TEGULA_POLICY_H

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "native.h"

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "no system call policy for this architecture"
#endif

/* Newer than the headers of some hosts; the numbers are the same on every architecture. */
#ifndef SYS_map_shadow_stack
#define SYS_map_shadow_stack 453
#endif
#ifndef SYS_futex_wake
#define SYS_futex_wake 454
#define SYS_futex_wait 455
#define SYS_futex_requeue 456
#endif
#ifndef SYS_arch_prctl
#define SYS_arch_prctl SYS_set_tid_address /* only x86 has it: sets the register of thread-local data */
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

/*
 * A seccomp filter under construction. A conditional jump of classic BPF reaches at most 255
 * instructions ahead, so each rule is a short piece: compare, return. Only the lower 32 bits of
 * arguments are compared, which are all that the kernel uses of descriptors and commands.
 */
#define INSTRUCTIONS BPF_MAXINSNS
struct policy {
	struct sock_filter code[INSTRUCTIONS];
	unsigned length;
	/* The action for a call that is neither allowed nor expected: SECCOMP_RET_*. */
	uint32_t refuse;
	int log; /* whether the kernel logs refused calls, if no observer counts them */
};

#define LOAD(p, field) emit(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, field))
#define IF_EQUAL(p, yes, no, value) emit(p, BPF_JMP | BPF_JEQ | BPF_K, yes, no, value)
#define RETURN(p, action) emit(p, BPF_RET | BPF_K, 0, 0, action)

static inline void emit(struct policy *p, uint16_t code, uint8_t yes, uint8_t no, uint32_t k)
{
	if (p->length < INSTRUCTIONS)
		p->code[p->length] = (struct sock_filter){ code, yes, no, k };
	p->length++;
}

/* Takes `action` if the loaded word, a call or an argument, is `value`. */
static inline void answer_one(struct policy *p, uint32_t value, uint32_t action)
{
	IF_EQUAL(p, 0, 1, value);
	RETURN(p, action);
}

/* Allows the calls with any arguments. */
static inline void allow(struct policy *p, const uint32_t *calls, size_t count)
{
	for (size_t i = 0; i < count; i++)
		answer_one(p, calls[i], SECCOMP_RET_ALLOW);
}

/* Allows the call if its argument `index` is one of `values`, else refuses it. */
static inline void allow_only(struct policy *p, uint32_t call, int index, const int32_t *values, int count)
{
	IF_EQUAL(p, 1, 0, call);
	emit(p, BPF_JMP | BPF_JA, 0, 0, (uint32_t)(2 * count + 2));
	LOAD(p, args[index]);
	allow(p, (const uint32_t *)values, (size_t)count);
	RETURN(p, p->refuse);
}

static inline int by_number(const void *a, const void *b)
{
	int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;

	return (left > right) - (left < right);
}

/*
 * Takes `action` if the loaded descriptor is one of the sorted `fds`. Adjacent descriptors form one
 * range, so that thousands of sockets that were opened together take three instructions.
 */
static inline void answer_ranges(struct policy *p, const int32_t *fds, int count, uint32_t action)
{
	for (int first = 0, next; first < count; first = next) {
		for (next = first + 1; next < count && fds[next] <= fds[next - 1] + 1; next++)
			;
		emit(p, BPF_JMP | BPF_JGE | BPF_K, 0, 2, (uint32_t)fds[first]);
		emit(p, BPF_JMP | BPF_JGT | BPF_K, 1, 0, (uint32_t)fds[next - 1]);
		RETURN(p, action);
	}
}

/*
 * Allows each of the calls if its first argument is one of `fds`, else refuses it. Sorts `fds`. All
 * calls share one check.
 */
static inline void allow_ranges(struct policy *p, const uint32_t *calls, size_t call_count, int32_t *fds,
			 int count)
{
	unsigned skip;

	qsort(fds, (size_t)count, sizeof(*fds), by_number);
	for (size_t i = 0; i < call_count; i++)
		IF_EQUAL(p, (uint8_t)(call_count - i), 0, calls[i]);
	skip = p->length;
	emit(p, BPF_JMP | BPF_JA, 0, 0, 0);
	LOAD(p, args[0]);
	answer_ranges(p, fds, count, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse);
	if (skip < INSTRUCTIONS)
		p->code[skip].k = p->length - skip - 1;
}

/* Passes writes to standard output and error to the observer. */
static inline void observe_words(struct policy *p)
{
	IF_EQUAL(p, 1, 0, SYS_write);
	IF_EQUAL(p, 0, 5, SYS_writev);
	LOAD(p, args[0]);
	IF_EQUAL(p, 1, 0, STDOUT_FILENO);
	IF_EQUAL(p, 0, 1, STDERR_FILENO);
	RETURN(p, p->refuse);
	LOAD(p, nr);
}

/* Allows mmap only for anonymous memory: a tile must not map rings or BPF maps of other tiles. */
static inline void allow_anonymous_mmap(struct policy *p)
{
	IF_EQUAL(p, 0, 4, SYS_mmap);
	LOAD(p, args[3]);
	emit(p, BPF_JMP | BPF_JSET | BPF_K, 0, 1, MAP_ANONYMOUS);
	RETURN(p, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse);
}

/* Flags that glibc sets for each thread, and flags that are forbidden. */
#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
#define NAMESPACE_FLAGS \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | \
	 CLONE_NEWNET)

/* Allows clone only for threads, which share the caller's memory, descriptors and filter. */
static inline void allow_threads(struct policy *p)
{
	IF_EQUAL(p, 0, 5, SYS_clone);
	LOAD(p, args[0]);
	emit(p, BPF_ALU | BPF_AND | BPF_K, 0, 0, (uint32_t)(THREAD_FLAGS | NAMESPACE_FLAGS));
	IF_EQUAL(p, 0, 1, THREAD_FLAGS);
	RETURN(p, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse);
}

/*
 * The beginning of every policy. Refuses calls of another architecture, whose numbers have other
 * meanings. No rule matches calls of x32, which have an additional bit in their numbers.
 */
static inline void begin_policy(struct policy *p)
{
	p->length = 0;
	LOAD(p, arch);
	IF_EQUAL(p, 1, 0, ARCHITECTURE);
	RETURN(p, p->refuse);
	LOAD(p, nr);
}

/* Allows `call` (kill or tgkill) only to send SIGABRT, in argument `signal`, to this process, for abort(3). */
static inline void allow_abort(struct policy *p, uint32_t call, int signal)
{
	IF_EQUAL(p, 0, 6, call);
	LOAD(p, args[0]);
	IF_EQUAL(p, 0, 3, (uint32_t)getpid());
	LOAD(p, args[signal]);
	IF_EQUAL(p, 0, 1, SIGABRT);
	RETURN(p, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse);
}

/*
 * Allows ioctl for the commands. The query whether a descriptor is a terminal, as for colours,
 * fails with ENOTTY.
 */
static inline void allow_ioctl(struct policy *p, const int32_t *commands, size_t count)
{
	IF_EQUAL(p, 1, 0, SYS_ioctl);
	emit(p, BPF_JMP | BPF_JA, 0, 0, (uint32_t)(2 * count + 5));
	LOAD(p, args[1]);
	allow(p, (const uint32_t *)commands, count);
	IF_EQUAL(p, 1, 0, TCGETS);
	IF_EQUAL(p, 0, 1, TIOCGWINSZ);
	RETURN(p, SECCOMP_RET_ERRNO | ENOTTY);
	RETURN(p, p->refuse);
}

/* Calls whose refusal is expected: the caller has an alternative, and uses it. */
static const struct {
	uint32_t call;
	int error;
	int role; /* -1: every role */
} EXPECTED[] = {
	/* Its flags are in memory, which filters cannot read; glibc falls back to clone. */
	{ SYS_clone3, ENOSYS, -1 },
	/* SQLite, for Deno's cache of compiled code: it gives up the cache at once. */
	{ SYS_pread64, EPERM, -1 }, { SYS_pwrite64, EPERM, -1 },
	/* SQLite also, where the cache has changed: it gets the size before it reads. */
	{ SYS_fstat, EPERM, -1 },
	/* A thread's event loop, as the thread ends: its descriptors stay open until the process ends. A filter
	 * cannot distinguish them from sockets of other threads. */
	{ SYS_close, EPERM, -1 },
	/* The listener of the control socket, as its tile ends: the master removes the file. */
#ifdef SYS_unlink
	{ SYS_unlink, EPERM, ROLE_STATUS },
#endif
	{ SYS_unlinkat, EPERM, ROLE_STATUS },
};

/* Prefixes of paths whose refusal is expected: the caller continues without the file. */
static const char *const EXPECTED_PATHS[] = {
	"/proc/sys/vm/overcommit_memory", /* malloc, when it shrinks an arena */
	"/proc/self/statm", /* Deno.memoryUsage() */
	"/proc/self/cgroup", "/sys/fs/cgroup/", /* Rust, to count the processors that it may use */
	"/sys/devices/system/cpu/", "/proc/stat", /* malloc likewise, when threads allocate at the same time */
	"/dev/sysgenid", /* the cryptographic library, in each thread that draws random numbers */
};

/* Parts of such paths below Deno's folder, whose location varies. */
static const char *const EXPECTED_PARTS[] = {
	"/gen/file/", /* the cache of emitted code, for a stack trace */
	"_cache_v", /* SQLite caches and their journals */
};

/* Calls that every Deno worker needs, and why. None takes a file name or a process. */
static const uint32_t COMMON[] = {
	SYS_futex, /* locks, Atomics.wait, V8's threads that work for the tile */
	SYS_epoll_pwait, /* the worker's event loop, and the wait for postMessage */
#ifdef SYS_epoll_wait
	SYS_epoll_wait,
	SYS_poll,
#endif
	SYS_ppoll, /* the tile's own waits */
	SYS_restart_syscall, /* continues a wait after SIGSTOP and SIGCONT */
	SYS_madvise, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_brk, /* heap, collector and JIT */
	/* As mprotect: V8's code pages, if the CPU has memory protection keys; V8 aborts if refused. */
	SYS_pkey_mprotect, SYS_pkey_alloc, SYS_pkey_free,
	SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, /* timers, back-off in locks */
	/* The clock, if its source has no vDSO (clocksource hpet, acpi_pm, Xen). */
	SYS_gettimeofday,
#ifdef SYS_time
	SYS_time,
#endif
	SYS_sched_yield,
	SYS_getpid, SYS_getppid, SYS_gettid, SYS_getrandom, /* hash seeds, thread identity in locks */
	SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, /* V8's traps; the end of a thread */
	SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_getaffinity, /* thread start and panic */
	SYS_set_robust_list, SYS_rseq, /* glibc, in each new thread; it aborts if rseq is refused */
	SYS_membarrier, /* V8's and Rust's fences between threads */
	SYS_getcpu, SYS_getrusage, SYS_sysinfo, /* the resources of the process and the machine */
	/* Deno.execPath(), which calls it before it checks the permission, and panics if refused. It discloses
	 * the targets of symbolic links, but no file. */
#ifdef SYS_readlink
	SYS_readlink,
#endif
	SYS_readlinkat,
	SYS_getcwd, /* the text of an uncaught error */
	/* What a newer libc calls in place of the above (Linux 5.11 to 6.7). */
	SYS_epoll_pwait2, SYS_futex_waitv, SYS_futex_wake, SYS_futex_wait, SYS_futex_requeue,
	SYS_map_shadow_stack,
	SYS_exit, SYS_exit_group,
};

/*
 * fcntl may query descriptors but not change them: all tiles share their flags. Locks are allowed
 * because Deno's code cache is an SQLite file, which Deno opens when it first uses a part of
 * itself, also to report an error: SQLite takes a refused lock for a busy one and retries for
 * minutes, while it gives up at once after a refused read.
 */
static const int32_t FCNTL_COMMANDS[] = { F_GETFD, F_GETFL, F_SETLK };

/*
 * V8 handles a fault first. If the fault is not V8's, it restores the default action and lets the
 * fault repeat: without rt_sigaction a store into a read-only region would fault for ever instead
 * of ending the process. abort(3) does the same with SIGABRT.
 */
static const int32_t FAULT_SIGNALS[] = { SIGSEGV, SIGBUS, SIGABRT };

/* prctl may name a thread or a mapping, as runtimes do for debuggers, and change nothing else. */
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif
static const int32_t PRCTL_OPTIONS[] = { PR_SET_NAME, PR_SET_VMA };

static const int32_t SELF[] = { 0 }; /* the calling thread */

/* Additional calls of each role on its own sockets. */
static const uint32_t NET_CALLS[] = {
	SYS_sendto, SYS_recvfrom, /* AF_XDP kicks */
	SYS_recvmmsg, SYS_sendmmsg, /* kernel sockets */
	SYS_getsockopt, /* XDP_STATISTICS; SO_PREFER_BUSY_POLL when rings are taken over */
};
static const uint32_t NETLINK_CALLS[] = { SYS_recvmmsg, SYS_recvmsg, SYS_sendto };

/*
 * The status tile waits in Deno's event loop on sockets on which it already listens. A connection's
 * descriptor is not known in advance, so these calls are not bound to descriptors. Still they can
 * do little to another tile's sockets: sendto is allowed only without an address, without which our
 * UDP sockets send nothing, and netlink changes nothing without a capability.
 */
static const uint32_t STATUS_CALLS[] = {
	SYS_epoll_ctl, SYS_accept4, SYS_recvfrom, /* listening sockets and connections */
	SYS_getsockname, SYS_getpeername, /* Deno gets both of each connection */
	SYS_shutdown, SYS_close,
};
static const int32_t NO_ADDRESS[] = { 0 };
static const int32_t TCP_LEVEL[] = { IPPROTO_TCP }; /* TCP_NODELAY */

static const uint32_t EVENTFD_CALLS[] = { SYS_read, SYS_write };

/* Setting the clock takes a capability; libc reads it by one of these calls. */
static const uint32_t CLOCK_CALLS[] = { SYS_adjtimex, SYS_clock_adjtime };

/* The whole policy of a role. */
static inline void make_policy(struct policy *p, int role, int keep, int32_t *fds, int count,
			int32_t *eventfds, int eventfd_count)
{
	begin_policy(p);
	observe_words(p);
	if (role == ROLE_NET) {
		allow_ranges(p, NET_CALLS, COUNT(NET_CALLS), fds, count);
		/* Its time slices, during a handover. */
		allow_only(p, SYS_sched_getattr, 0, SELF, COUNT(SELF));
		allow_only(p, SYS_sched_setattr, 0, SELF, COUNT(SELF));
	}
	if (role == ROLE_NETLINK)
		allow_ranges(p, NETLINK_CALLS, COUNT(NETLINK_CALLS), fds, count);
	if (role == ROLE_STATUS) {
		allow(p, STATUS_CALLS, COUNT(STATUS_CALLS));
		allow_only(p, SYS_sendto, 5, NO_ADDRESS, COUNT(NO_ADDRESS));
		allow_only(p, SYS_setsockopt, 1, TCP_LEVEL, COUNT(TCP_LEVEL));
	}
	allow(p, COMMON, COUNT(COMMON));
	if (keep & KEEP_CLOCK)
		allow(p, CLOCK_CALLS, COUNT(CLOCK_CALLS));
	allow_ranges(p, EVENTFD_CALLS, COUNT(EVENTFD_CALLS), eventfds, eventfd_count);
	allow_only(p, SYS_rt_sigaction, 0, FAULT_SIGNALS, COUNT(FAULT_SIGNALS));
	allow_only(p, SYS_fcntl, 1, FCNTL_COMMANDS, COUNT(FCNTL_COMMANDS));
	allow_only(p, SYS_prctl, 0, PRCTL_OPTIONS, COUNT(PRCTL_OPTIONS));
	allow_anonymous_mmap(p);
	allow_threads(p);
	allow_abort(p, SYS_tgkill, 2);
	allow_ioctl(p, NULL, 0);
	for (size_t i = 0; i < COUNT(EXPECTED); i++) /* last: some roles may make these calls */
		if (EXPECTED[i].role < 0 || EXPECTED[i].role == role)
			answer_one(p, EXPECTED[i].call, SECCOMP_RET_ERRNO | (uint32_t)EXPECTED[i].error);
	RETURN(p, p->refuse);
}

/*
 * An app's process: the stock Deno from execve on, with all its threads. Its descriptors are its
 * own, so calls on descriptors are allowed for every number, except those of PROCESS_SHARED.
 * Landlock, its user and Deno's permissions limit the files that it can open; the flags of open
 * limit which it can write.
 */
static const uint32_t PROCESS_CALLS[] = {
	/* The start; the preloaded seal.c forbids these before Deno's main, except seccomp in the appliance. */
	SYS_execve, SYS_execveat, SYS_seccomp,
	SYS_arch_prctl, SYS_set_tid_address, /* libc, as a program starts */
	/* Modules, libraries, /proc/self/maps: reading. */
	SYS_read, SYS_pread64, SYS_readv, SYS_lseek, SYS_close, SYS_getdents64,
	SYS_fstat, SYS_newfstatat, SYS_statx, SYS_faccessat, SYS_faccessat2,
#ifdef SYS_open
	SYS_stat, SYS_lstat, SYS_access,
#endif
	SYS_write, SYS_writev, /* the pipe of its output, eventfds, the channel, granted files */
	SYS_epoll_create1, SYS_epoll_ctl, SYS_eventfd2, SYS_pipe2, /* the event loop of each isolate */
	SYS_recvfrom, /* Deno's signal thread, half a second after the start, on a socket pair */
	SYS_rt_sigaction, /* its own handlers: V8's traps, Rust's stack overflows */
	SYS_uname, SYS_umask, SYS_getpriority, /* Deno's queries about itself */
	SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
};

/*
 * Calls of an app that may write files. Landlock and Deno's permissions limit which ones. Calls
 * that only read are in PROCESS_CALLS.
 */
static const uint32_t PROCESS_FILE_CALLS[] = {
	SYS_openat, SYS_pwrite64, SYS_ftruncate, SYS_fsync, SYS_fdatasync, SYS_flock, SYS_copy_file_range,
	SYS_mkdirat, SYS_unlinkat, SYS_renameat, SYS_renameat2, SYS_utimensat,
	SYS_fchmod, SYS_fchmodat, /* copying a file, or writing one with Node's functions, sets its mode */
#ifdef SYS_open
	SYS_open, SYS_chmod, SYS_mkdir, SYS_unlink, SYS_rmdir, SYS_rename,
#endif
};

/* Calls of an app that was granted the network. */
static const uint32_t PROCESS_NET_CALLS[] = {
	SYS_connect, SYS_bind, SYS_listen, SYS_accept4, SYS_shutdown,
	SYS_sendto, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg,
	SYS_setsockopt, SYS_getsockopt, SYS_getsockname, SYS_getpeername,
};
/* For an app with listening sockets: it accepts connections but makes none. All apps have send and recv. */
static const uint32_t PROCESS_ACCEPT_CALLS[] = {
	SYS_listen, /* node:net, on a socket that already listens */
	SYS_accept4, SYS_getsockname, SYS_getpeername, SYS_shutdown,
	SYS_getsockopt, /* Deno gets the type of a given socket, and errors */
};

/* For a slow side with files: Deno.watchFs. Landlock ignores these; the user's read permission limits them. */
static const uint32_t PROCESS_WATCH_CALLS[] = { SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch };

/*
 * Not AF_UNIX, which reaches services of the host (landlock ignores sockets with a path), nor
 * packet sockets, nor the kernel's cryptography. getaddrinfo uses netlink to sort addresses.
 */
static const int32_t PROCESS_FAMILIES[] = { AF_INET, AF_INET6, AF_NETLINK };

static const int32_t PROCESS_PAIRS[] = { AF_UNIX }; /* tokio's signal handler wakes its loop by a pair */
static const int32_t PROCESS_FCNTL[] = {
	F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_SETLK, F_GETLK, /* as in FCNTL_COMMANDS; but see PROCESS_SHARED */
	F_DUPFD_CLOEXEC, /* Rust's try_clone, of its own descriptors */
};
static const int32_t PROCESS_IOCTL[] = { FIONBIO, FIOCLEX, FIONREAD }; /* Rust, for pipes and sockets; a resolver */
/*
 * Forbidden on given descriptors, except those of memory: other processes have the same open file,
 * and would wait for ever if it became blocking. Copies are forbidden because they have another
 * number. (An app with the network can still send itself a copy over a socket pair.)
 */
static const int32_t PROCESS_SHARED[] = { F_SETFL, F_DUPFD, F_DUPFD_CLOEXEC, FIONBIO };

/* Calls whose refusal is expected: the caller has an alternative, or continues without. */
static const struct {
	uint32_t process_call;
	int error;
} PROCESS_EXPECTED[] = {
	{ SYS_clone3, ENOSYS }, /* as in EXPECTED */
	{ SYS_io_uring_setup, ENOSYS }, /* filters do not see its operations; programs do without it */
	{ SYS_openat2, ENOSYS }, /* its flags are in memory */
	/* Deno fails to make and clear the folder of its caches, and continues without. */
#ifdef SYS_mkdir
	{ SYS_mkdir, EACCES },
	{ SYS_unlink, EACCES },
#endif
	{ SYS_mkdirat, EACCES },
	{ SYS_unlinkat, EACCES },
};

/*
 * The appliance may also make the calls of its tiles (NET_CALLS, NETLINK_CALLS and STATUS_CALLS,
 * which the tiles' filters bind to descriptors later), those that start tiles, and those by which
 * tiles confine themselves.
 */
static const uint32_t APPLIANCE_CALLS[] = {
	SYS_sendto, SYS_sendmsg, SYS_sendmmsg, SYS_recvmsg, SYS_recvmmsg, SYS_getsockopt,
	SYS_accept4, SYS_getsockname, SYS_getpeername, SYS_shutdown,
	SYS_listen, /* node:net, on a socket that already listens */
	SYS_capget, SYS_capset, SYS_landlock_create_ruleset, SYS_landlock_restrict_self, /* confine() */
};
/* bind is only for the netlink socket: addresses of other families have another length. */
static const int32_t APPLIANCE_ADDRESSES[] = { sizeof(struct sockaddr_nl) };
static const int32_t APPLIANCE_LEVELS[] = { SOL_SOCKET, SOL_NETLINK, IPPROTO_TCP };
static const int32_t APPLIANCE_PRCTL[] = { PR_SET_NAME, PR_SET_VMA, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS };
/* A filter is only for the thread that installs it, never for all (SECCOMP_FILTER_FLAG_TSYNC). */
static const int32_t APPLIANCE_FILTERS[] = {
	0, SECCOMP_FILTER_FLAG_LOG, SECCOMP_FILTER_FLAG_NEW_LISTENER,
	SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
};
static const int32_t APPLIANCE_IOCTL[] = {
	FIONBIO, FIOCLEX,
	(int32_t)SECCOMP_IOCTL_NOTIF_RECV, (int32_t)SECCOMP_IOCTL_NOTIF_SEND, /* the tiles' observer */
	TCGETS, TIOCGWINSZ, /* the answer is that this is no terminal: not worth logging */
};

/* Forbids shared anonymous memory: no limit of the process counts it. */
static inline void allow_counted_mmap(struct policy *p)
{
	IF_EQUAL(p, 0, 5, SYS_mmap);
	LOAD(p, args[3]);
	emit(p, BPF_ALU | BPF_AND | BPF_K, 0, 0, MAP_SHARED | MAP_ANONYMOUS);
	IF_EQUAL(p, 1, 0, MAP_SHARED | MAP_ANONYMOUS);
	RETURN(p, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse);
}

static const int32_t MIRROR_SOCKETS[] = { AF_NETLINK };

/* Allows open only for reading, if no file to write was granted: SQLite tries to open its caches. */
static inline void allow_reading(struct policy *p, uint32_t call, int flags)
{
	IF_EQUAL(p, 0, 4, call);
	LOAD(p, args[flags]);
	emit(p, BPF_JMP | BPF_JSET | BPF_K, 1, 0, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC);
	RETURN(p, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse == SECCOMP_RET_TRACE ? p->refuse : SECCOMP_RET_ERRNO | EACCES);
}

/* The common part of the policies of apps and the appliance. */
static inline void allow_process(struct policy *p, int grants)
{
	allow(p, COMMON, COUNT(COMMON));
	if (grants & GRANT_WRITE)
		allow(p, PROCESS_FILE_CALLS, COUNT(PROCESS_FILE_CALLS));
#ifdef SYS_open
	allow_reading(p, SYS_open, 1);
#endif
	allow_reading(p, SYS_openat, 2);
	if (grants & GRANT_CLOCK)
		allow(p, CLOCK_CALLS, COUNT(CLOCK_CALLS));
	allow_only(p, SYS_sched_setattr, 0, SELF, COUNT(SELF)); /* V8's threads (seal.c), time slices */
	allow_only(p, SYS_socketpair, 0, PROCESS_PAIRS, COUNT(PROCESS_PAIRS));
	allow_only(p, SYS_prlimit64, 0, SELF, COUNT(SELF)); /* the process can only lower its limits */
	allow_only(p, SYS_fcntl, 1, PROCESS_FCNTL, COUNT(PROCESS_FCNTL));
	allow_counted_mmap(p);
	allow_threads(p);
	allow_abort(p, SYS_tgkill, 2);
	allow_abort(p, SYS_kill, 1);
}

/* Refuses calls that copy the sorted `fds` or change their flags. */
static inline void keep_flags(struct policy *p, const int32_t *fds, int count)
{
	const uint8_t commands = COUNT(PROCESS_SHARED);
	unsigned skip, other;

	IF_EQUAL(p, 2, 0, SYS_fcntl);
	IF_EQUAL(p, 1, 0, SYS_ioctl);
	skip = p->length;
	emit(p, BPF_JMP | BPF_JA, 0, 0, 0);
	LOAD(p, args[1]);
	for (uint8_t i = 0; i < commands; i++)
		IF_EQUAL(p, (uint8_t)(commands - i), 0, (uint32_t)PROCESS_SHARED[i]);
	other = p->length;
	emit(p, BPF_JMP | BPF_JA, 0, 0, 0);
	LOAD(p, args[0]);
	answer_ranges(p, fds, count, p->refuse);
	if (p->length < INSTRUCTIONS) {
		p->code[other].k = p->length - other - 1;
		p->code[skip].k = p->length - skip;
	}
	LOAD(p, nr);
}

/* Allows sockets of IP. libc looks for a name service cache on AF_UNIX, and continues without. */
static inline void allow_network(struct policy *p)
{
	const uint32_t refuse = p->refuse;

	allow(p, PROCESS_NET_CALLS, COUNT(PROCESS_NET_CALLS));
	if (refuse != SECCOMP_RET_TRACE)
		p->refuse = SECCOMP_RET_ERRNO | EACCES;
	allow_only(p, SYS_socket, 0, PROCESS_FAMILIES, COUNT(PROCESS_FAMILIES));
	p->refuse = refuse;
}

/*
 * The policy of the calling process, which becomes an app's. It sends the filter's listener through
 * the descriptor `report`; seal.c later forbids that call and execve. `shared` are the sorted
 * descriptors whose flags others share.
 */
static inline void make_app_policy(struct policy *p, int grants, int32_t report, const int32_t *shared,
				   int shared_count)
{
	begin_policy(p);
	keep_flags(p, shared, shared_count);
	allow_process(p, grants);
	allow(p, PROCESS_CALLS, COUNT(PROCESS_CALLS));
	if (grants & GRANT_WATCH)
		allow(p, PROCESS_WATCH_CALLS, COUNT(PROCESS_WATCH_CALLS));
	if (grants & GRANT_NET) {
		allow_network(p);
	} else {
		allow_only(p, SYS_sendmsg, 0, &report, 1);
		/* send, by which a signal handler wakes tokio's thread */
		allow_only(p, SYS_sendto, 4, NO_ADDRESS, COUNT(NO_ADDRESS));
		if (grants & GRANT_ACCEPT) {
			allow(p, PROCESS_ACCEPT_CALLS, COUNT(PROCESS_ACCEPT_CALLS));
			allow_only(p, SYS_setsockopt, 1, TCP_LEVEL, COUNT(TCP_LEVEL));
		}
		if (p->refuse != SECCOMP_RET_USER_NOTIF) /* the observer gives the same answer */
			answer_one(p, SYS_socket, SECCOMP_RET_ERRNO | EACCES);
	}
	allow_only(p, SYS_prctl, 0, PRCTL_OPTIONS, COUNT(PRCTL_OPTIONS));
	allow_ioctl(p, PROCESS_IOCTL, COUNT(PROCESS_IOCTL));
	for (size_t i = 0; i < COUNT(PROCESS_EXPECTED); i++)
		answer_one(p, PROCESS_EXPECTED[i].process_call, SECCOMP_RET_ERRNO | (uint32_t)PROCESS_EXPECTED[i].error);
	RETURN(p, p->refuse);
}

/*
 * The policy of the calling process, which becomes the appliance. It has no listener, because each
 * tile's filter has one, and the kernel allows only one on a thread. So `refuse` is SECCOMP_RET_TRACE,
 * which without a tracer fails with ENOSYS. The action of a tile's filter has precedence over it, but
 * not over SECCOMP_RET_ERRNO, so that the tiles' observer counts refused calls.
 */
static inline void make_appliance_policy(struct policy *p, int grants)
{
	p->refuse = SECCOMP_RET_TRACE;
	p->log = 1;
	begin_policy(p);
	allow_only(p, SYS_seccomp, 1, APPLIANCE_FILTERS, COUNT(APPLIANCE_FILTERS));
	allow_process(p, grants);
	allow(p, PROCESS_CALLS, COUNT(PROCESS_CALLS));
	allow(p, APPLIANCE_CALLS, COUNT(APPLIANCE_CALLS));
	if (grants & GRANT_NET) {
		allow_network(p);
	} else {
		allow_only(p, SYS_socket, 0, MIRROR_SOCKETS, COUNT(MIRROR_SOCKETS));
		allow_only(p, SYS_bind, 2, APPLIANCE_ADDRESSES, COUNT(APPLIANCE_ADDRESSES));
		allow_only(p, SYS_setsockopt, 1, APPLIANCE_LEVELS, COUNT(APPLIANCE_LEVELS));
	}
	allow_only(p, SYS_prctl, 0, APPLIANCE_PRCTL, COUNT(APPLIANCE_PRCTL));
	allow_only(p, SYS_sched_getattr, 0, SELF, COUNT(SELF));
	allow_ioctl(p, APPLIANCE_IOCTL, COUNT(APPLIANCE_IOCTL));
	for (size_t i = 0; i < COUNT(PROCESS_EXPECTED); i++) /* make_quiet_policy refuses these */
		answer_one(p, PROCESS_EXPECTED[i].process_call, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse);
}

/* A second filter of the appliance: refuses calls whose refusal is expected, so that the kernel does not log them. */
static inline void make_quiet_policy(struct policy *p, int grants)
{
	p->refuse = SECCOMP_RET_TRACE;
	p->log = 0;
	begin_policy(p);
	if (grants & GRANT_WRITE)
		allow(p, PROCESS_FILE_CALLS, COUNT(PROCESS_FILE_CALLS));
	for (size_t i = 0; i < COUNT(PROCESS_EXPECTED); i++)
		answer_one(p, PROCESS_EXPECTED[i].process_call, p->refuse);
#ifdef SYS_open
	allow_reading(p, SYS_open, 1);
#endif
	allow_reading(p, SYS_openat, 2);
	RETURN(p, SECCOMP_RET_ALLOW);
}

/*
 * Installs the filter on the calling thread. Returns its listener if the policy has one, else 0, or
 * -errno if the kernel has no listeners (before Linux 5.0) or another filter of the thread has one.
 */
static inline int install(struct policy *p)
{
	/* Since Linux 5.19, signals can wait until the observer answers. */
	const unsigned long ways[] = {
		SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
		SECCOMP_FILTER_FLAG_NEW_LISTENER,
		p->log ? SECCOMP_FILTER_FLAG_LOG : 0,
	};
	struct sock_fprog program = { .len = (unsigned short)p->length, .filter = p->code };
	size_t way = p->refuse == SECCOMP_RET_USER_NOTIF ? 0 : 2;
	long fd;

	while ((fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, ways[way], &program)) < 0 && way < 1)
		way++;
	return result(fd);
}

/*
 * Stores all signals except those of a thread's own faults and of V8's profiler (signal(7)). SIGUSR1
 * would open Deno's inspector, and Deno's handlers write to a pipe, which a tile may not do.
 */
static inline void foreign_signals(sigset_t *set)
{
	static const int OWN[] = { SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGPROF, SIGSYS };

	sigfillset(set);
	for (size_t i = 0; i < COUNT(OWN); i++)
		sigdelset(set, OWN[i]);
}

/*
 * Drops all capabilities except `keep` from the bounding set, so that no exec can give them back.
 * This takes CAP_SETPCAP; without it, no_new_privs must suffice.
 */
static inline void bound_capabilities(uint64_t keep)
{
	for (int capability = 0; capability < 64; capability++)
		if (!(keep >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
			break; /* past the last one, or not allowed */
}

/*
 * Limits the capabilities of the calling thread to `keep`. If `inherited`, programs that it executes
 * have them too; a capability that is not inheritable cannot be ambient. Returns 0, or -errno.
 */
static inline int keep_capabilities(uint64_t keep, int inherited)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		data[i].permitted &= (uint32_t)(keep >> 32 * i);
		data[i].effective = data[i].permitted;
		data[i].inheritable = inherited ? data[i].permitted : 0;
	}
	if (syscall(SYS_capset, &header, data) < 0)
		return -errno;
	/* Without this, exec drops them, as it does if ambient capabilities are forbidden. */
	for (int capability = 0; capability < 64; capability++)
		if (data[capability / 32].inheritable >> capability % 32 & 1)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
	return 0;
}

#define ALL_TCP (LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP)

/*
 * Makes a landlock ruleset that handles the accesses `files` and `tcp` and, if `scopes`, signals
 * and abstract sockets, as far as the kernel supports them. Stores the supported accesses to files
 * and the version of landlock. Returns the descriptor, or -errno; -ENOSYS or -EOPNOTSUPP if the
 * kernel has no landlock.
 */
static inline int make_ruleset(uint64_t tcp, int scopes, uint64_t *files, long *version)
{
	/* The number of accesses that each version of landlock supports. */
	static const uint8_t ACCESSES[] = { 13, 14, 15, 15, 16 };
	struct landlock_ruleset_attr rules = { 0 };

	*version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (*version < 1)
		return -errno;
	*files &= (1ULL << ACCESSES[*version > 5 ? 4 : *version - 1]) - 1;
	rules.handled_access_fs = *files;
	if (*version >= 4)
		rules.handled_access_net = tcp;
#ifdef LANDLOCK_SCOPE_SIGNAL
	if (scopes && *version >= 6)
		rules.scoped = LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL;
#else
	(void)scopes;
#endif
	return result(syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0));
}

/* Landlock accesses that apply to files. */
#define OF_FILES                                                                            \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | \
	 LANDLOCK_ACCESS_FS_TRUNCATE)

/* Allows `access` to `path` and everything below it. Returns 0, or -errno. */
static inline int allow_path(int ruleset, uint64_t access, const char *path)
{
	struct landlock_path_beneath_attr rule = { .allowed_access = access };
	struct stat status;
	int error;

	rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
	if (rule.parent_fd < 0)
		return -errno;
	if (fstat(rule.parent_fd, &status) == 0 && !S_ISDIR(status.st_mode))
		rule.allowed_access &= OF_FILES;
	error = result(syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0));
	close(rule.parent_fd);
	return error;
}

/* Does so for all paths of a list. */
static inline int allow_paths(int ruleset, uint64_t access, char **paths)
{
	int error = 0;

	for (; *paths && !error; paths++)
		error = allow_path(ruleset, access, *paths);
	return error;
}

#endif
