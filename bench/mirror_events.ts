// SPDX-License-Identifier: Apache-2.0
/**
 * Events per second: queued in the sockets' buffers and then applied, and live, while `ip` makes them. The peer is a C
 * program that gets the same events and only counts them.
 */

import { Lines } from "../demo/lab.ts";
import { pollSet } from "../ffi/library.ts";
import { openRegions } from "../ffi/region.ts";
import { openNetlink } from "../ffi/sockets.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { NetbaseWriter } from "../netbase/netbase_writer.ts";
import { Mirror } from "../tiles/netlink/mirror.ts";
import { interleave, type Report, resultOf, TEGULA } from "./harness.ts";
import type { Batch } from "./mirror_kernel.ts";
import { createRegion } from "../tests/region.ts";

const RUNS = 5;
/** How long to wait for live events that do not come. */
const PATIENCE_MILLIS = 30_000;

/** A mirror in this thread, into a region like the appliance's. */
export function openMirror(): Mirror {
  const library = openNetlink();
  const region = createRegion(openRegions(), "netbase", NETBASE_BYTES);
  return new Mirror({
    library,
    writer: new NetbaseWriter(region.writer, { readers: [], seed: 1 }),
  });
}

/** The C program, which has joined the groups and counts on command. */
class Counter {
  readonly #child: Deno.ChildProcess;
  readonly #lines: Lines;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;

  constructor(program: string) {
    this.#child = new Deno.Command(program, {
      args: ["events"],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#lines = new Lines(this.#child.stdout);
    this.#input = this.#child.stdin.getWriter();
  }

  async ready(): Promise<this> {
    await this.#lines.find("ready");
    return this;
  }

  /** Reads `count` events and returns the milliseconds. Throws Error if some were lost. */
  async take(count: number): Promise<number> {
    const from = this.#lines.all.length;
    await this.#input.write(new TextEncoder().encode(`${count}\n`));
    const line = await this.#lines.find("{", { from, timeoutMs: PATIENCE_MILLIS });
    const { messages, overruns, millis } = JSON.parse(line);
    if (messages === count && overruns === 0) return millis;
    throw new Error(`the C program saw ${messages} of ${count} events, ${overruns} overruns`);
  }

  async close(): Promise<void> {
    await this.#input.close();
    await this.#child.status;
  }
}

/** A case of queued events, and the changes that cause them. */
export interface EventCase {
  readonly name: string;
  /** Alternating changes: the kernel sends an event only if something changes. */
  readonly batches: readonly [Batch, Batch];
  readonly counter: string;
}

/** Measures how fast queued events are applied to netbase. */
export async function measureParked(report: Report, what: EventCase): Promise<void> {
  const { name, batches, counter } = what;
  batches[0].run();
  const mirror = openMirror();
  mirror.sync();
  const peer = await new Counter(counter).ready();
  const samples = new Map<string, number[]>([[TEGULA, []], ["c_count", []]]);
  for (let round = -1; round < RUNS; round++) {
    const batch = batches[round & 1];
    batch.run();
    const takers = [
      [TEGULA, () => settle(mirror, batch.size)],
      ["c_count", () => peer.take(batch.size)],
    ] as const;
    for (const [who, take] of round % 2 === 0 ? takers : takers.toReversed()) {
      const millis = await take();
      if (round >= 0) samples.get(who)!.push(batch.size / millis * 1000);
    }
  }
  await peer.close();
  mirror.close();
  report(resultOf({ bench: "mirror", case: name, unit: "events/s" }, samples));
}

/** Applies the queued events, which must be `count`. */
function settle(mirror: Mirror, count: number): number {
  const { events, overruns } = mirror;
  const begin = performance.now();
  mirror.settle();
  const millis = performance.now() - begin;
  if (mirror.overruns === overruns && mirror.events - events === count) return millis;
  throw new Error(`the mirror saw ${mirror.events - events} of ${count} events, or an overrun`);
}

/**
 * Measures how many events a second can be applied while one `ip -batch` causes them: from its start until the last
 * was applied. `producer` is its rate without a listener.
 */
export async function measureLive(report: Report, { name, batches, counter }: EventCase) {
  batches[0].run();
  let turn = 1;
  const next = () => batches[turn++ & 1];
  const timed = (follow: (batch: Batch) => Promise<unknown>) => async () => {
    const batch = next();
    const begin = performance.now();
    await follow(batch);
    return batch.size / (performance.now() - begin) * 1000;
  };
  const samples = await interleave({
    [TEGULA]: () => liveMirror(timed),
    c_count: async () => {
      const peer = await new Counter(counter).ready();
      const figure = await timed((batch) => Promise.all([batch.start(), peer.take(batch.size)]))();
      await peer.close();
      return figure;
    },
    producer: timed((batch) => batch.start()),
  }, { runs: RUNS });
  report(resultOf({ bench: "mirror", case: name, unit: "events/s" }, samples));
}

/** One run of the mirror, which has synchronised before the clock starts. */
async function liveMirror(
  timed: (follow: (batch: Batch) => Promise<unknown>) => () => Promise<number>,
): Promise<number> {
  const mirror = openMirror();
  mirror.sync();
  const figure = await timed(async (batch) => {
    const ended = batch.start();
    follow(mirror, batch.size);
    await ended;
  })();
  mirror.close();
  return figure;
}

/** Turns until `count` events were applied. Throws Error if some were lost. */
function follow(mirror: Mirror, count: number): void {
  const library = openNetlink();
  const polled = pollSet(mirror.descriptors);
  const from = mirror.events;
  const end = performance.now() + PATIENCE_MILLIS;
  while (mirror.events - from < count) {
    if (mirror.overruns > 0) throw new Error("the mirror could not follow: events were lost");
    if (performance.now() > end) throw new Error(`only ${mirror.events - from} events came`);
    if (mirror.turn() === 0) library.wait(polled, 100);
  }
  mirror.settle();
}
