/**
 * Kinds and names of interfaces, as numbers and words in shared memory and as text outside.
 */

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

/** One of {@linkcode INTERFACE_KINDS}. */
export type InterfaceKind = (typeof INTERFACE_KINDS)[number];

/** Bytes of a name, IFNAMSIZ. */
const NAME_BYTES = 16;

/** Writes an interface's name into the four words at `at`, zero-terminated, cut to 15 bytes. */
export function packName(words: Uint32Array, at: number, name: string): void {
  const bytes = new Uint8Array(NAME_BYTES);
  new TextEncoder().encodeInto(name, bytes.subarray(0, NAME_BYTES - 1));
  words.set(new Uint32Array(bytes.buffer), at);
}

/** Reads what `packName` wrote. */
export function unpackName(words: Uint32Array, at: number): string {
  const bytes = new Uint8Array(words.slice(at, at + NAME_BYTES / 4).buffer);
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
}
