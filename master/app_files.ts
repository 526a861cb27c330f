/**
 * Makes an app's files ready for its process: finds the modules that it imports, compiles TypeScript
 * once for all starts to come, and copies what the process's user cannot read.
 *
 *     FOLDER/program/build/…     the program, where it is not readable (a clone in a home folder)
 *     FOLDER/NAME-…/cache        Deno's cache of an app (DENO_DIR): its TypeScript, compiled
 *     FOLDER/NAME-…/…            its modules with their whole paths, where they are not readable
 */

import { dirname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { libraryPath, PROGRAM, programModule, ROOT } from "../ffi/paths.ts";
import type { Processes } from "../ffi/process.ts";
import { APPLIANCE_LIBRARIES } from "../tiles/runtime/permissions.ts";
import { AppError } from "../tiles/runtime/thrown.ts";
import type { AppProcessPlan } from "./app_process.ts";

/** An app whose process can be started. */
export interface PlacedApp {
  /** URL of its module. */
  readonly module: string;
  /** Files and folders that it is made of, besides the program's. */
  readonly read: readonly string[];
  /** The files that it was made from; none of an app that ships. */
  readonly sources: readonly string[];
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

/** Files of this program's own for its apps' processes, in a folder that is removed at the end. */
export class AppFiles {
  /** The folder that the program is read from by every app's process, as `ROOT`. */
  readonly root: string;
  readonly #processes: Pick<Processes, "readableBy">;
  #folder?: string;

  /**
   * `uid`: of a process that has to read the program, any that is not the master's. `folder`: one that
   * is there, such as a predecessor's `folder`; left out, one is made when it is needed.
   */
  constructor(
    { processes, uid, folder }: {
      processes: Pick<Processes, "readableBy">;
      uid: number;
      folder?: string;
    },
  ) {
    this.#processes = processes;
    this.#folder = folder;
    // What an app needs of them the appliance does, too.
    const needed = [PROGRAM, ...APPLIANCE_LIBRARIES.map((name) => libraryPath(name))];
    if (needed.every((path) => processes.readableBy(path, uid))) {
      this.root = ROOT;
      return;
    }
    this.root = `${this.folder}/program/`;
    copy(PROGRAM, programModule("", this.root).slice(0, -1));
    for (const name of APPLIANCE_LIBRARIES) {
      copy(libraryPath(name), libraryPath(name, this.root));
    }
  }

  /** The folder; made where it is not there. */
  get folder(): string {
    return this.#folder ??= runtimeFolder();
  }

  /** Makes what the process of `plan` is started from. Throws AppError. */
  async place(
    { name, service: { module }, uid }: Pick<AppProcessPlan, "name" | "uid"> & {
      readonly service: Pick<AppProcessPlan["service"], "module">;
    },
  ): Promise<PlacedApp> {
    if (module.startsWith(`file://${ROOT}tiles/`)) {
      const source = decodeURI(module).slice(`file://${ROOT}`.length);
      return {
        module: pathToFileURL(programModule(source, this.root)).href,
        read: [],
        sources: [],
      };
    }
    const prefix = `${name.replaceAll("/", "_")}-`;
    const folder = Deno.makeTempDirSync({ dir: this.folder, prefix });
    try {
      const path = fileURLToPath(module);
      return await placeIn(folder, { name, path, uid, processes: this.#processes });
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
}

/** Puts what the app of the module at `path` needs into `folder`, which goes away where that is nothing. */
async function placeIn(
  folder: string,
  { name, path, uid, processes }: {
    name: string;
    path: string;
    uid: number;
    processes: Pick<Processes, "readableBy">;
  },
): Promise<PlacedApp> {
  const denoDir = `${folder}/cache`;
  const { modules } = JSON.parse(await deno(["info", "--json"], path, denoDir)) as {
    modules: Described[];
  };
  // What is missing or wrong the process itself finds, and says where.
  const known = modules.filter(({ local }) => local !== undefined && !local.startsWith(PROGRAM));
  const files = [...new Set([path, ...known.map(({ local }) => local!)])];
  const isCompiled = known.some(({ mediaType }) => !/JavaScript|Mjs|Json/.test(mediaType ?? ""));
  const needsCopy = files.some((file) => !processes.readableBy(file, uid));
  const module = needsCopy ? folder + path : path;
  if (!isCompiled && !needsCopy) {
    removeFolder(folder);
    return { module: pathToFileURL(module).href, read: files, sources: files };
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
    sources: files,
    ...(isCompiled && { denoDir }),
    folder,
  };
}

/**
 * Makes where such files go: below what systemd made for the unit, else in TMPDIR: in /run a confined master
 * may not write.
 */
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

/** Lets one user alone, besides this one, read what is below `path`; everybody, where that cannot be. */
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
