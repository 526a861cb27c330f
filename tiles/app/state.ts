/**
 * The state of an app's own: a region that lives longer than the app's process. A word with the
 * version, then the app's bytes.
 *
 *     word 0       version: 0 until the app has set one
 *     byte 4096 …  the bytes
 */

import { slice, u32, u8, type View } from "../../ffi/view.ts";
import type { State } from "./contract.ts";

const BYTES_AT = 4096;

/** Bytes of the region for an app's `bytes`. Pages that the app never wrote cost nothing. */
export function stateRegionBytes(bytes: number): number {
  return BYTES_AT + bytes;
}

/** The app's side. A predecessor may still write the region: nothing of it is shown until `open`. */
export class AppState implements State {
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array<SharedArrayBuffer>;
  #isOpen = false;

  constructor(view: View) {
    this.#words = u32(view);
    this.#bytes = u8(slice(view, BYTES_AT, view.byteLength - BYTES_AT));
  }

  /** From now on it is this app's. */
  open(): void {
    this.#isOpen = true;
  }

  get view(): Uint8Array<SharedArrayBuffer> {
    this.#expectOpen();
    return this.#bytes;
  }

  get version(): number {
    this.#expectOpen();
    return this.#words[0];
  }

  setVersion(version: number): void {
    this.#expectOpen();
    if (!Number.isInteger(version) || version < 0 || version > 0xffff_ffff) {
      throw new RangeError(`the version of its state is to be a whole number of 32 bits`);
    }
    Atomics.store(this.#words, 0, version);
  }

  #expectOpen(): void {
    if (this.#isOpen) return;
    throw new Error("its state may still be its predecessor's: it is to be used from begin() on");
  }
}
