// SPDX-License-Identifier: Apache-2.0
/**
 * Client traffic through the kernel's sockets: numbered datagrams at a steady rate over one or more flows.
 * Payload and addresses of each answer are compared with the request.
 */

import { Buffer } from "node:buffer";
import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { SETSOCKOPT, sizeBuffers } from "../ffi/sockets.ts";
import { formatAddress, parseAddress } from "../netbase/route.ts";

/** One flow: a socket bound to the local address `source`, sending to `target`; IPv4, dotted. */
interface Flow {
  readonly source: string;
  readonly target: string;
  readonly port: number;
}

export interface TrafficOptions {
  readonly flows: readonly Flow[];
  /** Datagrams per second, all flows together. */
  readonly rate: number;
}

/** The result. Times in milliseconds since the epoch. */
export type TrafficResult = Awaited<ReturnType<Traffic["stop"]>>;

/** A payload is a mark, a number and noise. Sizes cycle through all lengths. */
const HEADER_BYTES = 8;
const LARGEST_BYTES = 1400;
/** The most datagrams that are sent at once to catch up after a pause of this process. */
const LARGEST_BURST = 32;
/** Room for the answers to a second or more of traffic, in case this process is not scheduled. */
const RECEIVE_BYTES = 1 << 22;
/** How often due datagrams are sent. */
const TICK_MILLIS = 1;

/** Milliseconds since the epoch with the fraction that `Date.now` lacks. */
export function nowMillis(): number {
  return performance.timeOrigin + performance.now();
}

export class Traffic {
  readonly #options: TrafficOptions;
  readonly #sockets: Socket[];
  readonly #mark = crypto.getRandomValues(new Uint32Array(1))[0];
  readonly #noise = crypto.getRandomValues(new Uint8Array(LARGEST_BYTES * 2));
  // Two buffers, because an answer may be checked while a datagram is being sent.
  readonly #outgoing = Buffer.alloc(LARGEST_BYTES);
  readonly #expected = Buffer.alloc(LARGEST_BYTES);
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

  /** Binds a socket for each flow and begins to send. Throws if an address is not local. */
  static async start(options: TrafficOptions): Promise<Traffic> {
    const sockets = await Promise.all(options.flows.map(({ source }) => bind(source)));
    widenBuffers();
    return new Traffic(options, sockets);
  }

  progress(): { sent: number; answered: number } {
    return { sent: this.#sentAt.length, answered: this.#answered };
  }

  /** Whether any datagram from number `first` on has been answered. */
  isAnsweredFrom(first: number): boolean {
    for (let i = first; i < this.#rttMillis.length; i++) if (this.#rttMillis[i] > 0) return true;
    return false;
  }

  /** Stops sending, waits up to `lingerMillis` for late answers, and returns the result. */
  async stop({ lingerMillis }: { lingerMillis: number }) {
    this.#stopping = true;
    await this.#sender;
    const deadline = performance.now() + lingerMillis;
    while (this.#answered < this.#sentAt.length && performance.now() < deadline) {
      await delay(TICK_MILLIS);
    }
    for (const socket of this.#sockets) socket.close();
    const rtts = this.#rttMillis;
    const [first, last] = [rtts.indexOf(0), rtts.lastIndexOf(0)];
    return {
      ...this.progress(),
      /** Answers that differ from what was sent, came from elsewhere, or came twice. */
      mismatched: this.#mismatched,
      rttMicros: rtts.filter((rtt) => rtt > 0).map((rtt) => Math.round(rtt * 1000)),
      /**
       * The unanswered datagrams: number and send time of the first, and the send time of the first one
       * after the last. Null if there are none.
       */
      gap: first < 0 ? null : {
        first,
        fromMillis: this.#sentAt[first],
        untilMillis: this.#sentAt[last + 1] ?? null,
      },
    };
  }

  async #send(): Promise<void> {
    let begin = performance.now();
    let paced = 0;
    while (!this.#stopping) {
      let due = Math.floor((performance.now() - begin) * this.#options.rate / 1000) - paced;
      if (due > LARGEST_BURST) {
        begin = performance.now();
        paced = 0;
        due = LARGEST_BURST;
      }
      paced += due;
      for (; due > 0; due--) await this.#sendNext();
      await delay(TICK_MILLIS);
    }
  }

  async #sendNext(): Promise<void> {
    const sequence = this.#sentAt.length;
    const turn = sequence % this.#sockets.length;
    const payload = this.#write(sequence, this.#outgoing);
    this.#sentAt.push(nowMillis());
    this.#rttMillis.push(0);
    // What the kernel refuses to send, for lack of a route, counts as lost.
    await send(this.#sockets[turn], payload, this.#options.flows[turn]).catch(() => {});
  }

  /** Writes the payload with this number into `buffer`. */
  #write(sequence: number, buffer: Buffer): Buffer {
    const size = HEADER_BYTES + (sequence * 37) % (LARGEST_BYTES - HEADER_BYTES + 1);
    const from = sequence % LARGEST_BYTES;
    buffer.set(this.#noise.subarray(from, from + size));
    buffer.writeUInt32BE(this.#mark, 0);
    buffer.writeUInt32BE(sequence, 4);
    return buffer.subarray(0, size);
  }

  /** Counts an answer, as mismatched if it is a duplicate or differs from the request. */
  #receive(payload: Buffer, from: RemoteInfo, flow: Flow): void {
    const now = nowMillis();
    const sequence = payload.length < HEADER_BYTES ? Infinity : payload.readUInt32BE(4);
    if (
      sequence >= this.#sentAt.length || this.#rttMillis[sequence] !== 0 ||
      !this.#write(sequence, this.#expected).equals(payload)
    ) {
      this.#mismatched++;
      return;
    }
    this.#rttMillis[sequence] = Math.max(now - this.#sentAt[sequence], 0.001);
    this.#answered++;
    if (from.address !== flow.target || from.port !== flow.port) this.#mismatched++;
  }
}

/** The sources of a flood: `sources` addresses from `first` on, all of which must be local. */
export interface FloodOptions extends Omit<Flow, "source"> {
  readonly first: string;
  readonly sources: number;
}

/** Sends one datagram from each address, as fast as sockets can be made. */
export async function flood({ first, sources, ...to }: FloodOptions): Promise<void> {
  const base = parseAddress(first);
  for (let i = 0; i < sources; i++) {
    const socket = await bind(formatAddress(base + i));
    await send(socket, Buffer.from("spoofed"), to);
    socket.close();
  }
}

/** A UDP socket bound to a local address; `port` 0 for any. */
export async function bind(address: string, port = 0): Promise<Socket> {
  const socket = createSocket("udp4");
  socket.bind({ address, port, exclusive: true });
  await once(socket, "listening");
  socket.on("error", () => {});
  return socket;
}

/** Sets the receive buffer of every socket of this process. Deno 2.9's own option has no effect. */
function widenBuffers(): void {
  const libc = Deno.dlopen("libc.so.6", { setsockopt: SETSOCKOPT });
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    sizeBuffers(libc.symbols.setsockopt, { fd: Number(name), receive: RECEIVE_BYTES });
  }
  libc.close();
}

/** Sends a datagram. Resolves when the kernel has it. */
export function send(
  socket: Socket,
  payload: Uint8Array,
  { target, port }: Omit<Flow, "source">,
): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.send(payload, port, target, (error) => error ? reject(error) : resolve());
  });
}
