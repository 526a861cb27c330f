/**
 * What an app tries against the appliance and against other apps: each attempt is made by a real app, in
 * its own tile, beside an echo that must go on answering without losing a datagram.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { configured, temporaryFile } from "../netns/config_file.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  CLIENT,
  Client,
  eventually,
  HOST,
  introduce,
  type Lab,
  labTest,
  pair,
} from "../netns/lab.ts";

const PORT = 4000;
const METRICS = "127.0.0.1:9464";
const PROBER = fileURLToPath(new URL("./prober.ts", import.meta.url));
/** An app that means no harm, to begin with. */
const BENIGN = `export const answer = () => "benign";`;

/** An appliance with echo and the app of `module`, and traffic to echo until `settle`. */
async function beside(lab: Lab, module: string, others = "") {
  const { host, client, asker } = await pair(lab);
  await introduce({ host, client });
  const listen = `listen = ["7=echo", "${PORT}=hostile"]\nmetrics = "${METRICS}"`;
  const appliance = await Appliance.start(
    host,
    configured(`${listen}\n[apps.hostile]\nmodule = "${module}"${others}`),
  );
  const { process: { stderr, pid } } = appliance;
  const other = new Client(client);
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 200 });
  await answeredAtLeast(asker, 20);
  /** Puts another program in the place of the app, and waits for what the log says then. */
  async function attack(program: string, said: string): Promise<string> {
    const from = stderr.all.length;
    Deno.writeTextFileSync(module, program);
    appliance.process.kill("SIGURG");
    return await stderr.find(said, { from });
  }
  /** Asserts that echo lost nothing, and that the app's port is answered with `text`. */
  async function settle(text: string | null = "benign"): Promise<void> {
    if (text !== null) assert.equal((await askUntilAnswered(other, { port: PORT })).text, text);
    await answeredAtLeast(asker, (await asker.progress()).answered + 20);
    const { sent, answered, mismatched } = await asker.stop();
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
    assert.equal((await appliance.stop()).code, 0);
  }
  return { host, other, appliance, stderr, pid, attack, settle };
}

/** How an attempt ends that is not named here: Deno's permissions stand before everything else. */
const USUAL = "NotCapable";
const OTHERWISE: Record<string, string> = {
  // Of fetch, before it looks at the permission: there is no event loop, or no such host.
  "at start fetch": "TypeError",
  "at start import of a file": "ERR_MODULE_NOT_FOUND",
  "at start import from elsewhere": "ERR_MODULE_NOT_FOUND",
  "fs.readSync of any descriptor": "EBADF",
  "fs.writeSync to any descriptor": "EBADF",
  "fs.closeSync of any descriptor": "EBADF",
  "fs.ftruncateSync of any descriptor": "EBADF",
  // There is none of that name without an unstable flag.
  "Deno.listenDatagram": "TypeError",
  // All ops that code can reach, by what their names say they do. The next one is tried.
  "ops that lead out": "op_napi_open",
  "a worker": "ReferenceError",
  "op_print": "BadResource",
  // Takes no permission: the filter refuses it.
  "Deno.kill of the process": "PermissionDenied",
};

labTest("every way out of an app is shut, at its start and in its handlers", async (lab) => {
  const { host, other, stderr, settle } = await beside(lab, PROBER);
  const source = Deno.readTextFileSync(PROBER);
  const names = (table: string) => {
    const [, body] = source.split(`const ${table}: `);
    return [...body.split("\n};")[0].matchAll(/^ {2}"([^"]+)":/gm)].map(([, name]) => name);
  };
  const [atOnce, atStart] = [names("AT_ONCE"), names("AT_START")];
  assert.ok(atOnce.length > 35 && atStart.length > 7, "the attempts were found");
  const attempts = [
    ...[...atStart, ...atOnce.filter((name) => !/kill/.test(name))].map((name) =>
      `at start ${name}`
    ),
    ...atOnce,
  ];
  for (const name of attempts) {
    const { text } = await ask(other, { port: PORT, payload: name });
    const expected = OTHERWISE[name] ?? OTHERWISE[name.replace("at start ", "")] ?? USUAL;
    assert.equal(text, expected, name);
  }
  await stderr.find("hostile: refused system call 62 (kill)");
  const metrics = await host.run(["curl", "--silent", `http://${METRICS}/metrics`]);
  assert.match(metrics, /^tegula_refused_calls_total\{tile="hostile",call="kill"\} 1$/m);
  await settle(null);
}, { refusedCalls: true });

/** Programs that lie to main, each with what it is ended for. */
const LIES: Record<string, string> = {
  "postMessage(null)": "posted a message that no tile posts",
  "postMessage({ type: 'log', line: 5 })": "posted a malformed message of type log",
  "postMessage({ type: 'log', line: 'x'.repeat(1e6) })": "posted a malformed message of type log",
  "postMessage({ type: 'started', thread: 1 })": "posted a message of type started out of turn",
  "postMessage({ type: 'started', thread: Deno.pid })":
    "posted a message of type started out of turn",
  "postMessage({ type: 'ask', request: { number: 1, kind: 1, arguments: [] } })":
    "posted a request, which only the status tile may",
  "for (let i = 0; i < 200_000; i++) postMessage({ type: 'log', line: 'flood' })":
    "posted more than 2000 messages in a second",
  "postMessage({ type: 'running', landlock: true, observed: true }); await new Promise(() => {})":
    "claimed to be confined without being so",
  "Object.prototype.type = 'log'; postMessage({})": "posted a message that no tile posts",
};

labTest(
  "an app that lies to main is ended and named, and the one before it goes on",
  async (lab) => {
    const module = temporaryFile(BENIGN, ".ts");
    const { attack, settle } = await beside(lab, module);
    for (const [lie, what] of Object.entries(LIES)) {
      const program = `export default async function create() { ${lie};
      await new Promise((resolve) => setTimeout(resolve, 100)); return { answer: () => "lied" }; }`;
      await attack(program, `hostile: it ${what} and is ended`);
      await attack(BENIGN, "hostile: reloaded");
    }
    await settle();
  },
);

labTest("an app that lies in a handler is ended and named, and started again", async (lab) => {
  const module = temporaryFile(BENIGN, ".ts");
  const { other, attack, settle, stderr } = await beside(lab, module);
  await attack(
    `export function answer({ payload }) {
       const text = new TextDecoder().decode(payload);
       if (text === "lie") postMessage({ type: "stopped", thread: 5 });
       return "benign";
     }`,
    "hostile: reloaded",
  );
  const from = stderr.all.length;
  await ask(other, { port: PORT, payload: "lie", timeoutMs: 300 });
  await stderr.find("hostile: it posted a malformed message of type stopped and is ended", {
    from,
  });
  await stderr.find("hostile: ended (it posted a malformed message", { from });
  await settle();
});

labTest("what an app writes to standard error is in the log in its name alone", async (lab) => {
  const module = temporaryFile(BENIGN, ".ts");
  const { other, attack, settle, stderr } = await beside(lab, module);
  await attack(
    `import fs from "node:fs";
     export function answer() {
       fs.writeSync(2, "net0 ended: it is a lie\\x1b[2J\\n");
       return "benign";
     }`,
    "hostile: reloaded",
  );
  await ask(other, { port: PORT });
  await stderr.find("hostile: net0 ended: it is a lie\\x1b[2J");
  assert.deepEqual(stderr.all.filter((line) => /^net0 ended/.test(line)), []);
  await settle();
});

labTest("an app that signals its process opens no debugger", async (lab) => {
  const module = temporaryFile(BENIGN, ".ts");
  const { host, attack, settle, pid } = await beside(lab, module);
  await attack(
    `Deno.kill(Deno.pid, "SIGUSR1");
     export default function create() {
       Deno.kill(Deno.pid, "SIGUSR1");
       return { answer: () => "benign" };
     }`,
    "hostile: reloaded",
  );
  const statuses = [...Deno.readDirSync(`/proc/${pid}/task`)].map(({ name }) =>
    Deno.readTextFileSync(`/proc/${pid}/task/${name}/status`)
  );
  const field = (status: string, name: string) =>
    BigInt(`0x${status.match(new RegExp(`^${name}:\\s*(\\w+)$`, "m"))![1]}`);
  const SIGUSR1 = 1n << 9n;
  assert.ok(field(statuses[0], "ShdPnd") & SIGUSR1, "the signal was sent and waits");
  for (const status of statuses) assert.ok(field(status, "SigBlk") & SIGUSR1, status);
  await eventually("no listener but the metrics", async () => {
    const listeners = await host.run(["ss", "-Hltn"]);
    return /:9229\b/.test(listeners) ? undefined : true;
  });
  await settle();
});

labTest(
  "an app that changes the built-in objects of its own realm changes no other's",
  async (lab) => {
    const module = temporaryFile(BENIGN, ".ts");
    const { attack, settle, stderr } = await beside(lab, module);
    await attack(
      `for (const prototype of [Object.prototype, Array.prototype, Uint32Array.prototype]) {
       Object.defineProperty(prototype, "polluted", { value: 1, enumerable: true });
     }
     const { parse } = JSON;
     JSON.parse = (text) => ({ ...parse(text), polluted: 1 });
     Array.prototype.map = () => { throw new Error("mine"); };
     export const answer = () => "benign";`,
      "hostile: ",
    );
    assert.equal(stderr.all.find((line) => /^tegula: /.test(line)), undefined);
    await attack(BENIGN, "hostile: reloaded");
    await settle();
  },
);

labTest("what honest code does in a handler ends nothing", async (lab) => {
  const module = temporaryFile(BENIGN, ".ts");
  const { other, attack, settle } = await beside(lab, module);
  await attack(
    `export function answer() {
       crypto.subtle.digest("SHA-256", new Uint8Array(1 << 20));
       crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign"]);
       Deno.stat("/etc/passwd").catch(() => {});
       setTimeout(() => {}, 1);
       fetch("http://127.0.0.1/").catch(() => {});
       Deno.memoryUsage();
       try { Deno.execPath(); } catch { /* it was not granted */ }
       return new Intl.DateTimeFormat("de", { dateStyle: "full" }).format() === "" ? "" : "benign";
     }`,
    "hostile: reloaded",
  );
  for (let i = 0; i < 3; i++) assert.equal((await ask(other, { port: PORT })).text, "benign");
  await settle();
});
