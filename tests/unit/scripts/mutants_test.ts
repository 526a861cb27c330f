// SPDX-License-Identifier: Apache-2.0
/** That every mutant can be applied to the tree as it is, and that what finds its place is right. */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { testFiles } from "../../../scripts/docs.ts";
import { findDeclaration, type Mutant, mutate } from "../../../scripts/mutants.ts";
import { MUTANTS } from "../../mutants.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

const MUTANT: Mutant = {
  ...{ name: "a mutant", file: "a.ts", in: "second", from: "one", to: "two", tests: [] },
};

const SOURCE = `const TABLE = [
  1,
];
export const LIMIT = 7;

export function first(
  { a, b }: {
    a: number;
    b: number;
  },
): { sum: number } {
  return { sum: a + b };
}

function second(): number {
  return one;
}

/** first() and second() are functions. */
export class Thing {
  readonly #first = new Map();

  get size(): number {
    return this.#first.size;
  }

  #second<T>(one: T): void {
    first({
      a: 1,
      b: 2,
    });
    this.third();
  }

  third(): void {
    if (one) this.third();
  }
}
`;

function declared(source: string, name: string): string | undefined {
  const found = findDeclaration(source, name);
  return found && source.slice(found.start, found.end);
}

Deno.test("findDeclaration() finds functions, constants and members by their names, whole", () => {
  assert.equal(declared(SOURCE, "TABLE"), "const TABLE = [\n  1,\n];");
  assert.equal(declared(SOURCE, "LIMIT"), "export const LIMIT = 7;");
  assert.match(declared(SOURCE, "first")!, /^export function first\([^]*sum: a \+ b };\n}$/);
  assert.equal(declared(SOURCE, "second"), "function second(): number {\n  return one;\n}");
  assert.equal(declared(SOURCE, "Thing.#first"), "  readonly #first = new Map();");
  assert.match(declared(SOURCE, "Thing.size")!, /^ {2}get size\(\)[^]*size;\n {2}}$/);
  assert.match(declared(SOURCE, "Thing.#second")!, /^ {2}#second<T>[^]*third\(\);\n {2}}$/);
  assert.match(declared(SOURCE, "Thing.third")!, /^ {2}third\(\): void {[^]*third\(\);\n {2}}$/);
});

Deno.test("findDeclaration() finds definitions in C, and no prototypes or calls", () => {
  const source = `int twice(int n);
static const int TABLE[] = {
\t1,
};

/* twice() is a function. */
EXPORT int twice(int n,
\t\t int m)
{
\tif (n) {
\t\treturn 0;
\t}
\treturn thrice(n);
}

static struct row *thrice(int n)
{
\treturn twice(n, 1);
}
`;
  assert.match(declared(source, "twice")!, /^EXPORT int twice[^]*return thrice\(n\);\n}$/);
  assert.match(declared(source, "thrice")!, /^static struct row \*thrice[^]*, 1\);\n}$/);
  assert.equal(declared(source, "TABLE"), "static const int TABLE[] = {\n\t1,\n};");
});

Deno.test("findDeclaration() finds nothing where a name is not there, or twice", () => {
  for (const name of ["none", "Thing.none", "None.third", "one"]) {
    assert.equal(findDeclaration(SOURCE, name), undefined, name);
  }
  assert.equal(findDeclaration(SOURCE + "function second() {\n}\n", "second"), undefined);
});

Deno.test("mutate() replaces the text in its declaration alone", () => {
  assert.equal(mutate(SOURCE, MUTANT), SOURCE.replace("return one", "return two"));
});

Deno.test("mutate() says what a stale mutant does not find", () => {
  const stale = (mutant: Partial<Mutant>) => () => mutate(SOURCE, { ...MUTANT, ...mutant });
  assert.throws(
    stale({ in: "fourth" }),
    /stale mutant: a mutant: a.ts declares fourth not exactly/,
  );
  assert.throws(
    stale({ from: "seven" }),
    /stale mutant: a mutant: second does not have the text: s/,
  );
  assert.throws(stale({ in: "first", from: "a" }), /first has the text more than once: a$/);
});

Deno.test("every mutant can be applied to the tree as it is", () => {
  const folder = Deno.makeTempDirSync();
  const stale: string[] = [];
  for (const [i, mutant] of MUTANTS.entries()) {
    try {
      const mutated = mutate(Deno.readTextFileSync(ROOT + mutant.file), mutant);
      if (mutant.file.endsWith(".ts")) Deno.writeTextFileSync(`${folder}/${i}.ts`, mutated);
    } catch (error) {
      stale.push((error as Error).message);
    }
  }
  assert.equal(stale.join("\n"), "");
  // The formatter reads each, and says where one is no TypeScript.
  const { success, stderr } = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--no-config", "--quiet", folder],
    env: { NO_COLOR: "1" },
  }).outputSync();
  assert.ok(success, new TextDecoder().decode(stderr));
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("every mutant changes something, has a name of its own, and tests that are there", () => {
  const files = testFiles("tests");
  const names = new Set<string>();
  for (const { name, from, to, tests } of MUTANTS) {
    assert.notEqual(from, to, name);
    assert.ok(!names.has(name), `there are two called ${name}`);
    names.add(name);
    assert.ok(tests.length > 0, name);
    for (const word of tests) {
      assert.ok(files.some((path) => path.includes(word)), `${name}: no test file has ${word}`);
    }
  }
});
