// SPDX-License-Identifier: Apache-2.0
/**
 * What is not for Tegula stays the kernel's, on the very interface that it holds; and what only the
 * kernel can receive of ours is answered all the same.
 */

import { strict as assert } from "node:assert";
import {
  Appliance,
  ask,
  askUntilAnswered,
  assertGrowth,
  CLIENT,
  Client,
  ECHO,
  eventually,
  HOST,
  type Lab,
  labTest,
  noise,
  type Pair,
  pair,
  peer,
  peerCommand,
  secondLink,
  SILENCE_MILLIS,
} from "../lab.ts";

/** The interface held by AF_XDP, for otherwise nothing here would show anything. */
async function holding(lab: Lab): Promise<
  Pair & { appliance: Appliance }
> {
  const parts = await pair(lab);
  const appliance = await Appliance.start(parts.host, [...ECHO, "--provider", "xdp"]);
  return { ...parts, appliance };
}

labTest("another program's UDP port on the interface keeps answering", async (lab) => {
  const { host, asker } = await holding(lab);
  await peer(host, "udp", HOST, "4242", "theirs");
  assert.equal((await ask(asker, { port: 4242 })).text, "theirs");
  assert.equal((await ask(asker)).text, "hello");
});

labTest("a TCP session through the interface keeps working, our port's number too", async (lab) => {
  const { host, client } = await holding(lab);
  for (const port of ["4242", "7"]) {
    await peer(host, "tcp", HOST, port);
    const said = await client.run(peerCommand(["tcp-ask", HOST, port, "1000000"]));
    assert.match(said, /all bytes came back/);
  }
});

labTest("ping keeps working, in fragments too", async (lab) => {
  const { client } = await holding(lab);
  for (const size of ["56", "3000"]) {
    const said = await client.run(
      ["ping", ..."-c 3 -i 0.05 -W 20 -s".split(" "), size, HOST],
    );
    assert.match(said, / 0% packet loss/);
  }
});

labTest("IPv6 keeps working", async (lab) => {
  const { host, client } = await holding(lab);
  await host.ip("address add 2001:db8::1/64 dev eth0 nodad");
  await client.ip("address add 2001:db8::2/64 dev eth0 nodad");
  const said = await client.run(["ping", ..."-6 -c 3 -i 0.05 -W 20 2001:db8::1".split(" ")]);
  assert.match(said, / 0% packet loss/);
  await peer(host, "tcp", "2001:db8::1", "7");
  await client.run(peerCommand(["tcp-ask", "2001:db8::1", "7", "100000"]));
});

labTest("a forwarding host forwards, what goes to our port elsewhere too", async (lab) => {
  const { host, client, asker, appliance } = await holding(lab);
  const server = await lab.namespace("server");
  await lab.join(
    { namespace: host, name: "eth1", addresses: ["192.0.2.1/24"] },
    { namespace: server, name: "eth0", addresses: ["192.0.2.2/24"] },
  );
  await host.sysctl({ ip_forward: 1 });
  await server.ip("route add default via 192.0.2.1");
  await client.ip(`route add 192.0.2.0/24 via ${HOST}`);
  const before = await appliance.counters();
  for (const port of ["7", "4242"]) {
    await peer(server, "udp", "192.0.2.2", port, "server");
    const { text, from } = await ask(asker, { target: "192.0.2.2", port: Number(port) });
    assert.deepEqual({ text, from }, { text: "server", from: `192.0.2.2:${port}` });
  }
  await assertGrowth(appliance, before, { rx_delivered: 0 });
});

labTest("a frame for a macvlan on the interface is the container's", async (lab) => {
  const { host, asker } = await holding(lab);
  const container = await lab.namespace("container");
  await host.ip("link add link eth0 name mac0 type macvlan mode bridge");
  await host.ip("link set mac0 netns container");
  await container.ip("address add 198.18.0.9/24 dev mac0");
  await container.ip("link set mac0 up");
  await peer(container, "udp", "198.18.0.9", "7", "container");
  assert.equal((await askUntilAnswered(asker, { target: "198.18.0.9" })).text, "container");
}, { needs: "macvlan" });

labTest("our own address under another MAC is not answered", async (lab) => {
  const { client, asker, appliance } = await holding(lab);
  assert.equal((await ask(asker)).text, "hello");
  await client.ip(`neigh replace ${HOST} lladdr 02:00:00:00:00:99 dev eth0 nud permanent`);
  const before = await appliance.counters();
  assert.equal((await ask(asker, { timeoutMs: SILENCE_MILLIS })).bytes, null);
  await assertGrowth(appliance, before, { rx_frames: 0, rx_socket: 0 });
});

labTest(
  "loopback, the host's own address, fragments and other interfaces are answered",
  async (lab, t) => {
    const { host, asker, appliance } = await holding(lab);
    const local = new Client(host);
    await t.step("loopback", async () => {
      const { text, from } = await ask(local, { source: "127.0.0.1", target: "127.0.0.1" });
      assert.deepEqual({ text, from }, { text: "hello", from: "127.0.0.1:7" });
    });
    await t.step("the host's own address, from itself", async () => {
      for (const source of [HOST, "127.0.0.1"]) {
        const { text, from } = await ask(local, { source });
        assert.deepEqual({ text, from }, { text: "hello", from: `${HOST}:7` });
      }
    });
    await t.step("reassembled fragments", async () => {
      for (const size of [1473, 3000, 20_000, 65_507]) {
        const payload = noise(size);
        const { bytes, from } = await ask(asker, { payload });
        assert.deepEqual(bytes, payload, `${size} bytes`);
        assert.equal(from, `${HOST}:7`);
      }
    });
    await t.step("an interface that is not held", async () => {
      const other = await lab.namespace("other");
      await lab.join(
        { namespace: host, name: "eth1", addresses: ["192.0.2.1/24"] },
        { namespace: other, name: "eth0", addresses: ["192.0.2.2/24"] },
      );
      const outsider = new Client(other);
      // Until the interface is mirrored there is no way back.
      const question = { source: "192.0.2.2", target: "192.0.2.1" };
      const { text, from } = await askUntilAnswered(outsider, question);
      assert.deepEqual({ text, from }, { text: "hello", from: "192.0.2.1:7" });
    });
    const counters = await appliance.counters();
    assert.ok((counters.get("rx_socket") ?? 0) >= 8, "the kernel's socket received nothing");
  },
);

labTest(
  "an answer leaves by the route, whichever interface the request came in on",
  async (lab) => {
    const parts = await pair(lab);
    const { host, client, asker } = parts;
    await secondLink(lab, parts);
    await client.ip("address add 203.0.113.2/32 dev lo");
    await host.ip("route add 203.0.113.2/32 via 192.0.2.2");
    const source = "203.0.113.2";
    for (const more of [[], ["--interface", "eth1"]]) {
      const appliance = await Appliance.start(host, [...ECHO, ...more]);
      const before = await appliance.counters();
      const { text, from } = await ask(asker, { source });
      assert.deepEqual({ text, from }, { text: "hello", from: `${HOST}:7` });
      const ways = ["tx_socket", "tx_frames"];
      const [way, other] = more.length === 0 ? ways : ways.reverse();
      await assertGrowth(appliance, before, { [way]: 1, [other]: 0 });
      assert.equal((await ask(asker, { source: CLIENT })).text, "hello");
      await appliance.stop();
    }
  },
);

labTest(
  "a path's smaller MTU reaches the kernel, which tells it when asked, and is not followed",
  async (lab) => {
    const [host, router] = [await lab.namespace("host"), await lab.namespace("router")];
    const far = await lab.namespace("far");
    await lab.join(
      { namespace: host, name: "eth0", addresses: [`${HOST}/24`] },
      { namespace: router, name: "eth0", addresses: ["198.18.0.254/24"] },
    );
    await lab.join(
      { namespace: router, name: "eth1", addresses: ["203.0.113.1/24"] },
      { namespace: far, name: "eth0", addresses: ["203.0.113.2/24"] },
    );
    await router.sysctl({ ip_forward: 1 });
    await router.ip("link set eth1 mtu 1000");
    await far.ip("link set eth0 mtu 1000");
    await far.ip("route add default via 203.0.113.1");
    await host.ip("route add default via 198.18.0.254");
    await Appliance.start(host, [...ECHO, "--provider", "xdp"]);
    const asker = new Client(far);
    const asked = { source: "203.0.113.2", payload: noise(1200) };
    const told = async () =>
      /\bmtu (\d+)/.exec(await host.ip("route get 203.0.113.2 from 198.18.0.1"))?.[1];
    assert.equal((await askUntilAnswered(asker, { source: asked.source })).text, "hello");
    assert.equal(await told(), undefined);

    const events = host.spawn(["ip", "-4", "monitor", "route"]);
    let metric = 1;
    await eventually("the first event", async () => {
      await host.ip(`route add 192.0.2.0/24 via 198.18.0.254 metric ${metric++}`);
      return events.stdout.all.length > 0 ? true : undefined;
    });
    for (let i = 0; i < 2; i++) {
      assert.equal((await ask(asker, { ...asked, timeoutMs: SILENCE_MILLIS })).bytes, null);
      await eventually("the router's word", async () => await told() === "1000" || undefined);
    }
    // What the route itself says is followed, and is the first thing that an event told.
    await host.ip("route add 203.0.113.2 via 198.18.0.254 mtu 1000");
    assert.deepEqual((await askUntilAnswered(asker, asked)).bytes, asked.payload);
    await events.stdout.find("203.0.113.2");
    assert.deepEqual(
      events.stdout.all.filter((line) => !line.startsWith("192.0.2.0/24 ")).map((line) =>
        line.trim()
      ),
      ["203.0.113.2 via 198.18.0.254 dev eth0 mtu 1000"],
    );
  },
);
