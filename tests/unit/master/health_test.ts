// SPDX-License-Identifier: Apache-2.0
/** When an appliance is well, and the region by which that is reported. */

import assert from "node:assert/strict";
import { APP, NET } from "../../../tiles/runtime/counters.ts";
import { TILE_COUNTERS, TileReader } from "../../../tiles/runtime/tile.ts";
import { heapView } from "../../../ffi/region.ts";
import { healthMonitor, isAnnounced, type Observed, statusLines } from "../../../master/health.ts";
import {
  HEALTH_BYTES,
  HealthReader,
  type HealthReport,
  writeHealth,
} from "../../../tiles/runtime/health.ts";

const BEGIN = 1_000_000;

const PORTS = [{ name: "53", apps: "dns", ready: true }];

/** What is seen when all is well: each tile has moved since it was seen last. */
function allWell(moves: number): Observed {
  return {
    ...{ starting: false, hasAppliance: true, lostXdp: [], unsyncedSeconds: 0 },
    ...{ neighborsFull: false, restarts: [] },
    tiles: (["netlink", "net", "app", "status"] as const).map((kind) => (
      { kind, name: kind === "app" ? "dns" : kind, progress: moves }
    )),
    ports: PORTS,
  };
}

/** A monitor that is looked at every second, and what it has said at each change. */
function watched() {
  const monitor = healthMonitor(BEGIN);
  const changes: string[] = [];
  let seconds = 0;
  const look = (seen: Partial<Observed> = {}) => {
    const before = monitor.health;
    const now = monitor.evaluate(BEGIN + 1000 * seconds, { ...allWell(seconds), ...seen });
    const words = [`${seconds}: ${now.state}`, ...now.reasons.map(({ text }) => text)];
    if (now !== before) changes.push(words.join(", "));
    seconds++;
  };
  return { monitor, changes, look };
}

/** Looks `times` times at `seen`, and then until the monitor is well again, or at most a minute. */
function changesOf(seen: (i: number) => Partial<Observed>, times: number): string[] {
  const { changes, look } = watched();
  look();
  for (let i = 0; i < times; i++) look(seen(i));
  for (let i = 0; i < 60; i++) look();
  return changes;
}

Deno.test("it is starting, then ready, and draining for as long as it is told to", () => {
  const { monitor, changes, look } = watched();
  look({ starting: true, hasAppliance: false });
  assert.equal(monitor.health.state, "starting");
  look();
  look();
  monitor.setDraining(true);
  look();
  look({ lostXdp: ["eth0"] });
  look({ lostXdp: ["eth0"] });
  look();
  monitor.setDraining(false);
  look();
  assert.deepEqual(changes, [
    "1: ready",
    "3: draining",
    "5: draining, AF_XDP is lost on eth0",
    "6: draining",
    "7: ready",
  ]);
  assert.equal(monitor.health.since, BEGIN + 7000);
});

Deno.test("the program that a master becomes goes on with its state, which counts as a change", () => {
  for (const state of ["ready", "draining"] as const) {
    const monitor = healthMonitor(BEGIN, { state, since: BEGIN - 500 });
    const before = monitor.health;
    const health = monitor.evaluate(BEGIN, allWell(0));
    assert.notEqual(health, before);
    assert.deepEqual([health.state, health.since], [state, BEGIN - 500]);
    monitor.evaluate(BEGIN, { ...allWell(0), neighborsFull: true });
    monitor.setDraining(false);
    monitor.evaluate(BEGIN + 1, { ...allWell(0), neighborsFull: true });
    assert.equal(monitor.evaluate(BEGIN + 2, allWell(0)).since, BEGIN + 2);
  }
  const unwell = healthMonitor(BEGIN, { state: "unwell", since: BEGIN - 500 });
  assert.equal(unwell.evaluate(BEGIN, allWell(0)).since, BEGIN);
});

Deno.test("each thing that is wrong makes it unwell once it lasts, and no longer than that", () => {
  const stuck = (name: string) => (i: number) => ({
    tiles: allWell(i + 100).tiles.map((tile) =>
      tile.name === name ? { ...tile, progress: 1000 } : tile
    ),
  });
  const cases: [seen: (i: number) => Partial<Observed>, after: number, text: string][] = [
    [() => ({ hasAppliance: false, tiles: [] }), 1, "no appliance runs"],
    [stuck("net"), 3, "net makes no progress"],
    [stuck("dns"), 3, "dns makes no progress"],
    [stuck("netlink"), 10, "netlink makes no progress"],
    [stuck("status"), 10, "status makes no progress"],
    [() => ({ lostXdp: ["eth1"] }), 1, "AF_XDP is lost on eth1"],
    [
      (i) => ({ unsyncedSeconds: i }),
      5,
      "the mirror is not in sync with the kernel",
    ],
    [() => ({ neighborsFull: true }), 0, "the neighbour table is full"],
    [
      () => ({ ports: [{ name: "53", apps: "dns", ready: false }] }),
      1,
      "no app is ready for port 53 (dns)",
    ],
  ];
  for (const [seen, after, text] of cases) {
    assert.deepEqual(changesOf(seen, after), ["0: ready"], `${text}: too soon`);
    assert.deepEqual(changesOf(seen, after + 1), [
      "0: ready",
      `${1 + after}: unwell, ${text}`,
      `${2 + after}: ready`,
    ]);
  }
});

Deno.test("one that hung is not well again between its end and its successor's start", () => {
  const { changes, look } = watched();
  const stuck = allWell(0).tiles.map((tile) => ({ ...tile, progress: 1000 }));
  look();
  for (let i = 0; i < 4; i++) {
    look({ tiles: allWell(i + 1).tiles.map((tile, j) => tile.kind === "app" ? stuck[j] : tile) });
  }
  const withoutApp = allWell(10).tiles.filter(({ kind }) => kind !== "app");
  look({ tiles: withoutApp, ports: [{ name: "53", apps: "dns", ready: false }] });
  look();
  assert.deepEqual(changes, [
    "0: ready",
    "4: unwell, dns makes no progress",
    "5: unwell, no app is ready for port 53 (dns)",
    "6: ready",
  ]);
});

Deno.test("a host is announced while it is ready, and while strangers fill its neighbour table", () => {
  const { monitor, look } = watched();
  const announced = (seen?: Partial<Observed>) => {
    look(seen);
    return isAnnounced(monitor.health);
  };
  assert.equal(announced({ starting: true }), false);
  assert.equal(announced(), true);
  assert.equal(announced({ neighborsFull: true }), true);
  assert.equal(announced({ neighborsFull: true, unsyncedSeconds: 5 }), false);
  assert.equal(announced(), true);
  monitor.setDraining(true);
  assert.equal(announced(), false);
});

Deno.test("what is interrupted begins anew", () => {
  const seen = (i: number) => ({ lostXdp: i % 2 === 0 ? ["eth0"] : [] });
  assert.deepEqual(changesOf(seen, 20), ["0: ready"]);
});

Deno.test("two restarts of one thing within a minute are wrong until that minute is over", () => {
  const { changes, look } = watched();
  // What was counted before it is looked at was long ago.
  const counts = { dns: 5, ntp: 0 };
  const lookOn = (seconds: number) => {
    for (let i = 0; i < seconds; i++) {
      look({ restarts: Object.entries(counts).map(([name, count]) => ({ name, count })) });
    }
  };
  lookOn(1);
  counts.dns++;
  counts.ntp++;
  lookOn(31);
  counts.dns++;
  lookOn(60);
  counts.ntp += 2;
  lookOn(1);
  counts.ntp = 0;
  lookOn(1);
  assert.deepEqual(changes, [
    "0: ready",
    "32: unwell, dns was started again 2 times within a minute",
    "61: ready",
    "92: unwell, ntp was started again 2 times within a minute",
  ]);
});

Deno.test("a report is read as it was written last, however long", () => {
  const view = heapView(HEALTH_BYTES);
  const reader = new HealthReader(view);
  assert.equal(reader.read(), null);
  const report = {
    ...{ state: "ready", since: 1, reasons: [], at: 2, version: "1", started: 0 },
    ...{ config: null, loaded: { hash: 1, at: 2, isGood: true }, netns: 3, processes: [] },
  } satisfies HealthReport;
  const process = { name: "größe", pid: 1, restarts: 0 };
  for (const count of [1, 300, 2]) {
    const processes = new Array(count).fill(process);
    writeHealth(view, { ...report, processes });
    assert.deepEqual(reader.read(), { ...report, processes });
  }
  writeHealth(view, { ...report, processes: new Array(5000).fill(process) });
  assert.deepEqual(reader.read(), report);
});

Deno.test("a report is stale when none was written for five seconds", () => {
  const view = heapView(HEALTH_BYTES);
  const reader = new HealthReader(view);
  assert.equal(reader.isFresh(10_000), true);
  assert.equal(reader.isFresh(14_999), true);
  assert.equal(reader.isFresh(15_000), false);
  writeHealth(view, {} as HealthReport);
  assert.equal(reader.isFresh(16_000), true);
});

Deno.test("systemd is told each change at once, and rates every ten seconds", () => {
  const reader = { counters: new Float64Array(TILE_COUNTERS) } as TileReader;
  const app = { counters: new Float64Array(TILE_COUNTERS) } as TileReader;
  const past = new Float64Array(TILE_COUNTERS);
  const tiles = [
    { kind: "net", reader, past },
    { kind: "app", reader: app, past },
  ] as const;
  const line = statusLines();
  const lost = { reason: "af_xdp_lost", about: "eth0", text: "AF_XDP is lost on eth0" } as const;
  const health = { state: "ready", since: 0, reasons: [] } as const;
  const unwell = { state: "unwell", since: 0, reasons: [lost] } as const;
  assert.equal(line(0, health, tiles), "ready");
  for (let second = 1; second < 10; second++) {
    reader.counters[NET.index.rx_frames] += 1000;
    reader.counters[NET.index.rx_socket] += 10;
    reader.counters[NET.index.tx_frames] += 900;
    app.counters[APP.index.rx_drop_rate_limited] += 100;
    assert.equal(line(1000 * second, health, tiles), null);
  }
  assert.equal(
    line(9500, unwell, tiles),
    "unwell: AF_XDP is lost on eth0; 957/s in, 853/s out, 95/s dropped",
  );
  assert.equal(line(9600, health, tiles), "ready");
  assert.equal(line(19_600, health, tiles), "ready; 0/s in, 0/s out, 0/s dropped");
  assert.equal(line(29_600, health, tiles), null);
});
