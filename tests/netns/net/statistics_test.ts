// SPDX-License-Identifier: Apache-2.0
/**
 * What the kernel counts of AF_XDP sockets (XDP_STATISTICS), told by the real program and read from the
 * kernel beside it; and who sees to it that UDP checksums are right.
 */

import { strict as assert } from "node:assert";
import {
  answeredAtLeast,
  Appliance,
  assertGrowth,
  CLIENT,
  ECHO,
  eventually,
  HOST,
  labTest,
  pair,
} from "../lab.ts";
import { xdpSockets } from "./process_sockets.ts";
import { applianceOf } from "../processes.ts";

const SOL_XDP = 283;
const XDP_STATISTICS = 7;
/** struct xdp_statistics of linux/if_xdp.h, by the names that Tegula gives its fields. */
const FIELDS = [
  "xdp_rx_drop_kernel",
  "xdp_rx_invalid_descs",
  "xdp_tx_invalid_descs",
  "xdp_rx_drop_ring_full",
  "xdp_rx_fill_ring_empty",
  "xdp_tx_ring_empty",
];

labTest("what the kernel counts of all sockets is among the counters", async (lab) => {
  const { host, asker } = await pair(lab, { queues: 2 });
  const appliance = await Appliance.start(host, ECHO);
  const flows = Array.from({ length: 16 }, () => ({ source: CLIENT, target: HOST, port: 7 }));
  await asker.start({ flows, rate: 5000 });
  await answeredAtLeast(asker, 200);
  // Nobody reads meanwhile, so that rings fill up and frames run out.
  const reader = applianceOf(appliance.process.pid);
  Deno.kill(reader, "SIGSTOP");
  await eventually(
    "frames that the kernel drops",
    () => Promise.resolve(sums()[0] > 0 || undefined),
  );
  Deno.kill(reader, "SIGCONT");
  await asker.stop({ lingerMillis: 0 });

  function sums(): number[] {
    const each = xdpSockets(appliance.process.pid, (option) => {
      const values = new BigUint64Array(FIELDS.length);
      assert.ok(option(SOL_XDP, XDP_STATISTICS, values));
      return values;
    });
    assert.equal(each.length, 2);
    return FIELDS.map((_, i) => each.reduce((sum, values) => sum + Number(values[i]), 0));
  }
  await eventually("the same counts", async () => {
    const counters = await appliance.counters();
    const told = FIELDS.map((name) => counters.get(name)!);
    const asked = sums();
    // Blocking on a socket counts its empty transmit ring once more, after the tile has looked.
    const [emptyTold, emptyAsked] = [told.pop()!, asked.pop()!];
    const isSame = told.every((count, i) => count === asked[i]);
    return isSame && emptyTold > 0 && emptyTold <= emptyAsked ? true : undefined;
  });
});

/** One datagram to the MAC in its argument whose UDP checksum is wrong, on a namespace's eth0. */
const WRONG_CHECKSUM = `
import sys
from scapy.all import Ether, IP, UDP, sendp
frame = Ether(dst=sys.argv[1]) / IP(src="${CLIENT}", dst="${HOST}")
sendp(frame / UDP(sport=4000, dport=7, chksum=0x1234) / b"wrong", iface="eth0", verbose=0)
`;

for (const [checksums, moves] of [["verify", "rx_drop_udp_checksum"], ["nic", "rx_delivered"]]) {
  labTest(`with --checksums ${checksums} a wrong UDP checksum moves ${moves}`, async (lab) => {
    const { host, client } = await pair(lab);
    const appliance = await Appliance.start(host, [...ECHO, "--checksums", checksums]);
    const before = await appliance.counters();
    const [{ address }] = JSON.parse(await host.ip("-j link show dev eth0"));
    await client.run(["/usr/bin/python3", "-c", WRONG_CHECKSUM, address]);
    await assertGrowth(appliance, before, { rx_frames: 1, [moves]: 1 });
  });
}
