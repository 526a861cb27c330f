/**
 * A window on shared memory, in the form in which it travels between tiles: plain data that
 * structured cloning takes across, naming a SharedArrayBuffer and the part of it that is meant.
 * Regions (`region.ts`) hand out two views of the same pages, one writable and one read-only. What
 * needs no MMU takes a `heapView`: nothing is ever mapped over that.
 */

/** Where a stretch of shared memory lies. Offsets and lengths in bytes; `byteOffset` is 8-aligned. */
export interface View {
  readonly buffer: SharedArrayBuffer;
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** Ordinary shared memory of `byteLength` bytes, zeroed, writable by whoever holds it. */
export function heapView(byteLength: number): View {
  return { buffer: new SharedArrayBuffer(byteLength), byteOffset: 0, byteLength };
}

/** The part of `view` that begins `byteOffset` bytes into it. Throws RangeError past its end. */
export function slice(view: View, byteOffset: number, byteLength: number): View {
  if (byteOffset < 0 || byteLength < 0 || byteOffset + byteLength > view.byteLength) {
    throw new RangeError(
      `slice ${byteOffset}+${byteLength} leaves a view of ${view.byteLength} bytes`,
    );
  }
  return { buffer: view.buffer, byteOffset: view.byteOffset + byteOffset, byteLength };
}

/** The view as bytes. */
export function u8(view: View): Uint8Array<SharedArrayBuffer> {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** The view as 16-bit words in the machine's byte order. */
export function u16(view: View): Uint16Array<SharedArrayBuffer> {
  return new Uint16Array(view.buffer, view.byteOffset, view.byteLength >>> 1);
}

/** The view as unsigned 32-bit words in the machine's byte order. */
export function u32(view: View): Uint32Array<SharedArrayBuffer> {
  return new Uint32Array(view.buffer, view.byteOffset, view.byteLength >>> 2);
}

/** The view as signed 32-bit words in the machine's byte order. */
export function i32(view: View): Int32Array<SharedArrayBuffer> {
  return new Int32Array(view.buffer, view.byteOffset, view.byteLength >>> 2);
}

/** The view as unsigned 64-bit words in the machine's byte order. */
export function u64(view: View): BigUint64Array<SharedArrayBuffer> {
  return new BigUint64Array(view.buffer, view.byteOffset, view.byteLength >>> 3);
}

/** The view as doubles, which is how counters are kept (exact up to 2⁵³, one plain store each). */
export function f64(view: View): Float64Array<SharedArrayBuffer> {
  return new Float64Array(view.buffer, view.byteOffset, view.byteLength >>> 3);
}
