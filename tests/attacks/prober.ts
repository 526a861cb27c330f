// SPDX-License-Identifier: Apache-2.0
/**
 * An app that tries what no app may, by every interface of Deno's and Node's that leads out of it: as it
 * starts, before its thread is confined (`at start NAME`), and in its handler, when it is. Asked for an
 * attempt by name it answers with how that ended: `allowed` or the error's name.
 */

import childProcess from "node:child_process";
import fs from "node:fs";
import inspector from "node:inspector";
import net from "node:net";
import process from "node:process";
import type { Request } from "../../tiles/app/contract.ts";

/** Descriptors that an appliance has open: rings, sockets, memory, Deno's own. */
const DESCRIPTORS = Array.from({ length: 60 }, (_, i) => i + 3);

// deno-lint-ignore no-explicit-any -- internals that Deno gives no types for
const internals = (Deno as any)[(Deno as any).internal];

/** Names of ops that open, load, start, end or connect something. Only reachable ones are listed. */
const LEADS_OUT =
  /open|spawn|kill|exec|ffi|dlopen|load|connect|listen|env|fs_|net_|read|write|worker|process|signal/;

/** Tries something with each descriptor, and says whether any let it. */
function withDescriptors(attempt: (fd: number) => unknown): void {
  let last: unknown;
  for (const fd of DESCRIPTORS) {
    try {
      attempt(fd);
      return;
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

/** What can be tried without waiting for anything. */
const AT_ONCE: Record<string, () => unknown> = {
  "Deno.readTextFileSync": () => Deno.readTextFileSync("/etc/passwd"),
  "Deno.openSync": () => Deno.openSync("/proc/self/mem", { read: true, write: true }),
  "Deno.readDirSync": () => [...Deno.readDirSync("/etc")],
  "Deno.statSync": () => Deno.statSync("/etc/shadow"),
  "Deno.readLinkSync": () => Deno.readLinkSync("/proc/self/exe"),
  "Deno.writeTextFileSync": () => Deno.writeTextFileSync("/tmp/tegula-attack", "x"),
  "Deno.makeTempFileSync": () => Deno.makeTempFileSync(),
  "Deno.symlinkSync": () => Deno.symlinkSync("/etc/passwd", "/tmp/tegula-attack"),
  "Deno.removeSync": () => Deno.removeSync("/tmp/tegula-attack-not-there"),
  "Deno.chmodSync": () => Deno.chmodSync("/etc/passwd", 0o777),
  "fs.readFileSync": () => fs.readFileSync("/etc/passwd"),
  "fs.openSync": () => fs.openSync("/etc/passwd", "r"),
  "fs.readSync of any descriptor": () =>
    withDescriptors((fd) => fs.readSync(fd, new Uint8Array(8))),
  "fs.writeSync to any descriptor": () =>
    withDescriptors((fd) => fs.writeSync(fd, new Uint8Array(8))),
  "fs.closeSync of any descriptor": () => withDescriptors((fd) => fs.closeSync(fd)),
  "fs.ftruncateSync of any descriptor": () => withDescriptors((fd) => fs.ftruncateSync(fd, 0)),
  "fs.readSync of /dev/fd": () => fs.readFileSync("/dev/fd/5"),
  "Deno.Command": () => new Deno.Command("/bin/true").outputSync(),
  "childProcess.spawnSync": () => {
    const { error } = childProcess.spawnSync("/bin/true");
    if (error) throw error;
  },
  "Deno.dlopen": () => Deno.dlopen("libc.so.6", { system: { parameters: [], result: "i32" } }),
  "process.dlopen": () =>
    (process as unknown as { dlopen(module: object, path: string): void })
      .dlopen({ exports: {} }, "/lib/x86_64-linux-gnu/libc.so.6"),
  "Deno.UnsafePointer.create": () => {
    const pointer = Deno.UnsafePointer.create(4096n);
    if (pointer !== null) new Deno.UnsafePointerView(pointer).getUint8();
  },
  "Deno.env": () => Deno.env.get("PATH"),
  "process.env": () => {
    if (process.env.PATH === undefined) throw new Deno.errors.NotFound();
  },
  "Deno.hostname": () => Deno.hostname(),
  "Deno.networkInterfaces": () => Deno.networkInterfaces(),
  "Deno.listen": () => Deno.listen({ hostname: "127.0.0.1", port: 0 }),
  "Deno.listen on a path": () => Deno.listen({ transport: "unix", path: "/tmp/tegula-attack" }),
  "Deno.listenDatagram": () =>
    (Deno as unknown as { listenDatagram(options: object): void })
      .listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 }),
  "Deno.kill of the process": () => Deno.kill(Deno.pid, "SIGTERM"),
  "Deno.kill of another": () => Deno.kill(1, "SIGTERM"),
  "process.kill of its parent": () => process.kill(process.ppid, "SIGTERM"),
  "Deno.addSignalListener": () => Deno.addSignalListener("SIGWINCH", () => {}),
  "a worker": () => new Worker("data:text/javascript,", { type: "module" }),
  "inspector.open": () => inspector.open(9229, "127.0.0.1"),
  "ops that lead out": () => {
    const names = Object.keys(internals?.core.ops ?? {}).filter((name) => LEADS_OUT.test(name));
    throw Object.assign(new Error(), { name: names.join(" ") || "none" });
  },
  "op_napi_open": () => {
    const nothing = Array(10).fill(() => {});
    return internals.core.ops.op_napi_open("/lib/x86_64-linux-gnu/libc.so.6", ...nothing);
  },
  "op_print": () => internals.core.print("a line of nobody's\n", true),
};

/** What has to be waited for, which only a start can. */
const AT_START: Record<string, () => Promise<unknown>> = {
  "Deno.connect": () => Deno.connect({ hostname: "127.0.0.1", port: 9 }),
  "Deno.connect to a path": () =>
    Deno.connect({ transport: "unix", path: "/run/tegula/eth0.sock" }),
  "fetch": () => fetch("http://127.0.0.1:9/"),
  "fetch of a file": () => fetch("file:///etc/passwd"),
  "import of a file": () => import("file:///etc/passwd.ts"),
  "import from elsewhere": () => import(`http://127.0.0.1:9/${"module"}.ts`),
  "Deno.readTextFile": () => Deno.readTextFile("/etc/passwd"),
  "Deno.resolveDns": () => Deno.resolveDns("localhost", "A"),
  "net.connect": () =>
    new Promise((resolve, reject) => {
      net.connect(9, "127.0.0.1", () => resolve(null)).on("error", reject);
    }),
};

const outcomes = new Map<string, string>();

function nameOf(error: unknown): string {
  const { code, name } = error as { code?: string; name?: string };
  return code ?? name ?? String(error);
}

/** Tries all that has to be waited for, and all the rest, while its thread is not confined yet. */
export default async function create() {
  for (const [name, attempt] of Object.entries(AT_START)) {
    outcomes.set(`at start ${name}`, await attempt().then(() => "allowed", nameOf));
  }
  for (const name of Object.keys(AT_ONCE)) {
    // A listener is main's to make as long as its thread is not confined.
    if (name !== "Deno.addSignalListener") outcomes.set(`at start ${name}`, now(name));
  }
  return {
    answer({ payload }: Request): string {
      const name = new TextDecoder().decode(payload);
      return outcomes.get(name) ?? now(name);
    },
  };
}

function now(name: string): string {
  try {
    AT_ONCE[name]();
    return "allowed";
  } catch (error) {
    return nameOf(error);
  }
}
