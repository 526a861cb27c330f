// SPDX-License-Identifier: Apache-2.0
/** Asking an appliance that is slow, and one that hangs. */

import assert from "node:assert/strict";
import { linesOf, UserError } from "../../../cli/command.ts";
import { askForChange, Control } from "../../../cli/control.ts";
import { openHost } from "../../../ffi/host.ts";
import { heapView } from "../../../ffi/region.ts";
import { openTile } from "../../../ffi/tile.ts";
import { Changes } from "../../../master/master.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import {
  Ask,
  CONTROL_BYTES,
  type ControlRequest,
  SNAPSHOT_BYTES,
} from "../../../tiles/runtime/control.ts";
import { HEALTH_BYTES } from "../../../tiles/runtime/health.ts";
import { type MainMessage, TILE_REGION_BYTES, TileRegion } from "../../../tiles/runtime/tile.ts";
import { create } from "../../../tiles/status/tile.ts";

const AUDIT = { do: "audit" };
/** In place of an answer: the end of the conversation. */
const HANG_UP = "hang up";

/** Listens as an appliance does, and answers each line with what `answer` makes of it, if anything. */
async function listen(
  answer: (request: string) => Promise<string> | string | null,
  use: (path: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/control.sock`;
  const open = new Set<Deno.UnixConn>();
  const converse = async (connection: Deno.UnixConn) => {
    open.add(connection);
    for await (const line of linesOf(connection.readable)) {
      const said = await answer(line);
      if (said === HANG_UP) break;
      if (said !== null) await connection.write(new TextEncoder().encode(`${said}\n`));
    }
  };
  const listener = Deno.listen({ transport: "unix", path });
  const served = (async () => {
    for await (const connection of listener) converse(connection).catch(() => {});
  })();
  try {
    await use(path);
  } finally {
    listener.close();
    await served;
    for (const connection of open) {
      try {
        connection.close();
      } catch { /* The other side was first. */ }
    }
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test({
  name: "an appliance that hangs is named so, whatever was asked, and soon",
  // The conversation that was given up stays open until the process ends.
  ...{ sanitizeOps: false, sanitizeResources: false },
  fn: () =>
    listen(() => null, async (path) => {
      const hangs = {
        message: `the tegula at ${path} does not answer: it hangs, or was stopped (SIGSTOP); ` +
          "continue it (SIGCONT) or restart it",
        status: 1,
      };
      const connect = () => Control.connect(path, { patienceMillis: 50 });
      await assert.rejects(async () => await (await connect()).one(AUDIT), hangs);
      await assert.rejects(async () => await (await connect()).list({ do: "show" }).next(), hangs);
      // More than fits into the socket's buffers.
      const requests = Array.from({ length: 100_000 }, () => ({ do: "route", destination: "::" }));
      await assert.rejects(async () => await (await connect()).each(requests), hangs);
    }),
});

Deno.test({
  name: "an appliance that takes its time is waited for, as long as it answers others",
  ...{ sanitizeOps: false, sanitizeResources: false },
  async fn() {
    let asked = 0;
    const enough = Promise.withResolvers<void>();
    const answer = async (line: string) => {
      if (line.includes("audit")) await enough.promise;
      else if (++asked === 3) enough.resolve();
      return JSON.stringify({ said: line });
    };
    await listen(answer, async (path) => {
      const control = await Control.connect(path, { patienceMillis: 1000 });
      assert.deepEqual(await control.one(AUDIT), { said: JSON.stringify(AUDIT) });
      assert.ok(asked >= 3, `asked ${asked} times`);
    });
  },
});

/** A reload of one that answers each request as `answers` say, and the requests that came. */
async function reloaded(answers: readonly (string | object)[]) {
  const requests: string[] = [];
  let outcome: unknown;
  await listen((line) => {
    requests.push(line);
    const answer = answers[requests.length - 1];
    return typeof answer === "string" ? answer : JSON.stringify(answer);
  }, async (path) => {
    outcome = await askForChange("reload", path).catch(({ message, status }) => ({
      message: message.replace(path, "SOCKET"),
      status,
    }));
  });
  return { requests, outcome };
}

Deno.test("whoever is replaced while it is asked for a reload leaves the answer to its successor", async () => {
  const { requests, outcome } = await reloaded([HANG_UP, HANG_UP, { ok: true, line: "reloaded" }]);
  assert.equal(outcome, "reloaded");
  assert.equal(requests.length, 3);
  assert.match(requests[0], /^\{"do":"reload","number":[1-9]\d*\}$/);
  assert.equal(new Set(requests).size, 1, "it is one reload");
});

Deno.test("a reload that is not done ends with what the answer says, and one without an answer in the end", async () => {
  const refused = { message: "tegula.toml: provider: must be one of", status: 2 };
  const answer = { ok: false, line: refused.message, status: refused.status };
  assert.deepEqual((await reloaded([answer])).outcome, refused);
  assert.deepEqual((await reloaded([HANG_UP, answer])).outcome, refused);
  const { requests, outcome } = await reloaded(new Array(20).fill(HANG_UP));
  assert.deepEqual(outcome, {
    message: "the tegula at SOCKET closed the connection before the answer",
    status: 1,
  });
  assert.equal(requests.length, 8);
  const old = { error: '"do" takes status, counters' };
  assert.deepEqual((await reloaded([old])).outcome, { message: old.error, status: 1 });
});

/** A status tile on a listening socket, and how to say something to it. */
async function startStatus(fd: number, ask: (request: ControlRequest) => void) {
  const netbase = heapView(NETBASE_BYTES);
  new NetbaseWriter(netbase, { readers: [], seed: 1 });
  const told = Promise.withResolvers<(message: MainMessage) => void>();
  const tile = await create({
    setup: {
      ...{ netbase, control: heapView(CONTROL_BYTES), snapshot: heapView(SNAPSHOT_BYTES) },
      ...{ refusedCalls: heapView(0), refusedCallsOfApps: heapView(0) },
      health: heapView(HEALTH_BYTES),
      build: { version: "0", commit: "" },
      ...{ captures: [], nets: [], tiles: [], metrics: [], interfaces: [], listen: [] },
      listeners: { control: fd, metrics: null },
    },
    region: new TileRegion(heapView(TILE_REGION_BYTES)),
    libraries: { tile: openTile() },
    log() {},
    ask,
    onMessage: (listener) => told.resolve(listener),
  });
  return { post: await told.promise, served: tile.serve() };
}

Deno.test({
  name: "a reload that replaces the status tile is done once, and its outcome comes by the new one",
  // A status tile looks after itself until its thread ends.
  ...{ sanitizeOps: false, sanitizeResources: false },
  async fn() {
    const folder = await Deno.makeTempDir();
    const path = `${folder}/control.sock`;
    const fd = openHost().listenUnix(path, 0o600);
    const changes = new Changes();
    const asked: ControlRequest[] = [];
    let reloads = 0;
    const start = () =>
      startStatus(fd, (request) => {
        if (request.kind !== Ask.reload) return;
        asked.push(request);
        const { number } = request;
        changes.ask(number, async () => {
          if (++reloads > 1) throw new UserError("tegula.toml: what is that", 2);
          const before = current;
          current = await start();
          before.post({ type: "leave" });
          await before.served;
          return "reloaded";
        }).then((outcome) => current.post({ type: "outcome", number, outcome }));
      });
    let current = await start();
    assert.equal(await askForChange("reload", path), "reloaded");
    assert.equal(asked.length, 2);
    assert.equal(new Set(asked.map(({ number }) => number)).size, 1);
    assert.equal(reloads, 1);
    await assert.rejects(askForChange("reload", path), {
      message: "tegula.toml: what is that",
      status: 2,
    });
    current.post({ type: "leave" });
    await current.served;
    await Deno.remove(folder, { recursive: true });
  },
});

Deno.test("changes are done one after the other, and each once however often it is asked for", async () => {
  const changes = new Changes();
  const going = Promise.withResolvers<string>();
  const done: number[] = [];
  const ask = (number: number) =>
    changes.ask(number, () => {
      done.push(number);
      return number === 1 ? going.promise : Promise.resolve("");
    });
  const outcomes = [1, 2, 1, 2].map(ask);
  await Promise.resolve();
  assert.deepEqual(done, [1]);
  going.resolve("one");
  assert.deepEqual(await Promise.all(outcomes), [
    { ok: true, line: "one" },
    { ok: true, line: "" },
    { ok: true, line: "one" },
    { ok: true, line: "" },
  ]);
  assert.deepEqual(done, [1, 2]);
});

Deno.test("a change that its predecessor program began is not done again, and holds up others", async () => {
  const changes = new Changes();
  const upgraded = Promise.withResolvers<string>();
  changes.add(7, upgraded.promise);
  let done = 0;
  const work = () => Promise.resolve(`${++done}`);
  const outcomes = [changes.ask(7, work), changes.ask(8, work)];
  upgraded.resolve("upgraded");
  assert.deepEqual((await Promise.all(outcomes)).map(({ line }) => line), ["upgraded", "1"]);
});

Deno.test("of changes that wait there are so many at most", async () => {
  const changes = new Changes();
  const going = Promise.withResolvers<string>();
  const outcomes = Array.from({ length: 20 }, (_, i) => changes.ask(i + 1, () => going.promise));
  assert.equal((await outcomes[19]).ok, false);
  going.resolve("");
  const all = await Promise.all(outcomes);
  assert.equal(all.filter(({ ok }) => ok).length, 16);
});
