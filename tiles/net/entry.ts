/**
 * An entry of the header cache, word by word, and what its outcome can be. Made by `resolve.ts`, kept
 * by `header_cache.ts`, followed by `transmit.ts`, `holding.ts` and `wire.ts`.
 */

/** Words of an entry: one cache line. */
export const ENTRY_WORDS = 16;
/**
 * Word indices of the largest table, all ones. Masking with it changes no index, but tells V8 that
 * none overflows, which saves a check at every access.
 */
export const MOST_WORDS = 0xffffff;
/** Word offsets in an entry. */
export const Entry = {
  /** Key: destination, host order. */
  destination: 0,
  /** Key: the source that was asked for, host order; 0: any. */
  source: 1,
  /** Key: the next hop when that depends on the flow, else 0. */
  member: 2,
  epoch: 3,
  /** What becomes of the datagram: see `resolve.ts`. */
  outcome: 4,
  /** Sums, folded: of the IPv4 header << 16 | of the pseudo header, both without their lengths. */
  sums: 5,
  /** Six words: what stands before the IPv4 header, ending there. */
  link: 6,
  sourceBe: 12,
  destinationBe: 13,
  /** Record of the neighbour. */
  neighbor: 14,
  /** When that was last looked at for its wish to be refreshed, and which apps may send here by then. */
  checked: 15,
} as const;

/** In the word `checked`: the low bits of the tick at which it was, and a bit for each app. */
export const TICK_BITS = 0xff;

/**
 * The bit in the word `checked` that apps from the 23rd on have together: what one of them may send
 * to, the others may for the length of a tick.
 */
export const SHARED_BIT = 0x100 << 22;

/** The bit of app number `index` in the word `checked`. */
export function appBit(index: number): number {
  return index < 22 ? 0x100 << index : SHARED_BIT;
}

/** Bytes that an entry holds for the Ethernet header, which ends at their end. */
export const LINK_BYTES = 24;

/**
 * Outcomes of an entry. One that is not negative says "by an AF_XDP socket": port number << 24 |
 * `NO_PEER` or not | where in the frame the Ethernet header begins << 16 | largest payload.
 */
export const Outcome = {
  /** The next hop depends on the flow: ask again with its member. */
  group: -1,
  /** By the kernel's socket of the source port. */
  kernel: -2,
} as const;

/**
 * In an outcome: that there is a way there does not say that a request may come from there, since it
 * is no single host's address, or that the source is an address of ours, since none was asked for.
 */
export const NO_PEER = 0x80_0000;

/** In an outcome, shifted right by 16: where the Ethernet header begins. */
export const BEGIN_BITS = 0x1f;

/** Outcomes below this are drops: `DROPS_BELOW` − number of the counter. */
const DROPS_BELOW = -16;

/** Returned instead of an entry when the neighbour is not known: see the resolver's fields. */
export const UNRESOLVED = -1;

/** In an entry instead of a neighbour's record: there is none to keep fresh. */
export const NO_NEIGHBOR = -2;

/** The outcome that is a drop and moves `counter`. */
export function dropOutcome(counter: number): number {
  return DROPS_BELOW - counter;
}

/** The counter that an outcome says to move. Only for outcomes that are drops. */
export function dropCounter(outcome: number): number {
  return DROPS_BELOW - outcome;
}
