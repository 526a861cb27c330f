// SPDX-License-Identifier: Apache-2.0
/**
 * The harness of all benchmarks: contestants that take turns in one process or set-up, so that a drift of the machine
 * affects all; medians over the rounds; and one shape of results.
 */

/** Units of a result. Times are per operation, rates per second, sizes in MiB. */
export type Unit =
  | "ns/op"
  | "ms"
  | "kpps"
  | "kqps"
  | "events/s"
  | "MiB"
  | "requests"
  | "% of a core"
  | "GCs/min"
  | "entries";

/** The result of one case, as `--json` prints it, one object a line. */
export interface Result {
  readonly bench: string;
  readonly case: string;
  readonly unit: Unit;
  /** Median of Tegula's runs. */
  readonly tegula: number;
  /** Medians of the peers, by name. */
  readonly peers: Record<string, number>;
  /** By peer, the median of Tegula's figure ÷ the peer's in the same round. */
  readonly ratio: Record<string, number>;
  /** The interval of that median with 95 % certainty ({@linkcode interval}): from … */
  readonly ratioLow: Record<string, number>;
  /** … to. */
  readonly ratioHigh: Record<string, number>;
  /** How many times each contestant ran. */
  readonly runs: number;
  /** (largest − smallest) / median of Tegula's runs. */
  readonly spread: number;
  /** How it was measured, if that depends on the program. */
  readonly note?: string;
}

/** Called with the result of each case. */
export type Report = (result: Result) => void;

/** Selects a part of a benchmark; by default all. */
export interface Selection {
  /** Regular expression for the names of cases. */
  readonly only?: string;
  /** Names of the peers that run. */
  readonly peers?: readonly string[];
  /** Rounds that count. */
  readonly runs?: number;
  /** Seconds of the long loads. */
  readonly seconds?: number;
}

/** Whether a case of this name is wanted. */
export function isWanted(name: string, { only }: Selection): boolean {
  return only === undefined || new RegExp(only).test(name);
}

/** One measurement of one contestant, in the case's unit. */
export type Contestant = () => number | Promise<number>;

/** One case: Tegula and its peers. */
export interface Case {
  readonly bench: string;
  readonly case: string;
  readonly unit: Unit;
  readonly tegula: Contestant;
  readonly peers?: Readonly<Record<string, Contestant>>;
  /** Rounds that count; by default 5. */
  readonly runs?: number;
  /** Rounds before them that do not; by default 1. */
  readonly warmup?: number;
}

/** Figures of one contestant over the rounds, in the order they were taken. */
export type Samples = ReadonlyMap<string, readonly number[]>;

/** The name of Tegula's samples in {@linkcode Samples}. */
export const TEGULA = "tegula";

/**
 * Runs the contestants by turns, each once a round, and every second round in reverse order, so that the
 * effects of one (caches, a raised clock) do not always favour the same other.
 */
export async function interleave<T>(
  contestants: Readonly<Record<string, () => T | Promise<T>>>,
  { runs = 5, warmup = 1 }: { readonly runs?: number; readonly warmup?: number } = {},
): Promise<Map<string, T[]>> {
  const order = Object.entries(contestants);
  const samples = new Map<string, T[]>(order.map(([name]) => [name, []]));
  for (let round = -warmup; round < runs; round++) {
    for (const [name, measure] of order) {
      const figure = await measure();
      if (round >= 0) samples.get(name)!.push(figure);
    }
    order.reverse();
  }
  return samples;
}

/** Makes a result of interleaved samples. */
export function resultOf(
  what: Pick<Result, "bench" | "case" | "unit">,
  samples: Samples,
): Result {
  const own = samples.get(TEGULA) ?? [];
  const peers = [...samples].filter(([name]) => name !== TEGULA);
  const ratios = peers.map(([name, figures]) =>
    [name, own.map((figure, i) => figure / figures[i])] as const
  ).filter(([, all]) => all.every(Number.isFinite));
  const intervals = ratios.map(([name, all]) => [name, ...interval(all)] as const);
  return {
    bench: what.bench,
    case: what.case,
    unit: what.unit,
    tegula: round(median(own)),
    peers: Object.fromEntries(peers.map(([name, figures]) => [name, round(median(figures))])),
    ratio: Object.fromEntries(ratios.map(([name, all]) => [name, round(median(all), 3)])),
    ratioLow: Object.fromEntries(intervals.map(([name, low]) => [name, round(low, 3)])),
    ratioHigh: Object.fromEntries(intervals.map(([name, , high]) => [name, round(high, 3)])),
    runs: own.length,
    spread: round(spread(own), 2),
  };
}

/** Measures one case from beginning to end. */
export async function measure(what: Case): Promise<Result> {
  const { tegula, peers, runs, warmup } = what;
  return resultOf(what, await interleave({ [TEGULA]: tegula, ...peers }, { runs, warmup }));
}

/**
 * A contestant that times `operations` operations done by one call of `body` and answers in ns/op.
 * `body` returns a number that depends on its work, so that the work cannot be optimised away.
 */
export function timed(operations: number, body: () => number): Contestant {
  return () => {
    const begin = performance.now();
    const witness = body();
    const elapsedMs = performance.now() - begin;
    if (Number.isNaN(witness)) throw new Error("the benchmark's work came to nothing");
    return elapsedMs * 1e6 / operations;
  };
}

/** The median. NaN without figures. */
export function median(figures: readonly number[]): number {
  const sorted = [...figures].sort((a, b) => a - b);
  const middle = sorted.length >>> 1;
  if (sorted.length === 0) return NaN;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/**
 * The interval of the median with at least 95 % certainty, by the sign test: as many figures are cut off at each
 * end as the binomial distribution allows. With fewer than six figures it is the whole range, with less
 * certainty.
 */
export function interval(figures: readonly number[]): [low: number, high: number] {
  const sorted = [...figures].sort((a, b) => a - b);
  const last = sorted.length - 1;
  let cut = 0;
  // The chance that at most `cut` figures are on one side of the median, and the next of its terms.
  let [chance, term] = [0.5 ** sorted.length, 0.5 ** sorted.length];
  for (;; cut++) {
    term *= (sorted.length - cut) / (cut + 1);
    chance += term;
    if (chance * 2 > 0.05) return [sorted[cut], sorted[last - cut]];
  }
}

/** (largest − smallest) / median. */
export function spread(figures: readonly number[]): number {
  return (Math.max(...figures) - Math.min(...figures)) / median(figures);
}

/** Rounds to a given number of decimals: figures are measurements, not constants. */
function round(figure: number, decimals = 1): number {
  return Number(figure.toFixed(decimals));
}
