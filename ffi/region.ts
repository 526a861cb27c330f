/**
 * Memory regions: the one-writer rule, enforced by the MMU. A region is a memfd mapped over the
 * page-aligned inside of two SharedArrayBuffers: read-write for its owner, then, once it is sealed
 * against any further writable mapping, read-only for everyone else. Only main makes regions; tiles
 * get the views by message. How the mapping is done, and why it holds, is told in `region.c`.
 */

import { checked } from "./errno.ts";
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
   * Makes a zeroed region of `byteLength` bytes, at most 2 GiB, that lives as long as the process.
   * `name` shows in `/proc/PID/maps` as `/memfd:tegula NAME`. Throws SystemError.
   */
  create(name: string, byteLength: number): Region;
  /**
   * Maps the first `byteLength` bytes of what `fd` names (a BPF_F_MMAPABLE array) read-write. The
   * mapping stays when `fd` is closed. Throws SystemError.
   */
  mapShared(fd: number, byteLength: number): View;
}

/**
 * Buffers with something mapped over their inside. Were one collected, the allocator would take the
 * mapping for its own memory, so they stay for ever.
 */
const mapped: SharedArrayBuffer[] = [];

/** The largest page that a kernel for these machines has; most have pages of 4 KiB. */
const LARGEST_PAGE_BYTES = 65_536;
/** PROT_READ | PROT_WRITE. */
const READ_AND_WRITE = 3;

/** Room for `byteLength` bytes of whole pages, wherever in a page the buffer begins. */
function room(byteLength: number): Uint8Array<SharedArrayBuffer> {
  const pages = Math.ceil(byteLength / LARGEST_PAGE_BYTES) + 1;
  const bytes = new Uint8Array(new SharedArrayBuffer(pages * LARGEST_PAGE_BYTES));
  mapped.push(bytes.buffer);
  return bytes;
}

/** Opens the library at `path`. */
export function openRegions(path: string): Regions {
  const { symbols } = Deno.dlopen(path, {
    tegula_region_create: {
      parameters: ["buffer", "u32", "buffer", "buffer", "buffer"],
      result: "i32",
    },
    tegula_region_map: {
      parameters: ["buffer", "u32", "i32", "i32", "buffer"],
      result: "i32",
    },
  });
  const offsets = new Uint32Array(2);

  return {
    create(name, byteLength) {
      const label = new TextEncoder().encode(`tegula ${name}\0`);
      const writer = room(byteLength);
      const reader = room(byteLength);
      checked(
        symbols.tegula_region_create(label, byteLength, writer, reader, offsets),
        `make the ${byteLength} byte region ${name}`,
      );
      return {
        writer: { buffer: writer.buffer, byteOffset: offsets[0], byteLength },
        reader: { buffer: reader.buffer, byteOffset: offsets[1], byteLength },
      };
    },
    mapShared(fd, byteLength) {
      const bytes = room(byteLength);
      checked(
        symbols.tegula_region_map(bytes, byteLength, READ_AND_WRITE, fd, offsets),
        `map ${byteLength} bytes of descriptor ${fd}`,
      );
      return { buffer: bytes.buffer, byteOffset: offsets[0], byteLength };
    },
  };
}
