// SPDX-License-Identifier: Apache-2.0
/**
 * The memory of the appliance: the proportional set size (PSS) of its process with one net and one app tile, beside bare
 * Deno with four idle workers.
 *
 * PSS divides pages among the processes that map them. The benchmark is Deno too, and other Denos may run on the machine.
 * So the measured processes run from a copy of Deno that nothing else maps.
 */

import { fileURLToPath } from "node:url";
import { Lines } from "../demo/lab.ts";
import { measure, type Report } from "./harness.ts";
import { INTERFACE } from "./mirror_kernel.ts";

const RUNS = 3;
/** A copy of Deno, in the laboratory's own memory. */
const DENO_COPY = "/run/deno";
const PORT = 7;
const START_MILLIS = 60_000;
/** The PSS is steady if it changes by at most this between two polls, and their interval. */
const STEADY_MIB = 1;
const LOOK_MILLIS = 500;
const MOST_LOOKS = 40;

/** Measures the appliance with the kernel's present `routes` routes. */
export async function measureMemory(report: Report, routes: number): Promise<void> {
  Deno.copyFileSync(Deno.execPath(), DENO_COPY);
  const main = fileURLToPath(new URL("../main.ts", import.meta.url));
  const child = fileURLToPath(new URL("mirror_child.ts", import.meta.url));
  const flags = ["run", "--no-prompt", "--unstable-worker-options", "--allow-all"];
  const appliance = ["run", "--interface", INTERFACE, "--listen", `${PORT}=echo`];
  report(
    await measure({
      ...{ bench: "mirror", case: `memory ${routes}`, unit: "MiB", runs: RUNS, warmup: 0 },
      tegula: () => weigh([...flags, main, ...appliance, "--net-tiles", "1"], "ready:"),
      peers: { deno_idle_workers: () => weigh([...flags, child, "idle"], "ready") },
    }),
  );
}

/** Starts Deno, waits until it prints that it is ready, and measures it when it is steady. */
async function weigh(args: string[], ready: string): Promise<number> {
  const process = new Deno.Command(DENO_COPY, { args, stdout: "piped", stderr: "piped" }).spawn();
  const outputs = [new Lines(process.stdout), new Lines(process.stderr)];
  await Promise.any(outputs.map((lines) => lines.find(ready, { timeoutMs: START_MILLIS })))
    .catch(() => {
      throw new Error(`it did not start: ${outputs.flatMap(({ all }) => all).join("\n")}`);
    });
  const figure = await steady(process.pid);
  process.kill("SIGTERM");
  await process.status;
  return figure;
}

/** The PSS, once it is steady. */
async function steady(pid: number): Promise<number> {
  let before = pss(pid);
  for (let look = 0; look < MOST_LOOKS; look++) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MILLIS));
    const now = pss(pid);
    if (Math.abs(now - before) < STEADY_MIB) return now;
    before = now;
  }
  throw new Error(`the memory of process ${pid} did not come to rest`);
}

/** The proportional set size of a process, in MiB. */
export function pss(pid: number): number {
  const kibibytes = /^Pss: +(\d+) kB$/m.exec(Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`));
  return Number(kibibytes![1]) / 1024;
}
