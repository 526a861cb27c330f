// SPDX-License-Identifier: Apache-2.0
/**
 * The most ports that can be served, and limits of the environment: the program runs within them, or ends
 * with one sentence on what to set.
 */

import { strict as assert } from "node:assert";
import { selfCommand } from "../../../cli/command.ts";
import { Control } from "../../../cli/control.ts";
import { ROOT } from "../../../ffi/library.ts";
import { MOST_PORTS_SERVED } from "../../../tiles/runtime/plan.ts";
import {
  Appliance,
  ask,
  assertGrowth,
  assertStopsPromptly,
  Client,
  ECHO,
  eventually,
  HOST,
  labTest,
  type Namespace,
  pair,
  refusal,
  SILENCE_MILLIS,
  socketPath,
} from "../lab.ts";

const FIRST = 5000;
const LAST = FIRST + MOST_PORTS_SERVED - 1;
const MOST: readonly string[] = ["--interface", "eth0", "--listen", `${FIRST}-${LAST}=echo`];
const PORTS = [FIRST, FIRST + MOST_PORTS_SERVED / 2, LAST];
/** A user that has no processes yet. */
const USER = 54_321;

for (const [provider, ...more] of [["auto"], ["socket", "--net-tiles", "2"]]) {
  labTest(`as many ports as can be served are, by wire and loopback (${provider})`, async (lab) => {
    const { host, asker } = await pair(lab);
    const local = new Client(host);
    const start = async () => {
      const control = socketPath();
      const args = [...MOST, "--provider", provider, "--control", control, ...more];
      const appliance = await Appliance.start(host, args);
      const ready = await appliance.process.stderr.find("ready:");
      assert.match(ready, new RegExp(`^ready: eth0 answering ${FIRST}-${LAST}=echo(;|$)`));
      const status = await (await Control.connect(control)).one({ do: "status" });
      assert.deepEqual(status.listen, [{ port: FIRST, last: LAST, app: "echo" }]);
      const before = await appliance.counters();
      for (const port of PORTS) {
        const { text, from } = await ask(asker, { port });
        assert.deepEqual([text, from], ["hello", `${HOST}:${port}`]);
        const question = { port, source: "127.0.0.1", target: "127.0.0.1" };
        assert.equal((await ask(local, question)).from, `127.0.0.1:${port}`);
      }
      for (const port of [FIRST - 1, LAST + 1]) {
        assert.equal((await ask(asker, { port, timeoutMs: SILENCE_MILLIS })).bytes, null);
      }
      const bySocket = provider === "socket" ? 2 * PORTS.length : PORTS.length;
      const byFrame = 2 * PORTS.length - bySocket;
      await assertGrowth(appliance, before, { rx_socket: bySocket, tx_frames: byFrame });
      return appliance;
    };
    await assertStopsPromptly(start);
  });
}

/** What a `tegula` of these arguments says that must not start. */
function refused(host: Namespace, args: readonly string[], prefix: readonly string[] = []) {
  return refusal(host.spawn([...prefix, ...selfCommand(), ...args]));
}

/** Starts what must start, does `then`, and ends it. */
async function runs(host: Namespace, command: readonly string[], then = async () => {}) {
  const process = host.spawn(command);
  await process.stderr.find("ready:");
  await then();
  // Another appliance beside the first one, too.
  process.kill("SIGHUP");
  await process.stderr.find("reloaded: ");
  await then();
  process.kill("SIGTERM");
  assert.equal((await process.ended()).code, 0);
}

labTest("one port more than can be served ends run and check, status 2", async (lab) => {
  const { host } = await pair(lab);
  for (const command of ["run", "check"]) {
    const { code, said } = await refused(host, [command, ...MOST, "--listen", "7=echo"]);
    assert.equal(code, 2);
    assert.match(said, /^tegula: 4097 ports are too many: one Tegula serves at most 4096$/);
  }
});

labTest("open files that are too few are named with how many it takes, status 7", async (lab) => {
  const { host, asker } = await pair(lab);
  for (const [limit, args, port] of [[64, ECHO, 7], [1024, MOST, LAST]] as const) {
    const limited = (files: number) => ["prlimit", `--nofile=${files}:${files}`];
    const { code, said } = await refused(host, ["run", ...args], limited(limit));
    assert.equal(code, 7, said);
    const [, files] = /^tegula: \d+ open files are allowed, .* take \d+: ulimit -n (\d+), or/
      .exec(said) ?? assert.fail(said);
    const checked = host.spawn([...limited(limit), ...selfCommand(), "check", ...args]);
    await checked.stdout.find(`fail open files, threads: ${limit} open files are allowed`);
    // With what it says it runs.
    const command = [...limited(Number(files)), ...selfCommand(), "run", ...args];
    await runs(host, command, async () => {
      assert.equal((await ask(asker, { port })).text, "hello");
    });
  }
});

/** Makes a command an ordinary user's: no privilege but that to read the program wherever it is. */
async function unprivileged(): Promise<string[]> {
  const keep = "-all,+dac_read_search";
  return [
    ...["setpriv", `--reuid=${USER}`, `--regid=${USER}`, "--clear-groups"],
    ...[`--inh-caps=${keep}`, `--ambient-caps=${keep}`, `--bounding-set=${keep}`],
    ...["env", `DENO_DIR=${await denoFolderOf(USER)}`],
  ];
}

labTest(
  "limits that Deno cannot start with are named by scripts/run too, status 7",
  async (lab) => {
    const { host } = await pair(lab);
    for (const [limit, says] of [["nofile", "16 open files"], ["nproc", "8 processes"]]) {
      const few = says.split(" ")[0];
      const prefix = [...await unprivileged(), "prlimit", `--${limit}=${few}:${few}`];
      const { code, said } = await refusal(
        host.spawn([...prefix, `${ROOT}scripts/run`, "--version"]),
      );
      assert.equal(code, 7, said);
      assert.match(said, new RegExp(`^tegula: only ${says} are allowed, .*raise it with 'ulimit`));
    }
  },
);

labTest("threads that are too few are named, status 7", async (lab) => {
  const { host } = await pair(lab);
  const args = ["--interface", "eth0", "--provider", "socket", "--listen", "7000=echo*8"];
  const user = await unprivileged();
  const limited = (processes: number) => [
    ...user,
    "prlimit",
    `--nproc=${processes}:${processes}`,
  ];
  const { code, said } = await refused(host, ["run", ...args], limited(20));
  assert.equal(code, 7, said);
  const sentence =
    /1 port and 10 tiles need (\d+) more threads, and (\d+) are allowed: a higher 'ulimit -u', or TasksMax=/;
  const [, wanted, got] = sentence.exec(said) ?? assert.fail(said);
  // With as many more it runs.
  const enough = 20 + Number(wanted) - Number(got);
  await runs(host, [...limited(enough), ...selfCommand(), "run", ...args]);
});

labTest("with 512 MiB as many ports as can be served are", async (lab) => {
  const { host, asker } = await pair(lab);
  await using group = await MemoryGroup.make(512 << 20);
  await runs(host, group.command([...selfCommand(), "run", ...MOST]), async () => {
    for (const port of PORTS) assert.equal((await ask(asker, { port })).text, "hello");
  });
});

/** A copy of Deno's folder of modules that a user may write to, as Deno wants it. */
async function denoFolderOf(user: number): Promise<string> {
  const { stdout } = new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).outputSync();
  const { denoDir } = JSON.parse(new TextDecoder().decode(stdout));
  const folder = await Deno.makeTempDir();
  const copy = 'cp -r "$1"/npm "$2" && chown -R "$3" "$2"';
  const args = ["-c", copy, "sh", denoDir, folder, `${user}`];
  assert.ok(new Deno.Command("sh", { args }).outputSync().success);
  return folder;
}

/** A control group with a limit on memory, of whichever version the host has that for. */
class MemoryGroup implements AsyncDisposable {
  readonly #mount: string;
  readonly #folder: string;

  private constructor(mount: string, folder: string) {
    this.#mount = mount;
    this.#folder = folder;
  }

  static async make(bytes: number): Promise<MemoryGroup> {
    const mount = await Deno.makeTempDir();
    const mounted = (...args: string[]) =>
      new Deno.Command("mount", { args: [...args, "none", mount] }).outputSync().success;
    assert.ok(mounted("-t", "cgroup2"));
    const controllers = await Deno.readTextFile(`${mount}/cgroup.controllers`);
    const hasMemory = controllers.split(/\s/).includes("memory");
    if (hasMemory) await Deno.writeTextFile(`${mount}/cgroup.subtree_control`, "+memory");
    else {
      new Deno.Command("umount", { args: [mount] }).outputSync();
      assert.ok(mounted("-t", "cgroup", "-o", "memory"));
    }
    const group = new MemoryGroup(mount, `${mount}/tegula-test-${Deno.pid}-${crypto.randomUUID()}`);
    await Deno.mkdir(group.#folder);
    const file = hasMemory ? "memory.max" : "memory.limit_in_bytes";
    await Deno.writeTextFile(`${group.#folder}/${file}`, `${bytes}`);
    return group;
  }

  /** The same command in the group. */
  command(command: readonly string[]): string[] {
    const enter = `echo $$ > ${this.#folder}/cgroup.procs && exec "$@"`;
    return ["sh", "-c", enter, "sh", ...command];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A process that has just been reaped is in its group for a moment more.
    await eventually(
      "an empty group",
      () => Deno.remove(this.#folder).then(() => true as const, () => undefined),
    );
    new Deno.Command("umount", { args: [this.#mount] }).outputSync();
  }
}
