/**
 * Where names and answers are: one piece of memory, filled when the server starts, in which what is
 * needed together lies together. As objects each would be a dozen places all over the heap, and to
 * fetch those costs more than all that is computed for a question.
 */

const LEAST_BYTES = 1 << 16;

/** Memory that grows, in words of 32 bits, of 16 and as bytes. */
export class Memory {
  words = new Int32Array(LEAST_BYTES >>> 2);
  halves = new Uint16Array(this.words.buffer);
  bytes = new Uint8Array(this.words.buffer);
  /** Word 0 is nobody's: no place is 0. */
  #end = 1;

  /** Takes `bytes` bytes and returns the word that they begin at. */
  take(bytes: number): number {
    const at = this.#end;
    this.#end += (bytes + 3) >>> 2;
    if (this.#end > this.words.length) {
      const { words } = this;
      this.words = new Int32Array(this.#end * 2);
      this.halves = new Uint16Array(this.words.buffer);
      this.bytes = new Uint8Array(this.words.buffer);
      this.words.set(words);
    }
    return at;
  }
}
