// SPDX-License-Identifier: Apache-2.0
/** Netlink sockets on the real kernel: events, dumps, overruns, and what comes from others. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { ENOBUFS } from "../../../ffi/library.ts";
import { NETLINK_TRUNCATED } from "../../../ffi/shared.ts";
import { openNetlink } from "../../../ffi/sockets.ts";
import { command, inNamespace, Wire } from "../wire.ts";

const RTM_NEWLINK = 16;
const RTM_GETLINK = 18;
const RTM_NEWROUTE = 24;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLM_F_REQUEST = 0x1;
const NLM_F_DUMP = 0x300;
const RTNLGRP_LINK = 1;
const RTNLGRP_IPV4_ROUTE = 7;
const POLLIN = 1;
const SLOT_BYTES = 65536;
const SLOTS = 16;

const netlink = openNetlink();

/** A socket with room to receive into. */
class Socket {
  readonly fd: number;
  readonly #buffer = new Uint8Array(SLOTS * SLOT_BYTES);
  readonly #lengths = new Uint32Array(SLOTS);

  constructor({ groups = [] as number[], receiveBuffer = 1 << 20 } = {}) {
    this.fd = netlink.open({ groups, receiveBuffer, strict: true });
  }

  /** A request with no attributes: header and a zeroed `struct ifinfomsg`. */
  request(type: number, flags: number, sequence: number): void {
    const message = new DataView(new ArrayBuffer(32));
    message.setUint32(0, 32, true);
    message.setUint16(4, type, true);
    message.setUint16(6, flags, true);
    message.setUint32(8, sequence, true);
    equal(netlink.send(this.fd, new Uint8Array(message.buffer), 32), 32);
  }

  readable(timeoutMs = 20_000): boolean {
    const pollSet = Int32Array.of(this.fd, POLLIN);
    return netlink.wait(pollSet, timeoutMs) === 1 && (pollSet[1] >> 16 & POLLIN) !== 0;
  }

  /** What waits, message by message; or -errno. */
  receive(): { type: number; sequence: number; port: number }[] | number {
    const count = netlink.receive(this.fd, this.#buffer, this.#lengths, SLOT_BYTES);
    if (count < 0) return count;
    const messages = [];
    for (let i = 0; i < count; i++) {
      const view = new DataView(this.#buffer.buffer, i * SLOT_BYTES, this.#lengths[i]);
      for (let at = 0; at < view.byteLength; at += view.getUint32(at, true) + 3 & ~3) {
        messages.push({
          type: view.getUint16(at + 4, true),
          sequence: view.getUint32(at + 8, true),
          port: view.getUint32(at + 12, true),
        });
      }
    }
    return messages;
  }

  /** The types of all messages until `last` has come. */
  receiveUntil(last: number): number[] {
    const types: number[] = [];
    while (!types.includes(last)) {
      ok(this.readable(), `no message ${last}, only ${types}`);
      const messages = this.receive();
      ok(typeof messages !== "number", `receive: ${messages}`);
      types.push(...messages.map(({ type }) => type));
    }
    return types;
  }

  [Symbol.dispose](): void {
    netlink.close(this.fd);
  }
}

Deno.test("a socket gets the events of its groups and of no others", () => {
  using links = new Socket({ groups: [RTNLGRP_LINK] });
  using routes = new Socket({ groups: [RTNLGRP_IPV4_ROUTE] });
  equal(links.readable(0), false);
  deepEqual(links.receive(), []);
  using _wire = new Wire("events");
  ok(links.receiveUntil(RTM_NEWLINK).every((type) => type === RTM_NEWLINK));
  command("ip route add blackhole 203.0.113.0/24");
  deepEqual(routes.receiveUntil(RTM_NEWROUTE), [RTM_NEWROUTE]);
  command("ip route del blackhole 203.0.113.0/24");
});

Deno.test("a dump is answered in full, with our sequence and port", () => {
  for (let i = 0; i < 20; i++) command(`ip link add dump${i} type veth peer name end${i}`);
  using socket = new Socket();
  socket.request(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 77);
  const messages = [];
  while (messages.at(-1)?.type !== NLMSG_DONE) {
    ok(socket.readable());
    const some = socket.receive();
    ok(typeof some !== "number");
    messages.push(...some);
  }
  ok(messages.filter(({ type }) => type === RTM_NEWLINK).length > 40);
  ok(messages.every(({ sequence }) => sequence === 77));
  ok(messages.every(({ port }) => port === netlink.portId(socket.fd)));
  for (let i = 0; i < 20; i++) command(`ip link del dump${i}`);
});

Deno.test("two sockets have ports of their own, and replies go to who asked", () => {
  using one = new Socket();
  using two = new Socket();
  ok(netlink.portId(one.fd) !== netlink.portId(two.fd));
  one.request(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1);
  one.receiveUntil(NLMSG_DONE);
  equal(two.readable(0), false);
});

Deno.test("a request the kernel refuses is answered with an error message", () => {
  using socket = new Socket();
  socket.request(RTM_GETLINK, NLM_F_REQUEST, 5);
  deepEqual(socket.receiveUntil(NLMSG_ERROR), [NLMSG_ERROR]);
});

Deno.test("an overrun is reported once, and what was kept before it still comes", () => {
  using socket = new Socket({ groups: [RTNLGRP_IPV4_ROUTE], receiveBuffer: 4096 });
  const routes = Array.from({ length: 400 }, (_, i) => `198.19.${i >> 8}.${i & 255}`);
  const batch = Deno.makeTempFileSync();
  const all = (verb: string) => {
    Deno.writeTextFileSync(batch, routes.map((r) => `route ${verb} blackhole ${r}\n`).join(""));
    command(`ip -batch ${batch}`);
  };
  all("add");
  equal(socket.receive(), -ENOBUFS);
  const kept = socket.receive();
  ok(typeof kept !== "number" && kept.length > 0 && kept.length < 400);
  while (socket.readable(0)) ok(typeof socket.receive() !== "number");
  all("del");
  equal(socket.receive(), -ENOBUFS);
  Deno.removeSync(batch);
});

Deno.test("a large receive buffer holds the events that overrun a small one", () => {
  using socket = new Socket({ groups: [RTNLGRP_IPV4_ROUTE], receiveBuffer: 8 << 20 });
  const batch = Deno.makeTempFileSync();
  const lines = Array.from({ length: 2000 }, (_, i) => `198.19.${i >> 8}.${i & 255}\n`);
  Deno.writeTextFileSync(batch, lines.map((line) => `route add blackhole ${line}`).join(""));
  command(`ip -batch ${batch}`);
  let events = 0;
  while (socket.readable(0)) {
    const messages = socket.receive();
    ok(typeof messages !== "number", `receive: ${messages}`);
    events += messages.length;
  }
  equal(events, 2000);
  Deno.writeTextFileSync(batch, lines.map((line) => `route del blackhole ${line}`).join(""));
  command(`ip -batch ${batch}`);
  Deno.removeSync(batch);
});

Deno.test("a message that does not fit its slot is said to be truncated", () => {
  using socket = new Socket();
  socket.request(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1);
  const lengths = new Uint32Array(1);
  equal(netlink.receive(socket.fd, new Uint8Array(64), lengths, 64), 1);
  equal(lengths[0], NETLINK_TRUNCATED);
});

Deno.test("what another process sends is given as nothing", () => {
  using receiver = new Socket();
  const libc = Deno.dlopen("libc.so.6", {
    sendto: {
      parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"],
      result: "isize",
    },
  });
  using sender = new Socket();
  const address = Uint32Array.of(16, netlink.portId(receiver.fd), 0);
  equal(
    libc.symbols.sendto(sender.fd, new Uint8Array(32), 32n, 0, address, 12),
    32n,
  );
  ok(receiver.readable());
  const lengths = Uint32Array.of(99);
  equal(netlink.receive(receiver.fd, new Uint8Array(4096), lengths, 4096), 1);
  equal(lengths[0], 0);
  libc.close();
});

Deno.test("open() opens in the namespace of the calling thread", () => {
  using wire = new Wire("space");
  const fd = inNamespace(
    wire.namespace,
    () => netlink.open({ groups: [RTNLGRP_IPV4_ROUTE], receiveBuffer: 65536, strict: true }),
  );
  command("ip route add blackhole 203.0.113.7");
  command("ip route del blackhole 203.0.113.7");
  equal(netlink.receive(fd, new Uint8Array(SLOT_BYTES), new Uint32Array(1), SLOT_BYTES), 0);
  command(`ip -n ${wire.namespace} route add blackhole 203.0.113.7`);
  equal(netlink.receive(fd, new Uint8Array(SLOT_BYTES), new Uint32Array(1), SLOT_BYTES), 1);
  netlink.close(fd);
});

Deno.test("a descriptor that is no netlink socket is an error, not a crash", () => {
  const EBADF = 9;
  equal(netlink.receive(1 << 20, new Uint8Array(64), new Uint32Array(1), 64), -EBADF);
  equal(netlink.portId(1 << 20), 0);
});
