// SPDX-License-Identifier: Apache-2.0
/**
 * The netlink tile on the real kernel: it resolves what net tiles ask for, withstands floods of
 * made-up addresses, keeps neighbours in use confirmed, and keeps the XDP filter to the interface
 * table (docs/kernel.md, Neighbours).
 */

import assert from "node:assert/strict";
import { heapView, u32, u8, type View } from "../../../ffi/region.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NUD_STALE } from "../../../netbase/neighbors.ts";
import { decide, emptyDecision } from "../../../netbase/netbase.ts";
import { addr, ip, ipBatch } from "./kit.ts";
import { Bench, kernelEntries, realNow, withPeer } from "./tile_kit.ts";

Deno.test("who is asked for is resolved at once, once, and known from then on", () => {
  withPeer(["198.18.0.9"]);
  using bench = new Bench();
  const peer = addr("198.18.0.9");
  for (let i = 0; i < 10; i++) bench.ask(peer);
  bench.until(() => bench.isKnown(peer));
  bench.ask(peer);
  bench.turn();
  assert.equal(bench.counter("solicits_sent"), 1);
  assert.equal(bench.counter("solicits_received"), 11);
  assert.equal(bench.counter("solicit_drop_duplicate"), 10);
});

Deno.test("the kernel is not asked for what is not on-link, not followed, or nobody's", () => {
  withPeer(["198.18.0.9"], 24);
  ipBatch(["route add default via 198.18.0.9", "route add blackhole 198.18.0.128/25"]);
  using bench = new Bench();
  for (const text of ["8.8.8.8", "198.18.0.2", "198.18.0.255", "198.18.0.200", "224.0.0.1"]) {
    bench.ask(addr(text));
  }
  bench.solicits[0].push(1, addr("198.18.0.10"));
  bench.solicits[0].push(4_000_000, addr("198.18.0.10"));
  bench.solicits[0].publish();
  bench.until(() => bench.counter("solicits_received") === 7);
  assert.equal(bench.counter("solicit_drop_off_link"), 7);
  assert.equal(bench.counter("solicits_sent"), 0);
});

Deno.test("a gateway with onlink is asked for though no prefix has it", () => {
  withPeer(["198.18.0.9"], 24);
  ip("-n peer addr add 192.0.2.9/32 dev v1");
  ip("-n peer route add 198.18.0.2 dev v1");
  ip("route add default via 192.0.2.9 dev v0 onlink");
  using bench = new Bench();
  bench.ask(addr("192.0.2.9"));
  bench.until(() => bench.isKnown(addr("192.0.2.9")));
});

Deno.test("a gateway that does not answer stays known as dead, and another default route is taken", () => {
  withPeer([]);
  for (const gateway of ["198.18.0.8", "198.18.0.9"]) ip(`route append default via ${gateway}`);
  using bench = new Bench();
  const [decision, first] = [emptyDecision(), addr("198.18.0.8")];
  const gateway = () => {
    bench.reader.refresh();
    decide(bench.reader, addr("203.0.113.1"), 0, 0, decision);
    return decision.gateway;
  };
  bench.until(() => gateway() === first);
  bench.ask(first);
  bench.until(() => gateway() === addr("198.18.0.9"));
  bench.during(300, () => {});
  assert.equal(gateway(), addr("198.18.0.9"));
  ip("neigh replace 198.18.0.8 dev v0 lladdr 02:00:00:00:00:08 nud reachable");
  bench.until(() => gateway() === first);
});

Deno.test("who does not answer is left alone for longer each time, and costs no entry", () => {
  withPeer([]);
  using bench = new Bench();
  const nobody = addr("198.18.7.7");
  const idle = () => bench.ask(nobody);
  const sentAt = (count: number) => {
    bench.until(() => bench.counter("solicits_sent") === count, { idle });
    return realNow.call(performance);
  };
  const first = sentAt(1);
  assert.equal(kernelEntries(), 1);
  bench.until(() => kernelEntries() === 0);
  const second = sentAt(2);
  const third = sentAt(3);
  // The kernel gives up after three seconds; then follow a second and two, each less a quarter at most.
  assert.ok(second - first > 3_600, `asked for again after ${second - first} ms`);
  assert.ok(third - second > 4_400, `and then after ${third - second} ms`);
});

/** Puts `count` requests for random addresses of 198.18.0.0/16 on the first link. */
class Flood {
  readonly #bench: Bench;
  #state = 1;

  constructor(bench: Bench) {
    this.#bench = bench;
  }

  push(count: number): void {
    const [link] = this.#bench.solicits;
    for (let i = 0; i < count; i++) {
      this.#state = Math.imul(this.#state, 1664525) + 1013904223 | 0;
      link.push(this.#bench.ifindex, addr("198.18.0.0") + (this.#state >>> 16));
    }
    link.publish();
  }
}

Deno.test("a flood of made-up addresses costs neither the kernel's table nor anyone else", () => {
  withPeer(["198.18.0.12", "198.18.0.9", "198.18.0.10", "198.18.0.11"]);
  ip("route add 192.0.2.0/24 via 198.18.0.11");
  using bench = new Bench({ links: 2 });
  const flood = new Flood(bench);
  const [known, other, gateway, client] = [9, 10, 11, 12].map((host) => addr("198.18.0.0") + host);
  bench.until(() => bench.isKnown(known), { idle: () => bench.ask(known) });
  let most = 0;
  let next = 0;
  const [begin, asked] = [performance.now(), bench.counter("solicits_sent")];
  const isLong = () => performance.now() > begin + 3_000;
  bench.until(() => isLong() && bench.counter("solicits_received") > 100_000, {
    idle() {
      flood.push(1024);
      if (performance.now() < next) return;
      next = performance.now() + 100;
      most = Math.max(most, kernelEntries());
    },
  });
  const rate = (bench.counter("solicits_sent") - asked) * 1000 / (performance.now() - begin);
  // Asked for once, by a net tile that is not under attack.
  bench.ask(other, 1);
  bench.until(() => bench.isKnown(other), { idle: () => flood.push(1024) });
  // A gateway, by the one that is; and a client that asks for us, which nobody asks for.
  bench.ask(gateway);
  bench.until(() => bench.isKnown(gateway), { idle: () => flood.push(1024) });
  ip("-n peer neigh del 198.18.0.2 dev v1");
  ip("-n peer neigh add 198.18.0.2 dev v1 use");
  bench.until(() => bench.isKnown(client), { idle: () => flood.push(1024) });
  // A change in the kernel is seen as soon as ever.
  ip("route add 203.0.113.0/24 via 198.18.0.9");
  let turns = 0;
  bench.until(() => bench.reader.fib.lookup(addr("203.0.113.1")) !== 0, {
    idle() {
      turns++;
      flood.push(1024);
    },
  });
  assert.ok(turns <= 20, `${turns} turns`);
  assert.ok(bench.isKnown(known));
  assert.ok(most > 0 && most <= 512, `${most} entries of 1024`);
  assert.ok(rate < 600, `${rate} asked for in a second`);
});

Deno.test("who is asked for twice is asked before those of a flood, each asked for once", () => {
  withPeer(["198.18.0.9"]);
  using bench = new Bench();
  const flood = new Flood(bench);
  const peer = addr("198.18.0.9");
  let next = 0;
  const idle = () => {
    if (performance.now() < next) return;
    next = performance.now() + 10;
    flood.push(20);
  };
  // By then everything that may wait for an answer does.
  bench.during(1_500, idle);
  bench.ask(peer);
  bench.during(200, idle);
  bench.ask(peer);
  bench.until(() => bench.isKnown(peer), { idle });
  assert.ok(bench.counter("solicit_drop_rate_limited") > 0, "the flood was held back");
});

Deno.test("a neighbour in use stays confirmed, one that is not used is not asked", () => {
  withPeer(["198.18.0.9", "198.18.0.10"]);
  for (
    const [name, value] of [["base_reachable_time_ms", "3000"], ["delay_first_probe_time", "1"]]
  ) {
    Deno.writeTextFileSync(`/proc/sys/net/ipv4/neigh/v0/${name}`, value);
  }
  using bench = new Bench();
  const [used, unused] = ["198.18.0.9", "198.18.0.10"].map(addr);
  for (const peer of [used, unused]) bench.ask(peer);
  bench.until(() => bench.isKnown(used) && bench.isKnown(unused));
  let refreshed = 0;
  let wanted = false;
  let stale = 0;
  let [turned, stood] = [0, -Infinity];
  const idle = () => {
    const now = realNow.call(performance);
    if (now > turned + 200) stood = now;
    turned = now;
    bench.reader.refresh();
    const record = bench.reader.neighbors.lookup(bench.ifindex, used);
    assert.ok(record >= 0, "a neighbour in use was lost");
    // One whose confirmation ran out while this process stood still is no fault.
    if (bench.reader.neighbors.state(record) === NUD_STALE && now > stood + 2_000) stale++;
    // The mark goes when the kernel tells of the neighbour anew: it has been asked and has
    // answered.
    const before = wanted;
    wanted = bench.reader.neighbors.refreshWanted(record);
    if (before && !wanted) refreshed++;
    // What a net tile does when it sends to it.
    if (wanted) bench.ask(used);
  };
  bench.until(() => refreshed >= 2, { idle });
  assert.equal(stale, 0);
  bench.until(() => {
    const other = bench.reader.neighbors.find(bench.ifindex, unused);
    return bench.reader.neighbors.state(other) === NUD_STALE;
  }, { idle });
});

Deno.test("an entry that somebody keeps is left to them, in whatever state", () => {
  withPeer(["198.18.0.9"]);
  const kept = { "198.18.0.20": "extern_learn", "198.18.0.21": "managed" };
  const show = () =>
    ip("neigh show dev v0 nud all").split("\n").filter((line) => /\.2\d /.test(line));
  for (const [address, mark] of Object.entries(kept)) {
    ip(`neigh add ${address} lladdr 02:00:00:00:00:20 dev v0 nud stale ${mark}`);
  }
  using bench = new Bench();
  for (const address of Object.keys(kept)) bench.ask(addr(address));
  ip("neigh replace 198.18.0.21 dev v0 nud failed managed");
  bench.until(() => !bench.isKnown(addr("198.18.0.21")));
  bench.ask(addr("198.18.0.21"));
  bench.until(() => bench.counter("solicits_received") === 3);
  assert.equal(bench.counter("solicits_sent"), 0);
  assert.deepEqual(show().map((line) => /extern_learn|managed/.exec(line)?.[0]).toSorted(), [
    "extern_learn",
    "managed",
  ]);
});

Deno.test("the filter has the interface's MAC and every address of the host but loopback's", () => {
  withPeer([]);
  using bench = new Bench();
  const addresses = () => filterAddresses(bench.filter);
  bench.until(() => addresses().length > 0);
  assert.deepEqual(addresses(), ["198.18.0.2"]);
  assert.ok((u32(bench.filter)[(12 + 512) / 4] & 1 << 7) !== 0, "port 7");
  ip("addr add 198.18.0.3/24 dev v0");
  ip("addr add 192.0.2.1/32 dev lo");
  ip("link set v0 address 02:00:00:00:00:42");
  bench.until(() => addresses().length === 3);
  assert.deepEqual(addresses(), ["192.0.2.1", "198.18.0.2", "198.18.0.3"]);
  bench.until(() => u8(bench.filter)[5] === 0x42);
  ip("addr del 192.0.2.1/32 dev lo");
  ip("addr del 198.18.0.3/24 dev v0");
  bench.until(() => addresses().length === 1);
});

Deno.test("a tile that is started again goes on with the region of its predecessor", () => {
  withPeer(["198.18.0.9"]);
  const netbase = heapView(NETBASE_BYTES);
  const peer = addr("198.18.0.9");
  {
    using first = new Bench({ netbase });
    first.ask(peer);
    first.until(() => first.isKnown(peer));
  }
  using second = new Bench({ netbase });
  assert.ok(second.isKnown(peer));
});

Deno.test("beside a predecessor the filter is its own to write, and the successor's from its turn on", () => {
  withPeer([]);
  using first = new Bench();
  const { filter } = first;
  const addresses = () => filterAddresses(filter);
  first.until(() => addresses().length > 0);
  ip("addr add 198.18.0.3/16 dev v0");
  using second = new Bench({ filter, isBeside: true });
  const known = () => second.reader.interfaces.get(second.ifindex)!.addresses.length;
  assert.equal(known(), 2);
  ip("addr add 198.18.0.4/16 dev v0");
  second.until(() => known() === 3);
  assert.deepEqual(addresses(), ["198.18.0.2"], "the first one has not looked");
  first.until(() => addresses().length === 3);
  ip("addr del 198.18.0.3/16 dev v0");
  second.control.serve();
  second.until(() => addresses().length === 2);
  assert.deepEqual(addresses(), ["198.18.0.2", "198.18.0.4"]);
});

/** The addresses in a filter's map, in order: open addressing behind MAC, seed, VLANs and ports. */
function filterAddresses(view: View): string[] {
  return Array.from(u32(view).subarray((12 + 512 + 8192) / 4, (12 + 512 + 8192) / 4 + 4096))
    .filter((address) => address !== 0).sort((a, b) => a - b)
    .map((address) => [24, 16, 8, 0].map((shift) => address >>> shift & 255).join("."));
}
