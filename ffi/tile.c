/*
 * What every tile may do (tile.ts): wake another, and confine itself.
 *
 * Confinement is per thread, and this is called on the tile's own: capabilities, no_new_privs,
 * landlock and seccomp take effect for the calling thread alone, so that main keeps what it needs.
 * It is one layer of several, and says nothing about memory, which all tiles share.
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
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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

#define EVENTFDS 512

/* What may be kept besides; as KEEP in tile.ts. */
enum keep { KEEP_NET_ADMIN = 1, KEEP_CLOCK = 2, KEEP_FILES = 4 };

enum role { NETLINK, NET, APP, STATUS };

/* Adds one to the eventfd: who polls it returns. Non-blocking, so a full counter is no matter. */
EXPORT void tegula_tile_wake(int fd)
{
	eventfd_write(fd, 1);
}

/*
 * A seccomp filter in the making. Classic BPF jumps at most 255 instructions ahead when it compares,
 * so each rule is its own short piece: compare, return. Of arguments only the lower 32 bits are looked
 * at, as the kernel does with descriptors and commands.
 */
#define INSTRUCTIONS BPF_MAXINSNS
struct policy {
	struct sock_filter code[INSTRUCTIONS];
	unsigned length;
};

static const uint32_t REFUSE = SECCOMP_RET_ERRNO | EPERM;

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
	RETURN(p, REFUSE);
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
	RETURN(p, REFUSE);
	if (skip < INSTRUCTIONS)
		p->code[skip].k = p->length - skip - 1;
}

/* mmap is allowed for anonymous memory alone: neither a ring nor a BPF map of another tile. */
static void allow_anonymous_mmap(struct policy *p)
{
	IF_EQUAL(p, 0, 4, SYS_mmap);
	LOAD(p, args[3]);
	emit(p, BPF_JMP | BPF_JSET | BPF_K, 0, 1, MAP_ANONYMOUS);
	RETURN(p, SECCOMP_RET_ALLOW);
	RETURN(p, REFUSE);
}

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
	SYS_clock_gettime, SYS_clock_nanosleep, SYS_sched_yield, /* timers, back-off in locks */
	SYS_getpid, SYS_gettid, SYS_getrandom, /* hash seeds, thread identity in locks */
	SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, /* V8's traps; a thread's end */
	SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_getaffinity, /* thread start and panic */
	SYS_getcwd, /* the text of an uncaught error */
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
 * of ending the process.
 */
static const int32_t FAULT_SIGNALS[] = { SIGSEGV, SIGBUS };

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
	SYS_mkdirat, SYS_unlinkat, SYS_renameat2,
#ifdef SYS_open
	SYS_open, SYS_stat, SYS_lstat, SYS_readlink, SYS_mkdir, SYS_unlink, SYS_rmdir, SYS_rename,
#endif
};

static const uint32_t EVENTFD_CALLS[] = { SYS_read, SYS_write };

/* Setting the clock takes a capability; libc reads it by the one call or the other. */
static const uint32_t CLOCK_CALLS[] = { SYS_adjtimex, SYS_clock_adjtime };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

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
	RETURN(p, REFUSE);
	LOAD(p, nr);
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
	allow_only(p, SYS_fcntl, 1, FCNTL_COMMANDS, COUNT(FCNTL_COMMANDS));
	allow_anonymous_mmap(p);
	RETURN(p, REFUSE);
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
 * Gives up, on the calling thread and for good, all that `role` does not need. `fds` are the `count`
 * sockets that it sends and receives on, which this sorts; `keep` is of KEEP_*. Returns 1 when landlock is among what
 * was done, 0 when not, or -errno, when some may have been done and the tile must not go on.
 */
EXPORT int tegula_tile_confine(int role, int32_t *fds, int count, int keep)
{
	struct policy policy;
	struct sock_fprog program = { .filter = policy.code };
	int32_t eventfds[EVENTFDS];
	int error, landlock, found = list_eventfds(eventfds, EVENTFDS);

	if (found < 0)
		return found;
	make_policy(&policy, (enum role)role, keep, fds, count, eventfds, found);
	if (policy.length > INSTRUCTIONS || found == EVENTFDS)
		return -E2BIG;
	program.len = (unsigned short)policy.length;
	error = drop_capabilities(keep & KEEP_NET_ADMIN);
	if (!error)
		error = result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	landlock = error || keep & KEEP_FILES ? error : forbid_files();
	if (landlock < 0)
		return landlock;
	error = result(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
	return error ? error : landlock;
}
