/** Signatures first; the implementation follows. @module */

/** Kinds of interface: the kernel's IFLA_INFO_KIND where there is one. The index is stored. */
export const INTERFACE_KINDS = [
  "other",
  "ethernet",
  "loopback",
  "vlan",
  "veth",
  "bond",
  "bridge",
  "macvlan",
  "ipvlan",
  "tun",
  "dummy",
  "gre",
  "vxlan",
  "vrf",
  "team",
  "wireguard",
] as const;

export type InterfaceKind = (typeof INTERFACE_KINDS)[number];

/** Interface flags (`ifi_flags`, linux/if.h). */
export const IFF_UP = 0x1;
export const IFF_BROADCAST = 0x2;
export const IFF_LOOPBACK = 0x8;
export const IFF_POINTOPOINT = 0x10;
export const IFF_RUNNING = 0x40;
export const IFF_NOARP = 0x80;
export const IFF_MULTICAST = 0x1000;
export const IFF_LOWER_UP = 0x10000;

/** An interface as RTM_NEWLINK tells it. Mutable, so that a decoder can reuse one. */
export interface InterfaceLink {
  ifindex: number;
  name: string;
  kind: InterfaceKind;
  /** IFF_* */
  flags: number;
  mtu: number;
  operstate: number;
  /** MAC: bytes 0–3 as one little-endian word, and bytes 4–5 likewise. */
  macHead: number;
  macTail: number;
  link: number;
  master: number;
  vlanId: number;
  /** 0x8100 or 0x88a8; 0: not a VLAN device */
  vlanProtocol: number;
}

/** IFA_F_SECONDARY */
export const IFA_F_SECONDARY = 1;

/** An interface's IPv4 address as RTM_NEWADDR tells it, all in host order. */
export interface InterfaceAddress {
  /** IFA_LOCAL */
  local: number;
  /** IFA_ADDRESS: the peer on a point-to-point link, else as `local` */
  address: number;
  prefixLength: number;
  /** IFA_BROADCAST; 0: none */
  broadcast: number;
  scope: number;
  secondary: boolean;
}

/** The writer's side. All changes show with the next store, and to `generation` with `commit()`. */
export declare class InterfaceWriter {
  /** Adds or changes an interface. False: no room, counted in `full`. */
  set(link: InterfaceLink): boolean;
  /** Removes an interface with its addresses. */
  remove(ifindex: number): boolean;
  /**
   * Adds or changes an address, put where the kernel puts it among the interface's (narrow scopes
   * first, secondaries last). False: no such interface, or no room.
   */
  setAddress(ifindex: number, address: InterfaceAddress): boolean;
  /** Removes an address; identified by local address, prefix length and peer. */
  removeAddress(ifindex: number, address: InterfaceAddress): boolean;
  /** A dump of links, then one of addresses, follow; what is not in them goes with `endSync`. */
  beginSync(): void;
  endSync(): void;
  /** Of interface `ifindex`, null when there is none. Allocates. */
  get(ifindex: number): (InterfaceLink & { addresses: InterfaceAddress[] }) | null;
  /** All interface indices, ascending. */
  indices(): number[];
  /** Whether `address` is one of ours, on any interface. */
  readonly size: number;
  readonly full: number;
}

/**
 * The readers' side. A *record* is a number that names what `find` found; it is good until the
 * reader's next quiescent state.
 */
export declare class InterfaceReader {
  /** Record of `ifindex`, or -1. */
  find(ifindex: number): number;
  ifindex(record: number): number;
  flags(record: number): number;
  /** Administratively up and with carrier (IFF_UP and IFF_LOWER_UP). */
  isUp(record: number): boolean;
  isLoopback(record: number): boolean;
  kind(record: number): InterfaceKind;
  mtu(record: number): number;
  operstate(record: number): number;
  macHead(record: number): number;
  macTail(record: number): number;
  link(record: number): number;
  master(record: number): number;
  /** VLAN protocol << 16 | id; 0: not a VLAN device */
  vlan(record: number): number;
  name(record: number): string;
  addressCount(record: number): number;
  /** Of its `i`-th address, in the kernel's order, host order. */
  local(record: number, i: number): number;
  address(record: number, i: number): number;
  broadcast(record: number, i: number): number;
  prefixLength(record: number, i: number): number;
  scope(record: number, i: number): number;
  isSecondary(record: number, i: number): boolean;
  /** Records of all interfaces by ascending index. Allocates. */
  records(): number[];
}
