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
import type { Checks } from "./checks.ts";
import type { Dispatch } from "./dispatch.ts";
import * as frame from "./frame.ts";
import type { Umem } from "./umem.ts";
import type { XdpPort } from "./xdp_port.ts";

// Own constants, see frame.ts.
const { RECEIVE_HEADER_WORDS } = xsk;
const { IP_DESTINATION, IP_SOURCE, PAYLOAD, UDP_BYTES, UDP_LENGTH, UDP_PORTS } = frame;
const COUNT = NET.index;

/** What frames are received with. */
export interface ReceiverParts {
  readonly umem: Umem;
  readonly checks: Checks;
  readonly dispatch: Dispatch;
  readonly apps: readonly AppLink[];
  readonly counters: Float64Array;
}

/** Receives from AF_XDP sockets. */
export class Receiver {
  readonly #umem: Umem;
  readonly #view: DataView;
  readonly #checks: Checks;
  readonly #dispatch: Dispatch;
  readonly #apps: readonly AppLink[];
  readonly #counters: Float64Array;

  constructor({ umem, checks, dispatch, apps, counters }: ReceiverParts) {
    this.#umem = umem;
    this.#view = umem.view;
    this.#checks = checks;
    this.#dispatch = dispatch;
    this.#apps = apps;
    this.#counters = counters;
  }

  /** Takes one burst from `port` and returns how many frames. Links are published by the caller. */
  burst(port: XdpPort): number {
    const count = port.receive();
    if (count === 0) return 0;
    const { received, ifindex, partialChecksums } = port;
    const { verdicts } = this.#checks;
    this.#checks.check(received, count, ifindex, partialChecksums);
    let delivered = 0;
    for (let i = 0; i < count; i++) {
      const refused = verdicts[i] < 0 ? -verdicts[i] : this.#deliver(i, received);
      if (refused === 0) delivered++;
      else {
        this.#counters[refused]++;
        this.#umem.give(received[RECEIVE_HEADER_WORDS + 2 * i]);
      }
    }
    this.#counters[COUNT.rx_frames] += count;
    this.#counters[COUNT.rx_delivered] += delivered;
    return count;
  }

  /** Hands the i-th packet to its app. Returns 0, or the number of the counter to move. */
  #deliver(i: number, received: Uint32Array): number {
    const view = this.#view;
    const ip = this.#checks.verdicts[i];
    const source = view.getInt32(ip + IP_SOURCE);
    const ports = view.getInt32(ip + UDP_PORTS);
    const app = this.#dispatch.app(source, ports);
    if (app < 0) return COUNT.rx_drop_port;
    const taken = this.#apps[app].push(
      ip + PAYLOAD,
      view.getUint16(ip + UDP_LENGTH) - UDP_BYTES,
      source,
      view.getInt32(ip + IP_DESTINATION),
      ports,
      this.#checks.interfaces[i],
      received[0] | 0,
      received[1] | 0,
    );
    return taken ? 0 : COUNT.app_link_full;
  }
}
