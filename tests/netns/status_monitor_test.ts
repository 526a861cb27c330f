/**
 * `tegula monitor` on the real kernel, with a mirror of its own and over the control socket of a running
 * appliance: every change once it is mirrored, also what the kernel takes away without a word.
 */

import assert from "node:assert/strict";
import type { LabProcess, Namespace } from "../../cli/lab.ts";
import { linesOf } from "../../cli/lines.ts";
import { selfCommand } from "../../cli/self.ts";
import {
  answeredAtLeast,
  Appliance,
  CLIENT,
  eventually,
  growth,
  HOST,
  labTest,
  pair,
  socketPath,
} from "./lab.ts";

const RUN = ["--interface", "eth0", "--listen", "7=echo"];
/** More changes than are kept for one who does not read. */
const MANY_ROUTES = 100_000;

/** Starts a monitor and waits until it tells of a change that was made for that. */
async function ownMonitor(host: Namespace, ...args: string[]): Promise<LabProcess> {
  const process = host.spawn([...selfCommand(), "monitor", ...args]);
  for (let i = 0; process.stdout.all.length === 0; i++) {
    assert.ok(i < 100, "the monitor tells of nothing");
    await host.ip(`route replace 192.0.2.0/24 via 198.18.0.2 metric ${1000 + i}`);
    await process.stdout.find("", { timeoutMs: 100 }).catch(() => {});
  }
  return process;
}

/** Starts an appliance, and a monitor that asks it. */
async function liveMonitor(host: Namespace, ...args: string[]): Promise<LabProcess> {
  const control = socketPath();
  await Appliance.start(host, [...RUN, "--control", control]);
  const process = host.spawn([...selfCommand(), "monitor", ...args, "--control", control]);
  await process.stderr.find("monitoring");
  return process;
}

for (const [whose, monitor] of Object.entries({ own: ownMonitor, running: liveMonitor })) {
  labTest(
    `monitor tells of routes as ip does, and of those that go without an event (${whose})`,
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
      // The kernel withdraws it with the link and says nothing of it (KERNEL.md row 7).
      await host.ip("link set eth0 down");
      await change("default", "removed");
      await change("198.18.0.0/24", "removed");
    },
  );

  labTest(
    `monitor prints interfaces, neighbours and the state of the mirror too (${whose})`,
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
}

labTest("monitor ends once nobody reads what it prints", async (lab) => {
  const { host } = await pair(lab);
  const control = socketPath();
  await Appliance.start(host, [...RUN, "--control", control]);
  for (const whose of [[], ["--control", control]]) {
    const monitor = [...selfCommand(), "monitor", "routes", ...whose];
    // The shell waits for both of them.
    const { stdout } = host.spawn(["sh", "-c", '"$@" | head -n 1', "sh", ...monitor]);
    let metric = 1;
    await eventually("the end of the monitor", async () => {
      await host.ip(`route replace 192.0.2.0/24 via 198.18.0.2 metric ${metric++}`);
      return stdout.ended ? true : undefined;
    });
    assert.equal(stdout.all.length, 1);
  }
});

labTest(
  "one who does not read what changes loses lines, counted, and nobody waits",
  async (lab) => {
    const { host, asker } = await pair(lab);
    const control = socketPath();
    const appliance = await Appliance.start(host, [...RUN, "--control", control]);
    using connection = await Deno.connect({ transport: "unix", path: control });
    await connection.write(new TextEncoder().encode('{"do":"monitor","what":"routes"}\n'));
    const first = new Uint8Array(100);
    const length = await connection.read(first) ?? 0;
    const monitoring = new TextDecoder().decode(first.subarray(0, length));
    assert.equal(monitoring, '{"monitoring":["routes"]}\n');

    const before = await appliance.counters();
    await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 1000 });
    await answeredAtLeast(asker, 100);
    await host.batch(Array.from({ length: MANY_ROUTES }, (_, i) => {
      return `route add 10.${i >> 16}.${(i >> 8) & 255}.${i & 255}/32 via 198.18.0.2`;
    }));
    await eventually("all routes in the mirror", async () => {
      const { routes } = Object.fromEntries(await appliance.counters());
      return routes >= MANY_ROUTES ? true : undefined;
    });
    const { sent } = await asker.stop();
    const after = await appliance.counters();
    assert.ok(growth(before, after, "rx_frames") >= sent);
    assert.equal(growth(before, after, "tx_frames"), growth(before, after, "rx_frames"));

    let [told, lost, sum] = [0, 0, 0];
    for await (const line of linesOf(connection.readable)) {
      const entry = JSON.parse(line);
      if (entry.topic === "routes") told++;
      else if (sum > 0 && told + entry.lost === sum) break;
      else [lost, sum] = [entry.lost, told + entry.lost];
    }
    assert.ok(lost > 0 && told > 1000, `${told} told, ${lost} lost`);
    assert.equal(told + lost, MANY_ROUTES);
  },
);
