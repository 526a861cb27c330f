// SPDX-License-Identifier: Apache-2.0
/// <reference lib="dom" />
/**
 * The status page in the browser: reads the metrics every second, and shows the tables of
 * `overview.ts`, and plots of the last minutes. Only this page has the history.
 */

import uPlot from "uplot";
import {
  cellText,
  type Column,
  latencyText,
  type Overview,
  overview,
  Scrape,
  type Sort,
  SORTS,
  type Table,
} from "./overview.ts";

/** How often the metrics are read. With thousands of ports they are read less often: 1 s for each 128 KiB. */
const PERIOD_MILLIS = 1000;
const BYTES_PER_PERIOD = 1 << 17;
const PATIENCE_MILLIS = 10_000;
/** Points of a plot: five minutes. */
const MOST_POINTS = 300;
/** Lines of a plot, each with its own colour (`page.css`). */
const MOST_LINES = 8;
const MOST_ROWS = 20;
const PLOT_HEIGHT = 150;

function element<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  properties: Partial<HTMLElementTagNameMap[Name]> = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[Name] {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function byId<Element extends HTMLElement>(id: string): Element {
  return document.getElementById(id) as Element;
}

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
}

/** A plot of lines over time. A line appears with its first value. */
class Plot {
  readonly #place: HTMLElement;
  readonly #text: (value: number) => string;
  readonly #isLog: boolean;
  readonly #names: string[] = [];
  #data: [number[], ...(number | null)[][]] = [[]];
  #plot: uPlot | null = null;

  constructor(title: string, text: (value: number) => string, { isLog = false } = {}) {
    this.#text = text;
    this.#isLog = isLog;
    this.#place = element("div", {}, element("h2", {}, title));
    byId("plots").append(this.#place);
    new ResizeObserver(() => this.#plot?.setSize(this.#size)).observe(this.#place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** Adds a point to each line; NaN is a gap. */
  add(seconds: number, values: ReadonlyMap<string, number>): void {
    const [times, ...lines] = this.#data;
    const added = [...values.keys()].filter((name) => !this.#names.includes(name))
      .slice(0, MOST_LINES - this.#names.length);
    this.#names.push(...added);
    lines.push(...added.map(() => times.map(() => null)));
    times.push(seconds);
    lines.forEach((line, i) => {
      const value = values.get(this.#names[i]) ?? NaN;
      line.push(Number.isNaN(value) ? null : value);
    });
    const from = Math.max(0, times.length - MOST_POINTS);
    this.#data = [times.slice(from), ...lines.map((line) => line.slice(from))];
    if (added.length > 0 || this.#plot === null) this.#draw();
    else this.#plot.setData(this.#data);
    this.#nameLatest();
  }

  /** Shows the latest values in the legend, unless the cursor is at others. */
  #nameLatest(): void {
    if ((this.#plot?.cursor.left ?? 0) < 0) {
      this.#plot!.setLegend({ idx: this.#data[0].length - 1 });
    }
  }

  get #size() {
    return { width: this.#place.clientWidth, height: PLOT_HEIGHT };
  }

  #draw(): void {
    this.#plot?.destroy();
    const line = { stroke: colour("line"), width: 1 };
    const axis = { stroke: colour("soft"), grid: line, ticks: line };
    const filter = this.#isLog ? { filter: powersOfTen } : {};
    const marks = { ...filter, grid: { ...line, ...filter }, ticks: { ...line, ...filter } };
    const text = (value: number | null) => value === null ? "" : this.#text(value);
    this.#plot = new uPlot(
      {
        ...this.#size,
        cursor: { drag: { x: false, y: false } },
        hooks: { setCursor: [() => this.#nameLatest()] },
        scales: {
          y: this.#isLog
            ? { distr: 3, range: decades }
            : { range: (_, _least, most) => [0, most > 0 ? most * 1.1 : 1] },
        },
        axes: [
          { ...axis, values: (_, ticks) => ticks.map(timeText), size: 30, space: 80 },
          { ...axis, ...marks, values: (_, ticks) => ticks.map(text), size: 60 },
        ],
        series: [
          { label: "time", value: (_, value) => value === null ? "" : timeText(value) },
          ...this.#names.map((label, i) => ({
            ...{ label, width: 1.5, stroke: colour(`series-${i + 1}`), points: { show: false } },
            value: (_: uPlot, value: number | null) => text(value),
          })),
        ],
      },
      this.#data,
      this.#place,
    );
  }
}

/** Powers of ten around all values; without values, a microsecond and a second. */
function decades(_: uPlot, least: number, most: number): [number, number] {
  if (!(least > 0)) return [1e-6, 1];
  const low = 10 ** Math.floor(Math.log10(least));
  return [low, Math.max(10 * low, 10 ** Math.ceil(Math.log10(most)))];
}

/** The ticks of a logarithmic axis that are shown; null: not this one. */
function powersOfTen(_: uPlot, ticks: number[]): (number | null)[] {
  return ticks.map((tick) =>
    Math.abs(Math.log10(tick) - Math.round(Math.log10(tick))) < 1e-6 ? tick : null
  );
}

function timeText(seconds: number): string {
  return new Date(seconds * 1000).toTimeString().slice(0, 8);
}

/** A column's class: text, a number, or a total, which does not fit on a phone. */
function classOf({ kind }: Column): string {
  return kind === "text" ? "text" : kind === "count" ? "total" : "";
}

function tableElement({ columns, rows }: Table): HTMLElement {
  const head = columns.map((column) => element("th", { className: classOf(column) }, column.title));
  const body = rows.slice(0, MOST_ROWS).map((row) =>
    element(
      "tr",
      {},
      ...row.map((value, i) => {
        const { kind } = columns[i];
        const title = typeof value === "string" ? "" : String(value);
        return element("td", { className: classOf(columns[i]), title }, cellText(kind, value));
      }),
    )
  );
  const table = element(
    "table",
    { className: "rows" },
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...body),
  );
  if (rows.length > MOST_ROWS) table.createCaption().append(`and ${rows.length - MOST_ROWS} more`);
  return element("div", { id: `table-${columns[0].title}` }, table);
}

const rate = (value: number) => cellText("packets", value);
const plots = {
  packets: new Plot("Packets per second", rate),
  bytes: new Plot("Payload bytes per second", rate),
  latency: new Plot("Time inside", latencyText, { isLog: true }),
  busy: new Plot("Busy share of tiles", (value) => cellText("share", value)),
  drops: new Plot("Drops per second", rate),
};

/** Adds a point to each plot; without an overview, a gap. */
function plot({ rx, tx, latency, busy, drops }: Partial<Overview>): void {
  const seconds = Date.now() / 1000;
  plots.packets.add(seconds, lines({ rx: rx?.packets, tx: tx?.packets }));
  plots.bytes.add(seconds, lines({ rx: rx?.bytes, tx: tx?.bytes }));
  plots.latency.add(seconds, lines({ ...latency }));
  plots.busy.add(seconds, busy ?? new Map());
  plots.drops.add(seconds, lines({ drops }));
}

function lines(values: Readonly<Record<string, number | undefined>>): Map<string, number> {
  return new Map(Object.entries(values).map(([name, value]) => [name, value ?? NaN]));
}

function say(text: string, { isBad = false } = {}): void {
  byId("state").textContent = text;
  byId("state").className = isBad ? "bad" : "";
}

let before: Scrape | null = null;
let answered = "";

/** Reads the metrics and shows them. Returns the milliseconds until the next refresh. */
async function refresh(): Promise<number> {
  let text: string;
  let scrape: Scrape;
  let nowSeconds: number;
  try {
    const answer = await fetch("metrics", { signal: AbortSignal.timeout(PATIENCE_MILLIS) });
    const atMillis = performance.now();
    if (!answer.ok) throw new Error(`${answer.status}`);
    nowSeconds = Date.parse(answer.headers.get("date") ?? "") / 1000;
    text = await answer.text();
    scrape = new Scrape(text, atMillis);
  } catch {
    say(`No answer since ${answered || "the start"}; trying again.`, { isBad: true });
    plot({});
    return PERIOD_MILLIS;
  }
  const sort = byId<HTMLSelectElement>("sort").value as Sort;
  const shown = overview(before, scrape, { nowSeconds, sort });
  byId("facts").replaceChildren(
    ...shown.facts.map(({ text, isBad }) => element("li", { className: isBad ? "bad" : "" }, text)),
  );
  byId("tables").replaceChildren(
    ...shown.tables.filter(({ rows }) => rows.length > 0).map(tableElement),
  );
  if (before !== null) plot(shown);
  before = scrape;
  answered = timeText(Date.now() / 1000);
  say(`As of ${answered}.`);
  return PERIOD_MILLIS * Math.max(1, text.length / BYTES_PER_PERIOD);
}

byId("sort").append(...SORTS.map((sort) => element("option", {}, sort)));
for (;;) {
  const begun = performance.now();
  const period = await refresh();
  await new Promise((resolve) => setTimeout(resolve, begun + period - performance.now()));
}
