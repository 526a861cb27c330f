// SPDX-License-Identifier: Apache-2.0
/** DNS over TCP: the slow side of `dns` with real connections, beside the app in the harness. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { type AddressInfo, connect, type Server, type Socket } from "node:net";
import packet from "dns-packet";
import * as dns from "../../../apps/dns/dns.ts";
import { Question } from "../../../apps/dns/answer.ts";
import createTcp, { networkOf } from "../../../apps/dns/tcp.ts";
import type { BesideContext } from "../../../tiles/app/contract.ts";
import { AppHarness } from "../../../tiles/app/harness.ts";
import { eventually } from "../../eventually.ts";

const BIG = "big.example.org";
/** A set of records that no datagram holds: of some 60,000 bytes. */
const TEXTS = Array.from({ length: 240 }, (_, i) => `${i}`.padEnd(240, "x"));
const ZONE = `$ORIGIN example.org.
$TTL 60
@ IN SOA ns1 host 1 3600 600 86400 60
@ NS ns1
ns1 A 198.18.0.1
${TEXTS.map((text) => `big TXT "${text}"`).join("\n")}
`;

/** The app, its slow side, and how to connect to it. The app has its mail all the time. */
async function serving(options: Record<string, unknown> = {}, firstQueryMillis?: number) {
  const zone = Deno.makeTempFileSync();
  Deno.writeTextFileSync(zone, ZONE);
  const servers: Server[] = [];
  const { promise: listens, resolve } = Promise.withResolvers<number>();
  const accept = (server: { listen(options: { fd: number }): unknown }) => {
    const real = server as Server;
    servers.push(real);
    real.listen(0, "127.0.0.1", () => resolve((real.address() as AddressInfo).port));
  };
  const listeners = [{ address: "127.0.0.1", port: 53, accept }];
  const beside = {
    default: (context: BesideContext) => createTcp({ ...context, listeners }, firstQueryMillis),
  };
  const harness = await AppHarness.start(dns, {
    ports: [53],
    options: { zone, rrl_ratelimit: 1, ...options },
    beside,
  });
  Deno.removeSync(zone);
  const port = await listens;
  const post = setInterval(() => harness.deliver(), 1);
  const sockets: Socket[] = [];
  return {
    harness,
    async connect(): Promise<Connection> {
      const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
      sockets.push(socket);
      await once(socket, "connect");
      return new Connection(socket);
    },
    async [Symbol.asyncDispose]() {
      clearInterval(post);
      for (const socket of sockets) socket.destroy();
      await harness.end();
    },
  };
}

/** A client's connection: the answers so far, by their numbers. */
class Connection {
  // deno-lint-ignore no-explicit-any -- dns-packet comes without types
  readonly answers = new Map<number, any>();
  isClosed = false;
  readonly socket: Socket;

  constructor(socket: Socket) {
    this.socket = socket;
    let received = Buffer.alloc(0);
    socket.on("data", (bytes) => {
      received = Buffer.concat([received, bytes]);
      while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
        const answer = packet.streamDecode(received);
        this.answers.set(answer.id, answer);
        received = received.subarray(2 + received.readUInt16BE(0));
      }
    });
    for (const event of ["end", "close", "error"]) socket.on(event, () => this.isClosed = true);
  }

  send(id: number, name = "ns1.example.org", type = "A"): void {
    this.socket.write(query(id, name, type));
  }

  // deno-lint-ignore no-explicit-any -- as above
  answer(id: number): Promise<any> {
    return eventually(`answer ${id}`, () => Promise.resolve(this.answers.get(id)));
  }

  closed(): Promise<true> {
    return eventually("the end", () => Promise.resolve(this.isClosed || undefined)) as Promise<
      true
    >;
  }
}

function query(id: number, name: string, type: string): Buffer {
  return packet.streamEncode({ type: "query", id, questions: [{ name, type }] });
}

Deno.test("what is truncated by UDP is whole by TCP, and is counted", async () => {
  await using server = await serving();
  const payload = query(1, BIG, "TXT").subarray(2);
  const [udp] = server.harness.ask({ payload });
  assert.ok(packet.decode(Buffer.from(udp.payload)).flag_tc);
  const client = await server.connect();
  client.send(7, BIG, "TXT");
  const { flag_tc: isCut, answers } = await client.answer(7);
  assert.equal(isCut, false);
  assert.deepEqual(
    answers.map(({ data }: { data: Buffer[] }) => Buffer.concat(data).toString()),
    TEXTS,
  );
  assert.equal(server.harness.counters['dns.queries{type="TXT"}'], 2);
});

Deno.test("queries are pipelined, split and joined at will, and none is limited", async () => {
  await using server = await serving();
  const client = await server.connect();
  const ids = Array.from({ length: 500 }, (_, id) => id);
  const all = Buffer.concat(
    ids.map((id) => query(id, id % 50 === 0 ? BIG : "ns1.example.org", "TXT")),
  );
  for (let at = 0, size = 1; at < all.length; at += size, size = (size * 7) % 301 + 1) {
    client.socket.write(all.subarray(at, at + size));
  }
  for (const id of ids) {
    const { answers } = await client.answer(id);
    assert.equal(answers.length, id % 50 === 0 ? TEXTS.length : 0);
  }
  assert.equal(client.isClosed, false);
});

Deno.test("a client that has sent its last query has all answers before the end", async () => {
  await using server = await serving();
  const client = await server.connect();
  client.socket.end(Buffer.concat([1, 2, 3].map((id) => query(id, BIG, "TXT"))));
  await client.closed();
  assert.deepEqual([...client.answers.keys()], [1, 2, 3]);
});

Deno.test("also one that reads its answers late", async () => {
  await using server = await serving();
  const client = await server.connect();
  const ids = Array.from({ length: 100 }, (_, id) => id);
  client.socket.pause();
  client.socket.end(Buffer.concat(ids.map((id) => query(id, BIG, "TXT"))));
  const other = await server.connect();
  other.send(1);
  await other.answer(1);
  client.socket.resume();
  await client.closed();
  assert.deepEqual([...client.answers.keys()], ids);
});

Deno.test("a query that ends anywhere is read to its end, and no further", async () => {
  const whole = query(1, "ns1.example.org", "A").subarray(2);
  for (let size = 12; size < whole.length; size++) {
    // Nothing is behind a mail.
    const question = new Question();
    assert.ok(question.read(new Uint8Array(whole.subarray(0, size)), 0, size));
    assert.ok(question.isMalformed, `${size} bytes`);
  }
  await using server = await serving();
  const client = await server.connect();
  client.socket.write(Buffer.concat([Buffer.from([0, 12]), whole.subarray(0, 12)]));
  const { rcode } = await client.answer(1);
  assert.equal(rcode, "FORMERR");
});

Deno.test("a query that would be longer than any closes its connection", async () => {
  await using server = await serving();
  const client = await server.connect();
  client.socket.write(Buffer.from([0x10, 0x01]));
  await client.closed();
});

Deno.test("a network is a /24, or a /48 of IPv6, however its addresses are written", () => {
  const networks = {
    "192.0.2.1": "192.0.2",
    "::ffff:192.0.2.9": "192.0.2",
    "2001:db8::1": "2001:db8:0",
    "2001:db8::2:1": "2001:db8:0",
    "2001:db8:7:8:9:a:b:c": "2001:db8:7",
    "::1": "0:0:0",
    "fe80::1%eth0": "fe80:0:0",
  };
  for (const [address, network] of Object.entries(networks)) {
    assert.equal(networkOf(address), network);
  }
});

Deno.test("what is no query closes its connection alone", async () => {
  await using server = await serving();
  const [good, bad] = [await server.connect(), await server.connect()];
  const answer = query(1, "ns1.example.org", "A");
  answer[4] |= 0x80;
  bad.socket.write(answer);
  await bad.closed();
  good.send(2);
  await good.answer(2);
});

Deno.test("an idle connection is closed, also one that never ends its query", async () => {
  await using server = await serving({ tcp_timeout: 1 });
  const [silent, slow, busy] = [
    await server.connect(),
    await server.connect(),
    await server.connect(),
  ];
  slow.socket.write(Buffer.from([0x0f, 0xff]));
  const asking = setInterval(() => {
    busy.send(1);
    if (!slow.isClosed) slow.socket.write(Buffer.from([0]));
  }, 50);
  try {
    await Promise.all([silent.closed(), slow.closed()]);
    assert.equal(busy.isClosed, false);
  } finally {
    clearInterval(asking);
  }
});

Deno.test("beyond the limit the connection that has been idle longest is closed", async () => {
  await using server = await serving({ tcp_count: 3 });
  const clients = [];
  for (let i = 0; i < 3; i++) {
    clients.push(await server.connect());
    clients[i].send(i);
    await clients[i].answer(i);
  }
  clients[0].send(10);
  await clients[0].answer(10);
  const fourth = await server.connect();
  await clients[1].closed();
  fourth.send(4);
  await fourth.answer(4);
  assert.deepEqual(clients.map(({ isClosed }) => isClosed), [false, true, false]);
});

Deno.test("a client that takes no answers keeps nobody else's back", async () => {
  await using server = await serving();
  const [greedy, other] = [await server.connect(), await server.connect()];
  greedy.socket.pause();
  for (let id = 0; id < 400; id++) greedy.send(id, BIG, "TXT");
  for (let id = 0; id < 50; id++) {
    other.send(id, BIG, "TXT");
    await other.answer(id);
  }
});

Deno.test("at its end a new connection has the answer to its first query", async () => {
  await using server = await serving({}, 60_000);
  const [old, late] = [await server.connect(), await server.connect()];
  old.send(1);
  await old.answer(1);
  const ended = server.harness.end();
  await old.closed();
  assert.equal(late.isClosed, false);
  late.send(2);
  await late.answer(2);
  await late.closed();
  await ended;
});

Deno.test("at its end a connection that asks nothing is closed", async () => {
  await using server = await serving({}, 1);
  const silent = await server.connect();
  await server.harness.end();
  await silent.closed();
});

Deno.test("wrong limits are errors of the start", async () => {
  for (const tcp_count of [0, 1.5, "many", 901]) {
    await assert.rejects(serving({ tcp_count }), {
      message: "options.tcp_count: must be a whole number from 1 to 900",
    });
  }
});
