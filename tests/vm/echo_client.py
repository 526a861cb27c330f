# SPDX-License-Identifier: Apache-2.0
"""Asks an echo service over and over, each time from another port, and prints how many answers were
right. Python, because in an emulated machine a client in JavaScript takes its time to start.

    echo_client.py SOURCE TARGET COUNT MILLIS
"""

import socket
import sys

SOURCE, TARGET, COUNT, MILLIS = sys.argv[1], (sys.argv[2], 7), int(sys.argv[3]), int(sys.argv[4])


def is_answered(text):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.bind((SOURCE, 0))
        asker.settimeout(MILLIS / 1000)
        asker.sendto(text, TARGET)
        try:
            return asker.recvfrom(65536) == (text, TARGET)
        except TimeoutError:
            return False


print(sum(is_answered(b"number %d" % number) for number in range(COUNT)))
