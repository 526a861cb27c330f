// SPDX-License-Identifier: Apache-2.0
/** What `tegula top` and the status page show, by the metrics that it is made of. */

import assert from "node:assert/strict";
import { METRICS } from "../../../tiles/runtime/metrics.ts";
import {
  cellText,
  latencyText,
  overview,
  quantile,
  Scrape,
  type Sort,
  type Table,
} from "../../../tiles/status/page/overview.ts";
import fc from "../property.ts";

const NOW = { nowSeconds: 1_000_000, sort: "packets" as Sort };

/** The overview of two scrapes two seconds apart. */
function between(before: string, now: string, sort: Sort = "packets") {
  return overview(new Scrape(before, 1000), new Scrape(now, 3000), { ...NOW, sort });
}

function tableOf(name: string, { tables }: { readonly tables: readonly Table[] }): Table {
  return tables.find(({ columns }) => columns[0].title === name)!;
}

/** A row by the titles of its cells. */
function rowOf(name: string, table: Table): Record<string, string | number> {
  const row = table.rows.find(([first]) => first === name)!;
  return Object.fromEntries(table.columns.map(({ title }, i) => [title, row[i]]));
}

Deno.test("a scrape has labels as they were before they were quoted", () => {
  const name = 'a "quoted" \\ name\nwith} 7, two="lines"';
  const quoted = name.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
  const text =
    `# HELP x {y="z"} 1\n# TYPE x gauge\nx{a="${quoted}",b=""} 1.5e3\nx 2\nx_sum{le="+Inf"} 3\n`;
  const scrape = new Scrape(text, 0);
  assert.deepEqual(scrape.samples("x").map(({ labels, value }) => ({ labels, value })), [
    { labels: { a: name, b: "" }, value: 1500 },
    { labels: {}, value: 2 },
  ]);
  assert.equal(scrape.value('x_sum{le="+Inf"}'), 3);
  assert.deepEqual(scrape.samples("y"), []);
});

Deno.test("rates are of the time between two scrapes, summed over tiles", () => {
  const text = (a: number, b: number, bytes: number) =>
    `tegula_packets_total{tile="net0",direction="rx",path="af_xdp"} ${a}\n` +
    `tegula_packets_total{tile="net1",direction="rx",path="socket"} ${b}\n` +
    `tegula_interface_packets_total{interface="eth0",direction="rx"} ${a}\n` +
    `tegula_interface_bytes_total{interface="eth0",direction="rx"} ${bytes}\n` +
    `tegula_interface_xdp{interface="eth0"} 1\n`;
  const shown = between(text(100, 7, 5000), text(300, 17, 25_000));
  assert.equal(shown.rx.packets, 105);
  assert.ok(Number.isNaN(shown.tx.packets));
  const row = rowOf("eth0", tableOf("interface", shown));
  assert.deepEqual(
    [row["mode"], row["rx pkt/s"], row["rx B/s"], row["rx total"], row["tx pkt/s"]],
    ["xdp", 100, 10_000, 300, NaN],
  );
});

Deno.test("a counter that began anew counts from 0, one that was not there too", () => {
  const drops = (reason: string, count: number) =>
    `tegula_drops_total{tile="net0",direction="rx",reason="${reason}"} ${count}\n`;
  const shown = between(drops("no_app", 50), drops("no_app", 10) + drops("fragment", 4));
  assert.equal(shown.drops, 7);
  assert.deepEqual(tableOf("drops", shown).rows, [["rx no_app", 5, 10], ["rx fragment", 2, 4]]);
});

Deno.test("without an earlier scrape rates are unknown, totals are not", () => {
  const text = 'tegula_port_packets_total{app="dns",port="53",direction="rx"} 9\n';
  const shown = overview(null, new Scrape(text, 0), NOW);
  const row = rowOf("53", tableOf("port", shown));
  assert.deepEqual([row["app"], row["rx pkt/s"], row["rx total"]], ["dns", NaN, 9]);
  assert.ok(Number.isNaN(shown.latency.p99));
});

Deno.test("ports that apps have no metric of their own for are a row for each app", () => {
  const other = (app: string, packets: number) =>
    `tegula_port_packets_total{app="${app}",port="other",direction="rx"} ${packets}\n`;
  const { rows } = tableOf(
    "port",
    between(other("a", 0) + other("b", 0), other("a", 4) + other("b", 6)),
  );
  assert.deepEqual(rows.map(([name, app, rate]) => [name, app, rate]), [
    ["other b", "b", 3],
    ["other a", "a", 2],
  ]);
});

Deno.test("rows are in the order that was asked for", () => {
  const port = (name: number, packets: number, bytes: number) =>
    `tegula_port_packets_total{app="a",port="${name}",direction="tx"} ${packets}\n` +
    `tegula_port_bytes_total{app="a",port="${name}",direction="tx"} ${bytes}\n`;
  const none = [7, 53, 500].map((name) => port(name, 0, 0)).join("");
  const some = port(7, 30, 100) + port(53, 20, 900) + port(500, 40, 10);
  const order = (sort: Sort) =>
    tableOf("port", between(none, some, sort)).rows.map(([name]) => name);
  assert.deepEqual(order("packets"), ["500", "7", "53"]);
  assert.deepEqual(order("bytes"), ["53", "7", "500"]);
  assert.deepEqual(order("name"), ["7", "53", "500"]);
});

Deno.test("quantile() is where that share of the values is below, if each bucket is spread evenly", () => {
  const bounds = [1, 2, 5, 10];
  const buckets = fc.array(fc.nat({ max: 50 }), { minLength: 4, maxLength: 4 });
  const share = fc.double({ min: 0.01, max: 0.99, noNaN: true });
  fc.assert(fc.property(buckets, share, (counts, q) => {
    let sum = 0;
    const cumulative = counts.map((count, i) => [bounds[i], sum += count] as const);
    const found = quantile([[Infinity, sum], ...cumulative], q);
    if (sum === 0) return assert.ok(Number.isNaN(found));
    // The same by counting: how many values are at most this.
    const below = counts.reduce((all, count, i) => {
      const from = i === 0 ? 0 : bounds[i - 1];
      return all + count * Math.min(1, Math.max(0, (found - from) / (bounds[i] - from)));
    }, 0);
    assert.ok(Math.abs(below - q * sum) < 1e-6 * sum, `${found}: ${below} of ${sum}`);
  }));
});

Deno.test("quantile() in the last bucket is the largest bound", () => {
  assert.equal(quantile([[1, 1], [2, 1], [Infinity, 100]], 0.99), 2);
});

Deno.test("latency is what histograms of all tiles have counted since", () => {
  const text = (counts: number[]) =>
    ["net0", "net1"].flatMap((tile) =>
      ["1e-05", "0.0001", "+Inf"].map((le, i) =>
        `tegula_latency_seconds_bucket{tile="${tile}",le="${le}"} ${counts[i]}\n`
      )
    ).join("");
  const { latency } = between(text([1000, 1000, 1000]), text([1010, 1020, 1020]));
  assert.deepEqual(latency, { p50: 1e-5, p99: 1e-5 + 9e-5 * (39.6 - 20) / 20 });
});

Deno.test("what is wrong is named", () => {
  const facts = (text: string, before = text) => between(before, text).facts;
  const bad = (text: string, before = text) =>
    facts(text, before).filter(({ isBad }) => isBad).map(({ text }) => text);
  const good = 'tegula_build_info{version="1.2",commit="abcdef0123"} 1\n' +
    'tegula_ready 1\ntegula_unwell{reason="af_xdp_lost"} 0\ntegula_sync_state{state="synced"} 1\n' +
    'tegula_restarts_total{process="echo"} 3\ntegula_config_last_reload_successful 1\n' +
    'process_start_time_seconds{process="master"} 900000\n';
  assert.deepEqual(bad(good), []);
  assert.deepEqual(facts(good).map(({ text }) => text), [
    ...["tegula 1.2 abcdef0", "up 1d 3h", "ready", "synced", "restarts 3"],
  ]);
  assert.deepEqual(
    bad(good.replace('af_xdp_lost"} 0', 'af_xdp_lost"} 1').replace("_ready 1", "_ready 0")),
    ["af xdp lost"],
  );
  assert.deepEqual(bad(good.replace("_ready 1", "_ready 0")), ["not ready"]);
  assert.deepEqual(bad(good.replace("synced", "stale")), ["stale"]);
  assert.deepEqual(bad(good.replace('echo"} 3', 'echo"} 4'), good), ["restarts 4"]);
  assert.deepEqual(bad(good.replace("successful 1", "successful 0")), ["the last reload failed"]);
});

Deno.test("numbers are short", () => {
  const texts: [Parameters<typeof cellText>, string][] = [
    [["packets", 0], "0"],
    [["packets", 0.5], "0.5"],
    [["packets", 999.4], "999"],
    [["packets", 999.6], "1.00k"],
    [["bytes", 12_345_678], "12.3M"],
    [["share", 0.934], "93%"],
    [["seconds", 90_061], "1d 1h"],
    [["seconds", 59.7], "1m 0s"],
    [["count", NaN], "–"],
    [["text", "xdp"], "xdp"],
  ];
  for (const [args, text] of texts) assert.equal(cellText(...args), text);
  assert.deepEqual([4.1e-6, 1.23e-2, 2].map(latencyText), ["4.1 µs", "12 ms", "2.0 s"]);
});

Deno.test("every metric that is shown is declared", () => {
  const source = Deno.readTextFileSync(
    new URL("../../../tiles/status/page/overview.ts", import.meta.url),
  );
  const literal = [...source.matchAll(/"((?:tegula|process)_\w+)"/g)].map(([, name]) => name);
  const built = [...source.matchAll(/`\$\{metric\}(_\w+_total)`/g)].flatMap(([, end]) =>
    ["tegula_interface", "tegula_port"].map((begin) => begin + end)
  );
  const names = new Set(
    [...literal, ...built].filter((name) => name !== "tegula_interface" && name !== "tegula_port"),
  );
  assert.ok(names.size > 15, `${names.size} metrics`);
  assert.deepEqual([...names].filter((name) => !Object.hasOwn(METRICS, name)), []);
});
