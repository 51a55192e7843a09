"""The program's specification: frames, and what each of them must be counted as.

Super-packets stand in superpacket_table.py. Every frame here is counted alike at all four hooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from podwire_agent.layout import FlowKind, FlowLimit, UnsupportedReason

ICMP_PROTOCOL, IGMP, IPIP, TCP_PROTOCOL, UDP_PROTOCOL, IPV6, GRE, ESP = 1, 2, 4, 6, 17, 41, 47, 50
AH, ICMPV6, NO_NEXT_HEADER, OSPF, SCTP_PROTOCOL, MOBILITY = 51, 58, 59, 89, 132, 135
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60

A4, B4 = "10.1.0.1", "10.1.0.2"
A6, B6 = "fd00::1", "fd00::2"
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = ETHER / IP(src=A4, dst=B4)
V6 = ETHER / IPv6(src=A6, dst=B6)
PORTS = {"sport": 40000, "dport": 443}
DATA = b"d" * 100


@dataclass(frozen=True, slots=True)
class Flow:
    """The flow key that a packet must have; addresses in text."""

    src_address: str
    dst_address: str
    protocol: int
    src_port: int = 0
    dst_port: int = 0
    kind: FlowKind = FlowKind.FLOW_WHOLE

    @property
    def addresses(self) -> tuple[bytes, bytes]:
        """As 16 bytes each, IPv4 mapped."""
        return _mapped(self.src_address), _mapped(self.dst_address)


def _mapped(address: str) -> bytes:
    packed = ip_address(address).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def flow4(protocol: int, src_port: int = 0, dst_port: int = 0, kind: FlowKind = FlowKind.FLOW_WHOLE) -> Flow:
    """A flow of V4."""
    return Flow(A4, B4, protocol, src_port, dst_port, kind)


def flow6(protocol: int, src_port: int = 0, dst_port: int = 0, kind: FlowKind = FlowKind.FLOW_WHOLE) -> Flow:
    """A flow of V6."""
    return Flow(A6, B6, protocol, src_port, dst_port, kind)


TCP4, UDP4, SCTP4 = (flow4(protocol, 40000, 443) for protocol in (TCP_PROTOCOL, UDP_PROTOCOL, SCTP_PROTOCOL))
TCP6, UDP6, SCTP6 = (flow6(protocol, 40000, 443) for protocol in (TCP_PROTOCOL, UDP_PROTOCOL, SCTP_PROTOCOL))


@dataclass(frozen=True, slots=True)
class Case:
    """One packet, alone: it counts as one, of the frame's length."""

    name: str
    frame: bytes
    expected: Flow | UnsupportedReason
    seen: frozenset[str] = frozenset()
    """The seen_* fields of the flow that are 1."""


def build(packet: Packet | bytes) -> bytes:
    """The frame; checksums and lengths filled in."""
    return bytes(packet)


def tcp(flags: str = "A", **fields: object) -> Packet:
    """A TCP header of a flow under way (scapy's is a SYN)."""
    return TCP(**PORTS, flags=flags, **fields)


def sctp() -> Packet:
    """An SCTP header."""
    return SCTP(**PORTS)


def case(name: str, packet: Packet | bytes, expected: Flow | UnsupportedReason, *seen: str) -> Case:
    """A row of the table."""
    return Case(name, build(packet), expected, frozenset(seen))


def extension(next_header: int, units: int = 0) -> bytes:
    """An IPv6 extension header of (units + 1) * 8 bytes, filled with one PadN option."""
    body = units * 8 + 4
    return bytes([next_header, units, 1, body]) + bytes(body)


def chain(*headers: int, last: int, payload: bytes) -> Packet:
    """An IPv6 packet with these extension headers of 8 bytes each in front of `last`."""
    following = [*headers[1:], last]
    extensions = b"".join(extension(after) for after in following)
    return ETHER / IPv6(src=A6, dst=B6, nh=headers[0]) / (extensions + payload)


def fragment6(next_header: int, offset: int, more: bool) -> bytes:
    """An IPv6 fragment header; `offset` in units of 8 bytes."""
    return bytes([next_header, 0]) + (offset << 3 | more).to_bytes(2, "big") + b"\x00\x00\x00\x2a"


def fragment4(offset: int, more: bool, payload: bytes) -> Packet:
    """An IPv4 UDP fragment; `offset` in units of 8 bytes."""
    return ETHER / IP(src=A4, dst=B4, proto=UDP_PROTOCOL, id=42, frag=offset, flags="MF" if more else 0) / payload


TCP_BYTES, UDP_BYTES, SCTP_BYTES = (build(layer) for layer in (tcp(), UDP(**PORTS), SCTP(**PORTS)))
PLAIN4, PLAIN6 = build(V4 / tcp() / DATA), build(V6 / tcp() / DATA)
LATER = FlowKind.FLOW_LATER_FRAGMENT

TRANSPORT = [
    case("a TCP segment over IPv4", PLAIN4, TCP4),
    case("a TCP segment over IPv6", PLAIN6, TCP6),
    case("a UDP datagram over IPv4", V4 / UDP(**PORTS) / DATA, UDP4),
    case("a UDP datagram over IPv6", V6 / UDP(**PORTS) / DATA, UDP6),
    case("an SCTP packet over IPv4 has ports", V4 / SCTP(**PORTS) / DATA, SCTP4),
    case("an SCTP packet over IPv6 has ports", V6 / SCTP(**PORTS) / DATA, SCTP6),
    case("an ICMP echo has no ports", V4 / ICMP(id=7, seq=9) / DATA, flow4(ICMP_PROTOCOL)),
    case("an ICMPv6 echo has no ports", V6 / ICMPv6EchoRequest(id=7) / DATA, flow6(ICMPV6)),
    case("an IPv6 neighbour solicitation is ICMPv6, not ARP", V6 / ICMPv6ND_NS(tgt=B6), flow6(ICMPV6)),
    case("an ICMP error has the router's address, not the quoted ports",
         V4 / ICMP(type=3, code=4) / IP(src=B4, dst=A4) / UDP(**PORTS), flow4(ICMP_PROTOCOL)),
    case("port 0 is a port", V4 / UDP(sport=0, dport=0) / DATA, flow4(UDP_PROTOCOL)),
    case("ports stay in wire order", V4 / UDP(sport=0x0102, dport=0xFFFE), flow4(UDP_PROTOCOL, 0x0102, 0xFFFE)),
    case("an empty UDP datagram", V4 / UDP(**PORTS), UDP4),
    case("a jumbo frame of 3000 bytes", V4 / UDP(**PORTS) / bytes(2958), UDP4),
    case("a short frame counts with its padding to 60 bytes", build(V4 / UDP(**PORTS)).ljust(60, b"\0"), UDP4),
    case("bytes after the IP packet are bytes of the frame", PLAIN4 + b"trailer", TCP4),
    case("the IP length is not consulted, the frame is",
         ETHER / IP(src=A4, dst=B4, len=20, proto=TCP_PROTOCOL) / TCP_BYTES, TCP4),
    case("a packet to a multicast group", ETHER / IP(src=A4, dst="224.0.0.251") / UDP(**PORTS),
         Flow(A4, "224.0.0.251", UDP_PROTOCOL, 40000, 443)),
    case("a packet to the broadcast address", ETHER / IP(src=A4, dst="255.255.255.255") / UDP(**PORTS),
         Flow(A4, "255.255.255.255", UDP_PROTOCOL, 40000, 443)),
    case("an IPv6 packet without a source address", ETHER / IPv6(src="::", dst="ff02::2") / UDP(**PORTS),
         Flow("::", "ff02::2", UDP_PROTOCOL, 40000, 443)),
]  # fmt: skip

FLAGS = [
    case("a TCP SYN is noted", V4 / tcp(flags="S"), TCP4, "seen_syn"),
    case("a TCP SYN with ACK is another note", V4 / tcp(flags="SA"), TCP4, "seen_syn_ack"),
    case("a TCP SYN that asks for ECN is a SYN", V6 / tcp(flags="SEC"), TCP6, "seen_syn"),
    case("a TCP FIN is noted", V4 / tcp(flags="FA"), TCP4, "seen_fin"),
    case("a TCP RST is noted", V6 / tcp(flags="R"), TCP6, "seen_rst"),
    case("a TCP PSH with ACK and URG is no note", V4 / tcp(flags="PAU"), TCP4),
    case("a TCP segment with all flags is noted thrice", V4 / tcp(flags="FSRPAUEC"), TCP4,
         "seen_syn_ack", "seen_fin", "seen_rst"),
    case("a TCP SYN behind an IP option and a tag is noted", ETHER / Dot1Q(vlan=5)
         / IP(src=A4, dst=B4, options=b"\1" * 4) / tcp(flags="S"), TCP4, "seen_syn"),
    case("a UDP datagram has no flags, whatever its bytes", V4 / UDP(**PORTS) / (b"\xff" * 20), UDP4),
]  # fmt: skip

OPTIONS = [
    case(f"IPv4 options of {words} words", ETHER / IP(src=A4, dst=B4, ihl=5 + words, options=b"\1" * 4 * words)
         / tcp() / DATA, TCP4)
    for words in range(1, 11)
] + [
    case("IPv4 options before UDP", ETHER / IP(src=A4, dst=B4, options=b"\x94\x04\0\0") / UDP(**PORTS), UDP4),
    case("TCP options to the last word", V4 / tcp(dataofs=15, options=[("NOP", None)] * 40) / DATA, TCP4),
]  # fmt: skip

OTHER_PROTOCOLS = [
    case("GRE is counted without ports", ETHER / IP(src=A4, dst=B4, proto=GRE) / (b"\0\0\x08\0" + DATA), flow4(GRE)),
    case("ESP is counted without ports", ETHER / IP(src=A4, dst=B4, proto=ESP) / DATA, flow4(ESP)),
    case("AH over IPv4 is a protocol", ETHER / IP(src=A4, dst=B4, proto=AH) / DATA, flow4(AH)),
    case("IP in IP is the outer pair's", V4 / IP(src="192.0.2.1", dst="192.0.2.2") / tcp(), flow4(IPIP)),
    case("IPv6 in IPv4 is the outer pair's", V4 / IPv6(src=A6, dst=B6) / tcp(), flow4(IPV6)),
    case("IPv6 in IPv6 is the outer pair's", V6 / IPv6(src=B6, dst=A6) / tcp(), flow6(IPV6)),
    case("IGMP is counted", ETHER / IP(src=A4, dst=B4, proto=IGMP) / bytes(8), flow4(IGMP)),
    case("OSPF is counted", ETHER / IP(src=A4, dst=B4, proto=OSPF) / DATA, flow4(OSPF)),
    case("protocol 255 over IPv4 with nothing behind", ETHER / IP(src=A4, dst=B4, proto=255), flow4(255)),
    case("protocol 255 over IPv6", ETHER / IPv6(src=A6, dst=B6, nh=255) / DATA, flow6(255)),
    case("ESP over IPv6 ends the chain", chain(HOP_BY_HOP, last=ESP, payload=DATA), flow6(ESP)),
]  # fmt: skip

FULL_CHAIN = [DESTINATION] * FlowLimit.EXTENSION_LIMIT
EXTENSIONS = [
    case("a hop-by-hop header", chain(HOP_BY_HOP, last=TCP_PROTOCOL, payload=TCP_BYTES), TCP6),
    case("a routing header", chain(ROUTING, last=UDP_PROTOCOL, payload=UDP_BYTES), UDP6),
    case("a destination header", chain(DESTINATION, last=SCTP_PROTOCOL, payload=SCTP_BYTES), SCTP6),
    case("a mobility header with something behind it", chain(MOBILITY, last=TCP_PROTOCOL, payload=TCP_BYTES), TCP6),
    case("an authentication header counts words of four bytes", ETHER / IPv6(src=A6, dst=B6, nh=AH)
         / (bytes([TCP_PROTOCOL, 4]) + bytes(22) + TCP_BYTES), TCP6),
    case("a long extension header", ETHER / IPv6(src=A6, dst=B6, nh=DESTINATION)
         / (extension(UDP_PROTOCOL, 31) + UDP_BYTES), UDP6),
    case("hop-by-hop, destination, routing, authentication, destination before TCP",
         ETHER / IPv6(src=A6, dst=B6, nh=HOP_BY_HOP)
         / (extension(DESTINATION) + extension(ROUTING) + extension(AH) + bytes([DESTINATION, 1]) + bytes(10)
            + extension(TCP_PROTOCOL) + TCP_BYTES), TCP6),
    case("no next header ends the chain, whatever follows", ETHER / IPv6(src=A6, dst=B6, nh=NO_NEXT_HEADER) / DATA,
         flow6(NO_NEXT_HEADER)),
    case("as many extension headers as the limit", chain(*FULL_CHAIN, last=TCP_PROTOCOL, payload=TCP_BYTES), TCP6),
    case("one extension header more than the limit",
         chain(*FULL_CHAIN, DESTINATION, last=TCP_PROTOCOL, payload=TCP_BYTES),
         UnsupportedReason.UNSUPPORTED_EXTENSION_DEPTH),
    case("a fragment header beyond the limit", chain(*FULL_CHAIN, last=FRAGMENT,
         payload=fragment6(UDP_PROTOCOL, 0, True) + UDP_BYTES), UnsupportedReason.UNSUPPORTED_EXTENSION_DEPTH),
]  # fmt: skip

FRAGMENTS = [
    case("an IPv4 first fragment has ports", fragment4(0, True, UDP_BYTES + DATA), UDP4),
    case("an IPv4 middle fragment has none, though its bytes look so", fragment4(185, True, UDP_BYTES + DATA),
         flow4(UDP_PROTOCOL, kind=LATER)),
    case("an IPv4 last fragment", fragment4(370, False, UDP_BYTES), flow4(UDP_PROTOCOL, kind=LATER)),
    case("an IPv4 fragment at the smallest offset", fragment4(1, False, UDP_BYTES), flow4(UDP_PROTOCOL, kind=LATER)),
    case("an IPv4 fragment at the largest offset", fragment4(0x1FFF, False, b"tail"), flow4(UDP_PROTOCOL, kind=LATER)),
    case("an IPv4 last fragment with options", ETHER
         / IP(src=A4, dst=B4, proto=TCP_PROTOCOL, frag=9, options=b"\1" * 8) / TCP_BYTES,
         flow4(TCP_PROTOCOL, kind=LATER)),
    case("a packet that must not be fragmented is whole", ETHER / IP(src=A4, dst=B4, flags="DF") / UDP(**PORTS), UDP4),
    case("an IPv4 first fragment of TCP too small for its header", ETHER
         / IP(src=A4, dst=B4, proto=TCP_PROTOCOL, flags="MF") / TCP_BYTES[:8], UnsupportedReason.UNSUPPORTED_TRUNCATED),
    case("an IPv6 first fragment has ports", ETHER / IPv6(src=A6, dst=B6, nh=FRAGMENT)
         / (fragment6(UDP_PROTOCOL, 0, True) + UDP_BYTES + DATA), UDP6),
    case("an IPv6 later fragment has none", ETHER / IPv6(src=A6, dst=B6, nh=FRAGMENT)
         / (fragment6(UDP_PROTOCOL, 181, False) + UDP_BYTES), flow6(UDP_PROTOCOL, kind=LATER)),
    case("an IPv6 later fragment at the smallest offset", ETHER / IPv6(src=A6, dst=B6, nh=FRAGMENT)
         / (fragment6(TCP_PROTOCOL, 1, True) + TCP_BYTES), flow6(TCP_PROTOCOL, kind=LATER)),
    case("an IPv6 atomic fragment is whole", ETHER / IPv6(src=A6, dst=B6, nh=FRAGMENT)
         / (fragment6(TCP_PROTOCOL, 0, False) + TCP_BYTES), TCP6),
    case("an IPv6 first fragment with an extension header behind", ETHER / IPv6(src=A6, dst=B6, nh=FRAGMENT)
         / (fragment6(DESTINATION, 0, True) + extension(UDP_PROTOCOL) + UDP_BYTES), UDP6),
    case("an IPv6 later fragment is of the protocol that its fragment header names",
         ETHER / IPv6(src=A6, dst=B6, nh=FRAGMENT) / (fragment6(DESTINATION, 8, False) + DATA),
         flow6(DESTINATION, kind=LATER)),
]  # fmt: skip

TAGS = [
    case("a VLAN tag", ETHER / Dot1Q(vlan=5) / IP(src=A4, dst=B4) / tcp() / DATA, TCP4),
    case("a priority tag", ETHER / Dot1Q(vlan=0, prio=5) / IP(src=A4, dst=B4) / UDP(**PORTS), UDP4),
    case("a VLAN tag before IPv6 with an extension header", ETHER / Dot1Q(vlan=5) / IPv6(src=A6, dst=B6, nh=HOP_BY_HOP)
         / (extension(TCP_PROTOCOL) + TCP_BYTES), TCP6),
    case("two tags, 802.1ad and 802.1Q", ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=5) / IP(src=A4, dst=B4) / tcp(), TCP4),
    case("two tags, both 802.1Q", ETHER / Dot1Q(vlan=7) / Dot1Q(vlan=5) / IPv6(src=A6, dst=B6) / UDP(**PORTS), UDP6),
    case("three tags", ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=5) / Dot1Q(vlan=6) / IP(src=A4, dst=B4) / tcp(),
         UnsupportedReason.UNSUPPORTED_VLAN_DEPTH),
    case("a tagged ARP request", ETHER / Dot1Q(vlan=5) / ARP(psrc=A4, pdst=B4), UnsupportedReason.UNSUPPORTED_ARP),
    case("a tag cut short", build(ETHER)[:12] + b"\x81\x00\x00", UnsupportedReason.UNSUPPORTED_TRUNCATED),
]  # fmt: skip


def other_frame(ether_type: int, payload: bytes = DATA) -> bytes:
    """A frame of an EtherType (or 802.3 length) that is not IP's."""
    return build(ETHER)[:12] + ether_type.to_bytes(2, "big") + payload


NOT_IP = [
    case("an ARP request", ETHER / ARP(psrc=A4, pdst=B4), UnsupportedReason.UNSUPPORTED_ARP),
    case("an LLDP frame", other_frame(0x88CC), UnsupportedReason.UNSUPPORTED_NOT_IP),
    case("an 802.3 frame with a length (STP)", other_frame(38, b"\x42\x42\x03" + bytes(35)),
         UnsupportedReason.UNSUPPORTED_NOT_IP),
    case("an MPLS frame around IPv4", other_frame(0x8847, b"\0\0\x11\x40" + PLAIN4[14:]),
         UnsupportedReason.UNSUPPORTED_NOT_IP),
    case("a PPPoE frame around IPv4", other_frame(0x8864, b"\x11\0\0\1\0\x2a\0\x21" + PLAIN4[14:]),
         UnsupportedReason.UNSUPPORTED_NOT_IP),
    case("an unknown EtherType with nothing behind it", other_frame(0x88B5, b"\0"),
         UnsupportedReason.UNSUPPORTED_NOT_IP),
]  # fmt: skip


def tagged(frame: bytes) -> bytes:
    """The frame with a tag. A test run refuses a bare one that ends within the IP header."""
    return frame[:12] + b"\x81\x00\x00\x05" + frame[12:]


OPTIONED = build(ETHER / IP(src=A4, dst=B4, options=b"\1" * 8) / tcp())
CHAINED = build(chain(HOP_BY_HOP, DESTINATION, last=UDP_PROTOCOL, payload=UDP_BYTES))
TRUNCATED = [
    case(name, frame, UnsupportedReason.UNSUPPORTED_TRUNCATED)
    for name, frame in [
        ("an IPv4 header one byte short", tagged(PLAIN4[:33])),
        ("an IPv4 header of one byte", tagged(PLAIN4[:15])),
        ("IPv4 options one byte short", OPTIONED[:41]),
        ("IPv4 options one byte short before another protocol",
         build(ETHER / IP(src=A4, dst=B4, proto=ESP, options=b"\1" * 8))[:-1]),
        ("a TCP header that is not there", PLAIN4[:34]),
        ("a TCP header one byte short", PLAIN4[:53]),
        ("a TCP header over IPv6 one byte short", PLAIN6[:73]),
        ("a TCP header one byte short behind IPv4 options", OPTIONED[:-1]),
        ("TCP options one byte short", build(V4 / tcp(dataofs=6, options=[("NOP", None)] * 4))[:57]),
        ("a TCP header longer than the frame", build(V6 / tcp(dataofs=15))),
        ("a UDP header one byte short", build(V4 / UDP(**PORTS))[:41]),
        ("a UDP header over IPv6 one byte short", build(V6 / UDP(**PORTS))[:61]),
        ("an SCTP header one byte short", build(V4 / SCTP(**PORTS))[:45]),
        ("an IPv6 header one byte short", tagged(PLAIN6[:53])),
        ("an IPv6 extension header that is not there", CHAINED[:54]),
        ("an IPv6 extension header of one byte", CHAINED[:55]),
        ("an IPv6 extension header one byte short before another protocol",
         build(chain(HOP_BY_HOP, last=ESP, payload=b""))[:-1]),
        ("an IPv6 extension header longer than the frame",
         build(ETHER / IPv6(src=A6, dst=B6, nh=DESTINATION) / bytes([ESP, 255, 0, 0, 0, 0, 0, 0]))),
        ("a UDP header one byte short behind extension headers", CHAINED[:-1]),
        ("an IPv6 fragment header one byte short",
         build(ETHER / IPv6(src=A6, dst=B6, nh=FRAGMENT) / fragment6(UDP_PROTOCOL, 3, False))[:-1]),
    ]
]  # fmt: skip


def replaced(frame: bytes, offset: int, value: int) -> bytes:
    """The frame with one byte changed."""
    return frame[:offset] + bytes([value]) + frame[offset + 1 :]


MALFORMED = [
    case(name, frame, UnsupportedReason.UNSUPPORTED_MALFORMED)
    for name, frame in [
        ("IPv4 with version 6", replaced(PLAIN4, 14, 0x65)),
        ("IPv4 with version 0", replaced(PLAIN4, 14, 0x05)),
        ("IPv4 with a header of 4 words", replaced(PLAIN4, 14, 0x44)),
        ("IPv4 with a header of no words", replaced(PLAIN4, 14, 0x40)),
        ("IPv6 with version 4", replaced(PLAIN6, 14, 0x45)),
        ("IPv6 with version 15", replaced(PLAIN6, 14, 0xF0)),
        ("TCP with a header of 4 words over IPv4", replaced(PLAIN4, 46, 0x40)),
        ("TCP with a header of no words over IPv6", replaced(PLAIN6, 66, 0x00)),
        ("an IPv4-mapped source in an IPv6 header", build(ETHER / IPv6(src="::ffff:10.1.0.1", dst=B6) / tcp())),
        ("an IPv4-mapped destination in an IPv6 header",
         build(ETHER / IPv6(src=A6, dst="::ffff:10.1.0.2") / UDP(**PORTS))),
        ("both addresses of an IPv6 header IPv4-mapped, as the key of an IPv4 flow",
         build(ETHER / IPv6(src="::ffff:10.1.0.1", dst="::ffff:10.1.0.2") / tcp())),
    ]
]  # fmt: skip

ADDRESSES = [
    case(f"an IPv6 address that only resembles an IPv4-mapped one: {address}", ETHER
         / IPv6(src=address, dst=B6) / tcp(), Flow(address, B6, TCP_PROTOCOL, 40000, 443))
    for address in ("::fffe:a01:1", "2001:db8::ffff:a01:1", "64:ff9b::a01:1")
]  # fmt: skip

CASES = [
    *TRANSPORT, *FLAGS, *OPTIONS, *OTHER_PROTOCOLS, *EXTENSIONS, *FRAGMENTS, *TAGS, *NOT_IP, *TRUNCATED, *MALFORMED,
    *ADDRESSES,
]  # fmt: skip
