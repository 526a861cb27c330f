// SPDX-License-Identifier: Apache-2.0
/**
 * VLAN devices on a veth, whose ends hand tags over beside the frame unless told otherwise: all are
 * answered by their own address and way, whether XDP sees the tag or not.
 */

import { strict as assert } from "node:assert";
import {
  answered,
  assertBalanced,
  divergent,
  ends,
  labTest,
  type Namespace,
  serve,
  SILENCE_MILLIS,
} from "./machine.ts";

/** Devices of both ends, in the order of their making; the number is the third of the address. */
const DEVICES = [
  ["tagged", 5, "link add link eth0 name tagged type vlan id 5"],
  ["service", 7, "link add link eth0 name service type vlan proto 802.1ad id 7"],
  ["double", 8, "link add link service name double type vlan id 8"],
] as const;

async function addDevices(namespace: Namespace, end: number): Promise<void> {
  await namespace.batch(
    DEVICES.flatMap(([name, net, command]) => [
      command,
      `address add 198.18.${net}.${end}/24 dev ${name}`,
      `link set ${name} up`,
    ]),
  );
}

/** Asks three times through each network; returns how many were answered. */
async function askAll(client: Namespace): Promise<number[]> {
  const all: number[] = [];
  for (const net of [0, ...DEVICES.map(([, net]) => net)]) {
    all.push(await answered(client, { source: `198.18.${net}.2`, target: `198.18.${net}.1` }));
  }
  return all;
}

labTest(
  "VLAN devices are answered by their own way, 802.1Q, 802.1ad and one in the other",
  async (lab) => {
    const { host, client } = await ends(lab);
    await lab.join(
      { namespace: host, name: "eth0", addresses: ["198.18.0.1/24"] },
      { namespace: client, name: "eth0", addresses: ["198.18.0.2/24"] },
    );
    await addDevices(host, 1);
    await addDevices(client, 2);
    // A VLAN that the host has not, with a way to the host's address in it.
    await client.batch([
      "link add link eth0 name foreign type vlan id 9",
      "address add 198.18.9.2/24 dev foreign",
      "link set foreign up",
      "route add 203.0.113.1 dev foreign",
      `neighbor add 203.0.113.1 lladdr ${await macOf(host)} dev foreign`,
    ]);
    await host.batch(["address add 203.0.113.1/32 dev lo", "route add 198.18.9.2 dev eth0"]);
    const foreign = {
      source: "198.18.9.2",
      target: "203.0.113.1",
      count: 1,
      timeoutMs: SILENCE_MILLIS,
    };
    const appliance = await serve(host, ["eth0"]);

    // The tag, of two the outer one, is not in the frame: the inner one is no VLAN of eth0's, and the
    // kernel's. That of a VLAN that is not ours is not there to be looked at.
    assert.deepEqual(await askAll(client), [3, 3, 3, 3]);
    let counters = await assertBalanced(appliance);
    assert.deepEqual([counters.get("rx_frames"), counters.get("rx_socket")], [9, 3]);
    assert.equal(counters.get("tx_frames"), 12);
    await answered(client, foreign);
    counters = await assertBalanced(appliance);
    assert.equal(counters.get("rx_frames"), 10, "taken as if it had no tag");

    // Now tags are in the frame.
    await client.run(["ethtool", "-K", "eth0", "txvlan", "off", "tx-vlan-stag-hw-insert", "off"]);
    assert.deepEqual(await askAll(client), [3, 3, 3, 3]);
    counters = await assertBalanced(appliance);
    assert.deepEqual([counters.get("rx_frames"), counters.get("rx_socket")], [19, 6]);
    await answered(client, foreign);
    counters = await assertBalanced(appliance);
    assert.equal(counters.get("rx_frames"), 19, "left to the kernel, which drops it");
    assert.equal(counters.get("rx_drop_unknown_vlan"), 0);

    assert.equal(await divergent(host), 0);
    assert.equal((await appliance.stop()).code, 0);
  },
);

/** The MAC address of an end's eth0. */
async function macOf(namespace: Namespace): Promise<string> {
  const [link] = JSON.parse(await namespace.ip("-j link show dev eth0"));
  return link.address;
}
