// SPDX-License-Identifier: Apache-2.0
/**
 * Regions: two views of the same bytes, one of which cannot be written by any means. What ends the
 * process is tried in a child.
 */

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { checked, errnoName, libraryPath } from "../../../ffi/library.ts";
import { openRegions, u32, u8 } from "../../../ffi/region.ts";
import { createRegion } from "../../region.ts";

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const F_ADD_SEALS = 1033;
const F_SEAL_FUTURE_WRITE = 16;

const regions = openRegions();

const native = Deno.dlopen(libraryPath(), {
  tegula_region_create: { parameters: ["buffer", "u32", "buffer"], result: "i32" },
}).symbols;

const libc = Deno.dlopen("libc.so.6", {
  mmap: { parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"], result: "isize" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  dup: { parameters: ["i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  __errno_location: { parameters: [], result: "pointer" },
}).symbols;

/** What a call of libc failed with; "" where it did not fail. */
function refusal(result: number | bigint): string {
  if (Number(result) !== -1) return "";
  return errnoName(new Deno.UnsafePointerView(libc.__errno_location()!).getInt32());
}

/** The descriptors that a region is mapped from, both inherited by children; closed at the end of `using`. */
function descriptors(): { writer: number; reader: number } & Disposable {
  const label = new TextEncoder().encode("tegula descriptors\0");
  const fds = new Int32Array(2);
  checked(native.tegula_region_create(label, 65_536, fds), "make a region");
  const [writer, reader] = Array.from(fds, (fd) => libc.dup(fd));
  fds.forEach((fd) => libc.close(fd));
  return {
    writer,
    reader,
    [Symbol.dispose]: () => [writer, reader].forEach((fd) => libc.close(fd)),
  };
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes).trim();
}

/** Runs the child on one of its tries. `under` is a command that runs it. */
function tryInChild(
  tried: readonly string[],
  { under = [], env = {} }: { under?: readonly string[]; env?: Record<string, string> } = {},
): { code: number; signal: Deno.Signal | null; said: string; stderr: string } {
  const script = fileURLToPath(new URL("./region_child.ts", import.meta.url));
  const flags = ["--allow-all", "--no-check", "--unstable-worker-options"];
  const command = [
    ...under,
    ...[Deno.execPath(), "run", ...flags, "--v8-flags=--expose-gc", script, ...tried],
  ];
  const { code, signal, stdout, stderr } = new Deno.Command(command[0], {
    args: command.slice(1),
    env,
  }).outputSync();
  return { code, signal, said: text(stdout), stderr: text(stderr) };
}

Deno.test("a region is zeroed, and what its writer stores its reader sees", () => {
  const { writer, reader } = createRegion(regions, "see", 10_000);
  equal(writer.byteLength, 10_000);
  equal(writer.byteOffset % 8, 0);
  ok(u8(reader).every((byte) => byte === 0));
  u8(writer).fill(7);
  ok(u8(reader).every((byte) => byte === 7));
  equal(Atomics.add(u32(writer), 0, 1), 0x07070707);
  equal(Atomics.load(u32(reader), 0), 0x07070708);
});

Deno.test("regions of any size lie apart", () => {
  const sizes = [1, 4096, 4097, 65_536, 65_537, 1 << 20, (1 << 22) + 8];
  const made = sizes.map((size) => createRegion(regions, `size ${size}`, size));
  made.forEach(({ writer }, i) => u8(writer).fill(i + 1));
  made.forEach(({ reader }, i) => ok(u8(reader).every((byte) => byte === i + 1)));
});

Deno.test("every byte of both buffers is the region's", () => {
  const { writer, reader } = createRegion(regions, "whole", 4096);
  equal(writer.buffer.byteLength, reader.buffer.byteLength);
  new Uint8Array(writer.buffer).fill(9);
  ok(new Uint8Array(reader.buffer).every((byte) => byte === 9));
});

Deno.test("a region shows in the process's map under its name", () => {
  const { writer } = createRegion(regions, "named region", 4096);
  ok(Deno.readTextFileSync("/proc/self/maps").includes("/memfd:tegula named region"));
  equal(u8(writer)[0], 0);
});

Deno.test("a region may have a name that is longer than the kernel's limit", () => {
  const { writer } = createRegion(regions, `ü${"x".repeat(400)}`, 4096);
  ok(Deno.readTextFileSync("/proc/self/maps").includes(`/memfd:tegula ü${"x".repeat(240)} `));
  equal(u8(writer)[0], 0);
});

Deno.test("hundreds of regions take no address space besides their own", () => {
  const size = () =>
    Number(Deno.readTextFileSync("/proc/self/status").match(/VmSize:\s+(\d+)/)![1]);
  const before = size();
  const made = Array.from(
    { length: 400 },
    (_, i) => createRegion(regions, `one of many ${i}`, 4096),
  );
  // Their own is 50 MiB. V8 may reserve 8 GiB around each memory of WebAssembly.
  const grown = size() - before;
  ok(grown < 1024 * 1024, `${grown} KiB for ${made.length}`);
});

Deno.test("Atomics.wait on the reader's view returns when the word changes", async () => {
  const { writer, reader } = createRegion(regions, "wait", 4096);
  const words = new Int32Array(reader.buffer, reader.byteOffset, 1);
  const waiting = Atomics.waitAsync(words, 0, 0, 5000);
  ok(waiting.async);
  Atomics.store(u32(writer), 0, 1);
  Atomics.notify(words, 0);
  equal(await waiting.value, "ok");
});

Deno.test("a worker without permissions reads, writes and waits on views it is sent", async () => {
  const { writer, reader } = createRegion(regions, "sent", 4096);
  const body = `onmessage = ({ data: { reader, writer } }) => {
    const words = new Int32Array(reader.buffer, reader.byteOffset, 2);
    postMessage("waits");
    Atomics.wait(words, 0, 0);
    Atomics.store(new Int32Array(writer.buffer, writer.byteOffset, 2), 1, words[0] + 1);
    postMessage("stored");
  }`;
  const worker = new Worker(`data:text/javascript,${encodeURIComponent(body)}`, {
    type: "module",
    deno: { permissions: "none" },
  });
  const next = () =>
    new Promise((resolve) =>
      worker.addEventListener("message", ({ data }) => resolve(data), { once: true })
    );
  worker.postMessage({ reader, writer });
  equal(await next(), "waits");
  const stored = next();
  // A waiter on another mapping of the word is another waiter: it is woken by the mapping it waits on.
  Atomics.store(u32(writer), 0, 41);
  Atomics.notify(new Int32Array(reader.buffer), 0);
  equal(await stored, "stored");
  equal(u32(reader)[1], 42);
  worker.terminate();
});

Deno.test("a store through the writer's view leaves the process alive", () => {
  const { code, said } = tryInChild(["writer"]);
  equal(said, "42");
  equal(code, 0);
});

for (const where of ["reader", "reader in a worker", "reader by Atomics"]) {
  Deno.test(`a store through the view of a ${where} ends the process with SIGSEGV`, () => {
    const { signal, said } = tryInChild([where]);
    equal(said, "about to store");
    equal(signal, "SIGSEGV");
  });
}

Deno.test("mprotect cannot make a reader's view writable", () => {
  equal(tryInChild(["mprotect"]).said, "-1 EACCES");
});

Deno.test("a reader's descriptor can neither be mapped writable nor written", () => {
  using fds = descriptors();
  equal(refusal(libc.mmap(null, 4096n, PROT_READ_WRITE, MAP_SHARED, fds.reader, 0n)), "EACCES");
  equal(refusal(libc.write(fds.reader, new Uint8Array(1), 1n)), "EBADF");
  equal(refusal(libc.ftruncate(fds.reader, 0n)), "EINVAL");
});

Deno.test("another user cannot open a reader's descriptor anew for writing", () => {
  using fds = descriptors();
  const open = (how: string) =>
    new Deno.Command("setpriv", {
      args: [
        "--reuid=65534",
        "--clear-groups",
        "sh",
        "-c",
        `exec 9${how}/proc/self/fd/${fds.reader}`,
      ],
      env: { LC_ALL: "C" },
    }).outputSync();
  for (const how of [">", "<>"]) match(text(open(how).stderr), /Permission denied/);
});

Deno.test("a second process that has the writable descriptor writes the region", () => {
  using fds = descriptors();
  const { code, stderr } = tryInChild(["second owner", String(fds.writer)]);
  equal(code, 0, stderr);
  equal(u8(regions.mapShared(fds.writer, 4096))[0], 43);
});

Deno.test("who has the writable descriptor can neither resize the region nor seal it", () => {
  using fds = descriptors();
  equal(refusal(libc.ftruncate(fds.writer, 0n)), "EPERM");
  equal(refusal(libc.ftruncate(fds.writer, 1n << 20n)), "EPERM");
  equal(refusal(libc.fcntl(fds.writer, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)), "EPERM");
});

Deno.test("making a region leaves no descriptor open", () => {
  const open = () => Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => name).sort();
  const before = open();
  const { writer } = createRegion(regions, "closed", 4096);
  deepEqual(open(), before);
  equal(u8(writer)[0], 0);
});

Deno.test("a region that there is no memory for is named, and leaves no descriptor open", () => {
  const { said } = tryInChild(["no memory"], { under: ["prlimit", "--data=2000000000"] });
  match(said, /cannot map 2147483648 bytes of descriptor \d+: ENOMEM.*\n0 left open$/);
});

Deno.test("a region that nobody has a view of any more is unmapped", () => {
  const { said, stderr } = tryInChild(["drop"]);
  equal(said, "kept: 0", stderr);
});

// With this glibc writes into memory that it takes back, as anybody may who is handed it next.
const PERTURBED = { env: { MALLOC_PERTURB_: "165" } };

for (const [how, status] of [["end", 0], ["fail", 1], ["exit", 7]] as const) {
  Deno.test(`a process with regions ends in order: ${how}`, () => {
    const { code, signal } = tryInChild([how], PERTURBED);
    equal(signal, null);
    equal(code, status);
  });
}

Deno.test("createShared() says what it could not do", () => {
  const { said, stderr } = tryInChild(["no descriptor"], { under: ["prlimit", "--nofile=256"] });
  match(said, /cannot make the 4096 byte region refused: EMFILE/, stderr);
});
