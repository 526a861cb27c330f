// SPDX-License-Identifier: Apache-2.0
/**
 * Tries one thing on regions, named on the command line; some of them end this process.
 */

import { errnoName } from "../../../ffi/library.ts";
import { openRegions, u32, u8, type View } from "../../../ffi/region.ts";
import { createRegion } from "../../region.ts";

const PROT_READ_WRITE = 3;

const regions = openRegions();
const { writer, reader } = createRegion(regions, "tried", 4096);

/** Regions small enough that malloc would place their memory among its own. */
function many(): void {
  for (let i = 0; i < 50; i++) createRegion(regions, `small ${i}`, 4096);
}

function maps(): string {
  return Deno.readTextFileSync("/proc/self/maps");
}

const tries: Record<string, () => void | Promise<void>> = {
  "end": many,
  "fail": () => {
    many();
    throw new Error("the start failed");
  },
  "exit": () => {
    many();
    Deno.exit(7);
  },
  "writer": () => {
    u8(writer)[0] = 42;
    console.log(u8(reader)[0]);
  },
  "reader": () => {
    console.log("about to store");
    u8(reader)[0] = 1;
  },
  "reader by Atomics": () => {
    console.log("about to store");
    Atomics.store(u32(reader), 0, 1);
  },
  "reader in a worker": () => {
    const body = "onmessage = ({ data: { buffer, byteOffset } }) => " +
      "{ new Uint8Array(buffer, byteOffset)[0] = 1; close(); }";
    const worker = new Worker(`data:text/javascript,${encodeURIComponent(body)}`, {
      type: "module",
      deno: { permissions: "none" },
    });
    console.log("about to store");
    worker.postMessage(reader satisfies View);
  },
  "mprotect": () => {
    const libc = Deno.dlopen("libc.so.6", {
      mprotect: { parameters: ["pointer", "usize", "i32"], result: "i32" },
      __errno_location: { parameters: [], result: "pointer" },
    }).symbols;
    const result = libc.mprotect(Deno.UnsafePointer.of(u8(reader)), 4096n, PROT_READ_WRITE);
    const errno = new Deno.UnsafePointerView(libc.__errno_location()!).getInt32();
    console.log(`${result} ${errnoName(errno)}`);
  },
  /** Writes the region whose writable descriptor was inherited. */
  "second owner": () => {
    u8(regions.mapShared(Number(Deno.args[1]), 4096))[0] = 43;
  },
  "no memory": () => {
    try {
      createRegion(regions, "large", 2 ** 31 - 1);
    } catch (error) {
      console.log(String(error));
    }
    const open = [...Deno.readDirSync("/proc/self/fd")].filter(({ name }) => {
      try {
        return Deno.readLinkSync(`/proc/self/fd/${name}`).startsWith("/memfd:tegula");
      } catch {
        return false; // The directory's own.
      }
    });
    console.log(`${open.length} left open`);
  },
  "no descriptor": () => {
    const open = [];
    try {
      for (;;) open.push(Deno.openSync("/dev/null"));
    } catch {
      // Now there is none left.
    }
    try {
      createRegion(regions, "refused", 4096);
    } catch (error) {
      console.log(String(error));
    }
  },
  "drop": async () => {
    (() => createRegion(regions, "dropped", 4096))();
    const { gc } = globalThis as unknown as { gc(): void };
    for (let i = 0; maps().includes("tegula dropped"); i++) {
      if (i === 500) throw new Error("still mapped");
      gc();
      // V8 unmaps on a thread of its own.
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    console.log(`kept: ${u8(reader)[0]}`);
  },
};

await tries[Deno.args[0]]();
