// SPDX-License-Identifier: Apache-2.0
/**
 * Builds the benchmarks' C programs, with warnings as errors, like the product's.
 */

import { fileURLToPath } from "node:url";

const SOURCES = fileURLToPath(new URL("c/", import.meta.url));
const BUILD = fileURLToPath(new URL("../build/bench/", import.meta.url));
const WARNINGS = ["-Wall", "-Wextra", "-Werror"];
const PROGRAMS = [
  "balance_mmsg",
  "client",
  "count_netlink",
  "echo_af_xdp",
  "echo_mmsg",
  "generator",
  "sink",
] as const;

const SHARED = ["common.c", "queries.c"].map((name) => SOURCES + name);

/** Paths of the programs. */
export type Programs = Readonly<Record<typeof PROGRAMS[number] | "object", string>>;

/** Builds the C programs and the object file with their XDP programs. */
export async function buildPrograms(): Promise<Programs> {
  await Deno.mkdir(BUILD, { recursive: true });
  const headers = `/usr/include/${(await run("gcc", ["-print-multiarch"])).trim()}`;
  const object = `${BUILD}bench.bpf.o`;
  const paths = Object.fromEntries(PROGRAMS.map((name) => [name, BUILD + name]));
  await Promise.all([
    run("clang", [
      ...["-target", "bpf", "-O2", "-g", ...WARNINGS, `-I${headers}`],
      ...["-c", `${SOURCES}bench.bpf.c`, "-o", object],
    ]),
    ...PROGRAMS.map((name) =>
      run("gcc", [
        ...["-std=gnu11", "-O2", "-g", ...WARNINGS, `${SOURCES}${name}.c`, ...SHARED],
        ...["-lxdp", "-lbpf", "-o", BUILD + name],
      ])
    ),
  ]);
  return { ...paths, object } as Programs;
}

/** Compiles a C program that is one file, and returns its path. Throws Error. */
export async function buildProgram(name: string, options: readonly string[] = []): Promise<string> {
  await Deno.mkdir(BUILD, { recursive: true });
  const source = `${SOURCES}${name}.c`;
  await run("gcc", [
    ...["-std=gnu11", "-O3", "-g", ...WARNINGS],
    ...[source, ...options, "-o", BUILD + name],
  ]);
  return BUILD + name;
}

/** The compiler's flags for a library, from pkg-config. Null if it is not installed. */
export async function libraryOptions(name: string): Promise<string[] | null> {
  const printed = await run("pkg-config", ["--cflags", name]).catch(() => null);
  return printed?.trim().split(/\s+/) ?? null;
}

/** Runs a program to its end and returns its output. Throws Error with its errors. */
async function run(program: string, args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
  const decoder = new TextDecoder();
  if (success) return decoder.decode(stdout);
  throw new Error(`${program} ${args.join(" ")}\n${decoder.decode(stderr)}`);
}
