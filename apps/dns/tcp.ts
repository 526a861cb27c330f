// SPDX-License-Identifier: Apache-2.0
/**
 * DNS over TCP (RFC 7766): the slow side of `dns.ts`. It reads queries from connections, passes them
 * to the app by mail, and writes the answers back, on each connection in the order of its queries.
 *
 * Resources for strangers are limited. At most `tcp_count` connections are open (100 by default).
 * For a further one, the longest idle connection of the network with the most connections is
 * closed. A connection is closed if it sends no query for `tcp_timeout` seconds (10 by default), or
 * does not read its answers. The app gets few queries at a time, from each connection in turn.
 */

import { Buffer } from "node:buffer";
import { createServer, type Socket } from "node:net";
import packet from "dns-packet";
import type { Beside, BesideContext } from "../../tiles/app/contract.ts";
import { wholeOption } from "../options.ts";
import { TICKET_BYTES } from "./answer.ts";

const LENGTH_BYTES = 2;
/** Queries that the app has at once. Their answers fit the mailbox, whatever their size. */
const MOST_ASKED = 8;
/** Bytes of answers that may wait for a client; above this, its queries wait. */
const MOST_UNSENT = 128 << 10;
/** The longest query: more than any question with EDNS has. A longer one closes the connection. */
const MOST_QUERY_BYTES = 4096;
/** How long connections are still served when this side must end: the next query may be in flight. */
const LINGER_MILLIS = 100;
/** How long a new connection without a query is then kept. The process is killed after a second. */
const FIRST_QUERY_MILLIS = 600;
/** The interval of checks for idle connections. */
const LOOK_MILLIS = 1000;

interface Limits {
  readonly count: number;
  readonly timeoutMillis: number;
}

/** Makes the slow side of the name server. `firstQueryMillis`: as `FIRST_QUERY_MILLIS`. */
export default function create(
  { mailbox, listeners, options }: BesideContext,
  firstQueryMillis = FIRST_QUERY_MILLIS,
): Beside {
  const timeout = { usual: 10, least: 1, most: 3600 };
  const streams = new Streams((mail) => mailbox.post(mail), {
    count: wholeOption(options, "tcp_count", { usual: 100, least: 1, most: 900 }),
    timeoutMillis: 1000 * wholeOption(options, "tcp_timeout", timeout),
  });
  const servers = listeners.map(() =>
    createServer({ allowHalfOpen: true }, (socket) => streams.add(socket))
  );
  let look: ReturnType<typeof setInterval>;
  return {
    begin() {
      listeners.forEach((listener, i) => listener.accept(servers[i]));
      look = setInterval(() => streams.expire(performance.now()), LOOK_MILLIS);
    },
    mail: (mail) => streams.answer(mail),
    async end() {
      for (const server of servers) server.close();
      await streams.finish(firstQueryMillis);
      clearInterval(look);
    },
  };
}

class Streams {
  readonly #post: (mail: Uint8Array) => boolean;
  readonly #limits: Limits;
  readonly #open = new Set<Stream>();
  /** Connections with a query for the app, in turn. */
  readonly #waiting = new Set<Stream>();
  /** Queries that the app has, by ticket: the connection, and the time. */
  readonly #asked = new Map<number, { stream: Stream; at: number }>();
  /** Random, unlike the tickets of a predecessor, whose queries the app may still answer. */
  #ticket = crypto.getRandomValues(new Uint32Array(1))[0];

  constructor(post: (mail: Uint8Array) => boolean, limits: Limits) {
    this.#post = post;
    this.#limits = limits;
  }

  add(socket: Socket): void {
    const stream = new Stream(socket);
    for (const event of ["readable", "drain"]) {
      socket.on(event, () => {
        if (stream.next() === null) return;
        this.#waiting.add(stream);
        this.#ask();
      });
    }
    socket.on("close", () => {
      this.#open.delete(stream);
      this.#waiting.delete(stream);
    });
    this.#open.add(stream);
    if (this.#open.size <= this.#limits.count) return;
    const byNetwork = [...Map.groupBy(this.#open, ({ network }) => network).values()];
    const crowd = byNetwork.reduce((one, other) => other.length > one.length ? other : one);
    crowd.reduce((one, other) => other.since < one.since ? other : one).close();
  }

  /** Passes as many queries to the app as it may have. */
  #ask(): void {
    while (this.#asked.size < MOST_ASKED) {
      const [stream] = this.#waiting;
      if (stream === undefined) return;
      this.#waiting.delete(stream);
      const query = stream.next();
      if (query === null) continue;
      const mail = new Uint8Array(TICKET_BYTES + query.length);
      this.#ticket = (this.#ticket + 1) >>> 0;
      new DataView(mail.buffer).setUint32(0, this.#ticket);
      mail.set(query, TICKET_BYTES);
      if (!this.#post(mail)) {
        // The mailbox is full. `expire` tries again.
        this.#waiting.add(stream);
        return;
      }
      stream.passed();
      this.#asked.set(this.#ticket, { stream, at: performance.now() });
      // Move it to the end of the queue.
      if (stream.next() !== null) this.#waiting.add(stream);
    }
  }

  /** Takes the app's answer, which is empty if the message was not a query. */
  answer(mail: Uint8Array<ArrayBuffer>): void {
    if (mail.length < TICKET_BYTES) return;
    const ticket = new DataView(mail.buffer).getUint32(0);
    const stream = this.#asked.get(ticket)?.stream;
    this.#asked.delete(ticket);
    if (mail.length === TICKET_BYTES) stream?.close();
    else stream?.answer(mail.subarray(TICKET_BYTES));
    this.#ask();
  }

  /** Ends all connections when their answers are sent, a new one after its first query. */
  async finish(firstQueryMillis: number): Promise<void> {
    const pause = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis));
    await pause(LINGER_MILLIS);
    await Promise.all([...this.#open].map(async (stream) => {
      const left = stream.since + firstQueryMillis - performance.now();
      await Promise.race([stream.hasAsked, pause(Math.max(left, 0))]);
      stream.end();
      await stream.sent;
    }));
  }

  /** Closes idle connections, and those whose queries the app does not answer. */
  expire(now: number): void {
    const { timeoutMillis } = this.#limits;
    for (const [ticket, { stream, at }] of this.#asked) {
      if (now - at <= timeoutMillis) continue;
      this.#asked.delete(ticket);
      stream.close();
    }
    for (const stream of this.#open) if (now - stream.since > timeoutMillis) stream.close();
    this.#ask();
  }
}

class Stream {
  /** Its client's network, since one client may have many addresses. */
  readonly network: string;
  /** The time of its last query, or when it was opened. */
  since = performance.now();
  readonly #first = Promise.withResolvers<void>();
  /** Resolves when the app has its first query, or no query can follow. */
  readonly hasAsked = this.#first.promise;
  /** Resolves when all answers are sent, or no more can be sent. */
  readonly sent: Promise<unknown>;
  readonly #socket: Socket;
  /** The next query, null until complete, and its length, 0 until known. Others wait in the socket. */
  #query: Buffer | null = null;
  #length = 0;
  #isEnding = false;
  /** Queries that the app has. */
  #asked = 0;

  constructor(socket: Socket) {
    this.network = networkOf(socket.remoteAddress ?? "::");
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on("end", () => this.end());
    socket.on("error", () => {});
    socket.on("close", this.#first.resolve);
    this.sent = new Promise((resolve) => {
      for (const event of ["finish", "close"]) socket.once(event, resolve);
    });
  }

  /** Reads the next query, if it is complete. At its end a socket returns fewer bytes than requested. */
  #read(): void {
    if (this.#length === 0) {
      const length: Buffer | null = this.#socket.read(LENGTH_BYTES);
      if (length === null || length.length < LENGTH_BYTES) return;
      this.#length = length.readUInt16BE(0);
      if (this.#length === 0 || this.#length > MOST_QUERY_BYTES) return this.close();
    }
    const query: Buffer | null = this.#socket.read(this.#length);
    if (query === null || query.length < this.#length) return;
    this.#query = query;
    this.#length = 0;
  }

  /** The next query; null if it is incomplete, or the client does not read its answers. */
  next(): Uint8Array | null {
    if (this.#query === null) this.#read();
    return this.#socket.writableLength <= MOST_UNSENT ? this.#query : null;
  }

  /** Called when the app has the next query. */
  passed(): void {
    this.#query = null;
    this.since = performance.now();
    this.#asked++;
    this.#first.resolve();
  }

  answer(message: Uint8Array): void {
    this.#asked--;
    if (this.#socket.destroyed) return;
    const bytes = Buffer.allocUnsafe(LENGTH_BYTES + message.length);
    bytes.writeUInt16BE(message.length, 0);
    bytes.set(message, LENGTH_BYTES);
    this.#socket.write(bytes);
    this.#endIfDone();
  }

  /** Ends it when its queries are answered. */
  end(): void {
    this.#isEnding = true;
    this.#endIfDone();
  }

  #endIfDone(): void {
    if (this.#isEnding && this.#asked === 0 && this.#query === null) this.#socket.end();
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** The network of a client's address: a /24 of IPv4, also of an IPv4-mapped address, or a /48 of IPv6. */
export function networkOf(address: string): string {
  const ipv4 = /^(?:::ffff:)?(\d+\.\d+\.\d+)\.\d+$/i.exec(address)?.[1];
  if (ipv4 !== undefined) return ipv4;
  const record: Buffer = packet.aaaa.encode(address.replace(/%.*/, ""));
  return [2, 4, 6].map((at) => record.readUInt16BE(at).toString(16)).join(":");
}
