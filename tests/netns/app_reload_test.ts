/**
 * What a reload does: apps start anew from their files while the old ones go on, one after the other,
 * and no datagram is lost for it; and what becomes of one that goes wrong.
 */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import packet from "dns-packet";
import { configured, temporaryFile } from "./config_file.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  CLIENT,
  Client,
  HOST,
  labTest,
  pair,
  SILENCE_MILLIS,
} from "./lab.ts";
import { tileCounters } from "./wire_balance.ts";

const PORT = 4000;
const DNS = 53;

/** An app that answers with what was in its file as it started, which must not be "broken". */
const TELLER = `export default async function create({ options }) {
  const text = await Deno.readTextFile(options.file);
  if (text === "broken") throw new Error("what it reads is broken");
  return {
    answer({ payload }) {
      if (new TextDecoder().decode(payload) === "exit") Deno.exit(3);
      return text;
    },
  };
}`;

/** Arguments for an appliance with `teller`, which reads `file`, and others. */
function withTeller(file: string, others = "", module = temporaryFile(TELLER, ".ts")): string[] {
  return configured([
    `listen = ["${PORT}=teller"${others}]`,
    `[apps.teller]\nmodule = "${module}"\nread = ["${file}"]\noptions = { file = "${file}" }`,
  ].join("\n"));
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

/** Has the appliance reload, and waits for what `name` says of it. */
async function reload({ process }: Appliance, name: string): Promise<string> {
  const from = process.stderr.all.length;
  process.kill("SIGURG");
  const line = await process.stderr.find(`${name}: `, { from });
  return line.includes("serves zone")
    ? await process.stderr.find(`${name}: reloaded`, { from })
    : line;
}

/** A file that who reads it waits for, so that a test decides how long a start takes. */
class Fifo {
  readonly path = temporaryFile("");

  constructor() {
    this.#make();
  }

  /** Makes it, or another one in its place, for whoever reads next. */
  #make(): void {
    Deno.removeSync(this.path);
    assert.ok(new Deno.Command("mkfifo", { args: [this.path] }).outputSync().success);
  }

  /** Waits until somebody reads it. What `say` is given is what they then read. */
  async read(): Promise<{ say(text: string): void; [Symbol.dispose](): void }> {
    const file = await Deno.open(this.path, { write: true });
    return {
      say: (text) => {
        this.#make();
        file.writeSync(new TextEncoder().encode(text));
        file.close();
      },
      [Symbol.dispose]: () => file.close(),
    };
  }

  /** Lets the next one that reads it read this. */
  async say(text: string): Promise<void> {
    (await this.read()).say(text);
  }
}

/** An appliance whose teller reads a fifo. */
async function held(lab: Parameters<Parameters<typeof labTest>[1]>[0], others = "") {
  const { host, client, asker } = await pair(lab);
  const fifo = new Fifo();
  const appliance = Appliance.launch(host, withTeller(fifo.path, others));
  const tell = async () => (await ask(asker, { port: PORT })).text;
  return { host, client, asker, fifo, appliance, tell, stderr: appliance.process.stderr };
}

labTest("a reload reads a changed zone, and costs nobody a datagram", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const file = temporaryFile(zone("198.18.0.80"));
  const options = `read = ["${file}"]\noptions = { zone = "${file}" }`;
  const listen = `listen = ["7=echo*2", "${DNS}=dns"]`;
  const appliance = await Appliance.start(host, configured(`${listen}\n[apps.dns]\n${options}`));
  const flows = Array.from({ length: 16 }, () => ({ source: CLIENT, target: HOST, port: 7 }));
  await asker.start({ flows, rate: 2000 });
  await answeredAtLeast(asker, 100);
  const other = new Client(client);
  assert.equal(await lookUp(other), "198.18.0.80");
  for (const address of ["198.18.0.81", "198.18.0.82"]) {
    Deno.writeTextFileSync(file, zone(address));
    const from = appliance.process.stderr.all.length;
    assert.equal(await reload(appliance, "dns"), "dns: reloaded");
    const said = appliance.process.stderr.all.slice(from).filter((line) => /reloaded/.test(line));
    assert.deepEqual(said, ["echo.1: reloaded", "echo.2: reloaded", "dns: reloaded"]);
    assert.equal(await lookUp(other), address);
  }
  const { sent, answered, mismatched } = await asker.stop();
  assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
  // What tiles have counted goes on.
  const tiles = await tileCounters(appliance.process);
  assert.equal(tiles["echo.1"].requests + tiles["echo.2"].requests, sent);
  assert.equal(tiles.dns.requests, 3);
  assert.equal((await appliance.stop()).code, 0);
});

labTest(
  "a zone or a module with a mistake leaves the old one in place, and is named",
  async (lab) => {
    const { host, asker } = await pair(lab);
    const file = temporaryFile(zone("198.18.0.80"));
    const module = temporaryFile(TELLER, ".ts");
    const args = withTeller(temporaryFile("old"), `, "${DNS}=dns"`, module);
    const options = `\n[apps.dns]\nread = ["${file}"]\noptions = { zone = "${file}" }`;
    Deno.writeTextFileSync(args[1], options, { append: true });
    const appliance = await Appliance.start(host, args);

    Deno.writeTextFileSync(file, `${zone("198.18.0.81")}ftp A 198.18.0.300\n`);
    assert.match(
      await reload(appliance, "dns"),
      /^dns: not reloaded, goes on as it was: \/.*: line 7: '198.18.0.300' is no IPv4/,
    );
    assert.equal(await lookUp(asker), "198.18.0.80");
    Deno.writeTextFileSync(file, zone("198.18.0.82"));
    assert.equal(await reload(appliance, "dns"), "dns: reloaded");
    assert.equal(await lookUp(asker), "198.18.0.82");

    const mistakes = {
      "export function answer( {": /its module cannot be loaded: SyntaxError/,
      "export const nothing = 1;": /: its module exports neither/,
      "Deno.exit(5); await new Promise(() => {});": /it left$/,
      "Promise.reject(new Error('loose')); await new Promise(() => {});": /loose$/,
    };
    for (const [text, sentence] of Object.entries(mistakes)) {
      Deno.writeTextFileSync(module, text);
      const said = await reload(appliance, "teller");
      assert.ok(said.startsWith("teller: not reloaded, goes on as it was: "), said);
      assert.match(said, sentence);
      assert.equal((await ask(asker, { port: PORT })).text, "old");
    }
    Deno.writeTextFileSync(module, 'export const answer = () => "new";');
    assert.equal(await reload(appliance, "teller"), "teller: reloaded");
    assert.equal((await ask(asker, { port: PORT })).text, "new");
    assert.equal((await appliance.stop()).code, 0);
  },
);

labTest(
  "signals before it is ready, and during a reload, are for what is read after them",
  async (lab) => {
    const { fifo, appliance, tell, stderr } = await held(lab);
    const first = await fifo.read();
    appliance.process.kill("SIGURG");
    appliance.process.kill("SIGURG");
    first.say("one");
    await appliance.ready();
    const second = await fifo.read();
    assert.equal(await tell(), "one", "while the new one starts the old one answers");
    const from = stderr.all.length;
    appliance.process.kill("SIGURG");
    appliance.process.kill("SIGURG");
    second.say("two");
    await stderr.find("teller: reloaded", { from });
    const third = await fifo.read();
    assert.equal(await tell(), "two");
    third.say("three");
    await stderr.find("teller: reloaded", { from: stderr.all.lastIndexOf("teller: reloaded") + 1 });
    assert.equal(await tell(), "three");
    assert.equal((await appliance.stop()).code, 0);
  },
);

labTest(
  "an app that leaves during its reload is relieved by the new one, or started again",
  async (lab) => {
    const { asker, fifo, appliance, tell, stderr } = await held(lab);
    await fifo.say("one");
    await appliance.ready();
    appliance.process.kill("SIGURG");
    const second = await fifo.read();
    await ask(asker, { port: PORT, payload: "exit", timeoutMs: SILENCE_MILLIS });
    await stderr.find("teller: ended (it left)");
    second.say("two");
    await stderr.find("teller: reloaded");
    assert.equal(await tell(), "two");

    const from = stderr.all.length;
    appliance.process.kill("SIGURG");
    const third = await fifo.read();
    await ask(asker, { port: PORT, payload: "exit", timeoutMs: SILENCE_MILLIS });
    await stderr.find("teller: ended (it left)", { from });
    third.say("broken");
    await fifo.say("four");
    assert.equal((await askUntilAnswered(asker, { port: PORT })).text, "four");

    // A start that fails again and again is not waited for until its pause is over.
    await ask(asker, { port: PORT, payload: "exit", timeoutMs: SILENCE_MILLIS });
    const long = "teller: ended (what it reads is broken); starting it again in 3200 ms";
    for (let from = stderr.all.length; !stderr.all.includes(long); from = stderr.all.length) {
      await fifo.say("broken");
      await stderr.find("teller: ended (what it reads", { from });
    }
    const begin = performance.now();
    appliance.process.kill("SIGURG");
    await fifo.say("five");
    await stderr.find("teller: reloaded", { from: stderr.all.indexOf(long) });
    assert.ok(performance.now() - begin < 3000, "it took its pause");
    assert.equal(await tell(), "five");
    assert.ok(!stderr.all.some((line) => line.includes("not reloaded")), stderr.all.join("\n"));
    assert.equal((await appliance.stop()).code, 0);
  },
);

labTest("a reload that has not ended does not keep it from ending", async (lab) => {
  const { fifo, appliance } = await held(lab);
  await fifo.say("one");
  await appliance.ready();
  appliance.process.kill("SIGURG");
  using _second = await fifo.read();
  const { code, millis } = await appliance.stop();
  assert.equal(code, 0);
  assert.ok(millis < 1000, `${millis} ms`);
});

labTest("an app inside the net tile is not reloaded, and said not to be", async (lab) => {
  const { host, asker } = await pair(lab);
  const file = temporaryFile("old");
  const appliance = await Appliance.start(host, withTeller(file, ', "7=echo@inline"'));
  Deno.writeTextFileSync(file, "new");
  assert.equal(
    await reload(appliance, "echo"),
    "echo: not reloaded: inside net tiles it takes a restart",
  );
  assert.equal((await askUntilAnswered(asker, { port: PORT })).text, "new");
  assert.equal((await ask(asker)).text, "hello");
});
