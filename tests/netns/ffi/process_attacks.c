/* SPDX-License-Identifier: Apache-2.0
 * Native code inside an app's process, for process_test.ts: system calls that no app needs, each made
 * as libc would not stop it. Linked as a program it is a launcher, under whose filter a program runs:
 * one that refuses namespaces, as systemd's RestrictNamespaces=yes does, or (LISTENER) one that has a
 * listener, beneath which there can be no other.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_xdp.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>
#include <unistd.h>

static char scratch[4096];
static struct iovec part = { scratch, sizeof(scratch) };
static struct rlimit limits = { 1, 1 };
static struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
static char *const none[] = { NULL };
#define P(pointer) ((long)(intptr_t)(pointer))

/* Calls by what they try. The process is number 1 of its namespace where it has one. */
static const struct attack {
	const char *name;
	long nr, args[6];
} ATTACKS[] = {
	{ "memfd_create", SYS_memfd_create, { P("x") } },
	{ "ftruncate", SYS_ftruncate, { 4, 1 << 20 } },
	{ "fallocate", SYS_fallocate, { 4, 0, 0, 1 << 20 } },
	{ "dup", SYS_dup, { 3 } },
	{ "dup3", SYS_dup3, { 3, 60, 0 } },
	{ "ptrace", SYS_ptrace, { PTRACE_TRACEME } },
	{ "process_vm_readv", SYS_process_vm_readv, { 1, P(&part), 1, P(&part), 1 } },
	{ "bpf", SYS_bpf, { 0, P(scratch), 64 } },
	{ "pidfd_open", SYS_pidfd_open, { 1 } },
	{ "pidfd_getfd", SYS_pidfd_getfd, { 3, 0 } },
	{ "pidfd_send_signal", SYS_pidfd_send_signal, { 3, 0 } },
	{ "setns", SYS_setns, { 3, 0 } },
	{ "unshare", SYS_unshare, { CLONE_NEWUSER } },
	{ "mount", SYS_mount, { P("none"), P("/"), P("tmpfs") } },
	{ "keyctl", SYS_keyctl, { 0, -3 } },
	{ "add_key", SYS_add_key, { P("user"), P("x"), P("x"), 1, -3 } },
	{ "userfaultfd", SYS_userfaultfd, { 0 } },
	{ "perf_event_open", SYS_perf_event_open, { P(scratch), 0, -1, -1 } },
	{ "execve", SYS_execve, { P("/bin/true"), P(none), P(none) } },
	{ "execveat", SYS_execveat, { AT_FDCWD, P("/bin/true"), P(none), P(none) } },
	{ "seccomp", SYS_seccomp, { 0, 0, 0 } },
	{ "sendmsg", SYS_sendmsg, { 3, P(&message) } },
	{ "sendto", SYS_sendto, { 3, P(scratch), 1, 0, P(scratch), 16 } },
	{ "recvmsg", SYS_recvmsg, { 3, P(&message), MSG_DONTWAIT } },
	{ "socket INET", SYS_socket, { AF_INET, SOCK_DGRAM } },
	{ "socket UNIX", SYS_socket, { AF_UNIX, SOCK_STREAM } },
	{ "socket NETLINK", SYS_socket, { AF_NETLINK, SOCK_RAW } },
	{ "socketpair INET", SYS_socketpair, { AF_INET, SOCK_STREAM, 0, P(scratch) } },
	{ "fork", SYS_clone, { SIGCHLD } },
	{ "namespace", SYS_clone, { CLONE_NEWUSER | SIGCHLD } },
	{ "clone3", SYS_clone3, { P(scratch), 88 } },
	{ "io_uring_setup", SYS_io_uring_setup, { 8, P(scratch) } },
	{ "kill all", SYS_kill, { -1, SIGTERM } },
	{ "kill other", SYS_kill, { 2147483646, 0 } },
	{ "kill self USR1", SYS_kill, { 0, SIGUSR1 } },
	{ "kill the first TERM", SYS_kill, { 1, SIGTERM } },
	{ "tkill", SYS_tkill, { 1, SIGUSR1 } },
	{ "tgkill", SYS_tgkill, { 1, 1, SIGTERM } },
	{ "rt_sigqueueinfo", SYS_rt_sigqueueinfo, { 1, SIGUSR1, P(scratch) } },
	{ "rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, { 1, 1, SIGUSR1, P(scratch) } },
	{ "prctl PDEATHSIG", SYS_prctl, { PR_SET_PDEATHSIG, 0 } },
	{ "prctl DUMPABLE", SYS_prctl, { PR_SET_DUMPABLE, 1 } },
	{ "prctl SECCOMP", SYS_prctl, { PR_SET_SECCOMP, 1 } },
	{ "shared memory without a file", SYS_mmap, { 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0 } },
	{ "shmget", SYS_shmget, { 0, 4096, 0600 } },
	{ "mq_open", SYS_mq_open, { P("x"), O_CREAT | O_RDWR, 0600, 0 } },
	{ "limits of another", SYS_prlimit64, { 1 << 30, RLIMIT_NOFILE, P(&limits) } },
	{ "sched_setscheduler", SYS_sched_setscheduler, { 0, 1, P(scratch) } },
	{ "setuid", SYS_setuid, { 0 } },
	{ "capset", SYS_capset, { P(scratch), P(scratch) } },
	{ "chroot", SYS_chroot, { P("/") } },
	{ "open to read", SYS_openat, { AT_FDCWD, P("/etc/passwd"), O_RDONLY } },
	{ "open memory", SYS_openat, { AT_FDCWD, P("/proc/self/mem"), O_RDONLY } },
	{ "open to write", SYS_openat, { AT_FDCWD, P("/dev/shm/tegula-attack"), O_WRONLY | O_CREAT, 0600 } },
	{ "open a region", SYS_openat, { AT_FDCWD, P("/proc/self/fd/5"), O_RDWR } },
	{ "openat2", SYS_openat2, { AT_FDCWD, P("/"), P(scratch), 24 } },
	{ "mkdir", SYS_mkdirat, { AT_FDCWD, P("/dev/shm/tegula-attack"), 0700 } },
	{ "unlink", SYS_unlinkat, { AT_FDCWD, P("/dev/shm/tegula-attack"), 0 } },
	{ "symlink", SYS_symlinkat, { P("x"), AT_FDCWD, P("/dev/shm/tegula-attack") } },
	{ "chmod", SYS_fchmodat, { AT_FDCWD, P("/dev/shm"), 0777 } },
	{ "inotify", SYS_inotify_init1, { 0 } },
	{ "terminal input", SYS_ioctl, { 0, TIOCSTI, P(scratch) } },
	{ "signal of a descriptor", SYS_fcntl, { 3, F_SETSIG, SIGKILL } },
	{ "seals", SYS_fcntl, { 4, F_ADD_SEALS, F_SEAL_WRITE } },
	{ "set the clock", SYS_clock_settime, { 0, P(scratch) } },
	{ "adjtimex", SYS_adjtimex, { P(scratch) } },
	{ "personality", SYS_personality, { 0x0040000 } },
	{ "modify_ldt or number beyond", 1000, { 0 } },
};

/* Copies an attack's name into 64 bytes, and returns its length: 0 past the last. */
__attribute__((visibility("default"))) int attack_name(int which, char *name)
{
	if (which >= (int)(sizeof(ATTACKS) / sizeof(ATTACKS[0])))
		return 0;
	return snprintf(name, 64, "%s", ATTACKS[which].name);
}

/* 0 where the call succeeded, else its error. */
__attribute__((visibility("default"))) int attack(int which)
{
	const struct attack *a = &ATTACKS[which];
	long value = syscall(a->nr, a->args[0], a->args[1], a->args[2], a->args[3], a->args[4], a->args[5]);

	if (value == 0 && a->nr == SYS_clone)
		syscall(SYS_exit_group, 0);
	return value < 0 ? errno : 0;
}

/* A writable mapping of descriptor `fd`: 0 or its error; and of one for reading made writable. */
__attribute__((visibility("default"))) int map_writable(int fd, int afterwards)
{
	void *at = mmap(NULL, 4096, PROT_READ | (afterwards ? 0 : PROT_WRITE), MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		return errno;
	return afterwards && mprotect(at, 4096, PROT_READ | PROT_WRITE) < 0 ? errno : 0;
}

/* Maps the four rings of AF_XDP socket `fd`, as a net tile does that takes it over: 0, or an error. */
__attribute__((visibility("default"))) int map_rings(int fd)
{
	static const off_t PAGES[] = {
		XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_FILL_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
	};
	struct xdp_mmap_offsets offsets;
	socklen_t length = sizeof(offsets);

	if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length) < 0)
		return errno;
	for (int i = 0; i < 4; i++)
		if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, PAGES[i]) == MAP_FAILED)
			return errno;
	return 0;
}

__attribute__((visibility("default"))) void crash(void)
{
	*(volatile int *)16 = 1;
}

int main(int count, char **args)
{
	struct sock_filter code[] = {
#ifndef LISTENER
		{ BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr) },
		{ BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_clone3 },
		{ BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | ENOSYS },
		{ BPF_JMP | BPF_JEQ | BPF_K, 0, 3, SYS_clone },
		{ BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args[0]) },
		{ BPF_JMP | BPF_JSET | BPF_K, 0, 1, CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC },
		{ BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM },
#endif
		{ BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW },
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

#ifdef LISTENER
	const int flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
#else
	const int flags = 0;
#endif

	if (count < 2 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return 1;
	int listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);

	/* The listener stays: without one the filter below it may have its own. */
	if (listener < 0 || (listener > 0 && fcntl(listener, F_SETFD, 0) < 0))
		return 1;
	execv(args[1], args + 1);
	return 1;
}
