/**
 * The RIB's prefixes: a path-compressed binary trie in one typed array, so that a million of them cost
 * 32 bytes each, no garbage, and mostly one cache line per step down. A node is a prefix that has
 * routes, or one where two such part. Only in the writer's heap.
 */

/** The node of 0.0.0.0/0, always there. Node 0 means "none". */
export const ROOT = 1;

/** Words of a node; a node's words begin at `node * NODE_WORDS`. */
export const NODE_WORDS = 8;
export const Node = {
  /** host order, bits beyond the length zero */
  prefix: 0,
  /** 0 to 32 */
  length: 1,
  parent: 2,
  /** the child whose next bit is 0, and the one whose next bit is 1 */
  child0: 3,
  child1: 4,
  /** first candidate in table `local`, in table `main`; 0: none */
  local: 5,
  main: 6,
  /** what is painted for it: next hop id of local << 16 | of main, 0: none; and {@linkcode TOUCHED} */
  best: 7,
} as const;
/** In a node's `best`, whose ids have 15 bits: it has been touched since the last commit. */
export const TOUCHED = 0x8000;

/** Length of a node that is not in use. */
const FREED = 0xff;
/** Nodes to begin with. */
const FIRST_CAPACITY = 1 << 10;

/** The prefix of `length` bits that `address` falls under. */
export function maskAddress(address: number, length: number): number {
  return length === 0 ? 0 : (address & (-1 << (32 - length))) >>> 0;
}

/** A set of prefixes with some words for each. */
export class Trie {
  /** All nodes. Replaced when it grows: take it anew after an `insert`. */
  words = new Uint32Array(FIRST_CAPACITY * NODE_WORDS);
  #next = ROOT + 1;
  /** Freed nodes, chained by their parent word. */
  #free = 0;

  /** The node of a prefix, made when it is not there. `prefix` has no bits beyond `length`. */
  insert(prefix: number, length: number): number {
    let node = ROOT;
    while (this.words[node * NODE_WORDS + Node.length] !== length) {
      const words = this.words;
      const link = node * NODE_WORDS + Node.child0 + bitAt(prefix, words[node * NODE_WORDS + 1]);
      const child = words[link];
      if (child === 0) return this.#attach(node, prefix, length);
      const childLength = words[child * NODE_WORDS + Node.length];
      const differ = Math.clz32(prefix ^ words[child * NODE_WORDS + Node.prefix]);
      const common = Math.min(differ, length, childLength);
      if (common === childLength) node = child;
      else return this.#split(node, child, common, prefix, length);
    }
    return node;
  }

  /** The node of a prefix, or 0. */
  find(prefix: number, length: number): number {
    const words = this.words;
    let node = ROOT;
    while (node !== 0 && words[node * NODE_WORDS + Node.length] < length) {
      node = this.step(node, prefix);
    }
    if (node === 0 || words[node * NODE_WORDS + Node.length] !== length) return 0;
    return words[node * NODE_WORDS + Node.prefix] === prefix >>> 0 ? node : 0;
  }

  /** The child of `node` on the way to `address`, which need not fall under it; 0: none. */
  step(node: number, address: number): number {
    const at = node * NODE_WORDS;
    const length = this.words[at + Node.length];
    return length === 32 ? 0 : this.words[at + Node.child0 + bitAt(address, length)];
  }

  /** Whether `address` falls under `node`. */
  covers(node: number, address: number): boolean {
    const at = node * NODE_WORDS;
    return maskAddress(address, this.words[at + Node.length]) === this.words[at + Node.prefix];
  }

  /** Takes out `node`, and its parent likewise, when it has no candidates, is not painted
   * and parts nothing. Harmless on one that is out already. */
  prune(node: number): void {
    let current = node;
    while (current !== ROOT && current !== 0) {
      const at = current * NODE_WORDS;
      if (this.words[at + Node.length] === FREED) return;
      const [child0, child1] = [this.words[at + Node.child0], this.words[at + Node.child1]];
      if (this.words[at + Node.local] !== 0 || this.words[at + Node.main] !== 0) return;
      // Painted, or touched and soon to be.
      if (this.words[at + Node.best] !== 0) return;
      if (child0 !== 0 && child1 !== 0) return;
      const child = child0 !== 0 ? child0 : child1;
      const parent = this.words[at + Node.parent];
      this.#replaceChild(parent, current, child);
      this.#release(current);
      current = child === 0 ? parent : 0;
    }
  }

  /** The node after `node` in the order of prefixes, shorter ones first; 0 after the last. */
  next(node: number): number {
    const words = this.words;
    const at = node * NODE_WORDS;
    if (words[at + Node.child0] !== 0) return words[at + Node.child0];
    if (words[at + Node.child1] !== 0) return words[at + Node.child1];
    return this.#nextBeside(node);
  }

  /** The first node, in the order of `next`, that is not before a prefix; 0: none. */
  seek(prefix: number, length: number): number {
    let node = ROOT;
    while (this.words[node * NODE_WORDS + Node.length] < length) {
      const child = this.step(node, prefix);
      const side = bitAt(prefix, this.words[node * NODE_WORDS + Node.length]);
      if (child === 0) {
        const other = side === 0 ? this.words[node * NODE_WORDS + Node.child1] : 0;
        return other !== 0 ? other : this.#nextBeside(node);
      }
      const at = child * NODE_WORDS;
      if (this.words[at + Node.length] > length || !this.covers(child, prefix)) {
        // The child lies aside: it comes before the prefix with all that is below it, or none does.
        return this.words[at + Node.prefix] < prefix ? this.#nextBeside(child) : child;
      }
      node = child;
    }
    return node;
  }

  /** The first node after `node` that is not below it; 0: none. */
  #nextBeside(node: number): number {
    const words = this.words;
    let current = node;
    while (current !== ROOT) {
      const parent = words[current * NODE_WORDS + Node.parent] * NODE_WORDS;
      const sibling = words[parent + Node.child1];
      if (sibling !== 0 && sibling !== current) return sibling;
      current = parent / NODE_WORDS;
    }
    return 0;
  }

  #attach(parent: number, prefix: number, length: number): number {
    const node = this.#allocate(prefix, length);
    this.#link(parent, node);
    return node;
  }

  /** Puts a node where `child` parts from the prefix, and the prefix's own below it or in it. */
  #split(parent: number, child: number, common: number, prefix: number, length: number): number {
    const between = this.#allocate(maskAddress(prefix, common), common);
    this.#link(parent, between);
    this.#link(between, child);
    return common === length ? between : this.#attach(between, prefix, length);
  }

  /** Makes `node` a child of `parent`, on the side that its prefix says. */
  #link(parent: number, node: number): void {
    const at = parent * NODE_WORDS;
    const side = bitAt(this.words[node * NODE_WORDS + Node.prefix], this.words[at + Node.length]);
    this.words[at + Node.child0 + side] = node;
    this.words[node * NODE_WORDS + Node.parent] = parent;
  }

  #replaceChild(parent: number, node: number, child: number): void {
    const at = parent * NODE_WORDS;
    const side = this.words[at + Node.child0] === node ? 0 : 1;
    this.words[at + Node.child0 + side] = child;
    if (child !== 0) this.words[child * NODE_WORDS + Node.parent] = parent;
  }

  #allocate(prefix: number, length: number): number {
    let node = this.#free;
    if (node !== 0) {
      this.#free = this.words[node * NODE_WORDS + Node.parent];
      this.words.fill(0, node * NODE_WORDS, (node + 1) * NODE_WORDS);
    } else {
      node = this.#next++;
      if (node * NODE_WORDS >= this.words.length) this.#grow();
    }
    const at = node * NODE_WORDS;
    this.words[at + Node.prefix] = prefix;
    this.words[at + Node.length] = length;
    return node;
  }

  #release(node: number): void {
    const at = node * NODE_WORDS;
    this.words[at + Node.parent] = this.#free;
    this.words[at + Node.length] = FREED;
    this.#free = node;
  }

  #grow(): void {
    const words = new Uint32Array(this.words.length * 2);
    words.set(this.words);
    this.words = words;
  }
}

/** Bit number `i` of an address, counted from the left. */
function bitAt(address: number, i: number): number {
  return (address >>> (31 - i)) & 1;
}
