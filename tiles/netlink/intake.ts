/**
 * The netlink tile's end of one net tile's solicit link. All of what is asked is looked at: it costs
 * little to tell what is not on-link or known already, and little to count the rest.
 */

import type { View } from "../../ffi/view.ts";
import { NETLINK } from "../runtime/counters.ts";
import { SolicitConsumer } from "../runtime/solicit_link.ts";
import { Solicitor, type SolicitorParts } from "./solicitor.ts";
import { Standing } from "./standing.ts";

/** Requests taken with one turn: less than a millisecond's work, so that events need not wait. */
const MOST_TAKEN = 4_096;

/** What an intake works with. */
export interface IntakeParts extends SolicitorParts {
  /** One of {@linkcode Standing}. */
  standing(ifindex: number, address: number): number;
}

/** Takes requests of one net tile and has them dealt with. */
export class Intake {
  readonly solicitor: Solicitor;
  readonly #parts: IntakeParts;
  readonly #consumer: SolicitConsumer;
  readonly #pairs = new Uint32Array(MOST_TAKEN * 2);

  /** `link`: the net tile's solicit link, read-only. */
  constructor(link: View, parts: IntakeParts) {
    this.#consumer = new SolicitConsumer(link);
    this.#parts = parts;
    this.solicitor = new Solicitor(parts);
  }

  /** Requests that were overwritten before they were looked at. */
  get lapped(): number {
    return this.#consumer.lapped;
  }

  /** Whether there is something to be taken. */
  get pending(): boolean {
    return this.#consumer.waiting;
  }

  /** Takes what there is and asks for as much as may be asked for now. How much there was to do. */
  turn(now: number): number {
    const pairs = this.#pairs;
    const count = this.pending ? this.#consumer.take(pairs, MOST_TAKEN) : 0;
    this.solicitor.clock(now);
    this.#parts.counters[NETLINK.index.solicits_received] += count;
    for (let i = 0; i < count; i++) this.#offer(pairs[i * 2], pairs[i * 2 + 1], now);
    return count + this.solicitor.turn(now);
  }

  #offer(ifindex: number, address: number, now: number): void {
    const { counters } = this.#parts;
    const standing = this.#parts.standing(ifindex, address);
    switch (standing) {
      case Standing.offLink:
        counters[NETLINK.index.solicits_off_link]++;
        return;
      case Standing.known:
        counters[NETLINK.index.solicits_duplicate]++;
        return;
      case Standing.refresh:
        this.solicitor.refresh(ifindex, address, now);
        return;
    }
    this.solicitor.want({ ifindex, address, isGateway: standing === Standing.gateway }, now);
  }
}
