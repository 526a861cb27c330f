// SPDX-License-Identifier: Apache-2.0
/**
 * The audit: what the mirror has wrong it finds, names, counts and has put right; what an event tells it
 * leaves alone; and where nothing is wrong it finds nothing, whatever happens meanwhile.
 */

import assert from "node:assert/strict";
import { NLM_F_APPEND } from "../../../netbase/route.ts";
import { type Audit, type AuditReport, makeAudit } from "../../../tiles/netlink/audit.ts";
import { readCounters } from "../../../tiles/runtime/counters.ts";
import { SEED } from "../../seed.ts";
import { commands, WORLD } from "./commands.ts";
import {
  addr,
  cleanSlate,
  indexOf,
  ip,
  ipBatch,
  library,
  Mirrored,
  tryIp,
  twoPairs,
} from "./kit.ts";

const PATIENCE_MILLIS = 20_000;

/** A mirror with an audit on it, turned by hand. */
class Audited {
  readonly log: string[] = [];
  readonly values = new Float64Array(64);
  readonly #mirrored: Mirrored;
  readonly #audit: Audit;

  constructor(mirrored: Mirrored) {
    this.#mirrored = mirrored;
    this.#audit = makeAudit(mirrored.mirror, {
      counters: this.values,
      now: performance.now(),
      log: (line) => this.log.push(line),
    });
  }

  get counters(): Record<string, number> {
    return readCounters("netlink", this.values);
  }

  /** Audits once; `meanwhile` is called with every turn. */
  run(meanwhile: (turn: number) => void = () => {}): AuditReport {
    const { mirror } = this.#mirrored;
    let report: AuditReport | null = null;
    this.#audit.request((told) => report = told);
    const deadline = performance.now() + PATIENCE_MILLIS;
    for (let turn = 0; report === null; turn++) {
      const now = performance.now();
      assert.ok(now < deadline, "the audit comes to an end");
      mirror.turn(now);
      if (this.#audit.turn(now) === 0) library.wait(new Int32Array(0), 1);
      meanwhile(turn);
    }
    return report;
  }
}

function divergences({ tables }: AuditReport): number[] {
  return [tables.interfaces, tables.routes, tables.neighbors].map(({ divergent }) => divergent);
}

Deno.test("an audit finds nothing wrong with a mirror that is right", () => {
  twoPairs();
  ipBatch([
    "route add default via 198.18.0.9 metric 5",
    "route append default via 198.18.0.8 metric 5",
    "route add 203.0.113.0/24 nexthop via 198.18.0.9 weight 2 nexthop via 198.18.1.9",
    "nexthop add id 7 via 198.18.0.9 dev v0",
    "route add 192.0.2.0/24 nhid 7",
    "neigh add 198.18.0.9 lladdr 02:00:00:00:00:09 dev v0",
    "neigh add 198.18.0.10 lladdr 02:00:00:00:00:0a dev v0 nud stale",
  ]);
  using mirrored = new Mirrored().sync();
  const audited = new Audited(mirrored);
  const report = audited.run();
  assert.equal(report.divergent, 0, audited.log.join("\n"));
  assert.equal(report.tables.interfaces.entries, 5);
  assert.equal(report.tables.routes.entries, mirrored.writer.rib.size);
  assert.ok(report.tables.neighbors.entries >= 2);
  assert.equal(audited.counters.audits, 1);
});

const FAULTS: Record<string, { make(mirrored: Mirrored): void; found: number[]; named: RegExp }> = {
  "a route that the kernel has not": {
    make: ({ writer: { rib } }) => {
      const [route] = [...rib.routes()].filter(({ prefixLength }) => prefixLength === 0);
      rib.add({ ...route, destination: addr("203.0.113.0"), prefixLength: 24 }, NLM_F_APPEND);
    },
    found: [0, 1, 0],
    named: /route 203\.0\.113\.0\/24 differed/,
  },
  "a route that is missing": {
    make: ({ writer: { rib } }) => {
      const [route] = [...rib.routes()].filter(({ table }) => table === 255);
      assert.ok(rib.remove(route));
    },
    found: [0, 1, 0],
    named: /local route .* differed/,
  },
  "a route whose way is another": {
    make: ({ writer: { rib } }) => {
      const count = rib.rewrite((attributes) =>
        attributes.gateway === addr("198.18.0.9")
          ? { ...attributes, gateway: addr("198.18.0.1") }
          : attributes
      );
      assert.equal(count, 1);
    },
    found: [0, 1, 0],
    named: /route default differed/,
  },
  "routes in another order": {
    make: ({ writer: { rib } }) => {
      const [first] = [...rib.routes()].filter(({ prefixLength }) => prefixLength === 0);
      rib.remove(first);
      rib.add(first, NLM_F_APPEND);
    },
    found: [0, 1, 0],
    named: /route default differed/,
  },
  "an interface with another MTU": {
    make: ({ writer: { interfaces } }) => {
      interfaces.put({ ...interfaces.get(indexOf("v0"))!, mtu: 1400 });
    },
    found: [1, 0, 0],
    named: /interface \d+ differed/,
  },
  "an address that is missing": {
    make: ({ writer: { interfaces } }) => {
      const entry = interfaces.get(indexOf("v0"))!;
      interfaces.put({ ...entry, addresses: entry.addresses.slice(1) });
    },
    found: [1, 0, 0],
    named: /interface \d+ differed/,
  },
  "a neighbour with another's MAC": {
    make: ({ writer: { neighbors } }) => {
      neighbors.set({
        ...{ ifindex: indexOf("v0"), address: addr("198.18.0.9"), state: 0x80, flags: 0 },
        ...{ macHead: 1, macTail: 1 },
      });
    },
    found: [0, 0, 1],
    named: /neighbour 198\.18\.0\.9 on interface \d+ differed/,
  },
  "a neighbour that is missing": {
    make: ({ writer: { neighbors } }) => {
      assert.ok(neighbors.remove(indexOf("v0"), addr("198.18.0.9")));
    },
    found: [0, 0, 1],
    named: /neighbour 198\.18\.0\.9/,
  },
};

function faultyWorld(): Mirrored {
  twoPairs();
  ipBatch([
    "route add default via 198.18.0.9 metric 5",
    "route append default via 198.18.0.8 metric 5",
    "neigh add 198.18.0.9 lladdr 02:00:00:00:00:09 dev v0",
  ]);
  return new Mirrored().sync();
}

for (const [what, { make, found, named }] of Object.entries(FAULTS)) {
  Deno.test(`an audit finds ${what}, names it, counts it, and it is put right`, () => {
    using mirrored = faultyWorld();
    const audited = new Audited(mirrored);
    const before = mirrored.content();
    make(mirrored);
    mirrored.writer.commit();
    assert.deepEqual(divergences(audited.run()), found, audited.log.join("\n"));
    assert.match(audited.log[0], named);
    const { audit_difference_interfaces, audit_difference_routes, audit_difference_neighbors } =
      audited.counters;
    assert.deepEqual([
      audit_difference_interfaces,
      audit_difference_routes,
      audit_difference_neighbors,
    ], found);
    mirrored.settle();
    assert.deepEqual(mirrored.content(), before);
    assert.deepEqual(divergences(audited.run()), [0, 0, 0]);
  });
}

Deno.test("what an event names meanwhile is no fault, though a comparison showed it", () => {
  using mirrored = faultyWorld();
  const audited = new Audited(mirrored);
  const { rib } = mirrored.writer;
  const [route] = [...rib.routes()].filter(({ prefixLength }) => prefixLength === 0);
  const wrong = { ...route, destination: addr("203.0.113.0"), prefixLength: 24, priority: 0 };
  rib.add(wrong, NLM_F_APPEND);
  const { dumps } = mirrored.mirror.syncCounts;
  let told = false;
  const report = audited.run((turn) => {
    // By now the first comparison has shown it.
    if (told || turn < 100) return;
    ip("route add 203.0.113.0/24 via 198.18.0.9");
    told = true;
  });
  assert.ok(told);
  assert.equal(mirrored.mirror.syncCounts.dumps, dumps, "nothing was read anew");
  assert.equal(report.divergent, 0, audited.log.join("\n"));
});

Deno.test("audits find nothing while random commands change everything", () => {
  cleanSlate();
  for (const command of WORLD) ip(command);
  using mirrored = new Mirrored().sync();
  const audited = new Audited(mirrored);
  const changes = commands(SEED, 600);
  while (changes.length > 0) {
    const report = audited.run(() => {
      const command = changes.pop();
      if (command !== undefined) tryIp(command);
    });
    assert.equal(report.divergent, 0, audited.log.join("\n"));
  }
  assert.ok(audited.counters.audits >= 1);
  assert.equal(audited.run().divergent, 0, audited.log.join("\n"));
});

Deno.test("audits find nothing while routes and neighbours change without pause", () => {
  using mirrored = faultyWorld();
  const audited = new Audited(mirrored);
  let round = 0;
  for (let i = 0; i < 20; i++) {
    const report = audited.run(() => {
      if (++round % 3 !== 0) return;
      ipBatch(
        Array.from(
          { length: 20 },
          (_, n) =>
            n % 4 === 0
              ? `neigh replace 198.18.0.${100 + n} lladdr 02:00:00:00:${n}:${
                round % 90 + 10
              } dev v0`
              : `route replace 203.0.${n}.0/24 via 198.18.0.${round % 7 + 3}`,
        ),
      );
    });
    assert.equal(report.divergent, 0, audited.log.join("\n"));
  }
  assert.ok(round > 60, `${round} rounds`);
});
