// SPDX-License-Identifier: Apache-2.0
/**
 * Frames made by scapy, hostile ones included, on the real wire of the real appliance: for each class
 * the counter that must move moves, no other does, and a good datagram is answered afterwards. What
 * the XDP program leaves to the kernel moves none of ours, unless the kernel then finds a datagram in
 * it that is for us.
 *
 * What the XDP program keeps from the net tile, the net tile refuses all the same:
 * `../../unit/net/receive_test.ts`.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import type { Counters } from "../../../demo/lab.ts";
import { NET } from "../../../tiles/runtime/counters.ts";
import { configured } from "../config_file.ts";
import {
  Appliance,
  CLIENT,
  eventually,
  growth,
  HOST,
  type Lab,
  labTest,
  type Namespace,
} from "../lab.ts";

/** The name of a counter of a net tile. */
type Counter = keyof typeof NET.help;

/** Counters that each datagram moves once: answered by AF_XDP, or having come by the kernel. */
const ANSWERED: Counter[] = ["rx_frames", "rx_delivered", "tx_accepted", "tx_frames"];
const BY_THE_KERNEL: Counter[] = ["rx_socket", "rx_delivered", "tx_accepted", "tx_frames"];
/** The XDP program passes it, and the kernel has no use for it either. */
const PASSED: Counter[] = [];

/** For each class of `wire_frames.py` the counters that each of its datagrams moves. */
const EXPECTED: Readonly<Record<string, Counter[]>> = {
  "every payload size": ANSWERED,
  "padding behind the packet": ANSWERED,
  "a UDP length before the packet's end": ANSWERED,
  "no UDP checksum": ANSWERED,
  "a bare pseudo-header sum": ANSWERED,
  "a UDP checksum of all ones": ANSWERED,
  "every TOS": ANSWERED,
  "every TTL": ANSWERED,
  "DF and the reserved flag": ANSWERED,
  // No VLAN, so the interface's own.
  "a priority tag": ANSWERED,
  "cut off behind the UDP header": ["rx_frames", "rx_drop_ip_length"],
  "cut off before the UDP header's end": PASSED,
  "version not 4": PASSED,
  "a header length below 5": PASSED,
  "a header length past the packet": PASSED,
  "options": BY_THE_KERNEL,
  "a wrong header checksum": ["rx_frames", "rx_drop_ip_checksum"],
  "a total length below the header's": ["rx_frames", "rx_drop_ip_length"],
  "a total length past the frame": ["rx_frames", "rx_drop_ip_length"],
  "a total length that cuts the datagram": ["rx_frames", "rx_drop_udp_length"],
  "all fragments of a datagram": BY_THE_KERNEL,
  "fragments without the others": PASSED,
  "overlapping fragments": PASSED,
  "other protocols": PASSED,
  "other EtherTypes": PASSED,
  "VLANs that are not ours": PASSED,
  "a UDP length below its header's": ["rx_frames", "rx_drop_udp_length"],
  "a UDP length past the packet": ["rx_frames", "rx_drop_udp_length"],
  "a wrong UDP checksum": ["rx_frames", "rx_drop_udp_checksum"],
  "port 0": PASSED,
  "ports that nobody serves": PASSED,
  "a source port of 0": ["rx_frames", "rx_delivered", "tx_accepted", "tx_drop_port_zero"],
  "a source port that is served": ["rx_frames", "rx_delivered"],
  "a multicast source": ["rx_frames", "rx_drop_invalid_source"],
  "a broadcast source": ["rx_frames", "rx_drop_invalid_source"],
  "a reserved source": ["rx_frames", "rx_drop_invalid_source"],
  "a loopback source": ["rx_frames", "rx_drop_invalid_source"],
  "our own address as source": ["rx_frames", "rx_drop_invalid_source"],
  "a source with no route back": ["rx_frames", "rx_delivered", "tx_accepted", "tx_drop_no_route"],
  "a destination that is not ours": PASSED,
  "a loopback destination": PASSED,
  "a broadcast destination": ["rx_socket", "rx_drop_not_local"],
  "a multicast destination": ["rx_socket", "rx_drop_not_local"],
  "another host's MAC": PASSED,
  "our address under the broadcast MAC": BY_THE_KERNEL,
};

/** The class of which all that is known is that answers are right, and that all is counted. */
const ANYTHING = "mutated frames";

/** What `wire_frames.py` says of a class that it has sent. */
interface Sent {
  readonly sent: number;
  /** Datagrams among them that had to be answered. */
  readonly wanted: number;
  /** Good datagrams beside them. */
  readonly probes: number;
  /** How many answers there were but for those to the probes. */
  readonly answers: number;
  /** What was wrong with any of them. */
  readonly mistakes: readonly string[];
}

/** Counters that go by the clock. */
const OF_THE_CLOCK = new Set([
  "wakeups",
  "busy_seconds",
  "arp_queue",
  "frames_free",
  "frames_in_kernel",
  "xdp_tx_ring_empty",
]);
const WATCHED = Object.keys(NET.help).filter((name) => !OF_THE_CLOCK.has(name));

/** The other end of the host's wire. */
class Frames {
  readonly names: readonly string[];
  readonly #process: ReturnType<Namespace["spawn"]>;

  private constructor(process: ReturnType<Namespace["spawn"]>, names: readonly string[]) {
    this.#process = process;
    this.names = names;
  }

  static async start(client: Namespace, hostMac: string): Promise<Frames> {
    const script = fileURLToPath(new URL("./wire_frames.py", import.meta.url));
    const process = client.spawn(["/usr/bin/python3", script, "eth0", hostMac], {
      stdin: "piped",
    });
    const line = await process.stdout.find("[", { timeoutMs: 60_000 }).catch((error) => {
      throw new Error(`${error}\n${process.stderr.all.join("\n")}`);
    });
    return new Frames(process, JSON.parse(line));
  }

  /** Sends all of a class, and probes in between. */
  async send(name: string): Promise<Sent> {
    const from = this.#process.stdout.all.length;
    await this.#process.write(name);
    return JSON.parse(await this.#process.stdout.find("{", { from, timeoutMs: 60_000 }));
  }
}

/**
 * The appliance, and its wire's other end with no addresses: whoever is there is made up, and the
 * kernel does not meddle.
 */
async function wired(lab: Lab): Promise<{ appliance: Appliance; frames: Frames }> {
  const [host, client] = [await lab.namespace("host"), await lab.namespace("client")];
  await lab.join(
    { namespace: host, name: "eth0", addresses: [`${HOST}/24`] },
    { namespace: client, name: "eth0" },
  );
  await host.ip(`neigh replace ${CLIENT} lladdr 02:00:00:00:00:02 dev eth0 nud permanent`);
  const [{ address }] = JSON.parse(await host.ip("-j link show dev eth0"));
  // What is sent to port 0 is the net tile's to drop: the app is to answer it.
  const appliance = await Appliance.start(host, [
    ...configured('listen = ["7=echo"]\napps.echo.refuse_sources = []'),
    ...["--provider", "xdp"],
  ]);
  return { appliance, frames: await Frames.start(client, address) };
}

/** By how much each counter has moved, those left out that have not. */
function moved(before: Counters, after: Counters): Record<string, number> {
  return Object.fromEntries(
    WATCHED.map((name) => [name, growth(before, after, name)]).filter(([, by]) => by !== 0),
  );
}

/** How often each counter must have moved. */
function expectation(counters: readonly Counter[], { sent, probes }: Sent): Record<string, number> {
  const sums: Record<string, number> = {};
  for (const name of counters) sums[name] = sent;
  for (const name of ANSWERED) sums[name] = (sums[name] ?? 0) + probes;
  return sums;
}

/** Sum of the counters whose names match. */
function sum(counters: Readonly<Record<string, number>>, names: RegExp): number {
  return Object.entries(counters).filter(([name]) => names.test(name))
    .reduce((total, [, by]) => total + by, 0);
}

labTest("every class of frames moves its counter and nothing else", async (lab, t) => {
  const { appliance, frames } = await wired(lab);
  assert.deepEqual([...frames.names].sort(), [...Object.keys(EXPECTED), ANYTHING].sort());
  // Each class continues from the last one's counters: what moves late is seen as well.
  let last = await appliance.counters();
  for (const [name, counters] of Object.entries(EXPECTED)) {
    await t.step(name, async () => {
      const sent = await frames.send(name);
      assert.deepEqual(sent.mistakes, []);
      const isAnswered = counters.includes("tx_frames");
      assert.equal(sent.wanted, isAnswered ? sent.sent : 0);
      const expected = expectation(counters, sent);
      let now: Counters = new Map();
      await eventually("the counters", async () => {
        now = await appliance.counters();
        const done = Object.entries(expected).every(([each, by]) => growth(last, now, each) >= by);
        return done ? true : undefined;
      }).catch(() => {});
      const found = moved(last, now);
      last = now;
      assert.deepEqual(found, expected);
    });
  }
});

labTest(
  "of mutated frames none gets lost, each answer is right, and the good one after them is answered",
  async (lab) => {
    const { appliance, frames } = await wired(lab);
    const before = await appliance.counters();
    const { sent, probes, answers, mistakes } = await frames.send(ANYTHING);
    assert.deepEqual(mistakes, []);
    assert.ok(answers > 100, `${answers} of ${sent} answered`);
    assert.ok(sent > 1500);
    let found: Record<string, number> = {};
    await eventually("the counters to balance", async () => {
      found = moved(before, await appliance.counters());
      const balanced = sum(found, /^rx_(frames|socket)$/) === sum(found, /^rx_(delivered|drop)/) &&
        found.tx_accepted === sum(found, /^tx_(drop|frames|socket)/);
      return balanced ? true : undefined;
    }).catch(() => {});
    assert.equal(sum(found, /^rx_(frames|socket)$/), sum(found, /^rx_(delivered|drop)/));
    assert.equal(found.tx_frames, answers + probes, "every frame that left was looked at");
    // Held ones are neither yet.
    const waiting = found.tx_accepted - sum(found, /^tx_(drop|frames|socket)/);
    assert.ok(waiting >= 0 && waiting <= (found.tx_queued ?? 0), JSON.stringify(found));
  },
);
