// SPDX-License-Identifier: Apache-2.0
/**
 * `deno task test [WORD…]`: builds, checks, and runs every test. Words select test files by path.
 * Each file runs in its own process, so that a crash affects one file. Files of `tests/netns` and
 * `tests/attacks` also have their own network, mount and process namespaces, so that nothing
 * outlasts them. Up to three files run at a time; the output of a file stays
 * together. Each file of `tests/vm` runs in a virtual machine (`scripts/vm`), if TEGULA_VM=1.
 *
 * The first line describes the machine. The last line is `N passed, N failed`, followed by `, N skipped` if tests were
 * skipped. `tests/skips.txt` lists the tests that may be skipped, with reasons. Any other skip is a failure, except
 * `tests/vm` without machines. A step that fails without a failed test (a build, a crash) counts as one failure.
 */

import { fileURLToPath } from "node:url";
import { laboratoryCommand } from "../demo/lab.ts";
import { linesOf } from "../cli/command.ts";
import { testFiles, testsOf } from "./docs.ts";
import { landlock, machine } from "./machine.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
/** Whether to run the tests in virtual machines. */
const WITH_MACHINES = Deno.env.get("TEGULA_VM") === "1";
/** Whether this x86 CPU has no memory protection keys. */
const LACKS_KEYS = Deno.build.arch === "x86_64" && Deno.uid() === 0 && machine().pku === "no";
/** The test of an appliance on a CPU with protection keys. */
const LIFE = "tests/vm/life_test.ts";
/** The time limit of a step. The long modes of some tests (docs/testing.md) need more. */
const STEP_MINUTES = Number(
  Deno.env.get("TEGULA_STEP_MINUTES") ?? (WITH_MACHINES || LACKS_KEYS ? 20 : 5),
);
/** The seed of all random cases (`tests/seed.ts`). */
const SEED = Deno.env.get("TEGULA_SEED") ??
  `${crypto.getRandomValues(new Uint32Array(1))[0] >>> 1}`;
const SIGNALS = ["SIGINT", "SIGTERM"] as const;
const DENO_TEST = [Deno.execPath(), "test", "--allow-all", "--no-check", "--cached-only"];
/** The folders whose doc comments have examples. */
const DOCUMENTED = ["apps", "cli", "demo", "ffi", "master", "netbase", "tiles"];

/** Runs its arguments in a laboratory. The shell is process 1, and reaps orphans. */
const IN_NAMESPACES = laboratoryCommand([
  ...["sh", "-c"],
  'mount -t tmpfs none /run/netns && ip link set lo up && "$@"; exit $?',
  "sh",
]);

/** Whether to stop at the first failure, as `scripts/mutants` does. */
const FAIL_FAST = Deno.env.has("TEGULA_FAIL_FAST");

/** How many test files run at a time: up to three, one more than processors, as tests wait a part of their time. */
const LANES = FAIL_FAST ? 1 : Math.min(2, navigator.hardwareConcurrency) + 1;

/** The results so far. `remarks` are printed at the end, before the last line. */
const total = { passed: 0, failed: 0, skipped: 0, remarks: [] as string[] };

/**
 * Runs a command in the project's folder. When it has ended, prints its output under its `name` and its duration, and
 * removes its temporary files. Returns the lines of its standard output.
 */
async function show(
  name: string,
  [program, ...args]: string[],
): Promise<{ lines: string[]; success: boolean }> {
  const temporary = Deno.makeTempDirSync({ prefix: "tegula-test-" });
  // Like /tmp, since some tests change their user.
  Deno.chmodSync(temporary, 0o1777);
  const child = new Deno.Command(program, {
    args,
    cwd: ROOT,
    env: { NO_COLOR: "1", TMPDIR: temporary, TEGULA_SEED: SEED },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const begun = performance.now();
  const shown: string[] = [];
  const timer = setTimeout(() => {
    shown.push(`stopped: it took longer than ${STEP_MINUTES} minutes`);
    child.kill("SIGKILL");
  }, STEP_MINUTES * 60_000);
  // A signal also ends the step, which may have processes and namespaces of its own.
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
  const seconds = Math.round((performance.now() - begun) / 1000);
  console.log([`\n== ${name} (${seconds} s)`, ...shown].join("\n"));
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

/** A step without tests. Returns whether it succeeded. */
async function step(name: string, command: string[]): Promise<boolean> {
  const { success } = await show(name, command);
  if (!success) fail(1, name);
  return success;
}

/**
 * Makes one run of `deno test` by `command`. Returns whether it counts. It does not count if a test
 * failed while the run `isBeside` another; then it must be repeated alone.
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
      fail(1, `${name}: "${test}" was skipped, but is not listed in tests/skips.txt`);
    } else {
      total.skipped++;
      total.remarks.push(`skipped: ${test}: ${reason}`);
    }
  }
  return true;
}

/**
 * Runs these files, `LANES` at a time, each by `command`. A file that fails while another runs is reported, and
 * is run again alone afterwards, since some tests time out on a busy machine. Only the second run counts then.
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

/** The test files of a folder whose paths contain one of the words, or all without words. */
function chosenFiles(folder: string, words: string[]): string[] {
  return testFiles(folder)
    .filter((path) => words.length === 0 || words.some((word) => path.includes(word)));
}

async function main(words: string[]): Promise<number> {
  const { cpu, pku, clocksource, cores, kernel, deno: version } = machine();
  console.log(
    `${cpu}, pku ${pku}, clocksource ${clocksource}, ${cores} cores, kernel ${kernel}, ` +
      `landlock ${landlock()}, Deno ${version}`,
  );
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
  // Most CPUs have protection keys. If this one has none, boot a machine that has them.
  const isWanted = (file: string) => WITH_MACHINES || (file === LIFE && LACKS_KEYS);
  leaveOut(
    vm.filter((file) => !isWanted(file)),
    "it needs a virtual machine: set TEGULA_VM=1, and run as root",
  );
  for (const file of built ? vm.filter(isWanted) : []) {
    await tests(file, [`${ROOT}scripts/vm`, ...DENO_TEST, file], skips);
  }
  if (total.failed > 0) total.remarks.push(`the random cases used TEGULA_SEED=${SEED}`);
  console.log(["", ...total.remarks].join("\n"));
  const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : "";
  console.log(`${total.passed} passed, ${total.failed} failed${skipped}`);
  return total.failed === 0 ? 0 : 1;
}

/** The counts of one run, and the names of its skipped tests. */
interface Outcome {
  passed: number;
  failed: number;
  readonly skipped: string[];
}

/** The closing line of Deno's pretty reporter: `ok | 3 passed (2 steps) | 0 failed | 1 ignored (9ms)`. */
const CLOSING_LINE = /^(?:ok|FAILED) \| (\d+) passed\b.*? \| (\d+) failed\b/;
/** `name ... ignored (0ms)`. Lines of steps are indented; a step counts with its test. */
const IGNORED_LINE = /^(\S.*) \.\.\. ignored \(/;

/**
 * Reads the output of one `deno test`, without colours. `success`: whether its exit status was 0. A run that failed
 * without a failed test, or has no closing line, counts as one failure.
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

/** Reads `NAME :: REASON` lines. Skips empty ones and those that begin with `#`. */
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
