"""What can be reached from where this runs: `python reach.py '[["name", "host", port], ..]' DNS_ADDRESS`.

It is carried into a pod as text, so it needs nothing but Python. It prints the names of what it reached, as JSON.
"""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

PATIENCE_S = 3
QUERY = b"\0\7\1\0\0\1\0\0\0\0\0\0\0\0\1\0\1"
"""For the root's address: head, and question."""


def connects(host: str, port: int) -> bool:
    """Whether a TCP connection is taken."""
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True


def asked(server: str) -> bool:
    """Whether a name server answers over UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(PATIENCE_S)
        try:
            udp.sendto(QUERY, (server, 53))
            return bool(udp.recvfrom(512))
        except OSError:
            return False


def resolves(name: str) -> bool:
    """Whether the pod's own resolver knows a name."""
    try:
        socket.getaddrinfo(name, 443)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    places, server = json.loads(sys.argv[1]), sys.argv[2]
    with ThreadPoolExecutor(64) as pool:
        reached = [
            name
            for name, found in zip(
                [place[0] for place in places],
                pool.map(lambda place: connects(place[1], place[2]), places),
                strict=True,
            )
            if found
        ]
    if asked(server):
        reached.append("DNS over UDP")
    if resolves("kubernetes.default.svc"):
        reached.append("names")
    print(json.dumps(reached))
