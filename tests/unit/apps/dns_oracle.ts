// SPDX-License-Identifier: Apache-2.0
/**
 * What a name server is to say, the slow and obvious way: RFC 1034 §4.3.2 and RFC 4592 read aloud, over
 * all records at each step. Names are lists of labels in lower case, the first label first.
 */

/** A record. What names are in its data are in `target`, too. */
export interface OracleRecord {
  readonly owner: readonly string[];
  readonly type: string;
  readonly ttl: number;
  /** As the zone file has it. */
  readonly data: string;
  /** The name that it leads to: of an alias, a host, a server. */
  readonly target?: readonly string[];
}

/** A zone: its name and its records, the SOA record among them. */
export interface OracleZone {
  readonly origin: readonly string[];
  /** How long at most is kept that something is not there. */
  readonly minimum: number;
  readonly records: readonly OracleRecord[];
}

/** An answer; each record is `name ttl type data`, each section in order of the alphabet. */
export interface OracleAnswer {
  readonly rcode: string;
  readonly aa: boolean;
  readonly answers: string[];
  readonly authorities: string[];
  readonly additionals: string[];
}

const REFUSED = { rcode: "REFUSED", aa: false, answers: [], authorities: [], additionals: [] };
const LONGEST_CHAIN = 8;

/** What servers of `zones` say to a question; to ANY the first type that the zone file has. */
export function oracle(
  zones: readonly OracleZone[],
  name: readonly string[],
  type: string,
): OracleAnswer {
  const [own, above] = zones.filter(({ origin }) => isWithin(name, origin))
    .sort((a, b) => b.origin.length - a.origin.length);
  // RFC 4035 §3.1.4.1: what is said about a zone's signer is in the zone above.
  const zone = type === "DS" && above !== undefined && isSame(own.origin, name) ? above : own;
  return zone === undefined ? REFUSED : new Oracle(zone).ask(name, type);
}

class Oracle {
  constructor(readonly zone: OracleZone) {}

  ask(asked: readonly string[], type: string): OracleAnswer {
    const { origin, minimum } = this.zone;
    const answers: string[] = [];
    const authorities: string[] = [];
    let additionals: string[] = [];
    const say = (rcode: string, aa = true) => ({
      rcode,
      aa,
      answers: sorted(answers),
      authorities: sorted(authorities),
      additionals: sorted(additionals),
    });
    const deny = (rcode: string) => {
      const [soa] = this.#set(origin, "SOA");
      authorities.push(shown({ ...soa, ttl: Math.min(soa.ttl, minimum) }, origin));
      return say(rcode);
    };
    const passed: string[] = [];
    for (let name = asked; passed.length < LONGEST_CHAIN && isWithin(name, origin);) {
      if (passed.includes(name.join("."))) break;
      passed.push(name.join("."));
      const cut = ends(name).reverse()
        .find((end) => end.length > origin.length && this.#set(end, "NS").length > 0);
      if (cut !== undefined && isSame(cut, name) && type === "DS") return deny("NOERROR");
      if (cut !== undefined) {
        const servers = this.#set(cut, "NS");
        authorities.push(...servers.map((record) => shown(record, cut)));
        additionals = this.#addresses(servers);
        return say("NOERROR", answers.length > 0);
      }
      let source = name;
      if (!this.#exists(name)) {
        const encloser = ends(name).find((end) => this.#exists(end))!;
        source = ["*", ...encloser];
        if (!this.#exists(source)) return deny("NXDOMAIN");
      }
      const [alias] = this.#set(source, "CNAME");
      if (alias !== undefined && type !== "CNAME" && type !== "ANY") {
        answers.push(shown(alias, name));
        name = alias.target!;
        continue;
      }
      const first = this.zone.records.find(({ owner }) => isSame(owner, source))?.type ?? "A";
      const found = this.#set(source, type === "ANY" ? first : type);
      if (found.length === 0) return deny("NOERROR");
      answers.push(...found.map((record) => shown(record, name)));
      additionals = this.#addresses(found);
      return say("NOERROR");
    }
    return say("NOERROR");
  }

  /** Whether there is a name: it, or one below it, has records (RFC 4592 §2.2.2). */
  #exists(name: readonly string[]): boolean {
    return this.zone.records.some(({ owner }) => isWithin(owner, name));
  }

  #set(name: readonly string[], type: string): OracleRecord[] {
    const all = this.zone.records.filter((record) =>
      record.type === type && isSame(record.owner, name)
    );
    const ttl = Math.min(...all.map((record) => record.ttl));
    return all.map((record) => ({ ...record, ttl }));
  }

  #addresses(records: readonly OracleRecord[]): string[] {
    return records.filter(({ type }) => ["NS", "MX", "SRV"].includes(type)).flatMap(({ target }) =>
      this.#set(target!, "A").map((record) => shown(record, target!))
    );
  }
}

/** A name and those above it, down to the root. */
function ends(name: readonly string[]): string[][] {
  return Array.from({ length: name.length + 1 }, (_, i) => name.slice(i));
}

function isWithin(name: readonly string[], above: readonly string[]): boolean {
  return above.length <= name.length && isSame(name.slice(name.length - above.length), above);
}

function isSame(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((label, i) => label === b[i]);
}

function shown({ ttl, type, data }: OracleRecord, name: readonly string[]): string {
  return `${name.join(".")} ${ttl} ${type} ${data}`;
}

function sorted(records: readonly string[]): string[] {
  return [...new Set(records)].sort();
}
