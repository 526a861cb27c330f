// SPDX-License-Identifier: Apache-2.0
/**
 * The real program from outside: what it answers, in which mode, and how it starts and stops.
 */

import { strict as assert } from "node:assert";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  assertGrowth,
  assertStopsPromptly,
  CLIENT,
  ECHO,
  eventually,
  HOST,
  introduce,
  labTest,
  noise,
  pair,
  SILENCE_MILLIS,
  xdpProgram,
} from "../lab.ts";

/** Payload sizes around the edges of headers, words and the MTU. */
const SIZES = [0, 1, 2, 3, 17, 18, 19, 63, 64, 255, 1000, 1471, 1472];

labTest("run answers every size through AF_XDP, byte by byte", async (lab) => {
  const { host, asker } = await pair(lab);
  const appliance = await Appliance.start(host, ECHO);
  assert.match(await appliance.mode("eth0"), /^xdp (native|generic|zero-copy)/);
  await appliance.process.stderr.find("attaching XDP to eth0; some drivers restart");
  const before = await appliance.counters();
  for (const size of SIZES) {
    const payload = noise(size);
    const { bytes, from } = await ask(asker, { payload });
    assert.deepEqual(bytes, payload, `${size} bytes`);
    assert.equal(from, `${HOST}:7`);
  }
  const each = SIZES.length;
  await assertGrowth(appliance, before, { rx_frames: each, tx_frames: each, rx_socket: 0 });
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  labTest(`${signal} ends run with status 0 within a second and detaches`, async (lab) => {
    const { host, asker } = await pair(lab);
    const start = async () => {
      const appliance = await Appliance.start(host, ECHO);
      await ask(asker);
      assert.notEqual(await xdpProgram(host), undefined, "no program was attached");
      return appliance;
    };
    const after = async () => assert.equal(await xdpProgram(host), undefined);
    await assertStopsPromptly(start, { signal, after });
    // Port and interface are free again.
    const again = await Appliance.start(host, ECHO);
    assert.equal((await ask(asker)).text, "hello");
    await again.stop();
  });
}

labTest("run stops within a second in the middle of traffic", async (lab) => {
  const { host, asker } = await pair(lab);
  const start = async () => {
    const appliance = await Appliance.start(host, ECHO);
    await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 2000 });
    await answeredAtLeast(asker, 500);
    return appliance;
  };
  const after = async () => {
    const { answered, mismatched } = await asker.stop({ lingerMillis: 0 });
    assert.ok(answered > 0);
    assert.equal(mismatched, 0);
  };
  await assertStopsPromptly(start, { after });
});

labTest("run serves addresses that are added later, and no longer those deleted", async (lab) => {
  const { host, asker } = await pair(lab);
  const appliance = await Appliance.start(host, ECHO);
  const later = { target: "198.18.0.77" };
  assert.equal((await ask(asker, { ...later, timeoutMs: SILENCE_MILLIS })).bytes, null);
  await host.ip("address add 198.18.0.77/24 dev eth0");
  assert.equal((await askUntilAnswered(asker, later)).from, "198.18.0.77:7");
  const before = await appliance.counters();
  for (let i = 0; i < 3; i++) assert.equal((await ask(asker, later)).text, "hello");
  await assertGrowth(appliance, before, { rx_frames: 3 });
  await host.ip("address del 198.18.0.77/24 dev eth0");
  await eventually("silence", async () => {
    const { bytes } = await ask(asker, { ...later, timeoutMs: SILENCE_MILLIS });
    return bytes === null ? true : undefined;
  });
  assert.equal((await ask(asker)).text, "hello");
});

labTest("time tells the seconds since 1900, discard says nothing", async (lab) => {
  const { host, asker } = await pair(lab);
  const listen = ["--listen", "9=discard", "--listen", "37=time"];
  await Appliance.start(host, ["--interface", "eth0", ...listen]);
  const before = Date.now() / 1000;
  const { bytes } = await ask(asker, { port: 37, payload: "" });
  const after = Date.now() / 1000;
  assert.equal(bytes?.length, 4);
  // RFC 868: 2,208,988,800 seconds lie between 1900 and 1970.
  const seconds = new DataView(bytes!.buffer).getUint32(0) - 2_208_988_800;
  assert.ok(before - 2 < seconds && seconds < after + 2, `${before} < ${seconds} < ${after}`);
  assert.equal((await ask(asker, { port: 9, timeoutMs: SILENCE_MILLIS })).bytes, null);
});

labTest("echo and time never answer to a port that is served", async (lab) => {
  const { host, asker } = await pair(lab);
  await Appliance.start(host, [...ECHO, "--listen", "37=time", "--listen", "9=discard"]);
  for (const port of [7, 37]) {
    for (const sourcePort of [7, 9, 37]) {
      const { bytes } = await ask(asker, { port, sourcePort, timeoutMs: SILENCE_MILLIS });
      assert.equal(bytes, null, `from port ${sourcePort} to ${port}`);
    }
    assert.notEqual((await ask(asker, { port, sourcePort: 3007 })).bytes, null);
  }
});

labTest("run answers by the kernel's sockets alone when asked to", async (lab) => {
  const { host, asker } = await pair(lab);
  await assertStopsPromptly(async () => {
    const appliance = await Appliance.start(host, [...ECHO, "--provider", "socket"]);
    assert.match(await appliance.mode("eth0"), /socket/);
    assert.equal(await xdpProgram(host), undefined);
    for (const size of SIZES) {
      const payload = noise(size);
      assert.deepEqual((await ask(asker, { payload })).bytes, payload, `${size} bytes`);
    }
    return appliance;
  });
});

for (const netTiles of [1, 2]) {
  labTest(`run with ${netTiles} net tiles takes four queues, every flow answered`, async (lab) => {
    const { host, client, asker } = await pair(lab, { queues: 4 });
    await introduce({ host, client });
    const appliance = await Appliance.start(host, [...ECHO, "--net-tiles", `${netTiles}`]);
    assert.match(await appliance.mode("eth0"), /^xdp/);
    const flows = Array.from({ length: 64 }, () => ({ source: CLIENT, target: HOST, port: 7 }));
    const before = await appliance.counters();
    await asker.start({ flows, rate: 1000 });
    await answeredAtLeast(asker, 500);
    const { sent, answered, mismatched } = await asker.stop();
    assert.ok(sent > 64, `${sent} sent`);
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
    await assertGrowth(appliance, before, { rx_frames: sent, tx_frames: sent });
  });
}

labTest(
  "of a UMEM the frames alone are locked; its large buffers take memory when they are used",
  async (lab) => {
    const { host } = await pair(lab);
    const appliance = await Appliance.start(host, ECHO);
    const maps = Deno.readTextFileSync(`/proc/${appliance.process.pid}/smaps`);
    const its = maps.matchAll(/memfd:tegula umem net0[^]*?^Size: +(\d+) kB[^]*?^Rss: +(\d+) kB/gm);
    const untouched = [...its].map(([, size, resident]) => Number(size) - Number(resident));
    assert.equal(Math.min(...untouched), 64 * 64);
  },
);
