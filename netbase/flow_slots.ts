/**
 * Slot tables of ECMP groups: 2ᵏ slots, each naming a member, of which a flow takes one by its hash.
 * Shares are as the weights say, and a flow stays with its member for as long as that is there.
 */

import { GROUP_SLOTS_LOG2 } from "./layout.ts";

/** A member: what identifies it across groups, and its weight, 1 or more. */
export interface SlotMember {
  readonly key: string;
  readonly weight: number;
}

/** How far a member's share may be from its weight. */
const BOUND = 0.02;
/**
 * So many for the smallest share: what was rounded to a whole one stays within the bound when a table
 * grows, though shares then are a little smaller.
 */
const SLOTS_OF_SMALLEST = 52;
const SMALLEST_LOG2 = 6;

/**
 * Log2 of how many slots a group needs so that each member's share is within 2 % of its weight, or
 * as near as the largest table comes.
 */
function slotsLog2(members: readonly SlotMember[]): number {
  const total = members.reduce((sum, member) => sum + member.weight, 0);
  const least = members.reduce((min, member) => Math.min(min, member.weight), Infinity);
  const log2 = Math.ceil(Math.log2((SLOTS_OF_SMALLEST * total) / least));
  return Math.min(GROUP_SLOTS_LOG2, Math.max(SMALLEST_LOG2, log2));
}

/**
 * Fills a slot table: for each slot the index of its member. `earlier` is the table that this one
 * takes the place of, as the member's key of each slot (empty: none). As few slots move as may be: those
 * of members that are gone, to whoever lacks most; then from whoever has most too many, until new
 * members have their shares and all others are as near to theirs as they have to be.
 * The table is never smaller than the earlier one, and where it is larger each old slot becomes a
 * row of new ones, since slots are picked by the hash's upper bits.
 */
export function fillSlots(
  members: readonly SlotMember[],
  earlier: readonly string[],
): Uint16Array {
  const count = Math.max(1 << slotsLog2(members), earlier.length);
  const total = members.reduce((sum, member) => sum + member.weight, 0);
  const shares = members.map((member) => (count * member.weight) / total);
  const known = new Set(earlier);
  const spare = members.map(({ key }, i) => known.has(key) ? Math.max(1, shares[i] * BOUND) : 1);
  const own: number[][] = members.map(() => []);
  const open: number[] = [];
  inherit(members, earlier, count).forEach((member, slot) => {
    (member < 0 ? open : own[member]).push(slot);
  });
  const lacks = (member: number) => shares[member] - own[member].length;
  for (const slot of open) own[most(shares, lacks)].push(slot);
  for (;;) {
    let to = most(shares, (member) => lacks(member) - spare[member]);
    let from = most(shares, (member) => -lacks(member) - spare[member]);
    if (lacks(to) > spare[to]) from = most(shares, (member) => -lacks(member));
    else if (-lacks(from) > spare[from]) to = most(shares, lacks);
    else break;
    // What is left is rounding to whole slots.
    if (lacks(to) - lacks(from) <= 1) break;
    own[to].push(own[from].pop()!);
  }
  const slots = new Uint16Array(count);
  own.forEach((theirs, member) => theirs.forEach((slot) => slots[slot] = member));
  return slots;
}

/** Index of the one of `all` for which `of` is largest. */
function most(all: readonly unknown[], of: (index: number) => number): number {
  let best = 0;
  for (let i = 1; i < all.length; i++) if (of(i) > of(best)) best = i;
  return best;
}

/** For each slot the member that its flows had, by index among `members`; -1: gone, or new. */
function inherit(
  members: readonly SlotMember[],
  earlier: readonly string[],
  count: number,
): Int16Array {
  const indexOf = new Map(members.map((member, i) => [member.key, i]));
  const inherited = new Int16Array(count).fill(-1);
  const rows = count / Math.max(1, earlier.length);
  for (let slot = 0; earlier.length > 0 && slot < count; slot++) {
    inherited[slot] = indexOf.get(earlier[Math.floor(slot / rows)]) ?? -1;
  }
  return inherited;
}
