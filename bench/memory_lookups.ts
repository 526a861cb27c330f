// SPDX-License-Identifier: Apache-2.0
/**
 * `memory lookups N`: how much a process grows by N lookups of random addresses, in MiB of proportional set size. A table
 * of ten routes is the hard case: the first lookup that touches a page of netbase allocates it, and a flood of made-up
 * sources touches all of them.
 *
 * The measured process is this file, run as a program. It has netbase in a region, as tiles have, and does what a net
 * tile does for each address: route, next hop, neighbour.
 */

import { fileURLToPath } from "node:url";
import { linesOf } from "../cli/command.ts";
import { openRegions } from "../ffi/region.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { NetbaseReader } from "../netbase/netbase.ts";
import { NetbaseWriter } from "../netbase/netbase_writer.ts";
import { emptyRoute, NLM_F_CREATE } from "../netbase/route.ts";
import { isWanted, type Report, resultOf, type Selection, TEGULA } from "./harness.ts";
import { defaultRoute, fillRoute, prefixes, Random } from "./routes.ts";
import { createRegion } from "../tests/region.ts";

/** Numbers of lookups. The second takes half a minute and runs only if `--only` names it. */
const LOOKUPS = [1e8, 1e9];
const ROUTES = 10;
const BURST = 64;

/** Measures and reports the wanted cases; the last one only if `only` names it. */
export async function measureLookups(report: Report, selection: Selection): Promise<void> {
  const wanted = LOOKUPS.filter((lookups, i) =>
    isWanted(nameOf(lookups), selection) && (i === 0 || selection.only !== undefined)
  );
  if (wanted.length === 0) return;
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", fileURLToPath(import.meta.url), ...wanted.map(String)],
    stdout: "piped",
  }).spawn();
  const weights: number[] = [];
  for await (const line of linesOf(process.stdout)) weights.push(Number(line));
  if (!(await process.status).success) throw new Error("the process to be weighed failed");
  const [before, ...after] = weights;
  after.forEach((weight, i) => {
    const samples = new Map([[TEGULA, [weight - before]], ["whole_process", [weight]]]);
    report(resultOf({ bench: "netbase", case: nameOf(wanted[i]), unit: "MiB" }, samples));
  });
}

function nameOf(lookups: number): string {
  return `memory lookups ${lookups}`;
}

/** Prints the memory of this process at first, and after each of these numbers of lookups. */
function weigh(counts: readonly number[]): void {
  const region = createRegion(openRegions(), "netbase", NETBASE_BYTES);
  const writer = new NetbaseWriter(region.writer, { readers: [], seed: 1 });
  writer.rib.add(defaultRoute(), NLM_F_CREATE);
  const table = prefixes(ROUTES);
  for (let i = 0; i < ROUTES; i++) {
    writer.rib.add(fillRoute(emptyRoute(), table, i), NLM_F_CREATE);
  }
  writer.commit();
  const reader = new NetbaseReader(region.reader);
  const random = new Random(5);
  // Code and data of a first lookup do not count: these touch one page.
  lookUp(reader, random, { count: 1e5, mask: 0xff });
  console.log(pss());
  let done = 0;
  for (const count of counts) {
    for (; done < count; done += 1e6) lookUp(reader, random, { count: 1e6, mask: -1 });
    console.log(pss());
  }
}

/** Looks up `count` addresses with random bits under `mask`. */
function lookUp(
  reader: NetbaseReader,
  random: Random,
  { count, mask }: { count: number; mask: number },
): void {
  for (let i = 0; i < count; i += BURST) {
    reader.refresh();
    for (let n = 0; n < BURST; n++) {
      const address = random.next() & mask;
      const hop = reader.fib.lookup(address);
      const { nextHops, neighbors } = reader;
      neighbors.lookup(nextHops.ifindex(hop), nextHops.gateway(hop));
      neighbors.lookup(nextHops.ifindex(hop), address);
    }
  }
}

/** Proportional set size of this process, MiB. */
function pss(): number {
  const kibibytes = /^Pss: +(\d+) kB$/m.exec(Deno.readTextFileSync("/proc/self/smaps_rollup"));
  return Number(kibibytes![1]) / 1024;
}

if (import.meta.main) weigh(Deno.args.map(Number));
