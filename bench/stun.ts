// SPDX-License-Identifier: Apache-2.0
/**
 * `stun`: what an author has of each way to write a small server, here one that answers STUN's binding requests, over a
 * veth pair (`track.ts`). Answers a second and round trips with 1, 32 and 256 requests in flight; each answer is
 * checked. Tegula's are the fast form in a process of its own (`tegula`) and inside the net tile (`tegula inline`), and
 * the short form (`tegula short`). Peers: node:dgram, and the UDP sockets of Deno and Bun. All but the fast form share
 * `stun/binding.mjs`.
 */

import { fileURLToPath } from "node:url";
import { selfCommand } from "../cli/command.ts";
import { Lab } from "../demo/lab.ts";
import { BUN_PROGRAM, fetchBun, runs } from "./echo_peers.ts";
import { interleave, isWanted, type Report, resultOf, type Selection, TEGULA } from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { INLINE } from "./placements.ts";
import { buildPrograms } from "./programs.ts";
import { INTERFACE, type Load, Track } from "./track.ts";

const PORT = 3478;
const WINDOWS = [1, 32, 256];
const LOAD_MILLIS = 700;
const RUNS = 5;
const FIELDS = [
  ...[{ field: "kpps", unit: "kpps", ending: "" }, { field: "p50", unit: "ns/op", ending: " p50" }],
  { field: "p99", unit: "ns/op", ending: " p99" },
] as const;

/** Runs the benchmark in namespaces of its own. */
export async function run(report: Report, selection: Selection): Promise<void> {
  await fetchBun();
  await runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

/** All servers as command lines. */
async function servers(): Promise<Record<string, readonly string[]>> {
  const file = (name: string) => fileURLToPath(new URL(`stun/${name}`, import.meta.url));
  const tegula = (app: string) => [
    ...[...selfCommand(), "run", "--interface", INTERFACE, "--provider", "xdp"],
    ...["--listen", `${PORT}=${app}`],
  ];
  const deno = [Deno.execPath(), "run", "--allow-net", "--unstable-net", file("deno.ts")];
  return {
    [TEGULA]: tegula(file("fast.ts")),
    [INLINE]: tegula(`${file("fast.ts")}@inline`),
    "tegula short": tegula(file("plain.ts")),
    ...(await runs("node") && { node: ["node", file("node.mjs"), `${PORT}`] }),
    deno: [...deno, `${PORT}`],
    ...(await runs(BUN_PROGRAM) && { bun: [BUN_PROGRAM, file("bun.mjs"), `${PORT}`] }),
  };
}

if (import.meta.main) {
  await inLaboratory(async (report, selection) => {
    await using lab = new Lab();
    const track = await Track.lay(lab, await buildPrograms());
    const turn = async (start: readonly string[]) =>
      await track.during(start, async () => {
        const loads: Load[] = [];
        for (const window of WINDOWS) {
          loads.push(
            await track.load({ port: PORT, window, millis: LOAD_MILLIS, queries: "stun" }),
          );
        }
        return loads;
      });
    const contestants = Object.fromEntries(
      Object.entries(await servers()).map(([name, start]) => [name, () => turn(start)]),
    );
    const { runs = RUNS } = selection;
    const turns = await interleave(contestants, { runs, warmup: 0 });
    WINDOWS.forEach((window, i) => {
      for (const { field, unit, ending } of FIELDS) {
        const name = `stun ${window}${ending}`;
        if (!isWanted(name, selection)) continue;
        const samples = [...turns].map(([server, all]) =>
          [server, all.map((loads) => loads[i][field] ?? NaN)] as const
        );
        report(resultOf({ bench: "stun", case: name, unit }, new Map(samples)));
      }
    });
  });
}
