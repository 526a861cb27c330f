// SPDX-License-Identifier: Apache-2.0
/**
 * Every counter of every tile, declared once, with its name and its meaning. A tile counts by index
 * into its region (`tile.ts`). The control socket shows counters by these names; `metrics.ts` has the
 * metric of each.
 */

import type { TileKind, TileReader } from "./tile.ts";

const WAKEUPS = "Times a tile woke up from blocking.";
const BUSY = "Seconds in turns with work, estimated from every 61st turn.";

/** Declares a table of counters and gives each its index. */
function table<const T extends Record<string, string>>(
  help: T,
): { readonly help: T; readonly index: { readonly [K in keyof T]: number } } {
  const index = Object.fromEntries(Object.keys(help).map((name, i) => [name, i]));
  return { help, index: index as { [K in keyof T]: number } };
}

/** Counters of a net tile. A dropped datagram counts once, in `rx_drop_…`, `tx_drop_…` or `xdp_rx_drop_…`. */
export const NET = table({
  rx_frames: "Frames taken from AF_XDP receive rings.",
  rx_socket: "Datagrams received from kernel sockets.",
  rx_delivered: "Datagrams delivered to apps.",
  rx_drop_too_short: "Frame too short for Ethernet, IPv4 and UDP headers.",
  rx_drop_not_ipv4: "EtherType other than IPv4.",
  rx_drop_unknown_vlan: "VLAN tag that matches no interface.",
  rx_drop_ip_version: "IP version other than 4.",
  rx_drop_ip_header_length: "Invalid IPv4 header length, or IPv4 options.",
  rx_drop_ip_checksum: "Wrong IPv4 header checksum.",
  rx_drop_ip_length: "IPv4 total length larger than the frame.",
  rx_drop_fragment: "IPv4 fragment.",
  rx_drop_not_udp: "IP protocol other than UDP.",
  rx_drop_not_local: "Destination is not an address of this host.",
  rx_drop_invalid_source:
    "Source is a multicast, broadcast, loopback or zero address, or an address of this host.",
  rx_drop_udp_length: "UDP length that does not fit the packet.",
  rx_drop_udp_checksum: "Wrong UDP checksum.",
  rx_drop_no_app: "Destination port that no app serves.",
  rx_drop_truncated: "Datagram from a kernel socket that is larger than its buffer.",
  rx_drop_no_buffer: "No free frame or buffer for a datagram from a kernel socket.",
  rx_drop_app_link_full: "The app is too slow: its receive link, or its payload memory, is full.",
  tx_accepted: "Datagrams accepted from apps for transmission.",
  tx_frames: "Frames put on AF_XDP transmit rings.",
  tx_socket: "Datagrams sent through kernel sockets.",
  tx_drop_invalid_descriptor: "Descriptor from an app that points outside the app's memory.",
  tx_drop_port_not_owned: "Source port that the app does not serve.",
  tx_drop_port_zero: "Destination port 0.",
  tx_drop_unsolicited:
    "Destination that sent the app nothing recently and is not in its list of destinations.",
  tx_drop_no_route: "No route to the destination.",
  tx_drop_blackhole: "Route of type blackhole.",
  tx_drop_unreachable: "Route of type unreachable.",
  tx_drop_prohibit: "Route of type prohibit.",
  tx_drop_throw: "Route of type throw.",
  tx_drop_fib_overflow: "The route did not fit into the forwarding table.",
  tx_drop_unsupported_route: "The route has a next hop of a kind that Tegula does not support.",
  tx_drop_source_not_local: "Source is not an address of this host.",
  tx_drop_source_loopback: "Source is a loopback address, and the destination is another host.",
  tx_drop_no_source: "No address of this host could be selected as the source.",
  tx_drop_link_down: "The outgoing interface is down.",
  tx_drop_exceeds_mtu: "Larger than the MTU, and the port has no kernel socket to fragment it.",
  tx_drop_neighbor_unresolved: "The neighbour did not answer in time.",
  tx_drop_arp_queue_full: "The queue of datagrams that wait for a neighbour is full.",
  tx_drop_no_frame: "No free UMEM frame.",
  tx_drop_ring_full: "The AF_XDP transmit ring is full.",
  tx_drop_socket_error: "The kernel socket refused the datagram: a firewall, for example.",
  tx_drop_socket_full: "The buffer of the kernel socket is full.",
  tx_drop_no_socket: "Only the kernel can send the datagram, and the port has no kernel socket.",
  solicits: "Requests to resolve a neighbour, sent to the netlink tile.",
  tx_queued: "Datagrams queued until their neighbour was resolved.",
  link_corrupt: "Invalid cursors or descriptors found in an app's link.",
  frames_free: "UMEM frames that are in no ring, link or queue.",
  // XDP_STATISTICS of all sockets, in its order.
  xdp_rx_drop_kernel:
    "Dropped by the kernel before the AF_XDP receive ring, for example without a free frame.",
  xdp_rx_invalid_descs: "Fill ring descriptors that the kernel refused.",
  xdp_tx_invalid_descs: "Transmit ring descriptors that the kernel refused.",
  xdp_rx_drop_ring_full: "Dropped by the kernel because the AF_XDP receive ring is full.",
  xdp_rx_fill_ring_empty: "Times the kernel found a fill ring empty.",
  xdp_tx_ring_empty: "Times the kernel found a transmit ring empty.",
  wakeups: WAKEUPS,
  busy_seconds: BUSY,
  arp_queue: "Datagrams that wait for their neighbour.",
  frames_in_kernel: "UMEM frames that the kernel has, to receive into or to send.",
});

export const NETLINK = table({
  events: "Netlink notifications applied.",
  dumps: "Netlink dumps started.",
  dumps_interrupted: "Netlink dumps repeated because a change interrupted them (NLM_F_DUMP_INTR).",
  overruns: "Overruns of the netlink socket's buffer (ENOBUFS); each causes a full resync.",
  resyncs: "Tables that were read from the kernel again.",
  audits: "Comparisons of all tables with the kernel.",
  audit_difference_interfaces: "Interfaces that differed from the kernel's in an audit.",
  audit_difference_routes: "Prefixes whose routes differed from the kernel's in an audit.",
  audit_difference_neighbors: "Neighbours that differed from the kernel's in an audit.",
  malformed_messages: "Netlink messages that could not be decoded.",
  unsupported_messages: "Netlink messages about objects that Tegula does not support.",
  interfaces: "Interfaces in the mirror.",
  routes: "Routes in the mirror.",
  neighbors: "Neighbours in the mirror.",
  routes_overflowed: "Routes that currently do not fit into the forwarding table.",
  neighbors_overflowed: "Neighbours that did not fit into the neighbour table.",
  neighbor_table_full:
    "1: Tegula's neighbour table has no more room, or the kernel has just refused a neighbour. 0: neither.",
  unsynced_seconds:
    "Seconds since the mirror was last in sync with the kernel's tables; 0 while it is.",
  solicits_received: "Requests to resolve a neighbour, received from net tiles.",
  solicit_drop_overwritten: "Overwritten before it was read.",
  solicit_drop_duplicate: "The neighbour is known, or was requested a moment ago.",
  solicit_drop_off_link: "The address is not on-link on that interface.",
  solicit_drop_rate_limited: "Over the rate limit.",
  solicit_drop_refused: "The kernel refused to resolve the neighbour.",
  solicits_sent: "Requests to resolve a neighbour, sent to the kernel.",
  wakeups: WAKEUPS,
  busy_seconds: BUSY,
  used_neighbors: "Records of the neighbour table in use.",
  used_next_hops: "Next hop records in use.",
  used_tbl8s: "Tables of the FIB for prefixes longer than /24 in use.",
});

/** Counters of an app tile. Each datagram that is dropped is counted once, in `rx_drop_…` or `tx_drop_…`. */
export const APP = table({
  requests: "Datagrams delivered to the app's code.",
  answers: "Datagrams sent by the app.",
  tx_drop_reply_link_full: "The app's transmit link is full: the app's depth sets how long it is.",
  tx_drop_too_long: "Payload longer than 65,507 bytes, the most over IPv4.",
  errors: "Calls of the app's code that threw an error.",
  rx_drop_refused_source: "Source port is in refuse_sources, or is one that this host serves.",
  rx_drop_rate_limited: "The sender exceeded most_per_second.",
  wakeups: WAKEUPS,
  busy_seconds: BUSY,
});

export const STATUS = table({
  control_requests: "Requests on the control socket.",
  control_errors: "Requests on the control socket that were answered with an error.",
  scrapes: "Requests for the metrics.",
  control_connections: "Open connections to the control socket.",
  metrics_connections: "Open connections to the metrics.",
  connections_displaced: "Connections closed to make room for newer ones.",
  connections_timed_out: "Connections closed because the peer took too long.",
});

/** A histogram among a net tile's counters: a bucket for each bound, one for larger values, and the sum. */
interface HistogramPlace {
  /** Index of its first bucket, and of its sum. */
  readonly at: number;
  readonly sum: number;
  /** Upper bounds, inclusive. */
  readonly bounds: readonly number[];
}

/** Counters of a tile by name come before these. */
const HISTOGRAMS_AT = 256;

function histograms<const Name extends string>(
  bounds: Readonly<Record<Name, readonly number[]>>,
): Readonly<Record<Name, HistogramPlace>> {
  let at = HISTOGRAMS_AT;
  const places = Object.entries<readonly number[]>(bounds).map(([name, bounds]) => {
    const place = { at, sum: at + bounds.length + 1, bounds };
    at = place.sum + 1;
    return [name, place];
  });
  return Object.fromEntries(places);
}

const BATCH_BOUNDS = [1, 2, 4, 8, 16, 32, 64];

export const HISTOGRAMS = histograms({
  // Two for each power of two (`tiles/net/traffic.ts`), in seconds.
  latency: [
    1.024e-6,
    ...Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? 1.5 : 2) * 2 ** (10 + (i >> 1)) / 1e9),
  ],
  rx_batch: BATCH_BOUNDS,
  tx_batch: BATCH_BOUNDS,
});

export const COUNTERS = { netlink: NETLINK, net: NET, app: APP, status: STATUS } as const;

/** Gauges: their values can decrease. */
export const GAUGES: ReadonlySet<string> = new Set([
  "interfaces",
  "routes",
  "neighbors",
  "routes_overflowed",
  "neighbor_table_full",
  "unsynced_seconds",
  "frames_free",
  "frames_in_kernel",
  "arp_queue",
  "used_neighbors",
  "used_next_hops",
  "used_tbl8s",
  "control_connections",
  "metrics_connections",
]);

/** The current values of a tile's counters, by name. */
export function readCounters(kind: TileKind, values: Float64Array): Record<string, number> {
  return Object.fromEntries(Object.keys(COUNTERS[kind].help).map((name, i) => [name, values[i]]));
}

/** A tile whose counters are read. */
export interface CountedTile {
  readonly kind: TileKind;
  readonly name: string;
  readonly reader: TileReader;
  /** The counts of its predecessors in their own regions. */
  readonly past: Float64Array;
}

/** A tile's counters, including those of its predecessors. */
export function totalsOf(
  { kind, reader: { counters }, past }: Omit<CountedTile, "name">,
): Float64Array {
  const names = Object.keys(COUNTERS[kind].help);
  return Float64Array.from(names, (name, i) => counters[i] + (GAUGES.has(name) ? 0 : past[i]));
}

/** A net tile's histogram, including those of its predecessors. */
export function histogramOf(
  { reader: { counters }, past }: Pick<CountedTile, "reader" | "past">,
  { at, sum, bounds }: HistogramPlace,
): { bounds: readonly number[]; counts: Float64Array; sum: number } {
  const counts = counters.slice(at, sum).map((count, i) => count + past[at + i]);
  return { bounds, counts, sum: counters[sum] + past[sum] };
}

/** The counters of each of `tiles`, by tile and by name, including those of predecessors. */
export function countersOf(
  tiles: readonly CountedTile[],
): Record<string, Record<string, number>> {
  return Object.fromEntries(
    tiles.map((tile) => [tile.name, readCounters(tile.kind, totalsOf(tile))]),
  );
}
