/**
 * Slot tables of ECMP groups: 2ᵏ slots, each naming a member, of which a flow takes one by its hash.
 * Shares are as the weights say, and a flow stays with its member for as long as that is there.
 *
 * @module
 */

import { GROUP_SLOTS_LOG2 } from "./layout.ts";

/** A member: what identifies it across groups, and its weight, 1 or more. */
export interface SlotMember {
  readonly key: string;
  readonly weight: number;
}

/** So many for the smallest share, of which rounding to a whole slot is then at most 2 %. */
const SLOTS_OF_SMALLEST = 50;
const SMALLEST_LOG2 = 6;

/**
 * Log2 of how many slots a group needs so that each member's share is within 2 % of its weight, or
 * as near as the largest table comes.
 */
export function slotsLog2(members: readonly SlotMember[]): number {
  const total = members.reduce((sum, member) => sum + member.weight, 0);
  const least = members.reduce((min, member) => Math.min(min, member.weight), Infinity);
  const log2 = Math.ceil(Math.log2((SLOTS_OF_SMALLEST * total) / least));
  return Math.min(GROUP_SLOTS_LOG2, Math.max(SMALLEST_LOG2, log2));
}

/**
 * Fills a slot table: for each slot the index of its member. `earlier` is the table that this one
 * takes the place of, as the member's key of each slot (empty: none). A slot moves only when its
 * member is gone or had more than its share, rounded up; what is free goes to whoever lacks most.
 * The table is never smaller than the earlier one, and where it is larger each old slot becomes a
 * row of new ones, since slots are picked by the hash's upper bits.
 */
export function fillSlots(
  members: readonly SlotMember[],
  earlier: readonly string[],
): Uint16Array {
  const count = Math.max(1 << slotsLog2(members), earlier.length);
  const total = members.reduce((sum, member) => sum + member.weight, 0);
  const lacks = members.map((member) => (count * member.weight) / total);
  const inherited = inherit(members, earlier, count);
  const slots = new Uint16Array(count);
  const open: number[] = [];
  for (let slot = 0; slot < count; slot++) {
    const member = inherited[slot];
    if (member < 0 || lacks[member] <= 0) {
      open.push(slot);
    } else {
      slots[slot] = member;
      lacks[member]--;
    }
  }
  for (const slot of open) {
    const member = lacks.indexOf(Math.max(...lacks));
    slots[slot] = member;
    lacks[member]--;
  }
  return slots;
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
