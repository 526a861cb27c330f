// SPDX-License-Identifier: Apache-2.0
/**
 * The overview of a running Tegula, made from two scrapes of its metrics: rates by interface, port and
 * app, drops, latency, saturation and health. `tegula top` and the status page show the same tables,
 * and read nothing else. This module also runs in browsers.
 */

type Labels = Readonly<Record<string, string>>;

/** A sample of a metric. `series` is its name with its labels. */
interface Sample {
  readonly series: string;
  readonly labels: Labels;
  readonly value: number;
}

/** The metrics at one time, from their text (`../metrics.ts`). */
export class Scrape {
  /** The time, in milliseconds of a monotonic clock. */
  readonly atMillis: number;
  readonly #samples = new Map<string, Sample[]>();
  readonly #values = new Map<string, number>();

  constructor(text: string, atMillis: number) {
    this.atMillis = atMillis;
    // There may be tens of thousands of lines: this takes half the time of regular expressions.
    for (let at = 0, end; at < text.length; at = end + 1) {
      end = text.indexOf("\n", at);
      if (end < 0) end = text.length;
      const space = text.lastIndexOf(" ", end);
      if (text[at] === "#" || space < at) continue;
      const series = text.slice(at, space);
      const brace = series.indexOf("{");
      const name = brace < 0 ? series : series.slice(0, brace);
      const labels = brace < 0 ? {} : labelsOf(series.slice(brace + 1, -1));
      const value = Number(text.slice(space + 1, end));
      const others = this.#samples.get(name);
      if (others === undefined) this.#samples.set(name, [{ series, labels, value }]);
      else others.push({ series, labels, value });
      this.#values.set(series, value);
    }
  }

  samples(name: string): readonly Sample[] {
    return this.#samples.get(name) ?? [];
  }

  /** The value of a series; undefined: there is none. */
  value(series: string): number | undefined {
    return this.#values.get(series);
  }
}

function labelsOf(inside: string): Labels {
  const labels: Record<string, string> = {};
  for (let at = 0, end; at < inside.length; at = end + 2) {
    const from = inside.indexOf('="', at) + 2;
    for (end = from; inside[end] !== '"' && end < inside.length; end++) {
      if (inside[end] === "\\") end++;
    }
    labels[inside.slice(at, from - 2)] = unquoted(inside.slice(from, end));
  }
  return labels;
}

function unquoted(text: string): string {
  return text.includes("\\")
    ? text.replace(/\\(.)/g, (_, letter) => letter === "n" ? "\n" : letter)
    : text;
}

/** The kind of a column: `packets`, `bytes` and `rate` are per second, `memory` is in bytes. */
export type Kind = "text" | "packets" | "bytes" | "rate" | "count" | "memory" | "share" | "seconds";

export interface Column {
  readonly title: string;
  readonly kind: Kind;
}

/** Rows with a cell for each column: text, or a number, NaN if it is unknown. The first cell is the name. */
export interface Table {
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly (string | number)[])[];
}

export const SORTS = ["packets", "bytes", "name"] as const;
export type Sort = (typeof SORTS)[number];

/** A fact about the whole. `isBad`: somebody should act on it. */
export interface Fact {
  readonly text: string;
  readonly isBad: boolean;
}

/** Selects samples and gives each the name of its row. */
type Key = (labels: Labels) => string | undefined;

/** The value of `label`, if the others are as in `only`. Ports without a metric are named after their app. */
function by(label: string, only: Labels = {}): Key {
  const wanted = Object.entries(only);
  return (labels) => {
    if (!wanted.every(([name, value]) => labels[name] === value)) return undefined;
    return label === "port" && labels.port === "other" ? `other ${labels.app}` : labels[label];
  };
}

/** Two scrapes, and the changes between them. */
class Interval {
  readonly now: Scrape;
  readonly #before: Scrape | null;
  readonly #seconds: number;

  constructor(before: Scrape | null, now: Scrape) {
    this.now = now;
    this.#before = before;
    this.#seconds = before === null ? NaN : (now.atMillis - before.atMillis) / 1000;
  }

  /** How much a counter has grown. If it has shrunk it was reset to 0, as Prometheus assumes. */
  growth({ series, value }: Sample): number {
    if (this.#before === null) return NaN;
    const before = this.#before.value(series) ?? 0;
    return value < before ? value : value - before;
  }

  /** Sums of rates of a counter, by `key`. */
  rates(metric: string, key: Key): Map<string, number> {
    return this.#fold(metric, key, (sum, sample) => sum + this.growth(sample) / this.#seconds);
  }

  totals(metric: string, key: Key): Map<string, number> {
    return this.#fold(metric, key, (sum, { value }) => sum + value);
  }

  largest(metric: string, key: Key): Map<string, number> {
    return this.#fold(metric, key, (most, { value }) => Math.max(most, value));
  }

  #fold(
    metric: string,
    key: Key,
    add: (before: number, sample: Sample) => number,
  ): Map<string, number> {
    const folded = new Map<string, number>();
    for (const sample of this.now.samples(metric)) {
      const name = key(sample.labels);
      if (name !== undefined) folded.set(name, add(folded.get(name) ?? 0, sample));
    }
    return folded;
  }

  /** A quantile of a histogram, over all tiles. */
  quantile(metric: string, q: number): number {
    const buckets = this.#fold(
      `${metric}_bucket`,
      ({ le }) => le,
      (sum, sample) => sum + this.growth(sample),
    );
    return quantile(
      [...buckets].map(([le, count]) => [le === "+Inf" ? Infinity : Number(le), count]),
      q,
    );
  }
}

/**
 * A quantile from the cumulative counts of a histogram's buckets, as in Prometheus's
 * `histogram_quantile`: interpolated between the bounds of its bucket. NaN if nothing was counted.
 */
export function quantile(
  buckets: readonly (readonly [bound: number, count: number])[],
  q: number,
): number {
  const sorted = buckets.toSorted(([one], [other]) => one - other);
  const wanted = q * (sorted.at(-1)?.[1] ?? 0);
  if (!(wanted > 0)) return NaN;
  const i = sorted.findIndex(([, count]) => count >= wanted);
  const [below, fewer] = i === 0 ? [0, 0] : sorted[i - 1];
  const [bound, count] = sorted[i];
  return bound === Infinity ? below : below + (bound - below) * (wanted - fewer) / (count - fewer);
}

export type Overview = ReturnType<typeof overview>;

/** The overview of `now`, and of the time since `before`; rates are NaN without it. `nowSeconds`: since 1970. */
export function overview(
  before: Scrape | null,
  now: Scrape,
  { nowSeconds, sort }: { nowSeconds: number; sort: Sort },
) {
  const interval = new Interval(before, now);
  const directions = (metric: string) => {
    const rates = interval.rates(metric, by("direction"));
    return { rx: rates.get("rx") ?? NaN, tx: rates.get("tx") ?? NaN };
  };
  const packets = directions("tegula_packets_total");
  const bytes = directions("tegula_port_bytes_total");
  const drops = [...interval.rates("tegula_drops_total", by("reason")).values()];
  const busy = interval.rates("tegula_tile_busy_seconds_total", by("tile"));
  const tables = [
    interfaces(interval),
    traffic(interval, "port", [column("app", "text", appOf(now))]),
    traffic(interval, "app", [], [
      column("errors/s", "rate", interval.rates("tegula_app_errors_total", by("app"))),
      column("link", "share", interval.largest("tegula_link_fill_ratio", by("app"))),
    ]),
    dropped(interval),
    tiles(interval, busy),
    processes(interval, nowSeconds),
  ];
  return {
    facts: facts(interval, nowSeconds),
    tables: tables.map((table) => sorted(table, sort)),
    /** Per second: packets through rings and kernel sockets, payload bytes of apps, drops. */
    rx: { packets: packets.rx, bytes: bytes.rx },
    tx: { packets: packets.tx, bytes: bytes.tx },
    drops: drops.reduce((sum, rate) => sum + rate, 0),
    /** Latency inside Tegula in seconds, since the earlier scrape; NaN: no datagram was answered. */
    latency: {
      p50: interval.quantile("tegula_latency_seconds", 0.5),
      p99: interval.quantile("tegula_latency_seconds", 0.99),
    },
    /** Share of the time that each tile was busy. */
    busy,
  };
}

/** A column, and its cells by the name of the row; a row without one has NaN, or no text. */
interface Cells extends Column {
  readonly cells: ReadonlyMap<string, number | string>;
}

function column(title: string, kind: Kind, cells: Cells["cells"]): Cells {
  return { title, kind, cells };
}

/** A table with a row for each of `names`; by default for each row with a cell in any of `columns`. */
function table(
  name: string,
  columns: readonly Cells[],
  names: Iterable<string> = new Set(columns.flatMap(({ cells }) => [...cells.keys()])),
): Table {
  return {
    columns: [
      { title: name, kind: "text" },
      ...columns.map(({ title, kind }) => ({ title, kind })),
    ],
    rows: [...names].map((row) => [
      row,
      ...columns.map(({ kind, cells }) => cells.get(row) ?? (kind === "text" ? "" : NaN)),
    ]),
  };
}

/** Packets and bytes in both directions by `label`, between other columns. */
function traffic(
  interval: Interval,
  label: "interface" | "port" | "app",
  first: readonly Cells[],
  last: readonly Cells[] = [],
): Table {
  const metric = label === "interface" ? "tegula_interface" : "tegula_port";
  const both = ["rx", "tx"].map((direction) => ({ direction, key: by(label, { direction }) }));
  const rates = both.flatMap(({ direction, key }) => [
    column(`${direction} pkt/s`, "packets", interval.rates(`${metric}_packets_total`, key)),
    column(`${direction} B/s`, "bytes", interval.rates(`${metric}_bytes_total`, key)),
  ]);
  const dropped = label === "interface"
    ? []
    : [column("drops/s", "rate", interval.rates("tegula_port_drops_total", by(label)))];
  const totals = both.map(({ direction, key }) =>
    column(`${direction} total`, "count", interval.totals(`${metric}_packets_total`, key))
  );
  return table(label, [...first, ...rates, ...dropped, ...last, ...totals]);
}

function interfaces(interval: Interval): Table {
  const modes = new Map([...interval.totals("tegula_interface_xdp", by("interface"))]
    .map(([name, isXdp]) => [name, isXdp === 1 ? "xdp" : "kernel"]));
  const rings = ["rx", "tx"].map((ring) =>
    column(
      `${ring} ring`,
      "share",
      interval.largest("tegula_ring_fill_ratio", by("interface", { ring })),
    )
  );
  return traffic(interval, "interface", [column("mode", "text", modes)], rings);
}

function appOf(now: Scrape): ReadonlyMap<string, string> {
  const port = by("port");
  return new Map(
    now.samples("tegula_port_packets_total").map(({ labels }) => [port(labels)!, labels.app]),
  );
}

/** Drops by direction and reason. */
function dropped(interval: Interval): Table {
  const key: Key = ({ direction, reason }) => `${direction} ${reason}`;
  const { columns, rows } = table("drops", [
    column("pkt/s", "packets", interval.rates("tegula_drops_total", key)),
    column("total", "count", interval.totals("tegula_drops_total", key)),
  ]);
  return { columns, rows: rows.filter(([, , total]) => Number(total) > 0) };
}

function tiles(interval: Interval, busy: ReadonlyMap<string, number>): Table {
  const states = new Map([...interval.totals("tegula_tile_running", by("tile"))]
    .map(([name, isRunning]) => [name, isRunning === 1 ? "runs" : "does not run"]));
  return table("tile", [
    column("state", "text", states),
    column("busy", "share", busy),
    column("wakes/s", "rate", interval.rates("tegula_tile_wakeups_total", by("tile"))),
    column("refused", "count", interval.totals("tegula_refused_calls_total", by("tile"))),
    restarts(interval),
  ], states.keys());
}

function processes(interval: Interval, nowSeconds: number): Table {
  const starts = interval.totals("process_start_time_seconds", by("process"));
  const ages = new Map([...starts].map(([name, start]) => [name, nowSeconds - start]));
  return table("process", [
    column("cpu", "share", interval.rates("process_cpu_seconds_total", by("process"))),
    column("memory", "memory", interval.totals("process_resident_memory_bytes", by("process"))),
    column("up", "seconds", ages),
    restarts(interval),
  ], starts.keys());
}

/** Restarts of processes, and of tiles that are restarted without their process. */
function restarts(interval: Interval): Cells {
  return column("restarts", "count", interval.totals("tegula_restarts_total", by("process")));
}

/** Facts about the whole: version, start time and health. */
function facts(interval: Interval, nowSeconds: number): Fact[] {
  const { now } = interval;
  const all: Fact[] = [];
  const add = (text: string, isBad = false) => all.push({ text, isBad });
  const value = (metric: string) => now.samples(metric)[0]?.value;
  const age = (seconds: number) => cellText("seconds", nowSeconds - seconds);

  const { version = "", commit = "" } = now.samples("tegula_build_info")[0]?.labels ?? {};
  add(["tegula", version, commit.slice(0, 7)].filter((word) => word !== "").join(" "));
  const started = interval.totals("process_start_time_seconds", by("process")).get("master");
  if (started !== undefined) add(`up ${age(started)}`);
  const reasons = now.samples("tegula_unwell").filter(({ value }) => value > 0);
  for (const { labels: { reason } } of reasons) add(reason.replaceAll("_", " "), true);
  if (value("tegula_ready") !== undefined && reasons.length === 0) {
    const isReady = value("tegula_ready") === 1;
    add(isReady ? "ready" : "not ready", !isReady);
  }
  const state = now.samples("tegula_sync_state").find(({ value }) => value === 1)?.labels.state;
  if (state !== undefined) add(state, state !== "synced");
  const restarts = now.samples("tegula_restarts_total");
  const sum = (values: number[]) => values.reduce((sum, value) => sum + value, 0);
  const isRestarted = sum(restarts.map((sample) => interval.growth(sample))) > 0;
  add(`restarts ${sum(restarts.map(({ value }) => value))}`, isRestarted);
  const loaded = value("tegula_config_last_reload_success_timestamp_seconds");
  if (loaded !== undefined) add(`configured ${age(loaded)} ago`);
  if (value("tegula_config_last_reload_successful") === 0) add("the last reload failed", true);
  return all;
}

const collator = new Intl.Collator("en", { numeric: true });

/** The table with its rows in order: by the sum of the columns of one kind, then by name. */
function sorted({ columns, rows }: Table, sort: Sort): Table {
  const kinds: Kind[] = sort === "bytes" ? ["bytes", "packets"] : ["packets", "share"];
  const kind = kinds.find((kind) => columns.some((column) => column.kind === kind));
  const weight = (row: readonly (string | number)[]) =>
    columns.reduce((sum, column, i) => sum + (column.kind === kind ? Number(row[i]) || 0 : 0), 0);
  const weighed = rows.map((row) => ({ row, weight: sort === "name" ? 0 : weight(row) }));
  weighed.sort((one, other) =>
    other.weight - one.weight || collator.compare(String(one.row[0]), String(other.row[0]))
  );
  return { columns, rows: weighed.map(({ row }) => row) };
}

/** The text of a cell: at most seven characters for a number. */
export function cellText(kind: Kind, value: string | number): string {
  if (typeof value === "string") return value;
  if (Number.isNaN(value)) return "–";
  if (kind === "share") return `${Math.round(value * 100)}%`;
  return kind === "seconds" ? duration(value) : short(value);
}

/** The two largest units of a duration: `3d 4h`. */
function duration(seconds: number): string {
  const parts = [[86_400, "d"], [3600, "h"], [60, "m"], [1, "s"]] as const;
  let left = Math.max(0, Math.round(seconds));
  const first = Math.max(0, parts.findIndex(([size]) => left >= size));
  return (left === 0 ? [parts[3]] : parts.slice(first, first + 2)).map(([size, unit]) => {
    const count = Math.floor(left / size);
    left -= count * size;
    return `${count}${unit}`;
  }).join(" ");
}

/** Three digits and an SI prefix: `1.23M`. */
function short(value: number): string {
  let [scaled, i] = [value, 0];
  for (; scaled >= 999.5 && i < 4; i++) scaled /= 1000;
  const isWhole = i === 0 && (scaled >= 9.95 || Number.isInteger(scaled));
  const digits = isWhole || scaled >= 99.95 ? 0 : i === 0 || scaled >= 9.995 ? 1 : 2;
  return scaled.toFixed(digits) + ["", "k", "M", "G", "T"][i];
}

/** A latency: `4.1 µs`. */
export function latencyText(seconds: number): string {
  if (Number.isNaN(seconds)) return "–";
  const [scaled, unit] = seconds < 1e-3
    ? [seconds * 1e6, "µs"]
    : seconds < 1
    ? [seconds * 1e3, "ms"]
    : [seconds, "s"];
  return `${scaled.toFixed(scaled < 9.95 ? 1 : 0)} ${unit}`;
}
