// SPDX-License-Identifier: Apache-2.0
/** How main looks after tiles, with workers that this test plays. */

import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import { CONTROL_BYTES, SNAPSHOT_BYTES } from "../../../tiles/runtime/control.ts";
import { HEALTH_BYTES } from "../../../tiles/runtime/health.ts";
import { Threads, TileWorker } from "../../../tiles/runtime/appliance.ts";
import {
  Life,
  TILE_REGION_BYTES,
  TileReader,
  TileRegion,
  type WorkerKind,
} from "../../../tiles/runtime/tile.ts";
import { create } from "../../../tiles/status/tile.ts";

/** Polls until a net tile is said to hang, and the others. */
const QUICK = 10;
const LONG = 60;

/** In place of a worker: reports what the test has it report. */
class FakeWorker {
  static last: FakeWorker;
  ended = false;
  onmessage: (event: { data: unknown }) => void = () => {};

  constructor() {
    FakeWorker.last = this;
  }
  postMessage() {}
  terminate() {
    this.ended = true;
  }
}

/** Number of the tile's thread, and what the kernel tells of it. */
const THREAD = 77;
const CONFINED =
  "Name:\tx\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t0\nCapAmb:\t0\nNoNewPrivs:\t1\nSeccomp:\t2\n";
const RUNNING = { type: "running", landlock: true, observed: true };

/** A tile of a kind that runs and sleeps, its region, and what main learns of it. */
function running(kind: WorkerKind) {
  const { worker, region, ...others } = started(kind);
  worker.onmessage({ data: RUNNING });
  region.life = Life.running;
  region.fallAsleep();
  return { worker, region, ...others };
}

/** A tile that has said that it is started, and no more. */
function started(kind: WorkerKind) {
  const view = heapView(TILE_REGION_BYTES);
  const region = new TileRegion(view);
  const heard: string[] = [];
  const kernel = { exists: true, status: CONFINED, ticks: 0, start: 5 };
  const threads = new Threads({
    isRunning: () => kernel.exists,
    readThread: (thread, name) => {
      if (!kernel.exists || thread !== THREAD) return null;
      return name === "status"
        ? kernel.status
        : `${thread} (x) S${" 0".repeat(10)} ${kernel.ticks}${" 0".repeat(7)} ${kernel.start} 0`;
    },
  });
  const note = (what: string) => () => void heard.push(what);
  const { Worker } = globalThis;
  globalThis.Worker = FakeWorker as unknown as typeof Worker;
  const tile = new TileWorker({
    ...{ kind, name: kind, slot: 0, module: "", region: view, control: heapView(CONTROL_BYTES) },
    ...{ clock: false, hasPredecessor: false, held: false, spinTurns: 0, setup: null },
  }, {
    threads,
    permissions: { ffi: [], read: [], write: [], env: [], net: [] },
    events: {
      log: (line) => heard.push(line),
      failed: (message) => heard.push(message),
      late: note("late"),
      stuck: (reason) => heard.push(`stuck: ${reason}`),
    },
  });
  globalThis.Worker = Worker;
  const worker = FakeWorker.last;
  const post = (data: unknown) => worker.onmessage({ data });
  post({ type: "started", thread: THREAD });
  const reader = new TileReader(view);
  const poll = (exists = true) => {
    kernel.exists = exists;
    tile.poll(reader);
  };
  return { region, heard, worker, tile, poll, kernel, threads, post };
}

Deno.test("a status tile that hangs as it waits is ended, and has failed once its thread is gone", () => {
  const { worker, heard, poll } = running("status");
  for (let i = 0; i < LONG; i++) poll();
  assert.ok(!worker.ended);
  poll();
  assert.ok(worker.ended);
  poll(false);
  assert.deepEqual(heard, ["it hangs and is ended", "it hangs"]);
});

Deno.test("a status tile that gets on is left alone, however seldom", () => {
  const { region, heard, poll } = running("status");
  for (let i = 0; i < 10 * LONG; i++) {
    if (i % (LONG - 1) === 0) region.quiescent();
    poll();
  }
  assert.deepEqual(heard, []);
});

Deno.test("other tiles may sleep for as long as they like, but not stand still awake", () => {
  for (const [kind, polls] of [["netlink", LONG], ["net", QUICK]] as const) {
    const { region, heard, poll } = running(kind);
    for (let i = 0; i < 2 * LONG; i++) poll();
    assert.deepEqual(heard, [], kind);
    region.awake();
    for (let i = 0; i <= polls; i++) poll();
    assert.deepEqual(heard, [kind === "net" ? "stuck: it hangs" : "it hangs and is ended"], kind);
  }
});

Deno.test("a tile that waits for its turn is left alone", () => {
  const { post, heard, poll, worker } = started("net");
  post({ type: "ready" });
  for (let i = 0; i < 10 * LONG; i++) poll();
  assert.deepEqual(heard, []);
  assert.ok(!worker.ended);
});

Deno.test("a tile that hangs as it takes over has not started in time", () => {
  const { post, heard, poll: look, tile, worker } = started("net");
  post({ type: "ready" });
  for (let i = 0; i < LONG; i++) look();
  tile.takeOver();
  for (let i = 0; i < LONG; i++) look();
  assert.ok(!worker.ended);
  look();
  assert.ok(worker.ended);
  look(false);
  assert.deepEqual(heard.filter((line) => line !== "late"), [
    "it did not start in time and is ended",
    "it did not start in time",
  ]);
});

Deno.test("a start that takes processor time goes on for minutes, one that only waits does not", () => {
  const busy = started("net");
  for (let i = 0; i < 5 * LONG; i++) {
    busy.kernel.ticks++;
    busy.poll();
  }
  assert.deepEqual(busy.heard, ["late"]);
  const idle = started("net");
  for (let i = 0; i <= LONG; i++) idle.poll();
  assert.deepEqual(idle.heard, ["late", "it did not start in time and is ended"]);
  for (let i = 0; i < 10 * LONG; i++) {
    busy.kernel.ticks++;
    busy.poll();
  }
  assert.ok(busy.worker.ended, "but not for ever");
});

/** Messages that no tile posts, or not at this point, by what is said of them. */
const LIES: Record<string, readonly unknown[]> = {
  "posted a message of unknown type": [
    null,
    7,
    "x",
    [],
    {},
    { type: "toString" },
    { type: "__proto__" },
    { type: { toString: () => "log" } },
  ],
  "posted a malformed message of type log": [
    { type: "log", line: 5 },
    { type: "log" },
    { type: "log", line: "x".repeat(5000) },
    { type: "log", line: "x", more: 1 },
  ],
  "posted a malformed message of type running": [{ type: "running", confined: "seccomp" }],
  "posted a malformed message of type failed": [{ type: "failed", message: null }],
  "posted a message of type started out of turn": [
    { type: "started", thread: 1 },
    { type: "started", thread: THREAD },
  ],
  "posted a message of type ready out of turn": [{ type: "ready" }],
  "claimed to have been stopped": [{ type: "stopped" }],
  "posted a request, but is not the status tile": [
    { type: "ask", number: 1, kind: 1, arguments: [] },
  ],
};

for (const [what, lies] of Object.entries(LIES)) {
  Deno.test(`a tile that ${what} is ended and named`, () => {
    for (const lie of lies) {
      // Only a net tile says that it is ready.
      const { post, worker, heard, poll } = started(what.includes(" ready ") ? "netlink" : "net");
      post(lie);
      assert.ok(worker.ended, JSON.stringify(lie));
      post({ type: "started", thread: 1 });
      post({ type: "log", line: "more" });
      poll(false);
      assert.deepEqual(heard, [`it ${what} and is ended`, `it ${what}`]);
    }
  });
}

Deno.test("a tile counts as confined when the kernel says so of its thread, not by its word", async () => {
  const statuses = [
    CONFINED.replace("Seccomp:\t2", "Seccomp:\t0"),
    CONFINED.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
    CONFINED.replace("CapEff:\t0", "CapEff:\t1000"),
    CONFINED.replace("CapPrm:\t0", "CapPrm:\t1fffeffffff"),
    "",
  ];
  for (const status of statuses) {
    const { post, kernel, worker, tile, poll } = started("net");
    kernel.status = status;
    post(RUNNING);
    assert.ok(worker.ended, status);
    poll(false);
    await assert.rejects(tile.running, /claimed to be confined, but is not/);
  }
  const { post, kernel, tile } = started("netlink");
  kernel.status = CONFINED.replace("CapEff:\t0", "CapEff:\t1000").replace(
    "CapPrm:\t0",
    "CapPrm:\t1000",
  );
  post(RUNNING);
  assert.deepEqual(await tile.running, RUNNING);
});

Deno.test("a tile is not taken at its word for a thread that is main's, another's or nobody's", () => {
  const { threads, kernel } = started("net");
  assert.equal(threads.take(THREAD), false, "it is that tile's");
  assert.equal(threads.take(THREAD + 1), false, "there is none");
  assert.equal(threads.take(Deno.pid), false);
  assert.ok(threads.isRunning(THREAD));
  kernel.start++;
  assert.ok(!threads.isRunning(THREAD), "it is another thread of that number");
  assert.equal(threads.take(THREAD), true, "the number may come again");
});

Deno.test("a tile that says it has failed has done so when its thread is gone, not before", async () => {
  const { post, worker, tile, heard, poll, kernel } = started("net");
  post({ type: "failed", message: "lied" });
  assert.ok(!tile.over);
  poll();
  assert.ok(worker.ended, "it is still there half a second later");
  assert.deepEqual(heard, []);
  kernel.exists = false;
  await assert.rejects(tile.running, /lied/);
  assert.deepEqual(heard, ["lied"]);
  const lying = running("net");
  lying.post({ type: "failed", message: "lied" });
  for (let i = 0; i < QUICK; i++) lying.poll();
  assert.deepEqual(lying.heard, ["stuck: it hangs and cannot be ended"], "the process has to end");
  lying.kernel.exists = false;
});

Deno.test("a net tile speaks for the apps inside it, and no other tile for any", async () => {
  const failing = (kind: WorkerKind) => {
    const { post, tile, kernel } = started(kind);
    kernel.exists = false;
    post({ type: "failed", message: "lied", app: "echo" });
    return tile.running;
  };
  await assert.rejects(failing("net"), { app: "echo", message: "lied" });
  await assert.rejects(failing("netlink"), (error: Error) => {
    assert.ok(!("app" in error));
    assert.equal(error.message, "netlink: lied");
    return true;
  });
});

Deno.test("a tile that was told to stop has ended when its thread is gone", async () => {
  const { post, tile, kernel } = running("net");
  tile.expectEnd();
  post({ type: "stopped" });
  assert.ok(!tile.over);
  kernel.exists = false;
  assert.equal(await tile.ended, true);
});

Deno.test("main writes 50 lines a second of a tile's log, and ends one that floods it", () => {
  const { post, heard, worker } = running("net");
  for (let i = 0; i < 1900; i++) post({ type: "log", line: `${i}` });
  assert.equal(heard.length, 51);
  assert.match(heard[50], /the rest is left out/);
  assert.ok(!worker.ended);
  for (let i = 0; i < 200; i++) post({ type: "log", line: `${i}` });
  assert.match(heard[51], /^stuck: it .*more than 2000 messages in a second/);
});

Deno.test("a status tile that nobody asks shows that it gets on", async () => {
  const [view, netbase] = [heapView(TILE_REGION_BYTES), heapView(NETBASE_BYTES)];
  new NetbaseWriter(netbase, { readers: [], seed: 1 });
  const tile = await create({
    setup: {
      ...{ netbase, control: heapView(CONTROL_BYTES), snapshot: heapView(SNAPSHOT_BYTES) },
      ...{ refusedCalls: heapView(0), refusedCallsOfApps: heapView(0) },
      health: heapView(HEALTH_BYTES),
      build: { version: "0", commit: "" },
      ...{ captures: [], nets: [], tiles: [], metrics: [], interfaces: [], listen: [] },
      listeners: { control: null, metrics: null },
    },
    region: new TileRegion(view),
    libraries: { tile: null! },
    log() {},
    ask() {},
  });
  tile.serve();
  const reader = new TileReader(view);
  const before = reader.burst;
  const deadline = performance.now() + LONG * 500;
  while (reader.burst === before) {
    assert.ok(performance.now() < deadline, "it shows nothing");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});
