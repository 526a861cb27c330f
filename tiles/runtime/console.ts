/**
 * `console` inside a tile: a confined thread can write to no terminal, so what is said there goes to the
 * log by main, in the tile's name. Bounded, since a word for each datagram would be more than anyone
 * reads and more than main can write; so is what apps say by their context's `log`.
 */

/** Lines that are said within a second; further ones of that second are left out. */
const LINES_A_SECOND = 50;
/** The longest line, in UTF-16 units. */
const LONGEST_LINE = 4096;

/** Methods that say what they are given. */
const SAYING = "log info debug warn error dir dirxml table trace group groupCollapsed".split(" ");

/** Says by `log` what it is given, values as Deno shows them, within those bounds. */
export function bounded(
  log: (line: string) => void,
  now: () => number = () => performance.now(),
): (...said: unknown[]) => void {
  let begun = -Infinity;
  let lines = 0;
  return (...said) => {
    const time = now();
    if (time - begun >= 1000) [begun, lines] = [time, 0];
    if (lines > LINES_A_SECOND) return;
    if (++lines > LINES_A_SECOND) {
      return log(`it says more than ${LINES_A_SECOND} lines in a second: the rest is left out`);
    }
    const line = said.map(text).join(" ");
    log(line.length > LONGEST_LINE ? `${line.slice(0, LONGEST_LINE)}…` : line);
  };
}

/** Every method of a console, to be put in place of Deno's. */
export function consoleTo(
  log: (line: string) => void,
  now?: () => number,
): Record<string, (...said: unknown[]) => void> {
  const say = bounded(log, now);
  const methods = Object.keys(console).filter((name) =>
    typeof console[name as keyof Console] === "function"
  );
  return {
    // Counting, timing and the like would only be half of it: they do nothing.
    ...Object.fromEntries(methods.map((name) => [name, SAYING.includes(name) ? say : () => {}])),
    assert: (condition, ...said) => {
      if (!condition) say("assertion failed:", ...said);
    },
  };
}

function text(said: unknown): string {
  return typeof said === "string" ? said : Deno.inspect(said);
}
