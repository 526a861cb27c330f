// SPDX-License-Identifier: Apache-2.0
/**
 * Nanoseconds an operation of the library for authors (`apps/library/`), with 1,000 and with 1,000,000
 * entries in use, of addresses in random order. Next to each is the equivalent without the library, with
 * V8's Map. Also the milliseconds for building Maglev's table, during which an app receives nothing.
 */

import { ClockMap } from "../apps/library/clock_map.ts";
import { Maglev, mix, type Weighted } from "../apps/library/maglev.ts";
import { SessionTable } from "../apps/library/session_table.ts";
import { SlidingWindows } from "../apps/library/sliding_windows.ts";
import { TokenBuckets } from "../apps/library/token_buckets.ts";
import { Address } from "../tiles/app/address.ts";
import { isWanted, measure, type Report, type Selection, timed } from "./harness.ts";
import { randomAddresses } from "./routes.ts";

/** Operations of one measurement: each address at least once. */
const OPERATIONS = 1_000_000;
/** Builds of one measurement, and the numbers of backends: 256 are the most that `balance` has. */
const BUILDS = 20;
const BACKENDS = [10, 100, 256];

/** Uses a structure for one address, at an operation's number. Returns what it found. */
type Use = (address: Address, i: number) => number;
interface Measured {
  readonly tegula: Use;
  readonly map?: Use;
}

/** Each case: makes the measured structure, with all of `addresses` in it. */
const CASES: Readonly<Record<string, (addresses: Uint32Array) => Measured>> = {
  "token buckets take": ({ length }) => {
    const buckets = new TokenBuckets({ perSecond: 1e6, burst: 100, entries: powerAbove(length) });
    const map = new Map<number, number>();
    return {
      tegula: (address, i) => Number(buckets.take(address, i)),
      map: ({ words }, i) => {
        const full = Math.max(map.get(words[3]) ?? 0, i);
        map.set(words[3], full + 1e-3);
        return full;
      },
    };
  },
  "sliding windows take": ({ length }) => {
    const windows = new SlidingWindows({ most: 1e6, millis: 1e5, entries: powerAbove(length) });
    return { tegula: (address, i) => Number(windows.take(address, i)) };
  },
  "clock map find": (addresses) => {
    const clock = new ClockMap(addresses.length);
    const map = new Map<number, number>();
    const address = new Address();
    for (const [i, word] of addresses.entries()) {
      address.words[3] = word;
      if (clock.find(address, 53) < 0) clock.insert(address, 53);
      map.set(word, i);
    }
    return {
      tegula: (address) => clock.find(address, 53),
      map: ({ words }) => map.get(words[3]) ?? -1,
    };
  },
  "clock map insert when full": ({ length }) => {
    const clock = new ClockMap(length);
    let word = 0;
    const fill = new Address();
    while (clock.count < length) clock.insert(fill, word++);
    return { tegula: (address) => clock.insert(address, word++) };
  },
  "session table find, touch": (addresses) => {
    const sessions = new SessionTable(
      new Uint8Array(SessionTable.bytesFor(addresses.length)),
      addresses.length,
    );
    const address = new Address();
    for (const [i, word] of addresses.entries()) {
      address.words[3] = word;
      if (sessions.find(address, 53) < 0) sessions.begin(i, address, 53, 1);
    }
    return {
      tegula: (address, i) => {
        const session = sessions.find(address, 53);
        sessions.touch(session, 1 + i);
        return session;
      },
    };
  },
  "session table end, begin": ({ length }) => {
    const sessions = new SessionTable(new Uint8Array(SessionTable.bytesFor(length)), length);
    const fill = new Address();
    for (let i = 0; i < length; i++) sessions.begin(i, fill, i, 1);
    let word = length;
    return {
      tegula: (address) => {
        const session = word % length;
        sessions.end(session);
        sessions.begin(session, address, word++, 1);
        return session;
      },
    };
  },
  "maglev find": () => {
    const maglev = new Maglev();
    maglev.build(backendsOf(100));
    return { tegula: (address) => maglev.find(mix(address, 53, 0)) };
  },
};

/** This many backends for Maglev, of equal weight. */
function backendsOf(length: number): Weighted[] {
  const address = new Address(0xc6120500);
  return Array.from({ length }, (_, port) => ({ address, port, weight: 1 }));
}

/** The power of two with room for this many and half as many again: sets fill unevenly. */
function powerAbove(count: number): number {
  return 2 ** Math.ceil(Math.log2(count * 1.5));
}

/** Measures all cases that are wanted. */
export async function run(report: Report, selection: Selection = {}): Promise<void> {
  for (const count of [1000, 1_000_000]) {
    for (const [what, make] of Object.entries(CASES)) {
      const name = `${what}, ${count} entries`;
      if (!isWanted(name, selection)) continue;
      const addresses = Uint32Array.from(randomAddresses(count));
      const { tegula, map } = make(addresses);
      const contestant = (use: Use) => timed(OPERATIONS, () => useAll(use, addresses));
      report(
        await measure({
          ...{ bench: "library", case: name, unit: "ns/op", tegula: contestant(tegula) },
          ...{ peers: map === undefined ? {} : { map: contestant(map) }, runs: selection.runs },
        }),
      );
    }
  }
  for (const count of BACKENDS) await runBuild(count, report, selection);
}

/** Measures the building of Maglev's table, as an app does when a backend comes or goes. */
async function runBuild(count: number, report: Report, selection: Selection): Promise<void> {
  const name = `maglev build, ${count} backends`;
  if (!isWanted(name, selection)) return;
  const maglev = new Maglev();
  const backends = backendsOf(count);
  const buildAll = () => {
    for (let i = 0; i < BUILDS; i++) maglev.build(backends);
    return maglev.find(0);
  };
  const nanos = timed(BUILDS, buildAll);
  const tegula = async () => await nanos() / 1e6;
  report(await measure({ bench: "library", case: name, unit: "ms", tegula, runs: selection.runs }));
}

/** The same address object is reused, as in `receive`. */
function useAll(use: Use, addresses: Uint32Array): number {
  const address = new Address();
  let [sum, at] = [0, 0];
  for (let i = 0; i < OPERATIONS; i++) {
    address.words[3] = addresses[at];
    if (++at === addresses.length) at = 0;
    sum += use(address, i);
  }
  return sum;
}
