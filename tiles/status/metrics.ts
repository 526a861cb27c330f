/**
 * Every counter of every tile in Prometheus's text format, over HTTP.
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */

import type { MetricsReader } from "../app/regions.ts";
import { SYNC_STATES } from "../netlink/entries.ts";
import {
  type CountedTile,
  COUNTERS,
  type MetricFamily,
  metricOf,
  OTHER_METRICS,
  STATUS,
  totalsOf,
} from "../runtime/counters.ts";
import type { RefusedCalls } from "../../ffi/tile.ts";
import { Life } from "../runtime/tile.ts";
import { baseName } from "./capture.ts";
import { type Connection, type Listener, serveConnections } from "./connections.ts";
import type { ApplianceView } from "./control.ts";

/** Concurrent connections: several scrapers, with one connection for each scrape. */
const MOST_CONNECTIONS = 32;
/** Bytes of a request's head. */
const MOST_REQUEST = 1 << 13;
/** Bytes after the head that are read and discarded, so that the answer is not lost to a reset. */
const MOST_UNREAD = 1 << 16;
/** How long a request may take to arrive, and its answer to be read. */
const [REQUEST_MILLIS, ANSWER_MILLIS] = [5000, 10_000];

const latin1 = new TextDecoder("latin1");

/** What the metrics are made from. */
export interface Measured
  extends Pick<ApplianceView, "netbase" | "tiles" | "counters" | "interfaces" | "control"> {
  /** System calls that the filters of `tiles` refused, by index. */
  readonly refusedCalls: Pick<RefusedCalls, "of">;
  /** The name of a system call, by its number. */
  callName(number: number): string;
  /** Metrics that apps define, by tile. */
  readonly custom: readonly { readonly name: string; readonly reader: MetricsReader }[];
}

/** Serves `/metrics` until the listener is closed. */
export function serveMetrics(listener: Listener, measured: Measured): Promise<void> {
  return serveConnections(listener, {
    most: MOST_CONNECTIONS,
    counters: measured.counters,
    gauge: STATUS.index.metrics_connections,
    converse: (connection) => converse(connection, measured),
  });
}

/** Answers one request. HTTP/1.1 lets a server close after each (RFC 9112, section 9.6). */
async function converse(connection: Connection, measured: Measured): Promise<void> {
  connection.allow(REQUEST_MILLIS);
  let head = "";
  do {
    const chunk = await connection.read();
    if (chunk === null) return;
    head += latin1.decode(chunk);
  } while (!isComplete(head) && head.length < MOST_REQUEST);
  connection.allow(ANSWER_MILLIS);
  await connection.write(answer(head.slice(0, MOST_REQUEST), measured));
  // The kernel resets a connection that is closed with bytes unread, and the answer is lost with it.
  connection.closeWrite();
  for (let left = MOST_UNREAD; left > 0;) {
    const chunk = await connection.read();
    if (chunk === null) return;
    left -= chunk.length;
  }
}

/** Whether the empty line is there that ends a request's head. */
function isComplete(head: string): boolean {
  return /\n\r?\n/.test(head);
}

/** The answer to a request. Only its first line matters. */
function answer(head: string, measured: Measured): string {
  const [, method, target] = /^([A-Z]+) (\S+) HTTP\/1\.[01]\r?\n/.exec(head) ?? [];
  if (method === undefined) return response("400 Bad Request", "no HTTP/1 request\n");
  if (!isComplete(head)) {
    return response("431 Request Header Fields Too Large", `more than ${MOST_REQUEST} bytes\n`);
  }
  // The absolute form of a target is for proxies, but servers must accept it.
  if (!/^(?:http:\/\/[^/?]*)?\/metrics(?:\?|$)/.test(target)) {
    return response("404 Not Found", "see /metrics\n");
  }
  if (method !== "GET" && method !== "HEAD") {
    return response("405 Method Not Allowed", "", { allow: "GET, HEAD" });
  }
  measured.counters[STATUS.index.scrapes]++;
  const type = "text/plain; version=0.0.4; charset=utf-8";
  const whole = response("200 OK", metricsText(measured), { "content-type": type });
  return method === "GET" ? whole : whole.slice(0, whole.indexOf("\r\n\r\n") + 4);
}

function response(status: string, body: string, fields: Record<string, string> = {}): string {
  const all = Object.entries({
    date: new Date().toUTCString(),
    "content-type": "text/plain",
    ...fields,
    "content-length": new TextEncoder().encode(body).length,
    connection: "close",
  }).map(([name, value]) => `${name}: ${value}`);
  return [`HTTP/1.1 ${status}`, ...all, "", body].join("\r\n");
}

/** A metric and its samples. */
interface Samples extends MetricFamily {
  readonly samples: (readonly [labels: Labels, value: number])[];
}
type Labels = Readonly<Record<string, string>>;

/** The metrics as of now. */
function metricsText(
  { netbase, tiles, interfaces, control, custom, refusedCalls, callName }: Measured,
): string {
  const families = new Map<string, Samples>();
  const add = (family: MetricFamily, labels: Labels, value: number) => {
    const key = `${family.type} ${family.name}`;
    const entry = families.get(key) ?? { ...family, samples: [] };
    entry.samples.push([labels, value]);
    families.set(key, entry);
  };
  for (const [i, state] of Object.entries(SYNC_STATES)) {
    add(OTHER_METRICS.syncState, { state }, Number(netbase.syncState === Number(i)));
  }
  for (const [i, name] of interfaces.entries()) {
    add(OTHER_METRICS.interfaceXdp, { interface: name }, Number(control.xdp(i)));
  }
  for (const [i, tile] of tiles.entries()) {
    const labels = tileLabels(tile);
    add(OTHER_METRICS.tileRunning, labels, Number(tile.reader.life === Life.running));
    for (const { call, count } of refusedCalls.of(i)) {
      add(OTHER_METRICS.refusedCalls, { ...labels, call: callName(call) }, count);
    }
    const totals = totalsOf(tile);
    for (const [j, counter] of Object.keys(COUNTERS[tile.kind].help).entries()) {
      const metric = metricOf(tile.kind, counter);
      add(metric.family, { ...labels, ...metric.labels }, totals[j]);
    }
  }
  for (const { name: tile, reader } of custom) {
    for (const { kind, name, value } of reader.read()) {
      add(OTHER_METRICS[kind], { ...tileLabels({ kind: "app", name: tile }), name }, value);
    }
  }
  return [...families.values()].map(familyText).join("");
}

/** The labels of a tile: its name, and for an app the app's, which its instances share. */
function tileLabels({ kind, name }: Pick<CountedTile, "kind" | "name">): Labels {
  return { ...(kind === "app" && { app: baseName(name) }), tile: name };
}

function familyText({ name, type, help, samples }: Samples): string {
  const full = `tegula_${name}${type === "counter" ? "_total" : ""}`;
  return [
    `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n`,
    ...samples.map(([labels, value]) => `${full}${labelsText(labels)} ${value}\n`),
  ].join("");
}

/** Label values can be any text: apps choose names. */
function labelsText(labels: Labels): string {
  const quote = (text: string) => text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
  return `{${Object.entries(labels).map(([name, value]) => `${name}="${quote(value)}"`)}}`;
}
