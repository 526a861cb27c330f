// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import * as route from "../../../netbase/route.ts";
import { be, buildFrame, checksum, ipOffset, mendIpChecksum, type UdpFrame } from "./frames.ts";
import { ETH0, ETH1, ip, LO, MAC, REQUEST, Room, SLOT, VLAN } from "./room.ts";

/** Where IPv4 and UDP begin in an untagged frame. */
const IP = 14;
const UDP = 34;

/** REQUEST with bytes changed: offset in the frame → bytes. The IPv4 checksum is mended. */
function changed(at: number, bytes: readonly number[], frame: UdpFrame = REQUEST): Uint8Array {
  const built = buildFrame(frame);
  built.set(bytes, at);
  if (at >= IP && at < UDP) mendIpChecksum(built, IP);
  return built;
}

/** What is wrong with a frame, and the counter that must move for it. */
const MALFORMED: readonly [what: string, frame: Uint8Array, counter: string][] = [
  ["nothing but an Ethernet header", buildFrame(REQUEST).subarray(0, 14), "rx_drop_too_short"],
  ["one byte short of a UDP header", buildFrame(REQUEST).subarray(0, 41), "rx_drop_too_short"],
  ["ARP", changed(12, [0x08, 0x06]), "rx_drop_not_ipv4"],
  ["IPv6", changed(12, [0x86, 0xdd]), "rx_drop_not_ipv4"],
  ["version 6 under EtherType IPv4", changed(IP, [0x65]), "rx_drop_ip_version"],
  ["version 0", changed(IP, [0x05]), "rx_drop_ip_version"],
  ["a header of four words", changed(IP, [0x44]), "rx_drop_ip_header_length"],
  ["a header with options", changed(IP, [0x46]), "rx_drop_ip_header_length"],
  [
    "a wrong header checksum",
    (() => {
      const frame = buildFrame(REQUEST);
      frame[IP + 10] ^= 1;
      return frame;
    })(),
    "rx_drop_ip_checksum",
  ],
  ["a total length below the header's", changed(IP + 2, [0, 19]), "rx_drop_ip_length"],
  ["a total length past the frame", changed(IP + 2, [0x05, 0xdc]), "rx_drop_ip_length"],
  ["a first fragment", changed(IP + 6, [0x20, 0]), "rx_drop_fragment"],
  ["a last fragment", changed(IP + 6, [0, 1]), "rx_drop_fragment"],
  ["TCP", changed(IP + 9, [6]), "rx_drop_not_udp"],
  ["ICMP", changed(IP + 9, [1]), "rx_drop_not_udp"],
  ["another host's address", changed(IP + 16, be(ip("198.18.0.9"), 4)), "rx_drop_not_local"],
  ["the subnet's broadcast", changed(IP + 16, be(ip("198.18.0.255"), 4)), "rx_drop_not_local"],
  ["a multicast group", changed(IP + 16, be(ip("224.0.0.1"), 4)), "rx_drop_not_local"],
  ["an address behind the default route", changed(IP + 16, [8, 8, 8, 8]), "rx_drop_not_local"],
  ["a multicast source", changed(IP + 12, be(ip("224.0.0.1"), 4)), "rx_drop_invalid_source"],
  ["255.255.255.255 as source", changed(IP + 12, [255, 255, 255, 255]), "rx_drop_invalid_source"],
  [
    "the subnet's broadcast as source",
    changed(IP + 12, [198, 18, 0, 255]),
    "rx_drop_invalid_source",
  ],
  ["a reserved source", changed(IP + 12, [240, 0, 0, 1]), "rx_drop_invalid_source"],
  ["a source of this network", changed(IP + 12, [0, 1, 2, 3]), "rx_drop_invalid_source"],
  ["a loopback source", changed(IP + 12, [127, 0, 0, 1]), "rx_drop_invalid_source"],
  ["0.0.0.0 as source", changed(IP + 12, [0, 0, 0, 0]), "rx_drop_invalid_source"],
  [
    "our own address as source",
    changed(IP + 12, be(ip("198.18.0.1"), 4)),
    "rx_drop_invalid_source",
  ],
  ["a total length without room for UDP", changed(IP + 2, [0, 27]), "rx_drop_udp_length"],
  ["a UDP length below its header's", changed(UDP + 4, [0, 7]), "rx_drop_udp_length"],
  ["a UDP length past the packet", changed(UDP + 4, [0x01, 0]), "rx_drop_udp_length"],
  ["a wrong UDP checksum", changed(UDP + 8, [0]), "rx_drop_udp_checksum"],
  ["a port that nobody serves", buildFrame({ ...REQUEST, destinationPort: 8 }), "rx_drop_no_app"],
  ["port 0", buildFrame({ ...REQUEST, destinationPort: 0 }), "rx_drop_no_app"],
  [
    "a VLAN that is not ours",
    buildFrame({ ...REQUEST, tags: [{ protocol: 0x8100, id: 7 }] }),
    "rx_drop_unknown_vlan",
  ],
  [
    "our VLAN under 802.1ad",
    buildFrame({ ...REQUEST, tags: [{ protocol: 0x88a8, id: 100 }] }),
    "rx_drop_unknown_vlan",
  ],
  [
    "a tag and nothing behind it",
    (() => {
      const frame = buildFrame({ ...REQUEST, tags: [{ protocol: 0x8100, id: 100 }] });
      return frame.subarray(0, 45);
    })(),
    "rx_drop_too_short",
  ],
  [
    "three tags",
    buildFrame({ ...REQUEST, tags: Array(3).fill({ protocol: 0x8100, id: 0 }) }),
    "rx_drop_not_ipv4",
  ],
];

/** A room where the peer of REQUEST was answered, also from an address that the route chose. */
function acquainted(): Room {
  const room = new Room();
  room.neighbor(REQUEST.source);
  room.answer({});
  room.answer({ source: 0 });
  room.moved();
  return room;
}

for (const [what, frame, counter] of MALFORMED) {
  Deno.test(`a frame with ${what} moves ${counter} and nothing else`, () => {
    // From a stranger, and from whom the route cache knows.
    for (const room of [new Room(), acquainted()]) {
      room.receive(frame);
      assert.deepEqual(room.moved(), { rx_frames: 1, [counter]: 1 });
      room.receive(REQUEST);
      assert.equal(room.apps[0].take().length, 1, "the next good one comes through");
    }
  });
}

Deno.test("that there is a way to an address makes it no source, nor ours where it was sent from", () => {
  const room = acquainted();
  for (const destination of [ip("198.18.0.255"), ip("224.0.0.1"), ip("240.0.0.1")]) {
    room.answer({ destination });
    room.moved();
    room.receive(changed(IP + 12, be(destination, 4)));
    assert.deepEqual(room.moved(), { rx_frames: 1, rx_drop_invalid_source: 1 }, `${destination}`);
  }
  room.receive(changed(IP + 16, [0, 0, 0, 0]));
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_drop_not_local: 1 });
});

Deno.test("an address that is ours no longer takes nothing, though its answers are known", () => {
  const room = acquainted();
  // From whom the route cache knows, and from a stranger, for whom the address itself is looked up.
  const stranger = { ...REQUEST, source: ip("198.18.0.99") };
  room.receive(REQUEST);
  room.receive(stranger);
  assert.deepEqual(room.moved(), { rx_frames: 2, rx_delivered: 2 });
  const { RT_TABLE_LOCAL, RTN_LOCAL, RT_SCOPE_HOST } = route;
  room.writer.rib.remove({
    ...route.emptyRoute(),
    ...{ table: RT_TABLE_LOCAL, type: RTN_LOCAL, scope: RT_SCOPE_HOST, ifindex: ETH0 },
    ...{ destination: REQUEST.destination, prefixLength: 32, source: REQUEST.destination },
  });
  room.writer.commit();
  room.receive(REQUEST);
  room.receive(stranger);
  assert.deepEqual(room.moved(), { rx_frames: 2, rx_drop_not_local: 2 });
});

Deno.test("a good frame reaches the app that serves its port, with all that is known of it", () => {
  const room = new Room();
  room.receive(REQUEST);
  room.receive({ ...REQUEST, destinationPort: 53, payload: new Uint8Array(0) });
  assert.deepEqual(room.moved(), { rx_frames: 2, rx_delivered: 2 });
  const ports = (40_000 << 16) >>> 0;
  const { source, destination } = REQUEST;
  const common = { source, destination, ifindex: ETH0 };
  assert.deepEqual(room.apps[0].take(), [
    { ...common, ports: ports + 7, payload: REQUEST.payload },
  ]);
  assert.deepEqual(room.apps[1].take(), [
    { ...common, ports: ports + 53, payload: new Uint8Array(0) },
  ]);
});

Deno.test("padding behind the packet, and behind the datagram, is not payload", () => {
  const room = new Room();
  const payload = Uint8Array.of(1, 2, 3);
  const frame = buildFrame({ ...REQUEST, payload });
  const padded = new Uint8Array(60).fill(0xa5);
  padded.set(frame);
  room.receive(padded);
  const total = changed(IP + 2, [0, 40], { ...REQUEST, payload });
  const longer = new Uint8Array(60).fill(0x5a);
  longer.set(total);
  room.receive(longer);
  assert.deepEqual(room.apps[0].take().map(({ payload }) => [...payload]), [[1, 2, 3], [1, 2, 3]]);
});

Deno.test("a datagram without a checksum is taken", () => {
  const room = new Room();
  room.receive(changed(UDP + 6, [0, 0]));
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_delivered: 1 });
});

Deno.test("the bare pseudo-header sum is a right checksum where the sender left it to hardware", () => {
  const length = be(8 + REQUEST.payload.length, 2);
  const frame = buildFrame(REQUEST);
  const pseudo = [...frame.subarray(IP + 12, IP + 20), 0, 17, ...length];
  const bare = changed(UDP + 6, be(0xffff - checksum(pseudo), 2));
  const strict = new Room();
  strict.receive(bare);
  assert.deepEqual(strict.moved(), { rx_frames: 1, rx_drop_udp_checksum: 1 });
  const lenient = new Room({ partialChecksums: true });
  lenient.receive(bare);
  lenient.receive(REQUEST);
  assert.deepEqual(lenient.moved(), { rx_frames: 2, rx_delivered: 2 });
  lenient.receive(changed(UDP + 6, [0xab, 0xcd]));
  assert.deepEqual(lenient.moved(), { rx_frames: 1, rx_drop_udp_checksum: 1 });
});

Deno.test("where checksums are left to the NIC a wrong one of UDP is taken, one of IPv4 is not", () => {
  const room = new Room({ trustChecksums: true });
  room.receive(changed(UDP + 6, [0xab, 0xcd]));
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_delivered: 1 });
  const wrong = buildFrame(REQUEST);
  wrong[IP + 10] ^= 1;
  room.receive(wrong);
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_drop_ip_checksum: 1 });
});

Deno.test("a tagged frame came in on the VLAN device; a priority tag is no VLAN", () => {
  const room = new Room();
  const tagged = { ...REQUEST, destination: ip("203.0.113.1"), source: ip("203.0.113.2") };
  room.receive({ ...tagged, tags: [{ protocol: 0x8100, id: 100 }] });
  room.receive({ ...REQUEST, tags: [{ protocol: 0x8100, id: 0 }] });
  assert.deepEqual(room.apps[0].take().map(({ ifindex }) => ifindex), [VLAN, ETH0]);
});

Deno.test("802.1Q and 802.1ad have the same ids for different VLANs, whichever came first", () => {
  const tagged = (protocol: number) => ({
    ...{ ...REQUEST, destination: ip("203.0.113.1"), source: ip("203.0.113.2") },
    tags: [{ protocol, id: 100 }],
  });
  for (const order of [[0x8100, 0x88a8], [0x88a8, 0x8100]]) {
    const room = new Room();
    for (const protocol of order) room.receive(tagged(protocol));
    assert.deepEqual(room.moved(), { rx_frames: 2, rx_delivered: 1, rx_drop_unknown_vlan: 1 });
    assert.deepEqual(room.apps[0].take().map(({ ifindex }) => ifindex), [VLAN]);
  }
  // And where both are ours.
  const room = new Room();
  const service = { ...room.writer.interfaces.get(VLAN)!, ifindex: 9, vlanProtocol: 0x88a8 };
  room.writer.interfaces.put(service);
  room.writer.commit();
  for (const protocol of [0x8100, 0x88a8, 0x8100]) room.receive(tagged(protocol));
  assert.deepEqual(room.apps[0].take().map(({ ifindex }) => ifindex), [VLAN, 9, VLAN]);
});

Deno.test("a VLAN device that goes down, or away, takes no more frames", () => {
  const room = new Room();
  const frame = {
    ...REQUEST,
    destination: ip("203.0.113.1"),
    tags: [{ protocol: 0x8100, id: 100 }],
  };
  room.receive(frame);
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_delivered: 1 });
  const vlan = room.writer.interfaces.get(VLAN)!;
  room.writer.interfaces.put({ ...vlan, flags: 0 });
  room.writer.commit();
  room.receive(frame);
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_drop_unknown_vlan: 1 });
  room.writer.interfaces.put(vlan);
  room.writer.commit();
  room.receive(frame);
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_delivered: 1 });
  room.writer.interfaces.remove(VLAN);
  room.writer.commit();
  room.receive(frame);
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_drop_unknown_vlan: 1 });
});

Deno.test("frames that begin elsewhere than the headroom says come through as well", () => {
  for (const headroom of [0, 1, 3, 4, 23, 24, 25]) {
    const room = new Room({ headroom });
    room.receive(REQUEST);
    room.receive({ ...REQUEST, tags: [{ protocol: 0x8100, id: 0 }] });
    const got = room.apps[0].take().map(({ payload }) => payload);
    assert.deepEqual(got, [REQUEST.payload, REQUEST.payload], `headroom ${headroom}`);
    room.turn();
    assert.equal(room.apps[0].take().length, 0);
  }
});

Deno.test("frames of several queues and interfaces are taken, each with its interface", () => {
  const room = new Room();
  room.receive(REQUEST, SLOT.eth0Second);
  const other = { destination: ip("198.19.0.1"), source: ip("198.19.0.2") };
  room.receive({ ...REQUEST, ...other, destinationMac: MAC[ETH1] }, SLOT.eth1);
  assert.deepEqual(room.apps[0].take().map(({ ifindex }) => ifindex), [ETH0, ETH1]);
});

Deno.test("an app that does not read loses its own datagrams and nobody else's", () => {
  const room = new Room();
  for (let i = 0; i < 200; i++) room.receive(REQUEST);
  const { depth } = room.apps[0].setup.shape;
  assert.deepEqual(room.moved(), {
    rx_frames: 200,
    rx_delivered: depth,
    rx_drop_app_link_full: 200 - depth,
  });
  for (let i = 0; i < 50; i++) room.receive({ ...REQUEST, destinationPort: 9 });
  assert.deepEqual(room.moved(), { rx_frames: 50, rx_delivered: 50 });
  assert.equal(room.apps[1].take().length, 50);
  assert.equal(room.apps[0].take().length, depth);
  room.turn();
  room.receive(REQUEST);
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_delivered: 1 });
});

Deno.test("a request from a neighbour on another VLAN's address needs no route back to be taken", () => {
  const room = new Room();
  room.receive({ ...REQUEST, source: ip("8.8.8.8") });
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_delivered: 1 });
});

Deno.test("the loopback interface's addresses are ours too", () => {
  const room = new Room();
  assert.equal(room.writer.interfaces.get(LO)?.name, "lo");
  room.receive({ ...REQUEST, destination: ip("127.0.0.1") });
  assert.deepEqual(room.moved(), { rx_frames: 1, rx_delivered: 1 });
});

Deno.test("frames made in the test are what they claim", () => {
  assert.equal(ipOffset(REQUEST), IP);
});
