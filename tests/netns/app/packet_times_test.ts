// SPDX-License-Identifier: Apache-2.0
/** `packet_times`: a datagram has the time at which the host got it, however late its burst is read. */

import { strict as assert } from "node:assert";
import { applianceOf } from "../processes.ts";
import { temporaryFile } from "../config_file.ts";
import { Appliance, eventually, labTest, pair } from "../lab.ts";

const CLOCK = temporaryFile(
  "export function answer({ payload, receivedAt }) { return `${payload[0]} ${receivedAt * 1e6}`; }",
  ".js",
);

/**
 * For each line of standard input: sends three datagrams, 20 ms apart, and prints of each when it was about to be
 * sent, when it had been, and what its answer says.
 */
const CLIENT = `
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect(("198.18.0.1", 7))
s.send(b"?")
s.recv(100)
print("ready", flush=True)
while sys.stdin.readline():
    sent = []
    for i in range(3):
        before = time.time_ns()
        s.send(bytes([i]))
        sent.append((before, time.time_ns()))
        time.sleep(0.02)
    print("sent", flush=True)
    for _ in range(3):
        number, said = s.recv(100).decode().split()
        sent[int(number)] += (said,)
    print("got", *sum(sent, ()), flush=True)
`;

/** Nanoseconds that two readings of the clock may differ by for being rounded. */
const ROUNDED = 1024;

for (const [provider, place] of [["xdp", ""], ["xdp", "@inline"], ["socket", ""]]) {
  labTest(`a datagram has the time at which the host got it (${provider}${place})`, async (lab) => {
    const { host, client } = await pair(lab);
    const config = temporaryFile("", ".toml");
    const configure = (wanted: boolean) =>
      Deno.writeTextFileSync(
        config,
        `interfaces = ["eth0"]\nlisten = ["7=clock${place}"]\nprovider = "${provider}"\n` +
          `[apps.clock]\nmodule = "${CLOCK}"\npacket_times = ${wanted}\n`,
      );
    configure(true);
    const appliance = await Appliance.start(host, ["--config", config]);
    const asking = client.spawn(["python3", "-c", CLIENT], { stdin: "piped" });
    await asking.stdout.find("ready");
    /** How long after each of three datagrams was sent it was received, while nobody reads them. */
    const delays = async () => {
      const from = asking.stdout.all.length;
      const pid = applianceOf(appliance.process.pid);
      Deno.kill(pid, "SIGSTOP");
      try {
        await eventually("all of its threads to stand still", async () => {
          const threads = [...Deno.readDirSync(`/proc/${pid}/task`)];
          const states = await Promise.all(
            threads.map(({ name }) => Deno.readTextFile(`/proc/${pid}/task/${name}/status`)),
          );
          return states.every((each) => each.includes("State:\tT")) || undefined;
        });
        await asking.write("");
        await asking.stdout.find("sent", { from });
      } finally {
        Deno.kill(pid, "SIGCONT");
      }
      const [, ...times] = (await asking.stdout.find("got", { from })).split(" ").map(Number);
      return [0, 3, 6].map((i) => {
        const [before, after, received] = times.slice(i);
        return { sooner: before - received, later: received - after };
      });
    };
    for (const { sooner, later } of await delays()) {
      assert.ok(sooner < ROUNDED && later < ROUNDED, `${sooner} ns too soon, ${later} too late`);
    }
    configure(false);
    const from = appliance.process.stderr.all.length;
    appliance.process.kill("SIGHUP");
    assert.match(await appliance.process.stderr.find("reload", { from }), /^reloaded/);
    const late = await delays();
    assert.ok(late.every(({ later }) => later > 10e6), "the time of the burst");
  });
}
