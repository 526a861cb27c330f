// SPDX-License-Identifier: Apache-2.0
/** Regions that one process both writes and reads, as in production several do. */

import { type Region, type Regions, slice } from "../ffi/region.ts";

/** Bytes of the buffers that regions are mapped over: no byte of them is anything else's. */
const BUFFER_BYTES = 65_536;

/** Makes a region and maps it twice: for its writer, and for readers. No descriptor of it stays open. */
export function createRegion(regions: Regions, name: string, byteLength: number): Region {
  const { writable, readOnly } = regions.createShared(name, byteLength);
  const bytes = Math.ceil(byteLength / BUFFER_BYTES) * BUFFER_BYTES;
  try {
    const writer = regions.mapShared(writable, bytes);
    const reader = regions.mapShared(readOnly, bytes, { readOnly: true });
    return { writer: slice(writer, 0, byteLength), reader: slice(reader, 0, byteLength) };
  } finally {
    regions.close(writable);
    regions.close(readOnly);
  }
}
