"""The addresses behind a veth, read from the namespace of its other end without entering it.

A dump of addresses takes the id that this namespace has given to another (IFA_TARGET_NETNSID, Linux 4.20, commit
6ecf4c37eb3e). It needs CAP_NET_ADMIN; without it, or with an id of nothing, the answer may simply be empty.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from enum import IntEnum
from types import TracebackType
from typing import Self

from podwire_agent.kernel.rtnetlink import MessageType, RouteSocket, attribute, attributes
from podwire_agent.model import Interface

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_IFADDRMSG = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, ifindex."""


class AddressAttribute(IntEnum):
    """IFA_*, those in use."""

    ADDRESS = 1
    LOCAL = 2
    TARGET_NETNSID = 10


class Addresses:
    """Asks for addresses in the namespaces of veths' other ends."""

    def __init__(self) -> None:
        self._netlink = RouteSocket()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._netlink.__exit__(kind, error, trace)

    def behind(self, interface: Interface) -> frozenset[Address] | None:
        """The addresses on the other end of `interface`, without link-local ones; empty: none yet.

        None: unknown. The other end is not in another namespace, that namespace has no address at all (not even
        its loopback's), or it may not be asked.
        """
        if interface.peer_netns_id is None:
            return None
        target = attribute(AddressAttribute.TARGET_NETNSID, struct.pack("=i", interface.peer_netns_id))
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                found += self._netlink.dump(MessageType.GETADDR, _IFADDRMSG.pack(family, 0, 0, 0, 0) + target)
            except OSError:
                return None
        everything = [_address(message.payload) for message in found if message.type == MessageType.NEWADDR]
        if not everything:
            return None
        return frozenset(
            address for index, address in everything if index == interface.peer_index and not address.is_link_local
        )


def _address(payload: bytes) -> tuple[int, Address]:
    *_, index = _IFADDRMSG.unpack_from(payload)
    found = attributes(payload, _IFADDRMSG.size)
    return index, ipaddress.ip_address(found.get(AddressAttribute.LOCAL) or found[AddressAttribute.ADDRESS])
