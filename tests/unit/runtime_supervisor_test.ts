/** How main looks after tiles, with workers that this test plays. */

import assert from "node:assert/strict";
import { heapView } from "../../ffi/view.ts";
import { NETBASE_BYTES } from "../../netbase/layout.ts";
import { NetbaseWriter } from "../../netbase/netbase_writer.ts";
import { CONTROL_BYTES } from "../../tiles/runtime/control.ts";
import { SNAPSHOT_BYTES } from "../../tiles/runtime/snapshot.ts";
import { TileWorker } from "../../tiles/runtime/supervisor.ts";
import type { ServingTile, TileKind, TileReport } from "../../tiles/runtime/tile.ts";
import {
  Life,
  TILE_REGION_BYTES,
  TileReader,
  TileRegion,
} from "../../tiles/runtime/tile_region.ts";
import { create } from "../../tiles/status/tile.ts";

/** Looks until an app or net tile is said to hang, and the others. */
const QUICK = 10;
const LONG = 60;

/** In place of a worker: reports what the test has it report. */
class FakeWorker {
  static last: FakeWorker;
  ended = false;
  onmessage: (event: { data: TileReport }) => void = () => {};

  constructor() {
    FakeWorker.last = this;
  }
  postMessage() {}
  terminate() {
    this.ended = true;
  }
}

/** A tile of a kind that runs and sleeps, its region, and what main hears of it. */
function running(kind: TileKind, beside = false) {
  const view = heapView(TILE_REGION_BYTES);
  const region = new TileRegion(view);
  const heard: string[] = [];
  const note = (what: string) => () => void heard.push(what);
  const { Worker } = globalThis;
  globalThis.Worker = FakeWorker as unknown as typeof Worker;
  const tile = new TileWorker({
    ...{ kind, name: kind, module: "", region: view, control: heapView(CONTROL_BYTES) },
    ...{ keep: { clock: false, keep: false }, beside, spinTurns: 0, setup: null },
  }, {
    permissions: { ffi: [], read: [], write: [], env: [], net: [] },
    events: {
      log: (line) => heard.push(line),
      failed: (message) => heard.push(message),
      late: note("late"),
      stuck: note("stuck"),
    },
  });
  globalThis.Worker = Worker;
  const worker = FakeWorker.last;
  worker.onmessage({ data: { type: "started", thread: 1 } });
  if (!beside) worker.onmessage({ data: { type: "running", confined: "" } });
  region.life = Life.running;
  region.fallAsleep();
  const reader = new TileReader(view);
  const look = (isRunning = true) => tile.look(reader, () => isRunning);
  return { region, heard, worker, tile, look };
}

Deno.test("a status tile that hangs as it waits is ended, and has failed once its thread is gone", () => {
  const { worker, heard, look } = running("status");
  for (let i = 0; i < LONG; i++) look();
  assert.ok(!worker.ended);
  look();
  assert.ok(worker.ended);
  look(false);
  assert.deepEqual(heard, ["it hangs and is ended", "it hung"]);
});

Deno.test("a status tile that gets on is left alone, however seldom", () => {
  const { region, heard, look } = running("status");
  for (let i = 0; i < 10 * LONG; i++) {
    if (i % (LONG - 1) === 0) region.quiescent();
    look();
  }
  assert.deepEqual(heard, []);
});

Deno.test("other tiles may sleep for as long as they like, but not stand still awake", () => {
  for (const [kind, looks] of [["netlink", LONG], ["app", QUICK], ["net", QUICK]] as const) {
    const { region, heard, look } = running(kind);
    for (let i = 0; i < 2 * LONG; i++) look();
    assert.deepEqual(heard, [], kind);
    region.awake();
    for (let i = 0; i <= looks; i++) look();
    assert.deepEqual(heard, [kind === "net" ? "stuck" : "it hangs and is ended"], kind);
  }
});

Deno.test("an app that starts beside another and cannot be ended has failed, no more", async () => {
  const { worker, tile, heard, look } = running("app", true);
  for (let i = 0; i < LONG; i++) look();
  assert.deepEqual(heard.splice(0), ["late", "it hangs and is ended"]);
  assert.ok(worker.ended);
  for (let i = 0; i < QUICK; i++) look();
  assert.deepEqual(heard, ["it hangs and cannot be ended"]);
  await assert.rejects(tile.running, /cannot be ended/);
  assert.equal(await tile.ended, false);
});

Deno.test("a status tile that nobody asks shows that it gets on", async () => {
  const [view, netbase] = [heapView(TILE_REGION_BYTES), heapView(NETBASE_BYTES)];
  new NetbaseWriter(netbase, { readers: [], seed: 1 });
  const tile = create({
    setup: {
      ...{ netbase, control: heapView(CONTROL_BYTES), snapshot: heapView(SNAPSHOT_BYTES) },
      ...{ captures: [], tiles: [], metrics: [], interfaces: [], listen: [] },
      places: { control: null, metrics: "127.0.0.1:0" },
    },
    region: new TileRegion(view),
    libraries: { tile: null! },
    log() {},
    ask() {},
  }) as ServingTile;
  tile.serve();
  const reader = new TileReader(view);
  const before = reader.burst;
  const deadline = performance.now() + LONG * 500;
  while (reader.burst === before) {
    assert.ok(performance.now() < deadline, "it shows nothing");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});
