/**
 * The burst at hand, as an app goes through it: descriptors of a link (`../runtime/link.ts`) and the
 * memory that their payloads are in.
 */

import type { View } from "../../ffi/view.ts";
import { u32, u8 } from "../../ffi/view.ts";
import * as link from "../runtime/link.ts";
import type { Datagrams } from "./contract.ts";

// Constants of its own module V8 folds into the code; imported ones it loads and checks at each use.
const { Descriptor, DESCRIPTOR_WORDS, NO_DESCRIPTOR, PAYLOAD_MARGIN } = link;

/** The largest UDP payload over IPv4 (RFC 768, RFC 791): 65,535 less both headers. */
const LARGEST_PAYLOAD = 65_507;

/**
 * Fields are read from the descriptors in place. Offset and size are bounded each time they are read,
 * so that they stay inside the memory even if the net tile were to change them behind our back: no
 * payload begins in its last `PAYLOAD_MARGIN` bytes.
 */
export class Requests implements Datagrams {
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly words: Uint32Array<SharedArrayBuffer>;
  readonly #descriptors: Uint32Array;
  /** Word indices: first descriptor of the ring, its end, the one at hand, the one after that. */
  readonly #base: number;
  readonly #end: number;
  #at = NO_DESCRIPTOR;
  #following = 0;
  #left = 0;

  /** Descriptors stand round and round from word `base` of `descriptors` up to `end`. */
  constructor(
    memory: View,
    { descriptors, base, end }: { descriptors: Uint32Array; base: number; end: number },
  ) {
    this.bytes = u8(memory);
    this.words = u32(memory);
    this.#descriptors = descriptors;
    this.#base = base;
    this.#end = end;
  }

  /** Begins a burst of `count` with the descriptor at word `first`. */
  begin(first: number, count: number): void {
    this.#at = NO_DESCRIPTOR;
    this.#following = first;
    this.#left = count;
  }

  /** Ends the burst: what it was about is not the app's any more. */
  end(): void {
    this.#at = NO_DESCRIPTOR;
    this.#left = 0;
  }

  /** Whether `next` has gone to a datagram of the burst. */
  get isAtOne(): boolean {
    return this.#at !== NO_DESCRIPTOR;
  }

  /** Datagrams that `next` has not gone to yet. */
  get left(): number {
    return this.#left;
  }

  next(): boolean {
    if (this.#left === 0) return false;
    this.#left--;
    const at = this.#following;
    this.#at = at;
    this.#following = at + DESCRIPTOR_WORDS === this.#end ? this.#base : at + DESCRIPTOR_WORDS;
    return true;
  }
  get offset(): number {
    const offset = this.#descriptors[this.#at + Descriptor.offset];
    return offset <= this.bytes.length - PAYLOAD_MARGIN ? offset : 0;
  }
  get size(): number {
    const size = this.#descriptors[this.#at + Descriptor.length];
    return size <= LARGEST_PAYLOAD ? size : 0;
  }
  get sourceAddress(): number {
    return this.#descriptors[this.#at + Descriptor.source];
  }
  get sourcePort(): number {
    return this.#descriptors[this.#at + Descriptor.ports] >>> 16;
  }
  get destinationAddress(): number {
    return this.#descriptors[this.#at + Descriptor.destination];
  }
  get destinationPort(): number {
    return this.#descriptors[this.#at + Descriptor.ports] & 0xffff;
  }
  get receivedAt(): number {
    const low = this.#descriptors[this.#at + Descriptor.timeLow];
    return this.#descriptors[this.#at + Descriptor.timeHigh] * 2 ** 32 + low;
  }
  /** Which descriptor of the link it is. */
  get place(): number {
    return ((this.#at - this.#base) / DESCRIPTOR_WORDS) | 0;
  }
}
