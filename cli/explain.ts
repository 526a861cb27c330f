// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula explain`: explains what happens to a datagram to an address, and why: the route among its
 * candidates, the hop of a group, the neighbour, and the headers or the drop. It uses the functions
 * of net tiles on a mirror.
 */

import { heapView } from "../ffi/region.ts";
import { NextHopFlag } from "../netbase/layout.ts";
import { emptyNeighbor, NUD_INCOMPLETE, NUD_VALID, readEntry } from "../netbase/neighbors.ts";
import { decide, type Decision, emptyDecision, type NetbaseReader } from "../netbase/netbase.ts";
import type { Rib } from "../netbase/rib.ts";
import * as route from "../netbase/route.ts";
import { formatAddress, formatPrefix } from "../netbase/route.ts";
import { SOLICIT_LINK_BYTES, SolicitProducer, Solicits } from "../tiles/net/arp_queue.ts";
import { flowHash } from "../tiles/net/rings.ts";
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
import {
  decisionEntry,
  interfaceNames,
  neighborEntry,
  routeEntry,
} from "../tiles/netlink/entries.ts";
import { NeighborMap } from "../tiles/netlink/neighbor_resolver.ts";
import { NET } from "../tiles/runtime/counters.ts";
import { address, command, Exit, JSON_OPTION, say, UserError, wholeNumber } from "./command.ts";
import { CONTROL_OPTION, liveControl, type Status } from "./control.ts";
import { neighborText, routeText } from "./format.ts";
import { openMirror } from "./snapshot.ts";

export default command({
  name: "explain",
  usage: ["ADDRESS [--source ADDRESS] [--sport PORT] [--dport PORT] [-j] [--live]"],
  about:
    `Explains what happens to a datagram to ADDRESS, by the routes and neighbours that the kernel has now:
which route is used and why no other, which of several next hops for this flow, the neighbour and its state,
and the headers, or why it is dropped and which command shows the cause. Needs no privileges.`,
  options: {
    source: {
      type: "string",
      value: "ADDRESS",
      help: "the source address; by default the one that Tegula would choose",
    },
    sport: {
      type: "string",
      default: "7",
      value: "PORT",
      help: "the source port (default 7), and",
    },
    dport: {
      type: "string",
      default: "50000",
      value: "PORT",
      help: "the destination port (default 50000): with the addresses, they choose the next hop",
    },
    json: { ...JSON_OPTION, help: "print JSON" },
    live: {
      type: "boolean",
      help: "assume the interfaces of the running tegula; by default all with Ethernet headers",
    },
    control: { ...CONTROL_OPTION, help: "the same, for the tegula at this control socket" },
  },
  positionals: 1,
}, async ({ values, positionals }) => {
  const port = (text: string, option: string) =>
    wholeNumber(text, { option, least: 1, most: 65_535 });
  const flow = {
    destination: address(positionals[0], "the address to explain"),
    source: values.source === undefined ? 0 : address(values.source, "--source"),
    ports: (port(values.sport, "sport") << 16) | port(values.dport, "dport"),
  };
  const running = await liveControl(values);
  if (running?.isElsewhere) {
    throw new UserError(
      `the tegula at ${running.path} runs in another network namespace, whose routes are not read here; ` +
        "run this in that one ('ip netns exec', 'nsenter --net')",
    );
  }
  const status = await running?.one<Status>({ do: "status" });
  const { outcome, steps } = explain(flow, status?.interfaces ?? null);
  if (values.json) say(JSON.stringify({ outcome, steps }));
  else {
    say(`${formatAddress(flow.destination)}: ${outcome.type}`);
    for (const { about, says } of steps) say(`  ${about.padEnd(10)} ${says}`);
  }
  return Exit.ok;
});

/** The datagram. Addresses are in host order; source 0: chosen by Tegula. */
interface Flow {
  readonly destination: number;
  readonly source: number;
  /** The source port in the upper half, the destination port in the lower. */
  readonly ports: number;
}

/** The datagram, the mirror, and the decision. */
interface Facts extends Flow {
  /** The hash that chooses a next hop. */
  readonly hash: number;
  readonly decision: Decision;
  readonly reader: NetbaseReader;
  readonly rib: Rib;
  nameOf(ifindex: number): string;
  /** Interfaces on which net tiles send; null: all with Ethernet headers. */
  readonly attached: readonly string[] | null;
  /** Milliseconds since a neighbour was last confirmed reachable; -1: unknown. */
  confirmedMillis(ifindex: number, address: number): number;
}

interface Step {
  readonly about: string;
  readonly says: string;
}

/** Explains what happens to a datagram. Returns the outcome in the form of `route get -j`, and the steps. */
function explain(flow: Flow, attached: Facts["attached"]) {
  const confirmed = new NeighborMap<number>();
  const { reader, writer: { rib } } = openMirror({
    neighborChanged({ ifindex, address, confirmedMillis }) {
      confirmed.set(ifindex, address, confirmedMillis);
    },
  });
  const { destination, source, ports } = flow;
  const decision = emptyDecision();
  const hash = flowHash(destination | 0, source | 0, ports) >>> 0;
  const kind = decide(reader, destination, source, hash, decision);
  const facts: Facts = {
    ...{ ...flow, hash, decision, reader, rib, attached },
    nameOf: interfaceNames(reader.interfaces),
    confirmedMillis: (ifindex, address) => confirmed.get(ifindex, address) ?? -1,
  };
  const steps: Step[] = [
    ...routeSteps(facts),
    ...hopSteps(facts),
    ...sourceSteps(facts),
    ...kind === route.RTN_UNICAST ? [neighborStep(facts)] : [],
    headerStep(facts),
  ];
  return { outcome: decisionEntry(reader, destination, source), steps };
}

function routeSteps({ rib, reader, nameOf, destination, decision: by }: Facts): Step[] {
  if (destination === 0) return [{ about: "route", says: "no lookup: 0.0.0.0 is this host" }];
  const text = (each: route.Route) => routeText(routeEntry(each, nameOf)).replaceAll("\n\t", " ");
  const covering = [...rib.routesCovering(destination)];
  const first = rib.bestFor(destination);
  if (first === null) return [{ about: "route", says: "no route matches" }];
  // Another default route of equal metric may replace the first.
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

/** Whether two routes differ only in their order. */
function isEqual(a: route.Route, b: route.Route): boolean {
  return a.table === b.table && a.prefixLength === b.prefixLength && a.tos === b.tos &&
    a.priority === b.priority;
}

/** Whether a route, or the first of its hops, has the next hop of the decision. */
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
      ? "table local is looked up first"
      : "its type is throw, so table main is looked up";
  }
  if (each.prefixLength < best.prefixLength) {
    return `${formatPrefix(best.destination, best.prefixLength)} is longer`;
  }
  if ((each.flags & route.RTNH_F_DEAD) !== 0) return "its link is down";
  if (each.tos !== best.tos) return "it is for another type of service";
  if (each.priority > best.priority) {
    return `metric ${best.priority} is lower than ${each.priority}`;
  }
  return "another route comes before it";
}

function hopSteps({ reader: { nextHops }, nameOf, decision, hash }: Facts): Step[] {
  const { group, nextHop } = decision;
  if (group === 0) return [];
  const count = nextHops.memberCount(group);
  const at = Array.from({ length: count }, (_, i) => nextHops.memberId(group, i)).indexOf(nextHop);
  const way = (id: number) => {
    const gateway = nextHops.gateway(id);
    const to = gateway === 0 ? "on-link" : `via ${formatAddress(gateway)}`;
    return `${to} dev ${nameOf(nextHops.ifindex(id))}`;
  };
  const drawn = nextHops.member(group, hash);
  const isObject = (nextHops.flags(group) & NextHopFlag.object) !== 0;
  const instead = isObject ? "does not answer" : "does not have the source address";
  const why = `by the flow's hash ${hash.toString(16).padStart(8, "0")}` +
    (drawn === nextHop ? "" : ` and because ${way(drawn)} ${instead}`);
  const says = `${way(nextHop)} weight ${nextHops.memberWeight(group, at)}, ${
    at + 1
  } of ${count}, ${why}`;
  return [{ about: "hop", says }];
}

function sourceSteps({ reader: { nextHops }, source: asked, decision: by }: Facts): Step[] {
  if (asked === 0 && by.interfaceRecord < 0) return [];
  const why = asked !== 0
    ? by.source === 0 ? "is no address of this host" : "as requested"
    : by.source === 0
    ? "no address has a wide enough scope"
    : by.nextHop !== 0 && nextHops.source(by.nextHop) === by.source
    ? "the route prefers it (src)"
    : "chosen as the kernel does: an address of the interface, in the gateway's prefix if there is one";
  return [{ about: "source", says: `${formatAddress(asked || by.source)}: ${why}` }];
}

function neighborStep(facts: Facts): Step {
  const { reader: { neighbors }, nameOf, decision: { gateway, ifindex } } = facts;
  const address = gateway === 0 ? facts.destination : gateway;
  const record = neighbors.find(ifindex, address);
  const about = "neighbour";
  if (record < 0) {
    const says =
      `${formatAddress(address)} dev ${nameOf(ifindex)} is unknown: it is solicited, and ` +
      "the datagram waits";
    return { about, says };
  }
  const entry = readEntry(neighbors.words, record, emptyNeighbor());
  const age = facts.confirmedMillis(ifindex, address);
  const then = (entry.state & NUD_VALID) !== 0
    ? age < 0 ? "" : `, confirmed ${(age / 1000).toFixed(1)} s ago`
    : entry.state === NUD_INCOMPLETE
    ? ": the kernel solicits it and has no answer yet; the datagram waits"
    : ": it did not answer; it is solicited again, and the datagram waits";
  return { about, says: `${neighborText(neighborEntry(entry, nameOf))}${then}` };
}

/** The headers that a net tile would build, or its drop counter. */
function headerStep(facts: Facts): Step {
  const { reader, attached: names, nameOf, decision, destination, source, ports } = facts;
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
  const { buffer, byteOffset } = cache.view;
  const offset = byteOffset + ((at + layout.Route.link) << 2) + begin;
  const link = new Uint8Array(buffer, offset, LINK_BYTES - begin).toHex();
  const [, to, from, rest] = /^(.{12})(.{12})(.*)$/.exec(link)!;
  const ip = `IPv4 ${formatAddress(decision.source)} > ${formatAddress(destination)}`;
  const udp = `UDP ${ports >>> 16} > ${ports & 0xffff}`;
  const mac = (hex: string) => hex.match(/../g)!.join(":");
  const says = `${mac(from)} > ${mac(to)} ${rest}, ${ip}, ${udp}, ` +
    `at most ${result & 0xffff} bytes`;
  return { about, says };
}

function dropStep(counter: number, destination: number, dev: string): Step {
  const [name, help] = Object.entries(NET.help)[counter];
  const dst = formatAddress(destination);
  const cause = name === "tx_drop_link_down"
    ? `ip link show dev ${dev}`
    : /source/.test(name)
    ? "ip address show"
    : `ip route show table all to match ${dst}`;
  return { about: "dropped", says: `${name}: ${help} See '${cause}'.` };
}
