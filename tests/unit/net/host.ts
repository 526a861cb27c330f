// SPDX-License-Identifier: Apache-2.0
/**
 * The host of the net tile's tests, in memory: its addresses, and a netbase filled by hand.
 *     lo    1  127.0.0.1/8
 *     eth0  2  198.18.0.1/24    attached, two queues (slots 0 and 1); default via 198.18.0.254
 *     eth1  3  198.19.0.1/24    attached (slot 2)
 *     vlan  4  203.0.113.1/24   VLAN 100 on eth0
 *     tun0  5  192.0.2.1/24     not attached
 */

import { IFF_BROADCAST, IFF_LOOPBACK, IFF_LOWER_UP, IFF_UP } from "../../../netbase/interfaces.ts";
import type { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import * as route from "../../../netbase/route.ts";

/** An IPv4 address as a number, host order. */
export function ip(text: string): number {
  return text.split(".").reduce((value, part) => value * 256 + Number(part), 0);
}

/** Interface indices. */
export const LO = 1;
export const ETH0 = 2;
export const ETH1 = 3;
export const VLAN = 4;
export const TUN = 5;

/** MACs of our interfaces and of a peer. */
export const MAC: Record<number, number[]> = {
  [LO]: [0, 0, 0, 0, 0, 0],
  [ETH0]: [0x02, 0, 0, 0, 0, 0x10],
  [ETH1]: [0x02, 0, 0, 0, 0, 0x11],
  [VLAN]: [0x02, 0, 0, 0, 0, 0x12],
  [TUN]: [0, 0, 0, 0, 0, 0],
};
export const PEER_MAC = [0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee];

/** A MAC as netbase keeps it. */
export function macWords(mac: readonly number[]): { macHead: number; macTail: number } {
  const view = new DataView(Uint8Array.from(mac).buffer);
  return { macHead: view.getUint32(0, true), macTail: view.getUint16(4, true) };
}

/** Puts the interfaces of the picture above into netbase, with the routes the kernel makes of them. */
export function fillNetbase(writer: NetbaseWriter): void {
  const up = IFF_UP | IFF_LOWER_UP;
  const link = (ifindex: number, name: string, more = {}) =>
    writer.interfaces.put({
      ifindex,
      name,
      flags: up | IFF_BROADCAST,
      mtu: 1500,
      operstate: 6,
      ...macWords(MAC[ifindex]),
      link: 0,
      master: 0,
      vlanId: 0,
      vlanProtocol: 0,
      addresses: [],
      ...more,
    });
  link(LO, "lo", { flags: up | IFF_LOOPBACK, mtu: 65536 });
  link(ETH0, "eth0");
  link(ETH1, "eth1");
  link(VLAN, "eth0.100", { link: ETH0, vlanId: 100, vlanProtocol: 0x8100 });
  link(TUN, "tun0");

  address(writer, LO, "127.0.0.1", 8);
  address(writer, ETH0, "198.18.0.1", 24);
  address(writer, ETH1, "198.19.0.1", 24);
  address(writer, VLAN, "203.0.113.1", 24);
  address(writer, TUN, "192.0.2.1", 24);
  add(writer, { gateway: ip("198.18.0.254"), ifindex: ETH0, destination: 0, prefixLength: 0 });
  writer.commit();
}

function address(writer: NetbaseWriter, ifindex: number, text: string, prefixLength: number): void {
  const local = ip(text);
  const size = 2 ** (32 - prefixLength);
  const net = local - local % size;
  const broadcast = net + size - 1;
  const scope = ifindex === LO ? route.RT_SCOPE_HOST : route.RT_SCOPE_UNIVERSE;
  const one = { local, address: local, prefixLength, broadcast, scope, secondary: false };
  writer.interfaces.put({ ...writer.interfaces.get(ifindex)!, addresses: [one] });
  const own = { table: route.RT_TABLE_LOCAL, ifindex, source: local };
  const host = { ...own, type: route.RTN_LOCAL, scope: route.RT_SCOPE_HOST };
  const link = { ifindex, source: local, scope: route.RT_SCOPE_LINK };
  add(writer, { ...host, destination: local, prefixLength: 32 });
  add(writer, {
    ...own,
    scope: route.RT_SCOPE_LINK,
    type: route.RTN_BROADCAST,
    destination: broadcast,
    prefixLength: 32,
  });
  if (ifindex === LO) add(writer, { ...host, destination: net, prefixLength });
  else add(writer, { ...link, destination: net, prefixLength });
}

function add(writer: NetbaseWriter, fields: Partial<route.Route>): void {
  writer.rib.add({ ...route.emptyRoute(), ...fields }, route.NLM_F_CREATE | route.NLM_F_EXCL);
}
