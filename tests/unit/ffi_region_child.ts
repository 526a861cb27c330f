/**
 * Tries one thing on a region, named on the command line; some of them end this process.
 */

import { errnoName } from "../../ffi/errno.ts";
import { libraryPath } from "../../ffi/paths.ts";
import { openRegions } from "../../ffi/region.ts";
import { u32, u8, type View } from "../../ffi/view.ts";

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const O_RDWR = 2;

const libc = Deno.dlopen("libc.so.6", {
  mprotect: { parameters: ["pointer", "usize", "i32"], result: "i32" },
  mmap: { parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"], result: "isize" },
  open: { parameters: ["buffer", "i32"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  __errno_location: { parameters: [], result: "pointer" },
}).symbols;

const { writer, reader } = openRegions(libraryPath("region")).create("tried", 4096);

function say(result: number | bigint): void {
  const errno = new Deno.UnsafePointerView(libc.__errno_location()!).getInt32();
  console.log(`${result} ${errnoName(errno)}`);
}

/** The region as a file, by the one way that is left: root's look into our own map. */
function reopen(): number {
  const line = Deno.readTextFileSync("/proc/self/maps").split("\n")
    .find((line) => line.includes("memfd:tegula tried") && line.includes("rw-s"))!;
  const path = `/proc/self/map_files/${line.split(" ")[0]}`;
  return libc.open(new TextEncoder().encode(path + "\0"), O_RDWR);
}

const tries: Record<string, () => void> = {
  nothing: () => {},
  writer: () => {
    u8(writer)[0] = 42;
    console.log(u8(reader)[0]);
  },
  reader: () => {
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
    });
    console.log("about to store");
    worker.postMessage(reader satisfies View);
  },
  mprotect: () => say(libc.mprotect(Deno.UnsafePointer.of(u8(reader)), 4096n, PROT_READ_WRITE)),
  "map again": () => {
    const fd = reopen();
    if (fd < 0) throw new Error("cannot open the region");
    say(libc.mmap(null, 4096n, PROT_READ_WRITE, MAP_SHARED, fd, 0n));
  },
  write: () => say(libc.write(reopen(), new Uint8Array(1), 1n)),
  truncate: () => say(libc.ftruncate(reopen(), 0n)),
};

tries[Deno.args[0]]();
