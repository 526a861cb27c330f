// SPDX-License-Identifier: Apache-2.0
/** Lines of keys in a TOML document. The parser is the oracle. */

import assert from "node:assert/strict";
import { parse as parseToml, type TomlValue } from "smol-toml";
import { lineOf } from "../../../cli/toml_lines.ts";

const DOCUMENT = String.raw`# a = 1
a = 1 # b = 2
"quoted \u00e9 \"key\"".'lit.eral' = "# no comment ' \" ["
date = 1979-05-27 07:32:00 # a date
text = """
x = 1
[apps]
\""" ["""
literal = '''
[y]
z = "'''

list = [ # [
  "one", 'two', # three
  [1, [2,
    3]],
  { in = { line = true }, more = [
    0.5 ] },
]
[apps.dns]
read = []
options.zone.name = "z"
options.zone.ttl = -inf
[apps . "x\ty" ]
empty = ''
[[many]]
of = 1
[many.sub]
deep = 1
[[many]]
of = 2
[[many.sub]]
deep = 2
[[many.sub]]
deep = 3
`;

/** Each key of a value, with its path. */
function* keysOf(value: TomlValue, path: readonly PropertyKey[]): Generator<PropertyKey[]> {
  if (typeof value !== "object" || value instanceof Date) return;
  for (const [key, each] of Object.entries(value)) {
    const next = [...path, Array.isArray(value) ? Number(key) : key];
    yield next;
    yield* keysOf(each, next);
  }
}

Deno.test("lineOf() finds every key of a document, and the key that its line begins", () => {
  const lines = DOCUMENT.split("\n");
  for (const key of keysOf(parseToml(DOCUMENT), [])) {
    const line = lineOf(DOCUMENT, key);
    assert.notEqual(line, lineOf("", key), key.join("."));
    // Where nothing is open, the document up to that line has the key, and up to the one before does not.
    const has = (count: number) => {
      // deno-lint-ignore no-explicit-any -- any TOML
      const value: any = parseToml(lines.slice(0, count).join("\n"));
      return key.reduce((inner, step) => inner?.[step], value) !== undefined;
    };
    if (line <= 4 || line >= 21) {
      assert.equal(has(line), true, `${key.join(".")} on line ${line}`);
      assert.equal(has(line - 1), false, `${key.join(".")} before line ${line}`);
    }
  }
  const lineAt = (...key: PropertyKey[]) => lineOf(DOCUMENT, key);
  assert.deepEqual([lineAt("text"), lineAt("literal"), lineAt("list")], [5, 9, 13]);
  assert.deepEqual([lineAt("list", 1), lineAt("list", 2, 1, 1)], [14, 16]);
  assert.deepEqual([lineAt("list", 3, "in", "line"), lineAt("list", 3, "more", 0)], [17, 18]);
});

Deno.test("lineOf() names the line of what a missing key would be in", () => {
  assert.equal(lineOf("a = 1\n[apps.dns]\nread = ['x']", ["apps", "dns", "read", 7]), 3);
  assert.equal(lineOf("a = 1\n[apps.dns]\nread = ['x']", ["apps", "dns", "write"]), 2);
  assert.equal(lineOf("a = 1\nb = 2", ["c"]), 1);
});

Deno.test("lineOf() reads a document once, however long it is and whatever it has", () => {
  const count = 200_000;
  const entries = Array.from({ length: count }, (_, i) => `  "${i}=echo",`).join("\n");
  const text = `listen = [\n${entries}\n]\nlong = '''${"\n".repeat(count)}'''\nx = """\n` +
    `${"a\\n\n".repeat(count)}"""\n[apps.a]\nmemory = 1`;
  assert.equal(lineOf(text, ["listen", count - 1]), count + 1);
  assert.equal(lineOf(text, ["apps", "a", "memory"]), 3 * count + 7);
});

Deno.test("lineOf() ends in a document that is not TOML", () => {
  for (
    const text of ["[", "[[", "a", "a =", "a = [", "a = {", "a = [,", "]", '"', "a = '''", "{"]
  ) {
    assert.equal(lineOf(text, ["b"]), 1, text);
  }
});
