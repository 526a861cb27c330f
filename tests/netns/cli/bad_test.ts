// SPDX-License-Identifier: Apache-2.0
/**
 * Bad situations of the real program: each ends with its exit status and one sentence, or waits and
 * says so, and leaves nothing behind.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { selfCommand } from "../../../cli/command.ts";
import { exists } from "../../../ffi/host.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  assertStopsPromptly,
  CLIENT,
  ECHO,
  eventually,
  HOST,
  introduce,
  labTest,
  type Namespace,
  pair,
  peer,
  refusal,
  socketPath,
  xdpProgram,
} from "../lab.ts";
import { temporaryFile } from "../config_file.ts";
import { otherProgram } from "../other_program.ts";
import { processesOf } from "../processes.ts";

/** How a start went that must fail: its status, and the one sentence that it ends with. */
async function refused(
  host: Namespace,
  command: readonly string[],
): Promise<{ code: number; said: string }> {
  const outcome = await refusal(host.spawn(command));
  assert.equal(await xdpProgram(host).catch(() => undefined), undefined, "XDP was left attached");
  return outcome;
}

function run(...args: string[]): string[] {
  return [...selfCommand(), "run", ...args];
}

/** Wrong command lines, and what the sentence must mention of each. */
const USAGE: readonly [args: string[], mentions: RegExp][] = [
  [["--interface", "eth0"], /--listen/],
  [["--listen", "7=echo"], /--interface/],
  [[...ECHO, "--speed", "9"], /--speed.*--provider/s],
  [[...ECHO, "--provider", "magic"], /auto.*xdp.*socket.*magic/],
  [["--interface", "eth0", "--listen", "70000=echo"], /70000.*65,?535/],
  [["--interface", "eth0", "--listen", "seven"], /seven/],
  [["--interface", "eth0", "--listen", "7=nosuch"], /nosuch.*echo/],
  [[...ECHO, "--listen", "7=time"], /7/],
  [[...ECHO, "--net-tiles", "0"], /net-tiles.*0/],
  [[...ECHO, "leftover"], /leftover/],
  [["--interface", "eth0", "--listen", "-7=echo"], /--listen takes a value.*--listen=-/],
];

labTest("a wrong command line says what it was and what is allowed, status 2", async (lab, t) => {
  const { host } = await pair(lab);
  for (const [args, mentions] of USAGE) {
    await t.step(args.join(" "), async () => {
      const { code, said } = await refused(host, run(...args));
      assert.equal(code, 2);
      assert.match(said, mentions);
    });
  }
});

labTest("help that cannot be written is said to be, status 1", async (lab) => {
  const { host } = await pair(lab);
  const command = [...selfCommand(), "--help"].join(" ");
  const { code, said } = await refused(host, ["sh", "-c", `${command} > /dev/full`]);
  assert.equal(code, 1);
  assert.match(said, /cannot write standard output: no space left/);
});

labTest("a missing capability is named, status 3", async (lab) => {
  const { host } = await pair(lab);
  for (const name of ["net_admin", "net_raw", "net_bind_service"]) {
    const without = ["setpriv", "--bounding-set", `-${name}`, "--inh-caps", `-${name}`];
    const { code, said } = await refused(host, [...without, ...run(...ECHO)]);
    assert.equal(code, 3, said);
    assert.match(said, new RegExp(`CAP_${name.toUpperCase()}`));
  }
});

labTest("no such interface is named, status 4", async (lab) => {
  const { host } = await pair(lab);
  const { code, said } = await refused(host, run("--interface", "eth9", "--listen", "7=echo"));
  assert.equal(code, 4);
  assert.match(said, /eth9/);
});

labTest("an MTU that does not fit is named with the largest that does, status 4", async (lab) => {
  const { host, client, asker } = await pair(lab);
  for (const namespace of [host, client]) await namespace.ip("link set eth0 mtu 9000");
  const { code, said } = await refused(host, run(...ECHO));
  assert.equal(code, 4);
  assert.match(said, /9000.*\d{4}/);
  await Appliance.start(host, [...ECHO, "--provider", "socket"]);
  assert.equal((await ask(asker)).text, "hello");
});

labTest("a port of another program is named, and AF_XDP serves it alone", async (lab) => {
  const { host, asker } = await pair(lab);
  const holder = await peer(host, "udp", HOST, "7", "theirs");
  const { code, said } = await refused(host, run(...ECHO, "--provider", "socket"));
  assert.equal(code, 5);
  assert.match(said, new RegExp(`port 7 .*deno.*${holder.pid}`));
  const appliance = await Appliance.start(host, ECHO);
  assert.match(await appliance.process.stderr.find("port 7 "), /deno.*only AF_XDP/);
  assert.equal((await ask(asker)).text, "hello");
});

labTest("a port of another program ends a start that no AF_XDP comes of, status 5", async (lab) => {
  const { host } = await pair(lab);
  await peer(host, "udp", HOST, "7", "theirs");
  await host.batch([
    "tuntap add tun0 mode tun",
    "address add 192.0.2.1/24 dev tun0",
    "link set tun0 up",
  ]);
  const args = ["--interface", "tun0", "--listen", "7=echo"];
  const { code, said } = await refusal(Appliance.launch(host, args).process);
  assert.equal(code, 5, said);
  assert.match(said, /UDP port 7 is held by another program, and AF_XDP does not serve it/);
});

labTest("a port of another tegula is named with its process and command line", async (lab) => {
  const { host } = await pair(lab);
  const args = [...ECHO, "--provider", "socket", "--control", "none"];
  const { process: { pid } } = await Appliance.start(host, args);
  const { code, said } = await refused(host, run(...args));
  assert.equal(code, 5);
  const command = `tegula run ${args.join(" ")}`;
  assert.ok(said.includes(`port 7 is held by another tegula (pid ${pid}: ${command});`), said);
});

labTest("many ports that are held are named by holder, as ranges", async (lab) => {
  const { host } = await pair(lab);
  const socket = ["--interface", "eth0", "--provider", "socket", "--control", "none"];
  const listen = ["--listen", "5000-5063=echo", "--listen", "5080=echo"];
  const { process: { pid } } = await Appliance.start(host, [...socket, ...listen]);
  const wanted = ["--listen", "5001-5100=echo"];
  const { code, said } = await refused(host, run(...socket, ...wanted));
  assert.equal(code, 5);
  const held = `ports 5001-5063, 5080 are held by another tegula (pid ${pid}: `;
  assert.ok(said.includes(`UDP ${held}`), said);
  const appliance = await Appliance.start(host, ["--interface", "eth0", ...wanted]);
  const lines = appliance.process.stderr.all.filter((line) => line.includes("held by"));
  assert.deepEqual(lines.map((line) => line.startsWith(held)), [true]);
});

labTest("another XDP program is named with its id and left in peace, status 6", async (lab) => {
  const { host } = await pair(lab);
  await host.ip(`link set dev eth0 xdp obj ${otherProgram()} sec xdp`);
  const { id } = (await xdpProgram(host))!;
  const { code, said } = await refusal(Appliance.launch(host, ECHO).process);
  assert.equal(code, 6);
  assert.match(said, new RegExp(`eth0.*other_program.*id ${id}\\b.*xdpgeneric off`));
  assert.equal((await xdpProgram(host))?.id, id);
});

labTest("a second start on an interface is refused and the first not disturbed", async (lab) => {
  const { host, client, asker } = await pair(lab);
  await introduce({ host, client });
  const first = await Appliance.start(host, ECHO);
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 500 });
  await answeredAtLeast(asker, 50);
  const program = await xdpProgram(host);
  const second = Appliance.launch(host, ["--interface", "eth0", "--listen", "9=discard"]);
  const { code, said } = await refusal(second.process);
  assert.equal(code, 6);
  const { pid } = first.process;
  // The link's number is the kernel's to say, to whoever has its descriptor.
  const info = [...Deno.readDirSync(`/proc/${pid}/fdinfo`)]
    .map(({ name }) => Deno.readTextFileSync(`/proc/${pid}/fdinfo/${name}`));
  const link = info.map((text) => /^link_id:\s*(\d+)/m.exec(text)?.[1]).find(Boolean);
  assert.match(said, new RegExp(`eth0.*tegula, id \\d+.*held by another tegula \\(pid ${pid}: `));
  assert.match(said, new RegExp(`'bpftool link detach id ${link}'`));
  const apart = ["unshare", "--pid", "--fork", "--mount-proc", ...selfCommand(), "run"];
  const third = host.spawn([...apart, "--interface", "eth0", "--listen", "9=discard"]);
  const { said: unseen } = await refusal(third);
  assert.match(unseen, new RegExp(`detach it \\('bpftool link detach id ${link}'\\) or use`));
  const { sent, answered, mismatched } = await asker.stop();
  assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
  assert.equal((await xdpProgram(host))?.id, program?.id);
});

labTest("an interface that is down, or has no address, is waited for", async (lab) => {
  const { host, client, asker } = await pair(lab);
  await host.ip("link set eth0 down");
  await host.ip("address flush dev eth0");
  const appliance = Appliance.launch(host, ECHO);
  const { stderr } = appliance.process;
  assert.match(await stderr.find("eth0: waiting"), /down/);
  const from = stderr.all.length;
  await host.ip("link set eth0 up");
  assert.match(await stderr.find("eth0: waiting", { from }), /no IPv4 address/);
  await host.ip(`address add ${HOST}/24 dev eth0`);
  await appliance.ready();
  await client.ip("neigh flush dev eth0");
  assert.equal((await askUntilAnswered(asker)).text, "hello");
});

labTest("a start that waits tells its counters, and can be stopped", async (lab) => {
  const { host } = await pair(lab);
  await host.ip("link set eth0 down");
  const control = socketPath();
  const start = async () => {
    const appliance = Appliance.launch(host, [...ECHO, "--control", control]);
    const { stderr } = appliance.process;
    await stderr.find("eth0: waiting");
    // There is nothing yet that could be replaced, and what waits for that does not hold up the end.
    appliance.process.kill("SIGHUP");
    appliance.process.kill("SIGUSR2");
    assert.match(await stderr.find("counters: "), /"netlink":\{/);
    return appliance;
  };
  const after = () => assert.rejects(Deno.lstat(control), Deno.errors.NotFound);
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    await assertStopsPromptly(start, { signal, after });
  }
});

labTest(
  "SIGKILL in the middle of traffic gives it to the kernel; a new start works",
  async (lab) => {
    const { host, asker } = await pair(lab);
    await peer(host, "udp", HOST, "7", "kernel");
    const appliance = await Appliance.start(host, ECHO);
    await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 500 });
    await answeredAtLeast(asker, 50);
    await appliance.stop("SIGKILL");
    assert.equal((await askUntilAnswered(asker)).text, "kernel");
    // The kernel's answers are not the echo's, so they count as mismatched.
    const { sent } = await asker.progress();
    await eventually("more traffic", async () => {
      return (await asker.progress()).sent > sent + 50 ? true : undefined;
    });
    const { mismatched } = await asker.stop({ lingerMillis: 0 });
    assert.ok(mismatched > 0, "the kernel got nothing of the traffic");
    assert.equal(await xdpProgram(host), undefined);
    const again = await Appliance.start(host, ECHO);
    assert.equal((await ask(asker)).text, "hello");
    assert.equal((await again.stop()).code, 0);
  },
);

labTest(
  "a main process that hangs costs nobody a datagram; one that dies leaves nobody",
  async (lab) => {
    const { host, client, asker } = await pair(lab);
    await introduce({ host, client });
    const appliance = await Appliance.start(host, ECHO);
    await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 500 });
    await answeredAtLeast(asker, 50);
    appliance.process.kill("SIGSTOP");
    const { answered } = await asker.progress();
    await answeredAtLeast(asker, answered + 500);
    const { sent, answered: all, mismatched } = await asker.stop();
    assert.deepEqual({ answered: all, mismatched }, { answered: sent, mismatched: 0 });
    const processes = processesOf(appliance.process.pid);
    assert.deepEqual(processes.map(({ role }) => role), ["main", "appliance", "app"]);
    await appliance.stop("SIGKILL");
    await eventually("all processes to be gone", () => {
      const left = processes.filter(({ pid }) => exists(`/proc/${pid}`));
      return Promise.resolve(left.length === 0 ? true : undefined);
    });
    assert.equal(await xdpProgram(host), undefined);
  },
);

labTest("an interface that vanishes takes nothing else along", async (lab) => {
  const { host, asker } = await pair(lab);
  const other = await lab.namespace("other");
  await lab.join(
    { namespace: host, name: "eth1", addresses: ["192.0.2.1/24"] },
    { namespace: other, name: "eth0", addresses: ["192.0.2.2/24"] },
  );
  const appliance = await Appliance.start(host, [...ECHO, "--interface", "eth1"]);
  await host.ip("link del eth1");
  await eventually("eth1 to be gone", async () => {
    const links = JSON.parse(await host.ip("-j link show")) as { ifname: string }[];
    return links.some(({ ifname }) => ifname === "eth1") ? undefined : true;
  });
  assert.equal((await ask(asker)).text, "hello");
  assert.equal((await appliance.stop()).code, 0);
});

labTest("a native part that is missing is named with how to get it, status 7", async (lab) => {
  const { host } = await pair(lab);
  const root = fileURLToPath(new URL("../../..", import.meta.url));
  const folder = Deno.makeTempDirSync();
  try {
    for (const { name } of Deno.readDirSync(root)) {
      if (name !== "build" && !name.startsWith(".")) {
        await host.run(["cp", "-r", `${root}${name}`, folder]);
      }
    }
    const [deno, ...args] = selfCommand();
    const command = [deno, ...args.with(-1, `${folder}/main.ts`), "run", ...ECHO];
    const { code, said } = await refused(host, command);
    assert.equal(code, 7);
    assert.match(said, /build/);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

labTest("a missing /proc is named, status 7", async (lab) => {
  const { host } = await pair(lab);
  const without = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc; exec "$@"', "sh"];
  const { code, said } = await refused(host, [...without, ...run(...ECHO)]);
  assert.equal(code, 7, said);
  assert.match(said, /\/proc is missing/);
});

labTest("a /proc of another PID namespace is named, status 7", async (lab) => {
  const { host } = await pair(lab);
  const { code, said } = await refused(host, ["unshare", "--pid", "--fork", ...run(...ECHO)]);
  assert.equal(code, 7, said);
  assert.match(said, /\/proc is that of another PID namespace/);
});

labTest("a log that cannot be written costs lines, and nothing else", async (lab) => {
  const { host, asker } = await pair(lab);
  const into = (target: string) => ["sh", "-c", `exec "$@" 2>${target}`, "sh"];
  const full = host.spawn([...into("/dev/full"), ...run(...ECHO, "--control", "none")]);
  assert.equal((await askUntilAnswered(asker)).text, "hello");
  for (let i = 0; i < 20; i++) full.kill("SIGUSR2");
  assert.equal((await askUntilAnswered(asker)).text, "hello");
  full.kill("SIGTERM");
  assert.equal((await full.ended()).code, 0);
  const refusing = host.spawn([
    ...into("/dev/full"),
    ...run("--interface", "nope", "--listen", "7=echo"),
  ]);
  assert.equal((await refusing.ended()).code, 4, "statuses are as they are");

  // A pipe that nobody reads; each SIGUSR2 is a line of a kilobyte.
  const fifo = temporaryFile("");
  Deno.removeSync(fifo);
  await host.run(["mkfifo", fifo]);
  const unread = host.spawn([...into(`"${fifo}"`), ...run(...ECHO, "--control", "none")]);
  using _reader = await Deno.open(fifo, { read: true });
  await askUntilAnswered(asker);
  for (let i = 0; i < 200; i++) {
    unread.kill("SIGUSR2");
    if (i % 20 === 0) await askUntilAnswered(asker);
  }
  unread.kill("SIGTERM");
  assert.equal((await unread.ended()).code, 0);
});

labTest("too few descriptors are named, status 7", async (lab) => {
  const { host } = await pair(lab);
  // 129 tiles, with an eventfd each.
  const many = ["--listen", "7=echo@inline", "--listen", "9=discard@inline", "--net-tiles", "64"];
  const args = run("--interface", "eth0", "--provider", "socket", ...many);
  const { code, said } = await refused(host, ["prlimit", "--nofile=128", ...args]);
  assert.equal(code, 7, said);
  assert.match(said, /128 open files are allowed/);
});

labTest("a start that fails ends in order whatever free() does to memory", async (lab) => {
  const { host } = await pair(lab);
  const module = Deno.makeTempFileSync({ suffix: ".ts" });
  try {
    Deno.writeTextFileSync(module, `export default () => { throw new Error("not today"); };`);
    for (const app of [module, `${module}@inline`]) {
      const args = run("--interface", "eth0", "--listen", "9=echo", "--listen", `7=${app}`);
      const process = host.spawn(args, { env: { MALLOC_PERTURB_: "165" } });
      const { code, said } = await refusal(process);
      assert.equal(code, 2, said);
      assert.match(said, /not today/);
    }
  } finally {
    Deno.removeSync(module);
  }
});
