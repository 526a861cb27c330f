// SPDX-License-Identifier: Apache-2.0
/**
 * The XDP filters as the interface table changes. VLAN devices are made up here, as the kernels
 * that tests run on need not have any.
 */

import assert from "node:assert/strict";
import { heapView, u32, type View } from "../../../ffi/region.ts";
import { FILTER_BYTES } from "../../../ffi/shared.ts";
import { IFF_UP, type InterfaceLink } from "../../../netbase/interfaces.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import { removeAddress, setAddress, setLink } from "../netbase_room.ts";
import { Filter, filterUpdater } from "../../../tiles/netlink/xdp_filter.ts";

const LINK: InterfaceLink = {
  ifindex: 3,
  name: "eth0",
  flags: IFF_UP,
  mtu: 1500,
  operstate: 6,
  macHead: 0x04030201,
  macTail: 0x0605,
  link: 0,
  master: 0,
  vlanId: 0,
  vlanProtocol: 0,
};

/** Filters of interface 3 over an interface table of their own. */
function world(view = heapView(FILTER_BYTES), { packetTimes = false } = {}) {
  const log: string[] = [];
  const writer = new NetbaseWriter(heapView(NETBASE_BYTES), { readers: [], seed: 1 });
  const { interfaces } = writer;
  const update = filterUpdater([{ ifindex: 3, view }], {
    interfaces,
    ports: [7, 53],
    packetTimes,
    log: (line) => log.push(line),
  });
  setLink({ interfaces }, LINK);
  return { view, interfaces, update, log, commit: () => writer.commit() };
}

function address(local: number) {
  return { local, address: local, prefixLength: 24, broadcast: 0, scope: 0, secondary: false };
}

function hasVlan(view: View, id: number): boolean {
  return (u32(view)[(12 >>> 2) + (id >>> 5)] >>> (id & 31) & 1) === 1;
}

Deno.test("addresses of every interface are served, but for loopback's own", () => {
  const { view, interfaces, update } = world();
  setLink({ interfaces }, { ...LINK, ifindex: 1, name: "lo" });
  setAddress({ interfaces }, 1, address(0x7f000001));
  setAddress({ interfaces }, 1, address(0xc0000201));
  setAddress({ interfaces }, 3, address(0xc6120001));
  update();
  assert.deepEqual(new Filter(view).addresses().sort(), [0xc0000201, 0xc6120001]);
  removeAddress({ interfaces }, 1, address(0xc0000201));
  update();
  assert.deepEqual(new Filter(view).addresses(), [0xc6120001]);
});

Deno.test("frames get times while an app wants them, and are no more given any after a reload", () => {
  const view = heapView(FILTER_BYTES);
  for (const packetTimes of [true, false]) {
    const { update } = world(view, { packetTimes });
    update();
    assert.equal(
      new DataView(view.buffer, view.byteOffset).getUint16(6, true),
      packetTimes ? 1 : 0,
    );
    assert.equal(new DataView(view.buffer, view.byteOffset).getUint32(0, true), 0x04030201);
  }
});

Deno.test("VLAN ids of devices on the interface are served while those are up", () => {
  const { view, interfaces, update } = world();
  const vlan = { ...LINK, link: 3, vlanProtocol: 0x8100 };
  setLink({ interfaces }, { ...vlan, ifindex: 10, name: "eth0.5", vlanId: 5 });
  setLink({ interfaces }, { ...vlan, ifindex: 11, name: "eth0.6", vlanId: 6, flags: 0 });
  setLink({ interfaces }, { ...vlan, ifindex: 12, name: "eth9.7", vlanId: 7, link: 4 });
  update();
  assert.deepEqual([0, 5, 6, 7].map((id) => hasVlan(view, id)), [true, true, false, false]);
  setLink({ interfaces }, { ...vlan, ifindex: 11, name: "eth0.6", vlanId: 6 });
  interfaces.remove(10);
  update();
  assert.deepEqual([0, 5, 6, 7].map((id) => hasVlan(view, id)), [true, false, true, false]);
});

Deno.test("what a predecessor wrote stays as far as it is still true", () => {
  const view = heapView(FILTER_BYTES);
  const before = new Filter(view);
  before.add(0xc6120001);
  before.add(0xc6120099);
  const { interfaces, update } = world(view);
  setAddress({ interfaces }, 3, address(0xc6120001));
  assert.deepEqual(new Filter(view).addresses().length, 2);
  update();
  assert.deepEqual(new Filter(view).addresses(), [0xc6120001]);
});

Deno.test("addresses that find no room are said once and left to the kernel", () => {
  const { view, interfaces, update, log, commit } = world();
  for (let ifindex = 10; ifindex < 70; ifindex++) {
    setLink({ interfaces }, { ...LINK, ifindex });
    for (let i = 0; i < 100; i++) {
      setAddress({ interfaces }, ifindex, address(0xc6120001 + ifindex * 100 + i));
    }
    commit();
  }
  update();
  const served = new Filter(view).addresses().length;
  assert.ok(served > 3000 && served <= 4096, `${served}`);
  update();
  assert.equal(log.length, 1, log.join("\n"));
});
