// SPDX-License-Identifier: Apache-2.0
/**
 * Declares all that C and TypeScript share: structures, numbers of commands and results, sizes. Run
 * as a program, this module writes `build/shared.h` for the C files (`scripts/build.mk`): a table
 * becomes constants (`XskCursor.rxProducer` is XSK_CURSOR_RX_PRODUCER; of a number with its
 * meaning, only the number), and a table of words becomes a structure (`Order` is `struct order`).
 */

import * as shared from "./shared.ts";

/** The most datagrams that one call receives or sends. */
export const BURST = 64;

/** Words of the descriptor of a kernel socket's datagram. Addresses and ports are in host order. */
export const UdpDescriptor = {
  offset: 0,
  length: 1,
  source: 2,
  destination: 3,
  /** source port << 16 | destination port */
  ports: 4,
  interface: 5,
  /** TOS << 8 | TTL of the IPv4 header. */
  tosTtl: 6,
  /** When the kernel received it, CLOCK_REALTIME in nanoseconds; 0: timestamps are off. */
  timeLow: 7,
  timeHigh: 8,
} as const;
export const UDP_DESCRIPTOR_WORDS = 9;
/** In the length word: the datagram was longer than its buffer. */
export const UDP_TRUNCATED = 0x80000000;
/** Bytes a receive buffer must have. */
export const UDP_BUFFER_BYTES = 65536;

/** In `lengths` of a netlink socket: the message did not fit its slot. */
export const NETLINK_TRUNCATED = 0xffffffff;

/** Words that `Xsk.receive` writes before the first descriptor: time low, time high. */
export const RECEIVE_HEADER_WORDS = 2;
/** Words that `Xsk.visible` writes before the offsets: the number of offsets of each ring. */
export const VISIBLE_HEADER_WORDS = 4;

/** Values that `statistics` of AF_XDP writes, by index. The first six are those of XDP_STATISTICS. */
export const XskStatistic = {
  rxDropped: 0,
  rxInvalidDescriptors: 1,
  txInvalidDescriptors: 2,
  rxRingFull: 3,
  rxFillRingEmpty: 4,
  txRingEmpty: 5,
  /** Frames that the kernel put on the receive ring, modulo 2³². */
  received: 6,
} as const;
export const XSK_STATISTICS = 7;

/** Words that `Xsk.cursors` writes, by index: producer and consumer of each ring. */
export const XskCursor = {
  fillProducer: 0,
  fillConsumer: 1,
  rxProducer: 2,
  rxConsumer: 3,
  txProducer: 4,
  txConsumer: 5,
  completionProducer: 6,
  completionConsumer: 7,
} as const;
export const XSK_CURSORS = 8;

/** Byte offsets of the parts of the XDP program's filter. Bitmaps are by VLAN id and by port. */
export const FilterAt = {
  mac: 0,
  times: 6,
  seed: 8,
  vlans: 12,
  ports: 12 + 4096 / 8,
  addresses: 12 + 4096 / 8 + 65536 / 8,
} as const;
/** Bytes of its map for `Regions.mapShared`: the structure, padded to whole pages. */
export const FILTER_BYTES = 28672;
/** log2 of the number of slots for addresses: bits of an address's hash. And the number of slots that are probed. */
export const FILTER_SLOT_BITS = 12;
export const FILTER_PROBES = 16;
export const FILTER_MULTIPLIER = 0x9e3779b1;

/** The observer's counters in a slot: one for each system call, by its number. */
export const OBSERVED_CALLS = 512;
/** What kind of tile confines itself; decides which system calls remain. */
export const Role = { netlink: 0, net: 1, status: 2 } as const;
/** What such a tile also keeps, and the result of its confinement: bits. */
export const Keep = { netAdmin: 1, clock: 2 } as const;
export const Confined = { landlock: 1, observed: 2 } as const;

/** How a master confines its next program: the capabilities and TCP accesses that it keeps, as bits. */
export const Confinement = { capabilitiesLow: 0, capabilitiesHigh: 1, tcp: 2 } as const;

/** The kind of a process, and its grants: bits. */
export const Process = { app: 0, appliance: 1 } as const;
export const Grant = { net: 1, clock: 2, write: 4, netAdmin: 8, accept: 16, watch: 32 } as const;

/** The parameters of a start: words, followed by the descriptors. */
export const Order = {
  process: 0,
  grants: 1,
  /** Also its group, if the caller may change them. */
  uid: 2,
  threads: 3,
  /** Descriptors that it may open besides the given ones. */
  spare: 4,
  dataMib: 5,
  count: 6,
} as const;

/** The result for the caller. */
export const Started = {
  pid: 0,
  pidfd: 1,
  /** SOCK_SEQPACKET. Both ends are non-blocking; the child's is its descriptor 3. */
  channel: 2,
  /** The non-blocking pipe of the child's descriptors 1 and 2. */
  words: 3,
  /** The listener for refused system calls, or -1. */
  listener: 4,
  /** Bits of `Wall`. */
  missing: 5,
  /** The step that failed. */
  step: 6,
} as const;

/** Walls that may be missing: bits, and the consequence. */
export const Wall = {
  network: [1, "it is in the host's network namespace"],
  processes: [2, "it is in the host's PID namespace"],
  ipc: [4, "it is in the host's IPC, UTS and cgroup namespaces"],
  user: [8, "it has the user of the process that started it"],
  threads: [16, "its threads are not limited"],
  files: [32, "landlock does not bound its files"],
  tcp: [64, "landlock does not keep it from TCP"],
  scopes: [128, "landlock does not keep it from others' signals and abstract sockets"],
  observer: [256, "its refused system calls are not counted"],
} as const;

/** Steps of a start that may fail, and what they do. */
export const Step = {
  prepare: [0, "prepare pipes and sockets"],
  grant: [1, "grant its files"],
  clone: [2, "clone"],
  userNamespace: [3, "map a user namespace"],
  descriptors: [4, "put its descriptors in place"],
  limits: [5, "set its limits"],
  user: [6, "change to its user"],
  privileges: [7, "give up privileges"],
  landlock: [8, "restrict its files"],
  seal: [9, "open the library that seals it"],
  filter: [10, "install its filter"],
  exec: [11, "execute Deno"],
  start: [12, "see it execute Deno"],
} as const;

if (import.meta.main) {
  const snake = (name: string) => name.replace(/(?<=[a-z0-9])(?=[A-Z])/g, "_");
  const define = (name: string, value: number) =>
    console.log(`#define ${snake(name).toUpperCase()} ${value}${value > 0x7fffffff ? "u" : ""}`);
  const structures = { UdpDescriptor, Confinement, Order, Started };
  type Table = Readonly<Record<string, number | readonly [number, string]>>;
  for (const [name, value] of Object.entries<number | Table>(shared)) {
    if (typeof value === "number") define(name, value);
    else if (name in structures) {
      const fields = Object.keys(value).map((word) =>
        `${name === "Order" || name === "Started" ? "int" : "unsigned"} ${
          snake(word).toLowerCase()
        }; `
      );
      if (value === Order) fields.push("int fds[]; ");
      console.log(`struct ${snake(name).toLowerCase()} { ${fields.join("")}};`);
    } else {
      for (const [key, found] of Object.entries(value)) {
        define(`${name}_${key}`, typeof found === "number" ? found : found[0]);
      }
    }
  }
}
