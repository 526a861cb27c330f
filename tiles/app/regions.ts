/**
 * The regions of an app's own: its metrics and its state.
 *
 * Metrics: the app tile writes them and the status tile reads them. A header with the number of records,
 * then the records; a record is written before the count that includes it is published, and its name never
 * changes.
 *
 *     word 0       number of records
 *     byte 64 …    records: value (double) │ kind << 16 | bytes of the name │ (free) │ name, UTF-8
 *
 * State: it lives longer than the app's process.
 *
 *     word 0       version: 0 until the app has set one
 *     byte 4096 …  the app's bytes
 */

import { f64, slice, u32, u8, type View } from "../../ffi/region.ts";
import type { Metric, State } from "./contract.ts";

/** Most metrics of an app. */
const MOST_METRICS = 4096;

const RECORDS_AT = 64;
const RECORD_BYTES = 128;
const HEAD_AT = 8;
const NAME_AT = 16;
const LONGEST_NAME = RECORD_BYTES - NAME_AT;

/** Bytes of the metrics region. Untouched pages cost nothing. */
export const METRICS_BYTES = RECORDS_AT + MOST_METRICS * RECORD_BYTES;

const KINDS = ["counter", "gauge"] as const;
/** A counter only grows. */
export type MetricKind = typeof KINDS[number];

/** A metric in the region. */
class Cell implements Metric {
  #values: Float64Array;
  #at: number;

  constructor(values: Float64Array, at: number) {
    this.#values = values;
    this.#at = at;
  }
  get value(): number {
    return this.#values[this.#at];
  }
  set value(value: number) {
    this.#values[this.#at] = value;
  }

  /** Moves to where `other` is. */
  become(other: Cell): void {
    this.#values = other.#values;
    this.#at = other.#at;
  }
}

/** The app tile's side. A successor goes on with the metrics in the region. */
export class MetricsWriter {
  #words!: Uint32Array;
  #bytes!: Uint8Array;
  #values!: Float64Array;
  readonly #cells = new Map<string, Cell>();

  constructor(view: View) {
    this.#join(view);
  }

  #join(view: View): void {
    this.#words = u32(view);
    this.#bytes = u8(view);
    this.#values = f64(view);
    for (const { name, kind } of new MetricsReader(view).read()) this.#open(name, kind);
  }

  /**
   * Moves to the region at `view`, which a predecessor has left: counters are added to those there,
   * gauges replace them.
   */
  move(view: View): void {
    const early = [...this.#cells];
    this.#cells.clear();
    this.#join(view);
    for (const [key, cell] of early) {
      const [kind] = key.split(" ", 1);
      const there = this.metric(key.slice(kind.length + 1), kind as MetricKind);
      if (there === null) continue;
      there.value = cell.value + (kind === "counter" ? there.value : 0);
      cell.become(there);
    }
  }

  /** The metric of this name and kind; null when the name is too long or there are too many. */
  metric(name: string, kind: MetricKind): Cell | null {
    const known = this.#cells.get(`${kind} ${name}`);
    if (known !== undefined) return known;
    const bytes = new TextEncoder().encode(name);
    const count = this.#cells.size;
    if (bytes.length > LONGEST_NAME || count === MOST_METRICS) return null;
    const at = RECORDS_AT + count * RECORD_BYTES;
    this.#values[at >>> 3] = 0;
    this.#words[(at + HEAD_AT) >>> 2] = (KINDS.indexOf(kind) << 16) | bytes.length;
    this.#bytes.set(bytes, at + NAME_AT);
    const cell = this.#open(name, kind);
    Atomics.store(this.#words, 0, count + 1);
    return cell;
  }

  #open(name: string, kind: MetricKind): Cell {
    const at = RECORDS_AT + this.#cells.size * RECORD_BYTES;
    const cell = new Cell(this.#values, at >>> 3);
    this.#cells.set(`${kind} ${name}`, cell);
    return cell;
  }
}

/** The readers' side. It trusts nothing that the app wrote. */
export class MetricsReader {
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array;
  readonly #values: Float64Array;

  constructor(view: View) {
    this.#words = u32(view);
    this.#bytes = u8(view);
    this.#values = f64(view);
  }

  /** All metrics as of now. */
  read(): { name: string; kind: MetricKind; value: number }[] {
    const count = Math.min(Atomics.load(this.#words, 0), MOST_METRICS);
    return Array.from({ length: count }, (_, i) => {
      const at = RECORDS_AT + i * RECORD_BYTES;
      const head = this.#words[(at + HEAD_AT) >>> 2];
      const end = at + NAME_AT + Math.min(head & 0xffff, LONGEST_NAME);
      // A copy: decoders do not take shared memory.
      const name = new TextDecoder().decode(this.#bytes.slice(at + NAME_AT, end));
      return { name, kind: KINDS[head >>> 16] ?? "gauge", value: this.#values[at >>> 3] };
    });
  }
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
      throw new RangeError(`the version of its state is to be a whole number of 32 bits`);
    }
    Atomics.store(this.#words, 0, version);
  }

  #expectOpen(): void {
    if (this.#isOpen) return;
    throw new Error("its state may still be its predecessor's: it is to be used from begin() on");
  }
}
