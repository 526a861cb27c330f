// SPDX-License-Identifier: Apache-2.0
/** One net tile after another on a socket of the real kernel, while datagrams come. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { heapView, openRegions, slice } from "../../../ffi/region.ts";
import { FILTER_BYTES } from "../../../ffi/shared.ts";
import { openXsk, openXskSetup } from "../../../ffi/xsk.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NUD_REACHABLE } from "../../../netbase/neighbors.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import { METRICS_BYTES } from "../../../tiles/app/regions.ts";
import { RECENT_PEERS_BYTES } from "../../../tiles/net/app_link.ts";
import { SOLICIT_LINK_BYTES } from "../../../tiles/net/arp_queue.ts";
import { CAPTURE_BYTES } from "../../../tiles/net/capture.ts";
import { frameRecordBytes } from "../../../tiles/net/handover.ts";
import { ROUTE_CACHE_BYTES } from "../../../tiles/net/route_cache.ts";
import { TRAFFIC_BYTES } from "../../../tiles/net/traffic.ts";
import { create, type NetSetup } from "../../../tiles/net/tile.ts";
import { Filter } from "../../../tiles/netlink/xdp_filter.ts";
import { CONTROL_BYTES } from "../../../tiles/runtime/control.ts";
import { NET } from "../../../tiles/runtime/counters.ts";
import { type Tile, TILE_REGION_BYTES, TileRegion } from "../../../tiles/runtime/tile.ts";
import { buildFrame } from "../../unit/net/frames.ts";
import { ETH0, fillNetbase, ip, macWords } from "../../unit/net/host.ts";
import { IDLE_TILE } from "../../idle_tile.ts";
import { Wire } from "../wire.ts";
import { createRegion } from "../../region.ts";

const RING = 256;
const FRAME_BYTES = 2048;
const FRAMES = 1024;
const LARGE_BUFFERS = 4;
const HEADROOM = 2;
const PEER = { address: ip("198.18.0.99"), mac: [2, 0, 0, 0, 0, 99] };
const HANDOVERS = 60;
/** Since Linux 6.4 the rings of a bound socket can be mapped. */
const [major, minor] = Deno.osRelease().split(".").map(Number);
const REMAPS = major > 6 || major === 6 && minor >= 4;

const regions = openRegions();
const setup = openXskSetup();
const xsk = openXsk();

/** What lasts from one net tile to the next. */
class Host {
  readonly #umem =
    createRegion(regions, "umem", FRAMES * FRAME_BYTES + LARGE_BUFFERS * 65_536).writer;
  readonly #region = heapView(TILE_REGION_BYTES);
  readonly #setup: NetSetup;
  readonly counters = new TileRegion(this.#region).counters;
  readonly fd: number;
  readonly slots: number[] = [];
  tile!: Tile;

  constructor() {
    const netbase = heapView(NETBASE_BYTES);
    const writer = new NetbaseWriter(netbase, { readers: [], seed: 1 });
    fillNetbase(writer);
    const { address } = PEER;
    const peer = { ifindex: ETH0, address, state: NUD_REACHABLE, flags: 0, ...macWords(PEER.mac) };
    writer.neighbors.set(peer);
    writer.commit();
    const frames = slice(this.#umem, 0, FRAMES * FRAME_BYTES);
    this.fd = setup.prepare(frames, { frameBytes: FRAME_BYTES, headroom: HEADROOM, ring: RING });
    ok(this.fd >= 0);
    const socket = {
      fd: this.fd,
      ifindex: ETH0,
      queue: 0,
      ring: RING,
      fill: RING,
      deepFill: RING,
      tx: RING,
    };
    this.#setup = {
      netbase,
      umem: this.#umem,
      record: heapView(frameRecordBytes(FRAMES)),
      traffic: heapView(TRAFFIC_BYTES),
      routeCache: heapView(ROUTE_CACHE_BYTES),
      frames: FRAMES,
      largeBuffers: LARGE_BUFFERS,
      sockets: [{ ...socket, partialChecksums: true }],
      udp: [],
      apps: [],
      inline: [{
        ...{ name: "echo", module: import.meta.resolve("../../../apps/echo.ts") },
        ...{ ports: [7], served: [7], options: {}, otherRecentPeers: [], sendTo: [] },
        metrics: heapView(METRICS_BYTES),
        region: heapView(TILE_REGION_BYTES),
        recentPeers: heapView(RECENT_PEERS_BYTES),
      }],
      solicit: heapView(SOLICIT_LINK_BYTES),
      capture: heapView(CAPTURE_BYTES),
      control: heapView(CONTROL_BYTES),
      netlinkTile: heapView(TILE_REGION_BYTES),
      ...{ netlinkEventfd: -1, eventfd: -1, seed: 1 },
    };
  }

  /** Starts a tile on what there is. */
  async start(): Promise<void> {
    this.tile = await create({
      setup: { ...this.#setup, routeCache: heapView(ROUTE_CACHE_BYTES) },
      region: new TileRegion(this.#region),
      libraries: {
        tile: IDLE_TILE,
        xsk: {
          ...xsk,
          adopt: (...args) => {
            const slot = xsk.adopt(...args);
            this.slots.push(slot);
            return slot;
          },
        },
        udp: { receive: () => 0, send: () => 0, watch: () => -1, ready: () => 0 },
      },
      log() {},
      ask() {},
    });
    this.tile.clock!(performance.now());
  }

  /** Ends the tile, in order or not, and starts another. */
  async handOver(isOrderly: boolean): Promise<void> {
    const [old] = this.slots.splice(0);
    if (isOrderly) this.tile.relinquish!();
    await this.start();
    xsk.release(old);
  }

  count(name: keyof typeof NET.index): number {
    return this.counters[NET.index[name]];
  }
}

for (const isOrderly of [true, false]) {
  Deno.test({
    name: `each datagram has one answer while net tiles ${
      isOrderly ? "hand over" : "are killed between turns"
    }`,
    ignore: !REMAPS,
    async fn() {
      using wire = new Wire("handover");
      using far = wire.farSocket();
      const program = setup.load(1);
      const filter = new Filter(regions.mapShared(program.filter, FILTER_BYTES));
      filter.setMac(wire.near.mac);
      filter.setPorts([7]);
      ok(filter.add(ip("198.18.0.1")));
      const host = new Host();
      await host.start();
      equal(setup.bind(host.fd, { ifindex: wire.near.ifindex, queue: 0, mode: "copy" }), 0);
      equal(setup.register(program, 0, host.fd), 0);
      const link = setup.attach(program, wire.near.ifindex, "native");
      ok(link >= 0);

      const request = {
        ...{ destinationMac: [...wire.near.mac], sourceMac: PEER.mac, tags: [] },
        ...{ source: PEER.address, destination: ip("198.18.0.1") },
        ...{ sourcePort: 4000, destinationPort: 7 },
      };
      const answers: number[] = [];
      const sent: number[] = [];
      const take = (timeoutMs: number) => {
        const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset);
        const isAnswer = (bytes: Uint8Array) => view(bytes).getUint16(34) === 7;
        const bytes = far.receive(isAnswer, timeoutMs);
        if (bytes === null) return false;
        answers.push(Number(new TextDecoder().decode(bytes.subarray(42, 48))));
        return true;
      };
      const send = (count: number) => {
        for (let i = 0; i < count; i++) {
          sent.push(sent.length);
          const payload = new TextEncoder().encode(String(sent.length - 1).padStart(6, "0"));
          far.send(new Uint8Array(buildFrame({ ...request, payload })));
        }
      };
      for (let round = 0; round < HANDOVERS; round++) {
        send(20);
        for (let turns = round % 4; turns > 0; turns--) host.tile.turn();
        // What the first of these bring is in the rings, and what the last turn sent may be on its way.
        send(5);
        await host.handOver(isOrderly);
        // The tile before may have sent what was in none of its successor's turns.
        for (let idle = 0; answers.length < sent.length && idle < 500;) {
          host.tile.turn();
          idle = take(1) ? 0 : idle + 1;
        }
      }
      deepEqual(answers.toSorted((a, b) => a - b), sent);
      equal(host.count("rx_frames"), sent.length);
      equal(host.count("tx_frames"), sent.length);
      for (let turns = 0; host.count("frames_free") !== FRAMES - RING && turns < 1000; turns++) {
        host.tile.turn();
        host.tile.housekeeping!(0);
      }
      equal(host.count("frames_free"), FRAMES - RING);

      for (const slot of host.slots) xsk.release(slot);
      setup.close(host.fd);
      setup.detach(link);
      setup.unload(program);
    },
  });
}
