// SPDX-License-Identifier: Apache-2.0
/**
 * Every metric, declared once: what Prometheus sees of it and where its value comes from. The status tile
 * (`../status/metrics.ts`) writes no other; `docs/operating/metrics.md` is generated from this table, and the
 * tests compare `packaging/grafana` and `packaging/prometheus` with it.
 *
 * A counter of a tile (`counters.ts`) is a sample of the metric whose `from` it matches. Without one it is
 * a metric of its own, which is called after it.
 */

import { COUNTERS, GAUGES } from "./counters.ts";
import type { TileKind } from "./tile.ts";

/** A metric as this table declares it. */
interface Declared {
  /** Without it, the name says it: a counter's ends in `_total`, and the others are gauges. */
  readonly type?: "histogram";
  /** Metrics of an app's tile also have `app`. */
  readonly labels?: readonly string[];
  /** A sentence. */
  readonly help: string;
  /** What it is read from. An expression: the counters, as `KIND_COUNTER`, that are samples of it. */
  readonly from: string | RegExp;
  /** What counters have for a label's value where that is to be another word. */
  readonly values?: Readonly<Record<string, string>>;
}

/** A metric as Prometheus sees it. */
export interface Metric extends Omit<Declared, "type"> {
  readonly type: "counter" | "gauge" | "histogram";
  readonly labels: readonly string[];
  /** Unit of the value, which the name ends in. Without one, the value is a number of things. */
  readonly unit?: string;
}

/** The values of `from` that are more than one metric's. */
const PROC = "/proc, which the master reads every second";
const HEALTH = "the health region";
const TRAFFIC = "the traffic regions of net tiles";
const HISTOGRAM = "the tile region";
const CUSTOM = "the app's metrics region";

const DECLARED = {
  tegula_build_info: {
    labels: ["version", "commit", "deno", "v8"],
    help: "1. What runs: the version, the commit if known, and those of Deno and V8.",
    from: "the setup of the status tile",
  },
  tegula_config_hash: {
    help: "Hash of the configuration that is served.",
    from: HEALTH,
  },
  tegula_config_last_reload_successful: {
    help: "Whether the last attempt to read and serve a configuration succeeded, 1 or 0.",
    from: HEALTH,
  },
  tegula_config_last_reload_success_timestamp_seconds: {
    help: "When the configuration that is served was loaded, since 1970.",
    from: HEALTH,
  },
  process_start_time_seconds: {
    labels: ["process"],
    help: "When the process started, since 1970.",
    from: PROC,
  },
  process_cpu_seconds_total: {
    labels: ["process"],
    help: "Processor time of the process, user and system.",
    from: PROC,
  },
  process_resident_memory_bytes: {
    labels: ["process"],
    help: "Resident memory of the process, shared regions included.",
    from: PROC,
  },
  process_virtual_memory_bytes: {
    labels: ["process"],
    help: "Address space of the process. V8 reserves tens of gigabytes that it does not use.",
    from: PROC,
  },
  process_open_fds: {
    labels: ["process"],
    help: "Open file descriptors of the process; only since Linux 6.2.",
    from: PROC,
  },
  process_max_fds: {
    labels: ["process"],
    help: "The most file descriptors that the process may have open.",
    from: PROC,
  },
  process_threads: {
    labels: ["process"],
    help: "Threads of the process.",
    from: PROC,
  },
  tegula_restarts_total: {
    labels: ["process"],
    help: "Times that a process, or a tile of the appliance, was started again after a failure.",
    from: `${HEALTH}, and of tiles the control region`,
  },
  tegula_refused_calls_total: {
    labels: ["tile", "call"],
    help: "System calls refused by the tile's seccomp filter that nobody expected.",
    from: "the regions for refused calls",
  },
  tegula_ready: {
    help: "1: Tegula is ready. 0: it is starting, draining or unwell.",
    from: HEALTH,
  },
  tegula_unwell: {
    labels: ["reason"],
    help: "How many things are wrong, by the reason; any makes Tegula unwell.",
    from: HEALTH,
  },
  tegula_sync_state: {
    labels: ["state"],
    help: "State of the mirror of the kernel's tables: 1 for the current state, 0 for the others.",
    from: "netbase",
  },
  tegula_interface_xdp: {
    labels: ["interface"],
    help: "1: AF_XDP receives the interface's frames. 0: the kernel does.",
    from: "the control region",
  },
  tegula_tile_running: {
    labels: ["tile"],
    help: "Whether the tile runs, 1 or 0.",
    from: "the tile region",
  },
  tegula_tile_busy_seconds_total: {
    labels: ["tile"],
    help:
      "Time in which a tile had work, estimated from every 61st turn. Its rate is the busy share.",
    from: /_busy_seconds$/,
  },
  tegula_tile_wakeups_total: {
    labels: ["tile"],
    help: "Times a tile woke up from blocking.",
    from: /_wakeups$/,
  },
  tegula_packets_total: {
    labels: ["tile", "direction", "path"],
    help: "Frames through AF_XDP rings, and datagrams through kernel sockets.",
    from: /^net_(?<direction>rx|tx)_(?<path>frames|socket)$/,
    values: { frames: "af_xdp" },
  },
  tegula_interface_packets_total: {
    labels: ["interface", "direction"],
    help: "Frames through the AF_XDP rings of an interface.",
    from: TRAFFIC,
  },
  tegula_interface_bytes_total: {
    labels: ["interface", "direction"],
    help: "Bytes of these frames, from the Ethernet header to the end of the payload.",
    from: TRAFFIC,
  },
  tegula_port_packets_total: {
    labels: ["app", "port", "direction"],
    help: "Datagrams of a served port, 0.1 s late: rx delivered to the app, tx accepted from it.",
    from: TRAFFIC,
  },
  tegula_port_bytes_total: {
    labels: ["app", "port", "direction"],
    help: "Payload bytes of these datagrams.",
    from: TRAFFIC,
  },
  tegula_port_drops_total: {
    labels: ["app", "port", "direction"],
    help:
      "Datagrams of a served port that were dropped between the checks and the app, or after it.",
    from: TRAFFIC,
  },
  tegula_drops_total: {
    labels: ["tile", "direction", "reason"],
    help: "Datagrams and frames dropped, each once, by the reason.",
    from: /^(?:net|app)_(?:xdp_)?(?<direction>rx|tx)_drop_(?<reason>.+)$/,
  },
  tegula_latency_seconds: {
    type: "histogram",
    labels: ["tile"],
    help: "Time of an answered datagram in Tegula, from the receive ring to the transmit ring.",
    from: HISTOGRAM,
  },
  tegula_batch_packets: {
    type: "histogram",
    labels: ["tile", "direction"],
    help: "Frames taken from a receive ring, or put on a transmit ring, at once.",
    from: HISTOGRAM,
  },
  tegula_ring_fill_ratio: {
    labels: ["interface", "queue", "ring"],
    help: "Share of a ring's entries that wait: rx for the net tile; tx and fill for the kernel.",
    from: TRAFFIC,
  },
  tegula_link_fill_ratio: {
    labels: ["app", "tile", "net"],
    help: "Share of the link from a net tile to an app that the app has not passed.",
    from: TRAFFIC,
  },
  tegula_arp_queue_datagrams: {
    labels: ["tile"],
    help: "Datagrams that wait for their neighbour.",
    from: /^net_arp_queue$/,
  },
  tegula_arp_queue_limit_datagrams: {
    labels: ["tile"],
    help: "The most datagrams that may wait for their neighbours in a net tile.",
    from: "a constant",
  },
  tegula_table_entries: {
    labels: ["tile", "table"],
    help: "Records in use of a table in netbase.",
    from: /^netlink_used_(?<table>.+)$/,
  },
  tegula_table_limit_entries: {
    labels: ["table"],
    help: "Records that a table in netbase has.",
    from: "a constant",
  },
  tegula_mirror_entries: {
    labels: ["tile", "table"],
    help: "Entries mirrored from a table of the kernel.",
    from: /^netlink_(?<table>interfaces|routes|neighbors)$/,
  },
  tegula_audit_differences_total: {
    labels: ["tile", "table"],
    help: "Entries of a table that an audit found to differ from the kernel's.",
    from: /^netlink_audit_difference_(?<table>.+)$/,
  },
  tegula_solicit_drops_total: {
    labels: ["tile", "reason"],
    help: "Requests to resolve a neighbour that were dropped, by the reason.",
    from: /^netlink_solicit_drop_(?<reason>.+)$/,
  },
  tegula_app_custom_total: {
    labels: ["app", "tile", "name"],
    help: "Counters that an app defines, by their name, with labels of its own.",
    from: CUSTOM,
  },
  tegula_app_custom: {
    labels: ["app", "tile", "name"],
    help: "Gauges that an app defines, by their name, with labels of its own.",
    from: CUSTOM,
  },
  tegula_app_custom_distribution: {
    type: "histogram",
    labels: ["app", "tile", "name"],
    help: "Histograms that an app defines, by their name, with labels of its own.",
    from: CUSTOM,
  },
  tegula_connections: {
    labels: ["tile", "listener"],
    help: "Open connections to a listener of the status tile.",
    from: /^status_(?<listener>control|metrics)_connections$/,
  },
  tegula_connections_closed_total: {
    labels: ["tile", "reason"],
    help: "Connections that the status tile closed on its own account, by the reason.",
    from: /^status_connections_(?<reason>displaced|timed_out)$/,
  },
} as const satisfies Record<string, Declared>;

/** Metrics that are written by name. */
export type DeclaredMetric = keyof typeof DECLARED;

/** A counter of a tile as a sample of a metric. The label of the tile itself is not among `labels`. */
export interface CounterMetric {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** The metric that a counter of a kind of tile belongs to. */
export function metricOf(kind: TileKind, counter: string): CounterMetric {
  for (const [name, { from, values = {} }] of Object.entries<Declared>(DECLARED)) {
    const match = from instanceof RegExp ? from.exec(`${kind}_${counter}`) : null;
    if (match === null) continue;
    const labels = Object.entries(match.groups ?? {});
    return {
      name,
      labels: Object.fromEntries(labels.map(([label, text]) => [label, values[text] ?? text])),
    };
  }
  return { name: `tegula_${kind}_${counter}${GAUGES.has(counter) ? "" : "_total"}`, labels: {} };
}

/** Fills in what a metric's name says. */
function named(name: string, declared: Declared): [string, Metric] {
  const [, unit, total] = /(?:_(seconds|bytes|ratio))?(_total)?$/.exec(name)!;
  const type = total === undefined ? "gauge" : "counter";
  return [name, { type, labels: [], ...declared, ...unit === undefined ? {} : { unit } }];
}

/** Every metric, by its name. */
export const METRICS: Readonly<Record<string, Metric>> = Object.fromEntries([
  ...Object.entries<Declared>(DECLARED).map(([name, declared]) => named(name, declared)),
  ...Object.entries(COUNTERS).flatMap(([kind, { help }]) =>
    Object.entries(help).flatMap(([counter, sentence]) => {
      const { name } = metricOf(kind as TileKind, counter);
      if (Object.hasOwn(DECLARED, name)) return [];
      return [named(name, { labels: ["tile"], help: sentence, from: "the tile region" })];
    })
  ),
]);
