// SPDX-License-Identifier: Apache-2.0
/**
 * V8 interprets code until it is hot, but an app's process that takes over gets datagrams at once.
 * So before it takes over, its loop runs on private links with a substitute app, until V8 has
 * compiled it. The real app is not involved.
 */

import { heapView } from "../../ffi/region.ts";
import type { TileLibrary } from "../../ffi/tile.ts";
import { CONTROL_BYTES, ControlReader, ControlWriter } from "../runtime/control.ts";
import { APP } from "../runtime/counters.ts";
import * as link from "../runtime/link.ts";
import { LINK_DEPTH, linkShapeOf } from "../runtime/plan.ts";
import { runLoop, TILE_REGION_BYTES, TileRegion } from "../runtime/tile.ts";
import type { App, AppContext, Datagrams } from "./contract.ts";
import { appTile, makeService, NetSide } from "./host.ts";
import { METRICS_BYTES } from "./regions.ts";

/** Bursts after which V8 has compiled the loop, bursts between two sleeps, and the longest that all may take. */
const BURSTS = 3000;
const BURSTS_AT_ONCE = 8;
const MOST_MILLIS = 1500;
/** Bursts before the first compilation, so that V8 sees all kinds of values. */
const FIRST_BURSTS = 100;
/** The sizes of successive bursts. */
const SIZES = [64, 1, 8, 2, 32, 4];
const PORT = 7;
const PEER = 0xc6130000;
const PEER_COUNT = 64;
const PAYLOAD_BYTES = 18;

interface Shape {
  readonly shape: link.LinkShape;
  readonly spinTurns: number;
  readonly library: TileLibrary;
}

/** Runs the loop of an app's tile on links of the same kind. Takes at most some seconds. */
export async function warmUp(like: Shape): Promise<void> {
  await run(like, FIRST_BURSTS);
  await run(like, BURSTS);
}

async function run({ shape: asServed, spinTurns, library }: Shape, bursts: number): Promise<void> {
  // With the default depth: two links of the largest depth would exceed an app's memory.
  const shape = linkShapeOf(LINK_DEPTH, { isAlone: asServed.requestBytes === undefined });
  const [peer, own] = [heapView(link.netLinkBytes(shape)), heapView(link.appLinkBytes(shape))];
  const payloads = link.requestRing(peer, shape) ?? heapView(2 * link.PAYLOAD_MARGIN);
  const requests = new link.LinkProducer(peer, own, shape);
  const answers = new link.LinkConsumer(peer, own, shape);
  const controlView = heapView(CONTROL_BYTES);
  const control = new ControlWriter(controlView);
  const until = performance.now() + MOST_MILLIS;
  const tileOfNet = heapView(TILE_REGION_BYTES);
  const asleep = new TileRegion(tileOfNet);
  let done = 0;
  const next = () => {
    answers.release(answers.available());
    asleep.awake();
    if (done % BURSTS_AT_ONCE === 1) asleep.fallAsleep();
    if (done++ === bursts || performance.now() > until) control.leave();
    else send(requests, SIZES[done % SIZES.length]);
  };
  const region = new TileRegion(heapView(TILE_REGION_BYTES));
  const { counters } = region;
  // Only timers wake this tile.
  const eventfd = -1;
  const service = await makeService(
    { default: (context: AppContext) => standIn(context, () => done % BURSTS_AT_ONCE > 0, next) },
    {
      ...{ name: "", ports: [PORT], served: [PORT], options: {} },
      metrics: heapView(METRICS_BYTES),
    },
    { counters, log() {} },
  );
  const side = new NetSide({ own, peer, payloads, shape, tile: tileOfNet }, {
    ...{ counters, firstPort: PORT, handedOver: true },
    wake: () => library.wake(eventfd),
  });
  const tile = appTile(service, [side], { library, eventfd });
  runLoop({ tile, region, control: new ControlReader(controlView), index: APP.index, spinTurns });
}

/** An app that answers in each possible way. `next` sends the next burst. */
function standIn(context: AppContext, goesOn: () => boolean, next: () => void): App {
  context.every(1, next);
  let count = 0;
  const answer = (requests: Datagrams, out: Parameters<App["receive"]>[1]) => {
    if (count++ % 2 === 0) return out.reflect();
    const at = out.reserve(requests.size);
    if (at < 0) return;
    out.copy(at);
    const { sourceAddress: address, sourcePort: port } = requests;
    if (count % 64 === 0) out.send({ address, port }, at, requests.size);
    else out.reply(at, requests.size);
  };
  return {
    receive(requests, out) {
      while (requests.next()) answer(requests, out);
      if (goesOn()) next();
    },
  };
}

/** Sends `count` requests, if there is room, as a net tile does. */
function send(requests: link.LinkProducer, count: number): void {
  const room = requests.refresh();
  const { words } = requests;
  for (let i = 0; i < Math.min(count, room); i++) {
    const at = requests.slot();
    words[at + link.Descriptor.offset] = 0;
    words[at + link.Descriptor.length] = PAYLOAD_BYTES + (i & 3);
    words[at + link.Descriptor.source] = PEER + i % PEER_COUNT;
    words[at + link.Descriptor.ports] = (4000 << 16) | PORT;
    requests.push();
  }
  requests.publish();
}
