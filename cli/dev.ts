// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula dev FILE`: runs one app with `tegula run` on the loopback device, and reloads it whenever a
 * file of the app has changed and passes the type check. The run is a separate process, with a generated
 * configuration in a temporary folder. If anything fails, the previous version continues to answer.
 */

import { basename, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { stringify } from "smol-toml";
import { exists } from "../ffi/host.ts";
import { attempt } from "../ffi/library.ts";
import { importsOf, stampOf } from "../master/app_files.ts";
import { parseRange, type PortRange, rangeText } from "../tiles/runtime/plan.ts";
import { delay } from "../tiles/runtime/tile.ts";
import { typeErrors } from "./check.ts";
import { command, excerpt, Exit, linesOf, messageOf, selfCommand, UserError } from "./command.ts";
import { moduleAt, readConfig, TILE_NAME } from "./config.ts";
import { askForChange } from "./control.ts";

const DEFAULT_PORT: PortRange = [5300, 5300];

export default command({
  name: "dev",
  usage: ["FILE [--port PORT] [--config FILE]"],
  about:
    `Runs the app of the module FILE on the loopback device, by the kernel's sockets. After each change of FILE,
of what it imports, or of the configuration file, checks its types and loads it anew by a handover, as 'tegula
reload' does: no datagram is lost. While there is an error, which is printed with its place, the previous
version keeps answering. Ctrl-C ends it.

Hosts that can reach this one can ask the app, too. It needs no privileges, unless for ports below 1024.`,
  options: {
    port: {
      type: "string",
      value: "PORT",
      help: "the UDP port, or FIRST-LAST; by default those of the app in --config, else 5300",
    },
    config: {
      type: "string",
      value: "FILE",
      help: "a configuration file that has this app: its options, grants, instances and ports",
    },
  },
  positionals: 1,
  status: "0 ended as asked, 2 wrong usage or configuration.",
}, async ({ values, positionals: [file] }) => {
  if (file === undefined) {
    throw new UserError("dev takes the app's module, for example ./hello.ts");
  }
  const module = fileURLToPath(moduleAt(file));
  const ended = Promise.withResolvers<"ended">();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    Deno.addSignalListener(signal, () => ended.resolve("ended"));
  }
  await using cleanup = new AsyncDisposableStack();
  const folder = Deno.makeTempDirSync({ prefix: "tegula-dev-" });
  cleanup.defer(() => Deno.removeSync(folder, { recursive: true }));
  const plain = basename(module).replace(/\..*$/, "").replaceAll(/[^\w-]/g, "_");
  const name = plain === "" || TILE_NAME.test(plain) ? `${plain}app` : plain;
  // The path of a Unix socket has at most 107 bytes.
  const paths = { config: `${folder}/tegula.toml`, control: `${folder}/s` };
  const run = cleanup.use(new Running());
  const project: Project = { module, name, given: values, ...paths };
  // An error of the command line ends the program: changes of files cannot fix it.
  await writeConfig(project);
  for (let files: string[] = [];;) {
    const found = await importsOf(module, `${folder}/cache`);
    const config = values.config === undefined ? [] : [resolve(values.config)];
    files = [...new Set([...found.files, ...config, ...run.isRunning ? files : []])];
    const stamp = stampOf(null, files);
    await Promise.race([load(project, run, found.wrong), ended.promise]);
    if (await Promise.race([changed(files, stamp), ended.promise]) === "ended") return Exit.ok;
  }
});

/** The app and the paths of its files. */
interface Project {
  /** Path of the module, without symbolic links. */
  readonly module: string;
  readonly name: string;
  readonly given: { readonly port?: string; readonly config?: string };
  /** Paths of the run's configuration and control socket. */
  readonly config: string;
  readonly control: string;
}

/** The interval of polling files. A changed file counts as saved one poll later: editors write in steps. */
const LOOK_MILLIS = 100;
/** Lines of the run that are not shown: this program replaces them, or developers do not need them. */
const HIDDEN = /^(lo: kernel sockets|ready: |reloaded: |reload failed|\w+: some walls)/;

/** Starts or reloads the app with its current files, and prints the result. */
async function load(project: Project, run: Running, wrongImport: string): Promise<void> {
  const { module, given } = project;
  const file = relative("", module);
  const begun = performance.now();
  const wasRunning = run.isRunning;
  const then = wasRunning ? "the previous version keeps running" : "waiting for a change";
  try {
    const ports = await writeConfig(project);
    if (wrongImport) throw new UserError(wrongImport);
    const errors = /\.[cm]?tsx?$/.test(module) ? await typeErrors(module) : "";
    if (errors) {
      console.error(errors);
      return say(`${file} has errors; ${then}`);
    }
    if (!await run.load(project)) return say(`${file} was not started; ${then}`);
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    if (wasRunning) return say(`reloaded ${file} in ${seconds} s`);
    const unchecked = errors === null ? "; its types are not checked, because deno is missing" : "";
    say(`${file} answers on 127.0.0.1, UDP ${ports}${unchecked}; Ctrl-C ends it`);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    // An error in the generated configuration comes from the file that it was generated from.
    const place = new RegExp(`${RegExp.escape(project.config)}:\\d+: `, "g");
    const ours = given.config === undefined ? "" : `${given.config}: `;
    say(`${error.message.replaceAll(place, ours)}; ${then}`);
  }
}

function say(line: string): void {
  console.error(`tegula: ${line}`);
}

/** Writes the run's configuration. Returns the ports as text. Throws UserError. */
async function writeConfig({ module, name, given, ...run }: Project): Promise<string> {
  const { listen, table } = given.config === undefined
    ? { listen: [{ ports: DEFAULT_PORT, how: "" }], table: {} }
    : await configured(module, given.config);
  if (given.port !== undefined) {
    const ports = parseRange(given.port, 1);
    if (ports === null) {
      throw new UserError(
        `--port takes a port or FIRST-LAST, from 1 to 65535, not '${excerpt(given.port)}'`,
      );
    }
    listen.splice(0, listen.length, { ports, how: listen[0]?.how ?? "" });
  }
  const config = {
    ...{ interfaces: ["lo"], provider: "socket", control: run.control },
    listen: listen.map(({ ports, how }) => `${rangeText(ports)}=${name}${how}`),
    apps: { [name]: { ...table, module } },
  };
  Deno.writeTextFileSync(run.config, stringify(config));
  const [first, ...others] = listen.map(({ ports }) => rangeText(ports));
  const isOne = others.length === 0 && !first.includes("-");
  return `port${isOne ? "" : "s"} ${[first, ...others].join(", ")}`;
}

/** The app's ports and its table, with absolute paths, from the file at `path`. Throws UserError. */
async function configured(module: string, path: string) {
  const { listen, apps } = await readConfig({ config: path });
  const name = listen.map(({ app }) => app).find((app) => {
    const at = Object.hasOwn(apps, app) ? apps[app].module ?? app : app;
    return at.includes("/") && exists(at) && Deno.realPathSync(at) === module;
  });
  if (name === undefined) {
    throw new UserError(`${path}: no app that listens has the module ${module}`);
  }
  return {
    listen: listen.filter(({ app }) => app === name).map(({ ports, instances, inline }) => (
      { ports, how: inline ? "@inline" : `*${instances}` }
    )),
    table: apps[name] ?? {},
  };
}

/** Resolves when a file differs from `stamp`, and no file changes any more. */
async function changed(files: readonly string[], stamp: string): Promise<"changed"> {
  for (let before = stamp;;) {
    await delay(LOOK_MILLIS);
    const now = stampOf(null, files);
    if (now !== stamp && now === before) return "changed";
    before = now;
  }
}

/** The `tegula run` process, which can be restarted after its end. */
class Running implements AsyncDisposable {
  #child?: Deno.ChildProcess;
  #isStopping = false;

  get isRunning(): boolean {
    return this.#child !== undefined;
  }

  /** Starts or reloads it. Returns false if it has ended and printed why. Throws UserError. */
  async load({ config, control }: Project): Promise<boolean> {
    if (this.#child === undefined) return await this.#start(config);
    await askForChange("reload", control);
    return true;
  }

  /** Ends it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isStopping = true;
    const child = this.#child;
    attempt(() => child?.kill("SIGTERM"));
    await child?.status;
  }

  async #start(config: string): Promise<boolean> {
    // It ends when this process ends for any reason.
    const [program, ...args] = ["setpriv", "--pdeathsig", "TERM", ...selfCommand()];
    const child = new Deno.Command(program, {
      args: [...args, "run", "--config", config],
      ...{ stdin: "null", stdout: "inherit", stderr: "piped" },
    }).spawn();
    this.#child = child;
    const ready = Promise.withResolvers<boolean>();
    const read = async () => {
      let wasReady = false;
      for await (const line of linesOf(child.stderr)) {
        wasReady ||= line.startsWith("ready: ");
        if (wasReady) ready.resolve(true);
        if (!HIDDEN.test(line)) console.error(line);
      }
      this.#child = undefined;
      ready.resolve(false);
      if (wasReady && !this.#isStopping) say("it has ended; waiting for a change");
    };
    read().catch((error) => say(messageOf(error)));
    return await ready.promise;
  }
}
