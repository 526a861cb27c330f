// SPDX-License-Identifier: Apache-2.0
/**
 * A StatsD sink. A datagram has one or more lines `name:value|type`, followed by `|@rate` for
 * sampled values; tags (`|#…`) and other suffixes are dropped. Counters (`c`), gauges (`g`; a sign
 * makes the value a difference), timers, histograms and distributions (`ms`, `h`, `d`: all the
 * same) and sets (`s`) appear in the metrics. A timer has a count and a sum, and for each interval
 * the median, the 99th percentile and the maximum; a set has the number of different values of the
 * interval, accurate to about 2 %. Option: `interval` in seconds, 10 by default.
 *
 * A line whose name was seen before allocates nothing, so lines are handled at line rate.
 */

import type { App, AppContext, Metric } from "../tiles/app/contract.ts";
import { numberOption } from "./options.ts";

const [COLON, BAR, AT, TAG, NEWLINE] = [0x3a, 0x7c, 0x40, 0x23, 0x0a];
const [PLUS, MINUS, DOT] = [0x2b, 0x2d, 0x2e];
const [C, D, G, H, M, S] = [0x63, 0x64, 0x67, 0x68, 0x6d, 0x73];
/** Types with one letter; `ms` is M. */
const TYPES = [C, D, G, H, S];
/** The largest number that one line may add, which a double represents exactly. */
const MOST = 2 ** 53;

/** Makes the sink. */
export default function create(context: AppContext): App {
  const seconds = { usual: 10, least: 0.1, most: 86_400 };
  const interval = numberOption(context.options, "interval", seconds);
  const counter = (name: string, labels?: Record<string, string>) =>
    context.metric(`statsd.${name}`, "counter", labels)!;
  const lines = counter("lines");
  const refused = Object.keys(Wrong).map((reason) => counter("lines_refused", { reason }));
  const tagged = counter("tags_dropped");
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
          const series = line.wrong < 0 ? names.find(bytes, line) : null;
          if (series === null) refused[line.wrong < 0 ? Wrong.room : line.wrong].value++;
          else series(line, bytes);
          if (line.hasTags && tagged.value++ === 0) {
            const name = new TextDecoder().decode(bytes.subarray(at, line.nameEnd));
            context.log(
              `tags are dropped, first those of ${name}: statsd.tags_dropped counts lines`,
            );
          }
        }
      }
    },
    tick() {
      for (const series of names.ofIntervals) series.flush();
    },
  };
}

/**
 * Why a line is refused, as the metrics name it: no `name:value|type`, another type, a value or rate out of
 * range or no number, or no metric is left.
 */
const Wrong = { form: 0, type: 1, value: 2, rate: 3, room: 4 } as const;

/** A parsed line, valid until the next call of `read`. */
class Line {
  /** Offsets of the line's start, its name's end, its value's end, and its end. */
  at = 0;
  nameEnd = 0;
  valueEnd = 0;
  end = 0;
  type = 0;
  /** The value, if it is a number. */
  value = 0;
  signed = false;
  /** The number of values that this one represents, by its sample rate. */
  weight = 1;
  hasTags = false;
  /** The reason for refusing it, of `Wrong`; below 0: accepted. */
  wrong = -1;
  #cursor = 0;

  /** Parses the line at `at`, in a datagram that ends at `end`. Returns false if it is empty. */
  read(bytes: Uint8Array, at: number, end: number): boolean {
    this.at = this.nameEnd = this.end = at;
    while (this.end < end && bytes[this.end] !== NEWLINE) this.end++;
    while (this.nameEnd < this.end && bytes[this.nameEnd] !== COLON) this.nameEnd++;
    this.#cursor = this.nameEnd + 1;
    this.#skip(bytes);
    this.valueEnd = this.#cursor;
    this.hasTags = false;
    this.wrong = this.#parse(bytes);
    return this.end > at;
  }

  #parse(bytes: Uint8Array): number {
    if (this.nameEnd === this.at || this.valueEnd >= this.end) return Wrong.form;
    this.type = this.#type(bytes);
    this.weight = 1;
    while (this.#cursor < this.end) {
      const first = bytes[++this.#cursor];
      if (this.#cursor < this.end && first === AT) {
        this.#cursor++;
        this.weight = 1 / this.#number(bytes);
      } else if (this.#cursor < this.end && first === TAG) this.hasTags = true;
      this.#skip(bytes);
    }
    if (this.type === 0) return Wrong.type;
    if (!(this.weight >= 1 && this.weight <= MOST)) return Wrong.rate;
    if (this.type === S) return this.valueEnd > this.nameEnd + 1 ? -1 : Wrong.value;
    this.#cursor = this.nameEnd + 1;
    this.signed = bytes[this.#cursor] === PLUS || bytes[this.#cursor] === MINUS;
    this.value = this.#number(bytes);
    // A sum that is not finite would never recover. All sums except gauges only grow.
    const least = this.type === G ? -MOST : 0;
    const isRight = this.#cursor === this.valueEnd && this.value >= least &&
      this.value * this.weight <= MOST;
    return isRight ? -1 : Wrong.value;
  }

  /** Reads the type. Returns 0 if it is not one of ours. */
  #type(bytes: Uint8Array): number {
    const at = this.valueEnd + 1;
    this.#cursor = at;
    this.#skip(bytes);
    const length = this.#cursor - at;
    if (length === 2) return bytes[at] === M && bytes[at + 1] === S ? M : 0;
    return length === 1 && TYPES.includes(bytes[at]) ? bytes[at] : 0;
  }

  /** Moves the cursor to the next bar, or to the end of the line. */
  #skip(bytes: Uint8Array): void {
    while (this.#cursor < this.end && bytes[this.#cursor] !== BAR) this.#cursor++;
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

/** Applies a line of these bytes to the metrics of its name. */
type Series = (line: Line, bytes: Uint8Array) => void;

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

/** Registers of a set's HyperLogLog (Flajolet et al., 2007): a standard error of 1.04 ÷ √4096, 1.6 %. */
const REGISTER_BITS = 12;
const REGISTERS = 2 ** REGISTER_BITS;
const BIAS = 0.7213 / (1 + 1.079 / REGISTERS);

/** A set: the number of different values in an interval. */
class UniqueValues {
  readonly #shown: Metric;
  readonly #registers = new Uint8Array(REGISTERS);

  constructor(shown: Metric) {
    this.#shown = shown;
  }

  /** Takes a value by its hash, 32 bits. */
  take(hash: number): void {
    const register = hash >>> (32 - REGISTER_BITS);
    const rank = Math.clz32((hash << REGISTER_BITS) | (REGISTERS >>> 1)) + 1;
    if (rank > this.#registers[register]) this.#registers[register] = rank;
  }

  /** Sets the metric of the interval that ends, and begins another. */
  flush(): void {
    const sum = this.#registers.reduce((sum, rank) => sum + 2 ** -rank, 0);
    const empty = this.#registers.reduce((count, rank) => count + Number(rank === 0), 0);
    const estimate = BIAS * REGISTERS ** 2 / sum;
    // Small numbers of values are estimated from the empty registers.
    const isFew = estimate <= 2.5 * REGISTERS && empty > 0;
    this.#shown.value = Math.round(isFew ? REGISTERS * Math.log(REGISTERS / empty) : estimate);
    this.#registers.fill(0);
  }
}

/** How many names may share a hash. More would require knowledge of its key. */
const MOST_ALIKE = 4;

export class Names {
  /** Series with metrics of an interval. */
  readonly ofIntervals: (Timer | UniqueValues)[] = [];
  readonly #context: AppContext;
  /** Series by a keyed hash of name and type, as clients choose names. Names resolve collisions. */
  readonly #series = new Map<number, { name: Uint8Array; type: number; series: Series }[]>();

  readonly #start: number;
  readonly #multiplier: number;

  /** `key`: two random words, the hash's key. */
  constructor(context: AppContext, key = crypto.getRandomValues(new Uint32Array(2))) {
    this.#context = context;
    this.#start = key[0] | 0;
    this.#multiplier = key[1] | 1;
  }

  /** Finds or makes the series of a line. Null if there is no room. */
  find(
    bytes: Uint8Array,
    { at, nameEnd, type }: Pick<Line, "at" | "nameEnd" | "type">,
  ): Series | null {
    const hash = this.#hash(bytes, at, nameEnd, type);
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

  #hash(bytes: Uint8Array, at: number, end: number, salt: number): number {
    const multiplier = this.#multiplier;
    let hash = this.#start ^ salt;
    for (let i = at; i < end; i++) hash = Math.imul(hash ^ (hash >>> 15) ^ bytes[i], multiplier);
    return hash;
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
    if (type === S) {
      const unique = metric(".unique", "gauge");
      if (unique === null) return null;
      const values = new UniqueValues(unique);
      this.ofIntervals.push(values);
      return ({ nameEnd, valueEnd }, bytes) =>
        values.take(spread(this.#hash(bytes, nameEnd + 1, valueEnd, S)));
    }
    const shown = [
      ...[".count", ".sum"].map((suffix) => metric(suffix, "counter")),
      ...[".median", ".p99", ".upper"].map((suffix) => metric(suffix, "gauge")),
    ].filter((each) => each !== null);
    if (shown.length < 5) return null;
    const timer = new Timer(shown);
    this.ofIntervals.push(timer);
    return (line) => timer.take(line);
  }
}

/** Mixes a hash so that each bit depends on all bits: the finaliser of MurmurHash3. */
function spread(hash: number): number {
  let mixed = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}

/** Whether `name` equals `bytes` from `at` to `end`. */
function isAt(name: Uint8Array, bytes: Uint8Array, at: number, end: number): boolean {
  if (name.length !== end - at) return false;
  for (let i = 0; i < name.length; i++) if (name[i] !== bytes[at + i]) return false;
  return true;
}
