/** What main asks of the host: each answer against what the system says by another way. */

import { equal, notEqual } from "node:assert/strict";
import { hasCapability, openHost } from "../../ffi/host.ts";
import { libraryPath } from "../../ffi/paths.ts";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const MSG_DONTWAIT = 0x40;

const host = openHost(libraryPath("host"));
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

Deno.test("ifindex() knows loopback, and 0 for what there is not", () => {
  equal(host.ifindex("lo"), 1);
  equal(host.ifindex("no-such-if"), 0);
  equal(host.exists(1), true);
  equal(host.exists(0x7fff_ffff), false);
});

Deno.test("driver() and channels() say nothing where the driver says nothing", () => {
  equal(host.driver("no-such-if"), "");
  equal(host.channels("no-such-if"), 0);
  equal(host.channels("lo"), 0);
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
