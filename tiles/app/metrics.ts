/**
 * The numbers of an app's own: a region that the app tile writes and the status tile reads. A header
 * with how many there are, then records; a record is written whole before the count that includes it
 * is published, and its name never changes.
 *
 *     word 0       how many records
 *     byte 64 …    records: value (double) │ kind << 16 | bytes of the name │ (free) │ name, UTF-8
 */

import { f64, u32, u8, type View } from "../../ffi/view.ts";
import type { Metric } from "./contract.ts";

/** Most numbers of an app. */
const MOST_METRICS = 4096;

const RECORDS_AT = 64;
const RECORD_BYTES = 128;
const HEAD_AT = 8;
const NAME_AT = 16;
const LONGEST_NAME = RECORD_BYTES - NAME_AT;

/** Bytes of the region. Pages of it that no record is in cost nothing. */
export const METRICS_BYTES = RECORDS_AT + MOST_METRICS * RECORD_BYTES;

const KINDS = ["counter", "gauge"] as const;
/** A counter only grows, a gauge does as it likes. */
export type MetricKind = typeof KINDS[number];

/** A number in the region. */
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

  /** Stands where `other` does from now on. */
  become(other: Cell): void {
    this.#values = other.#values;
    this.#at = other.#at;
  }
}

/** The app tile's side. One that joins again carries on with the numbers that are there. */
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
   * Moves to the region at `view`, which a predecessor has let go of: what was counted here is added
   * to the counters there, gauges become what they are here.
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

  /** The number with this name and of this kind; null when it is too long or there are too many. */
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

/** Everyone else's side. What the app wrote is bounded, not believed. */
export class MetricsReader {
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array;
  readonly #values: Float64Array;

  constructor(view: View) {
    this.#words = u32(view);
    this.#bytes = u8(view);
    this.#values = f64(view);
  }

  /** All numbers as of now. */
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
