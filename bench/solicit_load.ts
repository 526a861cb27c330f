// SPDX-License-Identifier: Apache-2.0
/**
 * A worker that requests neighbours from the netlink tile like a net tile under attack: random addresses in its solicit
 * link, and between them the few whose time is measured. It polls netbase without a pause, so that the times are those of
 * the netlink tile and the kernel.
 */

import type { View } from "../ffi/region.ts";
import { openNetlink } from "../ffi/sockets.ts";
import { openTile } from "../ffi/tile.ts";
import { NUD_REACHABLE, NUD_STALE } from "../netbase/neighbors.ts";
import { NetbaseReader } from "../netbase/netbase.ts";
import { NLM_F_REPLACE } from "../netbase/route.ts";
import { SolicitProducer } from "../tiles/net/arp_queue.ts";
import * as nl from "../tiles/netlink/rtnetlink.ts";
import { RTM_DELNEIGH, writeNeighbor } from "../tiles/netlink/rtnetlink.ts";
import { TileReader, Waker } from "../tiles/runtime/tile.ts";
import { MessageWriter } from "../tests/message_writer.ts";
import { Random } from "./routes.ts";

/** The worker's setup, its first message. Addresses in host order. */
export interface LoadStart {
  readonly link: View;
  readonly netbase: View;
  /** The netlink tile's region and eventfd, to wake it. */
  readonly tile: View;
  readonly eventfd: number;
  readonly ifindex: number;
  /** Two gateways that a route alternates between, and that are not used otherwise. */
  readonly turns: readonly [number, number];
  readonly gateway: number;
  readonly known: number;
  readonly client: number;
  /** Addresses that are requested twice, each once: the first, and their number. */
  readonly strangers: { readonly first: number; readonly count: number };
}

/** A round, its further messages. */
export interface LoadOrder {
  readonly millis: number;
  /** Random addresses a second; Infinity: as many as possible. */
  readonly rate: number;
  /** Their range: the first address, and 2 to the power of `bits` addresses. */
  readonly first: number;
  readonly bits: number;
}

/** The results. Times in milliseconds. */
export interface LoadResult {
  /** Addresses put into the link. */
  readonly offered: number;
  readonly times: Readonly<Record<ProbeName, readonly number[]>>;
}

export type ProbeName = "event" | "client" | "gateway" | "known" | "twice";

/** Addresses between two polls of the clock and of netbase. */
const CHUNK = 256;
const REST_MILLIS = 5;
/** How often a net tile repeats a request while it has a datagram. */
const ASK_AGAIN_MILLIS = 100;
/** How long a client waits before it tries again. */
const RETRY_MILLIS = 300;
const DESTINATION = 0xcb007100;
/** Strangers that are requested at a time. */
const STRANGERS = 16;
const MAC = Uint8Array.of(2, 0, 0, 0, 0, 9);

interface Scope {
  onmessage: ((event: MessageEvent<LoadStart | LoadOrder>) => void) | null;
  postMessage(message: LoadResult): void;
}

const scope = globalThis as unknown as Scope;
let load: Load;
scope.onmessage = ({ data }) => {
  if ("link" in data) load = new Load(data);
  else scope.postMessage(load.run(data));
};

/** Something that is timed repeatedly. */
interface Probe {
  readonly name: ProbeName;
  /** Makes it unknown, or restores another initial state. */
  prepare(): void;
  prepared(): boolean;
  begin(): void;
  /** How often it is repeated until its result is seen, in milliseconds. The clock starts with the first. */
  readonly again?: number;
  /** Whether the clock starts with the second. */
  readonly fromSecond?: boolean;
  seen(): boolean;
}

/** The state of a probe. */
class Run {
  readonly times: number[] = [];
  readonly probe: Probe;
  #phase: "rests" | "prepares" | "waits" = "rests";
  #due = 0;
  #begin = 0;
  #count = 0;

  constructor(probe: Probe) {
    this.probe = probe;
  }

  turn(now: number): void {
    const { probe } = this;
    if (this.#phase === "rests" && now >= this.#due) {
      probe.prepare();
      this.#phase = "prepares";
    } else if (this.#phase === "prepares" && probe.prepared()) {
      this.#phase = "waits";
      this.#count = 0;
      this.#ask(now);
    } else if (this.#phase === "waits") {
      if (probe.seen()) this.#seen(now);
      else if (probe.again !== undefined && now >= this.#due) this.#ask(now);
    }
  }

  #ask(now: number): void {
    this.#count++;
    if (this.#count === (this.probe.fromSecond ? 2 : 1)) this.#begin = now;
    this.#due = now + (this.probe.again ?? 0);
    this.probe.begin();
  }

  #seen(now: number): void {
    // A result by chance, before the second request, does not count.
    if (!this.probe.fromSecond || this.#count >= 2) this.times.push(now - this.#begin);
    this.#phase = "rests";
    this.#due = now + REST_MILLIS;
  }
}

class Load {
  readonly #start: LoadStart;
  readonly #library = openNetlink();
  readonly #socket = this.#library.open({ groups: [], receiveBuffer: 1 << 16, strict: false });
  readonly #writer = new MessageWriter();
  readonly #producer: SolicitProducer;
  readonly #waker: Waker;
  readonly #reader: NetbaseReader;
  readonly #random = new Random(11);
  readonly #drain = new Uint8Array(1 << 15);
  readonly #lengths = new Uint32Array(1);
  #turn = 0;
  #strangers = 0;

  constructor(start: LoadStart) {
    this.#start = start;
    this.#producer = new SolicitProducer(start.link);
    const { wake } = openTile();
    this.#waker = new Waker(new TileReader(start.tile), () => wake(start.eventfd));
    this.#reader = new NetbaseReader(start.netbase);
  }

  run({ millis, rate, first, bits }: LoadOrder): LoadResult {
    const runs = this.#probes().map((probe) => new Run(probe));
    const begin = performance.now();
    let offered = 0;
    for (let now = begin; now - begin < millis; now = performance.now()) {
      if (offered < (now - begin) * rate / 1000) {
        this.#flood(first, bits);
        offered += CHUNK;
      }
      this.#reader.refresh();
      for (const run of runs) run.turn(now);
      if (this.#producer.publish()) this.#waker.published();
    }
    while (this.#library.receive(this.#socket, this.#drain, this.#lengths, 1 << 15) > 0);
    const times = { event: [], client: [], gateway: [], known: [], twice: [] } as Record<
      ProbeName,
      number[]
    >;
    for (const { probe, times: own } of runs) times[probe.name].push(...own);
    return { offered, times };
  }

  #flood(first: number, bits: number): void {
    const { ifindex } = this.#start;
    for (let i = 0; i < CHUNK; i++) {
      this.#producer.push(ifindex, (first + (this.#random.next() >>> (32 - bits))) >>> 0);
    }
  }

  #probes(): Probe[] {
    const { ifindex, turns, gateway, known, client } = this.#start;
    const record = (address: number) => this.#reader.neighbors.lookup(ifindex, address);
    const unknown = (address: number) => ({
      prepare: () => this.#forget(address),
      prepared: () => record(address) < 0,
      seen: () => record(address) >= 0,
    });
    const { neighbors } = this.#reader;
    return [
      {
        name: "event",
        prepare: () => {},
        prepared: () => true,
        begin: () => this.#route(turns[++this.#turn & 1]),
        seen: () => {
          const id = this.#reader.fib.lookup(DESTINATION + 7);
          return this.#reader.nextHops.gateway(id) === turns[this.#turn & 1];
        },
      },
      // The kernel's event when a client's ARP request has arrived.
      { name: "client", ...unknown(client), begin: () => this.#neighbor(client, MAC) },
      {
        name: "gateway",
        ...unknown(gateway),
        begin: () => this.#producer.push(ifindex, gateway),
        again: ASK_AGAIN_MILLIS,
      },
      {
        name: "known",
        prepare: () => this.#neighbor(known),
        prepared: () => neighbors.refreshWanted(record(known)),
        begin: () => this.#producer.push(ifindex, known),
        again: ASK_AGAIN_MILLIS,
        seen: () => neighbors.state(record(known)) === NUD_REACHABLE,
      },
      ...Array.from({ length: STRANGERS }, () => this.#twice()),
    ];
  }

  /** Requests one stranger after another, each for the first time. */
  #twice(): Probe {
    const { ifindex, strangers: { first, count } } = this.#start;
    const known = () => this.#reader.neighbors.lookup(ifindex, address) >= 0;
    let address = 0;
    return {
      name: "twice",
      prepare: () => {
        // Deletes the previous one. Otherwise they would fill the kernel's table.
        if (address > 0) this.#forget(address);
        this.#forget(address = first + this.#strangers++ % count);
      },
      prepared: () => !known(),
      begin: () => this.#producer.push(ifindex, address),
      again: RETRY_MILLIS,
      fromSecond: true,
      seen: known,
    };
  }

  #forget(address: number): void {
    const { ifindex } = this.#start;
    this.#send(writeNeighbor(this.#writer, RTM_DELNEIGH, { ifindex, address }));
  }

  /** Makes a neighbour STALE. A new one needs a MAC. */
  #neighbor(address: number, mac?: Uint8Array): void {
    const flags = nl.NLM_F_REQUEST | nl.NLM_F_CREATE | NLM_F_REPLACE;
    const writer = this.#writer.begin({ type: nl.RTM_NEWNEIGH, flags });
    writer.u8(nl.AF_INET).u8(0).u16(0).u32(this.#start.ifindex).u16(NUD_STALE).u8(0).u8(0);
    writer.address(nl.NDA_DST, address);
    if (mac !== undefined) writer.raw(nl.NDA_LLADDR, mac);
    this.#send(writer.finish());
  }

  #route(gateway: number): void {
    const flags = nl.NLM_F_REQUEST | nl.NLM_F_CREATE | NLM_F_REPLACE;
    const writer = this.#writer.begin({ type: nl.RTM_NEWROUTE, flags });
    // struct rtmsg: family, lengths, tos; table main, protocol boot, scope universe, unicast; flags.
    writer.u8(nl.AF_INET).u8(24).u8(0).u8(0).u8(254).u8(3).u8(0).u8(1).u32(0);
    writer.address(nl.RTA_DST, DESTINATION).word(nl.RTA_OIF, this.#start.ifindex);
    this.#send(writer.address(nl.RTA_GATEWAY, gateway).finish());
  }

  #send(length: number): void {
    if (this.#library.send(this.#socket, this.#writer.bytes, length) !== length) {
      throw new Error("the kernel did not take a request");
    }
  }
}
