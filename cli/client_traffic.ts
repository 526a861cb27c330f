/**
 * Traffic that an ordinary client makes, with the kernel's own sockets: numbered datagrams at a
 * steady pace over one or more flows, each answer compared with what was sent, byte by byte and
 * address by address.
 *
 * @module
 */

import { createSocket, type Socket } from "node:dgram";

/** One end of a datagram's way. */
export interface Address {
  /** IPv4, dotted. */
  readonly address: string;
  readonly port: number;
}

/** One flow: a socket bound to `source`, sending to `target`. */
export interface Flow {
  /** IPv4 address of this host to send from. */
  readonly source: string;
  /** IPv4 address to send to. */
  readonly target: string;
  readonly port: number;
}

/** What to send. */
export interface TrafficOptions {
  readonly flows: readonly Flow[];
  /** Datagrams per second, all flows together. */
  readonly rate: number;
}

/** Datagrams in a row that were not answered. Times in milliseconds since the epoch. */
export interface Gap {
  /** Number of the first of them; datagrams are counted from 0. */
  readonly first: number;
  readonly lost: number;
  /** When the first of them was sent. */
  readonly fromMillis: number;
  /** When the first one after them that was answered was sent; null when none was. */
  readonly untilMillis: number | null;
}

/** How many datagrams went out and came back. */
export interface Progress {
  readonly sent: number;
  readonly answered: number;
}

/** What came of it. */
export interface TrafficResult extends Progress {
  /** Answers that differ from what was sent, came from elsewhere, or came twice. */
  readonly mismatched: number;
  readonly rttMicros: readonly number[];
  readonly gaps: readonly Gap[];
}

/** Payloads are a mark, a number and noise; sizes go round so that every length class is seen. */
const HEADER_BYTES = 8;
const LARGEST_BYTES = 1400;
/** The most that is sent at once to catch up after a pause of this process. */
const LARGEST_BURST = 32;
/** Room for the answers to a second or more of traffic, should this process not get to run. */
const RECEIVE_BYTES = 1 << 20;
/** How often the pace is looked at. */
const TICK_MILLIS = 1;

/** Milliseconds since the epoch with the fraction that `Date.now` lacks. */
export function nowMillis(): number {
  return performance.timeOrigin + performance.now();
}

/** Running traffic. */
export class Traffic {
  readonly #options: TrafficOptions;
  readonly #sockets: Socket[];
  readonly #mark = crypto.getRandomValues(new Uint32Array(1))[0];
  readonly #noise = crypto.getRandomValues(new Uint8Array(LARGEST_BYTES * 2));
  // Two buffers, because an answer may be checked while a datagram is being sent.
  readonly #outgoing = new Uint8Array(LARGEST_BYTES);
  readonly #expected = new Uint8Array(LARGEST_BYTES);
  /** Send times by sequence number. */
  readonly #sentAt: number[] = [];
  /** Round trip times by sequence number, 0 where there was no answer. */
  readonly #rttMillis: number[] = [];
  #answered = 0;
  #mismatched = 0;
  #stopping = false;
  readonly #sender: Promise<void>;

  private constructor(options: TrafficOptions, sockets: Socket[]) {
    this.#options = options;
    this.#sockets = sockets;
    options.flows.forEach((flow, i) => {
      sockets[i].on("message", (payload, from) => this.#receive(payload, from, flow));
    });
    this.#sender = this.#send();
  }

  /** Binds every flow's socket and begins to send. Throws when an address is not ours. */
  static async start(options: TrafficOptions): Promise<Traffic> {
    const sockets = await Promise.all(options.flows.map(({ source }) => bind(source)));
    return new Traffic(options, sockets);
  }

  /** How far it is. */
  progress(): Progress {
    return { sent: this.#sentAt.length, answered: this.#answered };
  }

  /** Stops sending, waits for late answers at most `lingerMillis`, and says what came of it. */
  async stop({ lingerMillis }: { lingerMillis: number }): Promise<TrafficResult> {
    this.#stopping = true;
    await this.#sender;
    const deadline = performance.now() + lingerMillis;
    while (this.#answered < this.#sentAt.length && performance.now() < deadline) await tick();
    for (const socket of this.#sockets) socket.close();
    return {
      sent: this.#sentAt.length,
      answered: this.#answered,
      mismatched: this.#mismatched,
      rttMicros: this.#rttMillis.filter((rtt) => rtt > 0).map((rtt) => Math.round(rtt * 1000)),
      gaps: this.#gaps(),
    };
  }

  async #send(): Promise<void> {
    const { rate, flows } = this.#options;
    let begin = performance.now();
    let paced = 0;
    while (!this.#stopping) {
      let due = Math.floor((performance.now() - begin) * rate / 1000) - paced;
      if (due > LARGEST_BURST) {
        begin = performance.now();
        paced = 0;
        due = LARGEST_BURST;
      }
      paced += due;
      for (; due > 0; due--) await this.#sendNext(flows);
      await tick();
    }
  }

  async #sendNext(flows: readonly Flow[]): Promise<void> {
    const sequence = this.#sentAt.length;
    const turn = sequence % flows.length;
    const payload = this.#write(sequence, this.#outgoing);
    this.#sentAt.push(nowMillis());
    this.#rttMillis.push(0);
    const { target, port } = flows[turn];
    // What the kernel refuses to send (no route just now) is lost like what the wire loses.
    await send(this.#sockets[turn], payload, { address: target, port }).catch(() => {});
  }

  /** The payload with this number, written into `buffer`. */
  #write(sequence: number, buffer: Uint8Array<ArrayBuffer>): Uint8Array {
    const size = HEADER_BYTES + (sequence * 37) % (LARGEST_BYTES - HEADER_BYTES + 1);
    const from = sequence % LARGEST_BYTES;
    buffer.set(this.#noise.subarray(from, from + size));
    const header = new DataView(buffer.buffer);
    header.setUint32(0, this.#mark);
    header.setUint32(4, sequence);
    return buffer.subarray(0, size);
  }

  #receive(payload: Uint8Array, from: Address, flow: Flow): void {
    if (!this.#take(payload, nowMillis())) this.#mismatched++;
    else if (from.address !== flow.target || from.port !== flow.port) this.#mismatched++;
  }

  /** Checks an answer off; false when it is none, is not as it was sent, or came before. */
  #take(payload: Uint8Array, now: number): boolean {
    if (payload.length < HEADER_BYTES) return false;
    const header = new DataView(payload.buffer, payload.byteOffset, HEADER_BYTES);
    const sequence = header.getUint32(4);
    if (header.getUint32(0) !== this.#mark || sequence >= this.#sentAt.length) return false;
    const expected = this.#write(sequence, this.#expected);
    if (expected.length !== payload.length) return false;
    for (let i = 0; i < expected.length; i++) if (expected[i] !== payload[i]) return false;
    if (this.#rttMillis[sequence] !== 0) return false;
    this.#rttMillis[sequence] = Math.max(now - this.#sentAt[sequence], 0.001);
    this.#answered++;
    return true;
  }

  #gaps(): Gap[] {
    const gaps: Gap[] = [];
    let first = -1;
    for (let i = 0; i <= this.#sentAt.length; i++) {
      const answered = i === this.#sentAt.length || this.#rttMillis[i] > 0;
      if (!answered && first < 0) first = i;
      if (!answered || first < 0) continue;
      const untilMillis = i < this.#sentAt.length ? this.#sentAt[i] : null;
      gaps.push({ first, lost: i - first, fromMillis: this.#sentAt[first], untilMillis });
      first = -1;
    }
    return gaps;
  }
}

/** A burst of single datagrams from many source addresses, all of which must be bindable here. */
export interface FloodOptions {
  /** First source address. */
  readonly first: string;
  /** How many addresses, counting up from it. */
  readonly sources: number;
  readonly target: string;
  readonly port: number;
}

/** Sends one datagram from each address, as fast as sockets can be made; returns how many went out. */
export async function flood({ first, sources, target, port }: FloodOptions): Promise<number> {
  const base = first.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
  const payload = new TextEncoder().encode("spoofed");
  let sent = 0;
  for (let i = 0; i < sources; i++) {
    const address = base + i;
    const hostname = [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join(".");
    const socket = await bind(hostname);
    await send(socket, payload, { address: target, port });
    socket.close();
    sent++;
  }
  return sent;
}

/** A UDP socket bound to a local address; `port` 0 for any. */
export function bind(address: string, port = 0): Promise<Socket> {
  const socket = createSocket({ type: "udp4", recvBufferSize: RECEIVE_BYTES });
  return new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.bind({ address, port, exclusive: true }, () => {
      socket.off("error", reject);
      socket.on("error", () => {});
      resolve(socket);
    });
  });
}

/** Sends one datagram; settles when the kernel has it. */
export function send(socket: Socket, payload: Uint8Array, to: Address): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.send(payload, to.port, to.address, (error) => error ? reject(error) : resolve());
  });
}

/** Lets answers in, and time pass. */
function tick(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, TICK_MILLIS));
}
