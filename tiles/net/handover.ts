// SPDX-License-Identifier: Apache-2.0
/**
 * How a net tile hands its frames over to its successor on the same UMEM, rings and links.
 *
 * Each frame is free, in a ring of a socket (or in the driver behind it), or with an app. Regions of
 * the links record the frames that are with apps (`app_link.ts`). A tile that leaves records which
 * frames the kernel does not have. A tile that was killed has recorded nothing. Then all frames that
 * are in no ring count as free, once the kernel has returned all that it had taken off the rings.
 */

import { f64, slice, u32, u8, type View } from "../../ffi/region.ts";
import { pause } from "../runtime/tile.ts";
import type { AppLink } from "./app_link.ts";
import type { Umem, XdpSocket } from "./rings.ts";

/** The rings cannot be taken over, so the sockets have to be opened again. */
export class RingsLost extends Error {
  override readonly name = "RingsLost";
}

/** How long the kernel may take to finish what it has taken off its rings, in polls. */
const SETTLE_POLLS = 50;
const POLL_MILLIS = 1;

/** The word that is 1 while the record is valid; offsets of the totals, and of a byte for each frame. */
const VALID = 0;
const TOTALS_AT = 16;
const FRAMES_AT = 64;
/** The number of totals of XDP_STATISTICS that are carried over. */
const TOTALS = 6;

export function frameRecordBytes(frames: number): number {
  return FRAMES_AT + Math.ceil(frames / 8) * 8;
}

/** The region in which a net tile leaves a record for its successor. */
export class FrameRecord {
  /** Totals of earlier sockets, to be added to the kernel's totals of the current ones. */
  readonly totals: Float64Array;
  readonly #words: Uint32Array;
  /** Of each frame: 1 if the kernel does not have it. */
  readonly #frames: Uint8Array;

  /** Throws RangeError if the region is too small. */
  constructor(view: View, frames: number) {
    this.totals = f64(slice(view, TOTALS_AT, 8 * TOTALS));
    this.#words = u32(view);
    this.#frames = u8(slice(view, FRAMES_AT, frames));
  }

  /** Records which frames the kernel does not have. A tile calls it last, and then leaves its frames alone. */
  write(umem: Umem, apps: readonly AppLink[]): void {
    this.#frames.fill(0);
    const add = (offset: number) => {
      if (!umem.isLarge(offset)) this.#frames[umem.indexOf(offset)] = 1;
    };
    umem.forEachFreeFrame(add);
    for (const app of apps) app.forEachHeld(add);
    Atomics.store(this.#words, VALID, 1);
  }

  /** Returns the recorded frames, 1 each, and invalidates the record; null: there is none. */
  take(): Uint8Array | null {
    return Atomics.exchange(this.#words, VALID, 0) === 1 ? this.#frames.slice() : null;
  }
}

/**
 * Takes over rings, frames and links from a predecessor that has ended. If they are new, all frames are
 * free. Throws RingsLost.
 */
export function takeOver({ umem, xdpSockets, apps, record }: {
  umem: Umem;
  xdpSockets: readonly XdpSocket[];
  apps: readonly AppLink[];
  record: FrameRecord;
}): void {
  for (const socket of xdpSockets) socket.resume();
  const recorded = record.take();
  const free = new Uint8Array(umem.frameCount + umem.largeBuffers).fill(1);
  if (!xdpSockets.every((socket) => socket.isNew())) {
    const frames = recorded ?? invisible(umem, xdpSockets);
    const held = xdpSockets.reduce((sum, socket) => sum + socket.held, 0);
    let others = 0;
    for (let i = 0; i < frames.length; i++) others += frames[i];
    if (held + others !== umem.frameCount) {
      throw new RingsLost(
        `${umem.frameCount} frames, but ${held} in the kernel and ${others} elsewhere`,
      );
    }
    free.set(frames);
  }
  for (const app of apps) {
    app.resume((offset) => {
      const index = umem.indexOf(offset);
      if (free[index] !== 1) return false;
      free[index] = 0;
      return true;
    });
  }
  umem.restart(free);
}

/**
 * The frames that are in no ring, 1 each, once the kernel has returned all that it had taken off the
 * rings. Throws RingsLost if it keeps some, as a driver does in zero-copy mode.
 */
function invisible(umem: Umem, xdpSockets: readonly XdpSocket[]): Uint8Array {
  const frames = new Uint8Array(umem.frameCount).fill(1);
  const look = () => {
    for (const socket of xdpSockets) {
      const isSane = socket.forEachVisible((offset) => frames[umem.indexOf(offset)] = 0);
      if (!isSane) throw new RingsLost("the rings' cursors are invalid");
    }
  };
  // The first look sees frames that the kernel takes off a ring from now on, the second those it had before.
  look();
  for (let polls = 0; !xdpSockets.every((socket) => socket.isSettled()); polls++) {
    if (polls === SETTLE_POLLS) throw new RingsLost("the kernel keeps frames that are in no ring");
    pause(POLL_MILLIS);
  }
  look();
  return frames;
}
