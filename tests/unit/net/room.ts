// SPDX-License-Identifier: Apache-2.0
/** A net tile in the host of `host.ts`: with fake rings, and an app whose ends the test uses. */

import assert from "node:assert/strict";
import { heapView, slice, u8, type View } from "../../../ffi/region.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NUD_REACHABLE } from "../../../netbase/neighbors.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import * as route from "../../../netbase/route.ts";
import type { App } from "../../../tiles/app/contract.ts";
import { METRICS_BYTES } from "../../../tiles/app/regions.ts";
import { type Prefix, RECENT_PEERS_BYTES, requestsBytes } from "../../../tiles/net/app_link.ts";
import { SOLICIT_LINK_BYTES, SolicitConsumer } from "../../../tiles/net/arp_queue.ts";
import { CAPTURE_BYTES } from "../../../tiles/net/capture.ts";
import { frameRecordBytes } from "../../../tiles/net/handover.ts";
import type { InlineSetup } from "../../../tiles/net/inline_app.ts";
import { ROUTE_CACHE_BYTES } from "../../../tiles/net/route_cache.ts";
import { SocketCell } from "../../../tiles/net/rings.ts";
import { PortCell, Traffic, TRAFFIC_BYTES } from "../../../tiles/net/traffic.ts";
import { create, type NetSetup } from "../../../tiles/net/tile.ts";
import { CONTROL_BYTES } from "../../../tiles/runtime/control.ts";
import { GAUGES, NET } from "../../../tiles/runtime/counters.ts";
import {
  appLinkBytes,
  Descriptor,
  DESCRIPTOR_WORDS,
  LinkConsumer,
  LinkProducer,
  type LinkShape,
  netLinkBytes,
  payloadRing,
  requestRing,
} from "../../../tiles/runtime/link.ts";
import { HEADROOM_BYTES } from "../../../tiles/runtime/plan.ts";
import {
  type Tile,
  TILE_REGION_BYTES,
  type TileContext,
  TileRegion,
} from "../../../tiles/runtime/tile.ts";
import { IDLE_TILE } from "../../idle_tile.ts";
import { FakeUdp, FakeXsk } from "./fakes.ts";
import { buildFrame, parseFrame, type UdpFrame } from "./frames.ts";
import { ETH0, ETH1, fillNetbase, ip, MAC, macWords, PEER_MAC } from "./host.ts";

export * from "./host.ts";

/** Slots of the fake AF_XDP library. */
export const SLOT = { eth0: 0, eth0Second: 1, eth1: 2 } as const;

export const FRAME_BYTES = 2048;
export const FRAMES = 1024;
const LARGE_BUFFERS = 8;
const UMEM_BYTES = FRAMES * FRAME_BYTES + LARGE_BUFFERS * 65_536;
/** Memory before and after the UMEM, which nobody may touch, and its contents. */
const MARGIN_BYTES = 65_536;
export const MARGIN_BYTE = 0xa5;
const SHAPE: LinkShape = { depth: 64, payloadBytes: 1 << 17 };
/** The same if several apps share the UMEM. */
const APART_SHAPE: LinkShape = { ...SHAPE, requestBytes: 1 << 17 };
const RING = 32;
/** Frames of each fill ring while the kernel has all, and the time for which it has them. */
export const DEEP = 48;
export const DEEP_MILLIS = 10_000;

/** A datagram as received by an app. */
export interface Received {
  readonly source: number;
  readonly destination: number;
  readonly ports: number;
  readonly ifindex: number;
  readonly payload: Uint8Array;
}

/** An answer of an app. Missing fields are those of `REQUEST`, reversed. */
export interface Answer {
  readonly source?: number;
  readonly destination?: number;
  readonly sourcePort?: number;
  readonly destinationPort?: number;
  readonly payload?: Uint8Array;
}

/** A request from a peer on eth0 to port 7. */
export const REQUEST: UdpFrame = {
  destinationMac: MAC[ETH0],
  sourceMac: PEER_MAC,
  tags: [],
  source: ip("198.18.0.2"),
  destination: ip("198.18.0.1"),
  sourcePort: 40_000,
  destinationPort: 7,
  payload: new TextEncoder().encode("hello, tile"),
};

/** For an app that may send to anyone. */
const ANYWHERE: readonly Prefix[] = [{ address: 0, mask: 0 }];

/** The app's ends of its links. */
export class FakeApp {
  readonly setup: NetSetup["apps"][number];
  readonly producer: LinkProducer;
  readonly consumer: LinkConsumer;
  /** The region that the app writes, for the actions of a hostile one. */
  readonly region = heapView(appLinkBytes(SHAPE));
  /** The memory with the payloads of its requests. */
  readonly payloads: View;
  readonly #ring: Uint8Array;
  #at = 0;

  /** Peers that sent to it through another net tile. */
  readonly otherRecentPeers = heapView(RECENT_PEERS_BYTES);

  constructor(
    ports: readonly number[],
    { umem, shape, sendTo }: { umem: View; shape: LinkShape; sendTo: readonly Prefix[] },
  ) {
    const net = heapView(netLinkBytes(shape));
    const app = this.region;
    const tile = heapView(TILE_REGION_BYTES);
    const requests = heapView(requestsBytes(shape));
    const link = { ports, net, app, requests, shape, tile, eventfd: 0 };
    const peers = {
      recentPeers: heapView(RECENT_PEERS_BYTES),
      otherRecentPeers: [this.otherRecentPeers],
      sendTo,
    };
    this.setup = { ...link, ...peers };
    this.producer = new LinkProducer(app, net, shape);
    this.consumer = new LinkConsumer(app, net, shape);
    this.#ring = payloadRing(app, shape);
    this.payloads = requestRing(net, shape) ?? umem;
  }

  /** Takes everything that waits and releases it. */
  take(): Received[] {
    const count = this.consumer.available();
    const { words } = this.consumer;
    const received = Array.from({ length: count }, (_, i) => {
      const at = this.consumer.slot(i);
      const offset = words[at + Descriptor.offset];
      return {
        source: words[at + Descriptor.source],
        destination: words[at + Descriptor.destination],
        ports: words[at + Descriptor.ports],
        ifindex: words[at + Descriptor.interface],
        payload: u8(this.payloads).slice(offset, offset + (words[at + Descriptor.length] & 0xffff)),
      };
    });
    this.consumer.release(count);
    return received;
  }

  /** Answers, as published at once. */
  answer(answer: Answer): void {
    const payload = answer.payload ?? REQUEST.payload;
    if (this.#at + payload.length > this.#ring.length) this.#at = 0;
    this.#ring.set(payload, this.#at);
    this.raw([
      this.#at,
      payload.length,
      answer.source ?? REQUEST.destination,
      answer.destination ?? REQUEST.source,
      (answer.sourcePort ?? 7) * 0x10000 + (answer.destinationPort ?? REQUEST.sourcePort),
    ]);
    this.#at += payload.length;
  }

  /** Publishes a descriptor with these words. */
  raw(words: readonly number[]): void {
    this.producer.refresh();
    const slot = this.producer.slot();
    for (let i = 0; i < DESCRIPTOR_WORDS; i++) this.producer.words[slot + i] = words[i] ?? 0;
    this.producer.push();
    this.producer.publish();
  }
}

/** The host, the tile, and everything around it. */
export class Room {
  readonly netbase = heapView(NETBASE_BYTES);
  readonly writer: NetbaseWriter;
  xsk: FakeXsk;
  readonly udp = new FakeUdp();
  readonly apps: FakeApp[];
  readonly solicits: SolicitConsumer;
  tile!: Tile;
  readonly #frames: { frameBytes: number; headroom: number };
  /** The tile's own. */
  readonly region = heapView(TILE_REGION_BYTES);
  readonly #isDeep: boolean;
  readonly #made: Promise<Tile> | null = null;
  readonly counters: Float64Array;
  setup: NetSetup;
  readonly margins: readonly Uint8Array[];
  now = 1000;
  #counted: Float64Array;
  #wasKilled = false;

  constructor(
    {
      ports = [[7], [9, 53]],
      apart = ports.length > 1,
      sendTo = ANYWHERE,
      partialChecksums = false,
      trustChecksums = false,
      kernelSockets = true,
      headroom = HEADROOM_BYTES,
      inline,
      ownPorts = [],
      packetTimes = false,
      isDeep = false,
    }: {
      ports?: readonly (readonly number[])[];
      /** Whether each app gets copies of its payloads. */
      apart?: boolean;
      sendTo?: readonly Prefix[];
      partialChecksums?: boolean;
      trustChecksums?: boolean;
      kernelSockets?: boolean;
      headroom?: number;
      inline?: App;
      /** Of that app. */
      ownPorts?: readonly number[];
      /** Whether its apps request the time of each packet. */
      packetTimes?: boolean;
      /** Whether it stays in a tile's initial phase: the kernel has all frames, and datagrams wait for apps. */
      isDeep?: boolean;
    } = {},
  ) {
    this.#isDeep = isDeep;
    const region = new TileRegion(this.region);
    const memory = heapView(UMEM_BYTES + 2 * MARGIN_BYTES);
    const umem = slice(memory, MARGIN_BYTES, UMEM_BYTES);
    this.margins = [0, MARGIN_BYTES + UMEM_BYTES].map((at) => u8(slice(memory, at, MARGIN_BYTES)));
    for (const margin of this.margins) margin.fill(MARGIN_BYTE);
    this.writer = new NetbaseWriter(this.netbase, { readers: [], seed: 1 });
    fillNetbase(this.writer);
    this.#frames = { frameBytes: FRAME_BYTES, headroom };
    this.xsk = new FakeXsk(umem, this.#frames);
    const shape = apart ? APART_SHAPE : SHAPE;
    this.apps = ports.map((ports) => new FakeApp(ports, { umem, shape, sendTo }));
    const solicit = heapView(SOLICIT_LINK_BYTES);
    this.solicits = new SolicitConsumer(solicit);
    const socket = {
      ring: 2 * RING,
      fill: RING,
      deepFill: isDeep ? DEEP : RING,
      tx: RING,
      partialChecksums,
    };
    this.setup = {
      netbase: this.netbase,
      umem,
      record: heapView(frameRecordBytes(FRAMES)),
      traffic: heapView(TRAFFIC_BYTES),
      routeCache: heapView(ROUTE_CACHE_BYTES),
      frames: FRAMES,
      largeBuffers: LARGE_BUFFERS,
      sockets: [
        { ...socket, fd: this.xsk.fd(SLOT.eth0), ifindex: ETH0, queue: 0 },
        { ...socket, fd: this.xsk.fd(SLOT.eth0Second), ifindex: ETH0, queue: 1 },
        { ...socket, fd: this.xsk.fd(SLOT.eth1), ifindex: ETH1, queue: 0 },
      ],
      trustChecksums,
      udp: kernelSockets
        ? (inline ? [7] : ports.flat()).map((port) => ({ fd: 1000 + port, port, receive: true }))
        : [],
      apps: this.apps.map(({ setup }) => ({ ...setup, packetTimes })),
      inline: inline ? [{ ...scripted(inline, sendTo, ownPorts), packetTimes }] : [],
      solicit,
      capture: heapView(CAPTURE_BYTES),
      control: heapView(CONTROL_BYTES),
      netlinkTile: heapView(TILE_REGION_BYTES),
      netlinkEventfd: 0,
      eventfd: 50,
      seed: 1,
    };
    this.counters = region.counters;
    this.#counted = this.counters.slice();
    const made = this.#create();
    if (made instanceof Promise) this.#made = made;
    else this.#start(made);
  }

  #create(predecessor?: TileContext<NetSetup>["predecessor"]): Tile | Promise<Tile> {
    return create({
      setup: this.setup,
      region: new TileRegion(this.region),
      libraries: {
        tile: IDLE_TILE,
        xsk: this.xsk,
        udp: this.udp,
      },
      log() {},
      ask() {},
      ...(predecessor && { predecessor }),
    });
  }

  /**
   * Replaces this tile by another, as in another process, with its own route cache. `apps`: those that
   * remain. `isCold`: its sockets are opened again.
   */
  handOver({ isKilled = false, isCold = false, apps = this.apps } = {}): void {
    if (!isKilled) this.tile.relinquish!();
    this.#wasKilled ||= isKilled || isCold;
    if (isCold) this.xsk = new FakeXsk(this.setup.umem, this.#frames);
    this.#succeed(apps);
    this.#start(this.#create() as Tile);
  }

  /** Hands over to a tile that is made before this one ends; `beside` is called in between. */
  async handOverInTurn(beside: () => void = () => {}): Promise<void> {
    this.#succeed(this.apps);
    this.setup = { ...this.setup, warmUp: true };
    const made = this.#create(async () => {
      // It has plenty of time to do something forbidden.
      await new Promise((resolve) => setTimeout(resolve));
      beside();
      this.turn();
      this.tile.relinquish!();
    });
    this.#start(await made);
  }

  #succeed(apps: readonly FakeApp[]): void {
    const routeCache = heapView(ROUTE_CACHE_BYTES);
    const seed = this.setup.seed + 1;
    this.setup = { ...this.setup, routeCache, seed, apps: apps.map(({ setup }) => setup) };
  }

  /** A host with an inline app at port 7 that does `receive`. */
  static async inline(
    app: App | App["receive"],
    options: ConstructorParameters<typeof Room>[0] = {},
  ): Promise<Room> {
    const inline = typeof app === "function" ? { receive: app } : app;
    const room = new Room({ ports: [], ...options, inline });
    room.#start(await room.#made!);
    return room;
  }

  #start(tile: Tile): void {
    this.tile = tile;
    if (!this.#isDeep) {
      for (const then of [this.now - DEEP_MILLIS, this.now]) tile.housekeeping!(then);
    }
    tile.clock!(this.now);
  }

  /** Runs turns until the tile has nothing more to do. */
  turn(): void {
    for (let turns = 0; this.tile.turn() > 0; turns++) {
      if (turns > 1000) throw new Error("the tile does not come to rest");
    }
  }

  /** Advances the time. */
  pass(millis: number): void {
    this.now += millis;
    this.tile.clock!(this.now);
    this.tile.housekeeping!(this.now);
  }

  /** Receives a frame on a queue, and lets the tile process it. */
  receive(frame: UdpFrame | Uint8Array, slot: number = SLOT.eth0): void {
    this.xsk.deliver(slot, frame instanceof Uint8Array ? frame : buildFrame(frame));
    this.turn();
  }

  /** App 0 answers, and the tile processes it. */
  answer(answer: Answer): void {
    this.apps[0].answer(answer);
    this.turn();
  }

  /** Frames sent on any queue of an interface since the last call, parsed. */
  sent(ifindex: number): UdpFrame[] {
    const slots = ifindex === ETH0 ? [SLOT.eth0, SLOT.eth0Second] : [SLOT.eth1];
    return slots.flatMap((slot) => this.xsk.sent(slot)).map(parseFrame);
  }

  /** Solicits since the last call: interface, address. */
  solicited(): [number, number][] {
    const out = new Uint32Array(2048);
    const count = this.solicits.take(out, 1024);
    return Array.from({ length: count }, (_, i) => [out[2 * i], out[2 * i + 1]]);
  }

  /** Adds or updates a neighbour. */
  neighbor(address: number, { ifindex = ETH0, mac = PEER_MAC, state = NUD_REACHABLE } = {}): void {
    const { macHead, macTail } = macWords(mac);
    this.writer.neighbors.set({ ifindex, address, state, flags: 0, macHead, macTail });
    this.writer.commit();
  }

  /** Adds a route of table main. */
  route(fields: Partial<route.Route>): void {
    this.writer.rib.add({ ...route.emptyRoute(), ...fields }, route.NLM_F_CREATE);
    this.writer.commit();
  }

  /** Frames in no ring, link or queue. */
  freeFrames(): number {
    this.tile.housekeeping!(this.now);
    return this.counters[NET.index.frames_free];
  }

  /** Counters that changed since the last call, by name, without gauges. */
  moved(): Record<string, number> {
    const names = Object.keys(NET.help);
    const before = this.#counted;
    this.#counted = this.counters.slice();
    return Object.fromEntries(
      names.map((name, i) => [name, this.counters[i] - before[i]] as const)
        .filter(([name, by]) => by !== 0 && !GAUGES.has(name)),
    );
  }

  /** Of the received datagrams, those delivered and those dropped must be all. */
  received(): { received: number; accounted: number; delivered: number } {
    const { rx_frames, rx_socket, rx_delivered } = NET.index;
    const of = (i: number) => this.counters[i];
    const dropped = Object.entries(NET.index).filter(([name]) => name.startsWith("rx_drop_"))
      .reduce((sum, [, i]) => sum + of(i), 0);
    const delivered = of(rx_delivered);
    return { received: of(rx_frames) + of(rx_socket), accounted: delivered + dropped, delivered };
  }

  /** Of the accepted datagrams, those sent and those dropped must be all; `waiting` are still held. */
  balance(): { accepted: number; accounted: number } {
    const all = Object.entries(NET.index).map(([name, i]) => [name, this.counters[i]] as const);
    const accounted = all.filter(([name]) =>
      name.startsWith("tx_drop_") || name === "tx_frames" || name === "tx_socket"
    ).reduce((sum, [, count]) => sum + count, 0);
    // Counts that a killed tile had not flushed are in only one of the two.
    if (!this.#wasKilled) this.#expectPortsAddUp();
    return { accepted: this.counters[NET.index.tx_accepted], accounted };
  }

  /** The counts by port and by socket must equal those of the tile. */
  #expectPortsAddUp(): void {
    this.tile.housekeeping!(this.now);
    const traffic = new Traffic(this.setup.traffic);
    const { ports } = traffic;
    const sum = (cell: number) => {
      let sum = 0;
      for (let at = cell; at < ports.length; at += 8) sum += ports[at];
      return sum;
    };
    const counted = (names: RegExp) =>
      Object.entries(NET.index).filter(([name]) => names.test(name))
        .reduce((sum, [, i]) => sum + this.counters[i], 0);
    const sockets = (cell: number) =>
      this.setup.sockets.reduce((sum, _, i) => sum + traffic.socket(i)[cell], 0);
    assert.deepEqual({
      rxPackets: sum(PortCell.rxPackets),
      rxDrops: sum(PortCell.rxDrops),
      txPackets: sum(PortCell.txPackets),
      txDrops: sum(PortCell.txDrops),
      rxFrames: sockets(SocketCell.rxPackets),
      txFrames: sockets(SocketCell.txPackets),
    }, {
      rxPackets: counted(/^rx_delivered$/),
      rxDrops: counted(/^rx_drop_(app_link_full|no_buffer|truncated)$/),
      txPackets: counted(/^tx_accepted$/),
      txDrops: counted(/^tx_drop_/),
      rxFrames: counted(/^rx_frames$/),
      txFrames: counted(/^tx_frames$/),
    });
  }
}

/** An inline app that does `receive`. */
function scripted(
  app: App,
  sendTo: readonly Prefix[],
  ownPorts: readonly number[],
): InlineSetup {
  return {
    ...{ name: "scripted", ports: [7], ownPorts, served: [7, ...ownPorts], options: { app } },
    module: import.meta.resolve("../../fixtures/scripted.ts"),
    metrics: heapView(METRICS_BYTES),
    region: heapView(TILE_REGION_BYTES),
    ...{ recentPeers: heapView(RECENT_PEERS_BYTES), otherRecentPeers: [], sendTo },
  };
}
