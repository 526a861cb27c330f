/**
 * What `tegula check` looks at. Each look gives at least one finding, so that what is well is said too.
 */

import type { Host } from "../ffi/host.ts";
import type { XskSetup } from "../ffi/xsk.ts";
import type { InterfaceReader } from "../netbase/interfaces.ts";
import type { NetbaseReader } from "../netbase/netbase.ts";
import type { Route } from "../netbase/route.ts";
import type { RunConfig } from "./config.ts";
import { DISPATCHER } from "../master/attachment.ts";
import { planTiles } from "../tiles/runtime/plan.ts";
import { excess, lacking } from "../tiles/runtime/interfaces_ready.ts";
import {
  missingCapabilities,
  OUR_PROGRAM,
  queues,
  sysctl,
  transmitQueues,
  whoOccupies,
} from "../master/preflight.ts";

/** One thing, how it is, and the command that mends it where it is not well. */
export interface Finding {
  /** "warn": Tegula runs, but not as well or not as the kernel would; "fail": it does not start so. */
  readonly verdict: "ok" | "warn" | "fail";
  readonly subject: string;
  readonly says: string;
  readonly fix?: string;
  /** What a start that comes to this ends with. */
  readonly status?: number;
}

/**
 * The command that does again what check was asked about, by `tegula run` or check itself, with `other`
 * options in place of what was given of those.
 */
export type Again = (
  command: "run" | "check",
  other: Readonly<Record<string, string | boolean | readonly string[] | undefined>>,
) => string;

/** What is looked with, and what check was asked about. */
export interface Facts extends Pick<RunConfig, "dispatcher" | "netTiles"> {
  readonly host: Host;
  readonly xsk: Pick<XskSetup, "attached">;
  readonly again: Again;
}

/** Entries that the kernel's neighbour table should take at least: its own default. */
const LEAST_NEIGHBORS = 1024;
/** Bytes that a socket may buffer without privilege: some thousand events of routes. */
const LEAST_RMEM = 4 << 20;
/** Of fib_multipath_hash_policy: addresses and ports. */
const BY_PORTS = 1;
/** Of rp_filter: drop what comes in by another interface than the answer goes out. */
const STRICT = 1;
/** What keeps to the kernel's sockets, and contradicts a dispatcher. */
export const SOCKETS = { provider: "socket", dispatcher: undefined };
/** Drivers that have native XDP (`ndo_bpf` in Linux 6.12); all others take it in generic mode. */
const XDP_DRIVERS: ReadonlySet<string> = new Set(
  ("veth virtio_net tun i40e ice ixgbe ixgbevf igb igc mlx4_en mlx5_core bnxt_en ena nfp sfc qede " +
    "gve hv_netvsc mana atlantic mvneta mvpp2 stmmaceth st_gmac fec cpsw am65-cpsw-nuss tsnep enetc " +
    "fsl_dpaa fsl_dpaa2_eth lan966x-switch nicvf funeth vmxnet3 xen_netfront netdevsim")
    .split(" "),
);

/** Privileges and limits of the host. */
export function checkHost({ host, dispatcher }: Facts, { neighbors }: NetbaseReader): Finding[] {
  const missing = missingCapabilities(host, { xdp: true });
  const also = missingCapabilities(host, { dispatcher });
  return [
    missing.length === 0 ? ok("privileges", "all that AF_XDP takes") : fail(
      "privileges",
      `missing ${missing.join(", ")}: no AF_XDP`,
      "run it as root, or as the service of scripts/install",
    ),
    ...also.length === 0 ? [] : [fail(
      "privileges",
      `missing ${also.join(", ")}: no dispatcher`,
      "run it as root, or as a service that has it (docs/operating/configure.md: Beside other XDP programs)",
    )],
    neighborTable(neighbors),
    bufferLimit(!missing.includes("CAP_NET_ADMIN")),
  ];
}

function neighborTable(neighbors: NetbaseReader["neighbors"]): Finding {
  const subject = "neighbour table";
  const most = sysctl("ipv4/neigh/default/gc_thresh3");
  let count = 0;
  neighbors.forEach(() => count++);
  const wanted = Math.max(LEAST_NEIGHBORS, 2 ** Math.ceil(Math.log2(count * 2 + 1)));
  // A namespace other than the first shares the table and cannot see how large it is.
  if (most === null) return ok(subject, `${count} entries; its size is the host's`);
  if (most >= wanted) return ok(subject, `${count} of ${most} entries`);
  return warn(
    subject,
    `gc_thresh3 is ${most} with ${count} entries: new clients may not be resolved`,
    `sysctl -w net.ipv4.neigh.default.gc_thresh3=${wanted}`,
  );
}

function bufferLimit(mayForce: boolean): Finding {
  const subject = "receive buffers";
  const most = sysctl("core/rmem_max");
  if (mayForce || most === null) return ok(subject, "as large as needed");
  if (most >= LEAST_RMEM) return ok(subject, `up to ${most} bytes`);
  return warn(
    subject,
    `rmem_max is ${most}: many changes at once are missed and read anew`,
    `sysctl -w net.core.rmem_max=${LEAST_RMEM}`,
  );
}

/** What the mirror said of rules and routes that Tegula does not follow. */
export function checkRoutes(notices: readonly string[]): Finding[] {
  const mark = "not supported: ";
  const found = notices.filter((line) => line.startsWith(mark)).map((line) => {
    const says = line.slice(mark.length);
    const rule = /^policy rule (\d+)/.exec(says);
    return rule === null
      ? warn("routes", says, "ip route show table all   # replace them by routes of table main")
      : warn("policy rules", says, `ip rule delete priority ${rule[1]}`);
  });
  return found.length > 0 ? found : [ok("routes", "all can be followed, and no policy rules")];
}

/**
 * Settings by which the kernel spreads flows over several hops otherwise than Tegula does: no message of
 * netlink tells of them.
 */
export function checkMultipath(routes: Iterable<Route>): Finding[] {
  const kinds = { hops: false, objects: false };
  for (const { hops, nextHopId } of routes) {
    if (hops !== null) kinds[nextHopId === 0 ? "hops" : "objects"] = true;
  }
  const findings: Finding[] = [];
  const policy = sysctl("ipv4/fib_multipath_hash_policy");
  if ((kinds.hops || kinds.objects) && policy !== BY_PORTS) {
    findings.push(warn(
      "multipath",
      `fib_multipath_hash_policy is ${policy}: Tegula spreads flows by their ports too`,
      `sysctl -w net.ipv4.fib_multipath_hash_policy=${BY_PORTS}`,
    ));
  }
  if (kinds.hops && sysctl("ipv4/fib_multipath_use_neigh")) {
    findings.push(warn(
      "multipath",
      "fib_multipath_use_neigh is set: Tegula leaves a dead gateway only in next-hop groups",
      "sysctl -w net.ipv4.fib_multipath_use_neigh=0   # or use 'ip nexthop' groups",
    ));
  }
  return findings;
}

/** One interface. */
export function checkInterface(
  facts: Facts,
  interfaces: InterfaceReader,
  record: number,
): Finding[] {
  const { host, xsk, again } = facts;
  const name = interfaces.name(record);
  const driver = host.driver(name);
  const findings: Finding[] = [];
  const lacks = lacking(interfaces, record);
  if (lacks !== null) findings.push(warn(name, `${lacks.says}: the start waits`, lacks.fix));
  const long = excess(interfaces, record);
  if (long !== null) findings.push(fail(name, long.says, long.fix));
  findings.push(...strippedTags(host, interfaces, record));
  const program = xsk.attached(interfaces.ifindex(record));
  if (program !== null) findings.push(attached(facts, name, program));
  const filter = Math.max(
    ...["all", name].map((each) => sysctl(`ipv4/conf/${each}/rp_filter`) ?? 0),
  );
  if (filter === STRICT) {
    findings.push(warn(
      name,
      "rp_filter is strict: the kernel drops what its sockets get from hosts routed elsewhere",
      `sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.${name}.rp_filter=2`,
    ));
  }
  if (!XDP_DRIVERS.has(driver)) {
    const which = driver || "(it does not say which)";
    findings.push(warn(
      name,
      `its driver ${which} is not known for native XDP: generic mode`,
      `${again("run", SOCKETS)}   # compare`,
    ));
  }
  return findings.length > 0
    ? findings
    : [ok(name, `driver ${driver}, MTU ${interfaces.mtu(record)}`)];
}

/** VLAN devices on an interface that takes tags out of frames before XDP sees them. */
function strippedTags(host: Host, interfaces: InterfaceReader, record: number): Finding[] {
  const name = interfaces.name(record);
  const hasVlans = interfaces.records().some((each) =>
    interfaces.vlan(each) !== 0 && interfaces.link(each) === interfaces.ifindex(record)
  );
  if (!hasVlans || !host.stripsTags(name)) return [];
  return [warn(
    name,
    "has VLAN devices, and takes the tags out of frames before XDP sees them: what comes to our " +
      "addresses in a VLAN that is not ours is taken, too",
    `ethtool -K ${name} rxvlan off   # of a veth also: ethtool -K PEER txvlan off`,
  )];
}

/** An XDP program that is there already: one of another kind keeps ours out. */
function attached(
  { dispatcher, again }: Facts,
  name: string,
  program: { readonly id: number; readonly name: string },
): Finding {
  const which = `XDP program ${program.name || "(its name may not be read)"}, id ${program.id}`;
  if (program.name === OUR_PROGRAM) return ok(name, `${which}: a tegula that runs`);
  const joins = program.name === DISPATCHER;
  if (joins && dispatcher) return ok(name, `${which}: ours is to join it`);
  const { holder, fix } = whoOccupies(name, program.id);
  return fail(
    name,
    `${which}, is attached already${holder === null ? "" : `, held by ${holder}`}`,
    joins
      ? again("run", { dispatcher: true })
      : holder === null
      ? `${fix}   # a bpf link: bpftool link`
      : `${fix}   # or stop who holds it`,
  );
}

/** Interfaces, of `names` where there are any, that a tegula which runs was to have by AF_XDP and has not. */
export function checkLost(
  { interfaces, xdp }: { interfaces: readonly string[]; xdp: readonly string[] },
  names: readonly string[],
): Finding[] {
  const lost = interfaces.filter((name) => !xdp.includes(name));
  return lost.filter((name) => names.length === 0 || names.includes(name)).map((name) =>
    warn(
      name,
      "the tegula that runs has no AF_XDP here, as where an interface was deleted and made again: the " +
        "kernel's sockets serve it",
      "systemctl restart tegula   # or however it was started",
    )
  );
}

/** Whether queues and net tiles go together. */
export function checkQueues({ host, netTiles: asked, again }: Facts, names: string[]): Finding[] {
  const { netTiles } = planTiles({
    queues: names.map((name) => queues(host, name)),
    cores: navigator.hardwareConcurrency,
    apps: 0,
    netTiles: asked,
  });
  const counts = names.map((name) => Math.min(queues(host, name), transmitQueues(host, name)));
  const fewer = again("run", { "net-tiles": `${Math.min(...counts)}` });
  return names.map((name, i) => {
    const count = counts[i];
    if (count >= netTiles) return ok(name, `queues: ${count}, net tiles: ${netTiles}`);
    const have = count === 1 ? "has a queue" : "have queues";
    return warn(
      name,
      `${count} of ${netTiles} net tiles ${have} here: the others send by it through the ` +
        "kernel's sockets",
      `${fewer}   # or more queues: ethtool -L ${name} combined ${netTiles}`,
    );
  });
}

/** What is well. */
export function ok(subject: string, says: string): Finding {
  return { verdict: "ok", subject, says };
}

/** What hurts, and `fix`, which mends it. */
export function warn(subject: string, says: string, fix: string): Finding {
  return { verdict: "warn", subject, says, fix };
}

/** The same of what keeps it from starting. */
export function fail(subject: string, says: string, fix: string): Finding {
  return { verdict: "fail", subject, says, fix };
}
