#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The far end of a tun device: sends a UDP datagram into it until one is answered, and prints the
answer's text. The device comes up with this program, so the first may find it down yet.

    device_tun.py DEVICE SOURCE DESTINATION PORT TEXT
"""

import fcntl
import os
import select
import struct
import sys

from scapy.all import IP, UDP, Raw

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
ATTEMPTS, PATIENCE_SECONDS = 20, 0.3

device, source, destination, port, text = sys.argv[1:]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
request = IP(src=source, dst=destination) / UDP(sport=4000, dport=int(port)) / Raw(text.encode())
for _ in range(ATTEMPTS):
    os.write(tun, bytes(request))
    while select.select([tun], [], [], PATIENCE_SECONDS)[0]:
        packet = IP(os.read(tun, 65536))
        if packet.version == 4 and UDP in packet and packet[UDP].dport == 4000:
            print(bytes(packet[UDP].payload).decode())
            sys.exit()
sys.exit("no answer")
