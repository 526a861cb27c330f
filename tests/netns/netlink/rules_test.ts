// SPDX-License-Identifier: Apache-2.0
/**
 * Policy rules (docs/kernel.md, Routes), and the order in which the kernel asks its tables, which depends
 * on whether a rule was ever touched. The first test has to come first: there is no way back.
 */

import assert from "node:assert/strict";
import { RTN_LOCAL, RTN_UNICAST } from "../../../netbase/route.ts";
import { addr, assertDecides, ip, Mirrored, Oracle, twoPairs } from "./kit.ts";

const INSIDE = addr("127.0.0.5");

Deno.test("a namespace without rules of its own has one table of local and main", () => {
  twoPairs();
  ip("route add 127.0.0.5 dev v0");
  ip("route add local 203.0.0.0/16 dev lo");
  ip("route add 203.0.113.0/24 via 198.18.0.9");
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  assert.equal(mirrored.decide(addr("203.0.113.1")).kind, RTN_UNICAST);
  assertDecides(mirrored, oracle, { address: addr("203.0.113.1") });
  assertDecides(mirrored, oracle, { address: addr("203.0.1.1") });
  assertDecides(mirrored, oracle, { address: INSIDE });
});

Deno.test("the order is not taken from what the kernel says of 0.0.0.0 on its own", () => {
  twoPairs();
  ip("route add unreachable default table local");
  ip("route add prohibit 0.0.0.0/1");
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  assertDecides(mirrored, oracle, { address: addr("8.8.8.8") });
  assert.equal(mirrored.writer.rib.lookupOrder, "merged");
  ip("route del unreachable default table local");
});

Deno.test("a rule, once touched, sets local before main as a whole, and is named", () => {
  twoPairs();
  ip("route add 127.0.0.5 dev v0");
  ip("route add local 203.0.0.0/16 dev lo");
  ip("route add 203.0.113.0/24 via 198.18.0.9");
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  ip("rule add from 192.0.2.1 lookup 1000 pref 100");
  mirrored.settle();
  assert.equal(mirrored.decide(addr("203.0.113.1")).kind, RTN_LOCAL);
  for (const address of ["203.0.113.1", "203.0.1.1", "127.0.0.5", "127.0.0.1"]) {
    assertDecides(mirrored, oracle, { address: addr(address) });
  }
  assert.equal(mirrored.mirror.rules.custom, 1);
  assert.equal(mirrored.log.filter((line) => line.includes("policy rule 100")).length, 1);
  ip("rule del pref 100");
  mirrored.settle();
  assert.equal(mirrored.mirror.rules.custom, 0);
  assertDecides(mirrored, oracle, { address: addr("203.0.113.1") });
});

Deno.test("a mirror that comes after the rules have gone finds the order by asking", () => {
  twoPairs();
  ip("route add local 203.0.0.0/16 dev lo");
  ip("route add throw 203.0.2.0/24 table local");
  ip("route add 203.0.0.0/20 via 198.18.0.9");
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  for (const address of ["203.0.1.1", "203.0.2.1", "203.0.200.1"]) {
    assertDecides(mirrored, oracle, { address: addr(address) });
  }
  assert.equal(mirrored.writer.rib.lookupOrder, "separate");
});

Deno.test("an order that begins to matter later is asked for then", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  ip("route add 127.0.0.5 dev v0");
  mirrored.settle();
  assertDecides(mirrored, oracle, { address: INSIDE });
  assert.equal(mirrored.writer.rib.lookupOrder, "separate");
});

/** What lies in `local`, and in `main` inside of that: orders that show in a refusal alone. */
const REFUSALS = [
  ["blackhole 203.0.0.0/16", "prohibit 203.0.113.0/24"],
  ["prohibit 203.0.0.0/16", "203.0.113.0/24 via 198.18.0.9"],
  ["throw 203.0.113.0/24", "203.0.112.0/20 via 198.18.0.9"],
  ["unreachable 203.0.113.0/24", "throw 203.0.113.128/25"],
] as const;

for (const [local, main] of REFUSALS) {
  Deno.test(`the order is found by what is refused: ${local} in local, ${main} in main`, () => {
    twoPairs();
    ip(`route add ${local} table local`);
    ip(`route add ${main}`);
    using mirrored = new Mirrored().sync();
    using oracle = new Oracle(mirrored);
    for (const address of ["203.0.113.1", "203.0.113.129", "203.0.112.1"]) {
      assertDecides(mirrored, oracle, { address: addr(address) });
    }
    assert.equal(mirrored.writer.rib.lookupOrder, "separate");
    ip(`route del ${local} table local`);
  });
}

Deno.test("a throw in local is asked about when main has a way on", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  ip("route add throw 203.0.0.0/16 table local");
  mirrored.settle();
  ip("route add unreachable default");
  mirrored.settle();
  assertDecides(mirrored, oracle, { address: addr("203.0.113.1") });
  ip("route del throw 203.0.0.0/16 table local");
});
