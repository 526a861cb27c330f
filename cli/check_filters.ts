/**
 * Which rules of the packet filter `tegula check` names: those that the kernel would apply to datagrams of
 * ours, and that what goes through AF_XDP never meets. They are read by `nft -j list ruleset`, which
 * shows what iptables has made too, but for iptables-legacy.
 */

import { type Again, type Finding, ok, SOCKETS, warn } from "./check_findings.ts";
import { messageOf } from "./errors.ts";

/** What a rule asks of a packet. */
interface Match {
  /** `iifname`, `l4proto`, `udp dport` for example. */
  readonly key: string;
  readonly negated: boolean;
  /** Values and ranges, one of which it is; null: not understood, as a set that has a name is not. */
  readonly values: readonly Value[] | null;
}

/** A value, or a range with its ends. A text may end with `*`. */
type Value = string | number | readonly [number, number];

/** A rule. */
interface Rule {
  /** Where it stands, as a command names it: `inet filter input`. */
  readonly chain: string;
  /** What it is called for a reader. */
  readonly name: string;
  readonly matches: readonly Match[];
  /** What it does with a packet, in the filter's own words: `drop`, `counter`. */
  readonly does: readonly string[];
  /** Chains that it leads to. */
  readonly targets: readonly string[];
  /** The command that takes it away. */
  readonly removal: string;
}

/** A chain that the kernel itself leads packets to. */
interface BaseChain {
  readonly chain: string;
  readonly hook: string;
  /** The interfaces that it is for; null: all. */
  readonly interfaces: readonly string[] | null;
  /** What becomes of a packet that no rule decides about. */
  readonly policy: string;
}

/** What AF_XDP is to take. */
export interface Ours {
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
/** Names of protocols in the place of their numbers. */
const NUMBERS: Readonly<Record<string, number>> = { udp: 17, ip: 0x0800 };

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
  const passed = chains.filter(({ hook, interfaces }) =>
    HOOKS.includes(hook) &&
    (interfaces === null || interfaces.some((name) => ours.interfaces.includes(name)))
  );
  const reached = reachedFrom(passed.map(({ chain }) => chain), rules);
  const findings = [
    ...passed.filter(({ policy }) => policy === "drop").map(({ chain }) => {
      const says = "drops what no rule of it accepts, but nothing that AF_XDP takes or sends";
      return warn(SUBJECT, `chain ${chain} ${says}`, instead(ours));
    }),
    ...rules.filter(({ chain }) => reached.has(chain)).flatMap((rule) => findingOf(rule, ours)),
  ];
  if (findings.some(({ verdict }) => verdict !== "ok")) return findings;
  return [...findings, ok(SUBJECT, "no rule that would be missed")];
}

/** Instead of taking rules away. */
function instead({ again }: Ours): string {
  return `${again("run", SOCKETS)}   # heeds them, at the pace of the kernel's sockets`;
}

function reachedFrom(chains: readonly string[], rules: readonly Rule[]): ReadonlySet<string> {
  const reached = new Set(chains);
  // A set goes on with what is added to it on the way.
  for (const chain of reached) {
    for (const rule of rules) {
      if (rule.chain === chain) { for (const target of rule.targets) reached.add(target); }
    }
  }
  return reached;
}

function findingOf({ name, matches, does, removal }: Rule, ours: Ours): Finding[] {
  if (!matches.every((match) => mayMatch(match, ours))) return [];
  const isNamed = matches.some(({ key }) => INTERFACE.test(key) || PORT.test(key));
  const missed = does.filter((each) => !(isNamed ? LETS_PASS : HARMLESS).includes(each));
  const what = [...new Set(does)].join(", ");
  if (missed.length > 0) {
    const says = `${name} (${what}) does not see what AF_XDP takes or sends`;
    return [warn(SUBJECT, says, `${removal}   # or: ${instead(ours)}`)];
  }
  if (!isNamed || does.length === 0) return [];
  return [ok(SUBJECT, `${name} (${what}) lets pass what passes anyway`)];
}

const INTERFACE = /^[io]if(name)?$/;
const PORT = /^(udp|th) [ds]port$/;

/** Whether a datagram of ours can have what is asked for; what is not understood it can. */
function mayMatch({ key, negated, values }: Match, { interfaces, ports }: Ours): boolean {
  const candidates: readonly (string | number)[] | null = INTERFACE.test(key)
    ? interfaces
    : PORT.test(key)
    ? ports.length > 0 ? ports : null
    : /^(l4proto|ip protocol)$/.test(key)
    ? [NUMBERS.udp]
    : key === "nfproto"
    ? ["ipv4"]
    : /^(protocol|ether type)$/.test(key)
    ? [NUMBERS.ip]
    : /^(tcp|sctp|dccp|icmp|icmpv6|igmp|ip6|arp|esp|ah) /.test(key)
    ? []
    : null;
  if (candidates === null || values === null) return true;
  const isOneOf = (candidate: string | number) =>
    values.some((value) =>
      typeof value === "object"
        ? value[0] <= Number(candidate) && Number(candidate) <= value[1]
        : typeof value === "string" && value.endsWith("*")
        ? String(candidate).startsWith(value.slice(0, -1))
        : (NUMBERS[value] ?? value) === candidate
    );
  return negated ? !candidates.every(isOneOf) : candidates.some(isOneOf);
}

// deno-lint-ignore no-explicit-any -- nft's JSON (libnftables-json(5))
type Json = any;

/** Families whose chains see IPv4. */
const FAMILIES = ["ip", "inet", "netdev"];
/** Statements that decide nothing and change nothing, or are told apart from what a rule does. */
const SILENT = ["match", "jump", "goto", "return", "continue", "xt"];

/** Reads the rules of this network namespace. Throws Error, Deno's NotFound where there is no nft. */
function readRules(): { rules: Rule[]; chains: BaseChain[] } {
  const args = ["-j", "list", "ruleset"];
  const { success, stdout, stderr } = new Deno.Command("nft", { args }).outputSync();
  const [printed, said] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  if (!success) throw new Error(`nft: ${said.trim().split("\n")[0]}`);
  const objects: Json[] = JSON.parse(printed).nftables;
  const of = (kind: string): Json[] =>
    objects.flatMap((each) => each[kind] ?? []).filter(({ family }) => FAMILIES.includes(family));
  const rules = of("rule").map(({ family, table, chain, handle, comment, expr }): Rule => {
    const where = `${family} ${table}`;
    return {
      chain: `${where} ${chain}`,
      name: `rule ${where} ${chain} handle ${handle}${comment ? ` "${comment}"` : ""}`,
      matches: expr.flatMap(({ match }: Json) => match === undefined ? [] : [nftMatch(match)]),
      does: expr.flatMap((each: Json) =>
        each.xt?.type === "target"
          ? [each.xt.name]
          : Object.keys(each).filter((statement) => !SILENT.includes(statement))
      ),
      // Those of a map of verdicts too.
      targets: [...JSON.stringify(expr).matchAll(/"target":\s*"([^"]+)"/g)]
        .map(([, to]) => `${where} ${to}`),
      removal: `nft delete rule ${where} ${chain} handle ${handle}`,
    };
  });
  const chains = of("chain").filter(({ hook }) => hook !== undefined).map((
    { family, table, name, hook, dev, policy },
  ) => ({
    chain: `${family} ${table} ${name}`,
    hook,
    interfaces: dev === undefined ? null : [dev].flat(),
    policy: policy ?? "accept",
  }));
  return { rules, chains };
}

function nftMatch({ op, left, right }: Json): Match {
  const key = left?.meta?.key ??
    (left?.payload?.protocol ? `${left.payload.protocol} ${left.payload.field}` : "");
  const values = [right?.set ?? right].flat().map((each: Json) => each?.range ?? each);
  const isPlain = (each: Json) =>
    Array.isArray(each) || typeof each === "number" || typeof each === "string" && each[0] !== "@";
  return { key, negated: op === "!=", values: values.every(isPlain) ? values : null };
}
