"""Super-packets: buffers that the stack cuts into frames later, and what those frames add up to on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from podwire_agent.layout import UnsupportedReason
from tests.kernel.packet_table import (
    A4,
    A6,
    B4,
    B6,
    ESP,
    ETHER,
    HOP_BY_HOP,
    IPIP,
    IPV6,
    PORTS,
    SCTP4,
    TCP4,
    TCP6,
    TCP_BYTES,
    TCP_PROTOCOL,
    UDP4,
    UDP6,
    V4,
    V6,
    Flow,
    build,
    chain,
    flow4,
    flow6,
    other_frame,
    tcp,
)
from tests.kernel.packet_table import (
    GRE as GRE_PROTOCOL,
)

SEGMENT = 140
SEGMENTS = 10
FULL = bytes(SEGMENT * SEGMENTS)
SHORT = bytes(SEGMENT * (SEGMENTS - 1) + 1)
"""As many segments, the last of one byte."""
BY_FRAGS = 0xFFFF
"""gso_size of SCTP (GSO_BY_FRAGS): the chunks are buffers of their own."""


@dataclass(frozen=True, slots=True)
class SuperCase:
    """A super-packet on its way in, where the stack has not computed its size on the wire."""

    name: str
    frame: bytes
    expected: Flow | UnsupportedReason
    repeated: int
    """Header bytes that each segment has: 14 + 20 + 20 is TCP over IPv4."""
    gso_size: int = SEGMENT
    gso_segs: int = SEGMENTS
    segments: int = SEGMENTS
    unsent: int = 0
    """Header bytes of the buffer that no segment has."""
    estimated: bool = False

    @property
    def wire_bytes(self) -> int:
        """Of all segments."""
        return len(self.frame) - self.unsent + (self.segments - 1) * self.repeated


def plain(
    name: str,
    packet: Packet | bytes,
    expected: Flow,
    repeated: int,
    *,
    gso_size: int = SEGMENT,
    gso_segs: int = SEGMENTS,
    segments: int = SEGMENTS,
    unsent: int = 0,
) -> SuperCase:
    """A row whose bytes are exact."""
    return SuperCase(name, build(packet), expected, repeated, gso_size, gso_segs, segments, unsent)


def guess(name: str, packet: Packet | bytes, expected: Flow | UnsupportedReason, repeated: int) -> SuperCase:
    """A row whose bytes are estimated: only the headers that we know are added."""
    return SuperCase(name, build(packet), expected, repeated, estimated=True)


INNER4 = IP(src="192.0.2.1", dst="192.0.2.2") / TCP(sport=1, dport=2)
INNER6 = IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(sport=1, dport=2)
INNER_UDP = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=2)
INNER_ETHER = Ether(src="02:00:00:00:00:03", dst="02:00:00:00:00:04")
TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]


def vxlan(port: int, flags: int = 0x08) -> Packet:
    """VXLAN over IPv4 to `port`."""
    return V4 / UDP(sport=40000, dport=port) / VXLAN(flags=flags, vni=42)


def udp4(port: int) -> Flow:
    """The outer flow of a tunnel over UDP."""
    return flow4(17, 40000, port)


GENEVE_FRAME = {"proto": 0x6558, "vni": 42}
VXLAN_LOOKALIKE = build(VXLAN(flags=0x08, vni=42) / INNER_ETHER / IP(src="192.0.2.1", dst="192.0.2.2", len=82)
                        / TCP(sport=1, dport=2) / bytes(42))  # fmt: skip

TRANSPORT = [
    plain("TCP over IPv4", V4 / tcp() / FULL, TCP4, 54),
    plain("TCP over IPv4 with timestamps", V4 / tcp(options=TIMESTAMPS) / FULL, TCP4, 66),
    plain("TCP over IPv6 with timestamps", V6 / tcp(options=TIMESTAMPS) / FULL, TCP6, 86),
    plain("TCP with a short last segment", V4 / tcp() / SHORT, TCP4, 54),
    plain("TCP of one segment", V4 / tcp() / bytes(SEGMENT), TCP4, 54, gso_segs=1, segments=1),
    plain("TCP behind IPv4 options", ETHER / IP(src=A4, dst=B4, options=b"\1" * 8) / tcp() / FULL, TCP4, 62),
    plain("TCP behind an IPv6 extension header", chain(HOP_BY_HOP, last=TCP_PROTOCOL, payload=TCP_BYTES + FULL),
          TCP6, 82),
    plain("BIG TCP over IPv6, whose jumbo header goes when it is cut", ETHER / IPv6(src=A6, dst=B6, nh=HOP_BY_HOP)
          / (bytes([TCP_PROTOCOL, 0, 0xC2, 4]) + bytes(4) + TCP_BYTES + FULL), TCP6, 74, unsent=8),
    plain("TCP behind a tag in the frame", ETHER / Dot1Q(vlan=5) / IP(src=A4, dst=B4) / tcp() / FULL, TCP4, 58),
    plain("TCP whose segments nobody has counted", V4 / tcp() / FULL, TCP4, 54, gso_segs=0),
    plain("TCP whose segments nobody has counted, the last short", V4 / tcp() / SHORT, TCP4, 54, gso_segs=0),
    plain("TCP with a segment count but no segment size is one", V4 / tcp() / FULL, TCP4, 54, gso_size=0, segments=1),
    plain("SCTP, whose segments have no common size", V4 / SCTP(**PORTS) / FULL, SCTP4, 46, gso_size=BY_FRAGS),
    plain("SCTP whose segments nobody has counted is one", V4 / SCTP(**PORTS) / FULL, SCTP4, 46, gso_size=BY_FRAGS,
          gso_segs=0, segments=1),
    plain("UDP_SEGMENT over IPv4", V4 / UDP(**PORTS) / FULL, UDP4, 42),
    plain("UDP_SEGMENT over IPv6 with a short last segment", V6 / UDP(**PORTS) / SHORT, UDP6, 62),
    plain("UDP_SEGMENT whose segments nobody has counted", V4 / UDP(**PORTS) / FULL, UDP4, 42, gso_segs=0),
    plain("UDP_SEGMENT of a tunnel in user space repeats its own header only",
          V4 / UDP(**PORTS) / (VXLAN_LOOKALIKE * SEGMENTS), UDP4, 42, gso_size=len(VXLAN_LOOKALIKE)),
]  # fmt: skip

TUNNELS = [
    plain("VXLAN on its port", vxlan(4789) / INNER_ETHER / INNER4 / FULL, udp4(4789), 104),
    plain("VXLAN on Linux's old port", vxlan(8472) / INNER_ETHER / INNER6 / FULL, udp4(8472), 124),
    plain("VXLAN on an odd port", vxlan(31337) / INNER_ETHER / INNER4 / SHORT, udp4(31337), 104),
    plain("VXLAN with a group policy", vxlan(4789, flags=0x88) / INNER_ETHER / INNER4 / FULL, udp4(4789), 104),
    plain("VXLAN with a group policy that resembles Geneve's protocol", V4 / UDP(sport=40000, dport=4789)
          / (b"\x88\0\x65\x58\0\0\x2a\0" + build(INNER_ETHER / INNER4 / FULL)), udp4(4789), 104),
    plain("VXLAN over IPv6", V6 / UDP(sport=40000, dport=4789) / VXLAN(vni=42) / INNER_ETHER / INNER4 / FULL,
          flow6(17, 40000, 4789), 124),
    plain("VXLAN around UDP_SEGMENT", vxlan(4789) / INNER_ETHER / INNER_UDP / FULL, udp4(4789), 92),
    plain("VXLAN around a packet too large for its length field", vxlan(4789) / INNER_ETHER
          / IP(src="192.0.2.1", dst="192.0.2.2", len=0) / TCP(sport=1, dport=2) / FULL, udp4(4789), 104),
    plain("Geneve", V4 / UDP(sport=40000, dport=6081) / GENEVE(**GENEVE_FRAME) / INNER_ETHER / INNER4 / FULL,
          udp4(6081), 104),
    plain("Geneve with options on an odd port", V4 / UDP(sport=40000, dport=7000)
          / GENEVE(**GENEVE_FRAME, optionlen=2, options=bytes(8)) / INNER_ETHER / INNER6 / FULL, udp4(7000), 132),
    plain("Geneve with so many options that the first byte resembles VXLAN's", V4 / UDP(sport=40000, dport=6081)
          / GENEVE(**GENEVE_FRAME, optionlen=8, options=bytes(32)) / INNER_ETHER / INNER4 / FULL, udp4(6081), 136),
    plain("IPv4 directly in UDP (FOU)", V4 / UDP(sport=40000, dport=5555) / INNER4 / FULL, udp4(5555), 82),
    plain("IPv6 directly in UDP (FOU)", V4 / UDP(sport=40000, dport=5555) / INNER6 / FULL, udp4(5555), 102),
    plain("GRE around IPv4", V4 / GRE() / INNER4 / FULL, flow4(GRE_PROTOCOL), 78),
    plain("GRE with a key", V4 / GRE(key_present=1, key=7) / INNER4 / FULL, flow4(GRE_PROTOCOL), 82),
    plain("GRE with checksum, key and sequence number", V4
          / GRE(chksum_present=1, key_present=1, seqnum_present=1) / INNER6 / FULL, flow4(GRE_PROTOCOL), 110),
    plain("GRE around Ethernet", V4 / GRE(proto=0x6558) / INNER_ETHER / INNER4 / FULL, flow4(GRE_PROTOCOL), 92),
    plain("IPv4 in IPv4", V4 / INNER4 / FULL, flow4(IPIP), 74),
    plain("IPv6 in IPv4", V4 / INNER6 / FULL, flow4(IPV6), 94),
    plain("IPv6 in IPv6", V6 / INNER6 / FULL, flow6(IPV6), 114),
    plain("IPv4 in IPv6", V6 / INNER4 / FULL, flow6(IPIP), 94),
]  # fmt: skip

UNKNOWN = [
    guess("a tunnel over UDP of unknown kind, told by segments that do not add up",
          V4 / UDP(**PORTS) / (b"\x01\x02\x03\x04" + build(INNER4) + FULL), UDP4, 42),
    guess("VXLAN around a tagged frame", vxlan(4789) / INNER_ETHER / Dot1Q(vlan=5) / INNER4 / FULL, udp4(4789), 42),
    guess("VXLAN around SCTP", vxlan(4789) / INNER_ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / SCTP(sport=1, dport=2)
          / FULL, udp4(4789), 42),
    guess("GRE of another version", ETHER / IP(src=A4, dst=B4, proto=GRE_PROTOCOL) / (b"\x70\x01\x88\x0b" + FULL),
          flow4(GRE_PROTOCOL), 34),
    guess("IP in IP whose inner length is not the rest", V4 / IP(src="192.0.2.1", dst="192.0.2.2", len=60)
          / TCP(sport=1, dport=2) / FULL, flow4(IPIP), 34),
    guess("IP in IP whose inner TCP header is longer than the frame", V4 / IP(src="192.0.2.1", dst="192.0.2.2")
          / TCP(sport=1, dport=2, dataofs=15) / bytes(20), flow4(IPIP), 34),
    guess("TCP with a header of 3 words", V4 / tcp(dataofs=3) / FULL, UnsupportedReason.UNSUPPORTED_MALFORMED, 34),
    guess("ESP", ETHER / IP(src=A4, dst=B4, proto=ESP) / FULL, flow4(ESP), 34),
    guess("MPLS around TCP", other_frame(0x8847, b"\0\0\x11\x40" + build(INNER4) + FULL),
          UnsupportedReason.UNSUPPORTED_NOT_IP, 14),
]  # fmt: skip

SUPER_CASES = [*TRANSPORT, *TUNNELS, *UNKNOWN]
