// SPDX-License-Identifier: Apache-2.0
/**
 * A host that systemd has booted, as PID 1 of namespaces of its own: this machine's files, or some of
 * them, below a layer that is thrown away, one of the laboratory's network namespaces, and a control group.
 */

import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import type { LabProcess, Namespace } from "../../../demo/lab.ts";
import { mustRun, run } from "../bare_root.ts";
import { eventually } from "../lab.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

/** Where the project is seen in the host. */
export const PROJECT = "/mnt";

/** Takes a second; machines that have other work to do may take longer. */
const BOOT_MILLIS = 60_000;

/**
 * Makes a root below $1 over the files of $3, with the project, $2, in it, and becomes its init. /sys is read-only: that
 * tells systemd that devices are none of its business. Caches and logs are no layer over this
 * machine's, as systemd renames the folders in there.
 */
const BOOT = `
mount --make-rprivate /
mkdir $1/upper $1/work $1/root
mount -t overlay none -o "lowerdir=$3,upperdir=$1/upper,workdir=$1/work" $1/root
cd $1/root
mount --bind "$2" .${PROJECT}
mount -t proc none proc
mount -t sysfs -o ro none sys
mount -t cgroup2 none sys/fs/cgroup
for folder in run tmp dev var/cache var/log; do mount -t tmpfs none $folder; done
for node in null zero full random urandom tty; do
  touch dev/$node && mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm && ln -s pts/ptmx dev/ptmx
mount -t devpts none dev/pts -o newinstance,ptmxmode=666
mkdir .old && pivot_root . .old && umount --lazy .old
systemd-id128 new > etc/machine-id
exec env --ignore-environment container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
  /usr/lib/systemd/systemd --unit=basic.target`;

/** Goes into the control group $1, and starts BOOT in namespaces. */
const START = `
echo $$ > $1/cgroup.procs
shift
exec unshare --cgroup --mount --pid --uts --ipc --fork --kill-child sh -euc "$4" boot "$1" "$2" "$3"`;

/** Enters the init whose parent is $1, and runs $2. /proc shows processes as we number them. */
const ENTER = `
mount -t proc none /proc
exec nsenter --all --target $(cat /proc/$1/task/$1/children) sh -euc "$2"`;

/** The host. Use with `await using`, in a test of the laboratory. */
export class SystemdHost implements AsyncDisposable {
  readonly #folder: string;
  readonly #group: string;
  readonly #init: LabProcess;

  private constructor(namespace: Namespace, files: string) {
    this.#folder = Deno.makeTempDirSync({ prefix: "tegula-systemd-" });
    mustRun(["mount", "-t", "tmpfs", "none", this.#folder]);
    const groups = `${this.#folder}/cgroup`;
    Deno.mkdirSync(groups);
    mustRun(["mount", "-t", "cgroup2", "none", groups]);
    this.#group = `${groups}/${basename(this.#folder)}`;
    Deno.mkdirSync(this.#group);
    const command = ["sh", "-euc", START, "start", this.#group, this.#folder, ROOT, files, BOOT];
    this.#init = namespace.spawn(command);
  }

  /**
   * Boots it with the network of `namespace` and this machine's files, or those below `files`, and waits until
   * it is up.
   */
  static async boot(namespace: Namespace, files = "/"): Promise<SystemdHost> {
    const host = new SystemdHost(namespace, files);
    try {
      const up = () => host.run("systemctl is-active basic.target").catch(() => undefined);
      await eventually("systemd", up, { timeoutMs: BOOT_MILLIS });
      return host;
    } catch (error) {
      console.log(host.#init.stderr.all.join("\n"));
      await host[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Runs a shell's line in the host; returns what it printed, or throws with what it said. */
  async run(line: string): Promise<string> {
    const child = new Deno.Command("unshare", {
      args: ["--mount", "sh", "-euc", ENTER, "enter", String(this.#init.pid), line],
    });
    const { success, stdout, stderr } = await child.output();
    const [printed, said] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes).trim());
    if (!success) throw new Error(`"${line}" failed: ${printed}\n${said}`);
    return printed;
  }

  /** Puts lines beside the service's unit. */
  async configure(name: string, lines: string[]): Promise<void> {
    const folder = "/etc/systemd/system/tegula.service.d";
    const text = lines.join("\\n");
    await this.run(`mkdir -p ${folder} && printf '${text}\\n' > ${folder}/${name}.conf`);
    await this.run("systemctl daemon-reload");
  }

  /** Gives the service CAP_IPC_LOCK where the root of this machine may not raise LimitMEMLOCK. */
  async allowLocking(): Promise<void> {
    if (run(["prlimit", "--memlock=unlimited:unlimited", "true"]).code === 0) return;
    const sets = ["AmbientCapabilities", "CapabilityBoundingSet"];
    await this.configure("lock", ["[Service]", ...sets.map((set) => `${set}=CAP_IPC_LOCK`)]);
  }

  /** A property of the service, as `systemctl show` has it. */
  property(name: string): Promise<string> {
    return this.run(`systemctl show tegula --property=${name} --value`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#init.kill("SIGKILL");
    await this.#init.ended();
    await removeGroup(this.#group);
    run(["umount", "--recursive", this.#folder]);
    Deno.removeSync(this.#folder);
  }
}

/** Removes a control group and those below it, once the kernel has let the last process go. */
async function removeGroup(group: string): Promise<void> {
  for (const { name, isDirectory } of Deno.readDirSync(group)) {
    if (isDirectory) await removeGroup(`${group}/${name}`);
  }
  await eventually(`${group} to be empty`, () => {
    const { code } = run(["rmdir", group]);
    return Promise.resolve(code === 0 ? true : undefined);
  });
}
