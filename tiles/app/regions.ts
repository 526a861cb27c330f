// SPDX-License-Identifier: Apache-2.0
/**
 * The regions of an app: its metrics and its state.
 *
 * Metrics: the app tile writes them and the status tile reads them. A header with the number of records,
 * then the records; a record is written before the count that includes it is published, and its key never
 * changes. The bounds and buckets of a histogram are in the records that follow its own.
 *
 *     word 0       number of records
 *     byte 64 …    records: value (double) │ kind << 16 | bytes of the key │ bounds │ key, UTF-8
 *     histogram    sum as its value; then, in whole records, its bounds and its counts (doubles)
 *
 * A key is the name, then each label's name and value, with NUL between all.
 *
 * State: it outlasts the app's process.
 *
 *     word 0       version: 0 until the app has set one
 *     byte 4096 …  the app's bytes
 */

import { f64, slice, u32, u8, type View } from "../../ffi/region.ts";
import type { Histogram, Metric, MetricLabels, State } from "./contract.ts";

const MOST_METRICS = 4096;
const MOST_BOUNDS = 32;

const RECORDS_AT = 64;
const RECORD_BYTES = 128;
const RECORD_DOUBLES = RECORD_BYTES / 8;
const HEAD_AT = 8;
const BOUNDS_AT = 12;
const KEY_AT = 16;
const LONGEST_KEY = RECORD_BYTES - KEY_AT;

/** Bytes of the metrics region. Untouched pages cost nothing. */
export const METRICS_BYTES = RECORDS_AT + MOST_METRICS * RECORD_BYTES;

const KINDS = ["counter", "gauge", "histogram"] as const;

/** Label names that Tegula uses. */
const TAKEN = ["app", "tile", "name", "le"];
const LABEL = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

function isLabel(name: string): boolean {
  return LABEL.test(name) && !name.startsWith("__") && !TAKEN.includes(name);
}

/** The number of records of a metric: one, and those with the bounds and buckets of a histogram. */
function recordsOf(bounds: number): number {
  return 1 + (bounds === 0 ? 0 : Math.ceil((2 * bounds + 1) / RECORD_DOUBLES));
}

/** The key of a metric; null if it would contain NUL. Throws TypeError. */
function keyOf(name: string, labels: MetricLabels = {}): string | null {
  const wrong = Object.keys(labels).find((label) => !isLabel(label));
  if (wrong !== undefined) {
    throw new TypeError(`a metric must not have a label called ${JSON.stringify(wrong)}`);
  }
  const parts = [name, ...Object.entries(labels).sort(([a], [b]) => a < b ? -1 : 1).flat()];
  if (parts.some((part) => typeof part !== "string")) {
    throw new TypeError(`the name and the labels of a metric must be texts: ${parts.join(", ")}`);
  }
  return parts.some((part) => part.includes("\0")) ? null : parts.join("\0");
}

/** A metric in the region: a value, and a histogram's buckets. */
class Cell implements Metric, Histogram {
  #values: Float64Array;
  #at: number;
  #bounds: readonly number[];

  constructor(values: Float64Array, at: number, bounds: readonly number[]) {
    this.#values = values;
    this.#at = at;
    this.#bounds = bounds;
  }
  get value(): number {
    return this.#values[this.#at];
  }
  set value(value: number) {
    this.#values[this.#at] = value;
  }

  observe(value: number): void {
    const bounds = this.#bounds;
    let bucket = 0;
    while (bucket < bounds.length && value > bounds[bucket]) bucket++;
    this.#values[this.#at] += value;
    this.#values[this.#counts + bucket]++;
  }

  get #counts(): number {
    return this.#at + RECORD_DOUBLES + this.#bounds.length;
  }

  /** Moves to the place of `other`, and adds to its values; a gauge replaces them. */
  become(other: Cell, isGauge: boolean): void {
    other.value = this.value + (isGauge ? 0 : other.value);
    if (this.#bounds.length > 0) {
      for (let i = 0; i <= this.#bounds.length; i++) {
        other.#values[other.#counts + i] += this.#values[this.#counts + i];
      }
    }
    this.#values = other.#values;
    this.#at = other.#at;
  }
}

/** A metric of an app for the status tile. */
type AppMetric =
  & { readonly name: string; readonly labels: MetricLabels }
  & (
    | { readonly kind: "counter" | "gauge"; readonly value: number }
    | {
      readonly kind: "histogram";
      readonly bounds: readonly number[];
      readonly counts: readonly number[];
      readonly sum: number;
    }
  );

/** The app tile's side. A successor continues with the metrics in the region. */
export class MetricsWriter {
  #words!: Uint32Array;
  #bytes!: Uint8Array;
  #values!: Float64Array;
  /** By kind, bounds and key. */
  readonly #cells = new Map<
    string,
    { kind: AppMetric["kind"]; key: string; bounds: readonly number[]; cell: Cell }
  >();
  #records = 0;

  constructor(view: View) {
    this.#join(view);
  }

  #join(view: View): void {
    this.#words = u32(view);
    this.#bytes = u8(view);
    this.#values = f64(view);
    this.#records = 0;
    for (const metric of readRecords(view)) {
      const { kind, key } = metric;
      this.#open(kind, key, metric.kind === "histogram" ? metric.bounds : []);
    }
  }

  /** Moves to the region of an ended predecessor: adds counters and histograms, and replaces gauges. */
  move(view: View): void {
    const early = [...this.#cells.values()];
    this.#cells.clear();
    this.#join(view);
    for (const { kind, key, bounds, cell } of early) {
      const there = this.#cell(kind, key, bounds);
      if (there !== null) cell.become(there, kind === "gauge");
    }
  }

  /** As `AppContext.metric`. */
  metric(name: string, kind: "counter" | "gauge", labels?: MetricLabels): Cell | null {
    const key = keyOf(name, labels);
    return key === null ? null : this.#cell(kind, key, []);
  }

  /** As `AppContext.histogram`. */
  histogram(name: string, bounds: readonly number[], labels?: MetricLabels): Cell | null {
    const isAscending = bounds.every((bound, i) =>
      Number.isFinite(bound) && (i === 0 || bound > bounds[i - 1])
    );
    if (!isAscending || bounds.length === 0 || bounds.length > MOST_BOUNDS) {
      throw new RangeError(`the bounds of ${name} must be 1 to ${MOST_BOUNDS} ascending numbers`);
    }
    const key = keyOf(name, labels);
    return key === null ? null : this.#cell("histogram", key, [...bounds]);
  }

  #cell(kind: AppMetric["kind"], key: string, bounds: readonly number[]): Cell | null {
    const known = this.#cells.get(`${kind} ${bounds} ${key}`);
    if (known !== undefined) return known.cell;
    const bytes = new TextEncoder().encode(key);
    const records = recordsOf(bounds.length);
    if (bytes.length > LONGEST_KEY || this.#records + records > MOST_METRICS) return null;
    const at = RECORDS_AT + this.#records * RECORD_BYTES;
    const doubles = this.#values.subarray(at >>> 3, (at >>> 3) + records * RECORD_DOUBLES);
    doubles.fill(0);
    doubles.set(bounds, RECORD_DOUBLES);
    this.#words[(at + HEAD_AT) >>> 2] = (KINDS.indexOf(kind) << 16) | bytes.length;
    this.#words[(at + BOUNDS_AT) >>> 2] = bounds.length;
    this.#bytes.set(bytes, at + KEY_AT);
    const cell = this.#open(kind, key, bounds);
    Atomics.store(this.#words, 0, this.#records);
    return cell;
  }

  #open(kind: AppMetric["kind"], key: string, bounds: readonly number[]): Cell {
    const at = RECORDS_AT + this.#records * RECORD_BYTES;
    this.#records += recordsOf(bounds.length);
    const cell = new Cell(this.#values, at >>> 3, bounds);
    this.#cells.set(`${kind} ${bounds} ${key}`, { kind, key, bounds, cell });
    return cell;
  }
}

/** All current metrics; the newest of histograms that differ only in bounds. The app may have written any bytes. */
export function readMetrics(view: View): AppMetric[] {
  const metrics = readRecords(view).map(({ key, ...metric }) =>
    [`${metric.kind} ${key}`, metric] as const
  );
  return [...new Map(metrics).values()];
}

/** Every record, with its key. */
function readRecords(view: View): (AppMetric & { readonly key: string })[] {
  const [words, bytes, values] = [u32(view), u8(view), f64(view)];
  const count = Math.min(Atomics.load(words, 0), MOST_METRICS);
  const metrics: (AppMetric & { key: string })[] = [];
  for (let i = 0; i < count;) {
    const at = RECORDS_AT + i * RECORD_BYTES;
    const head = words[(at + HEAD_AT) >>> 2];
    const end = at + KEY_AT + Math.min(head & 0xffff, LONGEST_KEY);
    // Copy, because decoders do not accept shared memory.
    const key = new TextDecoder().decode(bytes.slice(at + KEY_AT, end));
    const [name, ...parts] = key.split("\0");
    const labels = Object.fromEntries(
      parts.flatMap((label, j) =>
        j % 2 === 0 && isLabel(label) ? [[label, parts[j + 1] ?? ""]] : []
      ),
    );
    const kind = KINDS[head >>> 16] ?? "gauge";
    const value = values[at >>> 3];
    if (kind !== "histogram") {
      metrics.push({ key, name, labels, kind, value });
      i++;
      continue;
    }
    const length = Math.min(words[(at + BOUNDS_AT) >>> 2], MOST_BOUNDS);
    i += recordsOf(length);
    if (i > count) break;
    const first = (at >>> 3) + RECORD_DOUBLES;
    const bounds = [...values.subarray(first, first + length)];
    const counts = [...values.subarray(first + length, first + 2 * length + 1)];
    metrics.push({ key, name, labels, kind, bounds, counts, sum: value });
  }
  return metrics;
}

const STATE_AT = 4096;

/** Bytes of the region for `bytes` of state. Untouched pages cost nothing. */
export function stateRegionBytes(bytes: number): number {
  return STATE_AT + bytes;
}

/** The app's state. A predecessor may still write the region, so nothing is accessible until `open`. */
export class AppState implements State {
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array<SharedArrayBuffer>;
  #isOpen = false;

  constructor(view: View) {
    this.#words = u32(view);
    this.#bytes = u8(slice(view, STATE_AT, view.byteLength - STATE_AT));
  }

  /** Gives the app access: its predecessor has ended. */
  open(): void {
    this.#isOpen = true;
  }

  get view(): Uint8Array<SharedArrayBuffer> {
    this.#expectOpen();
    return this.#bytes;
  }

  get version(): number {
    this.#expectOpen();
    return this.#words[0];
  }

  setVersion(version: number): void {
    this.#expectOpen();
    if (!Number.isInteger(version) || version < 0 || version > 0xffff_ffff) {
      throw new RangeError(`the version of its state must be a whole number of 32 bits`);
    }
    Atomics.store(this.#words, 0, version);
  }

  #expectOpen(): void {
    if (this.#isOpen) return;
    throw new Error("its state may still be its predecessor's: use it only from begin() on");
  }
}
