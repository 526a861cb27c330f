// SPDX-License-Identifier: Apache-2.0
/**
 * Kinds of interface that an operator may name, and ways through several of them at once: each works,
 * or is left to the kernel with the reason said. After each of them what apps sent is what was sent or
 * dropped.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import type { Finding } from "../../../cli/check.ts";
import { selfCommand } from "../../../cli/command.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  CLIENT,
  Client,
  eventually,
  growth,
  HOST,
  introduce,
  type Lab,
  labTest,
  type Namespace,
  type Pair,
  pair,
  refusal,
  secondLink,
  xdpProgram,
} from "../lab.ts";
import { assertBalanced } from "../wire_balance.ts";

const ECHO = ["--listen", "7=echo"];

/** How long an answer is waited for until it is known that the links are up. */
const LINK_MILLIS = 5000;

/**
 * Three answers, as from the appliance that has the address. The kernel brings up links in its own time,
 * and loses what is sent until then, and the ARP requests: the first is asked for again. What the appliance
 * has received shows in its counters.
 */
async function assertAnswers(asker: Client, { source = CLIENT, target = HOST } = {}) {
  for (let attempt = 0; attempt < 3; attempt++) {
    const { text } = await ask(asker, { source, target, timeoutMs: LINK_MILLIS });
    if (text !== null) break;
  }
  for (let i = 0; i < 2; i++) {
    const { text, from } = await ask(asker, { source, target });
    assert.deepEqual({ text, from }, { text: "hello", from: `${target}:7` });
  }
}

/** Moves the host's address from eth0 to another interface, which it brings up. */
async function moveAddress(host: Namespace, name: string): Promise<void> {
  await host.batch([
    "address flush dev eth0",
    `address add ${HOST}/24 dev ${name}`,
    `link set ${name} up`,
  ]);
}

labTest("a macvlan works, in generic mode, if only it is asked for by ARP", async (lab) => {
  const { host, asker } = await pair(lab);
  await host.sysctl({ "conf/eth0/arp_ignore": 1 });
  await host.ip("link add link eth0 name mac0 type macvlan mode bridge");
  await moveAddress(host, "mac0");
  const appliance = await Appliance.start(host, ["--interface", "mac0", ...ECHO]);
  assert.equal(await appliance.mode("mac0"), "xdp generic copy");
  await assertAnswers(asker);
  const counters = await assertBalanced(appliance);
  assert.deepEqual([counters.get("rx_frames"), counters.get("tx_frames")], [3, 3]);
});

labTest("a bridge works, for who is on any of its ports", async (lab) => {
  const { host, asker } = await pair(lab);
  const other = await lab.namespace("other");
  await lab.join(
    { namespace: host, name: "eth1" },
    { namespace: other, name: "eth0", addresses: ["198.18.0.3/24"] },
  );
  await host.batch([
    "link add br0 type bridge",
    "link set eth0 master br0",
    "link set eth1 master br0",
  ]);
  await moveAddress(host, "br0");
  const appliance = await Appliance.start(host, ["--interface", "br0", ...ECHO]);
  await assertAnswers(asker);
  await assertAnswers(new Client(other), { source: "198.18.0.3" });
  const counters = await assertBalanced(appliance);
  assert.deepEqual([counters.get("rx_frames"), counters.get("tx_frames")], [6, 6]);
});

labTest("a bridge's port waits for an address of its own, and says so", async (lab) => {
  const { host, asker } = await pair(lab);
  await host.ip("link add br0 type bridge");
  await host.ip("link set eth0 master br0");
  await moveAddress(host, "br0");
  const appliance = Appliance.launch(host, ["--interface", "eth0", ...ECHO]);
  await appliance.process.stderr.find("eth0: waiting, it has no IPv4 address");
  await host.ip("address add 198.18.0.7/32 dev eth0");
  await appliance.ready();
  // Frames come in by the port, whose MAC address the bridge has; answers leave by the bridge.
  await assertAnswers(asker);
  const counters = await assertBalanced(appliance);
  assert.deepEqual([counters.get("rx_frames"), counters.get("tx_socket")], [3, 3]);
});

/** Makes the host's eth0 again, without an address on its side. */
async function makeAgain(lab: Lab, { host, client }: Pair): Promise<void> {
  await lab.join(
    { namespace: host, name: "eth0" },
    { namespace: client, name: "eth0", addresses: [`${CLIENT}/24`] },
  );
}

labTest(
  "an interface that is deleted is missed, and made again served by AF_XDP again",
  async (lab) => {
    const parts = await pair(lab);
    const { host, asker } = parts;
    const metrics = ["--metrics", "127.0.0.1:9464"];
    const appliance = await Appliance.start(host, ["--interface", "eth0", ...ECHO, ...metrics]);
    const { stderr } = appliance.process;
    await assertAnswers(asker);
    const lost = async () => {
      const command = [...selfCommand(), "check", "-j", "--interface", "eth0"].join(" ");
      const findings: Finding[] = JSON.parse(await host.run(["sh", "-c", `${command}; true`]));
      return findings.filter(({ says }) => says.includes("has lost AF_XDP here"));
    };
    const program = 'console.log(await (await fetch("http://127.0.0.1:9464/metrics")).text())';
    const gauge = async () => {
      const text = await host.run([Deno.execPath(), "eval", program]);
      return /^tegula_interface_xdp\{interface="eth0"\} (.)$/m.exec(text)?.[1];
    };
    assert.equal(await gauge(), "1");
    assert.deepEqual(await lost(), []);
    await host.ip("link delete eth0");
    await stderr.find("eth0: it was deleted, and AF_XDP with it; ");
    await eventually("the metric", async () => await gauge() === "0" ? true : undefined);
    // Without it there is something to be reloaded all the same, and the next one finds it again.
    appliance.process.kill("SIGHUP");
    await stderr.find("reloaded: answering 7=echo; the kernel's sockets serve");

    const from = stderr.all.length;
    await makeAgain(lab, parts);
    await stderr.find("eth0: recreated; AF_XDP is opened again", { from });
    await eventually("the metric again", async () => await gauge() === "1" ? true : undefined);
    // Its address may come at any time.
    await host.ip(`address add ${HOST}/24 dev eth0`);
    await askUntilAnswered(asker);
    const before = await assertBalanced(appliance);
    await assertAnswers(asker);
    const counters = await assertBalanced(appliance);
    assert.equal(growth(before, counters, "rx_frames"), 3);
    assert.equal(growth(before, counters, "tx_frames"), 3);
    assert.deepEqual(await lost(), []);
  },
);

/** Of a thousand requests a second, how many may be lost where the shape of what is served changes. */
const MOST_LOST = 5;

labTest("while one interface is deleted and made again another goes on", async (lab) => {
  const parts = await pair(lab);
  const { host, asker } = parts;
  await introduce(parts);
  const other = await lab.namespace("other");
  const ends = [
    { namespace: host, name: "eth1", addresses: ["192.0.2.1/24"] },
    { namespace: other, name: "eth0", addresses: ["192.0.2.2/24"] },
  ] as const;
  await lab.join(...ends);
  const appliance = await Appliance.start(host, [
    ...["--interface", "eth0", "--interface", "eth1", ...ECHO],
  ]);
  const { stderr } = appliance.process;
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 1000 });
  await answeredAtLeast(asker, 100);
  await host.ip("link delete eth1");
  await stderr.find("eth1: it was deleted, and AF_XDP with it; ");
  // What starts anew meanwhile leaves it out, and finds it afterwards.
  appliance.process.kill("SIGHUP");
  await stderr.find("reloaded: answering 7=echo; AF_XDP was opened again");
  await lab.join(...ends);
  await stderr.find("eth1: recreated; AF_XDP is opened again");
  const outsider = new Client(other);
  const question = { source: "192.0.2.2", target: "192.0.2.1" };
  await eventually("its frames to come by AF_XDP", async () => {
    const program = await xdpProgram(host, "eth1");
    return program === undefined ? undefined : true;
  });
  await askUntilAnswered(outsider, question);
  const { sent, answered, mismatched } = await asker.stop();
  assert.equal(mismatched, 0);
  assert.ok(sent - answered <= MOST_LOST, `lost ${sent - answered} of ${sent}`);
  const after = await assertBalanced(appliance);
  await assertAnswers(outsider, question);
  await assertAnswers(asker);
  assert.equal(growth(after, await assertBalanced(appliance), "rx_frames"), 6);
});

labTest("a tun device is left to the kernel's sockets, which are answered", async (lab) => {
  const { host, asker } = await pair(lab);
  await host.batch([
    "tuntap add tun0 mode tun",
    "address add 192.0.2.1/24 dev tun0",
    "link set tun0 up",
  ]);
  const interfaces = ["--interface", "tun0", "--interface", "eth0"];
  const strict = Appliance.launch(host, [...interfaces, ...ECHO, "--provider", "xdp"]);
  const { code, said } = await refusal(strict.process);
  assert.equal(code, 6);
  assert.match(said, /tun0.*no Ethernet header.*--provider socket/);
  const appliance = await Appliance.start(host, [...interfaces, ...ECHO]);
  assert.equal(await appliance.mode("tun0"), "kernel sockets");
  assert.match(await appliance.mode("eth0"), /^xdp/);
  const farEnd = fileURLToPath(new URL("./device_tun.py", import.meta.url));
  const answer = await host.run(
    ["/usr/bin/python3", farEnd, ..."tun0 192.0.2.2 192.0.2.1 7 through".split(" ")],
  );
  assert.equal(answer, "through\n");
  await assertAnswers(asker);
  const counters = await assertBalanced(appliance);
  assert.equal(counters.get("tx_frames"), 3);
});

labTest("loopback works, its own addresses and the host's, from both", async (lab) => {
  const { host, asker } = await pair(lab);
  const appliance = await Appliance.start(host, ["--interface", "lo", ...ECHO]);
  assert.equal(await appliance.mode("lo"), "xdp generic copy");
  const local = new Client(host);
  for (const source of ["127.0.0.1", HOST]) await assertAnswers(local, { source });
  await assertAnswers(local, { source: "127.0.0.1", target: "127.0.0.1" });
  await assertAnswers(asker);
  const counters = await assertBalanced(appliance);
  assert.deepEqual([counters.get("rx_frames"), counters.get("tx_socket")], [6, 12]);
});

const SHAPES = [[1, 1, 2], [2, 2, 4], [4, 4, 3], [4, 1, 1], [4, 2, 3]];
for (const [queues, transmitQueues, netTiles] of SHAPES) {
  const shape = `${queues} queues, ${transmitQueues} to send by, and ${netTiles} net tiles`;
  labTest(`${shape} answer every flow`, async (lab) => {
    const { host, client, asker } = await pair(lab, { queues, transmitQueues });
    await introduce({ host, client });
    const appliance = await Appliance.start(host, [
      ...["--interface", "eth0", ...ECHO, "--net-tiles", `${netTiles}`],
    ]);
    const flows = Array.from({ length: 64 }, () => ({ source: CLIENT, target: HOST, port: 7 }));
    await asker.start({ flows, rate: 1000 });
    await answeredAtLeast(asker, 300);
    const { sent, answered, mismatched } = await asker.stop();
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
    const counters = await assertBalanced(appliance);
    assert.equal(counters.get("rx_frames"), sent);
  });
}

labTest("several interfaces at once are all answered by AF_XDP", async (lab) => {
  const host = await lab.namespace("host");
  const numbers = [0, 1, 2];
  const askers: Client[] = [];
  for (const n of numbers) {
    const client = await lab.namespace(`client${n}`);
    await lab.join(
      { namespace: host, name: `eth${n}`, addresses: [`198.18.${n}.1/24`] },
      { namespace: client, name: "eth0", addresses: [`198.18.${n}.2/24`] },
      { queues: n + 1 },
    );
    askers.push(new Client(client));
  }
  const appliance = await Appliance.start(host, [
    ...numbers.flatMap((n) => ["--interface", `eth${n}`]),
    ...[...ECHO, "--net-tiles", "2"],
  ]);
  for (const n of numbers) {
    await assertAnswers(askers[n], { source: `198.18.${n}.2`, target: `198.18.${n}.1` });
  }
  const counters = await assertBalanced(appliance);
  assert.equal(counters.get("rx_frames"), 9);
});

labTest(
  "an answer finds its way out of another interface, with a socket there or without",
  async (lab) => {
    // Net tile 1 has the second queue of eth0 and nothing of eth1.
    const parts = await pair(lab, { queues: 2 });
    const { host, client, asker } = parts;
    await secondLink(lab, parts);
    await client.ip("address add 203.0.113.2/32 dev lo");
    await host.ip("route add 203.0.113.2/32 via 192.0.2.2");
    const appliance = await Appliance.start(host, [
      ...["--interface", "eth0", "--interface", "eth1", ...ECHO, "--net-tiles", "2"],
    ]);
    const flow = { source: "203.0.113.2", target: HOST, port: 7 };
    await asker.start({ flows: Array.from({ length: 32 }, () => flow), rate: 500 });
    await answeredAtLeast(asker, 200);
    const { sent, answered, mismatched } = await asker.stop();
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
    const counters = await assertBalanced(appliance);
    for (const name of ["tx_frames", "tx_socket"]) {
      assert.ok(counters.get(name)! > 0, `${name}: ${JSON.stringify([...counters])}`);
    }
  },
);

labTest("a VLAN device is answered through the interface below it", async (lab) => {
  const { host, client, asker } = await pair(lab);
  for (const [namespace, address] of [[host, "192.0.2.1"], [client, "192.0.2.2"]] as const) {
    await namespace.batch([
      "link add link eth0 name eth0.5 type vlan id 5",
      `address add ${address}/24 dev eth0.5`,
      "link set eth0.5 up",
    ]);
  }
  const appliance = await Appliance.start(host, ["--interface", "eth0", ...ECHO]);
  await assertAnswers(asker, { source: "192.0.2.2", target: "192.0.2.1" });
  const counters = await assertBalanced(appliance);
  assert.deepEqual([counters.get("rx_frames"), counters.get("tx_frames")], [3, 3]);
}, { needs: "vlan" });

labTest(
  "where libxdp can have no dispatcher that is said, and nothing is attached alone",
  async (lab) => {
    const { host, asker } = await pair(lab);
    // `ip netns exec` covers /sys, so that there is no bpffs on any kernel.
    const args = ["--interface", "eth0", ...ECHO, "--dispatcher"];
    const strict = await refusal(Appliance.launch(host, [...args, "--provider", "xdp"]).process);
    assert.equal(strict.code, 6);
    assert.match(strict.said, /eth0.*no dispatcher of libxdp.*BPF_PROG_TYPE_EXT/);
    assert.equal(await xdpProgram(host), undefined);

    const appliance = await Appliance.start(host, args);
    assert.equal(await appliance.mode("eth0"), "kernel sockets");
    await assertAnswers(asker);
    assert.equal(await xdpProgram(host), undefined);
  },
);
