// SPDX-License-Identifier: Apache-2.0
/**
 * A laboratory of network namespaces joined by veth pairs, and a `tegula run` in one of them, for
 * the demo, for tests on the real kernel and for benchmarks. It runs in new mount, network and PID
 * namespaces (`enterLaboratory`), with a private `/run`. When its first process ends, or the process
 * that started that, the kernel removes all its namespaces, interfaces, XDP programs and processes.
 */

import { Exit, linesOf, selfCommand, UserError } from "../cli/command.ts";
import { attempt } from "../ffi/library.ts";
import { within } from "../tiles/runtime/tile.ts";

/** The environment variable that marks the process inside. */
const INSIDE = "TEGULA_LABORATORY";

/** The environment variable with the outer PID of the first process inside. */
export const OUTER_PID = "TEGULA_OUTER_PID";

/**
 * Mounts the PID namespace's own `/proc`, and an empty, private `/run`, where `ip netns` keeps its names and
 * the appliance its control socket. Mounting `/run/netns` only could leave that folder behind on the host.
 */
const PRIVATE = `read -r ${OUTER_PID} rest </proc/self/stat && export ${OUTER_PID} && ` +
  "mount -t proc none /proc && mount -t tmpfs none /run && mkdir /run/netns";

/** Throws UserError if a laboratory cannot be made. */
export function checkLaboratory(): void {
  if (Deno.uid() !== 0) {
    throw new UserError(
      "only root can make network namespaces: use sudo",
      Exit.privilege,
    );
  }
  if (!new Deno.Command("sh", { args: ["-c", "command -v ip"] }).outputSync().success) {
    throw new UserError("the program ip is missing: apt-get install iproute2", Exit.system);
  }
}

/** Whether this process is the one that `enterLaboratory` started. */
export function insideLaboratory(): boolean {
  return Deno.env.get(INSIDE) !== undefined;
}

/** The command line that runs `command` in namespaces that end with it. */
export function laboratoryCommand(command: readonly string[]): string[] {
  return [
    ..."setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child".split(" "),
    ...["sh", "-c", `${PRIVATE} && exec "$@"`, "sh"],
    ...command,
  ];
}

/** Runs `command` inside and returns its exit status. Throws UserError if no laboratory can be made. */
export async function enterLaboratory(command: readonly string[]): Promise<number> {
  checkLaboratory();
  const [program, ...args] = laboratoryCommand(command);
  const options = { args, stdin: "null", env: { [INSIDE]: "1" } } as const;
  return (await new Deno.Command(program, options).spawn().status).code;
}

/** How a process is started in a namespace. */
interface SpawnOptions {
  readonly stdin?: "piped" | "null";
  readonly env?: Record<string, string>;
  /** Called with each line of its standard error. */
  readonly onLine?: (line: string) => void;
}

/** A process whose output is collected line by line. */
export class LabProcess {
  readonly stdout: Lines;
  readonly stderr: Lines;
  readonly pid: number;
  /** Its exit status; null while it runs. */
  status: Deno.CommandStatus | null = null;
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array> | null;

  constructor(child: Deno.ChildProcess, options: SpawnOptions = {}) {
    this.#child = child;
    this.pid = child.pid;
    this.stdout = new Lines(child.stdout);
    this.stderr = new Lines(child.stderr, options.onLine);
    this.#input = options.stdin === "piped" ? child.stdin.getWriter() : null;
    child.status.then((status) => this.status = status);
  }

  /** Resolves when the process has ended and all its output has been read. */
  async ended(): Promise<Deno.CommandStatus> {
    const status = await this.#child.status;
    await Promise.all([this.stdout.closed, this.stderr.closed]);
    return status;
  }

  /** Sends a signal, unless the process has ended. */
  kill(signal: Deno.Signal): void {
    attempt(() => this.#child.kill(signal));
  }

  async write(line: string): Promise<void> {
    await this.#input?.write(new TextEncoder().encode(`${line}\n`));
  }
}

export class Namespace {
  /** Its name for `ip netns`. */
  readonly name: string;
  readonly #processes: LabProcess[];

  constructor(name: string, processes: LabProcess[]) {
    this.name = name;
    this.#processes = processes;
  }

  /** Runs `ip` in this namespace, with arguments separated by single spaces. Returns its output. */
  ip(args: string): Promise<string> {
    return execute(["ip", "-n", this.name, ...args.split(" ")]);
  }

  /** Runs many `ip` commands in one process. */
  batch(lines: readonly string[]): Promise<string> {
    return execute(["ip", "-n", this.name, "-batch", "-"], `${lines.join("\n")}\n`);
  }

  /** Runs a program here to its end and returns its output. */
  run(command: readonly string[]): Promise<string> {
    return execute(["ip", "netns", "exec", this.name, ...command]);
  }

  /** Sets kernel parameters, named as in `/proc/sys/net/ipv4`. */
  async sysctl(settings: Readonly<Record<string, number | string>>): Promise<void> {
    // By a shell, as not every system has sysctl(8).
    const script = Object.entries(settings)
      .map(([name, value]) => `echo "${value}" > /proc/sys/net/ipv4/${name}`);
    await this.run(["sh", "-ec", script.join("\n")]);
  }

  /** Starts a program here. The laboratory kills it at the end. */
  spawn(command: readonly string[], options: SpawnOptions = {}): LabProcess {
    const child = new Deno.Command("ip", {
      args: ["netns", "exec", this.name, ...command],
      stdin: options.stdin ?? "null",
      stdout: "piped",
      stderr: "piped",
      env: options.env,
    }).spawn();
    const process = new LabProcess(child, options);
    this.#processes.push(process);
    return process;
  }
}

/** One end of a veth pair. */
interface LinkEnd {
  readonly namespace: Namespace;
  readonly name: string;
  /** Addresses with prefix lengths. */
  readonly addresses?: readonly string[];
}

/** Makes namespaces and joins them. Use with `await using`. */
export class Lab implements AsyncDisposable {
  readonly #namespaces: Namespace[] = [];
  /** All processes that were started in the namespaces, ended or not. */
  readonly processes: LabProcess[] = [];

  /** Makes a namespace with its loopback device up. */
  namespace(name: string): Promise<Namespace> {
    return this.#name(name, "add");
  }

  /** Names the namespace of this process. */
  here(name: string): Promise<Namespace> {
    return this.#name(name, "attach", `${Deno.pid}`);
  }

  async #name(name: string, verb: string, ...process: string[]): Promise<Namespace> {
    await execute(["ip", "netns", verb, name, ...process]);
    const namespace = new Namespace(name, this.processes);
    this.#namespaces.push(namespace);
    await namespace.ip("link set lo up");
    return namespace;
  }

  /**
   * Joins two namespaces by a veth pair, gives its ends their addresses and brings them up. The first end
   * may have fewer transmit queues than the other.
   */
  async join(
    one: LinkEnd,
    other: LinkEnd,
    { queues = 1, transmitQueues }: { queues?: number; transmitQueues?: number } = {},
  ): Promise<void> {
    const many = `numrxqueues ${queues} numtxqueues ${queues}`;
    const fewer = `numrxqueues ${queues} numtxqueues ${transmitQueues ?? queues}`;
    await one.namespace.ip(
      `link add ${one.name} ${fewer} type veth peer name ${other.name} ${many} ` +
        `netns ${other.namespace.name}`,
    );
    for (const { namespace, name, addresses = [] } of [one, other]) {
      await namespace.batch([
        ...addresses.map((address) => `address add ${address} dev ${name}`),
        `link set ${name} up`,
      ]);
    }
  }

  /** Kills the processes in the namespaces, waits for their end, and deletes the namespaces. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const process of this.processes) process.kill("SIGKILL");
    await Promise.all(this.processes.map((process) => process.ended()));
    for (const { name } of this.#namespaces.splice(0)) {
      await execute(["ip", "netns", "delete", name]);
    }
  }
}

/** Runs a program to its end and returns its output. Throws UserError with its standard error. */
async function execute(command: readonly string[], input = ""): Promise<string> {
  const [program, ...args] = command;
  const pipes = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const child = new Deno.Command(program, { args, ...pipes }).spawn();
  // The program need not read all of its input.
  const written = new Blob([input]).stream().pipeTo(child.stdin).catch(() => {});
  const { success, stdout, stderr } = await child.output();
  await written;
  if (success) return new TextDecoder().decode(stdout);
  const said = new TextDecoder().decode(stderr).trim();
  throw new UserError(`the command "${command.join(" ")}" failed: ${said}`, Exit.failure);
}

/** How long the appliance may take until it is ready, on a busy machine. */
const START_MILLIS = 30_000;

/** Counters by name, summed over all tiles. */
export type Counters = ReadonlyMap<string, number>;

/** A running `tegula run`. */
export class Appliance {
  readonly process: LabProcess;

  protected constructor(process: LabProcess) {
    this.process = process;
  }

  /** Starts `tegula run ARGS…` without waiting. */
  static launch(
    namespace: Pick<Namespace, "spawn">,
    args: readonly string[],
    options: SpawnOptions = {},
  ): Appliance {
    return new this(namespace.spawn([...selfCommand(), "run", ...args], options));
  }

  /** Starts `tegula run ARGS…` and waits until it is ready. Throws UserError if it ends before. */
  static async start(
    namespace: Namespace,
    args: readonly string[],
    options: SpawnOptions = {},
  ): Promise<Appliance> {
    const appliance = this.launch(namespace, args, options);
    await appliance.ready();
    return appliance;
  }

  /** Resolves when it is ready. Throws UserError with its own message if it ends before. */
  async ready(): Promise<void> {
    const { stderr } = this.process;
    try {
      await stderr.find("ready:", { timeoutMs: START_MILLIS });
    } catch (error) {
      if (!stderr.ended) throw error;
      const { code } = await this.process.ended();
      const sentence = stderr.all.find((line) => line.startsWith("tegula: "))?.slice(8);
      const said = sentence ?? (stderr.all.join("\n") || "it printed nothing");
      throw new UserError(`the appliance did not start: ${said}`, code || Exit.failure);
    }
  }

  /** The mode of an interface, as the appliance logs it: `xdp native copy`. */
  async mode(interfaceName: string): Promise<string> {
    const line = await this.process.stderr.find(`${interfaceName}: `);
    return line.slice(interfaceName.length + 2).replace(/ *[(;,].*$/, "").trim();
  }

  async counters(): Promise<Counters> {
    const from = this.process.stderr.all.length;
    this.process.kill("SIGUSR2");
    const line = await this.process.stderr.find("counters: ", { from });
    const tiles: Record<string, Record<string, number>> = JSON.parse(line.slice(10));
    const sums = new Map<string, number>();
    for (const [name, value] of Object.values(tiles).flatMap(Object.entries<number>)) {
      sums.set(name, (sums.get(name) ?? 0) + value);
    }
    return sums;
  }

  /**
   * Stops it by a signal. Returns its exit status and how long that took. Throws UserError unless it ends
   * with status 0, or by SIGKILL if that was the signal.
   */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<{ code: number; millis: number }> {
    const begin = performance.now();
    this.process.kill(signal);
    const status = await this.process.ended();
    const expected = signal === "SIGKILL" ? status.signal === signal : status.success;
    if (!expected) throw badEnd(status, `after ${signal}`);
    return { code: status.code, millis: performance.now() - begin };
  }
}

/** The error for an appliance that ended unexpectedly. `when` completes the sentence. */
export function badEnd({ code, signal }: Deno.CommandStatus, when: string): UserError {
  const how = signal === null ? `ended with status ${code}` : `was ended by ${signal}`;
  return new UserError(`the appliance ${how} ${when}`, Exit.failure);
}

/** Collects the lines of a stream, from the constructor on and up to its end. */
export class Lines {
  readonly all: string[] = [];
  readonly closed: Promise<void>;
  ended = false;
  #changed = Promise.withResolvers<void>();

  constructor(stream: ReadableStream<Uint8Array>, onLine?: (line: string) => void) {
    this.closed = this.#read(stream, onLine);
  }

  async #read(stream: ReadableStream<Uint8Array>, onLine?: (line: string) => void): Promise<void> {
    for await (const line of linesOf(stream)) {
      this.all.push(line);
      onLine?.(line);
      this.#wake();
    }
    this.ended = true;
    this.#wake();
  }

  #wake(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers<void>();
  }

  /**
   * Returns the first line from index `from` on that begins with `prefix`. Throws an Error with the last
   * lines after `timeoutMs`, or when the stream has ended without it.
   */
  async find(prefix: string, { from = 0, timeoutMs = 30_000 } = {}): Promise<string> {
    const deadline = performance.now() + timeoutMs;
    for (let at = from;; at++) {
      while (at >= this.all.length) {
        const left = deadline - performance.now();
        if (this.ended || left <= 0) {
          const why = this.ended ? "the process ended" : "it timed out";
          const last = this.all.slice(-12).join("\n");
          throw new Error(`no line "${prefix}…": ${why}; the last lines were:\n${last}`);
        }
        await within(this.#changed.promise, left);
      }
      if (this.all[at].startsWith(prefix)) return this.all[at];
    }
  }
}
