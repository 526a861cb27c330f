/**
 * What `tegula run` looks at before and while it starts: privileges, interfaces, ports, MTUs. Each
 * check either passes, waits and says so, or ends with one sentence on what to do.
 *
 * @module
 */

import { describeErrno, EADDRINUSE } from "../ffi/errno.ts";
import { FILTER_BYTES } from "../ffi/filter.ts";
import * as native from "../ffi/host.ts";
import type { UdpSetup } from "../ffi/udp.ts";
import type { NetbaseReader } from "../netbase/netbase.ts";
import type { MainLibraries } from "../tiles/runtime/appliance.ts";
import { Attachment, OccupiedError } from "../tiles/runtime/attachment.ts";
import { LARGEST_MTU } from "../tiles/runtime/plan.ts";
import type { RunConfig } from "./config.ts";
import { Exit, UserError } from "./errors.ts";
import { portHolder } from "./port_holder.ts";

type Host = native.Host;
type Log = (line: string) => void;

/** Drivers whose frames may carry a partial UDP checksum (KERNEL.md row 35). */
const PARTIAL_CHECKSUM_DRIVERS = ["veth", "virtio_net", ""];
/** How often a start that waits looks again. */
const LOOK_AGAIN_MILLIS = 20;
/** Ports below need CAP_NET_BIND_SERVICE (ip(7), ip_unprivileged_port_start). */
const FIRST_UNPRIVILEGED_PORT = 1024;

/** Whether this process may ask the kernel for neighbours by NTF_USE. */
export function hasNetAdmin(host: Host): boolean {
  return native.hasCapability(host.capabilities(), native.CAP_NET_ADMIN);
}

/** Refuses to start without the capabilities that `config` needs, naming them. */
export function checkPrivileges(host: Host, config: RunConfig): void {
  const has = host.capabilities();
  const missing: string[] = [];
  const need = (name: string, ...anyOf: number[]) => {
    if (!anyOf.some((capability) => native.hasCapability(has, capability))) missing.push(name);
  };
  if (config.provider !== "socket") {
    need("CAP_NET_ADMIN", native.CAP_NET_ADMIN);
    need("CAP_NET_RAW", native.CAP_NET_RAW);
    need("CAP_BPF", native.CAP_BPF, native.CAP_SYS_ADMIN);
  }
  if (config.listen.some(({ port }) => port < FIRST_UNPRIVILEGED_PORT)) {
    need("CAP_NET_BIND_SERVICE", native.CAP_NET_BIND_SERVICE);
  }
  if (missing.length === 0) return;
  throw new UserError(
    `missing ${missing.join(", ")}: run it as root or as a service that has them ` +
      "(scripts/install), or use --provider socket and ports from 1024",
    Exit.privilege,
  );
}

/** Refuses names that no interface has. */
export function checkInterfaces(host: Host, names: readonly string[]): void {
  for (const name of names) {
    if (host.ifindex(name) !== 0) continue;
    throw new UserError(
      `there is no interface '${name}'; 'ip link' lists those that there are`,
      Exit.interface,
    );
  }
}

/** How many receive queues `name` has; one where the driver does not say. */
export function queues(host: Host, name: string): number {
  return Math.max(1, host.channels(name));
}

/** Whether frames from `name` may carry only the pseudo-header's sum for a UDP checksum. */
export function partialChecksums(host: Host, name: string): boolean {
  return PARTIAL_CHECKSUM_DRIVERS.includes(host.driver(name));
}

/**
 * Binds a kernel socket to each port. One that another program has is named; then AF_XDP alone
 * serves it, and without AF_XDP that is the end.
 */
export function takePorts(
  config: RunConfig,
  { udpSetup, log }: { udpSetup: UdpSetup; log: Log },
): { port: number; fd: number }[] {
  return config.listen.flatMap(({ port }) => {
    const fd = udpSetup.open(port);
    if (fd >= 0) return [{ port, fd }];
    if (fd !== -EADDRINUSE) {
      throw new UserError(`cannot bind UDP port ${port}: ${describeErrno(fd)}`, Exit.port);
    }
    const holder = portHolder(port);
    const who = holder === null
      ? "another program"
      : `${holder.name || "a program"} (pid ${holder.pid})`;
    if (config.provider === "socket") {
      throw new UserError(
        `UDP port ${port} is held by ${who}; stop it or take another port`,
        Exit.port,
      );
    }
    log(
      `port ${port} is held by ${who}: only AF_XDP serves it here, what the kernel receives is theirs`,
    );
    return [];
  });
}

/** Loads the XDP program once for each interface. */
export function loadPrograms(
  names: readonly string[],
  { host, xskSetup, regions }: MainLibraries,
): Attachment[] {
  host.raiseMemlock();
  return names.map((name) => {
    try {
      return new Attachment(xskSetup, {
        name,
        ifindex: host.ifindex(name),
        queues: queues(host, name),
        map: (fd) => regions.mapShared(fd, FILTER_BYTES),
      });
    } catch (error) {
      throw explainXdp(name, error);
    }
  });
}

/** Turns what failed on the way to AF_XDP into a sentence with its next step. */
export function explainXdp(name: string, error: unknown): unknown {
  if (error instanceof OccupiedError) {
    const { id, name: program } = error.program;
    const also = program === "tegula_filter" ? "; is tegula running on it already?" : "";
    return new UserError(
      `cannot attach XDP to ${name}: another program is attached (${program}, id ${id})${also} ` +
        `Detach it ('ip link set ${name} xdp off' for one that ip attached) or use --provider socket`,
      Exit.xdp,
    );
  }
  return error;
}

/** Waits until each interface exists in the mirror, is up, and has an IPv4 address; says so once. */
export async function waitForInterfaces(
  netbase: NetbaseReader,
  { names, log }: { names: readonly string[]; log: Log },
): Promise<void> {
  const said = new Set<string>();
  for (const name of names) {
    for (;;) {
      const lacking = whatIsLacking(netbase, name);
      if (lacking === null) break;
      if (!said.has(lacking)) log(lacking);
      said.add(lacking);
      await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MILLIS));
    }
  }
}

function whatIsLacking(netbase: NetbaseReader, name: string): string | null {
  netbase.refresh();
  const found = netbase.interfaces.list().find((each) => each.name === name);
  if (found === undefined) return `${name}: waiting for it to be there`;
  if (!found.up) return `${name}: waiting, it is down ('ip link set ${name} up')`;
  if (found.addresses.length === 0) {
    return `${name}: waiting, it has no IPv4 address ('ip address add ADDRESS/LENGTH dev ${name}')`;
  }
  return null;
}

/** Says which interfaces' largest frames do not fit a UMEM frame. */
export function checkMtus(
  netbase: NetbaseReader,
  { names, strict }: { names: readonly string[]; strict: boolean },
): void {
  if (!strict) return;
  for (const { name, mtu } of netbase.interfaces.list()) {
    if (!names.includes(name) || mtu <= LARGEST_MTU) continue;
    throw new UserError(
      `the MTU of ${name} is ${mtu}, its frames do not fit; AF_XDP takes up to ${LARGEST_MTU} here: ` +
        `'ip link set ${name} mtu ${LARGEST_MTU}' or use --provider socket`,
      Exit.interface,
    );
  }
}
