// SPDX-License-Identifier: Apache-2.0
/**
 * The checks before and during a start: privileges, interfaces, limits, ports, XDP. Each passes, or
 * throws one sentence with the fix.
 */

import { accessSync, constants, rmSync } from "node:fs";
import { resolve } from "node:path";
import { Exit, UserError } from "../cli/command.ts";
import { placeOf, type RunConfig } from "../cli/config.ts";
import { CONTROL_FOLDER, isServed } from "../cli/control.ts";
import * as native from "../ffi/host.ts";
import { attempt, describeErrno, EADDRINUSE, EBUSY, ENOBUFS, SystemError } from "../ffi/library.ts";
import type { XskSetup } from "../ffi/xsk.ts";
import { type AppError, Level, type Log } from "../tiles/runtime/log.ts";
import {
  countPorts,
  FRAME_BYTES,
  planTiles,
  portsServed,
  portsText,
  type Trouble,
} from "../tiles/runtime/plan.ts";
import type { AppPlan } from "../tiles/runtime/wiring.ts";
import { type Attachment, DISPATCHER, OccupiedError } from "./attachment.ts";
import type { MainLibraries } from "./confinement.ts";
import { log } from "./log.ts";

type Host = native.Host;

/**
 * Drivers whose frames may have come from this host or a guest of it, and then carry a partial UDP
 * checksum. Loopback has no driver. Bridges, macvlan and others pass on frames of devices below them.
 */
const PARTIAL_CHECKSUM_DRIVERS: readonly string[] = [
  "",
  "802.1Q VLAN Support",
  ..."veth virtio_net tun bridge macvlan bonding team openvswitch vxlan".split(" "),
];
/**
 * Drivers that attach in native mode, but then deliver no frames to sockets. A bond receives frames
 * on the queues of its ports, not on its own.
 */
export const NOT_NATIVE: Readonly<Record<string, string>> = {
  bonding: "the frames of a bond are its ports'",
};
/**
 * Drivers that silently drop frames sent by AF_XDP. Before they add the outer headers they need the
 * network header offset, which the kernel does not set in such frames.
 */
const NO_SENDING: readonly string[] = ["gretap", "ip6gretap", "erspan"];
/**
 * Descriptors that the master needs, rounded up: for each net tile (regions, eventfd), each app's process (also
 * channel and pidfd), each pair of these (links), each interface (program, maps, link), each queue, and the rest.
 * Up to three times as many are open at once: in a handover, and while a new process moves its own into place.
 */
const FILES = { net: 18, app: 11, pair: 8, interface: 8, queue: 2, rest: 40, spare: 32, times: 3 };
/**
 * Threads that run while everything starts at once, counted on two cores and rounded up: for each tile of the
 * appliance and each app's process. Most load files for Deno, and end ten seconds later. The first start asks for
 * enough for a later handover, too. A handover without enough threads fails and changes nothing.
 */
const THREADS = {
  first: { tile: 20, app: 32, spare: 64 },
  beside: { tile: 16, app: 8, spare: 32 },
};
/** The most threads that `Host.threads` tries, which is what some thirty apps need. */
const MOST_THREADS = 1024;
/** The name of our XDP program in the kernel. */
export const OUR_PROGRAM = "tegula";
/** The first port that needs no CAP_NET_BIND_SERVICE, unless a sysctl changes it. */
const UNPRIVILEGED_PORT_START = 1024;

/** The capabilities that AF_XDP, the dispatcher or low ports need and this process lacks. */
export function missingCapabilities(
  host: Host,
  { xdp = false, announce = false, dispatcher = false, lowPorts = false },
): string[] {
  const has = host.capabilities();
  const wanted: [name: string, isWanted: boolean, ...anyOf: number[]][] = [
    ["CAP_NET_ADMIN", xdp || announce, native.CAP_NET_ADMIN],
    ["CAP_NET_RAW", xdp, native.CAP_NET_RAW],
    ["CAP_BPF", xdp, native.CAP_BPF, native.CAP_SYS_ADMIN],
    // libxdp opens programs by their ids.
    ["CAP_SYS_ADMIN", dispatcher, native.CAP_SYS_ADMIN],
    ["CAP_NET_BIND_SERVICE", lowPorts, native.CAP_NET_BIND_SERVICE],
  ];
  return wanted
    .filter(([, isWanted, ...anyOf]) =>
      isWanted && !anyOf.some((each) => native.hasCapability(has, each))
    )
    .map(([name]) => name);
}

/** What a running tegula serves. It counts as free, because the running tegula would hand it over. */
export interface Served {
  /** The path of its control socket. */
  readonly control: string | null;
  readonly interfaces: readonly string[];
  /** The interfaces with AF_XDP. */
  readonly xdp: readonly string[];
  readonly ports: readonly number[];
}

/**
 * Makes one check of a start, which throws a UserError to end the start. `tegula check` instead
 * reports the error and gets null, or reports the result in words of `says`.
 */
export type Phase = <T>(
  subject: string,
  look: () => T | Promise<T>,
  says: string | ((found: T) => string),
) => Promise<T | null>;

/** Makes all checks before a start in turn. Returns the addresses of the status tile. */
export async function checkStart(
  { config, apps }: { config: RunConfig; apps: Size["apps"] },
  { libraries, served, log, phase }: {
    libraries: MainLibraries;
    served: Served | null;
    log: Log;
    phase: Phase;
  },
): Promise<StatusAddresses> {
  const { interfaces, metrics = null } = config;
  const { host } = libraries;
  const control = await phase(
    "control socket",
    () => controlPath(config.control, { interfaces, host, ours: served?.control ?? null }),
    (path) => path ?? "none",
  );
  await phase("privileges", () => checkPrivileges(host, config, apps), "all present");
  // A served interface may be missing for a while.
  const unserved = interfaces.filter((name) => !served?.interfaces.includes(name));
  await phase("interfaces", () => checkInterfaces(host, unserved), interfaces.join(" "));
  const hasStatus = control !== null || metrics !== null;
  const size = { ...config, apps, hasStatus, serves: served !== null };
  await phase("limits", () => {
    const trouble = scarcity(host, size);
    if (trouble !== null) throw new UserError(`${trouble.says}: ${trouble.fix}`, Exit.system);
  }, "enough open files, locked memory and threads");
  const ports = () => checkPorts(config.provider, apps, { libraries, ours: served?.ports, log });
  await phase("ports", ports, "free, or held by the running tegula");
  const withoutXdp = interfaces.filter((name) => !served?.xdp.includes(name));
  await phase(
    "XDP",
    () => checkOccupants({ ...config, interfaces: withoutXdp }, libraries),
    config.provider === "socket" ? "not configured" : "no program other than a running tegula's",
  );
  return { control, metrics };
}

/** Throws UserError if a capability that the configuration needs is missing. */
function checkPrivileges(
  host: Host,
  { provider, dispatcher, announce }: RunConfig,
  apps: Size["apps"],
): void {
  const unprivileged = sysctl("ipv4/ip_unprivileged_port_start") ?? UNPRIVILEGED_PORT_START;
  const missing = missingCapabilities(host, {
    xdp: provider !== "socket",
    announce: announce !== undefined,
    dispatcher,
    lowPorts: portsServed(apps).some((port) => port < unprivileged),
  });
  if (missing.length === 0) return;
  throw new UserError(
    `missing ${missing.join(", ")}: run it as root or as a service that has them ` +
      (missing.includes("CAP_SYS_ADMIN")
        ? "(docs/operating/configure.md: Beside other XDP programs), or leave --dispatcher out"
        : `(scripts/install), or use ${
          announce === undefined ? "" : "no [announce], "
        }--provider ` +
          `socket and ports from ${unprivileged}`),
    Exit.privilege,
  );
}

/** A kernel parameter below net.; null if it does not exist. */
export function sysctl(name: string): number | null {
  return attempt(() => Number(Deno.readTextFileSync(`/proc/sys/net/${name}`)), null);
}

/** Throws UserError for a name that no interface has. */
export function checkInterfaces(host: Host, names: readonly string[]): void {
  for (const name of names) {
    if (host.ifindex(name) !== 0) continue;
    throw new UserError(
      `there is no interface '${name}'; 'ip link' lists the interfaces`,
      Exit.interface,
    );
  }
}

/** The input for the required descriptors, locked memory and threads. */
interface Size extends Pick<RunConfig, "interfaces" | "provider" | "netTiles"> {
  readonly apps: readonly Pick<AppPlan, "ports" | "inline" | "depth" | "beside">[];
  readonly hasStatus: boolean;
  /** Whether this process already serves as much. */
  readonly serves?: boolean;
}

/**
 * Returns the limit of this process that is too low, or null. Deno panics if it cannot get a
 * descriptor or thread for a worker.
 */
export function scarcity(
  host: Host,
  { interfaces, provider, netTiles: asked, apps, hasStatus, serves = false }: Size,
): Trouble | null {
  const every = provider === "socket" ? [] : interfaces.map((name) => queues(host, name));
  const cores = navigator.hardwareConcurrency;
  const { netTiles, shares, frames } = planTiles({
    ...{ queues: every, cores, apps },
    ...(asked !== undefined && { netTiles: asked }),
  });
  const inline = apps.filter((app) => app.inline).length;
  const besides = apps.filter(({ beside }) => beside !== undefined);
  const processes = apps.length - inline + besides.length;
  const inside = 1 + netTiles + (hasStatus ? 1 : 0);
  const tiles = inside + processes;
  const ports = portsServed(apps).length;
  const what = `${ports} ${ports === 1 ? "port" : "ports"} and ${tiles} tiles`;
  const open = [...Deno.readDirSync("/proc/self/fd")].length;
  // RLIMIT_NOFILE, which Deno has raised at its start.
  const most = native.softLimit("Max open files");
  const held = FILES.rest + FILES.net * netTiles + FILES.app * processes +
    FILES.pair * netTiles * apps.length + FILES.interface * every.length +
    FILES.queue * shares.length +
    besides.reduce((sum, { ports, beside }) => sum + beside!.tcp.length * countPorts(ports), 0);
  const times = serves ? 1 : 0;
  const files = open + (FILES.times - times) * held + (2 - times) * ports + FILES.spare;
  if (files > most) {
    return {
      says: `${most} open files are allowed, and ${what} take ${files}`,
      fix: `ulimit -n ${files}, or LimitNOFILE=${files} in the unit`,
    };
  }
  // The kernel locks the frames of each UMEM (xdp_umem_reg). Since 5.11 it does not count BPF maps.
  const locked = every.length === 0 ? 0 : frames.reduce((a, b) => a + b, 0) * FRAME_BYTES;
  const lockable = native.hasCapability(host.capabilities(), native.CAP_IPC_LOCK)
    ? Infinity
    : native.softLimit("Max locked memory");
  if (locked > lockable) {
    return {
      says: `${lockable >> 10} KiB of memory may be locked, and the frames of ${netTiles} net ` +
        `${netTiles === 1 ? "tile" : "tiles"} take ${locked >> 10}`,
      fix: `ulimit -l ${locked >> 10}, or LimitMEMLOCK=infinity in the unit`,
    };
  }
  const each = serves ? THREADS.beside : THREADS.first;
  const threads = Math.min(
    each.tile * inside + each.app * processes + each.spare,
    MOST_THREADS,
  );
  const got = host.threads(threads);
  if (got >= threads) return null;
  return {
    says: `${what} need ${threads} more threads, and ${got} are allowed`,
    fix: "a higher 'ulimit -u', or TasksMax= in the unit",
  };
}

/** The error for an app that does not start. For an option it names the file. */
export function appTrouble(
  { app: instance, message }: AppError,
  { apps, file }: { apps: readonly Pick<AppPlan, "app" | "name">[]; file: string | null },
): UserError {
  const app = apps.find(({ name }) => name === instance)?.app ?? instance;
  const [, option] = /^options\.([^:]*): /.exec(message) ?? [];
  const key = ["apps", app, "options", ...option?.split(".") ?? []];
  const sentence = option === undefined
    ? `the app ${app}: ${message}; see docs/apps.md`
    : `${file === null ? key.join(".") : placeOf(file, key)}${message.slice(8 + option.length)}`;
  return new UserError(sentence);
}

/** The number of receive queues of `name`; 1 if the driver does not report it. */
export function queues(host: Host, name: string): number {
  return Math.max(1, host.channels(name).rx);
}

/** The number of transmit queues of `name`; 1 if the driver does not report it. */
export function transmitQueues(host: Host, name: string): number {
  return Math.max(1, host.channels(name).tx);
}

/** Whether frames from `name` may carry only the pseudo-header's sum for a UDP checksum. */
export function partialChecksums(host: Host, name: string): boolean {
  return PARTIAL_CHECKSUM_DRIVERS.includes(host.driver(name));
}

/**
 * Logs which programs hold ports that are to be served, except `ours`. Only AF_XDP serves such a port.
 * Throws UserError if AF_XDP is not used.
 */
function checkPorts(
  provider: RunConfig["provider"],
  apps: Size["apps"],
  { libraries: { udpSetup }, ours = [], log }: {
    libraries: Pick<MainLibraries, "udpSetup">;
    ours?: readonly number[];
    log: Log;
  },
): void {
  const wanted = new Set(portsServed(apps)).difference(new Set(ours));
  const held = [...wanted].filter((port) => {
    const fd = udpSetup.open(port);
    if (fd >= 0) udpSetup.close(fd);
    else if (fd !== -EADDRINUSE) {
      throw new UserError(`cannot bind UDP port ${port}: ${describeErrno(fd)}`, Exit.port);
    }
    return fd < 0;
  });
  if (held.length === 0) return;
  const holders = portHolders();
  const byHolder = Map.groupBy(
    held.toSorted((a, b) => a - b),
    (port) => holders.get(port) ?? "another program",
  );
  for (const [holder, ports] of byHolder) {
    const says = `${portsText(ports)} held by ${holder}`;
    if (provider === "socket") {
      throw new UserError(`UDP ${says}; stop it or take another port`, Exit.port);
    }
    log(
      `${says}: only AF_XDP serves ${ports.length === 1 ? "it" : "them"}, what else the ` +
        "kernel receives goes to that program",
      Level.warning,
    );
  }
}

/** The holders of UDP ports, from `ss` of iproute2. */
function portHolders(): Map<number, string> {
  return attempt(() => {
    const { stdout } = new Deno.Command("ss", { args: ["-Huanp"] }).outputSync();
    const lines = new TextDecoder().decode(stdout)
      .matchAll(/^\S+\s+\d+\s+\d+\s+\S*:(\d+)\s.*?\((\(".*)\)/gm);
    return new Map([...lines].map(([, port, users]) => {
      const holders = [...users.matchAll(/\("(.*?)",pid=(\d+)/g)];
      // The processes of a tegula share its sockets. Only its master's command line shows what it is.
      const [, name, pid] = holders.find(([, , pid]) => asTegula(pid) !== null) ?? holders[0];
      return [Number(port), describeHolder(name, pid)];
    }));
  }, new Map());
}

function describeHolder(name: string, pid: string): string {
  return asTegula(pid) ?? `${name} (pid ${pid})`;
}

/**
 * The bpf_link by which an XDP program is attached, and the process that holds it, from /proc/PID/fdinfo
 * (proc(5)). Only bpftool can find a link that is pinned, or held by a process that is not visible here. Null
 * if no link is found.
 */
function linkOf(program: number): { readonly id: string; readonly holder: string | null } | null {
  for (const { name: pid } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      for (const { name: fd } of Deno.readDirSync(`/proc/${pid}/fd`)) {
        if (!/bpf.link/.test(Deno.readLinkSync(`/proc/${pid}/fd/${fd}`))) continue;
        const info = Deno.readTextFileSync(`/proc/${pid}/fdinfo/${fd}`);
        if (Number(/^prog_id:\s*(\d+)/m.exec(info)?.[1]) !== program) continue;
        const name = Deno.readTextFileSync(`/proc/${pid}/comm`).trimEnd();
        const [, id] = /^link_id:\s*(\d+)/m.exec(info)!;
        return { id, holder: describeHolder(name, pid) };
      }
    } catch {
      // The process has ended, or belongs to another user.
    }
  }
  return attempt(() => {
    const { stdout } = new Deno.Command("bpftool", { args: ["--json", "link"] }).outputSync();
    const links = JSON.parse(new TextDecoder().decode(stdout)) as { id: number; prog_id: number }[];
    const link = links.find(({ prog_id }) => prog_id === program);
    return link === undefined ? null : { id: `${link.id}`, holder: null };
  }, null);
}

/** The holder of an XDP program on `name`, if visible, and the command that detaches it, with a note or "". */
export function whoOccupies(name: string, program: number) {
  const link = linkOf(program);
  if (link === null) {
    const command = `ip link set ${name} xdp off; ip link set ${name} xdpgeneric off`;
    const note = "ip cannot detach a bpf_link: 'bpftool link' lists them; or stop its holder";
    return { holder: null, command, note };
  }
  const { id, holder } = link;
  const note = holder === null ? "" : "or stop its holder";
  return { holder, command: `bpftool link detach id ${id}`, note };
}

/** Throws UserError if another XDP program is attached to one of the interfaces. */
function checkOccupants(
  { interfaces, provider, dispatcher }: Pick<RunConfig, "interfaces" | "provider" | "dispatcher">,
  { host, xskSetup }: Pick<MainLibraries, "host" | "xskSetup">,
): void {
  for (const name of provider === "socket" ? [] : interfaces) {
    if (unfit(host, name) !== null) continue;
    const program = xskSetup.attached(host.ifindex(name));
    if (program === null || (dispatcher && program.name === DISPATCHER)) continue;
    throw occupied(new OccupiedError(name, program));
  }
}

/** Describes another tegula by its command line, since its program is called deno. Null for others. */
function asTegula(pid: string): string | null {
  const line = attempt(() => Deno.readTextFileSync(`/proc/${pid}/cmdline`), "");
  const args = line.split("\0").slice(0, -1);
  const main = args.findIndex((arg, i) => arg.endsWith("/main.ts") && args[i + 1] === "run");
  if (main < 0) return null;
  return `another tegula (pid ${pid}: tegula ${args.slice(main + 1).join(" ")})`;
}

/** Throws UserError if only the kernel's sockets serve, and another program holds a port. */
export function requireSockets(ports: readonly number[], sockets: readonly number[]): void {
  const taken = new Set(sockets);
  const lacking = ports.filter((port) => !taken.has(port)).toSorted((a, b) => a - b);
  if (lacking.length === 0) return;
  throw new UserError(
    `UDP ${portsText(lacking)} held by another program, and AF_XDP does not serve ` +
      `${lacking.length === 1 ? "it" : "them"}; stop it or use another port`,
    Exit.port,
  );
}

/** Why AF_XDP is not tried on `name`; null if it is. */
export function unfit(host: Host, name: string): string | null {
  if (!host.hasEthernetHeaders(name)) return "its packets have no Ethernet header";
  if (NO_SENDING.includes(host.driver(name))) return "the tunnel drops what AF_XDP sends";
  return null;
}

/**
 * Handles an error of AF_XDP. Logs it and returns if `provider` allows the kernel's sockets
 * instead, else throws UserError. Errors that the operator can fix (another program, too little
 * locked memory) are always thrown.
 */
export function fallBack(
  error: unknown,
  { interfaces, provider }: { interfaces: readonly string[]; provider: RunConfig["provider"] },
): void {
  if (!(error instanceof Error)) throw error;
  if (error instanceof OccupiedError) throw occupied(error);
  const names = interfaces.join(", ");
  const errno = error instanceof SystemError ? error.errno : 0;
  if (errno === ENOBUFS) {
    throw new UserError(
      `the limit on locked memory is too low for ${names} (${error.message}); raise it with ` +
        "'ulimit -l unlimited' or LimitMEMLOCK=infinity in the unit",
      Exit.system,
    );
  }
  if (errno === EBUSY) {
    throw new UserError(
      `another program has AF_XDP sockets on ${names}, perhaps another tegula; stop it or ` +
        "use --provider socket",
      Exit.xdp,
    );
  }
  if (provider === "xdp") {
    throw new UserError(
      `AF_XDP does not work on ${names}: ${error.message}; use --provider socket`,
      errno !== 0 ? Exit.system : Exit.xdp,
    );
  }
  for (const name of interfaces) log(`${name}: kernel sockets (${error.message})`, Level.warning);
}

function occupied({ interface: name, program }: OccupiedError): UserError {
  const { holder, command, note } = whoOccupies(name, program.id);
  const also = holder !== null
    ? `, held by ${holder}`
    : program.name === OUR_PROGRAM
    ? ", perhaps by another tegula"
    : "";
  const instead = program.name === DISPATCHER ? ", join it with --dispatcher," : "";
  return new UserError(
    `cannot attach XDP to ${name}: another program is attached (${program.name}, id ${program.id})` +
      `${also}; ${holder === null ? "" : "stop that, "}detach it ` +
      `('${command}'${
        holder === null && note ? `; ${note}` : ""
      })${instead} or use --provider socket`,
    Exit.xdp,
  );
}

/**
 * Turns on busy polling for all open sockets: system calls of the net tiles drive the drivers of
 * their AF_XDP sockets, while interrupts stay off (Documentation/networking/napi.rst of the
 * kernel). Throws UserError if the kernel refuses, because it was configured.
 */
export function pollBusily(attachments: readonly Attachment[], xskSetup: XskSetup): void {
  for (const { name, sockets } of attachments) {
    for (const { fd, queue } of sockets) {
      const refused = xskSetup.pollBusily(fd);
      if (refused === 0) continue;
      throw new UserError(
        `cannot poll queue ${queue} of ${name} busily: ${describeErrno(refused)}; this needs ` +
          "Linux 5.11 and CAP_NET_ADMIN; else do not configure busy polling",
        Exit.system,
      );
    }
    if (sockets.length === 0) continue;
    log(
      `${name}: busy polling; interrupts stay off for the time set by napi_defer_hard_irqs and ` +
        `gro_flush_timeout in /sys/class/net/${name} (docs/operating/configure.md)`,
    );
  }
}

// The listening sockets of the status tile. The master creates them, and keeps them when status
// tiles are replaced.

/** Who may connect to the control socket: the user that Tegula runs as, and the socket's group. */
const CONTROL_MODE = 0o660;
const NO_CONTROL = "none";

/** The addresses of the status tile's sockets; null for none. */
export interface StatusAddresses {
  readonly control: string | null;
  /** `address:port` of the metrics, an IPv6 address in brackets. */
  readonly metrics: string | null;
}

/** Creates a listening control socket, and replaces a dead one at `path`. Throws SystemError. */
export function listenControl(host: Pick<Host, "listenUnix">, path: string): number {
  return host.listenUnix(path, CONTROL_MODE);
}

/** Creates a socket that listens at `endpoint`: `127.0.0.1:9464`, `[::1]:9464`, `localhost:9464`. Throws SystemError. */
export function listenAt(host: Pick<Host, "listenTcp">, endpoint: string): number {
  const [, address, port] = /^\[?(.*?)\]?:(\d+)$/.exec(endpoint)!;
  return host.listenTcp(address === "localhost" ? "127.0.0.1" : address, Number(port));
}

/** The reason of a SystemError, without the address. Throws any other error. */
export function reasonOf(error: unknown): string {
  if (error instanceof SystemError) return describeErrno(error.errno);
  throw error;
}

/**
 * The path of the control socket, or null for none: `asked`, else `/run/tegula/INTERFACE.sock` with
 * the first interface, if possible. Throws UserError if `asked` cannot be used.
 */
async function controlPath(
  asked: string | undefined,
  { interfaces, host, ours = null }: {
    interfaces: readonly string[];
    host: Host;
    ours?: string | null;
  },
): Promise<string | null> {
  if (asked === NO_CONTROL) return null;
  if (asked !== undefined) {
    const path = resolve(asked);
    if (path === ours) return path;
    const why = await isServed(path) ? "another tegula listens there" : whyNotAt(host, path);
    if (why === null) return path;
    throw new UserError(
      `cannot listen at ${path}: ${why}; give --control another path, or ${NO_CONTROL}`,
    );
  }
  const path = `${CONTROL_FOLDER}/${interfaces[0]}.sock`;
  if (path === ours) return path;
  return isWritable(CONTROL_FOLDER) && !await isServed(path) ? path : null;
}

/** Why this process cannot listen at `path`; null if it can. */
function whyNotAt(host: Host, path: string): string | null {
  try {
    host.close(listenControl(host, path));
    rmSync(path, { force: true });
    return null;
  } catch (error) {
    return reasonOf(error);
  }
}

function isWritable(folder: string): boolean {
  return attempt(() => {
    Deno.mkdirSync(folder, { recursive: true, mode: 0o755 });
    accessSync(folder, constants.W_OK);
    return true;
  }, false);
}
