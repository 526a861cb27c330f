/**
 * The processes of a running appliance, as the kernel lists them.
 */

import type { Appliance } from "../../cli/demo_appliance.ts";

/**
 * Numbers of its processes by their users, in the order of these: the appliance, then the apps. Of two with
 * the same user, such as a successor, it is the one that was started last.
 */
export function processesOf({ process: { pid } }: Appliance): Record<string, number> {
  const children = [...Deno.readDirSync(`/proc/${pid}/task`)].flatMap(({ name }) =>
    Deno.readTextFileSync(`/proc/${pid}/task/${name}/children`).split(" ").filter(Boolean)
  );
  children.sort((a, b) => Number(a) - Number(b));
  return Object.fromEntries(children.map((child) => {
    const status = Deno.readTextFileSync(`/proc/${child}/status`);
    return [/^Uid:\s+(\d+)/m.exec(status)![1], Number(child)];
  }));
}
