/**
 * The way in: a burst of frames from a receive ring goes through the checks, and what is good goes
 * onto the link of the app that serves its port, payload in place. Every frame ends in an app's link
 * or back in the UMEM, and every one that goes back is counted with its reason.
 *
 * @module
 */

import * as xsk from "../../ffi/xsk.ts";
import { NET } from "../runtime/counters.ts";
import type { AppLink } from "./app_link.ts";
import type { Arrivals } from "./arrivals.ts";
import type { Capture } from "./capture.ts";
import type { Checks } from "./checks.ts";
import type { Dispatch } from "./dispatch.ts";
import * as frame from "./frame.ts";
import type { Umem } from "./umem.ts";
import type { XdpPort } from "./xdp_port.ts";

// Own constants, see frame.ts.
const { RECEIVE_HEADER_WORDS } = xsk;
const { IP_SOURCE, MOST_BYTES, UDP_PORTS } = frame;
const COUNT = NET.index;

/** What frames are received with. */
export interface ReceiverParts {
  readonly umem: Umem;
  readonly arrivals: Arrivals;
  readonly checks: Checks;
  readonly dispatch: Dispatch;
  readonly apps: readonly AppLink[];
  readonly capture: Capture;
  readonly counters: Float64Array;
}

/** Receives from AF_XDP sockets. */
export class Receiver {
  readonly #umem: Umem;
  readonly #arrivals: Arrivals;
  readonly #checks: Checks;
  readonly #dispatch: Dispatch;
  readonly #apps: readonly AppLink[];
  readonly #capture: Capture;
  readonly #counters: Float64Array;

  constructor({ umem, arrivals, checks, dispatch, apps, capture, counters }: ReceiverParts) {
    this.#umem = umem;
    this.#arrivals = arrivals;
    this.#checks = checks;
    this.#dispatch = dispatch;
    this.#apps = apps;
    this.#capture = capture;
    this.#counters = counters;
  }

  /** Takes one burst from `port` and returns how many frames. Links are published by the caller. */
  burst(port: XdpPort): number {
    const arrivals = this.#arrivals;
    const count = port.receive(arrivals.frames);
    if (count === 0) return 0;
    this.#checks.check(count, port.ifindex, port.partialChecksums);
    this.#chooseApps(count);
    let dropped = 0;
    for (let i = 0; i < count;) {
      const app = arrivals.apps[i];
      if (app >= 0) {
        i = this.#apps[app].push(arrivals, i, count);
        continue;
      }
      dropped++;
      this.#counters[-app]++;
      this.#umem.give(arrivals.frames[RECEIVE_HEADER_WORDS + 2 * i]);
      i++;
    }
    this.#counters[COUNT.rx_frames] += count;
    this.#counters[COUNT.rx_delivered] += count - dropped;
    // Frames that were given back are whole as long as the fill ring has none of them.
    if (this.#capture.wanted) this.#capture.received(arrivals, count, this.#umem.bytes);
    return count;
  }

  #chooseApps(count: number): void {
    const { verdicts, apps } = this.#arrivals;
    const view = this.#umem.view;
    const dispatch = this.#dispatch;
    for (let i = 0; i < count; i++) {
      const ip = verdicts[i];
      apps[i] = ip < 0 ? ip : dispatch.app(
        view.getInt32((ip & MOST_BYTES) + IP_SOURCE),
        view.getInt32((ip & MOST_BYTES) + UDP_PORTS),
      );
    }
  }
}
