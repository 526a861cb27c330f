/**
 * Regions: two views of the same bytes, one of which cannot be written by any means. What ends the
 * process is tried in a child.
 */

import { equal, notEqual, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { libraryPath } from "../../ffi/paths.ts";
import { openRegions } from "../../ffi/region.ts";
import { u32, u8 } from "../../ffi/view.ts";

const regions = openRegions(libraryPath("region"));

/** Runs the child on one of its tries. */
function tryInChild(what: string): Deno.CommandOutput & { text: string } {
  const script = fileURLToPath(new URL("./ffi_region_child.ts", import.meta.url));
  const args = ["run", "--allow-all", "--no-check", "--unstable-worker-options", script, what];
  const output = new Deno.Command(Deno.execPath(), { args }).outputSync();
  return { ...output, text: new TextDecoder().decode(output.stdout).trim() };
}

Deno.test("a region is zeroed, and what its writer stores its reader sees", () => {
  const { writer, reader } = regions.create("see", 10_000);
  equal(writer.byteLength, 10_000);
  equal(writer.byteOffset % 8, 0);
  ok(u8(reader).every((byte) => byte === 0));
  u8(writer).fill(7);
  ok(u8(reader).every((byte) => byte === 7));
  equal(Atomics.add(u32(writer), 0, 1), 0x07070707);
  equal(Atomics.load(u32(reader), 0), 0x07070708);
});

Deno.test("regions of any size lie apart", () => {
  const sizes = [1, 4096, 4097, 1 << 20, (1 << 22) + 8];
  const made = sizes.map((size) => regions.create(`size ${size}`, size));
  made.forEach(({ writer }, i) => u8(writer).fill(i + 1));
  made.forEach(({ reader }, i) => ok(u8(reader).every((byte) => byte === i + 1)));
});

Deno.test("a region shows in the process's map under its name", () => {
  regions.create("named region", 4096);
  ok(Deno.readTextFileSync("/proc/self/maps").includes("/memfd:tegula named region"));
});

Deno.test("Atomics.wait on the reader's view returns when the word changes", async () => {
  const { writer, reader } = regions.create("wait", 4096);
  const words = new Int32Array(reader.buffer, reader.byteOffset, 1);
  const waiting = Atomics.waitAsync(words, 0, 0, 5000);
  ok(waiting.async);
  Atomics.store(u32(writer), 0, 1);
  Atomics.notify(words, 0);
  equal(await waiting.value, "ok");
});

Deno.test("a store through the writer's view leaves the process alive", () => {
  const { success, text } = tryInChild("writer");
  equal(text, "42");
  ok(success);
});

for (const where of ["reader", "reader in a worker", "reader by Atomics"]) {
  Deno.test(`a store through the view of a ${where} ends the process with SIGSEGV`, () => {
    const { signal, text } = tryInChild(where);
    equal(text, "about to store");
    equal(signal, "SIGSEGV");
  });
}

Deno.test("mprotect cannot make a reader's view writable", () => {
  equal(tryInChild("mprotect").text, "-1 EACCES");
});

Deno.test("a region cannot be mapped writable a second time, nor written as a file", () => {
  equal(tryInChild("map again").text, "-1 EPERM");
  equal(tryInChild("write").text, "-1 EPERM");
  equal(tryInChild("truncate").text, "-1 EPERM");
});

Deno.test("a process with regions ends in order", () => {
  const { code, signal } = tryInChild("nothing");
  equal(signal, null);
  equal(code, 0);
});

Deno.test("create() says what it could not do", () => {
  let message = "";
  try {
    regions.create("x".repeat(300), 4096);
  } catch (error) {
    message = String(error);
  }
  notEqual(message.match(/cannot make the 4096 byte region x+: EINVAL/), null);
});
