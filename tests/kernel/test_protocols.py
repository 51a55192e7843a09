"""Every protocol by real sockets, through the agent as a process: flows, packets and bytes at both ends."""

from __future__ import annotations

import atexit
import shutil
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from podwire_agent.kernel.clsact import Clsact
from podwire_agent.kernel.loader import LibbpfLoader
from podwire_agent.model import HookPoint
from tests.kernel.agent_fixtures import ended, started
from tests.kernel.netns import Host, Pod
from tests.kernel.running import Flow, Node
from tests.kernel.watched_host import attach, tcp_segments_sent, transfer
from tools.compile_bpf import compile_object

ETHERNET, IPV4, IPV6, UDP, ICMP = 14, 20, 40, 8, 8
TCP_WITH_TIMESTAMPS = 32
SYN_OPTIONS = 8
"""What a SYN has beyond the others' timestamps: maximum segment size, SACK, window scale."""
UDP_SEGMENT = 103
"""Socket option of linux/udp.h."""

Flows = dict[Flow, tuple[int, int]]
"""Flow -> packets, bytes on the wire."""


@dataclass(frozen=True)
class Ends:
    """The pods of a test."""

    first: Pod
    second: Pod

    def addresses(self, family: int) -> tuple[str, str]:
        return (self.first.ipv6, self.second.ipv6) if family == 6 else (self.first.ipv4, self.second.ipv4)


def raw(ends: Ends, protocol: int, payload: bytes, number: int) -> None:
    with ends.first.namespace.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as sender:
        for _ in range(number):
            sender.sendto(payload, (ends.second.ipv4, 0))


def datagrams(ends: Ends, addresses: tuple[str, str], payload: bytes, number: int, segment: int = 0) -> None:
    family = socket.AF_INET6 if ":" in addresses[0] else socket.AF_INET
    with (
        ends.second.namespace.socket(family, socket.SOCK_DGRAM) as receiver,
        ends.first.namespace.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((addresses[1], 5000))
        sender.bind((addresses[0], 4000))
        if segment:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        for _ in range(number):
            sender.sendto(payload, (addresses[1], 5000))


def tcp(family: int) -> Callable[[Ends], Flows]:
    def act(ends: Ends) -> Flows:
        source, destination = ends.addresses(family)
        before = tcp_segments_sent(ends.first)
        sent = transfer(ends.first, ends.second, destination, 5000, 3_000_000)
        segments = tcp_segments_sent(ends.first) - before
        header = ETHERNET + (IPV6 if family == 6 else IPV4) + TCP_WITH_TIMESTAMPS
        return {(source, destination, 0, 5000, "TCP"): (segments, sent + segments * header + SYN_OPTIONS)}

    return act


def udp(family: int) -> Callable[[Ends], Flows]:
    def act(ends: Ends) -> Flows:
        datagrams(ends, ends.addresses(family), bytes(100), 50)
        size = ETHERNET + (IPV6 if family == 6 else IPV4) + UDP + 100
        return {(*ends.addresses(family), 4000, 5000, "UDP"): (50, 50 * size)}

    return act


def udp_segments(family: int) -> Callable[[Ends], Flows]:
    def act(ends: Ends) -> Flows:
        datagrams(ends, ends.addresses(family), bytes(5000), 10, segment=1000)
        size = ETHERNET + (IPV6 if family == 6 else IPV4) + UDP + 1000
        return {(*ends.addresses(family), 4000, 5000, "UDP"): (50, 50 * size)}

    return act


def fragments(family: int) -> Callable[[Ends], Flows]:
    """A datagram of 4000 bytes takes three: 1500, 1500 and the rest."""

    def act(ends: Ends) -> Flows:
        source, destination = ends.addresses(family)
        datagrams(ends, (source, destination), bytes(4000), 5)
        header = IPV6 + 8 if family == 6 else IPV4
        room = (1500 - header) // 8 * 8
        first = ETHERNET + header + room
        last = ETHERNET + header + UDP + 4000 - 2 * room
        return {
            (source, destination, 4000, 5000, "UDP"): (5, 5 * first),
            (source, destination, 0, 0, "UDP"): (10, 5 * (first + last)),
        }

    return act


def ping(family: int) -> Callable[[Ends], Flows]:
    def act(ends: Ends) -> Flows:
        source, destination = ends.addresses(family)
        ends.first.namespace.run("ping", "-q", "-c", "5", "-i", "0.01", "-s", "56", destination)
        size = ETHERNET + (IPV6 if family == 6 else IPV4) + ICMP + 56
        name = "ICMPv6" if family == 6 else "ICMP"
        return {(source, destination, 0, 0, name): (5, 5 * size)}

    return act


def sctp(ends: Ends) -> Flows:
    """The header by hand: the kernel of a test machine may not have the protocol."""
    raw(ends, socket.IPPROTO_SCTP, struct.pack("!HHII", 4000, 5000, 1, 0) + bytes(20), 20)
    return {(ends.first.ipv4, ends.second.ipv4, 4000, 5000, "SCTP"): (20, 20 * (ETHERNET + IPV4 + 32))}


def without_ports(protocol: int, name: str) -> Callable[[Ends], Flows]:
    def act(ends: Ends) -> Flows:
        raw(ends, protocol, bytes(60), 20)
        return {(ends.first.ipv4, ends.second.ipv4, 0, 0, name): (20, 20 * (ETHERNET + IPV4 + 60))}

    return act


@cache
def tag_object() -> Path:
    """The programs that do in a pod what a VLAN device does, compiled."""
    directory = Path(mkdtemp(prefix="pw-tag-"))
    atexit.register(shutil.rmtree, directory)
    target = directory / "tag.bpf.o"
    compile_object(Path(__file__).with_name("programs") / "tag.bpf.c", target)
    return target


def vlan(ends: Ends) -> Flows:
    """All that a pod sends is tagged: 4 bytes a frame, which the kernel keeps beside the buffer."""
    with LibbpfLoader(tag_object()).load({}) as tags:
        for pod in (ends.first, ends.second):
            with pod.namespace.entered(), Clsact() as clsact:
                hooks = {HookPoint.EGRESS: tags.programs["push_tag"], HookPoint.INGRESS: tags.programs["pop_tag"]}
                attach(clsact, pod.namespace.index("eth0"), hooks)
        datagrams(ends, ends.addresses(4), bytes(100), 50)
    return {(*ends.addresses(4), 4000, 5000, "UDP"): (50, 50 * (ETHERNET + 4 + IPV4 + UDP + 100))}


def short_connections(ends: Ends) -> Flows:
    before = tcp_segments_sent(ends.first)
    with ends.second.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((ends.second.ipv4, 5000))
        listener.listen(64)
        for _ in range(200):
            with ends.first.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                client.connect((ends.second.ipv4, 5000))
                accepted, _ = listener.accept()
                accepted.close()
                assert client.recv(1) == b""
    segments = tcp_segments_sent(ends.first) - before
    size = ETHERNET + IPV4 + TCP_WITH_TIMESTAMPS
    return {(ends.first.ipv4, ends.second.ipv4, 0, 5000, "TCP"): (segments, segments * size + 200 * SYN_OPTIONS)}


def without_client_ports(flows: Flows) -> Flows:
    """The sums over a server's clients, whose ports the kernel has chosen."""
    sums: Flows = {}
    for (source, destination, source_port, destination_port, protocol), (packets, octets) in flows.items():
        client = 0 if protocol == "TCP" and destination_port == 5000 else source_port
        flow = (source, destination, client, destination_port, protocol)
        before = sums.get(flow, (0, 0))
        sums[flow] = (before[0] + packets, before[1] + octets)
    return sums


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(tcp(4), id="bulk TCP over IPv4"),
        pytest.param(tcp(6), id="bulk TCP over IPv6"),
        pytest.param(short_connections, id="200 short connections"),
        pytest.param(udp(4), id="UDP over IPv4"),
        pytest.param(udp(6), id="UDP over IPv6"),
        pytest.param(udp_segments(4), id="UDP_SEGMENT over IPv4"),
        pytest.param(udp_segments(6), id="UDP_SEGMENT over IPv6"),
        pytest.param(fragments(4), id="fragments of IPv4"),
        pytest.param(fragments(6), id="fragments of IPv6"),
        pytest.param(ping(4), id="ICMP"),
        pytest.param(ping(6), id="ICMPv6"),
        pytest.param(sctp, id="SCTP"),
        pytest.param(without_ports(47, "GRE"), id="GRE"),
        pytest.param(without_ports(50, "ESP"), id="ESP"),
        pytest.param(without_ports(253, "253"), id="a protocol without a name"),
        pytest.param(vlan, id="pods in a VLAN"),
    ],
)
def test_what_the_sockets_sent_is_reported_at_both_ends(act: Callable[[Ends], Flows], host: Host, place: Node) -> None:
    ends = Ends(*host.pods)
    agent = started(place)
    expected = act(ends)
    ended(place, host, agent)
    left = place.flows("veth1", "from_pod")
    assert expected.items() <= without_client_ports(left).items()
    assert left == place.flows("veth2", "to_pod")
    assert place.flows("veth2", "from_pod") == place.flows("veth1", "to_pod")
    if act is short_connections:
        assert len([flow for flow in left if flow[4] == "TCP"]) == 200


def test_what_a_pod_and_the_host_say_to_each_other_is_reported_once(host: Host, place: Node) -> None:
    pod = host.pods[0]
    agent = started(place)
    pod.namespace.run("ping", "-q", "-c", "3", "-i", "0.01", host.ipv4)
    ended(place, host, agent)
    assert place.flows("veth1", "from_pod")[pod.ipv4, host.ipv4, 0, 0, "ICMP"] == (3, 3 * 98)
    assert place.flows("veth1", "to_pod")[host.ipv4, pod.ipv4, 0, 0, "ICMP"] == (3, 3 * 98)
    assert not place.flows("veth2", "to_pod")
