"""The interfaces of this network namespace and their own counters (RTM_GETLINK, RTM_GETSTATS)."""

from __future__ import annotations

import struct
import sys
from enum import IntEnum
from types import TracebackType
from typing import Self

from podwire_agent.errors import KernelError
from podwire_agent.kernel.rtnetlink import MessageType, RouteSocket, attribute, attributes, is_gone
from podwire_agent.model import Buffers, IfIndex, Interface, InterfaceCounters

IFINFOMSG = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, device type, index, flags, change mask."""

_IF_STATS_MSG = struct.Struct("=BxxxII")
"""struct if_stats_msg: family, ifindex, filter mask."""

_STATS64 = struct.Struct("=QQQQ")
"""The head of struct rtnl_link_stats64: packets received, sent; bytes received, sent."""

_IFF_UP = 1
_STATS_LINK_64 = 1
"""IFLA_STATS_LINK_64; its filter bit is 1 << (type - 1)."""
_SKIP_STATS = 1 << 3
"""RTEXT_FILTER_SKIP_STATS: half the size of an answer."""


class LinkAttribute(IntEnum):
    """IFLA_*, those in use."""

    NAME = 3
    LINK = 5
    QDISC = 6
    LINKINFO = 18
    EXT_MASK = 29
    LINK_NETNSID = 37
    XDP = 43


_INFO_KIND = 1
_XDP_ATTACHED = 2

_WITHOUT_STATS = attribute(LinkAttribute.EXT_MASK, struct.pack("=I", _SKIP_STATS))


class Interfaces:
    """Asks for interfaces; each method is one request. Needs no privilege."""

    def __init__(self) -> None:
        self._netlink = RouteSocket()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._netlink.__exit__(kind, error, trace)

    def all(self) -> list[Interface]:
        """Every interface of the namespace. KernelError."""
        try:
            messages = self._netlink.dump(MessageType.GETLINK, IFINFOMSG.pack(0, 0, 0, 0, 0) + _WITHOUT_STATS)
        except OSError as error:
            raise KernelError(f"listing the interfaces: {error.strerror}") from error
        return [_interface(message.payload) for message in messages if message.type == MessageType.NEWLINK]

    def one(self, index: IfIndex) -> Interface | None:
        """The interface of an index; None where there is none. KernelError."""
        try:
            message = self._netlink.get(MessageType.GETLINK, IFINFOMSG.pack(0, 0, index, 0, 0) + _WITHOUT_STATS)
        except OSError as error:
            if is_gone(error):
                return None
            raise KernelError(f"asking for interface {index}: {error.strerror}") from error
        return _interface(message.payload) if message is not None else None

    def counters(self, index: IfIndex) -> InterfaceCounters | None:
        """The counters of one interface; None where there is none. KernelError."""
        try:
            message = self._netlink.get(MessageType.GETSTATS, _IF_STATS_MSG.pack(0, index, _STATS_LINK_64))
        except OSError as error:
            if is_gone(error):
                return None
            raise KernelError(f"reading the counters of interface {index}: {error.strerror}") from error
        return _counters(message.payload) if message is not None else None

    def counters_all(self) -> dict[IfIndex, InterfaceCounters]:
        """The counters of every interface, in one dump. KernelError."""
        try:
            messages = self._netlink.dump(MessageType.GETSTATS, _IF_STATS_MSG.pack(0, 0, _STATS_LINK_64))
        except OSError as error:
            raise KernelError(f"reading the counters of the interfaces: {error.strerror}") from error
        return {
            IfIndex(_IF_STATS_MSG.unpack_from(message.payload)[1]): _counters(message.payload)
            for message in messages
            if message.type == MessageType.NEWSTATS
        }


def _interface(payload: bytes) -> Interface:
    _, _, index, flags, _ = IFINFOMSG.unpack_from(payload)
    found = attributes(payload, IFINFOMSG.size)
    info = attributes(found.get(LinkAttribute.LINKINFO, b""))
    xdp = attributes(found.get(LinkAttribute.XDP, b""))
    netns_id = found.get(LinkAttribute.LINK_NETNSID)
    return Interface(
        index=IfIndex(index),
        name=_text(found[LinkAttribute.NAME]),
        kind=_text(info.get(_INFO_KIND, b"")),
        peer_index=int.from_bytes(found.get(LinkAttribute.LINK, b""), sys.byteorder),
        peer_netns_id=None if netns_id is None else int.from_bytes(netns_id, sys.byteorder, signed=True),
        up=bool(flags & _IFF_UP),
        xdp=any(xdp.get(_XDP_ATTACHED, b"")),
        qdisc=_text(found.get(LinkAttribute.QDISC, b"")),
    )


def _counters(payload: bytes) -> InterfaceCounters:
    stats = attributes(payload, _IF_STATS_MSG.size)[_STATS_LINK_64]
    received, sent, received_bytes, sent_bytes = _STATS64.unpack_from(stats)
    return InterfaceCounters(Buffers(received, received_bytes), Buffers(sent, sent_bytes))


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
