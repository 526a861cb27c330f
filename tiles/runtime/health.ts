// SPDX-License-Identifier: Apache-2.0
/**
 * The appliance's health. The master evaluates it (`master/health.ts`) and writes it, as JSON, into its
 * own region. The status tile reads it on request: `/live`, `/ready`, the metrics and `tegula status`.
 */

import { slice, u32, u8, type View } from "../../ffi/region.ts";
import type { DeclaredMetric } from "./metrics.ts";

/** Why Tegula is unwell, by the label of the metric `tegula_unwell`. */
export const UNWELL = {
  no_appliance: "No appliance runs.",
  no_progress: "A tile or an app makes no progress.",
  restarts: "A process or a tile was started again at least twice within a minute.",
  af_xdp_lost: "An interface has lost AF_XDP.",
  not_in_sync: "The mirror of the kernel's tables has not been in sync for 5 s.",
  neighbor_table_full: "There is no room for another neighbour.",
  no_ready_app: "A port has no app that is ready.",
} as const;

/** One reason: its subject, and a clause for operators. */
export interface Reason {
  readonly reason: keyof typeof UNWELL;
  /** The tile, app, interface or port concerned. */
  readonly about: string;
  readonly text: string;
}

/** `draining`: it serves, and wants no more traffic. Only `ready` is ready. */
export type HealthState = "starting" | "ready" | "draining" | "unwell";

/** The appliance's health. While it drains, there may be reasons as well. */
export interface Health {
  readonly state: HealthState;
  /** When this state began, milliseconds since the epoch. */
  readonly since: number;
  readonly reasons: readonly Reason[];
}

/** The kernel's values for a process, by metric. */
export type ProcessValues = Readonly<
  Record<Extract<DeclaredMetric, `process_${string}`>, number>
>;

/** A process: the master, the appliance, or an app. */
export interface ProcessReport {
  readonly name: string;
  /** 0: it does not run. */
  readonly pid: number;
  /** How often it was restarted after a failure. */
  readonly restarts: number;
  /** About a second old; absent until it runs. */
  readonly values?: ProcessValues;
}

/** The configuration in use, for the metrics. */
export interface LoadedConfig {
  readonly hash: number;
  /** Seconds since the epoch. */
  readonly at: number;
  /** Whether the last attempt to load a configuration succeeded. */
  readonly isGood: boolean;
}

/** What the master reports, about every second. */
export interface HealthReport extends Health {
  /** When it was written, milliseconds since the epoch. */
  readonly at: number;
  readonly version: string;
  /** When the master was started, milliseconds since the epoch; an upgrade does not change it. */
  readonly started: number;
  /** The configuration file; null: there is none. */
  readonly config: string | null;
  readonly loaded: LoadedConfig;
  /** The inode of the master's network namespace. */
  readonly netns: number;
  readonly processes: readonly ProcessReport[];
}

/** The region: a sequence word, which is odd while the text is written, its length, and the text. */
export const HEALTH = "health";
export const HEALTH_BYTES = 1 << 17;
const [SEQUENCE, LENGTH, TEXT_AT] = [0, 1, 64];

/** Replaces the report, on the master's side. If it is too long, the processes are left out. */
export function writeHealth(view: View, report: HealthReport): void {
  const words = u32(view);
  const into = u8(slice(view, TEXT_AT, HEALTH_BYTES - TEXT_AT));
  let text = new TextEncoder().encode(JSON.stringify(report));
  if (text.length > into.length) {
    text = new TextEncoder().encode(JSON.stringify({ ...report, processes: [] }));
  }
  // A master that is killed here takes all other processes with it.
  Atomics.add(words, SEQUENCE, 1);
  into.set(text);
  words[LENGTH] = text.length;
  Atomics.add(words, SEQUENCE, 1);
}

const STALE_MILLIS = 5000;
/** How often a report is read while it is being written, before the previous one is used. */
const MOST_READS = 100;

/** The status tile's side. */
export class HealthReader {
  readonly #words: Uint32Array;
  readonly #text: Uint8Array;
  #last: HealthReport | null = null;
  /** The sequence word, and when it was first seen with this value. */
  #seen = { sequence: -1, at: 0 };

  constructor(view: View) {
    this.#words = u32(view);
    this.#text = u8(slice(view, TEXT_AT, HEALTH_BYTES - TEXT_AT));
  }

  /** Whether a report was written lately, by a monotonic clock of this side. Must be called periodically. */
  isFresh(nowMillis: number): boolean {
    const sequence = Atomics.load(this.#words, SEQUENCE);
    if (sequence !== this.#seen.sequence) this.#seen = { sequence, at: nowMillis };
    return nowMillis - this.#seen.at < STALE_MILLIS;
  }

  /** The last report written; null: none. */
  read(): HealthReport | null {
    for (let i = 0; i < MOST_READS; i++) {
      const sequence = Atomics.load(this.#words, SEQUENCE);
      const text = this.#text.slice(0, this.#words[LENGTH]);
      if ((sequence & 1) !== 0 || Atomics.load(this.#words, SEQUENCE) !== sequence) continue;
      if (text.length === 0) return null;
      return this.#last = JSON.parse(new TextDecoder().decode(text));
    }
    return this.#last;
  }
}
