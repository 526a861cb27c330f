/*
 * Preloaded into a program that process.c starts, and run before its main: forbids, for this thread and
 * so for all that will be, what only the start needed: execve, seccomp, and the call that took the
 * filter's listener to the parent. Refused calls fail with EPERM, and the kernel logs them where it has
 * a log of these (audit type 1326).
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "native.h"

#define REFUSE(call)                                                     \
	{ BPF_JMP | BPF_JEQ | BPF_K, 0, 1, call },                       \
	{ BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM }

/* Other architectures' calls are refused already. */
static __attribute__((constructor)) void seal(void)
{
	struct sock_filter code[] = {
		{ BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr) },
		REFUSE(SYS_execve),
		REFUSE(SYS_execveat),
		REFUSE(SYS_seccomp),
		/* The last one goes where the network was granted, and with it sendmsg. */
		REFUSE(SYS_sendmsg),
		{ BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW },
	};
	struct sock_fprog program = { COUNT(code), code };

	if (getenv("TEGULA_NET"))
		code[7].k = SYS_execve;
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG, &program) < 0)
		_exit(127);
}
