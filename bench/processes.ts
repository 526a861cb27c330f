// SPDX-License-Identifier: Apache-2.0
/**
 * Processor time of a process with all its threads and children, from `/proc`. Only in a laboratory, which has a `/proc`
 * of its own.
 */

/** Ticks per second in `/proc/PID/stat` (USER_HZ, the same on all systems that Deno runs on). */
const TICKS = 100;

/** Seconds of processor time of `pid` and its descendants, in user mode and in the kernel. */
export function processorSeconds(pid: number): number {
  const ticks = new Map<number, number>();
  const children = new Map<number, number[]>();
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const fields = statOf(name);
    if (fields === null) continue;
    const [parent, user, kernel] = [fields[1], fields[11], fields[12]].map(Number);
    ticks.set(Number(name), user + kernel);
    children.set(parent, [...children.get(parent) ?? [], Number(name)]);
  }
  const sum = (each: number): number =>
    (children.get(each) ?? []).reduce((all, child) => all + sum(child), ticks.get(each) ?? 0);
  return sum(pid) / TICKS;
}

/** The fields of a process's `stat` that follow its name (proc_pid_stat(5), from the third on). */
function statOf(pid: string): string[] | null {
  try {
    const text = Deno.readTextFileSync(`/proc/${pid}/stat`);
    return text.slice(text.lastIndexOf(")") + 2).split(" ");
  } catch {
    return null; // It has ended meanwhile.
  }
}
