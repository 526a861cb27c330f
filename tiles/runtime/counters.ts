/**
 * Every counter of every tile, declared once: its name, and one sentence for who reads it. A tile
 * counts by index into its region (`tile_region.ts`); names, help and JSON come from here.
 */

import type { TileKind } from "./tile.ts";
import type { TileReader } from "./tile_region.ts";

/** Declares a table of counters and gives each its index. */
function table<const T extends Record<string, string>>(
  help: T,
): { readonly help: T; readonly index: { readonly [K in keyof T]: number } } {
  const index = Object.fromEntries(Object.keys(help).map((name, i) => [name, i]));
  return { help, index: index as { [K in keyof T]: number } };
}

/** Counters of a net tile. Those that begin with `drop_` are drops, each counted exactly once. */
export const NET = table({
  rx_frames: "Frames taken from AF_XDP receive rings.",
  rx_socket: "Datagrams taken from the kernel's sockets.",
  rx_delivered: "Datagrams handed to apps.",
  rx_drop_short: "Frames too short for Ethernet, IPv4 and UDP headers.",
  rx_drop_ethertype: "Frames that are not IPv4.",
  rx_drop_vlan: "Frames with a VLAN tag that no interface of ours has.",
  rx_drop_ip_version: "IPv4 headers whose version is not 4.",
  rx_drop_ip_header_length: "IPv4 headers with a bad length, or with options.",
  rx_drop_ip_checksum: "IPv4 headers whose checksum is wrong.",
  rx_drop_ip_total_length: "IPv4 packets whose total length leaves the frame.",
  rx_drop_fragment: "IPv4 fragments.",
  rx_drop_protocol: "IPv4 packets that are not UDP.",
  rx_drop_destination: "Packets to an address that is not local.",
  rx_drop_source: "Packets from a multicast, broadcast, loopback or zero address, or from our own.",
  rx_drop_udp_length: "UDP lengths that do not fit the packet.",
  rx_drop_udp_checksum: "UDP checksums that are wrong.",
  rx_drop_port: "Datagrams to a port that no app serves.",
  rx_drop_truncated: "Datagrams from a kernel socket that did not fit their buffer.",
  rx_drop_no_buffer: "Datagrams from a kernel socket for which no frame or buffer was free.",
  app_link_full:
    "Datagrams dropped because the app's link, or the memory of its payloads, was full.",
  tx_accepted: "Datagrams taken from apps.",
  tx_frames: "Frames put on AF_XDP transmit rings.",
  tx_socket: "Datagrams sent through the kernel's sockets.",
  tx_drop_descriptor: "Descriptors from an app that name memory outside its ring.",
  tx_drop_port: "Datagrams from a port that the app does not serve, or to port 0.",
  tx_drop_unasked:
    "Datagrams to an address that the app has not heard from and is not configured to send to.",
  tx_drop_no_route: "Datagrams with no route to their destination.",
  tx_drop_blackhole: "Datagrams whose route is a blackhole.",
  tx_drop_unreachable: "Datagrams whose route is unreachable.",
  tx_drop_prohibit: "Datagrams whose route is prohibit.",
  tx_drop_throw: "Datagrams whose route is throw.",
  tx_drop_overflow: "Datagrams whose route did not fit netbase.",
  tx_drop_unsupported: "Datagrams whose route has a next hop of a kind not supported.",
  tx_drop_no_source: "Datagrams whose source address is not ours, or could not be chosen.",
  tx_drop_link_down: "Datagrams whose interface is down.",
  tx_drop_mtu:
    "Datagrams larger than the MTU from a port without a kernel socket to fragment them.",
  tx_drop_neighbor_expired: "Datagrams whose neighbour did not resolve in time.",
  tx_drop_hold_full: "Datagrams for an unresolved neighbour when the hold queue was full.",
  tx_drop_no_frame: "Datagrams for which no UMEM frame was free.",
  tx_drop_ring_full: "Datagrams dropped because the transmit ring was full.",
  tx_drop_socket: "Datagrams that the kernel's socket refused.",
  tx_drop_no_socket:
    "Datagrams that only the kernel can send, from a port without a kernel socket.",
  solicits: "Neighbours asked for over the solicit link.",
  held: "Datagrams that waited for a neighbour.",
  link_corrupt: "Cursors or descriptors of an app that could not be true.",
  frames_free: "Frames of the UMEM that are in no ring, link or queue, as of a moment ago.",
  // XDP_STATISTICS, in its order, of all sockets together.
  xdp_rx_dropped:
    "Frames that the kernel dropped before the receive ring, as for want of free frames.",
  xdp_rx_invalid_descs: "Descriptors of fill rings that the kernel refused.",
  xdp_tx_invalid_descs: "Descriptors of transmit rings that the kernel refused.",
  xdp_rx_ring_full: "Frames that the kernel dropped because a receive ring was full.",
  xdp_rx_fill_ring_empty: "Times that the kernel found a fill ring empty.",
  xdp_tx_ring_empty: "Times that the kernel found a transmit ring empty.",
  wakeups: "Times the tile woke from blocking.",
});

/** Counters of the netlink tile. */
export const NETLINK = table({
  events: "Kernel messages applied from the monitor socket.",
  dumps: "Dumps begun.",
  dump_interrupted: "Dumps that the kernel said were interrupted by a change, and were repeated.",
  overruns: "Overruns of the monitor socket's buffer, each followed by a full resync.",
  resyncs: "Full or partial resyncs by mark and sweep.",
  audits: "Comparisons of the whole mirror with the kernel.",
  audit_interfaces: "Interfaces that an audit found not to be as the kernel has them.",
  audit_routes: "Prefixes whose routes an audit found not to be as the kernel has them.",
  audit_neighbors: "Neighbours that an audit found not to be as the kernel has them.",
  malformed: "Messages that the codec refused.",
  unsupported: "Messages about things that Tegula does not support.",
  interfaces: "Interfaces mirrored.",
  routes: "Routes mirrored.",
  neighbors: "Neighbours mirrored.",
  fib_overflow: "Routes that did not fit netbase.",
  neighbor_overflow: "Neighbours that did not fit netbase.",
  solicits_received: "Messages taken from solicit links.",
  solicits_lapped: "Solicit messages overwritten before they were read.",
  solicits_duplicate: "Solicits dropped because the neighbour is known or was asked for just now.",
  solicits_off_link: "Solicits for an address that is not on-link on that interface.",
  solicits_limited: "Solicits dropped by the token bucket.",
  solicits_sent: "Neighbours the kernel was asked to resolve.",
  solicits_failed: "Requests to resolve that the kernel refused.",
  wakeups: "Times the tile woke from blocking.",
});

/** Counters of an app tile. */
export const APP = table({
  requests: "Datagrams given to the app.",
  answers: "Datagrams the app sent.",
  answer_no_room: "Answers that found no room in the reply link.",
  errors: "Calls of the app that threw.",
  refused_source:
    "Datagrams left unanswered for their source port: one of refuse_sources, or served here.",
  refused_rate: "Datagrams left unanswered because their sender had had most_per_second answers.",
  wakeups: "Times the tile woke from blocking.",
});

/** Counters of the status tile. */
export const STATUS = table({
  requests: "Requests on the control socket.",
  errors: "Requests that were answered with an error.",
  scrapes: "Times that the metrics were read.",
  control_connections: "Connections to the control socket that are open.",
  metrics_connections: "Connections to the metrics that are open.",
  connections_displaced: "Connections closed in favour of new ones, as too many were open.",
  connections_timed_out: "Connections closed because the other side took too long.",
});

/** The tables, by kind of tile. */
export const COUNTERS = { netlink: NETLINK, net: NET, app: APP, status: STATUS } as const;

/** Those that go down too: how much there is of something. */
export const GAUGES: ReadonlySet<string> = new Set([
  "interfaces",
  "routes",
  "neighbors",
  "fib_overflow",
  "frames_free",
  "control_connections",
  "metrics_connections",
]);

/** Values of a tile's counters by name, as of now. */
export function readCounters(kind: TileKind, values: Float64Array): Record<string, number> {
  return Object.fromEntries(Object.keys(COUNTERS[kind].help).map((name, i) => [name, values[i]]));
}

/** A tile whose counters are looked at. */
export interface CountedTile {
  readonly kind: TileKind;
  readonly name: string;
  readonly reader: TileReader;
  /** What those before it have counted in regions of their own. */
  readonly past: Float64Array;
}

/** A tile's counters, with what those before it have counted. */
export function totalsOf(
  { kind, reader: { counters }, past }: Omit<CountedTile, "name">,
): Float64Array {
  const names = Object.keys(COUNTERS[kind].help);
  return Float64Array.from(names, (name, i) => counters[i] + (GAUGES.has(name) ? 0 : past[i]));
}

/** The same of each of `tiles`, by its name and theirs. */
export function countersOf(
  tiles: readonly CountedTile[],
): Record<string, Record<string, number>> {
  return Object.fromEntries(
    tiles.map((tile) => [tile.name, readCounters(tile.kind, totalsOf(tile))]),
  );
}
