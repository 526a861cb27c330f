/** What the kernel says of a process (proc(5)), for the metrics. */

import type { ProcessValues } from "../tiles/runtime/master_region.ts";

/** Clock ticks a second, which Linux has fixed for user space (USER_HZ). */
const TICKS = 100;
/** Bytes of a page: x86-64 has no other, and aarch64 no other that Deno runs on. */
const PAGE = 4096;

/** When the system was booted, seconds since 1970. */
const bootedAt = (() => {
  const [, seconds] = /^btime (\d+)$/m.exec(Deno.readTextFileSync("/proc/stat")) ?? [];
  return Number(seconds);
})();

/** The values of a process now; null: it has ended. */
export function processValues(pid: number): ProcessValues | null {
  try {
    const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
    // The second field, its name, may have anything in it: this begins with the third.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ").map(Number);
    const [, most] = /^Max open files\s+(\d+)/m
      .exec(Deno.readTextFileSync(`/proc/${pid}/limits`)) ?? [];
    return {
      process_start_time_seconds: bootedAt + fields[19] / TICKS,
      process_cpu_seconds_total: (fields[11] + fields[12]) / TICKS,
      process_resident_memory_bytes: fields[21] * PAGE,
      process_virtual_memory_bytes: fields[20],
      // Since Linux 6.2; reading the folder would take the right to trace the process.
      process_open_fds: Deno.statSync(`/proc/${pid}/fd`).size,
      process_max_fds: Number(most),
      process_threads: fields[17],
    };
  } catch {
    return null;
  }
}
