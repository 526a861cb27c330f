/**
 * Whoever connects to the status tile, bounded in number and in time: connections that are opened and
 * left alone must neither pile up nor keep others out.
 */

import { STATUS } from "../runtime/counters.ts";

/** A connection over TCP or a Unix socket. */
type Stream = Deno.TcpConn | Deno.UnixConn;

/** How connections to one listener are served. */
export interface Service {
  /** Connections at a time. */
  readonly most: number;
  /** The status tile's counters, and which of them says how many connections are open. */
  readonly counters: Float64Array;
  readonly gauge: number;
  /** Serves one connection, which is closed when this settles. */
  converse(connection: Connection): Promise<void>;
}

/** One connection. What the peer has to do, it has to do in the time that `allow` gives. */
export class Connection {
  readonly #stream: Stream;
  #since = performance.now();
  #deadline = this.#since;
  #isWaiting = true;
  #closed = false;
  #timedOut = false;

  constructor(stream: Stream) {
    this.#stream = stream;
  }

  /**
   * The peer's network, an IPv4 /24, or /8 for this host; empty on a Unix socket, which does not tell
   * peers apart. One peer may have many addresses of a network.
   */
  get peer(): string {
    const { remoteAddr } = this.#stream;
    if (remoteAddr.transport !== "tcp") return "";
    const [first, ...rest] = remoteAddr.hostname.split(".");
    return first === "127" ? first : [first, ...rest.slice(0, 2)].join(".");
  }

  /** Whether it was closed because the peer took too long. */
  get timedOut(): boolean {
    return this.#timedOut;
  }

  /** When the peer was last given time, while it is waited for; null: its request is being worked on. */
  get waitingSince(): number | null {
    return this.#isWaiting ? this.#since : null;
  }

  /** Gives the peer so long from now for what it is to do next, in however many pieces it does it. */
  allow(millis: number): void {
    this.#since = performance.now();
    this.#deadline = this.#since + millis;
  }

  /** Reads into `buffer`: how many bytes, null at the end. */
  read(buffer: Uint8Array): Promise<number | null> {
    return this.#wait(this.#stream.read(buffer));
  }

  /** Writes all of `text`. */
  async write(text: string): Promise<void> {
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at < bytes.length;) {
      at += await this.#wait(this.#stream.write(bytes.subarray(at)));
    }
  }

  /** Tells the peer that nothing more comes. */
  closeWrite(): Promise<void> {
    return this.#stream.closeWrite();
  }

  /** Closes it; a read or write that waits rejects. */
  close(): void {
    if (!this.#closed) this.#stream.close();
    this.#closed = true;
  }

  async #wait<T>(done: Promise<T>): Promise<T> {
    const timer = setTimeout(() => {
      this.#timedOut = true;
      this.close();
    }, Math.max(0, this.#deadline - performance.now()));
    this.#isWaiting = true;
    try {
      return await done;
    } finally {
      clearTimeout(timer);
      this.#isWaiting = false;
    }
  }
}

/**
 * Serves whoever connects, for as long as the listener is open. When `most` are open, a new connection
 * takes the place of the one that has waited longest for its peer, among those of the network with
 * most connections: a host that opens many displaces its own. Where none waits, the new one is closed.
 */
export async function serveConnections(
  listener: { accept(): Promise<Stream> },
  { most, counters, gauge, converse }: Service,
): Promise<void> {
  const open = new Set<Connection>();
  const count = () => counters[gauge] = open.size;
  for (count();;) {
    const stream = await accept(listener);
    if (stream === null) continue;
    const connection = new Connection(stream);
    open.add(connection);
    if (open.size > most) {
      const displaced = longestWaiting(open);
      open.delete(displaced);
      displaced.close();
      counters[STATUS.index.connections_displaced]++;
    }
    count();
    converse(connection)
      // A peer that goes away in the middle of an answer does not want it.
      .catch(() => {})
      .finally(() => {
        if (connection.timedOut) counters[STATUS.index.connections_timed_out]++;
        open.delete(connection);
        connection.close();
        count();
      });
  }
}

/** The next connection; null when its peer has reset it before it was accepted. */
async function accept(listener: { accept(): Promise<Stream> }): Promise<Stream | null> {
  try {
    return await listener.accept();
  } catch (error) {
    const { NotConnected, ConnectionReset, ConnectionAborted } = Deno.errors;
    const isReset = [NotConnected, ConnectionReset, ConnectionAborted]
      .some((kind) => error instanceof kind);
    if (isReset) return null;
    throw error;
  }
}

/** Which one has to go; the newest, the last of them, where all others are being worked for. */
function longestWaiting(open: ReadonlySet<Connection>): Connection {
  const byPeer = [...Map.groupBy(open, ({ peer }) => peer).values()];
  const crowd = byPeer.reduce((most, each) => each.length > most.length ? each : most);
  const since = (connection: Connection) => connection.waitingSince ?? Infinity;
  const longest = crowd.reduce((one, other) => since(other) < since(one) ? other : one);
  return longest.waitingSince === null ? [...open].at(-1)! : longest;
}
