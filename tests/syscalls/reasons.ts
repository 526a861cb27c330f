// SPDX-License-Identifier: Apache-2.0
/**
 * Why each call that `ffi/policy.h` allows is allowed, and why each that it refuses without counting may
 * be refused. A test holds this and the policy together; `docs/system_calls.md` is made from it.
 */

/** Of calls that are refused as a matter of course. */
export const EXPECTED: { readonly [call: string]: string } = {
  clone3: "its flags stand in memory, which a filter cannot read; libc falls back to clone",
  close:
    "what a thread's event loop had stays until the process ends; numbers do not say whose they are",
  fstat: "SQLite asks for the size of Deno's code cache, and gives it up",
  pread64: "SQLite reads Deno's code cache, and gives it up",
  pwrite64: "SQLite writes to Deno's code cache, and gives it up",
  unlink: "the control socket's listener, as it ends; the master removes the file",
  unlinkat: "as unlink, on aarch64",
};

/** The same, of those of an app's process. */
export const EXPECTED_OF_PROCESSES: { readonly [call: string]: string } = {
  clone3: "its flags stand in memory, which a filter cannot read; libc falls back to clone",
  io_uring_setup: "its calls pass no filter; whoever looks for it does without",
  openat2: "its flags stand in memory; libc falls back to openat",
  mkdir: "Deno makes the folder of its caches, which must not exist, and continues without",
  mkdirat: "as mkdir, on aarch64",
  unlink: "Deno clears its caches, which do not exist",
  unlinkat: "as unlink, on aarch64",
};

/** Of calls that are allowed. */
export const REASONS: { readonly [call: string]: string } = {
  // The start of an app's process
  execve: "the process executes Deno; seal.c forbids it before Deno's main",
  execveat:
    "as execve, where a folder on Deno's path is closed to the process's user; forbidden with it",
  seccomp:
    "seal.c, which adds that filter and, in an app's process, forbids any other; in the appliance by " +
    "which a tile installs its own, for its own thread",
  arch_prctl: "libc sets the register of a thread's own data as a program starts",
  set_tid_address: "libc, as a program starts",
  prlimit64: "limits of the process itself, which can only fall; V8 asks for the size of the stack",
  // An app's process alone: its descriptors are its own
  readv: "reading into several buffers, as a library may",
  writev:
    "last words of Rust and libc: of a tile the observer writes them in its place, and those of an " +
    "app's process go to the pipe of its words",
  faccessat: "access on aarch64",
  epoll_create1: "an event loop for each isolate",
  eventfd2: "by which an event loop is woken",
  pipe2: "a pipe within the process, as a library may",
  socketpair: "AF_UNIX alone: by which tokio's handler of signals wakes its loop",
  kill: "SIGABRT to the process itself",
  uname: "Deno.osRelease and the like, which a permission guards",
  umask: "Deno.umask, which panics when it is refused",
  getpriority: "process and os modules of Node",
  geteuid: "libraries ask who they are",
  getgid: "libraries ask who they are",
  getegid: "libraries ask who they are",
  // The network, where an app was granted it
  socket:
    "AF_INET and AF_INET6; AF_NETLINK, by which libc sorts addresses; not AF_UNIX, the host's services; " +
    "in the appliance the mirror's, AF_NETLINK alone",
  connect: "TCP, and the peer of a UDP socket",
  bind: "a port; in the appliance the netlink tile's sockets, told by the length of the address",
  listen:
    "a port of TCP; in the appliance and a slow side one that was handed over and listens already",

  // A slow side that was granted files
  inotify_init1: "Deno.watchFs and node:fs watch; their event loop reads what changed",
  inotify_add_watch:
    "Deno.watchFs; the user's rights to read bound what it watches, landlock does not",
  inotify_rm_watch: "the end of a watch",

  // The appliance, whose tiles confine themselves (tile.c)
  capget: "a tile's thread gives up its capabilities",
  capset: "a tile's thread gives up its capabilities",
  landlock_create_ruleset: "a tile's thread gives up all files",
  landlock_restrict_self: "a tile's thread gives up all files",
  sched_getattr: "a tile asks for short slices of a processor",
  sched_setattr:
    "a tile asks for short slices of a processor, and V8's threads give way to tiles: each its own",
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
  pkey_free: "the counterpart of pkey_alloc",
  pkey_mprotect: "mprotect of V8's code and trusted data where the CPU has keys",
  map_shadow_stack: "libc, where the CPU keeps return addresses apart",
  // Threads
  clone:
    "a thread of the runtime's pool (crypto, files, names) or of V8, when none is idle; only with the " +
    "flags of pthread_create, so no process",
  rseq: "libc registers each new thread, and ends the process when that fails",
  set_robust_list: "libc, for each new thread",
  prctl:
    "the name of a thread or of memory; in the appliance no_new_privs and the bounding set, by which a " +
    "tile gives up privileges",
  sched_getaffinity: "Rust and V8, for each new thread",
  sched_getparam: "libc: pthread_getattr_np, by which V8 finds the bounds of a stack",
  sched_getscheduler: "as sched_getparam",
  sched_yield: "back-off in locks",
  exit: "the end of a thread",
  exit_group: "the end of the process: Deno.exit, a panic",
  getpid: "identity in abort, and in V8's messages",
  gettid: "identity of a thread in locks, in abort, and at its end",
  membarrier: "fences of one side in V8's and libc's locks, where they are built with them",
  futex: "locks, Atomics.wait, V8's own threads at work for this one",
  futex_requeue: "what a newer libc makes of futex",
  futex_wait: "what a newer libc makes of futex",
  futex_waitv: "what a newer libc makes of futex",
  futex_wake: "what a newer libc makes of futex",
  getcpu: "libc and V8 keep caches for each processor, where the kernel has no vDSO for it",
  // Time
  clock_gettime: "CPU time, and all clocks where the clock source has no vDSO (hpet, acpi_pm, Xen)",
  clock_getres: "V8 asks for the resolution of its clock, where the clock source has no vDSO",
  gettimeofday: "Date.now where the clock source has no vDSO; garbage when refused",
  time: "libc's clock in seconds, where the clock source has no vDSO",
  clock_nanosleep: "sleep of back-off and of a nested worker",
  restart_syscall: "a wait goes on after SIGSTOP and SIGCONT",
  // Waiting
  epoll_wait: "the worker's event loop",
  epoll_pwait: "epoll_wait on aarch64, and of newer libraries",
  epoll_pwait2: "epoll_wait of still newer libraries",
  poll: "the tile's own wait on its rings, sockets and eventfd",
  ppoll: "poll on aarch64",
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
  write:
    "eventfds: waking another; what goes to stdout and stderr the observer writes in the tile's name, " +
    "so that the last words of V8, Rust and libc reach the log",
  fcntl:
    "asking for flags, which changes nothing, and file locks: SQLite takes a refused lock for a busy " +
    "one and tries again for minutes, where a refused read makes it give up at once; an app's process " +
    "changes the flags of its own descriptors and copies them, but none that it shares with others",
  readlink:
    "/proc/self/exe: Deno.execPath and node:process panic when it is refused, before Deno looks at " +
    "permissions; tells what symbolic links point to",
  readlinkat: "readlink on aarch64",
  ioctl:
    "answered ENOTTY where it asks for a terminal, as for colours, and refused else; in an app's process " +
    "FIONBIO of its own descriptors, as fcntl, FIOCLEX, and FIONREAD, by which libc's resolver sizes its " +
    "buffer; in the appliance " +
    "the tiles' observer receives and answers by it what their filters refuse",
  // The rest
  getcwd: "the text of an uncaught error",
  getppid: "process.ppid",
  getrandom: "hash seeds, crypto",
  getrusage: "process.resourceUsage, which tells of this process alone",
  sysinfo: "the size of memory, by which V8 chooses that of its heap; Deno.systemMemoryInfo",
  // Of net tiles and the netlink tile, on their own descriptors
  getsockopt:
    "XDP_STATISTICS; SO_PREFER_BUSY_POLL as rings are taken over; of a socket that was handed to a slow " +
    "side its kind",

  recvfrom:
    "kicks of AF_XDP's fill ring; the status tile reads requests; in an app's process Deno's thread for " +
    "signals reads what woke it",
  recvmmsg: "kernel sockets in batches; events of rtnetlink",
  recvmsg: "events of rtnetlink",
  sendmmsg: "kernel sockets in batches",
  sendmsg:
    "a process passes the descriptor of its observer; an app's sockets, where it was granted the network",
  sendto:
    "kicks of AF_XDP's transmit ring; requests to rtnetlink; the status tile answers, without an address, " +
    "by which a UDP socket sends nothing; so an app's process wakes that thread",
  // Of the status tile, for who connects
  accept4: "takes a connection",
  epoll_ctl: "has the event loop wait for it",
  getpeername: "Deno asks for the addresses of each connection",
  getsockname: "Deno asks for the addresses of each connection",
  setsockopt:
    "TCP_NODELAY, on level TCP alone; in the appliance also SOL_NETLINK and SOL_SOCKET: groups and " +
    "buffers of the netlink tile",
  shutdown: "ends a connection",
  close: "frees a connection or a file",
  // Files of an app's process, which landlock and Deno's permissions name
  access: "node:fs accessSync",
  chmod: "node:fs writeFileSync sets the mode of what it has written",
  copy_file_range: "Deno.copyFile",
  faccessat2: "access of newer libraries",
  fchmod: "Deno.copyFile gives the copy the mode of the file",
  fchmodat: "chmod on aarch64",
  fdatasync: "Deno.FsFile.syncData",
  flock: "Deno.FsFile.lock",
  fstat: "sizes and kinds",
  fsync: "Deno.FsFile.sync",
  ftruncate: "Deno.truncate",
  getdents64: "Deno.readDir",
  getuid: "node:fs",
  lseek: "Deno.FsFile.seek, and reading a whole file",
  lstat: "links",
  mkdir: "Deno.mkdir",
  mkdirat: "mkdir on aarch64",
  newfstatat: "stat of newer libc",
  open: "opening, of older libc",
  openat: "opening",
  pread64: "reading at a place",
  pwrite64: "writing at a place",
  rename: "Deno.rename, and replacing a file by another",
  renameat: "rename of older libc on aarch64",
  renameat2: "rename on aarch64",
  rmdir: "Deno.remove of a folder",
  stat: "of older libc",
  statx: "Deno.stat",
  unlink: "Deno.remove",
  unlinkat: "Deno.remove of a folder with what is in it; unlink on aarch64",
  utimensat: "Deno.utime",
  // Of apps that may read the clock's state
  adjtimex: "how exact the host's clock is; setting it takes a capability",
  clock_adjtime: "adjtimex, as newer libc calls it",
};
