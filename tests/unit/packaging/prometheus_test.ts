// SPDX-License-Identifier: Apache-2.0
/** Alerts and dashboard: what they name exists, and each alert is raised by what it is about, and by nothing less. */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { METRICS } from "../../../tiles/runtime/metrics.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const ALERTS = `${ROOT}packaging/prometheus/alerts.yml`;
const DASHBOARD = `${ROOT}packaging/grafana/tegula.json`;

/** Runs promtool; returns its exit status and all that it said. */
async function promtool(...args: string[]): Promise<{ code: number; said: string }> {
  const { code, stdout, stderr } = await new Deno.Command("promtool", { args }).output();
  return { code, said: [stdout, stderr].map((each) => new TextDecoder().decode(each)).join("") };
}

/** Asserts that promtool has nothing to say about a file with this. */
async function assertPasses(args: readonly string[], content: unknown): Promise<void> {
  const path = await Deno.makeTempFile({ suffix: ".yml" });
  // JSON is YAML.
  await Deno.writeTextFile(path, JSON.stringify(content));
  const { code, said } = await promtool(...args, path);
  await Deno.remove(path);
  assert.equal(code, 0, said);
}

/** The metrics that a text names. */
function namesIn(text: string): string[] {
  return [...new Set([...text.matchAll(/\b(?:tegula|process)_\w+/g)].map(([name]) => name))];
}

/** Asserts that each is a metric, or a series of a histogram. */
function assertDeclared(names: readonly string[]): void {
  assert.ok(names.length > 10, "it names metrics");
  for (const name of names) {
    const histogram = METRICS[name.replace(/_(bucket|sum|count)$/, "")];
    assert.ok(name in METRICS || histogram?.type === "histogram", `${name} is no metric`);
  }
}

/** By alert: a series that raises it, and one that does not; values a minute apart, for 20 minutes. */
const CASES: Readonly<Record<string, readonly [raises: Series, not: Series]>> = {
  TegulaUnwell: [{ 'tegula_unwell{reason="restarts"}': "1x20" }, {
    'tegula_unwell{reason="restarts"}': "0x20",
  }],
  TegulaNotReady: [{ tegula_ready: "0x20" }, { tegula_ready: "0x8 1x12" }],
  TegulaTileDown: [{ 'tegula_tile_running{tile="net0"}': "0x20" }, {
    'tegula_tile_running{tile="net0"}': "1x20",
  }],
  TegulaRestartLoop: [{ 'tegula_restarts_total{process="dns"}': "0+1x20" }, {
    'tegula_restarts_total{process="dns"}': "0x15 1x5",
  }],
  TegulaXdpLost: [{ 'tegula_interface_xdp{interface="eth0"}': "1x10 0x10" }, {
    'tegula_interface_xdp{interface="eth0"}': "1x20",
  }],
  TegulaMirrorNotInSync: [{ 'tegula_sync_state{state="synced"}': "0x20" }, {
    'tegula_sync_state{state="synced"}': "1x20",
    'tegula_sync_state{state="stale"}': "0x20",
  }],
  TegulaAuditDifferences: [{ 'tegula_audit_differences_total{table="routes"}': "0x15 3x5" }, {
    'tegula_audit_differences_total{table="routes"}': "3x20",
  }],
  TegulaDrops: [{
    'tegula_drops_total{reason="no_route"}': "0+2x20",
    'tegula_packets_total{direction="rx"}': "0+100x20",
  }, {
    'tegula_drops_total{reason="no_route"}': "0+1x20",
    'tegula_drops_total{reason="rate_limited"}': "0+90x20",
    'tegula_packets_total{direction="rx"}': "0+200x20",
  }],
  TegulaAppTooSlow: [{ 'tegula_drops_total{reason="app_link_full"}': "0+1x20" }, {
    'tegula_drops_total{reason="app_link_full"}': "7x20",
  }],
  TegulaTileSaturated: [{ 'tegula_tile_busy_seconds_total{tile="net0"}': "0+57x20" }, {
    'tegula_tile_busy_seconds_total{tile="net0"}': "0+48x20",
  }],
  TegulaRingFilling: [{ 'tegula_ring_fill_ratio{ring="rx"}': "0.7x20" }, {
    'tegula_ring_fill_ratio{ring="rx"}': "0.1x15 0.9 0.1x4",
    'tegula_ring_fill_ratio{ring="fill"}': "1x20",
  }],
  TegulaArpQueueFilling: [{
    'tegula_arp_queue_datagrams{tile="net0"}': "250x20",
    'tegula_arp_queue_limit_datagrams{tile="net0"}': "256x20",
  }, {
    'tegula_arp_queue_datagrams{tile="net0"}': "100x20",
    'tegula_arp_queue_limit_datagrams{tile="net0"}': "256x20",
  }],
  TegulaTableFilling: [{
    'tegula_table_entries{tile="netlink",table="neighbors"}': "95x20",
    'tegula_table_limit_entries{table="neighbors"}': "100x20",
  }, {
    'tegula_table_entries{tile="netlink",table="neighbors"}': "95x20",
    'tegula_table_limit_entries{table="neighbors"}': "200x20",
    'tegula_table_limit_entries{table="tbl8s"}': "100x20",
  }],
  TegulaTableFull: [{ 'tegula_netlink_neighbors_overflowed_total{tile="netlink"}': "0+1x20" }, {
    'tegula_netlink_neighbors_overflowed_total{tile="netlink"}': "9x20",
    'tegula_netlink_routes_overflowed{tile="netlink"}': "0x20",
  }],
  TegulaReloadFailed: [{ tegula_config_last_reload_successful: "0x20" }, {
    tegula_config_last_reload_successful: "0x10 1x10",
  }],
  TegulaRefusedCalls: [{ 'tegula_refused_calls_total{tile="dns",call="kill"}': "0x15 1x5" }, {
    'tegula_refused_calls_total{tile="dns",call="kill"}': "1x20",
  }],
  TegulaFilesFilling: [{
    'process_open_fds{process="master"}': "1000x20",
    'process_max_fds{process="master"}': "1024x20",
  }, {
    'process_open_fds{process="master"}': "100x20",
    'process_max_fds{process="master"}': "1024x20",
  }],
};
type Series = Readonly<Record<string, string>>;

Deno.test("promtool finds nothing to say about the alerts, and they name metrics that exist", async () => {
  const { code, said } = await promtool("check", "rules", ALERTS);
  assert.equal(code, 0, said);
  assertDeclared(namesIn(Deno.readTextFileSync(ALERTS)));
});

Deno.test("each alert is raised by what it is about, and by nothing less", async () => {
  const alerts = [...Deno.readTextFileSync(ALERTS).matchAll(/- alert: (\w+)/g)];
  assert.deepEqual(alerts.map(([, name]) => name).sort(), Object.keys(CASES).sort());
  const test = (alert: string, series: Series, isRaised: boolean) => ({
    interval: "1m",
    input_series: Object.entries(series).map(([series, values]) => ({ series, values })),
    promql_expr_test: [{
      expr: `count by (alertname) (ALERTS{alertname="${alert}", alertstate="firing"})`,
      eval_time: "18m",
      exp_samples: isRaised ? [{ labels: `{alertname="${alert}"}`, value: 1 }] : [],
    }],
  });
  const tests = Object.entries(CASES).flatMap(([alert, [raises, not]]) => [
    test(alert, raises, true),
    test(alert, not, false),
  ]);
  await assertPasses(["test", "rules"], { rule_files: [ALERTS], tests });
});

Deno.test("the dashboard asks for metrics that exist, and no panel covers another", async () => {
  const { panels } = JSON.parse(Deno.readTextFileSync(DASHBOARD)) as {
    panels: {
      id: number;
      title: string;
      gridPos: { x: number; y: number; w: number; h: number };
      targets?: { expr: string }[];
    }[];
  };
  const queries = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
  assertDeclared(queries.flatMap(namesIn));
  const rules = queries.map((expr, i) => ({
    record: `query_${i}`,
    expr: expr.replaceAll("$__rate_interval", "1m"),
  }));
  await assertPasses(["check", "rules"], { groups: [{ name: "queries", rules }] });
  const taken = new Set<string>();
  for (const { title, gridPos: { x, y, w, h } } of panels) {
    assert.ok(x + w <= 24, title);
    for (let i = 0; i < w * h; i++) {
      const place = `${x + i % w} ${y + Math.floor(i / w)}`;
      assert.ok(!taken.has(place), `${title} covers another panel`);
      taken.add(place);
    }
  }
  assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
});
