// SPDX-License-Identifier: Apache-2.0
/**
 * Prepares an app's files for its process: finds the modules that it imports, compiles TypeScript
 * once for all starts, and copies files that the process's user cannot read.
 *
 *     FOLDER/program/build/…     the program, where it is not readable (a clone in a home folder)
 *     FOLDER/NAME-…/cache        Deno's cache of an app (DENO_DIR): its TypeScript, compiled
 *     FOLDER/NAME-…/…            its modules with their whole paths, where they are not readable
 */

import { rmSync } from "node:fs";
import { isBuiltin } from "node:module";
import { basename, dirname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { fileTrouble } from "../cli/command.ts";
import { exists, type Host } from "../ffi/host.ts";
import { attempt, libraryPath, PROGRAM, programModule, ROOT } from "../ffi/library.ts";
import type { Processes } from "../ffi/process.ts";
import type { Grants } from "../tiles/runtime/plan.ts";
import { AppError } from "../tiles/runtime/log.ts";

/** An app whose process can be started. */
export interface StagedApp {
  readonly module: string;
  /** Its files and folders, besides the program's. */
  readonly read: readonly string[];
  /**
   * Missing files that it imports by `import()`. Its own code gets the error, if it imports them.
   */
  readonly absent?: readonly string[];
  /** Its source files; none for an app that ships. */
  readonly sources: readonly string[];
  /** The stamp of its plan and files from before its process read them (`stampOf`). */
  readonly stamp: string;
  /** Deno's cache with the compiled app; undefined if all of it is plain JavaScript. */
  readonly denoDir?: string;
  /** The folder of its copies and its cache, if it has any: for `discard`. */
  readonly folder?: string;
}

/** The part of an app's plan that its files depend on. An inline app has its grants in `service`. */
interface StagePlan {
  readonly name: string;
  readonly uid: number;
  readonly service: { readonly module: string; readonly grants?: Pick<Grants, "read"> };
  readonly grants?: Pick<Grants, "read">;
}

/** Characters that are removed from an app's name for its folder, and the longest result. */
const [UNLIKE_FILES, LONGEST_PREFIX] = [/[^\w.-]/g, 64];

/** How long Deno may take for a module and its imports: an import may be a file that never ends. */
const DENO_MILLIS = 30_000;

/** A module as `deno info --json` describes it. */
interface Described {
  readonly specifier: string;
  readonly local?: string;
  readonly mediaType?: string;
  /** Why it cannot be read, or is not a module. */
  readonly error?: string;
  readonly dependencies?: readonly Dependency[];
}

/** An import of a module. */
interface Dependency {
  /** As written in the source. */
  readonly specifier: string;
  readonly isDynamic?: boolean;
  /** The import, unless it imports only types. An invalid specifier is left out. */
  readonly code?: {
    readonly specifier?: string;
    readonly span: { readonly start: { readonly line: number; readonly character: number } };
  };
}

/** The output of `deno info --json` for a module and all that it imports. */
interface Graph {
  readonly roots: readonly string[];
  readonly modules: readonly Described[];
}

/** The files that this program creates for its apps' processes, in a folder that it removes at the end. */
export type AppFiles = ReturnType<typeof openAppFiles>;

/**
 * `uid`: a user other than the master's, whose processes must be able to read the program.
 * `folder`: a predecessor's folder, with its `lock`; by default one is created on demand, and
 * folders of killed masters are removed. `millis`: how long Deno may take for a module.
 */
export function openAppFiles(
  { host, processes, uid, millis = DENO_MILLIS, ...before }: {
    host: Pick<Host, "lockFolder" | "close">;
    processes: Pick<Processes, "readableBy">;
    uid: number;
    folder?: string;
    lock?: number;
    millis?: number;
  },
) {
  let { folder: made, lock = -1 } = before;
  if (made === undefined) removeLeft(host);
  else if (lock < 0) lock = host.lockFolder(made);
  /** The folder; created on demand. */
  const place = (): string => {
    if (made === undefined) ({ folder: made, lock } = makeRuntimeFolder(host));
    return made;
  };
  // The appliance reads the same files as apps.
  const isReadable = [PROGRAM, libraryPath()].every((path) => processes.readableBy(path, uid));
  const root = isReadable ? ROOT : `${place()}/program/`;
  if (!isReadable) {
    copy(PROGRAM, programModule("", root).slice(0, -1));
    copy(libraryPath(), libraryPath(root));
  }

  /**
   * Prepares the files of the process of `plan`. An app's imports must be in the folder of its
   * module, or granted by `read`. Throws AppError.
   */
  async function stage(plan: StagePlan): Promise<StagedApp> {
    const { name, service: { module }, grants = plan.service.grants } = plan;
    const granted = grants?.read ?? [];
    if (module.startsWith(`file://${ROOT}apps/`)) {
      const source = decodeURI(module).slice(`file://${ROOT}`.length);
      return {
        module: pathToFileURL(programModule(source, root)).href,
        ...{ read: [], sources: [], stamp: stampOf(plan, granted) },
      };
    }
    const prefix = `${name.replace(UNLIKE_FILES, "_").slice(-LONGEST_PREFIX)}-`;
    const folder = Deno.makeTempDirSync({ dir: place(), prefix });
    try {
      return await placeIn(folder, plan, granted);
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** Puts an app's files into `folder`, and removes the folder if it is empty. */
  async function placeIn(
    folder: string,
    plan: StagePlan,
    granted: readonly string[],
  ): Promise<StagedApp> {
    const { name, uid } = plan;
    const path = fileURLToPath(plan.service.module);
    const denoDir = `${folder}/cache`;
    const run = (args: string[], module: string) => deno(args, { name, module, denoDir, millis });
    const graph: Graph = JSON.parse(await run(["info", "--json"], path));
    const wrong = wrongImports(path, graph);
    if (wrong) throw new AppError(name, wrong);
    // The process itself reports other errors, with their place.
    const known = imported(graph).filter(({ local }) =>
      local !== undefined && !local.startsWith(PROGRAM)
    );
    const { files, absent } = filesIn(path, graph);
    // Changes from here on count for the next reload. A change since Deno read the files cannot add
    // a file that is not in the stamp: it is not copied, and the process may not read it.
    const sources = [...files, ...absent];
    const stamp = stampOf(plan, [...sources, ...granted]);
    const checked = checkFiles(name, files, granted);
    const isCompiled = known.some(({ mediaType }) => !/JavaScript|Mjs|Json/.test(mediaType ?? ""));
    const needsCopy = files.some((file) => !processes.readableBy(file, uid));
    const placed = (file: string) => needsCopy ? folder + file : file;
    if (needsCopy) {
      // The owner of the link, or of its target if root owns the link.
      const owner = attempt(() => Deno.lstatSync(path).uid || Deno.statSync(path).uid, null);
      for (const file of checked) await copyOf(name, file, { to: placed(file.path), owner });
    }
    if (isCompiled) {
      // The process itself reports errors in it, with their place.
      const cache = ["cache", "--quiet", "--no-check", "--cached-only"];
      await run(cache, placed(path)).catch((error) => {
        if (error instanceof AppError) throw error;
      });
    }
    const isNeeded = isCompiled || needsCopy;
    if (isNeeded) giveTo(folder, uid);
    else rmSync(folder, { recursive: true, force: true });
    return {
      module: pathToFileURL(placed(path)).href,
      ...{ read: files.map(placed), absent: absent.map(placed), sources, stamp },
      ...(isCompiled && { denoDir }),
      ...(isNeeded && { folder }),
    };
  }

  return {
    /** The folder from which all apps' processes read the program, like `ROOT`. */
    root,
    get folder(): string {
      return place();
    },
    /** The descriptor whose lock keeps other masters from removing the folder; below 0: none. */
    get lock(): number {
      return lock;
    },
    stage,
    /** Removes the files of an app that will not be started again. */
    discard({ folder }: StagedApp): void {
      if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
    },
    close(): void {
      if (made !== undefined) rmSync(made, { recursive: true, force: true });
      if (lock >= 0) host.close(lock);
      [made, lock] = [undefined, -1];
    },
  };
}

/** The file at `path` and its imports: existing files, and missing ones. */
function filesIn(path: string, graph: Graph): { files: string[]; absent: string[] } {
  const all = imported(graph).filter(({ specifier }) => specifier.startsWith("file:"))
    .map(({ specifier }) => fileURLToPath(specifier)).filter((file) => !file.startsWith(PROGRAM));
  const { true: files = [], false: absent = [] } = Object.groupBy(
    new Set([path, ...all]),
    (file) => `${file === path || exists(file)}` as const,
  );
  return { files, absent };
}

/**
 * Paths of a module and its imports, also missing ones, for a caller that waits for a change; and
 * the first error of its imports, or "".
 */
export async function importsOf(
  module: string,
  denoDir: string,
): Promise<{ files: string[]; wrong: string }> {
  const options = { name: module, module, denoDir, millis: DENO_MILLIS };
  const graph = JSON.parse(await deno(["info", "--json"], options));
  const { files, absent } = filesIn(module, graph);
  return { files: [...files, ...absent], wrong: wrongImports(module, graph) };
}

/**
 * The modules that run: without those that are imported only for types, and their imports.
 * `follows` filters imports.
 */
function imported(
  { roots, modules }: Graph,
  follows: (dependency: Dependency) => boolean = () => true,
): Described[] {
  const bySpecifier = new Map(modules.map((module) => [module.specifier, module]));
  const found = new Set<Described>();
  const waiting = [...roots];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const module = bySpecifier.get(next);
    if (module === undefined || found.has(module)) continue;
    found.add(module);
    for (const dependency of module.dependencies ?? []) {
      const { code } = dependency;
      if (code?.specifier !== undefined && follows(dependency)) waiting.push(code.specifier);
    }
  }
  return [...found];
}

/**
 * The first import that always fails, with its place and its error; "" if there is none. An
 * `import()` may be within a `try`, so only the app itself gets its error.
 */
function wrongImports(path: string, graph: Graph): string {
  const isStatic = ({ isDynamic }: Dependency) => !isDynamic;
  for (const { specifier: importer, dependencies = [] } of imported(graph, isStatic)) {
    for (const { specifier, code } of dependencies.filter(isStatic)) {
      const wrong = code && wrongImport(specifier, code.specifier ?? specifier, path);
      if (!wrong) continue;
      const { line, character } = code.span.start;
      return `${fileURLToPath(importer)}:${line + 1}:${character + 1}: ${wrong}`;
    }
  }
  return "";
}

/** The error of an import of the app at `path`; "" if it has none, or the process reports it. */
function wrongImport(specifier: string, target: string, path: string): string {
  if (target.startsWith("file:")) {
    const file = fileURLToPath(target);
    const trouble = unreadable(file);
    return trouble && `it imports ${file}, which ${trouble}`;
  }
  if (/^https?:/.test(target)) {
    return `it imports ${target}, but nothing is downloaded at run time; save it beside the module ` +
      "and import the file";
  }
  if (target.startsWith("data:") || target.startsWith("blob:") || isBuiltin(target)) return "";
  if (target.startsWith("node:")) return `it imports ${target}, which is not a built-in module`;
  const [, bare] = /^(?:npm|jsr):(.*)$/.exec(target) ?? [];
  const written = bare === undefined ? "" : `import it as "${bare.replace(/(?<=.)@[^/]*/, "")}", `;
  return `it imports the package ${specifier}, but an app can import only files and built-in modules; ` +
    `${written}bundle it and its packages into one file, and serve that: ${bundleCommand(path)}`;
}

/** Defines `require`, which ECMAScript modules lack, and CommonJS packages call for Node modules. */
const REQUIRE =
  'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);';

/** The command that makes one file of an app and the packages that it imports. */
export function bundleCommand(path: string): string {
  return `npx esbuild ${path} --bundle --format=esm --platform=node ` +
    `--outfile=${path.replace(/\.[^./]*$/, "")}.bundle.js --banner:js='${REQUIRE}'`;
}

/** Why the file at `path` cannot be imported; "" if it can. */
function unreadable(path: string): string {
  try {
    const { isDirectory, isFile } = Deno.statSync(path);
    if (isFile) Deno.openSync(path).close();
    return isDirectory ? "is a folder; name a file in it" : "";
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) {
      return `cannot be read: ${fileTrouble(error).replace(`${path}: `, "")}`;
    }
  }
  const meant = [".ts", ".js"].find((suffix) => exists(path + suffix));
  return `is not found${
    meant ? `; with its suffix it is ${basename(path)}${meant}` : "; check the path"
  }`;
}

/** A file that an app may consist of. */
interface CheckedFile {
  readonly path: string;
  /** Its path without symbolic links. */
  readonly real: string;
  readonly isGranted: boolean;
}

/**
 * The files of an app, the configured module first. The author of an import may have fewer
 * permissions than this program. So imports and symbolic links cannot add files from elsewhere to
 * the app. Throws AppError.
 */
function checkFiles(
  name: string,
  files: readonly string[],
  granted: readonly string[],
): CheckedFile[] {
  const read = granted.map(realPath).filter((path) => path !== undefined);
  const own = [dirname(files[0]), ROOT].map(realPath).filter((path) => path !== undefined);
  return files.map((path, i) => {
    const real = realPath(path);
    // A missing file cannot be copied.
    if (real === undefined) return { path, real: path, isGranted: false };
    const isGranted = isBelow(real, read);
    if (i > 0 && !isGranted && !isBelow(real, own)) {
      throw new AppError(
        name,
        `its module imports ${real}, which is outside of its folder: [apps] grants it, ` +
          `read = ["${real}"]`,
      );
    }
    // The process itself reports errors of the first one.
    if (i > 0 && !Deno.statSync(real).isFile) {
      throw new AppError(name, `its module imports ${real}, which is not a regular file`);
    }
    return { path, real, isGranted };
  });
}

/** The path without symbolic links; undefined if it does not exist. */
function realPath(path: string): string | undefined {
  return attempt(() => Deno.realPathSync(path));
}

/** Whether the path is one of the folders, or below one. */
export function isBelow(path: string, folders: readonly string[]): boolean {
  return folders.some((folder) =>
    path === folder || path.startsWith(folder.endsWith("/") ? folder : `${folder}/`)
  );
}

/** Copies one of an app's files that its user cannot read, if `owner` can read it. Throws AppError. */
async function copyOf(
  name: string,
  { path, real, isGranted }: CheckedFile,
  { to, owner }: { to: string; owner: number | null },
): Promise<void> {
  try {
    // The path may name another file by now, so check the open one.
    using from = await Deno.open(real);
    const { isFile, uid } = await from.stat();
    if (!isFile || Deno.realPathSync(real) !== real) {
      throw new Error(`${path} is not a regular file`);
    }
    if (!isGranted && uid !== owner) {
      throw new Error(`${path} has another owner than the module`);
    }
    Deno.mkdirSync(dirname(to), { recursive: true });
    await Deno.writeFile(to, from.readable);
  } catch (error) {
    throw new AppError(name, `its module cannot be read: ${fileTrouble(error)}`);
  }
}

/** Folders for such files: the unit's folder from systemd, or /run; and TMPDIR. */
function runtimePlaces(): string[] {
  const given = Deno.env.get("RUNTIME_DIRECTORY")?.split(":")[0];
  return [given ?? "/run", Deno.env.get("TMPDIR") ?? "/tmp"];
}

/** The name of a master's folder. It contains the PID, for operators. */
const RUNTIME_FOLDER = /^tegula-\d+-[0-9a-f]+\.files$/;

/**
 * Creates a folder for such files, and a lock that marks it as in use; below 0 if locks are not
 * supported. A confined master may not write to /run.
 */
function makeRuntimeFolder(
  { lockFolder, close }: Pick<Host, "lockFolder" | "close">,
): { folder: string; lock: number } {
  const [first, last] = runtimePlaces();
  const options = { prefix: `tegula-${Deno.pid}-`, suffix: ".files" };
  for (let tries = 1;; tries++) {
    const folder = attempt(() => Deno.makeTempDirSync({ dir: first, ...options })) ??
      Deno.makeTempDirSync({ dir: last, ...options });
    const lock = lockFolder(folder);
    // Before it was locked, another master may have removed it as a leftover.
    if ((lock < 0 || !exists(folder)) && tries <= 3) {
      if (lock >= 0) close(lock);
      rmSync(folder, { recursive: true, force: true });
      continue;
    }
    Deno.chmodSync(folder, 0o755);
    return { folder, lock };
  }
}

/**
 * Removes folders of this user's killed masters: their locks are free. PIDs cannot show this: they
 * are reused, and those of other PID namespaces are invisible.
 */
function removeLeft({ lockFolder, close }: Pick<Host, "lockFolder" | "close">): void {
  for (const place of new Set(runtimePlaces())) {
    for (const path of foldersLeftIn(place)) {
      const lock = lockFolder(path);
      if (lock < 0) continue;
      // A folder that stays only takes space.
      attempt(() => rmSync(path, { recursive: true, force: true }));
      close(lock);
    }
  }
}

/** Paths of possible folders; none if other users could replace them. */
function foldersLeftIn(place: string): string[] {
  return attempt(() => {
    const { uid, mode } = Deno.statSync(place);
    const isSticky = (mode! & 0o1000) !== 0;
    if (![0, Deno.uid()].includes(uid!) || (mode! & 0o022) !== 0 && !isSticky) return [];
    return [...Deno.readDirSync(place)]
      .filter(({ name, isDirectory }) => isDirectory && RUNTIME_FOLDER.test(name))
      .map(({ name }) => `${place}/${name}`);
  }, []);
}

/** Runs Deno on a module, with access to the program's packages. Returns its output. */
async function deno(
  args: string[],
  { name, module, denoDir, millis }: {
    name: string;
    module: string;
    denoDir: string;
    millis: number;
  },
): Promise<string> {
  const signal = AbortSignal.timeout(millis);
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...args,
      ...["--no-config", "--no-lock", "--no-npm", "--no-remote"],
      `--import-map=${PROGRAM}/imports.json`,
      module,
    ],
    env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", DENO_DIR: denoDir },
    stdin: "null",
    signal,
  }).output();
  if (success) return new TextDecoder().decode(stdout);
  if (signal.aborted) {
    throw new AppError(name, `what its module imports was not read within ${millis / 1000} s`);
  }
  throw new Error(new TextDecoder().decode(stderr));
}

/** Copies a file, or a folder with its contents. */
function copy(from: string, to: string): void {
  if (!Deno.statSync(from).isDirectory) {
    Deno.mkdirSync(dirname(to), { recursive: true });
    Deno.copyFileSync(from, to);
    Deno.chmodSync(to, 0o644);
    return;
  }
  Deno.mkdirSync(to, { recursive: true });
  for (const { name } of Deno.readDirSync(from)) copy(`${from}/${name}`, `${to}/${name}`);
}

/** Lets only one other user read everything below `path`; if that is impossible, all users. */
function giveTo(path: string, uid: number): void {
  const { isDirectory } = Deno.lstatSync(path);
  let mode = isDirectory ? 0o750 : 0o640;
  try {
    Deno.chownSync(path, null, uid);
  } catch {
    mode = isDirectory ? 0o755 : 0o644;
  }
  Deno.chmodSync(path, mode);
  if (!isDirectory) return;
  for (const { name } of Deno.readDirSync(path)) giveTo(`${path}/${name}`, uid);
}

/** A text that changes with an app's plan, or a file at `paths`: its sources, or files that it may read. */
export function stampOf(plan: unknown, paths: readonly string[]): string {
  return JSON.stringify([plan, ...paths.flatMap(filesAt)]);
}

/** The most files that are examined. Changes of an app with more files are not detected. */
const MOST_FILES = 2000;

/** Path, inode, size and times of change of the file at `path`, or of all files below it. */
function filesAt(path: string): unknown[] {
  const found: unknown[] = [];
  for (const waiting = [path]; waiting.length > 0;) {
    const next = waiting.pop()!;
    if (found.length + waiting.length > MOST_FILES) return [path, Math.random()];
    try {
      // Links are not followed, as they may form cycles.
      const { isDirectory, ino, size, mtime, ctime } = next === path
        ? Deno.statSync(next)
        : Deno.lstatSync(next);
      // Programs that copy or unpack a file may set its mtime, but not its ctime.
      found.push([next, ino, size, mtime, ctime]);
      if (!isDirectory) continue;
      for (const { name } of Deno.readDirSync(next)) {
        if (waiting.push(`${next}/${name}`) > MOST_FILES) break;
      }
    } catch {
      found.push(next);
    }
  }
  return found;
}
