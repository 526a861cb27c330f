// SPDX-License-Identifier: Apache-2.0
/**
 * The C programs that lookups are compared with (`c/lookup_dpdk.c`, `c/lookup_neighbors.c`). They are started with tables
 * and addresses in files, and then asked for one measurement after another.
 */

import { linesOf } from "../cli/command.ts";
import { buildProgram, libraryOptions } from "./programs.ts";

/** A measurement of a C program. */
export interface Measured {
  /** Nanoseconds per lookup. */
  readonly nanoseconds: number;
  /** The sum of one round's results, to be the same as in JavaScript. */
  readonly witness: number;
}

/** A running program. */
export class LookupPeer implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #lines: AsyncGenerator<string>;

  private constructor(program: string, files: string[]) {
    this.#process = new Deno.Command(program, {
      ...{ args: files, stdin: "piped", stdout: "piped", stderr: "inherit" },
    }).spawn();
    this.#input = this.#process.stdin.getWriter();
    this.#lines = linesOf(this.#process.stdout);
  }

  /** Starts `program` with these files of words, which are removed when it has read them. */
  static async start(program: string, files: readonly Uint32Array[]): Promise<LookupPeer> {
    const directory = await Deno.makeTempDir({ prefix: "tegula-bench-" });
    try {
      const paths = files.map((_, i) => `${directory}/${i}`);
      await Promise.all(
        files.map((words, i) =>
          Deno.writeFile(paths[i], new Uint8Array(words.buffer, words.byteOffset, words.byteLength))
        ),
      );
      const peer = new LookupPeer(program, paths);
      while (await peer.#line() !== "ready");
      return peer;
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  }

  /** Makes the measurement that `line` asks for. */
  async ask(line: string): Promise<Measured> {
    await this.#input.write(new TextEncoder().encode(`${line}\n`));
    const [nanoseconds, witness] = (await this.#line()).split(" ").map(Number);
    return { nanoseconds, witness };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close();
    await this.#process.status;
  }

  async #line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error("a C program of the benchmark ended");
    return value;
  }
}

/** Builds the program that uses DPDK. Null, and a line in the log, if DPDK is not installed. */
export async function buildDpdkPeer(): Promise<string | null> {
  const options = await libraryOptions("libdpdk");
  if (options === null) {
    console.error("no DPDK here (libdpdk-dev, pkg-config): rte_fib and rte_lpm are left out");
    return null;
  }
  return await buildProgram("lookup_dpdk", [...options, "-lrte_fib", "-lrte_lpm", "-lrte_eal"]);
}

/** Builds the neighbour table in C. */
export function buildNeighborPeer(): Promise<string> {
  return buildProgram("lookup_neighbors", ["-pthread"]);
}
