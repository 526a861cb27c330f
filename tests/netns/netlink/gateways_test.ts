// SPDX-License-Identifier: Apache-2.0
/**
 * Where the kernel goes by the state of gateways: several default routes of equal metric, and groups of
 * next-hop objects. A multipath route without objects keeps to its hops, unless
 * `fib_multipath_use_neigh` says otherwise.
 */

import assert from "node:assert/strict";
import { addr, assertDecides, ip, Mirrored, Oracle, twoPairs } from "./kit.ts";

const A = { gateway: "198.18.0.9", dev: "v0" };
const B = { gateway: "198.18.1.9", dev: "v2" };
const REMOTE = addr("203.0.113.1");
/** Many flows, by their destinations. */
const DESTINATIONS = Array.from({ length: 200 }, (_, i) => addr("203.0.113.0") + i);

type Gateway = typeof A;

/** Gives a gateway's neighbour a state; one that failed must have been usable, to be announced. */
function fares({ gateway, dev }: Gateway, state: "reachable" | "stale" | "failed" | "gone"): void {
  if (state === "gone") return void ip(`neigh del ${gateway} dev ${dev}`);
  const usable = state === "failed" ? "stale" : state;
  ip(`neigh replace ${gateway} dev ${dev} lladdr 02:00:00:00:00:09 nud ${usable}`);
  if (state === "failed") ip(`neigh replace ${gateway} dev ${dev} nud failed`);
}

/** Gateways that flows to `DESTINATIONS` take: the kernel's, and Tegula's. */
function gatewaysTaken(mirrored: Mirrored, oracle: Oracle): { kernel: unknown; tegula: unknown } {
  mirrored.settle();
  const kernel = DESTINATIONS.map((address) => oracle.ask({ address }).gateway);
  const tegula = DESTINATIONS.map((address, i) =>
    mirrored.decide(address, 0, Math.imul(i, 0x9e3779b1)).gateway
  );
  return { kernel: new Set(kernel), tegula: new Set(tegula) };
}

Deno.test("of several default routes the first whose gateway is not dead is taken, as the kernel does", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  for (const { gateway } of [A, B]) ip(`route append default via ${gateway}`);
  const story = [
    [A, "reachable", A],
    [A, "failed", B],
    [B, "reachable", B],
    [A, "reachable", A],
    [A, "failed", B],
    [A, "gone", A],
    [A, "failed", B],
  ] as const;
  for (const [gateway, state, taken] of story) {
    fares(gateway, state);
    mirrored.settle();
    const what = `${gateway.gateway} is ${state}`;
    assert.equal(oracle.ask({ address: REMOTE }).gateway, addr(taken.gateway), what);
    assert.equal(mirrored.decide(REMOTE).gateway, addr(taken.gateway), what);
    assertDecides(mirrored, oracle, { address: REMOTE });
  }
  // Others of another metric have no part in it.
  fares(A, "reachable");
  fares(B, "failed");
  ip(`route append default via ${B.gateway} metric 10`);
  ip("route append default via 198.18.0.10 metric 10");
  ip(`route del default via ${B.gateway} metric 0`);
  fares(A, "failed");
  assert.deepEqual(gatewaysTaken(mirrored, oracle), {
    kernel: new Set([addr(A.gateway)]),
    tegula: new Set([addr(A.gateway)]),
  });
});

Deno.test("with all of their gateways dead, flows are spread over several default routes", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  for (const { gateway } of [A, B]) ip(`route append default via ${gateway}`);
  for (const gateway of [A, B]) fares(gateway, "failed");
  const both = new Set([addr(A.gateway), addr(B.gateway)]);
  assert.deepEqual(gatewaysTaken(mirrored, oracle), { kernel: both, tegula: both });
});

Deno.test("a group of next-hop objects passes over a member whose gateway is dead", () => {
  twoPairs();
  for (const [i, { gateway, dev }] of [A, B].entries()) {
    ip(`nexthop add id ${i + 1} via ${gateway} dev ${dev}`);
  }
  ip("nexthop add id 10 group 1/2");
  ip("route add 203.0.113.0/24 nhid 10");
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  const taken = (...gateways: Gateway[]) => {
    const set = new Set(gateways.map(({ gateway }) => addr(gateway)));
    assert.deepEqual(gatewaysTaken(mirrored, oracle), { kernel: set, tegula: set });
  };
  taken(A, B);
  fares(A, "failed");
  taken(B);
  fares(A, "stale");
  taken(A, B);
  fares(B, "failed");
  taken(A);
  fares(B, "gone");
  taken(A, B);
});

Deno.test("a multipath route without objects keeps to its hops, however their gateways fare", () => {
  twoPairs();
  ip(`route add 203.0.113.0/24 nexthop via ${A.gateway} nexthop via ${B.gateway}`);
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  fares(A, "failed");
  const both = new Set([addr(A.gateway), addr(B.gateway)]);
  assert.deepEqual(gatewaysTaken(mirrored, oracle), { kernel: both, tegula: both });
});
