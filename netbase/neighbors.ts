/** Signatures first; the implementation follows. @module */

/** Neighbour states, a bitmask (`ndm_state`, linux/neighbour.h). */
export const NUD_INCOMPLETE = 0x01;
export const NUD_REACHABLE = 0x02;
export const NUD_STALE = 0x04;
export const NUD_DELAY = 0x08;
export const NUD_PROBE = 0x10;
export const NUD_FAILED = 0x20;
export const NUD_NOARP = 0x40;
export const NUD_PERMANENT = 0x80;
/** States in which a neighbour's MAC may be used (the kernel's NUD_VALID). */
export const NUD_VALID = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE |
  NUD_DELAY;

/** A neighbour as RTM_NEWNEIGH tells it. Mutable, so that a decoder can reuse one. */
export interface NeighborEntry {
  ifindex: number;
  /** host order */
  address: number;
  /** NUD_* */
  state: number;
  /** NTF_* */
  flags: number;
  /** MAC: bytes 0–3 as one little-endian word, and bytes 4–5 likewise. */
  macHead: number;
  macTail: number;
}

/** The writer's side. */
export declare class NeighborWriter {
  /**
   * Adds or changes a neighbour; takes away "refresh wanted". False: it does not fit and is not in
   * the table (not even as it was), counted in `full`; resync when there may be room again.
   */
  set(entry: NeighborEntry): boolean;
  remove(ifindex: number, address: number): boolean;
  /** Removes all neighbours of an interface and returns how many. */
  removeInterface(ifindex: number): number;
  /** Asks the next net tile that uses this neighbour for a solicit. False: no such neighbour. */
  wantRefresh(ifindex: number, address: number): boolean;
  /** Its NUD_* state, 0 when it is not there. */
  state(ifindex: number, address: number): number;
  /** A dump follows; what is not in it goes with `endSync`. */
  beginSync(): void;
  endSync(): void;
  /** Calls `visit` for each, in no order, with one object that is reused. */
  forEach(visit: (entry: NeighborEntry) => void): void;
  /** How many there are. */
  readonly size: number;
  /** How many did not fit, ever. */
  readonly full: number;
}

/** The readers' side. A *record* is good until the reader's next quiescent state. */
export declare class NeighborReader {
  /** Record of a neighbour whose MAC may be used, or -1. */
  lookup(ifindex: number, address: number): number;
  /** Record of a neighbour in whatever state, or -1. */
  find(ifindex: number, address: number): number;
  /** MAC bytes 0–3 as they lie in memory (a little-endian word). */
  macHead(record: number): number;
  /** MAC bytes 4–5 likewise. */
  macTail(record: number): number;
  /** NUD_* */
  state(record: number): number;
  /** Whether the netlink tile wants a solicit when this neighbour is used. */
  refreshWanted(record: number): boolean;
  /** Calls `visit` for each, in no order, with one object that is reused. */
  forEach(visit: (entry: NeighborEntry) => void): void;
}
