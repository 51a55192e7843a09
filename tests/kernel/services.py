"""Services for the kernel tests: a host that translates as kube-proxy does, and connections through it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np

from podwire_agent.core.translations import Translated, Translations
from podwire_agent.model import TUPLE, Records
from tests.kernel.netns import Host, Namespace, Pod

SERVICE = {socket.AF_INET: "10.96.0.10", socket.AF_INET6: "fd00:96::10"}
SERVICE_PORT = 80
SERVER_PORT = 8080
NODE_PORT = 30080

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
PROTOCOLS = {TCP: 6, UDP: 17}

ALL = "masquerade"
HAIRPIN = "ip saddr 10.80.0.2 ip daddr 10.80.0.2 masquerade"
PORT_TOO = "masquerade fully-random"

Address = tuple[str, int]


def translate(host: Host, masquerade: str = "counter", backend: int = 2) -> None:
    """The service's address and the node's port lead to pod `backend`, as kube-proxy's rules do (nftables)."""
    v4, v6 = f"10.80.0.{backend}:{SERVER_PORT}", f"[fd00:80::{backend:x}]:{SERVER_PORT}"
    service = f"meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT}"
    rules = f"""
        flush ruleset
        table inet services {{
            chain prerouting {{
                type nat hook prerouting priority dstnat
                ip daddr {SERVICE[socket.AF_INET]} {service} dnat ip to {v4}
                ip6 daddr {SERVICE[socket.AF_INET6]} {service} dnat ip6 to {v6}
                ip daddr {host.ipv4} meta l4proto {{ tcp, udp }} th dport {NODE_PORT} dnat ip to {v4}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat
                {masquerade}
            }}
        }}
    """
    command = host.namespace.command("nft", "-f", "-")
    done = subprocess.run(command, check=False, input=rules, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nft: {done.stderr}")


def as_a_node(host: Host) -> None:
    """It forwards, and what passes its bridge passes conntrack too, as CNI plugins want it (br_netfilter)."""
    host.namespace.sysctl(
        {
            "ipv4/ip_forward": 1,
            "ipv6/conf/all/forwarding": 1,
            "ipv4/conf/all/send_redirects": 0,
            "ipv4/conf/br0/send_redirects": 0,
            "bridge/bridge-nf-call-iptables": 1,
            "bridge/bridge-nf-call-ip6tables": 1,
        }
    )


def address_of(pod: Pod, family: socket.AddressFamily) -> str:
    """Of that family."""
    return pod.ipv4 if family == socket.AF_INET else pod.ipv6


@dataclass(frozen=True)
class Seen:
    """A connection as the two pods' interfaces see it, and when."""

    at_client: Records
    """TUPLE (1,), client to server."""
    at_server: Records
    first_mono_ns: int
    last_mono_ns: int

    def asked(self, translations: Translations) -> Translated:
        """Of the client's and the server's form, then of the replies of both."""
        tuples = np.zeros(4, TUPLE)
        for each, one in enumerate(
            (self.at_client, self.at_server, reply_of(self.at_client), reply_of(self.at_server))
        ):
            tuples[each] = one[0]
        return ask(translations, tuples, self.first_mono_ns, self.last_mono_ns)


def ask(translations: Translations, tuples: Records, first_mono_ns: int, last_mono_ns: int) -> Translated:
    """All of the same time."""
    times = (np.full(len(tuples), each, np.uint64) for each in (first_mono_ns, last_mono_ns))
    return translations.of(tuples, *times)


class Server:
    """Listens in a pod, for as many connections as one likes."""

    def __init__(self, pod: Pod, family: socket.AddressFamily = socket.AF_INET, kind: socket.SocketKind = TCP) -> None:
        self.kind = kind
        self._socket = pod.namespace.socket(family, kind)
        self._socket.settimeout(5)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address_of(pod, family), SERVER_PORT))
        if kind == TCP:
            self._socket.listen(1024)

    def close(self) -> None:
        """At the end."""
        self._socket.close()

    def answer(self) -> tuple[socket.socket | None, Address, Address]:
        """One connection: its socket (of TCP), its client's address as seen here, and its own."""
        if self.kind == UDP:
            _, client = self._socket.recvfrom(100)
            self._socket.sendto(b"answer", client)
            return None, client[:2], self._socket.getsockname()[:2]
        connection, client = self._socket.accept()
        connection.settimeout(5)
        connection.recv(100)
        connection.sendall(b"answer")
        return connection, client[:2], connection.getsockname()[:2]


@contextmanager
def connected(
    client: Pod, server: Server, to: Address, family: socket.AddressFamily = socket.AF_INET, port: int = 0
) -> Iterator[Seen]:
    """A connection with a request and its answer; closed at the end."""
    first_mono_ns = time.monotonic_ns()
    with client.namespace.socket(family, server.kind) as made:
        made.settimeout(5)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address_of(client, family), port))
        made.connect(to)
        made.sendall(b"request")
        taken, peer, here = server.answer()
        assert made.recv(100) == b"answer"
        own = made.getsockname()[:2]
        protocol = PROTOCOLS[server.kind]
        try:
            yield Seen(tuple_of(own, to, protocol), tuple_of(peer, here, protocol), first_mono_ns, time.monotonic_ns())
        finally:
            if taken is not None:
                with closing(taken):  # without TIME_WAIT, so that the port is free at once
                    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def tuple_of(source: Address, destination: Address, protocol: int) -> Records:
    """TUPLE (1,)."""
    made = np.zeros(1, TUPLE)
    made["src_address"], made["dst_address"] = packed(source[0]), packed(destination[0])
    made["src_port"], made["dst_port"], made["protocol"] = source[1], destination[1], protocol
    return made


def packed(address: str) -> Records:
    """16 bytes; IPv4 mapped."""
    text = address if ":" in address else f"::ffff:{address}"
    return np.frombuffer(socket.inet_pton(socket.AF_INET6, text), np.uint8)


def reply_of(tuples: Records) -> Records:
    """TUPLE the other way round."""
    turned = tuples.copy()
    for part in ("address", "port"):
        turned[f"src_{part}"], turned[f"dst_{part}"] = tuples[f"dst_{part}"], tuples[f"src_{part}"]
    return turned


def forget_connections(namespace: Namespace) -> None:
    """All of conntrack's entries are destroyed, on return (IPCTNL_MSG_CT_DELETE without a tuple)."""
    header = struct.pack("=IHHII", 20, 1 << 8 | 2, 0x1 | 0x4, 1, 0)
    with namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            netlink.send(header + struct.pack("=BBH", family, 0, 0))
            error = struct.unpack_from("=i", netlink.recv(1000), 16)[0]
            if error:
                raise OSError(-error, os.strerror(-error))
