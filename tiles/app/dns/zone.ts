/**
 * A zone and what it says to a question: RFC 1034 §4.3.2, wildcards as RFC 4592 has them, negative
 * answers as RFC 2308.
 */

import type { ZoneRecord } from "./zone_file.ts";

/** What a zone says. Records as npm's dns-packet takes them. */
export interface Reply {
  readonly rcode: "NOERROR" | "NXDOMAIN";
  /** Whether we are the authority: not below a delegation. */
  readonly authoritative: boolean;
  readonly answers: ZoneRecord[];
  readonly authorities: ZoneRecord[];
  readonly additionals: ZoneRecord[];
}

/** Aliases that are followed at most. */
const LONGEST_CHAIN = 8;

/** The records of one zone. */
export class Zone {
  /** Its own name, in lower case. */
  readonly origin: string;
  /** Records by lower-case owner and type; names between owners and the origin are there, empty. */
  readonly #nodes = new Map<string, Map<string, ZoneRecord[]>>();
  readonly #soa: ZoneRecord;

  /** Throws SyntaxError when the records are no zone. */
  constructor(records: readonly ZoneRecord[]) {
    const soas = records.filter(({ type }) => type === "SOA");
    if (soas.length !== 1) throw new SyntaxError(`a zone has one SOA record, not ${soas.length}`);
    this.#soa = soas[0];
    this.origin = this.#soa.name.toLowerCase();
    for (const record of records) this.#add(record);
    for (const [name, types] of this.#nodes) {
      if (types.has("CNAME") && types.size > 1) {
        throw new SyntaxError(`${name} is an alias (CNAME) and has other records too`);
      }
    }
  }

  #add(record: ZoneRecord): void {
    const owner = record.name.toLowerCase();
    if (!this.has(owner)) throw new SyntaxError(`${record.name} is not in zone ${this.origin}`);
    for (let name = owner; name !== this.origin; name = parent(name)) this.#node(name);
    const types = this.#node(owner);
    types.set(record.type, [...types.get(record.type) ?? [], record]);
  }

  #node(name: string): Map<string, ZoneRecord[]> {
    let node = this.#nodes.get(name);
    if (node === undefined) this.#nodes.set(name, node = new Map());
    return node;
  }

  /** Whether `name`, in lower case, is the zone's own or below it. */
  has(name: string): boolean {
    return this.origin === "" || name === this.origin || name.endsWith(`.${this.origin}`);
  }

  /** What the zone says to a question about `name`, which is in it. `type` as in "AAAA", or "ANY". */
  ask(name: string, type: string): Reply {
    const answers: ZoneRecord[] = [];
    for (let at = name, links = 0; links < LONGEST_CHAIN && this.has(at.toLowerCase()); links++) {
      const found = this.#find(at.toLowerCase());
      if (found.delegation !== null) {
        const addresses = this.#addresses(found.delegation);
        const referral = { authorities: found.delegation, additionals: addresses };
        return { rcode: "NOERROR", authoritative: answers.length > 0, answers, ...referral };
      }
      const { node } = found;
      if (node === null) return this.#negative("NXDOMAIN", answers);
      const owned = (records: readonly ZoneRecord[]) =>
        records.map((record) => ({ ...record, name: at }));
      const alias = node.get("CNAME");
      if (alias !== undefined && type !== "CNAME" && type !== "ANY") {
        answers.push(...owned(alias));
        at = alias[0].data as string;
        continue;
      }
      const records = type === "ANY" ? [...node.values()].flat() : node.get(type) ?? [];
      if (records.length === 0) return this.#negative("NOERROR", answers);
      answers.push(...owned(records));
      break;
    }
    const additionals = this.#addresses(answers);
    return { rcode: "NOERROR", authoritative: true, answers, authorities: [], additionals };
  }

  /** The node of `name`, one that a wildcard stands for, or the delegation that it is below. */
  #find(name: string): { node: Map<string, ZoneRecord[]> | null; delegation: ZoneRecord[] | null } {
    const above: string[] = [];
    for (let at = name; at !== this.origin; at = parent(at)) above.unshift(at);
    let encloser = this.origin;
    for (const at of above) {
      const node = this.#nodes.get(at);
      if (node === undefined) break;
      const delegation = node.get("NS");
      if (delegation !== undefined) return { node: null, delegation };
      encloser = at;
    }
    const node = this.#nodes.get(name) ?? this.#nodes.get(`*.${encloser}`) ?? null;
    return { node, delegation: null };
  }

  /** Nothing: the SOA record says for how long that is so. */
  #negative(rcode: Reply["rcode"], answers: ZoneRecord[]): Reply {
    const { minimum } = this.#soa.data as { minimum: number };
    const soa = { ...this.#soa, ttl: Math.min(this.#soa.ttl, minimum) };
    return { rcode, authoritative: true, answers, authorities: [soa], additionals: [] };
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

/** The host that a record names for who will ask for its address next. */
function hostOf({ type, data }: ZoneRecord): string | null {
  if (type === "NS") return data as string;
  if (type === "MX") return (data as { exchange: string }).exchange;
  return type === "SRV" ? (data as { target: string }).target : null;
}

function parent(name: string): string {
  const dot = name.indexOf(".");
  return dot < 0 ? "" : name.slice(dot + 1);
}
