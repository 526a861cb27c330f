// SPDX-License-Identifier: Apache-2.0
/** Whatever an app sends either leaves or is counted, by the reason for which it did not. */

import assert from "node:assert/strict";
import { IFF_BROADCAST, IFF_UP } from "../../../netbase/interfaces.ts";
import * as route from "../../../netbase/route.ts";
import { Address } from "../../../tiles/app/address.ts";
import type { Answers } from "../../../tiles/app/contract.ts";
import { APP } from "../../../tiles/runtime/counters.ts";
import { PLACES, serve } from "./places.ts";
import { ETH0, ETH1, ip, REQUEST, type Room } from "./room.ts";

/** A datagram, and what is so at the time. Without `to` it goes to the peer that has just asked. */
interface Sent {
  readonly to?: string;
  readonly from?: string;
  readonly port?: number;
  readonly sourcePort?: number;
  readonly size?: number;
  readonly before?: (room: Room) => void;
  readonly kernelSockets?: boolean;
}

const FAR = ip("192.88.99.1");
const far = (fields: Partial<route.Route>) => (room: Room) =>
  room.route({ destination: FAR, prefixLength: 32, ...fields });
const withoutRoute = (room: Room) => {
  room.writer.rib.remove({ ...route.emptyRoute(), gateway: ip("198.18.0.254"), ifindex: ETH0 });
  room.writer.commit();
};
const withoutCarrier = (room: Room) => {
  const eth1 = room.writer.interfaces.get(ETH1)!;
  room.writer.interfaces.put({ ...eth1, flags: IFF_UP | IFF_BROADCAST });
  room.writer.commit();
};
const to = "192.88.99.1";

/** Counters that move, besides `tx_accepted`, and how an app comes to it. `frame`: it leaves. */
const CASES: Record<string, Sent & { readonly counter: string }> = {
  "a stranger": { to: "203.0.113.99", counter: "tx_drop_unsolicited" },
  "a subnet's broadcast address, not allowed": {
    ...{ to: "198.18.0.255", counter: "tx_drop_unsolicited" },
  },
  "a multicast group, not allowed": { to: "224.0.0.251", counter: "tx_drop_unsolicited" },
  "everybody, not allowed": { to: "255.255.255.255", counter: "tx_drop_unsolicited" },
  "a subnet's broadcast address": { to: "198.19.0.255", counter: "frame" },
  "a multicast group": { to: "239.1.2.3", counter: "frame" },
  "port 0": { port: 0, counter: "tx_drop_port_zero" },
  "another app's port as the source": { sourcePort: 9, counter: "tx_drop_port_not_owned" },
  "a source that is not ours": { from: "198.18.0.9", counter: "tx_drop_source_not_local" },
  "our broadcast address as the source": {
    ...{ from: "198.18.0.255", counter: "tx_drop_source_not_local" },
  },
  "loopback as the source": { from: "127.0.0.1", counter: "tx_drop_source_loopback" },
  "no route": { to, before: withoutRoute, counter: "tx_drop_no_route" },
  "a blackhole": { to, before: far({ type: route.RTN_BLACKHOLE }), counter: "tx_drop_blackhole" },
  "an unreachable route": {
    ...{ to, before: far({ type: route.RTN_UNREACHABLE }), counter: "tx_drop_unreachable" },
  },
  "a prohibited route": {
    ...{ to, before: far({ type: route.RTN_PROHIBIT }), counter: "tx_drop_prohibit" },
  },
  "a throw route": { to, before: far({ type: route.RTN_THROW }), counter: "tx_drop_throw" },
  "a route that is not supported": {
    ...{ to, before: far({ unsupported: true }), counter: "tx_drop_unsupported_route" },
  },
  "an interface without carrier": {
    ...{ to: "198.19.0.2", before: withoutCarrier, counter: "tx_drop_link_down" },
  },
  "more than the MTU, without a kernel socket": {
    ...{ size: 1473, kernelSockets: false, counter: "tx_drop_exceeds_mtu" },
  },
  "this host, without a kernel socket": {
    ...{ to: "127.0.0.1", kernelSockets: false, counter: "tx_drop_no_socket" },
  },
  "what the kernel's socket refuses": {
    ...{ to: "127.0.0.1", counter: "tx_drop_socket_error" },
    before: (room) => room.udp.refused.add(ip("127.0.0.1")),
  },
  "a kernel socket whose buffer is full": {
    ...{ to: "127.0.0.1", counter: "tx_drop_socket_full" },
    before: (room) => void (room.udp.room = 0),
  },
  "a transmit ring that is full": {
    ...{ counter: "tx_drop_ring_full" },
    before: (room) => {
      for (const slot of [0, 1, 2]) room.xsk.rings(slot).room = 0;
    },
  },
};

/** Where the app may send without being asked. */
const SEND_TO = ["192.88.99.0/24", "198.19.0.0/24", "239.0.0.0/8", "127.0.0.0/8"]
  .map((text) => route.parsePrefix(text)!);

for (const place of PLACES) {
  for (const [name, { counter, ...sent }] of Object.entries(CASES)) {
    Deno.test(`${place}: to send to ${name} is ${counter}`, async () => {
      const { kernelSockets = true, before, port = 9, sourcePort, size = 1 } = sent;
      let times = 0;
      const answer = (out: Answers) => {
        for (let i = 0; i < times; i++) {
          const at = out.reserve(size);
          out.send(
            {
              ...{ address: new Address(sent.to ? ip(sent.to) : REQUEST.source), port, sourcePort },
              ...(sent.from && { sourceAddress: new Address(ip(sent.from)) }),
            },
            at,
            size,
          );
        }
      };
      const { room, run } = await serve(place, (requests, out) => {
        while (requests.next()) answer(out);
      }, { kernelSockets, sendTo: SEND_TO });
      before?.(room);
      room.receive(REQUEST);
      run();
      room.moved();
      // A full ring has room for as many as the net tile may have out.
      const most = counter === "tx_drop_ring_full" ? 40 : 2;
      times = most;
      room.receive(REQUEST);
      run();
      const { rx_frames: _, rx_delivered: __, tx_accepted, tx_frames = 0, ...moved } = room.moved();
      assert.equal(tx_accepted, most);
      if (counter === "frame") assert.deepEqual([tx_frames, moved], [most, {}]);
      else if (counter === "tx_drop_ring_full") assert.ok(moved[counter] >= 8, `${moved[counter]}`);
      else assert.deepEqual([tx_frames, moved], [0, { [counter]: most }]);
    });
  }

  Deno.test(`${place}: what no datagram can hold is refused with its own reason, and the next is sent`, async () => {
    const { room, run, counters } = await serve(place, (requests, out) => {
      while (requests.next()) {
        assert.equal(out.reserve(65_508), -1);
        out.send({ address: requests.sourceAddress, port: 9 }, new Uint8Array(65_508));
        out.reply(out.reserve(1), 1);
      }
    });
    room.receive(REQUEST);
    run();
    assert.equal(room.sent(ETH0).length, 1);
    const { errors, tx_drop_too_long, tx_drop_reply_link_full } = APP.index;
    assert.deepEqual(
      [counters[tx_drop_too_long], counters[tx_drop_reply_link_full], counters[errors]],
      [2, 0, 0],
    );
  });
}
