// SPDX-License-Identifier: Apache-2.0
/** Audits of a mirror whose tables are real and whose kernel is made up. */

import assert from "node:assert/strict";
import type { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import { NLM_F_APPEND } from "../../../netbase/route.ts";
import { type AuditedMirror, type AuditReport, makeAudit } from "../../../tiles/netlink/audit.ts";
import { Resync } from "../../../tiles/netlink/mirror.ts";
import { type Dumper, MessageCursor, type ReplyHandler } from "../../../tiles/netlink/rtnetlink.ts";
import { type Table, TableBit } from "../../../tiles/netlink/tables.ts";
import { NETLINK } from "../../../tiles/runtime/counters.ts";
import { routeTo } from "../netbase_kernel.ts";
import { makeRoom } from "../netbase_room.ts";

/** A mirror without routes, and an audit of it whose copy gets `routes` from its one dump. */
class World {
  readonly counters = new Float64Array(Object.keys(NETLINK.index).length);
  readonly writer = makeRoom().writer;
  readonly dumper = {
    busy: false,
    abandoned: 0,
    dumps: 0,
    isRefused: false,
    handler: null as ReplyHandler | null,
    dump(_kinds: unknown, handler: ReplyHandler) {
      if (this.isRefused) return false;
      this.dumps++;
      this.handler = handler;
      return true;
    },
    abandon() {
      this.abandoned++;
    },
  };
  readonly mirror = {
    writer: this.writer,
    current: true,
    disruptions: 0,
    resyncs: 0,
    copyInto: (copy: NetbaseWriter) => this.#copyInto(copy),
    watchEvents: (watcher: typeof this.watcher) => this.watcher = watcher,
    resync() {
      this.resyncs++;
    },
  };
  watcher: ((message: MessageCursor, now: number) => void) | null = null;
  readonly audit = makeAudit(this.mirror as unknown as AuditedMirror, {
    ...{ counters: this.counters, now: 0, log() {} },
  });
  readonly reports: AuditReport[] = [];
  #copy: NetbaseWriter | null = null;
  readonly #routes: number;

  constructor({ routes = 0 } = {}) {
    this.#routes = routes;
  }

  #copyInto(copy: NetbaseWriter): Resync {
    this.#copy = copy;
    const table: Table = {
      ...{ bit: TableBit.routes, dumps: ["routes"], types: [24], beginSync() {} },
      apply() {
        copy.rib.remove(routeOf(0));
        return 0;
      },
      endSync: () => {
        for (let i = 0; i < this.#routes; i++) copy.rib.add(routeOf(i), NLM_F_APPEND);
      },
    };
    return new Resync(this.dumper as unknown as Dumper, { tables: [table], log() {} });
  }

  /** Requests an audit and lets the copy be read. */
  begin(): void {
    this.audit.request((report) => this.reports.push(report));
    this.audit.turn(0);
    this.audit.turn(0);
  }

  endDump(): void {
    this.dumper.handler!.done("done", 0, 0);
  }

  /** Turns from `now` on until nothing is done. */
  turn(now: number): void {
    while (this.audit.turn(now) > 0);
  }

  /** An event about the first route of the copy. */
  event(): void {
    assert.notEqual(this.#copy, null);
    this.watcher?.({ type: 24 } as MessageCursor, 0);
  }
}

function routeOf(i: number) {
  return routeTo(`10.${i >>> 16}.${i >>> 8 & 255}.${i & 255}/32`, { gateway: 1, ifindex: 2 });
}

Deno.test("an audit that cannot ask the kernel leaves the dumps of others alone", () => {
  const world = new World();
  world.dumper.isRefused = true;
  world.begin();
  // By now the mirror has begun a dump, and then loses events.
  world.dumper.busy = true;
  world.mirror.disruptions++;
  world.turn(1);
  assert.equal(world.dumper.abandoned, 0);
  world.dumper.busy = world.dumper.isRefused = false;
  world.turn(100);
  assert.equal(world.dumper.dumps, 1, "it begins anew");
});

Deno.test("an audit that is disturbed abandons its own dump, and comes to an end later", () => {
  const world = new World();
  world.begin();
  world.mirror.disruptions++;
  world.turn(1);
  assert.equal(world.dumper.abandoned, 1);
  world.turn(100);
  world.endDump();
  world.turn(100);
  assert.deepEqual(world.reports.map(({ divergent }) => divergent), [0]);
});

Deno.test("an audit that finds more differences than it counts comes to an end", () => {
  const world = new World({ routes: 100_000 });
  world.begin();
  world.endDump();
  world.turn(0);
  world.turn(10_000);
  const { mirror: { resyncs }, reports } = world;
  assert.deepEqual([resyncs, reports.length], [1, 1]);
  assert.equal(reports[0].divergent, 65_536);
  assert.equal(world.counters[NETLINK.index.audit_difference_routes], 65_536);
});

Deno.test("what an event has named meanwhile is no difference", () => {
  /** What an audit finds when the event comes at this moment. */
  const found = (moment: "none" | "before its end" | "behind its end") => {
    const world = new World({ routes: 2 });
    world.begin();
    world.endDump();
    if (moment === "before its end") world.event();
    world.turn(0);
    assert.equal(world.reports.length, 0, "it is compared twice");
    if (moment === "behind its end") world.event();
    world.turn(10_000);
    return world.reports[0].divergent;
  };
  assert.equal(found("none"), 2);
  assert.equal(found("before its end"), 1);
  assert.equal(found("behind its end"), 1, "some events come late");
});
