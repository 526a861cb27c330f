/**
 * What `tegula check` looks at. Each look gives at least one finding, so that what is well is said too.
 */

import type { Host } from "../ffi/host.ts";
import type { XskSetup } from "../ffi/xsk.ts";
import { IFF_UP, type InterfaceReader } from "../netbase/interfaces.ts";
import type { NetbaseReader } from "../netbase/netbase.ts";
import { LARGEST_MTU, planTiles } from "../tiles/runtime/plan.ts";
import { missingCapabilities, OUR_PROGRAM, queues } from "./preflight.ts";

/** One thing, how it is, and the command that mends it where it is not well. */
export interface Finding {
  /** "warn": Tegula runs, but not as well or not as the kernel would; "fail": it does not start so. */
  readonly verdict: "ok" | "warn" | "fail";
  readonly subject: string;
  readonly says: string;
  readonly fix?: string;
}

const SYSCTL = "/proc/sys/net/";
/** Entries that the kernel's neighbour table should take at least: its own default. */
const LEAST_NEIGHBORS = 1024;
/** Bytes that a socket may buffer without privilege: some thousand events of routes. */
const LEAST_RMEM = 4 << 20;
/** Of rp_filter: drop what comes in by another interface than the answer goes out. */
const STRICT = 1;
/** Drivers that have native XDP (`ndo_bpf` in Linux 6.12); all others take it in generic mode. */
const XDP_DRIVERS: ReadonlySet<string> = new Set(
  ("veth virtio_net tun i40e ice ixgbe ixgbevf igb igc mlx4_en mlx5_core bnxt_en ena nfp sfc qede " +
    "gve hv_netvsc mana atlantic mvneta mvpp2 stmmaceth st_gmac fec cpsw am65-cpsw-nuss tsnep enetc " +
    "fsl_dpaa fsl_dpaa2_eth lan966x-switch nicvf funeth vmxnet3 xen_netfront netdevsim bonding")
    .split(" "),
);

/** Privileges and limits of the host. */
export function checkHost(host: Host, { neighbors }: NetbaseReader): Finding[] {
  const missing = missingCapabilities(host, { xdp: true });
  return [
    missing.length === 0 ? ok("privileges", "all that AF_XDP takes") : {
      verdict: "fail",
      subject: "privileges",
      says: `missing ${missing.join(", ")}: no AF_XDP`,
      fix: "run it as root, or as the service of scripts/install",
    },
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
  return {
    verdict: "warn",
    subject,
    says: `gc_thresh3 is ${most} with ${count} entries: new clients may not be resolved`,
    fix: `sysctl -w net.ipv4.neigh.default.gc_thresh3=${wanted}`,
  };
}

function bufferLimit(mayForce: boolean): Finding {
  const subject = "receive buffers";
  const most = sysctl("core/rmem_max");
  if (mayForce || most === null) return ok(subject, "as large as needed");
  if (most >= LEAST_RMEM) return ok(subject, `up to ${most} bytes`);
  return {
    verdict: "warn",
    subject,
    says: `rmem_max is ${most}: many changes at once are missed and read anew`,
    fix: `sysctl -w net.core.rmem_max=${LEAST_RMEM}`,
  };
}

/** What the mirror said of rules and routes that Tegula does not follow. */
export function checkRoutes(notices: readonly string[]): Finding[] {
  const mark = "not supported: ";
  const found = notices.filter((line) => line.startsWith(mark)).map((line): Finding => {
    const says = line.slice(mark.length);
    const rule = /^policy rule (\d+)/.exec(says);
    return {
      verdict: "warn",
      subject: rule === null ? "routes" : "policy rules",
      says,
      fix: rule === null
        ? "ip route show table all   # replace them by routes of table main"
        : `ip rule delete priority ${rule[1]}`,
    };
  });
  return found.length > 0 ? found : [ok("routes", "all can be followed, and no policy rules")];
}

/** One interface. */
export function checkInterface(
  { host, xsk }: { host: Host; xsk: Pick<XskSetup, "attached"> },
  interfaces: InterfaceReader,
  record: number,
): Finding[] {
  const name = interfaces.name(record);
  const mtu = interfaces.mtu(record);
  const driver = host.driver(name);
  const findings: Finding[] = [];
  if ((interfaces.flags(record) & IFF_UP) === 0) {
    const fix = `ip link set ${name} up`;
    findings.push({ verdict: "warn", subject: name, says: "is down: the start waits for it", fix });
  }
  if (interfaces.addressCount(record) === 0) {
    findings.push({
      verdict: "warn",
      subject: name,
      says: "has no IPv4 address: the start waits for one",
      fix: `ip address add ADDRESS/LENGTH dev ${name}`,
    });
  }
  if (mtu > LARGEST_MTU && !interfaces.isLoopback(record)) {
    findings.push({
      verdict: "fail",
      subject: name,
      says: `its MTU is ${mtu}, AF_XDP takes up to ${LARGEST_MTU} here`,
      fix: `ip link set ${name} mtu ${LARGEST_MTU}`,
    });
  }
  findings.push(...attachedProgram(xsk, { name, ifindex: interfaces.ifindex(record) }));
  const filter = Math.max(
    ...["all", name].map((each) => sysctl(`ipv4/conf/${each}/rp_filter`) ?? 0),
  );
  if (filter === STRICT) {
    findings.push({
      verdict: "warn",
      subject: name,
      says:
        "rp_filter is strict: the kernel drops what its sockets get from hosts routed elsewhere",
      fix: `sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.${name}.rp_filter=2`,
    });
  }
  if (!XDP_DRIVERS.has(driver)) {
    findings.push({
      verdict: "warn",
      subject: name,
      says: `its driver ${
        driver || "(it does not say which)"
      } is not known for native XDP: generic mode`,
      fix: "tegula run --provider socket   # compare",
    });
  }
  return findings.length > 0 ? findings : [ok(name, `driver ${driver}, MTU ${mtu}`)];
}

/** An XDP program that is there already: one of another kind keeps ours out. */
function attachedProgram(
  xsk: Pick<XskSetup, "attached">,
  { name, ifindex }: { name: string; ifindex: number },
): Finding[] {
  const program = xsk.attached(ifindex);
  if (program === null) return [];
  const which = `XDP program ${program.name || "(its name may not be read)"}, id ${program.id}`;
  if (program.name === OUR_PROGRAM) return [ok(name, `${which}: a tegula that runs`)];
  return [{
    verdict: "fail",
    subject: name,
    says: `${which}, is attached already`,
    fix: `ip link set ${name} xdp off; ip link set ${name} xdpgeneric off   # or stop who holds it`,
  }];
}

/** Whether queues and net tiles go together. */
export function checkQueues(
  host: Host,
  { names, netTiles: asked }: { names: readonly string[]; netTiles: number | undefined },
): Finding[] {
  const counts = names.map((name) => queues(host, name));
  const { netTiles } = planTiles({
    queues: counts,
    cores: navigator.hardwareConcurrency,
    apps: 0,
    netTiles: asked,
  });
  return names.map((name, i): Finding => {
    const count = counts[i];
    if (count >= netTiles) return ok(name, `queues: ${count}, net tiles: ${netTiles}`);
    const have = count === 1 ? "has a queue" : "have queues";
    return {
      verdict: "warn",
      subject: name,
      says: `${count} of ${netTiles} net tiles ${have} here: the others send by it through the ` +
        "kernel's sockets",
      fix:
        `tegula run --net-tiles ${count}   # or more queues: ethtool -L ${name} combined ${netTiles}`,
    };
  });
}

function ok(subject: string, says: string): Finding {
  return { verdict: "ok", subject, says };
}

/** A kernel parameter below net., null when it is not there. */
function sysctl(name: string): number | null {
  try {
    return Number(Deno.readTextFileSync(SYSCTL + name));
  } catch {
    return null;
  }
}
