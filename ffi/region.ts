// SPDX-License-Identifier: Apache-2.0
/**
 * Shared memory of tiles: views and regions.
 *
 * With regions the MMU enforces the one-writer rule. A region is a memfd that its owner maps
 * read-write, and all others map from a read-only descriptor. Only the master makes regions; tiles
 * get the views by message. `region.c` explains why a reader's mapping stays read-only.
 *
 * Each mapping replaces the memory of a shared WebAssembly.Memory. V8 reserves that memory with
 * mmap, at its exact size because it cannot grow, and unmaps it when its buffer is no longer
 * referenced. Memory of malloc must not be used: malloc writes into memory that is freed, which
 * must never be a region.
 */

import { checked, ENOMEM, int, libraryPath, SystemError } from "./library.ts";

/**
 * A range of shared memory, as plain data for structured cloning. Offset and length are in bytes;
 * `byteOffset` is 8-aligned.
 */
export interface View {
  readonly buffer: SharedArrayBuffer;
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** Zeroed ordinary shared memory of `byteLength` bytes, writable by all holders. */
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

/** The view as doubles, for counters (exact up to 2⁵³, one plain store each). */
export function f64(view: View): Float64Array<SharedArrayBuffer> {
  return new Float64Array(view.buffer, view.byteOffset, view.byteLength >>> 3);
}

/** A region. `writer` goes to the one tile that owns it, `reader` to all others. */
export interface Region {
  /** Read-write. */
  readonly writer: View;
  /** The same bytes; a store through it ends the process with SIGSEGV. */
  readonly reader: View;
}

/** Makes regions; only the master has it. */
export type Regions = ReturnType<typeof openRegions>;

/** The descriptors of a region; both close on exec. */
export interface SharedRegion {
  readonly writable: number;
  readonly readOnly: number;
}

/** The page of WebAssembly, at least as large as the kernel's pages on all supported machines. */
const PAGE_BYTES = 65_536;

/** The longest name that memfd_create(2) takes. The rest of a region's name is cut off. */
const LABEL_BYTES = 249;

const PROT_READ = 1;
const PROT_WRITE = 2;

/** A page-aligned buffer of `pages` pages, with address space of its own. Throws RangeError. */
function reserve(pages: number): SharedArrayBuffer {
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  // The browser's types, with which the status page is checked, lack shared memory here.
  return memory.buffer as ArrayBufferLike as SharedArrayBuffer;
}

export function openRegions(path = libraryPath()) {
  const { symbols } = Deno.dlopen(path, {
    tegula_region_create: int("buffer", "u32", "buffer"),
    tegula_region_map: int("buffer", "u32", "i32", "i32"),
    // Functions of libc, to which the library is linked.
    close: int("i32"),
  });

  /** Maps the first `bytes` of `fd` over a new buffer. `tried` completes "cannot …". */
  function map(fd: number, bytes: number, protection: number, tried: string): SharedArrayBuffer {
    let buffer;
    try {
      buffer = reserve(Math.ceil(bytes / PAGE_BYTES));
    } catch {
      throw new SystemError(tried, ENOMEM);
    }
    checked(symbols.tegula_region_map(new Uint8Array(buffer), bytes, protection, fd), tried);
    return buffer;
  }

  return {
    /**
     * Makes a zeroed region of `byteLength` bytes, at most 2 GiB, for processes to map with
     * `mapShared`. Processes with the writable descriptor can write. The caller closes both
     * descriptors (`close`). The region exists as long as a descriptor or view of it.
     * `/proc/PID/maps` shows it as `/memfd:tegula NAME`. Needs /proc. Throws SystemError.
     */
    createShared(name: string, byteLength: number): SharedRegion {
      const label = new Uint8Array(LABEL_BYTES + 1);
      new TextEncoder().encodeInto(`tegula ${name}`, label.subarray(0, LABEL_BYTES));
      const bytes = Math.ceil(byteLength / PAGE_BYTES) * PAGE_BYTES;
      const fds = new Int32Array(2);
      const tried = `make the ${byteLength} byte region ${name}`;
      checked(symbols.tegula_region_create(label, bytes, fds), tried);
      return { writable: fds[0], readOnly: fds[1] };
    },
    /**
     * Maps the first `byteLength` bytes of `fd` (a region, a BPF_F_MMAPABLE array), read-write
     * unless `readOnly`. The mapping stays when `fd` is closed. Throws SystemError; EACCES for a
     * writable mapping of a read-only descriptor.
     */
    mapShared(
      fd: number,
      byteLength: number,
      { readOnly = false }: { readonly readOnly?: boolean } = {},
    ): View {
      const tried = `map ${byteLength} bytes of descriptor ${fd}`;
      const protection = readOnly ? PROT_READ : PROT_READ | PROT_WRITE;
      return { buffer: map(fd, byteLength, protection, tried), byteOffset: 0, byteLength };
    },
    close: symbols.close,
  };
}
