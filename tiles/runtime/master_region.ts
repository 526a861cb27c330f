// SPDX-License-Identifier: Apache-2.0
/**
 * The region in which the master tells the status tile about itself, the configuration and the processes.
 * Written by the master alone. All values are doubles, so none is ever seen in part:
 *
 *     0 …      hash of the configuration that is served; when it was loaded; whether the last attempt was good
 *     8 …      a record for each process: the master, the appliance, then apps by their slots
 */

import { f64, type View } from "../../ffi/region.ts";

/** Slots of apps that are processes: more than there are at once. */
export const APP_SLOTS = 256;

const Config = { hash: 0, loadedAt: 1, isGood: 2 } as const;
const PROCESSES_AT = 8;
const RECORD = 8;
const RESTARTS = RECORD - 1;

/** What is known of a process, in the order of its record; before it runs all is 0. */
export const PROCESS_VALUES = [
  "process_start_time_seconds",
  "process_cpu_seconds_total",
  "process_resident_memory_bytes",
  "process_virtual_memory_bytes",
  "process_open_fds",
  "process_max_fds",
  "process_threads",
] as const;

/** Values of a process, by `PROCESS_VALUES`. */
export type ProcessValues = Readonly<Record<typeof PROCESS_VALUES[number], number>>;

/** The record of a process; that of an app comes by its slot. */
export type ProcessKey = "master" | "appliance" | number;

function recordOf(process: ProcessKey): number {
  const n = process === "master" ? 0 : process === "appliance" ? 1 : 2 + process;
  return PROCESSES_AT + n * RECORD;
}

export const MASTER_REGION_BYTES = (PROCESSES_AT + (2 + APP_SLOTS) * RECORD) * 8;

/** The master's side. A successor in the same process goes on with what is there. */
export class MasterRegion {
  readonly #values: Float64Array;

  constructor(view: View) {
    this.#values = f64(view);
  }

  /** A configuration is served, which was loaded `at` (seconds since 1970). */
  loaded(hash: number, at: number): void {
    this.#values[Config.hash] = hash;
    this.#values[Config.loadedAt] = at;
    this.#values[Config.isGood] = 1;
  }

  /** A configuration was to be served and could not be. */
  refused(): void {
    this.#values[Config.isGood] = 0;
  }

  /** A process was started again after a failure. */
  restarted(process: ProcessKey): void {
    this.#values[recordOf(process) + RESTARTS]++;
  }

  /** What a process has now; null: it does not run. */
  set(process: ProcessKey, values: ProcessValues | null): void {
    const at = recordOf(process);
    PROCESS_VALUES.forEach((name, i) => this.#values[at + i] = values?.[name] ?? 0);
  }

  /** The slot is another app's from now on. */
  clear(slot: number): void {
    this.#values.fill(0, recordOf(slot), recordOf(slot) + RECORD);
  }
}

/** The status tile's side. */
export class MasterReader {
  readonly #values: Float64Array;

  constructor(view: View) {
    this.#values = f64(view);
  }

  /** The configuration, in the order of its metrics. */
  get config() {
    const [hash, loadedAt, isGood] = this.#values;
    return { hash, loadedAt, isGood };
  }

  /** How often it was started again after a failure. */
  restarts(process: ProcessKey): number {
    return this.#values[recordOf(process) + RESTARTS];
  }

  /** What it has; null: it does not run. */
  process(process: ProcessKey): ProcessValues | null {
    const at = recordOf(process);
    if (this.#values[at] === 0) return null;
    return Object.fromEntries(
      PROCESS_VALUES.map((name, i) => [name, this.#values[at + i]]),
    ) as ProcessValues;
  }
}
