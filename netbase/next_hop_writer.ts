/**
 * Next hops as the writer sees them. Equal ones share one record, which is counted: every set of
 * route attributes that has been published holds one count, and a group one on each member. A record
 * that nobody holds any more stays as it is until all readers have moved on (`rcu.ts`), and comes back
 * to life if an equal one is wanted before that.
 */

import type { View } from "../ffi/view.ts";
import { fillSlots, type SlotMember } from "./flow_slots.ts";
import { IdPool } from "./id_pool.ts";
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
import type { Limbo } from "./rcu.ts";
import { KIND_GROUP, KIND_OVERFLOW } from "./route.ts";
import { RunPool } from "./run_pool.ts";

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

/** What the writer knows of a record in use. */
interface Entry {
  readonly key: string;
  /** Ids of a group's members, on each of which it holds a count; empty for all else. */
  readonly members: readonly number[];
  count: number;
  /** How many times it went into limbo and has not come out of it. */
  waiting: number;
}

/** The one writer's side. */
export class NextHopWriter {
  readonly #words: Uint32Array;
  readonly #paths: Uint16Array;
  readonly #reader: NextHopReader;
  readonly #limbo: Limbo;
  readonly #ids = new IdPool(NEXT_HOP_OVERFLOW + 1, NEXT_HOPS);
  readonly #runs = new RunPool(PATH_UNITS);
  readonly #entries: (Entry | undefined)[] = [];
  readonly #idOf = new Map<string, number>();
  /** Ids that a predecessor left, each held once until `disinherit`. */
  #inherited: number[] = [];
  #reclaimed = 0;

  /** Joins at `view`; with `joined` everything that a predecessor published is kept for now. */
  constructor(view: View, limbo: Limbo, joined: boolean) {
    this.#words = nextHopWords(view);
    this.#paths = pathWords(view);
    this.#reader = new NextHopReader(view);
    this.#limbo = limbo;
    this.#words[NEXT_HOP_OVERFLOW * NEXT_HOP_WORDS + NextHop.kind] = KIND_OVERFLOW;
    if (joined) this.#inherit();
  }

  /** Moves whenever ids came free: what did not fit may fit now. */
  get reclaimed(): number {
    return this.#reclaimed;
  }

  /** RTN_* or KIND_* of a record; 0 for id 0. */
  kind(id: number): number {
    return this.#reader.kind(id);
  }

  /** The id of a record that says `fields`, held once more; NEXT_HOP_OVERFLOW when none is free. */
  acquire(fields: NextHopFields): number {
    const key = keyOf(fields);
    const known = this.#hold(key);
    if (known >= 0) return known;
    const id = this.#allocateId();
    if (id < 0) return NEXT_HOP_OVERFLOW;
    this.#writeFields(id, fields);
    this.#enter(id, key, []);
    return id;
  }

  /**
   * The id of a group, held once more; NEXT_HOP_OVERFLOW when it does not fit. `fields` are those of
   * the whole route. Flows stay as they were in the group `earlier`, when that id is one.
   */
  acquireGroup(
    fields: NextHopFields,
    members: readonly GroupMember[],
    earlier: number,
  ): number {
    if (members.length > GROUP_MEMBERS) return NEXT_HOP_OVERFLOW;
    const ids = members.map((member) => this.acquire(member.fields));
    const weights = members.map((member) => Math.min(member.weight, 0x10000));
    const key = groupKey(keyOf(fields), ids, weights);
    const known = this.#hold(key);
    const id = known >= 0 || ids.includes(NEXT_HOP_OVERFLOW)
      ? known
      : this.#writeGroup(fields, ids, weights, earlier);
    // A group that exists has counts of its own on its members; one that does not fit needs none.
    if (known >= 0 || id < 0) { for (const member of ids) this.release(member); }
    if (id < 0) return NEXT_HOP_OVERFLOW;
    if (known < 0) this.#enter(id, key, ids);
    return id;
  }

  /** Gives back one hold on `id`. To be called when nothing that is published names it. */
  release(id: number): void {
    const entry = this.#entries[id];
    if (entry === undefined || --entry.count > 0) return;
    entry.waiting++;
    this.#limbo.retire(this, id);
  }

  /** For `Limbo`: no reader has `id` any more. It is free unless it came back to life. */
  reclaim(id: number): void {
    const entry = this.#entries[id];
    if (entry === undefined || --entry.waiting > 0 || entry.count > 0) return;
    this.#entries[id] = undefined;
    this.#idOf.delete(entry.key);
    if (this.kind(id) === KIND_GROUP) {
      this.#runs.reclaim(this.#words[id * NEXT_HOP_WORDS + NextHop.paths]);
      for (const member of entry.members) this.release(member);
    }
    this.#ids.reclaim(id);
    this.#reclaimed++;
  }

  /** Lets go of a predecessor's records. To be called when the FIB no longer names them. */
  disinherit(): void {
    for (const id of this.#inherited) this.release(id);
    this.#inherited = [];
  }

  /** The id known under `key`, held once more, or -1. */
  #hold(key: string): number {
    const id = this.#idOf.get(key) ?? -1;
    const entry = this.#entries[id];
    if (entry !== undefined) entry.count++;
    return id;
  }

  #allocateId(): number {
    const id = this.#ids.allocate();
    if (id >= 0) return id;
    this.#limbo.reclaim();
    return this.#ids.allocate();
  }

  #enter(id: number, key: string, members: readonly number[]): void {
    this.#entries[id] = { key, members, count: 1, waiting: 0 };
    this.#idOf.set(key, id);
  }

  /** The kind goes last: a successor ignores a record whose kind is 0, as it may be half written. */
  #writeFields(id: number, fields: NextHopFields): void {
    const at = id * NEXT_HOP_WORDS;
    this.#words[at + NextHop.kind] = 0;
    this.#words[at + NextHop.gateway] = fields.gateway;
    this.#words[at + NextHop.ifindex] = fields.ifindex;
    this.#words[at + NextHop.source] = fields.source;
    this.#words[at + NextHop.mtu] = fields.mtu;
    this.#words[at + NextHop.kind] = fields.kind | (fields.scope << 8) | (fields.flags << 16);
  }

  /** Writes a group with its slots and members. -1: no room. */
  #writeGroup(
    fields: NextHopFields,
    ids: readonly number[],
    weights: readonly number[],
    earlier: number,
  ): number {
    const members = ids.map((id, i) => ({ key: this.#memberKey(id), weight: weights[i] }));
    const slots = fillSlots(distinct(members), this.#slotKeys(earlier));
    const words = slots.length + ids.length * 2;
    const run = this.#runs.allocate(Math.ceil(words / PATH_UNIT));
    const id = run < 0 ? -1 : this.#allocateId();
    if (id < 0) {
      if (run >= 0) this.#runs.reclaim(run);
      return -1;
    }
    const base = run * PATH_UNIT;
    slots.forEach((member, slot) => this.#paths[base + slot] = ids[member]);
    ids.forEach((member, i) => {
      this.#paths[base + slots.length + i * 2] = member;
      this.#paths[base + slots.length + i * 2 + 1] = weights[i] - 1;
    });
    this.#words[id * NEXT_HOP_WORDS + NextHop.kind] = 0;
    this.#words[id * NEXT_HOP_WORDS + NextHop.paths] = run;
    const log2 = 31 - Math.clz32(slots.length);
    this.#words[id * NEXT_HOP_WORDS + NextHop.shape] = (log2 << 16) | ids.length;
    this.#writeFields(id, fields);
    return id;
  }

  /** Members are the same across groups when they lead the same way, whatever else a route says. */
  #memberKey(id: number): string {
    return `${this.#reader.gateway(id)}%${this.#reader.ifindex(id)}`;
  }

  /** For each slot of group `id` its member's key; none when `id` is not a group. */
  #slotKeys(id: number): string[] {
    if (id === 0 || this.kind(id) !== KIND_GROUP) return [];
    const log2 = this.#words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16;
    const base = this.#words[id * NEXT_HOP_WORDS + NextHop.paths] * PATH_UNIT;
    return Array.from({ length: 1 << log2 }, (_, i) => this.#memberKey(this.#paths[base + i]));
  }

  /** Takes all of a predecessor's records as they are, so that equal ones keep their ids. */
  #inherit(): void {
    for (let id = NEXT_HOP_OVERFLOW + 1; id < NEXT_HOPS; id++) {
      const kind = this.kind(id);
      if (kind === 0) continue;
      this.#ids.reserve(id);
      this.#inherited.push(id);
      if (kind !== KIND_GROUP) this.#enter(id, this.#fieldsKey(id), []);
    }
    for (const id of this.#inherited) if (this.kind(id) === KIND_GROUP) this.#inheritGroup(id);
  }

  /** Keeps a group's run and holds its members. */
  #inheritGroup(id: number): void {
    const count = this.#reader.memberCount(id);
    const slots = 1 << (this.#words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16);
    const run = this.#words[id * NEXT_HOP_WORDS + NextHop.paths];
    this.#runs.reserve(run, Math.ceil((slots + count * 2) / PATH_UNIT));
    const ids = Array.from({ length: count }, (_, i) => this.#reader.memberId(id, i));
    const weights = ids.map((_, i) => this.#reader.memberWeight(id, i));
    for (const member of ids) this.#entries[member]!.count++;
    this.#enter(id, groupKey(this.#fieldsKey(id), ids, weights), ids);
  }

  #fieldsKey(id: number): string {
    return keyOf({
      kind: this.kind(id),
      scope: this.#reader.scope(id),
      flags: this.#reader.flags(id),
      gateway: this.#reader.gateway(id),
      ifindex: this.#reader.ifindex(id),
      source: this.#reader.source(id),
      mtu: this.#reader.mtu(id),
    });
  }
}

function keyOf(fields: NextHopFields): string {
  const { kind, scope, flags, gateway, ifindex, source, mtu } = fields;
  return `${kind},${scope},${flags},${gateway},${ifindex},${source},${mtu}`;
}

function groupKey(fields: string, ids: readonly number[], weights: readonly number[]): string {
  return `${fields};${ids.map((id, i) => `${id}*${weights[i]}`).join()}`;
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
