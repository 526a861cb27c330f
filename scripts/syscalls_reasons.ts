/**
 * Why each call that `ffi/tile.c` allows is allowed, and why each that it refuses without counting may
 * be refused. A test holds this and the policy together; `docs/system_calls.md` is made from it.
 */

/** Of calls that the policy allows, or answers by other means than EPERM. */
export const REASONS: { readonly [call: string]: string } = {
  // Memory
  brk: "malloc in the main arena",
  madvise:
    "V8 and malloc give memory back; any advice, because libc and V8 add new ones: glibc 2.42 makes " +
    "guard pages of thread stacks by 102 and 103",
  mmap: "heap, code, stacks: anonymous memory alone, neither a ring nor another tile's map",
  mprotect: "V8's pages change between writable and executable, malloc grows its arenas",
  mremap: "realloc of large blocks",
  munmap: "heap, code, stacks",
  pkey_alloc: "V8 takes a key for its code where the CPU has them",
  pkey_free: "its counterpart",
  pkey_mprotect: "mprotect of V8's code and trusted data where the CPU has keys",
  // Threads
  clone:
    "a thread of the runtime's pool (crypto, files, names) or of V8, when none is idle; only with the " +
    "flags of pthread_create, so no process",
  clone3:
    "answered ENOSYS: its flags stand in memory, which a filter cannot read, and libc goes on with clone",
  rseq: "libc registers each new thread, and ends the process when that fails",
  set_robust_list: "libc, for each new thread",
  prctl: "the name of a thread or of memory; nothing else",
  sched_getaffinity: "Rust and V8, for each new thread",
  sched_getparam: "libc: pthread_getattr_np, by which V8 finds the bounds of a stack",
  sched_getscheduler: "likewise",
  sched_yield: "back-off in locks",
  exit: "the end of a thread",
  exit_group: "the end of the process: Deno.exit, a panic",
  getpid: "identity in abort, and in V8's messages",
  gettid: "identity of a thread in locks, in abort, and at its end",
  membarrier: "fences of one side in V8's and libc's locks, where they are built with them",
  futex: "locks, Atomics.wait, V8's own threads at work for this one",
  // Time
  clock_gettime: "CPU time, and all clocks where the clock source has no vDSO (hpet, acpi_pm, Xen)",
  clock_getres: "V8 asks for the resolution of its clock; no vDSO as above",
  gettimeofday: "Date.now where the clock source has no vDSO; garbage when refused",
  time: "likewise, of libc",
  clock_nanosleep: "sleep of back-off and of a nested worker",
  restart_syscall: "a wait goes on after SIGSTOP and SIGCONT",
  // Waiting
  epoll_wait: "the worker's event loop",
  epoll_pwait: "the same, on aarch64 and of newer libraries",
  poll: "the tile's own wait on its rings, sockets and eventfd",
  ppoll: "the same, on aarch64",
  // Signals
  rt_sigprocmask: "the start and end of a thread, abort",
  rt_sigreturn: "V8's handler of WebAssembly's traps returns",
  rt_sigaction:
    "SIGSEGV, SIGBUS and SIGABRT: who handled a fault lets it happen again, so that the process ends " +
    "instead of faulting for ever",
  sigaltstack: "the stack for handlers, at the start and end of a thread",
  tgkill: "SIGABRT to this process: abort; without it the end is a SIGSEGV without a reason",
  // Descriptors
  read: "eventfds: being woken",
  write: "eventfds: waking; and stderr, to which V8, Rust and libc write their last words",
  writev: "stderr: libc's last words",
  fcntl:
    "asking for flags, which changes nothing, and file locks: SQLite takes a refused lock for a busy " +
    "one and tries again for minutes, where a refused read makes it give up at once",
  readlink:
    "/proc/self/exe: Deno.execPath and node:process panic when it is refused, before Deno looks at " +
    "permissions; tells what symbolic links point to",
  readlinkat: "the same on aarch64",
  // The rest
  getcwd: "the text of an uncaught error",
  getrandom: "hash seeds, crypto",
  process_vm_readv: "of this process: Deno walks the stack of a panic with it",
};
