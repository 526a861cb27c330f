// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula check`: finds settings of this host that Tegula ignores, and problems that slow it down or stop it.
 * Each finding has a verdict and the command that fixes it. With --config it first makes the checks of a start.
 */

import { resolve } from "node:path";
import { type Host, openHost, Watcher } from "../ffi/host.ts";
import { ROOT, SystemError } from "../ffi/library.ts";
import { heapView, u32 } from "../ffi/region.ts";
import { SLOT_BYTES } from "../ffi/tile.ts";
import { openXskSetup, type XskSetup } from "../ffi/xsk.ts";
import { openAppFiles } from "../master/app_files.ts";
import { AppProcess } from "../master/app_process.ts";
import { DISPATCHER } from "../master/attachment.ts";
import { load, type MainLibraries, openLibraries } from "../master/confinement.ts";
import { Inventory } from "../master/inventory.ts";
import { addressFix, missingAddresses, prefixText } from "../master/announcer.ts";
import * as preflight from "../master/preflight.ts";
import type { InterfaceReader } from "../netbase/interfaces.ts";
import type { NetbaseReader } from "../netbase/netbase.ts";
import type { Route } from "../netbase/route.ts";
import { METRICS_BYTES, stateRegionBytes } from "../tiles/app/regions.ts";
import { AppError } from "../tiles/runtime/log.ts";
import {
  checkMtus,
  excess,
  InterfaceError,
  lacking,
  LINK_DEPTH,
  linkShapeOf,
  planTiles,
  portsOf,
  portsServed,
} from "../tiles/runtime/plan.ts";
import { TILE_REGION_BYTES, TileReader, within } from "../tiles/runtime/tile.ts";
import { type AppPlan, besideName, servicePlan } from "../tiles/runtime/wiring.ts";
import { command, Exit, JSON_OPTION, messageOf, say, UserError } from "./command.ts";
import { CONFIG_OPTIONS, listenText, planApps, readConfig, type RunConfig } from "./config.ts";
import { Control, type Status } from "./control.ts";
import { readRun } from "./run.ts";
import { findDefaults, openMirror } from "./snapshot.ts";

const { interface: name, listen, "net-tiles": netTiles, dispatcher, control, config } =
  CONFIG_OPTIONS;
/**
 * Returns a command line of `tegula run` or `tegula check` with this check's options, modified by
 * `other`.
 */
type Again = (
  command: "run" | "check",
  other: Readonly<Record<string, string | boolean | readonly string[] | undefined>>,
) => string;

interface Facts extends Pick<RunConfig, "dispatcher" | "netTiles"> {
  readonly host: Host;
  readonly xsk: Pick<XskSetup, "attached">;
  readonly again: Again;
}

/** The least useful size of the kernel's neighbour table: its own default. */
const LEAST_NEIGHBORS = 1024;
/** Bytes that a socket may buffer without privilege: some thousand route events. */
const LEAST_RMEM = 4 << 20;
/** Value of fib_multipath_hash_policy: addresses and ports. */
const BY_PORTS = 1;
/** Value of rp_filter: drop packets that arrive on another interface than answers leave by. */
const STRICT = 1;
/** Options that select the kernel's sockets. A dispatcher would contradict them. */
const SOCKETS = { provider: "socket", dispatcher: undefined };
/** Drivers that have native XDP (`ndo_bpf` in Linux 6.12). All others use generic mode. */
const XDP_DRIVERS: ReadonlySet<string> = new Set(
  ("veth virtio_net tun i40e ice ixgbe ixgbevf igb igc mlx4_en mlx5_core bnxt_en ena nfp sfc qede " +
    "gve hv_netvsc mana atlantic mvneta mvpp2 stmmaceth st_gmac fec cpsw am65-cpsw-nuss tsnep enetc " +
    "fsl_dpaa fsl_dpaa2_eth lan966x-switch nicvf funeth vmxnet3 xen_netfront netdevsim")
    .split(" "),
);
/** Hooks of the packet filter that a datagram to or from this host passes. */
const HOOKS = ["ingress", "prerouting", "input", "output", "postrouting", "egress"];
/** Families of the packet filter whose chains see IPv4. */
const FAMILIES = ["ip", "inet", "netdev"];

export default command({
  name: "check",
  usage: [
    "--config FILE [--control PATH] [OPTIONS]",
    "[--interface IF…] [--listen PORT=APP…] [--net-tiles N] [--dispatcher] [-j]",
  ],
  about:
    `With --config, goes through all that 'tegula run --config FILE' does before it attaches XDP, and
prints a line for each phase: configuration, control socket, privileges, interfaces, limits, ports, XDP, each
app (started in a process of its own, without its network grants), and the types of apps in TypeScript. What
a running tegula would hand over on a reload counts as free.

Then, and without --config, looks at this host: privileges, limits, policy rules and routes that Tegula does
not follow, tables of the packet filter that do not see what AF_XDP takes, and each interface that is named,
or every Ethernet interface that is up: its state, queues, driver, and attached XDP programs. Without
--interface, also names the interfaces that 'tegula run' would use. Changes nothing. Each finding that is not ok
names the command that fixes it.`,
  options: {
    ...{ interface: name, listen, "net-tiles": netTiles, dispatcher, control, config },
    quiet: { type: "boolean", short: "q", help: "print only failures; warnings do not count" },
    json: { ...JSON_OPTION, help: "print JSON" },
  },
  status:
    "0 all is well, 8 only warnings (0 with --quiet), else a failure: with --config the status of the " +
    "start, without it 1.",
}, async ({ values }) => {
  const { json, quiet = false, ...configured } = values;
  const findings: Finding[] = [];
  const report: Report = (finding) => {
    if (quiet && finding.verdict !== "fail") return;
    findings.push(finding);
    if (!json) say(text(finding));
  };
  const failed = () => findings.find(({ verdict }) => verdict === "fail");
  const isStart = configured.config !== undefined;
  if (isStart) await goThroughStart(configured, report);
  if (failed() === undefined) {
    const asked = await readConfig(configured);
    const found = [...checkHost(asked, againWith(configured)), ...await checkRunning(asked)];
    // The phases of a start have reported all failures.
    for (const each of found) if (!isStart || each.verdict === "warn") report(each);
  }
  if (json) say(JSON.stringify(findings));
  const first = failed();
  if (first !== undefined) return first.status ?? Exit.failure;
  return findings.some(({ verdict }) => verdict === "warn") ? Exit.warning : Exit.ok;
});

function text({ verdict, subject, says, fix }: Finding): string {
  const line = `${verdict.padEnd(4)} ${subject}: ${says}`;
  return fix === undefined ? line : `${line}\n       ${fix}`;
}

function againWith(given: Parameters<Again>[1]): Again {
  return (command, other) => {
    const options = Object.entries({ ...given, ...other }).flatMap(([option, value]) =>
      [value ?? []].flat().map((one) => one === true ? `--${option}` : `--${option} ${quoted(one)}`)
    );
    return ["tegula", command, ...options].join(" ");
  };
}

/** Quotes a word for a shell, if necessary. */
function quoted(word: string | boolean): string {
  const text = String(word);
  return /^[\w=./:@,+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function* checkHost(config: RunConfig, again: Again): Generator<Finding> {
  const { interfaces: names, listen, netTiles, dispatcher } = config;
  const host = load(openHost);
  const facts = { host, xsk: load(openXskSetup), dispatcher, netTiles, again };
  const notices: string[] = [];
  const live = openMirror({ log: (line) => notices.push(line) });
  const { reader: { interfaces, neighbors }, writer } = live;
  preflight.checkInterfaces(host, names);
  const wanted = interfaces.records().filter((record) =>
    names.length > 0
      ? names.includes(interfaces.name(record))
      : interfaces.isUp(record) && interfaces.macHead(record) !== 0
  );
  const wantedNames = wanted.map((record) => interfaces.name(record));
  yield* checkPrivileges(facts);
  yield checkNeighborTable(neighbors);
  yield checkReceiveBuffers(host);
  if (listen.length > 0) yield checkSize(host, { ...config, interfaces: wantedNames });
  if (names.length === 0) {
    yield ok("without --interface and --config", findDefaults(host, live).says);
  }
  yield* checkRoutes(notices);
  yield* checkMultipath(writer.rib.routes());
  yield* checkAnnounce(config);
  yield* checkFilters(wantedNames, again);
  for (const record of wanted) yield* checkInterface(facts, interfaces, record);
  yield* checkQueues(facts, wantedNames);
}

function* checkPrivileges({ host, dispatcher }: Facts): Generator<Finding> {
  const missing = preflight.missingCapabilities(host, { xdp: true });
  yield missing.length === 0 ? ok("privileges", "all that AF_XDP needs") : fail(
    "privileges",
    `missing ${missing.join(", ")}: no AF_XDP`,
    "run it as root, or as the service of scripts/install",
  );
  const also = preflight.missingCapabilities(host, { dispatcher });
  if (also.length === 0) return;
  yield fail(
    "privileges",
    `missing ${also.join(", ")}: no dispatcher`,
    "run it as root, or as a service that has it (docs/operating/configure.md: Beside other XDP programs)",
  );
}

function checkNeighborTable(neighbors: NetbaseReader["neighbors"]): Finding {
  const subject = "neighbour table";
  const most = preflight.sysctl("ipv4/neigh/default/gc_thresh3");
  let count = 0;
  neighbors.forEach(() => count++);
  const wanted = Math.max(LEAST_NEIGHBORS, 2 ** Math.ceil(Math.log2(count * 2 + 1)));
  // Network namespaces other than the first share the table, but do not see its size.
  if (most === null) return ok(subject, `${count} entries; the host sets its size`);
  if (most >= wanted) return ok(subject, `${count} of ${most} entries`);
  return warn(
    subject,
    `gc_thresh3 is ${most} with ${count} entries: new clients may not be resolved`,
    `sysctl -w net.ipv4.neigh.default.gc_thresh3=${wanted}`,
  );
}

function checkReceiveBuffers(host: Host): Finding {
  const subject = "receive buffers";
  const most = preflight.sysctl("core/rmem_max");
  const mayForce = !preflight.missingCapabilities(host, { xdp: true }).includes("CAP_NET_ADMIN");
  if (mayForce || most === null) return ok(subject, "as large as needed");
  if (most >= LEAST_RMEM) return ok(subject, `up to ${most} bytes`);
  return warn(
    subject,
    `rmem_max is ${most}: a burst of changes overruns the netlink socket and costs a resync`,
    `sysctl -w net.core.rmem_max=${LEAST_RMEM}`,
  );
}

/** Whether this process may have the descriptors, locked memory and threads that a run needs. */
function checkSize(host: Host, config: RunConfig): Finding {
  const apps = planApps(config);
  const trouble = preflight.scarcity(host, { ...config, apps, hasStatus: true });
  const subject = "open files, threads";
  return trouble === null ? ok(subject, "enough") : fail(subject, trouble.says, trouble.fix);
}

/** Names the policy rules and routes that the mirror does not follow, from its notices. */
function checkRoutes(notices: readonly string[]): Finding[] {
  const mark = "not supported: ";
  const found = notices.filter((line) => line.startsWith(mark)).map((line) => {
    const says = line.slice(mark.length);
    const rule = /^policy rule (\d+)/.exec(says);
    return rule === null
      ? warn("routes", says, "ip route show table all   # replace them by routes of table main")
      : warn("policy rules", says, `ip rule delete priority ${rule[1]}`);
  });
  return found.length > 0 ? found : [ok("routes", "all are followed; there are no policy rules")];
}

/**
 * Names settings with which the kernel spreads flows over next hops differently than Tegula.
 * Netlink does not report them.
 */
function* checkMultipath(routes: Iterable<Route>): Generator<Finding> {
  const kinds = { hops: false, objects: false };
  for (const { hops, nextHopId } of routes) {
    if (hops !== null) kinds[nextHopId === 0 ? "hops" : "objects"] = true;
  }
  const policy = preflight.sysctl("ipv4/fib_multipath_hash_policy");
  if ((kinds.hops || kinds.objects) && policy !== BY_PORTS) {
    yield warn(
      "multipath",
      `fib_multipath_hash_policy is ${policy}: Tegula hashes ports, too`,
      `sysctl -w net.ipv4.fib_multipath_hash_policy=${BY_PORTS}`,
    );
  }
  if (kinds.hops && preflight.sysctl("ipv4/fib_multipath_use_neigh")) {
    yield warn(
      "multipath",
      "fib_multipath_use_neigh is set: Tegula avoids a dead gateway only in next-hop groups",
      "sysctl -w net.ipv4.fib_multipath_use_neigh=0   # or use 'ip nexthop' groups",
    );
  }
}

/** Names prefixes that are not announced, since the host has no address in them. */
function checkAnnounce({ announce }: RunConfig): Finding[] {
  if (announce === undefined) return [];
  const { addresses, table } = announce;
  const missing = missingAddresses(addresses);
  const found = missing.map((prefix) =>
    warn(
      "announce",
      `this host has no address in ${prefixText(prefix)}, so it is not announced`,
      addressFix(prefix),
    )
  );
  return found.length > 0
    ? found
    : [ok("announce", `${addresses.map(prefixText).join(" ")} in table ${table}`)];
}

/**
 * Names the packet filter's tables for datagrams to or from this host, which AF_XDP bypasses. `nft
 * -j list ruleset` (libnftables-json(5)) also prints tables of iptables, except iptables-legacy.
 */
function checkFilters(interfaces: readonly string[], again: Again): Finding[] {
  const subject = "packet filter";
  // deno-lint-ignore no-explicit-any -- nft's JSON
  let objects: any[];
  try {
    const { success, stdout, stderr } = new Deno.Command("nft", {
      args: ["-j", "list", "ruleset"],
    }).outputSync();
    const [printed, said] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
    if (!success) throw new Error(`nft: ${said.trim().split("\n")[0]}`);
    objects = JSON.parse(printed).nftables;
  } catch (error) {
    return error instanceof Deno.errors.NotFound
      ? [warn(subject, "nft, which lists it, is missing", "apt-get install nftables")]
      : [warn(subject, `cannot be read: ${messageOf(error)}`, `sudo ${again("check", {})}`)];
  }
  const withRules = new Set(
    objects.flatMap(({ rule }) => rule ? [`${rule.family} ${rule.table} ${rule.chain}`] : []),
  );
  const chains = objects.flatMap(({ chain }) => chain ?? [])
    .filter(({ family, table, name, hook, dev, policy }) =>
      FAMILIES.includes(family) && HOOKS.includes(hook) &&
      (dev === undefined || [dev].flat().some((each) => interfaces.includes(each))) &&
      (policy === "drop" || withRules.has(`${family} ${table} ${name}`))
    );
  if (chains.length === 0) {
    return [ok(subject, "no table has rules for frames that AF_XDP receives or sends")];
  }
  return [...Map.groupBy(chains, ({ family, table }) => `${family} ${table}`)].map(
    ([table, chains]) =>
      warn(
        subject,
        `table ${table} hooks ${[...new Set(chains.map(({ hook }) => hook))].join(", ")}: ` +
          "its rules do not apply to frames that AF_XDP receives or sends",
        `nft list table ${table}   # if they matter here: ${again("run", SOCKETS)}`,
      ),
  );
}

function checkInterface(
  facts: Facts,
  interfaces: InterfaceReader,
  record: number,
): Finding[] {
  const { host, xsk, again } = facts;
  const name = interfaces.name(record);
  const driver = host.driver(name);
  const findings: Finding[] = [];
  const lacks = lacking(interfaces, record);
  if (lacks !== null) findings.push(warn(name, `${lacks.says}: a start waits for it`, lacks.fix));
  const long = excess(interfaces, record);
  if (long !== null) findings.push(fail(name, long.says, long.fix));
  findings.push(...checkTags(host, interfaces, record));
  const program = xsk.attached(interfaces.ifindex(record));
  if (program !== null) findings.push(checkProgram(facts, name, program));
  const filter = Math.max(
    ...["all", name].map((each) => preflight.sysctl(`ipv4/conf/${each}/rp_filter`) ?? 0),
  );
  if (filter === STRICT) {
    findings.push(warn(
      name,
      "rp_filter is strict: the kernel's sockets drop datagrams of hosts routed through other interfaces",
      `sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.${name}.rp_filter=2`,
    ));
  }
  if (!XDP_DRIVERS.has(driver)) {
    const which = driver || "(unnamed)";
    findings.push(warn(
      name,
      `its driver ${which} is not known to have native XDP: generic mode`,
      `${again("run", SOCKETS)}   # compare`,
    ));
  }
  return findings.length > 0
    ? findings
    : [ok(name, `driver ${driver}, MTU ${interfaces.mtu(record)}`)];
}

/** Warns of VLAN devices on an interface that strips tags from frames before XDP sees them. */
function checkTags(host: Host, interfaces: InterfaceReader, record: number): Finding[] {
  const name = interfaces.name(record);
  const hasVlans = interfaces.records().some((each) =>
    interfaces.vlan(each) !== 0 && interfaces.link(each) === interfaces.ifindex(record)
  );
  if (!hasVlans || !host.stripsTags(name)) return [];
  return [warn(
    name,
    "it has VLAN devices, and strips the tags from frames before XDP sees them: Tegula also takes " +
      "frames to our addresses in VLANs that are not ours",
    `ethtool -K ${name} rxvlan off   # of a veth also: ethtool -K PEER txvlan off`,
  )];
}

/** Checks an XDP program that is already attached. A foreign one prevents ours. */
function checkProgram(
  { dispatcher, again }: Facts,
  name: string,
  program: { readonly id: number; readonly name: string },
): Finding {
  const which = `XDP program ${program.name || "(its name may not be read)"}, id ${program.id}`;
  if (program.name === preflight.OUR_PROGRAM) {
    return ok(name, `${which}: it belongs to a running tegula`);
  }
  const joins = program.name === DISPATCHER;
  if (joins && dispatcher) return ok(name, `${which}: ours will join it`);
  const { holder, command, note } = preflight.whoOccupies(name, program.id);
  return fail(
    name,
    `${which}, is already attached${holder === null ? "" : `, held by ${holder}`}`,
    joins ? again("run", { dispatcher: true }) : `${command}${note && `   # ${note}`}`,
  );
}

/** Whether each interface has a queue for each net tile. */
function checkQueues({ host, netTiles: asked, again }: Facts, names: string[]): Finding[] {
  const { netTiles } = planTiles({
    queues: names.map((name) => preflight.queues(host, name)),
    cores: navigator.hardwareConcurrency,
    apps: [],
    netTiles: asked,
  });
  const counts = names.map((name) =>
    Math.min(preflight.queues(host, name), preflight.transmitQueues(host, name))
  );
  const fewer = again("run", { "net-tiles": `${Math.min(...counts)}` });
  return names.map((name, i) => {
    const count = counts[i];
    if (count >= netTiles) return ok(name, `queues: ${count}, net tiles: ${netTiles}`);
    const have = count === 1 ? "has a queue" : "have queues";
    return warn(
      name,
      `${count} of ${netTiles} net tiles ${have} here: the others send on it through the ` +
        "kernel's sockets",
      `${fewer}   # or more queues: ethtool -L ${name} combined ${netTiles}`,
    );
  });
}

async function checkRunning({ control, interfaces: names }: RunConfig): Promise<Finding[]> {
  const { interfaces = [], xdp = [] } = await askRunning(control) ?? {};
  const lost = interfaces.filter((name) => !xdp.includes(name));
  return lost.filter((name) => names.length === 0 || names.includes(name)).map((name) =>
    warn(
      name,
      "the running tegula has lost AF_XDP here, for example because the interface was recreated: the " +
        "kernel's sockets serve it",
      "systemctl restart tegula   # or however it was started",
    )
  );
}

/** What a running tegula serves; null if none runs here, or access is denied. */
async function askRunning(path: string | undefined): Promise<preflight.Served | null> {
  try {
    const running = await Control.connect(path, { says() {} });
    if (running.isElsewhere) return null;
    const { interfaces, xdp, listen } = await running.one<Status>({ do: "status" });
    const ports = portsOf(listen.map(({ port, last = port }) => [port, last]));
    return { control: resolve(running.path), interfaces, xdp, ports };
  } catch (error) {
    if (error instanceof UserError) return null;
    throw error;
  }
}

/** One finding, with the command that fixes it unless it is "ok". */
export interface Finding {
  /** "warn": Tegula runs, but slower, or unlike the kernel; "fail": it does not start. */
  readonly verdict: "ok" | "warn" | "fail";
  readonly subject: string;
  readonly says: string;
  readonly fix?: string;
  /** The exit status of a start that fails here. */
  readonly status?: number;
}

type Report = (finding: Finding) => void;

/** The user of the processes that start apps, if this process may change users. */
const UID = 65534;
/** Memory for an inline app. */
const INLINE_MEMORY_MIB = 256;
/** How long an app may take to start, as for an appliance. */
const START_MILLIS = 300_000;

/**
 * Makes the checks of a start with --config: its phases in order, until it would attach XDP, with
 * its errors and exit statuses.
 */
async function goThroughStart(
  values: Parameters<typeof readConfig>[0],
  report: Report,
): Promise<void> {
  const libraries = openLibraries();
  const phase: preflight.Phase = async (subject, look, says) => {
    try {
      const found = await look();
      report(ok(subject, typeof says === "string" ? says : says(found)));
      return found;
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      report({ verdict: "fail", subject, says: error.message, status: error.status });
      return null;
    }
  };
  const planned = await phase(
    "configuration",
    () => readRun(values, libraries.host),
    ({ config: { interfaces, listen }, apps }) =>
      `${interfaces.join(" ")} answering ${listenText(listen, apps)}`,
  );
  if (planned === null) return;
  const { config, apps } = planned;
  const served = await askRunning(config.control);
  const log = (line: string) => report(warn("ports", line, "stop it, or take other ports"));
  await preflight.checkStart(planned, { libraries, served, log, phase });
  if (config.provider !== "socket") {
    const { mirror, reader } = openMirror({ log() {} });
    mirror.close();
    try {
      checkMtus(reader, config.interfaces);
    } catch (error) {
      if (!(error instanceof InterfaceError)) throw error;
      report({
        ...{ verdict: "fail", subject: "interfaces" },
        ...{ says: error.message, status: Exit.interface },
      });
    }
  }
  await makeApps(apps, { file: config.file, libraries, phase });
  await checkTypes(apps, report);
}

/** Runs `deno check` on TypeScript modules that are not part of the program. */
async function checkTypes(apps: readonly AppPlan[], report: Report): Promise<void> {
  const program = new URL("..", import.meta.url).href;
  const modules = apps.flatMap(({ module, beside }) => [module, ...beside ? [beside.module] : []]);
  for (const module of new Set(modules)) {
    if (!/\.[cm]?tsx?$/.test(module) || module.startsWith(`${program}apps/`)) continue;
    const path = decodeURIComponent(new URL(module).pathname);
    const errors = await typeErrors(path);
    if (errors === null) {
      report(ok("types", `${path}: not checked: deno is missing`));
    } else if (errors === "") report(ok("types", `${path}: no errors`));
    else {
      const [first, ...more] = errors.split("\n");
      const place = /at (file:\S+)/.exec(more.join("\n"))?.[1] ?? path;
      report(warn("types", `${place}: ${first}`, `deno check ${path}`));
    }
  }
}

/** The errors of `deno check` for the module at `path`; "" if none, null without deno. */
export async function typeErrors(path: string): Promise<string | null> {
  if (Deno.build.standalone) return null;
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      ...["check", "--quiet", "--no-lock", "--no-remote"],
      ...[`--import-map=${ROOT}apps/library/imports.json`, path],
    ],
    env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
    ...{ stdin: "null", stdout: "null", stderr: "piped" },
  }).spawn();
  // It uses hundreds of megabytes. If memory runs out, the kernel should kill this process.
  Deno.writeTextFileSync(`/proc/${child.pid}/oom_score_adj`, "1000");
  const { success, stderr } = await child.output();
  // Only the errors.
  const [errors] = new TextDecoder().decode(stderr).split(
    /^(?:error: Type checking failed|Stack b)/m,
  );
  return success ? "" : errors.trim();
}

/**
 * Starts one instance of each app as a run does, in a separate process but without its network
 * grants, and ends it before it answers datagrams. Reports its log lines.
 */
async function makeApps(
  apps: readonly AppPlan[],
  { file, libraries, phase }: {
    file: string | null;
    libraries: MainLibraries;
    phase: preflight.Phase;
  },
): Promise<void> {
  const { host, processes, tile } = libraries;
  libraries.observer.start(u32(heapView(SLOT_BYTES)));
  const files = openAppFiles({ host, processes, uid: UID });
  const watcher = new Watcher(host, tile);
  const served = portsServed(apps);
  try {
    for (const [app, [plan]] of Map.groupBy(apps, ({ app }) => app)) {
      const said: string[] = [];
      const { name, stateBytes } = plan;
      const service = servicePlan(plan, served);
      const own = new Inventory(libraries);
      own.ensure(`tile ${name}`, TILE_REGION_BYTES);
      own.ensure(`metrics ${name}`, METRICS_BYTES);
      own.ensure(`metrics ${besideName(name)}`, METRICS_BYTES);
      if (stateBytes !== undefined) own.ensure(`state ${name}`, stateRegionBytes(stateBytes));
      const shape = linkShapeOf(LINK_DEPTH, { isAlone: false });
      const process = new AppProcess({
        ...{ name, service, shape, nets: [], spinTurns: 0, uid: UID },
        grants: { ...plan.grants, net: [] },
        memoryMib: plan.memoryMib ?? INLINE_MEMORY_MIB,
        ...(stateBytes !== undefined && { stateBytes: stateRegionBytes(stateBytes) }),
        // A slow side with network grants may need them already at its start.
        ...(plan.beside && plan.grants.net.length === 0 &&
          { beside: { ...plan.beside, tcp: [] } }),
      }, {
        ...{ libraries, files, slot: 0, watcher },
        descriptor: (each, readOnly) => own.descriptor(each, readOnly),
        tile: new TileReader(own.view(`tile ${name}`)),
        changed() {},
        log: (line) => said.push(line.replace(`${name}: `, "")),
      });
      await phase(`app ${app}`, async () => {
        try {
          if (!await within(process.prepare(), START_MILLIS)) {
            throw new AppError(name, "it did not start in time");
          }
          process.checkSlowSide();
        } catch (error) {
          if (error instanceof AppError) throw preflight.appTrouble(error, { apps, file });
          if (error instanceof SystemError) throw new UserError(error.message, Exit.system);
          throw error;
        } finally {
          await process.stop();
          own.close();
        }
      }, () => ["made", ...said].join("; "));
    }
  } finally {
    files.close();
  }
}

function ok(subject: string, says: string): Finding {
  return { verdict: "ok", subject, says };
}

function warn(subject: string, says: string, fix: string): Finding {
  return { verdict: "warn", subject, says, fix };
}

function fail(subject: string, says: string, fix: string): Finding {
  return { verdict: "fail", subject, says, fix };
}
