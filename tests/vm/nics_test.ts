// SPDX-License-Identifier: Apache-2.0
/**
 * Drivers of real NICs, as QEMU has them: native XDP on every queue, several net tiles, zero-copy or
 * the reason why not, and busy polling of a driver that is there to be polled.
 */

import { strict as assert } from "node:assert";
import type { Lab } from "../../demo/lab.ts";
import { xdpSockets } from "../netns/net/process_sockets.ts";
import {
  answered,
  type Appliance,
  assertBalanced,
  divergent,
  ends,
  labTest,
  type Namespace,
  plug,
  serve,
  troubles,
  xdpProgram,
} from "./machine.ts";

const [TARGET, SOURCE] = ["198.18.0.1", "198.18.0.2"];
/** What an interface's line says: zero-copy, or why it is none. */
const MODE =
  /xdp zero-copy \(the driver has it\)|xdp native copy \(no zero-copy: queue 0: \w+, .*\)/;

/** Of sys/socket.h: whether busy polling is preferred, how long, and by which NAPI. */
const SOL_SOCKET = 1;
const SO_PREFER_BUSY_POLL = 69;
const SO_BUSY_POLL = 46;
const SO_INCOMING_NAPI_ID = 56;

function busyPolling({ process: { pid } }: Appliance): number[][] {
  return xdpSockets(
    pid,
    (option) =>
      [SO_PREFER_BUSY_POLL, SO_BUSY_POLL, SO_INCOMING_NAPI_ID].map((number) => {
        const value = new Int32Array(1);
        option(SOL_SOCKET, number, value);
        return value[0];
      }),
  );
}

/** The two ends with two of the machine's NICs, which are on one wire. */
async function joined(lab: Lab, nic: "virtio" | "intel") {
  const both = await ends(lab);
  await plug(both.host, `${nic}0`, TARGET);
  await plug(both.client, `${nic}1`, SOURCE);
  return both;
}

/** Asserts that an interface is served in a mode that its driver may have, and shows which. */
async function assertMode(appliance: Appliance, name: string): Promise<void> {
  const line = await appliance.process.stderr.find(`${name}: `);
  assert.match(line, MODE);
  console.log(line);
}

/** Asserts that 32 flows are answered, by AF_XDP alone. */
async function assertAnswersAll(appliance: Appliance, client: Namespace): Promise<void> {
  assert.equal(await answered(client, { source: SOURCE, target: TARGET, count: 32 }), 32);
  const counters = await assertBalanced(appliance);
  const { rx_frames, rx_socket, tx_frames } = Object.fromEntries(counters);
  assert.deepEqual({ rx_frames, rx_socket, tx_frames }, {
    rx_frames: 32,
    rx_socket: 0,
    tx_frames: 32,
  });
}

labTest(
  "virtio_net, two queues, a net tile on each: every flow is answered natively",
  async (lab) => {
    const { host, client } = await joined(lab, "virtio");
    await host.run(["ethtool", "-L", "virtio0", "combined", "2"]);
    const appliance = await serve(host, ["virtio0"], ["--net-tiles", "2"]);
    await assertMode(appliance, "virtio0");
    await assertAnswersAll(appliance, client);
    const byQueue = (await host.run(["ethtool", "-S", "virtio0"])).matchAll(
      /rx\d_xdp_redirects: (\d+)/g,
    );
    const redirected = [...byQueue].map(([, count]) => Number(count));
    assert.equal(redirected.length, 2);
    assert.ok(redirected.every((count) => count > 0), `queues: ${redirected}`);
    assert.equal(await divergent(host), 0);
    assert.equal((await appliance.stop()).code, 0);
    assert.equal(await xdpProgram(host, "virtio0"), undefined);
  },
);

labTest("virtio_net, polled busily while its interrupts are put off", async (lab) => {
  const { host, client } = await joined(lab, "virtio");
  await host.run([
    ...[
      "sh",
      "-ec",
      "cd /sys/class/net/virtio0; echo 2 > napi_defer_hard_irqs; echo 200000 > gro_flush_timeout",
    ],
  ]);
  const appliance = await serve(host, ["virtio0"], ["--busy-poll"]);
  await assertAnswersAll(appliance, client);
  const sockets = busyPolling(appliance);
  for (const [preferred, micros] of sockets) assert.deepEqual([preferred, micros], [1, 20]);
  assert.ok(sockets.some(([, , napi]) => napi > 0), `NAPI: ${JSON.stringify(sockets)}`);
});

labTest("igb, two queues: every flow is answered, in the best mode that it has", async (lab) => {
  const { host, client } = await joined(lab, "intel");
  const appliance = await serve(host, ["intel0"]);
  await assertMode(appliance, "intel0");
  await assertAnswersAll(appliance, client);

  // Of a VLAN: first with tags taken out by the NIC, then with tags in the frames.
  for (const [namespace, nic, end] of [[host, "intel0", 1], [client, "intel1", 2]] as const) {
    await namespace.batch([
      `link add link ${nic} name tagged type vlan id 5`,
      `address add 198.18.5.${end}/24 dev tagged`,
      "link set tagged up",
    ]);
  }
  const tagged = { source: "198.18.5.2", target: "198.18.5.1" };
  assert.equal(await answered(client, tagged), 3);
  const [trouble, ...others] = await troubles(host, "intel0");
  assert.match(trouble.says, /VLAN devices.*tags out of frames/);
  await host.run(["sh", "-c", trouble.fix!]);
  assert.equal(await answered(client, tagged), 3);
  assert.deepEqual(await troubles(host, "intel0"), others);
  const { rx_frames, rx_socket, tx_frames } = Object.fromEntries(await assertBalanced(appliance));
  assert.deepEqual([rx_frames, rx_socket, tx_frames], [38, 0, 38]);

  assert.equal(await divergent(host), 0);
  assert.equal((await appliance.stop()).code, 0);
  assert.equal(await xdpProgram(host, "intel0"), undefined);
});
