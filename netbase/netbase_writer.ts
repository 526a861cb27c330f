// SPDX-License-Identifier: Apache-2.0
/**
 * The writer's side of netbase (`netbase.ts`), and the construction of the FIB from the RIB. Separate
 * from the readers' side, so that only the netlink tile loads it: with its imports it takes some 260
 * KiB of a tile's heap.
 */

import { u32, type View } from "../ffi/region.ts";
import { FibReader, NextHopReader } from "./fib.ts";
import { keyOf, Use } from "./hash.ts";
import type { InterfaceEntry } from "./interfaces.ts";
import * as layout from "./layout.ts";
import { Header, type NextHopWords } from "./layout.ts";
import type { NeighborEntry } from "./neighbors.ts";
import { DeferredFree, fence, Grace, IdPool, type Reader, RunPool } from "./rcu.ts";
import { type LookupOrder, Node, Rib, ROOT, TOUCHED, type Trie } from "./rib.ts";
import { KIND_GROUP, KIND_OVERFLOW, type Route, RTN_THROW } from "./route.ts";
import { InterfaceWriter, NeighborWriter } from "./tables_writer.ts";

/** What happened to an entry; "aged": only a neighbour's state has changed. */
export type Change = "added" | "changed" | "removed" | "aged";

/** Notified of changes before they are committed. Entries are in their current, or last, state. */
export interface ChangeListener {
  interface(change: Change, entry: InterfaceEntry): void;
  route(change: Change, route: Route): void;
  /** `neighbor` is valid only during the call. */
  neighbor(change: Change, neighbor: Readonly<NeighborEntry>): void;
}

/** The only listener; null: none, which costs nothing. The writers of a netbase share it. */
export interface ListenerSlot {
  current: ChangeListener | null;
}

interface WriterOptions {
  /** All readers of the region; released memory is reused after a grace period. */
  readonly readers: readonly Reader[];
  /** Slots of the neighbour table at start, four per neighbour expected; it grows on demand. */
  readonly neighborSlots?: number;
  /** Seed of the hash tables, random (`randomSeed`). */
  readonly seed: number;
  /** Lets a millisecond pass, for a successor: a reader may still hold what its predecessor had released. */
  readonly wait?: () => void;
}

/** Unless the options say otherwise: room for the kernel's usual gc_thresh3. */
const NEIGHBOR_SLOTS = 4096;
/** The longest that a reader may be in one burst before a successor gives up joining. */
const MOST_WAITS = 1000;

/** The only writer. A successor continues with all tables, and keeps the FIB until its RIB is complete. */
export class NetbaseWriter {
  readonly rib: Rib;
  readonly fib: FibBuilder;
  readonly interfaces: InterfaceWriter;
  readonly neighbors: NeighborWriter;
  readonly listeners: ListenerSlot = { current: null };
  readonly #header: Uint32Array;
  readonly #deferred: DeferredFree;
  /** Counts of all changes that a packet can see, at the last commit. */
  #changes = 0;

  /** Sets up a fresh region, or joins a predecessor's once no reader holds released memory. Throws Error. */
  constructor(view: View, options: WriterOptions) {
    this.#header = u32(view);
    const joined = this.#header[Header.hash] !== 0;
    if (joined) waitForReaders(options);
    const { readers, seed, neighborSlots: slots = NEIGHBOR_SLOTS } = options;
    const { listeners } = this;
    const deferred = this.#deferred = new DeferredFree(readers);
    const nextHops = new NextHopWriter(view, deferred, joined);
    this.rib = new Rib(nextHops, { listeners, joined });
    this.fib = new FibBuilder(view, { rib: this.rib, nextHops, deferred, readers });
    // The multipliers of the tables' hash are odd. They are written once, before there is a table, the first last.
    if (!joined) {
      const { first, second } = keyOf(seed, Use.netbase);
      this.#header[Header.hash + 1] = second;
      Atomics.store(this.#header, Header.hash, first);
    }
    const common = { deferred, listeners };
    const seedOf = (use: number) => keyOf(seed, use).add;
    this.interfaces = new InterfaceWriter(view, { ...common, seed: seedOf(Use.interfaces) });
    this.neighbors = new NeighborWriter(view, { ...common, slots, seed: seedOf(Use.neighbors) });
  }

  get generation(): number {
    return this.#header[Header.generation];
  }

  /** Number of items that wait for the end of a grace period. */
  get waiting(): number {
    return this.#deferred.size;
  }

  /** Whether the last `commit()` was incomplete, because of readers or lack of time: commit again soon. */
  get pending(): boolean {
    return this.fib.pending || (this.fib.overflow > 0 && this.waiting > 0);
  }

  /** Writes changed routes to the FIB and frees what no reader holds. True: a packet can see a difference. */
  commit(): boolean {
    this.fib.commit();
    const changes = this.interfaces.changes + this.neighbors.changes + this.fib.stores;
    const changed = changes !== this.#changes;
    this.#changes = changes;
    if (changed) Atomics.store(this.#header, Header.generation, this.generation + 1);
    fence(this.#header, Header.fence);
    this.#deferred.reclaim();
    return changed;
  }

  /** Publishes one of `Sync` (layout.ts) and when it was entered. */
  setSync(state: number, nowMillis: number): void {
    this.#header[Header.syncTimeLow] = nowMillis % 2 ** 32;
    this.#header[Header.syncTimeHigh] = Math.floor(nowMillis / 2 ** 32);
    Atomics.store(this.#header, Header.syncState, state);
  }
}

function waitForReaders({ readers, wait }: WriterOptions): void {
  const grace = new Grace(readers);
  for (let waited = 0; !grace.over; waited++) {
    if (waited === MOST_WAITS || wait === undefined) {
      throw new Error("netbase: readers still use memory that the previous writer released");
    }
    wait();
  }
}

// The FIB: next hops with the slot tables of ECMP groups, the stores into cells, and their contents.

// As in `fib.ts`.
const { FIB_DEFAULT, TBL24_CELLS, TBL8_BIT, TBL8_CELLS, TBL8S } = layout;
const { NEXT_HOP_OVERFLOW, NEXT_HOP_WORDS, NEXT_HOPS, NextHop } = layout;
const { GROUP_MEMBERS, GROUP_SLOTS_LOG2, PATH_UNIT, PATH_UNITS } = layout;
const TBL8_MASK = TBL8_BIT - 1;

export interface GroupMember {
  readonly words: NextHopWords;
  /** 1 or more */
  readonly weight: number;
}

/**
 * The only writer of next hops. Shares of a group's members follow their weights, and a flow stays with
 * its member while that exists. A published next hop belongs to its publisher (routes with equal
 * attributes share one, see `AttributeTable`), who releases it when no cell names it any more.
 */
export class NextHopWriter extends NextHopReader {
  /** Counts freed ids: after a change, next hops that did not fit may fit. */
  reclaimed = 0;
  readonly #deferred: DeferredFree;
  readonly #ids = new IdPool(NEXT_HOP_OVERFLOW + 1, NEXT_HOPS);
  readonly #runs = new RunPool(PATH_UNITS);
  /** Ids from a predecessor, without those of groups' members, by `contentKey`. */
  readonly #inherited = new Map<string, number[]>();

  /** Joins at `view`; with `joined` everything that a predecessor published is kept for now. */
  constructor(view: View, deferred: DeferredFree, joined: boolean) {
    super(view);
    this.#deferred = deferred;
    this.words[NEXT_HOP_OVERFLOW * NEXT_HOP_WORDS + NextHop.kind] = KIND_OVERFLOW;
    if (joined) this.#inherit();
  }

  get used(): number {
    return this.#ids.count;
  }

  /** The id of a new record; NEXT_HOP_OVERFLOW: none is free. */
  publish(words: NextHopWords): number {
    return this.#adopt(words, []) || this.#create(words);
  }

  /** The id of a new group, or NEXT_HOP_OVERFLOW. Flows keep their members of `earlier`, if that is a group. */
  publishGroup(words: NextHopWords, members: readonly GroupMember[], earlier: number): number {
    if (members.length > GROUP_MEMBERS) return NEXT_HOP_OVERFLOW;
    const weights = members.map((member) => Math.min(member.weight, 0x10000));
    const adopted = this.#adopt(
      words,
      members.map(({ words }, i) => ({ words, weight: weights[i] })),
    );
    if (adopted !== 0) return adopted;
    const ids = members.map((member) => this.#create(member.words));
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
    slots.forEach((member, slot) => this.paths[base + slot] = ids[member]);
    ids.forEach((member, i) => {
      this.paths[base + slots.length + i * 2] = member;
      this.paths[base + slots.length + i * 2 + 1] = weights[i] - 1;
    });
    const log2 = 31 - Math.clz32(slots.length);
    this.#write(id, words, run, (log2 << 16) | ids.length);
    return id;
  }

  /** Frees `id`, a group with its members, after a grace period. Nothing published may name it any more. */
  release(id: number): void {
    this.#deferred.retire(this, id);
  }

  /** For `DeferredFree`: no reader holds `id` any more. */
  reclaim(id: number): void {
    const members = this.kind(id) === KIND_GROUP ? this.#membersOf(id) : [];
    if (members.length > 0) this.#runs.reclaim(this.words[id * NEXT_HOP_WORDS + NextHop.paths]);
    // The group is freed first: a successor must find no group whose members are already reused.
    for (const each of [id, ...members]) this.#free(each);
    this.reclaimed++;
  }

  /** Releases a predecessor's records. The FIB must no longer name them. */
  disinherit(): void {
    for (const id of [...this.#inherited.values()].flat()) this.release(id);
    this.#inherited.clear();
  }

  /** Takes over a predecessor's record with this content, as there may be no room for both. 0: there is none. */
  #adopt(words: NextHopWords, members: readonly GroupMember[]): number {
    if (this.#inherited.size === 0) return 0;
    return this.#inherited.get(contentKey(words, members))?.pop() ?? 0;
  }

  /** The id of an unused record; NEXT_HOP_OVERFLOW: none is free. */
  #create(words: NextHopWords): number {
    const id = this.#allocate();
    if (id !== NEXT_HOP_OVERFLOW) this.#write(id, words, 0, 0);
    return id;
  }

  #free(id: number): void {
    if (id === NEXT_HOP_OVERFLOW) return;
    this.words[id * NEXT_HOP_WORDS + NextHop.kind] = 0;
    this.#ids.reclaim(id);
  }

  /** An id whose record must be written; NEXT_HOP_OVERFLOW: there is none. */
  #allocate(): number {
    const id = this.#ids.allocate(this.#deferred);
    return id < 0 ? NEXT_HOP_OVERFLOW : id;
  }

  /** Stores the kind last: a successor ignores a record whose kind is 0, as it may be half written. */
  #write(id: number, [kind, ...others]: NextHopWords, run: number, shape: number): void {
    const at = id * NEXT_HOP_WORDS;
    this.words.set([...others, run, shape], at + NextHop.gateway);
    this.words[at + NextHop.kind] = kind;
  }

  /** Identifies a member across groups by its gateway and interface. */
  #memberKey(id: number): string {
    return `${this.gateway(id)}%${this.ifindex(id)}`;
  }

  #membersOf(id: number): number[] {
    const length = this.memberCount(id);
    return Array.from({ length }, (_, i) => this.memberId(id, i));
  }

  #slotCount(id: number): number {
    return 1 << (this.words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16);
  }

  /** For each slot of group `id` its member's key; empty if `id` is not a group. */
  #slotKeys(id: number): string[] {
    if (id === 0 || this.kind(id) !== KIND_GROUP) return [];
    const base = this.words[id * NEXT_HOP_WORDS + NextHop.paths] * PATH_UNIT;
    const slots = this.paths.subarray(base, base + this.#slotCount(id));
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
      const run = this.words[id * NEXT_HOP_WORDS + NextHop.paths];
      this.#runs.reserve(run, unitsOf(this.#slotCount(id), ids.length));
    }
    for (const id of inherited) {
      if (members.has(id)) continue;
      const ids = this.kind(id) === KIND_GROUP ? this.#membersOf(id) : [];
      const key = contentKey(
        this.#wordsOf(id),
        ids.map((member, i) => ({
          words: this.#wordsOf(member),
          weight: this.memberWeight(id, i),
        })),
      );
      this.#inherited.getOrInsert(key, []).push(id);
    }
  }

  #wordsOf(id: number): NextHopWords {
    const at = id * NEXT_HOP_WORDS;
    return [...this.words.subarray(at, at + NextHop.paths)];
  }
}

/** The content of a next hop or a group as text: the same for records of equal content. */
function contentKey(words: NextHopWords, members: readonly GroupMember[]): string {
  return [words, ...members.map((each) => [each.weight, each.words])].join(";");
}

function unitsOf(slots: number, members: number): number {
  return Math.ceil((slots + members * 2) / PATH_UNIT);
}

/** A member in a slot table: its identity across groups, and its weight, 1 or more. */
interface SlotMember {
  readonly key: string;
  readonly weight: number;
}

/** The kernel allows the same path twice in a route: the second gets a different key. */
function distinct(members: readonly SlotMember[]): SlotMember[] {
  const seen = new Map<string, number>();
  return members.map(({ key, weight }) => {
    const times = seen.get(key) ?? 0;
    seen.set(key, times + 1);
    return { key: times === 0 ? key : `${key}#${times}`, weight };
  });
}

/** The largest deviation of a member's share from its weight. */
const BOUND = 0.02;
/** Slots for the smallest share: rounded to whole slots it stays within the bound, also when a table grows. */
const SLOTS_OF_SMALLEST = 52;
const SMALLEST_LOG2 = 6;

/** Log2 of the slots with which each member's share is within 2 % of its weight, or of the largest table. */
function slotsLog2(members: readonly SlotMember[]): number {
  const total = members.reduce((sum, member) => sum + member.weight, 0);
  const least = members.reduce((min, member) => Math.min(min, member.weight), Infinity);
  const log2 = Math.ceil(Math.log2((SLOTS_OF_SMALLEST * total) / least));
  return Math.min(GROUP_SLOTS_LOG2, Math.max(SMALLEST_LOG2, log2));
}

/**
 * Fills a slot table: for each slot the index of its member. `earlier` is the table that this one
 * replaces, as the member's key of each slot (empty: none). As few slots as possible move:
 *
 * 1. Slots of removed members go to the member with the largest deficit.
 * 2. Slots of the member with the largest excess go to new members, until those have their shares and
 * all others are close enough to theirs.
 *
 * The table is never smaller than the earlier one. If it is larger, each old slot becomes a row of new
 * ones, since the hash's upper bits select slots.
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
    // The rest is rounding to whole slots.
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

function isUniform(ids: Uint16Array): boolean {
  const first = ids[0];
  for (let i = 1; i < ids.length; i++) if (ids[i] !== first) return false;
  return true;
}

/** A node's `best`: next hop id of `local` << 16 | of `main`, 0 for none. */
const LOCAL_MASK = 0x7fff0000;
const MAIN_MASK = 0x7fff;

const CHANGED_LOCAL = 1;
const CHANGED_MAIN = 2;
const BOTH = CHANGED_LOCAL | CHANGED_MAIN;
/** Write every cell, regardless of the prefixes above. */
const ALL = 4;

/** Polls of the readers before a commit leaves the rest to the next one; some tens of microseconds. */
const MOST_POLLS = 1000;
/** The most prefixes that did not fit and are retried in one commit. */
const MOST_RETRIES = 4096;

/**
 * Keeps the FIB equal to the RIB. It works once per batch (`commit`), in three steps, so that each cell
 * changes directly from its value before the batch to its value after it. First it chooses the best
 * candidates of all touched prefixes and writes their next hops. Then it stores cells. Then it releases
 * next hops that no cell names any more. A route that is deleted and added again within a batch never
 * disappears.
 *
 * Cells under the default route alone are 0, and one word contains their next hop. To change that word, it
 * first writes the cells that will no longer need it, then the word, then the cells that become 0, with a
 * grace period after each, so that no reader combines an old cell with a new default or the reverse.
 */
export class FibBuilder extends FibReader {
  /** Counts stores that a reader can see. */
  stores = 0;
  readonly #rib: Rib;
  readonly #trie: Trie;
  readonly #nextHops: NextHopWriter;
  readonly #readers: readonly Reader[];
  readonly #header: Uint32Array;
  readonly #deferred: DeferredFree;
  readonly #tbl8s = new IdPool(0, TBL8S);
  /** Counts freed tbl8s: after a change, a /24 that did not fit may fit. */
  #reclaimedTbl8s = 0;
  /** While true no cell becomes 0, so no address is without a route while cells and the default change. */
  #keepCovered = false;
  readonly #block = new Uint16Array(TBL8_CELLS);
  #stage: "idle" | "covering" | "uncovering" = "idle";
  /** The nodes of the batch, and which tables changed for each. */
  #nodes: number[] = [];
  #changed: number[] = [];
  /** Begun after the last write of cells, and after the last change of the default. */
  #sinceCells = new Grace([]);
  #sinceMove = this.#sinceCells;
  #default = 0;
  /** Whether every cell must be written, and whether entries that did not fit are retried. */
  #rebuild: boolean;
  #retrying = false;
  /** The root's `best` at the last commit. */
  #rootBest = 0;
  #order: LookupOrder = "merged";
  /** Whether the tables are separate and `local` has a default route, which hides that of `main`. */
  #localDefault = false;
  /** Nodes without a next hop and /24s without a tbl8, for lack of room. */
  readonly #noNextHop = new Set<number>();
  readonly #noTbl8 = new Set<number>();
  /** `#reclaims` at the last retry, and how many of each kind are still to be retried. */
  #reclaimed = 0;
  #untried = 0;

  /** Joins at `view`. Until the RIB is whole, a predecessor's cells are kept. */
  constructor(view: View, { rib, nextHops, deferred, readers }: {
    rib: Rib;
    nextHops: NextHopWriter;
    deferred: DeferredFree;
    readers: readonly Reader[];
  }) {
    super(view);
    this.#rib = rib;
    this.#trie = rib.trie;
    this.#nextHops = nextHops;
    this.#readers = readers;
    this.#header = u32(view);
    this.#deferred = deferred;
    this.#rebuild = !rib.whole;
    if (rib.whole) return;
    for (let i = 0; i < TBL24_CELLS; i++) {
      const cell = this.words[i];
      if ((cell & TBL8_BIT) !== 0) this.#tbl8s.reserve(cell & TBL8_MASK);
    }
  }

  /** Whether the last `commit()` was incomplete: because of a reader in its burst, or for lack of room. */
  get pending(): boolean {
    return this.#rib.whole &&
      (this.#stage !== "idle" || this.#rib.touched.length > 0 || this.#retries > 0);
  }

  /** Prefixes and /24s that currently do not fit. Their packets are dropped, never misrouted. */
  get overflow(): number {
    return this.#noNextHop.size + this.#noTbl8.size;
  }

  /** Writes all touched prefixes to the FIB, or continues an incomplete commit. */
  commit(): void {
    if (!this.#rib.whole || (this.#stage !== "idle" && !this.#proceed())) return;
    if (this.#begin()) this.#proceed();
  }

  /** Begins a batch and writes the cells that must not wait for the default. False: nothing to do. */
  #begin(): boolean {
    this.#retrying = this.#retryNextHops();
    const { lookupOrder, touched } = this.#rib;
    if (lookupOrder !== this.#order && this.stores > 0) this.#rebuild = true;
    this.#order = lookupOrder;
    if (touched.length === 0 && !this.#rebuild && !this.#retrying) return false;
    this.#nodes = touched;
    this.#rib.touched = [];
    this.#changed = this.#nodes.map((node) => this.#choose(node));
    this.#default = this.#chooseDefault();
    this.#fence();
    this.#stage = "uncovering";
    if (this.#default !== this.words[FIB_DEFAULT]) {
      this.#stage = "covering";
      this.#keepCovered = true;
      this.#write();
      this.#keepCovered = false;
    }
    return true;
  }

  /** Continues a batch as far as the readers allow. False: it is incomplete. */
  #proceed(): boolean {
    if (this.#stage === "covering") {
      if (!isOver(this.#sinceCells)) return false;
      Atomics.store(this.words, FIB_DEFAULT, this.#default);
      this.stores++;
      this.#sinceMove = new Grace(this.#readers);
      this.#stage = "uncovering";
    }
    const cells = this.#rebuild || this.#retrying || this.#nodes.some((node) => node !== ROOT);
    if (cells && !isOver(this.#sinceMove)) return false;
    this.#write();
    this.#stage = "idle";
    this.#rebuild = false;
    for (const node of this.#nodes) this.#trie.prune(node);
    // A node touched since may have lost a next hop that cells still name.
    if (this.#rib.touched.length === 0) this.#rib.attributes.sweep();
    this.#nextHops.disinherit();
    return true;
  }

  #fence(): void {
    fence(this.#header, layout.Header.fence);
  }

  /** The number of used records in the tables of the FIB. */
  get used() {
    return { nextHops: this.#nextHops.used, tbl8s: this.#tbl8s.count };
  }

  get #reclaims(): number {
    return this.#nextHops.reclaimed + this.#reclaimedTbl8s;
  }

  /** The nodes or /24s to be retried, whichever are more: all of them once something was freed. */
  get #retries(): number {
    const most = Math.max(this.#noNextHop.size, this.#noTbl8.size);
    return this.#reclaims === this.#reclaimed ? Math.min(this.#untried, most) : most;
  }

  /** Touches nodes without a next hop, if something is to be retried. Returns whether it is. */
  #retryNextHops(): boolean {
    const retries = this.#retries;
    this.#reclaimed = this.#reclaims;
    this.#untried = Math.max(0, retries - MOST_RETRIES);
    if (retries === 0) return false;
    for (const node of take(this.#noNextHop, MOST_RETRIES)) this.#rib.touch(node);
    return true;
  }

  /** Publishes the current next hops of `node`, and returns for which tables they are new. */
  #choose(node: number): number {
    const before = this.#trie.words[node + Node.best] & ~TOUCHED;
    const local = this.#nextHopOf(node, Node.local, before >>> 16);
    const main = this.#nextHopOf(node, Node.main, before & MAIN_MASK);
    const best = (local << 16) | main;
    this.#trie.words[node + Node.best] = best;
    if (local === NEXT_HOP_OVERFLOW || main === NEXT_HOP_OVERFLOW) this.#noNextHop.add(node);
    else this.#noNextHop.delete(node);
    return tablesIn(before ^ best);
  }

  /** Next hop id of the first usable candidate in a node's list; 0: none. */
  #nextHopOf(node: number, list: number, earlier: number): number {
    const { candidates, attributes } = this.#rib;
    const best = this.#rib.firstUsable(node + list);
    if (node === ROOT && list === Node.main) {
      return attributes.defaultNextHop(this.#rib.equalDefaults(best), earlier);
    }
    if (best === 0) return 0;
    // A predecessor's flows keep their members, too.
    const before = earlier === 0 && this.#rebuild
      ? this.lookup(this.#trie.words[node + Node.prefix])
      : earlier;
    const length = this.#trie.words[node + Node.length];
    return attributes.nextHop(candidates.attributes(best), length, before);
  }

  #chooseDefault(): number {
    const best = this.#trie.words[ROOT + Node.best];
    const local = best >>> 16;
    const main = best & MAIN_MASK;
    const separate = this.#order === "separate";
    const wins = local !== 0 && !(separate && this.#isThrow(local));
    const hides = wins && separate;
    // If the default of `local` now hides `main`, or no longer does, cells that are 0 may have to change.
    if (best !== this.#rootBest && (hides || this.#localDefault)) this.#rebuild = true;
    this.#rootBest = best;
    this.#localDefault = hides;
    return wins ? local : main;
  }

  #write(): void {
    const stores = this.stores;
    if (this.#rebuild) this.#writeNode(ROOT, 0, ALL);
    else this.#writeBatch();
    const retries = this.#retrying ? take(this.#noTbl8, MOST_RETRIES) : [];
    for (const cell of retries) this.#writeCell(cell);
    if (this.stores === stores) return;
    this.#fence();
    this.#sinceCells = new Grace(this.#readers);
  }

  #writeBatch(): void {
    const words = this.#trie.words;
    let lastCell = -1;
    for (let i = 0; i < this.#nodes.length; i++) {
      const node = this.#nodes[i];
      const changed = this.#changed[i];
      if (changed === 0 || node === ROOT) continue;
      const cell = words[node + Node.prefix] >>> 8;
      const best = words[node + Node.best];
      const length = words[node + Node.length];
      // Most prefixes hide everything above: no need to walk down to them and collect it.
      const hides = this.#hides(best) === BOTH;
      if (length < 24) {
        const pair = this.#override(hides ? 0 : this.#inherited(node), best);
        this.#writeNode(node, pair, changed);
      } else if (cell !== lastCell) {
        if (length === 24 && hides) this.#writeBlock(cell, 0, node);
        else this.#writeCell(cell);
        lastCell = cell;
      }
    }
  }

  /** The pair of the prefixes above `node`, without the default. */
  #inherited(node: number): number {
    const words = this.#trie.words;
    const prefix = words[node + Node.prefix];
    let pair = 0;
    let current = this.#trie.step(ROOT, prefix);
    while (current !== node) {
      pair = this.#override(pair, words[current + Node.best]);
      current = this.#trie.step(current, prefix);
    }
    return pair;
  }

  /** Writes a prefix shorter than /24: fills the gaps, and descends where a change of `tables` is visible. */
  #writeNode(node: number, pair: number, tables: number): void {
    const words = this.#trie.words;
    const id = this.#effective(pair);
    let cell = words[node + Node.prefix] >>> 8;
    const end = cell + (TBL24_CELLS >>> words[node + Node.length]);
    for (let side = 0; side < 2; side++) {
      const child = words[node + Node.child0 + side];
      if (child === 0) continue;
      this.#fill(cell, words[child + Node.prefix] >>> 8, id);
      cell = this.#writeChild(child, pair, tables);
    }
    this.#fill(cell, end, id);
  }

  /** Writes `child` of a prefix whose routes are `pair`, and returns the cell after it. */
  #writeChild(child: number, pair: number, tables: number): number {
    const best = this.#trie.words[child + Node.best];
    const length = this.#trie.words[child + Node.length];
    const cell = this.#trie.words[child + Node.prefix] >>> 8;
    const shows = tables & ~this.#hides(best);
    if (length > 24 || (length === 24 && shows !== 0)) this.#writeBlock(cell, pair, child);
    else if (shows !== 0) this.#writeNode(child, this.#override(pair, best), shows);
    return length >= 24 ? cell + 1 : cell + (TBL24_CELLS >>> length);
  }

  /** Writes one /24, whatever it contains. */
  #writeCell(cell: number): void {
    const words = this.#trie.words;
    const address = (cell << 8) >>> 0;
    let pair = 0;
    let node = this.#trie.step(ROOT, address);
    while (node !== 0 && words[node + Node.length] < 24) {
      if (!this.#trie.covers(node, address)) node = 0;
      else {
        pair = this.#override(pair, words[node + Node.best]);
        node = this.#trie.step(node, address);
      }
    }
    const inside = node !== 0 && words[node + Node.prefix] >>> 8 === cell;
    this.#writeBlock(cell, pair, inside ? node : 0);
  }

  /** Writes one /24. Its routes are those of `node` (/24 or longer; 0: none) where that covers it, else `pair`. */
  #writeBlock(cell: number, pair: number, node: number): void {
    if (this.#hasOneRoute(node)) {
      const best = node === 0 ? 0 : this.#trie.words[node + Node.best];
      this.#fill(cell, cell + 1, this.#effective(this.#override(pair, best)));
      this.#noTbl8.delete(cell);
      return;
    }
    this.#block.fill(this.#effective(pair));
    if (node !== 0) this.#overlay(node, pair);
    if (this.#fillBlock(cell, this.#block)) this.#noTbl8.delete(cell);
    else this.#noTbl8.add(cell);
  }

  /** Whether all of a /24 has one route: the topmost prefix in it is that /24, with nothing below. */
  #hasOneRoute(topmost: number): boolean {
    const words = this.#trie.words;
    if (topmost === 0) return true;
    return words[topmost + Node.length] === 24 &&
      (words[topmost + Node.child0] | words[topmost + Node.child1]) === 0;
  }

  #overlay(node: number, inherited: number): void {
    const words = this.#trie.words;
    const pair = this.#override(inherited, words[node + Node.best]);
    const first = words[node + Node.prefix] & 0xff;
    this.#block.fill(this.#effective(pair), first, first + 2 ** (32 - words[node + Node.length]));
    const [child0, child1] = [words[node + Node.child0], words[node + Node.child1]];
    if (child0 !== 0) this.#overlay(child0, pair);
    if (child1 !== 0) this.#overlay(child1, pair);
  }

  /** The pair of a prefix with its own `best`, below a prefix whose pair is `pair`. */
  #override(pair: number, best: number): number {
    if (this.#order === "merged") return (best & ~TOUCHED) !== 0 ? best & ~TOUCHED : pair;
    const local = best & LOCAL_MASK;
    const main = best & MAIN_MASK;
    return (local !== 0 ? local : pair & LOCAL_MASK) | (main !== 0 ? main : pair & MAIN_MASK);
  }

  /** The tables whose routes above a prefix are hidden by its own `best`. */
  #hides(best: number): number {
    const own = tablesIn(best);
    return this.#order === "merged" && own !== 0 ? BOTH : own;
  }

  /** The next hop id in a cell for `pair`. */
  #effective(pair: number): number {
    const local = pair >>> 16;
    const main = pair & MAIN_MASK;
    if (local !== 0 && (this.#order === "merged" || !this.#isThrow(local))) return local;
    if (!this.#localDefault) return main;
    // `local` has a default, so `main` is used only below a `throw`. If `main` has no route there, the `throw`
    // stays: it also means no route.
    if (local === 0) return 0;
    return main || (this.#trie.words[ROOT + Node.best] & MAIN_MASK) || local;
  }

  #isThrow(id: number): boolean {
    return this.#nextHops.kind(id) === RTN_THROW;
  }

  /** Routes the /24s from number `from` to below `to` through one next hop. */
  #fill(from: number, to: number, id: number): void {
    if (id === 0 && this.#keepCovered) return;
    for (let i = from; i < to; i++) {
      const old = this.words[i];
      if (old === id) continue;
      this.words[i] = id;
      this.stores++;
      if ((old & TBL8_BIT) !== 0) this.#deferred.retire(this, old & TBL8_MASK);
    }
  }

  /** Routes the addresses of the /24 with number `cell`. False: no tbl8 is free, and all now have NEXT_HOP_OVERFLOW. */
  #fillBlock(cell: number, ids: Uint16Array): boolean {
    if (isUniform(ids)) {
      this.#fill(cell, cell + 1, ids[0]);
      return true;
    }
    const old = this.words[cell];
    if ((old & TBL8_BIT) !== 0) {
      this.#refill(old & TBL8_MASK, ids);
      return true;
    }
    const tbl8 = this.#tbl8s.allocate();
    if (tbl8 < 0) {
      this.#fill(cell, cell + 1, NEXT_HOP_OVERFLOW);
      return false;
    }
    const base = TBL24_CELLS + tbl8 * TBL8_CELLS;
    for (let i = 0; i < TBL8_CELLS; i++) {
      this.words[base + i] = ids[i] === 0 && this.#keepCovered ? old : ids[i];
    }
    Atomics.store(this.words, cell, TBL8_BIT | tbl8);
    this.stores++;
    return true;
  }

  /** For `DeferredFree`: no reader uses `tbl8` any more. */
  reclaim(tbl8: number): void {
    this.#tbl8s.reclaim(tbl8);
    this.#reclaimedTbl8s++;
  }

  #refill(tbl8: number, ids: Uint16Array): void {
    const base = TBL24_CELLS + tbl8 * TBL8_CELLS;
    for (let i = 0; i < TBL8_CELLS; i++) {
      if (this.words[base + i] === ids[i] || (ids[i] === 0 && this.#keepCovered)) continue;
      this.words[base + i] = ids[i];
      this.stores++;
    }
  }
}

/** The tables for which a pair, or the difference of two, is not zero. */
function tablesIn(pair: number): number {
  return ((pair & LOCAL_MASK) !== 0 ? CHANGED_LOCAL : 0) |
    ((pair & MAIN_MASK) !== 0 ? CHANGED_MAIN : 0);
}

/** Whether a grace period is over, polled for a short time. */
function isOver(grace: Grace): boolean {
  for (let poll = 0; poll < MOST_POLLS; poll++) if (grace.over) return true;
  return false;
}

function take(set: Set<number>, most: number): number[] {
  const taken = [...set.values().take(most)];
  for (const one of taken) set.delete(one);
  return taken;
}
