/**
 * The netlink tile's end of one net tile's solicit link. All of what is asked is looked at: it costs
 * little to tell what is not on-link or known already, and little to count the rest. A flood comes
 * through here at line rate, so what most of it is, an address that is not on-link, is told first.
 */

import type { View } from "../../ffi/view.ts";
import { IFF_NOARP } from "../../netbase/interfaces.ts";
import { NUD_VALID } from "../../netbase/neighbors.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import { KIND_GROUP, RTN_UNICAST } from "../../netbase/route.ts";
import { NETLINK } from "../runtime/counters.ts";
import { SolicitConsumer } from "../runtime/solicit_link.ts";
import { NTF_KEPT } from "./codec.ts";
import type { NeighborMap } from "./neighbor_map.ts";
import { Solicitor, type SolicitorParts } from "./solicitor.ts";

/** Requests taken with one turn: less than a millisecond's work, so that events need not wait. */
const MOST_TAKEN = 4_096;

/** What an intake works with. */
export interface IntakeParts extends SolicitorParts {
  /** Netbase as of its last `refresh()`. */
  readonly reader: NetbaseReader;
  /** Who is a gateway on which interface; true: on-link though no prefix says so. */
  readonly gateways: NeighborMap<boolean>;
  /** Whether packets leave by an interface. */
  isFollowed(ifindex: number): boolean;
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
    const { reader: { neighbors }, counters, gateways } = this.#parts;
    if (!this.#isOnLink(ifindex, address)) {
      counters[NETLINK.index.solicit_drop_off_link]++;
      return;
    }
    const record = neighbors.find(ifindex, address);
    const usable = record >= 0 && (neighbors.state(record) & NUD_VALID) !== 0;
    if (usable && neighbors.refreshWanted(record)) {
      this.solicitor.refresh(ifindex, address, now);
    } else if (usable || (record >= 0 && (neighbors.flags(record) & NTF_KEPT) !== 0)) {
      // Known, or kept by somebody who asks for it.
      counters[NETLINK.index.solicit_drop_duplicate]++;
    } else if (!this.#resolves(ifindex)) {
      counters[NETLINK.index.solicit_drop_off_link]++;
    } else {
      const isGateway = gateways.has(ifindex, address);
      this.solicitor.want({ ifindex, address, isGateway }, now);
    }
  }

  /** Whether a route leads to `address` on that very link, or to whom it is the gateway with `onlink`. */
  #isOnLink(ifindex: number, address: number): boolean {
    const { reader: { fib, nextHops }, gateways } = this.#parts;
    if (!this.#parts.isFollowed(ifindex)) return false;
    const id = fib.lookup(address);
    const isGroup = id !== 0 && nextHops.kind(id) === KIND_GROUP;
    for (let i = 0; i < (isGroup ? nextHops.memberCount(id) : 1); i++) {
      if (this.#leadsThere(isGroup ? nextHops.memberId(id, i) : id, ifindex)) return true;
    }
    return gateways.get(ifindex, address) === true;
  }

  #leadsThere(id: number, ifindex: number): boolean {
    const { nextHops } = this.#parts.reader;
    return nextHops.ifindex(id) === ifindex && nextHops.gateway(id) === 0 &&
      nextHops.kind(id) === RTN_UNICAST;
  }

  /** Whether neighbours are asked for on an interface now. */
  #resolves(ifindex: number): boolean {
    const { interfaces } = this.#parts.reader;
    const record = interfaces.find(ifindex);
    return record >= 0 && interfaces.isUp(record) && (interfaces.flags(record) & IFF_NOARP) === 0;
  }
}
