/**
 * Next hops as the writer sees them. Who publishes one has it to himself (equal routes share a set of
 * attributes, and that has the next hop, see `attributes.ts`), and gives it back when nothing names it.
 * It stays as it is until all readers have moved on (`rcu.ts`).
 */

import type { View } from "../ffi/view.ts";
import { fillSlots, type SlotMember } from "./flow_slots.ts";
import {
  GROUP_MEMBERS,
  NEXT_HOP_OVERFLOW,
  NEXT_HOP_WORDS,
  NEXT_HOPS,
  NextHop,
  PATH_UNIT,
  PATH_UNITS,
} from "./layout.ts";
import { NextHopReader, nextHopWords, pathWords } from "./next_hops.ts";
import { IdPool, RunPool } from "./pools.ts";
import type { Limbo } from "./rcu.ts";
import { KIND_GROUP, KIND_OVERFLOW } from "./route.ts";

/** What a record of one next hop says. */
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

/** A member of a group to be. */
export interface GroupMember {
  readonly fields: NextHopFields;
  readonly weight: number;
}

/** The one writer's side. */
export class NextHopWriter {
  /** Moves whenever ids came free: what did not fit may fit now. */
  reclaimed = 0;
  readonly #words: Uint32Array;
  readonly #paths: Uint16Array;
  readonly #reader: NextHopReader;
  readonly #limbo: Limbo;
  readonly #ids = new IdPool(NEXT_HOP_OVERFLOW + 1, NEXT_HOPS);
  readonly #runs = new RunPool(PATH_UNITS);
  /** Ids that a predecessor left, those of groups' members aside, by what their records say. */
  readonly #inherited = new Map<string, number[]>();

  /** Joins at `view`; with `joined` everything that a predecessor published is kept for now. */
  constructor(view: View, limbo: Limbo, joined: boolean) {
    this.#words = nextHopWords(view);
    this.#paths = pathWords(view);
    this.#reader = new NextHopReader(view);
    this.#limbo = limbo;
    this.#words[NEXT_HOP_OVERFLOW * NEXT_HOP_WORDS + NextHop.kind] = KIND_OVERFLOW;
    if (joined) this.#inherit();
  }

  /** RTN_* or KIND_* of a record; 0 for id 0. */
  kind(id: number): number {
    return this.#reader.kind(id);
  }

  /** The id of a new record that says `fields`; NEXT_HOP_OVERFLOW when none is free. */
  publish(fields: NextHopFields): number {
    const known = this.#adopt(() => keyOf(fields, []));
    return known !== NEXT_HOP_OVERFLOW ? known : this.#create(fields);
  }

  /** As `publish`, but with a record that was nobody's before. */
  #create(fields: NextHopFields): number {
    const id = this.#allocate();
    if (id !== NEXT_HOP_OVERFLOW) this.#write(id, fields, { run: 0, shape: 0 });
    return id;
  }

  /**
   * The id of a new group; NEXT_HOP_OVERFLOW when it does not fit. `fields` are those of the whole
   * route. Flows stay as they were in the group `earlier`, when that id is one.
   */
  publishGroup(
    fields: NextHopFields,
    members: readonly GroupMember[],
    earlier: number,
  ): number {
    if (members.length > GROUP_MEMBERS) return NEXT_HOP_OVERFLOW;
    const weights = members.map((member) => Math.min(member.weight, 0x10000));
    const known = this.#adopt(() =>
      keyOf(fields, members.map((member, i) => ({ fields: member.fields, weight: weights[i] })))
    );
    if (known !== NEXT_HOP_OVERFLOW) return known;
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

  /** Takes back `id`, a group with its members. To be called when nothing that is published names it. */
  release(id: number): void {
    this.#limbo.retire(this, id);
  }

  /** For `Limbo`: no reader has `id` any more. */
  reclaim(id: number): void {
    const members = this.kind(id) === KIND_GROUP ? this.#membersOf(id) : [];
    if (members.length > 0) this.#runs.reclaim(this.#words[id * NEXT_HOP_WORDS + NextHop.paths]);
    // The group goes first: a successor must find none whose members another may have by then.
    for (const each of [id, ...members]) this.#free(each);
    this.reclaimed++;
  }

  /** Lets go of a predecessor's records. To be called when the FIB no longer names them. */
  disinherit(): void {
    for (const id of [...this.#inherited.values()].flat()) this.release(id);
    this.#inherited.clear();
  }

  /**
   * Takes over what a predecessor left and says just that: while its records are still painted there may
   * not be room for as many again. NEXT_HOP_OVERFLOW: there is none.
   */
  #adopt(key: () => string): number {
    if (this.#inherited.size === 0) return NEXT_HOP_OVERFLOW;
    return this.#inherited.get(key())?.pop() ?? NEXT_HOP_OVERFLOW;
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
      this.#limbo.reclaim();
      id = this.#ids.allocate();
    }
    return id < 0 ? NEXT_HOP_OVERFLOW : id;
  }

  /** The kind goes last: a successor ignores a record whose kind is 0, as it may be half written. */
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

  /** Members are the same across groups when they lead the same way, whatever else a route says. */
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

  /** Keeps hands off a predecessor's records, and off what its groups have. */
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
      const key = this.#keyOf(id);
      const alike = this.#inherited.get(key);
      if (alike === undefined) this.#inherited.set(key, [id]);
      else alike.push(id);
    }
  }

  /** `keyOf` of a record. */
  #keyOf(id: number): string {
    const ids = this.kind(id) === KIND_GROUP ? this.#membersOf(id) : [];
    const weight = (i: number) => this.#reader.memberWeight(id, i);
    const members = ids.map((member, i) => ({ fields: this.#fieldsOf(member), weight: weight(i) }));
    return keyOf(this.#fieldsOf(id), members);
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

/** What a next hop or a group says, in words: the same for records that say the same. */
function keyOf(fields: NextHopFields, members: readonly GroupMember[]): string {
  const { kind, scope, flags, gateway, ifindex, source, mtu } = fields;
  const own = [kind, scope, flags, gateway, ifindex, source, mtu].join();
  return [own, ...members.map((each) => `${each.weight}*${keyOf(each.fields, [])}`)].join(";");
}

/** Units of paths that a group takes. */
function unitsOf(slots: number, members: number): number {
  return Math.ceil((slots + members * 2) / PATH_UNIT);
}

/** The kernel allows one way twice in a route: the second gets a name of its own. */
function distinct(members: readonly SlotMember[]): SlotMember[] {
  const seen = new Map<string, number>();
  return members.map(({ key, weight }) => {
    const times = seen.get(key) ?? 0;
    seen.set(key, times + 1);
    return { key: times === 0 ? key : `${key}#${times}`, weight };
  });
}
