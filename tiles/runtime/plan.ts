// SPDX-License-Identifier: Apache-2.0
/**
 * The plan of resources: the number of net tiles, their queues, the depths of links and rings, and the
 * frames of a net tile's UMEM; ranges of ports; permissions. No I/O, so that it can be tested
 * separately.
 */

import { libraryPath } from "../../ffi/library.ts";
import { UDP_BUFFER_BYTES } from "../../ffi/shared.ts";
import { IFF_UP, type InterfaceReader } from "../../netbase/interfaces.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import type { LinkShape } from "./link.ts";

/** Bytes of a UMEM frame. Holds an MTU of 1,500 with tags and headroom; see `LARGEST_MTU`. */
export const FRAME_BYTES = 2048;
/** Headroom besides the kernel's. It aligns the IPv4 header, and headers and 20 bytes share a cache line. */
export const HEADROOM_BYTES = 2;
/** XDP_PACKET_HEADROOM (linux/bpf.h): the kernel's headroom. */
const KERNEL_HEADROOM_BYTES = 256;
/** The largest MTU whose frames, with Ethernet header and two VLAN tags, fit a UMEM frame. */
const LARGEST_MTU = FRAME_BYTES - KERNEL_HEADROOM_BYTES - HEADROOM_BYTES - 14 - 8;
/** Buffers of 64 KiB after the frames, for datagrams from the kernel's sockets. */
export const LARGE_BUFFERS = 64;
/** Frames of an AF_XDP socket that the kernel usually has, to receive and to transmit. */
export const SOCKET_FRAMES = 1024;
/** Entries of an AF_XDP fill, receive, transmit and completion ring. */
export const RING_ENTRIES = 8192;
/** Frames for the kernel only during a handover, for 35 ms at 200,000/s. Always used, they would exceed the cache. */
export const SPARE_FRAMES = RING_ENTRIES - SOCKET_FRAMES;
/** Datagrams that may wait for a neighbour, per net tile. */
export const ARP_QUEUE_ENTRIES = 256;
/** Datagrams of each link between a net and an app tile, in either direction, unless the app sets a depth. */
export const LINK_DEPTH = 1024;

/** The shape of links with this depth. Rings hold as many frames. `isAlone`: requests stay in the app's own UMEM. */
export function linkShapeOf(depth: number, { isAlone }: { isAlone: boolean }): LinkShape {
  const payloadBytes = depth * FRAME_BYTES;
  return { depth, payloadBytes, ...(!isAlone && { requestBytes: payloadBytes }) };
}

/** Bytes of a UMEM of `frames` frames and the large buffers after them. */
export function umemBytes(frames: number): number {
  return frames * FRAME_BYTES + LARGE_BUFFERS * UDP_BUFFER_BYTES;
}

export type TilePlan = Readonly<ReturnType<typeof planTiles>>;

/**
 * Plans net tiles: the configured number, else min(queues, cores − 1), at least one. Tile t of T owns
 * queues t, t + T, … of every interface. A UMEM has frames for all fill and transmit rings, app links
 * and the ARP queue, so that an app that stops cannot starve another app or a ring.
 */
export function planTiles({ queues, cores, apps, netTiles: asked }: {
  /** Receive queues of each attached interface, in order; empty for kernel sockets only. */
  queues: readonly number[];
  cores: number;
  apps: readonly { readonly depth?: number }[];
  /** The configured number of net tiles. */
  netTiles?: number;
}) {
  const netTiles = asked ?? Math.max(1, Math.min(Math.max(1, ...queues), cores - 1));
  /** Each queue, by the number of its interface, and the net tile that owns it. */
  const shares = queues.flatMap((count, index) =>
    Array.from(
      { length: count },
      (_, queue) => ({ interface: index, queue, netTile: queue % netTiles }),
    )
  );
  const linked = apps.reduce((sum, { depth = LINK_DEPTH }) => sum + depth, 0);
  const frames = Array.from({ length: netTiles }, (_, netTile) => {
    const sockets = shares.filter((share) => share.netTile === netTile).length;
    return sockets * 2 * SOCKET_FRAMES + (sockets > 0 ? SPARE_FRAMES : 0) +
      linked + ARP_QUEUE_ENTRIES;
  });
  return { netTiles, shares, frames };
}

// Ranges of UDP ports.

/** Most ports of one appliance. Each needs a kernel socket, and so a descriptor. */
export const MOST_PORTS_SERVED = 4096;

/** The first and the last port of a range; the same twice for a single port. */
export type PortRange = readonly [first: number, last: number];

/** Reads `7` or `5300-5363`, of ports from `least` on; null for anything else. */
export function parseRange(text: string, least: number): PortRange | null {
  const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text) ?? [];
  const range = [Number(first), Number(last)] as const;
  return least <= range[0] && range[0] <= range[1] && range[1] <= 65_535 ? range : null;
}

/** The total number of ports in the ranges. */
export function countPorts(ranges: readonly PortRange[]): number {
  return ranges.reduce((sum, [first, last]) => sum + last - first + 1, 0);
}

/** Every port of the ranges, in their order. */
export function portsOf(ranges: readonly PortRange[]): number[] {
  return ranges.flatMap(([first, last]) =>
    Array.from({ length: last - first + 1 }, (_, i) => first + i)
  );
}

/** The ports of all apps, each once. */
export function portsServed(apps: readonly { readonly ports: readonly PortRange[] }[]): number[] {
  return [...new Set(apps.flatMap(({ ports }) => portsOf(ports)))];
}

/** The same ports in fewer ranges: joins a range to the one that ends just before it. */
export function joinRanges(ranges: readonly PortRange[]): PortRange[] {
  const joined: PortRange[] = [];
  for (const [first, last] of ranges) {
    const before = joined.at(-1);
    if (before !== undefined && before[1] + 1 === first) joined.push([joined.pop()![0], last]);
    else joined.push([first, last]);
  }
  return joined;
}

/** `5300-5363`, or `7` for a single port. */
export function rangeText([first, last]: PortRange): string {
  return first === last ? `${first}` : `${first}-${last}`;
}

/** The most ranges in a sentence; further ports are only counted. */
const RANGES_NAMED = 8;

/** Ports in ascending order for a sentence: `port 7 is`, `ports 7, 5300-5363 are`. */
export function portsText(ports: readonly number[]): string {
  if (ports.length === 1) return `port ${ports[0]} is`;
  const ranges = joinRanges(ports.map((port) => [port, port]));
  const more = countPorts(ranges.slice(RANGES_NAMED));
  const others = more === 0 ? "" : ` and ${more} more`;
  return `ports ${ranges.slice(0, RANGES_NAMED).map(rangeText).join(", ")}${others} are`;
}

// What an interface needs before Tegula can answer on it.

export class InterfaceError extends Error {}

/** A problem, and the command that fixes it. */
export interface Trouble {
  readonly says: string;
  readonly fix: string;
}

/** What an interface lacks to be served; null: nothing. */
export function lacking(interfaces: InterfaceReader, record: number): Trouble | null {
  const name = interfaces.name(record);
  if ((interfaces.flags(record) & IFF_UP) === 0) {
    return { says: "is down", fix: `ip link set ${name} up` };
  }
  if (interfaces.addressCount(record) > 0) return null;
  return { says: "has no IPv4 address", fix: `ip address add ADDRESS/LENGTH dev ${name}` };
}

/** The problem if the largest frames of an interface do not fit a UMEM frame; null: they fit. */
export function excess(interfaces: InterfaceReader, record: number): Trouble | null {
  const mtu = interfaces.mtu(record);
  // Loopback has a large MTU. The socket receives its long datagrams.
  if (mtu <= LARGEST_MTU || interfaces.isLoopback(record)) return null;
  return {
    says: `its MTU is ${mtu}, AF_XDP takes up to ${LARGEST_MTU} here`,
    fix: `ip link set ${interfaces.name(record)} mtu ${LARGEST_MTU}`,
  };
}

/** Refuses interfaces whose largest frames do not fit. Throws InterfaceError. */
export function checkMtus({ interfaces }: NetbaseReader, names: readonly string[]): void {
  for (const record of interfaces.records()) {
    const name = interfaces.name(record);
    const trouble = names.includes(name) ? excess(interfaces, record) : null;
    if (trouble === null) continue;
    const { says, fix } = trouble;
    throw new InterfaceError(`${name}: ${says}: '${fix}' or use --provider socket`);
  }
}

// Permissions: those of an appliance's worker until it drops them, and those that an app may be granted.

/** Deno's permissions: paths, names of variables, `address:port` or `unix:path`. */
export interface Permissions {
  readonly ffi: readonly string[];
  readonly read: readonly string[];
  readonly write: readonly string[];
  readonly env: readonly string[];
  readonly net: readonly string[];
}

/** The grants of an app. An inline app has only `read` and `clock`. */
export interface Grants extends Omit<Permissions, "ffi"> {
  /** The host's clock (`ffi/tile.ts`). */
  readonly clock: boolean;
  /** Whether the app keeps them while it runs. */
  readonly keep: boolean;
}

/** The folder of this program: the sources, or build/program/. */
const FOLDER = decodeURI(new URL("../../", import.meta.url).pathname);
/** Folders with the modules of tiles; `npm` has the packages of inline apps. */
const TILE_FOLDERS = ["apps", "ffi", "netbase", "npm", "tiles"];

/** Deno's flags for a process's permissions. Throws `error` for a value that Deno cannot take. */
export function permissionFlags(
  permissions: Partial<Permissions>,
  error: (sentence: string) => Error,
): string[] {
  const { read = [], write = [], env = [], net = [], ffi = [] } = permissions;
  return Object.entries({ read, write, env, net, ffi }).flatMap(([name, all]) => {
    // Deno splits values at commas, and has no escape for them.
    const split = all.find((each) => each.includes(","));
    if (split === undefined) return all.length === 0 ? [] : [`--allow-${name}=${all.join(",")}`];
    throw error(
      `cannot allow ${name} of ${split}: Deno takes the comma in it as a separator; use another path`,
    );
  });
}

/** The permissions of a worker at its start. `read`: files besides the program. */
export function workerPermissions(read: readonly string[]): Permissions {
  const folders = TILE_FOLDERS.map((folder) => FOLDER + folder);
  return { ffi: [libraryPath()], read: [...folders, ...read], write: [], env: [], net: [] };
}
