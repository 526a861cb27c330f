// SPDX-License-Identifier: Apache-2.0
/**
 * The mirror against the kernel itself: after each of a sequence of random commands of `ip`, for
 * addresses around the edges of all prefixes, Tegula decides as RTM_GETROUTE answers. A sequence
 * that fails is cut down to a short one before it is shown. `TEGULA_ORACLE_STEPS` makes it longer.
 */

import assert from "node:assert/strict";
import { RTNH_F_DEAD } from "../../../netbase/route.ts";
import { SEED } from "../../seed.ts";
import { addressesToAsk, commands, randomFrom, WORLD } from "./commands.ts";
import {
  assertCurrent,
  assertDecides,
  cleanSlate,
  converges,
  ip,
  Mirrored,
  Oracle,
  tryCommand,
} from "./kit.ts";

const STEPS = Number(Deno.env.get("TEGULA_ORACLE_STEPS") ?? 1500);
/** Steps of one sequence; then the world is built anew. */
const SEQUENCE = 100;
/** Steps between two comparisons of everything that is mirrored. */
const AUDIT = 10;
/** Runs spent on cutting a failing sequence down, and how long they may take. */
const MOST_SHRINKS = 150;
const SHRINK_MILLIS = 60_000;
const ADDRESSES = addressesToAsk();

/** Where a sequence failed, and how. */
interface Failure {
  readonly step: number;
  readonly error: Error;
}

/** Runs a sequence from a fresh world; null when all went well. */
function run(sequence: readonly string[], { audit }: { audit: number }): Failure | null {
  cleanSlate();
  for (const command of WORLD) ip(command);
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  for (const [step, command] of sequence.entries()) {
    tryCommand(command);
    try {
      mirrored.settle();
      compare(mirrored, oracle, step);
      if (step % audit === audit - 1) assertCurrent(mirrored);
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      return { step, error };
    }
  }
  return null;
}

function compare(mirrored: Mirrored, oracle: Oracle, step: number): void {
  const addresses = mirrored.writer.interfaces.all().flatMap((each) => each.addresses);
  const own = addresses.map(({ local }) => local);
  // With one address on two interfaces the kernel takes the one that got it last; no event tells.
  const sources = own.filter((address) => own.indexOf(address) === own.lastIndexOf(address));
  const random = randomFrom(step);
  for (const address of ADDRESSES) {
    assertDecides(mirrored, oracle, { address });
    converges(mirrored, () => compareGroup(mirrored, oracle, address));
    const source = sources[Math.floor(random() * sources.length)];
    if (random() < 0.2 && source !== undefined) {
      assertDecides(mirrored, oracle, { address, source });
    }
  }
}

/** A group, where it is one, has the kernel's live hops with the kernel's weights. */
function compareGroup(mirrored: Mirrored, oracle: Oracle, address: number): void {
  const { group } = mirrored.decide(address);
  if (group === 0) return;
  const route = oracle.route({ address, fibMatch: true });
  assert.ok(typeof route !== "number");
  const kernel = (route.hops ?? [{ ...route, weight: 1 }])
    .filter(({ flags }) => (flags & RTNH_F_DEAD) === 0)
    .map(({ gateway, ifindex, weight }) => `${gateway} ${ifindex} ${weight}`);
  const { nextHops } = mirrored.reader;
  const own = Array.from({ length: nextHops.memberCount(group) }, (_, i) => {
    const id = nextHops.memberId(group, i);
    return `${nextHops.gateway(id)} ${nextHops.ifindex(id)} ${nextHops.memberWeight(group, i)}`;
  });
  assert.deepEqual(own.sort(), kernel.sort());
}

/** Takes out of a failing sequence what it fails without. */
function shrink(sequence: readonly string[]): readonly string[] {
  let shortest = sequence;
  let runs = 0;
  const end = performance.now() + SHRINK_MILLIS;
  for (let size = Math.ceil(sequence.length / 2); size >= 1; size = Math.floor(size / 2)) {
    for (let from = 0; from < shortest.length && runs < MOST_SHRINKS && performance.now() < end;) {
      const shorter = shortest.toSpliced(from, size);
      runs++;
      const failure = shorter.length === 0 ? null : run(shorter, { audit: 1 });
      if (failure === null) from += size;
      else shortest = shorter.slice(0, failure.step + 1);
    }
  }
  return shortest;
}

function test(name: string, seed: number): void {
  Deno.test(name, () => {
    for (let done = 0; done < STEPS; done += SEQUENCE) {
      const sequence = commands(seed + done, Math.min(SEQUENCE, STEPS - done));
      const failure = run(sequence, { audit: AUDIT });
      if (failure === null) continue;
      const shortest = shrink(sequence.slice(0, failure.step + 1));
      const again = run(shortest, { audit: 1 });
      throw new Error(
        `commands of seed ${seed + done}:\n${shortest.join("\n")}\n${
          (again ?? failure).error.message
        }`,
      );
    }
  });
}

test("after any ip command Tegula decides as the kernel does, its tables in one trie", SEED);

Deno.test("a rule is touched, which sets the tables apart", () => {
  ip("rule add from 192.0.2.1 lookup 1000 pref 100");
  ip("rule del pref 100");
});

Deno.test("a throw shows that the tables are apart, though local has the edges of its prefix", () => {
  const failure = run([
    "addr del 198.18.0.3/24 dev v2",
    "addr add 198.18.0.1/25 dev v2",
    "route append throw 198.18.0.0/24 metric 50 table local",
  ], { audit: 1 });
  assert.equal(failure, null);
});

test("after any ip command Tegula decides as the kernel does, its tables apart", SEED + 50_000);
