// SPDX-License-Identifier: Apache-2.0
/**
 * `deno task compile`: makes `dist/tegula`, one executable file that runs without Deno,
 * node_modules and a compiler. Two ways:
 *
 * - `deno compile`, where Deno's base binary `denort` is at hand: DENORT_BIN names it, or Deno has
 *   downloaded it before (`--denort` lets it do so now).
 * - Otherwise the launcher, `packaging/launcher.sh`, with an archive behind it: the stock deno that runs
 *   this script, the program, its npm modules and its native libraries.
 */

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { globSync } from "node:fs";
import { basename, dirname } from "node:path";
import { parseArgs } from "node:util";
import { ROOT } from "../ffi/library.ts";
import { V8_FLAGS } from "../ffi/process.ts";
import { DENO_FLAGS } from "../cli/command.ts";
import { installPackages } from "./packages.ts";

const OUTPUT = `${ROOT}dist/tegula`;
/** Files that the program does not need at run time: C, types, npm's sources, modules for tests. */
const LEFT_OUT = [
  ...["*.[ch]", "node_modules/*.*ts", "zod/src", "fast-check*", "statsd-client*"],
  ...["esbuild*", "@esbuild*"],
  // The program's files include its part for browsers.
  ...["uplot@*", "node_modules/uplot"],
];

/** The parts of the program besides main.ts, deno.json and npm modules, relative to ROOT. */
const PARTS = [
  ...["apps", "cli", "demo", "ffi", "master", "netbase", "tiles", "build/program"],
  ...["build/libtegula.so", "build/libtegula_seal.so", "build/commit"],
];

/** Runs a program to its end and returns its output. Throws Error with its errors. */
function run(program: string, args: string[]): string {
  return execFileSync(program, args, { cwd: ROOT, encoding: "utf8", stdio: "pipe" });
}

/** Whether DENORT_BIN names the base binary of `deno compile`, or Deno has downloaded it. */
function hasDenort(): boolean {
  if (Deno.env.get("DENORT_BIN") !== undefined) return true;
  const { denoDir } = JSON.parse(run(Deno.execPath(), ["info", "--json"]));
  return globSync(`${denoDir}/dl/release/v${Deno.version.deno}/denort-*`).length > 0;
}

/** `deno compile`. Modules of workers and apps are found by path at run time, so all are included. */
function compile(): void {
  const included = PARTS.flatMap((path) => ["--include", path]);
  const flags = [...DENO_FLAGS.filter((flag) => flag !== "run"), V8_FLAGS, "--no-check"];
  run(Deno.execPath(), ["compile", ...flags, ...included, "--output", OUTPUT, "main.ts"]);
}

/** Makes a reproducible archive in `folder`, which is empty. */
function archive(path: string, folder: string): void {
  installPackages(folder);
  run("tar", [
    ...["--create", "--file", path, "--sort=name", "--mtime=@0", "--owner=0", "--group=0"],
    ...["--numeric-owner", "--mode=go-w", ...LEFT_OUT.map((each) => `--exclude=${each}`)],
    ...["-C", ROOT, "main.ts", ...PARTS, "-C", folder, "deno.json", "node_modules"],
    ...[`--transform=s|^${basename(Deno.execPath())}$|deno|`],
    ...["-C", dirname(Deno.execPath()), basename(Deno.execPath())],
  ]);
}

/** The launcher with the archive behind it. */
function pack(): void {
  using cleanup = new DisposableStack();
  const folder = Deno.makeTempDirSync({ prefix: "tegula-compile-" });
  cleanup.defer(() => Deno.removeSync(folder, { recursive: true }));
  archive(`${folder}/archive.tar`, folder);
  const payload = Deno.readFileSync(`${folder}/archive.tar`);
  const launcher = Deno.readTextFileSync(`${ROOT}packaging/launcher.sh`)
    .replace("@LIMITS@", () => Deno.readTextFileSync(`${ROOT}packaging/limits.sh`))
    .replace("@VERSION@", createHash("sha256").update(payload).digest("hex"))
    .replace("@BYTES@", String(payload.length))
    .replace("@FLAGS@", DENO_FLAGS.join(" "));
  // Write a temporary file and rename it, so that a running program keeps its file.
  const fresh = `${OUTPUT}.${Deno.pid}`;
  Deno.writeTextFileSync(fresh, launcher, { mode: 0o755 });
  Deno.writeFileSync(fresh, payload, { append: true });
  Deno.renameSync(fresh, OUTPUT);
}

const { values } = parseArgs({ options: { denort: { type: "boolean" } } });
Deno.mkdirSync(dirname(OUTPUT), { recursive: true });
const native = values.denort || hasDenort();
if (native) compile();
else pack();
console.log(`dist/tegula, by ${native ? "deno compile" : "the launcher: denort is not at hand"}`);
