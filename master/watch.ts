/**
 * Watches AF_XDP for as long as it runs: what the XDP program handed to a queue's socket has to be what the
 * kernel put on its ring. An interface where frames go in and none come out, as with a driver that
 * advertises what does not work, is given back to the kernel, whose sockets are served too. One that is
 * deleted is detached; made again under its name it is another, without a program or sockets.
 */

import { XSK_STATISTICS, type XskSetup, XskStatistic } from "../ffi/xsk.ts";
import type { Attachment } from "./attachment.ts";

/** What is watched of an interface. Its sockets may be replaced. */
export type Watched = Pick<
  Attachment,
  "name" | "ifindex" | "sockets" | "redirected" | "detach"
>;

/** What the watch polls with. */
export interface WatchParts {
  readonly xskSetup: Pick<XskSetup, "statistics">;
  /** Whether there is an interface with this index. */
  exists(ifindex: number): boolean;
  /** An interface was deleted. It is detached and not watched any more. */
  gone(attachment: Watched): void;
  log(line: string): void;
}

const POLL_MILLIS = 1000;
/** Polls with frames redirected, and none received from the first to the last, before it is believed. */
const POLLS = 3;

/** What was seen of a socket. */
interface Seen {
  redirected: number;
  arrived: number;
  /** Polls in a row with frames redirected and none arrived. */
  bad: number;
}

/** Watches some interfaces and every queue of them. */
export class RingWatch {
  readonly #parts: WatchParts;
  /** Those that are still there. */
  #present: readonly Watched[];
  /** By descriptor. */
  readonly #seen = new Map<number, Seen>();
  #timer?: ReturnType<typeof setInterval>;
  readonly #statistics = new BigUint64Array(XSK_STATISTICS);

  constructor(attachments: readonly Watched[], parts: WatchParts) {
    this.#parts = parts;
    this.#present = attachments;
  }

  /** Polls now and then. The timer does not keep the process alive. */
  start(): void {
    this.#timer = setInterval(() => this.poll(), POLL_MILLIS);
    Deno.unrefTimer(this.#timer);
  }

  /** Ends that. */
  stop(): void {
    clearInterval(this.#timer);
  }

  /** Polls once. */
  poll(): void {
    this.#missGone();
    for (const attachment of this.#present) {
      if (!attachment.sockets.some(({ fd, queue }) => this.#lies(attachment, fd, queue))) continue;
      attachment.detach();
      this.#parts.log(
        `${attachment.name}: frames are redirected but do not arrive; the kernel has them again`,
      );
    }
  }

  /** Polls one socket; whether it is one whose frames do not arrive. */
  #lies(attachment: Watched, fd: number, queue: number): boolean {
    if (this.#parts.xskSetup.statistics(fd, this.#statistics) < 0) return false;
    const redirected = attachment.redirected(queue);
    const arrived = this.#arrived();
    const seen = this.#seen.get(fd) ?? { redirected: 0, arrived: 0, bad: 0 };
    this.#seen.set(fd, seen);
    if (arrived !== seen.arrived) seen.bad = 0;
    // Where nothing comes, nothing is learned.
    else if (redirected > seen.redirected) seen.bad++;
    seen.redirected = redirected;
    seen.arrived = arrived;
    if (seen.bad < POLLS) return false;
    seen.bad = 0;
    return true;
  }

  #missGone(): void {
    const { exists, gone } = this.#parts;
    this.#present = this.#present.filter((attachment) => {
      if (exists(attachment.ifindex)) return true;
      attachment.detach();
      gone(attachment);
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
