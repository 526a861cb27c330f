// SPDX-License-Identifier: Apache-2.0
/**
 * `mirror`: how fast the netlink tile's mirror follows the kernel, and the memory of the appliance, on the real kernel in
 * a namespace of its own. Peers: a C program that reads the same and only counts, `ip route show`, and Deno with idle
 * workers.
 *
 * `sync N` is nanoseconds per route of a first full copy by a process that has just started. The change latency is the
 * time from the request to the kernel until a reader of netbase finds the new route.
 */

import { fileURLToPath } from "node:url";
import { isWanted, measure, type Report, type Selection } from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { CHANGE_CASES, measureChanges } from "./mirror_change.ts";
import { measureLive, measureParked } from "./mirror_events.ts";
import { type Batch, fullTable, ip, layLinks, neighborBatch, routeBatch } from "./mirror_kernel.ts";
import { measureMemory } from "./mirror_memory.ts";
import { buildPrograms } from "./programs.ts";

/** Events that fit into the receive buffers. */
const EVENTS = 100_000;
/** Routes of a full internet table. */
const FULL = 1_000_000;
/** Routes of a usual host. */
const FEW = 10;

/** Runs the benchmark in namespaces of its own. */
export function run(report: Report, selection: Selection): Promise<void> {
  return runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

/** The benchmark, inside the laboratory. Skips what is not wanted if it takes time. */
async function inside(report: Report, selection: Selection): Promise<void> {
  const wants = (...names: string[]) => names.some((name) => isWanted(name, selection));
  const { count_netlink: counter } = await buildPrograms();
  layLinks();
  if (wants("neighbor events")) {
    await measureParked(report, {
      name: "neighbor events",
      batches: [neighborBatch(EVENTS, 1), neighborBatch(EVENTS, 2)],
      counter,
    });
  }
  ip("link del v0");
  const ifindex = layLinks();
  const table = fullTable(FULL);
  routeBatch(table, { verb: "add", count: FEW, shift: 0 }).run();
  if (wants(`memory ${FEW}`)) await measureMemory(report, FEW);

  const batches: [Batch, Batch] = [
    routeBatch(table, { verb: "replace", count: EVENTS, shift: 1 }),
    routeBatch(table, { verb: "replace", count: EVENTS, shift: 2 }),
  ];
  if (wants("route events")) {
    await measureParked(report, { name: "route events", batches, counter });
  }
  const live = "route events live";
  if (wants(live)) await measureLive(report, { name: live, batches, counter });

  const [sync, events, memory] = ["sync", "route events", "memory"].map((name) =>
    `${name} ${FULL}`
  );
  if (!wants(sync, events, memory, ...CHANGE_CASES)) return;
  routeBatch(table, { verb: "replace", count: FULL, shift: 0 }).run();
  if (wants(sync)) await measureSync(report, counter);
  if (wants(events)) await measureParked(report, { name: events, batches, counter });
  if (wants(...CHANGE_CASES)) await measureChanges(report, { ifindex, batches });
  if (wants(memory)) await measureMemory(report, FULL);
}

async function measureSync(report: Report, counter: string): Promise<void> {
  const child = fileURLToPath(new URL("mirror_child.ts", import.meta.url));
  const perRoute = (millis: number) => millis * 1e6 / FULL;
  report(
    await measure({
      ...{ bench: "mirror", case: `sync ${FULL}`, unit: "ns/op" },
      tegula: async () =>
        perRoute(Number(await output([Deno.execPath(), "run", "--allow-all", child, "sync"]))),
      peers: {
        c_count: async () => perRoute(JSON.parse(await output([counter, "dump"])).millis),
        ip_route_show: async () => {
          const begin = performance.now();
          await output(["sh", "-c", "ip route show > /dev/null"]);
          return perRoute(performance.now() - begin);
        },
      },
    }),
  );
}

async function output([program, ...args]: string[]): Promise<string> {
  const { success, stdout } = await new Deno.Command(program, { args, stderr: "inherit" }).output();
  if (!success) throw new Error(`${program} ${args.join(" ")} failed`);
  return new TextDecoder().decode(stdout);
}

if (import.meta.main) await inLaboratory(inside);
