// SPDX-License-Identifier: Apache-2.0
/**
 * `--against REF`: compares this tree with another commit. The commit is built in a work tree of its own, in a
 * temporary folder. The two take turns, A B B A …; each turn is a process that runs one benchmark of its own
 * tree. The figures of one round are a pair, since a disturbance of the machine mostly affects both.
 *
 * Each tree runs its own benchmark, which knows that tree's internals and options. Only the command line and the
 * lines of `--json` pass between them. So a change of the load looks like a change of the product; a note says
 * where `bench/` differs.
 */

import { linesOf, wholeNumber } from "../cli/command.ts";
import { interval, median, type Result, type Unit } from "./harness.ts";

/** Default rounds: enough for the interval to exclude the extremes. */
export const ROUNDS = 9;
/** Default limit of minutes for a benchmark. After that it stops with fewer rounds. */
export const MINUTES = 20;
/** Rounds that may fail, for example on a busy machine. They do not count. */
const MOST_FAILED = 2;
/** A turn that takes longer hangs. */
const TURN_MILLIS = 1_200_000;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** The cases that run by default, where all would take minutes. */
const USUAL: Readonly<Record<string, string>> = {
  echo: "^echo( inline)?( rtt p(50|99))?$",
  dns: "^dns( inline)?( cpu)?$",
};

/** Benchmarks that use only the command line. They can measure the other tree's program as well. */
const BLACK_BOX: ReadonlySet<string> = new Set(["handover", "memory"]);

/** The files that define the load, as git pathspecs. */
const LOADS = ["bench", ":!bench/main.ts", ":!bench/against.ts"];

/** Units in which more is better. */
const HIGHER: ReadonlySet<Unit> = new Set(["kpps", "kqps", "events/s"]);

/** The options of a comparison. */
export interface AgainstOptions {
  /** The other commit, as git takes it. */
  readonly ref: string;
  /** A patch to apply to it. */
  readonly patch?: string;
  readonly rounds: number;
  readonly minutes: number;
}

/** The same for parseArgs. */
export const AGAINST_OPTIONS = {
  against: { type: "string" },
  patch: { type: "string" },
  rounds: { type: "string" },
  minutes: { type: "string" },
} as const;

/** Returns the given options, or null if there is nothing to compare. Throws Error if they contradict. */
export function againstOptions(
  { against, patch, rounds, minutes }: Partial<Record<keyof typeof AGAINST_OPTIONS, string>>,
): AgainstOptions | null {
  if (against === undefined) {
    const [alone] = Object.entries({ patch, rounds, minutes }).find(([, value]) => value) ?? [];
    if (alone !== undefined) throw new Error(`--${alone} goes with --against REF`);
    return null;
  }
  // git would take it for an option.
  if (!/^[^-]/.test(against)) throw new Error(`--against takes a commit, not '${against}'`);
  const whole = (value: string, option: string) =>
    wholeNumber(value, { option, least: 1, most: 1000 });
  return {
    ref: against,
    ...(patch !== undefined && { patch }),
    rounds: rounds === undefined ? ROUNDS : whole(rounds, "rounds"),
    minutes: minutes === undefined ? MINUTES : whole(minutes, "minutes"),
  };
}

/** One case of both trees. */
export interface Row extends Pick<Result, "bench" | "case" | "unit"> {
  readonly better: "higher" | "lower";
  /** Medians of this tree and of the other. */
  readonly tegula: number;
  readonly against: number;
  /** The median over the rounds of this tree's figure ÷ the other's, inverted for times: above 1 is better. */
  readonly ratio: number;
  /** The interval of that median, with 95 % certainty if there are six rounds or more. */
  readonly ratioLow: number;
  readonly ratioHigh: number;
  readonly rounds: number;
}

/** The results of both trees in one round. */
export interface Round {
  readonly own: readonly Result[];
  readonly other: readonly Result[];
}

/** The cases that both trees have, in this tree's order. */
export function rowsOf(rounds: readonly Round[]): Row[] {
  const cases = rounds[0]?.own ?? [];
  return cases.flatMap(({ bench, case: name, unit }) => {
    const figure = (results: readonly Result[]) =>
      results.find((each) => each.case === name && each.unit === unit)?.tegula ?? NaN;
    const pairs = rounds.map(({ own, other }) => [figure(own), figure(other)] as const)
      .filter((pair) => pair.every(Number.isFinite));
    if (pairs.length === 0) return [];
    const better = HIGHER.has(unit) ? "higher" : "lower";
    // Two figures of 0 are equal, for example numbers of garbage collections.
    const ratios = pairs.map(([own, other]) =>
      own === other ? 1 : better === "higher" ? own / other : other / own
    );
    const [ratioLow, ratioHigh] = interval(ratios);
    return [{
      ...{ bench, case: name, unit, better },
      tegula: median(pairs.map(([own]) => own)),
      against: median(pairs.map(([, other]) => other)),
      ...{ ratio: median(ratios), ratioLow, ratioHigh },
      rounds: pairs.length,
    }];
  });
}

/** Columns of the table, under their heads. */
export function tableOf(rows: readonly Row[], other: string): string {
  const ratio = (value: number) => value.toFixed(3);
  const cells = rows.map((row) => [
    row.case,
    row.unit,
    row.better,
    row.tegula.toFixed(1),
    row.against.toFixed(1),
    ratio(row.ratio),
    `${ratio(row.ratioLow)} to ${ratio(row.ratioHigh)}`,
    String(row.rounds),
  ]);
  const all = [
    ["case", "unit", "better", "this tree", other, "times as good", "interval", "rounds"],
    ...cells,
  ];
  const widths = all[0].map((_, i) => Math.max(...all.map((line) => line[i].length)));
  const isText = (i: number) => i < 3;
  return all.map((line) =>
    line.map((cell, i) => isText(i) ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))
      .join("  ").trimEnd()
  ).join("\n");
}

/** A comparison besides its options. */
export interface Comparison extends AgainstOptions {
  /** This tree's folder. */
  readonly root: string;
  /** More arguments for the benchmarks, such as `--only REGEX`. */
  readonly args: readonly string[];
  /** Called once before the first turn, with a line about the two trees. */
  begin(commits: { readonly own: string; readonly other: string; readonly note: string }): void;
  /** Called with each benchmark's rows. */
  report(rows: readonly Row[], other: string): void;
  /** Called with lines about the progress. */
  progress(line: string): void;
}

/**
 * Compares the benchmarks `names`. Removes the work tree at the end, also after an error. A signal ends the
 * process with status 128 + its number.
 */
export async function compare(names: readonly string[], what: Comparison): Promise<void> {
  const { root, ref, patch, progress } = what;
  const git = (...args: string[]) => run(["git", "-C", root, ...args], root);
  const commit = await git("rev-parse", "--short", "--verify", `${ref}^{commit}`);
  const folder = Deno.makeTempDirSync({ prefix: "tegula-against-" });
  const tree = `${folder}/tree`;
  const clean = () => {
    killChildren();
    new Deno.Command("rm", { args: ["-rf", folder] }).outputSync();
    // git prunes a work tree that is gone.
    new Deno.Command("git", { args: ["-C", root, "worktree", "prune"] }).outputSync();
  };
  const signals = SIGNALS.map((signal, i) => {
    const end = () => {
      clean();
      Deno.exit(128 + [2, 15, 1][i]);
    };
    Deno.addSignalListener(signal, end);
    return () => Deno.removeSignalListener(signal, end);
  });
  try {
    await git("worktree", "add", "--quiet", "--detach", tree, commit);
    if (patch !== undefined) await run(["git", "apply", await Deno.realPath(patch)], tree);
    const other = patch === undefined ? commit : `${commit} with ${patch}`;
    const changed = await git("status", "--porcelain", "--untracked-files=no");
    const own = await git("rev-parse", "--short", "HEAD") + (changed === "" ? "" : " with changes");
    const files = await git("diff", "--name-only", commit, "--", ...LOADS);
    const note = files === "" ? "" : `the benchmarks differ: ${files.split("\n").join(", ")}`;
    what.begin({ own, other, note });
    progress(`building ${other}`);
    await run([Deno.execPath(), "install", "--frozen", "--quiet"], tree);
    await run([Deno.execPath(), "task", "--quiet", "build"], tree);
    for (const name of names) what.report(rowsOf(await roundsOf(name, tree, what)), commit);
  } finally {
    signals.forEach((remove) => remove());
    clean();
  }
}

/** Runs one benchmark on both trees in turn. */
async function roundsOf(name: string, tree: string, what: Comparison): Promise<Round[]> {
  const { root, rounds, minutes, args, progress } = what;
  const begin = performance.now();
  const done: Round[] = [];
  let [longest, failed] = [0, 0];
  while (done.length < rounds) {
    const roundBegin = performance.now();
    const sides = [["own", root], ["other", tree]] as const;
    const round: { -readonly [Side in keyof Round]: Round[Side] } = { own: [], other: [] };
    try {
      for (const [side, at] of done.length % 2 === 0 ? sides : sides.toReversed()) {
        round[side] = await turn(name, { root, tree: at }, args);
      }
    } catch (error) {
      if (++failed > MOST_FAILED) throw error;
      progress(`${name}: a round failed: ${(error as Error).message.split("\n")[0]}`);
      continue;
    }
    done.push(round);
    longest = Math.max(longest, performance.now() - roundBegin);
    const seconds = ((performance.now() - roundBegin) / 1000).toFixed(0);
    progress(`${name}: round ${done.length} of ${rounds}, ${seconds} s`);
    if (done.length < rounds && performance.now() - begin + longest > minutes * 60_000) {
      progress(`${name}: no time for more rounds (--minutes ${minutes})`);
      break;
    }
  }
  return done;
}

/** One run of one benchmark on one tree. */
async function turn(
  name: string,
  { root, tree }: { root: string; tree: string },
  args: readonly string[],
): Promise<Result[]> {
  const usual = USUAL[name];
  const only = usual !== undefined && !args.includes("--only") ? ["--only", usual] : [];
  const bench = ["task", "--quiet", "bench", name, "--json", ...args, ...only];
  const printed = BLACK_BOX.has(name)
    ? await run([Deno.execPath(), ...bench], root, { TEGULA_TREE: tree })
    : await run([Deno.execPath(), ...bench], tree);
  return printed === "" ? [] : printed.split("\n").map((line) => JSON.parse(line));
}

/** Running turns; each leads a process group. */
const children = new Set<Deno.ChildProcess>();

/** Kills all their groups: a turn has a shell, a task and a laboratory. */
function killChildren(): void {
  for (const { pid } of children) {
    try {
      Deno.kill(-pid, "SIGKILL");
    } catch {
      // It has just ended.
    }
  }
}

/** Runs a program to its end and returns its output. Throws Error with its errors. */
async function run(
  [program, ...args]: readonly string[],
  cwd: string,
  variables: Readonly<Record<string, string>> = {},
): Promise<string> {
  const pipes = { stdin: "null", stdout: "piped", stderr: "piped" } as const;
  const env = { NO_COLOR: "1", ...variables };
  const options = { args, cwd, env, detached: true, ...pipes };
  const child = new Deno.Command(program, options).spawn();
  children.add(child);
  const timer = setTimeout(() => Deno.kill(-child.pid, "SIGKILL"), TURN_MILLIS);
  try {
    const lines = async (stream: ReadableStream<Uint8Array>) =>
      (await Array.fromAsync(linesOf(stream))).join("\n").trim();
    const [printed, said, { success }] = await Promise.all([
      ...[lines(child.stdout), lines(child.stderr)] as const,
      child.status,
    ]);
    if (success) return printed;
    throw new Error(`${[program, ...args].join(" ")} in ${cwd} failed: ${said}`);
  } finally {
    clearTimeout(timer);
    children.delete(child);
  }
}
