// SPDX-License-Identifier: Apache-2.0
/**
 * The echo with more peers, ports or routes: `echo peers N`, `echo ports N`, `echo routes N`. They are
 * compared with `few`, the same echo for one peer on one port with the few routes of a usual host.
 */

import type { Lab } from "../demo/lab.ts";
import { formatPrefix } from "../netbase/route.ts";
import { PORT, tegula } from "./echo_peers.ts";
import { interleave, isWanted, type Report, resultOf, type Selection, TEGULA } from "./harness.ts";
import { fullTable } from "./mirror_kernel.ts";
import { ADDRESS, INTERFACE, Track } from "./track.ts";

const [PEERS, PORTS, ROUTES] = [10_000, 64, 1_000_000];
const FEW = "few";
const WINDOW = 512;
const LOAD_MILLIS = 1000;
const RUNS = 5;

/** Measures the cases that are wanted. */
export async function measureGrowth(
  track: Track,
  { report, selection, lab }: { report: Report; selection: Selection; lab: Lab },
): Promise<void> {
  const names = [`echo peers ${PEERS}`, `echo ports ${PORTS}`, `echo routes ${ROUTES}`];
  const wanted = names.filter((name) => isWanted(name, selection));
  if (wanted.length === 0) return;
  const [peers, ports, routes] = names;
  const full = wanted.includes(routes) ? await layFullTrack(lab, track) : track;
  const kpps = (on: Track, { peers = 1, ports = 1 }) => () =>
    on.during(tegula({ ports }), async () => {
      const asked = { port: PORT, window: WINDOW, millis: LOAD_MILLIS, peers, ports };
      return (await on.load(asked)).kpps;
    });
  const contestants = {
    [FEW]: kpps(track, {}),
    [peers]: kpps(track, { peers: PEERS }),
    [ports]: kpps(track, { ports: PORTS }),
    [routes]: kpps(full, {}),
  };
  const turns = await interleave(
    Object.fromEntries(
      Object.entries(contestants).filter(([name]) => name === FEW || wanted.includes(name)),
    ),
    { runs: selection.runs ?? RUNS, warmup: 0 },
  );
  for (const name of wanted) {
    const samples = new Map([[TEGULA, turns.get(name)!], [FEW, turns.get(FEW)!]]);
    report(resultOf({ bench: "echo", case: name, unit: "kpps" }, samples));
  }
}

/** A second track, whose service has a full table of routes. */
async function layFullTrack(lab: Lab, { programs }: Track): Promise<Track> {
  const track = await Track.lay(lab, programs, { name: "full" });
  const table = fullTable(ROUTES);
  // A second gateway, so that routes differ.
  const via = `via ${ADDRESS.replace(/\d+$/, "3")} dev ${INTERFACE}`;
  await track.service.batch(
    Array.from(
      { length: ROUTES },
      (_, i) => `route add ${formatPrefix(table[i * 2], table[i * 2 + 1])} ${via}`,
    ),
  );
  return track;
}
