// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView, u32 } from "../../../ffi/region.ts";
import { Address } from "../../../tiles/app/address.ts";
import type {
  Answers,
  App,
  AppContext,
  MetricLabels,
  Request,
} from "../../../tiles/app/contract.ts";
import { AppHarness } from "../../../tiles/app/harness.ts";
import { COLLECT_BYTES, makeService, type Service } from "../../../tiles/app/host.ts";
import { METRICS_BYTES, MetricsWriter, readMetrics } from "../../../tiles/app/regions.ts";
import fc from "../property.ts";

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** Echoes, but throws at payloads that begin with `!`. */
const touchy = {
  default: (): App => ({
    receive(requests, out) {
      while (requests.next()) {
        if (requests.bytes[requests.offset] === 0x21) throw new Error("touched");
        const at = out.reserve(requests.size);
        out.copy(at);
        out.reply(at, requests.size);
      }
    },
  }),
};

Deno.test("a throw costs the datagram that it was thrown at, and no other", async () => {
  const payloads = fc.array(fc.constantFrom("!", "a", "b", "c"), { maxLength: 64 });
  await fc.assert(fc.asyncProperty(payloads, async (payloads) => {
    const harness = await AppHarness.start(touchy);
    const answers = harness.ask(...payloads.map((payload) => ({ payload })));
    assert.deepEqual(
      answers.map(({ payload }) => text(payload)),
      payloads.filter((payload) => payload !== "!"),
    );
    const thrown = payloads.length - answers.length;
    assert.equal(harness.counters.errors, thrown);
    assert.equal(harness.counters.requests, payloads.length);
    assert.equal(harness.logged.length, thrown === 0 ? 0 : 1, "logged once per kind");
  }));
});

Deno.test("an app that throws before it looks at a datagram is not asked for ever", async () => {
  const harness = await AppHarness.start({
    default: (): App => ({
      receive() {
        throw new Error("always");
      },
    }),
  });
  assert.deepEqual(harness.ask({ payload: "a" }, { payload: "b" }, { payload: "c" }), []);
  assert.equal(harness.counters.errors, 3);
});

Deno.test("errors of different kinds are each logged once, whatever words they use", async () => {
  const harness = await AppHarness.start({
    answer({ payload }: Request) {
      if (payload[0] === 0x61) throw new RangeError(`a ${Math.random()}`);
      throw new TypeError(`b ${Math.random()}`);
    },
  });
  for (let i = 0; i < 5; i++) harness.ask({ payload: "a" }, { payload: "b" });
  assert.equal(harness.counters.errors, 10);
  assert.equal(harness.logged.length, 2);
});

Deno.test("no lines that a stranger sends make errors of other kinds", async () => {
  const harness = await AppHarness.start({
    answer({ payload }: Request) {
      if (payload.length === 0) throw new RangeError("nothing");
      throw new Error(text(payload));
    },
  });
  for (let i = 0; i < 100; i++) harness.ask({ payload: `x\n    at ${i} (file:///a:${i}:1)` });
  assert.equal(harness.logged.length, 1);
  harness.ask({ payload: "" });
  assert.match(harness.logged[1], /RangeError: nothing/);
});

Deno.test("whatever an app throws is counted, even what cannot be read", async () => {
  const fail = () => {
    throw new Error("not this either");
  };
  const all = [
    { toString: fail },
    Object.create(null),
    Object.defineProperty(new Error(), "stack", { get: fail }),
    new Proxy({}, { getPrototypeOf: fail }),
    Symbol("x"),
    null,
  ];
  const harness = await AppHarness.start({
    answer({ payload: [which] }: Request) {
      throw all[which];
    },
  });
  all.forEach((_, which) => harness.ask({ payload: Uint8Array.of(which) }));
  assert.equal(harness.counters.errors, all.length);
  assert.match(harness.logged[0], /said once: something that cannot be read$/);
});

Deno.test("what is thrown may have any length, and what a stranger sent in it", async () => {
  const sent = "Requires read access to \"(os error 1): a '\n    at ".repeat(100_000);
  const harness = await AppHarness.start({
    answer() {
      throw new Error(sent);
    },
  });
  harness.ask({ payload: "" }, { payload: "" });
  assert.equal(harness.counters.errors, 2);
  assert.match(harness.logged[0], /said once: Error: Requires read .{4000,4100}…$/s);
});

Deno.test("an app that is async on the data path does not start", async () => {
  const receive = () => {};
  const plain = { answer: () => {}, tick: async () => {} };
  for (
    const [module, name] of [
      [{ default: () => ({ receive: async () => {} }) }, "receive"],
      [{ default: () => ({ receive, tick: async () => {} }) }, "tick"],
      [{ answer: async () => {} }, "answer"],
      [plain, "tick"],
    ] as const
  ) {
    await assert.rejects(AppHarness.start(module), {
      name: "TypeError",
      message: `its ${name}() must not be async: a promise never settles there`,
    });
  }
});

Deno.test("a handler that gives a promise is named once, and counted each time that it is waited for", async () => {
  const later = async (out?: Answers) => {
    await Promise.resolve();
    out?.reflect();
  };
  const takesAll: App["receive"] = (requests) => {
    while (requests.next());
  };
  for (
    const [module, name] of [
      [{ default: () => ({ receive: (_: unknown, out: Answers) => later(out) }) }, "receive"],
      [{ default: () => ({ receive: takesAll, tick: () => later() }) }, "tick"],
      [{ answer: () => later() }, "answer"],
    ] as const
  ) {
    const harness = await AppHarness.start(module);
    assert.deepEqual(harness.ask({ payload: "a" }, { payload: "b" }), []);
    if (name === "tick") assert.deepEqual([...harness.tick(), ...harness.tick()], []);
    assert.equal(harness.counters.errors, 2);
    assert.deepEqual(harness.logged, [
      `its ${name}() returned a promise: it must not be async, because promises never settle there`,
    ]);
  }
});

Deno.test("the short form is one function from a request to its answer", async () => {
  const harness = await AppHarness.start({
    answer: ({ payload, address, port, destinationPort, receivedAt }: Request) =>
      `${text(payload)} ${address}:${port} ${destinationPort} ${receivedAt}`,
  }, { ports: [9] });
  const [answer] = harness.ask({ payload: "hi", sourcePort: 1234, receivedAt: 2_500_000 });
  assert.equal(text(answer.payload), "hi 198.18.0.2:1234 9 2.5");
  assert.deepEqual(
    [answer.address, answer.port, answer.sourceAddress, answer.sourcePort],
    ["198.18.0.2", 1234, "198.18.0.1", 9],
  );
});

Deno.test("the short form has its payloads and answers collected before they pile up", async () => {
  const setup = { name: "", module: "", ports: [7], served: [7], options: {} };
  let collected = 0;
  const service = await makeService({ answer: ({ payload }: Request) => payload }, {
    ...setup,
    metrics: heapView(METRICS_BYTES),
  }, { counters: new Float64Array(99), log() {}, collect: () => collected++ });
  const size = 60_000;
  let left = 10_000;
  const [sourceAddress, destinationAddress] = ["198.18.0.2", "198.18.0.1"].map((text) =>
    Address.parse(text)!
  );
  const requests = {
    ...{ sourceAddress, destinationAddress, sourcePort: 4000, destinationPort: 7 },
    ...{ bytes: new Uint8Array(size), offset: 0, size, ttl: 64, dscp: 0, ecn: 0, receivedAt: 0 },
    next: () => left-- > 0,
    left: 0,
  };
  const out = { bytes: new Uint8Array(size), reserve: () => 0, reply() {} };
  service.receive(requests, out as unknown as Answers);
  assert.equal(left, -1);
  const each = Math.ceil(COLLECT_BYTES / (2 * size));
  assert.equal(collected, Math.ceil(10_000 / each) - 1);
});

Deno.test("the short form may be an object that remembers", async () => {
  class Counting {
    #asked = 0;
    answer(): string {
      return `${++this.#asked}`;
    }
  }
  const harness = await AppHarness.start({ default: () => new Counting() });
  const answers = harness.ask({ payload: "" }, { payload: "" });
  assert.deepEqual(answers.map(({ payload }) => text(payload)), ["1", "2"], harness.logged[0]);
});

Deno.test("the short form may tick too, at its own pace", async () => {
  const asked: Request[] = [];
  const module = {
    tickMillis: 20_000,
    answer(request: Request) {
      asked.push(request);
    },
    tick(out: Answers) {
      for (const { address, port } of asked) out.send({ address, port }, "tick");
    },
  };
  const harness = await AppHarness.start(module);
  assert.deepEqual(harness.ask({ payload: "", sourcePort: 1234 }), []);
  const [{ address, port, sourcePort, payload }] = harness.tick();
  assert.deepEqual([address, port, sourcePort, text(payload)], ["198.18.0.2", 1234, 7, "tick"]);
  const parts = { counters: new Float64Array(99), log() {} };
  const setup = { name: "", module: "", ports: [], served: [], options: {} };
  const metrics = heapView(METRICS_BYTES);
  const due = (await makeService(module, { ...setup, metrics }, parts)).nextDue(performance.now());
  assert.ok(due > 10_000 && due <= 20_000, `${due} ms`);
});

Deno.test("the short form reads header fields and our address, and sets fields of answers and of what it sends", async () => {
  const app = {
    answer({ address, destinationAddress, ttl, dscp, ecn }: Request, out: Answers) {
      out.send({ address, port: 9, ttl: 1, sourceAddress: destinationAddress }, "other");
      out.send({ address, port: 9, sourcePort: 8 }, Uint8Array.of(1));
      return { payload: `${destinationAddress} ${ttl} ${dscp} ${ecn}`, ttl: 3, dscp: 46, ecn: 1 };
    },
  };
  const harness = await AppHarness.start(app, { ports: [7, 8] });
  const fields = { ttl: 17, dscp: 10, ecn: 2 };
  const sent = harness.ask({ payload: "", port: 8, address: "198.18.0.5", ...fields });
  assert.deepEqual(sent.map((each) => [text(each.payload), each.ttl, each.dscp, each.ecn]), [
    ["other", 1, 0, 0],
    ["\x01", 64, 0, 0],
    ["198.18.0.5 17 10 2", 3, 46, 1],
  ]);
  assert.deepEqual(sent.map((each) => `${each.sourceAddress}:${each.sourcePort}`), [
    ...["198.18.0.5:7", "0.0.0.0:8", "198.18.0.5:8"],
  ]);
  assert.equal(harness.counters.errors, 0);
});

Deno.test("the short form may answer with bytes or with nothing, and never a served port", async () => {
  const harness = await AppHarness.start({
    default: async (_context: AppContext) => {
      await Promise.resolve();
      return {
        answer: ({ payload }: Request) => payload.length === 0 ? undefined : payload.reverse(),
      };
    },
  }, { ports: [7], served: [7, 53] });
  const answers = harness.ask(
    { payload: "" },
    { payload: "abc" },
    { payload: "abc", sourcePort: 53 },
  );
  assert.deepEqual(answers.map(({ payload }) => text(payload)), ["cba"]);
});

Deno.test("the short form answers nothing, and says why, where it gives what is no answer", async () => {
  for (const said of [42, { payload: 1 }, { text: "x" }, [1, 2]]) {
    const harness = await AppHarness.start({ answer: () => said });
    assert.deepEqual(harness.ask({ payload: "a" }, { payload: "b" }), []);
    assert.equal(harness.counters.errors, 2);
    assert.match(
      harness.logged.join(),
      /answer\(\) gave (number|object);/,
    );
  }
});

Deno.test("an app that says a word for each datagram fills no log", async () => {
  const module = { default: ({ log }: AppContext) => ({ answer: () => void log("a word") }) };
  // However long it takes, it all is said in one second: the clock stands still.
  const harness = await AppHarness.start(module, { startsAt: 5000 });
  for (let i = 0; i < 20; i++) harness.ask(...Array(50).fill({ payload: "" }));
  assert.equal(harness.logged.length, 51);
  assert.match(harness.logged[50], /more than 50 lines in a second/);
});

Deno.test("a module without an app is refused with what it lacks", async () => {
  await assert.rejects(AppHarness.start({}), /exports neither a function as its default nor/);
  await assert.rejects(AppHarness.start({ default: 5 }), /exports neither/);
  await assert.rejects(
    AppHarness.start({ default: () => ({}) }),
    /neither receive\(\) nor answer\(\)/,
  );
  await assert.rejects(AppHarness.start({ default: () => undefined }), /neither receive\(\) nor/);
});

Deno.test("an app whose tickMillis is no number does not start", async () => {
  for (const tickMillis of [NaN, "x", null]) {
    const app = { tickMillis, receive() {}, tick() {} };
    await assert.rejects(AppHarness.start({ default: () => app }), /tickMillis must be a number/);
  }
});

Deno.test("a timer of less than a millisecond is refused by a sentence", async () => {
  const app = { receive() {}, tick() {} };
  for (const tickMillis of [0.5, 0, -1]) {
    const default_ = () => ({ ...app, tickMillis });
    const message = `its tickMillis is ${tickMillis} ms: the shortest is 1 ms`;
    await assert.rejects(AppHarness.start({ default: default_ }), { name: "RangeError", message });
  }
  const every = (millis: number, handler: () => unknown = () => {}) => ({
    default: (context: AppContext) => {
      context.every(millis, handler as () => void);
      return app;
    },
  });
  const short = /the interval of every\(\) is 0\.9 ms: the shortest is 1 ms/;
  await assert.rejects(AppHarness.start(every(0.9)), short);
  await assert.rejects(AppHarness.start(every(5, async () => {})), /every\(\) must not be async/);
  const nothing = every(5, null as unknown as () => void);
  await assert.rejects(AppHarness.start(nothing), /the handler of every\(\) is not a function/);
  await AppHarness.start(every(1));
});

Deno.test("timers run at their own paces, in the order in which they are due, until they are ended", async () => {
  const calls: [string, number][] = [];
  const startsAt = 1_000_000;
  const module = {
    default({ every }: AppContext): App {
      const note = (name: string) => (_: Answers, now: number) =>
        calls.push([name, now / 1e6 - startsAt]);
      const end = every(30, () => end());
      every(20, note("fast"));
      return {
        tickMillis: 50,
        tick: note("tick"),
        receive(requests) {
          while (requests.next()) {
            every(7, note(`asked at ${requests.receivedAt / 1e6 - startsAt}`));
          }
        },
      };
    },
  };
  const harness = await AppHarness.start(module, { startsAt });
  harness.advance(95);
  assert.deepEqual(calls.splice(0), [
    ...[["fast", 20], ["fast", 40], ["tick", 50], ["fast", 60], ["fast", 80]],
  ]);
  harness.ask({ payload: "" });
  harness.advance(10);
  assert.deepEqual(calls.splice(0), [["fast", 100], ["tick", 100], ["asked at 95", 102]]);
  assert.equal(harness.now, (startsAt + 105) * 1e6);
  assert.equal(harness.counters.errors, 0, harness.logged[0]);
});

Deno.test("a timer that is late is called once, and goes on from there", async () => {
  const calls: number[] = [];
  const clock = { now: 0 };
  const app = (context: AppContext) => {
    context.every(10, () => calls.push(clock.now));
    return { receive() {} };
  };
  const setup = { name: "", module: "", ports: [], served: [], options: {} };
  const service = await makeService({ default: app }, {
    ...setup,
    metrics: heapView(METRICS_BYTES),
  }, { counters: new Float64Array(99), log() {}, now: () => clock.now });
  for (const now of [9, 10, 19, 55, 56, 66, 80]) {
    clock.now = now;
    service.clock(now, null as unknown as Answers);
  }
  assert.deepEqual(calls, [10, 55, 66, 80]);
});

Deno.test("a service has the name of the handler that runs", async () => {
  const seen: string[] = [];
  const see = () => void seen.push(service.handler);
  const app = ({ every }: AppContext) => {
    every(10, see);
    return { answer() {}, tick: see, tickMillis: 20, drain: see };
  };
  const setup = { name: "", ports: [], served: [], options: {}, metrics: heapView(METRICS_BYTES) };
  const host = { counters: new Float64Array(99), log() {}, now: () => 0 };
  const service: Service = await makeService({ default: app }, setup, host);
  see();
  const out = null as unknown as Answers;
  service.clock(20, out);
  service.drain(out);
  see();
  assert.deepEqual(seen, ["answer", "every", "tick", "drain", "answer"]);
});

Deno.test("a tick is called when it is due, and what it throws is counted", async () => {
  let ticks = 0;
  const harness = await AppHarness.start({
    default: (): App => ({
      tickMillis: 1e9,
      receive() {},
      tick(out) {
        if (++ticks === 2) throw new Error("second");
        const at = out.reserve(1);
        out.send({ address: Address.parse("198.18.0.9")!, port: 9 }, at, 1);
      },
    }),
  }, { sendTo: ["198.18.0.8/29"] });
  assert.equal(harness.tick()[0].address, "198.18.0.9");
  assert.deepEqual(harness.tick(), []);
  assert.equal(harness.counters.errors, 1);
});

Deno.test("metrics are read as they were written, and a successor carries on with them", () => {
  const names = fc.uniqueArray(fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 }), {
    maxLength: 50,
  });
  fc.assert(fc.property(names, (names) => {
    const view = heapView(METRICS_BYTES);
    const first = new MetricsWriter(view);
    names.forEach((name, i) => first.metric(name, i % 2 ? "gauge" : "counter")!.value = i);
    const second = new MetricsWriter(view);
    names.forEach((name, i) => second.metric(name, i % 2 ? "gauge" : "counter")!.value++);
    assert.deepEqual(
      readMetrics(view),
      names.map((name, i) => ({
        ...{ name, labels: {}, kind: i % 2 ? "gauge" : "counter", value: i + 1 },
      })),
    );
  }));
});

Deno.test("what a successor counts before its turn is added, and its gauges begin as it sets them", () => {
  const view = heapView(METRICS_BYTES);
  const old = new MetricsWriter(view);
  const early = new MetricsWriter(heapView(METRICS_BYTES));
  const [counted, set, added] = [
    early.metric("counted", "counter")!,
    early.metric("set twice", "gauge")!,
    early.metric("its own", "counter")!,
  ];
  early.histogram("took", [1, 2])!.observe(2);
  old.histogram("took", [1, 2])!.observe(0.5);
  old.metric("later", "counter")!.value = 5;
  old.metric("set twice", "gauge")!.value = 7;
  old.metric("counted", "counter")!.value = 3;
  counted.value++;
  set.value = 2;
  early.move(view);
  counted.value++;
  added.value++;
  set.value += 2;
  early.metric("later", "counter")!.value++;
  early.histogram("took", [1, 2])!.observe(3);
  const values = readMetrics(view).map((each) =>
    each.kind === "histogram" ? [each.name, each.sum, ...each.counts] : [each.name, each.value]
  );
  assert.deepEqual(values, [
    ["took", 5.5, 1, 1, 1],
    ["later", 6],
    ["set twice", 4],
    ["counted", 5],
    ["its own", 1],
  ]);
});

Deno.test("labels tell metrics of one name apart, in whatever order they are given", () => {
  const view = heapView(METRICS_BYTES);
  const writer = new MetricsWriter(view);
  writer.metric("asked", "counter", { type: "A", class: "IN" })!.value = 1;
  writer.metric("asked", "counter", { class: "IN", type: "A" })!.value++;
  writer.metric("asked", "counter", { class: "IN", type: 'A"\n,x="' })!.value = 5;
  writer.metric("asked", "counter")!.value = 7;
  assert.deepEqual(readMetrics(view), [
    { name: "asked", labels: { class: "IN", type: "A" }, kind: "counter", value: 2 },
    { name: "asked", labels: { class: "IN", type: 'A"\n,x="' }, kind: "counter", value: 5 },
    { name: "asked", labels: {}, kind: "counter", value: 7 },
  ]);
  for (const label of ["app", "tile", "name", "le", "", "1st", "a-b", "__proto__", "größe"]) {
    const labels = Object.fromEntries([[label, "x"]]);
    assert.throws(() => writer.metric("asked", "gauge", labels), TypeError, label);
  }
  for (const value of [200, null, undefined]) {
    const labels = { status: value } as unknown as MetricLabels;
    assert.throws(() => writer.metric("asked", "gauge", labels), /must be texts: asked, status/);
  }
  assert.equal(writer.metric("asked", "gauge", { a: "\0b" }), null);
  assert.equal(writer.metric("asked", "gauge", { a: "x".repeat(105) }), null);
});

Deno.test("a histogram counts what is up to each bound, and what is above the last", () => {
  const view = heapView(METRICS_BYTES);
  const writer = new MetricsWriter(view);
  const bounds = Array.from({ length: 32 }, (_, i) => i);
  writer.histogram("wide", bounds, { a: "b" })!.observe(40);
  const histogram = writer.histogram("size", [1, 10])!;
  for (const value of [-1, 1, 1.5, 10, 10.5, 1000]) histogram.observe(value);
  assert.equal(writer.histogram("size", [1, 10]), histogram);
  const [wide, size] = readMetrics(view);
  assert.deepEqual(size, {
    ...{ name: "size", labels: {}, kind: "histogram", bounds: [1, 10], counts: [2, 2, 2] },
    sum: 1022,
  });
  assert.ok(wide.kind === "histogram");
  assert.deepEqual([wide.bounds, wide.counts], [bounds, [...bounds.map(() => 0), 1]]);
  // With other bounds it is another one; readers are shown the newest.
  writer.histogram("size", [5])!.observe(1);
  const [, newest, ...others] = readMetrics(view);
  assert.deepEqual([newest.kind === "histogram" && newest.counts, others], [[1, 0], []]);
  for (const bad of [[], [2, 1], [1, 1], [NaN], Array.from({ length: 33 }, (_, i) => i)]) {
    assert.throws(() => writer.histogram("size", bad), RangeError);
  }
});

Deno.test("a region that an app has scribbled into is read within its bounds", () => {
  const view = heapView(METRICS_BYTES);
  new MetricsWriter(view).histogram("size", [1, 2, 3]);
  const words = u32(view);
  for (const word of [0, 1, 0xffff, 0x2ffff, 0xffff_ffff]) {
    words.fill(word);
    const metrics = readMetrics(view);
    assert.ok(metrics.length <= 4096);
    for (const metric of metrics) {
      assert.ok(metric.kind !== "histogram" || metric.bounds.length <= 32);
    }
  }
});

Deno.test("a metric whose name is too long, or one too many, is not to be had", () => {
  const writer = new MetricsWriter(heapView(METRICS_BYTES));
  assert.equal(writer.metric("x".repeat(113), "gauge"), null);
  for (let i = 0; i < 4096; i++) assert.ok(writer.metric(`${i}`, "gauge"));
  assert.equal(writer.metric("one more", "gauge"), null);
  assert.equal(writer.histogram("one more", [1]), null);
  assert.ok(writer.metric("17", "gauge"));
});
