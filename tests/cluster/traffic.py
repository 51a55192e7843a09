"""Traffic of known size between two pods of a test cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.cluster.cluster import Cluster, KubectlError
from tests.cluster.polling import eventually
from tools.images import image

UDP_PORT = 7000
TCP_PORT = 7001
SENT_S = 120.0
ETHERNET, IPV4, IPV6, UDP = 14, 20, 40, 8

RECEIVE = f"""
import socket, threading
def drain(peer):
    with peer:
        while peer.recv(65536): pass
def serve():
    server = socket.create_server(("::", {TCP_PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        threading.Thread(target=drain, args=[server.accept()[0]]).start()
threading.Thread(target=serve).start()
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", {UDP_PORT}))
while True: udp.recv(65536)
"""

_SEND_UDP = """
import os, socket, sys, time
host, port, count, size, rate = sys.argv[1], *map(int, sys.argv[2:])
family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
sender = socket.socket(family, socket.SOCK_DGRAM)
sender.connect(address)
own = sender.getsockname()[1]
print(own, flush=True)
if os.fork(): os._exit(0)  # goes on when nobody listens any more: the API server carries what kubectl hears
os.setsid()
for number in (0, 1, 2): os.close(number)
began = time.monotonic()
for number in range(count):
    sender.send(bytes(size))
    if number % 10 == 0 and (ahead := began + number / rate - time.monotonic()) > 0: time.sleep(ahead)
open(f"/sent-{own}", "w").close()
"""

_SEND_TCP = """
import json, socket, sys
def segments():
    names, values = [line.split() for line in open("/proc/net/snmp") if line.startswith("Tcp:")]
    tcp = dict(zip(names, values))
    return [int(tcp["OutSegs"]) + int(tcp["RetransSegs"]), int(tcp["InSegs"])]
before = segments()
sender = socket.create_connection((sys.argv[1], int(sys.argv[2])))
port = sender.getsockname()[1]
sender.sendall(bytes(int(sys.argv[3])))
sender.shutdown(socket.SHUT_WR)
sender.recv(1)
sender.close()
after = segments()
print(json.dumps({"port": port, "sent": after[0] - before[0], "received": after[1] - before[1]}))
"""


@dataclass(frozen=True, slots=True)
class Datagrams:
    """What was sent from one UDP port."""

    port: int
    count: int
    bytes: int
    """On the wire, of all of them."""

    @property
    def counted(self) -> tuple[int, int]:
        """Packets and bytes."""
        return self.count, self.bytes


@dataclass(frozen=True, slots=True)
class Segments:
    """What one TCP connection was, by the client's kernel."""

    port: int
    sent: int
    received: int


class Pair:
    """Two pods: `client` on node-1 and `server` on node-2."""

    def __init__(
        self,
        cluster: Cluster,
        client: dict[str, Any],
        server: dict[str, Any],
        udp_port: int = UDP_PORT,
        tcp_port: int = TCP_PORT,
    ) -> None:
        """`client` and `server` as the API server has pods; the ports are the server's."""
        self.cluster = cluster
        self.udp_port, self.tcp_port = udp_port, tcp_port
        self.client = str(client["metadata"]["name"])
        self.client_addresses = [str(each["ip"]) for each in client["status"]["podIPs"]]
        self.server = str(server["metadata"]["name"])
        self.server_addresses = [str(each["ip"]) for each in server["status"]["podIPs"]]

    def send(self, count: int, size: int = 100, rate: int = 2000, family: int = 0) -> Datagrams:
        """Datagrams to the server, `rate` a second; returns when all are sent. `family`: 0 IPv4, 1 IPv6."""
        return self.sending(count, size, rate, family).wait()

    def sending(self, count: int, size: int = 100, rate: int = 2000, family: int = 0) -> Sending:
        """The same, on its way."""
        arguments = [self.server_addresses[family], self.udp_port, count, size, rate]
        said = self.cluster.exec(self.client, "python3", "-c", _SEND_UDP, *map(str, arguments))
        port = int(said)
        headers = ETHERNET + (IPV6 if family else IPV4) + UDP
        return Sending(self, Datagrams(port, count, count * (headers + size)))

    def connect(self, size: int, family: int = 0) -> Segments:
        """A TCP connection that carries `size` bytes to the server."""
        host = self.server_addresses[family]
        said = self.cluster.exec(self.client, "python3", "-c", _SEND_TCP, host, str(self.tcp_port), str(size))
        return Segments(**json.loads(said))


class Sending:
    """Datagrams that are on their way."""

    def __init__(self, pair: Pair, datagrams: Datagrams) -> None:
        self._pair = pair
        self._datagrams = datagrams

    def wait(self) -> Datagrams:
        """Until all are sent. TimeoutError where the sender fails."""
        eventually(self._ended, "all datagrams are sent", SENT_S, every_s=0.3, passing=(KubectlError,))
        return self._datagrams

    def _ended(self) -> bool:
        return bool(self._pair.cluster.exec(self._pair.client, "ls", f"/sent-{self._datagrams.port}"))


@contextmanager
def pair(cluster: Cluster, name: str) -> Iterator[Pair]:
    """Two pods that are there as long as this."""
    client, server = f"{name}-client", f"{name}-server"
    try:
        receiving = cluster.run_pod(server, "node-2", "python3", "-c", RECEIVE, image=image("agent"))
        sending = cluster.run_pod(client, "node-1", "sleep", "infinity", image=image("agent"))
        yield Pair(cluster, sending, receiving)
    finally:
        cluster.delete(f"pod/{client}", f"pod/{server}")
