// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import {
  fold,
  IP_AT,
  Packet,
  PACKET_WORDS,
  PAYLOAD_AT,
  sumWords,
  swap16,
} from "../../../tiles/net/rings.ts";
import { layout, LINK_BYTES, RouteCache } from "../../../tiles/net/route_cache.ts";
import { headers } from "../../../tiles/net/tx.ts";
import fc from "../property.ts";
import { be, buildFrame, checksum, parseFrame, type UdpFrame } from "./frames.ts";

/** Fields of a frame; TOS and TTL are left out where they are the usual. */
const REQUIRED = [
  ...["destinationMac", "sourceMac", "tags", "source", "destination", "sourcePort"] as const,
  ...["destinationPort", "payload"] as const,
];

/** Arbitrary frames of ours to send. */
const frames: fc.Arbitrary<UdpFrame> = fc.record({
  destinationMac: fc.array(fc.nat(255), { minLength: 6, maxLength: 6 }),
  sourceMac: fc.array(fc.nat(255), { minLength: 6, maxLength: 6 }),
  tags: fc.array(
    fc.record(
      { protocol: fc.constantFrom(0x8100, 0x88a8), id: fc.integer({ min: 1, max: 4094 }) },
      { noNullPrototype: true },
    ),
    { maxLength: 2 },
  ),
  source: fc.nat(0xffffffff),
  destination: fc.nat(0xffffffff),
  sourcePort: fc.nat(65535),
  destinationPort: fc.nat(65535),
  payload: fc.uint8Array({ maxLength: 300 }),
  tos: fc.integer({ min: 1, max: 255 }),
  ttl: fc.integer({ min: 0, max: 255 }).filter((ttl) => ttl !== 64),
}, { noNullPrototype: true, requiredKeys: [...REQUIRED] });

/** The frame made with the route cache, as the tile makes it. */
function build(frame: UdpFrame, payloadAt: number): Uint8Array {
  const cache = new RouteCache(heapView(256), 1);
  const e = cache.insert(frame.destination | 0, frame.source | 0, 0);
  cache.setAddresses(e, frame.source | 0, frame.destination | 0);
  const link = [
    ...frame.destinationMac,
    ...frame.sourceMac,
    ...frame.tags.flatMap(({ protocol, id }) => [...be(protocol, 2), ...be(id, 2)]),
    0x08,
    0x00,
  ];
  const begin = LINK_BYTES - link.length;
  link.forEach((byte, i) => cache.view.setUint8(((e + layout.Route.link) << 2) + begin + i, byte));

  const memory = new Uint8Array(payloadAt + frame.payload.length);
  memory.set(frame.payload, payloadAt);
  const words = new Int32Array(256).fill(-1);
  const length = frame.payload.length;
  const at = 64;
  const packet = new Int32Array(PACKET_WORDS);
  packet[Packet.offset] = payloadAt;
  packet[Packet.length] = length;
  packet[Packet.ports] = (frame.destinationPort << 16) | frame.sourcePort;
  packet[Packet.route] = e;
  packet[Packet.tosTtl] = ((frame.tos ?? 0) << 8) | (frame.ttl ?? 64);
  packet[Packet.frame] = at;
  headers.copyPayloads(new DataView(memory.buffer), words, packet, 1);
  headers.writeHeaders(words, cache.words, packet, 0);
  return new Uint8Array(words.buffer).slice(at + begin, at + PAYLOAD_AT + length);
}

Deno.test("sumWords() agrees with RFC 1071 as it is written, whatever the length", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 2000 }), fc.nat(7), (bytes, at) => {
    const memory = new Uint8Array(4 * at + bytes.length + 8 & ~3).fill(0xa5);
    memory.set(bytes, 4 * at);
    const sum = fold(sumWords(new Int32Array(memory.buffer), at, bytes.length));
    assert.equal(swap16(~sum & 0xffff), checksum(bytes));
  }));
});

Deno.test("sumWords() does not overflow on the longest packet of ones", () => {
  const bytes = new Uint8Array(65_536).fill(0xff);
  const sum = fold(sumWords(new Int32Array(bytes.buffer), 0, 65_535));
  assert.equal(swap16(~sum & 0xffff), checksum(bytes.subarray(0, 65_535)));
});

Deno.test("frames built from cached headers are those built byte by byte", () => {
  fc.assert(fc.property(frames, fc.nat(7), (frame, payloadAt) => {
    assert.deepEqual(build(frame, payloadAt), buildFrame(frame));
  }));
});

Deno.test("frames built from cached headers parse to what was sent", () => {
  fc.assert(fc.property(frames, (frame) => {
    assert.deepEqual(parseFrame(build(frame, 0)), frame);
  }));
});

Deno.test("a UDP checksum that comes to zero is sent as its other form", () => {
  const frame: UdpFrame = {
    destinationMac: [2, 0, 0, 0, 0, 1],
    sourceMac: [2, 0, 0, 0, 0, 2],
    tags: [],
    source: 0xc6120001,
    destination: 0xc6120002,
    sourcePort: 7,
    destinationPort: 40_000,
    payload: new Uint8Array(2),
  };
  // The payload that makes the sum come to zero is the checksum of the packet without one.
  const plain = buildFrame(frame);
  const payload = Uint8Array.from(plain.subarray(14 + 26, 14 + 28));
  const built = build({ ...frame, payload }, 0);
  assert.deepEqual([...built.subarray(14 + 26, 14 + 28)], [0xff, 0xff]);
  parseFrame(built);
});

Deno.test("everything but the Ethernet header is aligned in an outgoing frame", () => {
  assert.equal(IP_AT % 4, 0);
  assert.equal(PAYLOAD_AT % 4, 0);
  assert.equal(IP_AT, LINK_BYTES);
});

Deno.test("the route cache finds what was inserted and nothing else", () => {
  const key = fc.tuple(fc.nat(40), fc.nat(3), fc.nat(2));
  fc.assert(fc.property(fc.array(key, { maxLength: 60 }), (keys) => {
    const cache = new RouteCache(heapView(1024), 1);
    const owner = new Map<number, string>();
    for (const [destination, source, member] of keys) {
      const name = `${destination} ${source} ${member}`;
      const found = cache.find(destination, source, member);
      if (found >= 0) assert.equal(owner.get(found), name);
      else owner.set(cache.insert(destination, source, member), name);
      assert.ok(cache.find(destination, source, member) >= 0, "found right after it was made");
    }
    cache.clear();
    for (const [destination, source, member] of keys) {
      assert.equal(cache.find(destination, source, member), -1, "void after a change of epoch");
    }
  }));
});
