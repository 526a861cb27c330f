/**
 * Why a datagram goes where it goes: the route among its candidates, the hop of a group, the neighbour, the
 * headers, or the drop. Decided by the very functions that net tiles use, over a mirror.
 */

import { heapView } from "../ffi/view.ts";
import { decide, type Decision, emptyDecision } from "../netbase/route_decision.ts";
import { NextHopFlag } from "../netbase/layout.ts";
import { NUD_INCOMPLETE, NUD_VALID } from "../netbase/neighbors.ts";
import type { NetbaseReader } from "../netbase/netbase.ts";
import type { Rib } from "../netbase/rib.ts";
import * as route from "../netbase/route.ts";
import { formatAddress, formatPrefix } from "../tiles/netlink/addresses.ts";
import { Solicits } from "../tiles/net/arp_queue.ts";
import { flowHash } from "../tiles/net/frame.ts";
import {
  Devices,
  dropCounter,
  layout,
  LINK_BYTES,
  Outcome,
  Resolver,
  RouteCache,
  UNRESOLVED,
} from "../tiles/net/route_cache.ts";
import { NET } from "../tiles/runtime/counters.ts";
import { FRAME_BYTES } from "../tiles/runtime/plan.ts";
import { SOLICIT_LINK_BYTES, SolicitProducer } from "../tiles/runtime/solicit_link.ts";
import {
  decisionEntry,
  type Entry,
  interfaceNames,
  neighborEntry,
  routeEntry,
} from "../tiles/netlink/entries.ts";
import { neighborText, routeText } from "./entry_text.ts";

/** The datagram asked about; addresses in host order, 0 for a source that is to be chosen. */
export interface Flow {
  readonly destination: number;
  readonly source: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
}

/** What is to be explained, and what is known besides the mirror. */
export interface Facts {
  readonly reader: NetbaseReader;
  readonly rib: Rib;
  /** Interfaces that net tiles send by; null: all that have Ethernet headers. */
  readonly attached: readonly string[] | null;
  /** Milliseconds since a neighbour was last known to be reachable; -1: not told. */
  confirmedMillis(ifindex: number, address: number): number;
}

/** Each step of the decision as a sentence, and the outcome in the form of `route get -j`. */
export interface Explanation {
  readonly outcome: Entry;
  readonly steps: readonly { readonly about: string; readonly says: string }[];
}

type Step = Explanation["steps"][number];
/** The same with what interfaces are called. */
type Named = Facts & { readonly nameOf: (ifindex: number) => string };

/** Explains what becomes of a datagram. */
export function explain(facts: Facts, flow: Flow): Explanation {
  const { reader } = facts;
  const named = { ...facts, nameOf: interfaceNames(reader.interfaces) };
  const decision = emptyDecision();
  const ports = (flow.sourcePort << 16) | flow.destinationPort;
  const hash = flowHash(flow.destination | 0, flow.source | 0, ports) >>> 0;
  const kind = decide(reader, flow.destination, flow.source, hash, decision);
  const outcome = decisionEntry(reader, flow.destination, flow.source);
  const steps = [
    ...routeSteps(named, flow.destination, decision),
    ...hopSteps(named, decision, hash),
    ...sourceSteps(reader, flow.source, decision),
    ...kind === route.RTN_UNICAST ? neighborSteps(named, decision, flow.destination) : [],
    headerStep(named, decision, { ...flow, ports }),
  ];
  return { outcome, steps };
}

function routeSteps({ rib, reader, nameOf }: Named, destination: number, by: Decision): Step[] {
  if (destination === 0) return [{ about: "route", says: "none is asked: 0.0.0.0 is this host" }];
  const text = (each: route.Route) => routeText(routeEntry(each, nameOf)).replaceAll("\n\t", " ");
  const covering = [...rib.routesCovering(destination)];
  const first = rib.bestFor(destination);
  if (first === null) return [{ about: "route", says: "none covers it" }];
  // One of several default routes of equal metric may stand in for the first.
  const best = by.group !== 0 || by.nextHop === 0 || leadsBy(first, reader, by) ? first : (
    covering.find((each) => isEqual(each, first) && leadsBy(each, reader, by)) ?? first
  );
  const others = covering
    .filter((each) => text(each) !== text(best))
    .sort((a, b) => b.prefixLength - a.prefixLength);
  return [
    { about: "route", says: text(best) },
    ...others.map((each) => ({
      about: "not taken",
      says: `${text(each)}: ${
        best !== first && isEqual(each, first) && isSilent(reader, each)
          ? "its gateway does not answer"
          : whyNot(each, best, rib.lookupOrder)
      }`,
    })),
  ];
}

/** Whether two routes compete by nothing but their order. */
function isEqual(a: route.Route, b: route.Route): boolean {
  return a.table === b.table && a.prefixLength === b.prefixLength && a.tos === b.tos &&
    a.priority === b.priority;
}

/** Whether a route, or the first of its hops, leads where the decision does. */
function leadsBy(each: route.Route, { nextHops }: Facts["reader"], { nextHop }: Decision): boolean {
  const { gateway, ifindex } = each.hops?.[0] ?? each;
  return gateway === nextHops.gateway(nextHop) && ifindex === nextHops.ifindex(nextHop);
}

function isSilent({ neighbors }: Facts["reader"], each: route.Route): boolean {
  const { gateway, ifindex } = each.hops?.[0] ?? each;
  const record = neighbors.find(ifindex, gateway);
  return record >= 0 && (neighbors.state(record) & NUD_VALID) === 0;
}

function whyNot(each: route.Route, best: route.Route, order: string): string {
  if (order === "separate" && each.table !== best.table) {
    return each.table === route.RT_TABLE_MAIN
      ? "table local is asked first"
      : "it throws, and table main is asked";
  }
  if (each.prefixLength < best.prefixLength) {
    return `${formatPrefix(best.destination, best.prefixLength)} is longer`;
  }
  if ((each.flags & route.RTNH_F_DEAD) !== 0) return "its link is down";
  if (each.tos !== best.tos) return "it is for another type of service";
  if (each.priority > best.priority) {
    return `metric ${best.priority} is lower than ${each.priority}`;
  }
  return "it stands behind the one that is taken";
}

function hopSteps({ reader, nameOf }: Named, { group, nextHop }: Decision, hash: number): Step[] {
  if (group === 0) return [];
  const { nextHops } = reader;
  const count = nextHops.memberCount(group);
  const at = Array.from({ length: count }, (_, i) => nextHops.memberId(group, i)).indexOf(nextHop);
  const way = (id: number) => {
    const gateway = nextHops.gateway(id);
    const to = gateway === 0 ? "on-link" : `via ${formatAddress(gateway)}`;
    return `${to} dev ${nameOf(nextHops.ifindex(id))}`;
  };
  const drawn = nextHops.member(group, hash);
  const isObject = (nextHops.flags(group) & NextHopFlag.object) !== 0;
  const instead = isObject ? "does not answer" : "has not the source's address";
  const why = `by the flow's hash ${hash.toString(16).padStart(8, "0")}` +
    (drawn === nextHop ? "" : ` and because ${way(drawn)} ${instead}`);
  const says = `${way(nextHop)} weight ${nextHops.memberWeight(group, at)}, ${
    at + 1
  } of ${count}, ${why}`;
  return [{ about: "hop", says }];
}

/** Which source the datagram has, and why. */
function sourceSteps({ nextHops }: NetbaseReader, asked: number, by: Decision): Step[] {
  if (asked === 0 && by.interfaceRecord < 0) return [];
  const why = asked !== 0
    ? by.source === 0 ? "is no address of this host" : "as asked for"
    : by.source === 0
    ? "no address has a scope that is wide enough"
    : by.nextHop !== 0 && nextHops.source(by.nextHop) === by.source
    ? "the route prefers it (src)"
    : "chosen as the kernel does: of the interface, in the gateway's prefix if there is one";
  return [{ about: "source", says: `${formatAddress(asked || by.source)}: ${why}` }];
}

function neighborSteps(facts: Named, { gateway, ifindex }: Decision, destination: number): Step[] {
  const { reader: { neighbors }, nameOf } = facts;
  const address = gateway === 0 ? destination : gateway;
  const record = neighbors.find(ifindex, address);
  const about = "neighbour";
  if (record < 0) {
    const says =
      `${formatAddress(address)} dev ${nameOf(ifindex)} is not known: it is asked for, and ` +
      "the datagram waits";
    return [{ about, says }];
  }
  const [state, macHead] = [neighbors.state(record), neighbors.macHead(record)];
  const entry = { ifindex, address, state, flags: 0, macHead, macTail: neighbors.macTail(record) };
  const age = facts.confirmedMillis(ifindex, address);
  const then = (state & NUD_VALID) !== 0
    ? age < 0 ? "" : `, confirmed ${(age / 1000).toFixed(1)} s ago`
    : state === NUD_INCOMPLETE
    ? ": the kernel asks for it and has no answer yet; the datagram waits"
    : ": it did not answer; it is asked for again, and the datagram waits";
  return [{ about, says: `${neighborText(neighborEntry(entry, nameOf))}${then}` }];
}

/** The headers that a net tile on every Ethernet interface would build, or the counter that moves. */
function headerStep(
  { reader, attached: names, nameOf }: Named,
  decision: Decision,
  { destination, source, ports }: Flow & { ports: number },
): Step {
  const { interfaces } = reader;
  const attached = interfaces.records().filter((record) => interfaces.vlan(record) === 0)
    .filter((record) => interfaces.macHead(record) !== 0 && !interfaces.isLoopback(record))
    .filter((record) => names?.includes(interfaces.name(record)) ?? true)
    .map((record) => ({ ifindex: interfaces.ifindex(record) }));
  const cache = new RouteCache(heapView(1024), 0);
  const resolver = new Resolver({
    reader,
    cache,
    devices: new Devices(reader, attached),
    solicits: new Solicits(
      new SolicitProducer(heapView(SOLICIT_LINK_BYTES)),
      { counters: new Float64Array(Object.keys(NET.help).length), seed: 0 },
    ),
    frameBytes: FRAME_BYTES,
  });
  const { route: at } = resolver.resolve(
    destination | 0,
    source | 0,
    (ports << 16) | (ports >>> 16),
  );
  const about = "headers";
  if (at === UNRESOLVED) return { about, says: "built when the neighbour is known" };
  const result = cache.words[at + layout.Route.outcome];
  if (result === Outcome.kernel) {
    return { about, says: "by the kernel's socket of the source port" };
  }
  if (result < 0) return dropStep(dropCounter(result), destination, nameOf(decision.ifindex));
  const begin = (result >>> 16) & 0x1f;
  const link = Array.from({ length: LINK_BYTES - begin }, (_, i) => {
    return cache.view.getUint8(((at + layout.Route.link) << 2) + begin + i).toString(16).padStart(
      2,
      "0",
    );
  });
  const [to, from, rest] = [link.slice(0, 6), link.slice(6, 12), link.slice(12)];
  const ip = `IPv4 ${formatAddress(decision.source)} > ${formatAddress(destination)}`;
  const udp = `UDP ${ports >>> 16} > ${ports & 0xffff}`;
  const says = `${from.join(":")} > ${to.join(":")} ${rest.join("")}, ${ip}, ${udp}, ` +
    `at most ${result & 0xffff} bytes`;
  return { about, says };
}

function dropStep(counter: number, destination: number, dev: string): Step {
  const [name, help] = Object.entries(NET.help)[counter];
  const dst = formatAddress(destination);
  const cause = name === "tx_drop_link_down"
    ? `ip link show dev ${dev}`
    : name === "tx_drop_no_source"
    ? "ip address show"
    : `ip route show table all to match ${dst}`;
  return { about: "dropped", says: `${name}: ${help} See '${cause}'.` };
}
