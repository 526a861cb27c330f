// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula top`: shows rates, drops, latency, saturation and health of a running tegula every
 * second. The tables are those of the status page (`../tiles/status/page/overview.ts`).
 */

import {
  cellText,
  latencyText,
  type Overview,
  overview,
  Scrape,
  type Sort,
  SORTS,
  type Table,
} from "../tiles/status/page/overview.ts";
import { attempt } from "../ffi/library.ts";
import { delay } from "../tiles/runtime/tile.ts";
import { CONTROL_OPTION, LastingControl } from "./control.ts";
import { command, Exit, oneOf, say, wholeNumber, write } from "./command.ts";

const PERIOD_MILLIS = 1000;
/** Rows of a table in a printed block. */
const BLOCK_ROWS = 10;

export default command({
  name: "top",
  usage: ["[--once | --count N] [--sort WHICH]"],
  about:
    `Shows, each second, rates by interface, port and app, drops by reason, how long datagrams stay inside,
how busy tiles and processes are, and what is wrong. Goes on through a reload or an upgrade, and ends with the
running tegula.

In a terminal, q or Ctrl-C ends it, s changes the order, p pauses. Elsewhere, or with --count, it prints a
block each second, as 'top -b' does.`,
  options: {
    once: { type: "boolean", help: "print one block and end; the same as --count 1" },
    count: { type: "string", value: "N", help: "print N blocks and end" },
    sort: {
      type: "string",
      value: SORTS.join("|"),
      help: "the order of interfaces, ports and apps; by default packets",
    },
    control: CONTROL_OPTION,
  },
  status: "0 ended as asked, 1 the tegula has ended or does not answer, 2 none runs here, 3 not " +
    "permitted.",
}, async ({ values }) => {
  const count = values.count === undefined
    ? values.once ? 1 : Infinity
    : wholeNumber(values.count, { option: "count", least: 1, most: 1e9 });
  const sort = oneOf(values.sort ?? "packets", { option: "sort", allowed: SORTS });
  const control = new LastingControl(values.control);
  const first = await scrape(control);
  if (count < Infinity || !Deno.stdout.isTerminal()) {
    await printBlocks(control, { first, sort, count });
  } else await showScreen(control, first, sort);
  return Exit.ok;
});

/** Reads the current metrics. Throws UserError. */
export async function scrape(control: LastingControl): Promise<Scrape> {
  const { text } = await control.one({ do: "metrics" });
  return new Scrape(String(text), performance.now());
}

/** Prints `count` blocks, each for the second since the last one. */
async function printBlocks(
  control: LastingControl,
  { first, sort, count }: { first: Scrape; sort: Sort; count: number },
): Promise<void> {
  for (let before = first; count > 0; count--) {
    await delay(before.atMillis + PERIOD_MILLIS - performance.now());
    const now = await scrape(control);
    const shown = overview(before, now, { nowSeconds: Date.now() / 1000, sort });
    const rows = shown.tables.map((table) => Math.min(table.rows.length, BLOCK_ROWS));
    const head = headLines(shown, Infinity).map(plain);
    say([...head, ...tableLines(shown.tables, rows, Infinity).map(plain), ""].join("\n"));
    before = now;
  }
}

/** Shows a full screen until the user ends it. Throws UserError when the tegula ends. */
async function showScreen(control: LastingControl, first: Scrape, sort: Sort): Promise<void> {
  let before: Scrape | null = null;
  let now = first;
  let isPaused = false;

  function draw(): void {
    const size = Deno.consoleSize();
    // A serial line reports no size.
    const [columns, rows] = [size.columns || 80, size.rows || 24];
    const shown = overview(before, now, { nowSeconds: Date.now() / 1000, sort });
    const keys = `q ends, s sorts (by ${sort}), p ${isPaused ? "resumes" : "pauses"}`;
    const head = headLines(shown, columns);
    const counts = rowCounts(shown.tables, rows - head.length - 1);
    const lines = [...head, ...tableLines(shown.tables, counts, columns)].slice(0, rows - 1);
    while (lines.length < rows - 1) lines.push({ text: "" });
    lines.push({ text: keys, style: isPaused ? BOLD : DIM });
    write(encoder.encode(HOME + lines.map((line) => styled(line, columns)).join("\r\n")));
  }

  async function refresh(): Promise<never> {
    for (;;) {
      await delay(Math.max(0, now.atMillis + PERIOD_MILLIS - performance.now()));
      const next = await scrape(control);
      if (isPaused) {
        await delay(PERIOD_MILLIS);
        continue;
      }
      [before, now] = [now, next];
      draw();
    }
  }

  /** Resolves at q. Without a terminal there are no keys. */
  async function readKeys(): Promise<void> {
    const buffer = new Uint8Array(64);
    const read = () => Deno.stdin.isTerminal() ? Deno.stdin.read(buffer) : null;
    for (let n = await read(); n !== null; n = await read()) {
      const keys = new TextDecoder().decode(buffer.subarray(0, n));
      if (keys.includes("q")) return;
      if (keys.includes("s")) sort = SORTS[(SORTS.indexOf(sort) + 1) % SORTS.length];
      if (keys.includes("p")) isPaused = !isPaused;
      draw();
    }
    await new Promise(() => {});
  }

  const ended = Promise.withResolvers<void>();
  // Deno.exit dispatches this too, so the terminal is always restored.
  globalThis.addEventListener("unload", leaveScreen);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    Deno.addSignalListener(signal, () => ended.resolve());
  }
  Deno.addSignalListener("SIGWINCH", draw);
  // Ctrl-Z.
  Deno.addSignalListener("SIGTSTP", () => {
    leaveScreen();
    Deno.kill(Deno.pid, "SIGSTOP");
  });
  Deno.addSignalListener("SIGCONT", () => {
    enterScreen();
    draw();
  });
  enterScreen();
  draw();
  try {
    await Promise.race([ended.promise, refresh(), readKeys()]);
  } finally {
    globalThis.removeEventListener("unload", leaveScreen);
    leaveScreen();
  }
}

const encoder = new TextEncoder();

/** Control sequences (ECMA-48) and xterm's private modes. */
const [HOME, ERASE_LINE, RESET] = ["\x1b[H", "\x1b[K", "\x1b[m"];
const [BOLD, DIM, RED] = ["\x1b[1m", "\x1b[2m", "\x1b[1;31m"];
/** The alternate screen, the cursor, and wrapping at the right edge. */
const [ENTER, LEAVE] = ["\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"];

function enterScreen(): void {
  // Keys arrive unbuffered and without echo, but Ctrl-C and Ctrl-Z remain signals.
  if (Deno.stdin.isTerminal()) Deno.stdin.setRaw(true, { cbreak: true });
  write(encoder.encode(ENTER));
}

function leaveScreen(): void {
  // The terminal may be gone.
  attempt(() => {
    if (Deno.stdin.isTerminal()) Deno.stdin.setRaw(false);
    Deno.stdout.writeSync(encoder.encode(LEAVE));
  });
}

/** A line, whose names may contain any character, and the control sequence for its style. */
interface Line {
  readonly text: string;
  readonly style?: string;
}

export function plain({ text }: Line): string {
  return text.trimEnd().replaceAll(/\p{Cc}/gu, "?");
}

function styled(line: Line, columns: number): string {
  const { style = "" } = line;
  return `${style}${plain(line).slice(0, columns)}${style && RESET}${ERASE_LINE}`;
}

/** The facts about the appliance, and the total rates, in as many lines as needed. */
function headLines({ facts, rx, tx, drops, latency }: Overview, columns: number): Line[] {
  const bad = facts.filter(({ isBad }) => isBad);
  const good = facts.filter(({ isBad }) => !isBad);
  const rate = (value: number) => cellText("packets", value);
  const rates = [
    `rx ${rate(rx.packets)}/s ${rate(rx.bytes)} B/s`,
    `tx ${rate(tx.packets)}/s ${rate(tx.bytes)} B/s`,
    `drops ${rate(drops)}/s`,
    `p50 ${latencyText(latency.p50)} p99 ${latencyText(latency.p99)}`,
  ];
  return [
    ...wrapped(good.map(({ text }) => text), columns).map((text) => ({ text })),
    ...wrapped(bad.map(({ text }) => text), columns).map((text) => ({ text, style: RED })),
    ...wrapped(rates, columns).map((text) => ({ text, style: BOLD })),
  ];
}

/** Wraps words into as few lines as possible. */
function wrapped(words: readonly string[], columns: number): string[] {
  const lines: string[] = [];
  for (const word of words) {
    const longer = `${lines.at(-1)}, ${word}`;
    if (lines.length > 0 && longer.length <= columns) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

/** How many rows of each table fit into `room` lines. Tables with rows left get one each in turn. */
function rowCounts(tables: readonly Table[], room: number): number[] {
  const counts = tables.map(() => 0);
  for (let isFull = false; !isFull;) {
    isFull = true;
    for (const [i, { rows }] of tables.entries()) {
      // The first row also needs the line with the titles.
      const cost = counts[i] === 0 ? 2 : 1;
      if (counts[i] === rows.length || cost > room) continue;
      counts[i]++;
      room -= cost;
      isFull = false;
    }
  }
  return counts;
}

const [NAME_WIDTH, WIDTH] = [16, 9];

/** The first `counts` rows of each table, without the columns that do not fit. */
export function tableLines(
  tables: readonly Table[],
  counts: readonly number[],
  columns: number,
): Line[] {
  return tables.flatMap((table, i) => {
    if (counts[i] === 0) return [];
    const fitting = table.columns.slice(0, 1 + Math.floor((columns - NAME_WIDTH) / WIDTH));
    const left = table.rows.length - counts[i];
    const titles = fitting.map(({ title }) => title.toUpperCase());
    if (left > 0) titles[0] += ` +${left}`;
    const rows = table.rows.slice(0, counts[i]);
    const row = (cells: readonly string[]) => cells.map((cell, j) => placed(cell, j)).join("");
    return [
      { text: row(titles), style: DIM },
      ...rows.map((cells) => ({
        text: row(fitting.map(({ kind }, j) => cellText(kind, cells[j]))),
      })),
    ];
  });
}

/** A cell in its column: names are left-aligned, other cells right-aligned; too long ones are cut off. */
function placed(cell: string, column: number): string {
  const width = column === 0 ? NAME_WIDTH : WIDTH;
  const cut = cell.length < width ? cell : `${cell.slice(0, width - 2)}…`;
  return column === 0 ? cut.padEnd(width) : cut.padStart(width);
}
