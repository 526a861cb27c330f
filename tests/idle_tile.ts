// SPDX-License-Identifier: Apache-2.0
import type { TileLibrary } from "../ffi/tile.ts";

/** What a tile asks of its thread, where it has none of its own: nothing happens. */
export const IDLE_TILE: TileLibrary = {
  wake() {},
  wait: () => 0,
  thread: () => 0,
  nameThread() {},
  bePrompt: () => 0,
  trim() {},
  duplicate: (fd) => fd,
  readable: () => false,
  callName: () => "",
  confine: () => ({ landlock: false, observed: false }),
};
