/**
 * Keeps an eye on AF_XDP for as long as it runs: what the XDP program handed to a queue's socket must
 * be what came out of its ring. An interface where frames go in and none come out, as with a driver
 * that advertises what does not work, is given back to the kernel, whose sockets are served too.
 */

import { type Xsk, XSK_STATISTICS, XskStatistic } from "../ffi/xsk.ts";
import type { Attachment } from "../tiles/runtime/attachment.ts";

/** What is watched of an interface. */
export type Watched = Pick<Attachment, "name" | "sockets" | "redirected" | "detach">;

const LOOK_MILLIS = 1000;
/** Looks with frames redirected, and none received from the first to the last, before it is believed. */
const LOOKS = 3;

/** Watches every queue of some interfaces. */
export class RingWatch {
  readonly #queues;
  readonly #xsk: Xsk;
  readonly #log: (line: string) => void;
  readonly #statistics = new BigUint64Array(XSK_STATISTICS);

  constructor(
    attachments: readonly Watched[],
    { xsk, log }: { xsk: Xsk; log: (line: string) => void },
  ) {
    this.#queues = attachments.flatMap((attachment) =>
      attachment.sockets.map(({ slot, queue }) => ({
        attachment,
        slot,
        queue,
        redirected: 0,
        arrived: 0,
        bad: 0,
      }))
    );
    this.#xsk = xsk;
    this.#log = log;
  }

  /** Looks now and then. The timer does not keep the process alive. */
  start(): void {
    Deno.unrefTimer(setInterval(() => this.look(), LOOK_MILLIS));
  }

  /** Looks once. */
  look(): void {
    for (const each of this.#queues) {
      const { attachment, slot, queue } = each;
      if (this.#xsk.statistics(slot, this.#statistics) < 0) continue;
      const redirected = attachment.redirected(queue);
      const arrived = this.#arrived();
      if (arrived !== each.arrived) each.bad = 0;
      // Where nothing comes, nothing is learned.
      else if (redirected > each.redirected) each.bad++;
      each.redirected = redirected;
      each.arrived = arrived;
      if (each.bad < LOOKS) continue;
      this.#log(
        `${attachment.name}: frames are redirected but do not arrive; the kernel has them again`,
      );
      attachment.detach();
      each.bad = -Infinity;
    }
  }

  /** Frames that came, or that the socket itself says it dropped: a known loss, not a lie. */
  #arrived(): number {
    const { received, rxDropped, rxRingFull } = XskStatistic;
    const all = this.#statistics;
    return Number(all[received] + all[rxDropped] + all[rxRingFull]);
  }
}
