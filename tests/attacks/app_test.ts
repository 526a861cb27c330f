// SPDX-License-Identifier: Apache-2.0
/**
 * What an app tries against the program and against other apps: each attempt is made by a real app, in its
 * own process, beside an echo that must continue answering without losing a datagram.
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
import { processTree } from "../../bench/service.ts";
import { statusOf, threadsOf } from "./calls.ts";

const PORT = 4000;
const METRICS = "127.0.0.1:9464";
const PROBER = fileURLToPath(new URL("./prober.ts", import.meta.url));
/** An app that means no harm, to begin with. */
const BENIGN = `export const answer = () => "benign";`;

/** What the log says of a reload: it was done, or nothing has changed. */
const [RELOADED, REFUSED] = ["reloaded: ", "reload failed, nothing has changed: "];

/** An appliance with echo and the app of `module`, and traffic to echo until `settle`. */
async function beside(lab: Lab, module: string, others = "") {
  const { host, client, asker } = await pair(lab);
  await introduce({ host, client });
  const listen = `listen = ["7=echo", "${PORT}=hostile"]\nmetrics = "${METRICS}"`;
  const appliance = await Appliance.start(
    host,
    configured(`${listen}\n[apps.hostile]\nmodule = "${module}"${others}`),
  );
  const { process: { stderr } } = appliance;
  const other = new Client(client);
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 200 });
  await answeredAtLeast(asker, 20);
  /** Puts another program in the place of the app, and waits for what the log says then. */
  async function attack(program: string, said: string): Promise<string> {
    const from = stderr.all.length;
    Deno.writeTextFileSync(module, program);
    appliance.process.kill("SIGHUP");
    return await stderr.find(said, { from });
  }
  /** Asserts that echo lost nothing, and that the app's port is answered with `text`. */
  async function settle(text: string | null = "benign", { ends = true } = {}): Promise<void> {
    if (text !== null) assert.equal((await askUntilAnswered(other, { port: PORT })).text, text);
    await answeredAtLeast(asker, (await asker.progress()).answered + 20);
    const { sent, answered, mismatched } = await asker.stop();
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
    if (ends) await appliance.stop();
    else await appliance.stop("SIGKILL");
  }
  return { host, other, appliance, stderr, attack, settle };
}

/** How an attempt ends that is not named here: Deno's permissions come first. */
const USUAL = "NotCapable";
const OTHERWISE: Record<string, string> = {
  // Of fetch, before it looks at the permission: there is no event loop, or no such host.
  "at start fetch": "TypeError",
  "at start import of a file": "ERR_MODULE_NOT_FOUND",
  "at start import from elsewhere": "ERR_MODULE_NOT_FOUND",
  // It wants to read resolv.conf first, which the process may not.
  "at start Deno.resolveDns": "Error",
  "fs.readSync of any descriptor": "EBADF",
  "fs.writeSync to any descriptor": "EBADF",
  "fs.closeSync of any descriptor": "EBADF",
  "fs.ftruncateSync of any descriptor": "EBADF",
  // There is none of that name without an unstable flag.
  "Deno.listenDatagram": "TypeError",
  // All ops that code can reach, by what their names say they do. Those below were reachable once.
  "ops that lead out": "none",
  "op_napi_open": "TypeError",
  "a worker": "ReferenceError",
  "op_print": "TypeError",
  // They take no permission: the filter refuses them.
  "Deno.kill of the process": "PermissionDenied",
  // In its namespace that is itself.
  "Deno.kill of another": "PermissionDenied",
  // Signals of its own process are its own to hear.
  "Deno.addSignalListener": "allowed",
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
    ...[...atStart, ...atOnce.filter((name) => name !== "Deno.addSignalListener")].map((name) =>
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
  assert.match(
    metrics,
    /^tegula_refused_calls_total\{app="hostile",tile="hostile",call="kill"\} [1-9]/m,
  );
  await settle(null);
}, { refusedCalls: true });

/** Ways to say something to main, of which none may be there, and of which main would be told. */
const LIES = [
  "postMessage(null)",
  "self.postMessage({ type: 'stopped' })",
  "globalThis['postMessage']({ type: 'failed', message: 'x' })",
  "(await import('node:worker_threads')).parentPort.postMessage({ type: 'started', thread: 1 })",
  "Object.getPrototypeOf(globalThis).postMessage({ type: 'running' })",
  "(await caches.open('x')).put('http://a/b', new Response('x'))",
  ...["SIGTERM", "SIGINT", "SIGHUP", "SIGURG", "SIGUSR2", "SIGSTOP", "SIGKILL"]
    .map((signal) => `Deno.kill(Deno.pid, "${signal}")`),
];

labTest("an app can say nothing to main and signal nobody as it starts", async (lab) => {
  const module = temporaryFile(BENIGN, ".ts");
  const { attack, settle } = await beside(lab, module);
  for (const lie of LIES) {
    const said = await attack(`await ${lie};\n${BENIGN}`, REFUSED);
    assert.match(said, /not defined|not a function|of (null|undefined)|not permitted/, lie);
  }
  await settle();
}, { refusedCalls: true });

labTest("an app that will not leave is ended, and its successor goes on", async (lab) => {
  const module = temporaryFile(BENIGN, ".ts");
  const { attack, settle, stderr } = await beside(lab, module);
  // The module that its own tile's loop runs by, wherever the program lies.
  await attack(
    `export default async function create() {
       const [root] = new Error().stack.match(/file:\\S+(?=tiles\\/app\\/)/);
       const { ControlReader } = await import(root + "tiles/runtime/control.js");
       Object.defineProperty(ControlReader.prototype, "stopping", { get: () => false });
       Object.defineProperty(ControlReader.prototype, "leaving", { get: () => false });
       return { answer: () => "it stays" };
     }`,
    RELOADED,
  );
  // The reload waits for nobody; whoever hangs has a second to leave.
  await attack(BENIGN, RELOADED);
  await stderr.find("hostile: killed: it hangs, and was to end");
  await settle();
});

labTest("what an app writes to standard error is in the log in its name alone", async (lab) => {
  const module = temporaryFile(BENIGN, ".ts");
  const { other, attack, settle, stderr } = await beside(lab, module);
  await attack(
    `import fs from "node:fs";
     export function answer({ payload }) {
       fs.writeSync(2, new TextDecoder().decode(payload));
       return "benign";
     }`,
    RELOADED,
  );
  const write = (payload: string) => ask(other, { port: PORT, payload });
  await write("net0 ended: it is a lie\x1b[2J\n");
  await stderr.find("hostile: net0 ended: it is a lie\\x1b[2J");
  await write("half a line");
  await attack("export const answer = 1;", REFUSED);
  await write("\nnet0 ended: the other half\n");
  await stderr.find("hostile: half a line");
  await stderr.find("hostile: net0 ended: the other half");
  assert.deepEqual(stderr.all.filter((line) => /^net0 ended/.test(line)), []);
  const tooMuch = "hostile: it writes more than 50 lines in a second: the rest is left out";
  for (const text of ["y".repeat(60_000), "z\n".repeat(60)]) {
    const from = stderr.all.length;
    await eventually("the log has had enough", async () => {
      await write(text);
      return stderr.all.slice(from).includes(tooMuch) ? true : undefined;
    });
  }
  await settle(null);
});

labTest("the signal by which Deno opens its debugger opens none", async (lab) => {
  const { host, appliance, settle } = await beside(lab, temporaryFile(BENIGN, ".ts"));
  const SIGUSR1 = 1n << 9n;
  const has = (field: string) => (BigInt(`0x${field}`) & SIGUSR1) !== 0n;
  for (const { pid, kind } of processTree(appliance.process.pid)) {
    Deno.kill(pid, "SIGUSR1");
    assert.ok(has(statusOf(pid, pid).ShdPnd), `${kind}: the signal was sent and waits`);
    for (const tid of threadsOf(pid)) {
      const { Name, SigBlk } = statusOf(pid, tid);
      assert.ok(has(SigBlk), `${kind}: ${Name}`);
    }
  }
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
      "reload",
    );
    assert.equal(stderr.all.find((line) => /^tegula: /.test(line)), undefined);
    await attack(BENIGN, RELOADED);
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
    RELOADED,
  );
  for (let i = 0; i < 3; i++) assert.equal((await ask(other, { port: PORT })).text, "benign");
  await settle();
});
