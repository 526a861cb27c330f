/* SPDX-License-Identifier: Apache-2.0
 * Has a thread of another process make system calls that its own code never makes: what native code that
 * a stranger got to run in there could try. The thread is stopped by ptrace, runs one system call
 * instruction with the registers that are wanted, under its own filter, credentials and limits, and goes
 * on afterwards as if nothing had been. Nothing is loaded into the process and nothing has to be granted.
 *
 *     inject TID < CALLS
 *
 * Each line is a system call: `TIMES NUMBER ARGUMENT…`, up to six arguments: numbers, or `x` and bytes in
 * hexadecimal, which are put where the thread has its stack, and passed by their address; `s` and a
 * number are that many bytes of "x". For each line it prints what the last call returned, -errno where it
 * failed, and how often one succeeded; or `ended` where the thread is no more.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
typedef struct user_regs_struct registers;
static const uint8_t INSTRUCTION[] = { 0x0f, 0x05 }; /* syscall */
#define STEP 1
#define PC(r) ((r).rip)
#define SP(r) ((r).rsp)
#define RESULT(r) ((long)(r).rax)
static void set(registers *r, long nr, const long *a)
{
	r->orig_rax = (unsigned long long)-1; /* no system call to start again */
	r->rax = (unsigned long long)nr;
	r->rdi = (unsigned long long)a[0];
	r->rsi = (unsigned long long)a[1];
	r->rdx = (unsigned long long)a[2];
	r->r10 = (unsigned long long)a[3];
	r->r8 = (unsigned long long)a[4];
	r->r9 = (unsigned long long)a[5];
}
#elif defined(__aarch64__)
typedef struct user_regs_struct registers;
static const uint8_t INSTRUCTION[] = { 0x01, 0x00, 0x00, 0xd4 }; /* svc #0 */
#define STEP 4
#define PC(r) ((r).pc)
#define SP(r) ((r).sp)
#define RESULT(r) ((long)(r).regs[0])
static void set(registers *r, long nr, const long *a)
{
	for (int i = 0; i < 6; i++)
		r->regs[i] = (unsigned long long)a[i];
	r->regs[8] = (unsigned long long)nr;
}
#else
#error "no registers for this architecture"
#endif

/* Below the red zone, on the thread's own stack. */
#define SCRATCH_BELOW 40960
#define SCRATCH_BYTES 32768
#define MOST_ARGUMENTS 6

static pid_t thread;
static int memory;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "inject: cannot %s: %s\n", what, strerror(errno));
	exit(1);
}

static _Noreturn void ended(void)
{
	printf("ended\n");
	exit(0);
}

/* Waits until the thread stops, and passes on signals that are not ours. */
static void stopped(int ours)
{
	int status;

	for (;;) {
		if (waitpid(thread, &status, __WALL) < 0 || !WIFSTOPPED(status))
			ended();
		if (status >> 16 == PTRACE_EVENT_STOP || WSTOPSIG(status) == ours)
			return;
		if (ptrace(PTRACE_SINGLESTEP, thread, NULL, (void *)(long)WSTOPSIG(status)) < 0)
			ended();
	}
}

static void get(registers *r)
{
	struct iovec part = { r, sizeof(*r) };

	if (ptrace(PTRACE_GETREGSET, thread, (void *)NT_PRSTATUS, &part) < 0)
		ended();
}

static void put(registers *r)
{
	struct iovec part = { r, sizeof(*r) };

	if (ptrace(PTRACE_SETREGSET, thread, (void *)NT_PRSTATUS, &part) < 0)
		ended();
}

/* The address of a system call instruction in the C library. */
static uint64_t find_instruction(void)
{
	static uint8_t bytes[1 << 20];
	char path[64], line[512];
	uint64_t from, to;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", thread);
	maps = fopen(path, "r");
	if (!maps)
		die("read its maps");
	while (fgets(line, sizeof(line), maps)) {
		ssize_t count;

		if (!strstr(line, "/libc") || !strstr(line, "r-xp") || sscanf(line, "%lx-%lx", &from, &to) != 2)
			continue;
		count = pread(memory, bytes, sizeof(bytes), (off_t)from);
		for (ssize_t i = 0; i + (ssize_t)sizeof(INSTRUCTION) <= count; i += STEP) {
			if (!memcmp(bytes + i, INSTRUCTION, sizeof(INSTRUCTION))) {
				fclose(maps);
				return from + (uint64_t)i;
			}
		}
	}
	errno = ENOENT;
	die("find a system call instruction");
}

static long call(const registers *before, uint64_t instruction, long nr, const long *arguments)
{
	registers now = *before;

	set(&now, nr, arguments);
	PC(now) = instruction;
	put(&now);
	if (ptrace(PTRACE_SINGLESTEP, thread, NULL, NULL) < 0)
		ended();
	stopped(SIGTRAP);
	get(&now);
	return RESULT(now);
}

/* Makes sense of an argument; bytes go to `*room`. */
static long argument(const char *word, uint64_t *room)
{
	static uint8_t bytes[SCRATCH_BYTES];
	const uint64_t at = *room;
	size_t count = 0;

	if (*word == 's') {
		count = strtoul(word + 1, NULL, 0);
		memset(bytes, 'x', count > sizeof(bytes) ? 0 : count);
	} else if (*word == 'x') {
		for (const char *digit = word + 1; digit[0] && digit[1]; digit += 2) {
			char pair[3] = { digit[0], digit[1], 0 };

			bytes[count++] = (uint8_t)strtoul(pair, NULL, 16);
		}
	} else {
		return (long)strtoull(word, NULL, 0);
	}
	if (count > sizeof(bytes) || pwrite(memory, bytes, count, (off_t)at) != (ssize_t)count)
		die("write into its stack");
	*room += (count + 15) & ~15ul;
	return (long)at;
}

int main(int argc, char **argv)
{
	static char line[2 * SCRATCH_BYTES];
	registers before;
	uint64_t instruction;
	char path[64];

	if (argc != 2)
		return 2;
	thread = atoi(argv[1]);
	snprintf(path, sizeof(path), "/proc/%d/mem", thread);
	memory = open(path, O_RDWR | O_CLOEXEC);
	if (memory < 0)
		ended();
	instruction = find_instruction();
	if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) < 0 || ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) < 0)
		ended();
	stopped(0);
	get(&before);
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t room = (SP(before) - SCRATCH_BELOW) & ~15ul;
		long arguments[MOST_ARGUMENTS] = { 0 }, result = 0;
		unsigned long times, succeeded = 0;
		char *rest = line, *word;
		long nr;

		times = strtoul(strsep(&rest, " \n"), NULL, 0);
		nr = strtol(strsep(&rest, " \n"), NULL, 0);
		for (int i = 0; i < MOST_ARGUMENTS && (word = strsep(&rest, " \n")) && *word; i++)
			arguments[i] = argument(word, &room);
		for (unsigned long i = 0; i < times; i++) {
			result = call(&before, instruction, nr, arguments);
			succeeded += result >= 0 || result < -4095;
		}
		printf("%ld %lu\n", result, succeeded);
		fflush(stdout);
	}
	put(&before);
	ptrace(PTRACE_DETACH, thread, NULL, NULL);
	return 0;
}
