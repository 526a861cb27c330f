// SPDX-License-Identifier: Apache-2.0
/**
 * The appliance's health. The master reports observations about every second and at each event. This
 * module evaluates them, with the time of each change, for all who are notified. Clocks are arguments.
 */

import type { Health, HealthState, Reason, UNWELL } from "../tiles/runtime/health.ts";
import { type CountedTile, COUNTERS, totalsOf } from "../tiles/runtime/counters.ts";
import type { TileKind } from "../tiles/runtime/tile.ts";

/** Milliseconds without progress until a tile is unwell. A dump of a million routes may keep netlink busy. */
const STALLED_MILLIS: { readonly [kind in TileKind]: number } = {
  ...{ net: 3000, app: 3000 },
  ...{ netlink: 10_000, status: 10_000 },
};
/**
 * A shorter condition is not a reason. An app or an appliance that ends is replaced sooner, while
 * datagrams wait: withdrawing a route would lose more datagrams than it saves.
 */
const GRACE_MILLIS = 1000;
const OUT_OF_SYNC_SECONDS = 5;
/** Restarts of one process or tile within a minute. A single one is a repaired failure. */
const [RESTARTS, RESTARTS_MILLIS] = [2, 60_000];
/** Reasons that are listed. */
const MOST_REASONS = 64;

/**
 * Whether to announce the host. A full neighbour table does not prevent it: strangers can cause
 * that by forged sources, on one host after another, and other clients still get answers.
 */
export function isAnnounced({ state, reasons }: Health): boolean {
  return state === "ready" ||
    (state === "unwell" && reasons.every(({ reason }) => reason === "neighbor_table_full"));
}

export interface Observed {
  /** Whether nothing has served yet. */
  readonly starting: boolean;
  readonly hasAppliance: boolean;
  /** Tiles that run. `progress` changes while a tile makes progress. */
  readonly tiles: readonly { kind: TileKind; name: string; progress: number }[];
  /** How often each process, or tile that restarts in place, was restarted. */
  readonly restarts: readonly { name: string; count: number }[];
  /** The apps of each port, or range of ports, and whether one of them is ready. */
  readonly ports: readonly { name: string; apps: string; ready: boolean }[];
  /** Interfaces that lost AF_XDP. */
  readonly lostXdp: readonly string[];
  readonly unsyncedSeconds: number;
  readonly neighborsFull: boolean;
}

/**
 * Evaluates the master's observations. `carried`: the health from the master's previous program.
 * The state then counts as changed.
 */
export function healthMonitor(begin: number, carried?: Pick<Health, "state" | "since">) {
  const progressOf = new Map<string, { value: number; since: number }>();
  /** Since when each condition has held, by reason and subject. */
  let held = new Map<string, number>();
  /** Number and recent times of restarts, by name. */
  const restartsOf = new Map<string, { count: number; recent: number[] }>();
  let isDraining = carried?.state === "draining";
  let health: Health = { state: "starting", since: begin, reasons: [] };

  /** The recent restarts of `name`, which was restarted `count` times in all. */
  function restartsLately(name: string, count: number, now: number): number[] {
    // The first count of a name does not show when its restarts were.
    const { count: before, recent } = restartsOf.get(name) ?? { count, recent: [] };
    for (let i = before; i < count; i++) recent.push(now);
    const last = recent.slice(-RESTARTS);
    restartsOf.set(name, { count, recent: last });
    return last;
  }

  /** When the tile's progress last changed. */
  function movedAt(name: string, value: number, now: number): number {
    const seen = progressOf.get(name);
    if (seen !== undefined && seen.value === value) return seen.since;
    progressOf.set(name, { value, since: now });
    return now;
  }

  function reasonsFor(now: number, seen: Observed): Reason[] {
    const holding = new Map<string, number>();
    const reasons: Reason[] = [];
    // A tile that was killed because it hung is unwell until its successor is ready.
    const grace = health.reasons.length > 0 ? 0 : GRACE_MILLIS;
    /** Adds a reason once it has held for `millis`. */
    const add = (reason: keyof typeof UNWELL, about: string, text: string, millis = 0) => {
      const key = `${reason} ${about}`;
      const since = held.get(key) ?? now;
      holding.set(key, since);
      if (now - since >= millis) reasons.push({ reason, about, text });
    };
    if (!seen.hasAppliance) add("no_appliance", "appliance", "no appliance runs", grace);
    for (const { kind, name, progress } of seen.tiles) {
      if (now - movedAt(name, progress, now) < STALLED_MILLIS[kind]) continue;
      add("no_progress", name, `${name} makes no progress`);
    }
    for (const { name, count } of seen.restarts) {
      const recent = restartsLately(name, count, now);
      if (recent.length < RESTARTS || now - recent[0] >= RESTARTS_MILLIS) continue;
      add("restarts", name, `${name} was started again ${RESTARTS} times within a minute`);
    }
    for (const name of seen.lostXdp) {
      add("af_xdp_lost", name, `AF_XDP is lost on ${name}`, grace);
    }
    if (seen.unsyncedSeconds >= OUT_OF_SYNC_SECONDS) {
      add("not_in_sync", "mirror", "the mirror is not in sync with the kernel");
    }
    if (seen.neighborsFull) {
      add("neighbor_table_full", "neighbors", "the neighbour table is full");
    }
    for (const { name, apps, ready } of seen.ports) {
      if (ready) continue;
      add("no_ready_app", name, `no app is ready for port ${name} (${apps})`, grace);
    }
    held = holding;
    const names = new Set(seen.tiles.map(({ name }) => name));
    for (const name of progressOf.keys()) if (!names.has(name)) progressOf.delete(name);
    return reasons.slice(0, MOST_REASONS);
  }

  return {
    /** The last evaluation. */
    get health(): Health {
      return health;
    },
    /** Sets whether it should get no new traffic, although it serves. */
    setDraining(wanted: boolean): void {
      isDraining = wanted;
    },
    /** Evaluates observations at `now` (milliseconds since the epoch). Returns the same object if nothing changed. */
    evaluate(now: number, observed: Observed): Health {
      const reasons = observed.starting ? [] : reasonsFor(now, observed);
      const state: HealthState = observed.starting
        ? "starting"
        : isDraining
        ? "draining"
        : reasons.length > 0
        ? "unwell"
        : "ready";
      const isSame = state === health.state &&
        JSON.stringify(reasons) === JSON.stringify(health.reasons);
      if (isSame) return health;
      const since = [health, carried].find((each) => each?.state === state)?.since ?? now;
      carried = undefined;
      return health = { state, since, reasons };
    },
  };
}

/** How often rates are reported while nothing else changes. */
const RATES_MILLIS = 10_000;
/** Counters of net tiles and apps, by their words in the line. */
const RATES = {
  in: /^rx_(frames|socket)$/,
  out: /^tx_(frames|socket)$/,
  dropped: /^(xdp_)?[rt]x_drop_/,
} as const;

/**
 * Makes lines for `systemctl status`: the state, the reasons, and rates. Returns a function that
 * makes the current line, or null if the last one is good enough.
 */
export function statusLines() {
  let [toldState, toldLine] = ["", ""];
  /** When rates were last reported, and the counts then. */
  let at = -Infinity;
  let counts: readonly number[] = [];
  return (
    now: number,
    { state, reasons }: Health,
    tiles: readonly Omit<CountedTile, "name">[],
  ): string | null => {
    const words = [state, ...reasons.map(({ text }) => text)].join(": ");
    if (words === toldState && now - at < RATES_MILLIS) return null;
    const seconds = (now - at) / 1000;
    const present = Object.values(RATES).map((pattern) => sum(tiles, pattern));
    const rates = Object.keys(RATES).map((name, i) =>
      `${Math.round((present[i] - counts[i]) / seconds)}/s ${name}`
    );
    // The time between two quick changes is too short to measure rates.
    const isFirst = counts.length === 0;
    const isMeasured = !isFirst && seconds >= 1;
    if (isMeasured || isFirst) [at, counts] = [now, present];
    const line = isMeasured && tiles.length > 0 ? `${words}; ${rates.join(", ")}` : words;
    const isSame = line === toldLine;
    [toldState, toldLine] = [words, line];
    return isSame ? null : line;
  };
}

/** The sum of the counters of net tiles and apps whose names match. */
function sum(tiles: readonly Omit<CountedTile, "name">[], pattern: RegExp): number {
  return tiles.filter(({ kind }) => kind === "net" || kind === "app").reduce((sum, tile) => {
    const totals = totalsOf(tile);
    const names = Object.keys(COUNTERS[tile.kind].help);
    return names.reduce((sum, name, i) => pattern.test(name) ? sum + totals[i] : sum, sum);
  }, 0);
}
