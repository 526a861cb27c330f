// SPDX-License-Identifier: Apache-2.0
/** What a net tile shows of what passes: the ring, its content, and the file that is made of it. */

import assert from "node:assert/strict";
import { beginCapture } from "../../../cli/capture.ts";
import { heapView } from "../../../ffi/region.ts";
import {
  CAPTURE_BYTES,
  CAPTURE_RECORDS,
  type Captured,
  CaptureFlag,
  CaptureReader,
  CaptureWriter,
  MOST_CAPTURED,
} from "../../../tiles/net/capture.ts";
import { CaptureMode, ControlWriter } from "../../../tiles/runtime/control.ts";
import { NET } from "../../../tiles/runtime/counters.ts";
import { appNames, captureStreams, parseUdp } from "../../../tiles/status/capture.ts";
import fc from "../property.ts";
import { buildFrame } from "./frames.ts";
import { ETH0, ETH1, ip, REQUEST, Room, SLOT, VLAN } from "./room.ts";

/** Everything that is in a ring. */
function drain(reader: CaptureReader): Captured[] {
  const records: Captured[] = [];
  for (let record = reader.next(); record !== null; record = reader.next()) records.push(record);
  return records;
}

/** Writes a record whose bytes all are `value`. */
function write(writer: CaptureWriter, value: number, size: number): void {
  const length = Math.min(size, MOST_CAPTURED);
  writer.bytes.fill(value, writer.at, writer.at + length);
  writer.publish(value, value, value, size, value * 1000 + 0.25);
}

Deno.test("a ring gives back what was put in, in order, cut off at what a record holds", () => {
  const view = heapView(CAPTURE_BYTES);
  const writer = new CaptureWriter(view);
  const reader = new CaptureReader(view);
  assert.equal(reader.next(), null);
  write(writer, 1, 60);
  write(writer, 2, 65_535);
  const [first, second, ...others] = drain(reader);
  assert.deepEqual(others, []);
  const bytes = new Uint8Array(60).fill(1);
  assert.deepEqual(first, {
    ...{ flags: 1, reason: 1, ifindex: 1, size: 60, seconds: 1, micros: 250, bytes },
  });
  assert.deepEqual([second.size, second.bytes.length], [65_535, MOST_CAPTURED]);
  assert.equal(reader.lost, 0);
});

Deno.test("a reader sees each record whole, or knows how many it has lost", () => {
  const steps = fc.array(fc.record({ write: fc.nat(2 * CAPTURE_RECORDS), read: fc.nat(700) }), {
    maxLength: 10,
  });
  fc.assert(
    fc.property(steps, (steps) => {
      const view = heapView(CAPTURE_BYTES);
      const writer = new CaptureWriter(view);
      const reader = new CaptureReader(view);
      let [written, read] = [0, 0];
      for (const step of steps) {
        for (let i = 0; i < step.write; i++) write(writer, written++ & 0xff, 1 + written % 64);
        for (let i = 0; i < step.read; i++) {
          const record = reader.next();
          if (record === null) break;
          const expected = read + reader.lost;
          assert.equal(record.reason, expected & 0xff);
          assert.ok(record.bytes.every((byte) => byte === (expected & 0xff)));
          read++;
        }
      }
      drain(reader).forEach(() => read++);
      assert.equal(read + reader.lost, written);
    }),
    { numRuns: 30 },
  );
});

/** A net tile with a capture on. */
function captured(mode: number, options = {}): { room: Room; reader: CaptureReader } {
  const room = new Room(options);
  new ControlWriter(room.setup.control).captureMode = mode;
  return { room, reader: new CaptureReader(room.setup.capture) };
}

/** A record in a few words. */
function brief(record: Captured): string {
  const udp = parseUdp(record);
  const way = (record.flags & CaptureFlag.out) !== 0 ? "out" : "in";
  const bare = (record.flags & CaptureFlag.bare) !== 0 ? " bare" : "";
  const ends = udp && `${udp.source}:${udp.sourcePort} > ${udp.destination}:${udp.destinationPort}`;
  const reason = record.reason === 0 ? "" : ` ${Object.keys(NET.help)[record.reason]}`;
  return `${way}${bare} ${ends}${reason}`;
}

const ASKED = "198.18.0.2:40000 > 198.18.0.1:7";
const ANSWERED = "198.18.0.1:7 > 198.18.0.2:40000";

Deno.test("nothing is captured while nobody asks for it", () => {
  const { room, reader } = captured(CaptureMode.off);
  room.receive(REQUEST);
  room.receive({ ...REQUEST, destinationPort: 99 });
  assert.deepEqual(drain(reader), []);
});

Deno.test("what comes in and goes out is captured as it is on the wire", () => {
  const { room, reader } = captured(CaptureMode.all);
  room.neighbor(REQUEST.source);
  room.receive(REQUEST);
  room.answer({});
  const records = drain(reader);
  assert.deepEqual(records.map(brief), [`in ${ASKED}`, `out ${ANSWERED}`]);
  assert.deepEqual([...records[0].bytes], [...buildFrame(REQUEST)]);
  const [sent] = room.sent(2).map(buildFrame);
  assert.equal(records[1].bytes.length, sent.length);
  assert.deepEqual([...records[1].bytes.subarray(0, 14)], [...sent.subarray(0, 14)]);
});

Deno.test("requests that are sent back as they came are captured as they go, tags and all", async () => {
  const room = await Room.inline((requests, out) => {
    while (requests.next()) out.reflect();
  });
  const tagged = {
    ...REQUEST,
    tags: [{ protocol: 0x8100, id: 100 }],
    source: ip("203.0.113.2"),
    destination: ip("203.0.113.1"),
  };
  const burst = [REQUEST, tagged, REQUEST, { ...REQUEST, source: ip("198.19.0.2") }];
  const turn = () => {
    for (const each of burst) room.xsk.deliver(SLOT.eth0, buildFrame(each));
    room.turn();
    const out = Object.values(SLOT).flatMap((slot) => room.xsk.sent(slot));
    return out.map((bytes) => bytes.toHex()).sort();
  };
  room.neighbor(REQUEST.source);
  room.neighbor(tagged.source, { ifindex: VLAN });
  room.neighbor(ip("198.19.0.2"), { ifindex: ETH1 });
  // The first to each goes the long way.
  turn();
  new ControlWriter(room.setup.control).captureMode = CaptureMode.all;
  const reader = new CaptureReader(room.setup.capture);
  const sent = turn();
  const shown = drain(reader).filter(({ flags }) => flags === CaptureFlag.out);
  assert.deepEqual(shown.map(({ ifindex }) => ifindex), [ETH0, ETH0, ETH0, ETH1]);
  assert.deepEqual(shown.map(({ bytes }) => bytes.toHex()).sort(), sent);
});

Deno.test("each drop is captured once, with its reason, and only drops when only they are asked for", () => {
  const { room, reader } = captured(CaptureMode.drops);
  room.neighbor(REQUEST.source);
  room.receive(REQUEST);
  room.answer({});
  room.receive({ ...REQUEST, destinationPort: 99 });
  room.receive(buildFrame(REQUEST).subarray(0, 30));
  room.answer({ destinationPort: 0 });
  room.apps[0].raw([1 << 30, 4, REQUEST.destination, REQUEST.source, (7 << 16) + 40_000]);
  room.turn();
  room.answer({ destination: ip("198.18.0.77") });
  room.pass(3001);
  assert.deepEqual(drain(reader).map(brief), [
    "in 198.18.0.2:40000 > 198.18.0.1:99 rx_drop_no_app",
    "in null rx_drop_too_short",
    "out bare 198.18.0.1:7 > 198.18.0.2:0 tx_drop_port_zero",
    `out bare ${ANSWERED} tx_drop_invalid_descriptor`,
    "out bare 198.18.0.1:7 > 198.18.0.77:40000 tx_drop_neighbor_unresolved",
  ]);
});

Deno.test("datagrams by the kernel's sockets are captured as bare packets", () => {
  const { room, reader } = captured(CaptureMode.all);
  const request = {
    source: ip("192.0.2.2"),
    destination: ip("192.0.2.1"),
    payload: Uint8Array.of(1),
  };
  room.udp.arrive(1007, { ...request, sourcePort: 40_000, destinationPort: 7 });
  room.tile.wait(0);
  room.turn();
  room.answer({ source: ip("192.0.2.1"), destination: ip("192.0.2.2") });
  assert.deepEqual(drain(reader).map(brief), [
    "in bare 192.0.2.2:40000 > 192.0.2.1:7",
    "out bare 192.0.2.1:7 > 192.0.2.2:40000",
  ]);
});

Deno.test("a burst that nobody reads is bounded, and the newest is there", () => {
  const { room, reader } = captured(CaptureMode.all);
  for (let i = 0; i < 3 * CAPTURE_RECORDS; i++) {
    room.receive({ ...REQUEST, destinationPort: 99, sourcePort: i }, SLOT.eth0);
  }
  const records = drain(reader);
  assert.equal(records.length + reader.lost, 3 * CAPTURE_RECORDS);
  assert.equal(parseUdp(records.at(-1)!)?.sourcePort, 3 * CAPTURE_RECORDS - 1);
});

Deno.test("net tiles are told to show what somebody wants, and nothing when nobody does", async () => {
  const modes: number[] = [];
  const listen = [{ port: 7, app: "echo.1" }, { port: 7, app: "echo.2" }];
  assert.deepEqual(appNames(listen), ["echo"]);
  const captured = captureStreams([heapView(CAPTURE_BYTES)], listen, {
    get: () => modes.at(-1)!,
    set: (mode) => modes.push(mode),
  });
  const drops = captured({ dropsOnly: true }, () => String);
  await drops.next();
  const all = captured({ dropsOnly: false }, () => String);
  await all.next();
  await all.return(undefined);
  await drops.return(undefined);
  const { off, all: everything, drops: onlyDrops } = CaptureMode;
  assert.deepEqual(modes, [off, onlyDrops, everything, onlyDrops, off]);
});

Deno.test("parseUdp() takes any bytes", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 80 }), fc.nat(3), (bytes, flags) => {
    parseUdp({ flags, bytes: new Uint8Array(bytes) });
  }));
});

Deno.test("blocks of a pcapng file say their length twice, and are multiples of four", () => {
  fc.assert(fc.property(fc.array(fc.uint8Array({ maxLength: 70 }), { maxLength: 5 }), (frames) => {
    const written: number[] = [];
    const packet = beginCapture((bytes) => written.push(...bytes), "test");
    for (const bytes of frames) {
      const what = {
        time: "0.000001",
        interface: "eth0",
        link: "ethernet",
        direction: "in",
      } as const;
      const frame = { ...what, dropped: null, size: bytes.length, frame: bytes.toHex() };
      packet(frame, "why");
    }
    const view = new DataView(Uint8Array.from(written).buffer);
    const types: number[] = [];
    for (let at = 0; at < view.byteLength; at += view.getUint32(at + 4, true)) {
      const length = view.getUint32(at + 4, true);
      assert.equal(length % 4, 0);
      assert.equal(view.getUint32(at + length - 4, true), length);
      types.push(view.getUint32(at, true));
    }
    const blocks = frames.length === 0 ? [] : [1, ...frames.map(() => 6)];
    assert.deepEqual(types, [0x0a0d0d0a, ...blocks]);
  }));
});
