// SPDX-License-Identifier: Apache-2.0
/** Reads information about processes from the kernel (proc(5)). */

import { softLimit } from "../ffi/host.ts";
import { attempt } from "../ffi/library.ts";
import type { ProcessValues } from "../tiles/runtime/health.ts";

/** Clock ticks a second, which Linux has fixed for user space (USER_HZ). */
const TICKS = 100;
/** Bytes of a page where Deno runs. */
const PAGE = 4096;

/** When the system was booted, seconds since 1970. */
const bootedAt = (() => {
  const [, seconds] = /^btime (\d+)$/m.exec(Deno.readTextFileSync("/proc/stat")) ?? [];
  return Number(seconds);
})();

/** Fields of a process's `stat`, from the third on: the second, its name, may contain any character. */
function statOf(pid: number): number[] {
  const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ").map(Number);
}

/** Processor time of a process, in ticks; 0 when it has ended. */
export function ticks(pid: number): number {
  const fields = attempt(() => statOf(pid), null);
  return fields === null ? 0 : fields[11] + fields[12];
}

/** A process's private memory (RssAnon of proc_pid_status(5)), in MiB; 0 if it has ended. */
export function residentMib(pid: number): number {
  const status = attempt(() => Deno.readTextFileSync(`/proc/${pid}/status`), "");
  return Number(/^RssAnon:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) / 1024;
}

/** A process's values for the metrics; undefined if it has ended. */
export function processValues(pid: number): ProcessValues | undefined {
  return attempt(() => {
    const fields = statOf(pid);
    return {
      process_start_time_seconds: bootedAt + fields[19] / TICKS,
      process_cpu_seconds_total: (fields[11] + fields[12]) / TICKS,
      process_resident_memory_bytes: fields[21] * PAGE,
      process_virtual_memory_bytes: fields[20],
      // Since Linux 6.2; reading the folder would require permission to trace the process.
      process_open_fds: Deno.statSync(`/proc/${pid}/fd`).size,
      process_max_fds: softLimit("Max open files", pid),
      process_threads: fields[17],
    };
  }, undefined);
}
