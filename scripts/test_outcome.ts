/**
 * What a run of `deno test` came to, read off its output, and the list of tests that may be skipped.
 * Used by `test.ts` alone; apart from it so that it can be tested.
 */

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
