// SPDX-License-Identifier: Apache-2.0
/** Kernel sockets behind served ports: every field of a descriptor, both ways, over loopback and a wire. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { EADDRINUSE } from "../../../ffi/library.ts";
import { BURST, UDP_BUFFER_BYTES, UDP_DESCRIPTOR_WORDS } from "../../../ffi/shared.ts";
import { openUdp, openUdpSetup } from "../../../ffi/sockets.ts";
import { openXsk } from "../../../ffi/xsk.ts";
import { carries, command, frame, Wire } from "../wire.ts";

const EBADF = 9;
const LOOPBACK = 0x7f000001;
const LOOPBACK_IFINDEX = 1;
const LARGEST = 65_507;

const setup = openUdpSetup();
const udp = openUdp();
const { wait } = openXsk();
const memory = new Uint8Array(BURST * UDP_BUFFER_BYTES);
const buffers = Uint32Array.from({ length: BURST }, (_, i) => i * UDP_BUFFER_BYTES);

interface Datagram {
  offset: number;
  length: number;
  source: number;
  destination: number;
  sourcePort: number;
  destinationPort: number;
  ifindex: number;
  tosTtl: number;
  /** Nanoseconds since 1970. */
  time: number;
}

/** What waits on `fd`, once anything does. */
function receive(fd: number, count = BURST, port = 7002): Datagram[] {
  wait(Int32Array.of(fd, 1), 1, 20_000);
  const words = new Uint32Array(2 + count * UDP_DESCRIPTOR_WORDS);
  const received = udp.receive(fd, port, memory, buffers, count, words);
  ok(received >= 0, `receive: ${received}`);
  return Array.from({ length: received }, (_, i) => {
    const [offset, length, source, destination, ports, ifindex, tosTtl, low, high] = words.subarray(
      2 + i * UDP_DESCRIPTOR_WORDS,
    );
    const [sourcePort, destinationPort] = [ports >>> 16, ports & 0xffff];
    const time = high * 2 ** 32 + low;
    return {
      ...{
        offset,
        length,
        source,
        destination,
        sourcePort,
        destinationPort,
        ifindex,
        tosTtl,
        time,
      },
    };
  });
}

/** One descriptor for `udp.send`. */
function descriptor(
  { offset = 0, length = 4, source = 0, destination = LOOPBACK, from = 0, to = 0, ...more }:
    & {
      [word in "offset" | "length" | "source" | "destination" | "from" | "to"]?: number;
    }
    & { ifindex?: number; tosTtl?: number },
): number[] {
  const { ifindex = 0, tosTtl = 64 } = more;
  // A time is nothing that is sent.
  return [offset, length, source, destination, (from << 16 | to) >>> 0, ifindex, tosTtl, 0, 0];
}

/** Sends one datagram, and waits while the socket's buffer is full. */
function send(fd: number, words: number[]): number {
  return udp.send(fd, memory, Uint32Array.from(words), words.length / UDP_DESCRIPTOR_WORDS);
}

/** Two sockets on loopback that are closed afterwards. */
function pair(): { one: number; two: number; [Symbol.dispose](): void } {
  const [one, two] = [setup.open(7001), setup.open(7002)];
  ok(one >= 0 && two >= 0);
  return {
    one,
    two,
    [Symbol.dispose]() {
      setup.close(one);
      setup.close(two);
    },
  };
}

Deno.test("a datagram tells when the kernel received it, while that is asked for", () => {
  using sockets = pair();
  const ask = () => {
    const before = Date.now() * 1e6;
    equal(send(sockets.one, descriptor({ to: 7002 })), 1);
    const after = (Date.now() + 1) * 1e6;
    const [{ time }] = receive(sockets.two);
    return { time, isThen: time >= before && time <= after };
  };
  setup.setTimes(sockets.two, true);
  const { time, isThen } = ask();
  ok(isThen, String(time));
  setup.setTimes(sockets.two, false);
  equal(ask().time, 0);
});

Deno.test("a datagram tells from where, to where, on which interface and when it came", () => {
  using sockets = pair();
  memory.set(new TextEncoder().encode("word"), 1000);
  const before = BigInt(Date.now()) * 1_000_000n;
  equal(send(sockets.one, descriptor({ offset: 1000, to: 7002, destination: 0x7f000005 })), 1);
  wait(Int32Array.of(sockets.two, 1), 1, 20_000);
  const words = new Uint32Array(2 + UDP_DESCRIPTOR_WORDS + 1);
  equal(udp.receive(sockets.two, 7002, memory, Uint32Array.of(65536), 1, words), 1);
  const time = BigInt(words[0]) | BigInt(words[1]) << 32n;
  ok(time >= before && time < before + 20_000_000_000n);
  deepEqual([...words.subarray(2)], [
    65536,
    4,
    LOOPBACK,
    0x7f000005,
    7001 * 65536 + 7002,
    LOOPBACK_IFINDEX,
    64,
    ...[0, 0],
    0,
  ]);
  equal(new TextDecoder().decode(memory.subarray(65536, 65540)), "word");
});

Deno.test("a datagram leaves from the source address that its descriptor says", () => {
  using sockets = pair();
  equal(send(sockets.one, descriptor({ source: 0x7f0a0b0c, to: 7002 })), 1);
  equal(receive(sockets.two)[0].source, 0x7f0a0b0c);
});

Deno.test("a datagram leaves with the TOS and TTL that its descriptor says, and tells those it came with", () => {
  using sockets = pair();
  for (const tosTtl of [64, 1, 255, (255 << 8) | 17, (46 << 10) | 64, (3 << 8) | 2]) {
    equal(send(sockets.one, descriptor({ tosTtl, to: 7002 })), 1);
    equal(receive(sockets.two)[0].tosTtl, tosTtl);
  }
});

Deno.test("payloads of every size up to the largest, 65,507 bytes, come whole", () => {
  using sockets = pair();
  const payload = crypto.getRandomValues(new Uint8Array(LARGEST & ~3).subarray(0, 65_504));
  for (const size of [0, 1, 1472, 1473, 9000, 65_504]) {
    const at = UDP_BUFFER_BYTES * 2;
    memory.set(payload.subarray(0, size), at);
    equal(send(sockets.one, descriptor({ offset: at, length: size, to: 7002 })), 1);
    const [got] = receive(sockets.two, 1);
    equal(got.length, size);
    deepEqual(memory.subarray(0, size), payload.subarray(0, size));
  }
  equal(send(sockets.one, descriptor({ length: LARGEST, to: 7002 })), 1);
  equal(receive(sockets.two, 1)[0].length, LARGEST);
  ok(send(sockets.one, descriptor({ length: LARGEST + 1, to: 7002 })) < 0);
});

Deno.test("a burst is received by one call, in order, each datagram in its buffer", () => {
  using sockets = pair();
  const words: number[] = [];
  for (let i = 0; i < 150; i++) {
    memory[i] = i;
    words.push(...descriptor({ offset: i, length: 1, to: 7002 }));
  }
  equal(send(sockets.one, words), BURST);
  equal(send(sockets.one, words.slice(BURST * UDP_DESCRIPTOR_WORDS)), BURST);
  equal(send(sockets.one, words.slice(2 * BURST * UDP_DESCRIPTOR_WORDS)), 22);
  const counts = [receive(sockets.two), receive(sockets.two), receive(sockets.two)];
  deepEqual(counts.map((burst) => burst.length), [64, 64, 22]);
  counts[0].forEach(({ offset }, i) => equal(offset, buffers[i]));
  deepEqual(receiveNow(sockets.two), 0);
});

/** How many wait right now. */
function receiveNow(fd: number): number {
  return udp.receive(fd, 7002, memory, buffers, 1, new Uint32Array(2 + UDP_DESCRIPTOR_WORDS));
}

Deno.test("send() stops at a datagram that is refused, and says why when it is the first", () => {
  using sockets = pair();
  const good = descriptor({ to: 7002 });
  const bad = descriptor({ to: 7002, destination: 0xc6120001 });
  equal(send(sockets.one, [...good, ...good, ...bad, ...good]), 2);
  const ENETUNREACH = 101;
  equal(send(sockets.one, [...bad, ...good]), -ENETUNREACH);
});

Deno.test("a port that is taken is refused, also by one of our own", () => {
  const first = setup.open(7003);
  ok(first >= 0);
  equal(setup.open(7003), -EADDRINUSE);
  setup.close(first);
  const again = setup.open(7003);
  ok(again >= 0);
  setup.close(again);
});

Deno.test("watch() is readable while one of many sockets is, and ready() tells them all in turn", () => {
  const fds = Int32Array.from({ length: 150 }, (_, i) => setup.open(20_000 + i, 150));
  const watch = udp.watch(fds);
  const indices = new Uint32Array(BURST);
  const found = (most = BURST) => [...indices.subarray(0, udp.ready(watch, indices, most))];
  equal(wait(Int32Array.of(watch, 1), 1, 0), 0);
  deepEqual(found(), []);
  for (const fd of fds.toReversed()) {
    const to = 20_000 + fds.indexOf(fd);
    equal(send(fds[0], descriptor({ from: 20_000, to })), 1);
  }
  equal(wait(Int32Array.of(watch, 1), 1, 20_000), 1);
  equal(found(7).length, 7);
  // Those that are told and not read stand behind the others.
  const seen = new Set<number>();
  for (let i = 0; i < 4; i++) for (const index of found()) seen.add(index);
  equal(seen.size, fds.length);
  for (const [i, fd] of fds.entries()) equal(receive(fd, 1, 20_000 + i).length, 1);
  deepEqual(found(), []);
  equal(wait(Int32Array.of(watch, 1), 1, 0), 0);
  for (const fd of fds) setup.close(fd);
});

Deno.test("the buffers of many sockets are smaller than those of few", () => {
  const SOL_SOCKET = 1;
  const libc = Deno.dlopen("libc.so.6", {
    getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  }).symbols;
  const sizes = (sockets: number) => {
    const fd = setup.open(7006, sockets);
    const values = [7, 8].map((option) => {
      const value = new Int32Array(1);
      equal(libc.getsockopt(fd, SOL_SOCKET, option, value, Int32Array.of(4)), 0);
      return value[0];
    });
    setup.close(fd);
    return values;
  };
  // The kernel doubles what it is told, for what it keeps besides.
  deepEqual(sizes(1), [2 * (4 << 20), 2 * (8 << 20)]);
  deepEqual(sizes(64), [2 * (2 << 20), 2 * (4 << 20)]);
  deepEqual(sizes(4096), [2 * (256 << 10), 2 * (256 << 10)]);
});

Deno.test("watch() says why it cannot", () => {
  equal(udp.watch(Int32Array.of(99_999)), -EBADF);
});

Deno.test("a datagram can be sent out of a given interface", () => {
  using one = new Wire("udp1");
  using two = new Wire("udp2");
  for (const wire of [one, two]) {
    command(`ip addr add 198.18.0.1/24 dev ${wire.near.name}`);
    const mac = wire.far.mac.toHex().match(/../g)!.join(":");
    command(`ip neigh add 198.18.0.2 dev ${wire.near.name} lladdr ${mac}`);
  }
  using far = two.farSocket();
  const fd = setup.open(7004);
  memory.set(new TextEncoder().encode("through two"), 0);
  const to = { destination: 0xc6120002, to: 9, length: 11 };
  equal(send(fd, descriptor({ ...to, ifindex: two.near.ifindex })), 1);
  ok(far.receive(carries("through two")));
  setup.close(fd);
});

Deno.test("a datagram from the wire tells its interface and the address it was sent to", () => {
  using wire = new Wire("udp3");
  using far = wire.farSocket();
  command(`ip addr add 198.18.0.1/24 dev ${wire.near.name}`);
  command(`ip addr add 198.18.0.77/24 dev ${wire.near.name}`);
  const fd = setup.open(7005);
  const bytes = frame({ to: wire.near.mac, destination: 0xc612004d, port: 7005, payload: "hello" });
  sumHeader(bytes);
  far.send(bytes);
  const [got] = receive(fd, 1, 7005);
  deepEqual(got, {
    offset: 0,
    length: 5,
    source: 0xc6120063,
    destination: 0xc612004d,
    sourcePort: 4000,
    destinationPort: 7005,
    ifindex: wire.near.ifindex,
    tosTtl: 64,
    time: 0,
  });
  setup.close(fd);
});

/** Fills in the IPv4 header checksum of an untagged frame; the kernel wants it right. */
function sumHeader(bytes: Uint8Array<ArrayBuffer>): void {
  const view = new DataView(bytes.buffer);
  let sum = 0;
  for (let at = 14; at < 34; at += 2) sum += view.getUint16(at);
  view.setUint16(24, ~((sum & 0xffff) + (sum >>> 16)) & 0xffff);
}
