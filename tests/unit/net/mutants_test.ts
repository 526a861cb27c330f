// SPDX-License-Identifier: Apache-2.0
/**
 * Good frames with bytes overwritten, cut off or lengthened, a million of them, through the whole path
 * in memory and an app that answers each that reaches it: which must be those, and only those, that a
 * slow reading of RFC 791, RFC 768 and the host's addresses finds a request in; and what leaves is the
 * answer to one of them, right in itself. Nothing is written beside the UMEM, nor into a frame of it that
 * is the kernel's (`fakes.ts`).
 */

import assert from "node:assert/strict";
import type { App } from "../../../tiles/app/contract.ts";
import { NET } from "../../../tiles/runtime/counters.ts";
import type { Datagram } from "./fakes.ts";
import { be, buildFrame, checksum, mendIpChecksum, mendUdpChecksum, parseFrame } from "./frames.ts";
import { echo, PEER, PLACES, serve } from "./places.ts";
import { ETH0, ip, MARGIN_BYTE, REQUEST, type Room, SLOT, VLAN } from "./room.ts";
import { SEED } from "../../seed.ts";
import { Random } from "../random.ts";

/** In each of the tests. */
const MUTANTS = 250_000;
const MOST_AT_ONCE = 8;
const IP = 14;
const UDP = 34;
const GATEWAY = ip("198.18.0.254");
const VLAN_TAG = { protocol: 0x8100, id: 100 };

/** Frames that are changed, how often each of 16, and where their IPv4 header begins. */
const ORIGINALS = [
  { times: 8, frame: REQUEST, ip: IP },
  { times: 3, frame: { ...REQUEST, tags: [VLAN_TAG] }, ip: IP + 4 },
  { times: 2, frame: { ...REQUEST, payload: new Uint8Array(0) }, ip: IP },
  { times: 2, frame: { ...REQUEST, source: ip("8.8.8.8"), destination: ip("198.19.0.1") }, ip: IP },
  { times: 1, frame: { ...REQUEST, payload: new Uint8Array(900).map((_, i) => i) }, ip: IP },
].flatMap(({ times, frame, ip }) => Array(times).fill({ bytes: buildFrame(frame), ip }));

/** What an app sends that does not send back what it got. */
const OWN = new TextEncoder().encode("something else");

/** An app, and the host that it is on. */
interface Case {
  readonly name: string;
  readonly receive: App["receive"];
  /** The payload of its answer. */
  answer(payload: Uint8Array): Uint8Array;
  /** Whether what came without a UDP checksum goes back without. */
  readonly bare: boolean;
  /** Whether a bare pseudo-header sum is a right UDP checksum. */
  readonly partialChecksums: boolean;
}

const CASES: readonly Case[] = [
  {
    name: "by what they say",
    receive: echo,
    answer: (all) => all,
    bare: true,
    partialChecksums: false,
  },
  {
    name: "by something else",
    receive(requests, out) {
      while (requests.next()) {
        const at = out.reserve(OWN.length);
        out.bytes.set(OWN, at);
        out.reply(at, OWN.length);
      }
    },
    ...{ answer: () => OWN, bare: false, partialChecksums: true },
  },
];

/** One of `ORIGINALS`, changed; checksums are mended in some, so that the change goes further. */
function mutate(random: Random): Uint8Array {
  const { bytes, ip } = ORIGINALS[random.below(ORIGINALS.length)];
  const length = random.below(4) === 0 ? random.below(bytes.length + 20) : bytes.length;
  const frame = new Uint8Array(length);
  frame.set(bytes.subarray(0, length));
  for (let times = random.below(4); times > 0 && length > 12; times--) {
    const at = 12 + random.below(Math.min(length, 62) - 12);
    frame[at] = random.below(2) === 0 ? frame[at] ^ 1 << random.below(8) : random.below(256);
  }
  if (random.below(8) > 0 && length >= ip + 20) mendIpChecksum(frame, ip);
  const udp = random.below(8);
  if (udp < 5 && length >= ip + 28) mendUdpChecksum(frame, ip);
  if (udp === 5 && length >= ip + 28) frame.set(be(bareSum(frame, ip), 2), ip + 26);
  return frame;
}

function u16(bytes: Uint8Array, at: number): number {
  return bytes[at] * 256 + bytes[at + 1];
}

function u32(bytes: Uint8Array, at: number): number {
  return u16(bytes, at) * 65536 + u16(bytes, at + 2);
}

/** What the pseudo header of a packet, with its UDP length in it, sums to. */
function bareSum(bytes: Uint8Array, ip: number): number {
  return 0xffff -
    checksum([...bytes.subarray(ip + 12, ip + 20), 0, 17, bytes[ip + 24], bytes[ip + 25]]);
}

const OURS = ["198.18.0.1", "198.19.0.1", "203.0.113.1", "192.0.2.1"].map(ip);

function isOurs(address: number): boolean {
  return OURS.includes(address) || (address >>> 24 === 127 && address !== ip("127.255.255.255"));
}

/** Whether a request can come from there: not from us, a broadcast address, or what is no host's. */
function isHost(address: number): boolean {
  const net = address >>> 24;
  const broadcast = OURS.some((own) => own + 254 === address);
  return net > 0 && net < 224 && net !== 127 && !isOurs(address) && !broadcast;
}

/** A request, as its answer must be. */
interface Expected {
  readonly answer: string;
  /** Whether it may have no UDP checksum. */
  readonly bare: boolean;
  /** Whether the way back is known, so that it must leave at once. */
  readonly must: boolean;
}

/** The request in a frame that came in on eth0; null: none. */
function requestIn(bytes: Uint8Array, { partialChecksums, answer, bare }: Case): Expected | null {
  if (bytes.length < UDP + 8) return null;
  let ip = IP;
  let device = ETH0;
  for (let tags = 0; u16(bytes, ip - 2) !== 0x0800; tags++, ip += 4) {
    const tagged = [0x8100, 0x88a8].includes(u16(bytes, ip - 2));
    if (!tagged || tags === 2 || bytes.length < ip + 4 + 28) return null;
    const id = u16(bytes, ip) & 0xfff;
    if (id === 0) continue;
    if (device === VLAN || id !== VLAN_TAG.id || u16(bytes, ip - 2) !== 0x8100) return null;
    device = VLAN;
  }
  const total = u16(bytes, ip + 2);
  if (bytes[ip] !== 0x45 || checksum(bytes.subarray(ip, ip + 20)) !== 0) return null;
  if (total < 28 || total > bytes.length - ip) return null;
  if ((u16(bytes, ip + 6) & 0x3fff) !== 0 || bytes[ip + 9] !== 17) return null;
  const [source, destination] = [u32(bytes, ip + 12), u32(bytes, ip + 16)];
  if (!isHost(source) || !isOurs(destination)) return null;
  const [sourcePort, destinationPort] = [u16(bytes, ip + 20), u16(bytes, ip + 22)];
  const length = u16(bytes, ip + 24);
  if (destinationPort !== 7 || length < 8 || length > total - 20) return null;
  const sum = u16(bytes, ip + 26);
  if (sum !== 0 && !(partialChecksums && sum === bareSum(bytes, ip))) {
    const udp = bytes.subarray(ip + 12, ip + 20 + length);
    if (checksum([0, 17, ...be(length, 2), ...udp]) !== 0) return null;
  }
  const payload = bytes.subarray(ip + 28, ip + 20 + length);
  const isNear = OURS.some((own) => (source ^ own) >>> 8 === 0);
  return {
    answer: key({
      ...{ source: destination, destination: source, payload: answer(payload) },
      ...{ sourcePort: destinationPort, destinationPort: sourcePort },
    }),
    bare: bare && sum === 0,
    must: sourcePort !== 0 && destination >>> 24 !== 127 && (source === PEER || !isNear),
  };
}

/** All that an answer must have in common with what was expected. */
function key(datagram: Datagram): string {
  const { source, destination, sourcePort, destinationPort, payload } = datagram;
  return `${source}:${sourcePort} ${destination}:${destinationPort} ${payload.toHex()}`;
}

/** What a frame that left answers, all in it being right. One without a UDP checksum gets it first. */
function readSent(bytes: Uint8Array): { answer: string; bare: boolean } {
  const ip = u16(bytes, IP - 2) === 0x0800 ? IP : IP + 4;
  const bare = u16(bytes, ip + 26) === 0;
  if (bare) mendUdpChecksum(bytes, ip);
  return { answer: key(parseFrame(bytes)), bare };
}

/** Takes each of `sent` out of what is expected, where it must be. */
function settle(expected: Expected[], sent: { answer: string; bare: boolean }[]): void {
  for (const { answer, bare } of sent) {
    const at = expected.findIndex((one) => one.answer === answer && (one.bare || !bare));
    assert.ok(at >= 0, `nobody asked for ${answer}${bare ? ", without a checksum" : ""}`);
    expected.splice(at, 1);
  }
  assert.deepEqual(expected.filter(({ must }) => must), [], "not answered");
}

const OUTCOMES = Object.entries(NET.index)
  .filter(([name]) => /^rx_(drop_.*|delivered)$/.test(name))
  .map(([, index]) => index);

/** How many frames were counted as delivered or dropped. */
function outcomes(room: Room): number {
  return OUTCOMES.reduce((sum, index) => sum + room.counters[index], 0);
}

for (const place of PLACES) {
  for (const each of CASES) {
    Deno.test(`${place}: of mutated frames those that ask are answered, ${each.name}, and no others`, async () => {
      const { receive, partialChecksums } = each;
      const { room, run } = await serve(place, receive, { partialChecksums });
      room.neighbor(GATEWAY);
      const free = room.freeFrames();
      const random = new Random(SEED);
      let asked = 0;
      for (let done = 0, round = 0; done < MUTANTS; round++) {
        const frames = Array.from({ length: 1 + random.below(MOST_AT_ONCE) }, () => mutate(random));
        done += frames.length;
        const before = [outcomes(room), room.counters[NET.index.rx_delivered]];
        for (const frame of frames) assert.ok(room.xsk.deliver(SLOT.eth0, frame));
        const expected = frames.map((frame) => requestIn(frame, each)).filter((one) =>
          one !== null
        );
        asked += expected.length;
        const counts = [frames.length, expected.length];
        try {
          run();
          const after = [outcomes(room), room.counters[NET.index.rx_delivered]];
          assert.deepEqual(after.map((count, i) => count - before[i]), counts, "the counters");
          const sent = Object.values(SLOT).flatMap((slot) => room.xsk.sent(slot)).map(readSent);
          const byKernel = room.udp.sent.splice(0);
          settle(expected, [
            ...sent,
            ...byKernel.map((datagram) => ({ answer: key(datagram), bare: false })),
          ]);
        } catch (error) {
          console.log(`round ${round}:`, ...frames.map((frame) => `\n${frame.toHex()}`));
          throw error;
        }
        if (round % 1000 === 0) room.pass(1000);
      }
      room.pass(5000);
      run();
      const { accepted, accounted } = room.balance();
      assert.deepEqual([accepted, accounted], [asked, asked], "sent + dropped = accepted");
      assert.equal(room.freeFrames(), free);
      assert.ok(asked > MUTANTS / 4 && asked < MUTANTS / 4 * 3, `${asked} asked`);
      assert.ok(room.margins.every((margin) => margin.every((byte) => byte === MARGIN_BYTE)));
    });
  }
}
