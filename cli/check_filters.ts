/**
 * Which rules of the packet filter `tegula check` names: those that the kernel would apply to datagrams of
 * ours, and that what goes through AF_XDP never meets. They are read by `nft -j list ruleset`, which
 * shows what iptables has made too, but for iptables-legacy.
 */

import { type Again, type Finding, ok, SOCKETS, warn } from "./check_findings.ts";
import { messageOf } from "./errors.ts";

// deno-lint-ignore no-explicit-any -- nft's JSON (libnftables-json(5))
type Json = any;

/** What AF_XDP is to take. */
interface Ours {
  readonly interfaces: readonly string[];
  /** UDP ports; none: whichever. */
  readonly ports: readonly number[];
  readonly again: Again;
}

const SUBJECT = "packet filter";
/** Hooks that a datagram to or from this host passes. */
const HOOKS = ["ingress", "prerouting", "input", "output", "postrouting", "egress"];
/** What a rule may do without anybody missing it who did not ask for it by name. */
const HARMLESS = ["accept", "counter", "log", "return"];
/** A rule that only lets pass is not missed. */
const LETS_PASS = ["accept", "return"];
/** Statements that decide nothing and change nothing, or are told apart from what a rule does. */
const SILENT = ["match", "jump", "goto", "return", "continue", "xt"];
/** Families whose chains see IPv4. */
const FAMILIES = ["ip", "inet", "netdev"];
/** Names of protocols in the place of their numbers. */
const NUMBERS: Readonly<Record<string, number>> = { udp: 17, ip: 0x0800 };

const INTERFACE = /^[io]if(name)?$/;
const PORT = /^(udp|th) [ds]port$/;
/** What a datagram of ours has of what a match may ask for; of all else it may have anything. */
const OURS: readonly [key: RegExp, has: (ours: Ours) => readonly (string | number)[] | null][] = [
  [INTERFACE, ({ interfaces }) => interfaces],
  [PORT, ({ ports }) => ports.length > 0 ? ports : null],
  [/^(l4proto|ip protocol)$/, () => [NUMBERS.udp]],
  [/^nfproto$/, () => ["ipv4"]],
  [/^(protocol|ether type)$/, () => [NUMBERS.ip]],
  [/^(tcp|sctp|dccp|icmp|icmpv6|igmp|ip6|arp|esp|ah) /, () => []],
];

/** Looks at the rules of this namespace. */
export function checkFilters(ours: Ours): Finding[] {
  try {
    return findAll(ours);
  } catch (error) {
    const [says, fix] = error instanceof Deno.errors.NotFound
      ? ["there is no nft to tell its rules", "apt-get install nftables   # and check again"]
      : [`its rules cannot be read: ${messageOf(error)}`, `sudo ${ours.again("check", {})}`];
    return [warn(SUBJECT, says, fix)];
  }
}

function findAll(ours: Ours): Finding[] {
  const { rules, chains } = readRules();
  const passed = chains.filter(({ hook, dev }) =>
    HOOKS.includes(hook) &&
    (dev === undefined || [dev].flat().some((name) => ours.interfaces.includes(name)))
  );
  const findings = [
    ...passed.filter(({ policy }) => policy === "drop").map(({ chain }) => {
      const says = "drops what no rule of it accepts, but nothing that AF_XDP takes or sends";
      return warn(SUBJECT, `chain ${chain} ${says}`, instead(ours));
    }),
    ...reachedFrom(passed.map(({ chain }) => chain), rules)
      .flatMap((rule) => findingOf(rule, ours)),
  ];
  if (findings.some(({ verdict }) => verdict !== "ok")) return findings;
  return [...findings, ok(SUBJECT, "no rule that would be missed")];
}

/** Instead of taking rules away. */
function instead({ again }: Ours): string {
  return `${again("run", SOCKETS)}   # heeds them, at the pace of the kernel's sockets`;
}

/** Reads the rules of this network namespace. Throws Error, Deno's NotFound where there is no nft. */
function readRules(): { rules: Json[]; chains: Json[] } {
  const args = ["-j", "list", "ruleset"];
  const { success, stdout, stderr } = new Deno.Command("nft", { args }).outputSync();
  const [printed, said] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  if (!success) throw new Error(`nft: ${said.trim().split("\n")[0]}`);
  const objects: Json[] = JSON.parse(printed).nftables;
  /** All of a kind, each with where it stands, as a command names that: `inet filter input`. */
  const all = (kind: string, name: string): Json[] =>
    objects.flatMap((each) => each[kind] ?? [])
      .filter(({ family }) => FAMILIES.includes(family))
      .map((each) => ({ ...each, chain: `${each.family} ${each.table} ${each[name]}` }));
  return {
    rules: all("rule", "chain"),
    // Of chains those that the kernel itself leads packets to.
    chains: all("chain", "name").filter(({ hook }) => hook !== undefined),
  };
}

/** The rules in these chains, and in those that they lead to. */
function reachedFrom(chains: readonly string[], rules: readonly Json[]): Json[] {
  const reached = new Set(chains);
  // A set goes on with what is added to it on the way.
  for (const chain of reached) {
    for (const { family, table, expr } of rules.filter((rule) => rule.chain === chain)) {
      // Those of a map of verdicts too.
      const targets = JSON.stringify(expr).matchAll(/"target":\s*"([^"]+)"/g);
      for (const [, target] of targets) reached.add(`${family} ${table} ${target}`);
    }
  }
  return rules.filter(({ chain }) => reached.has(chain));
}

function findingOf({ chain, handle, comment, expr }: Json, ours: Ours): Finding[] {
  const matches: Json[] = expr.flatMap(({ match }: Json) => match ?? []);
  if (!matches.every((match) => mayMatch(match, ours))) return [];
  // What it does with a packet, in the filter's own words.
  const does: string[] = expr.flatMap((each: Json) =>
    each.xt?.type === "target"
      ? [each.xt.name]
      : Object.keys(each).filter((statement) => !SILENT.includes(statement))
  );
  const isNamed = matches.map(keyOf).some((key) => INTERFACE.test(key) || PORT.test(key));
  const isMissed = does.some((each) => !(isNamed ? LETS_PASS : HARMLESS).includes(each));
  if (!isMissed && (!isNamed || does.length === 0)) return [];
  const rule = `${chain} handle ${handle}`;
  const name = `rule ${rule}${comment ? ` "${comment}"` : ""} (${[...new Set(does)].join(", ")})`;
  return [
    isMissed
      ? warn(
        SUBJECT,
        `${name} does not see what AF_XDP takes or sends`,
        `nft delete rule ${rule}   # or: ${instead(ours)}`,
      )
      : ok(SUBJECT, `${name} lets pass what passes anyway`),
  ];
}

/** What a match asks for: `iifname`, `l4proto`, `udp dport` for example. */
function keyOf({ left }: Json): string {
  return left?.meta?.key ??
    (left?.payload?.protocol ? `${left.payload.protocol} ${left.payload.field}` : "");
}

/** Whether a datagram of ours can have what is asked for; what is not understood it can. */
function mayMatch(match: Json, ours: Ours): boolean {
  const key = keyOf(match);
  const candidates = OURS.find(([pattern]) => pattern.test(key))?.[1](ours) ?? null;
  // Values, of which a text may end with `*`, and ranges. A set that has a name is one that begins with @.
  const values: Json[] = [match.right?.set ?? match.right].flat()
    .map((each: Json) => each?.range ?? each);
  const isPlain = (each: Json) =>
    Array.isArray(each) || typeof each === "number" || typeof each === "string" && each[0] !== "@";
  if (candidates === null || !values.every(isPlain)) return true;
  const isOneOf = (candidate: string | number) =>
    values.some((value) =>
      Array.isArray(value)
        ? value[0] <= Number(candidate) && Number(candidate) <= value[1]
        : String(value).endsWith("*")
        ? String(candidate).startsWith(value.slice(0, -1))
        : (NUMBERS[value] ?? value) === candidate
    );
  return match.op === "!=" ? !candidates.every(isOneOf) : candidates.some(isOneOf);
}
