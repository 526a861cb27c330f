// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula capture` at a running appliance, read by tshark: what is received, sent and dropped, with
 * the reason, and nothing of it in the way of a datagram.
 */

import { strict as assert } from "node:assert";
import { selfCommand } from "../../../cli/command.ts";
import { CaptureMode, CONTROL_BYTES, ControlReader } from "../../../tiles/runtime/control.ts";
import { configured, temporaryFile } from "../config_file.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  assertGrowth,
  CLIENT,
  Client,
  eventually,
  HOST,
  type Lab,
  labTest,
  type Namespace,
  type Pair,
  pair,
  refusal,
  SILENCE_MILLIS,
  socketPath,
} from "../lab.ts";
import { readRegion } from "./process_regions.ts";
import { applianceOf } from "../processes.ts";
import { assertBalanced } from "../wire_balance.ts";

/** Directions as tshark gives them. */
const [IN, OUT] = ["0x00000001", "0x00000002"];

/** An appliance with two apps, and a folder for its control socket and what is captured. */
interface Scene extends Pair {
  readonly appliance: Appliance;
  readonly folder: string;
  /** The option that names its control socket. */
  readonly control: readonly string[];
  /** Starts `tegula capture ARGS…` and waits until it captures. */
  capture(...args: string[]): Promise<ReturnType<Namespace["spawn"]>>;
}

async function scene(lab: Lab, echo = "echo"): Promise<Scene> {
  const parts = await pair(lab);
  const folder = Deno.makeTempDirSync({ prefix: "tegula-test-" });
  const control = ["--control", `${folder}/control.sock`];
  const appliance = await Appliance.start(parts.host, [
    ...["--interface", "eth0", "--listen", `7=${echo}`, "--listen", "37=time", ...control],
  ]);
  await askUntilAnswered(parts.asker);
  return {
    ...parts,
    appliance,
    folder,
    control,
    async capture(...args) {
      const process = parts.host.spawn([...selfCommand(), "capture", ...args, ...control]);
      await process.stderr.find("capturing");
      return process;
    },
  };
}

/** What net tiles are told to show. */
function captureMode(appliance: Appliance): number {
  const pid = applianceOf(appliance.process.pid);
  return new ControlReader(readRegion(pid, "control", CONTROL_BYTES)).captureMode;
}

/** What tshark makes of a file: the fields of each packet. */
async function dissect(
  namespace: Namespace,
  file: string,
  fields: readonly string[],
): Promise<string[][]> {
  const wanted = fields.flatMap((field) => ["-e", field]);
  const checks = ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"];
  const options = ["-n", ...checks, "-T", "fields", "-E", "separator=|"];
  const said = await namespace.run(["tshark", "-r", file, ...options, ...wanted]);
  return said.trimEnd().split("\n").map((line) => line.split("|"));
}

for (const echo of ["echo", "echo@inline"]) {
  labTest(
    `tshark finds all that ${echo} received and sent, and nothing wrong in it`,
    async (lab) => {
      const { host, asker, folder, capture } = await scene(lab, echo);
      const file = `${folder}/all.pcapng`;
      const process = await capture("--count", "8", "-w", file);
      // By AF_XDP, and by loopback and the kernel's socket.
      for (let i = 0; i < 2; i++) assert.equal((await ask(asker)).text, "hello");
      const local = new Client(host);
      for (let i = 0; i < 2; i++) {
        assert.equal(
          (await ask(local, { source: "127.0.0.1", target: "127.0.0.1" })).text,
          "hello",
        );
      }
      await process.stderr.find("8 captured");
      assert.equal((await process.ended()).code, 0);
      const packets = await dissect(host, file, [
        ...[
          "frame.interface_name",
          "ip.src",
          "ip.dst",
          "udp.payload",
          "frame.packet_flags_direction",
        ],
        ...["ip.checksum.status", "udp.checksum.status", "_ws.malformed"],
      ]);
      const hello = new TextEncoder().encode("hello").toHex();
      // Checksums: 0 is bad, 1 good, or left to hardware as a veth's may be, 3 not there.
      const byWire = [
        ["eth0", CLIENT, HOST, hello, IN, "1", "1", ""],
        ["eth0", HOST, CLIENT, hello, OUT, "1", "1", ""],
      ];
      const byKernel = [
        ["lo", "127.0.0.1", "127.0.0.1", hello, IN, "1", "3", ""],
        ["unknown", "127.0.0.1", "127.0.0.1", hello, OUT, "1", "3", ""],
      ];
      assert.deepEqual(packets, [...byWire, ...byWire, ...byKernel, ...byKernel]);
    },
  );
}

labTest("drops alone are captured with their reason, and of one app only its own", async (lab) => {
  const { host, asker, appliance, folder, control, capture } = await scene(lab);
  const [drops, ofTime] = [`${folder}/drops.pcapng`, `${folder}/time.pcapng`];
  const both = await Promise.all([
    capture("--drops", "-w", drops),
    capture("--app", "time", "-w", ofTime),
  ]);
  const mirrored = (isBlackhole: boolean) =>
    eventually("the route to be mirrored", async () => {
      const way = await host.run([...selfCommand(), "route", "get", CLIENT, ...control]);
      return way.startsWith("blackhole") === isBlackhole ? true : undefined;
    });
  await host.ip(`route add blackhole ${CLIENT}/32`);
  await mirrored(true);
  const before = await appliance.counters();
  const silent = { timeoutMs: SILENCE_MILLIS };
  for (const port of [7, 37]) assert.equal((await ask(asker, { port, ...silent })).bytes, null);
  await assertGrowth(appliance, before, { tx_drop_blackhole: 2 });
  await host.ip(`route del ${CLIENT}/32`);
  await mirrored(false);
  assert.equal((await ask(asker, { port: 7 })).text, "hello");
  for (const process of both) {
    process.kill("SIGINT");
    assert.equal((await process.ended()).code, 0);
  }
  const fields = ["udp.srcport", "udp.dstport", "frame.comment"];
  const dropped = await dissect(host, drops, fields);
  assert.deepEqual(dropped.map(([port]) => port), ["7", "37"]);
  for (const [, , comment] of dropped) {
    assert.equal(comment, "dropped: tx_drop_blackhole (Route of type blackhole.)");
  }
  const own = await dissect(host, ofTime, fields);
  assert.deepEqual(own.map(([from, to, comment]) => [from === "37" || to === "37", comment]), [
    [true, ""],
    [true, dropped[1][2]],
  ]);
});

labTest("a datagram without a way is not said to have left by the kernel", async (lab) => {
  const { host, asker } = await pair(lab);
  const speaks = `export default ({ parseAddress }) => ({
    receive(requests, out) {
      const address = parseAddress("203.0.113.9");
      while (requests.next()) out.send({ address, port: 9 }, out.reserve(4), 4);
    },
  });`;
  const [app, control] = [temporaryFile(speaks, ".ts"), ["--control", socketPath()]];
  const apps = `[apps.speaks]\nmodule = "${app}"\nsend_to = ["203.0.113.0/24"]`;
  await Appliance.start(host, [...configured(`listen = ["7=speaks"]\n${apps}`), ...control]);
  const process = host.spawn([
    ...[...selfCommand(), "capture", "--drops", "--count", "1", ...control],
  ]);
  await process.stderr.find("capturing");
  await ask(asker, { timeoutMs: SILENCE_MILLIS });
  const line = await process.stdout.find("");
  assert.match(line, /^[\d:.]+ - out \*:7 > 203\.0\.113\.9:9 32 bytes dropped: tx_drop_no_route /);
});

labTest("without a file each frame is a line; a wrong app is refused", async (lab) => {
  const { host, asker, control, capture } = await scene(lab);
  const process = await capture("--count", "2");
  await ask(asker, { sourcePort: 4000 });
  await process.stderr.find("2 captured");
  await process.ended();
  const [request, answer] = process.stdout.all;
  assert.match(request, /^[\d:.]+ eth0 in {2}198\.18\.0\.2:4000 > 198\.18\.0\.1:7 47 bytes$/);
  assert.match(answer, /^[\d:.]+ eth0 out 198\.18\.0\.1:7 > 198\.18\.0\.2:4000 47 bytes$/);
  const refused = host.spawn([
    ...[...selfCommand(), "capture", "--app", "dns", ...control],
  ]);
  const { code, said } = await refusal(refused);
  assert.equal(code, 2);
  assert.match(said, /--app takes echo, time, not 'dns'/);
});

labTest(
  "a capture under load loses frames of its own, never a datagram, and leaves nothing on",
  async (lab) => {
    const { client, asker, appliance, capture } = await scene(lab);
    assert.equal(captureMode(appliance), CaptureMode.off);
    const process = await capture();
    assert.equal(captureMode(appliance), CaptureMode.all);
    const drops = await capture("--drops");
    const flows = Array.from({ length: 16 }, () => ({ source: CLIENT, target: HOST, port: 7 }));
    const traffic = new Client(client);
    await traffic.start({ flows, rate: 1000 });
    await answeredAtLeast(traffic, 500);
    // Whoever captures dies, and the appliance finds out.
    const falls = (mode: number) =>
      eventually("the capture to end", () => {
        return Promise.resolve(captureMode(appliance) === mode ? true : undefined);
      });
    process.kill("SIGKILL");
    await falls(CaptureMode.drops);
    drops.kill("SIGKILL");
    await falls(CaptureMode.off);
    await answeredAtLeast(traffic, 2000);
    const { sent, answered, mismatched } = await traffic.stop();
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
    await assertBalanced(appliance);
    assert.equal((await ask(asker)).text, "hello");
  },
);
