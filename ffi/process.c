/* SPDX-License-Identifier: Apache-2.0
 * Starts a process that is confined before exec (process.ts). Restrictions made before the
 * program's first instruction hold for all its threads. In order, in the child:
 *
 *   1. Namespaces of its own: network (unless granted), IPC, UTS, PID, cgroup. With CAP_SYS_ADMIN
 *      directly; else within a user namespace; if the system refuses both, without namespaces. The
 *      appliance stays in the host's network namespace, and is never in a user namespace: its
 *      netlink tile needs CAP_NET_ADMIN over the host's interfaces.
 *   2. A high OOM score, and a session of its own. Descriptors: 0 is /dev/null, 1 and 2 are a pipe,
 *      3 is the channel, given ones follow in order; all others are closed. All signals are blocked
 *      except those of a thread's own faults: SIGUSR1 would open Deno's inspector. Only SIGKILL
 *      ends it.
 *   3. Limits: no core, no locked memory, no message queues; descriptors, threads (if it has its
 *      own count), data.
 *   4. The bounding set dropped, a user and group of its own if allowed, no capabilities (except
 *      CAP_NET_ADMIN if granted and the caller has it), death with the calling thread (which must
 *      not exit), no new privileges.
 *   5. Landlock: listed files only, no TCP (unless granted), no signals or abstract sockets to other processes.
 *   6. The filter of policy.h. An app's has a listener, which is sent to the caller and served by
 *      its observer (tile.c); the appliance's has none, so that its tiles can have listeners.
 *   7. execve of the caller's program: by descriptor if the child's user cannot reach its path, or
 *      an upgrade has replaced the file. The preloaded seal.c then forbids execve, and the call
 *      that sent the listener.
 *
 * If the system does not support a wall, the child starts without it and reports it to the caller.
 * After any other failure the child reports the step and ends.
 *
 * The caller has many threads, so between clone and execve the child makes only system calls: no
 * malloc, no locks, no stdio. The caller prepares as much as possible before.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "native.h"
#include "policy.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define START_SECONDS 10
#define LEAST_DESCRIPTORS 64
#define ISOLATED (CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWCGROUP)

/* The child's message before execve. */
struct report {
	int32_t step, error, missing;
};

/* What the caller prepares for the child. */
struct plan {
	const struct order *order;
	char **argv, **envp;
	char uid_map[40], gid_map[40];
	int null, words, channel;
	int seal, program; /* the preloaded library, and the program to execute */
	int by_path; /* whether the path still names the same program */
	int setup, ruleset; /* only for the child, until execve */
	int32_t *from; /* room for place_descriptors() */
	int32_t *shared; /* the child's descriptors whose files others share, sorted */
	int shared_count;
	int missing, user_namespace;
};

/* Descriptor numbers: the first ones, those of the order, the seal, and those that close on exec. */
#define FIRST_PLACES 4
#define OWN_PLACES 3

/* Accesses to the paths of each list. */
#define TO_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define TO_EXECUTE (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE)
#define TO_WRITE                                                                            \
	(LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE | LANDLOCK_ACCESS_FS_MAKE_REG | \
	 LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |                         \
	 LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REFER)

/* Allows TCP to and from the ports. Returns 0, or -errno. */
static int allow_ports(int ruleset, char **ports)
{
	int error = 0;

	for (; *ports && !error; ports++) {
		struct landlock_net_port_attr rule = { ALL_TCP, (uint64_t)atoi(*ports) };

		error = result(syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_NET_PORT, &rule, 0));
	}
	return error;
}

/*
 * Makes the child's ruleset from its four lists; with the network and no ports, all TCP is allowed.
 * Returns its descriptor, -1 without landlock, or -errno.
 */
static int make_rules(struct plan *plan, char **execute, char **read, char **write, char **ports)
{
	int error, net = plan->order->grants & GRANT_NET && !*ports;
	uint64_t files = ~0ULL;
	long version;
	int ruleset = make_ruleset(net ? 0 : ALL_TCP, 1, &files, &version);

	if (ruleset == -ENOSYS || ruleset == -EOPNOTSUPP) {
		plan->missing |= WALL_FILES | WALL_TCP | WALL_SCOPES;
		return -1;
	}
	if (ruleset < 0)
		return ruleset;
	if (!net && version < 4)
		plan->missing |= WALL_TCP;
#ifdef LANDLOCK_SCOPE_SIGNAL
	if (version < 6)
#endif
		plan->missing |= WALL_SCOPES;
	error = version < 4 ? 0 : allow_ports(ruleset, ports);
	if (!error)
		error = allow_paths(ruleset, TO_EXECUTE & files, execute);
	if (!error)
		error = allow_paths(ruleset, TO_READ & files, read);
	if (!error)
		error = allow_paths(ruleset, TO_WRITE & files, write);
	return opened(ruleset, error);
}

/* Writes the whole of `text` into `path`. Returns 0, or -errno. */
static int write_file(const char *path, const char *text)
{
	int error = 0, fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		error = -errno;
	close(fd);
	return error;
}

/* Reports the child's step to the caller, with the filter's listener. Ends the child after an error. */
static void report(int setup, int step, int error, int missing, int listener)
{
	struct report said = { (int32_t)step, error, missing };
	struct iovec part = { &said, sizeof(said) };
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (listener >= 0) {
		control.header = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.header), &listener, sizeof(int));
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
	}
	/* write: the filter allows sendmsg only for the listener. */
	if ((listener >= 0 ? sendmsg(setup, &message, MSG_NOSIGNAL) : write(setup, &said, sizeof(said))) < 0 || error < 0)
		syscall(SYS_exit_group, 127);
}

/* Reports the step to the caller and ends the child, if the step failed. */
static void check(const struct plan *plan, int step, int error)
{
	if (error < 0)
		report(plan->setup, step, error, 0, -1);
}

static int limit(int resource, rlim_t value)
{
	struct rlimit both = { value, value }, old;

	if (getrlimit((__rlimit_resource_t)resource, &old) == 0 && old.rlim_max < value)
		both = (struct rlimit){ old.rlim_max, old.rlim_max };
	return result(setrlimit((__rlimit_resource_t)resource, &both));
}

/*
 * Moves the descriptors to their numbers: first all of them above these numbers, then each to its
 * own. So twice as many must fit into the caller's limit for a moment; Deno has raised it to the hard
 * limit. Descriptors that only the child needs come last, and close on exec. Returns 0, or -errno.
 */
static int place_descriptors(struct plan *plan)
{
	const struct order *order = plan->order;
	const int places = FIRST_PLACES + order->count + 1, all = places + OWN_PLACES;
	const int32_t first[FIRST_PLACES] = { plan->null, plan->words, plan->words, plan->channel };
	const int32_t own[OWN_PLACES] = { plan->setup, plan->program, plan->ruleset };

	for (int i = 0; i < all; i++) {
		int fd = i < FIRST_PLACES ? first[i] : i < places - 1 ? order->fds[i - FIRST_PLACES] :
			 i < places ? plan->seal : own[i - places];

		plan->from[i] = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, all);
		if (plan->from[i] < 0 && fd >= 0)
			return -errno;
		if (fd < 0 && i < places)
			return -EBADF;
	}
	for (int i = 0; i < all; i++)
		if (plan->from[i] >= 0 && dup3(plan->from[i], i, i < places ? 0 : O_CLOEXEC) < 0)
			return -errno;
	plan->seal = places - 1;
	plan->setup = places;
	plan->program = places + 1;
	plan->ruleset = plan->from[places + 2] < 0 ? -1 : places + 2;
	return result(syscall(SYS_close_range, (unsigned)(plan->ruleset < 0 ? all - 1 : all), ~0U, 0));
}

/* The capabilities that the child keeps, if the caller has them. */
static uint64_t kept_capabilities(const struct order *order)
{
	return order->grants & GRANT_NET_ADMIN ? 1ULL << CAP_NET_ADMIN : 0;
}

/* Changes the user and group. Returns 0, also if this is not permitted, or -errno. */
static int become_another(struct plan *plan)
{
	const struct order *order = plan->order;

	bound_capabilities(kept_capabilities(order));
	if (plan->user_namespace)
		return 0; /* it has the new user inside its namespace, and the old one outside */
	if (order->grants & GRANT_NET_ADMIN && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return -errno;
	if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, order->uid, order->uid, order->uid) < 0 ||
	    syscall(SYS_setresuid, order->uid, order->uid, order->uid) < 0)
		return errno == EPERM ? 0 : -errno;
	plan->missing &= ~WALL_USER;
	return 0;
}

/* Installs the filters. Stores the listener of an app's filter, or -1. Returns 0, or -errno. */
static int install_filters(struct plan *plan, int *listener)
{
	static struct policy policy; /* private to the child: it has a copy of the caller's memory */
	const struct order *order = plan->order;
	int error;

	*listener = -1;
	if (order->process == PROCESS_APPLIANCE) {
		make_appliance_policy(&policy, order->grants);
		error = install(&policy);
		make_quiet_policy(&policy, order->grants);
		return error < 0 ? error : install(&policy);
	}
	policy.refuse = SECCOMP_RET_USER_NOTIF;
	make_app_policy(&policy, order->grants, plan->setup, plan->shared, plan->shared_count);
	error = install(&policy);
	if (error > 0) {
		*listener = error;
		return 0;
	}
	plan->missing |= WALL_OBSERVER;
	policy.refuse = SECCOMP_RET_ERRNO | EPERM;
	make_app_policy(&policy, order->grants, plan->setup, plan->shared, plan->shared_count);
	return install(&policy);
}

/* Whether `fd` is a listening socket. */
static int listens(int fd)
{
	int is = 0;
	socklen_t size = sizeof(is);

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is, &size) == 0 && is;
}

/*
 * Lists the descriptors whose flags the child may not change: the channel, and all given ones
 * except memory and listening sockets. The child closes a region's descriptor after mapping it, and
 * the number may be reused. Listening sockets are shared only with processes of the same app.
 */
static void note_shared(struct plan *plan)
{
	const struct order *order = plan->order;

	plan->shared[plan->shared_count++] = FIRST_PLACES - 1;
	for (int i = 0; i < order->count; i++)
		if (fcntl(order->fds[i], F_GET_SEALS) < 0 && !listens(order->fds[i]))
			plan->shared[plan->shared_count++] = FIRST_PLACES + i;
}

/* Returns 0 if the caller still has its end of the socket, else -ESRCH. A PID has no meaning in another namespace. */
static int has_caller(int setup)
{
	struct pollfd end = { .fd = setup };

	return poll(&end, 1, 0) > 0 && end.revents & POLLHUP ? -ESRCH : 0;
}

/* From clone to execve. */
static _Noreturn void child(struct plan *plan)
{
	const struct order *order = plan->order;
	const rlim_t descriptors = (rlim_t)order->count + FIRST_PLACES + 1 + (rlim_t)order->spare;
	char seal[32];
	int error, listener;

	if (plan->user_namespace) {
		write_file("/proc/self/setgroups", "deny"); /* missing before Linux 3.19 */
		check(plan, STEP_USER_NAMESPACE, write_file("/proc/self/uid_map", plan->uid_map));
		check(plan, STEP_USER_NAMESPACE, write_file("/proc/self/gid_map", plan->gid_map));
	}
	/* If memory runs out, the kernel kills apps first, then the appliance, then the caller; landlock may forbid it. */
	write_file("/proc/self/oom_score_adj", order->process == PROCESS_APP ? "1000" : "500");
	/* The parent's session may have a terminal, which could be used to send signals. */
	setsid();
	check(plan, STEP_DESCRIPTORS, result(chdir("/")));
	check(plan, STEP_DESCRIPTORS, place_descriptors(plan));

	check(plan, STEP_USER, become_another(plan));
	check(plan, STEP_LIMITS, limit(RLIMIT_CORE, 0));
	check(plan, STEP_LIMITS, limit(RLIMIT_NOFILE, descriptors > LEAST_DESCRIPTORS ? descriptors : LEAST_DESCRIPTORS));
	check(plan, STEP_LIMITS, limit(RLIMIT_MEMLOCK, 0));
	check(plan, STEP_LIMITS, limit(RLIMIT_MSGQUEUE, 0));
	if (order->data_mib > 0)
		check(plan, STEP_LIMITS, limit(RLIMIT_DATA, (rlim_t)order->data_mib << 20));
	/* The kernel counts threads by user and user namespace. The caller's would include its own. */
	if (plan->user_namespace || !(plan->missing & WALL_USER))
		check(plan, STEP_LIMITS, limit(RLIMIT_NPROC, (rlim_t)order->threads));
	else
		plan->missing |= WALL_THREADS;

	check(plan, STEP_PRIVILEGES, keep_capabilities(kept_capabilities(order), 1));
	check(plan, STEP_PRIVILEGES, result(prctl(PR_SET_PDEATHSIG, SIGKILL)));
	check(plan, STEP_PRIVILEGES, result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)));
	if (has_caller(plan->setup) < 0) /* the caller died before PR_SET_PDEATHSIG */
		syscall(SYS_exit_group, 127);

	if (plan->ruleset >= 0) {
		/* For memoryUsage(), and the bounds of the stack, without which Deno panics as it prints some errors. */
		check(plan, STEP_LANDLOCK, allow_path(plan->ruleset, LANDLOCK_ACCESS_FS_READ_FILE, "/proc/self/maps"));
		check(plan, STEP_LANDLOCK, allow_path(plan->ruleset, LANDLOCK_ACCESS_FS_READ_FILE, "/proc/self/statm"));
		if (order->process == PROCESS_APPLIANCE) { /* to watch tiles' threads; list_eventfds (tile.c) */
			check(plan, STEP_LANDLOCK, allow_path(plan->ruleset, LANDLOCK_ACCESS_FS_READ_FILE, "/proc/self/task"));
			check(plan, STEP_LANDLOCK, allow_path(plan->ruleset, LANDLOCK_ACCESS_FS_READ_DIR, "/proc/self/fd"));
		}
		check(plan, STEP_LANDLOCK, result(syscall(SYS_landlock_restrict_self, plan->ruleset, 0)));
		close(plan->ruleset);
	}
	/* The loader ignores a preloaded library that it cannot open, so open the seal first. */
	snprintf(seal, sizeof(seal), "/proc/self/fd/%d", plan->seal);
	error = result(open(seal, O_RDONLY | O_CLOEXEC));
	check(plan, STEP_SEAL, error);
	close(error);

	error = install_filters(plan, &listener);
	report(plan->setup, STEP_FILTER, error, plan->missing, listener);
	if (plan->by_path) /* before Linux 6.14, exec by descriptor names the process by a number */
		execve(plan->argv[0], plan->argv + 1, plan->envp);
	if (!plan->by_path || errno == EACCES) /* this user may read the file, but not enter a folder of its path */
		syscall(SYS_execveat, plan->program, "", plan->argv + 1, plan->envp, AT_EMPTY_PATH);
	report(plan->setup, STEP_EXEC, -errno, 0, -1);
	__builtin_unreachable();
}

/* Receives the child's message. Returns its bytes, 0 once the child executes the program, or -errno. */
static int hear(int setup, struct report *said, int *listener)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = { said, sizeof(*said) };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control),
	};
	ssize_t count = recvmsg(setup, &message, MSG_CMSG_CLOEXEC);
	struct cmsghdr *header = count > 0 ? CMSG_FIRSTHDR(&message) : NULL;

	if (header && header->cmsg_type == SCM_RIGHTS)
		memcpy(listener, CMSG_DATA(header), sizeof(int));
	return result(count);
}

/* Clones with the namespaces `flags`, and waits until the child calls execve. Returns 0, or -errno. */
static int start(struct plan *plan, unsigned long flags, struct started *out)
{
	const struct timeval patience = { .tv_sec = START_SECONDS };
	struct report said = { 0 };
	siginfo_t unused;
	int pair[2], error, pidfd = -1;
	sigset_t all, foreign, before;
	long pid;

	out->step = STEP_PREPARE;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	plan->setup = pair[1];
	plan->user_namespace = (flags & CLONE_NEWUSER) != 0;
	sigfillset(&all);
	foreign_signals(&foreign);
	out->step = STEP_CLONE;
	pthread_sigmask(SIG_SETMASK, &all, &before); /* the caller's handlers must not run in the child */
	pid = syscall(SYS_clone, flags | CLONE_PIDFD | SIGCHLD, NULL, &pidfd, NULL, NULL);
	if (pid == 0) {
		struct sigaction action = { .sa_handler = SIG_DFL };

		for (int signal = 1; signal <= SIGSYS; signal++)
			sigaction(signal, &action, NULL);
		sigprocmask(SIG_SETMASK, &foreign, NULL);
		child(plan);
	}
	error = result(pid);
	close(pair[1]);
	if (error < 0)
		goto out;
	out->pid = (int32_t)pid;
	out->pidfd = pidfd;
	error = hear(pair[0], &said, &out->listener);
	if (error > 0 && said.step == STEP_FILTER && !said.error) {
		out->missing = said.missing;
		error = hear(pair[0], &said, &out->listener); /* 0: execve closed the socket */
	}
	if (error == 0 && said.step != STEP_FILTER) {
		out->step = STEP_START; /* it was killed before it could report */
		error = -ECHILD;
	} else if (error) {
		out->step = error < 0 ? STEP_START : said.step;
		error = error < 0 ? error : said.error;
	}
	if (error) {
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
		waitid((idtype_t)P_PIDFD, (id_t)pidfd, &unused, WEXITED);
		close(pidfd);
		if (out->listener >= 0)
			close(out->listener);
		out->listener = -1;
	}
out:
	close(pair[0]);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

/*
 * Starts a process of the caller's program according to `order`. `strings` are six lists: the program's
 * path and the arguments, from argv[0] on; the environment; and for landlock the paths to execute, to
 * read and to write, and TCP ports. `seal` is the path of the library that LD_PRELOAD names by its
 * descriptor, the first after those of the order. The caller closes the descriptors in `out`. The
 * calling thread must not exit, because the child dies with it. Returns 0, or -errno with `out->step`.
 */
EXPORT int tegula_process_start(char *strings, uint32_t size, const char *seal, const struct order *order,
				struct started *out)
{
	struct plan plan = {
		.order = order, .null = -1, .words = -1, .channel = -1, .seal = -1, .program = -1, .ruleset = -1,
	};
	const int appliance = order->process == PROCESS_APPLIANCE;
	const int net = appliance || order->grants & GRANT_NET;
	int words[2] = { -1, -1 }, channel[2] = { -1, -1 };
	struct stat program, at_path;
	unsigned long flags = ISOLATED | (net ? 0 : CLONE_NEWNET);
	char **list[6], **lists = make_lists(strings, size, list, COUNT(list));
	int error;

	*out = (struct started){ .listener = -1, .step = STEP_PREPARE };
	plan.from = calloc((size_t)order->count + FIRST_PLACES + 1 + OWN_PLACES, sizeof(*plan.from));
	plan.shared = calloc((size_t)order->count + 1, sizeof(*plan.shared));
	if (!lists || !plan.from || !plan.shared) {
		error = -ENOMEM;
		goto out;
	}
	note_shared(&plan);
	plan.argv = list[0];
	plan.envp = list[1];
	snprintf(plan.uid_map, sizeof(plan.uid_map), "%u %u 1", (unsigned)order->uid, (unsigned)geteuid());
	snprintf(plan.gid_map, sizeof(plan.gid_map), "%u %u 1", (unsigned)order->uid, (unsigned)getegid());
	plan.null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	plan.seal = open(seal, O_PATH | O_CLOEXEC);
	plan.program = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	if (plan.null < 0 || plan.seal < 0 || plan.program < 0 || pipe2(words, O_CLOEXEC) < 0 ||
	    fcntl(words[0], F_SETFL, O_NONBLOCK) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0 ||
	    fcntl(channel[0], F_SETFL, O_NONBLOCK) < 0 || fcntl(channel[1], F_SETFL, O_NONBLOCK) < 0) {
		error = -errno;
		goto out;
	}
	plan.by_path = fstat(plan.program, &program) == 0 && stat(plan.argv[0], &at_path) == 0 &&
		       program.st_dev == at_path.st_dev && program.st_ino == at_path.st_ino;
	plan.words = words[1];
	plan.channel = channel[1];
	out->step = STEP_GRANT;
	error = plan.ruleset = make_rules(&plan, list[2], list[3], list[4], list[5]);
	if (error < -1)
		goto out;

	plan.missing |= WALL_USER;
	error = start(&plan, flags, out);
	if (error && out->step == STEP_CLONE && !appliance)
		error = start(&plan, flags | CLONE_NEWUSER, out);
	if (error && (out->step == STEP_CLONE || out->step == STEP_USER_NAMESPACE)) {
		plan.missing |= WALL_PROCESSES | WALL_IPC | (net ? 0 : WALL_NETWORK);
		error = start(&plan, 0, out);
	}
	out->channel = channel[0];
	out->words = words[0];
out:
	free(lists);
	free(plan.from);
	free(plan.shared);
	close(plan.null);
	close(plan.seal);
	close(plan.program);
	close(words[1]);
	close(channel[1]);
	if (plan.ruleset >= 0)
		close(plan.ruleset);
	if (error) {
		close(words[0]);
		close(channel[0]);
	}
	return error;
}

/*
 * Checks whether user `uid`, with only the group `gid`, can read `path` and, if it is a folder, enter it. A
 * child process tries as that user, or as the caller's user if it may not change it. Returns 0, or -errno.
 */
EXPORT int tegula_process_readable(const char *path, int uid, int gid)
{
	sigset_t all, before;
	siginfo_t ended = { 0 };
	struct stat status;
	long pid;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0) {
		int is_other = syscall(SYS_setgroups, 0, NULL) == 0 && syscall(SYS_setresgid, gid, gid, gid) == 0 &&
			       syscall(SYS_setresuid, uid, uid, uid) == 0;
		int readable = (is_other || errno == EPERM) && syscall(SYS_faccessat, AT_FDCWD, path, R_OK) == 0 &&
			       stat(path, &status) == 0 &&
			       (!S_ISDIR(status.st_mode) || syscall(SYS_faccessat, AT_FDCWD, path, X_OK) == 0);

		syscall(SYS_exit_group, readable ? 0 : errno);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return -errno;
	while (waitid(P_PID, (id_t)pid, &ended, WEXITED) < 0)
		if (errno != EINTR)
			return -errno;
	return ended.si_code == CLD_EXITED ? -ended.si_status : -ECHILD;
}

/* Reaps the process. Returns 1 and stores its status or signal in `how`, 0 if it has not ended, or -errno. */
EXPORT int tegula_process_wait(int pidfd, int32_t how[2])
{
	siginfo_t info = { 0 };

	if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0)
		return -errno;
	how[0] = info.si_code == CLD_EXITED ? info.si_status : 0;
	how[1] = info.si_code == CLD_EXITED ? 0 : info.si_status;
	return info.si_pid != 0;
}

/* Kills the process. Returns 0, or -errno; ESRCH if it has been reaped. */
EXPORT int tegula_process_kill(int pidfd)
{
	return result(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0));
}
