// SPDX-License-Identifier: Apache-2.0
/**
 * The host of the path benchmark: AF_XDP rings made of arrays, the requests on them, and a netbase with
 * every peer.
 */

import { heapView, type View } from "../ffi/region.ts";
import { openXsk, type Xsk } from "../ffi/xsk.ts";
import { IFF_BROADCAST, IFF_LOWER_UP, IFF_UP } from "../netbase/interfaces.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { NUD_REACHABLE } from "../netbase/neighbors.ts";
import { NetbaseWriter } from "../netbase/netbase_writer.ts";
import * as route from "../netbase/route.ts";
import { ETHERNET_BYTES, fold, PACKET_HEADER_BYTES, sumWords } from "../tiles/net/rings.ts";
import { FRAME_BYTES, HEADROOM_BYTES, planTiles, RING_ENTRIES } from "../tiles/runtime/plan.ts";
import { coveredAddresses, fillRoute, prefixes, Random } from "./routes.ts";

/** The attached interface, and the first port. */
export const IFINDEX = 2;
export const PORT = 7;

const library = openXsk();

/** Payload of the smallest Ethernet frame (60 bytes without its check sequence). */
const PAYLOAD_BYTES = 18;
/** Offset of a packet in its frame: XDP_PACKET_HEADROOM, and the UMEM's headroom. */
const FRAME_AT = 256 + HEADROOM_BYTES;
const FRAME_MASK = ~(FRAME_BYTES - 1);

const NET = 0xc6120000;
const NET_LENGTH = 15;
/** The gateways of `routes.ts` are 198.18.0.1 to 198.18.0.200. */
const GATEWAYS = 200;
const OUR_ADDRESS = 0xc6120201;
const FIRST_PEER = 0xc6130000;
/** The table with the prefixes of far peers, of which netbase may have fewer routes. */
const FAR_ROUTES = 1_000_000;

/** As many frames as the appliance gives a net tile with one queue and one app. */
export function frameCount(): number {
  return planTiles({ queues: [1], cores: 2, apps: [{}] }).frames[0];
}

/** Numbers of peers, ports and routes. */
export interface HostSize {
  /** On our own network. */
  readonly peers: number;
  /** Behind the gateways. */
  readonly farPeers: number;
  readonly ports: number;
  /** Without the default route. */
  readonly routes: number;
}

/** The peers' addresses. Those of far peers do not depend on the number of routes. */
export function peerAddresses({ peers, farPeers }: HostSize): Uint32Array {
  const near = Array.from({ length: peers }, (_, i) => FIRST_PEER + i);
  if (farPeers === 0) return Uint32Array.from(near);
  // Not loopback, and not our own addresses.
  const far = coveredAddresses(prefixes(FAR_ROUTES), farPeers)
    .filter((address) => address >>> 24 !== 127 && (address ^ NET) >>> (32 - NET_LENGTH) !== 0);
  return Uint32Array.from([...near, ...far]);
}

/** Frames of requests in sequence, all of a size. */
export interface Requests {
  readonly units: Uint16Array;
  /** Bytes of one frame. */
  readonly bytes: number;
}

/**
 * AF_XDP rings as arrays. `arrive` and the methods that the net tile calls do the kernel's work. The former is not
 * measured, and the latter do as little as possible.
 */
export class MemoryXsk implements Xsk {
  readonly #filled = new Uint32Array(RING_ENTRIES);
  readonly #sent = new Uint32Array(RING_ENTRIES);
  readonly #umem: Uint16Array;
  readonly #requests: Uint16Array;
  readonly #requestBytes: number;
  /** The unit at which the next request begins. */
  #next = 0;
  #fillHead = 0;
  #arrived = 0;
  #fillTail = 0;
  #sentHead = 0;
  #sentTail = 0;

  constructor(umem: Uint16Array, { units, bytes }: Requests) {
    this.#umem = umem;
    this.#requests = units;
    this.#requestBytes = bytes;
  }

  /** Frames transmitted so far. */
  get transmitted(): number {
    return this.#sentHead;
  }

  /** Puts a request into every frame of the fill ring, and returns how many. */
  arrive(): number {
    const before = this.#arrived;
    const [umem, requests] = [this.#umem, this.#requests];
    const units = this.#requestBytes >>> 1;
    for (; this.#arrived < this.#fillHead; this.#arrived++) {
      const at = this.#filled[this.#arrived & (RING_ENTRIES - 1)] >>> 1;
      for (let i = 0; i < units; i++) umem[at + i] = requests[this.#next + i];
      this.#next += units;
      if (this.#next === requests.length) this.#next = 0;
    }
    return this.#arrived - before;
  }

  adopt(fd: number): number {
    return fd;
  }
  resume(): void {}
  release(): void {}
  memorySlot(): number {
    return -1;
  }
  inject(): number {
    return 0;
  }
  cursors(_slot: number, out: Uint32Array): void {
    out.fill(0);
  }
  visible(): number {
    return 0;
  }
  times(): void {}
  receive(_slot: number, descriptors: Uint32Array, most: number): number {
    const filled = this.#filled;
    const tail = this.#fillTail;
    const waiting = this.#arrived - tail;
    const count = waiting < most ? waiting : most;
    for (let i = 0; i < count; i++) {
      descriptors[2 + 2 * i] = filled[(tail + i) & (RING_ENTRIES - 1)];
      descriptors[3 + 2 * i] = this.#requestBytes;
    }
    // A small delay, so that answers are timed.
    if (count > 0) descriptors[1] = 1;
    this.#fillTail = tail + count;
    return count;
  }
  prefetch(words: Int32Array, at: Uint32Array, count: number): void {
    library.prefetch(words, at, count);
  }
  ticks(): number {
    return library.ticks();
  }
  fill(_slot: number, frames: Uint32Array, count: number): number {
    const filled = this.#filled;
    const head = this.#fillHead;
    for (let i = 0; i < count; i++) {
      filled[(head + i) & (RING_ENTRIES - 1)] = frames[i] + FRAME_AT;
    }
    this.#fillHead = head + count;
    return count;
  }
  transmit(_slot: number, descriptors: Uint32Array, count: number): number {
    const sent = this.#sent;
    const head = this.#sentHead;
    for (let i = 0; i < count; i++) sent[(head + i) & (RING_ENTRIES - 1)] = descriptors[2 * i];
    this.#sentHead = head + count;
    return count;
  }
  complete(_slot: number, frames: Uint32Array, most: number, again: number): number {
    const [sent, filled] = [this.#sent, this.#filled];
    const [tail, head] = [this.#sentTail, this.#fillHead];
    const waiting = this.#sentHead - tail;
    const count = waiting < most ? waiting : most;
    const taken = count < again ? count : again;
    for (let i = 0; i < taken; i++) {
      filled[(head + i) & (RING_ENTRIES - 1)] =
        (sent[(tail + i) & (RING_ENTRIES - 1)] & FRAME_MASK) + FRAME_AT;
    }
    for (let i = taken; i < count; i++) frames[i] = sent[(tail + i) & (RING_ENTRIES - 1)];
    this.#sentTail = tail + count;
    this.#fillHead = head + taken;
    return count | (taken << 16);
  }
  fd(): number {
    return -1;
  }
  statistics(): number {
    return 0;
  }
  wait(): number {
    return 0;
  }
}

/**
 * A request from each of `peers` to a random port, in random order, in sequence. `payload`, an even number of bytes, is that
 * of each; by default all differ.
 */
export function makeRequests(
  peers: Uint32Array,
  ports: number,
  payload?: readonly number[],
): Requests {
  const random = new Random(4);
  const count = Math.max(peers.length, ports);
  const payloadOf = (number: number) =>
    payload ?? Array.from({ length: PAYLOAD_BYTES }, (_, i) => number + i);
  const bytes = ETHERNET_BYTES + PACKET_HEADER_BYTES + payloadOf(0).length;
  const frames = new Uint8Array(count * bytes);
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const other = random.below(i + 1);
    [order[i], order[other]] = [order[other], order[i]];
  }
  order.forEach((pick, i) => {
    const [source, port] = [peers[pick % peers.length], PORT + pick % ports];
    const sourcePort = 10_000 + pick % 50_000;
    frames.set(makeRequest({ source, sourcePort, port, payload: payloadOf(pick) }), i * bytes);
  });
  return { units: new Uint16Array(frames.buffer), bytes };
}

function makeRequest(
  { source, sourcePort, port, payload }: {
    source: number;
    sourcePort: number;
    port: number;
    payload: readonly number[];
  },
): Uint8Array {
  const bytes = ETHERNET_BYTES + PACKET_HEADER_BYTES + payload.length;
  // Two bytes of padding, so that the IPv4 header is aligned to a word.
  const words = new Int32Array((bytes + 5) >>> 2);
  const view = new DataView(words.buffer, 2);
  const ip = ETHERNET_BYTES;
  const sum = (at: number, length: number) => sumWords(words, (at + 2) >>> 2, length);
  view.setUint16(ip - 2, 0x0800);
  view.setUint16(ip, 0x4500);
  view.setUint16(ip + 2, PACKET_HEADER_BYTES + payload.length);
  view.setUint16(ip + 8, 0x4011);
  view.setUint32(ip + 12, source);
  view.setUint32(ip + 16, OUR_ADDRESS);
  view.setUint16(ip + 10, ~fold(sum(ip, 20)), true);
  view.setUint16(ip + 20, sourcePort);
  view.setUint16(ip + 22, port);
  view.setUint16(ip + 24, 8 + payload.length);
  for (const [i, byte] of payload.entries()) view.setUint8(ip + 28 + i, byte);
  const pseudo = sum(ip + 12, 8) + 0x1100 + view.getUint16(ip + 24, true);
  view.setUint16(ip + 26, ~fold(pseudo + sum(ip + 20, 8 + payload.length)), true);
  return new Uint8Array(words.buffer, 2, bytes);
}

/** A netbase with our address on a connected network, all peers or gateways as neighbours, and routes. */
export function makeNetbase({ peers, routes }: HostSize): View {
  const view = heapView(NETBASE_BYTES);
  const writer = new NetbaseWriter(view, { readers: [], seed: 1, neighborSlots: 4 * peers + 1024 });
  setInterface(writer);
  const add = (fields: Partial<route.Route>) =>
    writer.rib.add({ ...route.emptyRoute(), ifindex: IFINDEX, ...fields }, route.NLM_F_CREATE);
  add({
    table: route.RT_TABLE_LOCAL,
    type: route.RTN_LOCAL,
    scope: route.RT_SCOPE_HOST,
    destination: OUR_ADDRESS,
    prefixLength: 32,
    source: OUR_ADDRESS,
  });
  add({
    scope: route.RT_SCOPE_LINK,
    destination: NET,
    prefixLength: NET_LENGTH,
    source: OUR_ADDRESS,
  });
  add({ gateway: NET + 1 });
  const table = prefixes(routes);
  const one = route.emptyRoute();
  for (let i = 0; i < routes; i++) {
    const { destination } = fillRoute(one, table, i);
    if ((destination ^ NET) >>> (32 - NET_LENGTH) !== 0) writer.rib.add(one, route.NLM_F_CREATE);
  }
  for (let i = 0; i < GATEWAYS; i++) setNeighbor(writer, NET + 1 + i);
  for (let i = 0; i < peers; i++) setNeighbor(writer, FIRST_PEER + i);
  writer.commit();
  return view;
}

function setInterface(writer: NetbaseWriter): void {
  writer.interfaces.put({
    ifindex: IFINDEX,
    name: "eth0",
    flags: IFF_UP | IFF_LOWER_UP | IFF_BROADCAST,
    mtu: 1500,
    operstate: 6,
    ...{ macHead: 0x00000002, macTail: 0x0100 },
    link: 0,
    master: 0,
    vlanId: 0,
    vlanProtocol: 0,
    addresses: [{
      local: OUR_ADDRESS,
      address: OUR_ADDRESS,
      prefixLength: NET_LENGTH,
      broadcast: 0,
      scope: route.RT_SCOPE_UNIVERSE,
      secondary: false,
    }],
  });
}

function setNeighbor(writer: NetbaseWriter, address: number): void {
  const macHead = (0x02 | (address << 8)) >>> 0;
  const entry = { ifindex: IFINDEX, address, state: NUD_REACHABLE, flags: 0 };
  if (writer.neighbors.set({ ...entry, macHead, macTail: 0x0200 })) return;
  throw new Error(`neighbour ${address.toString(16)} does not fit`);
}
