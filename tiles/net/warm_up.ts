// SPDX-License-Identifier: Apache-2.0
/**
 * V8 interprets code until it is hot, but a net tile that takes over gets datagrams at once. So before
 * that it answers made-up requests in private memory, by the same code and the same calls of the
 * library, until V8 has had time to compile it.
 */

import { heapView, slice, u8, type View } from "../../ffi/region.ts";
import { IFF_LOWER_UP, IFF_UP } from "../../netbase/interfaces.ts";
import { NETBASE_BYTES } from "../../netbase/layout.ts";
import { NUD_REACHABLE } from "../../netbase/neighbors.ts";
import { NetbaseWriter } from "../../netbase/netbase_writer.ts";
import * as route from "../../netbase/route.ts";
import type { App } from "../app/contract.ts";
import { makeService } from "../app/host.ts";
import { METRICS_BYTES } from "../app/regions.ts";
import { CONTROL_BYTES, ControlReader, ControlWriter } from "../runtime/control.ts";
import { NET } from "../runtime/counters.ts";
import {
  appLinkBytes,
  Descriptor,
  LinkConsumer,
  LinkProducer,
  netLinkBytes,
  REFLECTED,
} from "../runtime/link.ts";
import { FRAME_BYTES, HEADROOM_BYTES } from "../runtime/plan.ts";
import {
  pause,
  runLoop,
  spinTurnsFor,
  type Tile,
  TILE_REGION_BYTES,
  type TileContext,
  TileRegion,
} from "../runtime/tile.ts";
import { RECENT_PEERS_BYTES, requestsBytes } from "./app_link.ts";
import { SOLICIT_LINK_BYTES } from "./arp_queue.ts";
import { CAPTURE_BYTES } from "./capture.ts";
import { frameRecordBytes } from "./handover.ts";
import { BATCH } from "./rings.ts";
import { TRAFFIC_BYTES } from "./traffic.ts";
import { ROUTE_CACHE_BYTES } from "./route_cache.ts";
import type { MadeApp, NetSetup } from "./tile.ts";

/** The longest warm-up: the predecessor serves meanwhile, on the same processors. */
const MOST_MILLIS = 4000;
/** Turns after which V8 has optimised all code, and the turns between two yields to others. */
const TURNS = 6000;
const TURNS_AT_ONCE = 8;
const PAUSE_MILLIS = 1;
/** Frames that arrive together, by turn. */
const BURSTS = [BATCH, 1, 8, 0, BATCH / 2, 2, 16, BATCH, 4];
/** Turns between two changes of netbase, and between two calls of the tile's clock and housekeeping. */
const CHANGE_TURNS = 64;
const CLOCK_TURNS = 32;
/** In one of this many turns the app and the netlink tile sleep, and are woken. */
const ASLEEP_TURNS = 16;
/** The last of this many turns find a stalled app: first single frames wait, then full bursts. */
const STALL_TURNS = 1024;
const SINGLE_TURNS = 160;
const STALLED_TURNS = 256;
/** The time of a turn for the tile's clock. As with the real clock, times are not whole numbers. */
const TURN_MILLIS = 2.5;
/** Turns of the first tile, from whose objects V8 learns the kinds of values. */
const FIRST_TURNS = 300;
/** Runs of the loop, and its idle turns. */
const LOOPS = 400;
const SPIN_TURNS = spinTurnsFor(2, 1);

const IFINDEX = 1;
const PORT = 7;
const INLINE_PORT = 9;
const NOBODYS_PORT = 11;
const OURS = 0xc6120001;
const GATEWAY = 0xc6120002;
/** The requesting peers, of 198.19.0.0/16, and the distance of their addresses. */
const PEERS = 0xc6130000;
const PEER_COUNT = 1024;
const PEER_STEP = 37;
const HEADERS_BYTES = 42;
/** Payload bytes of the first peer, and the most that others have in addition. */
const PAYLOAD_BYTES = 18;
const MORE_BYTES = 31;
/** One of this many frames goes to a port that is not served, and one has no checksum. */
const NOBODYS_FRAMES = 61;
const UNSUMMED_FRAMES = 17;
/** One of this many frames is from an unknown neighbour. */
const UNKNOWN_FRAMES = 59;
const UNKNOWN = 0xc6120080;
/** One of this many answers names no request, but a destination. */
const UNASKED_ANSWERS = 32;
/** Where the kernel puts a frame, in addition to the headroom that it is configured to keep. */
const KERNEL_HEADROOM = 256;

type Make = (
  context: TileContext<NetSetup>,
  slots: readonly number[],
  made: readonly MadeApp[],
) => Tile;

/** Lets a tile, made by `make`, answer made-up requests. */
export async function warmUp(context: TileContext<NetSetup>, make: Make): Promise<void> {
  // Shared by both tiles: the second overwrites what the first leaves in it.
  const umem = heapView(context.setup.umem.byteLength);
  // V8 specialises code to the first objects that it sees, so another tile comes first.
  const first = await makeStage(context, { make, umem });
  if (first === undefined) return;
  const until = performance.now() + MOST_MILLIS;
  serve(first, FIRST_TURNS, until);
  first.close();
  const stage = (await makeStage(context, { make, umem }))!;
  serve(stage, TURNS, until);
  loop(stage, until);
  stage.close();
  // The tile's housekeeping has changed it.
  context.libraries.tile.bePrompt(true);
}

type Stage = NonNullable<Awaited<ReturnType<typeof makeStage>>>;

/** A tile on private memory and this `umem`, with substitutes for its peers and its app. */
async function makeStage(
  context: TileContext<NetSetup>,
  { make, umem }: { make: Make; umem: View },
) {
  const { setup, libraries } = context;
  const xsk = libraries.xsk!;
  const { frames } = setup;
  const ring = setup.sockets[0]?.ring ?? 0;
  const hasInline = (setup.inline ?? []).length > 0;
  // The same kinds of apps as in the setup.
  const ports = [...setup.apps.slice(0, 1).map(() => PORT), ...hasInline ? [INLINE_PORT] : []];
  if (ring === 0 || ports.length === 0) return;
  const slot = xsk.memorySlot(slice(umem, 0, frames * FRAME_BYTES), {
    frameBytes: FRAME_BYTES,
    ring,
  });
  if (slot < 0) return;
  const shape = setup.apps[0]?.shape ?? { depth: ring, payloadBytes: 1 << 17 };
  const [net, app] = [heapView(netLinkBytes(shape)), heapView(appLinkBytes(shape))];
  const [appTile, netlinkTile] = [heapView(TILE_REGION_BYTES), heapView(TILE_REGION_BYTES)];
  const control = heapView(CONTROL_BYTES);
  const netbase = makeNetbase();
  // Cloned like a message, so that V8 sees objects of the same shape.
  const own: NetSetup = structuredClone({
    ...setup,
    netbase: netbase.view,
    umem,
    record: heapView(frameRecordBytes(frames)),
    traffic: heapView(TRAFFIC_BYTES),
    routeCache: heapView(ROUTE_CACHE_BYTES),
    sockets: [{ ...setup.sockets[0], fd: -1, ifindex: IFINDEX }],
    udp: [],
    apps: setup.apps.slice(0, 1).map((each) => ({
      ...each,
      ...{ ports: [PORT], net, app, shape, tile: appTile, eventfd: -1 },
      requests: heapView(requestsBytes(shape)),
      ...{ recentPeers: heapView(RECENT_PEERS_BYTES), otherRecentPeers: [], sendTo: [] },
    })),
    inline: [],
    solicit: heapView(SOLICIT_LINK_BYTES),
    capture: heapView(CAPTURE_BYTES),
    control,
    netlinkTile,
    netlinkEventfd: -1,
  });
  const region = new TileRegion(heapView(TILE_REGION_BYTES));
  const inline = hasInline ? [await makeInline()] : [];
  const tile = make({ ...context, setup: own, region }, [slot], inline);
  const [requests, others] = [makeFrames(ports), makeFrames([NOBODYS_PORT])];
  const pairs = new Uint32Array(2 * BATCH);
  const bytes = u8(umem);
  let next = 0;
  return {
    ...{ tile, region, control, netbase },
    others: [new TileRegion(appTile), new TileRegion(netlinkTile)],
    app: {
      requests: new LinkConsumer(app, net, shape),
      answers: new LinkProducer(app, net, shape),
    },
    /** Lets this many requests arrive, or as many as fit. If not `isServed`, they are dropped. */
    receive(burst: number, { isServed = true } = {}): void {
      const from = isServed ? requests : others;
      const frameAt = (i: number) => from[(next + i) % from.length];
      for (let i = 0; i < burst; i++) {
        pairs[2 * i] = KERNEL_HEADROOM + HEADROOM_BYTES;
        pairs[2 * i + 1] = frameAt(i).length;
      }
      const count = xsk.inject(slot, pairs, burst);
      for (let i = 0; i < count; i++) bytes.set(frameAt(i), pairs[2 * i]);
      next += count;
    },
    close: () => xsk.release(slot),
  };
}

/** Calls the tile as its loop would, with all kinds of events. */
function serve(
  { tile, control, netbase, others, app, receive }: Stage,
  turns: number,
  until: number,
): void {
  // Two functions, so that V8 inlines neither here, but compiles each on its own.
  const methods: readonly (() => unknown)[] = [tile.turn, tile.pending];
  const orders = new ControlWriter(control);
  for (let turn = 0; turn < turns && performance.now() < until; turn++) {
    const stalled = turn % STALL_TURNS - (STALL_TURNS - STALLED_TURNS);
    receive(stalled < 0 ? BURSTS[turn % BURSTS.length] : stalled < SINGLE_TURNS ? 1 : BATCH);
    for (const method of methods) method.call(tile);
    for (const other of others) other.awake();
    if (stalled < 0) answer(app, turn);
    if (turn % ASLEEP_TURNS === 0) { for (const other of others) other.fallAsleep(); }
    if (turn % CHANGE_TURNS === 0) netbase.change();
    if (turn % CLOCK_TURNS === 0) {
      orders.changing = turn < turns / 2;
      const now = turn * TURN_MILLIS;
      tile.clock!(now);
      tile.nextDue!(now);
      tile.housekeeping!(now);
    }
    if (turn % TURNS_AT_ONCE === 0) pause(PAUSE_MILLIS);
  }
}

/** Runs the tile's loop: often, to its end, and finally while it waits for an app. */
function loop({ tile, region, control, app, receive }: Stage, until: number): void {
  new ControlWriter(control).stop();
  const { index } = NET;
  const run = { tile, region, control: new ControlReader(control), index, spinTurns: SPIN_TURNS };
  do {
    answer(app, 0);
    tile.turn();
  } while (app.requests.available() > 0 && performance.now() < until);
  for (let i = 0; i < LOOPS && performance.now() < until; i++) {
    receive(BURSTS[i % BURSTS.length], { isServed: false });
    runLoop(run);
    if (i % TURNS_AT_ONCE === 0) pause(PAUSE_MILLIS);
  }
  receive(1);
  runLoop(run);
}

/** Answers most waiting requests, alternately unchanged and with other payload. */
function answer({ requests, answers }: Stage["app"], turn: number): void {
  const waiting = requests.available();
  const count = Math.min(waiting - (turn % 4 === 3 ? waiting >>> 1 : 0), answers.refresh());
  const { words } = answers;
  const mask = requests.depth - 1;
  const first = (requests.slot(0) - answers.slotAt(0)) >>> 3;
  for (let i = 0; i < count; i++) {
    const place = (first + i) & mask;
    const isReflected = ((turn + (i >>> 3)) & 1) === 0;
    const isUnasked = !isReflected && i % UNASKED_ANSWERS === 0;
    const [at, from] = [answers.slot(), requests.slot(i)];
    words[at + Descriptor.offset] = isReflected ? place : 0;
    words[at + Descriptor.length] = isReflected ? REFLECTED : PAYLOAD_BYTES + (i & 7);
    words[at + Descriptor.request] = isReflected || isUnasked ? 0 : place + 1;
    if (isUnasked) {
      const ports = requests.words[from + Descriptor.ports];
      words[at + Descriptor.source] = OURS;
      words[at + Descriptor.destination] = requests.words[from + Descriptor.source];
      words[at + Descriptor.ports] = (ports << 16) | (ports >>> 16);
    }
    answers.push();
  }
  answers.publish();
  requests.release(count);
}

/** An inline app that sends back every other request unchanged, and answers the others. */
async function makeInline(): Promise<MadeApp> {
  let count = 0;
  const app: App = {
    receive(requests, out) {
      while (requests.next()) {
        if (count++ % 2 === 0) {
          out.reflect();
          continue;
        }
        const at = out.reserve(requests.size);
        if (at < 0) continue;
        out.copy(at);
        out.reply(at, requests.size);
      }
    },
  };
  const setup = {
    ...{ name: "", module: "", ports: [INLINE_PORT], served: [INLINE_PORT], options: {} },
    ...{ metrics: heapView(METRICS_BYTES), region: heapView(TILE_REGION_BYTES) },
    ...{ recentPeers: heapView(RECENT_PEERS_BYTES), otherRecentPeers: [], sendTo: [] },
  };
  const { counters } = new TileRegion(setup.region);
  const service = await makeService({ default: () => app }, setup, { counters, log() {} });
  return { setup, service, counters };
}

/** A netbase with one interface, its network, a gateway, and peers behind the gateway. */
function makeNetbase(): { view: View; change(): void } {
  const view = heapView(NETBASE_BYTES);
  const writer = new NetbaseWriter(view, { readers: [], seed: 1, neighborSlots: 1024 });
  const mac = { macHead: 2, macTail: 1 };
  writer.interfaces.put({
    ...{ ifindex: IFINDEX, name: "", flags: IFF_UP | IFF_LOWER_UP, mtu: 1500, operstate: 6 },
    ...{ ...mac, link: 0, master: 0, vlanId: 0, vlanProtocol: 0 },
    addresses: [{
      ...{ local: OURS, address: OURS, prefixLength: 24, broadcast: 0 },
      ...{ scope: route.RT_SCOPE_UNIVERSE, secondary: false },
    }],
  });
  const add = (fields: Partial<route.Route>) =>
    writer.rib.add(
      { ...route.emptyRoute(), ifindex: IFINDEX, source: OURS, ...fields },
      route.NLM_F_CREATE,
    );
  const host = { type: route.RTN_LOCAL, scope: route.RT_SCOPE_HOST, prefixLength: 32 };
  add({ ...host, table: route.RT_TABLE_LOCAL, destination: OURS });
  add({ scope: route.RT_SCOPE_LINK, destination: OURS & ~0xff, prefixLength: 24 });
  add({ gateway: GATEWAY, destination: PEERS, prefixLength: 16 });
  const gateway = { ifindex: IFINDEX, address: GATEWAY, state: NUD_REACHABLE, flags: 0 };
  let changes = 0;
  const change = () => {
    writer.neighbors.set({ ...gateway, macHead: 2, macTail: ++changes & 0xff });
    writer.commit();
  };
  change();
  return { view, change };
}

/** Requests of all peers to each of `ports` in turn, as frames. */
function makeFrames(ports: readonly number[]): Uint8Array[] {
  return Array.from({ length: PEER_COUNT * ports.length }, (_, i) =>
    makeFrame({
      peer: i % UNKNOWN_FRAMES === 1 ? UNKNOWN + i % 7 : PEERS + (i % PEER_COUNT) * PEER_STEP,
      port: i % NOBODYS_FRAMES === 1 ? NOBODYS_PORT : ports[Math.floor(i / 8) % ports.length],
      size: PAYLOAD_BYTES + i % MORE_BYTES,
      isSummed: i % UNSUMMED_FRAMES !== 1,
    }));
}

/** A request as a frame, with an IPv4 header checksum, and a UDP checksum if `isSummed`. */
function makeFrame(
  { peer, port, size, isSummed }: { peer: number; port: number; size: number; isSummed: boolean },
): Uint8Array {
  const bytes = new Uint8Array(HEADERS_BYTES + size);
  const view = new DataView(bytes.buffer);
  const sum = (from: number, end: number) => {
    let total = 0;
    for (let at = from; at + 1 < end; at += 2) total += view.getUint16(at);
    return total;
  };
  const fold = (total: number) => ~((total & 0xffff) + (total >>> 16)) & 0xffff;
  view.setUint16(12, 0x0800);
  view.setUint16(14, 0x4500);
  view.setUint16(16, bytes.length - 14);
  view.setUint16(22, 0x4011);
  view.setUint32(26, peer);
  view.setUint32(30, OURS);
  view.setUint16(24, fold(sum(14, 34)));
  view.setUint16(34, 4000);
  view.setUint16(36, port);
  view.setUint16(38, 8 + size);
  if (isSummed) view.setUint16(40, fold(sum(26, bytes.length) + 17 + 8 + size));
  return bytes;
}
