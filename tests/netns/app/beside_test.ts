// SPDX-License-Identifier: Apache-2.0
/** The slow side of an app in the running program: an HTTP server beside a tile, joined by the mailbox. */

import assert from "node:assert/strict";
import { selfCommand } from "../../../cli/command.ts";
import { configured } from "../config_file.ts";
import {
  answeredAtLeast,
  ask,
  CLIENT,
  Client,
  eventually,
  HOST,
  labTest,
  pair,
  refusal,
} from "../lab.ts";
import { commandLine, processesOf } from "../processes.ts";
import { answering, config, PORT, serving } from "../slow_side.ts";

labTest("an app and its slow side have mail of each other", async (lab) => {
  const { asker, http, said } = await serving(lab);
  assert.equal(await http("/"), "no mail");
  assert.equal(await http("/", "--data", "from HTTP"), "true");
  await said("from HTTP");
  await ask(asker, { port: PORT, payload: "? from UDP" });
  await eventually("mail of the app", async () => await http("/") === "from UDP" || undefined);
});

labTest("a slow side cannot open what it is not granted", async (lab) => {
  const { http } = await serving(lab);
  assert.deepEqual((await http("/try"))!.split("\n"), [
    "read a file: NotCapable",
    "write a file: NotCapable",
    "read a variable: NotCapable",
    "connect: NotCapable",
    "listen: NotCapable",
    "execute: NotCapable",
    "load a library: NotCapable",
  ]);
});

labTest("metrics of a slow side are shown, and go on after its end and a reload", async (lab) => {
  const { appliance, http, metrics, stderr, file } = await serving(lab);
  const shown = /^tegula_app_custom_total\{app="slow",tile="slow beside",name="requests"\} (\d+)$/m;
  const requests = async () => Number(shown.exec(await metrics())?.[1]);
  for (let i = 0; i < 10; i++) await http("/");
  assert.equal(await requests(), 10);
  await http("/throw");
  await stderr.find("slow beside: ended");
  await answering(http);
  const before = await requests();
  assert.ok(before >= 12, `${before}`);
  Deno.writeTextFileSync(file, `${Deno.readTextFileSync(file)}\noptions = { other = 1 }\n`);
  appliance.process.kill("SIGHUP");
  await stderr.find("reloaded: ");
  await answering(http);
  assert.ok(await requests() > before);
});

for (const by of ["Deno.watchFs", "node:fs"]) {
  labTest(`a slow side watches a folder that it was granted, by ${by}`, async (lab) => {
    const folder = Deno.makeTempDirSync({ prefix: "tegula-watched-" });
    Deno.chmodSync(folder, 0o755);
    const replace = (text: string) => {
      Deno.writeTextFileSync(`${folder}/new`, text);
      Deno.renameSync(`${folder}/new`, `${folder}/text`);
    };
    try {
      replace("first");
      const { said } = await serving(
        lab,
        `read = ["${folder}"]\noptions = { watch = "${folder}", by = "${by}" }`,
      );
      for (const text of ["second", "third"]) {
        replace(text);
        await said(text);
      }
      Deno.writeTextFileSync(`${folder}/text`, "fourth");
      await said("fourth");
    } finally {
      Deno.removeSync(folder, { recursive: true });
    }
  });
}

labTest("a slow side that opens what it was not granted is told the grant", async (lab) => {
  const { appliance, http, stderr, file } = await serving(lab);
  const text = Deno.readTextFileSync(file);
  const told = /: it has no read access to "\/etc": \[apps\] grants it, read = \["\/etc"\]/;
  Deno.writeTextFileSync(file, `${text}\noptions = { watch = "/etc", by = "Deno.watchFs" }\n`);
  appliance.process.kill("SIGHUP");
  assert.match(await stderr.find("reload failed"), told);
  // Also once it runs.
  await http("/open");
  assert.match(await stderr.find("slow beside: ended"), told);
});

for (
  const [path, says] of [
    ["/throw", /^slow beside: ended: Cannot read properties .*; starting it again in 50 ms$/],
    ["/hang", /^slow beside: killed: it hangs; starting it again in 50 ms$/],
    // Whoever sees first that there is no memory: the master, V8, or the kernel.
    [
      "/leak",
      /^slow beside: (killed|ended: Array buffer allocation failed).*; starting it again in 50 ms$/,
    ],
  ] as const
) {
  labTest(
    `a slow side that does ${path} is started again alone, and no datagram is lost`,
    async (lab) => {
      const { client, http, stderr, said } = await serving(lab);
      const load = new Client(client);
      await load.start({ flows: [{ source: CLIENT, target: HOST, port: PORT }], rate: 200 });
      await answeredAtLeast(load, 20);
      const dead = http(path);
      await stderr.find("slow beside: ");
      await dead;
      await answering(http);
      assert.equal(await http("/", "--data", "again"), "true");
      await said("again");
      const { sent, answered } = await load.stop();
      assert.equal(answered, sent);
      const lines = stderr.all.filter((line) => line.includes("starting it again"));
      assert.equal(lines.length, 1, lines.join("\n"));
      assert.match(lines[0], says);
    },
  );
}

labTest(
  "a reload replaces both, and ends the old slow side before the new one begins",
  async (lab) => {
    const { appliance, http, said, stderr, file } = await serving(lab);
    await http("/", "--data", "before");
    await said("before");
    const text = Deno.readTextFileSync(file);
    Deno.writeTextFileSync(file, `${text}\noptions = { other = 1 }\n`);
    appliance.process.kill("SIGHUP");
    await stderr.find("reloaded: ");
    await said("no mail");
    assert.equal(await answering(http), "asked");
    assert.deepEqual(
      stderr.all.filter((line) => line.startsWith("slow")),
      ["slow beside: its time is over"],
    );
    Deno.writeTextFileSync(file, `${text}\noptions = { broken = true }\n`);
    appliance.process.kill("SIGHUP");
    assert.match(await stderr.find("reload failed"), /: its slow side: as it was told/);
    assert.equal(await http("/", "--data", "on it goes"), "true");
    await said("on it goes");
  },
);

labTest("a slow side that is to end has its mail until it has ended", async (lab) => {
  const { appliance, stderr, file } = await serving(lab, "options = { polite = true }");
  Deno.writeTextFileSync(file, Deno.readTextFileSync(file).replace("polite", "other"));
  appliance.process.kill("SIGHUP");
  await stderr.find("reloaded: ");
  assert.deepEqual(
    stderr.all.filter((line) => line.startsWith("slow")),
    ["slow beside: its time is over"],
  );
});

labTest("a slow side that ends before its app is ready harms nobody else", async (lab) => {
  const { appliance, asker, http, stderr, file } = await serving(lab);
  const text = Deno.readTextFileSync(file);
  Deno.writeTextFileSync(file, `${text}\noptions = { early = true }\n`);
  appliance.process.kill("SIGHUP");
  await stderr.find("slow beside: ended: Cannot read properties");
  assert.equal((await ask(asker, { port: PORT, payload: "hello", timeoutMs: 5000 })).text, "hello");
  Deno.writeTextFileSync(file, text);
  appliance.process.kill("SIGHUP");
  await stderr.find("reloaded: ");
  await answering(http);
});

labTest("a start and check say why a slow side ended before its app was ready", async (lab) => {
  const { host } = await pair(lab);
  const args = configured(config("options = { early = true }"));
  const why = "the app slow: its slow side: Cannot read properties of undefined";
  const { code, said } = await refusal(host.spawn([...selfCommand(), "run", ...args]));
  assert.equal(code, 2);
  assert.ok(said.startsWith(`tegula: ${why}`), said);
  const check = host.spawn([...selfCommand(), "check", "--quiet", ...args]);
  await check.stdout.find(`fail app slow: ${why}`);
  assert.equal((await check.ended()).code, 2);
});

labTest("a slow side ends with its app, and begins again with it", async (lab) => {
  const { appliance, http, said, stderr } = await serving(lab);
  await http("/", "--data", "before");
  await said("before");
  const apps = processesOf(appliance.process.pid).filter(({ role }) => role === "app");
  assert.equal(apps.length, 2);
  const tile = apps.find(({ pid }) => !commandLine(pid).includes("slow beside"))!;
  Deno.kill(tile.pid, "SIGKILL");
  await stderr.find("slow beside: its time is over");
  await said("no mail");
  assert.equal(await answering(http), "asked");
  const left = processesOf(appliance.process.pid).map(({ pid }) => pid);
  assert.equal(left.some((pid) => apps.some((each) => each.pid === pid)), false);
});
