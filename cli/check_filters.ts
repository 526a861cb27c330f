/**
 * Which rules of the packet filter `tegula check` names: those that the kernel would apply to datagrams of
 * ours, and that what goes through AF_XDP never meets.
 */

import { type Finding, ok, warn } from "./check_findings.ts";
import { messageOf } from "./errors.ts";
import { type Match, readRuleset, type Rule, type Ruleset } from "./filter_rules.ts";

/** What AF_XDP is to take. */
export interface Ours {
  readonly interfaces: readonly string[];
  /** UDP ports; none: whichever. */
  readonly ports: readonly number[];
}

const SUBJECT = "packet filter";
/** Instead of taking rules away. */
const INSTEAD = "tegula run --provider socket   # heeds them, at the pace of the kernel's sockets";
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
    return findingsOf(readRuleset(), ours);
  } catch (error) {
    const [says, fix] = error instanceof Deno.errors.NotFound
      ? ["there is no nft to tell its rules", "apt-get install nftables   # and check again"]
      : [`its rules cannot be read: ${messageOf(error)}`, "sudo tegula check"];
    return [warn(SUBJECT, says, fix)];
  }
}

/** What is to be said of a ruleset. */
function findingsOf({ rules, chains }: Ruleset, ours: Ours): Finding[] {
  const passed = chains.filter(({ hook, interfaces }) =>
    HOOKS.includes(hook) &&
    (interfaces === null || interfaces.some((name) => ours.interfaces.includes(name)))
  );
  const reached = reachedFrom(passed.map(({ chain }) => chain), rules);
  const findings = [
    ...passed.filter(({ policy }) => policy === "drop").map(({ chain }) => {
      const says = "drops what no rule of it accepts, but nothing that AF_XDP takes or sends";
      return warn(SUBJECT, `chain ${chain} ${says}`, INSTEAD);
    }),
    ...rules.filter(({ chain }) => reached.has(chain)).flatMap((rule) => findingOf(rule, ours)),
  ];
  if (findings.some(({ verdict }) => verdict !== "ok")) return findings;
  return [...findings, ok(SUBJECT, "no rule that would be missed")];
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
    return [warn(SUBJECT, says, `${removal}   # or: ${INSTEAD}`)];
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
