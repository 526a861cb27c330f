// SPDX-License-Identifier: Apache-2.0
/**
 * Routes over kinds of device that the kernel at hand may lack: whatever happens to the devices, Tegula
 * decides as the kernel does (RTM_GETROUTE), and has mirrored what the kernel has.
 */

import {
  addr,
  assertCurrent,
  assertDecides,
  cleanSlate,
  ip,
  Mirrored,
  Oracle,
} from "../netns/netlink/kit.ts";

/** What is asked after each step: in each device's network, beyond its gateway, and its broadcast. */
const ADDRESSES = [
  ...[5, 7, 8, 20, 21, 30, 40, 41].flatMap((net) => [
    `198.18.${net}.1`,
    `198.18.${net}.9`,
    `198.18.${net}.255`,
    `203.0.113.${net}`,
  ]),
  "198.18.0.9",
  "192.0.2.9",
].map(addr);

/** Adds a device with a network of its own, and a route to one address beyond it. */
function device(net: number, name: string, kind: string): string[] {
  return [
    `link add ${name} ${kind}`,
    `addr add 198.18.${net}.1/24 dev ${name}`,
    `link set ${name} up`,
    `route add 203.0.113.${net}/32 via 198.18.${net}.9 dev ${name}`,
  ];
}

const WORLD = [
  "link add v0 type veth peer name v1",
  "link set v0 up",
  "link set v1 up",
  "addr add 198.18.0.2/24 dev v0",
  "link add s0 type veth peer name s1",
  "link add t0 type veth peer name t1",
];

const STORIES: Record<string, string[]> = {
  "VLAN devices": [
    ...device(5, "v0.5", "link v0 type vlan id 5"),
    ...device(7, "service", "link v0 type vlan proto 802.1ad id 7"),
    ...device(8, "double", "link service type vlan id 8"),
    "link set service down",
    "link set service up",
    "link set v0 down",
    "link set v0 up",
    "link set v1 down",
    "link set v1 up",
    "link set v0 down",
    "link set v0 up",
    "link del service",
  ],
  "a bond": [
    ...device(20, "bond0", "type bond mode active-backup miimon 20"),
    "link set s0 master bond0",
    "link set t0 master bond0",
    "link set s1 up",
    "link set t1 up",
    ...device(21, "bond0.21", "link bond0 type vlan id 21"),
    "link set s0 down",
    "link set s0 up",
    "link set bond0 type bond active_slave t0",
    "link set s1 down",
    "link set t1 down",
    "link set s1 up",
    "link set s0 nomaster",
    "link set bond0 down",
    "link set bond0 up",
    "link del bond0",
  ],
  "a dummy": [
    ...device(30, "dummy0", "type dummy"),
    "route add 192.0.2.0/24 dev dummy0",
    "link set dummy0 down",
    "link set dummy0 up",
    "link del dummy0",
  ],
  "GRE tunnels": [
    ...device(40, "gre1", "type gre local 198.18.0.2 remote 198.18.0.9"),
    ...device(41, "tap1", "type gretap local 198.18.0.2 remote 198.18.0.9 key 3"),
    "link set gre1 mtu 1400",
    "route add 192.0.2.0/24 dev gre1 metric 5",
    "link set gre1 down",
    "link set gre1 up",
    "link set v0 down",
    "link set v0 up",
    "link del tap1",
    "link del gre1",
  ],
};

/** A carrier is gained and lost some time after the command that causes it. */
const SETTLES_MILLIS = 20_000;

/** Asserts that the two agree on everything, which may take a moment. */
function assertSame(mirrored: Mirrored, oracle: Oracle, step: string): void {
  const end = performance.now() + SETTLES_MILLIS;
  for (;;) {
    mirrored.settle();
    try {
      for (const address of ADDRESSES) assertDecides(mirrored, oracle, { address });
      assertCurrent(mirrored);
      return;
    } catch (error) {
      if (performance.now() < end) continue;
      throw new Error(`after ${step}: ${(error as Error).message}`, { cause: error });
    }
  }
}

for (const [devices, steps] of Object.entries(STORIES)) {
  Deno.test(`${devices}: routes decide as the kernel does after each step`, () => {
    cleanSlate();
    for (const step of WORLD) ip(step);
    using mirrored = new Mirrored().sync();
    using oracle = new Oracle(mirrored);
    for (const step of steps) {
      ip(step);
      assertSame(mirrored, oracle, step);
    }
    cleanSlate();
  });
}
