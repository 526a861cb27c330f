/**
 * Reads a zone file in the standard format (RFC 1035 §5.1): entries of owner, TTL, class, type and
 * data, where owner, TTL and class may be left out, parentheses go over lines, `;` begins a comment,
 * and `$ORIGIN` and `$TTL` (RFC 2308 §4) set what is left out.
 */

import { Buffer } from "node:buffer";

/** A resource record, its data as npm's dns-packet takes it. Names are absolute, without a last dot. */
export interface ZoneRecord {
  /** The line that it begins on. */
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
  return entries(text).flatMap((entry) => {
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
  /** The TTL of the last $TTL. */
  ttl: number | null;
  /** The last TTL of a record. */
  lastTtl: number | null;
  owner: string | null;
}

/** Splits the file into entries. */
function* tokens(text: string): Generator<Entry> {
  const pattern = /;[^\n]*|"((?:[^"\\]|\\[^])*)"|[()\n]|[^\S\n]+|((?:[^\s"();\\]|\\[^])+)|(.)/gy;
  let [words, owned, depth, line, begun]: [Word[], boolean, number, number, number] = [
    [],
    true,
    0,
    1,
    1,
  ];
  let fresh = true;
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

function entries(text: string): Entry[] {
  return [...tokens(text)];
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
  const type = rest.shift()?.text.toUpperCase() ?? "";
  const read = TYPES[type];
  if (read === undefined) {
    throw new Error(`type '${type}' is not known; known are ${Object.keys(TYPES).join(", ")}`);
  }
  const data = read(new Fields(rest, state));
  if (rest.length > 0) throw new Error(`'${rest[0].text}' is too much for type ${type}`);
  // A missing TTL is that of $TTL (RFC 2308 §4), else that of the last record (RFC 1035 §5.1).
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

/** Characters of names. An escaped dot dns-packet would take for a dot, and letters beyond ASCII are many bytes. */
const NAME = /^[!-[\]-~]+$/;

/** A name in full. */
function absolute({ text, quoted }: Word, { origin }: State): string {
  if (quoted || !NAME.test(text)) throw new Error(`'${text}' is no name that can be served`);
  if (text.endsWith(".")) return checked(text.slice(0, -1));
  if (origin === null) throw new Error(`'${text}' is relative, and there is no $ORIGIN before it`);
  return text === "@" ? origin : checked(origin === "" ? text : `${text}.${origin}`);
}

function checked(name: string): string {
  const right = name.split(".").every((label) => label.length > 0 && label.length < 64);
  if (name !== "" && (!right || name.length > 253)) throw new Error(`'${name}' is no domain name`);
  return name;
}

function seconds(text: string): number {
  const parts = text.toLowerCase().match(/\d+[smhdw]?/g)!;
  return parts.reduce((sum, part) => sum + parseInt(part) * (UNITS[part.at(-1)!] ?? 1), 0);
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
  /** A mail box as a name: the dots of its first label are escaped, and dns-packet knows that. */
  mailbox(): string {
    const [word] = this.#words;
    const dots = word?.text.match(/^([^.\\]+\\\.)+/)?.[0] ?? "";
    if (dots === "") return this.name();
    this.#words[0] = { text: word.text.slice(dots.length), quoted: word.quoted };
    return dots + this.name();
  }
  /** A character string (RFC 1035 §5.1): \\DDD is the octet with that number, \\X is X itself. */
  text(): Buffer {
    const { text } = this.#next("a text");
    const parts = text.match(/\\\d{3}|\\[^]|[^\\]+/g) ?? [];
    const bytes = Buffer.concat(parts.map((part) => {
      const octet = /^\\\d/.test(part);
      return octet ? Buffer.of(Number(part.slice(1))) : Buffer.from(part.replace(/^\\/, ""));
    }));
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
      throw new Error(`'${text}' is no number up to ${most}`);
    }
    return Number(text);
  }
  seconds(): number {
    const { text } = this.#next("a time");
    if (!TTL.test(text)) throw new Error(`'${text}' is no time`);
    return seconds(text);
  }
  matching(pattern: RegExp, what: string): string {
    const { text } = this.#next(what);
    if (!pattern.test(text)) throw new Error(`'${text}' is no ${what}`);
    return text;
  }
}

const OCTET = "(25[0-5]|2[0-4]\\d|1?\\d?\\d)";
const IPV4 = new RegExp(`^${OCTET}(\\.${OCTET}){3}$`);

/** How the data of each type is read. */
const TYPES: Record<string, (fields: Fields) => unknown> = {
  A: (fields) => fields.matching(IPV4, "IPv4 address"),
  AAAA: (fields) => fields.matching(/^[\da-f:]*:[\da-f:.]*$/i, "IPv6 address"),
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
