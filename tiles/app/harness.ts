// SPDX-License-Identifier: Apache-2.0
/**
 * Runs an app for its tests, without root or network: the real app side of a link, with memory
 * instead of a net tile at the other end.
 *
 * @example
 * ```ts
 * import { AppHarness } from "./harness.ts";
 * import * as echo from "../../apps/echo.ts";
 *
 * const harness = await AppHarness.start(echo, { ports: [7] });
 * const [answer] = harness.ask({ payload: "hello", port: 7 });
 * if (new TextDecoder().decode(answer.payload) !== "hello") throw new Error("no echo");
 * ```
 */

import { heapView, u8, type View } from "../../ffi/region.ts";
import { formatAddress, parseAddress } from "../../netbase/route.ts";
import { RECENT_PEERS_BYTES, RecentPeers } from "../net/app_link.ts";
import { APP, readCounters } from "../runtime/counters.ts";
import * as link from "../runtime/link.ts";
import { LINK_DEPTH, linkShapeOf } from "../runtime/plan.ts";
import { TILE_REGION_BYTES } from "../runtime/tile.ts";
import { Address, Prefix } from "./address.ts";
import type { AppContext, Beside, HeaderFields } from "./contract.ts";
import {
  makeBeside,
  makeService,
  NetSide,
  type RefusalSetup,
  type Service,
  tosTtlOf,
} from "./host.ts";
import { MAILBOX_BYTES, MailboxEnd } from "./mailbox.ts";
import {
  AppState,
  METRICS_BYTES,
  MetricsWriter,
  readMetrics,
  stateRegionBytes,
} from "./regions.ts";

/** Bytes of the memory that simulates a UMEM: the payloads of a burst. */
const UMEM_BYTES = 1 << 22;
/** Answers that a net tile would drop, by its counters. */
const NOT_DROPPED = {
  tx_drop_port_not_owned: 0,
  tx_drop_port_zero: 0,
  tx_drop_unsolicited: 0,
};

/** Settings that the harness provides instead of the host. All have defaults. */
export interface HarnessOptions extends
  Partial<
    Pick<AppContext, "ports" | "ownPorts" | "instance" | "instances" | "options" | "clock">
  >,
  RefusalSetup {
  /** Every port that is served; the app's own when left out. */
  readonly served?: readonly number[];
  /** Prefixes to which it may send unsolicited datagrams, as `send_to` of the configuration. */
  readonly sendTo?: readonly string[];
  /** The module of its slow side, which runs in this process and gets no listeners. */
  readonly beside?: { default?: unknown };
  /** Bytes of its state, or the `state` of its predecessor's harness. */
  readonly state?: number | View;
  /** How many datagrams its link holds in each direction, as `depth` of the configuration; 1,024. */
  readonly depth?: number;
  /** When it starts, milliseconds since 1970 UTC; now when left out. From then on the test sets the time. */
  readonly startsAt?: number;
}

/** A datagram to give to the app. */
export interface Asked extends HeaderFields {
  readonly payload: Uint8Array | string;
  /** Its source address; 198.18.0.2 when left out. */
  readonly sourceAddress?: string;
  readonly sourcePort?: number;
  /** Our address; 198.18.0.1 when left out. */
  readonly address?: string;
  /** Our port; the app's first when left out. */
  readonly port?: number;
  /** Nanoseconds since 1970 UTC; the harness's `now` when left out. */
  readonly receivedAt?: number;
}

export interface Answered extends Required<HeaderFields> {
  readonly payload: Uint8Array<ArrayBuffer>;
  readonly address: string;
  readonly port: number;
  /** Our address; 0.0.0.0: the one that the kernel would choose. */
  readonly sourceAddress: string;
  readonly sourcePort: number;
}

export class AppHarness {
  readonly logged: string[] = [];
  /** The memory of its state, for a successor. */
  readonly state?: View;
  readonly #ports: readonly number[];
  /** Its ports, its own ones included. */
  readonly #served: readonly number[];
  readonly #metrics = heapView(METRICS_BYTES);
  readonly #besideMetrics = heapView(METRICS_BYTES);
  readonly #umem = heapView(UMEM_BYTES + link.PAYLOAD_MARGIN);
  readonly #shape: link.LinkShape;
  readonly #counters = new Float64Array(Object.keys(APP.help).length);
  readonly #side: NetSide;
  readonly #requests: link.LinkProducer;
  readonly #answers: link.LinkConsumer;
  readonly #ring: Uint8Array;
  readonly #heard = new RecentPeers(heapView(RECENT_PEERS_BYTES), 0);
  readonly #sendTo: readonly Prefix[];
  readonly #dropped = { ...NOT_DROPPED };
  #millis: number;
  readonly #mailbox?: { readonly own: MailboxEnd; readonly ofBeside: MailboxEnd };
  #service!: Service;
  #beside?: Beside;

  private constructor(options: HarnessOptions) {
    this.#millis = options.startsAt ?? Date.now();
    const { state, ports = [7], ownPorts = [] } = options;
    this.#ports = ports;
    this.#served = [...ports, ...ownPorts];
    this.state = typeof state === "number" ? heapView(stateRegionBytes(state)) : state;
    this.#sendTo = (options.sendTo ?? []).map((text) => {
      const prefix = Prefix.parse(text);
      if (prefix === null) {
        throw new RangeError(`sendTo: '${text}' is not an IPv4 address or prefix`);
      }
      return prefix;
    });
    const shape = this.#shape = linkShapeOf(options.depth ?? LINK_DEPTH, { isAlone: true });
    const [net, own] = [heapView(link.netLinkBytes(shape)), heapView(link.appLinkBytes(shape))];
    const tile = heapView(TILE_REGION_BYTES);
    this.#side = new NetSide(
      { own, peer: net, payloads: this.#umem, shape, tile },
      { counters: this.#counters, firstPort: this.#served[0], wake() {} },
    );
    this.#requests = new link.LinkProducer(net, own, shape);
    this.#answers = new link.LinkConsumer(net, own, shape);
    this.#ring = link.payloadRing(own, shape);
    if (options.beside === undefined) return;
    const [here, there] = [heapView(MAILBOX_BYTES), heapView(MAILBOX_BYTES)];
    this.#mailbox = {
      own: new MailboxEnd({ own: here, peer: there }, () => {}),
      ofBeside: new MailboxEnd({ own: there, peer: here }, () => {}),
    };
  }

  /** Starts the app of `module` as its process would. Throws Error if the app is wrong. */
  static async start(
    module: { default?: unknown; answer?: unknown },
    options: HarnessOptions = {},
  ): Promise<AppHarness> {
    const harness = new AppHarness(options);
    const state = harness.state && new AppState(harness.state);
    state?.open();
    const context = { name: "app", ports: harness.#ports, options: options.options ?? {} };
    harness.#service = await makeService(module, {
      ...context,
      ownPorts: options.ownPorts,
      instance: options.instance,
      instances: options.instances,
      served: options.served ?? harness.#served,
      refuseSources: options.refuseSources,
      mostPerSecond: options.mostPerSecond,
      metrics: harness.#metrics,
    }, {
      counters: harness.#counters,
      log: (line) => harness.logged.push(line),
      clock: options.clock,
      state,
      mailbox: harness.#mailbox?.own,
      now: () => harness.#millis,
      date: () => harness.#millis,
    });
    if (options.beside !== undefined) {
      harness.#beside = await makeBeside(options.beside, context, {
        mailbox: harness.#mailbox!.ofBeside,
        listeners: [],
        metrics: new MetricsWriter(harness.#besideMetrics),
        log: (line) => harness.logged.push(line),
      });
      await harness.#beside.begin?.();
    }
    return harness;
  }

  /**
   * Gives the app a burst of at most its `depth`, 64 datagrams at a time, and returns the sent
   * datagrams, without those that a net tile would drop and count. There is room again only after
   * the whole burst. The datagrams that the app then sends in `drain` are returned, too.
   */
  ask(...burst: readonly Asked[]): Answered[] {
    let offset = 0;
    for (const asked of burst) offset += this.#push(asked, offset);
    this.#requests.publish();
    while (this.#side.take() > 0) {
      this.#service.receive(this.#side.requests, this.#side.answers);
      this.#side.finish();
    }
    this.#requests.refresh();
    return this.#sent();
  }

  /** The app's time in nanoseconds since 1970 UTC. Only `tick` and `advance` change it. */
  get now(): number {
    return this.#millis * 1e6;
  }

  /** Advances to the app's next timer, such as its tick, and returns the sent datagrams. */
  tick(): Answered[] {
    return this.advance(Math.max(0, this.#service.nextDue(this.#millis)));
  }

  /** Advances by `millis` milliseconds, calls each timer when due, and returns the sent datagrams. */
  advance(millis: number): Answered[] {
    const end = this.#millis + millis;
    const sent: Answered[] = [];
    for (;;) {
      const due = this.#service.nextDue(this.#millis);
      if (due < 0 || this.#millis + due > end) break;
      this.#millis += due;
      this.#side.answers.refresh();
      this.#service.clock(this.#millis, this.#side.answers);
      this.#side.finish();
      sent.push(...this.#sent());
    }
    this.#millis = end;
    return sent;
  }

  /** Delivers all messages of the app and its slow side, and returns the datagrams that the app sent. */
  deliver(): Answered[] {
    const { own, ofBeside } = this.#mailbox!;
    const { answers } = this.#side;
    while (own.waiting || ofBeside.waiting) {
      answers.refresh();
      this.#service.mail(own, answers);
      this.#side.finish();
      ofBeside.take((bytes) => this.#beside?.mail?.(bytes));
    }
    return this.#sent();
  }

  async end(): Promise<void> {
    await this.#beside?.end?.();
  }

  /**
   * Counters of the tile, drops of its net tile, and the app's own metrics, by name: `rate`, with labels
   * `rate{zone="a"}`; of a histogram each bucket, `size ≤ 64` and `size ≤ ∞`, and `size sum`.
   */
  get counters(): Record<string, number> {
    const all = [this.#metrics, this.#besideMetrics].flatMap(readMetrics);
    const own = all.flatMap((metric) => {
      const labels = Object.entries(metric.labels).map(([label, value]) => `${label}="${value}"`);
      const shown = labels.length === 0 ? "" : `{${labels}}`;
      if (metric.kind !== "histogram") return [[`${metric.name}${shown}`, metric.value]];
      const { name, bounds, counts, sum } = metric;
      return [
        ...counts.map((count, i) => [`${name}${shown} ≤ ${bounds[i] ?? "∞"}`, count]),
        [`${name}${shown} sum`, sum],
      ];
    });
    return { ...readCounters("app", this.#counters), ...this.#dropped, ...Object.fromEntries(own) };
  }

  /** Writes a request, its payload at `offset`, and returns its size in bytes. */
  #push(asked: Asked, offset: number): number {
    const { payload, sourceAddress = "198.18.0.2", sourcePort = 40_000 } = asked;
    const { receivedAt = this.now } = asked;
    const [source, destination] = [sourceAddress, asked.address ?? "198.18.0.1"].map((text) => {
      if (parseAddress(text) < 0) throw new RangeError(`'${text}' is not an IPv4 address`);
      return parseAddress(text);
    });
    const bytes = typeof payload === "string" ? new TextEncoder().encode(payload) : payload;
    const port = asked.port ?? this.#ports[0];
    if (this.#requests.free === 0 || offset + bytes.length > UMEM_BYTES) {
      throw new RangeError(
        `a burst has at most ${this.#shape.depth} datagrams and ${UMEM_BYTES} bytes`,
      );
    }
    u8(this.#umem).set(bytes, offset);
    const { words } = this.#requests;
    const slot = this.#requests.slot();
    words[slot + link.Descriptor.offset] = offset;
    words[slot + link.Descriptor.length] = bytes.length | (tosTtlOf(asked) << 16);
    words[slot + link.Descriptor.source] = source;
    words[slot + link.Descriptor.destination] = destination;
    words[slot + link.Descriptor.ports] = (sourcePort << 16) | port;
    words[slot + link.Descriptor.timeLow] = receivedAt % 2 ** 32;
    words[slot + link.Descriptor.timeHigh] = receivedAt / 2 ** 32;
    this.#requests.push();
    this.#heard.add(source | 0);
    return (bytes.length + 7) & ~7;
  }

  /** The app's answers that a net tile would send; the others are counted (`../net/tx.ts`). */
  #sent(): Answered[] {
    const sent: Answered[] = [];
    for (;;) {
      const count = this.#answers.available();
      for (let i = 0; i < count; i++) {
        const answered = this.#read(this.#answers.slot(i));
        const dropped = this.#refused(answered);
        if (dropped === null) sent.push(answered);
        else this.#dropped[dropped]++;
      }
      this.#answers.release(count);
      if (!this.#service.drains || !this.#side.drains) return sent;
      this.#side.drain(this.#service);
    }
  }

  /** The answer whose descriptor begins at word `slot`. */
  #read(slot: number): Answered {
    const { words } = this.#answers;
    const [offset, length] = [
      words[slot + link.Descriptor.offset],
      words[slot + link.Descriptor.length],
    ];
    if (length === link.REFLECTED) return this.#reflected(offset);
    const payload = new Uint8Array(this.#ring.subarray(offset, offset + length));
    const request = words[slot + link.Descriptor.request];
    const fields = fieldsOf(words[slot + link.Descriptor.tosTtl]);
    if (request !== 0) return { ...this.#reflected(request - 1), payload, ...fields };
    const ports = words[slot + link.Descriptor.ports];
    return {
      payload,
      address: formatAddress(words[slot + link.Descriptor.destination]),
      port: ports & 0xffff,
      sourceAddress: formatAddress(words[slot + link.Descriptor.source]),
      sourcePort: ports >>> 16,
      ...fields,
    };
  }

  /** The drop reason of an answer; null if it is sent. */
  #refused({ address, port, sourcePort }: Answered): keyof typeof NOT_DROPPED | null {
    if (!this.#served.includes(sourcePort)) return "tx_drop_port_not_owned";
    if (port === 0) return "tx_drop_port_zero";
    const to = Address.parse(address)!;
    const isAllowed = this.#sendTo.some((prefix) => to.isIn(prefix)) ||
      this.#heard.has(to.ipv4 | 0);
    return isAllowed ? null : "tx_drop_unsolicited";
  }

  /** The request of descriptor `place`, sent back unchanged. */
  #reflected(place: number): Answered {
    const { words } = this.#requests;
    const slot = link.linkWords(this.#shape).base + place * link.DESCRIPTOR_WORDS;
    const offset = words[slot + link.Descriptor.offset];
    const ports = words[slot + link.Descriptor.ports];
    return {
      payload: u8(this.#umem).slice(
        offset,
        offset + (words[slot + link.Descriptor.length] & 0xffff),
      ),
      address: formatAddress(words[slot + link.Descriptor.source]),
      port: ports >>> 16,
      sourceAddress: formatAddress(words[slot + link.Descriptor.destination]),
      sourcePort: ports & 0xffff,
      ...fieldsOf(0),
    };
  }
}

/** The header fields of a word as in `Descriptor.tosTtl`. */
function fieldsOf(tosTtl: number): Required<HeaderFields> {
  return { ttl: tosTtl & 0xff || 64, dscp: tosTtl >>> 10, ecn: (tosTtl >>> 8) & 3 };
}
