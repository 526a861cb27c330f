/**
 * Who gets what: how many net tiles there are, which of them owns which queue of which interface,
 * how deep links and rings are, and how many frames a net tile's UMEM therefore needs. Pure
 * arithmetic over what the host has, so that it can be read and tested apart.
 */

import { UDP_BUFFER_BYTES } from "../../ffi/sockets.ts";
import type { LinkShape } from "./link.ts";

/** Bytes of a UMEM frame. Holds an MTU of 1,500 with tags and headroom; see `LARGEST_MTU`. */
export const FRAME_BYTES = 2048;
/**
 * Headroom in each frame, besides 256 bytes of the kernel's own: what lies behind the Ethernet header
 * stands at multiples of four and can be read in words, and the headers with 20 bytes of payload are
 * in one cache line, which has to come from the processor that the kernel received them on.
 */
export const HEADROOM_BYTES = 2;
/** XDP_PACKET_HEADROOM (linux/bpf.h): what the kernel keeps before the frame. */
const KERNEL_HEADROOM_BYTES = 256;
/** The largest MTU whose frames, with Ethernet header and two VLAN tags, fit a UMEM frame. */
export const LARGEST_MTU = FRAME_BYTES - KERNEL_HEADROOM_BYTES - HEADROOM_BYTES - 14 - 8;
/** Buffers of 64 KiB behind the frames, for what arrives through the kernel's sockets. */
export const LARGE_BUFFERS = 64;
/** Entries of an AF_XDP fill, receive, transmit and completion ring. */
export const RING_ENTRIES = 1024;
/** Datagrams that may wait for a neighbour, per net tile. */
export const ARP_QUEUE_ENTRIES = 256;
/**
 * Each link between a net and an app tile, where the UMEM is one app's alone. The ring of answers'
 * payloads holds sixteen of the largest.
 */
export const LINK_SHAPE: LinkShape = { depth: 1024, payloadBytes: 1 << 20 };
/**
 * The same where several apps share a UMEM. The ring of requests' payloads has room for those of as
 * many frames as the link is deep, or for 32 of the largest.
 */
export const APART_LINK_SHAPE: LinkShape = {
  ...LINK_SHAPE,
  requestBytes: LINK_SHAPE.depth * FRAME_BYTES,
};

/** Bytes of a UMEM of `frames` frames and the large buffers behind them. */
export function umemBytes(frames: number): number {
  return frames * FRAME_BYTES + LARGE_BUFFERS * UDP_BUFFER_BYTES;
}

/** The outcome of `planTiles`. */
export type TilePlan = Readonly<ReturnType<typeof planTiles>>;

/**
 * Lays out net tiles: as many as asked for, else min(queues, cores − 1) and at least one; tile t of T
 * owns queues t, t + T, … of every interface. A UMEM holds the sum of all fill and transmit rings,
 * app links and the ARP queue, so that no app that stops can starve another or a ring.
 */
export function planTiles(
  { queues, cores, apps, netTiles: asked }: {
    /** Receive queues of each attached interface, in order; none for the kernel's sockets alone. */
    queues: readonly number[];
    cores: number;
    apps: number;
    /** The number of net tiles asked for. */
    netTiles?: number;
  },
) {
  const netTiles = asked ?? Math.max(1, Math.min(Math.max(1, ...queues), cores - 1));
  /** Each queue, by the number of its interface, and the net tile that owns it. */
  const shares = queues.flatMap((count, index) =>
    Array.from(
      { length: count },
      (_, queue) => ({ interface: index, queue, netTile: queue % netTiles }),
    )
  );
  /** Frames of each net tile's UMEM. */
  const frames = Array.from({ length: netTiles }, (_, netTile) => {
    const sockets = shares.filter((share) => share.netTile === netTile).length;
    return sockets * 2 * RING_ENTRIES + apps * LINK_SHAPE.depth + ARP_QUEUE_ENTRIES;
  });
  return { netTiles, shares, frames };
}
