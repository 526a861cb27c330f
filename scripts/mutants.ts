// SPDX-License-Identifier: Apache-2.0
/**
 * `deno task mutants [WORD…]`: applies the mutants of `tests/mutants.ts` to a copy of the tree, one at a time, runs the
 * tests that each names, and prints those that no test notices. Words select mutants by name or file. `--all` runs every
 * unit test in place of the named ones.
 *
 * A mutant is killed if a test fails or does not end within the limit. The tests are first run without it and must pass.
 * The exit status is 1 if a mutant lives that is not declared equivalent, or if one is stale.
 */

import { execFileSync } from "node:child_process";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { MUTANTS } from "../tests/mutants.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
/** The time limit for the tests of one mutant. */
const LIMIT_SECONDS = 120;
/** Folders that are not copied: history, and built or downloaded files. */
const NOT_COPIED = [".git", "dist", "node_modules"];

/** One way to break the program. */
export interface Mutant {
  readonly name: string;
  /** The file, from the project's folder. */
  readonly file: string;
  /** The declaration that the text is in: `function`, `Class.member`, or a top-level constant. */
  readonly in: string;
  /** The replaced text, which occurs there exactly once. */
  readonly from: string;
  readonly to: string;
  /** Words that select the test files that should notice, as for `scripts/test`. */
  readonly tests: readonly string[];
  /** Why no test can notice. Such a mutant is not run. */
  readonly equivalent?: string;
}

/**
 * `source` with the mutant. Throws an Error that begins with "stale mutant" if the declaration or the text does not
 * occur exactly once.
 */
export function mutate(source: string, mutant: Mutant): string {
  const stale = (what: string) => new Error(`stale mutant: ${mutant.name}: ${what}`);
  const found = findDeclaration(source, mutant.in);
  if (found === undefined) throw stale(`${mutant.file} declares ${mutant.in} not exactly once`);
  const { start, end } = found;
  const body = source.slice(start, end);
  const at = body.indexOf(mutant.from);
  if (at < 0) throw stale(`${mutant.in} does not have the text: ${mutant.from}`);
  if (body.includes(mutant.from, at + 1)) {
    throw stale(`${mutant.in} has the text more than once: ${mutant.from}`);
  }
  return source.slice(0, start + at) + mutant.to + source.slice(start + at + mutant.from.length);
}

interface Extent {
  readonly start: number;
  readonly end: number;
}

/**
 * The range of the declaration `name` in TypeScript or C. It is found by indentation, which the formatter ensures in
 * TypeScript and the kernel's style in C: a declaration ends at the first line that closes a bracket in the column in
 * which it began. Undefined if there is not exactly one.
 */
export function findDeclaration(source: string, name: string): Extent | undefined {
  const [first, member] = name.split(".");
  const keywords = "(?:export )?(?:async )?(?:abstract )?(?:class|function\\*?|const|let)";
  // In C a definition begins in the first column, with the name before a bracket or an equals sign.
  const inC = `[A-Za-z][\\w \\t*]*\\b${RegExp.escape(first)}(?:\\(|\\[| =)(?!.*;$)`;
  const top = extents(source, 0, `${keywords} ${RegExp.escape(first)}\\b|${inC}`);
  if (top.length !== 1) return undefined;
  const [{ start, end }] = top;
  if (member === undefined) return { start, end };
  const modifiers = "(?:(?:static|async|get|set|override|private|protected|readonly) )*";
  const pattern = `${modifiers}${RegExp.escape(member)}(?:[(<:]| =)`;
  const found = extents(source.slice(start, end), 2, pattern);
  if (found.length !== 1) return undefined;
  return { start: start + found[0].start, end: start + found[0].end };
}

/** The declarations, indented by `indent`, that begin as `pattern` says. */
function extents(source: string, indent: number, pattern: string): Extent[] {
  const begins = new RegExp(`^ {${indent}}(?:${pattern})`, "gm");
  const closing = new RegExp(`^ {${indent}}[}\\])][}\\]);,]*$`, "gm");
  return Array.from(source.matchAll(begins), ({ index: start }) => {
    const firstEnd = source.indexOf("\n", start);
    if (source.slice(start, firstEnd).endsWith(";")) return { start, end: firstEnd };
    closing.lastIndex = firstEnd;
    const last = closing.exec(source);
    return { start, end: last === null ? source.length : last.index + last[0].length };
  });
}

type End = "killed" | "timed out" | "lived";

/** A copy of the tree to mutate. */
class Copy implements Disposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "tegula-mutants-" });
  #child: Deno.ChildProcess | undefined;

  constructor() {
    // Apps run as other users, and have to read their modules here.
    Deno.chmodSync(this.folder, 0o755);
    for (const { name, isSymlink } of Deno.readDirSync(ROOT)) {
      if (NOT_COPIED.includes(name) || name === ".deno") continue;
      if (!isSymlink) execFileSync("cp", ["--archive", ROOT + name, `${this.folder}/${name}`]);
    }
  }

  [Symbol.dispose](): void {
    this.#child?.kill("SIGTERM");
    Deno.removeSync(this.folder, { recursive: true });
  }

  /** Errors of the compiler in the changed file. */
  faults(file: string): string {
    const args = file.endsWith(".ts") ? ["check", "--quiet", file] : ["task", "--quiet", "build"];
    const options = { args, cwd: this.folder, env: { NO_COLOR: "1" } };
    const { success, stderr } = new Deno.Command(Deno.execPath(), options).outputSync();
    return success ? "" : new TextDecoder().decode(stderr);
  }

  async test(words: readonly string[]): Promise<{ end: End; output: string }> {
    const signal = AbortSignal.timeout(LIMIT_SECONDS * 1000);
    const child = this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--allow-all", "scripts/test.ts", ...words],
      // Use the same random cases each time, so that no mutant survives by chance.
      env: { TEGULA_FAIL_FAST: "1", TEGULA_SEED: "1" },
      ...{ cwd: this.folder, stdin: "null", stdout: "piped", stderr: "null", signal },
    }).spawn();
    const { success, stdout } = await child.output();
    this.#child = undefined;
    const end = signal.aborted ? "timed out" : success ? "lived" : "killed";
    return { end, output: new TextDecoder().decode(stdout) };
  }
}

/** Runs one mutant and returns its result, with a remark. */
async function attempt(copy: Copy, mutant: Mutant, words: readonly string[]): Promise<Result> {
  const path = `${copy.folder}/${mutant.file}`;
  const source = Deno.readTextFileSync(path);
  let mutated: string;
  try {
    mutated = mutate(source, mutant);
  } catch (error) {
    return { end: "stale", said: (error as Error).message };
  }
  Deno.writeTextFileSync(path, mutated);
  try {
    const faults = copy.faults(mutant.file);
    if (faults !== "") {
      return { end: "stale", said: `stale mutant: it does not compile\n${faults}` };
    }
    return { end: (await copy.test(words)).end, said: "" };
  } finally {
    Deno.writeTextFileSync(path, source);
    // The build must not be newer than the changed source.
    if (!mutant.file.endsWith(".ts")) copy.faults(mutant.file);
  }
}

interface Result {
  readonly end: End | "stale" | "equivalent" | "not tried";
  readonly said: string;
}

async function main(): Promise<number> {
  const { values: { all, list }, positionals } = parseArgs({
    options: { all: { type: "boolean" }, list: { type: "boolean" } },
    allowPositionals: true,
  });
  const chosen = MUTANTS.filter(({ name, file }) =>
    positionals.length === 0 ||
    positionals.some((word) => name.includes(word) || file.includes(word))
  );
  if (list) {
    for (const { name, file, in: where } of chosen) console.log(`${name}  ${file}  ${where}`);
    return 0;
  }
  using copy = new Copy();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    Deno.addSignalListener(signal, () => {
      copy[Symbol.dispose]();
      Deno.exit(130);
    });
  }
  const counts = new Map<string, number>();
  const passing = new Map<string, boolean>();
  for (const mutant of chosen) {
    const begun = performance.now();
    const result = await judge(copy, mutant, all ? ["tests/unit/"] : mutant.tests, passing);
    const seconds = ((performance.now() - begun) / 1000).toFixed(1).padStart(6);
    counts.set(result.end, (counts.get(result.end) ?? 0) + 1);
    const { name, file, in: where } = mutant;
    console.log(`${result.end.padEnd(10)} ${seconds} s  ${name}  (${dirname(file)}, ${where})`);
    if (result.said !== "") console.log(`    ${result.said.trimEnd().replaceAll("\n", "\n    ")}`);
  }
  const ends = ["killed", "timed out", "lived", "stale", "not tried", "equivalent"];
  console.log(ends.map((end) => `${counts.get(end) ?? 0} ${end}`).join(", "));
  return ["lived", "stale", "not tried"].some((end) => counts.has(end)) ? 1 : 0;
}

/** The result of a mutant. `passing`: whether tests pass without a mutant, as far as known. */
async function judge(
  copy: Copy,
  mutant: Mutant,
  words: readonly string[],
  passing: Map<string, boolean>,
): Promise<Result> {
  if (mutant.equivalent !== undefined) return { end: "equivalent", said: mutant.equivalent };
  const key = words.join(" ");
  // Twice, since another run of the same test on this machine may disturb one.
  for (let tries = 0; tries < 2 && passing.get(key) !== true; tries++) {
    const { end, output } = await copy.test(words);
    passing.set(key, end === "lived");
    if (end !== "lived") console.log(output.trimEnd());
  }
  if (!passing.get(key)) return { end: "not tried", said: `without it ${key} does not pass` };
  return await attempt(copy, mutant, words);
}

if (import.meta.main) Deno.exit(await main());
