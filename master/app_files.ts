/**
 * Makes an app's files ready for its process: finds the modules that it imports, compiles TypeScript
 * once for all starts to come, and copies what the process's user cannot read.
 *
 *     FOLDER/program/build/…     the program, where it is not readable (a clone in a home folder)
 *     FOLDER/NAME-1/cache        Deno's cache of an app (DENO_DIR): its TypeScript, compiled
 *     FOLDER/NAME-1/…            its modules with their whole paths, where they are not readable
 */

import { dirname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { libraryPath, PROGRAM, programModule, ROOT } from "../ffi/paths.ts";
import { AppError } from "../tiles/runtime/thrown.ts";
import type { AppProcessPlan } from "./app_process.ts";

/** An app whose process can be started. */
export interface PlacedApp {
  /** URL of its module. */
  readonly module: string;
  /** Files and folders that it is made of, besides the program's. */
  readonly read: readonly string[];
  /** Deno's cache with it compiled; undefined where all of it is plain JavaScript. */
  readonly denoDir?: string;
  /** Where its copies and its cache are, if it has any: for `discard`. */
  readonly folder?: string;
}

/** A module as `deno info --json` describes it. */
interface Described {
  readonly local?: string;
  readonly mediaType?: string;
}

/** Folder of the private files of this process, removed at its end. */
export class AppFiles {
  /** The folder that the program is read from by every app's process, as `ROOT`. */
  readonly root: string;
  #folder?: string;
  #count = 0;

  /** `uid`: of a process that has to read the program; any that is not the master's. */
  constructor(uid: number) {
    if (isReadable(PROGRAM, uid) && isReadable(libraryPath("tile"), uid)) {
      this.root = ROOT;
      return;
    }
    this.root = `${this.#make()}/program/`;
    copy(PROGRAM, programModule("", this.root).slice(0, -1));
    for (const name of ["tile", "region"] as const) {
      copy(libraryPath(name), libraryPath(name, this.root));
    }
  }

  /** Makes what the process of `plan` is started from. Throws AppError. */
  async place(
    { name, service: { module }, uid }: Pick<AppProcessPlan, "name" | "uid"> & {
      readonly service: Pick<AppProcessPlan["service"], "module">;
    },
  ): Promise<PlacedApp> {
    if (module.startsWith(`file://${ROOT}tiles/`)) {
      const source = decodeURI(module).slice(`file://${ROOT}`.length);
      return { module: pathToFileURL(programModule(source, this.root)).href, read: [] };
    }
    const folder = `${this.#make()}/${name.replaceAll("/", "_")}-${++this.#count}`;
    Deno.mkdirSync(folder);
    try {
      return await placeIn(folder, { name, path: fileURLToPath(module), uid });
    } catch (error) {
      removeFolder(folder);
      throw error;
    }
  }

  /** Removes what an app that nothing is started from any more has here. */
  discard({ folder }: PlacedApp): void {
    if (folder !== undefined) removeFolder(folder);
  }

  /** Removes what it has made. */
  close(): void {
    if (this.#folder !== undefined) removeFolder(this.#folder);
    this.#folder = undefined;
  }

  #make(): string {
    return this.#folder ??= runtimeFolder();
  }
}

/** Puts what the app of the module at `path` needs into `folder`, which goes away where that is nothing. */
async function placeIn(
  folder: string,
  { name, path, uid }: { name: string; path: string; uid: number },
): Promise<PlacedApp> {
  const denoDir = `${folder}/cache`;
  const { modules } = JSON.parse(await deno(["info", "--json"], path, denoDir)) as {
    modules: Described[];
  };
  // What is missing or wrong the process itself finds, and says where.
  const known = modules.filter(({ local }) => local !== undefined && !local.startsWith(PROGRAM));
  const files = [...new Set([path, ...known.map(({ local }) => local!)])];
  const isCompiled = known.some(({ mediaType }) => !/JavaScript|Mjs|Json/.test(mediaType ?? ""));
  const needsCopy = files.some((file) => !isReadable(file, uid));
  const module = needsCopy ? folder + path : path;
  if (!isCompiled && !needsCopy) {
    removeFolder(folder);
    return { module: pathToFileURL(module).href, read: files };
  }
  if (needsCopy) {
    try {
      for (const file of files) copy(file, folder + file);
    } catch (error) {
      throw new AppError(name, `its module cannot be read: ${(error as Error).message}`);
    }
  }
  if (isCompiled) {
    // What is wrong with it the process says, with its place.
    await deno(["cache", "--quiet", "--no-check", "--cached-only"], module, denoDir).catch(
      () => {},
    );
  }
  giveTo(folder, uid);
  return {
    module: pathToFileURL(module).href,
    read: needsCopy ? files.map((file) => folder + file) : files,
    ...(isCompiled && { denoDir }),
    folder,
  };
}

/** Makes where such files go: below what systemd made for the unit, or /run, or where users may. */
function runtimeFolder(): string {
  const name = `tegula-${Deno.pid}`;
  const given = Deno.env.get("RUNTIME_DIRECTORY")?.split(":")[0];
  let folder = `${given ?? "/run"}/${name}`;
  try {
    // Of one that was killed and had the same number.
    removeFolder(folder);
    Deno.mkdirSync(folder);
  } catch {
    folder = Deno.makeTempDirSync({ prefix: `${name}-` });
  }
  Deno.chmodSync(folder, 0o755);
  return folder;
}

function removeFolder(folder: string): void {
  try {
    Deno.removeSync(folder, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Runs Deno on a module, with the program's packages in reach; returns what it says. */
async function deno(args: string[], module: string, denoDir: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...args,
      ...["--no-config", "--no-lock", "--no-npm", "--no-remote"],
      `--import-map=${PROGRAM}/imports.json`,
      module,
    ],
    env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", DENO_DIR: denoDir },
    stdin: "null",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

/** Whether the user can read `path`, by the modes of it and of the folders above. */
function isReadable(path: string, uid: number): boolean {
  // Without the privilege to change it the process has the user of this one.
  if (Deno.uid() !== 0) return true;
  const allows = (path: string, bit: number) => {
    const { mode, uid: owner, gid } = Deno.statSync(path);
    const shift = owner === uid ? 6 : gid === uid ? 3 : 0;
    return ((mode! >> shift) & bit) === bit;
  };
  try {
    const real = Deno.realPathSync(path);
    if (!allows(real, Deno.statSync(real).isDirectory ? 5 : 4)) return false;
    for (let folder = dirname(real); folder !== "/"; folder = dirname(folder)) {
      if (!allows(folder, 1)) return false;
    }
    return true;
  } catch {
    return false;
  }
}

/** Copies a file, or a folder with all that is in it. */
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

/** Lets one user alone, besides this one, read what is below `path`. */
function giveTo(path: string, uid: number): void {
  if (Deno.uid() !== 0) return;
  const isDirectory = Deno.lstatSync(path).isDirectory;
  Deno.chownSync(path, 0, uid);
  Deno.chmodSync(path, isDirectory ? 0o750 : 0o640);
  if (!isDirectory) return;
  for (const { name } of Deno.readDirSync(path)) giveTo(`${path}/${name}`, uid);
}
