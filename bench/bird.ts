// SPDX-License-Identifier: Apache-2.0
/**
 * BIRD, the routing daemon, as tests and benchmarks run it: in the foreground, its configuration and socket
 * in a folder of its own.
 */

import { LabProcess, type Namespace } from "../demo/lab.ts";

/** How long BIRD may take to start or to execute a command. */
const PATIENCE_MILLIS = 60_000;

export class Bird implements AsyncDisposable {
  readonly #folder: string;
  readonly #namespace: Namespace | null;
  readonly #process: LabProcess;

  private constructor(folder: string, namespace: Namespace | null, options: readonly string[]) {
    this.#folder = folder;
    this.#namespace = namespace;
    const files = ["-c", `${folder}/bird.conf`, "-s", `${folder}/bird.ctl`];
    const command = ["bird", "-f", ...files, ...options];
    this.#process = namespace === null ? spawnHere(command) : namespace.spawn(command);
  }

  /** Starts BIRD, in a namespace of the laboratory or in that of the test, and waits for it. */
  static async start(
    configuration: string,
    { namespace = null, options = [] }: { namespace?: Namespace | null; options?: string[] } = {},
  ): Promise<Bird> {
    const folder = await Deno.makeTempDir({ prefix: "tegula-bird-" });
    await Deno.writeTextFile(`${folder}/bird.conf`, configuration);
    const bird = new Bird(folder, namespace, options);
    const end = performance.now() + PATIENCE_MILLIS;
    while (!(await bird.#ask("show status")).success) {
      if (performance.now() < end && !bird.#process.stderr.ended) continue;
      throw new Error(`BIRD did not start: ${bird.#process.stderr.all.join("\n")}`);
    }
    return bird;
  }

  /** Sends a command and returns BIRD's answer. Throws if BIRD refuses. */
  async command(text: string): Promise<string> {
    const { success, output } = await this.#ask(text);
    if (success && !/syntax error/.test(output)) return output;
    throw new Error(`BIRD said to "${text}": ${output}`);
  }

  /** Switches to another configuration. */
  async configure(configuration: string): Promise<void> {
    await Deno.writeTextFile(`${this.#folder}/bird.conf`, configuration);
    await this.command("configure");
  }

  /** Ends it at once, as in a crash: nothing is withdrawn. */
  async crash(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.ended();
  }

  async #ask(text: string): Promise<{ success: boolean; output: string }> {
    const inside = this.#namespace === null ? [] : ["ip", "netns", "exec", this.#namespace.name];
    const [program, ...args] = [...inside, "birdc", "-s", `${this.#folder}/bird.ctl`, text];
    const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
    return { success, output: new TextDecoder().decode(success ? stdout : stderr) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGTERM");
    await this.#process.ended();
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** Starts a program in the test's own namespace; it dies with the test. */
function spawnHere(command: readonly string[]): LabProcess {
  const child = new Deno.Command("setpriv", {
    args: ["--pdeathsig", "KILL", ...command],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  return new LabProcess(child);
}
