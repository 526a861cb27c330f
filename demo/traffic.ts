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

export type Traffic = Awaited<ReturnType<typeof startTraffic>>;

/** Binds a socket for each flow and begins to send. Throws if an address is not local. */
export async function startTraffic({ flows, rate }: TrafficOptions) {
  const sockets = await Promise.all(flows.map(({ source }) => bind(source)));
  widenBuffers();
  const mark = crypto.getRandomValues(new Uint32Array(1))[0];
  const noise = crypto.getRandomValues(new Uint8Array(LARGEST_BYTES * 2));
  // Two buffers, because an answer may be checked while a datagram is being sent.
  const [outgoing, expected] = [Buffer.alloc(LARGEST_BYTES), Buffer.alloc(LARGEST_BYTES)];
  /** Send times by sequence number, like the round trip times, which are 0 without an answer. */
  const sentAt: number[] = [];
  const rttMillis: number[] = [];
  let [answered, mismatched] = [0, 0];
  let isStopping = false;

  /** Writes the payload with this number into `buffer`. */
  function payloadIn(buffer: Buffer, sequence: number): Buffer {
    const size = HEADER_BYTES + (sequence * 37) % (LARGEST_BYTES - HEADER_BYTES + 1);
    const from = sequence % LARGEST_BYTES;
    buffer.set(noise.subarray(from, from + size));
    buffer.writeUInt32BE(mark, 0);
    buffer.writeUInt32BE(sequence, 4);
    return buffer.subarray(0, size);
  }

  async function sendNext(): Promise<void> {
    const sequence = sentAt.length;
    const turn = sequence % sockets.length;
    const payload = payloadIn(outgoing, sequence);
    sentAt.push(nowMillis());
    rttMillis.push(0);
    // Datagrams that the kernel refuses to send, for lack of a route, count as lost.
    await send(sockets[turn], payload, flows[turn]).catch(() => {});
  }

  async function sendUntilStopped(): Promise<void> {
    let begin = performance.now();
    let paced = 0;
    while (!isStopping) {
      let due = Math.floor((performance.now() - begin) * rate / 1000) - paced;
      if (due > LARGEST_BURST) {
        begin = performance.now();
        paced = 0;
        due = LARGEST_BURST;
      }
      paced += due;
      for (; due > 0; due--) await sendNext();
      await delay(TICK_MILLIS);
    }
  }

  /** Counts an answer, as mismatched if it is a duplicate or differs from the request. */
  function receive(payload: Buffer, from: RemoteInfo, flow: Flow): void {
    const now = nowMillis();
    const sequence = payload.length < HEADER_BYTES ? Infinity : payload.readUInt32BE(4);
    if (
      sequence >= sentAt.length || rttMillis[sequence] !== 0 ||
      !payloadIn(expected, sequence).equals(payload)
    ) {
      mismatched++;
      return;
    }
    rttMillis[sequence] = Math.max(now - sentAt[sequence], 0.001);
    answered++;
    if (from.address !== flow.target || from.port !== flow.port) mismatched++;
  }

  for (const [i, flow] of flows.entries()) {
    sockets[i].on("message", (payload, from) => receive(payload, from, flow));
  }
  const sender = sendUntilStopped();
  const progress = () => ({ sent: sentAt.length, answered });

  return {
    progress,
    /** Whether any datagram from number `first` on has been answered. */
    isAnsweredFrom: (first: number): boolean => rttMillis.slice(first).some((rtt) => rtt > 0),
    /** Stops sending, waits up to `lingerMillis` for late answers, and returns the result. */
    async stop({ lingerMillis }: { lingerMillis: number }) {
      isStopping = true;
      await sender;
      const deadline = performance.now() + lingerMillis;
      while (answered < sentAt.length && performance.now() < deadline) await delay(TICK_MILLIS);
      for (const socket of sockets) socket.close();
      const [first, last] = [rttMillis.indexOf(0), rttMillis.lastIndexOf(0)];
      return {
        ...progress(),
        /** Answers that differ from the request, came from elsewhere, or came twice. */
        mismatched,
        rttMicros: rttMillis.filter((rtt) => rtt > 0).map((rtt) => Math.round(rtt * 1000)),
        /**
         * The unanswered datagrams: number and send time of the first, and the send time of the first one
         * after the last. Null if there are none.
         */
        gap: first < 0
          ? null
          : { first, fromMillis: sentAt[first], untilMillis: sentAt[last + 1] ?? null },
      };
    },
  };
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
