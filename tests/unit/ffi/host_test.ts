// SPDX-License-Identifier: Apache-2.0
/** What main asks of the host: each answer against what the system says by another way. */

import { deepEqual, equal, notEqual, throws } from "node:assert/strict";
import { hasCapability, openHost } from "../../../ffi/host.ts";
import { openTile } from "../../../ffi/tile.ts";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const MSG_DONTWAIT = 0x40;

const POLLIN = 1;

const host = openHost();
const tile = openTile();
const libc = Deno.dlopen("libc.so.6", {
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  recv: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
}).symbols;

/** A datagram socket as systemd has one, at a path or, with a leading zero, an abstract name. */
function listen(name: string): number {
  const bytes = new TextEncoder().encode(name);
  const address = new Uint8Array(2 + bytes.length);
  address[0] = AF_UNIX;
  address.set(bytes, 2);
  const fd = libc.socket(AF_UNIX, SOCK_DGRAM, 0);
  equal(libc.bind(fd, address, address.length), 0);
  return fd;
}

/** What has arrived, "" when nothing has. */
function heard(fd: number): string {
  const buffer = new Uint8Array(256);
  const size = Number(libc.recv(fd, buffer, 256n, MSG_DONTWAIT));
  return new TextDecoder().decode(buffer.subarray(0, Math.max(0, size)));
}

function withNotifySocket(value: string, work: () => void): void {
  Deno.env.set("NOTIFY_SOCKET", value);
  try {
    work();
  } finally {
    Deno.env.delete("NOTIFY_SOCKET");
  }
}

Deno.test("eventfd() makes a descriptor", () => {
  const fd = host.eventfd();
  equal(Deno.readLinkSync(`/proc/self/fd/${fd}`), "anon_inode:[eventfd]");
  notEqual(host.eventfd(), fd);
  libc.close(fd);
  equal(host.eventfd(), fd, "the lowest free number is given again");
});

Deno.test("capabilities() is the effective set, those above 31 included", () => {
  const effective = Deno.readTextFileSync("/proc/self/status").match(/CapEff:\s*(\w+)/)![1];
  const set = host.capabilities();
  equal(set.toString(16), BigInt(`0x${effective}`).toString(16));
  for (let capability = 0; capability <= 40; capability++) {
    equal(
      hasCapability(set, capability),
      (BigInt(`0x${effective}`) >> BigInt(capability) & 1n) === 1n,
    );
  }
});

/** Who connects at `path` is taken by `fd`. */
async function connects(path: string, fd: number): Promise<boolean> {
  const waiting = host.waitAny(Int32Array.of(fd, POLLIN), -1);
  const connection = await Deno.connect({ transport: "unix", path });
  const ready = await waiting;
  connection.close();
  return ready === 1;
}

Deno.test("listenUnix() replaces a socket that nobody serves, and nothing else", async () => {
  const folder = Deno.makeTempDirSync();
  const path = `${folder}/control`;
  const before = Deno.umask(0o077);
  const first = host.listenUnix(path, 0o660);
  Deno.umask(before);
  equal(Deno.statSync(path).mode! & 0o777, 0o660, "whatever the umask is");
  equal(await connects(path, first), true);
  throws(() => host.listenUnix(path, 0o660), /cannot listen at .*\/control: EADDRINUSE/);
  libc.close(first);
  const second = host.listenUnix(path, 0o600);
  equal(await connects(path, second), true);
  libc.close(second);
  Deno.writeTextFileSync(`${folder}/file`, "kept");
  throws(() => host.listenUnix(`${folder}/file`, 0o660), /ENOTSOCK, not a socket/);
  equal(Deno.readTextFileSync(`${folder}/file`), "kept");
  throws(() => host.listenUnix(`${folder}/${"x".repeat(200)}`, 0o660), /ENAMETOOLONG/);
  throws(() => host.listenUnix(`${folder}/none/control`, 0o660), /ENOENT/);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("listenTcp() listens on an address, and says when somebody else does", async () => {
  const fd = host.listenTcp("127.0.0.1", 45711);
  const waiting = host.waitAny(Int32Array.of(fd, POLLIN), -1);
  (await Deno.connect({ hostname: "127.0.0.1", port: 45711 })).close();
  equal(await waiting, 1);
  throws(() => host.listenTcp("127.0.0.1", 45711), /on port 45711 of 127.0.0.1: EADDRINUSE/);
  libc.close(fd);
  throws(() => host.listenTcp("localhost", 45711), /EINVAL/);
});

Deno.test("waitAny() says which of many is ready, and leaves the event loop alone", async () => {
  const eventfds = Array.from({ length: 100 }, () => host.eventfd());
  const pollSet = Int32Array.from(eventfds.flatMap((fd) => [fd, POLLIN]));
  equal(await host.waitAny(pollSet, 0), 0);
  const waiting = host.waitAny(pollSet, -1);
  await new Promise((resolve) => setTimeout(resolve));
  tile.wake(eventfds[70]);
  equal(await waiting, 1);
  equal(pollSet.findIndex((word, i) => i % 2 === 1 && word >>> 16 !== 0), 2 * 70 + 1);
  pollSet[0] = 10_000;
  equal(await host.waitAny(pollSet, -1), 2, "a descriptor that is closed is ready, too");
  for (const fd of eventfds) libc.close(fd);
});

Deno.test("ifindex() knows loopback, and 0 for what there is not", () => {
  equal(host.ifindex("lo"), 1);
  equal(host.ifindex("no-such-if"), 0);
  equal(host.exists(1), true);
  equal(host.exists(0x7fff_ffff), false);
});

Deno.test("driver() and channels() say nothing where the driver says nothing", () => {
  equal(host.driver("no-such-if"), "");
  deepEqual(host.channels("no-such-if"), { rx: 0, tx: 0 });
  deepEqual(host.channels("lo"), { rx: 0, tx: 0 });
  equal(host.driver("a name far too long for an interface"), "");
});

Deno.test("hasEthernetHeaders() is true of loopback, and of nothing that is not there", () => {
  equal(host.hasEthernetHeaders("lo"), true);
  equal(host.hasEthernetHeaders("no-such-if"), false);
  equal(host.hasEthernetHeaders("a name far too long for an interface"), false);
});

Deno.test("notify() tells systemd, by a path and by an abstract name", () => {
  const folder = Deno.makeTempDirSync();
  const path = listen(`${folder}/notify`);
  const abstract = listen(`\0tegula-test-${Deno.pid}`);
  withNotifySocket(`${folder}/notify`, () => host.notify("READY=1"));
  withNotifySocket(`@tegula-test-${Deno.pid}`, () => host.notify("STOPPING=1\nSTATUS=bye"));
  equal(heard(path), "READY=1");
  equal(heard(abstract), "STOPPING=1\nSTATUS=bye");
  libc.close(path);
  libc.close(abstract);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("notify() does nothing without a socket, or with one that is not there", () => {
  host.notify("READY=1");
  withNotifySocket("/nonexistent/notify", () => host.notify("READY=1"));
  withNotifySocket("x".repeat(200), () => host.notify("READY=1"));
});
