// SPDX-License-Identifier: Apache-2.0
/**
 * Busy polling: what is set on the sockets of the real program, read back from the kernel, and that it
 * answers in that mode as in any other.
 */

import { strict as assert } from "node:assert";
import { selfCommand } from "../../../cli/command.ts";
import { temporaryFile } from "../config_file.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  CLIENT,
  ECHO,
  HOST,
  labTest,
  noise,
  pair,
  refusal,
} from "../lab.ts";
import { xdpSockets } from "./process_sockets.ts";

/** Of sys/socket.h; the budget can be set, and not be read. */
const SOL_SOCKET = 1;
const SO_BUSY_POLL = 46;
const SO_PREFER_BUSY_POLL = 69;
const SO_BUSY_POLL_BUDGET = 70;
const ENOPROTOOPT = 92;
const SYS_SETSOCKOPT = Deno.build.arch === "x86_64" ? 54 : 208;

/** Whether busy polling is preferred, and for how many microseconds, for each socket of a process. */
function busyPolling({ process: { pid } }: Appliance): number[][] {
  return xdpSockets(pid, (option) =>
    [SO_PREFER_BUSY_POLL, SO_BUSY_POLL].map((number) => {
      const value = new Int32Array(1);
      option(SOL_SOCKET, number, value);
      return value[0];
    }));
}

labTest("with --busy-poll every socket polls its driver, and all is answered", async (lab) => {
  const { host, asker } = await pair(lab, { queues: 2 });
  const appliance = await Appliance.start(host, [...ECHO, "--busy-poll"]);
  assert.match(
    await appliance.process.stderr.find("eth0: busy"),
    /napi_defer_hard_irqs.*gro_flush/,
  );
  for (const size of [0, 1, 64, 1472]) {
    const payload = noise(size);
    assert.deepEqual((await ask(asker, { payload })).bytes, payload, `${size} bytes`);
  }
  const flows = Array.from({ length: 32 }, () => ({ source: CLIENT, target: HOST, port: 7 }));
  await asker.start({ flows, rate: 1000 });
  await answeredAtLeast(asker, 300);
  const { sent, answered, mismatched } = await asker.stop();
  assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });

  assert.deepEqual(busyPolling(appliance), [[1, 20], [1, 20]]);
});

labTest("busy polling answers whoever comes while interrupts are put off", async (lab) => {
  const { host, asker } = await pair(lab);
  const folder = "/sys/class/net/eth0";
  await host.run([
    ...["sh", "-ec"],
    `echo 2 > ${folder}/napi_defer_hard_irqs; echo 200000 > ${folder}/gro_flush_timeout`,
  ]);
  await Appliance.start(host, [...ECHO, "--busy-poll"]);
  for (let i = 0; i < 20; i++) assert.equal((await ask(asker)).text, "hello");
});

labTest("busy polling is off where it is not asked for", async (lab) => {
  const { host, asker } = await pair(lab);
  const appliance = await Appliance.start(host, ECHO);
  assert.equal((await ask(asker)).text, "hello");
  assert.deepEqual(busyPolling(appliance), [[0, 0]]);
});

/** A seccomp filter (classic BPF: code, jumps, value) of a kernel that does not know an option. */
function withoutOption(option: number): Uint8Array {
  const program = [
    [0x20, 0, 0, 0], // the call's number
    [0x15, 0, 3, SYS_SETSOCKOPT],
    [0x20, 0, 0, 32], // its third argument
    [0x15, 0, 1, option],
    [0x06, 0, 0, 0x00050000 | ENOPROTOOPT], // SECCOMP_RET_ERRNO
    [0x06, 0, 0, 0x7fff0000], // SECCOMP_RET_ALLOW
  ];
  const bytes = program.map(([code, yes, no, value]) =>
    new Uint8Array(Uint32Array.of(code | yes << 16 | no << 24, value).buffer)
  );
  return Uint8Array.from(bytes.flatMap((each) => [...each]));
}

labTest(
  "a kernel that cannot poll busily ends the start with one sentence, status 7",
  async (lab) => {
    const { host } = await pair(lab);
    for (const option of [SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET]) {
      const filter = temporaryFile(withoutOption(option));
      const kernel = ["setpriv", "--seccomp-filter", filter];
      const command = [...kernel, ...selfCommand(), "run", ...ECHO, "--busy-poll"];
      const { code, said } = await refusal(host.spawn(command));
      assert.equal(code, 7);
      assert.match(said, /cannot poll queue 0 of eth0 busily: ENOPROTOOPT.*5\.11/);
    }
  },
);
