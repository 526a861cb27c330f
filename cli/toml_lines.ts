// SPDX-License-Identifier: Apache-2.0
/**
 * Finds the line of a key in a TOML document, since the parser does not record lines. The document
 * is known to be valid, so one pass over its tokens is enough.
 */

import { parse as parseToml } from "smol-toml";

/** Blanks, empty lines and comments. */
const BLANK = /(?:\s|#.*)*/y;
const BASIC = /"(?:\\.|[^"\\\n])*"/y;
/** One step of a key, as written. */
const STEP = new RegExp(`${BASIC.source}|'[^'\\n]*'|[\\w-]+`, "y");
/** A value that is neither an array nor a table. A date may have a blank before the time. */
const SCALAR = new RegExp(
  String.raw`"""(?:\\[^]|(?!""")[^\\])*"{3,5}|'''[^]*?'{3,5}|${BASIC.source}|'[^'\n]*'|` +
    String.raw`[^\s,\]}#]+(?: \d[^\s,\]}#]*)?`,
  "y",
);
const [DOT, EQUALS, COMMA] = [/\./y, /=/y, /,/y];
const [OPEN, CLOSE, OPEN_TABLE, CLOSE_TABLE] = [/\[/y, /\]/y, /\{/y, /\}/y];
const LIST_HEADER = /\[\[/y;

/** The number of the line where `key` begins in a document; if it is missing, the line of its closest parent. */
export function lineOf(text: string, key: readonly PropertyKey[]): number {
  const wanted = key.map(String);
  /** The offset of the first path that shares the most steps with the key, and the number of these steps. */
  let [found, shared] = [0, 0];
  let at = 0;
  /** The number of tables so far in each array of tables, by its path. */
  const tables = new Map<string, number>();

  const see = (path: readonly string[], begin: number) => {
    const other = path.findIndex((step, i) => step !== wanted[i]);
    const count = other < 0 ? path.length : other;
    if (count > shared) [shared, found] = [count, begin];
  };
  /** Skips blanks. Returns whether anything follows. */
  const goesOn = () => {
    BLANK.lastIndex = at;
    BLANK.test(text);
    at = BLANK.lastIndex;
    return at < text.length;
  };
  /** Takes a token if it is next. Returns it, or "". */
  const take = (token: RegExp) => {
    goesOn();
    token.lastIndex = at;
    const [taken] = token.exec(text) ?? [""];
    at += taken.length;
    return taken;
  };
  /** Takes a token that must be next. Ends the pass if it is not, because the document has changed. */
  const expect = (token: RegExp) => {
    const taken = take(token);
    if (taken === "") at = text.length;
    return taken;
  };
  const steps = () => {
    const all: string[] = [];
    do {
      const step = expect(STEP);
      all.push(/^["']/.test(step) ? Object.keys(parseToml(`${step} = 0`))[0] : step);
    } while (take(DOT));
    return all;
  };
  const header = (begin: number, isList: boolean) => {
    const path: string[] = [];
    const all = steps();
    for (const [i, step] of all.entries()) {
      path.push(step);
      const array = JSON.stringify(path);
      const isNext = isList && i === all.length - 1;
      const count = tables.get(array) ?? 0;
      if (isNext) tables.set(array, count + 1);
      if (isNext || count > 0) path.push(String(isNext ? count : count - 1));
    }
    see(path, begin);
    for (let i = isList ? 2 : 1; i > 0; i--) expect(CLOSE);
    return path;
  };
  const value = (path: readonly string[]) => {
    if (take(OPEN)) {
      for (let i = 0; goesOn() && !take(CLOSE); i++) {
        const element = [...path, String(i)];
        see(element, at);
        value(element);
        take(COMMA);
      }
    } else if (take(OPEN_TABLE)) {
      while (goesOn() && !take(CLOSE_TABLE)) {
        pair(path);
        take(COMMA);
      }
    } else expect(SCALAR);
  };
  const pair = (table: readonly string[]) => {
    goesOn();
    const begin = at;
    const path = [...table, ...steps()];
    see(path, begin);
    expect(EQUALS);
    value(path);
  };

  for (let table: readonly string[] = []; goesOn();) {
    const begin = at;
    if (take(LIST_HEADER)) table = header(begin, true);
    else if (take(OPEN)) table = header(begin, false);
    else pair(table);
  }
  return text.slice(0, found).split("\n").length;
}
