/**
 * Every counter of every tile in Prometheus's text format, over HTTP.
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */

import type { NetbaseReader } from "../../netbase/netbase.ts";
import type { MetricKind, MetricsReader } from "../app/metrics.ts";
import { COUNTERS, GAUGES, STATUS } from "../runtime/counters.ts";
import { sentenceOf } from "../runtime/thrown.ts";
import { Life } from "../runtime/tile_region.ts";
import type { TileKind } from "../runtime/tile.ts";
import type { WatchedTile } from "./answers.ts";

/** What there is to tell. */
export interface MetricsParts {
  readonly netbase: NetbaseReader;
  readonly tiles: readonly WatchedTile[];
  /** The numbers of apps' own, by tile. */
  readonly own: readonly { readonly name: string; readonly reader: MetricsReader }[];
  /** The status tile's own. */
  readonly counters: Float64Array;
}

/** Serves `/metrics` at `place`, `address:port`. Throws Error when that cannot be had. */
export function serveMetrics(place: string, parts: MetricsParts): Deno.HttpServer {
  const [hostname, port] = place.split(":");
  const options = { hostname, port: Number(port), onListen() {} };
  const handler = ({ url, method }: Request) => {
    if (new URL(url).pathname !== "/metrics") {
      return new Response("see /metrics\n", { status: 404 });
    }
    if (method !== "GET" && method !== "HEAD") return new Response(null, { status: 405 });
    parts.counters[STATUS.index.scrapes]++;
    return new Response(metricsText(parts), {
      headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" },
    });
  };
  try {
    return Deno.serve(options, handler);
  } catch (error) {
    throw new Error(`cannot serve metrics at ${place} (--metrics): ${sentenceOf(error)}`);
  }
}

/** The metrics as of now. */
function metricsText({ netbase, tiles, own }: MetricsParts): string {
  const kinds = Object.keys(COUNTERS) as TileKind[];
  return [
    ...gauge(
      "sync_state",
      "Whether netbase is as the kernel is: 0 empty, 1 syncing, 2 synced, 3 stale.",
      [
        ["", netbase.syncState],
      ],
    ),
    ...gauge(
      "tile_running",
      "Whether a tile runs.",
      tiles.map(({ name, reader }) => [labels(name), reader.life === Life.running ? 1 : 0]),
    ),
    ...kinds.flatMap((kind) => tableLines(kind, tiles.filter((tile) => tile.kind === kind))),
    ...ownLines(own),
    "",
  ].join("\n");
}

function tableLines(kind: TileKind, tiles: readonly WatchedTile[]): string[] {
  const { help } = COUNTERS[kind];
  return Object.entries(help).flatMap(([counter, sentence], i) => {
    const isGauge = GAUGES.has(counter);
    const name = `${kind}_${counter}${isGauge ? "" : "_total"}`;
    return family(
      { name, type: isGauge ? "gauge" : "counter", help: sentence },
      tiles.map(
        ({ name: tile, reader }) => [labels(tile), reader.counters[i]],
      ),
    );
  });
}

/** What apps show under names of their own. */
function ownLines(own: MetricsParts["own"]): string[] {
  const all = own.flatMap(({ name: tile, reader }) =>
    reader.read().map(({ name, kind, value }) => ({ label: labels(tile, name), kind, value }))
  );
  const samples = (kind: MetricKind) =>
    all.filter((each) => each.kind === kind).map(({ label, value }): Sample => [label, value]);
  return [
    ...family(
      {
        name: "app_own_total",
        type: "counter",
        help: "What an app counts under a name of its own.",
      },
      samples("counter"),
    ),
    ...gauge("app_own", "What an app measures under a name of its own.", samples("gauge")),
  ];
}

type Sample = readonly [labels: string, value: number];

function gauge(name: string, help: string, samples: readonly Sample[]): string[] {
  return family({ name, type: "gauge", help }, samples);
}

function family(
  { name, type, help }: { name: string; type: string; help: string },
  samples: readonly Sample[],
): string[] {
  return [
    `# HELP tegula_${name} ${help}`,
    `# TYPE tegula_${name} ${type}`,
    ...samples.map(([label, value]) => `tegula_${name}${label} ${value}`),
  ];
}

/** The label that tells tiles apart, and the name that an app has given; both may have any letters. */
function labels(tile: string, name?: string): string {
  const quote = (text: string) => text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
  return `{tile="${quote(tile)}"${name === undefined ? "" : `,name="${quote(name)}"`}}`;
}
