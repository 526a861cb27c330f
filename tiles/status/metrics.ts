/**
 * Every counter of every tile in Prometheus's text format, over HTTP.
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */

import type { MetricKind, MetricsReader } from "../app/metrics.ts";
import { COUNTERS, GAUGES, STATUS, totalsOf } from "../runtime/counters.ts";
import type { RefusedCalls } from "../runtime/refused_calls.ts";
import { Life } from "../runtime/tile_region.ts";
import type { TileKind } from "../runtime/tile.ts";
import type { AnswerParts } from "./answers.ts";
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

/** The metrics as of now. */
function metricsText(
  { netbase, tiles, interfaces, control, own, refusedCalls, callName }: MetricsParts,
): string {
  const kinds = Object.keys(COUNTERS) as TileKind[];
  return [
    family("sync_state", {
      type: "gauge",
      help: "Whether netbase is as the kernel is: 0 empty, 1 syncing, 2 synced, 3 stale.",
      samples: [["", netbase.syncState]],
    }),
    family("tile_running", {
      type: "gauge",
      help: "Whether a tile runs.",
      samples: tiles.map((
        { name, reader },
      ) => [labels({ tile: name }), Number(reader.life === Life.running)]),
    }),
    family("interface_xdp", {
      type: "gauge",
      help:
        "Whether AF_XDP takes an interface's frames: not where it is lost until the next start.",
      samples: interfaces.map((name, i) => [
        labels({ interface: name }),
        Number(control.xdp(i)),
      ]),
    }),
    family("refused_calls", {
      type: "counter",
      help: "System calls that a tile's filter refused although nobody expected them.",
      samples: tiles.flatMap(({ name: tile }, i) =>
        refusedCalls.of(i).map(({ call, count }) =>
          [labels({ tile, call: callName(call) }), count] as const
        )
      ),
    }),
    ...kinds.flatMap((kind) => tileFamilies(kind, tiles.filter((tile) => tile.kind === kind))),
    family("app_own", {
      type: "counter",
      help: "What an app counts under a name of its own.",
      samples: ownSamples("counter", own),
    }),
    family("app_own", {
      type: "gauge",
      help: "What an app measures under a name of its own.",
      samples: ownSamples("gauge", own),
    }),
  ].join("");
}

/** What goes by one name, the labels before each value. */
function family(
  name: string,
  { type, help, samples }: {
    type: MetricKind;
    help: string;
    samples: readonly (readonly [labels: string, value: number])[];
  },
): string {
  const full = `tegula_${name}${type === "counter" ? "_total" : ""}`;
  return [
    `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n`,
    ...samples.map(([label, value]) => `${full}${label} ${value}\n`),
  ].join("");
}

/** The counters of all tiles of a kind. */
function tileFamilies(kind: TileKind, tiles: MetricsParts["tiles"]): string[] {
  return Object.entries(COUNTERS[kind].help).map(([counter, help], i) => {
    const type = GAUGES.has(counter) ? "gauge" : "counter";
    const samples = tiles.map((tile) => [labels({ tile: tile.name }), totalsOf(tile)[i]] as const);
    return family(`${kind}_${counter}`, { type, help, samples });
  });
}

/** What apps show under names of their own. */
function ownSamples(kind: MetricKind, own: MetricsParts["own"]): (readonly [string, number])[] {
  return own.flatMap(({ name: tile, reader }) =>
    reader.read().filter((each) => each.kind === kind)
      .map(({ name, value }) => [labels({ tile, name }), value] as const)
  );
}

/** Labels and their values, such as a name that an app has given; those may have any letters. */
function labels(values: Readonly<Record<string, string>>): string {
  const quote = (text: string) => text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
  return `{${Object.entries(values).map(([name, value]) => `${name}="${quote(value)}"`)}}`;
}
