// SPDX-License-Identifier: Apache-2.0
/**
 * All routes in parts, as the status tile gets them from the netlink tile: whatever lies where one part
 * ends and the next begins, none is left out and none comes twice.
 */

import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { NLM_F_APPEND, type Route } from "../../../netbase/route.ts";
import { type AuditedMirror, makeAudit } from "../../../tiles/netlink/audit.ts";
import {
  answerer,
  interfaceNames,
  routeEntry,
  type RoutesPage,
} from "../../../tiles/netlink/entries.ts";
import {
  Ask,
  CONTROL_BYTES,
  ControlWriter,
  questioner,
  SNAPSHOT_BYTES,
  type Told,
} from "../../../tiles/runtime/control.ts";
import { anyRoute, makeRoom } from "../netbase_room.ts";
import fc from "../property.ts";

type Place = { readonly prefix: number; readonly length: number };

function place(route: Route): Place {
  return { prefix: route.destination, length: route.prefixLength };
}

function isBefore(a: Place, b: Place): boolean {
  return a.prefix < b.prefix || a.prefix === b.prefix && a.length < b.length;
}

Deno.test("routes() from a prefix on are all routes but those before it", () => {
  const anyPlace = anyRoute.map(place);
  fc.assert(fc.property(fc.array(anyRoute, { maxLength: 40 }), anyPlace, (routes, from) => {
    const { writer: { rib } } = makeRoom();
    for (const route of routes) rib.add(route, NLM_F_APPEND);
    const all = [...rib.routes()];
    assert.deepEqual([...rib.routes(from)], all.filter((route) => !isBefore(place(route), from)));
  }));
});

Deno.test("routesCovering() gives the routes whose prefix the address is in, shorter ones first", () => {
  fc.assert(fc.property(fc.array(anyRoute, { maxLength: 40 }), anyRoute, (routes, other) => {
    const { writer: { rib } } = makeRoom();
    for (const route of routes) rib.add(route, NLM_F_APPEND);
    const address = other.destination;
    const expected = [...rib.routes()].filter(({ destination, prefixLength }) =>
      prefixLength === 0 || (destination ^ address) >>> (32 - prefixLength) === 0
    );
    assert.deepEqual([...rib.routesCovering(address)], expected);
  }));
});

Deno.test("compare() finds just the prefixes and tables whose routes differ, in steps of any size", () => {
  const some = fc.array(anyRoute, { maxLength: 30 });
  const steps = fc.integer({ min: 1, max: 5 });
  fc.assert(fc.property(some, some, some, steps, (common, ours, theirs, most) => {
    const [own, other] = [ours, theirs].map((routes) => {
      const { rib } = makeRoom().writer;
      for (const route of [...common, ...routes]) rib.add(route, NLM_F_APPEND);
      return rib;
    });
    const nameOf = ({ table, destination, prefixLength }: Route) =>
      `${table} ${destination}/${prefixLength}`;
    const listsOf = (rib: typeof own) =>
      Map.groupBy(
        [...rib.routes()].map((route) => [nameOf(route), JSON.stringify(route)]),
        ([name]) => name,
      );
    const [a, b] = [listsOf(own), listsOf(other)];
    const expected = [...new Set([...a.keys(), ...b.keys()])]
      .filter((name) => JSON.stringify(a.get(name)) !== JSON.stringify(b.get(name)));
    const found: string[] = [];
    const differs = (route: Route) => found.push(nameOf(route));
    let from: Place | null = { prefix: 0, length: 0 };
    while (from !== null) from = own.compare(other, from, { most, differs });
    assert.deepEqual(found.toSorted(), expected.toSorted());
  }));
});

Deno.test("routes come in parts, a prefix with more routes than a part holds among them", async () => {
  const { writer: { rib }, reader } = makeRoom();
  const [route] = fc.sample(anyRoute, { numRuns: 1, seed: 7 });
  for (let i = 0; i < 5000; i++) {
    rib.add({ ...route, destination: (0x0a000000 + i * 256) >>> 0, prefixLength: 24 }, 0);
    rib.add({ ...route, destination: 0x0a010000, prefixLength: 16, priority: i }, 0);
  }
  const [control, snapshot] = [heapView(CONTROL_BYTES), heapView(SNAPSHOT_BYTES)];
  const audit = makeAudit({} as AuditedMirror, { counters: new Float64Array(), now: 0, log() {} });
  const tile = answerer({ control, snapshot, rib, reader, audit });
  const main = new ControlWriter(control);
  const question = questioner({ control, snapshot }, (request) => {
    main.ask(request);
    assert.equal(tile.turn(), 1);
  });
  const told: string[] = [];
  let parts = 0;
  for (let next: readonly number[] | null = [0, 0, 0]; next !== null; parts++) {
    const { head, lines }: Told<RoutesPage> = await question(Ask.routes, ...next);
    const own = lines.trimEnd().split("\n");
    assert.equal(own.length, head.count);
    told.push(...own);
    next = head.next;
  }
  assert.ok(parts > 4, `${parts} parts`);
  const nameOf = interfaceNames(reader.interfaces);
  assert.deepEqual(told, [...rib.routes()].map((each) => JSON.stringify(routeEntry(each, nameOf))));
});

Deno.test("an answer that does not come is an error after a time", async () => {
  const regions = { control: heapView(CONTROL_BYTES), snapshot: heapView(SNAPSHOT_BYTES) };
  const question = questioner(regions, () => {}, { timeoutMs: 20 });
  await assert.rejects(question(Ask.audit), /does not answer/);
});
