// SPDX-License-Identifier: Apache-2.0
/**
 * Kernels that lack something: the system calls refused by a seccomp filter as such a kernel refuses
 * them, and limits turned down.
 */

import { strict as assert } from "node:assert";
import { endianness } from "node:os";
import { selfCommand } from "../../../cli/command.ts";
import { landlock } from "../../../scripts/machine.ts";
import {
  Appliance,
  ask,
  ECHO,
  labTest,
  type Namespace,
  pair,
  refusal,
  xdpProgram,
} from "../lab.ts";

/** asm/unistd.h and sys/socket.h of the machine that runs this. */
const SYS_SOCKET = Deno.build.arch === "x86_64" ? 41 : 198;
const SYS_BPF = Deno.build.arch === "x86_64" ? 321 : 280;
/** The same number on all architectures. */
const SYS_LANDLOCK_CREATE_RULESET = 444;
const AF_XDP = 44;
const EAFNOSUPPORT = 97;
const ENOSYS = 38;

/** linux/filter.h: load a word of struct seccomp_data, jump if equal, return. */
const LOAD = 0x20, JUMP_IF_EQUAL = 0x15, RETURN = 0x06;
const ALLOW = 0x7fff0000, ERRNO = 0x00050000;
/** Offsets in struct seccomp_data. */
const NUMBER = 0, FIRST_ARGUMENT = 16;

/** A classic BPF program that answers one system call with an errno. */
function refusing(
  call: number,
  { errno, argument }: { errno: number; argument?: number },
): Uint8Array {
  assert.equal(endianness(), "LE");
  const one = argument === undefined ? [] : [
    [LOAD, 0, 0, FIRST_ARGUMENT],
    [JUMP_IF_EQUAL, 0, 1, argument],
  ];
  const program = [
    [LOAD, 0, 0, NUMBER],
    [JUMP_IF_EQUAL, 0, one.length + 1, call],
    ...one,
    [RETURN, 0, 0, ERRNO | errno],
    [RETURN, 0, 0, ALLOW],
  ];
  const bytes = new DataView(new ArrayBuffer(program.length * 8));
  program.forEach(([code, jt, jf, k], i) => {
    bytes.setUint16(i * 8, code, true);
    bytes.setUint8(i * 8 + 2, jt);
    bytes.setUint8(i * 8 + 3, jf);
    bytes.setUint32(i * 8 + 4, k, true);
  });
  return new Uint8Array(bytes.buffer);
}

/** Starts the program on a kernel without something; calls `then` while the filter's file exists. */
async function without(filter: Uint8Array, then: (prefix: string[]) => Promise<void>) {
  const file = Deno.makeTempFileSync();
  try {
    Deno.writeFileSync(file, filter);
    await then(["setpriv", "--seccomp-filter", file]);
  } finally {
    Deno.removeSync(file);
  }
}

async function refused(host: Namespace, command: readonly string[]) {
  const outcome = await refusal(host.spawn(command));
  assert.equal(await xdpProgram(host), undefined);
  return outcome;
}

labTest("a kernel without AF_XDP is named, and auto takes the kernel's sockets", async (lab) => {
  const { host, asker } = await pair(lab);
  const filter = refusing(SYS_SOCKET, { errno: EAFNOSUPPORT, argument: AF_XDP });
  await without(filter, async (prefix) => {
    const command = [...prefix, ...selfCommand(), "run", ...ECHO];
    const { code, said } = await refused(host, [...command, "--provider", "xdp"]);
    assert.equal(code, 7, said);
    assert.match(said, /AF_XDP.*EAFNOSUPPORT/);
    const process = host.spawn(command);
    await process.stderr.find("ready:");
    assert.match(await process.stderr.find("eth0: "), /kernel sockets.*EAFNOSUPPORT/);
    assert.equal((await ask(asker)).text, "hello");
    // A reload tries it again, and nobody notices.
    process.kill("SIGHUP");
    await process.stderr.find("reloaded: answering 7=echo; the kernel's sockets serve");
    assert.equal((await ask(asker)).text, "hello");
    process.kill("SIGTERM");
    assert.equal((await process.ended()).code, 0);
  });
});

labTest("a kernel without bpf() is named", async (lab) => {
  const { host } = await pair(lab);
  await without(refusing(SYS_BPF, { errno: ENOSYS }), async (prefix) => {
    const command = [...prefix, ...selfCommand(), "run", ...ECHO, "--provider", "xdp"];
    const { code, said } = await refused(host, command);
    assert.equal(code, 7, said);
    assert.match(said, /eth0.*ENOSYS/);
  });
});

labTest("a kernel without landlock is named, each wall once, and everything runs", async (lab) => {
  const { host, asker } = await pair(lab);
  await without(refusing(SYS_LANDLOCK_CREATE_RULESET, { errno: ENOSYS }), async (prefix) => {
    const options = ["--provider", "socket"];
    const process = host.spawn([...prefix, ...selfCommand(), "run", ...ECHO, ...options]);
    await process.stderr.find("ready:");
    const named = process.stderr.all.filter((line) => /landlock/.test(line));
    const missing = "some walls are not supported here: landlock does not bound its files; " +
      "landlock does not keep it from TCP; " +
      "landlock does not keep it from others' signals and abstract sockets";
    assert.deepEqual(named, [
      `appliance: ${missing}`,
      "the kernel has no landlock: tiles are confined by seccomp alone",
      `apps: ${missing}`,
    ]);
    assert.equal((await ask(asker)).text, "hello");
    process.kill("SIGTERM");
    assert.equal((await process.ended()).code, 0);
  });
});

labTest("locked memory that is too little is named, with what to set", async (lab) => {
  const { host } = await pair(lab);
  const limited = [
    ...["prlimit", "--memlock=65536:65536"],
    ...["setpriv", "--bounding-set", "-ipc_lock,-sys_resource"],
    ...["--inh-caps", "-ipc_lock,-sys_resource"],
  ];
  const command = [...limited, ...selfCommand(), "run", ...ECHO, "--provider", "xdp"];
  const { code, said } = await refused(host, command);
  assert.ok(code === 6 || code === 7, `${code}: ${said}`);
  assert.match(said, /memlock|LimitMEMLOCK|locked memory/i);
});

labTest("with all that in place the same start works", async (lab) => {
  const { host, asker } = await pair(lab);
  const { process: { stderr } } = await Appliance.start(host, [...ECHO, "--provider", "xdp"]);
  assert.equal((await ask(asker)).text, "hello");
  const named = stderr.all.some((line) => /no landlock/.test(line));
  assert.equal(named, landlock() === "none");
});
