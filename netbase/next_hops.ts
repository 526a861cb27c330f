/**
 * Next hops: what a FIB cell names. A record says all that a packet needs of its route. The record of an
 * ECMP group names a slot table: 2ᵏ slots, each naming a member, of which a flow takes one by its hash.
 * Shares follow the members' weights, and a flow stays with its member as long as that is there.
 */

import { slice, u16, u32, type View } from "../ffi/view.ts";
import * as layout from "./layout.ts";
import { type DeferredFree, IdPool, RunPool } from "./rcu.ts";
import { KIND_GROUP, KIND_OVERFLOW } from "./route.ts";

// V8 folds constants of the same module that are not exported, and loads all others at each use.
const { NEXT_HOP_OVERFLOW, NEXT_HOP_WORDS, NEXT_HOPS, NEXT_HOPS_AT, NextHop } = layout;
const { GROUP_MEMBERS, GROUP_SLOTS_LOG2, PATH_UNIT, PATH_UNITS, PATHS_AT } = layout;

/**
 * Records by the id that `FibReader.lookup` gives; an id is valid until the reader's next quiescent
 * state. Records do not change, and everything is found through the id, so plain loads are enough
 * (`rcu.ts`).
 */
export class NextHopReader {
  // Declared only, see `hash_table.ts`.
  declare readonly words: Uint32Array;
  declare readonly paths: Uint16Array;

  constructor(view: View) {
    this.words = u32(slice(view, NEXT_HOPS_AT, NEXT_HOPS * NEXT_HOP_WORDS * 4));
    this.paths = u16(slice(view, PATHS_AT, PATH_UNITS * PATH_UNIT * 2));
  }

  /** RTN_* or KIND_*; 0 for id 0. */
  kind(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.kind] & 0xff;
  }

  /** RT_SCOPE_* of the route */
  scope(id: number): number {
    return (this.words[id * NEXT_HOP_WORDS + NextHop.kind] >>> 8) & 0xff;
  }

  /** `NextHopFlag` */
  flags(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.kind] >>> 16;
  }

  /** Host order; 0: on-link */
  gateway(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.gateway];
  }

  ifindex(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.ifindex];
  }

  /** The route's preferred source, host order; 0: choose one */
  source(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.source];
  }

  /** The route's MTU; 0: the interface's */
  mtu(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.mtu];
  }

  /** Groups: the member (a next hop id) that a flow takes. `flowHash`: 32 well-mixed bits. */
  member(id: number, flowHash: number): number {
    const log2 = this.words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16;
    // Two shifts: a shift by 32 is one by 0 in JavaScript, and log2 may be 0.
    return this.paths[this.#pathsAt(id) + ((flowHash >>> 1) >>> (31 - log2))];
  }

  /** Groups: number of members. */
  memberCount(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.shape] & 0xffff;
  }

  /** Groups: next hop id of the `i`-th member, in the kernel's order. */
  memberId(id: number, i: number): number {
    return this.paths[this.#memberAt(id, i)];
  }

  /** Groups: weight of the `i`-th member, 1 or more. */
  memberWeight(id: number, i: number): number {
    return this.paths[this.#memberAt(id, i) + 1] + 1;
  }

  #pathsAt(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.paths] * PATH_UNIT;
  }

  /** Members follow the slots, two words each. */
  #memberAt(id: number, i: number): number {
    const log2 = this.words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16;
    return this.#pathsAt(id) + (1 << log2) + i * 2;
  }
}

/** What the record of one next hop says. */
export interface NextHopFields {
  /** RTN_* or KIND_* */
  readonly kind: number;
  readonly scope: number;
  /** `NextHopFlag` */
  readonly flags: number;
  readonly gateway: number;
  readonly ifindex: number;
  readonly source: number;
  readonly mtu: number;
}

/** A member of a group to be published. */
export interface GroupMember {
  readonly fields: NextHopFields;
  /** 1 or more */
  readonly weight: number;
}

/**
 * The one writer's side. A published next hop belongs to its publisher (routes with equal attributes
 * share one, see `AttributeTable`), who releases it when no cell names it any more.
 */
export class NextHopWriter {
  /** Counts ids that came free: what did not fit may fit now. */
  reclaimed = 0;
  readonly #reader: NextHopReader;
  readonly #words: Uint32Array;
  readonly #paths: Uint16Array;
  readonly #deferred: DeferredFree;
  readonly #ids = new IdPool(NEXT_HOP_OVERFLOW + 1, NEXT_HOPS);
  readonly #runs = new RunPool(PATH_UNITS);
  /** Ids that a predecessor left, without those of groups' members, by `contentKey`. */
  readonly #inherited = new Map<string, number[]>();

  /** Joins at `view`; with `joined` everything that a predecessor published is kept for now. */
  constructor(view: View, deferred: DeferredFree, joined: boolean) {
    this.#reader = new NextHopReader(view);
    this.#words = this.#reader.words;
    this.#paths = this.#reader.paths;
    this.#deferred = deferred;
    this.#words[NEXT_HOP_OVERFLOW * NEXT_HOP_WORDS + NextHop.kind] = KIND_OVERFLOW;
    if (joined) this.#inherit();
  }

  /** RTN_* or KIND_* of a record; 0 for id 0. */
  kind(id: number): number {
    return this.#reader.kind(id);
  }

  /** The id of a new record with `fields`; NEXT_HOP_OVERFLOW when none is free. */
  publish(fields: NextHopFields): number {
    return this.#adopt(fields, []) || this.#create(fields);
  }

  /**
   * The id of a new group; NEXT_HOP_OVERFLOW when it does not fit. `fields` are those of the whole
   * route. Flows keep their members of the group `earlier`, if that id is one.
   */
  publishGroup(
    fields: NextHopFields,
    members: readonly GroupMember[],
    earlier: number,
  ): number {
    if (members.length > GROUP_MEMBERS) return NEXT_HOP_OVERFLOW;
    const weights = members.map((member) => Math.min(member.weight, 0x10000));
    const adopted = this.#adopt(
      fields,
      members.map((member, i) => ({ fields: member.fields, weight: weights[i] })),
    );
    if (adopted !== 0) return adopted;
    const ids = members.map((member) => this.#create(member.fields));
    const keyed = ids.map((id, i) => ({ key: this.#memberKey(id), weight: weights[i] }));
    const slots = fillSlots(distinct(keyed), this.#slotKeys(earlier));
    const run = this.#runs.allocate(unitsOf(slots.length, ids.length));
    const id = this.#allocate();
    if (run < 0 || id === NEXT_HOP_OVERFLOW || ids.includes(NEXT_HOP_OVERFLOW)) {
      if (run >= 0) this.#runs.reclaim(run);
      for (const unused of [id, ...ids]) this.#free(unused);
      return NEXT_HOP_OVERFLOW;
    }
    const base = run * PATH_UNIT;
    slots.forEach((member, slot) => this.#paths[base + slot] = ids[member]);
    ids.forEach((member, i) => {
      this.#paths[base + slots.length + i * 2] = member;
      this.#paths[base + slots.length + i * 2 + 1] = weights[i] - 1;
    });
    const log2 = 31 - Math.clz32(slots.length);
    this.#write(id, fields, { run, shape: (log2 << 16) | ids.length });
    return id;
  }

  /** Frees `id`, a group with its members, after a grace period. Nothing published names it any more. */
  release(id: number): void {
    this.#deferred.retire(this, id);
  }

  /** For `DeferredFree`: no reader has `id` any more. */
  reclaim(id: number): void {
    const members = this.kind(id) === KIND_GROUP ? this.#membersOf(id) : [];
    if (members.length > 0) this.#runs.reclaim(this.#words[id * NEXT_HOP_WORDS + NextHop.paths]);
    // The group goes first: a successor must find no group whose members are already reused.
    for (const each of [id, ...members]) this.#free(each);
    this.reclaimed++;
  }

  /** Releases a predecessor's records. The FIB must no longer name them. */
  disinherit(): void {
    for (const id of [...this.#inherited.values()].flat()) this.release(id);
    this.#inherited.clear();
  }

  /**
   * Takes over a predecessor's record with this content, since there may not be room for as many again
   * while its records are still in the FIB. 0: there is none.
   */
  #adopt(fields: NextHopFields, members: readonly GroupMember[]): number {
    if (this.#inherited.size === 0) return 0;
    return this.#inherited.get(contentKey(fields, members))?.pop() ?? 0;
  }

  /** The id of a record that no one else uses; NEXT_HOP_OVERFLOW when none is free. */
  #create(fields: NextHopFields): number {
    const id = this.#allocate();
    if (id !== NEXT_HOP_OVERFLOW) this.#write(id, fields, { run: 0, shape: 0 });
    return id;
  }

  #free(id: number): void {
    if (id === NEXT_HOP_OVERFLOW) return;
    this.#words[id * NEXT_HOP_WORDS + NextHop.kind] = 0;
    this.#ids.reclaim(id);
  }

  /** An id whose record is to be written; NEXT_HOP_OVERFLOW: there is none. */
  #allocate(): number {
    let id = this.#ids.allocate();
    if (id < 0) {
      this.#deferred.reclaim();
      id = this.#ids.allocate();
    }
    return id < 0 ? NEXT_HOP_OVERFLOW : id;
  }

  /** Stores the kind last: a successor ignores a record whose kind is 0, as it may be half written. */
  #write(id: number, fields: NextHopFields, { run, shape }: { run: number; shape: number }): void {
    const at = id * NEXT_HOP_WORDS;
    this.#words[at + NextHop.gateway] = fields.gateway;
    this.#words[at + NextHop.ifindex] = fields.ifindex;
    this.#words[at + NextHop.source] = fields.source;
    this.#words[at + NextHop.mtu] = fields.mtu;
    this.#words[at + NextHop.paths] = run;
    this.#words[at + NextHop.shape] = shape;
    this.#words[at + NextHop.kind] = fields.kind | (fields.scope << 8) | (fields.flags << 16);
  }

  /** Identifies a member across groups: those with the same gateway and interface are the same. */
  #memberKey(id: number): string {
    return `${this.#reader.gateway(id)}%${this.#reader.ifindex(id)}`;
  }

  #membersOf(id: number): number[] {
    const length = this.#reader.memberCount(id);
    return Array.from({ length }, (_, i) => this.#reader.memberId(id, i));
  }

  #slotCount(id: number): number {
    return 1 << (this.#words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16);
  }

  /** For each slot of group `id` its member's key; none when `id` is not a group. */
  #slotKeys(id: number): string[] {
    if (id === 0 || this.kind(id) !== KIND_GROUP) return [];
    const base = this.#words[id * NEXT_HOP_WORDS + NextHop.paths] * PATH_UNIT;
    const slots = this.#paths.subarray(base, base + this.#slotCount(id));
    return Array.from(slots, (member) => this.#memberKey(member));
  }

  /** Reserves a predecessor's records and the paths of its groups. */
  #inherit(): void {
    const members = new Set<number>();
    const inherited: number[] = [];
    for (let id = NEXT_HOP_OVERFLOW + 1; id < NEXT_HOPS; id++) {
      if (this.kind(id) === 0) continue;
      this.#ids.reserve(id);
      inherited.push(id);
      if (this.kind(id) !== KIND_GROUP) continue;
      const ids = this.#membersOf(id);
      for (const member of ids) members.add(member);
      const run = this.#words[id * NEXT_HOP_WORDS + NextHop.paths];
      this.#runs.reserve(run, unitsOf(this.#slotCount(id), ids.length));
    }
    for (const id of inherited) {
      if (members.has(id)) continue;
      const ids = this.kind(id) === KIND_GROUP ? this.#membersOf(id) : [];
      const key = contentKey(
        this.#fieldsOf(id),
        ids.map((member, i) => ({
          fields: this.#fieldsOf(member),
          weight: this.#reader.memberWeight(id, i),
        })),
      );
      const alike = this.#inherited.get(key);
      if (alike === undefined) this.#inherited.set(key, [id]);
      else alike.push(id);
    }
  }

  #fieldsOf(id: number): NextHopFields {
    const reader = this.#reader;
    return {
      kind: reader.kind(id),
      scope: reader.scope(id),
      flags: reader.flags(id),
      gateway: reader.gateway(id),
      ifindex: reader.ifindex(id),
      source: reader.source(id),
      mtu: reader.mtu(id),
    };
  }
}

/** What a next hop or a group says, as text: the same for records of equal content. */
function contentKey(fields: NextHopFields, members: readonly GroupMember[]): string {
  const { kind, scope, flags, gateway, ifindex, source, mtu } = fields;
  const own = [kind, scope, flags, gateway, ifindex, source, mtu].join();
  return [own, ...members.map((each) => `${each.weight}*${contentKey(each.fields, [])}`)].join(";");
}

/** Units of paths that a group takes. */
function unitsOf(slots: number, members: number): number {
  return Math.ceil((slots + members * 2) / PATH_UNIT);
}

/** A member as slots see it: what identifies it across groups, and its weight, 1 or more. */
interface SlotMember {
  readonly key: string;
  readonly weight: number;
}

/** The kernel allows the same way twice in a route: the second gets a key of its own. */
function distinct(members: readonly SlotMember[]): SlotMember[] {
  const seen = new Map<string, number>();
  return members.map(({ key, weight }) => {
    const times = seen.get(key) ?? 0;
    seen.set(key, times + 1);
    return { key: times === 0 ? key : `${key}#${times}`, weight };
  });
}

/** How far a member's share may be from its weight. */
const BOUND = 0.02;
/**
 * Slots for the smallest share: enough that a share rounded to whole slots stays within the bound when
 * a table grows, though shares then are a little smaller.
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
 * replaces, as the member's key of each slot (empty: none). As few slots move as possible: first those
 * of members that are gone, to the member that lacks most; then from the member that has most too many,
 * until new members have their shares and all others are as near to theirs as they have to be.
 * The table is never smaller than the earlier one, and where it is larger each old slot becomes a
 * row of new ones, since slots are picked by the hash's upper bits.
 */
function fillSlots(members: readonly SlotMember[], earlier: readonly string[]): Uint16Array {
  const count = Math.max(1 << slotsLog2(members), earlier.length);
  const total = members.reduce((sum, member) => sum + member.weight, 0);
  const shares = members.map((member) => (count * member.weight) / total);
  const known = new Set(earlier);
  const spare = members.map(({ key }, i) => known.has(key) ? Math.max(1, shares[i] * BOUND) : 1);
  const own: number[][] = members.map(() => []);
  const open: number[] = [];
  const indexOf = new Map(members.map((member, i) => [member.key, i]));
  const rows = count / Math.max(1, earlier.length);
  for (let slot = 0; slot < count; slot++) {
    const member = indexOf.get(earlier[Math.floor(slot / rows)]);
    (member === undefined ? open : own[member]).push(slot);
  }
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
