/**
 * Keeps an eye on AF_XDP for as long as it runs: what the XDP program handed to a queue's socket must
 * be what the kernel put on its ring. An interface where frames go in and none come out, as with a driver
 * that advertises what does not work, is given back to the kernel, whose sockets are served too. So
 * it is with one that goes: made again under its name it is another, without a program or sockets.
 */

import { XSK_STATISTICS, type XskSetup, XskStatistic } from "../ffi/xsk.ts";
import type { Attachment } from "../tiles/runtime/attachment.ts";

/** What is watched of an interface. */
export type Watched = Pick<
  Attachment,
  "name" | "ifindex" | "sockets" | "redirected" | "detach"
>;

/** What the watch looks with. */
export interface WatchParts {
  readonly xskSetup: Pick<XskSetup, "statistics">;
  /** Whether there is an interface with this index. */
  exists(ifindex: number): boolean;
  log(line: string): void;
}

const LOOK_MILLIS = 1000;
/** Looks with frames redirected, and none received from the first to the last, before it is believed. */
const LOOKS = 3;

/** Watches some interfaces and every queue of them. */
export class RingWatch {
  readonly #parts: WatchParts;
  /** Those that are still there. */
  #present: readonly Watched[];
  readonly #queues;
  #timer?: ReturnType<typeof setInterval>;
  readonly #statistics = new BigUint64Array(XSK_STATISTICS);

  constructor(attachments: readonly Watched[], parts: WatchParts) {
    this.#parts = parts;
    this.#present = attachments;
    this.#queues = attachments.flatMap((attachment) =>
      attachment.sockets.map(({ fd, queue }) => ({
        attachment,
        fd,
        queue,
        redirected: 0,
        arrived: 0,
        bad: 0,
      }))
    );
  }

  /** Looks now and then. The timer does not keep the process alive. */
  start(): void {
    this.#timer = setInterval(() => this.look(), LOOK_MILLIS);
    Deno.unrefTimer(this.#timer);
  }

  /** Ends that. */
  stop(): void {
    clearInterval(this.#timer);
  }

  /** Looks once. */
  look(): void {
    this.#missGone();
    const { xskSetup, log } = this.#parts;
    for (const each of this.#queues) {
      const { attachment, fd, queue } = each;
      if (xskSetup.statistics(fd, this.#statistics) < 0) continue;
      const redirected = attachment.redirected(queue);
      const arrived = this.#arrived();
      if (arrived !== each.arrived) each.bad = 0;
      // Where nothing comes, nothing is learned.
      else if (redirected > each.redirected) each.bad++;
      each.redirected = redirected;
      each.arrived = arrived;
      if (each.bad < LOOKS) continue;
      log(
        `${attachment.name}: frames are redirected but do not arrive; the kernel has them again`,
      );
      attachment.detach();
      each.bad = -Infinity;
    }
  }

  #missGone(): void {
    const { exists, log } = this.#parts;
    this.#present = this.#present.filter((attachment) => {
      const { name, ifindex } = attachment;
      if (exists(ifindex)) return true;
      attachment.detach();
      log(
        `${name}: it is gone, and AF_XDP with it; should it come back, it is served again`,
      );
      return false;
    });
  }

  /** Frames that came, or that the socket itself says it dropped: a known loss, not a lie. */
  #arrived(): number {
    const { received, rxDropped, rxRingFull } = XskStatistic;
    const all = this.#statistics;
    return Number(all[received] + all[rxDropped] + all[rxRingFull]);
  }
}
