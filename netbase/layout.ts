// SPDX-License-Identifier: Apache-2.0
/**
 * The layout of netbase: where everything is in the region, and how much fits. No other file knows
 * offsets. All words are in the machine's byte order; addresses are IPv4 in host order. The region
 * is a sparse memfd, in which untouched pages cost nothing, so capacities are generous.
 *
 *     header        one page: generation, sync state, and the words that publish tables
 *     FIB           tbl24: 2²⁴ cells of 16 bits; tbl8s: 256 cells each for a /24 that has longer
 *                   prefixes; the default
 *     next hops     records of 8 words, named by cells
 *     paths         slot tables and members of ECMP groups, 16-bit words
 *     interfaces    hash table (see hash_table.ts) and the runs of their addresses
 *     neighbours    hash table
 */

const PAGE = 4096;

/** Word offsets in the header. Words that readers load often have a cache line of their own. */
export const Header = {
  /** Changes when something changed that a packet can see. */
  generation: 16,
  /** The words that publish the hash tables. */
  interfaceTable: 48,
  neighborTable: 64,
  /** One of {@linkcode Sync}, and when it was entered, milliseconds since the epoch in two words. */
  syncState: 80,
  syncTimeLow: 81,
  syncTimeHigh: 82,
  fence: 96,
  /** Two secret multipliers of the hash tables' hash, odd; written once. */
  hash: 112,
} as const;

/** Sync states. `stale`: the last good state is served while a resync runs. */
export const Sync = { empty: 0, syncing: 1, synced: 2, stale: 3 } as const;

/** FIB: a cell per /24, and tbl8s for prefixes longer than /24. A cell with bit 15 set names a tbl8. */
export const TBL24_CELLS = 1 << 24;
export const TBL8S = 1 << 15;
export const TBL8_CELLS = 256;
export const TBL8_BIT = 0x8000;
/** After the tbl8s: the next hop id for cells that are 0. */
export const FIB_DEFAULT = TBL24_CELLS + TBL8S * TBL8_CELLS;
export const FIB_WORDS = FIB_DEFAULT + 32;

/** Next hops: ids 1 to 0x7fff. Id 0 means no route, 1 a route that did not fit. */
export const NEXT_HOPS = 1 << 15;
export const NEXT_HOP_OVERFLOW = 1;
export const NEXT_HOP_WORDS = 8;

export const NextHop = {
  /** RTN_* or KIND_* | scope << 8 | {@linkcode NextHopFlag} << 16 */
  kind: 0,
  /** host order; 0: on-link */
  gateway: 1,
  ifindex: 2,
  /** RTA_PREFSRC, host order; 0: choose */
  source: 3,
  /** RTAX_MTU; 0: the interface's */
  mtu: 4,
  /** groups: position of its slots in the paths, in units of PATH_UNIT words */
  paths: 5,
  /** groups: log2 of the number of slots << 16 | number of members */
  shape: 6,
} as const;

export const NextHopFlag = {
  /** The gateway is on-link although no address covers it (RTNH_F_ONLINK). */
  onlink: 1,
  /** The prefix is shorter than /4: multicast under it does not go to the gateway. */
  short: 2,
  /** The group is a next-hop object: its member does not depend on the source address. */
  object: 4,
  /** The group has default routes of equal metric: the first whose gateway is not dead is used. */
  ordered: 8,
} as const;

/** A record of a next hop up to its MTU. */
export type NextHopWords = readonly number[];

/** Packs a next hop of a kind, RTN_* or KIND_*; addresses in host order. */
export function nextHopWords(
  kind: number,
  { scope = 0, flags = 0, gateway = 0, ifindex = 0, source = 0, mtu = 0 } = {},
): NextHopWords {
  return [kind | (scope << 8) | (flags << 16), gateway, ifindex, source, mtu];
}

/** ECMP paths: 16-bit words, allocated in units. */
export const PATH_UNIT = 32;
export const PATH_UNITS = 1 << 16;
/** Members of one group, and slots of the largest. */
export const GROUP_MEMBERS = 256;
export const GROUP_SLOTS_LOG2 = 13;

/** Shape of a hash table: records, words of one (a power of two), and log2 of the most slots. */
export interface HashTableShape {
  readonly records: number;
  readonly recordWords: number;
  readonly slotsLog2: number;
  /** Header word that publishes the table. */
  readonly publishedAt: number;
  readonly slotsAt: number;
  readonly recordsAt: number;
}

/** Interfaces: 4,096 of them, with 65,536 addresses in all. */
export const INTERFACES = 1 << 12;
const INTERFACE_WORDS = 32;
export const ADDRESS_WORDS = 8;
export const ADDRESSES = 1 << 16;

/** Words of an interface record. The first two are its key. */
export const Interface = {
  ifindex: 0,
  /** always 0, second half of the key */
  unused: 1,
  /** IFF_* as in `ifi_flags` */
  flags: 2,
  mtu: 3,
  /** bytes 0–3 of the MAC address as in memory */
  macHead: 4,
  /** bytes 4–5 likewise, in the low half */
  macTail: 5,
  /** IFLA_LINK: the device below; 0: none */
  link: 6,
  /** IFLA_MASTER; 0: none */
  master: 7,
  /** VLAN protocol (0x8100 or 0x88a8) << 16 | VLAN id; 0: not a VLAN device */
  vlan: 8,
  /** index of the first of its addresses */
  addresses: 9,
  addressCount: 10,
  /** {@linkcode NAME_BYTES}, zero-terminated */
  name: 12,
  /** IFLA_OPERSTATE */
  operstate: 11,
  /** IFLA_BROADCAST, as the MAC address */
  broadcastHead: 16,
  broadcastTail: 17,
} as const;

/** Bytes of an interface's name, IFNAMSIZ. */
export const NAME_BYTES = 16;

export const Address = {
  /** IFA_LOCAL */
  local: 0,
  /** IFA_ADDRESS: the peer's on a point-to-point link, else the same */
  address: 1,
  /** IFA_BROADCAST; 0: none */
  broadcast: 2,
  /** prefix length | scope << 8 | secondary << 16 */
  meta: 3,
  /** IFA_LABEL, as an interface's name */
  label: 4,
} as const;

/** Neighbours: 131,072 of them; as many records again may wait for a grace period. */
export const NEIGHBORS = 1 << 17;
const NEIGHBOR_WORDS = 8;

/** Words of a neighbour record. The first two are its key. */
export const Neighbor = {
  ifindex: 0,
  address: 1,
  macHead: 2,
  macTail: 3,
  /** NUD_* | refresh wanted << 8 | NTF_* << 16: the only word of a record that may change */
  state: 4,
} as const;

let end = PAGE;

/** Takes `byteLength` bytes, a whole number of pages, from the region. */
function section(byteLength: number): number {
  const at = end;
  end += Math.ceil(byteLength / PAGE) * PAGE;
  return at;
}

export const FIB_AT = section(FIB_WORDS * 2);
export const NEXT_HOPS_AT = section(NEXT_HOPS * NEXT_HOP_WORDS * 4);
export const PATHS_AT = section(PATH_UNITS * PATH_UNIT * 2);
export const ADDRESSES_AT = section(ADDRESSES * ADDRESS_WORDS * 4);

/** Each size of a table has two places, for rebuilding. Up to 2ᵏ slots this takes 2ᵏ⁺² words in all. */
function hashTable(
  shape: Omit<HashTableShape, "slotsAt" | "recordsAt">,
): HashTableShape {
  const { records, recordWords, slotsLog2 } = shape;
  const slotsAt = section(4 << (slotsLog2 + 2));
  return { ...shape, slotsAt, recordsAt: section(records * recordWords * 4) };
}

export const INTERFACE_TABLE = hashTable({
  records: INTERFACES * 2,
  recordWords: INTERFACE_WORDS,
  slotsLog2: 13,
  publishedAt: Header.interfaceTable,
});

export const NEIGHBOR_TABLE = hashTable({
  records: NEIGHBORS * 2,
  recordWords: NEIGHBOR_WORDS,
  slotsLog2: 18,
  publishedAt: Header.neighborTable,
});

export const NETBASE_BYTES = end;
