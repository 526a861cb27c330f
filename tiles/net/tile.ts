// SPDX-License-Identifier: Apache-2.0
/**
 * The net tile receives and sends frames. It owns some queues of the attached interfaces, and the
 * kernel sockets behind the served ports. The path of a datagram through this folder:
 *
 *     rings (or sockets) → rx → app_link → (the app) → tx → rings
 *
 * An inline app replaces `app_link`. `rx` looks up the route of the answer in `route_cache`. Without a
 * cached route, `tx` takes the slow path: it resolves the route, and then sends as usual or by
 * `sockets`, or queues in `arp_queue` while the neighbour is unknown.
 */

import { describeErrno } from "../../ffi/library.ts";
import { heapView, slice, type View } from "../../ffi/region.ts";
import type { TileLibrary } from "../../ffi/tile.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import { loadService } from "../app/host.ts";
import { METRICS_BYTES, MetricsWriter } from "../app/regions.ts";
import { ControlReader } from "../runtime/control.ts";
import { HISTOGRAMS, NET } from "../runtime/counters.ts";
import { FRAME_BYTES } from "../runtime/plan.ts";
import {
  Life,
  type Tile,
  type TileContext,
  TileReader,
  TileRegion,
  Waker,
} from "../runtime/tile.ts";
import { AppLink, type AppSetup } from "./app_link.ts";
import { ARP_QUEUE_LIMITS, SolicitProducer, Solicits } from "./arp_queue.ts";
import { Capture, CaptureWriter } from "./capture.ts";
import { FrameRecord, RingsLost, takeOver } from "./handover.ts";
import { InlineApp, type InlineSetup } from "./inline_app.ts";
import {
  ETH_P_IP,
  ETHERNET_BYTES,
  MOST_XDP_SOCKETS,
  TAG_BYTES,
  UDP_PORTS,
  Umem,
  XdpSocket,
  type XdpSocketSetup,
} from "./rings.ts";
import { Devices, Resolver, RouteCache } from "./route_cache.ts";
import { Dispatch, Receiver, RxBatch, type UdpSocketSetup } from "./rx.ts";
import { PollSet, SocketReceiver, SocketSender } from "./sockets.ts";
import { countBatch, PortCell, TrafficCounter } from "./traffic.ts";
import { Transmitter } from "./tx.ts";

/**
 * Busy turns between two polls of the kernel sockets. Idle turns do not poll: the system call would
 * delay the next request, and the tile soon blocks on these sockets anyway.
 */
const POLL_TURNS = 16;
/** For how long after a handover the processors are busy with it. */
const DEEP_MILLIS = 2000;
/** During a handover datagrams wait if an app has not passed this share of its link. */
const WAITING_FILL = 0.5;
/** How long, in total, datagrams wait during a handover for apps whose links are full. */
const PATIENCE_MILLIS = 100;
const BATCHES = HISTOGRAMS.tx_batch;

export interface NetSetup {
  /** Netbase, read here. */
  readonly netbase: View;
  /** The UMEM: frames, then large buffers of 64 KiB. */
  readonly umem: View;
  /** The record of its frames that a net tile leaves for its successor on this UMEM (`handover.ts`). */
  readonly record: View;
  /** Its counts by socket and port (`traffic.ts`). */
  readonly traffic: View;
  readonly routeCache: View;
  readonly frames: number;
  readonly largeBuffers: number;
  readonly sockets: readonly XdpSocketSetup[];
  /** Whether the NIC verifies the UDP checksums of frames. */
  readonly trustChecksums?: boolean;
  readonly udp: readonly UdpSocketSetup[];
  readonly apps: readonly AppSetup[];
  readonly inline?: readonly InlineSetup[];
  /** The solicit link, written here. */
  readonly solicit: View;
  /** The capture ring, written here. */
  readonly capture: View;
  /** The control region, which contains whether a capture is on. */
  readonly control: View;
  /** The netlink tile's region, for its sleep word. */
  readonly netlinkTile: View;
  readonly netlinkEventfd: number;
  readonly eventfd: number;
  /** Whether there is time to warm up, because a predecessor still serves. */
  readonly warmUp?: boolean;
  /** Random: keys the hashes of tables with addresses of strangers (`netbase/hash.ts`). */
  readonly seed: number;
}

/**
 * Makes a net tile. Throws RangeError if its setup is inconsistent, and RingsLost if its sockets must
 * be opened again.
 */
export function create(context: TileContext<NetSetup>): Tile | Promise<Tile> {
  const { setup: { inline = [], ...setup }, libraries: { xsk, udp } } = context;
  if (xsk === undefined || udp === undefined) throw new TypeError("a net tile needs xsk and udp");
  if (setup.frames < framesNeeded(setup)) {
    throw new RangeError(`${setup.frames} frames are too few, ${framesNeeded(setup)} are needed`);
  }
  if (setup.sockets.length > MOST_XDP_SOCKETS) {
    throw new RangeError(`${setup.sockets.length} queues are more than ${MOST_XDP_SOCKETS}`);
  }
  // Remains set while the new tile is deep (`#deepen`).
  context.libraries.tile.bePrompt(true);
  if (inline.length > 0 || context.predecessor !== undefined) return createBeside(context, inline);
  return new NetTile(context, open(context, adopt(context)), []);
}

/**
 * Makes the inline apps first, and waits for the predecessor's end before it touches memory that others
 * may still use. Throws Error with the reason if an app fails.
 */
async function createBeside(
  context: TileContext<NetSetup>,
  setups: readonly InlineSetup[],
): Promise<Tile> {
  const made = await Promise.all(setups.map((setup) => makeInline(context, setup)));
  const opened = open(context, adopt(context));
  if (context.predecessor !== undefined) {
    if (context.setup.warmUp) {
      // Only a tile with a predecessor needs this module.
      const { warmUp } = await import("./warm_up.ts");
      // As if there were kernel sockets that never have any datagrams.
      const receiving = [{ fd: -1, port: 0, receive: true }];
      await warmUp(
        context,
        (warm, slots, made) => new NetTile(warm, { ...open(warm, slots), receiving }, made),
      );
    }
    await context.predecessor(opened.descriptors);
  }
  for (const { setup, metrics } of made) {
    metrics.move(setup.metrics);
    new TileRegion(setup.region).life = Life.running;
  }
  return new NetTile(context, opened, made);
}

/** An inline app that is made, but not in the tile yet. */
export type MadeApp = Omit<Awaited<ReturnType<typeof makeInline>>, "metrics">;

async function makeInline(
  { libraries: { clock }, log }: TileContext<NetSetup>,
  setup: InlineSetup,
) {
  const { counters } = new TileRegion(setup.region);
  /** Its metrics until it is in the tile. */
  const metrics = new MetricsWriter(heapView(METRICS_BYTES));
  const service = await loadService(setup, {
    ...{ counters, metrics },
    ...(clock && { clock }),
    log: (line, level) => log(`${setup.name}: ${line}`, level),
  });
  return { setup, service, counters, metrics };
}

/** Maps the rings of all sockets, and returns their slots. Throws RingsLost. */
function adopt({ setup, libraries: { xsk } }: TileContext<NetSetup>): number[] {
  const frames = slice(setup.umem, 0, setup.frames * FRAME_BYTES);
  return setup.sockets.map(({ fd, ring, slot = xsk!.adopt(fd, frames, ring) }) => {
    if (slot >= 0) return slot;
    throw new RingsLost(`the rings of a socket cannot be mapped: ${describeErrno(slot)}`);
  });
}

/** Opens what needs system calls that a confined tile may not make. Throws SystemError. */
function open({ setup, libraries }: TileContext<NetSetup>, slots: readonly number[]) {
  const { eventfd } = setup;
  const [xsk, udp] = [libraries.xsk!, libraries.udp!];
  const xdpSockets = slots.map((slot) => xsk.fd(slot));
  const receiving = setup.udp.filter(({ receive }) => receive);
  const sockets = receiving.map(({ fd }) => fd);
  return {
    slots,
    /** The kernel sockets that it receives on. */
    receiving,
    pollSet: new PollSet({ xsk, udp, tile: libraries.tile }, { eventfd, xdpSockets, sockets }),
    descriptors: [eventfd, ...xdpSockets, ...setup.udp.map(({ fd }) => fd)],
  };
}

/** Frames that a net tile needs, so that none of its rings, links and queues can starve another. */
export function framesNeeded(setup: Pick<NetSetup, "sockets" | "apps">): number {
  const rings = setup.sockets.reduce((sum, { deepFill, tx }) => sum + deepFill + tx, 0);
  const links = setup.apps.reduce((sum, { shape }) => sum + shape.depth, 0);
  return rings + links + ARP_QUEUE_LIMITS.total;
}

/** The UDP source port of the frame that begins at `offset`. */
function sourcePort(view: DataView, offset: number): number {
  let ip = offset + ETHERNET_BYTES;
  while (view.getUint16(ip - 2) !== ETH_P_IP) ip += TAG_BYTES;
  return view.getUint16(ip + UDP_PORTS);
}

class NetTile implements Tile {
  readonly descriptors: readonly number[];
  readonly #umem: Umem;
  readonly #reader: NetbaseReader;
  readonly #cache: RouteCache;
  readonly #xdpSockets: readonly XdpSocket[];
  readonly #apps: readonly AppLink[];
  readonly #inline: readonly InlineApp[];
  readonly #receiver: Receiver;
  readonly #socketReceiver: SocketReceiver;
  readonly #socketSender: SocketSender;
  /** The kernel sockets that this tile receives on. */
  readonly #receiving: readonly UdpSocketSetup[];
  readonly #transmitter: Transmitter;
  readonly #solicits: Solicits;
  readonly #capture: Capture;
  readonly #netlink: Waker;
  readonly #pollSet: PollSet;
  readonly #counters: Float64Array;
  readonly #record: FrameRecord;
  readonly #traffic: TrafficCounter;
  /** The predecessors' count of `link_corrupt`. */
  readonly #corruptBefore: number;
  readonly #control: ControlReader;
  readonly #tile: TileLibrary;
  /** Whether a handover may keep this tile, or an app, from running, and until when. Initially true. */
  #isDeep = true;
  #deepUntil = 0;
  /** When datagrams began to wait for apps with full links, and how much longer they may wait. */
  #waitingSince = 0;
  #patience = PATIENCE_MILLIS;
  #generation = -1;
  #turns = 0;
  #worked = false;

  constructor(
    { setup, region, libraries }: TileContext<NetSetup>,
    { slots, receiving, pollSet, descriptors }: ReturnType<typeof open>,
    made: readonly MadeApp[],
  ) {
    const tile = this.#tile = libraries.tile;
    const [xsk, udp] = [libraries.xsk!, libraries.udp!];
    const counters = this.#counters = region.counters;
    const { seed, trustChecksums } = setup;
    const umem = this.#umem = new Umem(setup.umem, setup);
    const reader = this.#reader = new NetbaseReader(setup.netbase);
    const inline = made.map(({ setup: { ports, ownPorts = [] } }) => (
      { ports: [...ports, ...ownPorts] }
    ));
    const dispatch = new Dispatch([...setup.apps, ...inline], setup.udp);
    const cache = this.#cache = new RouteCache(setup.routeCache, seed);
    const devices = new Devices(reader, setup.sockets);
    const traffic = this.#traffic = new TrafficCounter({
      ...{ traffic: setup.traffic, dispatch, counters, xsk },
    });
    const xdpSockets = this.#xdpSockets = setup.sockets.map((socket, i) =>
      new XdpSocket(socket, { xsk, umem, slot: slots[i], cells: traffic.socket(i, socket) })
    );
    this.#control = new ControlReader(setup.control);
    const capture = this.#capture = new Capture(this.#control, new CaptureWriter(setup.capture));
    const link = new SolicitProducer(setup.solicit);
    const solicits = this.#solicits = new Solicits(link, { counters, seed });
    const resolver = new Resolver({ reader, devices, cache, solicits });
    const sockets = new SocketSender({ udp, umem, capture, counters, traffic });
    this.#socketSender = sockets;
    const all = { umem, reader, dispatch, cache, devices, capture, counters, traffic, seed };
    const transmitter = this.#transmitter = new Transmitter({
      ...{ ...all, resolver, solicits, xdpSockets, sockets, random: Math.random },
    });
    const { wake } = tile;
    this.#apps = setup.apps.map((app, index) => new AppLink(app, { ...all, index, wake }));
    this.#record = new FrameRecord(setup.record, setup.frames);
    this.#corruptBefore = counters[NET.index.link_corrupt];
    // Before anything takes a frame.
    takeOver({ umem, xdpSockets, apps: this.#apps, record: this.#record });
    const batch = new RxBatch();
    this.#inline = made.map(({ setup: app, service, counters }, i) => {
      const index = setup.apps.length + i;
      return new InlineApp(app, { ...all, service, counters, index, batch, transmitter });
    });
    const apps = [...this.#apps, ...this.#inline];
    const packetTimes = [...setup.apps, ...made.map(({ setup }) => setup)]
      .some(({ packetTimes }) => packetTimes);
    this.#receiver = new Receiver({ ...all, batch, xsk, apps, trustChecksums, packetTimes });
    this.#socketReceiver = new SocketReceiver({ ...all, udp, apps });
    this.#receiving = receiving;

    const { netlinkTile, netlinkEventfd } = setup;
    this.#netlink = new Waker(new TileReader(netlinkTile), () => tile.wake(netlinkEventfd));
    this.#pollSet = pollSet;
    this.descriptors = descriptors;
    xdpSockets.forEach((socket, i) => {
      const isNew = socket.isNew();
      socket.isDeep = this.#isDeep;
      socket.refill();
      const { queue, deepFill } = setup.sockets[i];
      if (socket.filled === deepFill || !isNew) return;
      throw new RangeError(
        `queue ${queue}: the fill ring took ${socket.filled} of ${deepFill} frames`,
      );
    });
    this.#cache.nextTick();
    this.#count();
  }

  turn(): number {
    this.#refresh();
    this.#capture.poll();
    const xdpSockets = this.#xdpSockets;
    const apps = this.#apps;
    let work = 0;
    for (let i = 0; i < apps.length; i++) apps[i].reclaim();
    const waits = this.#isDeep && this.#waitsForApps();
    for (let i = 0; i < xdpSockets.length; i++) {
      xdpSockets[i].complete();
      if (waits) continue;
      work += this.#receiver.burst(xdpSockets[i]);
      this.#runInline();
    }
    if (!waits) work += this.#receiveSockets();
    for (let i = 0; i < apps.length; i++) apps[i].publish();
    for (let i = 0; i < apps.length; i++) work += this.#transmitter.burst(apps[i]);
    this.#socketSender.flush();
    let sent = 0;
    for (let i = 0; i < xdpSockets.length; i++) {
      const count = xdpSockets[i].flush();
      if (count > 0) countBatch(this.#counters, BATCHES, count);
      sent += count;
    }
    this.#counters[NET.index.tx_frames] += sent;
    // Refilled last, so that no answer waits while the kernel gets free frames.
    for (let i = 0; i < xdpSockets.length; i++) xdpSockets[i].refill();
    this.#askNetlink();
    this.#worked = work + sent > 0;
    if (!this.#worked) this.#traffic.rest();
    return work + sent;
  }

  pending(): boolean {
    return this.#apps.some((app) => app.answers.available() > 0) ||
      this.#xdpSockets.some((socket) => socket.unfinished()) || this.#overtaken();
  }

  wait(timeoutMs: number): void {
    this.#pollSet.wait(timeoutMs);
  }

  clock(nowMillis: number): void {
    // The tile may have slept since the last turn, and apps' timers send by cached routes.
    this.#refresh();
    this.#solicits.clock(nowMillis);
    this.#transmitter.queue.clock(nowMillis);
    for (const app of this.#inline) app.clock(nowMillis);
    this.#socketSender.flush();
    // The tile may be about to sleep, so a solicit of this call must not wait for the next turn.
    this.#askNetlink();
  }

  nextDue(nowMillis: number): number {
    let due = this.#transmitter.queue.nextDue(nowMillis);
    for (const app of this.#inline) {
      const its = app.nextDue(nowMillis);
      if (its >= 0 && (due < 0 || its < due)) due = its;
    }
    return due;
  }

  housekeeping(nowMillis: number): void {
    this.#deepen(nowMillis);
    this.#cache.nextTick();
    this.#count();
  }

  /** Gives the kernel all frames while a successor starts, and for some time after a handover. */
  #deepen(nowMillis: number): void {
    if (this.#deepUntil === 0 || this.#control.changing) this.#deepUntil = nowMillis + DEEP_MILLIS;
    const isDeep = nowMillis < this.#deepUntil;
    if (isDeep === this.#isDeep) return;
    this.#isDeep = isDeep;
    this.#patience = PATIENCE_MILLIS;
    this.#tile.bePrompt(isDeep);
    for (const socket of this.#xdpSockets) socket.isDeep = isDeep;
  }

  /**
   * Whether datagrams stay in the rings because an app's link is more than half full. A handover may
   * keep an app from running as well. After `PATIENCE_MILLIS` such an app loses its own datagrams, as
   * at any other time.
   */
  #waitsForApps(): boolean {
    const apps = this.#apps;
    let waits = false;
    for (let i = 0; i < apps.length; i++) if (apps[i].fill > WAITING_FILL) waits = true;
    if (!waits) {
      this.#waitingSince = 0;
      return false;
    }
    const now = performance.now();
    if (this.#waitingSince !== 0) this.#patience -= now - this.#waitingSince;
    this.#waitingSince = now;
    return this.#patience > 0;
  }

  /** Updates counters and gauges that others read. */
  #count(): void {
    const totals = new Float64Array(this.#record.totals.length);
    const areComplete = this.#xdpSockets.every((socket) => socket.addStatistics(totals));
    if (areComplete) this.#countStatistics(totals);
    this.#counters[NET.index.frames_free] = this.#umem.freeFrames;
    this.#counters[NET.index.frames_in_kernel] = this.#xdpSockets.reduce(
      (sum, { held }) => sum + held,
      0,
    );
    this.#counters[NET.index.arp_queue] = this.#transmitter.queue.count;
    for (const socket of this.#xdpSockets) socket.measure();
    this.#traffic.flush();
    this.#apps.forEach((app, i) => this.#traffic.links[i] = app.fill);
    this.#counters[NET.index.link_corrupt] = this.#apps.reduce(
      (sum, app) => sum + app.corrupt,
      this.#corruptBefore,
    );
  }

  /** Adds the kernel's counts of the sockets. New sockets begin at 0. */
  #countStatistics(totals: Float64Array): void {
    const before = this.#record.totals;
    for (let i = 0; i < before.length; i++) {
      const counter = NET.index.xdp_rx_drop_kernel + i;
      if (before[i] + totals[i] < this.#counters[counter]) before[i] = this.#counters[counter];
      this.#counters[counter] = before[i] + totals[i];
    }
  }

  drained(): boolean {
    // An app may still answer requests that it has not passed.
    const isPassed = this.#apps.every((app) => (app.reclaim(), app.outstanding === 0));
    return isPassed && !this.pending();
  }

  /** Gives up every frame that neither the kernel nor an app has. */
  relinquish(): void {
    this.#transmitter.queue.clear();
    for (const app of this.#inline) app.relinquish();
    for (const socket of this.#xdpSockets) {
      this.#counters[NET.index.tx_frames] += socket.flush();
      this.#counters[NET.index.tx_drop_ring_full] += socket.dropQueued((offset) =>
        this.#traffic.dropped(sourcePort(this.#umem.view, offset), PortCell.txDrops)
      );
    }
    this.#count();
    this.#record.write(this.#umem, this.#apps);
    // The successor owns the frames, so leftovers of an inline app (such as a promise) get none.
    this.#umem.restart(new Uint8Array(0));
  }

  close(): void {
    this.#transmitter.queue.clear();
  }

  /** Whether netbase has changed while packets wait. The netlink tile wakes this one on a change. */
  #overtaken(): boolean {
    if (this.#transmitter.queue.count === 0) return false;
    this.#reader.refresh();
    return this.#reader.generation !== this.#generation;
  }

  /** Follows netbase. Packets that waited for a change are sent first. */
  #refresh(): void {
    this.#reader.refresh();
    if (this.#generation === this.#reader.generation) return;
    this.#generation = this.#reader.generation;
    this.#cache.clear();
    this.#transmitter.releaseAll();
  }

  /**
   * Lets inline apps answer the current batch. Requests of the same batch for other apps are published
   * first, so that an inline app that hangs or ends the tile does not lose them.
   */
  #runInline(): void {
    if (this.#inline.length === 0) return;
    for (let i = 0; i < this.#apps.length; i++) this.#apps[i].publish();
    for (let i = 0; i < this.#inline.length; i++) this.#inline[i].run();
  }

  #askNetlink(): void {
    if (this.#solicits.publish()) this.#netlink.published();
  }

  /**
   * Receives from kernel sockets with datagrams. Polls them every few turns, and every turn while more
   * sockets are busy than one poll returns, so that all of them are served.
   */
  #receiveSockets(): number {
    const set = this.#pollSet;
    if (this.#receiving.length === 0) return 0;
    if (!set.full && this.#worked && ++this.#turns >= POLL_TURNS) {
      this.#turns = 0;
      set.poll();
    }
    let work = 0;
    for (let at = set.readyCount - 1; at >= 0; at--) {
      const { fd, port } = this.#receiving[set.ready[at]];
      const count = this.#socketReceiver.burst(fd, port);
      this.#runInline();
      // The socket that takes its place was already served.
      if (count === 0) set.emptied(at);
      work += count;
    }
    if (set.full) set.poll();
    return work;
  }
}
