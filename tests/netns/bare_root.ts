// SPDX-License-Identifier: Apache-2.0
/**
 * A root directory with a few programs, the shared objects they need, and nothing else: a Debian
 * machine without Deno, node_modules and compiler. It shows whether a packed program needs more.
 */

import { basename, dirname } from "node:path";

/** The output of a program, and how it ended. */
export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. `env` is its entire environment. */
export function run(
  [program, ...args]: readonly string[],
  { env }: { env?: Record<string, string> } = {},
): Ended {
  const { code, stdout, stderr } = new Deno.Command(program, {
    args,
    ...(env !== undefined && { env, clearEnv: true }),
  }).outputSync();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Runs a program to its end; throws with its output if it fails. */
export function mustRun(command: readonly string[]): string {
  const { code, stdout, stderr } = run(command);
  if (code === 0) return stdout;
  throw new Error(`${command.join(" ")}: ${stderr}`);
}

/** The root. It is removed with all its contents at the end of `using`. */
export class BareRoot implements Disposable {
  readonly path: string;

  /** Makes the root with `programs` (names on PATH or paths) and mounts /proc, /sys and /dev. */
  constructor(programs: readonly string[]) {
    this.path = Deno.makeTempDirSync({ prefix: "tegula-root-" });
    // Its own mount, as for a root: `unshare --mount` refuses anything else.
    mustRun(["mount", "-t", "tmpfs", "-o", "mode=755", "none", this.path]);
    for (const folder of ["tmp", "run", "root", "var/cache", "etc"]) {
      Deno.mkdirSync(`${this.path}/${folder}`, { recursive: true });
    }
    Deno.chmodSync(`${this.path}/tmp`, 0o1777);
    for (const folder of ["proc", "sys", "dev"]) this.#bind(`/${folder}`);
    Deno.symlinkSync("usr/bin", `${this.path}/bin`);
    for (const program of programs) this.#add(program);
  }

  /**
   * Runs a program of the root through the command `prefix` of this machine. Its environment is PATH
   * alone unless more is given.
   */
  run(
    command: readonly string[],
    { env, uid = 0, prefix = [] }: {
      env?: Record<string, string>;
      uid?: number;
      prefix?: readonly string[];
    } = {},
  ): Ended {
    return run([...prefix, "/usr/sbin/chroot", `--userspec=${uid}:${uid}`, this.path, ...command], {
      env: { PATH: "/usr/bin", ...env },
    });
  }

  /** Copies a file of this machine into the root. */
  copy(from: string, to: string): void {
    Deno.mkdirSync(dirname(this.path + to), { recursive: true });
    Deno.copyFileSync(from, this.path + to);
  }

  /** Copies the shared objects that a program is linked with, including its loader. */
  copySharedObjects(program: string): void {
    for (const [, object] of mustRun(["ldd", program]).matchAll(/(\/\S+) \(0x/g)) {
      this.copy(object, object);
    }
  }

  #add(program: string): void {
    const path = mustRun(["sh", "-c", `command -v "$1"`, "sh", program]).trim();
    this.copy(path, `/usr/bin/${basename(path)}`);
    this.copySharedObjects(path);
  }

  #bind(folder: string): void {
    Deno.mkdirSync(this.path + folder);
    mustRun(["mount", "--rbind", folder, this.path + folder]);
  }

  [Symbol.dispose](): void {
    mustRun(["umount", "--recursive", this.path]);
    Deno.removeSync(this.path);
  }
}

/**
 * Puts a Debian system into `folder` that has this machine's versions of `packages`, of the essential
 * ones, and of their dependencies, and whose dpkg knows no others.
 */
export function bareDebian(folder: string, packages: readonly string[]): void {
  const paragraphs = new Map(
    Deno.readTextFileSync("/var/lib/dpkg/status").split("\n\n")
      .filter((text) => /^Status: .* installed$/m.test(text))
      .map((text) => [/^Package: (.*)$/m.exec(text)?.[1] ?? "", text]),
  );
  const field = (name: string, field: string) =>
    new RegExp(`^${field}: (.*)$`, "m").exec(paragraphs.get(name) ?? "")?.[1] ?? "";
  const names = (list: string) => list.split(/[,|]/).map((one) => one.trim().split(/[ :(]/)[0]);
  const essential = [...paragraphs.keys()].filter((name) => field(name, "Essential") === "yes");
  const wanted = new Set([...essential, ...packages]);
  for (const name of wanted) {
    for (const depends of [field(name, "Pre-Depends"), field(name, "Depends")]) {
      for (const needed of names(depends)) if (paragraphs.has(needed)) wanted.add(needed);
    }
  }
  const files = mustRun(["dpkg-query", "--listfiles", ...wanted]).split("\n")
    .filter((path) => path.startsWith("/") && path !== "/.");
  const info = [...Deno.readDirSync("/var/lib/dpkg/info")].map(({ name }) => name)
    .filter((name) =>
      wanted.has(name.split(/[.:]/)[0]) || wanted.has(name.replace(/\.[^.]*$/, ""))
    );
  // Made by maintainer scripts, which do not run here.
  const made = ["/etc/passwd", "/etc/group", "/etc/shadow", "/var/lib/dpkg/info/format"];
  const list = [...files, ...made, ...info.map((name) => `/var/lib/dpkg/info/${name}`)]
    .filter((path) => exists(path));
  const listed = `${folder}/list`;
  Deno.writeTextFileSync(listed, list.join("\0"));
  mustRun([
    "sh",
    "-c",
    'tar -C / -c --no-recursion --null -T "$1" | tar -C "$2" -x',
    "sh",
    listed,
    folder,
  ]);
  Deno.removeSync(listed);
  const folders = "dev mnt proc root run sys tmp var/cache var/log var/tmp".split(" ");
  for (const name of [...folders, "var/lib/dpkg/updates", "var/lib/dpkg/triggers"]) {
    Deno.mkdirSync(`${folder}/${name}`, { recursive: true });
  }
  const status = [...wanted].filter((name) => paragraphs.has(name)).map((name) =>
    paragraphs.get(name)
  );
  Deno.writeTextFileSync(`${folder}/var/lib/dpkg/status`, status.join("\n\n") + "\n");
  mustRun(["ldconfig", "-r", folder]);
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}
