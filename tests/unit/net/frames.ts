// SPDX-License-Identifier: Apache-2.0
/**
 * Frames made slowly and simply, byte by byte from the RFCs: the oracle for the frames that the net
 * tile reads and writes with words and cached headers.
 */

import assert from "node:assert/strict";

/** A VLAN tag. */
export interface Tag {
  readonly protocol: number;
  readonly id: number;
}

/** The fields of a UDP frame. Addresses in host order, MACs as six bytes. */
export interface UdpFrame {
  readonly destinationMac: readonly number[];
  readonly sourceMac: readonly number[];
  readonly tags: readonly Tag[];
  readonly source: number;
  readonly destination: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly payload: Uint8Array;
  /** Absent if they are the defaults, 0 and 64. */
  readonly tos?: number;
  readonly ttl?: number;
}

/** Big-endian bytes of a number. */
export function be(value: number, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** (bytes - 1 - i)) % 256);
}

/** RFC 1071 literally: 16-bit words, big-endian, carries added in, complement. */
export function checksum(bytes: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += bytes[i] * 256 + (i + 1 < bytes.length ? bytes[i + 1] : 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return 0xffff - sum;
}

/** The IPv4 packet with a UDP datagram in it, with both checksums right. */
function packet(frame: UdpFrame): number[] {
  const addresses = [...be(frame.source, 4), ...be(frame.destination, 4)];
  const length = frame.payload.length + 8;
  const udp = [
    ...be(frame.sourcePort, 2),
    ...be(frame.destinationPort, 2),
    ...be(length, 2),
    0,
    0,
    ...frame.payload,
  ];
  const sum = checksum([...addresses, 0, 17, ...be(length, 2), ...udp]);
  udp.splice(6, 2, ...be(sum === 0 ? 0xffff : sum, 2));
  const { tos = 0, ttl = 64 } = frame;
  const ip = [0x45, tos, ...be(length + 20, 2), 0, 0, 0x40, 0, ttl, 17, 0, 0, ...addresses];
  ip.splice(10, 2, ...be(checksum(ip), 2));
  return [...ip, ...udp];
}

/** The frame as it is on the wire. */
export function buildFrame(frame: UdpFrame): Uint8Array {
  return Uint8Array.from([
    ...frame.destinationMac,
    ...frame.sourceMac,
    ...frame.tags.flatMap(({ protocol, id }) => [...be(protocol, 2), ...be(id, 2)]),
    0x08,
    0x00,
    ...packet(frame),
  ]);
}

/** Offset of the IPv4 header of a frame made by `buildFrame`. */
export function ipOffset(frame: UdpFrame): number {
  return 14 + 4 * frame.tags.length;
}

/** Writes the right IPv4 header checksum into `bytes` after a change in the header. */
export function mendIpChecksum(bytes: Uint8Array, ip: number): void {
  bytes.set([0, 0], ip + 10);
  bytes.set(be(checksum(bytes.subarray(ip, ip + 20)), 2), ip + 10);
}

/** The same for UDP, over its length as far as there are bytes. */
export function mendUdpChecksum(bytes: Uint8Array, ip: number): void {
  const length = bytes.subarray(ip + 24, ip + 26);
  const end = ip + 20 + length[0] * 256 + length[1];
  bytes.set([0, 0], ip + 26);
  const sum = checksum([0, 17, ...length, ...bytes.subarray(ip + 12, end)]);
  bytes.set(be(sum === 0 ? 0xffff : sum, 2), ip + 26);
}

/** Reads a frame and asserts that everything in it that can be checked is right. */
export function parseFrame(bytes: Uint8Array): UdpFrame {
  const at = (offset: number, size: number) =>
    bytes.subarray(offset, offset + size).reduce((value, byte) => value * 256 + byte, 0);
  const tags: Tag[] = [];
  let ip = 14;
  for (; at(ip - 2, 2) !== 0x0800; ip += 4) {
    assert.ok([0x8100, 0x88a8].includes(at(ip - 2, 2)), `EtherType ${at(ip - 2, 2)}`);
    tags.push({ protocol: at(ip - 2, 2), id: at(ip, 2) });
  }
  assert.equal(at(ip, 1), 0x45);
  assert.equal(at(ip + 2, 2), bytes.length - ip, "total length is the rest of the frame");
  assert.equal(at(ip + 6, 2), 0x4000, "don't fragment, offset 0");
  assert.equal(at(ip + 9, 1), 17);
  assert.equal(checksum(bytes.subarray(ip, ip + 20)), 0, "IPv4 checksum");
  const udpLength = at(ip + 24, 2);
  assert.equal(udpLength, bytes.length - ip - 20, "UDP length");
  assert.notEqual(at(ip + 26, 2), 0, "there is a UDP checksum");
  const pseudo = [...bytes.subarray(ip + 12, ip + 20), 0, 17, ...be(udpLength, 2)];
  assert.equal(checksum([...pseudo, ...bytes.subarray(ip + 20)]), 0, "UDP checksum");
  return {
    destinationMac: [...bytes.subarray(0, 6)],
    sourceMac: [...bytes.subarray(6, 12)],
    tags,
    source: at(ip + 12, 4),
    destination: at(ip + 16, 4),
    sourcePort: at(ip + 20, 2),
    destinationPort: at(ip + 22, 2),
    payload: bytes.slice(ip + 28),
    ...(at(ip + 1, 1) !== 0 && { tos: at(ip + 1, 1) }),
    ...(at(ip + 8, 1) !== 64 && { ttl: at(ip + 8, 1) }),
  };
}
