// SPDX-License-Identifier: Apache-2.0
/**
 * What the tests of the mirror share: a mirror of the namespace that the test runs in, the kernel
 * to be asked the same questions, and `ip`. `scripts/test.ts` puts each file in a namespace of its
 * own.
 */

import assert from "node:assert/strict";
import { EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH, pollSet } from "../../../ffi/library.ts";
import { heapView } from "../../../ffi/region.ts";
import { openNetlink } from "../../../ffi/sockets.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { decide, type Decision, emptyDecision, NetbaseReader } from "../../../netbase/netbase.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import {
  emptyRoute,
  formatAddress,
  KIND_UNSUPPORTED,
  parseAddress,
  type Route,
  RT_SCOPE_LINK,
  RTN_BLACKHOLE,
  RTN_LOCAL,
  RTN_PROHIBIT,
  RTN_THROW,
  RTN_UNICAST,
  RTN_UNREACHABLE,
  RTN_UNSPEC,
} from "../../../netbase/route.ts";
import { Mirror, type MirrorOptions } from "../../../tiles/netlink/mirror.ts";
import * as nl from "../../../tiles/netlink/rtnetlink.ts";
import { decodeRoute, type DumpEnd, Dumper } from "../../../tiles/netlink/rtnetlink.ts";
import { LOOPBACK, mayBeRefused, mayBeTaken } from "./defaults.ts";

export const library = openNetlink();

/** How long the mirror may take to be the kernel's equal, and anything else: the machine may be busy. */
const CONVERGES_MILLIS = 10_000;
const PATIENCE_MILLIS = 30_000;
/** What one look counts for at most: while the machine stood still there was nothing to be seen. */
const LOOK_MILLIS = 100;
/** The setting by which routes over a link without carrier do not count. */
export const IGNORE_LINKDOWN = "ignore_routes_with_linkdown";

/** Runs `ip` with the words of `command`. Throws when it fails. */
export function ip(command: string): string {
  const { success, output } = tryIp(command);
  if (!success) throw new Error(`ip ${command}: ${output}`);
  return output;
}

/** Runs `ip` with the words of `command`; for what may be refused. */
export function tryIp(command: string): { success: boolean; output: string } {
  const { success, stdout, stderr } = new Deno.Command("ip", {
    args: command.split(" "),
    stdout: "piped",
    stderr: "piped",
  }).outputSync();
  return { success, output: new TextDecoder().decode(success ? stdout : stderr).trim() };
}

/**
 * Carries out one of a sequence: `sysctl NAME VALUE`, NAME below net.ipv4, the words of an `ip`, or
 * several with && between.
 */
export function tryCommand(command: string): { success: boolean; output: string } {
  const [before, ...rest] = command.split(" && ");
  if (rest.length > 0) {
    const outcome = tryCommand(before);
    return outcome.success ? tryCommand(rest.join(" && ")) : outcome;
  }
  const [first, name, value] = command.split(" ");
  if (first !== "sysctl") return tryIp(command);
  try {
    Deno.writeTextFileSync(`/proc/sys/net/ipv4/${name}`, value);
    return { success: true, output: "" };
  } catch (error) {
    return { success: false, output: String(error) };
  }
}

/** The same, for what must not be refused. */
export function command(words: string): void {
  const { success, output } = tryCommand(words);
  if (!success) throw new Error(`${words}: ${output}`);
}

/** Runs many commands with one `ip`. Throws when one of them fails. */
export function ipBatch(commands: Iterable<string>): void {
  const file = Deno.makeTempFileSync();
  try {
    Deno.writeTextFileSync(file, [...commands].join("\n"));
    ip(`-batch ${file}`);
  } finally {
    Deno.removeSync(file);
  }
}

/** Whether this namespace was seen to be the test's own. */
let isOwn = false;

/**
 * Takes away every link but lo, and every address, route and next-hop object that is ours to take.
 * Throws Error in a namespace that has a way out before anything was made here: that is the host's.
 */
export function cleanSlate(): void {
  isOwn ||= JSON.parse(ip("-j route show default")).length === 0;
  if (!isOwn) throw new Error("this would take away the host's network: use ./scripts/test");
  const links = JSON.parse(ip("-j link show")) as { ifname: string }[];
  for (const { ifname } of links) if (ifname !== "lo") tryIp(`link del ${ifname}`);
  for (const table of ["main", "default", "local proto boot"]) tryIp(`route flush table ${table}`);
  tryIp("nexthop flush");
  tryIp("addr flush dev lo scope global");
  tryIp("addr flush dev lo scope link");
  for (const name of ["all", "default"]) command(`sysctl conf/${name}/${IGNORE_LINKDOWN} 0`);
}

/** Two veth pairs, v0-v1 and v2-v3, up and addressed: what most tests begin with. */
export function twoPairs(): void {
  cleanSlate();
  ipBatch([
    "link add v0 type veth peer name v1",
    "link add v2 type veth peer name v3",
    ...["v0", "v1", "v2", "v3"].map((name) => `link set ${name} up`),
    "addr add 198.18.0.2/24 dev v0",
    "addr add 198.18.1.2/24 dev v2",
  ]);
  // The kernel tells of carriers when it comes to it.
  const isUp = (name: string) => ip(`link show ${name}`).includes("state UP");
  const end = performance.now() + PATIENCE_MILLIS;
  while (!["v0", "v1", "v2", "v3"].every(isUp)) assert.ok(performance.now() < end, "no carrier");
}

/** Index of an interface. */
export function indexOf(name: string): number {
  return (JSON.parse(ip(`-j link show dev ${name}`)) as { ifindex: number }[])[0].ifindex;
}

/** The address in dotted decimals, as a number in host order. */
export function addr(text: string): number {
  const address = parseAddress(text);
  assert.ok(address >= 0, text);
  return address;
}

/** A mirror of this namespace and its parts. */
export class Mirrored implements Disposable {
  readonly mirror: Mirror;
  readonly writer: NetbaseWriter;
  readonly reader: NetbaseReader;
  readonly log: string[] = [];
  readonly #decision = emptyDecision();

  constructor(options: Partial<MirrorOptions> = {}) {
    const view = heapView(NETBASE_BYTES);
    this.writer = new NetbaseWriter(view, { readers: [], seed: 1 });
    this.reader = new NetbaseReader(view);
    this.mirror = new Mirror({
      library,
      writer: this.writer,
      log: (line) => this.log.push(line),
      ...options,
    });
  }

  /** The first full copy. */
  sync(): this {
    this.mirror.sync();
    return this;
  }

  /** Takes in what the kernel has said so far. */
  settle(): void {
    this.mirror.settle();
  }

  decide(address: number, source = 0, flowHash = 0): Decision {
    this.reader.refresh();
    decide(this.reader, address, source, flowHash, this.#decision);
    return this.#decision;
  }

  /** Everything mirrored, as plain values. */
  content(): { routes: Route[]; interfaces: unknown[]; neighbors: unknown[] } {
    const { rib, interfaces, neighbors } = this.writer;
    const all: Record<string, number>[] = [];
    neighbors.forEach((neighbor) => all.push({ ...neighbor }));
    all.sort((a, b) => a.ifindex - b.ifindex || a.address - b.address);
    return {
      routes: [...rib.routes()],
      interfaces: interfaces.all(),
      neighbors: all,
    };
  }

  [Symbol.dispose](): void {
    this.mirror.close();
  }
}

/**
 * Asserts what `compare` does, mirror and kernel being equal in something. Some of what the kernel does
 * comes after the command that causes it, such as a carrier's loss: so it may take a moment.
 */
export function converges(mirrored: Mirrored, compare: () => void): void {
  for (let left = CONVERGES_MILLIS;;) {
    const begin = performance.now();
    try {
      return compare();
    } catch (error) {
      if (left <= 0) throw error;
      library.wait(pollSet([]), 20);
      mirrored.settle();
      left -= Math.min(LOOK_MILLIS, performance.now() - begin);
    }
  }
}

/** Asserts that `mirrored` holds just what a mirror made now does. */
export function assertCurrent(mirrored: Mirrored, message?: string): void {
  converges(mirrored, () => compareContent(mirrored, message));
}

function compareContent(mirrored: Mirrored, message?: string): void {
  using fresh = new Mirrored().sync();
  const [actual, expected] = [mirrored.content(), fresh.content()];
  assert.deepEqual(actual.routes.map(routeKey), expected.routes.map(routeKey), message);
  assert.deepEqual(actual.interfaces, expected.interfaces, message);
  assert.deepEqual(actual.neighbors, expected.neighbors, message);
}

function routeKey(route: Route): string {
  return JSON.stringify({ ...route, destination: formatAddress(route.destination) });
}

/** What becomes of a packet, as the kernel or Tegula says it. */
export interface Answer {
  readonly kind: number;
  readonly gateway: number;
  readonly ifindex: number;
  readonly source: number;
  readonly mtu: number;
}

/** A route lookup. Addresses in host order. */
export interface RouteQuery {
  readonly address: number;
  readonly source?: number;
  /** Return the matching route with all its hops, not the result of the lookup. */
  readonly fibMatch?: boolean;
}

/** Attribute of a lookup (linux/rtnetlink.h). */
const RTA_SRC = 2;

/** The kernel, asked by RTM_GETROUTE. */
export class Oracle implements Disposable {
  readonly #dumper = new Dumper(library);
  readonly #route = emptyRoute();
  readonly #mtus: (ifindex: number) => number;

  constructor(mirrored: Mirrored) {
    this.#mtus = (ifindex) => mirrored.writer.interfaces.get(ifindex)?.mtu ?? 0;
  }

  /** What the kernel would do now. Refusals have a kind and nothing else. */
  ask(question: RouteQuery): Answer {
    const route = this.route(question);
    if (typeof route === "number") {
      return { kind: route, gateway: 0, ifindex: 0, source: 0, mtu: 0 };
    }
    const { type, gateway, ifindex, source, mtu } = route;
    return { kind: type, gateway, ifindex, source, mtu: mtu !== 0 ? mtu : this.#mtus(ifindex) };
  }

  /** The kernel's answer itself, or the kind that its refusal stands for. */
  route(question: RouteQuery): Route | number {
    let end: DumpEnd | null = null;
    let errno = 0;
    const write = (writer: nl.MessageWriter, sequence: number) =>
      writeLookup(writer, question, sequence);
    const asked = this.#dumper.request(write, {
      reply: (message) => decodeRoute(message, this.#route),
      done: (...outcome) => [end, errno] = outcome,
    });
    assert.ok(asked);
    this.#dumper.turn();
    if (end === "done") return { ...this.#route };
    assert.equal(end, "refused");
    return kindOfErrno(errno);
  }

  [Symbol.dispose](): void {
    this.#dumper.close();
  }
}

/** Writes RTM_GETROUTE; returns its length. */
function writeLookup(
  writer: nl.MessageWriter,
  { address, source = 0, fibMatch = false }: RouteQuery,
  sequence: number,
): number {
  writer.begin({ type: nl.RTM_GETROUTE, flags: nl.NLM_F_REQUEST, sequence });
  writer.u8(nl.AF_INET).u8(32).u8(source === 0 ? 0 : 32).u8(0); // family, lengths, tos
  writer.u8(0).u8(0).u8(0).u8(0); // table, protocol, scope, type
  writer.u32(nl.RTM_F_LOOKUP_TABLE | (fibMatch ? nl.RTM_F_FIB_MATCH : 0));
  writer.address(nl.RTA_DST, address);
  if (source !== 0) writer.address(RTA_SRC, source);
  return writer.finish();
}

/** The kernel has one error for no route and for `throw`. */
function kindOfErrno(errno: number): number {
  switch (errno) {
    case EINVAL:
      return RTN_BLACKHOLE;
    case EHOSTUNREACH:
      return RTN_UNREACHABLE;
    case EACCES:
      return RTN_PROHIBIT;
    case ENETUNREACH:
      return RTN_UNSPEC;
    default:
      throw new Error(`the kernel refused with error ${errno}`);
  }
}

/** Asserts that the mirror decides for `address` as the kernel does. */
export function assertDecides(
  mirrored: Mirrored,
  oracle: Oracle,
  { address, source = 0 }: { address: number; source?: number },
): void {
  converges(mirrored, () => compareDecisions(mirrored, oracle, { address, source }));
}

function compareDecisions(
  mirrored: Mirrored,
  oracle: Oracle,
  { address, source }: { address: number; source: number },
): void {
  const kernel = oracle.ask({ address, source });
  const decision = mirrored.decide(address, source);
  // Whether the kernel refuses such a source depends on which hop its own hash takes.
  if (decision.group !== 0 && source >>> 24 === 127) return;
  // A way by IPv6 is no way for Tegula, and no kind of the kernel's.
  if (decision.kind === KIND_UNSUPPORTED) return;
  if (
    source >>> 24 === 127 && kernel.kind === RTN_BLACKHOLE && decision.ifindex === LOOPBACK &&
    mayBeRefused(mirrored, address)
  ) return;
  const kind = decision.kind === RTN_THROW ? RTN_UNSPEC : decision.kind;
  const context = `${formatAddress(address)} from ${formatAddress(source)}: kernel ${
    JSON.stringify(kernel)
  }, Tegula ${JSON.stringify(decision)}`;
  assert.equal(kind, kernel.kind, context);
  if (kernel.ifindex === 0) return;
  const { ifindex, mtu } = decision;
  const isSame = ifindex === kernel.ifindex && decision.gateway === kernel.gateway;
  if (!isSame && mayBeTaken(mirrored, address, kernel)) return;
  if (decision.group !== 0) {
    assertMember(mirrored, decision.group, kernel, context);
    return;
  }
  // A gateway that is an address of our own is none, and then the way is by loopback.
  const gateway = ifindex === LOOPBACK ? kernel.gateway : decision.gateway;
  assert.deepEqual(
    { kind, gateway, ifindex, source: decision.source, mtu },
    // Where a source is given the kernel does not say it again.
    {
      ...kernel,
      source: source !== 0 || isObjectsOwn(mirrored, address, kernel)
        ? decision.source
        : kernel.source,
    },
    context,
  );
  if (kind === RTN_LOCAL) assert.equal(ifindex, LOOPBACK, context);
}

/**
 * For a new next-hop object the kernel chooses the source by the object's scope, and by the route's again
 * when an address changes anywhere: in between it may be one of scope link.
 */
function isObjectsOwn({ writer }: Mirrored, address: number, kernel: Answer): boolean {
  if ((writer.rib.bestFor(address)?.nextHopId ?? 0) === 0) return false;
  const { addresses = [] } = writer.interfaces.get(kernel.ifindex) ?? {};
  return addresses.some(({ local, scope }) => local === kernel.source && scope === RT_SCOPE_LINK);
}

/** The kernel took a member by its own hash: it has to be one of ours. */
function assertMember(mirrored: Mirrored, group: number, kernel: Answer, context: string): void {
  const { nextHops } = mirrored.reader;
  const members = Array.from({ length: nextHops.memberCount(group) }, (_, i) => {
    const id = nextHops.memberId(group, i);
    return { gateway: nextHops.gateway(id), ifindex: nextHops.ifindex(id) };
  });
  assert.ok(
    members.some(({ gateway, ifindex }) =>
      // What goes to everyone goes by the member's interface, not by its gateway.
      (kernel.kind !== RTN_UNICAST || gateway === kernel.gateway) && ifindex === kernel.ifindex
    ),
    `${context}, members ${JSON.stringify(members)}`,
  );
}

/** Turns the mirror until `condition` holds. */
export function turnUntil(mirrored: Mirrored, condition: () => boolean): void {
  const polled = pollSet(mirrored.mirror.descriptors);
  for (let left = PATIENCE_MILLIS; !condition();) {
    assert.ok(left > 0, "it did not come about in time");
    const begin = performance.now();
    if (mirrored.mirror.turn() === 0) library.wait(polled, 10);
    left -= Math.min(LOOK_MILLIS, performance.now() - begin);
  }
}
