/**
 * Every counter of every tile in Prometheus's text format, over HTTP.
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */

import type { MetricKind, MetricsReader } from "../app/metrics.ts";
import { COUNTERS, GAUGES, STATUS } from "../runtime/counters.ts";
import type { RefusedCalls } from "../runtime/refused_calls.ts";
import { sentenceOf } from "../runtime/thrown.ts";
import { Life } from "../runtime/tile_region.ts";
import type { TileKind } from "../runtime/tile.ts";
import type { AnswerParts } from "./answers.ts";

/** What there is to tell. */
export interface MetricsParts
  extends Pick<AnswerParts, "netbase" | "tiles" | "counters" | "interfaces" | "control"> {
  /** The numbers of apps' own, by tile. */
  readonly refusedCalls: RefusedCalls;
  /** The name of a system call, by its number. */
  callName(number: number): string;
  readonly own: readonly { readonly name: string; readonly reader: MetricsReader }[];
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
    const samples = tiles.map(({ name, reader }) =>
      [labels({ tile: name }), reader.counters[i]] as const
    );
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
