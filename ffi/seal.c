/* SPDX-License-Identifier: Apache-2.0
 * Preloaded into a program that process.c starts. Before main, it forbids calls that only the start
 * needed, for this thread and so for all later ones: execve, and in an app also seccomp and the call
 * that sent the filter's listener to the parent. Refused calls fail with EPERM, and the kernel may log
 * them (audit type 1326). If TEGULA_SUCCESSOR is set, it also lowers the priority of V8's threads.
 *
 * TEGULA_SEAL sets which of these calls stay allowed: "app" none, "net" sendmsg, "appliance" sendmsg and seccomp,
 * with which its tiles confine themselves. In the appliance the refusal of a tile's filter has precedence, and is
 * counted (make_appliance_policy in policy.h). LD_PRELOAD names this library by its descriptor, which is closed here.
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/sched/types.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "native.h"

#define REFUSE(call)                                                     \
	{ BPF_JMP | BPF_JEQ | BPF_K, 0, 1, call },                       \
	{ BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM }

/* The filter of process.c already refuses calls of other architectures. */
static __attribute__((constructor)) void seal(void)
{
	struct sock_filter code[] = {
		{ BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr) },
		REFUSE(SYS_execve),
		REFUSE(SYS_execveat),
		REFUSE(SYS_sendmsg),
		REFUSE(SYS_seccomp),
		{ BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW },
	};
	struct sock_fprog program = { COUNT(code), code };

	const char *kept = getenv("TEGULA_SEAL"), *path = getenv("LD_PRELOAD");

	if (!kept || !path || !strrchr(path, '/'))
		_exit(127);
	close(atoi(strrchr(path, '/') + 1));
	if (strcmp(kept, "app") != 0)
		code[5].k = SYS_execve;
	if (strcmp(kept, "appliance") == 0) {
		code[7].k = SYS_execve;
		for (size_t i = 2; i < COUNT(code) - 1; i += 2)
			code[i].k = SECCOMP_RET_TRACE;
	}
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG, &program) < 0)
		_exit(127);
}

/*
 * V8's threads, which name themselves with prctl, compile and collect garbage. In a process that
 * starts while its predecessor serves, they get a lower priority than tiles: its warm-up gives them
 * more to compile than there is time for. In other processes the tiles would wait for them.
 */
EXPORT int prctl(int option, ...)
{
	struct sched_attr attr = { .size = sizeof(attr), .sched_nice = 10 };
	unsigned long given[4];
	va_list list;

	va_start(list, option);
	for (int i = 0; i < 4; i++)
		given[i] = va_arg(list, unsigned long);
	va_end(list);
	if (option == PR_SET_NAME && strncmp((const char *)given[0], "V8 ", 3) == 0 && getenv("TEGULA_SUCCESSOR"))
		syscall(SYS_sched_setattr, 0, &attr, 0);
	return (int)syscall(SYS_prctl, option, given[0], given[1], given[2], given[3]);
}
