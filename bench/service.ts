// SPDX-License-Identifier: Apache-2.0
/**
 * The program under test as its operator sees it: a configuration file, a control socket, commands that
 * change it while it runs, and its processes. Nothing here depends on its internals, so it may be
 * another commit's (`TEGULA_TREE`, which `--against` sets for these benchmarks).
 */

import { DENO_FLAGS, selfCommand } from "../cli/command.ts";
import type { LabProcess, Namespace } from "../demo/lab.ts";
import { INTERFACE } from "./track.ts";

const START_MILLIS = 30_000;
/** How long replaced processes may take to end. */
const SETTLE_MILLIS = 5000;

/** The beginning of the command line of the program under test. */
export function programCommand(): string[] {
  const tree = Deno.env.get("TEGULA_TREE");
  return tree === undefined ? selfCommand() : [Deno.execPath(), ...DENO_FLAGS, `${tree}/main.ts`];
}

/** Whether the program has a command of this name. */
export async function knows(name: string): Promise<boolean> {
  const [program, ...args] = programCommand();
  return (await new Deno.Command(program, { args: [...args, name, "--help"] }).output()).success;
}

/** Kinds of processes, by a part of their command lines. */
const KINDS = { appliance: "tiles/runtime/appliance", app: "tiles/app/process" } as const;

/** A process of the program's tree. */
export interface TreeProcess {
  readonly pid: number;
  readonly kind: keyof typeof KINDS | "master";
  readonly command: string;
}

/** A process and its descendants, from `/proc`; only in a laboratory. */
export function processTree(root: number): TreeProcess[] {
  const all = [...Deno.readDirSync("/proc")].filter(({ name }) => /^\d+$/.test(name))
    .flatMap(({ name }) => {
      try {
        const stat = Deno.readTextFileSync(`/proc/${name}/stat`);
        const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
        const command = Deno.readTextFileSync(`/proc/${name}/cmdline`).replaceAll("\0", " ");
        return [{ pid: Number(name), parent, command }];
      } catch {
        return []; // It has ended meanwhile.
      }
    });
  const below = (pid: number): TreeProcess[] =>
    all.filter((each) => each.parent === pid).flatMap((each) => [named(each), ...below(each.pid)]);
  return [...all.filter(({ pid }) => pid === root).map(named), ...below(root)];
}

function named({ pid, command }: { pid: number; command: string }): TreeProcess {
  const [kind] = Object.entries(KINDS).find(([, part]) => command.includes(part)) ?? ["master"];
  return { pid, kind: kind as TreeProcess["kind"], command };
}

/** Memory of a process in MiB, from proc_pid_smaps(5). */
export interface Memory {
  /** Proportional set size: pages shared with n other processes count as 1/n. */
  readonly pss: number;
  /** The part of it that is not backed by files, which does not depend on other processes. */
  readonly own: number;
}

/** Memory of a process and its descendants. */
export function memoryOf(root: number): Memory {
  const texts = processTree(root).map(({ pid }) =>
    Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`)
  );
  const sum = (field: string) =>
    texts.reduce((all, text) => {
      return all + Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(text)?.[1] ?? 0) / 1024;
    }, 0);
  return { pss: sum("Pss"), own: sum("Pss_Anon") + sum("Pss_Shmem") };
}

/** The number of open descriptors of a process and its descendants. */
export function descriptorsOf(root: number): number {
  return processTree(root).reduce((all, { pid }) => all + descriptors(pid).length, 0);
}

/** The targets of a process's descriptors in `/proc/PID/fd`. */
function descriptors(pid: number): string[] {
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].flatMap(({ name }) => {
    try {
      return [Deno.readLinkSync(`/proc/${pid}/fd/${name}`)];
    } catch {
      return []; // It has been closed meanwhile.
    }
  });
}

/** The variable part of the configuration file. */
export interface Said {
  readonly listen: readonly string[];
  readonly netTiles?: number;
  /** Paths of modules by the names of their apps, and a text for their options. */
  readonly modules?: Readonly<Record<string, string>>;
  readonly option?: string;
  /** The prefix that is announced, and how long a service that is told to end continues without it. */
  readonly announced?: string;
  readonly drainSeconds?: number;
}

/** The module of an echo app; `version` changes its text. */
export function echoModule(version = 0): string {
  return `// ${version}
export default function create() {
  return {
    receive(requests, out) {
      while (requests.next()) out.reflect();
    },
  };
}
`;
}

/** The program, running in a namespace. */
export class Service {
  readonly #namespace: Namespace;
  readonly #folder: string;
  #process: LabProcess;

  private constructor(namespace: Namespace, folder: string) {
    this.#namespace = namespace;
    this.#folder = folder;
    this.#process = this.#launch();
  }

  /** Starts it and waits until it is ready. */
  static async start(namespace: Namespace, said: Said): Promise<Service> {
    const folder = Deno.makeTempDirSync({ prefix: "tegula-bench-" });
    // An app's process is another user's.
    Deno.chmodSync(folder, 0o755);
    write(folder, said);
    const service = new Service(namespace, folder);
    await service.ready();
    return service;
  }

  get pid(): number {
    return this.#process.pid;
  }

  get process(): LabProcess {
    return this.#process;
  }

  #launch(): LabProcess {
    return this.#namespace.spawn([
      ...[...programCommand(), "run", "--config", `${this.#folder}/tegula.toml`],
    ]);
  }

  /** Settles when it logs that it is ready. Throws Error with its last lines. */
  async ready(): Promise<void> {
    await this.#process.stderr.find("ready:", { timeoutMs: START_MILLIS });
  }

  /** Rewrites the configuration. */
  configure(said: Said): void {
    write(this.#folder, said);
  }

  /** Runs another command of the program, which uses the control socket. */
  async command(name: string): Promise<void> {
    const asked = [...programCommand(), name, "--control", `${this.#folder}/control.sock`];
    await this.#namespace.run(asked);
  }

  /** Sends a signal and waits for a line with this beginning. */
  async signal(signal: Deno.Signal, line: string): Promise<string> {
    const from = this.#process.stderr.all.length;
    this.#process.kill(signal);
    return await this.#process.stderr.find(line, { from });
  }

  /**
   * Ends it by `signal`, waits for its end and `pauseMs`, starts it again and waits until it is ready.
   * `after` does what the unit does in between.
   */
  async restart(
    signal: Deno.Signal = "SIGTERM",
    pauseMs = 0,
    after?: "withdraw",
  ): Promise<void> {
    this.#process.kill(signal);
    await this.#process.ended();
    if (after !== undefined) {
      await this.#namespace.run([
        ...programCommand(),
        ...[after, "--config", `${this.#folder}/tegula.toml`],
      ]);
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    this.#process = this.#launch();
    await this.ready();
  }

  appliance(): TreeProcess | undefined {
    return processTree(this.pid).find(({ kind }) => kind === "appliance");
  }

  /** The process of this app, by a region that it maps. */
  app(name: string): TreeProcess | undefined {
    const region = new RegExp(`memfd:tegula .*\\b${name}\\b`);
    return processTree(this.pid).find(({ kind, pid }) =>
      kind === "app" && region.test(Deno.readTextFileSync(`/proc/${pid}/maps`))
    );
  }

  /** Waits until it has at most `count` processes: the replaced ones have ended. */
  async settled(count: number): Promise<void> {
    const end = performance.now() + SETTLE_MILLIS;
    while (processTree(this.pid).length > count && performance.now() < end) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Counters by name, of each tile by its name. */
  async counters(): Promise<Record<string, Record<string, number>>> {
    return JSON.parse((await this.signal("SIGUSR2", "counters: ")).slice("counters: ".length));
  }

  /** Ends it. */
  async stop(): Promise<void> {
    this.#process.kill("SIGTERM");
    await this.#process.ended();
    Deno.removeSync(this.#folder, { recursive: true });
  }
}

function write(
  folder: string,
  { listen, netTiles, modules = {}, option = "", announced, drainSeconds = 0 }: Said,
): void {
  const apps = Object.entries(modules).map(([name, module]) =>
    `[apps.${name}]\nmodule = ${JSON.stringify(module)}\noptions = { text = "${option}" }\n`
  );
  Deno.writeTextFileSync(
    `${folder}/tegula.toml`,
    [
      `interfaces = ["${INTERFACE}"]`,
      `listen = ${JSON.stringify(listen)}`,
      'provider = "xdp"',
      `control = "${folder}/control.sock"`,
      ...(drainSeconds === 0 ? [] : [`drain_seconds = ${drainSeconds}`]),
      ...(netTiles === undefined ? [] : [`net_tiles = ${netTiles}`]),
      ...apps,
      ...(announced === undefined ? [] : ["[announce]", `addresses = ["${announced}"]`]),
    ].join("\n"),
  );
}
