// SPDX-License-Identifier: Apache-2.0
/**
 * Over HTTP: liveness and readiness, all metrics (`../runtime/metrics.ts`) in Prometheus's text format
 * (https://prometheus.io/docs/instrumenting/exposition_formats/), and the status page, which makes its
 * tables and plots from the same text (`page/`).
 */

import { Buffer } from "node:buffer";
import { PROGRAM } from "../../ffi/library.ts";
import { readMetrics } from "../app/regions.ts";
import { SYNC_STATES } from "../netlink/entries.ts";
import { NEIGHBORS, NEXT_HOPS, TBL8S } from "../../netbase/layout.ts";
import { ARP_QUEUE_LIMITS } from "../net/arp_queue.ts";
import { SocketCell } from "../net/rings.ts";
import { PortCell } from "../net/traffic.ts";
import {
  type CountedTile,
  COUNTERS,
  histogramOf,
  HISTOGRAMS,
  STATUS,
  totalsOf,
} from "../runtime/counters.ts";
import { type HealthReport, type ProcessValues, UNWELL } from "../runtime/health.ts";
import { type DeclaredMetric, type Metric, metricOf, METRICS } from "../runtime/metrics.ts";
import { Life } from "../runtime/tile.ts";
import { appNames, baseName, type Listening, portsOfApp } from "./capture.ts";
import { type Connection, type Listener, serveConnections } from "./connections.ts";
import type { StatusView } from "./tile.ts";

/** Concurrent connections: several scrapers, with one connection for each scrape. */
const MOST_CONNECTIONS = 32;
const MOST_REQUEST = 1 << 13;
/** Bytes after the head that are read and discarded, so that a reset does not lose the answer. */
const MOST_UNREAD = 1 << 16;
/** How long a request may take to arrive, and its answer to be read. */
const [REQUEST_MILLIS, ANSWER_MILLIS] = [5000, 10_000];

/** The most ports of an app with their own samples: Prometheus keeps a series for each. */
const MOST_SINGLE_PORTS = 1000;

/** Capacities of the tables of netbase, by the names of `tegula_table_entries`. */
const LIMITS = { neighbors: NEIGHBORS, next_hops: NEXT_HOPS, tbl8s: TBL8S };

/** Reasons for which it is not live. */
const NOT_LIVE: ReadonlySet<string> = new Set(["no_appliance", "no_progress"]);

const latin1 = new TextDecoder("latin1");

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
};
/** The page loads nothing from elsewhere, and has nothing inline but its icon. */
const PAGE_FIELDS = {
  "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; " +
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  // Another program may serve another page.
  "cache-control": "no-store",
  "content-encoding": "gzip",
};

/** Reads the files of the status page, compressed, as `scripts/program.ts` makes them; by name. */
export function readPage(): ReadonlyMap<string, Uint8Array> {
  const folder = `${PROGRAM}/tiles/status/page`;
  const names = [...Deno.readDirSync(folder)].map(({ name }) => name)
    .filter((name) => name.endsWith(".gz"));
  return new Map(names.map((name) => [name.slice(0, -3), Deno.readFileSync(`${folder}/${name}`)]));
}

/** Serves the status page, `/metrics`, `/live` and `/ready` until the listener is closed. */
export function serveMetrics(listener: Listener, view: StatusView): Promise<void> {
  return serveConnections(listener, {
    most: MOST_CONNECTIONS,
    counters: view.counters,
    gauge: STATUS.index.metrics_connections,
    converse: (connection) => converse(connection, view),
  });
}

/** Answers one request. HTTP/1.1 lets a server close the connection after each (RFC 9112, section 9.6). */
async function converse(connection: Connection, view: StatusView): Promise<void> {
  connection.allow(REQUEST_MILLIS);
  let head = "";
  do {
    const chunk = await connection.read();
    if (chunk === null) return;
    head += latin1.decode(chunk);
  } while (!isComplete(head) && head.length < MOST_REQUEST);
  connection.allow(ANSWER_MILLIS);
  await connection.write(answer(head.slice(0, MOST_REQUEST), view));
  // The kernel resets a connection that is closed with unread bytes, which loses the answer.
  connection.closeWrite();
  for (let left = MOST_UNREAD; left > 0;) {
    const chunk = await connection.read();
    if (chunk === null) return;
    left -= chunk.length;
  }
}

/** Whether the empty line at the end of a request's head has arrived. */
function isComplete(head: string): boolean {
  return /\n\r?\n/.test(head);
}

/** The answer to a request. Only its first line matters. */
function answer(head: string, view: StatusView): Buffer {
  const [, method, target] = /^([A-Z]+) (\S+) HTTP\/1\.[01]\r?\n/.exec(head) ?? [];
  if (method === undefined) return response("400 Bad Request", "no HTTP/1 request\n");
  if (!isComplete(head)) {
    return response("431 Request Header Fields Too Large", `more than ${MOST_REQUEST} bytes\n`);
  }
  // The absolute form of a target is for proxies, but servers must accept it.
  const [, path] = /^(?:http:\/\/[^/?]*)?(\/[^?]*)/.exec(target) ?? [];
  const respond = responderTo(path, view);
  if (respond === undefined) {
    return response("404 Not Found", "see /, /metrics, /live, /ready\n");
  }
  if (method !== "GET" && method !== "HEAD") {
    return response("405 Method Not Allowed", "", { allow: "GET, HEAD" });
  }
  const whole = respond();
  return method === "GET" ? whole : whole.subarray(0, whole.indexOf("\r\n\r\n") + 4);
}

/** Returns what makes the response for a path; undefined: there is nothing at this path. */
function responderTo(path: string, view: StatusView): (() => Buffer) | undefined {
  if (path === "/metrics") return () => metrics(view);
  if (path === "/live" || path === "/ready") return () => probe(path, view);
  const name = path === "/" ? "index.html" : path?.slice(1);
  const file = view.page.get(name);
  if (file === undefined) return undefined;
  const type = CONTENT_TYPES[name.slice(name.lastIndexOf(".") + 1)];
  // A client without Accept-Encoding accepts any encoding (RFC 9110, section 12.5.3), and every browser
  // accepts this one.
  return () => response("200 OK", file, { ...PAGE_FIELDS, "content-type": type });
}

function metrics(view: StatusView): Buffer {
  view.counters[STATUS.index.scrapes]++;
  const type = "text/plain; version=0.0.4; charset=utf-8";
  return response("200 OK", metricsText(view), { "content-type": type });
}

/** Answers whether Tegula makes progress (`/live`) or wants traffic (`/ready`), with a line for each problem. */
function probe(path: "/live" | "/ready", { health }: Pick<StatusView, "health">): Buffer {
  const report = health.read();
  if (report === null || !health.isFresh(performance.now())) {
    return response("503 Service Unavailable", "the main process makes no progress\n");
  }
  const { state, reasons } = report;
  const stuck = reasons.filter(({ reason }) => NOT_LIVE.has(reason));
  const isGood = path === "/live" ? stuck.length === 0 : state === "ready";
  const lines = (path === "/live" ? stuck : reasons).map(({ text }) => `${text}\n`);
  return isGood ? response("200 OK", `${path.slice(1)}\n`) : response(
    "503 Service Unavailable",
    [path === "/live" ? "" : `${state}\n`, ...lines].join(""),
  );
}

function response(
  status: string,
  body: string | Uint8Array,
  fields: Readonly<Record<string, string>> = {},
): Buffer {
  const bytes = Buffer.from(body);
  const all = Object.entries({
    date: new Date().toUTCString(),
    "content-type": "text/plain",
    ...fields,
    "content-length": bytes.length,
    connection: "close",
  }).map(([name, value]) => `${name}: ${value}`);
  return Buffer.concat([Buffer.from([`HTTP/1.1 ${status}`, ...all, "", ""].join("\r\n")), bytes]);
}

type Labels = Readonly<Record<string, string>>;

/** How many values fell into each bucket: one more bucket than there are bounds. */
export interface Distribution {
  /** Upper bounds, inclusive. */
  readonly bounds: readonly number[];
  readonly counts: ArrayLike<number>;
  readonly sum: number;
}

export interface Family extends Metric {
  readonly name: string;
  readonly samples: { readonly labels: Labels; readonly value: number | Distribution }[];
}

export function collect(view: StatusView): Family[] {
  const families = new Map<string, Family>();
  const put = (name: string, labels: Labels, value: number | Distribution) => {
    families.getOrInsertComputed(name, () => ({ ...METRICS[name], name, samples: [] }))
      .samples.push({ labels, value });
  };
  const add: Add = put;
  const { netbase, interfaces, control, health, custom } = view;
  const report = health.read();
  addMaster(view, report, add);
  const { state, reasons = [] } = report ?? {};
  add("tegula_ready", {}, Number(state === "ready"));
  for (const reason of Object.keys(UNWELL)) {
    const count = reasons.filter((each) => each.reason === reason).length;
    add("tegula_unwell", { reason }, count);
  }
  for (const [i, state] of Object.entries(SYNC_STATES)) {
    add("tegula_sync_state", { state }, Number(netbase.syncState === Number(i)));
  }
  for (const [i, name] of interfaces.entries()) {
    add("tegula_interface_xdp", { interface: name }, Number(control.xdp(i)));
  }
  for (const [table, limit] of Object.entries(LIMITS)) {
    add("tegula_table_limit_entries", { table }, limit);
  }
  for (const [i, tile] of view.tiles.entries()) {
    const labels = tileLabels(tile);
    add("tegula_tile_running", labels, Number(tile.reader.life === Life.running));
    if (tile.kind === "net") {
      add("tegula_latency_seconds", labels, histogramOf(tile, HISTOGRAMS.latency));
      for (const direction of ["rx", "tx"] as const) {
        const batches = histogramOf(tile, HISTOGRAMS[`${direction}_batch`]);
        add("tegula_batch_packets", { ...labels, direction }, batches);
      }
      add("tegula_arp_queue_limit_datagrams", labels, ARP_QUEUE_LIMITS.total);
    }
    for (const { call, count } of view.refusedCalls(i)) {
      add("tegula_refused_calls_total", { ...labels, call: view.callName(call) }, count);
    }
    const totals = totalsOf(tile);
    for (const [j, counter] of Object.keys(COUNTERS[tile.kind].help).entries()) {
      const metric = metricOf(tile.kind, counter);
      put(metric.name, { ...labels, ...metric.labels }, totals[j]);
    }
  }
  addTraffic(view, add);
  for (const { app, tile, view: metrics } of custom) {
    for (const metric of readMetrics(metrics)) {
      const { kind, name } = metric;
      const labels = { app: baseName(app), tile, name, ...metric.labels };
      if (metric.kind === "histogram") add("tegula_app_custom_distribution", labels, metric);
      else if (kind === "counter") add("tegula_app_custom_total", labels, metric.value);
      else add("tegula_app_custom", labels, metric.value);
    }
  }
  return [...families.values()];
}

type Add = (name: DeclaredMetric, labels: Labels, value: number | Distribution) => void;

/** The master's report, and the build. */
function addMaster(
  { build, tiles, control }: StatusView,
  report: HealthReport | null,
  add: Add,
): void {
  add("tegula_build_info", { ...build, deno: Deno.version.deno, v8: Deno.version.v8 }, 1);
  const { hash = 0, at = 0, isGood = false } = report?.loaded ?? {};
  add("tegula_config_hash", {}, hash);
  add("tegula_config_last_reload_successful", {}, Number(isGood));
  add("tegula_config_last_reload_success_timestamp_seconds", {}, at);
  for (const { name: process, restarts, values = {} } of report?.processes ?? []) {
    for (const [name, value] of Object.entries<number>(values)) {
      add(name as keyof ProcessValues, { process }, value);
    }
    if (process !== "master") add("tegula_restarts_total", { process }, restarts);
  }
  for (const [slot, { kind, name }] of tiles.entries()) {
    if (kind !== "netlink" && kind !== "status") continue;
    add("tegula_restarts_total", { process: name }, control.restarts(slot));
  }
}

/** The contents of the traffic regions: sums over all net tiles, and fill levels of their rings and links. */
function addTraffic({ nets, interfaces, tiles, listen }: StatusView, add: Add): void {
  const sockets = nets.flatMap(({ traffic, sockets }) =>
    sockets.map((socket, i) => ({ ...socket, cells: traffic.socket(i) }))
  );
  for (const name of interfaces) {
    const own = sockets.filter((socket) => socket.interface === name);
    const sum = (cell: number) => own.reduce((sum, { cells }) => sum + cells[cell], 0);
    for (const direction of ["rx", "tx"] as const) {
      const labels = { interface: name, direction };
      add("tegula_interface_packets_total", labels, sum(SocketCell[`${direction}Packets`]));
      add("tegula_interface_bytes_total", labels, sum(SocketCell[`${direction}Bytes`]));
    }
  }
  for (const { interface: name, queue, cells } of sockets) {
    for (const ring of ["rx", "tx", "fill"] as const) {
      const labels = { interface: name, queue: String(queue), ring };
      add("tegula_ring_fill_ratio", labels, cells[SocketCell[`${ring}Ring`]]);
    }
  }
  const apps = tiles.filter(({ slot }) => slot !== undefined);
  for (const { name: net, traffic } of nets) {
    apps.forEach((app, i) => {
      add("tegula_link_fill_ratio", { ...tileLabels(app), net }, traffic.links[i]);
    });
  }
  for (const { app, port, ports } of portGroups(listen)) {
    const sum = (cell: number) =>
      nets.reduce(
        (sum, { traffic }) => ports.reduce((sum, each) => sum + traffic.port(each)[cell], sum),
        0,
      );
    for (const direction of ["rx", "tx"] as const) {
      const labels = { app, port, direction };
      add("tegula_port_packets_total", labels, sum(PortCell[`${direction}Packets`]));
      add("tegula_port_bytes_total", labels, sum(PortCell[`${direction}Bytes`]));
      add("tegula_port_drops_total", labels, sum(PortCell[`${direction}Drops`]));
    }
  }
}

/** Served ports, individually up to `MOST_SINGLE_PORTS` of an app, and the others of that app together. */
function portGroups(
  listen: readonly Listening[],
): { readonly app: string; readonly port: string; readonly ports: readonly number[] }[] {
  return appNames(listen).flatMap((app) => {
    const ports = portsOfApp(listen, app);
    const single = ports.slice(0, MOST_SINGLE_PORTS);
    const others = ports.slice(MOST_SINGLE_PORTS);
    return [
      ...single.map((port) => ({ app, port: String(port), ports: [port] })),
      ...others.length === 0 ? [] : [{ app, port: "other", ports: others }],
    ];
  });
}

/** The current metrics, in the text format. */
export function metricsText(view: StatusView): string {
  return collect(view).map(familyText).join("");
}

/** The labels of a tile: its name, and for an app the app's name, which its instances share. */
function tileLabels({ kind, name }: Pick<CountedTile, "kind" | "name">): Labels {
  return { ...(kind === "app" && { app: baseName(name) }), tile: name };
}

function familyText({ name, type, help, samples }: Family): string {
  return [
    `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`,
    ...samples.map(({ labels, value }) =>
      typeof value === "number"
        ? `${name}${labelsText(labels)} ${value}\n`
        : distributionText(name, labels, value)
    ),
  ].join("");
}

function distributionText(
  name: string,
  labels: Labels,
  { bounds, counts, sum }: Distribution,
): string {
  let count = 0;
  const buckets = Array.from(counts, (each, i) => {
    count += each;
    const le = i < bounds.length ? String(bounds[i]) : "+Inf";
    return `${name}_bucket${labelsText({ ...labels, le })} ${count}\n`;
  });
  const own = labelsText(labels);
  return `${buckets.join("")}${name}_sum${own} ${sum}\n${name}_count${own} ${count}\n`;
}

/** Label values can be any text: apps choose names. */
function labelsText(labels: Labels): string {
  const quote = (text: string) => text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${quote(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs}}`;
}
