/**
 * The way in: a burst of frames from a receive ring goes through the checks, and what is good goes
 * onto the link of the app that serves its port, payload in place. Every frame ends in an app's link
 * or back in the UMEM, and every one that goes back is counted with its reason.
 */

import * as xsk from "../../ffi/xsk.ts";
import { NET } from "../runtime/counters.ts";
import * as arrival from "./arrivals.ts";
import type { Capture } from "./capture.ts";
import type { Checks } from "./checks.ts";
import type { Umem } from "./umem.ts";
import type { XdpPort } from "./xdp_port.ts";

// Own constants, see frame.ts.
const { RECEIVE_HEADER_WORDS } = xsk;
const { Arrival, ARRIVAL_SHIFT } = arrival;
const COUNT = NET.index;

/** What frames are received with. */
export interface ReceiverParts {
  readonly umem: Umem;
  readonly arrivals: arrival.Arrivals;
  readonly checks: Checks;
  readonly apps: readonly arrival.Recipient[];
  readonly capture: Capture;
  readonly counters: Float64Array;
}

/** Receives from AF_XDP sockets. */
export class Receiver {
  readonly #umem: Umem;
  readonly #arrivals: arrival.Arrivals;
  readonly #checks: Checks;
  readonly #apps: readonly arrival.Recipient[];
  readonly #capture: Capture;
  readonly #counters: Float64Array;

  constructor({ umem, arrivals, checks, apps, capture, counters }: ReceiverParts) {
    this.#umem = umem;
    this.#arrivals = arrivals;
    this.#checks = checks;
    this.#apps = apps;
    this.#capture = capture;
    this.#counters = counters;
  }

  /**
   * Takes one burst from `port` and returns how many frames. Links are published, and apps in this
   * tile run, by the caller.
   */
  burst(port: XdpPort): number {
    const arrivals = this.#arrivals;
    const count = port.receive(arrivals.frames);
    if (count === 0) return 0;
    this.#checks.check(count, port.ifindex, port.partialChecksums);
    const { rows } = arrivals;
    let dropped = 0;
    for (let i = 0; i < count;) {
      const app = rows[(i << ARRIVAL_SHIFT) + Arrival.app];
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
}
