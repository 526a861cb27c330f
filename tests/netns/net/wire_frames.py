#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Frames made by scapy for wire_test.ts, sent and received on a veth's end by AF_PACKET.

Each class is a list of sendings: the frames of one datagram, and the payload that must come back, or
None: nothing may, or ANYTHING: whatever does must be right. What each class must do to the appliance's counters stands in wire_test.ts.

    wire_frames.py INTERFACE MAC_OF_THE_HOST

First prints the names of all classes; then reads names, one a line, sends that class, and says in a
line of JSON what came of it.
"""

import functools
import json
import random
import select
import socket
import sys
import time

from scapy.all import ARP, ICMP, IP, TCP, UDP, Dot1AD, Dot1Q, Ether, IPOption_NOP, IPv6, Raw
from scapy.all import fragment, fuzz

INTERFACE, HOST_MAC = sys.argv[1:]
HOST, CLIENT, ECHO = "198.18.0.1", "198.18.0.2", 7
CLIENT_MAC = "02:00:00:00:00:02"
SOURCE_PORT, PROBE_PORT = 4000, 5000
MTU, ETHERNET, HEADERS = 1500, 14, 28
TEXT = b"hostile or not, here it comes"
# After so many sendings, and at the end, a good datagram must be answered: the rings are never full,
# and all that was sent before it has been dealt with.
BATCH = 64
PATIENCE_SECONDS = 30
RANDOM = random.Random(7)
ANYTHING = object()


def ether(**fields):
    return Ether(**{"src": CLIENT_MAC, "dst": HOST_MAC, **fields})


def ip(**fields):
    return IP(**{"src": CLIENT, "dst": HOST, **fields})


def udp(**fields):
    return UDP(**{"sport": SOURCE_PORT, "dport": ECHO, **fields})


def plain(payload=TEXT):
    return bytes(ether() / ip() / udp() / Raw(payload))


def silent(*packets):
    """A sending that nothing comes back to."""
    return [bytes(packet) for packet in packets], None


def answered(*packets, payload=TEXT):
    return [bytes(packet) for packet in packets], payload


def noise(size):
    return RANDOM.randbytes(size)


def every_size():
    payloads = [noise(size) for size in range(MTU - HEADERS + 1)]
    return [answered(plain(payload), payload=payload) for payload in payloads]


def cut(lengths):
    """The largest datagram cut off. AF_PACKET takes no less than an Ethernet header."""
    whole = plain(noise(MTU - HEADERS))
    return [silent(whole[:length]) for length in lengths]


def with_payload(text, **fields):
    """A good datagram, IPv4 and Ethernet fields changed."""
    return ether() / ip(**fields) / udp() / Raw(text)


def each_ip(name, values, sending=silent):
    """A datagram for each value of one field of the IPv4 header, everything else right."""
    return [sending(with_payload(TEXT, **{name: value})) for value in values]


def each_udp(name, values, sending=silent):
    return [sending(ether() / ip() / udp(**{name: value}) / Raw(TEXT)) for value in values]


def checksum_of(layer):
    return Ether(plain())[layer].chksum


def one_bit_off(checksum):
    return [checksum ^ 1 << bit for bit in range(16)]


def sum16(data):
    data = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def bare_pseudo_header():
    """What a sender leaves to hardware that is not there: the sum of the pseudo header alone."""
    lengths = bytes([0, 17]) + (8 + len(TEXT)).to_bytes(2, "big")
    pseudo = socket.inet_aton(CLIENT) + socket.inet_aton(HOST) + lengths
    return [answered(ether() / ip() / udp(chksum=sum16(pseudo)) / Raw(TEXT))]


def checksum_all_ones():
    """A payload whose checksum comes out as 0, which travels as 0xffff (RFC 768)."""
    rest = Ether(plain(b"\0\0")).getlayer(UDP).chksum
    payload = rest.to_bytes(2, "big")
    return [answered(ether() / ip() / udp(chksum=0xFFFF) / Raw(payload), payload=payload)]


def shorter_datagram():
    """UDP lengths that end before the packet does: what is behind is padding."""
    sendings = []
    for size in range(len(TEXT)):
        inner = UDP(bytes(IP(bytes(ip() / udp() / Raw(TEXT[:size])))[UDP]))
        sendings.append(answered(ether() / ip() / inner / Raw(TEXT[size:]), payload=TEXT[:size]))
    return sendings


def header_lengths():
    frames = [bytearray(plain()) for _ in range(5)]
    for words, frame in enumerate(frames):
        frame[ETHERNET] = 0x40 | words
    return [silent(mended(frame)) for frame in frames]


def mended(frame):
    """The frame with the checksum of a header of five words set right."""
    frame[ETHERNET + 10 : ETHERNET + 12] = b"\0\0"
    total = sum16(frame[ETHERNET : ETHERNET + 20]) ^ 0xFFFF
    frame[ETHERNET + 10 : ETHERNET + 12] = total.to_bytes(2, "big")
    return bytes(frame)


def summed(frame):
    """The frame with the UDP checksum set right, after a header of five words."""
    at, length = ETHERNET + 20, frame[ETHERNET + 24 : ETHERNET + 26]
    frame[at + 6 : at + 8] = b"\0\0"
    data = frame[at - 8 : at + int.from_bytes(length, "big")]
    total = sum16(bytes([0, 17]) + length + data) ^ 0xFFFF
    frame[at + 6 : at + 8] = (total or 0xFFFF).to_bytes(2, "big")
    return frame


def options():
    return each_ip("options", [[IPOption_NOP()] * count for count in range(4, 41, 4)], answered)


def options_cut():
    """A header that is longer than the packet: the frame ends in the middle of its options."""
    frame = bytes(with_payload(TEXT, options=[IPOption_NOP()] * 40))
    return [silent(frame[: ETHERNET + size]) for size in range(20, 60)]


def fragments():
    payload = noise(1400)
    parts = fragment(ip(id=99) / udp() / Raw(payload), fragsize=400)
    return [answered(*[ether() / part for part in parts], payload=payload)]


def lone_fragments():
    first = with_payload(TEXT * 8, id=100, flags="MF")
    last = ether() / ip(id=101, frag=185, proto=17) / Raw(TEXT)
    past_the_end = ether() / ip(id=102, frag=0x1FFF, proto=17) / Raw(TEXT)
    return [silent(first), silent(last), silent(past_the_end)]


def overlapping_fragments():
    pieces = [ip(id=103, flags="MF", frag=at, proto=17) / Raw(noise(64)) for at in (0, 4, 2)]
    return [silent(*[ether() / piece for piece in pieces])]


def tagged(*tags):
    """The datagram behind VLAN tags."""
    layers = [*tags, ip(), udp(), Raw(TEXT)]
    return functools.reduce(lambda frame, layer: frame / layer, layers, ether())


def vlans():
    single = [tagged(Dot1Q(vlan=vlan)) for vlan in (1, 5, 100, 4095)]
    service = [tagged(Dot1AD(vlan=vlan)) for vlan in (1, 5, 4095)]
    double = [tagged(Dot1AD(vlan=5), Dot1Q(vlan=6)), tagged(Dot1Q(vlan=5), Dot1Q(vlan=0))]
    triple = [tagged(*[Dot1Q(vlan=5)] * 3), tagged(*[Dot1Q(vlan=5)] * 20)]
    cut_tags = [bytes(tagged(Dot1Q(vlan=5)))[:length] for length in range(14, 46)]
    return [silent(frame) for frame in [*single, *service, *double, *triple, *cut_tags]]


def ether_types():
    body = bytes(ip() / udp() / Raw(TEXT))
    lengths = range(0, 1501, 60)
    types = [0x0801, 0x0806, 0x8035, 0x86DD, 0x8847, 0x8863, 0x8906, 0x9000, 0xFFFF]
    frames = [ether(type=kind) / Raw(body) for kind in [*lengths, *types]]
    arp = ether(dst=BROADCAST_MAC) / ARP(psrc=CLIENT, pdst="198.18.0.9", hwsrc=CLIENT_MAC)
    six = ether() / IPv6(src="2001:db8::2", dst="2001:db8::1") / udp() / Raw(TEXT)
    return [silent(frame) for frame in [*frames, arp, six]]


def protocols():
    others = [number for number in range(256) if number not in (1, 17)]
    frames = [ether() / ip(proto=number) / Raw(bytes(udp() / Raw(TEXT))) for number in others]
    tcp = ether() / ip() / TCP(sport=SOURCE_PORT, dport=ECHO, flags="S")
    return [silent(frame) for frame in [*frames, tcp, ether() / ip() / ICMP(type=13) / Raw(TEXT)]]


def to_address(address, mac):
    return silent(ether(dst=mac) / ip(dst=address) / udp() / Raw(TEXT))


def mutated():
    """Good frames with bytes overwritten, and what fuzz makes up; anything may come of them."""
    frames = [bytes(ether() / fuzz(ip()) / fuzz(udp()) / Raw(TEXT)) for _ in range(400)]
    for size in (0, 18, 200, MTU - HEADERS):
        for _ in range(400):
            frame = bytearray(plain(noise(size)))
            for _ in range(RANDOM.randint(1, 4)):
                frame[RANDOM.randint(12, min(len(frame), 60) - 1)] = RANDOM.randint(0, 255)
            if RANDOM.random() < 0.3:
                frame = frame[: RANDOM.randint(ETHERNET, len(frame))]
            if len(frame) >= ETHERNET + HEADERS:
                frame = summed(frame) if RANDOM.random() < 0.7 else frame
                frame = mended(frame) if RANDOM.random() < 0.7 else frame
            frames.append(bytes(frame))
    return [([frame], ANYTHING) for frame in frames if len(frame) <= ETHERNET + MTU]


OWN_IP_SUM, OWN_UDP_SUM = checksum_of(IP), checksum_of(UDP)
PACKET_BYTES = HEADERS + len(TEXT)
BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"

CLASSES = {
    "every payload size": every_size,
    "padding behind the packet": lambda: [answered(plain(b"ab").ljust(60, b"\xa5"), payload=b"ab")],
    "a UDP length before the packet's end": shorter_datagram,
    "no UDP checksum": lambda: each_udp("chksum", [0], answered),
    "a bare pseudo-header sum": bare_pseudo_header,
    "a UDP checksum of all ones": checksum_all_ones,
    "every TOS": lambda: each_ip("tos", range(256), answered),
    "every TTL": lambda: each_ip("ttl", range(256), answered),
    "DF and the reserved flag": lambda: each_ip("flags", ["DF", "evil", "DF+evil"], answered),
    "a priority tag": lambda: [answered(tagged(Dot1Q(vlan=0, prio=prio))) for prio in range(8)],
    "cut off behind the UDP header": lambda: cut(range(42, ETHERNET + MTU)),
    "cut off before the UDP header's end": lambda: cut(range(14, 42)),
    "version not 4": lambda: each_ip("version", [v for v in range(16) if v != 4]),
    "a header length below 5": header_lengths,
    "a header length past the packet": options_cut,
    "options": options,
    "a wrong header checksum": lambda: each_ip("chksum", one_bit_off(OWN_IP_SUM)),
    "a total length below the header's": lambda: each_ip("len", range(20)),
    "a total length past the frame": lambda: each_ip("len", [PACKET_BYTES + 1, 0x8000, 0xFFFF]),
    "a total length that cuts the datagram": lambda: each_ip("len", range(20, PACKET_BYTES)),
    "all fragments of a datagram": fragments,
    "fragments without the others": lone_fragments,
    "overlapping fragments": overlapping_fragments,
    "other protocols": protocols,
    "other EtherTypes": ether_types,
    "VLANs that are not ours": vlans,
    "a UDP length below its header's": lambda: each_udp("len", range(8)),
    "a UDP length past the packet": lambda: each_udp("len", [PACKET_BYTES, 0x7FFF, 0xFFFF]),
    "a wrong UDP checksum": lambda: each_udp("chksum", one_bit_off(OWN_UDP_SUM)),
    "port 0": lambda: each_udp("dport", [0]),
    "ports that nobody serves": lambda: each_udp("dport", [1, 6, 8, 0x0700, 65535]),
    "a source port of 0": lambda: each_udp("sport", [0]),
    "a source port that is served": lambda: each_udp("sport", [ECHO]),
    "a multicast source": lambda: each_ip("src", ["224.0.0.1", "239.255.255.255"]),
    "a broadcast source": lambda: each_ip("src", ["198.18.0.255", "255.255.255.255"]),
    "a reserved source": lambda: each_ip("src", ["240.0.0.1", "0.0.0.0", "0.1.2.3"]),
    "a loopback source": lambda: each_ip("src", ["127.0.0.1", "127.255.0.1"]),
    "our own address as source": lambda: each_ip("src", [HOST]),
    "a source with no route back": lambda: each_ip("src", ["203.0.113.9", "169.254.1.1"]),
    "a destination that is not ours": lambda: each_ip("dst", ["198.18.0.9", "240.0.0.1"]),
    "a loopback destination": lambda: each_ip("dst", ["127.0.0.1", "127.1.2.3"]),
    "a broadcast destination": lambda: [
        to_address(address, mac)
        for address in ("198.18.0.255", "255.255.255.255")
        for mac in (HOST_MAC, BROADCAST_MAC)
    ],
    "a multicast destination": lambda: [to_address("224.0.0.1", "01:00:5e:00:00:01")],
    "another host's MAC": lambda: [to_address(HOST, "02:00:00:00:00:99")],
    "our address under the broadcast MAC": lambda: [
        answered(ether(dst=BROADCAST_MAC) / ip() / udp() / Raw(TEXT))
    ],
    "mutated frames": mutated,
}


class Wire:
    """Our end of the veth."""

    def __init__(self, interface):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        self.socket.bind((interface, 0))
        self.answers, self.probes = [], []

    def collect(self, answers, count):
        """Receives until there are `count` of `answers`, or patience ends."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(answers) < count and time.monotonic() < deadline:
            if select.select([self.socket], [], [], 0.05)[0]:
                frame, (_, _, kind, *_) = self.socket.recvfrom(65536)
                if kind != socket.PACKET_OUTGOING:
                    self.sort(frame)

    def sort(self, frame):
        packet = Ether(frame)
        if UDP in packet:
            (self.probes if packet[UDP].dport == PROBE_PORT else self.answers).append(packet)

    def probe(self):
        """A good datagram. Everything that was sent before it came out of the ring before it."""
        text = noise(32)
        self.probes.clear()
        self.socket.send(bytes(ether() / ip() / udp(sport=PROBE_PORT) / Raw(text)))
        self.collect(self.probes, 1)
        return [wrong(packet, (PROBE_PORT, text, False)) for packet in self.probes] == [None]

    def run(self, sendings):
        self.answers.clear()
        mistakes, wanted, possible, probes = [], [], [], 0
        for number, (frames, payload) in enumerate(sendings, 1):
            for frame in frames:
                self.socket.send(frame)
            if payload is ANYTHING:
                possible.append(question(frames[0]))
            elif payload is not None:
                wanted.append((SOURCE_PORT, payload, question(frames[0])[2]))
            if number % BATCH == 0 or number == len(sendings):
                probes += 1
                if not self.probe():
                    mistakes.append("it no longer answers")
                    break
        self.collect(self.answers, len(wanted))
        if wanted and len(self.answers) != len(wanted):
            mistakes.append(f"{len(self.answers)} answers to {len(wanted)}")
        asked = wanted or [match(packet, possible) for packet in self.answers]
        mistakes += [fault for fault in map(wrong, self.answers, asked) if fault is not None]
        said = {"sent": len(sendings), "wanted": len(wanted), "answers": len(self.answers)}
        return {**said, "probes": probes, "mistakes": mistakes[:3]}


def question(frame):
    """To what port an answer must go, with what, and whether it may lack a UDP checksum."""
    packet = Ether(frame)
    if UDP not in packet:
        return None
    payload = bytes(packet[UDP].payload)[: max(packet[UDP].len - 8, 0)]
    return packet[UDP].sport, payload, packet[UDP].chksum == 0


def match(packet, possible):
    """Takes the question out of `possible` that an answer is to; None: there is none."""
    _, payload, lacks_sum = question(bytes(packet))
    likely = [(packet[UDP].dport, payload, lacks) for lacks in (lacks_sum, True)]
    asked = next((each for each in likely if each in possible), None)
    if asked is not None:
        possible.remove(asked)
    return asked


def wrong(packet, asked):
    """What is wrong with an answer, by scapy's own idea of a right one; None: nothing. What came
    without a UDP checksum may go back without."""
    if asked is None:
        return f"an answer that nobody asked for: {packet.summary()}"
    port, payload, may_lack_sum = asked
    if question(bytes(packet))[1] != payload:
        return f"another payload: {packet.summary()}"
    link, way = (packet.src, packet.dst), (packet[IP].src, packet[IP].dst)
    ports = packet[UDP].sport, packet[UDP].dport
    if (link, way, ports) != ((HOST_MAC, CLIENT_MAC), (HOST, CLIENT), (ECHO, port)):
        return f"another way back: {packet.summary()}"
    right = Ether(bytes(packet))
    for layer, field in ((IP, "chksum"), (IP, "len"), (IP, "ihl"), (UDP, "chksum"), (UDP, "len")):
        right[layer].delfieldval(field)
    if may_lack_sum and packet[UDP].chksum == 0:
        right[UDP].chksum = 0
    if bytes(right) != bytes(packet):
        return f"lengths or checksums: {packet.summary()}"
    return None


def main():
    wire = Wire(INTERFACE)
    print(json.dumps(list(CLASSES)), flush=True)
    for line in sys.stdin:
        print(json.dumps(wire.run(CLASSES[line.strip()]())), flush=True)


main()
