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

export type MetricType = "counter" | "gauge" | "histogram";

/** A metric as Prometheus sees it. */
export interface Metric {
  readonly type: MetricType;
  /** Metrics of an app's tile also have `app`. */
  readonly labels: readonly string[];
  /** A sentence. */
  readonly help: string;
  /** Of the value; none: it is a number of things. */
  readonly unit?: "seconds" | "bytes" | "ratio";
  /** What it is read from. An expression: the counters, as `KIND_COUNTER`, that are samples of it. */
  readonly from: string | RegExp;
  /** What counters have for a label's value where that is to be another word. */
  readonly values?: Readonly<Record<string, string>>;
}

/** The values of `from` that are more than one metric's. */
const PROC = "/proc, which the master reads every second";
const HEALTH = "the health region";
const TRAFFIC = "the traffic regions of net tiles";
const HISTOGRAM = "the tile region";
const CUSTOM = "the app's metrics region";

const DECLARED = {
  tegula_build_info: {
    type: "gauge",
    labels: ["version", "commit", "deno", "v8"],
    help: "1. What runs: the version, the commit if known, and those of Deno and V8.",
    from: "the setup of the status tile",
  },
  tegula_config_hash: {
    type: "gauge",
    labels: [],
    help: "Hash of the configuration that is served.",
    from: HEALTH,
  },
  tegula_config_last_reload_successful: {
    type: "gauge",
    labels: [],
    help: "Whether the last attempt to read and serve a configuration succeeded, 1 or 0.",
    from: HEALTH,
  },
  tegula_config_last_reload_success_timestamp_seconds: {
    type: "gauge",
    labels: [],
    help: "When the configuration that is served was loaded, since 1970.",
    unit: "seconds",
    from: HEALTH,
  },
  process_start_time_seconds: {
    type: "gauge",
    labels: ["process"],
    help: "When the process started, since 1970.",
    unit: "seconds",
    from: PROC,
  },
  process_cpu_seconds_total: {
    type: "counter",
    labels: ["process"],
    help: "Processor time of the process, user and system.",
    unit: "seconds",
    from: PROC,
  },
  process_resident_memory_bytes: {
    type: "gauge",
    labels: ["process"],
    help: "Resident memory of the process, shared regions included.",
    unit: "bytes",
    from: PROC,
  },
  process_virtual_memory_bytes: {
    type: "gauge",
    labels: ["process"],
    help: "Address space of the process. V8 reserves tens of gigabytes that it does not use.",
    unit: "bytes",
    from: PROC,
  },
  process_open_fds: {
    type: "gauge",
    labels: ["process"],
    help: "Open file descriptors of the process; only since Linux 6.2.",
    from: PROC,
  },
  process_max_fds: {
    type: "gauge",
    labels: ["process"],
    help: "The most file descriptors that the process may have open.",
    from: PROC,
  },
  process_threads: {
    type: "gauge",
    labels: ["process"],
    help: "Threads of the process.",
    from: PROC,
  },
  tegula_restarts_total: {
    type: "counter",
    labels: ["process"],
    help: "Times that a process, or a tile of the appliance, was started again after a failure.",
    from: `${HEALTH}, and of tiles the control region`,
  },
  tegula_refused_calls_total: {
    type: "counter",
    labels: ["tile", "call"],
    help: "System calls refused by the tile's seccomp filter that nobody expected.",
    from: "the regions for refused calls",
  },
  tegula_ready: {
    type: "gauge",
    labels: [],
    help: "1: Tegula is ready. 0: it is starting, draining or unwell.",
    from: HEALTH,
  },
  tegula_unwell: {
    type: "gauge",
    labels: ["reason"],
    help: "How many things are wrong, by the reason; any makes Tegula unwell.",
    from: HEALTH,
  },
  tegula_sync_state: {
    type: "gauge",
    labels: ["state"],
    help: "State of the mirror of the kernel's tables: 1 for the current state, 0 for the others.",
    from: "netbase",
  },
  tegula_interface_xdp: {
    type: "gauge",
    labels: ["interface"],
    help: "1: AF_XDP receives the interface's frames. 0: the kernel does.",
    from: "the control region",
  },
  tegula_tile_running: {
    type: "gauge",
    labels: ["tile"],
    help: "Whether the tile runs, 1 or 0.",
    from: "the tile region",
  },
  tegula_tile_busy_seconds_total: {
    type: "counter",
    labels: ["tile"],
    help:
      "Time in which a tile had work, estimated from every 61st turn. Its rate is the busy share.",
    unit: "seconds",
    from: /_busy_seconds$/,
  },
  tegula_tile_wakeups_total: {
    type: "counter",
    labels: ["tile"],
    help: "Times a tile woke up from blocking.",
    from: /_wakeups$/,
  },
  tegula_packets_total: {
    type: "counter",
    labels: ["tile", "direction", "path"],
    help: "Frames through AF_XDP rings, and datagrams through kernel sockets.",
    from: /^net_(?<direction>rx|tx)_(?<path>frames|socket)$/,
    values: { frames: "af_xdp" },
  },
  tegula_interface_packets_total: {
    type: "counter",
    labels: ["interface", "direction"],
    help: "Frames through the AF_XDP rings of an interface.",
    from: TRAFFIC,
  },
  tegula_interface_bytes_total: {
    type: "counter",
    labels: ["interface", "direction"],
    help: "Bytes of these frames, from the Ethernet header to the end of the payload.",
    unit: "bytes",
    from: TRAFFIC,
  },
  tegula_port_packets_total: {
    type: "counter",
    labels: ["app", "port", "direction"],
    help: "Datagrams of a served port, 0.1 s late: rx delivered to the app, tx accepted from it.",
    from: TRAFFIC,
  },
  tegula_port_bytes_total: {
    type: "counter",
    labels: ["app", "port", "direction"],
    help: "Payload bytes of these datagrams.",
    unit: "bytes",
    from: TRAFFIC,
  },
  tegula_port_drops_total: {
    type: "counter",
    labels: ["app", "port", "direction"],
    help:
      "Datagrams of a served port that were dropped between the checks and the app, or after it.",
    from: TRAFFIC,
  },
  tegula_drops_total: {
    type: "counter",
    labels: ["tile", "direction", "reason"],
    help: "Datagrams and frames dropped, each once, by the reason.",
    from: /^(?:net|app)_(?:xdp_)?(?<direction>rx|tx)_drop_(?<reason>.+)$/,
  },
  tegula_latency_seconds: {
    type: "histogram",
    labels: ["tile"],
    help: "Time of an answered datagram in Tegula, from the receive ring to the transmit ring.",
    unit: "seconds",
    from: HISTOGRAM,
  },
  tegula_batch_packets: {
    type: "histogram",
    labels: ["tile", "direction"],
    help: "Frames taken from a receive ring, or put on a transmit ring, at once.",
    from: HISTOGRAM,
  },
  tegula_ring_fill_ratio: {
    type: "gauge",
    labels: ["interface", "queue", "ring"],
    help: "Share of a ring's entries that wait: rx for the net tile; tx and fill for the kernel.",
    unit: "ratio",
    from: TRAFFIC,
  },
  tegula_link_fill_ratio: {
    type: "gauge",
    labels: ["app", "tile", "net"],
    help: "Share of the link from a net tile to an app that the app has not passed.",
    unit: "ratio",
    from: TRAFFIC,
  },
  tegula_arp_queue_datagrams: {
    type: "gauge",
    labels: ["tile"],
    help: "Datagrams that wait for their neighbour.",
    from: /^net_arp_queue$/,
  },
  tegula_arp_queue_limit_datagrams: {
    type: "gauge",
    labels: ["tile"],
    help: "The most datagrams that may wait for their neighbours in a net tile.",
    from: "a constant",
  },
  tegula_table_entries: {
    type: "gauge",
    labels: ["tile", "table"],
    help: "Records in use of a table in netbase.",
    from: /^netlink_used_(?<table>.+)$/,
  },
  tegula_table_limit_entries: {
    type: "gauge",
    labels: ["table"],
    help: "Records that a table in netbase has.",
    from: "a constant",
  },
  tegula_mirror_entries: {
    type: "gauge",
    labels: ["tile", "table"],
    help: "Entries mirrored from a table of the kernel.",
    from: /^netlink_(?<table>interfaces|routes|neighbors)$/,
  },
  tegula_audit_differences_total: {
    type: "counter",
    labels: ["tile", "table"],
    help: "Entries of a table that an audit found to differ from the kernel's.",
    from: /^netlink_audit_difference_(?<table>.+)$/,
  },
  tegula_solicit_drops_total: {
    type: "counter",
    labels: ["tile", "reason"],
    help: "Requests to resolve a neighbour that were dropped, by the reason.",
    from: /^netlink_solicit_drop_(?<reason>.+)$/,
  },
  tegula_app_custom_total: {
    type: "counter",
    labels: ["app", "tile", "name"],
    help: "Counters that an app defines, by their name, with labels of its own.",
    from: CUSTOM,
  },
  tegula_app_custom: {
    type: "gauge",
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
    type: "gauge",
    labels: ["tile", "listener"],
    help: "Open connections to a listener of the status tile.",
    from: /^status_(?<listener>control|metrics)_connections$/,
  },
  tegula_connections_closed_total: {
    type: "counter",
    labels: ["tile", "reason"],
    help: "Connections that the status tile closed on its own account, by the reason.",
    from: /^status_connections_(?<reason>displaced|timed_out)$/,
  },
} as const satisfies Record<string, Metric>;

/** Metrics that are written by name. */
export type DeclaredMetric = keyof typeof DECLARED;

/** A counter of a tile as a sample of a metric. The label of the tile itself is not among `labels`. */
export interface CounterMetric {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** The metric that a counter of a kind of tile belongs to. */
export function metricOf(kind: TileKind, counter: string): CounterMetric {
  for (const [name, { from, values = {} }] of Object.entries<Metric>(DECLARED)) {
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

/** Every metric, by its name. */
export const METRICS: Readonly<Record<string, Metric>> = {
  ...DECLARED,
  ...Object.fromEntries(
    Object.entries(COUNTERS).flatMap(([kind, { help }]) =>
      Object.entries(help).flatMap(([counter, sentence]): [string, Metric][] => {
        const { name } = metricOf(kind as TileKind, counter);
        if (Object.hasOwn(DECLARED, name)) return [];
        const type = GAUGES.has(counter) ? "gauge" : "counter";
        return [[name, { type, labels: ["tile"], help: sentence, from: "the tile region" }]];
      })
    ),
  ),
};
