// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { IFF_BROADCAST, IFF_UP } from "../../../netbase/interfaces.ts";
import { NUD_FAILED } from "../../../netbase/neighbors.ts";
import * as route from "../../../netbase/route.ts";
import { ETH0, ETH1, ip, MAC, macWords, PEER_MAC, REQUEST, Room, SLOT, VLAN } from "./room.ts";

const PEER = REQUEST.source;
const GATEWAY = ip("198.18.0.254");
const OTHER_MAC = [0x02, 1, 1, 1, 1, 1];

/** A room whose peer and gateway are known. */
function quietRoom(options: ConstructorParameters<typeof Room>[0] = {}): Room {
  const room = new Room(options);
  room.neighbor(PEER);
  room.neighbor(GATEWAY, { mac: OTHER_MAC });
  room.neighbor(ip("198.19.0.2"), { ifindex: ETH1 });
  room.neighbor(ip("203.0.113.2"), { ifindex: VLAN });
  return room;
}

/** Everything accepted was sent or dropped. */
function assertBalanced(room: Room): void {
  const { accepted, accounted } = room.balance();
  assert.equal(accounted, accepted, "sent + dropped = accepted");
}

Deno.test("an answer leaves as the frame that its request calls for", () => {
  const room = quietRoom();
  room.receive(REQUEST);
  room.apps[0].take();
  room.moved();
  room.answer({});
  assert.deepEqual(room.sent(ETH0), [{
    destinationMac: PEER_MAC,
    sourceMac: MAC[ETH0],
    tags: [],
    source: REQUEST.destination,
    destination: REQUEST.source,
    sourcePort: 7,
    destinationPort: REQUEST.sourcePort,
    payload: REQUEST.payload,
  }]);
  assert.deepEqual(room.moved(), { tx_accepted: 1, tx_frames: 1 });
});

Deno.test("payloads of every length to the MTU arrive as they were given", () => {
  const room = quietRoom();
  for (let length = 0; length <= 1472; length++) {
    const payload = new Uint8Array(length).map((_, i) => i * 7 + length);
    room.answer({ payload });
    const [frame] = room.sent(ETH0);
    assert.deepEqual(frame.payload, payload);
  }
  assertBalanced(room);
});

Deno.test("a destination behind the default route goes to the gateway's address", () => {
  const room = quietRoom();
  room.answer({ destination: ip("8.8.8.8"), source: 0 });
  const [frame] = room.sent(ETH0);
  assert.deepEqual(frame.destinationMac, OTHER_MAC);
  assert.equal(frame.source, ip("198.18.0.1"), "the interface's own address");
});

Deno.test("a more specific route takes its traffic, and gives it back when it goes", () => {
  const room = quietRoom();
  const destination = ip("8.8.8.8");
  const answer = () => {
    room.answer({ destination });
    return { eth0: room.sent(ETH0).length, eth1: room.sent(ETH1).length };
  };
  assert.deepEqual(answer(), { eth0: 1, eth1: 0 });
  const specific = {
    ...route.emptyRoute(),
    destination: ip("8.8.8.0"),
    prefixLength: 24,
    gateway: ip("198.19.0.2"),
    ifindex: ETH1,
  };
  room.route(specific);
  assert.deepEqual(answer(), { eth0: 0, eth1: 1 });
  room.writer.rib.remove(specific);
  room.writer.commit();
  assert.deepEqual(answer(), { eth0: 1, eth1: 0 });
  assertBalanced(room);
});

Deno.test("a neighbour that changes its address is followed at once", () => {
  const room = quietRoom();
  room.answer({});
  room.neighbor(PEER, { mac: OTHER_MAC });
  room.answer({});
  assert.deepEqual(room.sent(ETH0).map((frame) => frame.destinationMac), [PEER_MAC, OTHER_MAC]);
});

Deno.test("what leaves by a VLAN device carries its tag and its MAC, on the device below", () => {
  const room = quietRoom();
  room.answer({ destination: ip("203.0.113.2"), source: ip("203.0.113.1") });
  const [frame] = room.sent(ETH0);
  assert.deepEqual(frame.tags, [{ protocol: 0x8100, id: 100 }]);
  assert.deepEqual(frame.sourceMac, MAC[VLAN]);
  assert.deepEqual(frame.destinationMac, PEER_MAC);
});

Deno.test("broadcast and multicast go to the MACs that stand for them", () => {
  const room = quietRoom();
  room.answer({ destination: ip("198.18.0.255") });
  room.answer({ destination: ip("255.255.255.255") });
  room.answer({ destination: ip("239.129.2.3") });
  assert.deepEqual(room.sent(ETH0).map((frame) => frame.destinationMac), [
    [255, 255, 255, 255, 255, 255],
    [255, 255, 255, 255, 255, 255],
    [0x01, 0x00, 0x5e, 0x01, 0x02, 0x03],
  ]);
  assert.deepEqual(room.solicited(), []);
});

/** Kinds of route that lead nowhere, and the counter for each. */
const NOWHERE: readonly [kind: number, counter: string][] = [
  [route.RTN_BLACKHOLE, "tx_drop_blackhole"],
  [route.RTN_UNREACHABLE, "tx_drop_unreachable"],
  [route.RTN_PROHIBIT, "tx_drop_prohibit"],
  [route.RTN_THROW, "tx_drop_throw"],
];

for (const [type, counter] of NOWHERE) {
  Deno.test(`a route of kind ${type} moves ${counter} alone, and answers come back with it gone`, () => {
    const room = quietRoom();
    const destination = ip("8.8.8.8");
    room.route({ type, destination, prefixLength: 32 });
    room.answer({ destination });
    room.answer({ destination });
    assert.deepEqual(room.moved(), { tx_accepted: 2, [counter]: 2 });
    room.writer.rib.remove({ ...route.emptyRoute(), type, destination, prefixLength: 32 });
    room.writer.commit();
    room.answer({ destination });
    assert.deepEqual(room.moved(), { tx_accepted: 1, tx_frames: 1 });
  });
}

Deno.test("without a route datagrams are dropped as such", () => {
  const room = quietRoom();
  room.writer.rib.remove({ ...route.emptyRoute(), gateway: GATEWAY, ifindex: ETH0 });
  room.writer.commit();
  room.answer({ destination: ip("8.8.8.8") });
  assert.deepEqual(room.moved(), { tx_accepted: 1, tx_drop_no_route: 1 });
});

Deno.test("an unsupported route is never sent wrong", () => {
  const room = quietRoom();
  room.route({ destination: ip("8.8.8.8"), prefixLength: 32, unsupported: true, ifindex: ETH0 });
  room.answer({ destination: ip("8.8.8.8") });
  assert.deepEqual(room.moved(), { tx_accepted: 1, tx_drop_unsupported_route: 1 });
});

Deno.test("a source that is not ours is refused", () => {
  const room = quietRoom();
  room.answer({ source: ip("198.18.0.77") });
  room.answer({ source: ip("8.8.4.4") });
  assert.deepEqual(room.moved(), { tx_accepted: 2, tx_drop_source_not_local: 2 });
});

Deno.test("an interface without carrier takes nothing", () => {
  const room = quietRoom();
  const eth1 = room.writer.interfaces.get(ETH1)!;
  room.writer.interfaces.put({ ...eth1, flags: IFF_UP | IFF_BROADCAST });
  room.writer.commit();
  room.answer({ destination: ip("198.19.0.2"), source: ip("198.19.0.1") });
  assert.deepEqual(room.moved(), { tx_accepted: 1, tx_drop_link_down: 1 });
});

Deno.test("what routes to local goes by the kernel's socket of its port, from the app's memory", () => {
  const room = quietRoom();
  for (const [source, destination] of [["127.0.0.1", "127.0.0.1"], ["198.18.0.1", "198.19.0.1"]]) {
    room.answer({ source: ip(source), destination: ip(destination) });
  }
  const { payload } = REQUEST;
  const ports = { sourcePort: 7, destinationPort: REQUEST.sourcePort };
  assert.deepEqual(room.udp.sent, [
    { fd: 1007, source: ip("127.0.0.1"), destination: ip("127.0.0.1"), ...ports, payload },
    { fd: 1007, source: ip("198.18.0.1"), destination: ip("198.19.0.1"), ...ports, payload },
  ]);
  assert.deepEqual(room.moved(), { tx_accepted: 2, tx_socket: 2 });
});

Deno.test("what a kernel's socket sends from an app's memory stays the app's until it is sent", () => {
  const room = quietRoom();
  const { producer } = room.apps[0];
  const send = room.udp.send.bind(room.udp);
  const free: number[] = [];
  room.udp.send = (...args) => {
    free.push(producer.refresh());
    return send(...args);
  };
  room.answer({ source: ip("127.0.0.1"), destination: ip("127.0.0.1") });
  assert.deepEqual([...free, producer.refresh()], [producer.depth - 1, producer.depth]);
});

Deno.test("what leaves by an interface without a socket here goes by the kernel's", () => {
  const room = quietRoom();
  room.answer({ source: ip("192.0.2.1"), destination: ip("192.0.2.9") });
  assert.deepEqual(room.moved(), { tx_accepted: 1, tx_socket: 1 });
});

Deno.test("what is too long for a packet is left to the kernel, which can fragment it", () => {
  const room = quietRoom();
  room.answer({ payload: new Uint8Array(1473) });
  room.answer({ payload: new Uint8Array(65_507).fill(1) });
  assert.deepEqual(room.udp.sent.map(({ payload }) => payload.length), [1473, 65_507]);
  assert.deepEqual(room.moved(), { tx_accepted: 2, tx_socket: 2 });
});

Deno.test("without a kernel socket, what needs one is dropped with its reason", () => {
  const room = quietRoom({ kernelSockets: false });
  room.answer({ destination: ip("127.0.0.1") });
  room.answer({ payload: new Uint8Array(1473) });
  room.answer({ source: ip("192.0.2.1"), destination: ip("192.0.2.9") });
  assert.deepEqual(room.moved(), { tx_accepted: 3, tx_drop_no_socket: 2, tx_drop_exceeds_mtu: 1 });
});

Deno.test("a route's own MTU counts", () => {
  const room = quietRoom();
  const destination = ip("8.8.8.8");
  room.route({ destination, prefixLength: 32, gateway: GATEWAY, ifindex: ETH0, mtu: 1000 });
  room.answer({ destination, payload: new Uint8Array(972) });
  room.answer({ destination, payload: new Uint8Array(973) });
  assert.deepEqual(room.moved(), { tx_accepted: 2, tx_frames: 1, tx_socket: 1 });
});

Deno.test("flows share a multipath route by its weights, and each keeps to its hop", () => {
  const room = quietRoom();
  const flags = 0;
  room.route({
    destination: ip("8.8.8.8"),
    prefixLength: 32,
    hops: [
      { gateway: GATEWAY, ifindex: ETH0, weight: 3, flags },
      { gateway: ip("198.19.0.2"), ifindex: ETH1, weight: 1, flags },
    ],
  });
  const hop = (destinationPort: number) => {
    room.answer({ destination: ip("8.8.8.8"), source: 0, destinationPort });
    const [eth0, eth1] = [room.sent(ETH0), room.sent(ETH1)];
    assert.equal(eth0.length + eth1.length, 1);
    return eth0.length === 1 ? ETH0 : ETH1;
  };
  const flows = Array.from({ length: 4000 }, (_, i) => 1024 + i);
  const first = flows.map(hop);
  assert.deepEqual(flows.map(hop), first, "each flow keeps to its hop");
  const share = first.filter((ifindex) => ifindex === ETH0).length / flows.length;
  assert.ok(Math.abs(share - 0.75) < 0.02, `${share}`);
  assertBalanced(room);
});

Deno.test("a full transmit ring drops what does not fit and nothing else", () => {
  const room = quietRoom();
  const free = room.freeFrames();
  // One that goes the long way; the cache has what the others need.
  room.answer({});
  assert.equal(room.sent(ETH0).length, 1);
  room.moved();
  room.xsk.rings(SLOT.eth0).room = 0;
  room.xsk.rings(SLOT.eth0Second).room = 0;
  for (let i = 0; i < 60; i++) room.apps[0].answer({});
  for (let turns = 0; turns < 5; turns++) room.tile.turn();
  assert.deepEqual(room.moved(), { tx_accepted: 60, tx_drop_ring_full: 28 });
  room.xsk.rings(SLOT.eth0).room = Infinity;
  room.xsk.rings(SLOT.eth0Second).room = Infinity;
  room.turn();
  assert.equal(room.sent(ETH0).length, 32, "what was queued went out when there was room");
  room.turn();
  assert.equal(room.freeFrames(), free, "and the others' frames are free");
  assertBalanced(room);
});

Deno.test("answers to many peers leave by all queues of a device, those to one peer by one", () => {
  const room = quietRoom();
  const peers = Array.from({ length: 64 }, (_, i) => ip("198.18.0.100") + i);
  for (const address of peers) room.neighbor(address);
  const sharesOf = (destination: number) => {
    room.answer({ destination });
    return [SLOT.eth0, SLOT.eth0Second].map((slot) => room.xsk.sent(slot).length);
  };
  const shares = peers.map(sharesOf);
  const first = shares.filter(([count]) => count === 1).length;
  assert.ok(first > 16 && first < 48, `${first} of ${peers.length} by the first queue`);
  // Whatever the port, and however often: what goes to a peer stays in order.
  for (const destinationPort of [5000, 5001, 5002]) {
    peers.forEach((destination, i) => {
      room.answer({ destination, destinationPort });
      const now = [SLOT.eth0, SLOT.eth0Second].map((slot) => room.xsk.sent(slot).length);
      assert.deepEqual(now, shares[i]);
    });
  }
});

Deno.test("a neighbour that the netlink tile wants refreshed is asked for when it is used", () => {
  const room = quietRoom();
  room.answer({});
  assert.deepEqual(room.solicited(), []);
  room.writer.neighbors.wantRefresh(ETH0, PEER);
  room.pass(100);
  room.answer({});
  room.answer({});
  assert.deepEqual(room.solicited(), [[ETH0, PEER]]);
  assert.equal(room.sent(ETH0).length, 3, "and used meanwhile");
});

Deno.test("a neighbour whose state is FAILED is not used", () => {
  const room = quietRoom();
  room.neighbor(PEER, { state: NUD_FAILED });
  room.answer({});
  assert.deepEqual(room.sent(ETH0), []);
  assert.deepEqual(room.solicited(), [[ETH0, PEER]]);
});

Deno.test("what a ring takes only in part goes on in order when there is room", () => {
  const room = quietRoom();
  const rings = [SLOT.eth0, SLOT.eth0Second].map((slot) => room.xsk.rings(slot));
  for (const ring of rings) ring.room = 5;
  for (let i = 0; i < 20; i++) room.apps[0].answer({ payload: Uint8Array.of(i) });
  room.tile.turn();
  for (const ring of rings) ring.room = Infinity;
  room.turn();
  const sent = room.sent(ETH0).map(({ payload }) => payload[0]);
  assert.deepEqual(sent, Array.from({ length: 20 }, (_, i) => i));
});

Deno.test("a change of our own MAC shows in the next frame", () => {
  const room = quietRoom();
  room.writer.interfaces.put({
    ...room.writer.interfaces.get(ETH0)!,
    ...macWords(OTHER_MAC),
  });
  room.writer.commit();
  room.answer({});
  assert.deepEqual(room.sent(ETH0)[0].sourceMac, OTHER_MAC);
});
