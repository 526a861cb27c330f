/**
 * The way out: a burst of datagrams from an app's link, each checked, resolved, given its headers and
 * put on a transmit ring; or sent by a kernel socket; or held until its neighbour is known; or
 * dropped, with the one counter that says why. Every datagram accepted ends in exactly one of these.
 *
 * Nothing that an app writes is believed: a descriptor is read once, its bounds are checked, and the
 * payload is copied once into a frame that no app can write.
 *
 * @module
 */

import { NET } from "../runtime/counters.ts";
import { Descriptor } from "../runtime/link.ts";
import type { AppLink } from "./app_link.ts";
import type { Dispatch } from "./dispatch.ts";
import { LARGEST_PAYLOAD } from "./frame.ts";
import { Entry, type HeaderCache } from "./header_cache.ts";
import { copyPayload } from "./headers.ts";
import type { Holding } from "./holding.ts";
import { dropCounter, Outcome, type Resolver, UNRESOLVED } from "./resolve.ts";
import type { SocketSender } from "./socket_sender.ts";
import type { Umem } from "./umem.ts";
import type { Wire } from "./wire.ts";

/** Most datagrams taken from one app before the next has its turn. */
const BURST = 64;

/** What datagrams are sent with. */
export interface TransmitterParts {
  readonly umem: Umem;
  readonly cache: HeaderCache;
  readonly resolver: Resolver;
  readonly holding: Holding;
  readonly wire: Wire;
  readonly sender: SocketSender;
  readonly dispatch: Dispatch;
  readonly counters: Float64Array;
}

/** Sends what apps answer. */
export class Transmitter {
  readonly #umem: Umem;
  readonly #frames: Int32Array;
  readonly #cache: HeaderCache;
  readonly #entries: Int32Array;
  readonly #resolver: Resolver;
  readonly #holding: Holding;
  readonly #wire: Wire;
  readonly #sender: SocketSender;
  readonly #dispatch: Dispatch;
  readonly #counters: Float64Array;
  /** Moves now and then: entries that saw another one look again whether to refresh a neighbour. */
  #tick = 1;

  constructor(parts: TransmitterParts) {
    this.#umem = parts.umem;
    this.#frames = parts.umem.words;
    this.#cache = parts.cache;
    this.#entries = parts.cache.words;
    this.#resolver = parts.resolver;
    this.#holding = parts.holding;
    this.#wire = parts.wire;
    this.#sender = parts.sender;
    this.#dispatch = parts.dispatch;
    this.#counters = parts.counters;
  }

  /** To be called some times a second: neighbours in use are then looked at once more. */
  tick(): void {
    this.#tick = (this.#tick + 1) | 0;
  }

  /** Takes one burst from app number `index` and returns how many datagrams. */
  burst(app: AppLink, index: number): number {
    const { answers } = app;
    const waiting = answers.available();
    if (waiting === 0) return 0;
    const count = Math.min(waiting, BURST);
    const { words } = answers;
    const entries = this.#entries;
    const bytes = app.payloadBytes.length;
    for (let i = 0; i < count; i++) {
      // Each word is read once: the app could change it between a check and its use.
      const at = answers.slot(i);
      const offset = words[at + Descriptor.offset] | 0;
      const length = words[at + Descriptor.length] | 0;
      const source = words[at + Descriptor.source] | 0;
      const destination = words[at + Descriptor.destination] | 0;
      const ports = words[at + Descriptor.ports] | 0;
      let refused: number;
      if (length < 0 || length > LARGEST_PAYLOAD || offset < 0 || offset > bytes - length) {
        refused = NET.index.tx_drop_descriptor;
      } else if ((ports & 0xffff) === 0 || !this.#dispatch.serves(index, ports >>> 16)) {
        refused = NET.index.tx_drop_port;
      } else {
        const e = this.#cache.find(destination, source, 0);
        // An outcome that is negative has no largest payload: only those of the wire pass here.
        const outcome = e < 0 ? -1 : entries[e + Entry.outcome];
        if (outcome >= 0 && length <= (outcome & 0xffff)) {
          if (entries[e + Entry.refreshed] !== this.#tick) this.#refresh(e);
          refused = this.#send(app, offset, length, ports, e);
        } else {
          refused = this.#otherwise(app, offset, length, source, destination, ports);
        }
      }
      if (refused !== 0) this.#counters[refused]++;
    }
    this.#counters[NET.index.tx_accepted] += count;
    // Kernel sockets send from the app's memory, so before it is told that this is free.
    this.#sender.flush();
    answers.release(count);
    return count;
  }

  /** Sends by the AF_XDP socket of the entry at `e`. Returns 0, or the counter to move. */
  #send(app: AppLink, offset: number, length: number, ports: number, e: number): number {
    const frame = this.#umem.takeFrame();
    if (frame < 0) return NET.index.tx_drop_no_frame;
    const sum = copyPayload(app.payloads, offset, this.#frames, frame, length);
    const refused = this.#wire.put(frame, e, ports, length, sum);
    if (refused !== 0) this.#umem.give(frame);
    return refused;
  }

  /** What has no entry to be sent by at once. Returns 0, or the counter to move. */
  #otherwise(
    app: AppLink,
    offset: number,
    length: number,
    source: number,
    destination: number,
    ports: number,
  ): number {
    const resolver = this.#resolver;
    let e = resolver.resolve(destination, source, ports);
    // A neighbour just found may have been waited for: what came before goes before.
    if (resolver.fresh && this.#holding.release(resolver.ifindex, resolver.neighbor)) {
      e = resolver.resolve(destination, source, ports);
    }
    if (e === UNRESOLVED) {
      return length <= resolver.mostPayload
        ? this.#hold(app, offset, length, source, destination, ports)
        : this.#kernel(app, offset, length, source, destination, ports);
    }
    const outcome = this.#entries[e + Entry.outcome];
    if (outcome >= 0 && length <= (outcome & 0xffff)) {
      return this.#send(app, offset, length, ports, e);
    }
    if (outcome < 0 && outcome !== Outcome.kernel) return dropCounter(outcome);
    const refused = this.#kernel(app, offset, length, source, destination, ports);
    return outcome < 0 && refused !== 0 ? NET.index.tx_drop_no_socket : refused;
  }

  /** Holds a datagram for the neighbour that the resolver just missed. */
  #hold(
    app: AppLink,
    offset: number,
    length: number,
    source: number,
    destination: number,
    ports: number,
  ): number {
    const frame = this.#umem.takeFrame();
    if (frame < 0) return NET.index.tx_drop_no_frame;
    const sum = copyPayload(app.payloads, offset, this.#frames, frame, length);
    const refused = this.#holding.hold(frame, destination, source, ports, length, sum);
    if (refused !== 0) this.#umem.give(frame);
    return refused;
  }

  /**
   * Sends by the kernel's socket of the source port, which fragments what is too long for a packet.
   * Where there is none, what is too long goes nowhere.
   */
  #kernel(
    app: AppLink,
    offset: number,
    length: number,
    source: number,
    destination: number,
    ports: number,
  ): number {
    const fd = this.#dispatch.fd(ports >>> 16);
    if (fd < 0) return NET.index.tx_drop_mtu;
    this.#sender.send(fd, app.payloadBytes, offset, length, source, destination, ports);
    return 0;
  }

  /** Asks for the neighbour of the entry at `e` if the netlink tile wants to hear of its use. */
  #refresh(e: number): void {
    this.#entries[e + Entry.refreshed] = this.#tick;
    this.#resolver.refresh(this.#entries[e + Entry.neighbor]);
  }
}
