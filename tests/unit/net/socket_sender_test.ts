// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { Capture, CAPTURE_BYTES, CaptureWriter } from "../../../tiles/net/capture.ts";
import { Packet, PACKET_WORDS } from "../../../tiles/net/rings.ts";
import { SocketSender } from "../../../tiles/net/sockets.ts";
import { CONTROL_BYTES, ControlReader } from "../../../tiles/runtime/control.ts";
import { NET } from "../../../tiles/runtime/counters.ts";
import fc from "../property.ts";
import { FakeUdp } from "./fakes.ts";

/** A datagram of three bytes to `peer`, its payload at `offset`. */
function packet(peer: number, offset: number): Int32Array {
  const packet = new Int32Array(PACKET_WORDS);
  packet[Packet.offset] = offset;
  packet[Packet.length] = 3;
  packet[Packet.local] = 1;
  packet[Packet.peer] = peer;
  packet[Packet.ports] = (4000 << 16) | 7;
  return packet;
}

Deno.test("every datagram is sent or counted as dropped, in order, whatever the kernel refuses", () => {
  const datagram = fc.record({ fd: fc.integer({ min: 3, max: 4 }), to: fc.nat(20) });
  const refusals = fc.uniqueArray(fc.nat(20));
  fc.assert(fc.property(
    fc.array(datagram, { maxLength: 200, size: "max" }),
    refusals,
    fc.oneof(fc.constant(Infinity), fc.nat(200)),
    (datagrams, refused, room) => {
      const udp = new FakeUdp();
      const capture = new Capture(
        new ControlReader(heapView(CONTROL_BYTES)),
        new CaptureWriter(heapView(CAPTURE_BYTES)),
      );
      for (const destination of refused) udp.refused.add(destination);
      udp.room = room;
      const counters = new Float64Array(Object.keys(NET.help).length);
      const umem = { bytes: new Uint8Array(new SharedArrayBuffer(0)), give() {} };
      const sender = new SocketSender({ udp, umem, capture, counters, traffic: { dropped() {} } });
      const memory = Uint8Array.from({ length: 256 }, (_, i) => i);
      datagrams.forEach(({ fd, to }, i) => sender.send(fd, memory, packet(to, i)));
      sender.flush();
      const sent = counters[NET.index.tx_socket];
      assert.equal(udp.sent.length, sent);
      const { tx_drop_socket_error, tx_drop_socket_full } = NET.index;
      const [errors, full] = [counters[tx_drop_socket_error], counters[tx_drop_socket_full]];
      assert.equal(sent + errors + full, datagrams.length);
      if (room === Infinity) assert.equal(full, 0);
      if (refused.length === 0) assert.equal(errors, 0);
      const order = udp.sent.map(({ payload }) => payload[0]);
      assert.deepEqual(order, order.toSorted((a, b) => a - b));
      for (const { fd, destination, payload, sourcePort, destinationPort } of udp.sent) {
        assert.deepEqual({ fd, to: destination }, { ...datagrams[payload[0]] });
        assert.deepEqual([sourcePort, destinationPort], [7, 4000]);
      }
      if (room === Infinity) {
        const allowed = datagrams.filter(({ to }) => !refused.includes(to)).length;
        assert.equal(sent, allowed);
      }
    },
  ));
});
