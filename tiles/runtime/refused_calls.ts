/**
 * System calls that tiles' filters refused although nobody expected it, as the observer (`ffi/tile.c`)
 * counts them: by tile, in the order of the appliance's tiles, and by the number of the call. Each is a
 * defect, of Tegula's lists or of an app, until somebody has decided.
 */

import { OBSERVED_CALLS, SLOT_BYTES } from "../../ffi/tile.ts";
import { u32, type View } from "../../ffi/view.ts";

/** Bytes of the counters of `tiles` tiles. */
export function refusedCallsBytes(tiles: number): number {
  return tiles * SLOT_BYTES;
}

/** A call that was refused. */
export interface RefusedCall {
  /** Its number on this architecture. */
  readonly call: number;
  readonly count: number;
}

/** Reads the counters at `view`. */
export class RefusedCalls {
  readonly #words: Uint32Array;

  constructor(view: View) {
    this.#words = u32(view);
  }

  /** The calls that were refused to the tile at this index. */
  of(tile: number): RefusedCall[] {
    const refused: RefusedCall[] = [];
    for (let call = 0; call < OBSERVED_CALLS; call++) {
      const count = this.#words[tile * OBSERVED_CALLS + call];
      if (count > 0) refused.push({ call, count });
    }
    return refused;
  }
}
