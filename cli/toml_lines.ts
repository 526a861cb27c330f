// SPDX-License-Identifier: Apache-2.0
/**
 * Where in a TOML document a key is: the parser keeps no lines. The document has been parsed, so this only tells
 * its parts from each other, in one pass.
 */

import { parse as parseToml } from "smol-toml";

/** Blanks, empty lines and comments. */
const BLANK = /(?:\s|#.*)*/y;
const BASIC = /"(?:\\.|[^"\\\n])*"/y;
/** One step of a key, as it is written. */
const STEP = new RegExp(`${BASIC.source}|'[^'\\n]*'|[\\w-]+`, "y");
/** A value that is no array and no table. A date may have a blank before the time. */
const SCALAR = new RegExp(
  String.raw`"""(?:\\[^]|(?!""")[^\\])*"{3,5}|'''[^]*?'{3,5}|${BASIC.source}|'[^'\n]*'|` +
    String.raw`[^\s,\]}#]+(?: \d[^\s,\]}#]*)?`,
  "y",
);
const [DOT, EQUALS, COMMA] = [/\./y, /=/y, /,/y];
const [OPEN, CLOSE, OPEN_TABLE, CLOSE_TABLE] = [/\[/y, /\]/y, /\{/y, /\}/y];
const [HEADER, LIST_HEADER] = [/\[/y, /\[\[/y];

/** The number of the line where `key` begins in a document; if it has no such key, what that would be in. */
export function lineOf(text: string, key: readonly PropertyKey[]): number {
  const places = new Places(text, key.map(String));
  places.read();
  return text.slice(0, places.found).split("\n").length;
}

class Places {
  /** Where the first of those paths begins that share the most steps with the key. */
  found = 0;
  #shared = 0;
  #at = 0;
  readonly #text: string;
  readonly #key: readonly string[];
  /** The number of tables so far in each array of tables, by its path. */
  readonly #tables = new Map<string, number>();

  constructor(text: string, key: readonly string[]) {
    this.#text = text;
    this.#key = key;
  }

  read(): void {
    let table: readonly string[] = [];
    while (this.#goesOn()) {
      const at = this.#at;
      if (this.#take(LIST_HEADER)) table = this.#header(at, true);
      else if (this.#take(HEADER)) table = this.#header(at, false);
      else this.#pair(table);
    }
  }

  #header(at: number, isList: boolean): readonly string[] {
    const path: string[] = [];
    const steps = this.#steps();
    for (const [i, step] of steps.entries()) {
      path.push(step);
      const array = JSON.stringify(path);
      const isNext = isList && i === steps.length - 1;
      const count = this.#tables.get(array) ?? 0;
      if (isNext) this.#tables.set(array, count + 1);
      if (isNext || count > 0) path.push(String(isNext ? count : count - 1));
    }
    this.#see(path, at);
    for (let i = isList ? 2 : 1; i > 0; i--) this.#expect(CLOSE);
    return path;
  }

  #pair(table: readonly string[]): void {
    this.#goesOn();
    const at = this.#at;
    const path = [...table, ...this.#steps()];
    this.#see(path, at);
    this.#expect(EQUALS);
    this.#value(path);
  }

  #value(path: readonly string[]): void {
    if (this.#take(OPEN)) {
      for (let i = 0; this.#goesOn() && !this.#take(CLOSE); i++) {
        const element = [...path, String(i)];
        this.#see(element, this.#at);
        this.#value(element);
        this.#take(COMMA);
      }
    } else if (this.#take(OPEN_TABLE)) {
      while (this.#goesOn() && !this.#take(CLOSE_TABLE)) {
        this.#pair(path);
        this.#take(COMMA);
      }
    } else this.#expect(SCALAR);
  }

  #steps(): string[] {
    const steps: string[] = [];
    do {
      const step = this.#expect(STEP);
      steps.push(/^["']/.test(step) ? Object.keys(parseToml(`${step} = 0`))[0] : step);
    } while (this.#take(DOT));
    return steps;
  }

  #see(path: readonly string[], at: number): void {
    const other = path.findIndex((step, i) => step !== this.#key[i]);
    const shared = other < 0 ? path.length : other;
    if (shared > this.#shared) [this.#shared, this.found] = [shared, at];
  }

  /** Passes what is blank. Returns whether something follows. */
  #goesOn(): boolean {
    BLANK.lastIndex = this.#at;
    BLANK.test(this.#text);
    this.#at = BLANK.lastIndex;
    return this.#at < this.#text.length;
  }

  /** Takes a token if it is next. Returns it; empty: it is not. */
  #take(token: RegExp): string {
    this.#goesOn();
    token.lastIndex = this.#at;
    const [taken] = token.exec(this.#text) ?? [""];
    this.#at += taken.length;
    return taken;
  }

  /** Takes a token that has to be next. Ends the pass if the document has changed, and it is not. */
  #expect(token: RegExp): string {
    const taken = this.#take(token);
    if (taken === "") this.#at = this.#text.length;
    return taken;
  }
}
