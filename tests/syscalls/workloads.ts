// SPDX-License-Identifier: Apache-2.0
/**
 * The worker that `scripts/syscalls` traces: it does one thing that code in a tile, or an app, may do. All
 * that it needs is loaded before the mark "begin", as a tile loads its modules before it is confined; what
 * the trace has after that is what the thread does later. The same program is started as an app's process
 * is, under the filter of that.
 */

import { Buffer } from "node:buffer";
import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import process from "node:process";
import * as zlib from "node:zlib";
import { libraryPath } from "../../ffi/library.ts";

/** What a workload may use. */
export interface Context {
  /** A folder of its own. */
  readonly folder: string;
  /** libc's. */
  readonly native: { abort(): void; raise(signal: number): number };
}

/** One thing to do. */
export interface Workload {
  readonly run: (context: Context) => unknown;
  /** What is done before the mark, as a tile's start. */
  readonly before?: (context: Context) => unknown;
  /** It ends the process. */
  readonly fatal?: true;
  /** Permissions of the worker; all when left out. */
  readonly permissions?: "none";
  /** It works on files, as an app does that was granted them to write. */
  readonly files?: true;
  /** It takes longer than a test should. */
  readonly slow?: true;
  readonly v8Flags?: string;
}

const sleep = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis));

/** Runs what is expected to fail. */
async function refused(action: () => unknown): Promise<void> {
  try {
    await action();
  } catch {
    // As expected.
  }
}

/** Calls `action` until `millis` have passed. */
function busy(millis: number, action: () => void): void {
  const end = performance.now() + millis;
  while (performance.now() < end) action();
}

/** A WebAssembly module: functions that call each other, a loop, memory that grows, and a trap. */
function wasmModule(): Uint8Array<ArrayBuffer> {
  const functions = 200;
  const leb = (value: number): number[] =>
    value < 128 ? [value] : [value & 127 | 128, ...leb(value >> 7)];
  const section = (id: number, body: number[]) => [id, ...leb(body.length), ...body];
  const name = (text: string) => [text.length, ...new TextEncoder().encode(text)];
  const code = (body: number[]) => [...leb(body.length + 2), 0, ...body, 0x0b];
  const bodies = [
    code([0x20, 0, 0x41, 3, 0x6c]),
    ...Array.from(
      { length: functions - 1 },
      (_, at) => code([0x20, 0, 0x10, ...leb(at), 0x41, 1, 0x6a]),
    ),
    code([0x20, 0, 0x28, 2, 0]), // load: traps beyond the memory
    code([0x20, 0, 0x40, 0]), // memory.grow
    code([0x20, 0, 0x10, ...leb(functions + 2)]), // for ever into itself
  ];
  const all = functions + 3;
  return new Uint8Array([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, 1, 0x7f, 1, 0x7f]),
    ...section(3, [...leb(all), ...Array(all).fill(0)]),
    ...section(5, [1, 0, 1]),
    ...section(7, [
      ...[4, ...name("run"), 0, ...leb(functions - 1), ...name("load"), 0, ...leb(functions)],
      ...[...name("grow"), 0, ...leb(functions + 1), ...name("deep"), 0, ...leb(functions + 2)],
    ]),
    ...section(10, [...leb(all), ...bodies.flat()]),
  ]);
}

type WasmExports = { [name: string]: (value: number) => number };

async function useWasm(exports: WasmExports): Promise<void> {
  busy(300, () => exports.run(5));
  for (let i = 0; i < 20; i++) exports.grow(16);
  await refused(() => exports.load(0x7fff_fff0));
  await refused(() => exports.deep(1));
}

function allTiers(): void {
  const shapes = [{ a: 1 }, { b: 2, a: 2 }, { c: 1, a: 3.5 }];
  const add = (x: { a: number }, y: number) => x.a + y;
  let sum = 0;
  busy(300, () => {
    for (let i = 0; i < 1000; i++) sum = add(shapes[0], sum) | 0;
  });
  // Seen with other shapes the optimised code is thrown away and made anew.
  busy(300, () => {
    for (let i = 0; i < 1000; i++) sum = add(shapes[i % 3], sum) | 0;
  });
  for (let i = 0; i < 300; i++) {
    const f = new Function(
      "x",
      `let s = 0; for (let i = 0; i < 2000; i++) s += x * ${i}; return s;`,
    );
    f(i);
  }
}

function garbage(): void {
  let kept: unknown[] = [];
  busy(1500, () => {
    for (let i = 0; i < 1000; i++) kept.push({ text: `value ${i}`, list: new Array(10).fill(i) });
    if (kept.length > 200_000) kept = [];
    new ArrayBuffer(100_000);
  });
}

function bigHeap(): void {
  for (let round = 0; round < 2; round++) {
    const kept: unknown[] = [];
    for (let i = 0; i < 60; i++) kept.push(new Array(500_000).fill(i + 0.5));
    for (let i = 0; i < 60; i++) kept.push(new Uint8Array(4_000_000).fill(1));
  }
}

/** Fills the heap. */
function overflow(): never {
  const kept: unknown[] = [];
  for (;;) kept.push(new Array(1000).fill({}).map((_, at) => ({ at })));
}

async function digests(): Promise<void> {
  const data = new Uint8Array(3_000_000);
  for (const name of ["SHA-1", "SHA-256", "SHA-384", "SHA-512"]) {
    await crypto.subtle.digest(name, data);
  }
}

async function keys(): Promise<void> {
  const data = new Uint8Array(100_000);
  const ec = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const pair = await crypto.subtle.generateKey(ec, true, ["sign", "verify"]) as CryptoKeyPair;
  const signature = await crypto.subtle.sign(ec, pair.privateKey, data);
  await crypto.subtle.verify(ec, pair.publicKey, signature, data);
  await crypto.subtle.exportKey("jwk", pair.privateKey);
  const rsa = {
    name: "RSASSA-PKCS1-v1_5",
    modulusLength: 2048,
    publicExponent: new Uint8Array([1, 0, 1]),
    hash: "SHA-256",
  };
  const other = await crypto.subtle.generateKey(rsa, false, ["sign"]) as CryptoKeyPair;
  await crypto.subtle.sign(rsa, other.privateKey, data);
  const aes = await crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, false, ["encrypt"]);
  await crypto.subtle.encrypt({ name: "AES-GCM", iv: new Uint8Array(12) }, aes as CryptoKey, data);
  globalThis.crypto.getRandomValues(new Uint8Array(60_000));
  globalThis.crypto.randomUUID();
}

async function nodeCrypto(): Promise<void> {
  crypto.createHash("sha256").update(new Uint8Array(100_000)).digest("hex");
  crypto.randomBytes(1000);
  await new Promise((resolve) => crypto.randomBytes(1000, resolve));
  await new Promise((resolve) => crypto.pbkdf2("a", "b", 1000, 32, "sha256", resolve));
  await new Promise((resolve) => crypto.scrypt("a", "b", 32, resolve));
  await new Promise((resolve) => crypto.generateKeyPair("ec", { namedCurve: "P-256" }, resolve));
  crypto.createHmac("sha1", "k").update("x").digest();
}

async function denoFiles({ folder }: Context): Promise<void> {
  const path = `${folder}/file`;
  await Deno.writeTextFile(path, "text");
  await Deno.readTextFile(path);
  Deno.writeFileSync(path, new Uint8Array(100_000));
  Deno.readFileSync(path);
  await Deno.stat(path);
  Deno.statSync(path);
  Deno.lstatSync(path);
  await Deno.mkdir(`${folder}/a/b`, { recursive: true });
  for await (const _ of Deno.readDir(folder));
  for (const _ of Deno.readDirSync(folder));
  await Deno.rename(path, `${path}2`);
  await Deno.copyFile(`${path}2`, path);
  Deno.copyFileSync(path, `${path}3`);
  await Deno.realPath(path);
  await Deno.chmod(path, 0o600);
  await Deno.utime(path, 1, 2);
  await Deno.truncate(path, 10);
  Deno.truncateSync(path, 5);
  using file = await Deno.open(path, { read: true, write: true });
  await file.write(new Uint8Array(10));
  await file.seek(0, Deno.SeekMode.Start);
  await file.read(new Uint8Array(10));
  await file.truncate(3);
  await file.sync();
  file.syncDataSync();
  file.statSync();
  await file.stat();
  await file.lock(true);
  await file.unlock();
  await file.utime(1, 2);
  await file.readable.cancel();
  await Deno.makeTempDir({ dir: folder });
  await Deno.makeTempFile({ dir: folder });
  Deno.makeTempFileSync({ dir: folder });
  Deno.removeSync(`${folder}/a`, { recursive: true });
  await Deno.remove(`${path}2`);
}

/** Refused: a link leads to another file. */
async function links({ folder }: Context): Promise<void> {
  await Deno.writeTextFile(`${folder}/file`, "text");
  await Deno.symlink(`${folder}/file`, `${folder}/link`);
  await Deno.readLink(`${folder}/link`);
  await Deno.link(`${folder}/file`, `${folder}/hard`);
}

async function nodeFiles({ folder }: Context): Promise<void> {
  const path = `${folder}/node`;
  fs.writeFileSync(path, "text");
  fs.appendFileSync(path, "more");
  fs.readFileSync(path);
  fs.existsSync(path);
  fs.accessSync(path);
  fs.statSync(path);
  fs.readdirSync(folder, { withFileTypes: true });
  fs.mkdirSync(`${folder}/n/m`, { recursive: true });
  fs.renameSync(path, `${path}2`);
  fs.copyFileSync(`${path}2`, path);
  await fs.promises.readFile(path);
  await fs.promises.writeFile(path, "x");
  await fs.promises.stat(path);
  await fs.promises.access(path);
  await fs.promises.mkdtemp(`${folder}/t`);
  await new Promise((resolve) => fs.readFile(path, resolve));
  await new Promise((resolve) => fs.createReadStream(path).on("close", () => resolve(0)).resume());
  await new Promise<void>((resolve) => fs.createWriteStream(path).end("y", () => resolve()));
  const fd = fs.openSync(path, "r+");
  fs.writeSync(fd, "z");
  fs.readSync(fd, Buffer.alloc(10), 0, 10, 0);
  fs.fstatSync(fd);
  fs.ftruncateSync(fd, 1);
  fs.fsyncSync(fd);
  fs.closeSync(fd);
  fs.unlinkSync(path);
  fs.rmSync(`${folder}/n`, { recursive: true });
}

/** Everything that Deno refuses by itself, without or with little help of the system. */
async function denied(): Promise<void> {
  await refused(() => Deno.stat("/etc/hostname"));
  await refused(() => Deno.statSync("/etc/hostname"));
  await refused(() => Deno.readTextFile("/etc/hostname"));
  await refused(() => Deno.readTextFile("relative"));
  await refused(() => Deno.writeTextFile("/tmp/never", "x"));
  await refused(() => Deno.mkdir("/tmp/never"));
  await refused(() => Deno.open("/etc/hostname"));
  await refused(() => Deno.realPath("/etc"));
  await refused(() => Deno.cwd());
  await refused(() => Deno.env.get("PATH"));
  await refused(() => Deno.execPath());
  await refused(() => Deno.hostname());
  await refused(() => new Deno.Command("true").outputSync());
  await refused(() => new Deno.Command("true").output());
  await refused(() => Deno.connect({ hostname: "127.0.0.1", port: 9 }));
  await refused(() => Deno.listen({ port: 0 }));
  await refused(() => Deno.listenDatagram({ port: 0, transport: "udp" }));
  await refused(() => Deno.resolveDns("localhost", "A"));
  await refused(() => fetch("http://127.0.0.1:9/"));
  await refused(() => fetch("file:///etc/hostname"));
  await refused(() => new WebSocket("ws://127.0.0.1:9/"));
  await refused(() => Deno.dlopen("libc.so.6", {}));
  await refused(() => fs.readFileSync("/etc/hostname"));
  await refused(() => fs.promises.readFile("/etc/hostname"));
  await refused(() => import("file:///etc/never.ts"));
  await refused(() => Deno.kill(1, "SIGTERM"));
  await refused(() => Deno.chdir("/"));
  await refused(() => Deno.addSignalListener("SIGUSR2", () => {}));
}

/** What Deno and Node tell of the system. */
async function inquiries(): Promise<void> {
  for (
    const ask of [
      () => Deno.memoryUsage(),
      () => Deno.systemMemoryInfo(),
      () => Deno.loadavg(),
      () => Deno.osRelease(),
      () => Deno.osUptime(),
      () => Deno.hostname(),
      () => Deno.uid(),
      () => Deno.gid(),
      () => Deno.cwd(),
      () => Deno.execPath(),
      () => Deno.env.toObject(),
      () => Deno.networkInterfaces(),
      () => Deno.consoleSize(),
      () => Deno.stdin.isTerminal(),
      () => navigator.hardwareConcurrency,
      () => process.memoryUsage(),
      () => process.cpuUsage(),
      () => process.resourceUsage(),
      () => process.hrtime.bigint(),
      () => process.uptime(),
      () => process.pid,
      () => process.ppid,
      () => process.cwd(),
      () => process.execPath,
      () => process.title,
      () => process.umask(),
      () => process.getuid?.(),
      () => process.versions,
      () => process.stdout.isTTY,
      () => os.cpus(),
      () => os.networkInterfaces(),
      () => os.freemem(),
      () => os.totalmem(),
      () => os.loadavg(),
      () => os.uptime(),
      () => os.release(),
      () => os.hostname(),
      () => os.userInfo(),
      () => os.homedir(),
      () => os.tmpdir(),
      () => os.version(),
      () => os.getPriority(),
      () => os.availableParallelism(),
    ]
  ) await refused(ask);
}

function intl(): void {
  const date = new Date();
  for (const timeZone of ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC", undefined]) {
    new Intl.DateTimeFormat("de", { timeZone, dateStyle: "full", timeStyle: "full" }).format(date);
  }
  new Intl.DateTimeFormat().resolvedOptions();
  new Intl.NumberFormat("fr", { style: "currency", currency: "EUR" }).format(12345.6);
  ["ä", "a", "z"].sort(new Intl.Collator("sv").compare);
  [...new Intl.Segmenter("ja", { granularity: "word" }).segment("吾輩は猫である")];
  new Intl.PluralRules("ar").select(3);
  new Intl.RelativeTimeFormat("en").format(-1, "day");
  new Intl.ListFormat("en").format(["a", "b"]);
  new Intl.DisplayNames("en", { type: "region" }).of("DE");
  "I".toLocaleLowerCase("tr");
  "é".normalize("NFD");
}

function dates(): void {
  const date = new Date();
  for (const at of [0, 1e12, -1e12, Date.now()]) new Date(at).toString();
  date.toLocaleString();
  date.getTimezoneOffset();
  date.setHours(3);
  new Date("2026-07-01T12:00").getTime();
  busy(100, () => void Date.now());
  performance.mark("a");
  performance.measure("b", "a");
  performance.timeOrigin;
  performance.toJSON();
}

function regularExpressions(): void {
  const text = "the quick brown fox jumps over the lazy dog 0123456789 ".repeat(2000);
  for (let i = 0; i < 200; i++) {
    new RegExp(`(\\w+)\\s+(?<n>fox|dog|${i})\\b`, "gu").exec(text);
    text.replace(new RegExp(`[a-${"klmnop"[i % 6]}]+`, "g"), "x");
  }
  /^(a+)+$/.test("a".repeat(22) + "b");
  /[\p{L}--[a-z]]/v.exec("éa");
  text.split(/(?<=\d) /);
}

async function errors(): Promise<void> {
  const deep = (n: number): number =>
    n === 0 ? Number(new Error("deep").stack!.length) : deep(n - 1) + 1;
  deep(500);
  const forever = (): number => forever() + 1;
  await refused(forever);
  await refused(() => JSON.parse("{"));
  await refused(() => new Function("(")());
  await refused(() => new ArrayBuffer(2 ** 52));
  await refused(() => "x".repeat(2 ** 30));
  await refused(() => Promise.any([Promise.reject(new Error("no"))]));
  Deno.inspect(new AggregateError([new Error("a")], "b", { cause: new Error("c") }));
  const { prepareStackTrace } = Error as { prepareStackTrace?: unknown };
  (Error as { prepareStackTrace?: unknown }).prepareStackTrace = (_: unknown, sites: unknown[]) =>
    sites.map(String);
  new Error("sites").stack;
  (Error as { prepareStackTrace?: unknown }).prepareStackTrace = prepareStackTrace;
}

function language(): void {
  const many = Array.from({ length: 300_000 }, (_, i) => ({ i, text: `${i}`, half: i / 2 }));
  JSON.parse(JSON.stringify(many));
  many.sort((a, b) => b.half - a.half);
  structuredClone(many.slice(0, 50_000));
  let big = 3n;
  for (let i = 0; i < 14; i++) big *= big;
  String(big);
  new Map(many.map((each) => [each.text, each]));
  const weak = new WeakMap(many.map((each) => [each, 1]));
  new FinalizationRegistry(() => {}).register({}, weak);
  eval("1 + 1");
  new TextDecoder("utf-16le").decode(new Uint8Array(1000));
  new TextDecoder("shift_jis").decode(new Uint8Array(1000));
  new URL("http://ä.example/?a=b#c");
  atob(btoa("x".repeat(10_000)));
}

async function streams(): Promise<void> {
  const data = new Blob([new Uint8Array(1_000_000)]).stream();
  await new Response(data.pipeThrough(new CompressionStream("gzip"))).arrayBuffer();
  zlib.gzipSync(Buffer.alloc(100_000));
  await new Promise((resolve) => zlib.deflate(Buffer.alloc(100_000), resolve));
  await new Promise((resolve) => zlib.brotliCompress(Buffer.alloc(10_000), resolve));
  await new Blob(["x"]).text();
}

async function messages(): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  const heard = new Promise((resolve) => port2.onmessage = resolve);
  port1.postMessage(new Uint8Array(100_000), []);
  await heard;
  port1.close();
  const channel = new BroadcastChannel("syscalls");
  channel.postMessage("x");
  channel.close();
  scope.postMessage({ type: "noise" });
  await sleep(20);
}

async function timers(): Promise<void> {
  for (let i = 0; i < 20; i++) await sleep(i);
  await new Promise((resolve) => queueMicrotask(() => resolve(null)));
  await new Promise((resolve) => setImmediate(resolve));
  const timer = setInterval(() => {}, 1);
  await sleep(30);
  clearInterval(timer);
  await AbortSignal.timeout(10).aborted;
  await sleep(20);
}

async function atomics(): Promise<void> {
  const words = new Int32Array(new SharedArrayBuffer(4096));
  Atomics.wait(words, 0, 0, 50);
  Atomics.notify(words, 0);
  const { value } = Atomics.waitAsync(words, 0, 0, 30);
  await value;
  const growable = new SharedArrayBuffer(4096, { maxByteLength: 1 << 24 });
  growable.grow(1 << 23);
  new Uint8Array(growable).fill(1);
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1000, shared: true });
  memory.grow(500);
  new Uint8Array(memory.buffer).fill(1);
}

/** Writes as code in a tile can without a permission. */
async function output(): Promise<void> {
  console.log("console.log");
  console.error("console.error");
  console.table([{ a: 1 }]);
  Deno.stdout.writeSync(new TextEncoder().encode("Deno.stdout\n"));
  await Deno.stderr.write(new TextEncoder().encode("Deno.stderr\n"));
  process.stdout.write("process.stdout\n");
  process.stderr.write("process.stderr\n");
  await sleep(20);
}

async function nested(): Promise<void> {
  const code = "data:application/javascript,postMessage(1); setTimeout(() => self.close(), 50)";
  const worker = new Worker(code, { type: "module" });
  await new Promise((resolve, reject) => {
    worker.onmessage = resolve;
    worker.onerror = reject;
    setTimeout(resolve, 5000);
  });
  await sleep(200);
  worker.terminate();
}

const WASM = wasmModule();
const module = { text: "" };

/** All of them, by the name under which the list has them. */
export const WORKLOADS: { readonly [name: string]: Workload } = {
  nothing: { run: () => sleep(50) },
  "all tiers": { run: allTiers },
  garbage: { run: garbage },
  "big heap": { run: bigHeap, slow: true },
  language: { run: language },
  "wasm sync": {
    run: () =>
      useWasm(new WebAssembly.Instance(new WebAssembly.Module(WASM)).exports as WasmExports),
  },
  "wasm async": {
    run: async () => useWasm((await WebAssembly.instantiate(WASM)).instance.exports as WasmExports),
  },
  "regular expressions": { run: regularExpressions },
  intl: { run: intl },
  dates: { run: dates },
  errors: { run: errors },
  digests: { run: digests },
  keys: { run: keys, slow: true },
  "node:crypto": { run: nodeCrypto },
  "Deno files": { run: denoFiles, files: true },
  links: { run: links, files: true },
  "node files": { run: nodeFiles, files: true },
  "denied by Deno": { run: denied, permissions: "none" },
  inquiries: { run: inquiries },
  "inquiries denied": { run: inquiries, permissions: "none" },
  streams: { run: streams },
  messages: { run: messages },
  timers: { run: timers },
  atomics: { run: atomics },
  output: { run: output },
  "dynamic import": {
    before: ({ folder }) => {
      module.text = `${folder}/late.ts`;
      Deno.writeTextFileSync(module.text, "export const late: number = 1;");
    },
    run: async () => await import(module.text),
    files: true,
  },
  "dynamic import of node:": { run: async () => await import("node:http2"), permissions: "none" },
  "nested worker": { run: nested },
  "nested worker denied": { run: nested, permissions: "none" },
  // The runtime's pool ends a thread that was idle for ten seconds.
  "late threads": {
    run: async () => {
      await sleep(11_500);
      await digests();
      await sleep(11_500);
      await digests();
    },
    slow: true,
  },
  "kill oneself": { run: () => Deno.kill(Deno.pid, "SIGWINCH"), permissions: "none" },
  // By `stopAndContinue`.
  "stop and continue": {
    run: () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500),
    slow: true,
  },
  "uncaught error": {
    run: () => {
      setTimeout(() => {
        throw new Error("uncaught");
      });
      return sleep(500);
    },
  },
  "unhandled rejection": {
    run: () => {
      Promise.reject(new Error("unhandled"));
      return sleep(500);
    },
  },
  "heap overflow": { run: overflow, fatal: true, v8Flags: "--max-old-space-size=60", slow: true },
  "V8 fatal error": {
    run: () => new Function("%SystemBreak()")(),
    fatal: true,
    v8Flags: "--allow-natives-syntax",
  },
  abort: { run: ({ native }) => native.abort(), fatal: true },
  fault: { run: ({ native }) => native.raise(11), fatal: true },
  "Deno.exit": { run: () => Deno.exit(0) },
};

/** What the process is told. */
export interface Play {
  readonly name: string;
  readonly folder: string;
  /** Calls refused after the mark, on the worker's thread and on threads that it starts. */
  readonly refuse?: { readonly call: number; readonly errno: number };
  /** Whether this is an app's process: there is no mark then, and no library but ours. */
  readonly confined?: true;
}

/** One that is linked to libc, whose functions are called. */
const LIBRARY = libraryPath();
const scope = globalThis as unknown as Worker & { close(): void };

if ("WorkerGlobalScope" in globalThis) {
  scope.onmessage = ({ data }) => playHere(data);
} else if (import.meta.main) {
  playInWorker(JSON.parse(Deno.args[0]));
}

function playInWorker(play: Play): void {
  const none = WORKLOADS[play.name].permissions === "none";
  const worker = new Worker(import.meta.url, {
    type: "module",
    deno: { permissions: none ? { ffi: [LIBRARY] } : "inherit" },
  } as WorkerOptions);
  const end = (status: number) => setTimeout(() => Deno.exit(status), 200);
  worker.onmessage = ({ data }) => {
    if (data.type === "ended") end(data.error === undefined ? 0 : 3);
    if (data.error !== undefined) console.error(`failed: ${data.error}`);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    console.error(`onerror: ${event.message}`);
    end(4);
  };
  worker.postMessage(play);
  if (play.name === "stop and continue" && !play.confined) stopAndContinue(Deno.pid);
}

/** What else the workload of that name takes. */
export function stopAndContinue(pid: number): void {
  const script = `sleep 1; kill -STOP ${pid}; sleep 0.3; kill -CONT ${pid}`;
  new Deno.Command("sh", { args: ["-c", script] }).spawn();
}

async function playHere({ name, folder, refuse, confined }: Play): Promise<void> {
  const { symbols } = Deno.dlopen(LIBRARY, {
    access: { parameters: ["buffer", "i32"], result: "i32" },
    abort: { parameters: [], result: "void" },
    raise: { parameters: ["i32"], result: "i32" },
    prctl: { parameters: ["i32", "u64", "buffer", "u64", "u64"], result: "i32" },
  });
  const mark = (word: string) => {
    if (!confined) symbols.access(new TextEncoder().encode(`/tegula/${word}\0`), 0);
  };
  const context = { folder, native: symbols };
  const { run, before, permissions } = WORKLOADS[name];
  await before?.(context);
  await sleep(0);
  const filter = refuse && filterOf(refuse);
  if (permissions === "none") Deno.permissions.revokeSync({ name: "ffi" });
  if (filter) {
    symbols.prctl(PR_SET_NO_NEW_PRIVS, 1n, null, 0n, 0n);
    const failed = symbols.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter.program, 0n, 0n);
    if (failed !== 0) throw new Error("no seccomp filter");
  }
  mark("begin");
  const ended: { type: string; error?: string } = { type: "ended" };
  try {
    await run(context);
  } catch (error) {
    ended.error = error instanceof Error ? error.stack : String(error);
  }
  mark("end");
  scope.postMessage(ended);
  scope.close();
}

const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2n;

/** A `struct sock_fprog` that refuses one call, with what it points to. */
function filterOf({ call, errno }: { call: number; errno: number }) {
  const instructions = [[0x20, 0, 0, 0], [0x15, 0, 1, call], [6, 0, 0, 0x50000 | errno], [
    6,
    0,
    0,
    0x7fff0000,
  ]];
  const code = new DataView(new ArrayBuffer(8 * instructions.length));
  instructions.forEach(([operation, yes, no, k], at) => {
    code.setUint16(8 * at, operation, true);
    code.setUint8(8 * at + 2, yes);
    code.setUint8(8 * at + 3, no);
    code.setUint32(8 * at + 4, k, true);
  });
  const program = new BigUint64Array(2);
  program[0] = BigInt(instructions.length);
  program[1] = Deno.UnsafePointer.value(Deno.UnsafePointer.of(code));
  return { program, code };
}
