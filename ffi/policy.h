/* SPDX-License-Identifier: Apache-2.0
 * The policies of system calls, with the reason for each call: those of tiles (tile.c: a filter for one
 * thread), and those of the process of an app and of the appliance (process.c: a filter that is installed
 * before exec, for every thread). docs/system_calls.md is made from these lists, and a test compares
 * them.
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

/* Newer than the headers of some hosts; the numbers are those of every architecture. */
#ifndef SYS_map_shadow_stack
#define SYS_map_shadow_stack 453
#endif
#ifndef SYS_futex_wake
#define SYS_futex_wake 454
#define SYS_futex_wait 455
#define SYS_futex_requeue 456
#endif
#ifndef SYS_arch_prctl
#define SYS_arch_prctl SYS_set_tid_address /* x86's alone: the register of a thread's own data */
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

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
	int log; /* whether the kernel logs what it refuses; not where an observer counts it */
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

/* What was loaded, a call or an argument, has this `action` where it is `value`. */
static inline void answer_one(struct policy *p, uint32_t value, uint32_t action)
{
	IF_EQUAL(p, 0, 1, value);
	RETURN(p, action);
}

/* The calls are allowed whatever their arguments. */
static inline void allow(struct policy *p, const uint32_t *calls, size_t count)
{
	for (size_t i = 0; i < count; i++)
		answer_one(p, calls[i], SECCOMP_RET_ALLOW);
}

/* The call is allowed when its argument `index` is one of `values`, else refused. */
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
 * The loaded descriptor has this `action` where it is one of `fds`, which are in order. A run of adjacent ones is one
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
 * Each of the calls is allowed when its first argument is one of `fds`, else refused. Sorts `fds`. One check serves
 * all the calls.
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

/* Writes to standard output and error go to the observer. */
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

/* mmap is allowed for anonymous memory alone: neither a ring nor a BPF map of another tile. */
static inline void allow_anonymous_mmap(struct policy *p)
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
 * What every policy begins with. Calls of another architecture, whose numbers mean other things, are
 * refused; x32's carry a bit in their number that no rule has.
 */
static inline void begin_policy(struct policy *p)
{
	p->length = 0;
	LOAD(p, arch);
	IF_EQUAL(p, 1, 0, ARCHITECTURE);
	RETURN(p, p->refuse);
	LOAD(p, nr);
}

/* `call` (kill, or tgkill) sends SIGABRT, its argument `signal`, within this process alone: abort(3). */
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
 * ioctl is allowed for the commands. Whoever asks whether a descriptor is a terminal, as for colours,
 * is told that it is not one.
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
	/* The control socket's listener, as its tile ends: the master removes the file. */
#ifdef SYS_unlink
	{ SYS_unlink, EPERM, ROLE_STATUS },
#endif
	{ SYS_unlinkat, EPERM, ROLE_STATUS },
};

/* Beginnings of paths of files that are looked for as a matter of course; the caller continues without. */
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
	SYS_restart_syscall, /* a wait continues after SIGSTOP and SIGCONT */
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
static const int32_t FCNTL_COMMANDS[] = { F_GETFD, F_GETFL, F_SETLK };

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

static const int32_t SELF[] = { 0 }; /* the calling thread */

/* What each role does on its own sockets, besides. */
static const uint32_t NET_CALLS[] = {
	SYS_sendto, SYS_recvfrom, /* AF_XDP kicks */
	SYS_recvmmsg, SYS_sendmmsg, /* kernel sockets */
	SYS_getsockopt, /* XDP_STATISTICS; SO_PREFER_BUSY_POLL as rings are taken over */
};
static const uint32_t NETLINK_CALLS[] = { SYS_recvmmsg, SYS_recvmsg, SYS_sendto };

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

static const uint32_t EVENTFD_CALLS[] = { SYS_read, SYS_write };

/* Setting the clock takes a capability; libc reads it by the one call or the other. */
static const uint32_t CLOCK_CALLS[] = { SYS_adjtimex, SYS_clock_adjtime };

/* The whole policy of a role. */
static inline void make_policy(struct policy *p, int role, int keep, int32_t *fds, int count,
			int32_t *eventfds, int eventfd_count)
{
	begin_policy(p);
	observe_words(p);
	if (role == ROLE_NET) {
		allow_ranges(p, NET_CALLS, COUNT(NET_CALLS), fds, count);
		/* Its slices of a processor, during a handover. */
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
 * An app's process: the stock Deno from its execve on, with every thread that there will ever be. Its
 * descriptors are its own, so calls on descriptors are allowed whatever the number is (but those of
 * PROCESS_SHARED); what it can open
 * is bounded by landlock, by its user and by Deno's permissions, and to write, by the flags of open.
 */
static const uint32_t PROCESS_CALLS[] = {
	/* The start; the preloaded seal.c forbids these before Deno's main, but seccomp in the appliance. */
	SYS_execve, SYS_execveat, SYS_seccomp,
	SYS_arch_prctl, SYS_set_tid_address, /* libc, as a program starts */
	/* Modules, libraries, /proc/self/maps: reading. */
	SYS_read, SYS_pread64, SYS_readv, SYS_lseek, SYS_close, SYS_getdents64,
	SYS_fstat, SYS_newfstatat, SYS_statx, SYS_faccessat, SYS_faccessat2,
#ifdef SYS_open
	SYS_stat, SYS_lstat, SYS_access,
#endif
	SYS_write, SYS_writev, /* the pipe of its words, eventfds, the channel, granted files */
	SYS_epoll_create1, SYS_epoll_ctl, SYS_eventfd2, SYS_pipe2, /* an event loop for each isolate */
	SYS_recvfrom, /* Deno's thread for signals, half a second after the start, on a pair of sockets */
	SYS_rt_sigaction, /* its own handlers: V8's traps, Rust's overflow of a stack */
	SYS_uname, SYS_umask, SYS_getpriority, /* Deno's inquiries about itself */
	SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
};

/*
 * Where the app was granted files to write. Which ones is landlock's to say, and Deno's permissions; what
 * only reads is in PROCESS_CALLS.
 */
static const uint32_t PROCESS_FILE_CALLS[] = {
	SYS_openat, SYS_pwrite64, SYS_ftruncate, SYS_fsync, SYS_fdatasync, SYS_flock, SYS_copy_file_range,
	SYS_mkdirat, SYS_unlinkat, SYS_renameat, SYS_renameat2, SYS_utimensat,
	SYS_fchmod, SYS_fchmodat, /* also a mere copy, or a write by Node's functions, sets the file's mode */
#ifdef SYS_open
	SYS_open, SYS_chmod, SYS_mkdir, SYS_unlink, SYS_rmdir, SYS_rename,
#endif
};

/* Where the app was granted the network. */
static const uint32_t PROCESS_NET_CALLS[] = {
	SYS_connect, SYS_bind, SYS_listen, SYS_accept4, SYS_shutdown,
	SYS_sendto, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg,
	SYS_setsockopt, SYS_getsockopt, SYS_getsockname, SYS_getpeername,
};
/* With listening sockets that it was given: it accepts connections and makes none. All apps have send and recv. */
static const uint32_t PROCESS_ACCEPT_CALLS[] = {
	SYS_listen, /* node:net, on a socket that was handed over and listens already */
	SYS_accept4, SYS_getsockname, SYS_getpeername, SYS_shutdown,
	SYS_getsockopt, /* Deno asks what kind of socket was handed over, and for errors */
};

/* Of a slow side that was granted files: Deno.watchFs. Landlock does not look at these, the user's rights to read do. */
static const uint32_t PROCESS_WATCH_CALLS[] = { SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch };

/*
 * Neither the host's services (landlock does not look at sockets that have a path), nor packets, nor the
 * kernel's cryptography. getaddrinfo sorts by netlink.
 */
static const int32_t PROCESS_FAMILIES[] = { AF_INET, AF_INET6, AF_NETLINK };

static const int32_t PROCESS_PAIRS[] = { AF_UNIX }; /* by which tokio's signals wake its loop */
static const int32_t PROCESS_FCNTL[] = {
	F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_SETLK, F_GETLK, /* as FCNTL_COMMANDS; but see PROCESS_SHARED */
	F_DUPFD_CLOEXEC, /* Rust's try_clone, of its own descriptors */
};
static const int32_t PROCESS_IOCTL[] = { FIONBIO, FIOCLEX, FIONREAD }; /* Rust, for pipes and sockets; a resolver */
/*
 * What it may not do with descriptors that it was handed, but for those of memory: others have the same
 * file, and would wait for ever where it blocks. Nor copy them, to do it by another number. (One that was
 * granted the network can send itself a copy, over a pair of sockets.)
 */
static const int32_t PROCESS_SHARED[] = { F_SETFL, F_DUPFD, F_DUPFD_CLOEXEC, FIONBIO };

/* Refused as a matter of course; the caller has another way, or continues without. */
static const struct {
	uint32_t process_call;
	int error;
} PROCESS_EXPECTED[] = {
	{ SYS_clone3, ENOSYS }, /* as in EXPECTED */
	{ SYS_io_uring_setup, ENOSYS }, /* no filter sees its calls; programs that probe for it do without it */
	{ SYS_openat2, ENOSYS }, /* its flags are in memory */
	/* Deno makes the folder of its caches and clears it, in vain, and continues without. */
#ifdef SYS_mkdir
	{ SYS_mkdir, EACCES },
	{ SYS_unlink, EACCES },
#endif
	{ SYS_mkdirat, EACCES },
	{ SYS_unlinkat, EACCES },
};

/*
 * The appliance: an app's process may make the calls above; these are those of its tiles (NET_CALLS,
 * NETLINK_CALLS and STATUS_CALLS, which are bound to their descriptors later), those by which they
 * start, and those by which they confine themselves.
 */
static const uint32_t APPLIANCE_CALLS[] = {
	SYS_sendto, SYS_sendmsg, SYS_sendmmsg, SYS_recvmsg, SYS_recvmmsg, SYS_getsockopt,
	SYS_accept4, SYS_getsockname, SYS_getpeername, SYS_shutdown,
	SYS_listen, /* node:net, on a socket that was handed over and listens already */
	SYS_capget, SYS_capset, SYS_landlock_create_ruleset, SYS_landlock_restrict_self, /* confine() */
};
/* bind is the netlink socket's: the addresses of all other families have another length. */
static const int32_t APPLIANCE_ADDRESSES[] = { sizeof(struct sockaddr_nl) };
static const int32_t APPLIANCE_LEVELS[] = { SOL_SOCKET, SOL_NETLINK, IPPROTO_TCP };
static const int32_t APPLIANCE_PRCTL[] = { PR_SET_NAME, PR_SET_VMA, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS };
/* A filter is for the thread that installs it, never for all (SECCOMP_FILTER_FLAG_TSYNC). */
static const int32_t APPLIANCE_FILTERS[] = {
	0, SECCOMP_FILTER_FLAG_LOG, SECCOMP_FILTER_FLAG_NEW_LISTENER,
	SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
};
static const int32_t APPLIANCE_IOCTL[] = {
	FIONBIO, FIOCLEX,
	(int32_t)SECCOMP_IOCTL_NOTIF_RECV, (int32_t)SECCOMP_IOCTL_NOTIF_SEND, /* the tiles' observer */
	TCGETS, TIOCGWINSZ, /* the answer is that there is no terminal: nothing to log */
};

/* Memory that is shared and has no file counts in no limit of the process. */
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

/* open is for reading, where no file was granted to be written: SQLite opens its caches, in vain. */
static inline void allow_reading(struct policy *p, uint32_t call, int flags)
{
	IF_EQUAL(p, 0, 4, call);
	LOAD(p, args[flags]);
	emit(p, BPF_JMP | BPF_JSET | BPF_K, 1, 0, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC);
	RETURN(p, SECCOMP_RET_ALLOW);
	RETURN(p, p->refuse == SECCOMP_RET_TRACE ? p->refuse : SECCOMP_RET_ERRNO | EACCES);
}

/* What policies of app and appliance have in common. */
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
	allow_only(p, SYS_sched_setattr, 0, SELF, COUNT(SELF)); /* V8's threads give way (seal.c), a tile is prompt */
	allow_only(p, SYS_socketpair, 0, PROCESS_PAIRS, COUNT(PROCESS_PAIRS));
	allow_only(p, SYS_prlimit64, 0, SELF, COUNT(SELF)); /* limits of the process itself can only fall */
	allow_only(p, SYS_fcntl, 1, PROCESS_FCNTL, COUNT(PROCESS_FCNTL));
	allow_counted_mmap(p);
	allow_threads(p);
	allow_abort(p, SYS_tgkill, 2);
	allow_abort(p, SYS_kill, 1);
}

/* Refuses what changes the flags of the `fds`, which are in order, or copies them. */
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

/* Where the network was granted: sockets of IP. libc looks for a cache of names on AF_UNIX, and continues without. */
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
 * The policy of the calling process, which becomes an app's. `report` is the descriptor by which it
 * sends the filter's listener; seal.c forbids that call with execve. `shared` are those, in order, whose
 * flags are others' too.
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
		/* send, by which a handler of signals wakes tokio's thread */
		allow_only(p, SYS_sendto, 4, NO_ADDRESS, COUNT(NO_ADDRESS));
		if (grants & GRANT_ACCEPT) {
			allow(p, PROCESS_ACCEPT_CALLS, COUNT(PROCESS_ACCEPT_CALLS));
			allow_only(p, SYS_setsockopt, 1, TCP_LEVEL, COUNT(TCP_LEVEL));
		}
		if (p->refuse != SECCOMP_RET_USER_NOTIF) /* the observer answers the same */
			answer_one(p, SYS_socket, SECCOMP_RET_ERRNO | EACCES);
	}
	allow_only(p, SYS_prctl, 0, PRCTL_OPTIONS, COUNT(PRCTL_OPTIONS));
	allow_ioctl(p, PROCESS_IOCTL, COUNT(PROCESS_IOCTL));
	for (size_t i = 0; i < COUNT(PROCESS_EXPECTED); i++)
		answer_one(p, PROCESS_EXPECTED[i].process_call, SECCOMP_RET_ERRNO | (uint32_t)PROCESS_EXPECTED[i].error);
	RETURN(p, p->refuse);
}

/*
 * The policy of the calling process, which becomes the appliance. Each of its tiles has a filter with a
 * listener of its own, which the kernel refuses beneath another listener, so this one has none: `refuse`
 * is SECCOMP_RET_TRACE. Without a tracer that is ENOSYS, and it gives way to a tile's own answer, so
 * that the tiles' observer counts what a tile is refused; SECCOMP_RET_ERRNO would not.
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

/* Beneath the appliance's: what is refused as a matter of course, which the kernel does not log. */
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
 * Puts the filter on the calling thread. Returns its listener where the policy wants one, else 0;
 * or -errno, when the kernel has no such listener (before Linux 5.0), or this is inside another's.
 */
static inline int install(struct policy *p)
{
	/* Signals wait while the observer answers, from Linux 5.19 on. */
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
 * Stores all signals but those of a thread's own faults and of V8's profiler (signal(7)): SIGUSR1 would open
 * Deno's inspector, and Deno's handlers write to a pipe, which a tile may not.
 */
static inline void foreign_signals(sigset_t *set)
{
	static const int OWN[] = { SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGPROF, SIGSYS };

	sigfillset(set);
	for (size_t i = 0; i < COUNT(OWN); i++)
		sigdelset(set, OWN[i]);
}

/*
 * Drops all capabilities but `keep` from the bounding set: no exec can give them back. That takes CAP_SETPCAP;
 * without it no_new_privs has to suffice.
 */
static inline void bound_capabilities(uint64_t keep)
{
	for (int capability = 0; capability < 64; capability++)
		if (!(keep >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
			break; /* past the last one, or not allowed */
}

/*
 * Limits the capabilities of the calling thread to `keep`. Programs that it executes have them too where they are
 * `inherited`; what is not inheritable is not ambient either. Returns 0, or -errno.
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
	/* Otherwise exec would drop them, as it does if ambient capabilities are forbidden. */
	for (int capability = 0; capability < 64; capability++)
		if (data[capability / 32].inheritable >> capability % 32 & 1)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
	return 0;
}

#define ALL_TCP (LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP)

/*
 * Makes a landlock ruleset that handles the accesses `files` to files, those to TCP, and the scopes of
 * signals and abstract sockets where wanted, as far as they are known. Stores which accesses to files these
 * are, and the version of landlock. Returns the descriptor, or -errno; -ENOSYS or -EOPNOTSUPP where the kernel has
 * no landlock.
 */
static inline int make_ruleset(uint64_t tcp, int scopes, uint64_t *files, long *version)
{
	/* How many accesses each version of landlock knows. */
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

/* Accesses of landlock that apply to files. */
#define OF_FILES                                                                            \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | \
	 LANDLOCK_ACCESS_FS_TRUNCATE)

/* Allows `access` of what is at `path`, and below. Returns 0, or -errno. */
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

/* Likewise for all of a list. */
static inline int allow_paths(int ruleset, uint64_t access, char **paths)
{
	int error = 0;

	for (; *paths && !error; paths++)
		error = allow_path(ruleset, access, *paths);
	return error;
}

#endif
