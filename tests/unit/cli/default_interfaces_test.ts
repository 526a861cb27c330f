// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { findDefaults } from "../../../cli/snapshot.ts";
import type { Host } from "../../../ffi/host.ts";
import { IFF_LOOPBACK, IFF_UP } from "../../../netbase/interfaces.ts";
import { RTN_UNREACHABLE } from "../../../netbase/route.ts";
import { routeTo } from "../netbase_kernel.ts";
import { makeRoom, setLink } from "../netbase_room.ts";

/** A host whose interfaces have no Ethernet headers where their names begin with `tun`. */
const HOST = {
  hasEthernetHeaders: (name: string) => !name.startsWith("tun"),
  driver: (name: string) => name.startsWith("gre") ? "gretap" : "veth",
} as unknown as Host;

/** eth1 to eth3, the VLAN device eth1.5, tun5, gre6 and lo, and default routes as given. */
function found(...routes: Parameters<typeof routeTo>[1][]) {
  const room = makeRoom();
  ["eth1", "eth2", "eth3", "eth1.5", "tun5", "gre6", "lo"].forEach((name, i) => {
    const none = { operstate: 6, macHead: 1, macTail: 0, link: 0, master: 0 };
    const vlan = {
      vlanId: name === "eth1.5" ? 5 : 0,
      vlanProtocol: name === "eth1.5" ? 0x8100 : 0,
    };
    const flags = name === "lo" ? IFF_UP | IFF_LOOPBACK : IFF_UP;
    setLink(room.writer, { ...none, ...vlan, ifindex: i + 1, name, flags, mtu: 1500 });
  });
  routes.forEach((route, i) =>
    room.writer.rib.add(routeTo("0.0.0.0/0", { priority: i, ...route }), 0x600)
  );
  room.writer.rib.add(routeTo("198.18.0.0/15", { ifindex: 3 }), 0x600);
  room.reader.refresh();
  return findDefaults(HOST, room);
}

Deno.test("the interfaces of all default routes are taken, each once", () => {
  const hop = { gateway: 1, weight: 1, flags: 0 };
  assert.deepEqual(found({ ifindex: 2 }).names, ["eth2"]);
  const hops = [{ ...hop, ifindex: 3 }, { ...hop, ifindex: 2 }];
  assert.deepEqual(found({ hops }, { ifindex: 2 }).names, ["eth3", "eth2"]);
});

Deno.test("what AF_XDP cannot be had on is passed over, with the reason", () => {
  const { names, says } = found({ ifindex: 5 }, { ifindex: 1 });
  assert.deepEqual(names, ["eth1"]);
  assert.match(says, /^eth1, where the default route goes \(not tun5: its packets have no Eth/);
  assert.match(
    found({ ifindex: 4 }).says,
    /AF_XDP does not work where the default route goes: eth1\.5: it is a VLAN device/,
  );
  assert.match(
    found({ ifindex: 6 }).says,
    /AF_XDP does not work where the default route goes: gre6: the tunnel drops/,
  );
  assert.match(
    found({ ifindex: 7 }).says,
    /AF_XDP does not work where the default route goes: lo: it is loopback/,
  );
});

Deno.test("routes that are no way out give no interface", () => {
  const none = { names: [], says: "there is no default route" };
  assert.deepEqual(found(), none);
  assert.deepEqual(
    found(
      { ifindex: 1, tos: 8 },
      { type: RTN_UNREACHABLE },
      { ifindex: 1, unsupported: true },
    ),
    none,
  );
});
