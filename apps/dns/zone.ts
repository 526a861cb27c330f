/**
 * A zone and its answers (RFC 1034 §4.3.2), with wildcards (RFC 4592) and negative answers (RFC 2308). Each
 * name is looked up here once, before the first question (`names.ts`).
 */

import packet from "dns-packet";
import { rawType, type ZoneRecord } from "./zone_file.ts";

/** An answer. Records are in the form of npm's dns-packet. */
export interface Reply {
  readonly rcode: "NOERROR" | "NXDOMAIN";
  /** Whether we are the authority: not below a delegation. */
  readonly authoritative: boolean;
  readonly answers: readonly ZoneRecord[];
  readonly authorities: readonly ZoneRecord[];
  readonly additionals: readonly ZoneRecord[];
}

/** The answers for a name: to questions of the types that it has, and to all others. */
export interface Replies {
  readonly byType: ReadonlyMap<string, Reply>;
  readonly others: Reply;
}

const DS = rawType(43);
/** SVCB and HTTPS, and where the target's name is in their data (RFC 9460 §2.2). */
const [SERVICE_TYPES, SERVICE_TARGET] = [[rawType(64), rawType(65)], 2];
/** The most aliases that are followed. */
const LONGEST_CHAIN = 8;

/** A name right below `name` that no zone file can have, so that it is there by a wildcard or not at all. */
export function strangerBelow(name: string): string {
  return below("\0", name);
}

/** The records of one zone. */
export class Zone {
  /** Its own name, in lower case. */
  readonly origin: string;
  /** Answers for a name that does not exist, and for one without records of the type. */
  readonly missing: Reply;
  readonly empty: Reply;
  /** Records by lower-case owner and type; names between owners and the origin are there, empty. */
  readonly #nodes = new Map<string, Map<string, ZoneRecord[]>>();

  /** Throws SyntaxError if the records do not form a zone. */
  constructor(records: readonly ZoneRecord[]) {
    const soas = records.filter(({ type }) => type === "SOA");
    if (soas.length !== 1) {
      const where = soas.length > 1 ? `line ${soas[1].line}: ` : "";
      throw new SyntaxError(`${where}a zone has one SOA record, not ${soas.length}`);
    }
    const [soa] = soas;
    this.origin = soa.name.toLowerCase();
    for (const record of records) this.#add(record);
    for (const node of this.#nodes.values()) tidy(node);
    // RFC 2308 §5: a negative answer is cached no longer than its SOA record.
    const ttl = Math.min(soa.ttl, (soa.data as { minimum: number }).minimum);
    const negative = { authoritative: true, answers: [], additionals: [] };
    this.missing = { ...negative, rcode: "NXDOMAIN", authorities: [{ ...soa, ttl }] };
    this.empty = { ...this.missing, rcode: "NOERROR" };
  }

  #add(record: ZoneRecord): void {
    const owner = record.name.toLowerCase();
    if (!this.#has(owner)) {
      throw new SyntaxError(`line ${record.line}: ${record.name} is not in zone ${this.origin}`);
    }
    for (let name = owner; name !== this.origin; name = parentOf(name)) this.#node(name);
    const node = this.#node(owner);
    const others = node.get(record.type);
    if (others === undefined) node.set(record.type, [record]);
    else others.push(record);
  }

  #node(name: string): Map<string, ZoneRecord[]> {
    let node = this.#nodes.get(name);
    if (node === undefined) this.#nodes.set(name, node = new Map());
    return node;
  }

  /** Whether `name`, in lower case, is the zone's own or below it. */
  #has(name: string): boolean {
    return this.origin === "" || name === this.origin || name.endsWith(`.${this.origin}`);
  }

  /**
   * All names that exist in it, in lower case, and then those that are there by a wildcard and that an
   * alias leads to: whoever asks about one of these is told of its alias once, and not, as others whom
   * aliases lead there, twice.
   */
  names(): Iterable<string> {
    const names = new Set(this.#nodes.keys());
    for (const node of this.#nodes.values()) {
      const target = (node.get("CNAME")?.[0].data as string | undefined)?.toLowerCase();
      if (target === undefined || !this.#has(target)) continue;
      if (this.#find(target).node?.has("CNAME")) names.add(target);
    }
    return names;
  }

  /** The answers for `name`, which is in the zone. */
  about(name: string): Replies {
    const byType = new Map<string, Reply>();
    const links: ZoneRecord[] = [];
    const passed = new Set<string>();
    for (let at = name; links.length < LONGEST_CHAIN && this.#has(at.toLowerCase());) {
      const asked = at.toLowerCase();
      // In a loop of aliases each is sent once.
      if (passed.has(asked)) break;
      passed.add(asked);
      const { node, delegation } = this.#find(asked);
      if (delegation !== null) {
        // RFC 4035 §3.1.4.1: DS records belong to the parent side of a zone cut.
        if (delegation[0].name.toLowerCase() === asked) {
          const signers = this.#nodes.get(asked)?.get(DS);
          const reply = signers === undefined
            ? after(links, this.empty)
            : this.#positive([...links, ...signers]);
          byType.set(DS, reply);
        }
        return { byType, others: this.#referral(links, delegation) };
      }
      if (node === null) return { byType, others: after(links, this.missing) };
      const alias = node.get("CNAME")?.[0];
      for (const [type, records] of node) {
        const owned = records.map((record) => ({ ...record, name: at }));
        const reply = this.#positive([...links, ...owned]);
        // RFC 8482 §4.1: the records of one type suffice as an answer to ANY.
        if (links.length === 0 && !byType.has("ANY")) byType.set("ANY", reply);
        if (links.length === 0 || alias === undefined) byType.set(type, reply);
      }
      if (alias === undefined) return { byType, others: after(links, this.empty) };
      links.push({ ...alias, name: at });
      at = alias.data as string;
    }
    return { byType, others: this.#positive(links) };
  }

  /** The node of `name`, one that a wildcard stands for, or the delegation that it is below. */
  #find(name: string): { node: Map<string, ZoneRecord[]> | null; delegation: ZoneRecord[] | null } {
    const above: string[] = [];
    for (let at = name; at !== this.origin; at = parentOf(at)) above.unshift(at);
    let encloser = this.origin;
    for (const at of above) {
      const node = this.#nodes.get(at);
      if (node === undefined) break;
      const delegation = node.get("NS");
      if (delegation !== undefined) return { node: null, delegation };
      encloser = at;
    }
    const node = this.#nodes.get(name) ?? this.#nodes.get(below("*", encloser)) ?? null;
    return { node, delegation: null };
  }

  #positive(answers: readonly ZoneRecord[]): Reply {
    const additionals = this.#addresses(answers);
    return { rcode: "NOERROR", authoritative: true, answers, authorities: [], additionals };
  }

  #referral(answers: readonly ZoneRecord[], authorities: readonly ZoneRecord[]): Reply {
    const [authoritative, additionals] = [answers.length > 0, this.#addresses(authorities)];
    return { rcode: "NOERROR", authoritative, answers, authorities, additionals };
  }

  /** Addresses that the zone has of the hosts that `records` name. */
  #addresses(records: readonly ZoneRecord[]): ZoneRecord[] {
    const hosts = new Set(records.map(hostOf).filter((host) => host !== null));
    return [...hosts].flatMap((host) => {
      const node = this.#nodes.get(host.toLowerCase());
      return [...node?.get("A") ?? [], ...node?.get("AAAA") ?? []];
    });
  }
}

/** A negative reply with the aliases that led to it. */
function after(links: readonly ZoneRecord[], negative: Reply): Reply {
  return links.length === 0 ? negative : { ...negative, answers: links };
}

/** Makes of a node's records what RFC 2181 §5 wants: each there once, all of a type with one TTL. */
function tidy(node: Map<string, ZoneRecord[]>): void {
  for (const [type, records] of node) {
    const ttl = records.reduce((least, { ttl }) => Math.min(least, ttl), Infinity);
    const once = new Map(records.map((each) => [JSON.stringify(each.data), { ...each, ttl }]));
    node.set(type, [...once.values()]);
  }
  const aliases = node.get("CNAME");
  if (aliases !== undefined && (node.size > 1 || aliases.length > 1)) {
    const [{ line, name }] = aliases;
    throw new SyntaxError(`line ${line}: ${name} is an alias (CNAME) and has other records too`);
  }
}

/** The host that a record names, whose address a client needs next. */
function hostOf({ type, data }: ZoneRecord): string | null {
  if (type === "NS") return data as string;
  if (type === "MX") return (data as { exchange: string }).exchange;
  if (type === "SRV") return (data as { target: string }).target;
  if (!SERVICE_TYPES.includes(type)) return null;
  // The root stands for the record's owner (RFC 9460 §2.5.2).
  const target = packet.name.decode(data, SERVICE_TARGET);
  return target === "." ? null : target;
}

/** The name that `name` is right below; of the root and of what is below it the root, "". */
export function parentOf(name: string): string {
  const dot = name.indexOf(".");
  return dot < 0 ? "" : name.slice(dot + 1);
}

function below(label: string, name: string): string {
  return name === "" ? label : `${label}.${name}`;
}
