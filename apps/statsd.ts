// SPDX-License-Identifier: Apache-2.0
/**
 * A StatsD sink. A datagram has one or more lines `name:value|type`, with `|@rate` behind them for sampled
 * values; tags and anything else that follows are ignored. Counters (`c`), gauges (`g`; a sign makes the value
 * a difference) and timers (`ms`, `h`) appear in the metrics. A timer has a count and a sum, and for each
 * interval the median, the 99th percentile and the maximum. Option: `interval` in seconds, 10 by default.
 *
 * A line whose name was seen before allocates nothing, so lines are handled at line rate.
 */

import type { App, AppContext, Metric } from "../tiles/app/contract.ts";

const [COLON, BAR, AT, NEWLINE, PLUS, MINUS, DOT] = [0x3a, 0x7c, 0x40, 0x0a, 0x2b, 0x2d, 0x2e];
const [C, G, M, H, S] = [0x63, 0x67, 0x6d, 0x68, 0x73];
/** The largest number that one line may add, which a double represents exactly. */
const MOST = 2 ** 53;

/** Makes the sink. */
export default function create(context: AppContext): App {
  const { interval = 10 } = context.options;
  if (typeof interval !== "number" || !(interval > 0)) {
    throw new TypeError("options.interval: must be a number of seconds");
  }
  const lines = context.metric("statsd.lines", "counter")!;
  const refused = context.metric("statsd.lines_refused", "counter")!;
  const names = new Names(context);
  const line = new Line();

  return {
    tickMillis: interval * 1000,
    receive(requests) {
      while (requests.next()) {
        const { bytes } = requests;
        const end = requests.offset + requests.size;
        for (let at = requests.offset; at < end; at = line.end + 1) {
          if (!line.read(bytes, at, end)) continue;
          lines.value++;
          const series = line.isGood ? names.find(bytes, line) : null;
          if (series === null) refused.value++;
          else series(line);
        }
      }
    },
    tick() {
      for (const timer of names.timers) timer.flush();
    },
  };
}

/** A parsed line, valid until the next call of `read`. */
class Line {
  /** Offsets of the line's start, its name's end, and its end. */
  at = 0;
  nameEnd = 0;
  end = 0;
  type = 0;
  value = 0;
  /** Whether the value has a sign. */
  signed = false;
  /** How many values this one stands for, by its sample rate. */
  weight = 1;
  isGood = false;
  #cursor = 0;

  /** Parses the line at `at`, in a datagram that ends at `end`. Returns false if it is empty. */
  read(bytes: Uint8Array, at: number, end: number): boolean {
    this.at = this.nameEnd = this.end = at;
    while (this.end < end && bytes[this.end] !== NEWLINE) this.end++;
    this.isGood = false;
    while (this.nameEnd < this.end && bytes[this.nameEnd] !== COLON) this.nameEnd++;
    this.#cursor = this.nameEnd + 1;
    this.signed = bytes[this.#cursor] === PLUS || bytes[this.#cursor] === MINUS;
    this.value = this.#number(bytes);
    this.type = this.#type(bytes);
    const sampled = this.#isAt(bytes, BAR) && bytes[this.#cursor + 1] === AT;
    if (sampled) this.#cursor += 2;
    this.weight = sampled ? 1 / this.#number(bytes) : 1;
    // A sum that is not finite would stay so. All sums except gauges only grow.
    const least = this.type === G ? -MOST : 0;
    this.isGood = this.nameEnd > at && this.weight >= 1 && this.weight <= MOST &&
      this.value >= least && this.value * this.weight <= MOST;
    return this.end > at;
  }

  /** Reads the type. Returns 0 if it is not one of ours. */
  #type(bytes: Uint8Array): number {
    if (!this.#isAt(bytes, BAR)) return 0;
    const type = bytes[++this.#cursor];
    if (type === M && bytes[++this.#cursor] !== S) return 0;
    this.#cursor++;
    return this.#cursor >= this.end || bytes[this.#cursor] === BAR ? type : 0;
  }

  /** Whether the cursor is at `byte`, and another byte follows in this line. */
  #isAt(bytes: Uint8Array, byte: number): boolean {
    return this.#cursor + 1 < this.end && bytes[this.#cursor] === byte;
  }

  /** Reads a decimal number and moves the cursor past it. Returns NaN if there is none. */
  #number(bytes: Uint8Array): number {
    const negative = bytes[this.#cursor] === MINUS;
    if (negative || bytes[this.#cursor] === PLUS) this.#cursor++;
    let [value, digits, scale] = [0, 0, 0];
    for (; this.#cursor < this.end; this.#cursor++) {
      const digit = bytes[this.#cursor] - 0x30;
      if (bytes[this.#cursor] === DOT && scale === 0) scale = 1;
      else if (digit >= 0 && digit <= 9) {
        value = value * 10 + digit;
        scale *= 10;
        digits++;
      } else break;
    }
    if (digits === 0) return NaN;
    return (negative ? -value : value) / (scale || 1);
  }
}

/** Applies a line to the metrics of its name. */
type Series = (line: Line) => void;

/** Buckets of a timer's histogram: eight to an octave, from 2⁻¹⁰ on, exact to 5 %. */
const [BUCKETS, PER_OCTAVE, FIRST_OCTAVE] = [320, 8, -10];

/** The metrics of a timer: count, sum, median, 99th percentile and maximum. */
class Timer {
  readonly #shown: readonly Metric[];
  readonly #buckets = new Float64Array(BUCKETS);
  #largest = 0;

  constructor(shown: readonly Metric[]) {
    this.#shown = shown;
  }

  take({ value, weight }: Line): void {
    const [count, sum] = this.#shown;
    count.value += weight;
    sum.value += value * weight;
    this.#largest = Math.max(this.#largest, value);
    const bucket = Math.floor((Math.log2(value) - FIRST_OCTAVE) * PER_OCTAVE);
    this.#buckets[Math.min(Math.max(bucket, 0), BUCKETS - 1)] += weight;
  }

  /** Sets the metrics of the interval that ends, and begins another. */
  flush(): void {
    const [, , median, p99, upper] = this.#shown;
    const all = this.#buckets.reduce((sum, count) => sum + count, 0);
    median.value = this.#quantile(all * 0.5);
    p99.value = this.#quantile(all * 0.99);
    upper.value = this.#largest;
    this.#buckets.fill(0);
    this.#largest = 0;
  }

  /** The middle of the bucket that contains the value of rank `rank`. */
  #quantile(rank: number): number {
    let [passed, bucket] = [0, 0];
    while (bucket < BUCKETS - 1 && (passed += this.#buckets[bucket]) < rank) bucket++;
    return rank === 0 ? 0 : 2 ** (FIRST_OCTAVE + (bucket + 0.5) / PER_OCTAVE);
  }
}

/** How many names may share a hash. More would take knowledge of its key. */
const MOST_ALIKE = 4;

/** All series, by name and type. */
export class Names {
  readonly timers: Timer[] = [];
  readonly #context: AppContext;
  /**
   * By a keyed hash of name and type, since clients choose names. The few that share a hash are compared by
   * name.
   */
  readonly #series = new Map<number, { name: Uint8Array; type: number; series: Series }[]>();

  readonly #start: number;
  readonly #multiplier: number;

  /** `key`: two random words, the hash's key. */
  constructor(context: AppContext, key = crypto.getRandomValues(new Uint32Array(2))) {
    this.#context = context;
    this.#start = key[0] | 0;
    this.#multiplier = key[1] | 1;
  }

  /** Finds or makes the series of a line. Null if its type is unknown, or if there is no room. */
  find(
    bytes: Uint8Array,
    { at, nameEnd, type }: Pick<Line, "at" | "nameEnd" | "type">,
  ): Series | null {
    const multiplier = this.#multiplier;
    let hash = this.#start ^ type;
    for (let i = at; i < nameEnd; i++) {
      hash = Math.imul(hash ^ (hash >>> 15) ^ bytes[i], multiplier);
    }
    const known = this.#series.get(hash) ?? [];
    for (const each of known) {
      if (each.type === type && isAt(each.name, bytes, at, nameEnd)) return each.series;
    }
    if (known.length === MOST_ALIKE) return null;
    const name = bytes.slice(at, nameEnd);
    const series = this.#make(new TextDecoder().decode(name), type);
    if (series !== null) this.#series.set(hash, [...known, { name, type, series }]);
    return series;
  }

  #make(name: string, type: number): Series | null {
    const metric = (suffix: string, kind: "counter" | "gauge") =>
      this.#context.metric(name + suffix, kind);
    if (type === C) {
      const counter = metric("", "counter");
      return counter && (({ value, weight }) => counter.value += value * weight);
    }
    if (type === G) {
      const gauge = metric("", "gauge");
      return gauge && (({ value, signed }) => gauge.value = value + (signed ? gauge.value : 0));
    }
    if (type !== M && type !== H) return null;
    const shown = [
      ...[".count", ".sum"].map((suffix) => metric(suffix, "counter")),
      ...[".median", ".p99", ".upper"].map((suffix) => metric(suffix, "gauge")),
    ].filter((each) => each !== null);
    if (shown.length < 5) return null;
    const timer = new Timer(shown);
    this.timers.push(timer);
    return (line) => timer.take(line);
  }
}

/** Whether `name` equals `bytes` from `at` to `end`. */
function isAt(name: Uint8Array, bytes: Uint8Array, at: number, end: number): boolean {
  if (name.length !== end - at) return false;
  for (let i = 0; i < name.length; i++) if (name[i] !== bytes[at + i]) return false;
  return true;
}
