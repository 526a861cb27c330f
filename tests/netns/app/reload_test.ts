// SPDX-License-Identifier: Apache-2.0
/**
 * What a reload means for apps: those that changed start anew from their files beside the ones that run,
 * the others run on, and no datagram is lost for it; and what becomes of a reload that goes wrong.
 */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import packet from "dns-packet";
import { selfCommand } from "../../../cli/command.ts";
import { configured, temporaryFile } from "../config_file.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  assertStopsPromptly,
  CLIENT,
  Client,
  eventually,
  HOST,
  type Lab,
  labTest,
  type Namespace,
  pair,
  SILENCE_MILLIS,
} from "../lab.ts";
import { childrenByUser, processesOf } from "../processes.ts";
import { tileCounters } from "../wire_balance.ts";

const PORT = 4000;
const DNS = 53;
/** Of proc_pid_stat(5), from the state on. */
const NICE_FIELD = 16;
/** What the log says of a reload that failed, before the reason. */
const FAILED = "reload failed, nothing has changed: ";

/**
 * An app that answers with what was in its file as it started, which must not be "broken"; while that is
 * "wait" its start waits.
 */
const TELLER = `export default async function create({ options }) {
  const read = () => Deno.readTextFile(options.file);
  let text = await read();
  if (text === "wait") console.log("waits");
  // Empty it is half written.
  for (; ["wait", ""].includes(text); text = await read()) {
    await new Promise((done) => setTimeout(done, 10));
  }
  if (text === "broken") throw new Error("what it reads is broken");
  return {
    answer({ payload }) {
      const word = new TextDecoder().decode(payload);
      if (word === "exit") Deno.exit(3);
      while (word === "hang");
      return text;
    },
  };
}`;

/** Arguments for an appliance with `teller`, which reads `file`, and others. */
function withTeller(file: string, others = "", module = temporaryFile(TELLER, ".ts")): string[] {
  return configured(tellerConfig(file, { others, module }));
}

function tellerConfig(file: string, { others = "", module }: { others?: string; module: string }) {
  return [
    `listen = ["${PORT}=teller"${others}]`,
    `[apps.teller]\nmodule = "${module}"\nread = ["${file}"]\noptions = { file = "${file}" }`,
  ].join("\n");
}

/** A zone in which www.example.org has this address. */
function zone(address: string): string {
  return `$ORIGIN example.org.
$TTL 60
@ IN SOA ns1 host 1 3600 600 86400 60
@ NS ns1
ns1 A 198.18.0.1
www A ${address}
`;
}

/** Asks the name server for the address of www.example.org. */
async function lookUp(asker: Client): Promise<string> {
  const questions = [{ type: "A", name: "www.example.org" }];
  const { bytes } = await ask(asker, {
    port: DNS,
    payload: new Uint8Array(packet.encode({ type: "query", id: 1, questions })),
  });
  assert.ok(bytes, "an answer");
  return packet.decode(Buffer.from(bytes)).answers[0].data;
}

/** Has the appliance reload by a signal; returns what it says of it. */
async function reload({ process }: Appliance): Promise<string> {
  const from = process.stderr.all.length;
  process.kill("SIGHUP");
  return await process.stderr.find("reload", { from });
}

const isReload = (line: string) => line.startsWith("reload");

/** Asserts that a reload goes well, and takes the rings over. */
async function assertReloads(appliance: Appliance): Promise<void> {
  assert.match(await reload(appliance), /^reloaded: answering .*; the rings were taken over$/);
}

/** The nice values of V8's threads, and of all others, of the appliance and of the apps. */
function priorities(main: number): { compiling: Set<number>; others: Set<number> } {
  const [compiling, others] = [new Set<number>(), new Set<number>()];
  for (const { pid } of processesOf(main).filter(({ role }) => role !== "main")) {
    for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
      const stat = Deno.readTextFileSync(`/proc/${pid}/task/${name}/stat`);
      const after = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      (/\(V8 /.test(stat) ? compiling : others).add(Number(after[NICE_FIELD]));
    }
  }
  return { compiling, others };
}

labTest("V8's threads give way to tiles in what took over, and in nothing else", async (lab) => {
  const { host } = await pair(lab);
  const file = temporaryFile("first");
  const appliance = await Appliance.start(host, withTeller(file));
  const { pid } = appliance.process;
  assert.deepEqual(priorities(pid), { compiling: new Set([0]), others: new Set([0]) });
  Deno.writeTextFileSync(file, "second");
  await assertReloads(appliance);
  await eventually("the predecessors to end", () => {
    return Promise.resolve(processesOf(pid).length === 3 ? true : undefined);
  });
  assert.deepEqual(priorities(pid), { compiling: new Set([10]), others: new Set([0]) });
});

labTest("an app with deep links and little memory is reloaded", async (lab) => {
  const { host, asker } = await pair(lab);
  const file = temporaryFile("first");
  const module = temporaryFile(TELLER, ".ts");
  // The deepest links there are.
  const deep = `depth = 16384\nmemory = "64M"`;
  const appliance = await Appliance.start(
    host,
    configured(`${tellerConfig(file, { module, others: `, "7=echo"` })}\n${deep}`),
  );
  Deno.writeTextFileSync(file, "second");
  await assertReloads(appliance);
  await told(asker, "second");
});

/** Asks the teller until it says this: what waited for one that has ended may be lost. */
async function told(asker: Client, text: string, port = PORT): Promise<void> {
  await eventually(`"${text}" at ${port}`, async () => {
    const answer = await ask(asker, { port, timeoutMs: 1000 });
    return answer.text === text || undefined;
  });
}

/** An appliance, launched, whose teller's file says this; `write` changes what it says. */
async function telling(lab: Lab, text: string) {
  const { host, client, asker } = await pair(lab);
  const file = temporaryFile(text);
  const appliance = Appliance.launch(host, withTeller(file, ', "7=echo"'));
  const write = (text: string) => Deno.writeTextFileSync(file, text);
  const { stderr } = appliance.process;
  const waits = (from: number) => stderr.find("teller: waits", { from });
  return { client, asker, appliance, stderr, write, waits };
}

/** Traffic to echo that runs until `settle`, which asserts that all of it was answered; how much that was. */
async function steady(client: Namespace) {
  const asker = new Client(client);
  const flows = Array.from({ length: 16 }, () => ({ source: CLIENT, target: HOST, port: 7 }));
  await asker.start({ flows, rate: 1000 });
  await answeredAtLeast(asker, 100);
  return async function settle(): Promise<number> {
    const { sent, answered, mismatched } = await asker.stop();
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
    return sent;
  };
}

labTest("a reload reads a changed zone, and costs nobody a datagram", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const file = temporaryFile(zone("198.18.0.80"));
  const options = `read = ["${file}"]\noptions = { zone = "${file}" }`;
  const listen = `listen = ["7=echo*2", "${DNS}=dns"]`;
  const appliance = await Appliance.start(host, configured(`${listen}\n[apps.dns]\n${options}`));
  const settle = await steady(client);
  assert.equal(await lookUp(asker), "198.18.0.80");
  let before = childrenByUser(appliance.process.pid);
  for (const address of ["198.18.0.81", "198.18.0.82"]) {
    Deno.writeTextFileSync(file, zone(address));
    await assertReloads(appliance);
    await eventually("the new zone", async () => await lookUp(asker) === address || undefined);
    const now = childrenByUser(appliance.process.pid);
    // The first is the appliance, then come the apps as they are configured.
    const isSame = Object.keys(before).map((user) => before[user] === now[user]);
    assert.deepEqual(isSame, [false, true, true, false]);
    before = now;
  }
  const sent = await settle();
  // What tiles have counted continues.
  const tiles = await tileCounters(appliance.process);
  assert.equal(tiles["echo.1"].requests + tiles["echo.2"].requests, sent);
  assert.ok(tiles.dns.requests >= 3, `${tiles.dns.requests}`);
  assert.equal((await appliance.stop()).code, 0);
});

labTest("a mistake in a zone, a module or the configuration leaves all as it was", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const file = temporaryFile(zone("198.18.0.80"));
  const module = temporaryFile(TELLER, ".ts");
  const args = withTeller(temporaryFile("old"), `, "7=echo", "${DNS}=dns"`, module);
  const options = `\n[apps.dns]\nread = ["${file}"]\noptions = { zone = "${file}" }`;
  Deno.writeTextFileSync(args[1], options, { append: true });
  const appliance = await Appliance.start(host, args);
  const settle = await steady(client);
  const before = childrenByUser(appliance.process.pid);
  async function fails(sentence: RegExp): Promise<void> {
    const said = await reload(appliance);
    assert.ok(said.startsWith(FAILED), said);
    assert.match(said, sentence);
    assert.equal((await ask(asker, { port: PORT })).text, "old");
    // The successors are gone, and the ones that ran run on.
    await eventually("the same processes", () => {
      const now = JSON.stringify(childrenByUser(appliance.process.pid));
      return Promise.resolve(now === JSON.stringify(before) || undefined);
    });
  }

  Deno.writeTextFileSync(file, `${zone("198.18.0.81")}ftp A 198.18.0.300\n`);
  await fails(/: \/.*: line 7: '198.18.0.300' is not an IPv4/);
  assert.equal(await lookUp(asker), "198.18.0.80");
  // Who asks for it is told the same.
  const asked = host.spawn([...selfCommand(), "reload"]);
  assert.equal((await asked.ended()).code, 2);
  assert.match(
    asked.stderr.all.join("\n"),
    /^tegula: .*: line 7: '198.18.0.300' is not an IPv4.*$/,
  );
  Deno.writeTextFileSync(file, zone("198.18.0.80"));

  const mistakes = {
    "export function answer( {": /the app teller: its module cannot be loaded: SyntaxError/,
    "export const nothing = 1;": /the app teller: its module exports neither/,
    "Deno.exit(5); await new Promise(() => {});": /the app teller: ended: it left/,
    "Promise.reject(new Error('loose')); await new Promise(() => {});":
      /the app teller: loose; see/,
  };
  for (const [text, sentence] of Object.entries(mistakes)) {
    Deno.writeTextFileSync(module, text);
    await fails(sentence);
  }
  const config = Deno.readTextFileSync(args[1]);
  Deno.writeTextFileSync(args[1], `${config}\nnonsense = true`);
  await fails(/nonsense/);
  Deno.writeTextFileSync(args[1], config);

  Deno.writeTextFileSync(module, 'export const answer = () => "new";');
  const { code } = await host.spawn([...selfCommand(), "reload"]).ended();
  assert.equal(code, 0);
  await told(asker, "new");
  await settle();
  assert.equal((await appliance.stop()).code, 0);
});

labTest("options, ports and apps come and go by a reload", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const module = temporaryFile(TELLER, ".ts");
  const [one, two] = [temporaryFile("one"), temporaryFile("two")];
  const args = withTeller(one, ', "7=echo"', module);
  const appliance = await Appliance.start(host, args);
  const settle = await steady(client);
  const write = (text: string) => Deno.writeTextFileSync(args[1], `interfaces = ["eth0"]\n${text}`);
  await told(asker, "one");
  write(tellerConfig(two, { others: ', "7=echo"', module }));
  await assertReloads(appliance);
  await told(asker, "two");
  write(tellerConfig(one, { others: `, "${PORT + 1}=teller", "7=echo"`, module }));
  await assertReloads(appliance);
  await told(asker, "one");
  await told(asker, "one", PORT + 1);
  write(tellerConfig(one, { others: ', "7=echo"', module }));
  await assertReloads(appliance);
  await told(asker, "one");
  assert.equal((await ask(asker, { port: PORT + 1, timeoutMs: SILENCE_MILLIS })).bytes, null);
  await settle();

  // Another app is another shape: AF_XDP is opened again meanwhile.
  write(tellerConfig(one, { others: ', "7=echo", "9=time"', module }));
  assert.match(await reload(appliance), /^reloaded: .*9=time.*; AF_XDP was opened again$/);
  await told(asker, "one");
  await askUntilAnswered(asker, { port: 9 });
  assert.equal(Object.keys(childrenByUser(appliance.process.pid)).length, 4);
  write(tellerConfig(one, { module }));
  assert.match(await reload(appliance), /^reloaded: .*; AF_XDP was opened again$/);
  await told(asker, "one");
  assert.equal(Object.keys(childrenByUser(appliance.process.pid)).length, 2);
  assert.equal((await ask(asker, { port: 9, timeoutMs: SILENCE_MILLIS })).bytes, null);

  // Whatever the predecessors had is closed.
  const descriptors = () => [...Deno.readDirSync(`/proc/${appliance.process.pid}/fd`)].length;
  const before = descriptors();
  write(tellerConfig(one, { others: ', "9=time"', module }));
  assert.match(await reload(appliance), /AF_XDP was opened again$/);
  write(tellerConfig(one, { module }));
  assert.match(await reload(appliance), /AF_XDP was opened again$/);
  await eventually(
    `${before} descriptors, not ${descriptors()}`,
    () => Promise.resolve(descriptors() <= before || undefined),
  );
  assert.equal((await appliance.stop()).code, 0);
});

labTest(
  "signals before it is ready, and during a reload, are for what is read after them",
  async (lab) => {
    const { asker, appliance, stderr, write, waits } = await telling(lab, "wait");
    await waits(0);
    const from = stderr.all.length;
    for (let i = 0; i < 2; i++) appliance.process.kill("SIGHUP");
    write("one");
    await appliance.ready();
    await stderr.find("reloaded: ", { from });
    await told(asker, "one");

    const second = stderr.all.length;
    write("wait");
    appliance.process.kill("SIGHUP");
    await waits(second);
    assert.equal((await ask(asker, { port: PORT })).text, "one", "the old one answers meanwhile");
    // All that come before the next one begins are for that one.
    for (let i = 0; i < 20; i++) {
      appliance.process.kill("SIGHUP");
      await appliance.counters();
    }
    write("two");
    await stderr.find("reloaded: ", { from: second });
    await stderr.find("reloaded: ", { from: stderr.all.findLastIndex(isReload) + 1 });
    await told(asker, "two");
    const reloads = stderr.all.filter(isReload);
    assert.equal(reloads.length, 3, stderr.all.join("\n"));
    assert.equal((await appliance.stop()).code, 0);
  },
);

labTest("an app that leaves during its reload is relieved by the new one", async (lab) => {
  const { client, asker, appliance, stderr, write, waits } = await telling(lab, "one");
  await appliance.ready();
  const settle = await steady(client);
  write("wait");
  let from = stderr.all.length;
  appliance.process.kill("SIGHUP");
  await waits(from);
  await ask(asker, { port: PORT, payload: "exit", timeoutMs: 1 });
  await stderr.find("teller: ended: it left with status 3; starting it again in 50 ms", { from });
  // The one that is started again reads the same file.
  await waits(stderr.all.indexOf("teller: waits", from) + 1);
  write("two");
  await stderr.find("reloaded: ", { from });
  await told(asker, "two");

  // A start that fails again and again is not waited for until its pause is over. What has ended a process at once
  // is skipped by the next one that goes.
  for (const pause of [200, 800]) {
    await ask(asker, { port: PORT, payload: "exit", timeoutMs: 1 });
    await stderr.find(`teller: ended: it left with status 3; starting it again in ${pause} ms`, {
      from,
    });
    if (pause < 800) await told(asker, "two");
  }
  from = stderr.all.length;
  write("broken");
  const failed =
    /^teller: ended: what it reads is broken at file:\S+; starting it again in (\d+) ms$/;
  await eventually("a long pause", () => {
    const pauses = stderr.all.slice(from).map((line) => Number(failed.exec(line)?.[1] ?? 0));
    return Promise.resolve(Math.max(0, ...pauses) > 800 || undefined);
  });
  assert.match(
    await reload(appliance),
    /^reload failed.*: the app teller: what it reads is broken/,
  );
  write("three");
  from = stderr.all.length;
  await assertReloads(appliance);
  await told(asker, "three");
  // What made it leave waits no more.
  assert.deepEqual(stderr.all.slice(from).filter((line) => line.startsWith("teller: ")), []);
  await settle();
  assert.equal((await appliance.stop()).code, 0);
});

labTest("an app that hangs during a reload holds up only itself", async (lab) => {
  const { client, asker, appliance, stderr, write } = await telling(lab, "one");
  await appliance.ready();
  const settle = await steady(client);
  await ask(asker, { port: PORT, payload: "hang", timeoutMs: 1 });
  write("two");
  await assertReloads(appliance);
  await settle();
  // What waited is skipped: it may have been the reason.
  await told(asker, "two");
  const killed = stderr.all.filter((line) => line.startsWith("teller: "));
  assert.deepEqual(killed, ["teller: killed: it hangs, and was to end"]);
  assert.equal((await appliance.stop()).code, 0);
});

labTest("a reload that has not ended does not keep it from ending", async (lab) => {
  const { appliance, stderr, write, waits } = await telling(lab, "one");
  await appliance.ready();
  write("wait");
  const from = stderr.all.length;
  appliance.process.kill("SIGHUP");
  await waits(from);
  await assertStopsPromptly(() => Promise.resolve(appliance));
  const said = stderr.all.slice(from).filter((line) =>
    !/^counters: |told to (stop|end)/.test(line)
  );
  assert.deepEqual(said, ["teller: waits"]);
});

labTest("an app inside the net tile is reloaded, too, and loses nothing", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const module = temporaryFile('export const answer = () => "old";', ".ts");
  const listen = `listen = ["7=echo@inline", "${PORT}=mine@inline"]`;
  const args = configured(`${listen}\n[apps.mine]\nmodule = "${module}"`);
  const appliance = await Appliance.start(host, args);
  const settle = await steady(client);
  assert.equal((await ask(asker, { port: PORT })).text, "old");
  Deno.writeTextFileSync(module, 'export const answer = () => "new";');
  await assertReloads(appliance);
  assert.equal((await ask(asker, { port: PORT })).text, "new");
  Deno.writeTextFileSync(module, "export const answer = {");
  assert.match(await reload(appliance), /its module cannot be loaded: SyntaxError/);
  assert.equal((await ask(asker, { port: PORT })).text, "new");
  await settle();
  // Of all these there are the files of the appliance that runs.
  const files = () => {
    const temporary = Deno.env.get("TMPDIR") ?? "/tmp";
    const own = [...Deno.readDirSync(temporary)].map(({ name }) => name)
      .filter((name) => name.startsWith(`tegula-${appliance.process.pid}-`));
    return own.flatMap((name) => [...Deno.readDirSync(`${temporary}/${name}`)])
      .filter(({ name }) => name.startsWith("mine-"));
  };
  await eventually("one folder", () => Promise.resolve(files().length === 1 || undefined));
});

labTest("what an app remembers outlasts its reload and its end", async (lab) => {
  const { host, asker } = await pair(lab);
  const counting = (word: string) =>
    `export default ({ state }) => ({
      begin() { if (state.version === 0) state.setVersion(7); },
      answer({ payload }) {
        if (payload.length === 4) Deno.exit(3);
        return \`${word} \${state.version} \${++state.view[0]}\`;
      },
    });`;
  const module = temporaryFile(counting("old"), ".js");
  const app = `[apps.mine]\nmodule = "${module}"\nstate = "64K"`;
  const appliance = await Appliance.start(host, configured(`listen = ["${PORT}=mine"]\n${app}`));
  const told = async () => (await ask(asker, { port: PORT })).text;
  assert.equal(await told(), "old 7 1");
  Deno.writeTextFileSync(module, counting("new"));
  await assertReloads(appliance);
  const word = await eventually("the new one", async () => {
    const text = await told();
    return text?.startsWith("new") ? text : undefined;
  });
  assert.match(word, /^new 7 [2-9]$/);
  const { answers } = (await tileCounters(appliance.process)).mine;
  assert.equal(word, `new 7 ${answers}`);
  await ask(asker, { port: PORT, payload: "exit", timeoutMs: SILENCE_MILLIS });
  assert.equal((await askUntilAnswered(asker, { port: PORT })).text, `new 7 ${answers + 1}`);
});

labTest("a file that changes while its app starts is read by the next reload", async (lab) => {
  const { host, asker } = await pair(lab);
  const file = temporaryFile("one");
  // Of what it has read the start ends when there is something else.
  const module = temporaryFile(
    `export default async function create({ options }) {
      const text = await Deno.readTextFile(options.file);
      if (text === "one") console.log("has read it");
      while (text === "one" && await Deno.readTextFile(options.file) !== "two") {
        await new Promise((done) => setTimeout(done, 10));
      }
      return { answer: () => text };
    }`,
    ".ts",
  );
  const appliance = Appliance.launch(host, configured(tellerConfig(file, { module })));
  await appliance.process.stderr.find("teller: has read it");
  Deno.writeTextFileSync(file, "two");
  await appliance.ready();
  assert.equal((await ask(asker, { port: PORT })).text, "one");
  await assertReloads(appliance);
  await told(asker, "two");
  // What is as it was is not started again.
  const before = childrenByUser(appliance.process.pid);
  await assertReloads(appliance);
  const now = childrenByUser(appliance.process.pid);
  assert.deepEqual(Object.keys(before).map((user) => before[user] === now[user]), [false, true]);
});

labTest("a reload that fails leaves an app its state, and takes no port", async (lab) => {
  const { host, asker } = await pair(lab);
  const counting = `export default ({ state }) => ({
    begin() { if (state.version === 0) state.setVersion(1); },
    answer({ payload }) {
      if (payload.length === 4) Deno.exit(3);
      return \`\${state.view.length} \${++state.view[0]}\`;
    },
  });`;
  const module = temporaryFile(counting, ".js");
  const args = configured("");
  const write = (state: string, others = "") =>
    Deno.writeTextFileSync(
      args[1],
      `interfaces = ["eth0"]\nlisten = ["${PORT}=mine"${others}]\n` +
        `[apps.mine]\nmodule = "${module}"\nstate = "${state}"`,
    );
  write("64K");
  const appliance = await Appliance.start(host, args);
  const counted = async () => (await ask(asker, { port: PORT })).text;
  assert.equal(await counted(), "65536 1");
  write("128K");
  Deno.writeTextFileSync(module, "throw new Error('broken');");
  assert.match(await reload(appliance), /^reload failed.*: the app mine: .*broken/);
  Deno.writeTextFileSync(module, counting);
  assert.equal(await counted(), "65536 2");
  await ask(asker, { port: PORT, payload: "exit", timeoutMs: SILENCE_MILLIS });
  assert.equal((await askUntilAnswered(asker, { port: PORT })).text, "65536 3");
  await assertReloads(appliance);
  await eventually("the other size", async () => await counted() === "131072 2" || undefined);
  await ask(asker, { port: PORT, payload: "exit", timeoutMs: SILENCE_MILLIS });
  assert.equal((await askUntilAnswered(asker, { port: PORT })).text, "131072 3");

  // One that fails before a successor is started.
  const elsewhere = temporaryFile('import "/etc/hostname.ts";', ".ts");
  write("128K", `, "${PORT + 1}=${elsewhere}@inline"`);
  assert.ok((await reload(appliance)).startsWith(FAILED));
  const sockets = Deno.readTextFileSync(`/proc/${appliance.process.pid}/net/udp`);
  assert.match(sockets, new RegExp(`:${PORT.toString(16).toUpperCase().padStart(4, "0")} `));
  assert.doesNotMatch(
    sockets,
    new RegExp(`:${(PORT + 1).toString(16).toUpperCase().padStart(4, "0")} `),
  );
});
