"""Makes the connections of traffic.txt: the director's own addresses end in 2, its virtual services in 50."""

import os
import socket
import time

CHILD_LIFETIME_S = 12


def tcp(family, service, client):
    """Connects and, if somebody answers, exchanges two messages."""
    s = socket.socket(family)
    s.settimeout(1)
    s.bind(client)
    try:
        s.connect(service)
    except OSError:
        return s
    for _ in range(2):
        s.send(b"x" * 1000)
        s.recv(100000)
    return s


def udp(service, client):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(client)
    s.sendto(b"q" * 30, service)
    return s


held = [tcp(socket.AF_INET, ("10.66.0.50", 80), ("10.66.0.2", port)) for port in range(40001, 40004)]
held.append(tcp(socket.AF_INET6, ("fd66::50", 80), ("fd66::2", 40009)))
held += [udp(("10.66.0.50", 53), ("10.66.0.2", port)) for port in (5000, 40006)]
held[0].close()
# The kernel refreshes its counters every 2 s.
time.sleep(3)
if os.fork() == 0:
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    time.sleep(CHILD_LIFETIME_S)
