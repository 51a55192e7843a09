"""Random rules, clusters and packets, small enough that they often meet; and frames of the packets."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TypeVar

from podwire_agent.core.networks import MAPPED, Networks, packed
from podwire_agent.core.rules import (
    ANYBODY,
    PROTOCOLS,
    WITH_PORTS,
    End,
    Flow,
    Pod,
    Query,
    Requirement,
    Rule,
    Rules,
    Sends,
    Service,
    View,
)
from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import IfIndex

T = TypeVar("T")

NAMESPACES = ("shop", "data", "kube-system")
APPS = ("web", "db", "cache")
ADDRESSES = [packed(f"10.{a}.0.{b}") for a in (1, 2) for b in range(1, 7)] + [
    packed(text)
    for text in ("192.0.2.1", "0.0.0.1", "255.255.255.255", "fd00::1", "fd00::2", "fd00:1::3", "::1", "2001:db8::fffe",
                 "::fffe:a01:1", "64:ff9b::a01:1")
]  # fmt: skip
CIDRS = (
    "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/30", "10.1.0.1", "10.1.0.2/31", "10.2.0.0/29", "10.2.0.5/32",
    "192.0.2.0/24", "128.0.0.0/1", "::/0", "::/64", "::/80", "::fffe:0:0/96", "fd00::/8", "fd00::/64", "fd00::1",
    "fd00:1::/32", "8000::/1",
)  # fmt: skip
PORTS = (1, 53, 80, 443, 8000, 8080, 65535)
OTHER_PROTOCOLS = (0, 2, 47, 50, 89, 255)
NETWORK_SETS = ("office", "partners")


def world(chance: random.Random, rules: int = 6) -> tuple[Rules, View, IfIndex]:
    """Two lists of at most so many rules, a cluster, and an interface that may be known in it."""
    interface = IfIndex(1)
    pods = [_pod(chance) for _ in range(chance.randint(0, 8))]
    behind = chance.choice([*pods, *pods, None, None])
    view = View(
        pods=pods,
        namespaces={name: {"team": chance.choice(("a", "b"))} for name in NAMESPACES if chance.random() < 0.9},
        services=[_service(chance, number) for number in range(chance.randint(0, 3))],
        interfaces={interface: behind} if chance.random() < 0.85 else {},
        networks={name: _networks(chance) for name in NETWORK_SETS if chance.random() < 0.8},
    )
    return Rules(_rules(chance, rules, "b"), _rules(chance, rules, "w")), view, interface


def flow(chance: random.Random) -> Flow:
    """Any that the program can see over Ethernet."""
    source = chance.choice(ADDRESSES)
    is_ipv4 = source.startswith(MAPPED)
    protocol = chance.choice([*PROTOCOLS.values(), 6, 6, 17, *OTHER_PROTOCOLS[3:]])
    with_ports = protocol in WITH_PORTS
    kind = FlowKind.FLOW_LATER_FRAGMENT if chance.random() < 0.1 else FlowKind.FLOW_WHOLE
    ports = (0, 0)
    if with_ports and kind is FlowKind.FLOW_WHOLE:
        ports = (chance.choice([0, *PORTS, chance.randrange(65536)]), chance.choice([*PORTS, chance.randrange(65536)]))
    return Flow(
        direction=chance.choice(list(FlowDirection)),
        src_address=source,
        dst_address=chance.choice([each for each in ADDRESSES if each.startswith(MAPPED) is is_ipv4]),
        protocol=protocol,
        src_port=ports[0],
        dst_port=ports[1],
        kind=kind,
    )


def frame(of: Flow) -> bytes:
    """An Ethernet frame of the flow, without checksums."""
    body = struct.pack("!HH", of.src_port, of.dst_port) + bytes(8) + b"\x50" + bytes(27)
    later = of.kind is FlowKind.FLOW_LATER_FRAGMENT
    ethernet = bytes.fromhex("020000000002020000000001")
    if of.src_address.startswith(MAPPED):
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 100 if later else 0, 64, of.protocol, 0)
        return ethernet + b"\x08\x00" + header + of.src_address[12:] + of.dst_address[12:] + body
    fragment = struct.pack("!BBHI", of.protocol, 0, 800, 42) if later else b""
    header = struct.pack("!IHBB", 6 << 28, len(fragment + body), 44 if later else of.protocol, 64)
    return ethernet + b"\x86\xdd" + header + of.src_address + of.dst_address + fragment + body


def text(address: bytes) -> str:
    """An address as people write it."""
    return str(ip_address(address[12:] if address.startswith(MAPPED) else address))


def _some(chance: random.Random, items: Sequence[T], share: float = 0.5) -> frozenset[T]:
    chosen = {item for item in items if chance.random() < share}
    return frozenset(chosen or {chance.choice(items)})


def _pod(chance: random.Random) -> Pod:
    labels = {"app": chance.choice(APPS)} | ({"tier": "front"} if chance.random() < 0.3 else {})
    return Pod(chance.choice(NAMESPACES), labels, tuple(chance.sample(ADDRESSES, chance.randint(1, 2))))


def _service(chance: random.Random, number: int) -> Service:
    addresses = tuple(chance.sample(ADDRESSES, chance.randint(0, 2)))
    return Service(chance.choice(NAMESPACES), f"s{number}", addresses, _some(chance, ADDRESSES, 0.2))


def _networks(chance: random.Random) -> Networks:
    return Networks.of(chance.sample(CIDRS, chance.randint(0, 4)))


def _query(chance: random.Random) -> Query:
    choices = (
        Requirement("app", "In", _some(chance, APPS)),
        Requirement("app", "NotIn", _some(chance, APPS)),
        Requirement("tier", "Exists"),
        Requirement("tier", "DoesNotExist"),
        Requirement("team", "In", frozenset({"a"})),
    )
    return tuple(chance.sample(choices, chance.randint(0, 2)))


def _end(chance: random.Random) -> End:
    if chance.random() < 0.25:
        return ANYBODY
    rare = 0.25
    return End(
        namespaces=_some(chance, NAMESPACES) if chance.random() < rare else None,
        namespace_query=(Requirement("team", "In", frozenset({"a"})),) if chance.random() < rare / 2 else None,
        pod_query=_query(chance) if chance.random() < rare else None,
        services=frozenset({f"{chance.choice(NAMESPACES)}/s{chance.randrange(3)}"}) if chance.random() < rare else None,
        cidrs=_networks(chance) if chance.random() < 2 * rare else None,
        cidrs_from=_some(chance, (*NETWORK_SETS, "absent")) if chance.random() < rare / 2 else None,
    )


def _rules(chance: random.Random, most: int, prefix: str) -> tuple[Rule, ...]:
    return tuple(_rule(chance, f"{prefix}{number}") for number in range(chance.randint(0, most)))


def _rule(chance: random.Random, name: str) -> Rule:
    ranges = [(port, port) for port in PORTS] + [(80, 443), (8000, 65535), (1, 1024)]
    return Rule(
        name=name,
        end=_end(chance),
        peer=_end(chance),
        ports=tuple(chance.sample(ranges, chance.randint(1, 3))) if chance.random() < 0.4 else None,
        protocols=_some(chance, list(PROTOCOLS.values())) if chance.random() < 0.4 else None,
        sends=chance.choice([Sends.EITHER, Sends.EITHER, Sends.SENDER, Sends.RECEIVER]),
    )
