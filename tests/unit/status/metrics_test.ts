// SPDX-License-Identifier: Apache-2.0
/** The metrics as a scraper gets them: HTTP, and Prometheus's text. */

import assert from "node:assert/strict";
import type { AddressInfo } from "node:net";
import { openHost } from "../../../ffi/host.ts";
import { heapView } from "../../../ffi/region.ts";
import { openTile } from "../../../ffi/tile.ts";
import { METRICS_BYTES, MetricsWriter } from "../../../tiles/app/regions.ts";
import { processValues } from "../../../master/proc.ts";
import { Traffic, TRAFFIC_BYTES } from "../../../tiles/net/traffic.ts";
import { COUNTERS, HISTOGRAMS, STATUS } from "../../../tiles/runtime/counters.ts";
import { TILE_COUNTERS } from "../../../tiles/runtime/tile.ts";
import { listenOn } from "../../../tiles/status/connections.ts";
import { readPage, serveMetrics } from "../../../tiles/status/metrics.ts";
import type { StatusView } from "../../../tiles/status/tile.ts";

/** What the master reports; tests change it. */
const health: { current: unknown; isFresh: boolean } = {
  current: {
    ...{ state: "ready", reasons: [], loaded: { hash: 0, at: 0, isGood: false } },
    processes: [
      { name: "master", pid: Deno.pid, restarts: 0, values: processValues(Deno.pid) },
      { name: "appliance", pid: 0, restarts: 0 },
    ],
  },
  isFresh: true,
};

/** Serves metrics of an app tile of this name, with numbers of its own, for as long as `use` takes. */
async function serving(
  tile: string,
  own: Readonly<Record<string, number>>,
  use: (port: number, counters: Float64Array) => Promise<void>,
): Promise<void> {
  const view = heapView(METRICS_BYTES);
  const writer = new MetricsWriter(view);
  for (const [name, value] of Object.entries(own)) writer.metric(name, "gauge")!.value = value;
  const counters = new Float64Array(Object.keys(STATUS.help).length);
  const reader = { counters: new Float64Array(TILE_COUNTERS), life: 0 };
  const { at, sum, bounds } = HISTOGRAMS.latency;
  for (const [i, count] of [[0, 1], [2, 2], [bounds.length, 1]]) reader.counters[at + i] = count;
  reader.counters[sum] = 7.5;
  const traffic = new Traffic(heapView(TRAFFIC_BYTES));
  traffic.socket(0).set([3, 180, 2, 120, 0.25, 0, 1]);
  traffic.links[0] = 0.5;
  traffic.port(53).set([5, 500, 4, 4000, 1, 2]);
  traffic.port(7000).set([1, 10, 0, 0, 0, 0]);
  traffic.port(7001).set([1, 20, 0, 0, 0, 0]);
  const fd = openHost().listenTcp("127.0.0.1", 0);
  const listener = await listenOn(fd, openTile());
  const parts = {
    ...{ netbase: { syncState: 2 }, interfaces: ["eth0"], counters },
    control: { xdp: () => true, restarts: () => 0 },
    build: { version: "0.1.0", commit: "abc" },
    nets: [{ name: "net0", traffic, sockets: [{ interface: "eth0", queue: 3 }] }],
    listen: [{ port: 53, app: tile }, { port: 6000, last: 7001, app: tile }],
    tiles: Object.keys(COUNTERS).map((kind) => ({
      ...{ kind, name: kind === "app" ? tile : kind, reader },
      past: new Float64Array(TILE_COUNTERS),
      ...(kind === "app" && { slot: 0 }),
    })),
    health: { read: () => health.current, isFresh: () => health.isFresh },
    refusedCalls: () => [{ call: 329, count: 2 }],
    callName: () => "pkey_mprotect",
    custom: [{ app: tile, tile, view }],
    page: readPage(),
  };
  const served = serveMetrics(listener, parts as unknown as StatusView);
  await use((listener.address as AddressInfo).port, counters);
  listener.close();
  await served;
}

/** Says something in pieces, and returns all that comes back. */
async function say(port: number, ...pieces: string[]): Promise<string> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  connection.setNoDelay();
  for (const piece of pieces) await connection.write(new TextEncoder().encode(piece));
  const bytes: number[] = [];
  const buffer = new Uint8Array(1 << 16);
  for (let count; (count = await connection.read(buffer)) !== null;) {
    bytes.push(...buffer.subarray(0, count));
  }
  return new TextDecoder().decode(Uint8Array.from(bytes));
}

/** Label sets by the rules of the text format, undone. */
function labelsOf(line: string): Record<string, string> {
  const [, inside] = /^\w+\{((?:\w+="(?:[^"\\]|\\[\\"n])*",?)*)\} \S+$/.exec(line) ?? [];
  assert.ok(inside !== undefined, `no sample with labels: ${line}`);
  const unquote = (text: string) =>
    text.replace(/\\(.)/g, (_, letter) => letter === "n" ? "\n" : letter);
  return Object.fromEntries(
    [...inside.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) =>
      [name, unquote(value)] as const
    ),
  );
}

Deno.test("labels tell any name as it is, and cannot be taken for more than a label", async () => {
  const tile = 'a "quoted" \\ name\nwith two lines';
  const names = ['x"} 7\nforged{y="', "\\", '\\"', "\n", 'a",tile="b', "größe"];
  const own = Object.fromEntries(names.map((name, i) => [name, i]));
  await serving(tile, own, async (port) => {
    const answer = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    assert.ok(answer.endsWith("\n"));
    const lines = answer.trimEnd().split("\n").filter((line) => !line.startsWith("#"));
    const shown = lines.filter((line) => line.startsWith("tegula_app_custom{"));
    assert.deepEqual(shown.map(labelsOf), names.map((name) => ({ app: tile, tile, name })));
    assert.deepEqual(shown.map((line) => Number(line.split(" ").at(-1))), names.map((_, i) => i));
    for (const line of lines) assert.match(line, /^(tegula|process)_\w+(\{.*\})? -?[0-9.e+]+$/);
  });
});

Deno.test("Prometheus's own checker finds nothing to say about the metrics", async () => {
  await serving("dns.1", { rate: 1 }, async (port) => {
    const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
    const checker = new Deno.Command("promtool", {
      args: ["check", "metrics"],
      ...{ stdin: "piped", stdout: "piped", stderr: "piped" },
    }).spawn();
    await answer.body!.pipeTo(checker.stdin);
    const { code, stdout, stderr } = await checker.output();
    const said = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("");
    assert.deepEqual({ code, said }, { code: 0, said: "" });
  });
});

Deno.test("a drop is a sample of one metric, by tile, direction and reason", async () => {
  await serving("dns.1", {}, async (port) => {
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    const drops = text.split("\n").filter((line) => line.startsWith("tegula_drops_total{"));
    const counters = Object.entries(COUNTERS).flatMap(([kind, { help }]) =>
      Object.keys(help).filter((name) => /(rx|tx)_drop_/.test(name)).map((name) => ({
        ...(kind === "app" && { app: "dns" }),
        tile: kind === "app" ? "dns.1" : kind,
        direction: /(rx|tx)_drop/.exec(name)![1],
        reason: name.split("_drop_")[1],
      }))
    );
    assert.deepEqual(drops.map(labelsOf), counters);
    assert.equal(new Set(drops).size, drops.length);
  });
});

/** The samples of a metric, by their labels as text. */
async function samplesOf(port: number, name: string): Promise<Record<string, number>> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return Object.fromEntries(
    text.split("\n").filter((line) => line.startsWith(`${name}{`)).map((line) => {
      const [, labels, value] = /^\w+\{(.*)\} (\S+)$/.exec(line)!;
      return [labels, Number(value)] as const;
    }),
  );
}

Deno.test("traffic is told by interface, by port, and by ring and link", async () => {
  await serving("dns.1", {}, async (port) => {
    assert.deepEqual(await samplesOf(port, "tegula_interface_bytes_total"), {
      'interface="eth0",direction="rx"': 180,
      'interface="eth0",direction="tx"': 120,
    });
    assert.deepEqual(await samplesOf(port, "tegula_ring_fill_ratio"), {
      'interface="eth0",queue="3",ring="rx"': 0.25,
      'interface="eth0",queue="3",ring="tx"': 0,
      'interface="eth0",queue="3",ring="fill"': 1,
    });
    assert.deepEqual(await samplesOf(port, "tegula_link_fill_ratio"), {
      'app="dns",tile="dns.1",net="net0"': 0.5,
    });
    const [packets, drops] = await Promise.all(
      ["packets", "drops"].map((what) => samplesOf(port, `tegula_port_${what}_total`)),
    );
    assert.equal(packets['app="dns",port="53",direction="rx"'], 5);
    assert.equal(packets['app="dns",port="53",direction="tx"'], 4);
    assert.equal(drops['app="dns",port="53",direction="tx"'], 2);
    // 1,003 ports are more than have samples of their own.
    assert.equal(Object.keys(packets).length, 2 * 1001);
    assert.equal(packets['app="dns",port="other",direction="rx"'], 2);
  });
});

Deno.test("a histogram is told by cumulative buckets, their sum and their count", async () => {
  await serving("dns.1", {}, async (port) => {
    const buckets = Object.entries(await samplesOf(port, "tegula_latency_seconds_bucket"));
    assert.equal(buckets.length, 42);
    assert.deepEqual(buckets[0], ['tile="net",le="0.000001024"', 1]);
    assert.deepEqual(buckets[2], ['tile="net",le="0.000002048"', 3]);
    assert.deepEqual(buckets.at(-1), ['tile="net",le="+Inf"', 4]);
    assert.deepEqual(await samplesOf(port, "tegula_latency_seconds_count"), { 'tile="net"': 4 });
    assert.deepEqual(await samplesOf(port, "tegula_latency_seconds_sum"), { 'tile="net"': 7.5 });
  });
});

Deno.test("probes say whether it lives and is ready, and what is wrong", async () => {
  const probe = async (port: number, path: string) => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`);
    return `${answer.status} ${(await answer.text()).trimEnd()}`;
  };
  const reasons = {
    stuck: { reason: "no_progress", about: "dns", text: "dns makes no progress" },
    lost: { reason: "af_xdp_lost", about: "eth0", text: "AF_XDP is lost on eth0" },
  };
  const cases: [current: unknown, live: string, ready: string][] = [
    [null, "503 the main process makes no progress", "503 the main process makes no progress"],
    [{ state: "ready", reasons: [] }, "200 live", "200 ready"],
    [{ state: "starting", reasons: [] }, "200 live", "503 starting"],
    [{ state: "draining", reasons: [] }, "200 live", "503 draining"],
    [
      { state: "draining", reasons: [reasons.lost] },
      "200 live",
      "503 draining\nAF_XDP is lost on eth0",
    ],
    [
      { state: "unwell", reasons: [reasons.lost, reasons.stuck] },
      "503 dns makes no progress",
      "503 unwell\nAF_XDP is lost on eth0\ndns makes no progress",
    ],
  ];
  await serving("dns.1", {}, async (port) => {
    for (const [current, live, ready] of cases) {
      health.current = current;
      assert.equal(await probe(port, "/live"), live);
      assert.equal(await probe(port, "/ready"), ready);
    }
    const unwell = (await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()).split("\n")
      .filter((line) => /^tegula_(unwell|ready).* 1$/.test(line));
    assert.deepEqual(unwell, [
      'tegula_unwell{reason="no_progress"} 1',
      'tegula_unwell{reason="af_xdp_lost"} 1',
    ]);
    Object.assign(health, { current: { state: "ready", reasons: [] }, isFresh: false });
    for (const path of ["/live", "/ready"]) {
      assert.equal(await probe(port, path), "503 the main process makes no progress");
    }
    health.isFresh = true;
    assert.match(await say(port, "HEAD /ready HTTP/1.1\r\n\r\n"), /^HTTP\/1\.1 200 OK\r\n/);
  });
});

Deno.test("HTTP is answered as far as a scraper needs it, and then closed", async () => {
  await serving("echo", {}, async (port, counters) => {
    const whole = await say(port, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    const [head, body] = whole.split("\r\n\r\n");
    assert.match(head, /^HTTP\/1\.1 200 OK\r\n/);
    assert.equal(Number(/^content-length: (\d+)$/m.exec(head)![1]), body.length);
    assert.match(head, /^connection: close$/m);
    const same = [
      ["GET /metr", "ics HTTP/1.1\r", "\nhost: x\r\n\r", "\n"],
      ["GET /metrics?name=x HTTP/1.0\n\n"],
      ["GET http://127.0.0.1/metrics HTTP/1.1\r\nhost: x\r\n\r\n"],
      // More than it reads is no reason for the answer not to arrive.
      ["GET /metrics HTTP/1.1\r\n\r\n", "x".repeat(30_000)],
    ];
    for (const pieces of same) {
      assert.match(
        await say(port, ...pieces),
        /^HTTP\/1\.1 200 .*\ntegula_sync_state\{state="synced"\} 1\n/s,
      );
    }
    assert.equal(counters[STATUS.index.scrapes], 1 + same.length);

    const begin = await say(port, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert.match(begin, /^HTTP\/1\.1 200 OK\r\n.*\r\n\r\n$/s);
    assert.match(begin, new RegExp(`^content-length: ${body.length}$`, "m"));
    const others: [request: string, status: number][] = [
      ["GET /page.ts HTTP/1.1\r\n\r\n", 404],
      ["GET //index.html HTTP/1.1\r\n\r\n", 404],
      ["GET /../page.js HTTP/1.1\r\n\r\n", 404],
      ["POST / HTTP/1.1\r\n\r\n", 405],
      ["GET /metricsx HTTP/1.1\r\n\r\n", 404],
      ["POST /metrics HTTP/1.1\r\n\r\n", 405],
      ["hello\r\n\r\n", 400],
      ["PRI * HTTP/2.0\r\n\r\n", 400],
      [`GET /metrics HTTP/1.1\r\nx: ${"y".repeat(20_000)}\r\n\r\n`, 431],
    ];
    for (const [request, status] of others) {
      assert.ok((await say(port, request)).startsWith(`HTTP/1.1 ${status} `), request.slice(0, 40));
    }
  });
});

Deno.test("the status page has nothing inline, nothing from elsewhere, and less than 80 kB", async () => {
  await serving("echo", {}, async (port) => {
    const root = `http://127.0.0.1:${port}/`;
    const answer = await fetch(root);
    assert.equal(answer.headers.get("content-type"), "text/html; charset=utf-8");
    assert.match(answer.headers.get("content-security-policy")!, /^default-src 'none'; /);
    assert.doesNotMatch(answer.headers.get("content-security-policy")!, /unsafe|\*|https?:/);
    const html = await answer.text();
    assert.doesNotMatch(html, /<style|<script(?![^>]* src=)| style=| on\w+=/);
    const whole = await say(port, "GET / HTTP/1.1\r\n\r\n");
    let bytes = Number(/^content-length: (\d+)$/m.exec(whole)![1]);
    const seen = new Set<string>();
    const load = async (name: string) => {
      assert.match(name, /^[\w.]+$/);
      if (seen.has(name)) return;
      seen.add(name);
      const answer = await fetch(root + name);
      assert.equal(answer.status, 200, name);
      bytes += readPage().get(name)!.length;
      const text = await answer.text();
      for (const [, module] of text.matchAll(/^import\b[^;]* from "\.\/([^"]+)";/gm)) {
        await load(module);
      }
    };
    const files = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, name]) => name);
    for (const name of files.filter((name) => !["data:,", "metrics"].includes(name))) {
      await load(name);
    }
    assert.deepEqual([...seen].sort(), [
      ...["overview.js", "page.css", "page.js", "uplot.css", "uplot.js"],
    ]);
    assert.ok(bytes > 10_000 && bytes < 80_000, `${bytes} bytes`);
  });
});
