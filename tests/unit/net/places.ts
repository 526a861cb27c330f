// SPDX-License-Identifier: Apache-2.0
/** A net tile and an app that answers, either inline or in its own process. */

import { heapView } from "../../../ffi/region.ts";
import type { App, AppContext } from "../../../tiles/app/contract.ts";
import { makeService, NetSide } from "../../../tiles/app/host.ts";
import { METRICS_BYTES } from "../../../tiles/app/regions.ts";
import { TileReader } from "../../../tiles/runtime/tile.ts";
import { ETH0, ETH1, ip, MAC, PEER_MAC, REQUEST, Room, VLAN } from "./room.ts";

export const PEER = REQUEST.source;
/** Where an app runs. */
export const PLACES = ["inline", "own tile", "own tile, copies"] as const;
type Options = ConstructorParameters<typeof Room>[0];

/** A host with an app. */
interface Served {
  readonly room: Room;
  /** The app's. */
  readonly counters: Float64Array;
  /** Runs it and the net tile until both are done. */
  run(): void;
  /** Makes its next tick due. */
  tick(): void;
}

/** A host whose app is `app`, or an app with `app` as its `receive`. */
export async function serve(
  place: typeof PLACES[number],
  app: App | App["receive"],
  options: Options = {},
): Promise<Served> {
  if (place === "inline") {
    const room = await Room.inline(app, options);
    known(room);
    const { counters } = new TileReader(room.setup.inline![0].region);
    return { room, counters, run: () => room.turn(), tick: () => room.pass(1e6) };
  }
  const room = new Room({ ports: [[7]], apart: place === "own tile, copies", ...options });
  known(room);
  const { side, service, counters, run } = await attach(room, 0, {
    default: () => typeof app === "function" ? { receive: app } : app,
  });
  const tick = () => {
    service.clock(Infinity, side.answers);
    side.finish();
    room.turn();
  };
  return { room, counters, run, tick };
}

/** Runs the app of `module` at the other end of the link of app number `index`. */
export async function attach(
  room: Room,
  index: number,
  module: Parameters<typeof makeService>[0],
  options: AppContext["options"] = {},
) {
  const { setup, payloads } = room.apps[index];
  const counters = new Float64Array(16);
  const join = { ...setup, own: setup.app, peer: setup.net, payloads };
  const side = new NetSide(join, { counters, firstPort: setup.ports[0], wake() {} });
  const { ports } = setup;
  const service = await makeService(module, {
    ...{ name: "app", module: "", ports, served: ports, options },
    metrics: heapView(METRICS_BYTES),
  }, { counters, log() {} });
  const run = () => {
    room.turn();
    while (side.take() > 0) {
      service.receive(side.requests, side.answers);
      side.finish();
      room.turn();
    }
  };
  return { side, service, counters, run };
}

/** The host knows peers on each path. */
export function known(room: Room): void {
  room.neighbor(PEER);
  room.neighbor(ip("198.19.0.2"), { ifindex: ETH1 });
  room.neighbor(ip("203.0.113.2"), { ifindex: VLAN });
  room.turn();
  room.moved();
}

/** Sends everything back. */
export const echo: App["receive"] = (requests, out) => {
  while (requests.next()) out.reflect();
};

/** The answer to `REQUEST`. */
export const ANSWER = {
  ...{ destinationMac: PEER_MAC, sourceMac: MAC[ETH0], tags: [], payload: REQUEST.payload },
  ...{ source: REQUEST.destination, destination: PEER, sourcePort: 7, destinationPort: 40_000 },
};
