/**
 * The vertical slice of apps as processes: an echo in a confined process of its own (`ffi/process.ts`),
 * or in a worker as the appliance has it, and what stands in for the net tile on the other side of the
 * same links. When the process is killed its successor is started on the same regions and goes on
 * from the cursors.
 *
 *     here (net side) ──link net→app──▶ echo        each region is a memfd that both map; the reader's
 *                     ◀──link app→net──             descriptor was reopened for reading
 *                     ◀──eventfds─────▶
 */

import { V8_FLAGS } from "../cli/narrow.ts";
import { openHost } from "../ffi/host.ts";
import { libraryPath, ROOT } from "../ffi/paths.ts";
import {
  type ConfinedProcess,
  FIRST_DESCRIPTOR,
  openProcesses,
  RUN_FLAGS,
} from "../ffi/process.ts";
import { openRegions, type SharedRegion } from "../ffi/region.ts";
import { OBSERVED_CALLS, openObserver, openTile } from "../ffi/tile.ts";
import { u32, type View } from "../ffi/view.ts";
import { METRICS_BYTES } from "../tiles/app/metrics.ts";
import type { ServiceSetup } from "../tiles/app/service.ts";
import { CONTROL_BYTES, ControlWriter } from "../tiles/runtime/control.ts";
import {
  appLinkBytes,
  Descriptor,
  LinkConsumer,
  LinkProducer,
  netLinkBytes,
  PayloadRing,
  REFLECTED,
  requestRing,
} from "../tiles/runtime/link.ts";
import { NO_GRANTS, permissions } from "../tiles/runtime/permissions.ts";
import { APART_LINK_SHAPE } from "../tiles/runtime/plan.ts";
import type { BootMessage, TileReport } from "../tiles/runtime/tile.ts";
import {
  Life,
  TILE_REGION_BYTES,
  TileReader,
  TileRegion,
  Waker,
} from "../tiles/runtime/tile_region.ts";
import type { ProcessSetup, RegionName } from "./process_app.ts";

/** As each app has where several share a UMEM: an app's process is given no UMEM. */
const SHAPE = APART_LINK_SHAPE;
const [APP_PORT, CLIENT_PORT] = [7, 40_000];
const PAYLOAD_BYTES = 64;
/** Idle turns of the echo before it blocks: none but the one that finds nothing. */
const SPIN_TURNS = 1;

/** Regions of a link, by who writes them: `net…` and `control` this side, the others the app. */
const REGIONS = {
  app: { bytes: appLinkBytes(SHAPE), ofApp: true },
  net: { bytes: netLinkBytes(SHAPE), ofApp: false },
  appTile: { bytes: TILE_REGION_BYTES, ofApp: true },
  netTile: { bytes: TILE_REGION_BYTES, ofApp: false },
  control: { bytes: CONTROL_BYTES, ofApp: false },
  metrics: { bytes: METRICS_BYTES, ofApp: true },
} satisfies Record<RegionName, { readonly bytes: number; readonly ofApp: boolean }>;
const REGION_NAMES = Object.keys(REGIONS) as RegionName[];
const host = openHost(libraryPath("host"));
const regions = openRegions(libraryPath("region"));
const tileLibrary = openTile(libraryPath("tile"));
const processes = openProcesses(libraryPath("process"));
const { symbols } = Deno.dlopen(libraryPath("tile"), {
  poll: { parameters: ["buffer", "usize", "i32"], result: "i32" },
});
const POLLIN = 1;

/** Refused system calls of all processes, then of the workers. */
const refused = new Uint32Array(new SharedArrayBuffer(2 * OBSERVED_CALLS * 4));
const observer = openObserver(libraryPath("tile"));
observer.start(refused);

/** Names of the system calls that the processes' filter has refused so far. */
export function refusedCalls(): string[] {
  return Array.from(
    refused.subarray(0, OBSERVED_CALLS),
    (count, call) => count > 0 ? tileLibrary.callName(call) : "",
  ).filter((name) => name !== "");
}

/** A folder that every user can read, with the app's process as plain JavaScript, and its libraries. */
export function makeProgram(): string {
  const folder = Deno.makeTempDirSync({ prefix: "tegula-process-" });
  const entries = ["bench/process_app.ts", "tiles/app/echo.ts"];
  const modules = entries.flatMap((entry) => {
    const { modules } = JSON.parse(deno("info", "--json", entry));
    return (modules as { local: string }[]).map(({ local }) => local);
  });
  deno("transpile", "--quiet", "--outdir", folder, ...new Set(modules));
  Deno.writeTextFileSync(
    `${folder}/main.js`,
    'new Worker(new URL("./bench/process_app.js", import.meta.url), { type: "module" });\n',
  );
  for (const name of ["tile", "region"] as const) {
    Deno.copyFileSync(libraryPath(name), `${folder}/${name}.so`);
  }
  finish(folder);
  return folder;
}

function deno(...args: string[]): string {
  const { success, stdout, stderr } = new Deno.Command(Deno.execPath(), { args, cwd: ROOT })
    .outputSync();
  if (!success) throw new Error(`deno ${args[0]}: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

/** Has the modules below `folder` import those beside them, and everybody read them. */
function finish(folder: string): void {
  Deno.chmodSync(folder, 0o755);
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) finish(path);
    else if (name.endsWith(".js")) {
      const text = Deno.readTextFileSync(path);
      Deno.writeTextFileSync(path, text.replaceAll(/(from "\..*)\.ts"/g, '$1.js"'));
    }
    if (!isDirectory) Deno.chmodSync(path, 0o644);
  }
}

/** The net side of one echo, and the regions and eventfds that join both. */
export class EchoLink {
  /** Requests that were sent, those that were answered, and answers to what was answered before. */
  sent = 0;
  answered = 0;
  repeated = 0;
  /** When the last answer was taken, as `performance.now()` has it. */
  answeredAt = 0;
  readonly #descriptors: Readonly<Record<RegionName, SharedRegion>>;
  readonly #eventfds = { app: host.eventfd(), net: host.eventfd() };
  readonly #own: Readonly<Record<RegionName, View>>;
  readonly #requests: LinkProducer;
  readonly #answers: LinkConsumer;
  readonly #ring: PayloadRing;
  readonly #payloads: Uint32Array;
  readonly #waker: Waker;
  readonly #region: TileRegion;
  readonly #control: ControlWriter;
  readonly #app: TileReader;
  /** By descriptor of the link: whether its request is unanswered. */
  readonly #isOut = new Uint8Array(SHAPE.depth);
  readonly #pollSet = new Int32Array(4);

  constructor() {
    this.#descriptors = byRegion((name) => regions.createShared(name, REGIONS[name].bytes));
    this.#own = byRegion((name) => this.#view(name, !REGIONS[name].ofApp));
    const { app, net, appTile, netTile, control } = this.#own;
    this.#requests = new LinkProducer(net, app, SHAPE);
    this.#answers = new LinkConsumer(net, app, SHAPE);
    this.#ring = new PayloadRing(SHAPE.requestBytes!, SHAPE.depth);
    this.#payloads = u32(requestRing(net, SHAPE)!);
    this.#app = new TileReader(appTile);
    this.#waker = new Waker(this.#app, () => tileLibrary.wake(this.#eventfds.app));
    this.#region = new TileRegion(netTile);
    this.#control = new ControlWriter(control);
  }

  #view(name: RegionName, writable: boolean): View {
    const { writable: write, readOnly } = this.#descriptors[name];
    return regions.mapShared(writable ? write : readOnly, REGIONS[name].bytes, {
      readOnly: !writable,
    });
  }

  /** Whether the echo's loop runs. Says nothing of a successor before it has joined. */
  get isRunning(): boolean {
    return this.#app.life === Life.running;
  }

  get hasStopped(): boolean {
    return this.#app.life === Life.stopped;
  }

  /** Requests without an answer. */
  get out(): number {
    return this.sent - this.answered;
  }

  /** Starts the echo in a process, from the program in `folder`. The caller disposes of it. */
  start(folder: string): ConfinedProcess {
    const given = byRegion((name) => ({
      fd: FIRST_DESCRIPTOR + REGION_NAMES.indexOf(name),
      bytes: REGIONS[name].bytes,
      readOnly: !REGIONS[name].ofApp,
    }));
    const setup: ProcessSetup = {
      libraries: { tile: `${folder}/tile.so`, region: `${folder}/region.so` },
      regions: given,
      eventfds: {
        app: FIRST_DESCRIPTOR + REGION_NAMES.length,
        net: FIRST_DESCRIPTOR + REGION_NAMES.length + 1,
      },
      shape: SHAPE,
      service: serviceOf(`file://${folder}/tiles/app/echo.js`),
      spinTurns: SPIN_TURNS,
    };
    const child = processes.start({
      name: "echo",
      args: [
        ...RUN_FLAGS,
        ...[V8_FLAGS, `--allow-read=${folder}`, `--allow-ffi=${folder}`],
        ...[`${folder}/main.js`, JSON.stringify(setup)],
      ],
      descriptors: [
        ...REGION_NAMES.map((name) => {
          const { writable, readOnly } = this.#descriptors[name];
          return REGIONS[name].ofApp ? writable : readOnly;
        }),
        this.#eventfds.app,
        this.#eventfds.net,
      ],
      read: [folder],
      memoryMib: 256,
      isolates: 2,
    });
    observer.hear({ name: "echo", slot: 0, listener: child.listener, words: child.words });
    return child;
  }

  /** Starts the echo in a worker of this process, confined as the appliance's. It ends by `stop`. */
  startWorker(): Promise<void> {
    const module = `file://${ROOT}tiles/app/echo.ts`;
    const worker = new Worker(`file://${ROOT}tiles/runtime/worker.ts`, {
      type: "module",
      name: "echo",
      deno: { permissions: permissions("app", NO_GRANTS) as Deno.PermissionOptionsObject },
    });
    const peer = this.#view("net", false);
    const boot: BootMessage = {
      kind: "app",
      name: "echo",
      module: `file://${ROOT}tiles/app/tile.ts`,
      slot: 1,
      region: this.#view("appTile", true),
      control: this.#view("control", false),
      keep: { clock: false, keep: false },
      beside: false,
      spinTurns: SPIN_TURNS,
      setup: {
        ...serviceOf(module),
        metrics: this.#view("metrics", true),
        eventfd: this.#eventfds.app,
        nets: [{
          own: this.#view("app", true),
          peer,
          payloads: requestRing(peer, SHAPE)!,
          shape: SHAPE,
          tile: this.#view("netTile", false),
          eventfd: this.#eventfds.net,
        }],
      },
    };
    return new Promise((resolve, reject) => {
      worker.onmessage = ({ data }: MessageEvent<TileReport>) => {
        if (data.type === "running") resolve();
        if (data.type === "failed") reject(new Error(data.message));
      };
      worker.onerror = (event) => reject(new Error(event.message));
      worker.postMessage(boot);
    });
  }

  /** Sends up to `count` requests, as many as there is room for. */
  send(count: number): void {
    const requests = this.#requests;
    const { words } = requests;
    let room = Math.min(count, requests.refresh(), requests.depth - this.out);
    for (; room > 0; room--) {
      const outstanding = requests.depth - requests.free;
      const offset = this.#ring.reserve(PAYLOAD_BYTES, requests.pushed, outstanding);
      if (offset < 0) break;
      this.#ring.take(requests.pushed, PAYLOAD_BYTES);
      this.#payloads.fill(this.sent, offset >>> 2, (offset + PAYLOAD_BYTES) >>> 2);
      const at = requests.slot();
      words[at + Descriptor.offset] = offset;
      words[at + Descriptor.length] = PAYLOAD_BYTES;
      words[at + Descriptor.source] = 0xc6120002;
      words[at + Descriptor.destination] = 0xc6120001;
      words[at + Descriptor.ports] = (CLIENT_PORT << 16) | APP_PORT;
      words[at + Descriptor.interface] = 1;
      this.#isOut[requests.pushed & (requests.depth - 1)] = 1;
      requests.push();
      this.sent++;
    }
    if (requests.publish()) this.#waker.published();
  }

  /** Takes what answers there are, and returns how many were to requests that had none. */
  take(): number {
    const answers = this.#answers;
    const count = answers.available();
    const before = this.answered;
    for (let i = 0; i < count; i++) {
      const at = answers.slot(i);
      const place = answers.words[at + Descriptor.offset];
      if (answers.words[at + Descriptor.length] !== REFLECTED || place >= SHAPE.depth) {
        throw new Error("the echo sent what is no request");
      }
      if (this.#isOut[place] === 1) this.answered++;
      else this.repeated++;
      this.#isOut[place] = 0;
    }
    if (count > 0) {
      answers.release(count);
      this.answeredAt = performance.now();
    }
    return this.answered - before;
  }

  /** Blocks until there are answers, or `timeoutMs` passed. */
  wait(timeoutMs: number): void {
    this.#region.fallAsleep();
    if (this.#answers.available() === 0) tileLibrary.wait(this.#eventfds.net, timeoutMs);
    this.#region.awake();
  }

  /** Blocks likewise, or until the process ends; returns whether it has. */
  waitBeside({ pidfd }: ConfinedProcess, timeoutMs: number): boolean {
    this.#region.fallAsleep();
    const waits = this.#answers.available() === 0;
    this.#pollSet.set([this.#eventfds.net, POLLIN, pidfd, POLLIN]);
    symbols.poll(this.#pollSet, 2n, waits ? timeoutMs : 0);
    this.#region.awake();
    if (this.#pollSet[1] >>> 16 !== 0) tileLibrary.wait(this.#eventfds.net, 0);
    return this.#pollSet[3] >>> 16 !== 0;
  }

  /** Waits until all that was sent is answered. Throws Error where that does not come within `seconds`. */
  settle(seconds = 5): void {
    const until = performance.now() + seconds * 1000;
    for (this.take(); this.out > 0; this.take()) {
      if (performance.now() > until) throw new Error(`${this.out} of ${this.sent} were lost`);
      this.wait(100);
    }
  }

  /** Has the echo's loop end. */
  stop(): void {
    this.#control.stop();
    tileLibrary.wake(this.#eventfds.app);
  }

  /** Closes what is open here; the echo has ended. */
  close(): void {
    for (const { writable, readOnly } of Object.values(this.#descriptors)) {
      regions.close(writable);
      regions.close(readOnly);
    }
    regions.close(this.#eventfds.app);
    regions.close(this.#eventfds.net);
  }
}

function byRegion<T>(make: (name: RegionName) => T): Record<RegionName, T> {
  return Object.fromEntries(REGION_NAMES.map((name) => [name, make(name)])) as Record<
    RegionName,
    T
  >;
}

function serviceOf(module: string): Omit<ServiceSetup, "metrics"> {
  return { name: "echo", module, options: {}, ports: [APP_PORT], served: [APP_PORT] };
}

/** Ends a process and reaps it. */
export function dispose(child: ConfinedProcess): void {
  child.kill();
  symbols.poll(Int32Array.of(child.pidfd, POLLIN), 1n, 10_000);
  if (child.wait() === null) throw new Error("the process was killed and has not ended");
  child.close();
}

/** What one takeover was like. */
export interface Takeover {
  /** From SIGKILL until it was seen to have ended, until the successor executed Deno, and answered. */
  readonly noticedMs: number;
  readonly executedMs: number;
  readonly gapMs: number;
  /** Requests that waited in the link as the first answer of the successor came, and lost ones. */
  readonly waited: number;
  readonly lost: number;
  /** Requests that both have answered. */
  readonly repeated: number;
}

/** Requests that it is at work on, and how long at most, as it is killed. */
const BURST = 256;
const BURST_MS = 0.2;
/** The longest that a takeover may take. */
const PATIENCE_MS = 10_000;

/**
 * Kills `child`, which is at work on a burst, and starts its successor on the same link, while a request
 * a millisecond goes on. Returns the successor.
 */
export function takeOver(
  link: EchoLink,
  child: ConfinedProcess,
  folder: string,
): { readonly successor: ConfinedProcess; readonly takeover: Takeover } {
  const { repeated } = link;
  link.send(BURST);
  const killAt = performance.now() + Math.random() * BURST_MS;
  while (performance.now() < killAt);
  child.kill();
  const killedAt = performance.now();
  let due = 0;
  const load = () => {
    const elapsed = Math.floor(performance.now() - killedAt);
    if (elapsed > PATIENCE_MS) throw new Error(`${link.out} of ${link.sent} were lost`);
    link.send(elapsed - due);
    due = elapsed;
  };
  while (!link.waitBeside(child, 1)) load();
  const noticedMs = performance.now() - killedAt;
  if (child.wait() === null) throw new Error("a process that has ended cannot be reaped");
  child.close();
  // What it answered before is not its successor's; something waits, however fast that is.
  link.take();
  link.send(1);
  const successor = link.start(folder);
  const executedMs = performance.now() - killedAt;
  let waited;
  do {
    load();
    waited = link.out;
    link.wait(1);
  } while (link.take() === 0);
  const gapMs = link.answeredAt - killedAt;
  const until = link.sent;
  try {
    link.settle();
  } catch {
    // Counted below.
  }
  return {
    successor,
    takeover: {
      ...{ noticedMs, executedMs, gapMs, waited },
      lost: until - link.answered,
      repeated: link.repeated - repeated,
    },
  };
}
