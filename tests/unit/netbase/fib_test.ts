// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { fibWords } from "../../../netbase/fib.ts";
import { TBL24_CELLS, TBL8_BIT, TBL8_CELLS } from "../../../netbase/layout.ts";
import type { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import {
  NLM_F_APPEND,
  NLM_F_REPLACE,
  RT_TABLE_LOCAL,
  RTN_LOCAL,
  RTN_THROW,
  RTNH_F_LINKDOWN,
} from "../../../netbase/route.ts";
import { ip, Kernel, routeTo } from "../netbase_kernel.ts";
import {
  answerOf,
  anyHistory,
  type Command,
  expectedOf,
  makeRoom,
  PROBES,
  settle,
  type StandingReader,
} from "../netbase_room.ts";
import fc from "../property.ts";

/** Lets kernel and writer live through one command. */
function live(kernel: Kernel, writer: NetbaseWriter, standing: StandingReader, one: Command): void {
  const { rib } = writer;
  switch (one.do) {
    case "delete": {
      const route = kernel.routes[one.pick % Math.max(1, kernel.routes.length)];
      if (route === undefined) return;
      kernel.delete(route);
      assert.ok(rib.remove(route));
      assert.equal(rib.remove(route), false, "a route is deleted once");
      return;
    }
    case "silently": {
      // The kernel changes routes without an event, as when a link goes down. A resync finds out.
      const moved = kernel.routes[one.pick % Math.max(1, kernel.routes.length)];
      kernel.put(one.route, one.verb);
      if (moved !== undefined && kernel.delete(moved)) kernel.put(moved, one.verb);
      resync(kernel, writer);
      return;
    }
    case "resync":
      assert.equal(resync(kernel, writer), 0, "the mirror had nothing that the kernel has not");
      return;
    case "commit":
      writer.commit();
      return;
    case "look":
      settle(writer, standing);
      return;
    case "quiesce":
      standing.burst++;
      return;
    default: {
      const flags = kernel.put(one.route, one.do);
      if (flags >= 0) rib.add(one.route, flags);
    }
  }
}

function resync(kernel: Kernel, writer: NetbaseWriter): number {
  writer.rib.beginSync();
  for (const route of kernel.dump()) writer.rib.addFromDump(route);
  return writer.rib.endSync();
}

/** What the kernel answers for every probe. */
function kernelAnswers(kernel: Kernel, order: "merged" | "separate"): string[] {
  return PROBES.map((address) => expectedOf(kernel.lookup(address, order)));
}

for (const order of ["merged", "separate"] as const) {
  Deno.test(`lookup() answers as the kernel after any history, tables ${order}`, () => {
    fc.assert(
      fc.property(anyHistory, (history) => {
        const { writer, reader, standing } = makeRoom();
        const kernel = new Kernel();
        writer.rib.lookupOrder = order;
        // What has been committed since the reader was last up to date, itself included.
        let since = [kernelAnswers(kernel, order)];
        for (const command of [...history, { do: "look" } as const]) {
          live(kernel, writer, standing, command);
          if (command.do === "commit") since.push(kernelAnswers(kernel, order));
          if (command.do === "look") since = [kernelAnswers(kernel, order)];
          if (command.do !== "commit" && command.do !== "look") continue;
          PROBES.forEach((address, i) => {
            const right = new Set(since.map((answers) => answers[i]));
            const answer = answerOf(reader, address);
            assert.ok(right.has(answer), `${address.toString(16)}: ${answer}, not ${[...right]}`);
          });
        }
        for (const address of PROBES) {
          const route = kernel.lookup(address, order);
          assert.equal(expectedOf(writer.rib.bestFor(address)), expectedOf(route));
        }
        assert.equal([...writer.rib.routes()].length, kernel.routes.length);
      }),
      { numRuns: 500 },
    );
  });
}

Deno.test("changing the lookup order repaints everything", () => {
  fc.assert(
    fc.property(anyHistory, (history) => {
      const { writer, reader, standing } = makeRoom();
      const kernel = new Kernel();
      for (const command of history) live(kernel, writer, standing, command);
      for (const order of ["separate", "merged", "separate"] as const) {
        writer.rib.lookupOrder = order;
        settle(writer, standing);
        for (const address of PROBES) {
          assert.equal(answerOf(reader, address), expectedOf(kernel.lookup(address, order)));
        }
      }
    }),
    { numRuns: 15 },
  );
});

Deno.test("ambiguousAddress() finds an address for which the orders differ, if there is one", () => {
  fc.assert(
    fc.property(anyHistory, (history) => {
      const { writer, standing } = makeRoom();
      const kernel = new Kernel();
      for (const command of history) live(kernel, writer, standing, command);
      const found = writer.rib.ambiguousAddress();
      const differ = (address: number) => {
        const [one, other] = [kernel.lookup(address, "merged"), kernel.lookup(address, "separate")];
        // Of two refusals of a kind nobody could tell which it is.
        const isRefusal = ["none", "refuse"].includes(expectedOf(one).split(" ")[0]);
        return one !== other && !(isRefusal && expectedOf(one) === expectedOf(other));
      };
      if (found >= 0) assert.ok(found >>> 24 !== 0 && differ(found));
      else {
        const asked = PROBES.filter((address) => address >>> 24 !== 0);
        assert.ok(!asked.some(differ), "none was found, but there is one");
      }
    }),
  );
});

Deno.test("ambiguousAddress() finds one between prefixes that say the same in both orders", () => {
  const { writer } = makeRoom();
  const add = (prefix: string, fields: Parameters<typeof routeTo>[1]) =>
    writer.rib.add(routeTo(prefix, fields), 0);
  for (const edge of ["203.0.113.0/25", "203.0.113.255/32"]) {
    add(edge, { table: RT_TABLE_LOCAL, type: RTN_LOCAL, ifindex: 1 });
  }
  add("203.0.113.0/24", { gateway: ip("198.18.0.1"), ifindex: 2 });
  assert.equal(writer.rib.ambiguousAddress(), -1);
  add("203.0.113.0/24", { table: RT_TABLE_LOCAL, type: RTN_THROW });
  assert.equal(writer.rib.ambiguousAddress(), ip("203.0.113.128"));
});

Deno.test("nothing is left in the tables when all routes are gone", () => {
  fc.assert(
    fc.property(anyHistory, (history) => {
      const { writer, reader, standing } = makeRoom();
      const kernel = new Kernel();
      for (const command of history) live(kernel, writer, standing, command);
      writer.commit();
      writer.rib.beginSync();
      writer.rib.endSync();
      settle(writer, standing);
      assert.equal(writer.rib.size, 0);
      for (const address of PROBES) assert.equal(reader.fib.lookup(address), 0);
    }),
    { numRuns: 50 },
  );
});

Deno.test("a /8 in local hides a /32 in main only where the tables are apart", () => {
  const { writer, reader } = makeRoom();
  const eight = routeTo("203.0.0.0/8", { table: RT_TABLE_LOCAL, type: RTN_LOCAL, ifindex: 1 });
  const host = routeTo("203.0.113.7/32", { gateway: ip("198.18.0.1"), ifindex: 2 });
  writer.rib.add(eight, 0);
  writer.rib.add(host, 0);
  writer.commit();
  assert.equal(answerOf(reader, ip("203.0.113.7")), expectedOf(host));
  assert.equal(writer.rib.ambiguousAddress(), ip("203.0.113.7"));
  writer.rib.lookupOrder = "separate";
  writer.commit();
  assert.equal(answerOf(reader, ip("203.0.113.7")), expectedOf(eight));
});

Deno.test("a throw in local leads on to main only where the tables are apart", () => {
  const { writer, reader } = makeRoom();
  const main = routeTo("192.0.2.0/24", { gateway: ip("198.18.0.9"), ifindex: 2 });
  writer.rib.add(routeTo("192.0.2.0/24", { table: RT_TABLE_LOCAL, type: RTN_THROW }), 0);
  writer.rib.add(main, 0);
  writer.commit();
  assert.equal(answerOf(reader, ip("192.0.2.200")), "none");
  writer.rib.lookupOrder = "separate";
  writer.commit();
  assert.equal(answerOf(reader, ip("192.0.2.200")), expectedOf(main));
});

Deno.test("moving the default route of many is one store", () => {
  const { writer, reader, standing } = makeRoom();
  standing.asleep = true;
  for (let i = 0; i < 1000; i++) {
    writer.rib.add(routeTo(`10.${i >> 8}.${i & 255}.0/24`, { ifindex: 3 }), 0);
  }
  const first = routeTo("0.0.0.0/0", { gateway: 1, ifindex: 2 });
  writer.rib.add(first, 0);
  writer.commit();
  const generation = writer.generation;
  const second = { ...first, gateway: 2 };
  writer.rib.remove(first);
  writer.rib.add(second, 0);
  assert.ok(writer.commit());
  assert.equal(writer.generation, generation + 1);
  assert.equal(answerOf(reader, ip("8.8.8.8")), expectedOf(second));
});

Deno.test("a route that goes and comes back within a batch moves nothing", () => {
  const { writer } = makeRoom();
  const route = routeTo("10.0.0.0/8", { ifindex: 3 });
  writer.rib.add(route, 0);
  writer.commit();
  writer.rib.remove(route);
  writer.rib.add(route, 0);
  assert.equal(writer.commit(), false);
});

Deno.test("a next hop that is wanted again while it waits for readers stays", () => {
  const { writer, reader, standing } = makeRoom();
  const route = routeTo("10.0.0.0/8", { ifindex: 3, gateway: 77 });
  for (let round = 0; round < 3; round++) {
    writer.rib.add(route, 0);
    writer.commit();
    writer.rib.remove(route);
    writer.commit();
  }
  writer.rib.add(route, 0);
  writer.commit();
  standing.burst++;
  writer.commit();
  for (let i = 0; i < 100; i++) {
    writer.rib.add(routeTo(`11.${i}.0.0/16`, { ifindex: 4, gateway: i }), 0);
  }
  writer.commit();
  assert.equal(answerOf(reader, ip("10.1.1.1")), expectedOf(route));
});

Deno.test("a dump that shows another state and another place among equals changes both", () => {
  const { writer } = makeRoom();
  const by = (gateway: number) => routeTo("10.0.0.0/8", { ifindex: 3, gateway });
  for (const gateway of [1, 2]) writer.rib.add(by(gateway), NLM_F_APPEND);
  const dumped = [by(2), { ...by(1), flags: RTNH_F_LINKDOWN }];
  writer.rib.beginSync();
  for (const route of dumped) writer.rib.addFromDump(route);
  writer.rib.endSync();
  assert.deepEqual([...writer.rib.routes()], dumped);
});

Deno.test("rewrite() changes what routes say, or removes them, by what they say", () => {
  const { writer, reader } = makeRoom();
  writer.rib.add(routeTo("10.0.0.0/8", { ifindex: 3, gateway: 1 }), 0);
  writer.rib.add(routeTo("10.1.0.0/16", { ifindex: 3, gateway: 2 }), 0);
  writer.rib.add(routeTo("10.2.0.0/16", { ifindex: 4, gateway: 2 }), 0);
  const changed = writer.rib.rewrite((set) => {
    if (set.ifindex === 4) return null;
    return set.gateway === 2 ? { ...set, gateway: 5 } : set;
  });
  writer.commit();
  assert.equal(changed, 2);
  assert.equal(
    answerOf(reader, ip("10.1.0.1")),
    expectedOf(routeTo("10.1.0.0/16", { ifindex: 3, gateway: 5 })),
  );
  assert.equal(
    answerOf(reader, ip("10.2.0.1")),
    expectedOf(routeTo("10.0.0.0/8", { ifindex: 3, gateway: 1 })),
  );
});

Deno.test("other tables are not taken for main or local", () => {
  const { writer } = makeRoom();
  assert.throws(() => writer.rib.add(routeTo("10.0.0.0/8", { table: 1000 }), 0), RangeError);
});

Deno.test("a group of cells is not used again while a reader may be on its way into it", () => {
  const { view, writer, reader, standing } = makeRoom();
  const half = (third: number) => routeTo(`10.0.${third}.0/25`, { ifindex: 3, gateway: third });
  const words = fibWords(view);
  const cellOf = (third: number) => words[ip(`10.0.${third}.0`) >>> 8];
  writer.rib.add(half(1), 0);
  writer.commit();
  // What a reader has in hand between the two loads of a lookup.
  const cell = cellOf(1);
  assert.notEqual(cell & TBL8_BIT, 0);
  const at = TBL24_CELLS + (cell & ~TBL8_BIT) * TBL8_CELLS;
  const found = words.slice(at, at + TBL8_CELLS);
  writer.rib.remove(half(1));
  writer.commit();
  for (let third = 2; third < 6; third++) {
    writer.rib.add(half(third), 0);
    writer.commit();
    assert.notEqual(cellOf(third), cell);
  }
  assert.deepEqual(words.slice(at, at + TBL8_CELLS), found);
  assert.equal(answerOf(reader, ip("10.0.1.1")), "none");
  standing.burst++;
  writer.commit();
  writer.rib.add(half(6), 0);
  writer.commit();
  assert.equal(cellOf(6), cell, "it comes back when the reader has moved on");
});

Deno.test("routes that differ in one attribute alone, one after another, are kept apart", () => {
  const { writer, reader } = makeRoom();
  const first = { gateway: 1, ifindex: 3, source: 8, mtu: 1400 };
  const others = [{ gateway: 2 }, { ifindex: 4 }, { source: 9 }, { mtu: 1300 }];
  const routes = [{}, ...others].map((other, i) =>
    routeTo(`10.${i}.0.0/16`, { ...first, ...other })
  );
  // Each behind the first again, whose attributes it might be taken to share.
  for (const route of routes) {
    writer.rib.add(routes[0], NLM_F_REPLACE);
    writer.rib.add(route, 0);
  }
  writer.commit();
  routes.forEach((route, i) => {
    assert.equal(answerOf(reader, ip(`10.${i}.0.1`)), expectedOf(route));
  });
});
