// SPDX-License-Identifier: Apache-2.0
/**
 * `memory`: the memory of all processes of the program with one echo, with one inside the net tile, and for each
 * further app, after some traffic; and the time from its start until it is ready. PSS counts a page that n processes
 * share as 1/n, so other Deno processes on the machine reduce the figures. They do not affect the part `without files`.
 */

import { fileURLToPath } from "node:url";
import { Lab } from "../demo/lab.ts";
import { interleave, isWanted, type Report, resultOf, type Selection, TEGULA } from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { buildPrograms } from "./programs.ts";
import { echoModule, type Memory, memoryOf, type Said, Service } from "./service.ts";
import { Track } from "./track.ts";

const RUNS = 5;
const PORT = 7;
const MORE = 4;
const LOAD = { window: 64, millis: 500, port: PORT } as const;
/** Time for the work after a start; then the program frees the memory that it needed for that. */
const SETTLE_MILLIS = 7000;

type Cost = Memory & { readonly startMs: number };

/** Runs the benchmark in namespaces of its own. */
export async function run(report: Report, selection: Selection): Promise<void> {
  await runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

async function cost(track: Track, said: Said): Promise<Cost> {
  const begun = performance.now();
  const service = await Service.start(track.service, said);
  const startMs = performance.now() - begun;
  await track.load({ ...LOAD, ports: said.listen.length });
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MILLIS));
  const memory = memoryOf(service.pid);
  await service.stop();
  return { ...memory, startMs };
}

if (import.meta.main) {
  await inLaboratory(async (report, selection) => {
    await using lab = new Lab();
    const track = await Track.lay(lab, await buildPrograms());
    const module = Deno.makeTempFileSync({ prefix: "tegula-bench-", suffix: ".js" });
    Deno.writeTextFileSync(module, echoModule());
    Deno.chmodSync(module, 0o644);
    const names = Array.from({ length: MORE }, (_, i) => `more${i}`);
    const many = {
      listen: [`${PORT}=echo`, ...names.map((name, i) => `${PORT + 1 + i}=${name}`)],
      modules: Object.fromEntries(names.map((name) => [name, module])),
    };
    const samples = await interleave({
      one: () => cost(track, { listen: [`${PORT}=echo`] }),
      inline: () => cost(track, { listen: [`${PORT}=echo@inline`] }),
      many: () => cost(track, many),
    }, { runs: selection.runs ?? RUNS, warmup: 0 });
    Deno.removeSync(module);
    const of = (name: string, field: keyof Cost) => samples.get(name)!.map((each) => each[field]);
    const each = (field: keyof Cost) =>
      of("many", field).map((all, i) => (all - of("one", field)[i]) / MORE);
    const tell = (name: string, unit: "MiB" | "ms", figures: readonly number[]) => {
      if (!isWanted(name, selection)) return;
      report(resultOf({ bench: "memory", case: name, unit }, new Map([[TEGULA, figures]])));
    };
    for (const [ending, field] of [["", "pss"], [" without files", "own"]] as const) {
      tell(`memory echo${ending}`, "MiB", of("one", field));
      tell(`memory echo inline${ending}`, "MiB", of("inline", field));
      tell(`memory each app more${ending}`, "MiB", each(field));
    }
    tell("start echo", "ms", of("one", "startMs"));
    tell("start echo inline", "ms", of("inline", "startMs"));
    tell("start each app more", "ms", each("startMs"));
  });
}
