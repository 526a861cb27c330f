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
import type { RefusedCalls } from "../runtime/refused_calls.ts";
import { Life } from "../runtime/tile_region.ts";
import type { AnswerParts } from "./answers.ts";
import { baseName } from "./capturing.ts";
import { type Connection, type Listener, serveConnections } from "./connections.ts";

/** Connections at a time: several scrapers, each with a connection per scrape. */
const MOST_CONNECTIONS = 32;
/** Bytes of a request's head. */
const MOST_REQUEST = 1 << 13;
/** Bytes behind it that are read and thrown away, so that the answer arrives. */
const MOST_UNREAD = 1 << 16;
/** How long a request may take to come, and its answer to be taken. */
const [REQUEST_MILLIS, ANSWER_MILLIS] = [5000, 10_000];

const latin1 = new TextDecoder("latin1");

/** What there is to tell. */
export interface MetricsParts
  extends Pick<AnswerParts, "netbase" | "tiles" | "counters" | "interfaces" | "control"> {
  /** System calls that tiles were refused, by tile and call. */
  readonly refusedCalls: Pick<RefusedCalls, "of">;
  /** The name of a system call, by its number. */
  callName(number: number): string;
  /** The numbers of apps' own, by tile. */
  readonly own: readonly { readonly name: string; readonly reader: MetricsReader }[];
}

/** Serves `/metrics` until the listener is closed. */
export function serveMetrics(listener: Listener, parts: MetricsParts): Promise<void> {
  return serveConnections(listener, {
    most: MOST_CONNECTIONS,
    counters: parts.counters,
    gauge: STATUS.index.metrics_connections,
    converse: (connection) => converse(connection, parts),
  });
}

/** Answers one request. HTTP/1.1 lets a server close after each (RFC 9112, section 9.6). */
async function converse(connection: Connection, parts: MetricsParts): Promise<void> {
  connection.allow(REQUEST_MILLIS);
  const head = await readHead(connection);
  if (head === null) return;
  connection.allow(ANSWER_MILLIS);
  await connection.write(answer(head, parts));
  // The kernel resets a connection that is closed with bytes unread, and the answer is lost with it.
  connection.closeWrite();
  for (let left = MOST_UNREAD; left > 0;) {
    const chunk = await connection.read();
    if (chunk === null) return;
    left -= chunk.length;
  }
}

/** What comes before the empty line that ends a request's head, or as much as that may be; null: it never ends. */
async function readHead(connection: Connection): Promise<string | null> {
  for (let head = "";;) {
    const chunk = await connection.read();
    if (chunk === null) return null;
    const from = Math.max(0, head.length - 3);
    head += latin1.decode(chunk);
    if (/\n\r?\n/.test(head.slice(from)) || head.length >= MOST_REQUEST) {
      return head.slice(0, MOST_REQUEST);
    }
  }
}

/** The answer to a request, of which only the first line matters. */
function answer(head: string, parts: MetricsParts): string {
  const [, method, target] = /^([A-Z]+) (\S+) HTTP\/1\.[01]\r?\n/.exec(head) ?? [];
  if (method === undefined) return response("400 Bad Request", "no HTTP/1 request\n");
  if (!/\n\r?\n/.test(head)) {
    return response("431 Request Header Fields Too Large", `more than ${MOST_REQUEST} bytes\n`);
  }
  // The absolute form of a target is for proxies, but servers have to take it.
  if (!/^(?:http:\/\/[^/?]*)?\/metrics(?:\?|$)/.test(target)) {
    return response("404 Not Found", "see /metrics\n");
  }
  if (method !== "GET" && method !== "HEAD") {
    return response("405 Method Not Allowed", "", { allow: "GET, HEAD" });
  }
  parts.counters[STATUS.index.scrapes]++;
  const type = "text/plain; version=0.0.4; charset=utf-8";
  const whole = response("200 OK", metricsText(parts), { "content-type": type });
  return method === "GET" ? whole : whole.slice(0, whole.indexOf("\r\n\r\n") + 4);
}

/** The time of an answer (RFC 9110, section 6.6.1). */
function httpDate(): string {
  return new Date().toUTCString();
}

function response(status: string, body: string, fields: Record<string, string> = {}): string {
  const all = Object.entries({
    date: httpDate(),
    "content-type": "text/plain",
    ...fields,
    "content-length": new TextEncoder().encode(body).length,
    connection: "close",
  });
  return [
    `HTTP/1.1 ${status}`,
    ...all.map(([name, value]) => `${name}: ${value}`),
    "",
    body,
  ].join("\r\n");
}

/** A family of metrics with its samples so far: labels, and a value. */
interface Samples extends MetricFamily {
  readonly samples: (readonly [labels: Labels, value: number])[];
}
type Labels = Readonly<Record<string, string>>;

/** The metrics as of now. */
function metricsText(
  { netbase, tiles, interfaces, control, own, refusedCalls, callName }: MetricsParts,
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
  for (const { name: tile, reader } of own) {
    for (const { kind, name, value } of reader.read()) {
      add(OTHER_METRICS[kind], { ...tileLabels({ kind: "app", name: tile }), name }, value);
    }
  }
  return [...families.values()].map(familyText).join("");
}

/** The labels that say which tile: its name, and for an app, which of its instances share, the app's. */
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

/** Label values may be any text, as names that apps choose are. */
function labelsText(labels: Labels): string {
  const quote = (text: string) => text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
  return `{${Object.entries(labels).map(([name, value]) => `${name}="${quote(value)}"`)}}`;
}
