/**
 * Next hops as readers see them: what a FIB cell names. A record says all that a packet needs of its
 * route; a group's record says where its slots stand, from which a flow takes its member.
 */

import { slice, u16, u32, type View } from "../ffi/view.ts";
import * as layout from "./layout.ts";

// Constants of its own module V8 folds into the code; imported ones it loads and checks at each use.
const { NEXT_HOP_WORDS, NEXT_HOPS, NEXT_HOPS_AT, NextHop, PATH_UNIT, PATH_UNITS, PATHS_AT } =
  layout;

/**
 * Records by the id that `FibReader.lookup` gives; an id is good until the reader's next quiescent
 * state. Records do not change, and everything is found through the id, so plain loads are enough
 * (`rcu.ts`).
 */
export class NextHopReader {
  readonly #words: Uint32Array;
  readonly #paths: Uint16Array;

  constructor(view: View) {
    this.#words = nextHopWords(view);
    this.#paths = pathWords(view);
  }

  /** RTN_* or KIND_* */
  kind(id: number): number {
    return this.#words[id * NEXT_HOP_WORDS + NextHop.kind] & 0xff;
  }

  /** RT_SCOPE_* of the route */
  scope(id: number): number {
    return (this.#words[id * NEXT_HOP_WORDS + NextHop.kind] >>> 8) & 0xff;
  }

  /** `NextHopFlag` */
  flags(id: number): number {
    return this.#words[id * NEXT_HOP_WORDS + NextHop.kind] >>> 16;
  }

  /** Host order; 0: on-link */
  gateway(id: number): number {
    return this.#words[id * NEXT_HOP_WORDS + NextHop.gateway];
  }

  ifindex(id: number): number {
    return this.#words[id * NEXT_HOP_WORDS + NextHop.ifindex];
  }

  /** The route's preferred source, host order; 0: choose one */
  source(id: number): number {
    return this.#words[id * NEXT_HOP_WORDS + NextHop.source];
  }

  /** The route's MTU; 0: the interface's */
  mtu(id: number): number {
    return this.#words[id * NEXT_HOP_WORDS + NextHop.mtu];
  }

  /** Groups: the member (a next hop id) that a flow takes. `flowHash`: 32 well-mixed bits. */
  member(id: number, flowHash: number): number {
    const log2 = this.#words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16;
    // Two shifts: a shift by 32 is one by 0 in JavaScript, and log2 may be 0.
    return this.#paths[this.#pathsAt(id) + ((flowHash >>> 1) >>> (31 - log2))];
  }

  /** Groups: how many members there are. */
  memberCount(id: number): number {
    return this.#words[id * NEXT_HOP_WORDS + NextHop.shape] & 0xffff;
  }

  /** Groups: next hop id of the `i`-th member, in the kernel's order. */
  memberId(id: number, i: number): number {
    return this.#paths[this.#memberAt(id, i)];
  }

  /** Groups: weight of the `i`-th member, 1 or more. */
  memberWeight(id: number, i: number): number {
    return this.#paths[this.#memberAt(id, i) + 1] + 1;
  }

  #pathsAt(id: number): number {
    return this.#words[id * NEXT_HOP_WORDS + NextHop.paths] * PATH_UNIT;
  }

  /** Members follow the slots, two words each. */
  #memberAt(id: number, i: number): number {
    const log2 = this.#words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16;
    return this.#pathsAt(id) + (1 << log2) + i * 2;
  }
}

/** All next hop records. */
export function nextHopWords(view: View): Uint32Array {
  return u32(slice(view, NEXT_HOPS_AT, NEXT_HOPS * NEXT_HOP_WORDS * 4));
}

/** All groups' slots and members. */
export function pathWords(view: View): Uint16Array {
  return u16(slice(view, PATHS_AT, PATH_UNITS * PATH_UNIT * 2));
}
