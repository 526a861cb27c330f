// SPDX-License-Identifier: Apache-2.0
/**
 * V8 interprets code until it is hot, but a net tile that takes over has its first datagrams at once. So
 * before its turn it answers made-up requests in memory of its own, by the same code and the same calls
 * of the library, until V8 has had time to compile it.
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
import { CONTROL_BYTES } from "../runtime/control.ts";
import {
  appLinkBytes,
  Descriptor,
  LinkConsumer,
  LinkProducer,
  netLinkBytes,
  REFLECTED,
} from "../runtime/link.ts";
import { FRAME_BYTES, HEADROOM_BYTES } from "../runtime/plan.ts";
import { type Tile, TILE_REGION_BYTES, type TileContext, TileRegion } from "../runtime/tile.ts";
import { RECENT_PEERS_BYTES, requestsBytes } from "./app_port.ts";
import { SOLICIT_LINK_BYTES } from "./arp_queue.ts";
import { CAPTURE_BYTES } from "./capture.ts";
import { frameRecordBytes } from "./handover.ts";
import { BATCH } from "./rings.ts";
import { TRAFFIC_BYTES } from "./traffic.ts";
import { ROUTE_CACHE_BYTES } from "./route_cache.ts";
import type { MadeApp, NetSetup } from "./tile.ts";

/** How long it may take: the predecessor serves meanwhile, on the same processors. */
const MOST_MILLIS = 2000;
/** Turns after which V8 has optimised all of it, and after how many it lets others run. */
const TURNS = 4000;
const TURNS_AT_ONCE = 8;
const PAUSE_MILLIS = 1;

const IFINDEX = 1;
const PORT = 7;
const INLINE_PORT = 9;
const OURS = 0xc6120001;
const PEER = 0xc6120002;
const HEADERS_BYTES = 42;
const PAYLOAD_BYTES = 18;
/** Where the kernel puts a frame, besides the headroom that it is told to keep. */
const KERNEL_HEADROOM = 256;

/** Has a tile, made by `make`, answer made-up requests. */
export async function warmUp(
  context: TileContext<NetSetup>,
  make: (
    context: TileContext<NetSetup>,
    slots: readonly number[],
    made: readonly MadeApp[],
  ) => Tile,
): Promise<void> {
  const { setup, libraries } = context;
  const xsk = libraries.xsk!;
  const umem = heapView(setup.umem.byteLength);
  const { frames } = setup;
  const ring = setup.sockets[0]?.ring ?? 0;
  const hasInline = (setup.inline ?? []).length > 0;
  // The same kinds of app as will be served.
  const ports = [...setup.apps.slice(0, 1).map(() => PORT), ...hasInline ? [INLINE_PORT] : []];
  if (ring === 0 || ports.length === 0) return;
  const slot = xsk.memorySlot(slice(umem, 0, frames * FRAME_BYTES), {
    frameBytes: FRAME_BYTES,
    ring,
  });
  if (slot < 0) return;
  const shape = setup.apps[0]?.shape ?? { depth: ring, payloadBytes: 1 << 17 };
  const [net, app] = [heapView(netLinkBytes(shape)), heapView(appLinkBytes(shape))];
  const tile = heapView(TILE_REGION_BYTES);
  const own: NetSetup = {
    ...setup,
    netbase: makeNetbase(),
    umem,
    record: heapView(frameRecordBytes(frames)),
    traffic: heapView(TRAFFIC_BYTES),
    routeCache: heapView(ROUTE_CACHE_BYTES),
    sockets: [{ ...setup.sockets[0], fd: -1, slot, ifindex: IFINDEX }],
    udp: [],
    apps: setup.apps.slice(0, 1).map(() => ({
      ...{ name: "", ports: [PORT], net, app, shape, tile, eventfd: -1 },
      requests: heapView(requestsBytes(shape)),
      ...{ recentPeers: heapView(RECENT_PEERS_BYTES), otherRecentPeers: [], sendTo: [] },
    })),
    inline: [],
    solicit: heapView(SOLICIT_LINK_BYTES),
    capture: heapView(CAPTURE_BYTES),
    control: heapView(CONTROL_BYTES),
    netlinkTile: heapView(TILE_REGION_BYTES),
  };
  const region = new TileRegion(heapView(TILE_REGION_BYTES));
  const warm = make(
    { ...context, setup: own, region },
    [slot],
    hasInline ? [await makeInline()] : [],
  );
  const requests = new LinkConsumer(app, net, shape);
  const answers = new LinkProducer(app, net, shape);
  const pairs = new Uint32Array(2 * BATCH);
  const bytes = u8(umem);
  const never = new Int32Array(new SharedArrayBuffer(4));
  const requestFrames = ports.map(makeFrame);
  const until = performance.now() + MOST_MILLIS;
  for (let turns = 0; turns < TURNS && performance.now() < until; turns++) {
    for (let i = 0; i < BATCH; i++) {
      pairs[2 * i] = KERNEL_HEADROOM + HEADROOM_BYTES;
      pairs[2 * i + 1] = HEADERS_BYTES + PAYLOAD_BYTES;
    }
    const frame = requestFrames[turns % requestFrames.length];
    const count = xsk.inject(slot, pairs, BATCH);
    for (let i = 0; i < count; i++) bytes.set(frame, pairs[2 * i]);
    warm.turn();
    answer(requests, answers, turns % 2 === 0);
    if (turns % 64 === 0) warm.housekeeping!(0);
    if (turns % TURNS_AT_ONCE === 0) Atomics.wait(never, 0, 0, PAUSE_MILLIS);
  }
  xsk.release(slot);
}

/** Answers all requests that wait: sends them back as they came, or something else. */
function answer(requests: LinkConsumer, answers: LinkProducer, isReflected: boolean): void {
  const count = Math.min(requests.available(), answers.refresh());
  const { words } = answers;
  const mask = requests.depth - 1;
  const first = (requests.slot(0) - answers.slotAt(0)) >>> 3;
  for (let i = 0; i < count; i++) {
    const place = (first + i) & mask;
    const at = answers.slot();
    words[at + Descriptor.offset] = isReflected ? place : 0;
    words[at + Descriptor.length] = isReflected ? REFLECTED : PAYLOAD_BYTES;
    words[at + Descriptor.request] = isReflected ? 0 : place + 1;
    answers.push();
  }
  answers.publish();
  requests.release(count);
}

/** An inline app that sends back every other request as it came, and answers the others. */
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
  return { setup, service, counters, metrics: undefined };
}

/** A netbase with one interface, its network, and one neighbour. */
function makeNetbase(): View {
  const view = heapView(NETBASE_BYTES);
  const writer = new NetbaseWriter(view, { readers: [], seed: 1, neighborSlots: 1024 });
  const mac = { macHead: 2, macTail: 1 };
  writer.interfaces.set({
    ...{ ifindex: IFINDEX, name: "", flags: IFF_UP | IFF_LOWER_UP, mtu: 1500, operstate: 6 },
    ...{ ...mac, link: 0, master: 0, vlanId: 0, vlanProtocol: 0 },
  });
  writer.interfaces.setAddress(IFINDEX, {
    ...{ local: OURS, address: OURS, prefixLength: 24, broadcast: 0 },
    ...{ scope: route.RT_SCOPE_UNIVERSE, secondary: false },
  });
  const add = (fields: Partial<route.Route>) =>
    writer.rib.add(
      { ...route.emptyRoute(), ifindex: IFINDEX, source: OURS, ...fields },
      route.NLM_F_CREATE,
    );
  const host = { type: route.RTN_LOCAL, scope: route.RT_SCOPE_HOST, prefixLength: 32 };
  add({ ...host, table: route.RT_TABLE_LOCAL, destination: OURS });
  add({ scope: route.RT_SCOPE_LINK, destination: OURS & ~0xff, prefixLength: 24 });
  const peer = { ifindex: IFINDEX, address: PEER, state: NUD_REACHABLE, flags: 0 };
  writer.neighbors.set({ ...peer, ...mac });
  writer.commit();
  return view;
}

/** A request to `port` as a frame, with both checksums. */
function makeFrame(port: number): Uint8Array {
  const bytes = new Uint8Array(HEADERS_BYTES + PAYLOAD_BYTES);
  const view = new DataView(bytes.buffer);
  const sum = (from: number, end: number) => {
    let total = 0;
    for (let at = from; at < end; at += 2) total += view.getUint16(at);
    return total;
  };
  const fold = (total: number) => ~((total & 0xffff) + (total >>> 16)) & 0xffff;
  view.setUint16(12, 0x0800);
  view.setUint16(14, 0x4500);
  view.setUint16(16, bytes.length - 14);
  view.setUint16(22, 0x4011);
  view.setUint32(26, PEER);
  view.setUint32(30, OURS);
  view.setUint16(24, fold(sum(14, 34)));
  view.setUint16(34, 4000);
  view.setUint16(36, port);
  view.setUint16(38, 8 + PAYLOAD_BYTES);
  view.setUint16(40, fold(sum(26, bytes.length) + 17 + 8 + PAYLOAD_BYTES));
  return bytes;
}
