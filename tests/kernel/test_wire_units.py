"""The program on real veths, against what sockets, stack and interfaces say of the same traffic."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.packet import Packet

from podwire_agent.kernel.clsact import Clsact
from podwire_agent.kernel.loader import LibbpfLoader
from podwire_agent.layout import FlowDirection, FlowKind, UnsupportedReason
from podwire_agent.model import HookPoint
from tests.kernel.datapath_fixtures import Datapath
from tests.kernel.netns import Host, Pod, ip, mac_of
from tests.kernel.packet_table import CASES, DATA, PLAIN4, PORTS, V4, V6, build, sctp, tcp
from tests.kernel.watched_host import TAG_BYTES, Counted, WatchedHost, attach, tcp_segments_sent, transfer
from tools.compile_bpf import compile_object

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
WHOLE, LATER = FlowKind.FLOW_WHOLE, FlowKind.FLOW_LATER_FRAGMENT
FROM_POD, TO_POD = FlowDirection
ETHERNET, IPV4, IPV6, UDP_HEADER, TCP_HEADER = 14, 20, 40, 8, 32
"""Header bytes; TCP's with timestamps."""
SYN_OPTIONS = 8
"""More options on a SYN than on other segments: MSS and window scale."""
UDP_SEGMENT = 103
"""Of linux/udp.h."""
SOL_PACKET, PACKET_VNET_HDR = 263, 15
"""Of linux/socket.h and linux/if_packet.h."""
PAYLOAD = 8 << 20


@pytest.fixture
def watched(host: Host, datapath: Datapath) -> Iterator[WatchedHost]:
    for pod in host.pods:
        # Without SACK every header but the SYN's is of one length, so that bytes can be derived from segments.
        pod.namespace.sysctl({"ipv4/tcp_sack": 0})
    with WatchedHost(host, datapath) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Offloads:
    """Where super-packets are cut."""

    pods: bool = True
    """The pods' ends take super-packets."""
    host: bool = True
    """The host's ends take super-packets; if not, they are cut after our hook, and the counter counts frames."""


def switch(watched: WatchedHost, offloads: Offloads) -> None:
    off = ["tso", "off", "gso", "off", "gro", "off"]
    for pod in (watched.first, watched.second):
        if not offloads.pods:
            pod.namespace.run("ethtool", "-K", "eth0", *off, "tx", "off")
        if not offloads.host:
            watched.host.namespace.run("ethtool", "-K", pod.interface, *off)


def both_ends(watched: WatchedHost, sender: Pod, receiver: Pod) -> tuple[Counted, Counted]:
    """What left and what arrived: the same flows, to the packet and the byte."""
    left, arrived = watched.way(sender, receiver)
    assert left.flow_table() == arrived.flow_table()
    assert left.account.estimated == arrived.account.estimated == (0, 0)
    return left, arrived


def address(pod: Pod, family: int) -> str:
    return pod.ipv6 if family == 6 else pod.ipv4


def ip_header(family: int) -> int:
    return IPV6 if family == 6 else IPV4


def same_as_interfaces(left: Counted, arrived: Counted) -> None:
    assert left.buffers == left.interface
    assert arrived.buffers == arrived.interface


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    "offloads",
    [
        pytest.param(Offloads(), id="super-packets all the way"),
        pytest.param(Offloads(pods=False), id="the pods cut"),
        pytest.param(Offloads(host=False), id="the host cuts behind the hook"),
        pytest.param(Offloads(pods=False, host=False), id="everyone cuts"),
    ],
)
def test_bulk_tcp_is_what_the_pods_stacks_have_sent(watched: WatchedHost, offloads: Offloads, family: int) -> None:
    switch(watched, offloads)
    client, server = watched.first, watched.second
    before = [tcp_segments_sent(pod) for pod in (client, server)]
    sent = transfer(client, server, address(server, family), 5000, PAYLOAD)
    requests, requests_arrived = both_ends(watched, client, server)
    answers, answers_arrived = both_ends(watched, server, client)
    segments = [tcp_segments_sent(pod) - then for pod, then in zip((client, server), before, strict=True)]
    header = ETHERNET + ip_header(family) + TCP_HEADER
    assert requests.by_protocol == {(TCP, WHOLE): (segments[0], sent + segments[0] * header + SYN_OPTIONS)}
    assert answers.by_protocol == {(TCP, WHOLE): (segments[1], segments[1] * header + SYN_OPTIONS)}
    for seen in (requests, answers):
        assert seen.buffers == seen.interface
    if offloads.host:
        same_as_interfaces(requests, requests_arrived)
        same_as_interfaces(answers, answers_arrived)
    else:
        assert requests_arrived.account.seen == requests_arrived.interface
        assert answers_arrived.account.seen == answers_arrived.interface
    if offloads.pods:
        assert requests.account.buffers < segments[0]
    else:
        assert requests.account.seen == requests.buffers
    flags = [tuple(seen.values[0][name] for name in ("seen_syn", "seen_syn_ack", "seen_fin", "seen_rst"))
             for seen in (requests, answers)]  # fmt: skip
    assert flags == [(1, 0, 1, 0), (0, 1, 1, 0)]


def test_big_tcp_is_what_it_is_cut_into(watched: WatchedHost) -> None:
    client, server = watched.first, watched.second
    for pod in (client, server):
        ip("link set eth0 gso_max_size 185000 gro_max_size 185000", netns=pod.namespace.name)
        ip(f"link set {pod.interface} gso_max_size 185000 gro_max_size 185000", netns=watched.host.namespace.name)
    before = tcp_segments_sent(client)
    sent = transfer(client, server, server.ipv6, 5000, 2 * PAYLOAD)
    left, arrived = both_ends(watched, client, server)
    segments = tcp_segments_sent(client) - before
    header = ETHERNET + IPV6 + TCP_HEADER
    assert left.account.buffer_bytes > 70_000 * left.account.buffers
    assert left.by_protocol == {(TCP, WHOLE): (segments, sent + segments * header + SYN_OPTIONS)}
    same_as_interfaces(left, arrived)


def datagrams(watched: WatchedHost, family: int, payload: bytes, number: int, segment: int = 0) -> None:
    """Send UDP datagrams from the first pod to the second, and see that they all arrive."""
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    target = (address(watched.second, family), 5001)
    with (
        watched.second.namespace.socket(kind, socket.SOCK_DGRAM) as receiver,
        watched.first.namespace.socket(kind, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(target)
        receiver.settimeout(5)
        sender.bind((address(watched.first, family), 4001))
        if segment:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        for _ in range(number):
            sender.sendto(payload, target)
            received = 0
            while received < len(payload):
                received += len(receiver.recv(1 << 16))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [0, 1, 100, 1400])
def test_udp_datagrams_are_their_frames(watched: WatchedHost, family: int, size: int) -> None:
    datagrams(watched, family, bytes(size), 20)
    left, arrived = both_ends(watched, watched.first, watched.second)
    frame = ETHERNET + ip_header(family) + UDP_HEADER + size
    assert left.by_ports(4001, 5001) == left.account.seen == (20, 20 * frame)
    same_as_interfaces(left, arrived)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("offloads", [Offloads(), Offloads(pods=False)], ids=["super-packets", "cut in the pod"])
def test_udp_segment_is_the_frames_that_it_becomes(watched: WatchedHost, offloads: Offloads, family: int) -> None:
    switch(watched, offloads)
    if not offloads.pods:
        watched.first.namespace.run("ethtool", "-K", "eth0", "tx", "on", "tx-udp-segmentation", "off")
    datagrams(watched, family, bytes(30_500), 10, segment=1000)
    left, arrived = both_ends(watched, watched.first, watched.second)
    header = ETHERNET + ip_header(family) + UDP_HEADER
    assert left.by_ports(4001, 5001) == (10 * 31, 10 * (30_500 + 31 * header))
    assert left.account.buffers == (10 if offloads.pods else 10 * 31)
    same_as_interfaces(left, arrived)


@pytest.mark.parametrize(("family", "header"), [(4, ETHERNET + IPV4), (6, ETHERNET + IPV6 + 8)])
def test_of_a_fragmented_datagram_the_first_has_the_ports(watched: WatchedHost, family: int, header: int) -> None:
    datagrams(watched, family, bytes(8000), 10)
    left, arrived = both_ends(watched, watched.first, watched.second)
    assert left.by_ports(4001, 5001)[0] == 10
    assert left.by_protocol[UDP, LATER][0] == 50
    assert left.account.seen == (60, 10 * (UDP_HEADER + 8000 + 6 * header))
    same_as_interfaces(left, arrived)


@pytest.mark.parametrize(("family", "protocol"), [(4, ICMP), (6, ICMPV6)])
def test_a_ping_goes_and_comes(watched: WatchedHost, family: int, protocol: int) -> None:
    watched.first.namespace.run("ping", "-c3", "-i0.01", "-s100", address(watched.second, family))
    frame = ETHERNET + ip_header(family) + 8 + 100
    for sender, receiver in ((watched.first, watched.second), (watched.second, watched.first)):
        left, arrived = both_ends(watched, sender, receiver)
        assert left.by_protocol == {(protocol, WHOLE): (3, 3 * frame)}
        same_as_interfaces(left, arrived)


@pytest.fixture(scope="session")
def tag_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tag") / "tag.bpf.o"
    compile_object(Path(__file__).with_name("programs") / "tag.bpf.c", target)
    return target


@pytest.mark.parametrize("in_metadata", [True, False], ids=["by the device", "by the stack before the device"])
@pytest.mark.parametrize("family", [4, 6])
def test_tags_are_bytes_of_every_segment(
    watched: WatchedHost, tag_object: Path, family: int, *, in_metadata: bool
) -> None:
    client, server = watched.first, watched.second
    with LibbpfLoader(tag_object).load({}) as tags:
        for pod in (client, server):
            with pod.namespace.entered(), Clsact() as clsact:
                hooks = {HookPoint.EGRESS: tags.programs["push_tag"], HookPoint.INGRESS: tags.programs["pop_tag"]}
                attach(clsact, pod.namespace.index("eth0"), hooks)
            if not in_metadata:
                pod.namespace.run("ethtool", "-K", "eth0", "txvlan", "off")
        before = tcp_segments_sent(client)
        sent = transfer(client, server, address(server, family), 5000, PAYLOAD)
    left, arrived = both_ends(watched, client, server)
    segments = tcp_segments_sent(client) - before
    header = ETHERNET + TAG_BYTES + ip_header(family) + TCP_HEADER
    assert left.by_protocol == {(TCP, WHOLE): (segments, sent + segments * header + SYN_OPTIONS)}
    assert left.account.tagged_buffers == left.account.buffers
    moved = left.account.buffer_bytes + (0 if in_metadata else TAG_BYTES * left.account.buffers)
    assert (left.account.buffers, moved) == left.interface
    assert arrived.buffers == arrived.interface


def test_tcp_through_a_vxlan_tunnel_in_the_pods_is_exact(watched: WatchedHost) -> None:
    client, server = watched.first, watched.second
    for pod, peer in ((client, server), (server, client)):
        tunnel = f"type vxlan id 42 dstport 4789 local {pod.ipv4} remote {peer.ipv4} dev eth0"
        name = pod.namespace.name
        ip(f"link add vx0 address {mac_of(100 + pod.number)} {tunnel}", netns=name)
        pod.namespace.sysctl({"ipv6/conf/vx0/disable_ipv6": 1})
        ip(
            "link set vx0 up",
            f"addr add 10.90.0.{pod.number}/24 dev vx0",
            f"neigh replace 10.90.0.{peer.number} lladdr {mac_of(100 + peer.number)} dev vx0 nud permanent",
            netns=name,
        )
    before = tcp_segments_sent(client)
    sent = transfer(client, server, f"10.90.0.{server.number}", 5000, PAYLOAD)
    left, arrived = both_ends(watched, client, server)
    segments = tcp_segments_sent(client) - before
    header = 2 * (ETHERNET + IPV4) + UDP_HEADER + 8 + TCP_HEADER
    assert left.by_ports(destination=4789) == (segments, sent + segments * header + SYN_OPTIONS)
    assert left.account.buffers < segments
    same_as_interfaces(left, arrived)


def send_frames(pod: Pod, *frames: bytes, virtio: bytes = b"") -> None:
    """Put frames on the pod's eth0 as they are, or each with a struct virtio_net_hdr that says how to cut it."""
    with pod.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        if virtio:
            raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        for frame in frames:
            raw.send(virtio + frame)


def addressed(watched: WatchedHost, frame: bytes) -> bytes:
    """The frame with the MAC addresses of the two pods."""
    macs = (bytes.fromhex(pod.mac.replace(":", "")) for pod in (watched.second, watched.first))
    return b"".join(macs) + frame[12:]


@pytest.mark.parametrize("length", [14, 15, 33, 34, 41, 53])
def test_a_frame_that_ends_within_its_headers_is_truncated(watched: WatchedHost, length: int) -> None:
    frame = addressed(watched, PLAIN4)[:length]
    send_frames(watched.first, frame)
    left, _ = watched.way(watched.first, watched.second)
    assert left.account.unsupported == {UnsupportedReason.UNSUPPORTED_TRUNCATED: (1, length)}
    assert left.buffers == left.interface


def test_tags_in_metadata_do_not_count_towards_the_limit_in_the_frame(watched: WatchedHost) -> None:
    by_name = {case.name: case.frame for case in CASES}
    names = ("a VLAN tag", "two tags, 802.1ad and 802.1Q", "three tags")
    frames = [addressed(watched, by_name[name]) for name in names]
    send_frames(watched.first, *frames)
    left, _ = watched.way(watched.first, watched.second)
    assert left.by_protocol == {(TCP, WHOLE): (3, sum(map(len, frames)))}
    assert (left.account.tagged_buffers, left.account.unsupported) == (3, {})


BEYOND_THE_LINEAR_PART = bytes(7900)
"""A raw frame of more than a page has nothing but its Ethernet header in the buffer's linear part."""


@pytest.mark.parametrize(
    ("packet", "protocol"),
    [
        pytest.param(V4 / sctp() / DATA, SCTP, id="SCTP over IPv4"),
        pytest.param(V6 / sctp() / DATA, SCTP, id="SCTP over IPv6"),
        pytest.param(V4 / tcp() / BEYOND_THE_LINEAR_PART, TCP, id="TCP over IPv4 in a non-linear buffer"),
        pytest.param(V6 / tcp() / BEYOND_THE_LINEAR_PART, TCP, id="TCP over IPv6 in a non-linear buffer"),
    ],
)
def test_a_raw_frame_is_counted_with_its_ports(watched: WatchedHost, packet: Packet, protocol: int) -> None:
    frame = build(packet)
    for pod in (watched.first, watched.second):
        ip("link set eth0 mtu 9000", netns=pod.namespace.name)
        ip(f"link set {pod.interface} mtu 9000", netns=watched.host.namespace.name)
    send_frames(watched.first, addressed(watched, frame))
    left, arrived = both_ends(watched, watched.first, watched.second)
    assert left.by_protocol == {(protocol, WHOLE): (1, len(frame))}
    assert left.by_ports(PORTS["sport"], PORTS["dport"]) == (1, len(frame))
    same_as_interfaces(left, arrived)


@pytest.mark.parametrize(("packet", "offset", "gso_type"), [(V4, 34, 1), (V6, 54, 4)], ids=["IPv4", "IPv6"])
def test_a_raw_super_packet_is_the_frames_that_it_becomes(
    watched: WatchedHost, packet: Packet, offset: int, gso_type: int
) -> None:
    header = offset + 20
    frame = addressed(watched, build(packet / tcp() / bytes(4500)))
    needs_checksum = 1
    virtio = struct.pack("=BBHHHH", needs_checksum, gso_type, header, 1000, offset, 16)
    send_frames(watched.first, frame, virtio=virtio)
    left, arrived = both_ends(watched, watched.first, watched.second)
    assert left.by_protocol == {(TCP, WHOLE): (5, 4500 + 5 * header)}
    assert left.account.buffers == 1
    same_as_interfaces(left, arrived)
