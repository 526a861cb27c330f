// SPDX-License-Identifier: Apache-2.0
/**
 * DNS over TCP (RFC 7766): the slow side of `dns.ts`. It reads queries from connections, gives them to the app
 * by mail, and writes the answers back, those of each connection in the order of its queries.
 *
 * What strangers can use up is bounded. At most `tcp_count` connections are open (100 by default). Beyond, one
 * of the network with most of them is closed, the one that has been idle longest. A connection is closed when
 * it has asked nothing for `tcp_timeout` seconds (10 by default), or does not take its answers. The app has
 * few queries at once, of each connection in turn.
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
/** Bytes of answers that wait for a client; beyond, its queries wait. */
const MOST_UNSENT = 128 << 10;
/** The longest query: more than any question with EDNS has. A longer one closes the connection. */
const MOST_QUERY_BYTES = 4096;
/** How long connections are served on when this side is to end: a next query may be on its way. */
const LINGER_MILLIS = 100;
/** How long a new connection is kept then that has not asked anything yet. It is ended after a second. */
const FIRST_QUERY_MILLIS = 600;
/** How often idle connections are looked for. */
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
  /** Those with a query to be asked, in turn. */
  readonly #waiting = new Set<Stream>();
  /** What the app has now, by ticket: who asked it, and when. */
  readonly #asked = new Map<number, { stream: Stream; at: number }>();
  /** Not those of a predecessor, whose queries the app may still answer. */
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

  /** Asks as many queries as the app may have. */
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
        // The app does not take its mail just now. `expire` tries again.
        this.#waiting.add(stream);
        return;
      }
      stream.passed();
      this.#asked.set(this.#ticket, { stream, at: performance.now() });
      // It goes to the end of the line.
      if (stream.next() !== null) this.#waiting.add(stream);
    }
  }

  /** The app's answer, empty to what is no query. */
  answer(mail: Uint8Array<ArrayBuffer>): void {
    if (mail.length < TICKET_BYTES) return;
    const ticket = new DataView(mail.buffer).getUint32(0);
    const stream = this.#asked.get(ticket)?.stream;
    this.#asked.delete(ticket);
    if (mail.length === TICKET_BYTES) stream?.close();
    else stream?.answer(mail.subarray(TICKET_BYTES));
    this.#ask();
  }

  /** Ends all connections when their queries are answered and sent, a young one after its first query. */
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

  /** Closes connections that are idle, and those whose queries the app never answers. */
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
  /** Its client's network, in which one client may have many addresses. */
  readonly network: string;
  /** When it last asked, or was opened. */
  since = performance.now();
  readonly #first = Promise.withResolvers<void>();
  /** Resolves when the app has its first query, or there is none to come. */
  readonly hasAsked = this.#first.promise;
  /** Resolves when all is sent, or nothing more can be. */
  readonly sent: Promise<unknown>;
  readonly #socket: Socket;
  /** The next query, null until all of it is here, and its length, 0 until that is. Others wait in the socket. */
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

  /** Reads the next query, if all of it is here. At its end a socket gives less than it is asked for. */
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

  /** The next query; null: it is not here yet, or the client does not take its answers. */
  next(): Uint8Array | null {
    if (this.#query === null) this.#read();
    return this.#socket.writableLength <= MOST_UNSENT ? this.#query : null;
  }

  /** The app has the next query. */
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
