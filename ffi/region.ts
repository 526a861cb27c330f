/**
 * Memory regions: the one-writer rule, enforced by the MMU. A region is a memfd that is mapped twice:
 * read-write for its owner, and from a read-only descriptor for everyone else. Only main makes regions;
 * tiles get the views by message. `region.c` says why a reader's mapping stays read-only.
 *
 * Each mapping takes the place of the memory of a shared WebAssembly.Memory. V8 maps that memory for
 * itself, at its exact size because it cannot grow, and unmaps it when nobody has its buffer any more.
 * No allocator knows these addresses: malloc writes into what it takes back, which must never be a
 * region.
 */

import { checked, ENOMEM, SystemError } from "./errno.ts";
import type { View } from "./view.ts";

/** A region. `writer` goes to the one tile that owns it, `reader` to all others. */
export interface Region {
  /** Read-write. */
  readonly writer: View;
  /** The same bytes; a store through it ends the process with SIGSEGV. */
  readonly reader: View;
}

/** Makes regions; held by main alone. */
export interface Regions {
  /**
   * Makes a zeroed region of `byteLength` bytes, at most 2 GiB, that lives until nobody has a view of
   * it. `name` shows in `/proc/PID/maps` as `/memfd:tegula NAME`. Needs /proc. Throws SystemError.
   */
  create(name: string, byteLength: number): Region;
  /**
   * Maps the first `byteLength` bytes of what `fd` names (a BPF_F_MMAPABLE array) read-write. The
   * mapping stays when `fd` is closed. Throws SystemError.
   */
  mapShared(fd: number, byteLength: number): View;
}

/** WebAssembly's page, which is as large as the largest page of the kernels for these machines. */
const PAGE_BYTES = 65_536;

const PROT_READ = 1;
const PROT_WRITE = 2;

/** A page-aligned buffer of `pages` pages, with address space of its own. Throws RangeError. */
function reserve(pages: number): SharedArrayBuffer {
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  return memory.buffer as SharedArrayBuffer;
}

/** Opens the library at `path`. */
export function openRegions(path: string): Regions {
  const { symbols } = Deno.dlopen(path, {
    tegula_region_create: { parameters: ["buffer", "u32", "buffer"], result: "i32" },
    tegula_region_map: { parameters: ["buffer", "u32", "i32", "i32"], result: "i32" },
    // libc's, which the library is linked to.
    close: { parameters: ["i32"], result: "i32" },
  });

  /** Maps the first `bytes` of `fd` over a buffer of its own. `tried` completes "cannot …". */
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
    create(name, byteLength) {
      const tried = `make the ${byteLength} byte region ${name}`;
      const label = new TextEncoder().encode(`tegula ${name}\0`);
      // Whole buffers: none of their bytes is anything but the region's.
      const bytes = Math.ceil(byteLength / PAGE_BYTES) * PAGE_BYTES;
      const fds = new Int32Array(2);
      checked(symbols.tegula_region_create(label, bytes, fds), tried);
      try {
        const writer = map(fds[0], bytes, PROT_READ | PROT_WRITE, tried);
        const reader = map(fds[1], bytes, PROT_READ, tried);
        return {
          writer: { buffer: writer, byteOffset: 0, byteLength },
          reader: { buffer: reader, byteOffset: 0, byteLength },
        };
      } finally {
        // A descriptor that stayed open could be mapped again.
        fds.forEach((fd) => symbols.close(fd));
      }
    },
    mapShared(fd, byteLength) {
      const tried = `map ${byteLength} bytes of descriptor ${fd}`;
      const buffer = map(fd, byteLength, PROT_READ | PROT_WRITE, tried);
      return { buffer, byteOffset: 0, byteLength };
    },
  };
}
