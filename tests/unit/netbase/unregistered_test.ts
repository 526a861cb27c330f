// SPDX-License-Identifier: Apache-2.0
/** What becomes of a lookup during which the writer continues, by a reader that it knows of, and by one it does not. */

import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import type { Reader } from "../../../netbase/rcu.ts";
import { setLink } from "../netbase_room.ts";
import { loadHooked } from "./hooked.ts";

const LINK = {
  ...{ name: "eth0", flags: 1, mtu: 1500, operstate: 6, macHead: 1, macTail: 2 },
  ...{ link: 0, master: 0, vlanId: 0, vlanProtocol: 0 },
};

/** Changes an interface that is there throughout, and others, until what was released is used again. */
function goOn(writer: NetbaseWriter): void {
  for (let mtu = 68; mtu < 76; mtu++) {
    setLink(writer, { ...LINK, ifindex: 5, mtu });
    writer.commit();
    setLink(writer, { ...LINK, ifindex: mtu });
    writer.commit();
  }
}

const { Reader: HookedReader, hook } = await loadHooked();

/** At how many of its loads a lookup misses the interface when the writer continues right before them. */
function misses(readers: readonly Reader[]): number {
  let missed = 0;
  for (let at = 0, loads = Infinity; at < loads; at++) {
    const view = heapView(NETBASE_BYTES);
    const writer = new NetbaseWriter(view, { readers, seed: 1 });
    setLink(writer, { ...LINK, ifindex: 5 });
    writer.commit();
    const { interfaces } = new HookedReader(view);
    interfaces.find(5);
    let load = 0;
    hook.onLoad = () => {
      if (load++ === at) goOn(writer);
    };
    const record = interfaces.find(5);
    hook.onLoad = () => {};
    loads = load;
    if (record < 0 || interfaces.ifindex(record) !== 5) missed++;
  }
  return missed;
}

Deno.test("a reader that the writer knows of and that stands still misses nothing, whoever else looks", () => {
  assert.equal(misses([{ burst: 0, asleep: false }]), 0);
});

Deno.test("one that nobody waits for can miss what is there: main looks only while net tiles stand still", () => {
  assert.ok(misses([]) > 0);
  assert.ok(misses([{ burst: 0, asleep: true }]) > 0);
});
