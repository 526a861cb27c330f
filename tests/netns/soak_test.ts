// SPDX-License-Identifier: Apache-2.0
/**
 * Load, constant changes of routes, neighbours, addresses and links, and handovers from one appliance
 * to the next. No datagram is uncounted or answered wrongly, unaffected traffic loses nothing, the
 * mirror equals the kernel's tables afterwards, and memory and descriptors do not grow.
 *
 * TEGULA_SOAK_SECONDS is the duration; short by default.
 */

import { strict as assert } from "node:assert";
import { setTimeout as delay } from "node:timers/promises";
import { selfCommand } from "../../cli/command.ts";
import {
  answeredAtLeast,
  Appliance,
  askUntilAnswered,
  CLIENT,
  Client,
  eventually,
  HOST,
  labTest,
  type Namespace,
  pair,
  secondLink,
  socketPath,
} from "./lab.ts";
import { processesOf } from "./processes.ts";
import { assertBalanced } from "./wire_balance.ts";

const SECONDS = Number(Deno.env.get("TEGULA_SOAK_SECONDS") ?? 15);
/** Datagrams a second of each of the two kinds of traffic. */
const RATE = 1000;
/** Sources that nobody on the link answers for, in each round. */
const SPOOFED = 50;
const PAUSE_MILLIS = 20;
const HANDOVER_PAUSE_MILLIS = 1500;
/** Samples of the memory; the first quarter warms up. */
const MEMORY_LOOKS = 40;
/** How far a garbage collector may lag, including pages that lookups of new addresses touch. */
const MEMORY_SLACK_BYTES = 32 << 20;
const PAGE_BYTES = 4096;

/** The far network, whose answers take any path that exists at the moment. */
const FAR = "203.0.113.0/24";
const FAR_SOURCES = ["203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5"];

/** The changes on the host, one entry after the other, repeatedly. */
const CHANGES: readonly (readonly string[])[] = [
  [`route replace ${FAR} via 192.0.2.2`],
  [`route replace ${FAR} via ${CLIENT}`],
  [`route replace ${FAR} nexthop via ${CLIENT} weight 3 nexthop via 192.0.2.2 weight 1`],
  [`route replace blackhole ${FAR}`, `route replace 203.0.113.3/32 via 192.0.2.2`],
  [`route replace unreachable ${FAR}`, "route del 203.0.113.3/32"],
  [`route replace prohibit ${FAR}`],
  [`route del ${FAR}`],
  [`route add ${FAR} via ${CLIENT} mtu 1400`],
  routes("add"),
  ["address add 198.18.0.77/24 dev eth0", `route replace ${FAR} via ${CLIENT} src 198.18.0.77`],
  ["address del 198.18.0.77/24 dev eth0", `route replace ${FAR} via ${CLIENT}`],
  routes("del"),
  ["neigh flush dev eth1"],
  [
    "neigh replace 192.0.2.2 lladdr 02:00:00:00:00:99 dev eth1",
    `route replace ${FAR} via 192.0.2.2`,
  ],
  ["neigh del 192.0.2.2 dev eth1"],
  ["link set eth1 down"],
  ["link set eth1 up", `route replace ${FAR} via 192.0.2.2`],
];

/** Two hundred routes to other places at once. */
function routes(verb: "add" | "del"): string[] {
  return Array.from({ length: 200 }, (_, i) => `route ${verb} 198.19.${i}.0/24 via ${CLIENT}`);
}

/** Resident memory of a main process and its children, /proc/PID/statm (proc(5)). */
function residentBytes(main: number): number {
  return processesOf(main)
    .map(({ pid }) => Number(Deno.readTextFileSync(`/proc/${pid}/statm`).split(" ")[1]))
    .reduce((sum, pages) => sum + pages) * PAGE_BYTES;
}

/** Repeats the changes until `until`, in milliseconds of `performance.now`; returns how often. */
async function changeAllTheTime(host: Namespace, flooder: Client, until: number): Promise<number> {
  let rounds = 0;
  for (; performance.now() < until; rounds++) {
    for (const change of CHANGES) {
      await host.batch(change);
      await delay(PAUSE_MILLIS);
    }
    await flooder.flood({ first: "198.18.0.100", sources: SPOOFED, target: HOST, port: 7 });
  }
  return rounds;
}

/** Hands over to a successor, repeatedly until `until`; returns how often. */
async function handOver({ process }: Appliance, until: number): Promise<number> {
  let times = 0;
  for (; performance.now() < until; times++) {
    const from = process.stderr.all.length;
    process.kill("SIGHUP");
    await process.stderr.find("reloaded: answering 7=echo; the rings were taken over", { from });
    await delay(HANDOVER_PAUSE_MILLIS);
  }
  return times;
}

/** Descriptors of the main process: those of replaced processes must not remain. */
function descriptors({ process: { pid } }: Appliance): number {
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
}

/** Samples the memory of all processes until `until`. */
async function watchMemory(pid: number, until: number): Promise<number[]> {
  const seen: number[] = [];
  while (performance.now() < until) {
    seen.push(residentBytes(pid));
    await delay(SECONDS * 1000 / MEMORY_LOOKS);
  }
  return seen;
}

/** The number of UMEM frames that are free or in the kernel, once it is `least`: all, when nothing is in flight. */
function idleFrames(appliance: Appliance, least: number): Promise<number> {
  return eventually(`${least} idle frames`, async () => {
    const counters = await appliance.counters();
    const idle = counters.get("frames_free")! + counters.get("frames_in_kernel")!;
    return idle >= least ? idle : undefined;
  });
}

/**
 * Datagrams that arrived in a namespace and found their socket's buffer full, because the program did
 * not run: only its own loss (Udp RcvbufErrors of /proc/net/snmp).
 */
async function unread(namespace: Namespace): Promise<number> {
  const lines = await namespace.run(["grep", "^Udp:", "/proc/net/snmp"]);
  const [names, values] = lines.split("\n").map((line) => line.split(" "));
  return Number(values[names.indexOf("RcvbufErrors")]);
}

labTest("under constant change nothing goes uncounted, wrong or missing", async (lab) => {
  const parts = await pair(lab);
  const { host, client, asker } = parts;
  await secondLink(lab, parts);
  await client.batch([
    ...FAR_SOURCES.map((address) => `address add ${address}/32 dev lo`),
    // The flood binds to these, and nobody answers ARP for them.
    "route add local 198.18.0.100/30 dev lo",
    "route add local 198.18.0.104/29 dev lo",
    "route add local 198.18.0.112/28 dev lo",
    "route add local 198.18.0.128/27 dev lo",
  ]);
  await client.sysctl({ "conf/eth0/arp_ignore": 1 });
  await host.ip(`route add ${FAR} via ${CLIENT}`);
  const control = ["--control", socketPath()];
  const appliance = await Appliance.start(host, [
    ...["--interface", "eth0", "--interface", "eth1", "--listen", "7=echo", ...control],
  ]);
  const frames = await idleFrames(appliance, 1);
  const [moving, flooder] = [new Client(client), new Client(client)];
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: RATE });
  await moving.start({
    flows: FAR_SOURCES.map((source) => ({ source, target: HOST, port: 7 })),
    rate: RATE,
  });
  await answeredAtLeast(asker, RATE / 2);
  const until = performance.now() + SECONDS * 1000;
  const open = descriptors(appliance);
  const [rounds, handovers, memory] = await Promise.all([
    changeAllTheTime(host, flooder, until),
    handOver(appliance, until),
    watchMemory(appliance.process.pid, until),
  ]);
  const steady = await asker.stop();
  const moved = await moving.stop({ lingerMillis: 1000 });
  const counters = await assertBalanced(appliance);
  assert.equal(steady.mismatched, 0);
  const lost = steady.sent - steady.answered - await unread(client);
  assert.ok(lost <= 0, `lost ${lost} of what nothing happened to: ${JSON.stringify(steady.gap)}`);
  assert.equal(moved.mismatched, 0);
  assert.ok(moved.answered > 0);
  for (
    const name of ["tx_drop_blackhole", "tx_drop_unreachable", "tx_drop_prohibit", "tx_queued"]
  ) {
    assert.ok(counters.get(name)! > 0, `nothing moved ${name}`);
  }
  assert.equal(counters.get("link_corrupt"), 0);
  assert.equal(counters.get("malformed_messages"), 0);
  const audit = JSON.parse(await host.run([...selfCommand(), "audit", "--json", ...control]));
  assert.equal(audit.divergent, 0, JSON.stringify(audit));
  assert.ok(handovers > 0);
  assert.equal(descriptors(appliance), open, "descriptors are kept");
  const quarter = memory.length >>> 2;
  // During a handover there are two.
  const grown = Math.min(...memory.slice(-quarter)) -
    Math.min(...memory.slice(quarter, 2 * quarter));
  assert.ok(grown < MEMORY_SLACK_BYTES, `memory has grown by ${grown} bytes: ${memory}`);
  console.log(
    `${rounds} rounds of changes, ${handovers} handovers; ${steady.sent} steady datagrams; of ${moved.sent} others ` +
      `${moved.answered} answered; memory ${memory.at(-1)! >> 20} MiB, grown by ${grown >> 10} KiB`,
  );
  // Everything is reachable again, and every frame of the UMEMs is back in its place.
  for (const source of FAR_SOURCES) await askUntilAnswered(asker, { source });
  assert.equal(await idleFrames(appliance, frames), frames);
});
