/**
 * A worker that asks the netlink tile for neighbours as a net tile under attack does: random
 * addresses into its solicit link, and between them the few whose time is taken. It looks at netbase
 * without pause, so that what it tells is the netlink tile's time and the kernel's.
 */

import type { View } from "../ffi/region.ts";
import { openNetlink } from "../ffi/sockets.ts";
import { openTile } from "../ffi/tile.ts";
import { NUD_REACHABLE, NUD_STALE } from "../netbase/neighbors.ts";
import { NetbaseReader } from "../netbase/netbase.ts";
import { SolicitProducer } from "../tiles/net/arp_queue.ts";
import * as nl from "../tiles/netlink/rtnetlink.ts";
import { MessageWriter, writeDeleteNeighbor } from "../tiles/netlink/rtnetlink.ts";
import { TileReader, Waker } from "../tiles/runtime/tile.ts";
import { Random } from "./routes.ts";

/** What the worker is sent first. Addresses in host order. */
export interface LoadStart {
  readonly link: View;
  readonly netbase: View;
  /** The netlink tile's region and eventfd, to wake it. */
  readonly tile: View;
  readonly eventfd: number;
  readonly ifindex: number;
  /** Two gateways that a route goes to in turn, neither of which is touched otherwise. */
  readonly turns: readonly [number, number];
  readonly gateway: number;
  readonly known: number;
  readonly client: number;
  /** Those who are asked for twice, each once in its turn: from here on, so many. */
  readonly strangers: { readonly first: number; readonly count: number };
}

/** What it is to do then, as often as it is told to. */
export interface LoadOrder {
  readonly millis: number;
  /** Random addresses a second; Infinity: as many as it can. 0: none. */
  readonly rate: number;
  /** Where they are: from here on, 2 to the `bits` of them. */
  readonly first: number;
  readonly bits: number;
}

/** What came of it. Times in milliseconds. */
export interface LoadResult {
  /** Addresses put into the link. */
  readonly offered: number;
  readonly times: Readonly<Record<ProbeName, readonly number[]>>;
}

export type ProbeName = "event" | "client" | "gateway" | "known" | "twice";

/** Pushed between two looks at the clock and at netbase. */
const CHUNK = 256;
const REST_MILLIS = 5;
/** A net tile asks again for whom it has a datagram for. */
const ASK_AGAIN_MILLIS = 100;
/** A client tries again after this long. */
const RETRY_MILLIS = 300;
const DESTINATION = 0xcb007100;
/** Strangers that are asked for at a time. */
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

/** Something whose time is taken again and again. */
interface Probe {
  readonly name: ProbeName;
  /** Makes it unknown, or whatever comes before. */
  prepare(): void;
  prepared(): boolean;
  begin(): void;
  /** How often it is begun again until it is seen, in milliseconds; the clock starts with the first. */
  readonly again?: number;
  /** The clock starts when it is begun again for the first time. */
  readonly fromSecond?: boolean;
  seen(): boolean;
}

/** Where a probe stands. */
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
    // One that came by chance, before it was asked for twice, is no figure.
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
      // What the kernel tells when a client's ARP request has come.
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

  /** DemandCounter for one stranger after the other: whom nobody has asked for before. */
  #twice(): Probe {
    const { ifindex, strangers: { first, count } } = this.#start;
    const known = () => this.#reader.neighbors.lookup(ifindex, address) >= 0;
    let address = 0;
    return {
      name: "twice",
      prepare: () => {
        // The one before gives back its place in the kernel's table, which all of them would fill.
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
    this.#send(writeDeleteNeighbor(this.#writer, { ifindex, address }));
  }

  /** Makes a neighbour STALE; one that is not there needs a MAC. */
  #neighbor(address: number, mac?: Uint8Array): void {
    const flags = nl.NLM_F_REQUEST | nl.NLM_F_CREATE | nl.NLM_F_REPLACE;
    const writer = this.#writer.begin({ type: nl.RTM_NEWNEIGH, flags });
    writer.u8(nl.AF_INET).u8(0).u16(0).u32(this.#start.ifindex).u16(NUD_STALE).u8(0).u8(0);
    writer.address(nl.NDA_DST, address);
    if (mac !== undefined) writer.raw(nl.NDA_LLADDR, mac);
    this.#send(writer.finish());
  }

  #route(gateway: number): void {
    const flags = nl.NLM_F_REQUEST | nl.NLM_F_CREATE | nl.NLM_F_REPLACE;
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
