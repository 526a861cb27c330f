// SPDX-License-Identifier: Apache-2.0
/**
 * Starts confined processes for `process_test.ts`, as a process of its own: as which user, and with
 * which privileges, is the test's to choose. Its argument is a `Task` in JSON; it prints an `Outcome`.
 */

import { openHost } from "../../../ffi/host.ts";
import {
  type Ending,
  openChannel,
  openProcesses,
  type ProcessOptions,
  RUN_FLAGS,
} from "../../../ffi/process.ts";
import { openRegions, u32 } from "../../../ffi/region.ts";
import { OBSERVED_CALLS } from "../../../ffi/shared.ts";
import { openUdpSetup } from "../../../ffi/sockets.ts";
import { openObserver, openTile, SLOT_BYTES } from "../../../ffi/tile.ts";
import { openXskSetup } from "../../../ffi/xsk.ts";

export interface Task {
  /** A key of `works` in `process_child.js`, or of what only this side does. */
  readonly work: string;
  /** A folder that everybody may read, with the child, and the libraries that it loads. */
  readonly folder: string;
  readonly options: Partial<ProcessOptions>;
  /** What to do when the child is ready: nothing, end it, or tell of it and wait to be killed. */
  readonly then?: "kill" | "stay";
  readonly times?: number;
  /** Another program takes the place of the host's first. */
  readonly replaced?: boolean;
  /** Its lines name themselves. */
  readonly verbatim?: boolean;
  /** Start it as an appliance with this many UDP sockets, and be its client. */
  readonly udpSockets?: number;
  /** Permissions of Deno, besides those to read and load what is in `folder`. */
  readonly permissions?: readonly string[];
}

export interface Outcome {
  readonly missing: readonly string[];
  // deno-lint-ignore no-explicit-any -- messages of the child, as JSON has them
  readonly messages: any[];
  readonly ending: Ending | null;
  readonly refused: Readonly<Record<string, number>>;
  /** What `/proc/PID` says as the child is ready. */
  readonly status: Readonly<Record<string, string>>;
  readonly limits: Readonly<Record<string, string>>;
  readonly namespaces: Readonly<Record<string, boolean>>;
  readonly pid: number;
  /** What the child wrote into its region. */
  readonly written: number;
  readonly descriptors: readonly [before: number, after: number];
  /** What came back over an appliance's listeners. */
  readonly answers: readonly string[];
  readonly firstMessageMs: number;
  readonly reapedMs: number;
}

const task: Task = JSON.parse(Deno.args[0]);
const tile = openTile();
const observer = openObserver();
const processes = openProcesses();
const regions = openRegions();
const counters = new Uint32Array(new SharedArrayBuffer(SLOT_BYTES));
observer.start(counters);

const { folder, work, options } = task;
const library = (name: string) => `${folder}/${name}`;
const own = regions.createShared("own", 4096);
const theirs = regions.createShared("theirs", 4096);
u32(regions.mapShared(theirs.writable, 4096))[0] = 41;
const view = u32(regions.mapShared(own.writable, 4096));

const listeners = { path: `/tmp/process-${Deno.pid}.sock`, port: 4711 };

/** What an appliance is handed besides its regions: listeners, an AF_XDP socket, UDP sockets. */
function applianceDescriptors(): number[] {
  const host = openHost();
  const udp = openUdpSetup();
  const sockets = Array.from({ length: task.udpSockets! }, (_, i) => udp.open(10_000 + i));
  return [
    host.listenUnix(listeners.path, 0o600),
    host.listenTcp("127.0.0.1", listeners.port),
    Deno.uid() === 0 ? openXdpSocket() : sockets[0],
    ...sockets,
  ];
}

/** An AF_XDP socket on loopback, which takes a privilege. */
function openXdpSocket(): number {
  const umem = regions.createShared("umem", 1 << 20);
  return openXskSetup().prepare(
    regions.mapShared(umem.writable, 1 << 20),
    { frameBytes: 2048, headroom: 0, ring: 64 },
  );
}
const handed = task.udpSockets === undefined ? [] : applianceDescriptors();

/** What comes back from an appliance's listeners. */
async function ask(): Promise<string[]> {
  const answers: string[] = [];
  for (
    const address of [
      { transport: "unix", path: listeners.path } as const,
      { hostname: "127.0.0.1", port: listeners.port },
    ]
  ) {
    const connection = await Deno.connect(address as Deno.ConnectOptions);
    await connection.write(new TextEncoder().encode("back"));
    const room = new Uint8Array(9);
    answers.push(new TextDecoder().decode(room.subarray(0, await connection.read(room) ?? 0)));
    connection.close();
  }
  Deno.removeSync(listeners.path);
  return answers;
}

function fields(pid: number, file: string, pattern: RegExp): Record<string, string> {
  try {
    const text = Deno.readTextFileSync(`/proc/${pid}/${file}`);
    return Object.fromEntries([...text.matchAll(pattern)].map(([, name, value]) => [name, value]));
  } catch {
    return {};
  }
}

function start(name = "child") {
  const permissions = [
    ...[`--allow-read=${folder}`, `--allow-ffi=${folder}`],
    ...(task.permissions ?? []),
  ];
  const script = task.udpSockets === undefined
    ? [library("process_child.js"), work, library("attacks.so"), library("libtegula.so")]
    : [library("appliance/tests/netns/ffi/process_appliance.ts"), library("attacks.so")];
  return processes.start({
    name,
    args: [
      ...RUN_FLAGS,
      ...permissions,
      ...script,
      ...(task.udpSockets === undefined ? ["/etc/passwd", name] : [`${task.udpSockets}`, "4096"]),
    ],
    descriptors: [own.writable, theirs.readOnly, ...handed],
    read: [folder],
    ...options,
  });
}

if (task.replaced) {
  const path = Deno.execPath();
  Deno.removeSync(path);
  Deno.copyFileSync("/bin/false", path);
}

const descriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;
const moment = () => new Promise((resolve) => setTimeout(resolve, 1));

function hear({ listener, words }: ReturnType<typeof start>, name = "child"): void {
  observer.hear({ name, verbatim: task.verbatim, slot: 0, listener, words });
}

/** Ends and reaps; its copies the observer closes when nobody has the other end. */
async function dispose(child: ReturnType<typeof start>): Promise<Ending> {
  if (work !== "name") child.kill();
  let ending;
  while (!(ending = child.wait())) await moment();
  child.close();
  return ending;
}

const before = descriptors();
for (let i = 1; i < (task.times ?? 1); i++) {
  const child = start(`child ${i}`);
  hear(child, `child ${i}`);
  await dispose(child);
}
for (let i = 0; i < 1000 && descriptors() > before + 2; i++) await moment();
const after = descriptors();

const begun = performance.now();
const child = start();
hear(child);
const channel = openChannel(child.channel);
// deno-lint-ignore no-explicit-any -- messages of the child, as JSON has them
const messages: any[] = [];
let ending: Ending | null = null;
let firstMessageMs = 0, reapedMs = 0;
let answers: string[] = [];
let status = {}, limits = {}, namespaces = {};
while (!ending) {
  const ended = child.wait();
  for (let message; (message = channel.receive());) {
    if (messages.length === 0) firstMessageMs = performance.now() - begun;
    messages.push(JSON.parse(new TextDecoder().decode(message)));
  }
  if (messages.length > 0 && Object.keys(status).length === 0) {
    status = fields(child.pid, "status", /^(\w+):[ \t]*(.*?)[ \t]*$/gm);
    limits = fields(child.pid, "limits", /^(Max [a-z ]+?)  +(\S+)/gm);
    namespaces = Object.fromEntries(
      ["net", "ipc", "uts", "pid", "cgroup", "user"].map((name) => {
        try {
          const of = (pid: number | string) => Deno.readLinkSync(`/proc/${pid}/ns/${name}`);
          return [name, of(child.pid) !== of("self")];
        } catch {
          return [name, false];
        }
      }),
    );
    if (task.udpSockets !== undefined) answers = await ask();
    if (task.then === "kill") {
      Deno.kill(child.pid, "SIGUSR1");
      Deno.kill(child.pid, "SIGTERM");
      const from = performance.now();
      ending = await dispose(child);
      reapedMs = performance.now() - from;
      break;
    }
    if (task.then === "stay") console.log(child.pid);
  }
  ending = ended;
  if (ending) child.close();
  else await moment();
}
const outcome: Outcome = {
  missing: child.missing,
  messages,
  ending,
  refused: Object.fromEntries(
    Array.from(counters.subarray(0, OBSERVED_CALLS), (count, call) => [tile.callName(call), count])
      .filter(([, count]) => count as number > 0),
  ),
  status,
  limits,
  namespaces,
  pid: child.pid,
  written: view[0],
  descriptors: [before, after],
  answers,
  firstMessageMs,
  reapedMs,
};
// The observer has another thread: what the child wrote at last is said before this ends.
for (let i = 0; i < 2000 && descriptors() > before + 2; i++) await moment();
console.log(JSON.stringify(outcome));
// Without the end of an isolate, which would unload the observer's code.
Deno.exit();
