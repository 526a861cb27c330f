// SPDX-License-Identifier: Apache-2.0
/** Whoever connects to the status tile: how many at a time, for how long, and who has to go. */

import assert from "node:assert/strict";
import type { AddressInfo, Socket } from "node:net";
import { openHost } from "../../../ffi/host.ts";
import { openTile } from "../../../ffi/tile.ts";
import { STATUS } from "../../../tiles/runtime/counters.ts";
import { type Connection, listenOn, serveConnections } from "../../../tiles/status/connections.ts";
import { serveControl } from "../../../tiles/status/control.ts";
import { eventually } from "../../eventually.ts";

const { index } = STATUS;
const encoder = new TextEncoder();
const host = openHost();
const tile = openTile();

function makeCounters(): Float64Array {
  return new Float64Array(Object.keys(STATUS.help).length);
}

/** A listener on loopback whose connections `converse` serves, and the counters. */
async function serving(
  converse: (connection: Connection) => Promise<void>,
  use: (connect: () => Promise<Deno.TcpConn>, counters: Float64Array) => Promise<void>,
  { most = 4 } = {},
): Promise<void> {
  const listener = await listenOn(host.listenTcp("127.0.0.1", 0), tile);
  const counters = makeCounters();
  const gauge = index.metrics_connections;
  const served = serveConnections(listener, { most, counters, gauge, converse });
  const opened: Deno.TcpConn[] = [];
  await use(async () => {
    const { port } = listener.address as AddressInfo;
    opened.push(await Deno.connect({ hostname: "127.0.0.1", port }));
    return opened.at(-1)!;
  }, counters);
  for (const connection of opened) connection.close();
  await eventually("all to be closed", () => none(counters, gauge));
  listener.close();
  await served;
}

function none(counters: Float64Array, gauge: number): Promise<true | undefined> {
  return Promise.resolve(counters[gauge] === 0 ? true : undefined);
}

/** What a peer is told; null: it was closed instead, by a reset or an end. */
async function heard(connection: Deno.Conn): Promise<string | null> {
  const buffer = new Uint8Array(100);
  const count = await connection.read(buffer).catch(() => null);
  return count === null ? null : new TextDecoder().decode(buffer.subarray(0, count));
}

/** Greets, and then waits for a peer that has all the time it wants. */
async function greet(connection: Connection): Promise<void> {
  connection.allow(60_000);
  await connection.write("hello");
  while (await connection.read() !== null);
}

Deno.test("a peer that sends nothing, or not enough, is closed at its deadline", async () => {
  const converse = async (connection: Connection) => {
    connection.allow(50);
    for (let left = 3; left > 0;) left -= (await connection.read())!.length;
    await connection.write("three");
  };
  await serving(converse, async (connect, counters) => {
    const [silent, slow, quick] = [await connect(), await connect(), await connect()];
    await quick.write(new Uint8Array(3));
    assert.equal(await heard(quick), "three");
    await slow.write(new Uint8Array(2));
    assert.deepEqual([await heard(silent), await heard(slow)], [null, null]);
    await eventually("the gauge", () => none(counters, index.metrics_connections));
    assert.equal(counters[index.connections_timed_out], 2);
  });
});

Deno.test("a peer that does not read what it asked for is closed at its deadline", async () => {
  const converse = async (connection: Connection) => {
    connection.allow(50);
    await connection.write("more than fits into the sockets' buffers".repeat(1_000_000));
  };
  await serving(converse, async (connect, counters) => {
    await connect();
    await eventually("the end", () => none(counters, index.metrics_connections));
    assert.equal(counters[index.connections_timed_out], 1);
  });
});

Deno.test("a new connection takes the place of the one that has waited longest", async () => {
  await serving(greet, async (connect, counters) => {
    const all: Deno.TcpConn[] = [];
    for (let i = 0; i < 6; i++) {
      all.push(await connect());
      assert.equal(await heard(all[i]), "hello");
    }
    assert.deepEqual([await heard(all[0]), await heard(all[1])], [null, null]);
    assert.equal(counters[index.metrics_connections], 4);
    assert.equal(counters[index.connections_displaced], 2);
    await all[2].closeWrite();
    await eventually("room", () => {
      return Promise.resolve(counters[index.metrics_connections] === 3 ? true : undefined);
    });
    assert.equal(await heard(await connect()), "hello");
    assert.equal(counters[index.connections_displaced], 2, "there was room");
  });
});

Deno.test("a request that is being worked on is not given up for a new connection", async () => {
  const done = Promise.withResolvers<void>();
  let working = 0;
  const converse = async (connection: Connection) => {
    connection.allow(60_000);
    await connection.read();
    working++;
    await done.promise;
    await connection.write("done");
  };
  await serving(converse, async (connect, counters) => {
    const asking = [await connect(), await connect()];
    for (const each of asking) await each.write(new Uint8Array(1));
    await eventually("both requests", () => Promise.resolve(working === 2 ? true : undefined));
    assert.equal(await heard(await connect()), null);
    assert.equal(counters[index.connections_displaced], 1);
    done.resolve();
    for (const each of asking) assert.equal(await heard(each), "done");
  }, { most: 2 });
});

/** A connection from `remoteAddress` that says nothing. */
function fakeSocket(remoteAddress: string) {
  const end = Promise.withResolvers<IteratorResult<Uint8Array>>();
  return {
    remoteAddress,
    closed: false,
    on() {},
    iterator: () => ({ next: () => end.promise }),
    destroy() {
      this.closed = true;
      end.resolve({ done: true, value: undefined });
    },
  };
}

for (const [network, other] of [["203.0.113", "198.18.0.2"], ["127.0.0", "198.18.0.2"]]) {
  Deno.test(`a network that opens many connections displaces its own (${network}.0)`, async () => {
    await displacesItsOwn((i) => `${network}.${i + 1}`, other);
  });
}

/** Opens two connections from `other`, and a hundred from an attacker's addresses between them. */
async function displacesItsOwn(attacker: (i: number) => string, other: string): Promise<void> {
  const attackers = Array.from({ length: 100 }, (_, i) => attacker(i));
  const sockets = [other, ...attackers, other].map(fakeSocket);
  const counters = makeCounters();
  const gauge = index.metrics_connections;
  async function* connections() {
    for (const socket of sockets) yield [socket as unknown as Socket];
  }
  const most = 8;
  await serveConnections({ connections: connections() }, {
    ...{ most, counters, gauge },
    async converse(connection) {
      connection.allow(60_000);
      await connection.read();
    },
  });
  const left = sockets.filter(({ closed }) => !closed);
  assert.deepEqual(left, [sockets[0], ...sockets.slice(-most + 1)]);
  for (const socket of sockets) socket.destroy();
}

/** A control socket that answers each line with itself and a `!`, or by `answer`. */
async function controlled(
  { answer = (line) => `${line}!\n`, ...limits }: {
    readonly answer?: (line: string) => string;
    readonly requestMillis?: number;
    readonly idleMillis?: number;
  },
  use: (connect: () => Promise<Deno.UnixConn>, counters: Float64Array) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/control.sock`;
  const listener = await listenOn(host.listenUnix(path, 0o600), tile);
  const counters = makeCounters();
  const served = serveControl(listener, { answer, counters, ...limits });
  await use(() => Deno.connect({ transport: "unix", path }), counters);
  await eventually("all to be closed", () => none(counters, index.control_connections));
  listener.close();
  await served;
  await Deno.remove(folder, { recursive: true });
}

Deno.test("connections to the control socket that have ended make room for others", async () => {
  await controlled({}, async (connect, counters) => {
    for (let i = 0; i < 200; i++) {
      using connection = await connect();
      await connection.write(encoder.encode(`${i}\n`));
      assert.equal(await heard(connection), `${i}!\n`);
    }
    assert.equal(counters[index.connections_displaced], 0);
  });
});

Deno.test("a request on the control socket has to end in time, however often more of it comes", async () => {
  await controlled({ requestMillis: 200 }, async (connect, counters) => {
    using slow = await connect();
    using idle = await connect();
    await slow.write(encoder.encode("first\nsec"));
    assert.equal(await heard(slow), "first!\n");
    const closed = heard(slow);
    // Each byte comes long before the deadline, and the line never ends.
    const dribble = setInterval(() => slow.write(encoder.encode("o")).catch(() => {}), 10);
    assert.equal(await closed, null);
    clearInterval(dribble);
    assert.equal(counters[index.connections_timed_out], 1);
    await idle.write(encoder.encode("still here\n"));
    assert.equal(await heard(idle), "still here!\n");
  });
});

Deno.test("a conversation on the control socket that has fallen silent is closed", async () => {
  await controlled({ idleMillis: 50 }, async (connect, counters) => {
    using connection = await connect();
    await connection.write(encoder.encode("one\n"));
    assert.equal(await heard(connection), "one!\n");
    assert.equal(await heard(connection), null);
    assert.equal(counters[index.connections_timed_out], 1);
  });
});

Deno.test("no more is answered on the control socket than its client reads", async () => {
  let answered = 0;
  const answer = () => {
    answered++;
    return `${"x".repeat(100_000)}\n`;
  };
  await controlled({ answer, idleMillis: 200 }, async (connect, counters) => {
    using connection = await connect();
    await connection.write(encoder.encode("?\n".repeat(1000)));
    await eventually("its end", () => none(counters, index.control_connections));
    assert.equal(counters[index.connections_timed_out], 1);
  });
  assert.ok(answered > 0 && answered < 100, `${answered} were answered`);
});

Deno.test("two that listen on one socket share its connections, and one that leaves answers its own", async () => {
  const fd = host.listenTcp("127.0.0.1", 0);
  const counters = makeCounters();
  const going = Promise.withResolvers<void>();
  const start = async (name: string) => {
    const listener = await listenOn(fd, tile);
    const served = serveConnections(listener, {
      ...{ most: 4, counters, gauge: index.metrics_connections },
      async converse(connection) {
        connection.allow(60_000);
        await connection.read();
        if (name === "old") await going.promise;
        await connection.write(name);
      },
    });
    return { ...listener, served };
  };
  const old = await start("old");
  const { port } = old.address as AddressInfo;
  const connect = () => Deno.connect({ hostname: "127.0.0.1", port });
  using asking = await connect();
  await asking.write(encoder.encode("?"));
  await eventually(
    "the old one's",
    () => Promise.resolve(counters[index.metrics_connections] === 1 ? true : undefined),
  );
  const successor = await start("new");
  old.close();
  using next = await connect();
  await next.write(encoder.encode("?"));
  assert.equal(await heard(next), "new");
  going.resolve();
  assert.equal(await heard(asking), "old");
  await old.served;
  successor.close();
  await successor.served;
  host.close(fd);
});
