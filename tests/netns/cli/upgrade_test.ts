// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula upgrade`: the master becomes the program that is installed now, in its own process, and that
 * replaces appliance and apps, while nobody misses an answer.
 */

import assert from "node:assert/strict";
import { selfCommand } from "../../../cli/command.ts";
import { configured, temporaryFile } from "../config_file.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  CLIENT,
  Client,
  eventually,
  HOST,
  labTest,
  type Namespace,
  pair,
} from "../lab.ts";
import { childrenByUser, commandLine, processesOf } from "../processes.ts";
import { answering, serving } from "../slow_side.ts";
import { tileCounters } from "../wire_balance.ts";

const PORT = 4000;
const COUNTER = `export default ({ state }) => ({
  begin() { if (state.version === 0) state.setVersion(1); },
  answer: () => String(++state.view[0]),
});`;

/** An installed program, which says of itself that it is this release. */
function installed(release: string, path = temporaryFile("", ".sh")): string {
  const [deno, ...args] = selfCommand();
  const run = `exec ${deno} ${args.join(" ")} "$@"`;
  Deno.writeTextFileSync(path, `#!/bin/sh\nexport RELEASE=${release}\n${run}\n`);
  Deno.chmodSync(path, 0o755);
  return path;
}

/** The release that a process is of. */
function releaseOf(pid: number): string | undefined {
  return Deno.readTextFileSync(`/proc/${pid}/environ`).match(/(?:^|\0)RELEASE=(\w+)/)?.[1];
}

/** Asks for an upgrade; how that ended, and its last words. */
async function upgrade(host: Namespace): Promise<{ code: number; said: string }> {
  const asked = host.spawn([...selfCommand(), "upgrade"]);
  const { code } = await asked.ended();
  return { code, said: [...asked.stdout.all, ...asked.stderr.all].at(-1) ?? "" };
}

labTest("an upgrade costs nobody a datagram, and leaves what apps remember", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const other = new Client(client);
  const path = installed("one");
  const module = temporaryFile(COUNTER, ".js");
  const args = configured(
    `listen = ["7=echo*2", "${PORT}=count"]\n[apps.count]\nmodule = "${module}"\nstate = "4K"`,
  );
  const appliance = await Appliance.start(host, args, { env: { TEGULA_EXECUTABLE: path } });
  const { pid } = appliance.process;
  assert.equal(releaseOf(pid), undefined);
  const flows = Array.from({ length: 16 }, () => ({ source: CLIENT, target: HOST, port: 7 }));
  await asker.start({ flows, rate: 1000 });
  await answeredAtLeast(asker, 100);

  for (const [i, release] of ["two", "three"].entries()) {
    assert.equal((await ask(other, { port: PORT })).text, `${i + 1}`);
    installed(release, path);
    const before = childrenByUser(pid);
    const { code, said } = await upgrade(host);
    assert.equal(code, 0);
    assert.match(said, /^upgraded to .*: answering .*; the rings were taken over$/);
    assert.equal(releaseOf(pid), release, "in the same process");
    const now = childrenByUser(pid);
    assert.deepEqual(Object.keys(now), Object.keys(before));
    for (const user of Object.keys(now)) assert.notEqual(now[user], before[user]);
    const { answered } = await asker.progress();
    await answeredAtLeast(asker, answered + 100);
  }

  // One that does not start is not executed.
  Deno.writeTextFileSync(path, "#!/bin/sh\necho 'it is broken' >&2\nexit 1\n");
  const before = childrenByUser(pid);
  const { code, said } = await upgrade(host);
  assert.equal(code, 2);
  assert.equal((await ask(other, { port: PORT })).text, "3");
  assert.match(said, /does not start: it is broken$/);
  assert.deepEqual(childrenByUser(pid), before);
  Deno.removeSync(path);
  const missing = await upgrade(host);
  assert.equal(missing.code, 2);
  assert.match(missing.said, /no program is installed: Failed to spawn '\S+\.sh': not found$/);

  const { sent, answered, mismatched } = await asker.stop();
  assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
  const tiles = await tileCounters(appliance.process);
  assert.equal(tiles["echo.1"].requests + tiles["echo.2"].requests, sent);
  assert.equal((await appliance.stop()).code, 0);
});

labTest("an upgrade replaces a slow side, too, and reaps it", async (lab) => {
  const path = installed("one");
  const env = { TEGULA_EXECUTABLE: path };
  const { host, appliance, http, said, stderr } = await serving(lab, "", env);
  const { pid } = appliance.process;
  const slowSides = () =>
    processesOf(pid).map((each) => each.pid).filter((each) =>
      commandLine(each).includes("slow beside")
    );
  assert.equal(await http("/", "--data", "one"), "true");
  await said("one");
  for (const release of ["two", "three"]) {
    const [old] = slowSides();
    installed(release, path);
    assert.equal((await upgrade(host)).code, 0);
    assert.equal(releaseOf(pid), release);
    // A process that nobody has waited for would still be there.
    await assert.rejects(Deno.stat(`/proc/${old}`), Deno.errors.NotFound);
    assert.equal(slowSides().length, 1);
    // The new tile has no mail yet, and tells its slow side that it was asked.
    await said("no mail");
    assert.equal(await answering(http), "asked");
    assert.equal(await http("/", "--data", release), "true");
    await said(release);
  }
  assert.deepEqual(
    stderr.all.filter((line) => line.startsWith("slow beside")),
    Array(2).fill("slow beside: its time is over"),
  );
});

labTest("a master's files outlast its upgrade, and go once it is killed", async (lab) => {
  const { host, client } = await pair(lab);
  const path = installed("one");
  const module = temporaryFile('export const answer = (): string => "here";', ".ts");
  const args = configured(
    `listen = ["${PORT}=own", "${PORT + 1}=inside@inline"]\n` +
      `[apps.own]\nmodule = "${module}"\n[apps.inside]\nmodule = "${module}"`,
  );
  const env = { TEGULA_EXECUTABLE: path };
  const appliance = await Appliance.start(host, args, { env });
  const { pid } = appliance.process;
  const temporary = Deno.env.get("TMPDIR") ?? "/tmp";
  const folders = () =>
    [...Deno.readDirSync(temporary)].map(({ name }) => name)
      .filter((name) => name.startsWith(`tegula-${pid}-`));
  const [folder, ...more] = folders();
  assert.ok(folder !== undefined);
  assert.deepEqual(more, []);
  const startAnother = async () => {
    const other = await Appliance.start(client, [
      ...["--interface", "eth0", "--listen", "7=echo", "--control", "none"],
    ]);
    assert.equal((await other.stop()).code, 0);
  };
  await startAnother();
  assert.deepEqual(folders(), [folder]);
  assert.equal((await upgrade(host)).code, 0);
  assert.equal(releaseOf(pid), "one");
  // Those of the appliance that is gone are gone with it.
  const kept = () => [...Deno.readDirSync(`${temporary}/${folder}`)].map(({ name }) => name);
  await eventually(
    "files of one appliance",
    () =>
      Promise.resolve(
        kept().filter((name) => name.startsWith("inside-")).length === 1 || undefined,
      ),
  );
  await startAnother();
  assert.deepEqual(folders(), [folder]);
  await appliance.stop("SIGKILL");
  await startAnother();
  assert.deepEqual(folders(), []);
});

labTest("an upgrade after a reload that failed has the counts of all before it", async (lab) => {
  const { host } = await pair(lab);
  const module = temporaryFile('export const answer = () => "here";', ".js");
  const args = configured(`listen = ["${PORT}=own"]\n[apps.own]\nmodule = "${module}"`);
  const env = { TEGULA_EXECUTABLE: installed("one") };
  const appliance = await Appliance.start(host, args, { env });
  for (let i = 0; i < 20; i++) {
    await host.run(["ip", "route", "add", `203.0.113.${i}/32`, "dev", "eth0"]);
  }
  const events = async () => (await tileCounters(appliance.process)).netlink.events;
  const before = await eventually("events", async () => {
    const count = await events();
    return count >= 20 ? count : undefined;
  });
  // The successor has mirrored the kernel when the app fails.
  Deno.writeTextFileSync(module, "await new Promise((go) => setTimeout(go, 500)); throw 'broken';");
  assert.equal((await host.spawn([...selfCommand(), "reload"]).ended()).code, 2);
  Deno.writeTextFileSync(module, 'export const answer = () => "again";');
  assert.equal((await upgrade(host)).code, 0);
  assert.ok(await events() >= before);
  assert.equal((await appliance.stop()).code, 0);
});
