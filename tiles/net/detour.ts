/**
 * The long way out, for datagrams that the header cache has nothing ready for: resolve, and then send
 * after all, hold until the neighbour is known, hand to the kernel's socket, or drop.
 */

import { NET } from "../runtime/counters.ts";
import type { Peers } from "./app_link.ts";
import type { Dispatch } from "./dispatch.ts";
import { appBit, dropCounter, Entry, Outcome, TICK_BITS, UNRESOLVED } from "./entry.ts";
import type { HeaderCache } from "./header_cache.ts";
import { copyPayloads } from "./headers.ts";
import type { Holding } from "./holding.ts";
import type { Resolver } from "./resolve.ts";
import { REFUSED, Row, ROW_WORDS } from "./rows.ts";
import type { SocketSender } from "./socket_sender.ts";
import type { Umem } from "./umem.ts";
import type { Wire } from "./wire.ts";

/** What a detour leads by. */
export interface DetourParts {
  readonly umem: Umem;
  readonly cache: HeaderCache;
  readonly resolver: Resolver;
  readonly holding: Holding;
  readonly wire: Wire;
  readonly sender: SocketSender;
  readonly dispatch: Dispatch;
}

/** Where a datagram comes from: an app and the memory that it writes. */
export interface Origin {
  readonly payloads: DataView;
  readonly payloadBytes: Uint8Array<SharedArrayBuffer>;
  readonly peers: Peers;
}

/** Deals with datagrams one by one. */
export class Detour {
  readonly #parts: DetourParts;
  readonly #row = new Int32Array(ROW_WORDS);

  constructor(parts: DetourParts) {
    this.#parts = parts;
  }

  /**
   * Deals with the datagram of app number `index` in the row at word `at` of `rows`. Returns 0, or the
   * number of the counter to move. If a kernel socket is to send it, the app's memory must stay until the next
   * flush of the sender.
   */
  take(app: Origin, index: number, rows: Int32Array, at: number): number {
    const row = this.#row;
    for (let word = 0; word < ROW_WORDS; word++) row[word] = rows[at + word];
    if (!app.peers.has(row[Row.destination])) return NET.index.tx_drop_unsolicited;
    const { resolver, holding, cache } = this.#parts;
    let e = this.#resolve();
    // A neighbour just found may have been waited for: what came before goes before.
    if (resolver.fresh && holding.release(resolver.ifindex, resolver.neighbor)) e = this.#resolve();

    const length = row[Row.length];
    if (e === UNRESOLVED) {
      return length <= resolver.mostPayload ? this.#hold(app) : this.#handOver(app);
    }
    const outcome = cache.words[e + Entry.outcome];
    if (outcome >= 0) {
      return length <= (outcome & 0xffff) ? this.#send(app, index, e) : this.#handOver(app);
    }
    if (outcome !== Outcome.kernel) return dropCounter(outcome);
    return this.#handOver(app) === 0 ? 0 : NET.index.tx_drop_no_socket;
  }

  #resolve(): number {
    const row = this.#row;
    return this.#parts.resolver.resolve(row[Row.destination], row[Row.source], row[Row.ports]);
  }

  /** Sends by the entry at `e`. */
  #send(app: Origin, index: number, e: number): number {
    const { cache, resolver, umem, wire } = this.#parts;
    const { words } = cache;
    const now = cache.tick & TICK_BITS;
    if ((words[e + Entry.checked] & TICK_BITS) !== now) {
      words[e + Entry.checked] = now;
      resolver.refresh(words[e + Entry.neighbor]);
    }
    words[e + Entry.checked] |= appBit(index);
    this.#row[Row.entry] = e;
    if (!this.#fillFrame(app)) return NET.index.tx_drop_no_frame;
    if (wire.put(this.#row, 1) === 0) return 0;
    umem.give(this.#row[Row.frame]);
    return REFUSED - this.#row[Row.entry];
  }

  /** Holds the datagram for the neighbour that the resolver just missed. */
  #hold(app: Origin): number {
    if (!this.#fillFrame(app)) return NET.index.tx_drop_no_frame;
    return this.#parts.holding.hold(this.#row);
  }

  /** Copies the payload into a frame. False when there is none. */
  #fillFrame(app: Origin): boolean {
    const { umem } = this.#parts;
    const frame = umem.takeFrame();
    if (frame < 0) return false;
    const row = this.#row;
    row[Row.frame] = frame;
    row[Row.entry] = Math.max(0, row[Row.entry]);
    copyPayloads(app.payloads, umem.words, row, 1);
    return true;
  }

  /**
   * Hands the datagram to the kernel's socket of its source port, which fragments what is too long
   * for a packet. Where there is none, what is too long goes nowhere.
   */
  #handOver(app: Origin): number {
    const row = this.#row;
    const { dispatch, sender } = this.#parts;
    const ports = row[Row.ports];
    const fd = dispatch.fd(ports >>> 16);
    if (fd < 0) return NET.index.tx_drop_exceeds_mtu;
    sender.send(fd, app.payloadBytes, row[Row.offset], row);
    return 0;
  }
}
