// SPDX-License-Identifier: Apache-2.0
/**
 * The filter's writer against a plain set: whatever is added and removed, the program, which searches
 * as `isOurs` here does, finds what is in it and nothing else.
 */

import { deepEqual, equal, ok } from "node:assert/strict";
import { heapView, u32, u8, type View } from "../../../ffi/region.ts";
import { FILTER_BYTES } from "../../../ffi/shared.ts";
import { Filter } from "../../../tiles/netlink/xdp_filter.ts";
import fc from "../property.ts";

/** An empty filter as the loader leaves it: zero but for the seed. */
function emptyFilter(seed = 0): { view: View; filter: Filter } {
  const view = heapView(FILTER_BYTES);
  u32(view)[2] = seed;
  return { view, filter: new Filter(view) };
}

/** What `is_our_address` of xdp_filter.bpf.c does. */
function isOurs(view: View, address: number): boolean {
  const words = u32(view);
  const first = (Number(BigInt(address) * 0x9e3779b1n & 0xffffffffn) ^ words[2]) >>> 20;
  for (let i = 0; i < 16; i++) {
    if (words[2179 + ((first + i) & 4095)] === address) return address !== 0;
  }
  return false;
}

Deno.test("Filter holds exactly the addresses that were added and not removed", () => {
  const address = fc.integer({ min: 1, max: 0xffffffff });
  const few = fc.integer({ min: 0xc6120000, max: 0xc6120020 });
  const step = fc.record({ add: fc.boolean(), address: fc.oneof(address, few) });
  fc.assert(
    fc.property(
      fc.nat(0xffffffff),
      fc.array(step, { maxLength: 400, size: "max" }),
      (seed, steps) => {
        const { view, filter } = emptyFilter(seed);
        const oracle = new Set<number>();
        for (const { add, address } of steps) {
          if (add) {
            equal(filter.add(address), true);
            oracle.add(address);
          } else {
            filter.remove(address);
            oracle.delete(address);
          }
        }
        for (const { address } of steps) equal(isOurs(view, address), oracle.has(address));
        deepEqual(filter.addresses().sort(), [...oracle].sort());
      },
    ),
  );
});

Deno.test("Filter refuses an address that finds no room, and keeps the others", () => {
  const { view, filter } = emptyFilter(0x12345678);
  const taken: number[] = [];
  let refused = 0;
  for (let address = 0x0a000001; address < 0x0a000001 + 5000; address++) {
    if (filter.add(address)) taken.push(address);
    else refused = address;
  }
  ok(taken.length > 2000 && taken.length <= 4096);
  ok(taken.every((address) => isOurs(view, address)));
  equal(isOurs(view, refused), false);
});

Deno.test("Filter.add() of an address that is there takes no second place", () => {
  const { filter } = emptyFilter();
  equal(filter.add(0xc6120001), true);
  equal(filter.add(0xc6120001), true);
  deepEqual(filter.addresses(), [0xc6120001]);
  filter.remove(0xc6120001);
  deepEqual(filter.addresses(), []);
});

Deno.test("Filter does not take address 0, the empty place, for one of ours", () => {
  const { view, filter } = emptyFilter();
  filter.remove(0);
  equal(isOurs(view, 0), false);
  deepEqual(filter.addresses(), []);
});

Deno.test("Filter holds the ports and VLANs that were given last", () => {
  const { view, filter } = emptyFilter();
  const words = u32(view);
  filter.setPorts([65535, 31]);
  filter.setVlans([4095]);
  equal(words[131 + 2047], 0x80000000);
  equal(words[131], 0x80000000);
  equal(words[3 + 127], 0x80000000);
  filter.setPorts([31]);
  filter.setVlans([]);
  equal(words[131 + 2047], 0);
  equal(words[131], 0x80000000);
  equal(words[3 + 127], 0);
});

Deno.test("Filter writes the MAC address in the order of the wire", () => {
  const { view, filter } = emptyFilter(7);
  filter.setMac([2, 0xfe, 3, 4, 5, 0xff]);
  deepEqual([...u8(view).subarray(0, 6)], [2, 0xfe, 3, 4, 5, 0xff]);
  equal(u32(view)[2], 7);
});
