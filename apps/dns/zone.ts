// SPDX-License-Identifier: Apache-2.0
/**
 * A zone and its answers (RFC 1034 §4.3.2), with wildcards (RFC 4592) and negative answers (RFC
 * 2308). `names.ts` looks up each name here once, before the first question.
 */

import { Buffer } from "node:buffer";
import { isIPv4, isIPv6 } from "node:net";
import packet from "dns-packet";
import types from "dns-packet/types.js";

/** An answer. Records are in the form of npm's dns-packet. */
export interface Reply {
  readonly rcode: "NOERROR" | "NXDOMAIN";
  /** Whether we are the authority: not below a delegation. */
  readonly authoritative: boolean;
  readonly answers: readonly ZoneRecord[];
  readonly authorities: readonly ZoneRecord[];
  readonly additionals: readonly ZoneRecord[];
}

/** The answers for a name: to questions for its types, and to all others. */
export interface Replies {
  readonly byType: ReadonlyMap<string, Reply>;
  readonly others: Reply;
}

const DS = rawType(43);
/** SVCB and HTTPS, and the offset of the target's name in their data (RFC 9460 §2.2). */
const [SERVICE_TYPES, SERVICE_TARGET] = [[rawType(64), rawType(65)], 2];
/** The most aliases that are followed. */
const LONGEST_CHAIN = 8;

/** A name directly below `name` that no zone file can have, so it exists only by a wildcard. */
export function strangerBelow(name: string): string {
  return below("\0", name);
}

export class Zone {
  /** Its own name, in lower case. */
  readonly origin: string;
  /** Answers for a missing name, and for a name without records of the type. */
  readonly missing: Reply;
  readonly empty: Reply;
  /** Records by lower-case owner and type. Names between owners and the origin are included, empty. */
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
   * All existing names, in lower case. Then alias targets that exist only by a wildcard that is
   * itself an alias. The answer for all names of the wildcard contains the alias of such a target,
   * so the answer to a question about the target would have the same record twice.
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
      // Send each alias of a loop once.
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
        const authoritative = links.length > 0;
        const referral = { authoritative, answers: links, authorities: delegation } as const;
        const additionals = this.#addresses(delegation);
        return { byType, others: { rcode: "NOERROR", ...referral, additionals } };
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

  /** The node of `name` or of its wildcard, or the delegation that it is below. */
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

  /** The zone's addresses of the hosts that `records` name. */
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

/** Normalises a node's records (RFC 2181 §5): no duplicates, and one TTL for each type. */
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

/** The name directly above `name`; for the root and names directly below it the root, "". */
export function parentOf(name: string): string {
  const dot = name.indexOf(".");
  return dot < 0 ? "" : name.slice(dot + 1);
}

function below(label: string, name: string): string {
  return name === "" ? label : `${label}.${name}`;
}

// Zone files in the standard format (RFC 1035 §5.1): entries of owner, TTL, class, type and data, where owner,
// TTL and class may be left out, parentheses go over lines, `;` begins a comment, and `$ORIGIN` and `$TTL`
// (RFC 2308 §4) set what is left out.

/** A resource record, its data as npm's dns-packet takes it. Names are absolute, without a last dot. */
interface ZoneRecord {
  readonly line: number;
  readonly name: string;
  readonly ttl: number;
  readonly type: string;
  readonly data: unknown;
}

/** A word of an entry. One in quotes is never a name relative to the origin, nor `@`. */
interface Word {
  readonly text: string;
  readonly quoted: boolean;
}

/** An entry: its words, whether its first one is the owner, and the line that it begins on. */
interface Entry {
  readonly words: readonly Word[];
  readonly owned: boolean;
  readonly line: number;
}

const CLASSES = ["IN", "CH", "HS", "CS"];
const TTL = /^(\d+[smhdw]?)+$/i;
const UNITS: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

/** Reads the zone file `text`. Throws SyntaxError that names the line. */
export function parseZoneFile(text: string): ZoneRecord[] {
  const state: State = { origin: null, ttl: null, lastTtl: null, owner: null };
  return [...entries(text)].flatMap((entry) => {
    try {
      return record(entry, state) ?? [];
    } catch (error) {
      throw new SyntaxError(
        `line ${entry.line}: ${error instanceof Error ? error.message : error}`,
      );
    }
  });
}

interface State {
  origin: string | null;
  ttl: number | null;
  lastTtl: number | null;
  owner: string | null;
}

function* entries(text: string): Generator<Entry> {
  const pattern = /;[^\n]*|"((?:[^"\\]|\\[^])*)"|[()\n]|[^\S\n]+|((?:[^\s"();\\]|\\[^])+)|(.)/gy;
  let words: Word[] = [];
  let [depth, line, begun] = [0, 1, 1];
  let [owned, fresh] = [true, true];
  for (const [token, quoted, plain, stray] of text.matchAll(pattern)) {
    if (stray !== undefined) throw new SyntaxError(`line ${line}: ${stray} has no end`);
    if (quoted !== undefined || plain !== undefined) {
      if (words.length === 0) begun = line;
      words.push({ text: quoted ?? plain, quoted: quoted !== undefined });
    } else if (token === "(") depth++;
    else if (token === ")") depth--;
    else if (fresh && /^[^\S\n]/.test(token)) owned = false;
    fresh = token === "\n" && depth === 0;
    if (fresh) {
      if (words.length > 0) yield { words, owned, line: begun };
      [words, owned] = [[], true];
    }
    line += token.split("\n").length - 1;
  }
  if (depth !== 0) throw new SyntaxError(`line ${line}: a parenthesis is not closed`);
  if (words.length > 0) yield { words, owned, line: begun };
}

/** The record of an entry; null for a directive. */
function record({ words, owned, line }: Entry, state: State): ZoneRecord | null {
  const rest = [...words];
  if (words[0].text.startsWith("$")) {
    directive(rest, state);
    return null;
  }
  if (owned) state.owner = absolute(rest.shift()!, state);
  if (state.owner === null) throw new Error("the first entry has no owner");
  let ttl: number | null = null;
  for (; rest.length > 0; rest.shift()) {
    const { text } = rest[0];
    if (ttl === null && TTL.test(text)) ttl = seconds(text);
    else if (!CLASSES.includes(text.toUpperCase())) break;
    else if (text.toUpperCase() !== "IN") throw new Error(`class ${text} is not served, only IN`);
  }
  const { type, read } = typeOf(rest.shift()?.text.toUpperCase() ?? "");
  const fields = new Fields(rest, state);
  const data = rest[0]?.text === "\\#" ? unknownForm(type, fields) : read(fields);
  if (rest.length > 0) throw new Error(`'${rest[0].text}' is too much for type ${type}`);
  // The default TTL is from $TTL (RFC 2308 §4), else from the last record (RFC 1035 §5.1).
  const used = ttl ?? state.ttl ?? state.lastTtl;
  if (used === null) throw new Error("no TTL: give one, or $TTL before it");
  state.lastTtl = used;
  return { line, name: state.owner, ttl: used, type, data };
}

function directive(words: Word[], state: State): void {
  const name = words.shift()!.text.toUpperCase();
  const value = words.shift();
  if (value === undefined) throw new Error(`${name} lacks its value`);
  if (name === "$ORIGIN") state.origin = absolute(value, state);
  else if (name === "$TTL" && TTL.test(value.text)) state.ttl = seconds(value.text);
  else throw new Error(`${name} ${value.text} is not understood; $ORIGIN and $TTL are`);
}

/** Characters of names. dns-packet would treat an escaped dot as a dot, and non-ASCII letters have several bytes. */
const NAME = /^[!-[\]-~]+$/;

function absolute({ text, quoted }: Word, { origin }: State): string {
  if (quoted || !NAME.test(text)) throw new Error(`'${text}' is not a name that can be served`);
  if (text.endsWith(".")) return checked(text.slice(0, -1));
  if (origin === null) throw new Error(`'${text}' is relative, and there is no $ORIGIN before it`);
  return text === "@" ? origin : checked(origin === "" ? text : `${text}.${origin}`);
}

function checked(name: string): string {
  const right = name.split(".").every((label) => label.length > 0 && label.length < 64);
  if (name !== "" && (!right || name.length > 253)) {
    throw new Error(`'${name}' is not a domain name`);
  }
  return name;
}

function seconds(text: string): number {
  const parts = text.toLowerCase().match(/\d+[smhdw]?/g)!;
  return parts.reduce((sum, part) => sum + parseInt(part) * (UNITS[part.at(-1)!] ?? 1), 0);
}

/** The octets of a text (RFC 1035 §5.1): \\DDD is the octet with that number, \\X is X itself. */
function octets(text: string): Buffer {
  const parts = text.match(/\\\d{3}|\\[^]|[^\\]+/g) ?? [];
  return Buffer.concat(parts.map((part) => {
    if (!/^\\\d/.test(part)) return Buffer.from(part.replace(/^\\/, ""));
    const octet = Number(part.slice(1));
    if (octet > 255) throw new Error(`'${part}' is not an octet`);
    return Buffer.of(octet);
  }));
}

/** The words of a record's data, taken one by one. */
class Fields {
  readonly #words: Word[];
  readonly #state: State;

  constructor(words: Word[], state: State) {
    this.#words = words;
    this.#state = state;
  }
  #next(what: string): Word {
    const word = this.#words.shift();
    if (word === undefined) throw new Error(`${what} is missing`);
    return word;
  }
  name(): string {
    return absolute(this.#next("a name"), this.#state);
  }
  /** A mailbox as a name. dns-packet handles escaped dots in its first label. */
  mailbox(): string {
    const [word] = this.#words;
    const dots = word?.text.match(/^([^.\\]+\\\.)+/)?.[0] ?? "";
    if (dots === "") return this.name();
    this.#words[0] = { text: word.text.slice(dots.length), quoted: word.quoted };
    return dots + this.name();
  }
  /** A character string (RFC 1035 §3.3). */
  text(): Buffer {
    const bytes = octets(this.#next("a text").text);
    if (bytes.length > 255) throw new Error("a text is longer than 255 bytes");
    return bytes;
  }
  texts(): Buffer[] {
    const texts = [this.text()];
    while (this.#words.length > 0) texts.push(this.text());
    return texts;
  }
  number(most = 0xffff): number {
    const { text } = this.#next("a number");
    if (!/^\d{1,10}$/.test(text) || Number(text) > most) {
      throw new Error(`'${text}' is not a number up to ${most}`);
    }
    return Number(text);
  }
  seconds(): number {
    const { text } = this.#next("a time");
    if (!TTL.test(text)) throw new Error(`'${text}' is not a time`);
    return seconds(text);
  }
  matching(isGood: (text: string) => boolean, what: string): string {
    return matching(this.#next(what).text, isGood, what);
  }
  /** Hexadecimal digits, which may be split into words, up to the end. */
  hex(): Buffer {
    let digits = this.#next("hexadecimal data").text;
    while (!this.isEmpty) digits += this.#next("").text;
    if (/^([\da-f]{2})+$/i.test(digits)) return Buffer.from(digits, "hex");
    throw new Error(`'${digits}' are not hexadecimal digits of whole bytes`);
  }
  /** A key with an optional value; a quoted value is a separate word. */
  parameter(): { key: string; value: string } {
    const { text } = this.#next("a parameter");
    const [, key, equals, plain] = /^([^=]*)(=?)([^]*)$/.exec(text)!;
    const isQuoted = equals !== "" && plain === "" && this.#words[0]?.quoted;
    const value = isQuoted ? this.#words.shift()!.text : plain;
    return { key: key.toLowerCase(), value };
  }
  get isEmpty(): boolean {
    return this.#words.length === 0;
  }
}

/** dns-packet's name of a type, and the reader of its data. */
interface RecordType {
  readonly type: string;
  readonly read: (fields: Fields) => unknown;
}

/** Type codes that cannot be in a zone: OPT and types of questions (RFC 6895 §3.1). */
const isMeta = (code: number) => code === 0 || code === 41 || (code >= 128 && code <= 255);

/** The type that `text` names: by its mnemonic, or by its number as TYPE65 (RFC 3597 §5). */
function typeOf(text: string): RecordType {
  const code = Number(/^TYPE(\d{1,5})$/.exec(text)?.[1] ?? -1);
  if (code > 0xffff || isMeta(code)) throw new Error(`'${text}' is not a record type`);
  const name = code < 0
    ? text
    : Object.keys(RAW_TYPES).find((name) => RAW_TYPES[name].code === code) ?? types.toString(code);
  if (Object.hasOwn(TYPES, name)) return { type: name, read: TYPES[name] };
  if (Object.hasOwn(RAW_TYPES, name)) {
    const { code, read } = RAW_TYPES[name];
    return { type: rawType(code), read };
  }
  if (code < 0) {
    const known = [...Object.keys(TYPES), ...Object.keys(RAW_TYPES)].join(", ");
    throw new Error(
      `type '${text}' is not known; known are ${known}, and others as TYPE and number`,
    );
  }
  const read = () => {
    throw new Error(`the data of ${text} must be written as \\# (RFC 3597)`);
  };
  return { type: rawType(code), read };
}

/** The name under which dns-packet takes data of any type as bytes. */
function rawType(code: number): string {
  return `UNKNOWN_${code}`;
}

/** Data in the form for unknown types: \#, a length and hexadecimal digits (RFC 3597 §5). */
function unknownForm(type: string, fields: Fields): unknown {
  fields.text();
  const length = fields.number();
  const bytes = length === 0 ? Buffer.alloc(0) : fields.hex();
  if (bytes.length !== length) throw new Error(`\\# says ${length} bytes, but has ${bytes.length}`);
  if (type.startsWith("UNKNOWN_")) return bytes;
  const whole = Buffer.concat([u16(length), bytes]);
  const codec = packet.record(type);
  let data: unknown;
  try {
    data = codec.decode(whole, 0);
  } catch {
    // Reported below.
  }
  if (data !== undefined && codec.encode(data).equals(whole)) return data;
  throw new Error(`the data is not valid for type ${type}`);
}

/** Reads a service binding (RFC 9460 §2.1): priority, target and parameters in the order of their keys. */
function serviceBinding(fields: Fields): Buffer {
  const [priority, target] = [u16(fields.number()), packet.name.encode(fields.name())];
  // dns-packet leaves an extra byte after the root.
  const head = [priority, target.subarray(0, packet.name.encode.bytes)];
  const parameters = new Map<number, Buffer>();
  while (!fields.isEmpty) {
    const { key, value } = fields.parameter();
    const code = serviceKey(key);
    if (parameters.has(code)) throw new Error(`${key} comes twice`);
    parameters.set(code, SERVICE_VALUES[code]?.(value) ?? octets(value));
  }
  const sorted = [...parameters].sort(([a], [b]) => a - b);
  return Buffer.concat([
    ...head,
    ...sorted.flatMap(([code, value]) => [u16(code), u16(value.length), value]),
  ]);
}

/** Keys of service parameters by their number (RFC 9460 §14.3.2, RFC 9461, RFC 9540). */
const SERVICE_KEYS = [
  ...["mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath"],
  "ohttp",
];

function serviceKey(name: string): number {
  const known = SERVICE_KEYS.indexOf(name);
  const code = known >= 0 ? known : Number(/^key(\d{1,5})$/.exec(name)?.[1] ?? NaN);
  if (code < 0xffff) return code;
  throw new Error(
    `'${name}' is not a key of a service parameter; others are written as key and number`,
  );
}

/** Encoders of the values of known keys, by number; other values are taken as bytes. */
const SERVICE_VALUES: Record<number, (text: string) => Buffer> = {
  0: (text) =>
    Buffer.concat(items(text).map((key) => u16(serviceKey(`${key}`))).sort(Buffer.compare)),
  1: (text) => Buffer.concat(items(text).flatMap((id) => [Buffer.of(id.length), id])),
  2: (text) => empty(text, "no-default-alpn"),
  3: (text) =>
    u16(Number(matching(text, (port) => /^\d+$/.test(port) && Number(port) <= 0xffff, "a port"))),
  4: (text) => addresses(text, isIPv4, "an IPv4 address", packet.a),
  5: (text) => Buffer.from(`${octets(text)}`, "base64"),
  6: (text) => addresses(text, isAddress6, "an IPv6 address", packet.aaaa),
  8: (text) => empty(text, "ohttp"),
};

/** The items of a list, at least one. A comma in an item is escaped twice (RFC 9460 §A.1). */
function items(text: string): Buffer[] {
  const items = `${text},`.match(/(?:\\\\.|\\[^]|[^\\,])+(?=,)/g) ?? [];
  if (items.join(",") !== text || items.length === 0) throw new Error(`'${text}' is not a list`);
  return items.map((item) => octets(item.replace(/\\\\([,\\])/g, "\\$1")));
}

/** A list of addresses, each without the length prefix of a record's data. */
function addresses(
  text: string,
  isGood: (text: string) => boolean,
  what: string,
  codec: { encode(text: string): Buffer },
): Buffer {
  const texts = text.split(",");
  return Buffer.concat(texts.map((each) => codec.encode(matching(each, isGood, what)).subarray(2)));
}

/** Returns `text`. Throws Error unless it is valid. */
function matching(text: string, isGood: (text: string) => boolean, what: string): string {
  if (isGood(text)) return text;
  throw new Error(`'${text}' is not ${what}`);
}

function empty(text: string, key: string): Buffer {
  if (text !== "") throw new Error(`${key} takes no value`);
  return Buffer.alloc(0);
}

/** Whether `text` is an IPv6 address without a zone. */
function isAddress6(text: string): boolean {
  return isIPv6(text) && !text.includes("%");
}

function u16(number: number): Buffer {
  return Buffer.of(number >>> 8, number & 0xff);
}

/** Readers of each type's data. */
const TYPES: Record<string, (fields: Fields) => unknown> = {
  A: (fields) => fields.matching(isIPv4, "an IPv4 address"),
  AAAA: (fields) => fields.matching(isAddress6, "an IPv6 address"),
  NS: (fields) => fields.name(),
  CNAME: (fields) => fields.name(),
  PTR: (fields) => fields.name(),
  TXT: (fields) => fields.texts(),
  MX: (fields) => ({ preference: fields.number(), exchange: fields.name() }),
  SRV: (fields) => ({
    priority: fields.number(),
    weight: fields.number(),
    port: fields.number(),
    target: fields.name(),
  }),
  CAA: (fields) => ({
    flags: fields.number(255),
    tag: `${fields.text()}`,
    value: `${fields.text()}`,
  }),
  SOA: (fields) => ({
    mname: fields.name(),
    rname: fields.mailbox(),
    serial: fields.number(0xffffffff),
    refresh: fields.seconds(),
    retry: fields.seconds(),
    expire: fields.seconds(),
    minimum: fields.seconds(),
  }),
};

/** Reads numbers of these sizes in bytes, and then hexadecimal digits. */
function digest(...sizes: readonly (1 | 2)[]): (fields: Fields) => Buffer {
  return (fields) => {
    const numbers = sizes.map((size) => u16(fields.number(2 ** (8 * size) - 1)).subarray(2 - size));
    return Buffer.concat([...numbers, fields.hex()]);
  };
}

/** Types that dns-packet does not fully support: their codes, and the encoders of their data. */
const RAW_TYPES: Record<string, { code: number; read: (fields: Fields) => Buffer }> = {
  DS: { code: 43, read: digest(2, 1, 1) }, // RFC 4034 §5.3
  SSHFP: { code: 44, read: digest(1, 1) }, // RFC 4255 §3.2
  TLSA: { code: 52, read: digest(1, 1, 1) }, // RFC 6698 §2.2
  SVCB: { code: 64, read: serviceBinding },
  HTTPS: { code: 65, read: serviceBinding },
};
