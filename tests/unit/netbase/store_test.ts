// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView, type View } from "../../../ffi/region.ts";
import { fibWords } from "../../../netbase/fib.ts";
import type { InterfaceLink } from "../../../netbase/interfaces.ts";
import { FIB_DEFAULT, NETBASE_BYTES, TBL24_CELLS, TBL8_BIT } from "../../../netbase/layout.ts";
import { NUD_REACHABLE } from "../../../netbase/neighbors.ts";
import { NetbaseReader } from "../../../netbase/netbase.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import { NLM_F_APPEND, type Route, RT_TABLE_MAIN } from "../../../netbase/route.ts";
import { ip, Kernel, routeTo } from "../netbase_kernel.ts";
import {
  answerOf,
  anyRoute,
  describe,
  PROBES,
  setAddress,
  setLink,
  StandingReader,
} from "../netbase_room.ts";
import fc from "../property.ts";
import { loadHooked } from "./hooked.ts";

const { Writer, Reader, hook } = await loadHooked();

/** Thrown in the middle of a batch, as if the writer died there. */
class Death extends Error {}

function quiet(): void {}

/** A reader that nobody need wait for. */
function sleeper(): StandingReader {
  return Object.assign(new StandingReader(), { asleep: true });
}

/** Everything that a reader can be told of some addresses, neighbours and an interface. */
function answers(view: View): string[] {
  const reader = new NetbaseReader(view);
  const routes = PROBES.map((address) => answerOf(reader, address));
  const neighbors = HOSTS.map((host) => {
    const record = reader.neighbors.lookup(2, host);
    return record < 0 ? "none" : `mac ${reader.neighbors.macHead(record)}`;
  });
  const record = reader.interfaces.find(2);
  const { interfaces } = reader;
  const locals = record < 0 ? "none" : Array.from(
    { length: interfaces.addressCount(record) },
    (_, i) => interfaces.local(record, i),
  );
  return [...routes, ...neighbors, `${record < 0 ? "" : interfaces.mtu(record)} has ${locals}`];
}

const HOSTS = Array.from({ length: 60 }, (_, i) => ip("198.18.0.0") + i);

const LINK: InterfaceLink = {
  ...{ ifindex: 2, name: "eth0", flags: 0x11043, mtu: 1500, operstate: 6 },
  ...{ macHead: 1, macTail: 2, link: 0, master: 0, vlanId: 0, vlanProtocol: 0 },
};

function neighbor(writer: NetbaseWriter, address: number, macHead: number): void {
  writer.neighbors.set({
    ifindex: 2,
    address,
    state: NUD_REACHABLE,
    flags: 0,
    macHead,
    macTail: 0,
  });
}

function address(writer: NetbaseWriter, local: number): void {
  const one = { local, address: local, prefixLength: 24, broadcast: 0, scope: 0, secondary: false };
  setAddress(writer, 2, one);
}

/** A state to begin with. */
function begin(writer: NetbaseWriter): void {
  setLink(writer, LINK);
  address(writer, ip("198.18.0.1"));
  for (const host of HOSTS.slice(0, 20)) neighbor(writer, host, 7);
  const two = [1, 2].map((gateway) => ({ gateway, ifindex: 2, weight: gateway, flags: 0 }));
  writer.rib.add(routeTo("0.0.0.0/0", { gateway: 1, ifindex: 2 }), 0);
  writer.rib.add(routeTo("198.18.0.0/15", { hops: two }), 0);
  writer.rib.add(routeTo("198.18.0.0/24", { ifindex: 2 }), 0);
  writer.rib.add(routeTo("198.18.0.77/32", { gateway: 3, ifindex: 2 }), 0);
  writer.rib.add(routeTo("198.18.2.0/23", { gateway: 4, ifindex: 2 }), 0);
  writer.commit();
}

/** A batch that does something of everything, tables that grow and groups of cells included. */
function batch(writer: NetbaseWriter): void {
  setLink(writer, { ...LINK, mtu: 1400 });
  address(writer, ip("198.18.0.9"));
  for (const host of HOSTS.slice(0, 10)) writer.neighbors.remove(2, host);
  for (const host of HOSTS.slice(10)) neighbor(writer, host, 8);
  writer.rib.remove(routeTo("0.0.0.0/0", { gateway: 1, ifindex: 2 }));
  writer.rib.remove(routeTo("198.18.0.77/32", { gateway: 3, ifindex: 2 }));
  writer.rib.add(routeTo("198.16.0.0/14", { gateway: 5, ifindex: 2 }), 0);
  writer.rib.add(routeTo("198.18.0.16/28", { gateway: 6, ifindex: 2 }), NLM_F_APPEND);
  writer.rib.add(routeTo("198.18.3.128/25", { gateway: 8, ifindex: 2 }), 0);
  writer.rib.add(routeTo("198.18.2.0/23", { gateway: 7, ifindex: 2 }), 0);
  writer.commit();
}

Deno.test("a writer that dies at any store of a batch leaves every answer old or new", () => {
  // An interface is published with each thing that changes about it.
  const between = `1400 has ${ip("198.18.0.1")}`;
  const reference = heapView(NETBASE_BYTES);
  const alive = new NetbaseWriter(reference, { readers: [], neighborSlots: 64, seed: 1 });
  begin(alive);
  const old = answers(reference);
  batch(alive);
  const wanted = answers(reference);
  let stores = Infinity;
  for (let deadly = 0; deadly < stores; deadly++) {
    const view = heapView(NETBASE_BYTES);
    const writer = new Writer(view, {
      readers: [sleeper()],
      neighborSlots: 64,
      seed: 1,
    });
    begin(writer);
    let count = 0;
    hook.onStore = () => {
      if (count++ === deadly) throw new Death();
    };
    try {
      batch(writer);
      stores = count;
    } catch (error) {
      if (!(error instanceof Death)) throw error;
    } finally {
      hook.onStore = quiet;
    }
    answers(view).forEach((answer, i) => {
      const right = answer === old[i] || answer === wanted[i] || answer === between;
      assert.ok(right, `store ${deadly}: ${answer}, before ${old[i]}, after ${wanted[i]}`);
    });
    if (deadly % 64 === 0) succeed(view, wanted);
  }
});

/** A successor continues with what the dead one left; readers are right all along, and then up to date. */
function succeed(view: View, wanted: string[]): void {
  const standing = new StandingReader();
  const options = { readers: [standing], neighborSlots: 64, seed: 2 };
  assert.throws(() => new NetbaseWriter(view, options), /readers still use memory/);
  const successor = new NetbaseWriter(view, { ...options, wait: () => standing.burst++ });
  standing.asleep = true;
  const routes = () => answers(view).slice(0, PROBES.length);
  const before = routes();
  successor.neighbors.beginSync();
  successor.rib.beginSync();
  for (const host of HOSTS.toReversed()) neighbor(successor, host, 9);
  for (const host of HOSTS) successor.neighbors.remove(2, host);
  begin(successor);
  batch(successor);
  assert.deepEqual(routes(), before, "no route shows before the successor's first sync");
  successor.neighbors.endSync();
  successor.rib.endSync();
  successor.commit();
  assert.deepEqual(answers(view), wanted);
}

Deno.test("a writer that dies while a group comes free leaves no next hop to be had twice", () => {
  const ways = [1, 2].map((gateway) => ({ gateway, ifindex: 2, weight: 1, flags: 0 }));
  let stores = Infinity;
  for (let deadly = 0; deadly < stores; deadly++) {
    const view = heapView(NETBASE_BYTES);
    const writer = new Writer(view, { readers: [sleeper()], neighborSlots: 64, seed: 1 });
    writer.rib.add(routeTo("198.18.0.0/24", { hops: ways }), 0);
    writer.commit();
    let count = 0;
    hook.onStore = () => {
      if (count++ === deadly) throw new Death();
    };
    try {
      writer.rib.remove(routeTo("198.18.0.0/24", { hops: ways }));
      writer.commit();
      stores = count;
    } catch (error) {
      if (!(error instanceof Death)) throw error;
    } finally {
      hook.onStore = quiet;
    }
    const options = { readers: [sleeper()], neighborSlots: 64, seed: 2, wait: quiet };
    const successor = new NetbaseWriter(view, options);
    successor.rib.add(routeTo("198.18.0.0/24", { gateway: 8, ifindex: 2 }), 0);
    successor.rib.add(routeTo("198.18.1.0/24", { gateway: 9, ifindex: 2 }), 0);
    successor.rib.endSync();
    successor.commit();
    const { fib, nextHops } = new NetbaseReader(view);
    const gateways = ["198.18.0.0", "198.18.1.0"].map((address) => {
      const id = fib.lookup(ip(address));
      return nextHops.kind(id) === 0 ? "freed" : nextHops.gateway(id);
    });
    assert.deepEqual(gateways, [8, 9], `store ${deadly}`);
  }
});

Deno.test("at every store of a batch each address has its route of before or after", () => {
  // Wide prefixes take a hundred thousand stores and more; a default route takes one, in `main`.
  const narrow = anyRoute.filter(({ prefixLength, table }) => {
    return prefixLength > 13 || (prefixLength === 0 && table === RT_TABLE_MAIN);
  });
  const routes = fc.array(narrow, { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(routes, routes, fc.boolean(), (before, after, apart) => {
      const view = heapView(NETBASE_BYTES);
      const reader = new NetbaseReader(view);
      const writer = new Writer(view, { readers: [], seed: 3 });
      const order = apart ? "separate" : "merged";
      writer.rib.lookupOrder = order;
      resync(writer, before);
      const probes = PROBES.filter((_, i) => i % 3 === 0);
      const old = probes.map((address) => answerOf(reader, address));
      const future = heapView(NETBASE_BYTES);
      const other = new NetbaseWriter(future, { readers: [], seed: 3 });
      other.rib.lookupOrder = order;
      resync(other, after);
      const later = new NetbaseReader(future);
      const wanted = probes.map((address) => answerOf(later, address));
      const last = probes.map((address) => reader.fib.lookup(address));
      let count = 0;
      hook.onStore = () => {
        // A prime, so that the looks are spread over what thousands of stores paint.
        if (count++ > 500 && count % 17 !== 0) return;
        probes.forEach((address, i) => {
          const id = reader.fib.lookup(address);
          if (id === last[i]) return;
          last[i] = id;
          const answer = describe(reader, id);
          const right = answer === old[i] || answer === wanted[i];
          assert.ok(right, `${address.toString(16)}: ${answer}, not ${old[i]} or ${wanted[i]}`);
        });
      };
      try {
        resync(writer, after);
      } finally {
        hook.onStore = quiet;
      }
      assert.deepEqual(probes.map((address) => answerOf(reader, address)), wanted);
    }),
    { numRuns: 300 },
  );
});

/** Makes the RIB hold just what a kernel holds that was given these routes. */
function resync(writer: NetbaseWriter, routes: Route[]): void {
  const kernel = new Kernel();
  for (const route of routes) kernel.put(route, "append");
  writer.rib.beginSync();
  for (const route of kernel.dump()) writer.rib.addFromDump(route);
  writer.rib.endSync();
  writer.commit();
}

/** Routes for one address, of which each takes it alone. */
const ALONE: Route[][] = [
  [routeTo("0.0.0.0/0", { gateway: 1, ifindex: 2 })],
  [routeTo("0.0.0.0/0", { gateway: 2, ifindex: 2 })],
  [routeTo("198.18.0.0/20", { gateway: 3, ifindex: 2 })],
  [routeTo("198.18.0.64/26", { gateway: 4, ifindex: 2 })],
];

Deno.test("whatever the writer does between two loads of a lookup, the answer was right during it", () => {
  const address = ip("198.18.0.77");
  const orders = fc.array(fc.nat(ALONE.length - 1), { minLength: 2, maxLength: 5 });
  fc.assert(
    fc.property(orders, fc.array(fc.nat(12), { minLength: 4, maxLength: 4 }), (states, moments) => {
      const view = heapView(NETBASE_BYTES);
      const writer = new NetbaseWriter(view, { readers: [new StandingReader()], seed: 4 });
      const reader = new Reader(view);
      resync(writer, ALONE[states[0]]);
      const right = [answerOf(reader, address)];
      let [load, done] = [0, 1];
      hook.onLoad = () => {
        // Each further state comes at a load of its own, or several at one.
        while (done < states.length && moments[done - 1] <= load) {
          resync(writer, ALONE[states[done++]]);
          right.push(answerOf(new NetbaseReader(view), address));
        }
        load++;
      };
      let id = 0;
      try {
        id = reader.fib.lookup(address);
      } finally {
        hook.onLoad = quiet;
      }
      const answer = describe(reader, id);
      assert.ok(right.includes(answer), `${answer} is none of ${right}`);
    }),
    // The default and a route take turns so that the reader finds neither, look after look.
    { numRuns: 2000, examples: [[[0, 2, 0, 2, 0], [1, 2, 3, 4]]] },
  );
});

Deno.test("an answer is right in whatever order the cell and the default were read", () => {
  // As a weakly ordered processor may: the reader is in the middle of a burst all the while.
  const address = ip("198.18.0.77");
  const orders = fc.array(fc.nat(ALONE.length - 1), { minLength: 2, maxLength: 6 });
  fc.assert(
    fc.property(orders, fc.boolean(), (states, cellFirst) => {
      const view = heapView(NETBASE_BYTES);
      const standing = new StandingReader();
      const writer = new NetbaseWriter(view, { readers: [standing], seed: 4 });
      const reader = new NetbaseReader(view);
      const words = fibWords(view);
      resync(writer, ALONE[states[0]]);
      standing.burst++;
      const right = [answerOf(reader, address)];
      const read = { cell: 0, fallback: 0 };
      const readCell = () => read.cell = withoutDefault(words, address);
      const readDefault = () => read.fallback = words[FIB_DEFAULT];
      (cellFirst ? readCell : readDefault)();
      for (const state of states.slice(1)) {
        resync(writer, ALONE[state]);
        right.push(answerOf(reader, address));
      }
      (cellFirst ? readDefault : readCell)();
      const answer = describe(reader, read.cell === 0 ? read.fallback : read.cell);
      assert.ok(right.includes(answer), `${answer} is none of ${right}`);
    }),
    { numRuns: 500 },
  );
});

/** The next hop id of an address by its cell alone. */
function withoutDefault(words: Uint16Array, address: number): number {
  const cell = words[address >>> 8];
  if ((cell & TBL8_BIT) === 0) return cell;
  return words[TBL24_CELLS + (cell & ~TBL8_BIT) * 256 + (address & 0xff)];
}
