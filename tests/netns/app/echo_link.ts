// SPDX-License-Identifier: Apache-2.0
/**
 * Apps as processes without the rest of an appliance: an echo in a confined process of its own
 * (`master/app_process.ts`), and a stand-in for the net tile on the other side of the same links.
 *
 *     here (net side) ──link net→app──▶ echo        each region is a memfd that both map; the reader's
 *                     ◀──link app→net──             descriptor was reopened for reading
 *                     ◀──eventfds─────▶
 */

import { openHost, Watcher } from "../../../ffi/host.ts";
import { ROOT } from "../../../ffi/library.ts";
import { openProcesses } from "../../../ffi/process.ts";
import { openRegions, type SharedRegion, u32, u8, type View } from "../../../ffi/region.ts";
import { openObserver, openTile, SLOT_BYTES } from "../../../ffi/tile.ts";
import { openAppFiles } from "../../../master/app_files.ts";
import { AppProcess, type AppProcessPlan } from "../../../master/app_process.ts";
import { type Handing, handing } from "../../../master/inventory.ts";
import type { ServiceSetup } from "../../../tiles/app/host.ts";
import { METRICS_BYTES } from "../../../tiles/app/regions.ts";
import {
  appLinkBytes,
  Descriptor,
  LinkConsumer,
  LinkProducer,
  netLinkBytes,
  PayloadRing,
  REFLECTED,
  requestRing,
} from "../../../tiles/runtime/link.ts";
import { NO_GRANTS } from "../../no_grants.ts";
import { LINK_DEPTH, linkShapeOf } from "../../../tiles/runtime/plan.ts";
import { delay, Life, TILE_REGION_BYTES, TileReader, Waker } from "../../../tiles/runtime/tile.ts";

/** As each app has where several share a UMEM: an app's process is given no UMEM. */
const SHAPE = linkShapeOf(LINK_DEPTH, { isAlone: false });
const [APP_PORT, CLIENT_PORT] = [7, 40_000];
const PAYLOAD_BYTES = 64;
/** Idle turns of the echo before it blocks: none but the one that finds nothing. */
const SPIN_TURNS = 1;
/** The user of apps' processes. */
const UID = 65_534;
const NET = "net0";

/** Regions of a link, by who writes them: `net…` this side, the others the app. */
const REGIONS = {
  app: { bytes: appLinkBytes(SHAPE), ofApp: true },
  net: { bytes: netLinkBytes(SHAPE), ofApp: false },
  appTile: { bytes: TILE_REGION_BYTES, ofApp: true },
  netTile: { bytes: TILE_REGION_BYTES, ofApp: false },
  metrics: { bytes: METRICS_BYTES, ofApp: true },
  state: { bytes: 65_536, ofApp: true },
};
type RegionName = keyof typeof REGIONS;
const REGION_NAMES = Object.keys(REGIONS) as RegionName[];
const host = openHost();
const regions = openRegions();
const tileLibrary = openTile();
const processes = openProcesses();
const watcher = new Watcher(host, tileLibrary);
const files = openAppFiles({ host, processes, uid: UID });

const ECHO = `file://${ROOT}apps/echo.ts`;

const observer = openObserver();
const refused = new Uint32Array(new SharedArrayBuffer(SLOT_BYTES));
observer.start(refused);

/** How often each system call was refused to the processes so far, by its number. */
export function refusedCalls(): Uint32Array {
  return refused.slice();
}

/** Starts an app. Resolves when its loop runs. */
export async function start(app: AppProcess): Promise<void> {
  await app.prepare();
  await app.takeOver();
}

/** The net side of one echo, and the regions and eventfds that join both. */
export class EchoLink {
  /** Requests that were sent, those that were answered, and answers to what was answered before. */
  sent = 0;
  answered = 0;
  repeated = 0;
  /** Answers that are no request sent back: not an echo's. */
  strange = 0;
  readonly #descriptors: Readonly<Record<RegionName, SharedRegion>>;
  readonly #eventfds = { app: host.eventfd(), net: host.eventfd() };
  readonly #own: Readonly<Record<RegionName, View>>;
  readonly #requests: LinkProducer;
  readonly #answers: LinkConsumer;
  readonly #ring: PayloadRing;
  readonly #room: View;
  readonly #payloads: Uint32Array;
  readonly #waker: Waker;
  readonly #app: TileReader;
  /** By descriptor of the link: whether its request is unanswered. */
  readonly #isOut = new Uint8Array(SHAPE.depth);

  /** `app`: what the app is called. */
  constructor(readonly app = "echo") {
    this.#descriptors = byRegion((name) => regions.createShared(name, REGIONS[name].bytes));
    this.#own = byRegion((name) => this.#view(name, !REGIONS[name].ofApp));
    const { app: answers, net, appTile } = this.#own;
    this.#requests = new LinkProducer(net, answers, SHAPE);
    this.#answers = new LinkConsumer(net, answers, SHAPE);
    this.#ring = new PayloadRing(SHAPE.requestBytes!, SHAPE.depth);
    this.#room = requestRing(net, SHAPE)!;
    this.#payloads = u32(this.#room);
    this.#app = new TileReader(appTile);
    this.#waker = new Waker(this.#app, () => tileLibrary.wake(this.#eventfds.app));
  }

  #view(name: RegionName, writable: boolean): View {
    const { writable: write, readOnly } = this.#descriptors[name];
    return regions.mapShared(writable ? write : readOnly, REGIONS[name].bytes, {
      readOnly: !writable,
    });
  }

  /** Whether the app's loop runs. Says nothing of a successor before it has joined. */
  get isRunning(): boolean {
    return this.#app.life === Life.running;
  }

  /** Requests without an answer. */
  get out(): number {
    return this.sent - this.answered;
  }

  /** What the master hands a process by this name. */
  descriptor(name: string, readOnly: boolean): Handing {
    const { app } = this;
    const eventfd = { [`eventfd ${app}`]: "app", [`eventfd ${NET}`]: "net" }[name];
    if (eventfd !== undefined) {
      return handing(name, this.#eventfds[eventfd as "app" | "net"]);
    }
    const region = ({
      [`tile ${app}`]: "appTile",
      [`tile ${NET}`]: "netTile",
      [`metrics ${app}`]: "metrics",
      [`state ${app}`]: "state",
      [`link ${app} to ${NET}`]: "app",
      [`link ${NET} to ${app}`]: "net",
    } satisfies Record<string, RegionName>)[name];
    if (region === undefined) throw new RangeError(`no ${name}`);
    const { writable, readOnly: reading } = this.#descriptors[region as RegionName];
    const { bytes } = REGIONS[region as RegionName];
    return { name, fd: readOnly ? reading : writable, bytes, readOnly };
  }

  /** What the app's process is started with: the echo, or whatever app `module` is. */
  plan(module = ECHO, changes: Partial<AppProcessPlan> = {}): AppProcessPlan {
    return {
      name: this.app,
      service: serviceOf(module),
      shape: SHAPE,
      nets: [NET],
      spinTurns: SPIN_TURNS,
      grants: NO_GRANTS,
      memoryMib: 256,
      uid: UID,
      ...changes,
    };
  }

  /** Such a process, not yet started, with the program in `root`. The caller stops it. */
  process(
    plan = this.plan(),
    log: (line: string) => void = console.error,
    root = files.root,
  ): AppProcess {
    return new AppProcess(plan, {
      libraries: { processes, regions, host, observer, tile: tileLibrary },
      ...{ watcher, log },
      files: {
        root,
        stage: (plan) => files.stage(plan),
        discard: (staged) => files.discard(staged),
      },
      changed() {},
      slot: 0,
      descriptor: (name, readOnly) => this.descriptor(name, readOnly),
      tile: this.#app,
    });
  }

  /** Sends up to `count` requests, as many as there is room for, with `word` at their beginning. */
  send(count: number, word = ""): void {
    const payload = new TextEncoder().encode(word);
    const requests = this.#requests;
    const { words } = requests;
    let room = Math.min(count, requests.refresh(), requests.depth - this.out);
    for (; room > 0; room--) {
      const outstanding = requests.depth - requests.free;
      const offset = this.#ring.reserve(PAYLOAD_BYTES, requests.pushed, outstanding);
      if (offset < 0) break;
      this.#ring.take(requests.pushed, PAYLOAD_BYTES);
      this.#payloads.fill(0, offset >>> 2, (offset + PAYLOAD_BYTES) >>> 2);
      u8(this.#room).set(payload, offset);
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
        this.strange++;
        continue;
      }
      if (this.#isOut[place] === 1) this.answered++;
      else this.repeated++;
      this.#isOut[place] = 0;
    }
    if (count > 0) answers.release(count);
    return this.answered - before;
  }

  /** Waits until all that was sent is answered. Throws Error where that does not come within `seconds`. */
  async settle(seconds = 5): Promise<void> {
    const until = performance.now() + seconds * 1000;
    for (this.take(); this.out > 0; this.take()) {
      if (performance.now() > until) throw new Error(`${this.out} of ${this.sent} were lost`);
      await delay(1);
    }
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

/** Removes what the processes' files are in. */
export function closeFiles(): void {
  files.close();
}

/** What one takeover was like. */
export interface Takeover {
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
 * Has `app` replaced on the same link while it works on a burst and a request comes every millisecond:
 * by a successor that is ready, or, if `app` is killed, by the process that the master starts then.
 */
export async function takeOver(
  link: EchoLink,
  app: AppProcess,
  kind: "kill" | "hand over",
): Promise<Takeover> {
  const { repeated } = link;
  const before = app.pid;
  if (kind === "hand over") await app.prepare();
  link.send(BURST);
  const killAt = performance.now() + Math.random() * BURST_MS;
  while (performance.now() < killAt);
  const begun = performance.now();
  let [due, isOver] = [0, false];
  const over = kind === "hand over" ? app.takeOver().then(() => isOver = true) : undefined;
  if (kind === "kill") Deno.kill(before, "SIGKILL");
  const isNew = () => kind === "kill" ? app.pid !== before && app.pid !== 0 : isOver;
  const load = () => {
    const elapsed = Math.floor(performance.now() - begun);
    if (elapsed > PATIENCE_MS) throw new Error(`${link.out} of ${link.sent} were lost`);
    link.send(elapsed - due);
    due = elapsed;
  };
  while (!isNew()) {
    load();
    link.take();
    await delay(1);
  }
  link.take();
  link.send(1);
  const from = link.answered;
  let waited;
  do {
    load();
    waited = link.out;
    await delay(1);
    link.take();
  } while (link.answered === from);
  const until = link.sent;
  await over;
  try {
    await link.settle();
  } catch {
    // Counted below.
  }
  return { waited, lost: until - link.answered, repeated: link.repeated - repeated };
}
