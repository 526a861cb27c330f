// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula monitor` on the real kernel: every change once it is mirrored, also what the kernel takes away
 * without a word.
 */

import assert from "node:assert/strict";
import type { LabProcess, Namespace } from "../../../demo/lab.ts";
import { selfCommand } from "../../../cli/command.ts";
import { eventually, labTest, pair } from "../lab.ts";

/** Starts a monitor and waits until it tells of a change that was made for that. */
async function monitor(host: Namespace, ...args: string[]): Promise<LabProcess> {
  const process = host.spawn([...selfCommand(), "monitor", ...args]);
  for (let i = 0; process.stdout.all.length === 0; i++) {
    assert.ok(i < 100, "the monitor tells of nothing");
    await host.ip(`route replace 192.0.2.0/24 via 198.18.0.2 metric ${1000 + i}`);
    await process.stdout.find("", { timeoutMs: 100 }).catch(() => {});
  }
  return process;
}

labTest(
  `monitor tells of routes as ip does, and of those that go without an event`,
  async (lab) => {
    const { host } = await pair(lab);
    const { stdout } = await monitor(host, "-j", "routes");
    async function change(dst: string, what: string): Promise<Record<string, unknown>> {
      for (let from = 0;; from++) {
        const line = await stdout.find("{", { from });
        from = stdout.all.indexOf(line, from);
        const entry = JSON.parse(line);
        assert.equal(entry.topic, "routes");
        if (entry.dst === dst && entry.change === what) return entry;
      }
    }
    await host.ip("route add default via 198.18.0.2");
    const added = await change("default", "added");
    assert.equal(added.gateway, "198.18.0.2");
    assert.equal(added.dev, "eth0");
    assert.ok(Math.abs(Date.parse(String(added.time)) - Date.now()) < 10_000);
    assert.ok(Number(added.latencyMicros) > 0);
    await host.ip("route change default via 198.18.0.3");
    assert.equal((await change("default", "changed")).gateway, "198.18.0.3");
    // The kernel withdraws it with the link and says nothing of it (docs/kernel.md, Routes).
    await host.ip("link set eth0 down");
    await change("default", "removed");
    await change("198.18.0.0/24", "removed");
  },
);

labTest(
  `monitor prints interfaces, neighbours and the state of the mirror too`,
  async (lab) => {
    const { host } = await pair(lab);
    const { stdout } = await monitor(host);
    const seen = async (pattern: RegExp) => {
      for (let from = 0;; from++) {
        await stdout.find("", { from });
        if (pattern.test(stdout.all[from])) return;
      }
    };
    await host.ip("neighbour add 198.18.0.9 lladdr 02:00:00:00:00:09 dev eth0");
    await seen(/^\[.*Z \+\d+us\] \[NEIGHBORS\] 198\.18\.0\.9 dev eth0 lladdr 02:.* PERMANENT$/);
    await host.ip("neighbour delete 198.18.0.9 dev eth0");
    await seen(/\[NEIGHBORS\] Deleted 198\.18\.0\.9 dev eth0 /);
    await host.ip("link set eth0 mtu 1400");
    await seen(/\[INTERFACES\] \d+: eth0.* mtu 1400 /);
    await host.ip("link set eth0 down");
    await seen(/\[SYNC\] (stale|synced) resyncs \d+ overruns 0$/);
  },
);

labTest("monitor ends once nobody reads what it prints", async (lab) => {
  const { host } = await pair(lab);
  const command = [...selfCommand(), "monitor", "routes"];
  // The shell waits for both of them.
  const { stdout } = host.spawn(["sh", "-c", '"$@" | head -n 1', "sh", ...command]);
  let metric = 1;
  await eventually("the end of the monitor", async () => {
    await host.ip(`route replace 192.0.2.0/24 via 198.18.0.2 metric ${metric++}`);
    return stdout.ended ? true : undefined;
  });
  assert.equal(stdout.all.length, 1);
});
