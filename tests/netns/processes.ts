// SPDX-License-Identifier: Apache-2.0
/** The processes of a running `tegula run`: the main one, and what it has started. */

import { strict as assert } from "node:assert";

/** One process. */
export interface RunningProcess {
  readonly pid: number;
  /** The main one, the appliance, or the app of this name. */
  readonly role: "main" | "appliance" | "app";
}

/** The main process and its children, the main one first. */
export function processesOf(main: number): RunningProcess[] {
  const children = Deno.readTextFileSync(`/proc/${main}/task/${main}/children`);
  return [
    { pid: main, role: "main" },
    ...children.split(" ").filter((each) => each.trim() !== "").map(Number).flatMap(
      (pid): RunningProcess[] => {
        const program = commandLine(pid);
        if (program.includes("/runtime/appliance.")) return [{ pid, role: "appliance" }];
        return program.includes("/app/process.") ? [{ pid, role: "app" }] : [];
      },
    ),
  ];
}

/** The appliance of a main process. */
export function applianceOf(main: number): number {
  const found = processesOf(main).findLast(({ role }) => role === "appliance");
  assert.ok(found, `${main} has no appliance`);
  return found.pid;
}

/** "" of one that has ended. */
export function commandLine(pid: number): string {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/cmdline`);
  } catch {
    return "";
  }
}

/**
 * Numbers of the children of a main process by their users, in the order of these: the appliance, then the
 * apps. Of two with the same user, such as a successor, it is the one that was started last.
 */
export function childrenByUser(main: number): Record<string, number> {
  const children = Deno.readTextFileSync(`/proc/${main}/task/${main}/children`).split(" ")
    .filter((each) => each.trim() !== "").map(Number).sort((a, b) => a - b);
  return Object.fromEntries(children.flatMap((child) => {
    try {
      const status = Deno.readTextFileSync(`/proc/${child}/status`);
      return [[/^Uid:\s+(\d+)/m.exec(status)![1], child]];
    } catch (error) {
      // It was reaped meanwhile.
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  }));
}
