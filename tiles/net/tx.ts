/**
 * The way out: a burst of datagrams from an app's link, each checked, given a frame with its payload
 * and the headers that the cache has for its destination, and put on a transmit ring. What has no
 * headers there goes the long way (`detour.ts`). Every datagram accepted is sent, held, or dropped
 * with the one counter that says why.
 *
 * Nothing that an app writes is believed: a descriptor is read once, its bounds are checked, and the
 * payload is copied once into a frame that no app can write.
 */

import { CaptureFlag } from "../runtime/capture_ring.ts";
import { NET } from "../runtime/counters.ts";
import * as link_ from "../runtime/link.ts";
import type { AllowedPeers, AppPort } from "./app_port.ts";
import type { ArpQueue } from "./arp_queue.ts";
import type { Capture } from "./capture.ts";
import * as frame_ from "./frame.ts";
import type { Umem, XdpPort } from "./rings.ts";
import * as route_cache_ from "./route_cache.ts";
import { dropCounter, Outcome, type Resolver, type RouteCache, UNRESOLVED } from "./route_cache.ts";
import * as rx_ from "./rx.ts";
import type { Dispatch, RxBatch } from "./rx.ts";
import type { SocketSender } from "./sockets.ts";

// Own constants, see frame.ts.
const { Descriptor, REFLECTED } = link_;
const { Arrival, PARTIAL } = rx_;
const { BEGIN_BITS, Entry, LINK_BYTES, MOST_WORDS, TICK_BITS, appBit } = route_cache_;
const {
  ETHERNET_BYTES,
  FRAGMENT_WORD,
  IP_AT,
  LARGEST_PAYLOAD,
  MOST_BYTES,
  PACKET_HEADER_BYTES,
  PAYLOAD_AT,
  PROTOCOL_WORD,
  UDP_BYTES,
  VERSION_WORD,
  fold,
  halves,
  sumWords,
  swap16,
} = frame_;
const COUNT = NET.index;

/** What datagrams are sent with. */
export interface TransmitterParts {
  readonly umem: Umem;
  readonly cache: RouteCache;
  readonly detour: SlowPath;
  readonly wire: TxWriter;
  readonly sender: SocketSender;
  readonly dispatch: Dispatch;
  readonly capture: Capture;
  readonly counters: Float64Array;
}

/** Sends what apps answer. */
export class Transmitter {
  readonly #umem: Umem;
  readonly #frames: Int32Array;
  readonly #cache: RouteCache;
  readonly #entries: Int32Array;
  readonly #detour: SlowPath;
  readonly #wire: TxWriter;
  readonly #sender: SocketSender;
  readonly #dispatch: Dispatch;
  readonly #capture: Capture;
  readonly #counters: Float64Array;
  /** Of the burst at hand. Who calls `sendFrames` fills them. */
  readonly rows = makeRows();

  constructor(parts: TransmitterParts) {
    this.#umem = parts.umem;
    this.#frames = parts.umem.words;
    this.#cache = parts.cache;
    this.#entries = parts.cache.words;
    this.#detour = parts.detour;
    this.#wire = parts.wire;
    this.#sender = parts.sender;
    this.#dispatch = parts.dispatch;
    this.#capture = parts.capture;
    this.#counters = parts.counters;
  }

  /** Takes one burst from the link of app number `index` and returns how many datagrams. */
  burst(app: AppPort, index: number): number {
    const count = Math.min(app.answers.available(), BURST);
    if (count === 0) return 0;
    for (let i = 0; i < count;) {
      i = this.#reflectRun(app, index, i, count);
      if (i < count) i = this.#sendRun(app, index, i, count);
    }
    // Kernel sockets send from the app's memory, so before it is told that this is free.
    this.#sender.flush();
    app.release(count);
    return count;
  }

  /**
   * Sends requests back that the answers from the `from`-th on name, and returns the first answer that
   * is something else, or names none that the app has. They leave in their order: what has to go the
   * long way is gathered, and goes before the next that does not.
   */
  #reflectRun(app: AppPort, index: number, from: number, end: number): number {
    const { rows } = this;
    const { answers } = app;
    const { words } = answers;
    const wire = this.#wire;
    let slow = 0;
    let turned = 0;
    let i = from;
    for (; i < end; i++) {
      const at = answers.slot(i);
      if (words[at + Descriptor.length] !== REFLECTED) break;
      let row = (slow & (BURST - 1)) << ROW_SHIFT;
      if (!app.takeRequest(words[at + Descriptor.offset], rows, row)) break;
      if (slow > 0 && this.#isReady(rows, row)) {
        this.sendFrames(app.received, index, slow);
        rows.copyWithin(0, row, row + ROW_WORDS);
        row = slow = 0;
      }
      if (
        this.#isReady(rows, row) &&
        wire.turn(rows[row + Row.frame], rows[row + Row.entry], rows[row + Row.length])
      ) {
        turned++;
        continue;
      }
      if (rows[row + Row.entry] !== NO_FRAME) rows[row + Row.entry] = SLOW;
      slow++;
    }
    this.#counters[COUNT.tx_accepted] += turned;
    if (slow > 0) this.sendFrames(app.received, index, slow);
    return i;
  }

  /**
   * Sends the `from`-th answer, and those after it up to one that names a request, whose place it
   * returns. Passes of one kind of work each, as in `checks.ts`; what cannot be sent at once comes
   * last, one by one.
   */
  #sendRun(app: AppPort, index: number, from: number, end: number): number {
    const count = this.#read(app, from, end);
    this.#classify(app.payloadBytes.length, index, count);
    this.#takeFrames(count);
    copyPayloads(app.payloads, this.#frames, this.rows, count);
    if (this.#wire.put(this.rows, count) > 0) {
      this.#others(app, index, count);
      this.#giveBack(count, false);
    }
    this.#counters[COUNT.tx_accepted] += count;
    return from + count;
  }

  /**
   * Sends `count` datagrams of app number `index` that stand in `rows`, each in a frame of its own,
   * payload in place, which is given away by that. A row's entry is SLOW, or NO_FRAME where a large
   * buffer stands in for the frame.
   */
  sendFrames(app: Origin, index: number, count: number): void {
    const { rows } = this;
    this.#classify(app.payloadBytes.length, index, count);
    sumPayloads(this.#frames, rows, count);
    const others = this.#wire.put(rows, count);
    this.#counters[COUNT.tx_accepted] += count;
    if (others === 0) return;
    this.#others(app, index, count);
    this.#sender.flush();
    this.#giveBack(count, true);
  }

  /**
   * Sends received datagrams back, each in its own frame and without a word of its payload read: those
   * whose rows in `arrivals` begin at the words that `picked` lists from `from` on, with payloads in
   * the UMEM and UDP checksums that stand. Returns how far it came: the next cannot leave at once,
   * nothing has happened to it, and `sendFrames` says why.
   */
  reflect(arrivals: RxBatch, picked: Int32Array, from: number, end: number): number {
    const sent = this.#wire.turnRun(arrivals, picked, from, end);
    this.#counters[COUNT.tx_accepted] += sent - from;
    return sent;
  }

  /**
   * Whether the request in the row at word `row` of `rows` can be sent back at once. That the app may
   * send there need not be asked again, see `AllowedPeers.hear`. Port 0 is nobody's.
   */
  #isReady(rows: Int32Array, row: number): boolean {
    return rows[row + Row.sum] !== PARTIAL && (rows[row + Row.ports] & 0xffff) !== 0 &&
      this.#cache.leads(
        rows[row + Row.entry],
        rows[row + Row.destination],
        rows[row + Row.source],
        rows[row + Row.length],
      );
  }

  /** Frees the frames of rows that the ring had no room for, or of all that were not sent. */
  #giveBack(count: number, all: boolean): void {
    const { rows } = this;
    for (let i = 0; i < count; i++) {
      const row = i << ROW_SHIFT;
      const entry = rows[row + Row.entry];
      if (all ? entry < 0 : entry === RING_FULL) this.#umem.give(rows[row + Row.frame]);
    }
  }

  /** Reads the descriptors of a run, each word once, and returns how many there are. */
  #read(app: AppPort, from: number, end: number): number {
    const { answers } = app;
    const { words } = answers;
    const { rows } = this;
    let i = from;
    for (; i < end; i++) {
      const at = answers.slot(i);
      const length = words[at + Descriptor.length];
      // The first has been looked at: as a request's name it is none, and a length it is not either.
      if (length === REFLECTED && i > from) break;
      const row = ((i - from) & (BURST - 1)) << ROW_SHIFT;
      rows[row + Row.offset] = words[at + Descriptor.offset];
      rows[row + Row.length] = length;
      rows[row + Row.source] = words[at + Descriptor.source];
      rows[row + Row.destination] = words[at + Descriptor.destination];
      rows[row + Row.ports] = words[at + Descriptor.ports];
      rows[row + Row.entry] = SLOW;
      const request = words[at + Descriptor.request];
      // What it answers is not there: no length is -1 either.
      if (request !== 0 && !app.answerTo(request - 1, rows, row)) rows[row + Row.length] = -1;
    }
    return i - from;
  }

  /** Checks the descriptors, and finds the entries of those that can be sent at once. */
  #classify(payloadBytes: number, index: number, count: number): void {
    const { rows } = this;
    const entries = this.#entries;
    const cache = this.#cache;
    const dispatch = this.#dispatch;
    const bit = appBit(index);
    const bits = TICK_BITS | bit;
    const checked = (cache.tick & TICK_BITS) | bit;
    for (let i = 0; i < count; i++) {
      const row = (i & (BURST - 1)) << ROW_SHIFT;
      const offset = rows[row + Row.offset];
      const length = rows[row + Row.length];
      const ports = rows[row + Row.ports];
      let entry = SLOW;
      if (length < 0 || length > LARGEST_PAYLOAD || offset < 0 || offset > payloadBytes - length) {
        entry = REFUSED - COUNT.tx_drop_invalid_descriptor;
      } else if ((ports & 0xffff) === 0 || !dispatch.serves(index, ports >>> 16)) {
        entry = REFUSED - COUNT.tx_drop_port_not_owned;
      } else {
        const destination = rows[row + Row.destination];
        const source = rows[row + Row.source];
        const e = rows[row + Row.entry] === NO_FRAME
          ? NO_FRAME
          : cache.find(destination, source, 0);
        if (e >= 0) {
          const outcome = entries[e + Entry.outcome];
          // One that is negative has no largest payload: only those of the wire pass here.
          if (
            outcome >= 0 && length <= (outcome & 0xffff) &&
            (entries[e + Entry.checked] & bits) === checked
          ) entry = e;
        }
      }
      rows[row + Row.entry] = entry;
    }
  }

  /** Gives a frame to each that has an entry. */
  #takeFrames(count: number): void {
    const { rows } = this;
    const umem = this.#umem;
    for (let i = 0; i < count; i++) {
      const row = (i & (BURST - 1)) << ROW_SHIFT;
      if (rows[row + Row.entry] < 0) continue;
      const frame = umem.takeFrame();
      if (frame < 0) rows[row + Row.entry] = REFUSED - COUNT.tx_drop_no_frame;
      else rows[row + Row.frame] = frame;
    }
  }

  /** Deals with those that were not sent at once, one by one. */
  #others(app: Origin, index: number, count: number): void {
    const { rows } = this;
    for (let i = 0; i < count; i++) {
      const row = i << ROW_SHIFT;
      const entry = rows[row + Row.entry];
      if (entry >= 0) continue;
      const refused = entry === SLOW ? this.#detour.take(app, index, rows, row) : REFUSED - entry;
      if (refused === 0) continue;
      this.#counters[refused]++;
      if (!this.#capture.wanted) continue;
      const offset = rows[row + Row.offset];
      this.#capture.datagram(CaptureFlag.out, refused, rows, row, app.payloadBytes, offset);
    }
  }
}

/*
 * A burst on its way out: a row of words for each datagram, filled step by step from the app's
 * descriptor to a finished frame (`transmit.ts`, and one at a time `holding.ts`).
 *
 * Each step is a loop over the rows in a function of its own. That is for V8's sake: of an innermost
 * loop that is small enough and calls nothing it lifts out what does not change, of others not.
 */

/** Most datagrams of a burst; a power of two. */
export const BURST = 64;

/** Words of a row, and log2 of that: row `i` begins at `i << ROW_SHIFT`. */
export const ROW_WORDS = 8;
export const ROW_SHIFT = 3;

/**
 * Word offsets in a row. The first five are the descriptor, read once from the app's memory, which
 * the app could change between a check and its use.
 */
export const Row = {
  offset: 0,
  length: 1,
  source: 2,
  destination: 3,
  ports: 4,
  /** Its cache entry; or SLOW; or a refusal. */
  entry: 5,
  /** Its frame, and the sum of the payload there. */
  frame: 6,
  sum: 7,
} as const;

/** Instead of an entry: there is none to be sent by at once. */
export const SLOW = -1;

/** Instead of an entry, before one is looked for: it would be of no use, the payload is in no frame. */
export const NO_FRAME = -2;

/** Refusals are below this: `REFUSED` − the number of the counter to move. */
export const REFUSED = -3;

/** Rows for one burst. */
export function makeRows(): Int32Array {
  return new Int32Array(BURST << ROW_SHIFT);
}

/*
 * The long way out, for datagrams that the route cache has nothing ready for: resolve, and then send
 * after all, hold until the neighbour is known, hand to the kernel's socket, or drop.
 */

/** What a detour leads by. */
export interface SlowPathParts {
  readonly umem: Umem;
  readonly cache: RouteCache;
  readonly resolver: Resolver;
  readonly holding: ArpQueue;
  readonly wire: TxWriter;
  readonly sender: SocketSender;
  readonly dispatch: Dispatch;
}

/** Where a datagram comes from: an app and the memory that it writes. */
export interface Origin {
  readonly payloads: DataView;
  readonly payloadBytes: Uint8Array<SharedArrayBuffer>;
  readonly peers: AllowedPeers;
}

/** Deals with datagrams one by one. */
export class SlowPath {
  readonly #parts: SlowPathParts;
  readonly #row = new Int32Array(ROW_WORDS);

  constructor(parts: SlowPathParts) {
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

/*
 * The last step of the way out: frames with their payload in place get the headers of their cache
 * entries and go onto the transmit rings that these name.
 */

/** The refusal of those that a ring has no room for. */
export const RING_FULL = REFUSED - NET.index.tx_drop_ring_full;

/** What frames are finished and queued with. */
export interface TxWriterParts {
  readonly umem: Umem;
  readonly cache: RouteCache;
  readonly ports: readonly XdpPort[];
  readonly capture: Capture;
}

/** Puts frames on transmit rings. */
export class TxWriter {
  readonly #umem: Umem;
  readonly #cache: RouteCache;
  readonly #entries: Int32Array;
  readonly #ports: readonly XdpPort[];
  readonly #capture: Capture;

  constructor({ umem, cache, ports, capture }: TxWriterParts) {
    this.#umem = umem;
    this.#cache = cache;
    this.#entries = cache.words;
    this.#ports = ports;
    this.#capture = capture;
  }

  /**
   * Finishes the frame of each row that has one, payload in place, by its entry, and queues it. Where
   * the ring is full the row is refused, and the frame is still the caller's. Returns how many rows
   * have no entry.
   */
  put(rows: Int32Array, count: number): number {
    const frames = this.#umem.words;
    const entries = this.#entries;
    const ports = this.#ports;
    let others = 0;
    for (let i = 0; i < count; i++) {
      const row = (i & (BURST - 1)) << ROW_SHIFT;
      const e = rows[row + Row.entry];
      if (e < 0) {
        others++;
        continue;
      }
      const outcome = entries[(e & MOST_WORDS) + Entry.outcome];
      const port = ports[outcome >>> 24];
      if (port.room === 0) {
        rows[row + Row.entry] = RING_FULL;
        others++;
        continue;
      }
      writeHeaders(frames, entries, rows, row);
      const begin = (outcome >>> 16) & BEGIN_BITS;
      const length = rows[row + Row.length] + IP_AT + PACKET_HEADER_BYTES - begin;
      port.queue(rows[row + Row.frame] + begin, length);
    }
    if (this.#capture.wanted) this.#show(rows, count);
    return others;
  }

  /**
   * Turns a received datagram round by the entry at `e` and queues it, see `turnHeaders`. False when
   * the ring is full; the frame is then as it was.
   */
  turn(at: number, e: number, length: number): boolean {
    const outcome = this.#entries[(e & MOST_WORDS) + Entry.outcome];
    const port = this.#ports[outcome >>> 24];
    if (port.room === 0) return false;
    turnHeaders(this.#umem.words, this.#entries, at, e, length);
    const begin = (outcome >>> 16) & BEGIN_BITS;
    const size = length + IP_AT + PACKET_HEADER_BYTES - begin;
    port.queue(at + begin, size);
    if (this.#capture.wanted) this.#capture.sent(this.#umem.bytes, at + begin, size, port.ifindex);
    return true;
  }

  /**
   * Does that to the datagrams whose rows in `arrivals` begin at the words that `picked` lists from
   * `from` on, by the entries there. Returns how far it came: the next has none by which it can leave
   * at once, or its ring is full.
   */
  turnRun(arrivals: RxBatch, picked: Int32Array, from: number, end: number): number {
    const frames = this.#umem.words;
    const cache = this.#cache;
    const entries = cache.words;
    const ports = this.#ports;
    const { rows } = arrivals;
    // Nothing changes in here.
    const isCurrent = arrivals.changes === cache.changes;
    let port: XdpPort | undefined;
    let number = -1;
    let room = 0;
    let i = from;
    for (; i < end; i++) {
      const row = picked[i & (BURST - 1)];
      const e = rows[row + Arrival.entry];
      const length = rows[row + Arrival.length];
      const leads = isCurrent
        ? cache.admits(e, length)
        : cache.leads(e, rows[row + Arrival.source], rows[row + Arrival.destination], length);
      // Port 0 is nobody's.
      if (!leads || rows[row + Arrival.ports] >>> 16 === 0) break;
      const outcome = entries[(e & MOST_WORDS) + Entry.outcome];
      if (outcome >>> 24 !== number) {
        number = outcome >>> 24;
        port = ports[number];
        room = port.room;
      }
      if (room-- === 0) break;
      const at = rows[row + Arrival.offset] - PAYLOAD_AT;
      turnHeaders(frames, entries, at, e, length);
      const begin = (outcome >>> 16) & BEGIN_BITS;
      port!.queue(at + begin, length + PAYLOAD_AT - begin);
    }
    if (this.#capture.wanted) this.#showTurned(rows, picked, from, i);
    return i;
  }

  /** Shows the frames that were queued. */
  #show(rows: Int32Array, count: number): void {
    const entries = this.#entries;
    for (let i = 0; i < count; i++) {
      const row = i << ROW_SHIFT;
      const e = rows[row + Row.entry];
      if (e < 0) continue;
      const outcome = entries[e + Entry.outcome];
      const begin = (outcome >>> 16) & BEGIN_BITS;
      const size = rows[row + Row.length] + IP_AT + PACKET_HEADER_BYTES - begin;
      const { ifindex } = this.#ports[outcome >>> 24];
      this.#capture.sent(this.#umem.bytes, rows[row + Row.frame] + begin, size, ifindex);
    }
  }

  /** Shows the datagrams that were turned round. */
  #showTurned(rows: Int32Array, picked: Int32Array, from: number, end: number): void {
    for (let i = from; i < end; i++) {
      const row = picked[i];
      const outcome = this.#entries[rows[row + Arrival.entry] + Entry.outcome];
      const begin = (outcome >>> 16) & BEGIN_BITS;
      const at = rows[row + Arrival.offset] - PAYLOAD_AT + begin;
      const size = rows[row + Arrival.length] + PAYLOAD_AT - begin;
      this.#capture.sent(this.#umem.bytes, at, size, this.#ports[outcome >>> 24].ifindex);
    }
  }
}

/*
 * Outgoing frames: the payload is copied once, its checksum taken on the way, and finished headers
 * are put before it from the route cache. In every frame that leaves, the IPv4 header stands at the
 * same place and the Ethernet header, with as many tags as it needs, ends there:
 *
 *     0        10          24            44         52
 *     │  (free) │ Ethernet │ IPv4 header │ UDP header │ payload …
 *
 * so that everything but the Ethernet header is aligned to words, and a frame can be held while its
 * headers are not known yet. Byte order: headers are written as words of a little-endian machine.
 */

/** Where the Ethernet header begins when it has no tags. */
const UNTAGGED_BEGIN = LINK_BYTES - ETHERNET_BYTES;

/**
 * Copies the payload of each row that has a frame from `source` into it, and stores the one's
 * complement sum, not folded. What is summed is what was copied, even if the source changes meanwhile.
 */
export function copyPayloads(
  source: DataView,
  frames: Int32Array,
  rows: Int32Array,
  count: number,
): void {
  for (let i = 0; i < count; i++) {
    const row = (i & (BURST - 1)) << ROW_SHIFT;
    if (rows[row + Row.entry] < 0) continue;
    const length = rows[row + Row.length];
    let at = rows[row + Row.offset];
    let to = (rows[row + Row.frame] + PAYLOAD_AT) >>> 2;
    let low = 0;
    let high = 0;
    for (const end = to + (length >>> 2); to < end; to++) {
      const word = source.getInt32(at, true);
      frames[to] = word;
      low += word & 0xffff;
      high += word >>> 16;
      at += 4;
    }
    if ((length & 3) !== 0) {
      const word = lastBytes(source, at, length & 3);
      frames[to] = word;
      low += word & 0xffff;
      high += word >>> 16;
    }
    rows[row + Row.sum] = low + high;
  }
}

/** The same for payloads that stand in their frames already. */
export function sumPayloads(frames: Int32Array, rows: Int32Array, count: number): void {
  for (let i = 0; i < count; i++) {
    const row = (i & (BURST - 1)) << ROW_SHIFT;
    if (rows[row + Row.entry] < 0) continue;
    const at = ((rows[row + Row.frame] + PAYLOAD_AT) & MOST_BYTES) >>> 2;
    rows[row + Row.sum] = sumWords(frames, at, rows[row + Row.length]);
  }
}

/** One to three bytes at `at` as a word, padded with zeros. */
function lastBytes(source: DataView, at: number, count: number): number {
  if (count === 1) return source.getUint8(at);
  const word = source.getUint16(at, true);
  return count === 2 ? word : word | (source.getUint8(at + 2) << 16);
}

/**
 * Writes the headers of the frame of the row at word `row` of `rows`, payload in place, from its entry
 * of the route cache. Frames begin at multiples of four.
 */
export function writeHeaders(
  frames: Int32Array,
  entries: Int32Array,
  rows: Int32Array,
  row: number,
): void {
  const e = rows[row + Row.entry] & MOST_WORDS;
  const w = (rows[row + Row.frame] & MOST_BYTES) >>> 2;
  const ports = rows[row + Row.ports];
  const length = rows[row + Row.length] & 0xffff;
  writePacketHeader(frames, entries, w, e, length);

  // Bytes changed over within each port, then the ports with each other: network order.
  const swapped = ((ports & 0x00ff00ff) << 8) | ((ports >>> 8) & 0x00ff00ff);
  const udpLength = swap16(length + UDP_BYTES);
  // The length counts twice, in the pseudo header and in the UDP header itself.
  const sum = (entries[e + Entry.sums] & 0xffff) + 2 * udpLength + halves(swapped) +
    rows[row + Row.sum];
  const udpSum = ~fold(sum) & 0xffff;
  frames[w + 11] = (swapped << 16) | (swapped >>> 16);
  // A sum of 0 means "no checksum" and is sent as its other form (RFC 768).
  frames[w + 12] = udpLength | ((udpSum === 0 ? 0xffff : udpSum) << 16);
}

/**
 * Turns the headers of a received datagram round, whose payload of `length` bytes is in place in the
 * frame at byte `at` and whose sender's entry is at `e`. Addresses and ports only change places, which
 * no one's complement sum takes note of: its UDP checksum stays as it is (RFC 1071 §2).
 */
export function turnHeaders(
  frames: Int32Array,
  entries: Int32Array,
  at: number,
  e: number,
  length: number,
): void {
  const w = (at & MOST_BYTES) >>> 2;
  writePacketHeader(frames, entries, w, e & MOST_WORDS, length & 0xffff);
  const ports = frames[w + 11];
  frames[w + 11] = (ports << 16) | (ports >>> 16);
}

/** Writes what comes before the UDP header of the frame at word `w`. */
function writePacketHeader(
  frames: Int32Array,
  entries: Int32Array,
  w: number,
  e: number,
  length: number,
): void {
  if (((entries[e + Entry.outcome] >>> 16) & BEGIN_BITS) < UNTAGGED_BEGIN) {
    frames[w] = entries[e + Entry.link];
    frames[w + 1] = entries[e + Entry.link + 1];
  }
  frames[w + 2] = entries[e + Entry.link + 2];
  frames[w + 3] = entries[e + Entry.link + 3];
  frames[w + 4] = entries[e + Entry.link + 4];
  frames[w + 5] = entries[e + Entry.link + 5];

  const total = swap16(length + PACKET_HEADER_BYTES);
  frames[w + 6] = VERSION_WORD | (total << 16);
  frames[w + 7] = FRAGMENT_WORD;
  frames[w + 8] = PROTOCOL_WORD | (~fold((entries[e + Entry.sums] >>> 16) + total) << 16);
  frames[w + 9] = entries[e + Entry.sourceBe];
  frames[w + 10] = entries[e + Entry.destinationBe];
}
