// SPDX-License-Identifier: Apache-2.0
/**
 * Connections to the status tile, limited in number and time: idle ones neither accumulate nor exclude others.
 */

import { Buffer } from "node:buffer";
import { on, once } from "node:events";
import { createServer, type Socket } from "node:net";
import type { TileLibrary } from "../../ffi/tile.ts";
import { STATUS } from "../runtime/counters.ts";
import { delay } from "../runtime/tile.ts";

/** How long open connections may continue after the listener is closed. */
const LEAVE_MILLIS = 400;

export type Listener = Awaited<ReturnType<typeof listenOn>>;

/** Accepts connections of a listening socket, which others may share. The caller keeps `fd`. Throws Error. */
export async function listenOn(fd: number, tile: Pick<TileLibrary, "duplicate" | "readable">) {
  const server = createServer({ allowHalfOpen: true });
  // The server emits "close" only after its last connection has ended.
  const connections = on(server, "connection", { close: ["leave"] });
  let [accepted, before] = [0, -1];
  server.on("connection", () => accepted++);
  // The server closes its descriptor, and so does the end of this thread.
  server.listen({ fd: tile.duplicate(fd) });
  await once(server, "listening");
  return {
    /** Its address if it is a TCP socket. */
    address: server.address(),
    /** Connections in their order, until it is closed. */
    connections: connections as AsyncIterable<Socket[]>,
    close() {
      server.close();
      server.emit("leave");
    },
    /** Whether connections wait and none was accepted since the last call: Deno stops if it gets no descriptor. */
    isStuck() {
      const waits = server.listening && tile.readable(fd);
      const stuck = waits && before === accepted;
      before = waits ? accepted : -1;
      return stuck;
    },
  };
}

/** One connection. `allow` limits the time that reads and writes wait for the peer. */
export class Connection {
  readonly #socket: Socket;
  readonly #chunks: AsyncIterator<Uint8Array>;
  #since = performance.now();
  #deadline = this.#since;
  /** When `allow` was last called, while the peer is waited for; null while its request is processed. */
  waitingSince: number | null = this.#since;
  /** Whether it was closed because the peer took too long. */
  timedOut = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#chunks = socket.iterator({ destroyOnReturn: false });
    // A pending read or write rejects with the same error.
    socket.on("error", () => {});
  }

  /** The network in which a peer may have many addresses: an IPv4 /24, 127/8, or "" for all Unix sockets. */
  get peer(): string {
    const [first, ...rest] = (this.#socket.remoteAddress ?? "").split(".");
    return first === "127" ? first : [first, ...rest.slice(0, 2)].join(".");
  }

  /** Gives the peer this long from now for its next reads and writes together. */
  allow(millis: number): void {
    this.#since = performance.now();
    this.#deadline = this.#since + millis;
  }

  /** The next bytes, or null at the end. Rejects at the deadline. */
  async read(): Promise<Uint8Array | null> {
    const { value, done } = await this.#wait(this.#chunks.next());
    return done ? null : value;
  }

  /** Writes all of `data`. Rejects at the deadline. */
  write(data: string | Uint8Array): Promise<void> {
    // Deno sends remaining bytes by writev, which this tile may not use, and remaining text by sendto.
    const [text, encoding] = typeof data === "string"
      ? [data, "utf8"] as const
      : [Buffer.from(data).toString("latin1"), "latin1"] as const;
    return this.#wait(
      new Promise((resolve, reject) =>
        this.#socket.write(text, encoding, (error) => error ? reject(error) : resolve())
      ),
    );
  }

  closeWrite(): void {
    this.#socket.end();
  }

  /** Closes the connection. Pending reads and writes reject. */
  close(): void {
    this.#socket.destroy();
  }

  async #wait<T>(done: Promise<T>): Promise<T> {
    const timer = setTimeout(() => {
      this.timedOut = true;
      this.close();
    }, Math.max(0, this.#deadline - performance.now()));
    this.waitingSince = this.#since;
    try {
      return await done;
    } finally {
      clearTimeout(timer);
      this.waitingSince = null;
    }
  }
}

/**
 * Serves connections until the listener is closed, and open ones for a moment longer. If `most` are open, a
 * new connection displaces one from the network with most connections: the one that has waited longest for
 * its peer. So a host that opens many displaces its own. If none of them waits, the new one is closed.
 */
export async function serveConnections(
  { connections }: Pick<Listener, "connections">,
  { most, counters, gauge, converse }: {
    readonly most: number;
    /** The status tile's counters, and the index of the gauge of open connections. */
    readonly counters: Float64Array;
    readonly gauge: number;
    /** Serves one connection. It is closed when the promise settles. */
    converse(connection: Connection): Promise<void>;
  },
): Promise<void> {
  const open = new Map<Connection, Promise<void>>();
  const count = () => counters[gauge] = open.size;
  count();
  for await (const [socket] of connections) {
    const connection = new Connection(socket);
    const done = converse(connection)
      // The peer has disconnected or timed out.
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

/** The connection to close: the newest one if none of the most crowded network waits. */
function longestWaiting(open: readonly Connection[]): Connection {
  const byPeer = [...Map.groupBy(open, ({ peer }) => peer).values()];
  const crowd = byPeer.reduce((most, each) => each.length > most.length ? each : most);
  const since = (connection: Connection) => connection.waitingSince ?? Infinity;
  const longest = crowd.reduce((one, other) => since(other) < since(one) ? other : one);
  return longest.waitingSince === null ? open.at(-1)! : longest;
}
