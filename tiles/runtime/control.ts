/**
 * The control region: what main tells all tiles. Written by main, read by everyone.
 *
 * @module
 */

import { u32, type View } from "../../ffi/view.ts";

/** Bytes of the control region: one page. */
export const CONTROL_BYTES = 4096;

const STOP = 0;

/** Main's side. Main wakes every tile after it changed something here. */
export class ControlWriter {
  readonly #words: Uint32Array;

  constructor(view: View) {
    this.#words = u32(view);
  }

  /** Asks every tile to finish what it has and end. */
  stop(): void {
    Atomics.store(this.#words, STOP, 1);
  }
}

/** A tile's side. */
export class ControlReader {
  readonly #words: Uint32Array;

  constructor(view: View) {
    this.#words = u32(view);
  }

  get stopping(): boolean {
    return Atomics.load(this.#words, STOP) === 1;
  }
}
