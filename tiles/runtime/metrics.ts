// SPDX-License-Identifier: Apache-2.0
/**
 * Every metric, declared once, with its name, its help and its source. The status tile
 * (`../status/metrics.ts`) writes no others; `docs/operating/metrics.md` is generated from this table,
 * and the tests compare `packaging/grafana` and `packaging/prometheus` with it.
 *
 * A counter of a tile (`counters.ts`) is a sample of the metric whose `from` matches it. If none does,
 * it is a metric of its own, with a name derived from the counter's.
 */

import { COUNTERS, GAUGES } from "./counters.ts";
import type { TileKind } from "./tile.ts";

interface Declared {
  /** By default, the name determines it: a counter's ends in `_total`, and the others are gauges. */
  readonly type?: "histogram";
  /** Metrics of an app's tile also have `app`. */
  readonly labels?: readonly string[];
  /** A sentence. */
  readonly help: string;
  /** Its source. An expression: the counters, as `KIND_COUNTER`, that are samples of it. */
  readonly from: string | RegExp;
  /** Replacements for the values of a label. */
  readonly values?: Readonly<Record<string, string>>;
}

export interface Metric extends Omit<Declared, "type"> {
  readonly type: "counter" | "gauge" | "histogram";
  readonly labels: readonly string[];
  /** Unit of the value, with which the name ends. Without one, the value is a number of things. */
  readonly unit?: string;
}

/** The values of `from` that several metrics share. */
const PROC = "/proc, which the master reads every second";
const HEALTH = "the health region";
const TRAFFIC = "the traffic regions of net tiles";
const TILE = "the tile region";
const CUSTOM = "the app's metrics region";

/** Declares metrics that differ only in name and help. */
function table<const Name extends string>(
  shared: Omit<Declared, "help">,
  help: Readonly<Record<Name, string>>,
): Readonly<Record<Name, Declared>> {
  const rows = Object.entries<string>(help).map(([name, help]) => [name, { ...shared, help }]);
  return Object.fromEntries(rows);
}

const DECLARED = {
  ...table({ from: "the setup of the status tile", labels: ["version", "commit", "deno", "v8"] }, {
    tegula_build_info:
      "1. The running version, its commit if known, and the versions of Deno and V8.",
  }),
  ...table({ from: HEALTH }, {
    tegula_config_hash: "Hash of the configuration that is served.",
    tegula_config_last_reload_successful:
      "Whether the last attempt to read and serve a configuration succeeded, 1 or 0.",
    tegula_config_last_reload_success_timestamp_seconds:
      "When the configuration that is served was loaded, since 1970.",
  }),
  ...table({ from: PROC, labels: ["process"] }, {
    process_start_time_seconds: "When the process started, since 1970.",
    process_cpu_seconds_total: "Processor time of the process, user and system.",
    process_resident_memory_bytes: "Resident memory of the process, shared regions included.",
    process_virtual_memory_bytes:
      "Address space of the process. V8 reserves tens of gigabytes that it does not use.",
    process_open_fds: "Open file descriptors of the process; only since Linux 6.2.",
    process_max_fds: "The most file descriptors that the process may have open.",
    process_threads: "Threads of the process.",
  }),
  ...table({ from: `${HEALTH}, and of tiles the control region`, labels: ["process"] }, {
    tegula_restarts_total:
      "Times that a process, or a tile of the appliance, was started again after a failure.",
  }),
  ...table({ from: "the regions for refused calls", labels: ["tile", "call"] }, {
    tegula_refused_calls_total: "Unexpected system calls refused by the tile's seccomp filter.",
  }),
  ...table({ from: HEALTH }, {
    tegula_ready: "1: Tegula is ready. 0: it is starting, draining or unwell.",
  }),
  ...table({ from: HEALTH, labels: ["reason"] }, {
    tegula_unwell: "Number of problems, by the reason; any makes Tegula unwell.",
  }),
  ...table({ from: "netbase", labels: ["state"] }, {
    tegula_sync_state:
      "State of the mirror of the kernel's tables: 1 for the current state, 0 for the others.",
  }),
  ...table({ from: "the control region", labels: ["interface"] }, {
    tegula_interface_xdp: "1: AF_XDP receives the interface's frames. 0: the kernel does.",
  }),
  ...table({ from: TILE, labels: ["tile"] }, {
    tegula_tile_running: "Whether the tile runs, 1 or 0.",
  }),
  ...table({ from: /_busy_seconds$/, labels: ["tile"] }, {
    tegula_tile_busy_seconds_total:
      "Time in which a tile had work, estimated from every 61st turn. Its rate is the busy share.",
  }),
  ...table({ from: /_wakeups$/, labels: ["tile"] }, {
    tegula_tile_wakeups_total: "Times a tile woke up from blocking.",
  }),
  ...table({
    from: /^net_(?<direction>rx|tx)_(?<path>frames|socket)$/,
    labels: ["tile", "direction", "path"],
    values: { frames: "af_xdp" },
  }, {
    tegula_packets_total: "Frames through AF_XDP rings, and datagrams through kernel sockets.",
  }),
  ...table({ from: TRAFFIC, labels: ["interface", "direction"] }, {
    tegula_interface_packets_total: "Frames through the AF_XDP rings of an interface.",
    tegula_interface_bytes_total:
      "Bytes of these frames, from the Ethernet header to the end of the payload.",
  }),
  ...table({ from: TRAFFIC, labels: ["app", "port", "direction"] }, {
    tegula_port_packets_total:
      "Datagrams of a served port, 0.1 s late: rx delivered to the app, tx accepted from it.",
    tegula_port_bytes_total: "Payload bytes of these datagrams.",
    tegula_port_drops_total:
      "Datagrams of a served port that were dropped between the checks and the app, or after it.",
  }),
  ...table({
    from: /^(?:net|app)_(?:xdp_)?(?<direction>rx|tx)_drop_(?<reason>.+)$/,
    labels: ["tile", "direction", "reason"],
  }, {
    tegula_drops_total: "Datagrams and frames dropped, each once, by the reason.",
  }),
  ...table({ from: TILE, labels: ["tile"], type: "histogram" }, {
    tegula_latency_seconds:
      "Time of an answered datagram in Tegula, from the receive ring to the transmit ring.",
  }),
  ...table({ from: TILE, labels: ["tile", "direction"], type: "histogram" }, {
    tegula_batch_packets: "Frames taken from a receive ring, or put on a transmit ring, at once.",
  }),
  ...table({ from: TRAFFIC, labels: ["interface", "queue", "ring"] }, {
    tegula_ring_fill_ratio:
      "Share of a ring's entries that wait: rx for the net tile; tx and fill for the kernel.",
  }),
  ...table({ from: TRAFFIC, labels: ["app", "tile", "net"] }, {
    tegula_link_fill_ratio:
      "Share of the link from a net tile to an app that the app has not passed.",
  }),
  ...table({ from: /^net_arp_queue$/, labels: ["tile"] }, {
    tegula_arp_queue_datagrams: "Datagrams that wait for their neighbour.",
  }),
  ...table({ from: "a constant", labels: ["tile"] }, {
    tegula_arp_queue_limit_datagrams:
      "The most datagrams that may wait for their neighbours in a net tile.",
  }),
  ...table({ from: /^netlink_used_(?<table>.+)$/, labels: ["tile", "table"] }, {
    tegula_table_entries: "Records in use of a table in netbase.",
  }),
  ...table({ from: "a constant", labels: ["table"] }, {
    tegula_table_limit_entries: "Records that a table in netbase has.",
  }),
  ...table({ from: /^netlink_(?<table>interfaces|routes|neighbors)$/, labels: ["tile", "table"] }, {
    tegula_mirror_entries: "Entries mirrored from a table of the kernel.",
  }),
  ...table({ from: /^netlink_audit_difference_(?<table>.+)$/, labels: ["tile", "table"] }, {
    tegula_audit_differences_total:
      "Entries of a table that an audit found to differ from the kernel's.",
  }),
  ...table({ from: /^netlink_solicit_drop_(?<reason>.+)$/, labels: ["tile", "reason"] }, {
    tegula_solicit_drops_total: "Requests to resolve a neighbour that were dropped, by the reason.",
  }),
  ...table({ from: CUSTOM, labels: ["app", "tile", "name"] }, {
    tegula_app_custom_total: "Counters that an app defines, by their name, with labels of its own.",
    tegula_app_custom: "Gauges that an app defines, by their name, with labels of its own.",
  }),
  ...table({ from: CUSTOM, labels: ["app", "tile", "name"], type: "histogram" }, {
    tegula_app_custom_distribution:
      "Histograms that an app defines, by their name, with labels of its own.",
  }),
  ...table({
    from: /^status_(?<listener>control|metrics)_connections$/,
    labels: ["tile", "listener"],
  }, {
    tegula_connections: "Open connections to a listener of the status tile.",
  }),
  ...table({
    from: /^status_connections_(?<reason>displaced|timed_out)$/,
    labels: ["tile", "reason"],
  }, {
    tegula_connections_closed_total:
      "Connections that the status tile closed on its own account, by the reason.",
  }),
};

export type DeclaredMetric = keyof typeof DECLARED;

/** The metric that a counter of a kind of tile is a sample of, and its labels except the tile's. */
export function metricOf(
  kind: TileKind,
  counter: string,
): { readonly name: string; readonly labels: Readonly<Record<string, string>> } {
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

/** Adds what follows from a metric's name. */
function named(name: string, declared: Declared): [string, Metric] {
  const [, unit, total] = /(?:_(seconds|bytes|ratio))?(_total)?$/.exec(name)!;
  const type = total === undefined ? "gauge" : "counter";
  return [name, { type, labels: [], ...declared, ...unit === undefined ? {} : { unit } }];
}

export const METRICS: Readonly<Record<string, Metric>> = Object.fromEntries([
  ...Object.entries<Declared>(DECLARED).map(([name, declared]) => named(name, declared)),
  ...Object.entries(COUNTERS).flatMap(([kind, { help }]) =>
    Object.entries(help).flatMap(([counter, sentence]) => {
      const { name } = metricOf(kind as TileKind, counter);
      if (Object.hasOwn(DECLARED, name)) return [];
      return [named(name, { labels: ["tile"], help: sentence, from: TILE })];
    })
  ),
]);
