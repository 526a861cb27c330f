/**
 * The host that the path benchmark runs in: AF_XDP rings made of arrays, requests in the frames, and
 * a netbase that knows every peer.
 *
 * @module
 */

import { heapView, type View } from "../ffi/view.ts";
import type { Xsk } from "../ffi/xsk.ts";
import { IFF_BROADCAST, IFF_LOWER_UP, IFF_UP } from "../netbase/interfaces.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { NUD_REACHABLE } from "../netbase/neighbors.ts";
import { NetbaseWriter } from "../netbase/netbase.ts";
import * as route from "../netbase/route.ts";
import { ETHERNET_BYTES, fold, PACKET_HEADER_BYTES, sumWords } from "../tiles/net/frame.ts";
import { FRAME_BYTES, HEADROOM_BYTES } from "../tiles/runtime/plan.ts";

/** The attached interface, and the port that is asked. */
export const IFINDEX = 2;
export const PORT = 7;

/** Payload of the smallest Ethernet frame (60 bytes without its check sequence). */
const PAYLOAD_BYTES = 18;
/** Bytes of each request's frame. */
export const REQUEST_BYTES = ETHERNET_BYTES + PACKET_HEADER_BYTES + PAYLOAD_BYTES;

/** XDP_PACKET_HEADROOM: what the kernel keeps before a frame; and the UMEM's own. */
const KERNEL_HEADROOM = 256;
const HEADROOM = HEADROOM_BYTES;
const NET = 0xc6120000;
const NET_LENGTH = 15;
const OUR_ADDRESS = 0xc6120001;
const FIRST_PEER = 0xc6130000;

/** Entries of a ring of `MemoryXsk`: more than there are frames. */
const RING = 1 << 14;

/**
 * AF_XDP rings as arrays: every frame of the fill ring "receives" what it holds, in order. What is
 * done here stands for the kernel's work and is not to be measured, so it is as little as can be.
 */
export class MemoryXsk implements Xsk {
  readonly #filled = new Uint32Array(RING);
  readonly #sent = new Uint32Array(RING);
  readonly #length: number;
  #fillHead = 0;
  #fillTail = 0;
  #sentHead = 0;
  #sentTail = 0;
  transmitted = 0;

  /** All frames are `length` bytes long. */
  constructor(length: number) {
    this.#length = length;
  }

  receive(_slot: number, descriptors: Uint32Array, most: number): number {
    const filled = this.#filled;
    const length = this.#length;
    const tail = this.#fillTail;
    const waiting = this.#fillHead - tail;
    const count = waiting < most ? waiting : most;
    for (let i = 0; i < count; i++) {
      descriptors[2 + 2 * i] = filled[(tail + i) & (RING - 1)];
      descriptors[3 + 2 * i] = length;
    }
    this.#fillTail = (tail + count) | 0;
    return count;
  }
  fill(_slot: number, frames: Uint32Array, count: number): number {
    const filled = this.#filled;
    const head = this.#fillHead;
    for (let i = 0; i < count; i++) {
      filled[(head + i) & (RING - 1)] = frames[i] + KERNEL_HEADROOM + HEADROOM;
    }
    this.#fillHead = (head + count) | 0;
    return count;
  }
  transmit(_slot: number, descriptors: Uint32Array, count: number): number {
    const sent = this.#sent;
    const head = this.#sentHead;
    for (let i = 0; i < count; i++) sent[(head + i) & (RING - 1)] = descriptors[2 * i];
    this.#sentHead = (head + count) | 0;
    this.transmitted += count;
    return count;
  }
  complete(_slot: number, frames: Uint32Array, most: number): number {
    const sent = this.#sent;
    const tail = this.#sentTail;
    const waiting = this.#sentHead - tail;
    const count = waiting < most ? waiting : most;
    for (let i = 0; i < count; i++) frames[i] = sent[(tail + i) & (RING - 1)];
    this.#sentTail = (tail + count) | 0;
    return count;
  }
  fd(): number {
    return -1;
  }
  kick(): void {}
  needsFillWakeup(): boolean {
    return false;
  }
  statistics(): number {
    return 0;
  }
  wait(): number {
    return 0;
  }
}

/** Writes a request of another peer into each frame, round and round, where one would be received. */
export function writeRequests(
  memory: Uint8Array,
  { frames, peers }: { frames: number; peers: number },
): void {
  const view = new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
  const words = new Int32Array(memory.buffer, memory.byteOffset, memory.byteLength >>> 2);
  const sum = (at: number, length: number) => sumWords(words, at >>> 2, length);
  for (let frame = 0; frame < frames; frame++) {
    const at = frame * FRAME_BYTES + KERNEL_HEADROOM + HEADROOM_BYTES;
    const ip = at + ETHERNET_BYTES;
    view.setUint16(ip - 2, 0x0800);
    view.setUint16(ip, 0x4500);
    view.setUint16(ip + 2, PACKET_HEADER_BYTES + PAYLOAD_BYTES);
    view.setUint16(ip + 8, 0x4011);
    view.setUint32(ip + 12, FIRST_PEER + frame % peers);
    view.setUint32(ip + 16, OUR_ADDRESS);
    view.setUint16(ip + 10, ~fold(sum(ip, 20)), true);
    view.setUint16(ip + 20, 10_000 + frame % peers);
    view.setUint16(ip + 22, PORT);
    view.setUint16(ip + 24, 8 + PAYLOAD_BYTES);
    for (let i = 0; i < PAYLOAD_BYTES; i++) view.setUint8(ip + 28 + i, frame + i);
    const pseudo = sum(ip + 12, 8) + 0x1100 + view.getUint16(ip + 24, true);
    view.setUint16(ip + 26, ~fold(pseudo + sum(ip + 20, 8 + PAYLOAD_BYTES)), true);
  }
}

/** A netbase with our address on a connected network and every peer as a neighbour. */
export function makeNetbase(peers: number): View {
  const view = heapView(NETBASE_BYTES);
  const writer = new NetbaseWriter(view, { readers: [], seed: 1, neighborSlots: 4 * peers });
  const mac = { macHead: 0x00000002, macTail: 0x0100 };
  writer.interfaces.set({
    ifindex: IFINDEX,
    name: "eth0",
    kind: "ethernet",
    flags: IFF_UP | IFF_LOWER_UP | IFF_BROADCAST,
    mtu: 1500,
    operstate: 6,
    ...mac,
    link: 0,
    master: 0,
    vlanId: 0,
    vlanProtocol: 0,
  });
  writer.interfaces.setAddress(IFINDEX, {
    local: OUR_ADDRESS,
    address: OUR_ADDRESS,
    prefixLength: NET_LENGTH,
    broadcast: 0,
    scope: route.RT_SCOPE_UNIVERSE,
    secondary: false,
  });
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
  for (let peer = 0; peer < peers; peer++) {
    const address = FIRST_PEER + peer;
    const macHead = (0x02 | (peer << 8)) >>> 0;
    const entry = { ifindex: IFINDEX, address, state: NUD_REACHABLE, flags: 0 };
    if (!writer.neighbors.set({ ...entry, macHead, macTail: 0x0200 })) {
      throw new Error(`neighbour ${peer} of ${peers} does not fit`);
    }
  }
  writer.commit();
  return view;
}
