/**
 * `deno task test [WORD…]`: builds, checks, and runs every test; words select test files by path.
 * Each file runs in a process of its own, so that a crash costs one file its count. Each file of
 * `tests/netns` and `tests/attacks` runs in network, mount and process namespaces of its own too, so
 * that what it leaves behind dies with it. Two of these files run at a time, where there are as many
 * processors, and what they print stands together. Each file of `tests/vm` runs in a virtual machine
 * (`scripts/vm`), where TEGULA_VM=1 asks for that.
 *
 * The first line says on what machine this runs. The last line is `N passed, N failed`, with
 * `, N skipped` after it where tests did not run. What may be skipped stands in `tests/skips.txt` with
 * its reason; every other skip is a failure, but for `tests/vm` without machines. A step that fails
 * without a test having failed (a build, a crash) counts as one failure.
 */

import { fileURLToPath } from "node:url";
import { laboratoryCommand } from "../demo/lab.ts";
import { linesOf } from "../cli/command.ts";
import { testFiles, testsOf } from "./docs.ts";
import { landlock, machine } from "./machine.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
/** Whether to try what only another kernel can show. */
const WITH_MACHINES = Deno.env.get("TEGULA_VM") === "1";
/** Whether this CPU has no memory protection keys; false also where it does not say (not x86). */
const LACKS_KEYS = Deno.build.arch === "x86_64" && Deno.uid() === 0 && machine().pku === "no";
/** An appliance's life, on a CPU that has them. */
const LIFE = "tests/vm/life_test.ts";
/** No step takes longer than this; for the long modes of some tests (see docs/testing.md), more. */
const STEP_MINUTES = Number(
  Deno.env.get("TEGULA_STEP_MINUTES") ?? (WITH_MACHINES || LACKS_KEYS ? 20 : 5),
);
/** The seed of the random cases of all tests, as `tests/seed.ts` takes it. */
const SEED = Deno.env.get("TEGULA_SEED") ??
  `${crypto.getRandomValues(new Uint32Array(1))[0] >>> 1}`;
const SIGNALS = ["SIGINT", "SIGTERM"] as const;
const DENO_TEST = [Deno.execPath(), "test", "--allow-all", "--no-check", "--cached-only"];
/** The product's folders: what has examples in its docs. */
const DOCUMENTED = ["apps", "cli", "demo", "ffi", "master", "netbase", "tiles"];

/** Runs its arguments in a laboratory. The shell stays as process 1 to reap what others leave. */
const IN_NAMESPACES = laboratoryCommand([
  ...["sh", "-c"],
  'mount -t tmpfs none /run/netns && ip link set lo up && "$@"; exit $?',
  "sh",
]);

/** Whether one failure is all there is to know: `scripts/mutants`. */
const FAIL_FAST = Deno.env.has("TEGULA_FAIL_FAST");

/** How many test files run at a time. */
const LANES = FAIL_FAST ? 1 : Math.min(2, navigator.hardwareConcurrency);

/** What came of everything so far; `remarks` are said again at the end, before the last line. */
const total = { passed: 0, failed: 0, skipped: 0, remarks: [] as string[] };

/**
 * Runs a command in the project's folder, shows its output, under its `name`, when it has ended, and returns
 * the lines of its standard output. What it puts where temporary files go is gone afterwards.
 */
async function show(
  name: string,
  [program, ...args]: string[],
): Promise<{ lines: string[]; success: boolean }> {
  const temporary = Deno.makeTempDirSync({ prefix: "tegula-test-" });
  // As /tmp is: some tests are another user for a while.
  Deno.chmodSync(temporary, 0o1777);
  const child = new Deno.Command(program, {
    args,
    cwd: ROOT,
    env: { NO_COLOR: "1", TMPDIR: temporary, TEGULA_SEED: SEED },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const shown = [`\n== ${name}`];
  const timer = setTimeout(() => {
    shown.push(`stopped: it took longer than ${STEP_MINUTES} minutes`);
    child.kill("SIGKILL");
  }, STEP_MINUTES * 60_000);
  // Whoever ends this ends the step, which may have processes and namespaces of its own.
  const stop = () => {
    child.kill("SIGKILL");
    Deno.removeSync(temporary, { recursive: true });
    Deno.exit(130);
  };
  SIGNALS.forEach((signal) => Deno.addSignalListener(signal, stop));
  const lines: string[] = [];
  const read = async (stream: ReadableStream<Uint8Array>, out: string[][]) => {
    for await (const line of linesOf(stream)) for (const each of out) each.push(line);
  };
  await Promise.all([read(child.stdout, [lines, shown]), read(child.stderr, [shown])]);
  const { success } = await child.status;
  console.log(shown.join("\n"));
  clearTimeout(timer);
  SIGNALS.forEach((signal) => Deno.removeSignalListener(signal, stop));
  Deno.removeSync(temporary, { recursive: true });
  return { lines, success };
}

function fail(count: number, remark: string): void {
  total.failed += count;
  total.remarks.push(`failed: ${remark}`);
}

/** Counts every test of these files as skipped. */
function leaveOut(files: string[], reason: string): void {
  for (const file of files) {
    const names = testsOf(Deno.readTextFileSync(ROOT + file));
    const count = names.filter((name) => !name.startsWith(" ")).length;
    total.skipped += count;
    total.remarks.push(`skipped: ${file} (${count}): ${reason}`);
  }
}

/** A step that is right or wrong as a whole. Returns whether it was right. */
async function step(name: string, command: string[]): Promise<boolean> {
  const { success } = await show(name, command);
  if (!success) fail(1, name);
  return success;
}

/**
 * One run of `deno test`, `command` being all of its command line. Returns whether it counts: not when some
 * test failed in one that `isBeside` another, which is to be run again alone.
 */
async function tests(
  name: string,
  command: string[],
  skips: Map<string, string>,
  { isBeside = false } = {},
): Promise<boolean> {
  if (FAIL_FAST && total.failed > 0) return true;
  const { lines, success } = await show(name, FAIL_FAST ? [...command, "--fail-fast"] : command);
  const outcome = readOutcome(lines, success);
  if (isBeside && outcome.failed > 0) return false;
  total.passed += outcome.passed;
  if (outcome.failed > 0) fail(outcome.failed, name);
  for (const test of outcome.skipped) {
    const reason = skips.get(test);
    if (reason === undefined) {
      fail(1, `${name}: "${test}" was skipped, and does not stand in tests/skips.txt`);
    } else {
      total.skipped++;
      total.remarks.push(`skipped: ${test}: ${reason}`);
    }
  }
  return true;
}

/**
 * Runs these files, `LANES` at a time, each by `command`. One that fails beside another is run again alone
 * afterwards, which is what counts, and is named: a machine that is busy makes some tests wait too long.
 */
async function inLanes(
  files: readonly string[],
  command: readonly string[],
  skips: Map<string, string>,
): Promise<void> {
  const waiting = [...files];
  const crowded: string[] = [];
  const lane = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      if (!await tests(file, [...command, file], skips, { isBeside: true })) crowded.push(file);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  for (const file of crowded) {
    total.remarks.push(`again: ${file} failed beside another file, and was run again alone`);
    await tests(file, [...command, file], skips);
  }
}

/** Test files of a folder whose path has one of the words in it; all when there are no words. */
function chosenFiles(folder: string, words: string[]): string[] {
  return [...testFiles(ROOT + folder)]
    .map((path) => path.slice(ROOT.length))
    .filter((path) => words.length === 0 || words.some((word) => path.includes(word)))
    .sort();
}

/** One line on what results depend on. */
function machineText(): string {
  const { cpu, pku, clocksource, cores, kernel, deno } = machine();
  return `${cpu}, pku ${pku}, clocksource ${clocksource}, ${cores} cores, kernel ${kernel}, ` +
    `landlock ${landlock()}, Deno ${deno}`;
}

async function main(words: string[]): Promise<number> {
  console.log(machineText());
  const skips = readSkips(Deno.readTextFileSync(ROOT + "tests/skips.txt"));
  const deno = Deno.execPath();
  await step("dependencies", [deno, "install", "--frozen", "--quiet"]);
  const built = await step("build", [deno, "task", "--quiet", "build"]);
  if (words.length === 0) {
    await step("check", [deno, "task", "--quiet", "check"]);
    await tests("examples", [...DENO_TEST, "--doc", "--permit-no-files", ...DOCUMENTED], skips);
  }
  await inLanes(chosenFiles("tests/unit", words), DENO_TEST, skips);
  const netns = ["tests/netns", "tests/attacks"].flatMap((folder) => chosenFiles(folder, words));
  if (netns.length > 0 && Deno.uid() !== 0) {
    fail(
      netns.length,
      "tests/netns and tests/attacks need root for their network namespaces: sudo scripts/test",
    );
  } else if (netns.length > 0 && built) {
    await inLanes(netns, [...IN_NAMESPACES, ...DENO_TEST], skips);
  }
  const vm = chosenFiles("tests/vm", words);
  // Most CPUs have protection keys: where this one has none, one machine is booted that has.
  const isWanted = (file: string) => WITH_MACHINES || (file === LIFE && LACKS_KEYS);
  leaveOut(
    vm.filter((file) => !isWanted(file)),
    "it takes a virtual machine: set TEGULA_VM=1, and be root",
  );
  for (const file of built ? vm.filter(isWanted) : []) {
    await tests(file, [`${ROOT}scripts/vm`, ...DENO_TEST, file], skips);
  }
  if (total.failed > 0) total.remarks.push(`random cases were those of TEGULA_SEED=${SEED}`);
  console.log(["", ...total.remarks].join("\n"));
  const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : "";
  console.log(`${total.passed} passed, ${total.failed} failed${skipped}`);
  return total.failed === 0 ? 0 : 1;
}

/** Counts of one run, and the names of the tests that were skipped in it. */
export interface Outcome {
  passed: number;
  failed: number;
  readonly skipped: string[];
}

/** The closing line of Deno's pretty reporter: `ok | 3 passed (2 steps) | 0 failed | 1 ignored (9ms)`. */
const CLOSING_LINE = /^(?:ok|FAILED) \| (\d+) passed\b.*? \| (\d+) failed\b/;
/** `name ... ignored (0ms)`; a step's line is indented and counts with its test. */
const IGNORED_LINE = /^(\S.*) \.\.\. ignored \(/;

/**
 * Reads the output of one `deno test`, without colours, and whether it exited with status 0. A run
 * that failed without a failed test, or that never came to its closing line, counts as one failure.
 */
export function readOutcome(lines: Iterable<string>, success: boolean): Outcome {
  const outcome: Outcome = { passed: 0, failed: 0, skipped: [] };
  let closed = false;
  for (const line of lines) {
    const closing = CLOSING_LINE.exec(line);
    if (closing !== null) {
      closed = true;
      outcome.passed += Number(closing[1]);
      outcome.failed += Number(closing[2]);
    }
    const ignored = IGNORED_LINE.exec(line);
    if (ignored !== null) outcome.skipped.push(ignored[1]);
  }
  if (outcome.failed === 0 && !(success && closed)) outcome.failed = 1;
  return outcome;
}

/** Reads `NAME :: REASON` lines; empty ones and those that begin with `#` say nothing. */
export function readSkips(text: string): Map<string, string> {
  const skips = new Map<string, string>();
  for (const line of text.split("\n")) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [name, reason = ""] = line.split(" :: ").map((part) => part.trim());
    if (reason === "") throw new Error(`a skip without a reason: ${line}`);
    skips.set(name, reason);
  }
  return skips;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
