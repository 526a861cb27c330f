// SPDX-License-Identifier: Apache-2.0
/**
 * Kinds of interface that the kernel at hand may lack, named by the operator: each works, or is left
 * to the kernel's sockets with the reason said. What an appliance takes to start is its time here, so
 * there is one for all of them.
 */

import { strict as assert } from "node:assert";
import {
  answered,
  Appliance,
  assertBalanced,
  divergent,
  ends,
  eventually,
  labTest,
  type Namespace,
  refusal,
  serve,
} from "./machine.ts";

/** Each end's devices, by the third number of their addresses. */
const NETS = { gre1: 1, tap1: 2, bond0: 3, vx1: 5, tagged: 6 };

/** What an end has besides eth0. */
function devices(end: number): string[] {
  const tunnel = `local 198.18.0.${end} remote 198.18.0.${3 - end}`;
  return [
    `link add gre1 type gre ${tunnel}`,
    `link add tap1 type gretap ${tunnel} key 3`,
    "link add bond0 type bond mode active-backup miimon 20",
    "link set port0 master bond0",
    "link set port1 master bond0",
    // Else each end may have another one.
    "link set bond0 type bond primary port0",
    "link add link eth0 name tagged type vlan id 5",
    `link add vx1 type vxlan id 6 ${tunnel} dstport 4789`,
    ...Object.entries(NETS).flatMap(([name, net]) => [
      `address add 198.18.${net}.${end}/24 dev ${name}`,
      `link set ${name} up`,
    ]),
  ];
}

/** What the counters say came and went since the last time, and how: AF_XDP, or kernel sockets. */
class Ways {
  readonly #appliance: Appliance;
  #last = [0, 0, 0, 0];

  constructor(appliance: Appliance) {
    this.#appliance = appliance;
  }

  async next(): Promise<string> {
    const counters = await assertBalanced(this.#appliance);
    const now = ["rx_frames", "rx_socket", "tx_frames", "tx_socket"].map((each) =>
      counters.get(each)!
    );
    const [framesIn, socketIn, framesOut, socketOut] = now.map((each, i) => each - this.#last[i]);
    this.#last = now;
    return `in ${framesIn} + ${socketIn}, out ${framesOut} + ${socketOut}`;
  }
}

async function build(host: Namespace, client: Namespace): Promise<void> {
  await host.batch([...devices(1), "link add dummy0 type dummy", "link set dummy0 up"]);
  await host.ip("address add 198.18.4.1/32 dev dummy0");
  await client.batch([...devices(2), "route add 198.18.4.1/32 via 198.18.0.1"]);
}

/** Waits until a port is the one that bond0 uses. */
async function becomesActive(end: Namespace, port: string): Promise<void> {
  const file = "/sys/class/net/bond0/bonding/active_slave";
  await eventually(`${port} of ${end.name}`, async () => {
    return (await end.run(["cat", file])).trim() === port ? true : undefined;
  }, { timeoutMs: 30_000 });
}

labTest(
  "bonds, dummies, tunnels and VLAN devices work, or are left to the kernel and it is said why",
  async (lab) => {
    const { host, client } = await ends(lab);
    await lab.join(
      { namespace: host, name: "eth0", addresses: ["198.18.0.1/24"] },
      { namespace: client, name: "eth0", addresses: ["198.18.0.2/24"] },
    );
    for (const name of ["port0", "port1"]) {
      await host.ip(`link add ${name} type veth peer name ${name} netns ${client.name}`);
    }
    await build(host, client);
    const strict = ["--interface", "gre1", "--listen", "7=echo", "--provider", "xdp"];
    const { code, said } = await refusal(Appliance.launch(host, strict).process);
    assert.equal(code, 6);
    assert.match(said, /gre1.*no Ethernet header.*--provider socket/);

    const appliance = await serve(host, [...Object.keys(NETS), "dummy0"]);
    const line = (name: string) => appliance.process.stderr.find(`${name}: `);
    const ways = new Ways(appliance);
    const ask = (name: keyof typeof NETS) =>
      answered(client, {
        source: `198.18.${NETS[name]}.2`,
        target: `198.18.${NETS[name]}.1`,
      });

    assert.match(await line("gre1"), /kernel sockets \(its packets have no Ethernet header\)/);
    assert.equal(await ask("gre1"), 3);
    assert.equal(await ways.next(), "in 0 + 3, out 0 + 3");

    assert.match(await line("tap1"), /kernel sockets \(the tunnel drops what AF_XDP sends\)/);
    assert.equal(await ask("tap1"), 3);
    assert.equal(await ways.next(), "in 0 + 3, out 0 + 3");

    assert.match(await line("bond0"), /xdp generic copy.*a bond are its ports'/);
    for (
      const [changed, active] of [["port1 up", "port0"], ["port0 down", "port1"], [
        "port0 up",
        "port0",
      ]]
    ) {
      await host.ip(`link set ${changed}`);
      for (const end of [host, client]) await becomesActive(end, active);
      assert.equal(await ask("bond0"), 3, changed);
      assert.equal(await ways.next(), "in 3 + 0, out 3 + 0", changed);
    }

    // Nothing ever comes in by it: its address is reached by others, here one that is not ours to take.
    assert.match(await line("dummy0"), /xdp generic copy/);
    assert.equal(await answered(client, { source: "198.18.0.2", target: "198.18.4.1" }), 3);
    assert.equal(await ways.next(), "in 0 + 3, out 0 + 3");

    for (const name of ["vx1", "tagged"] as const) {
      assert.match(await line(name), /xdp generic copy/);
      assert.equal(await ask(name), 3, name);
      assert.equal(await ways.next(), "in 3 + 0, out 3 + 0", name);
    }

    assert.equal(await divergent(host), 0);
    assert.equal((await appliance.stop()).code, 0);
  },
);
