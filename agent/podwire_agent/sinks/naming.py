"""How the sinks write addresses, protocols, interfaces and times: one spelling for all of them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from podwire_agent.layout import FlowDirection, UnsupportedReason
from podwire_agent.model import IfIndex

PROTOCOLS = {
    1: "ICMP",
    2: "IGMP",
    4: "IPIP",
    6: "TCP",
    17: "UDP",
    33: "DCCP",
    41: "IPv6",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "ICMPv6",
    89: "OSPF",
    103: "PIM",
    112: "VRRP",
    132: "SCTP",
    136: "UDPLite",
}
"""IANA protocol number to the name we write; a number that is not here is written in decimal."""

DIRECTIONS: dict[int, Literal["from_pod", "to_pod"]] = {
    FlowDirection.FROM_POD: "from_pod",
    FlowDirection.TO_POD: "to_pod",
}

REASONS: dict[int, str] = {reason: reason.name.removeprefix("UNSUPPORTED_").lower() for reason in UnsupportedReason}

ADDRESSES_KEPT = 32768
"""About 5 MB of text at most, then we begin anew."""

_V4_MAPPED = bytes(10) + b"\xff\xff"


class AddressTexts(dict[bytes, str]):
    """16 bytes in network order to text (IPv4-mapped as IPv4), remembered from report to report."""

    def __missing__(self, address: bytes) -> str:
        if len(self) >= ADDRESSES_KEPT:
            self.clear()
        text = self[address] = (
            socket.inet_ntop(socket.AF_INET, address[12:])
            if address.startswith(_V4_MAPPED)
            else socket.inet_ntop(socket.AF_INET6, address)
        )
        return text

    def column(self, addresses: NDArray[np.uint8]) -> list[str]:
        """The texts of a (rows, 16) column."""
        raw: list[bytes] = np.ascontiguousarray(addresses).view("V16").ravel().tolist()
        return [self[address] for address in raw]


def protocol_name(number: int) -> str:
    """TCP for 6; the number in decimal where it has no name here."""
    return PROTOCOLS.get(number) or str(number)


def interface_name(index: int, names: Mapping[IfIndex, str]) -> str:
    """The name, or "ifindex:7" where it is not known; no interface can be called that (no colon in names)."""
    return names.get(IfIndex(index)) or f"ifindex:{index}"


def rfc3339(unix_ns: NDArray[np.int64]) -> list[str]:
    """Times in UTC with microseconds; the rest of the nanoseconds is cut off."""
    return [str(text) for text in np.datetime_as_string((unix_ns // 1000).view("datetime64[us]"), timezone="UTC")]
