/**
 * Neighbours of the interfaces that packets leave by. Everyone's come in the same group, those of
 * bridges, proxies and IPv6 too; the codec and the filter here leave ours.
 */

import { NUD_NOARP, NUD_VALID } from "../../netbase/neighbors.ts";
import type { NetbaseWriter } from "../../netbase/netbase.ts";
import { RTN_BROADCAST, RTN_MULTICAST } from "../../netbase/route.ts";
import * as nl from "./codec.ts";
import {
  decodeNeighbor,
  emptyNeighborMessage,
  type MessageCursor,
  type NeighborMessage,
} from "./codec.ts";
import { type MirrorPart, type Notices, Part } from "./part.ts";

/** Who wants to know how neighbours fare. The message is good only during the call. */
export interface NeighborListener {
  /** What the kernel says of it now, whether told by an event or found by a dump. */
  neighborTold(neighbor: NeighborMessage): void;
  /** It has left the kernel's table. */
  neighborGone(ifindex: number, address: number): void;
}

/** Keeps the neighbour table. */
export class NeighborsPart implements MirrorPart {
  readonly bit = Part.neighbors;
  readonly dumps = ["neighbors"] as const;
  readonly types = [nl.RTM_NEWNEIGH, nl.RTM_DELNEIGH];
  /** Interfaces whose neighbours are kept; null: all. */
  interfaces: ReadonlySet<number> | null;
  readonly #netbase: NetbaseWriter;
  readonly #notices: Notices;
  readonly #listener: NeighborListener | null;
  readonly #neighbor = emptyNeighborMessage();

  constructor(
    netbase: NetbaseWriter,
    { interfaces, notices, listener }: {
      interfaces: ReadonlySet<number> | null;
      notices: Notices;
      listener: NeighborListener | null;
    },
  ) {
    this.#netbase = netbase;
    this.interfaces = interfaces;
    this.#notices = notices;
    this.#listener = listener;
  }

  event(message: MessageCursor, _replayed: boolean): number {
    const neighbor = this.read(message);
    if (neighbor === null) return 0;
    if (message.type === nl.RTM_DELNEIGH) {
      this.#netbase.neighbors.remove(neighbor.ifindex, neighbor.address);
      this.#listener?.neighborGone(neighbor.ifindex, neighbor.address);
    } else {
      this.#told(neighbor);
    }
    return 0;
  }

  /** The neighbour that a message is about; null: none of ours. Good until the next. */
  read(message: MessageCursor): NeighborMessage | null {
    const neighbor = this.#neighbor;
    if (!decodeNeighbor(message, neighbor)) return null;
    if (this.interfaces?.has(neighbor.ifindex) === false) return null;
    // The kernel's own entries for what goes to everyone: their MACs follow from the address, and
    // no event tells of them. Those that somebody has put in their place have other states.
    const everyone = neighbor.type === RTN_MULTICAST || neighbor.type === RTN_BROADCAST;
    return everyone && neighbor.state === NUD_NOARP ? null : neighbor;
  }

  beginSync(): void {
    this.#netbase.neighbors.beginSync();
  }

  dumped(message: MessageCursor): void {
    this.event(message, true);
  }

  endSync(): void {
    this.#netbase.neighbors.endSync();
  }

  #told(neighbor: NeighborMessage): void {
    // A usable state without a MAC is no use: the kernel's own for broadcasts, a tunnel's peers.
    if ((neighbor.state & NUD_VALID) !== 0 && !neighbor.hasMac) return;
    if (!this.#netbase.neighbors.set(neighbor)) {
      this.#notices.once("more neighbours than netbase holds; what does not fit is not resolved");
    }
    this.#listener?.neighborTold(neighbor);
  }
}
