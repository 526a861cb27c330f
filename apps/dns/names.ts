// SPDX-License-Identifier: Apache-2.0
/**
 * The names of all zones with their answers, and the lookup of a question: from the root down to
 * the last existing name, label by label. All names are made before the first question. An invented
 * name costs a step for each label that it shares with a zone, and stores nothing.
 */

import types from "dns-packet/types.js";
import { keepReply, LOWER, Memory, type Question } from "./answer.ts";
import { parentOf, type Replies, type Reply, strangerBelow, type Zone } from "./zone.ts";

const DS = types.toType("DS");
/** Slots of a name, from its hash on. The table is large enough for each name to find a free one. */
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

/** Words of a list of answers: the number of types, the answer for all others; then type, answer, and so on. */
const List = { count: 0, others: 1, types: 2 } as const;

/**
 * The names, in an open-addressed table. Strangers choose the names that are looked up, so the hash
 * is keyed: they cannot choose names with long probe sequences.
 */
export class Names {
  readonly #memory: Memory;
  readonly #root: number;
  /** The list for names that are in no zone. */
  readonly #strangers: number;
  /** Hash and index of each name, in turn. Index 0: the slot is free. */
  readonly #slots: Int32Array;
  /** The names during construction, by the index of the name above and the label. */
  readonly #made = new Map<string, number>();
  readonly #start: number;
  readonly #multiplier: number;

  /**
   * Stores all names in `memory`. `unknown` answers questions outside all `zones`. `key`: two random words.
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
    // A zone comes after its parent zone, and hides the parent's records.
    const sorted = zones.toSorted((a, b) => a.origin.length - b.origin.length);
    for (const [i, zone] of sorted.entries()) {
      if (sorted.findIndex(({ origin }) => origin === zone.origin) < i) {
        throw new Error(`zone ${zone.origin || "."} comes twice`);
      }
      this.#add(zone);
    }
    this.#slots = this.#makeTable([...this.#made.values()]);
    this.#made.clear();
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
      const next = this.#nameBelow(name, bytes, offset + labels[i]);
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

  /** Returns the name below `parent` with the label at `at` of `bytes`, or 0 if there is none. */
  #nameBelow(parent: number, bytes: Uint8Array, at: number): number {
    const slots = this.#slots;
    const { words } = this.#memory;
    const hash = this.#hashOf(words[parent + Word.hash], bytes, at);
    let slot = (hash << 1) & (slots.length - 1);
    for (let i = 0; i < MOST_PROBES; i++, slot = (slot + 2) & (slots.length - 1)) {
      const name = slots[slot + 1];
      if (name === 0) return 0;
      if (
        slots[slot] === hash && words[name + Word.parent] === parent &&
        this.#isLabel(name, bytes, at)
      ) return name;
    }
    return 0;
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
    // Making an answer may reallocate the memory, so write to it only afterwards.
    const words = [count, answer(others), ...more, ...answers];
    memory.words.set(words, list);
    return list;
  }

  /** The name `name`, in lower case, created if missing. `isNew`: without the current names below it. */
  #name(name: string, { isNew = false } = {}): number {
    if (name === "") return this.#root;
    const parent = this.#name(parentOf(name));
    const [label] = name.split(".", 1);
    const key = `${parent} ${label}`;
    const there = this.#made.get(key);
    if (there !== undefined && !isNew) return there;
    const made = this.#keep(parent, new TextEncoder().encode(`\0${label}`));
    this.#made.set(key, made);
    return made;
  }

  /** A new name with the label in `label` from its second byte on. Its answers are those of a name that does not exist. */
  #keep(parent: number, label: Uint8Array): number {
    const memory = this.#memory;
    label[0] = label.length - 1;
    const name = memory.take(Word.label * 4 + label.length);
    const hash = this.#hashOf(memory.words[parent + Word.hash], label, 0);
    const below = memory.words[parent + Word.below];
    memory.words.set([parent, hash, below, below], name);
    memory.bytes.set(label, (name + Word.label) * 4);
    return name;
  }

  /** The table of `names`: at most half of its slots are used, less if a name would find no free one. */
  #makeTable(names: readonly number[]): Int32Array {
    const { words } = this.#memory;
    for (let length = 2 ** Math.ceil(Math.log2(Math.max(2, names.length * 4)));; length *= 2) {
      const slots = new Int32Array(length);
      const hasAll = names.every((name) => {
        const hash = words[name + Word.hash];
        let slot = (hash << 1) & (length - 1);
        let probes = 1;
        for (; slots[slot + 1] !== 0; probes++) slot = (slot + 2) & (length - 1);
        slots.set([hash, name], slot);
        return probes <= MOST_PROBES;
      });
      if (hasAll) return slots;
    }
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
