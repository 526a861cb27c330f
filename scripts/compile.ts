/**
 * `deno task compile`: makes `dist/tegula`, one executable file that needs no Deno, no node_modules and
 * no compiler where it runs. Two ways:
 *
 * - `deno compile`, where Deno's base binary `denort` is at hand: DENORT_BIN names it, or Deno has
 *   downloaded it before (`--denort` lets it do so now).
 * - Otherwise the launcher of `package/launcher.c` with an archive behind it: the stock deno that runs
 *   this script, the program, its npm modules and its native libraries.
 */

import { createHash } from "node:crypto";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { DENO_FLAGS } from "../cli/self.ts";
import project from "../deno.json" with { type: "json" };
import { build } from "./build.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const STAGE = `${ROOT}build/stage/`;
const OUTPUT = `${ROOT}dist/tegula`;
/** What the program is made of, apart from main.ts, deno.json, npm modules and native libraries. */
const PROGRAM = ["cli", "ffi", "netbase", "tiles"];
/** Imports of deno.json that only tests use. */
const FOR_TESTS = ["fast-check", "statsd-client"];

/** As `struct trailer` of the launcher. */
const TRAILER = { bytes: 88, offset: 0, length: 8, hash: 16, magic: 80 };
const MAGIC = "tegula-1";

/** Runs a program to its end; throws Error with what it said when it failed. */
function run(program: string, args: string[]): void {
  const { success, stderr } = new Deno.Command(program, { args, cwd: ROOT }).outputSync();
  if (success) return;
  throw new Error(`${program} ${args.join(" ")}\n${new TextDecoder().decode(stderr)}`);
}

/** The files of a folder and those below it, as paths from it. */
function* walk(folder: string, below = ""): Generator<string> {
  for (const { name, isDirectory } of Deno.readDirSync(folder + below)) {
    if (isDirectory) yield* walk(folder, `${below}${name}/`);
    else yield below + name;
  }
}

/** Whether a path in build/ is one of the native libraries. */
function isLibrary(path: string): boolean {
  return /^libtegula_\w+\.so$/.test(path);
}

/** Whether the base binary of `deno compile` is named, or lies where Deno would have put it. */
function hasDenort(): boolean {
  if (Deno.env.get("DENORT_BIN") !== undefined) return true;
  const { stdout } = new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).outputSync();
  const { denoDir } = JSON.parse(new TextDecoder().decode(stdout));
  const place = `${denoDir}/dl/release/v${Deno.version.deno}`;
  try {
    return [...Deno.readDirSync(place)].some(({ name }) => name.startsWith("denort-"));
  } catch {
    return false;
  }
}

/** Deno's own compile. Modules of workers and apps are found by path at run time: all are included. */
function compile(): void {
  const libraries = [...walk(`${ROOT}build/`)].filter(isLibrary).map((path) => `build/${path}`);
  const included = [...PROGRAM, ...libraries].flatMap((path) => ["--include", path]);
  const flags = [...DENO_FLAGS.filter((flag) => flag !== "run"), "--no-check"];
  run(Deno.execPath(), ["compile", ...flags, ...included, "--output", OUTPUT, "main.ts"]);
}

/** Copies the files of a folder that `wanted` accepts. */
function copy(from: string, to: string, wanted: (path: string) => boolean): void {
  for (const path of walk(from)) {
    if (!wanted(path)) continue;
    Deno.mkdirSync(dirname(to + path), { recursive: true });
    Deno.copyFileSync(from + path, to + path);
  }
}

/** Lays the program's npm modules into the stage, without types and sources. */
function stageModules(names: readonly string[]): void {
  const folder = `${ROOT}build/modules/`;
  Deno.mkdirSync(folder, { recursive: true });
  // All imports, those for tests too: only then does the lock file fit, and nothing has to be asked of
  // the registry again.
  const config = JSON.stringify({ imports: project.imports, nodeModulesDir: "auto" });
  Deno.writeTextFileSync(`${folder}deno.json`, config);
  Deno.copyFileSync(`${ROOT}deno.lock`, `${folder}deno.lock`);
  run(Deno.execPath(), ["install", "--quiet", "--frozen", "--config", `${folder}deno.json`]);
  for (const name of names) {
    stageModule(Deno.realPathSync(`${folder}node_modules/${name}`), name);
  }
}

/** Lays one npm module and those that it depends on into the stage, all beside one another. */
function stageModule(from: string, name: string): void {
  const { dependencies = {} } = JSON.parse(Deno.readTextFileSync(`${from}/package.json`));
  copy(
    `${from}/`,
    `${STAGE}node_modules/${name}/`,
    (path) => /\.[cm]?js$|^LICENSE|(^|\/)package\.json$/.test(path) && !path.startsWith("src/"),
  );
  // Deno links what a module depends on beside it.
  const beside = from.slice(0, -name.length);
  for (const other of Object.keys(dependencies)) {
    stageModule(Deno.realPathSync(beside + other), other);
  }
}

/** Lays out what the archive holds, and returns the names at its top, the folders among them. */
function layStage(): string[] {
  Deno.mkdirSync(STAGE, { recursive: true });
  Deno.removeSync(STAGE, { recursive: true });
  Deno.mkdirSync(STAGE, { recursive: true });
  for (const folder of PROGRAM) {
    copy(`${ROOT}${folder}/`, `${STAGE}${folder}/`, (path) => path.endsWith(".ts"));
  }
  Deno.copyFileSync(`${ROOT}main.ts`, `${STAGE}main.ts`);
  copy(`${ROOT}build/`, `${STAGE}build/`, isLibrary);
  const imports = Object.fromEntries(
    Object.entries(project.imports).filter(([name]) => !FOR_TESTS.includes(name)),
  );
  stageModules(Object.keys(imports));
  const { version, unstable } = project;
  const config = { version, unstable, imports, nodeModulesDir: "manual", lock: false };
  Deno.writeTextFileSync(`${STAGE}deno.json`, JSON.stringify(config, null, 2));
  Deno.copyFileSync(Deno.execPath(), `${STAGE}deno`);
  Deno.chmodSync(`${STAGE}deno`, 0o755);
  return [...Deno.readDirSync(STAGE)].map(({ name }) => name).sort();
}

/** Makes the archive; the same stage gives the same bytes. */
function archive(path: string): void {
  run("tar", [
    ...["--create", "--format=ustar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0"],
    ...["--numeric-owner", "--mode=go-w", `--file=${path}`, `--directory=${STAGE}`],
    ...layStage(),
  ]);
}

/** The launcher with the archive and the trailer behind it. */
function pack(): void {
  const [launcher, tar] = [`${ROOT}build/launcher`, `${ROOT}build/payload.tar`];
  run("gcc", [
    ...["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s"],
    ...[`${ROOT}scripts/package/launcher.c`, "-o", launcher],
  ]);
  archive(tar);
  const [head, payload] = [Deno.readFileSync(launcher), Deno.readFileSync(tar)];
  const trailer = new Uint8Array(TRAILER.bytes);
  const view = new DataView(trailer.buffer);
  view.setBigUint64(TRAILER.offset, BigInt(head.length), true);
  view.setBigUint64(TRAILER.length, BigInt(payload.length), true);
  const encoder = new TextEncoder();
  trailer.set(
    encoder.encode(createHash("sha256").update(payload).digest("hex")),
    TRAILER.hash,
  );
  trailer.set(encoder.encode(MAGIC), TRAILER.magic);
  // Written aside and renamed: one that runs keeps its file.
  const fresh = `${OUTPUT}.${Deno.pid}`;
  Deno.writeFileSync(fresh, head, { mode: 0o755 });
  Deno.writeFileSync(fresh, payload, { append: true });
  Deno.writeFileSync(fresh, trailer, { append: true });
  Deno.renameSync(fresh, OUTPUT);
  Deno.removeSync(tar);
  Deno.removeSync(STAGE, { recursive: true });
}

const { values } = parseArgs({ options: { denort: { type: "boolean" } } });
build();
Deno.mkdirSync(dirname(OUTPUT), { recursive: true });
const native = values.denort || hasDenort();
if (native) compile();
else pack();
console.log(`dist/tegula, by ${native ? "deno compile" : "the launcher: denort is not at hand"}`);
