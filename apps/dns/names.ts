// SPDX-License-Identifier: Apache-2.0
/**
 * The names of all zones with their answers, and the lookup of a question: from the root down to the last
 * name that exists, label by label. All is made before the first question. A name that a stranger makes up
 * costs a step for each label that it shares with a zone, and leaves nothing behind.
 */

import types from "dns-packet/types.js";
import { keepReply, LOWER, Memory, type Question } from "./answer.ts";
import { parentOf, type Replies, type Reply, strangerBelow, type Zone } from "./zone.ts";

const DS = types.toType("DS");
const LEAST_SLOTS = 64;
/** Slots that a name may be in, from its hash on. If none of them is free the table grows. */
const MOST_PROBES = 32;

/** Words of a name: the one above it, its hash, and lists of answers. Then comes its first label. */
const Word = {
  parent: 0,
  hash: 1,
  /** Lists of answers for this name, and for names below it that do not exist. */
  own: 2,
  below: 3,
  /** In lower case, with its length in front. */
  label: 4,
} as const;

/** Words of a list of answers: how many types, the answer for all others; then type, answer, and so on. */
const List = { count: 0, others: 1, types: 2 } as const;

/**
 * The names, in an open-addressed table. Strangers choose what is looked up, so the hash is keyed: they
 * cannot choose names with long probe sequences.
 */
export class Names {
  readonly #memory: Memory;
  readonly #root: number;
  /** The list for names that are in no zone. */
  readonly #strangers: number;
  /** Hash and index of each name, in turn. Index 0: the slot is free. */
  #slots = new Int32Array(LEAST_SLOTS * 2);
  #count = 0;
  readonly #labels = new TextEncoder();

  readonly #start: number;
  readonly #multiplier: number;

  /**
   * Stores all in `memory`. `unknown` answers questions outside all `zones`. `key`: two random words.
   */
  constructor(
    memory: Memory,
    zones: readonly Zone[],
    unknown: number,
    key = crypto.getRandomValues(new Uint32Array(2)),
  ) {
    this.#memory = memory;
    this.#start = key[0] | 0;
    this.#multiplier = key[1] | 1;
    this.#strangers = memory.take(List.types * 4);
    memory.words.set([0, unknown], this.#strangers);
    this.#root = this.#keep(0, new Uint8Array(1));
    memory.words.set([this.#strangers, this.#strangers], this.#root + Word.own);
    // A zone comes after the one above it, and hides that one's records.
    const sorted = zones.toSorted((a, b) => a.origin.length - b.origin.length);
    for (const [i, zone] of sorted.entries()) {
      if (sorted.findIndex(({ origin }) => origin === zone.origin) < i) {
        throw new Error(`zone ${zone.origin || "."} comes twice`);
      }
      this.#add(zone);
    }
  }

  /** Returns the index of the answer to `question`, in halves of the memory. */
  find(
    { bytes, offset, labels, labelCount, type }: Pick<
      Question,
      "bytes" | "offset" | "labels" | "labelCount" | "type"
    >,
  ): number {
    const { words } = this.#memory;
    let name = this.#root;
    let list = words[name + Word.own];
    for (let i = labelCount - 1; i >= 0; i--) {
      const slot = this.#slot(name, bytes, offset + labels[i]);
      const next = slot < 0 ? 0 : this.#slots[slot + 1];
      if (next === 0) {
        list = words[name + Word.below];
        break;
      }
      name = next;
      list = words[name + Word.own];
    }
    return this.#answer(list, type);
  }

  /** The answer of a list to questions of a type. */
  #answer(list: number, type: number): number {
    const { words } = this.#memory;
    const first = list + List.types;
    for (let at = first, end = first + words[list + List.count] * 2; at < end; at += 2) {
      if (words[at] === type) return words[at + 1];
    }
    return words[list + List.others];
  }

  /**
   * Returns the slot of the name below `parent` with the label at `at` of `bytes`, or a free slot for it, or
   * -1 if all its slots are taken.
   */
  #slot(parent: number, bytes: Uint8Array, at: number): number {
    const slots = this.#slots;
    const { words } = this.#memory;
    const hash = this.#hashOf(words[parent + Word.hash], bytes, at);
    let slot = this.#first(hash);
    for (let i = 0; i < MOST_PROBES; i++, slot = (slot + 2) & (slots.length - 1)) {
      const name = slots[slot + 1];
      if (name === 0) return slot;
      if (
        slots[slot] === hash && words[name + Word.parent] === parent &&
        this.#isLabel(name, bytes, at)
      ) return slot;
    }
    return -1;
  }

  /** The first slot for `hash`. */
  #first(hash: number): number {
    return (hash << 1) & (this.#slots.length - 1);
  }

  /** Whether the label at `at` of `bytes` is that of `name`. */
  #isLabel(name: number, bytes: Uint8Array, at: number): boolean {
    const own = this.#memory.bytes;
    const from = (name + Word.label) << 2;
    for (let i = own[from]; i >= 0; i--) {
      if (own[from + i] !== LOWER[bytes[at + i]]) return false;
    }
    return true;
  }

  #add(zone: Zone): void {
    const memory = this.#memory;
    const { origin, missing, empty } = zone;
    const stranger = strangerBelow(origin);
    const prepared = new Map(
      [missing, empty].map((reply) => [reply, keepReply(memory, reply, stranger)] as const),
    );
    const nothing = this.#list({ byType: new Map(), others: missing }, prepared, stranger);
    const listOf = (asked: string, more: readonly number[] = []) => {
      const replies = zone.about(asked);
      return replies.others === missing ? nothing : this.#list(replies, prepared, asked, more);
    };
    // RFC 4035 §3.1.4.1: the parent zone answers for DS records, if it is served here.
    const above = memory.words[this.#name(origin) + Word.own];
    const signer = above === this.#strangers ? [] : [DS, this.#answer(above, DS)];
    this.#name(origin, { isNew: true });
    for (const each of zone.names()) {
      const name = this.#name(each);
      const own = listOf(each, each === origin ? signer : []);
      const below = listOf(strangerBelow(each));
      memory.words.set([own, below], name + Word.own);
    }
  }

  /** A list of answers about `asked`, after `more` types. Those that are not `prepared` come right after it. */
  #list(
    { byType, others }: Replies,
    prepared: ReadonlyMap<Reply, number>,
    asked: string,
    more: readonly number[] = [],
  ): number {
    const memory = this.#memory;
    const list = memory.take((List.types + more.length + byType.size * 2) * 4);
    const made = new Map(prepared);
    const answer = (reply: Reply) => {
      const there = made.get(reply) ?? keepReply(memory, reply, asked);
      made.set(reply, there);
      return there;
    };
    const answers = [...byType].flatMap(([type, reply]) => [types.toType(type), answer(reply)]);
    const count = byType.size + more.length / 2;
    // Making an answer may move the memory, so write to it only afterwards.
    const words = [count, answer(others), ...more, ...answers];
    memory.words.set(words, list);
    return list;
  }

  /** The name `name`, in lower case, made if it is not there. `isNew`: without what is below it now. */
  #name(name: string, { isNew = false } = {}): number {
    if (name === "") return this.#root;
    const parent = this.#name(parentOf(name));
    const label = this.#labels.encode(`\0${name.split(".", 1)}`);
    label[0] = label.length - 1;
    let slot = this.#slot(parent, label, 0);
    for (; slot < 0; slot = this.#slot(parent, label, 0)) this.#grow();
    const there = this.#slots[slot + 1];
    if (there !== 0 && !isNew) return there;
    const made = this.#keep(parent, label);
    this.#slots.set([this.#memory.words[made + Word.hash], made], slot);
    if (there === 0 && ++this.#count * 4 > this.#slots.length) this.#grow();
    return made;
  }

  /** A new name. Until it is told better it says what was said about it when it was not there. */
  #keep(parent: number, label: Uint8Array): number {
    const memory = this.#memory;
    const name = memory.take(Word.label * 4 + label.length);
    const hash = this.#hashOf(memory.words[parent + Word.hash], label, 0);
    const below = memory.words[parent + Word.below];
    memory.words.set([parent, hash, below, below], name);
    memory.bytes.set(label, (name + Word.label) * 4);
    return name;
  }

  /** Doubles the table until every name finds a slot. */
  #grow(): void {
    const old = this.#slots;
    for (let length = old.length * 2;; length *= 2) {
      this.#slots = new Int32Array(length);
      if (this.#takeAll(old)) return;
    }
  }

  /** Inserts the names of another table. Returns false if one finds no slot. */
  #takeAll(old: Int32Array): boolean {
    const slots = this.#slots;
    for (let at = 0; at < old.length; at += 2) {
      if (old[at + 1] === 0) continue;
      let slot = this.#first(old[at]);
      let probes = 1;
      for (; slots[slot + 1] !== 0; probes++) slot = (slot + 2) & (slots.length - 1);
      if (probes > MOST_PROBES) return false;
      slots.set([old[at], old[at + 1]], slot);
    }
    return true;
  }

  /** Hash of the label at `at` of `bytes`, whatever the case of its letters, below a name with `hash`. */
  #hashOf(hash: number, bytes: Uint8Array, at: number): number {
    const multiplier = this.#multiplier;
    hash = (hash + this.#start) | 0;
    for (const last = at + bytes[at]; at <= last; at++) {
      hash = Math.imul(hash ^ LOWER[bytes[at]], multiplier);
    }
    return hash ^ (hash >>> 15);
  }
}
