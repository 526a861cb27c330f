/**
 * `deno task build`: the native libraries, from `ffi/*.c` to `build/libtegula_NAME.so`. What is newer
 * than its sources is left alone. libxdp and what it stands on are linked in, so that a built tree
 * needs nothing of the host but libc, and every symbol that no binding names is hidden.
 */

import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const SOURCES = `${ROOT}ffi/`;
const BUILD = `${ROOT}build/`;
const FILTER = `${BUILD}xdp_filter.bpf.o`;

/** A thing to be made: from what, and by which command, to which `-o OUTPUT` is added. */
interface Target {
  readonly output: string;
  readonly inputs: readonly string[];
  readonly command: readonly string[];
}

/** A library of one or more C files. `more` are further inputs, `flags` further arguments. */
function library(
  name: string,
  { sources = [`${name}.c`], more = [], flags = [] }: {
    sources?: readonly string[];
    more?: readonly string[];
    flags?: readonly string[];
  } = {},
): Target {
  const output = `${BUILD}libtegula_${name}.so`;
  const files = sources.map((source) => SOURCES + source);
  return {
    output,
    inputs: [...files, `${SOURCES}native.h`, ...more],
    // deno-fmt-ignore
    command: [
      "gcc", "-std=gnu11", "-O2", "-g1", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden",
      "-fPIC", "-shared", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", ...files,
      ...flags, "-Wl,--exclude-libs,ALL,--gc-sections,-z,defs,-z,now,-z,relro",
    ],
  };
}

/** All there is to make, in order. `includes` is where the kernel headers of this machine are. */
function targets(includes: string): Target[] {
  return [
    library("region"),
    library("tile"),
    library("host"),
    library("netlink"),
    library("udp"),
    {
      output: FILTER,
      inputs: [`${SOURCES}xdp_filter.bpf.c`],
      // deno-fmt-ignore
      command: [
        "clang", "-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror", `-I${includes}`,
        "-c", `${SOURCES}xdp_filter.bpf.c`,
      ],
    },
    library("xsk", {
      sources: ["xsk.c", "xsk_static.c"],
      more: [FILTER],
      // deno-fmt-ignore
      flags: [
        `-DFILTER_OBJECT="${FILTER}"`,
        "-Wl,--wrap=stderr", "-Wl,-Bstatic", "-lxdp", "-lbpf", "-lelf", "-lz", "-lzstd", "-Wl,-Bdynamic",
      ],
    }),
  ];
}

/** When a file was last written, in milliseconds; 0 when it is not there. */
function writtenAt(path: string): number {
  try {
    return Deno.statSync(path).mtime?.getTime() ?? 0;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
}

function isCurrent({ output, inputs }: Target): boolean {
  const made = writtenAt(output);
  const ingredients = [...inputs, fileURLToPath(import.meta.url)];
  return made > 0 && ingredients.every((input) => writtenAt(input) <= made);
}

/** Runs a command to its end and returns what it printed; throws Error with it when it failed. */
function run([program, ...args]: readonly string[]): string {
  const { success, stdout, stderr } = new Deno.Command(program, { args }).outputSync();
  const decoder = new TextDecoder();
  if (success) return decoder.decode(stdout);
  throw new Error(`${program} ${args.join(" ")}\n${decoder.decode(stderr)}`);
}

/** Makes what is not current; returns the names of what was made. */
export function build(): string[] {
  Deno.mkdirSync(BUILD, { recursive: true });
  const includes = `/usr/include/${run(["gcc", "-print-multiarch"]).trim()}`;
  const stale: string[] = [];
  for (const target of targets(includes)) {
    if (isCurrent(target)) continue;
    // Written aside and renamed: a program that has the old one open keeps it.
    const fresh = `${target.output}.${Deno.pid}`;
    run([...target.command, "-o", fresh]);
    Deno.renameSync(fresh, target.output);
    stale.push(target.output.slice(BUILD.length));
  }
  return stale;
}

if (import.meta.main) {
  try {
    const made = build();
    console.log(made.length === 0 ? "build/ is current" : `built ${made.join(", ")}`);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    console.error("needs: apt-get install gcc clang libc6-dev libbpf-dev libxdp-dev libelf-dev \\");
    console.error("  zlib1g-dev libzstd-dev linux-libc-dev");
    Deno.exit(1);
  }
}
