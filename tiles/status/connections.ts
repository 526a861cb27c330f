/**
 * Whoever connects to the status tile, bounded in number and in time: connections that are opened and
 * left alone must neither pile up nor keep others out.
 */

import { on, once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import type { TileLibrary } from "../../ffi/tile.ts";
import { STATUS } from "../runtime/counters.ts";
import { delay } from "../runtime/delay.ts";

/** How long those that are connected may go on once nobody else can connect. */
const LEAVE_MILLIS = 400;

/** A listening socket whose connections wait until they are served. */
export interface Listener {
  /** The address, of TCP. */
  readonly address: ReturnType<Server["address"]>;
  /** Connections in the order in which they came, until it is closed. */
  readonly connections: AsyncIterable<Socket[]>;
  /** Takes no more connections. */
  close(): void;
  /**
   * Whether connections have waited, without one being accepted, since this was asked last: where Deno
   * is refused a descriptor for one it does not try again.
   */
  isStuck(): boolean;
}

/**
 * Listens on a socket that others may listen on as well: each connection comes to one of them. `fd` stays
 * the caller's. Throws Error when it is no such socket.
 */
export async function listenOn(
  fd: number,
  tile: Pick<TileLibrary, "duplicate" | "readable">,
): Promise<Listener> {
  const server = createServer({ allowHalfOpen: true });
  // The server's own "close" comes when the last connection has ended.
  const connections = on(server, "connection", { close: ["leave"] });
  let [accepted, before] = [0, -1];
  server.on("connection", () => accepted++);
  // The server closes what it is given, and so does the end of this thread.
  server.listen({ fd: tile.duplicate(fd) });
  await once(server, "listening");
  return {
    ...{ address: server.address(), connections },
    close() {
      server.close();
      server.emit("leave");
    },
    isStuck() {
      const waits = server.listening && tile.readable(fd);
      const stuck = waits && before === accepted;
      before = waits ? accepted : -1;
      return stuck;
    },
  };
}

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
  readonly #socket: Socket;
  readonly #chunks: AsyncIterator<Uint8Array>;
  #since = performance.now();
  #deadline = this.#since;
  #isWaiting = true;
  #timedOut = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#chunks = socket.iterator({ destroyOnReturn: false });
    // Whoever reads or writes is told as well.
    socket.on("error", () => {});
  }

  /**
   * The peer's network, an IPv4 /24, or /8 for this host; empty on a Unix socket, which does not tell
   * peers apart. One peer may have many addresses of a network.
   */
  get peer(): string {
    const [first, ...rest] = (this.#socket.remoteAddress ?? "").split(".");
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

  /** What came next, null at the end. */
  async read(): Promise<Uint8Array | null> {
    const { value, done } = await this.#wait(this.#chunks.next());
    return done ? null : value;
  }

  /** Writes all of `text`. */
  write(text: string): Promise<void> {
    return this.#wait(
      new Promise((resolve, reject) =>
        this.#socket.write(text, (error) => error ? reject(error) : resolve())
      ),
    );
  }

  /** Tells the peer that nothing more comes. */
  closeWrite(): void {
    this.#socket.end();
  }

  /** Closes it; a read or write that waits rejects. */
  close(): void {
    this.#socket.destroy();
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
 * Serves whoever connects until the listener is closed, and for a moment those that are still there. When
 * `most` are open, a new connection takes the place of the one that has waited longest for its peer, among those
 * of the network with most connections: a host that opens many displaces its own. Where none waits, the
 * new one is closed.
 */
export async function serveConnections(
  { connections }: Pick<Listener, "connections">,
  { most, counters, gauge, converse }: Service,
): Promise<void> {
  const open = new Map<Connection, Promise<void>>();
  const count = () => counters[gauge] = open.size;
  count();
  for await (const [socket] of connections) {
    const connection = new Connection(socket);
    const done = converse(connection)
      // A peer that goes away in the middle of an answer does not want it.
      .catch(() => {})
      .finally(() => {
        if (connection.timedOut) counters[STATUS.index.connections_timed_out]++;
        open.delete(connection);
        connection.close();
        count();
      });
    open.set(connection, done);
    if (open.size > most) {
      const displaced = longestWaiting([...open.keys()]);
      open.delete(displaced);
      displaced.close();
      counters[STATUS.index.connections_displaced]++;
    }
    count();
  }
  await Promise.race([Promise.all(open.values()), delay(LEAVE_MILLIS)]);
}

/** Which one has to go; the newest, the last of them, where all others are being worked for. */
function longestWaiting(open: readonly Connection[]): Connection {
  const byPeer = [...Map.groupBy(open, ({ peer }) => peer).values()];
  const crowd = byPeer.reduce((most, each) => each.length > most.length ? each : most);
  const since = (connection: Connection) => connection.waitingSince ?? Infinity;
  const longest = crowd.reduce((one, other) => since(other) < since(one) ? other : one);
  return longest.waitingSince === null ? open.at(-1)! : longest;
}
