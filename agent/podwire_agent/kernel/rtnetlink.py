"""Route netlink, the little of it that is asked often: requests, dumps and attributes (rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from threading import Lock
from types import TracebackType
from typing import NamedTuple, Self

from podwire_agent.errors import KernelError

SOL_NETLINK = 270
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")
ATTRIBUTE_TYPE = 0x3FFF
"""NLA_TYPE_MASK: without the nested and byte order bits."""

_RECEIVE_BYTES = 1 << 16
"""The kernel fills a dump's messages up to 32 KiB (netlink_dump)."""

_DUMP_ATTEMPTS = 8

_SO_RCVBUFFORCE = 33


class MessageType(IntEnum):
    """nlmsg_type, those in use."""

    ERROR = 2
    DONE = 3
    NEWLINK = 16
    DELLINK = 17
    GETLINK = 18
    NEWADDR = 20
    GETADDR = 22
    NEWQDISC = 36
    GETQDISC = 38
    NEWFILTER = 44
    DELFILTER = 45
    GETFILTER = 46
    NEWSTATS = 92
    GETSTATS = 94


class MessageFlag(IntFlag):
    """nlmsg_flags, those in use."""

    REQUEST = 0x1
    ACK = 0x4
    ECHO = 0x8
    REPLACE = 0x100
    EXCL = 0x200
    CREATE = 0x400
    DUMP_INTERRUPTED = 0x10
    DUMP = 0x300


_GET = MessageFlag.REQUEST | MessageFlag.ACK | MessageFlag.ECHO


class Message(NamedTuple):
    """One netlink message: its type, flags, and what follows the header."""

    type: int
    flags: int
    payload: bytes


class RouteSocket:
    """A NETLINK_ROUTE socket for requests of one thread at a time; needs no privilege.

    Requests are checked strictly (Linux 4.20, commit 89d35528d17d), without which the kernel ignores filters of a
    dump that it does not know.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))
        self._lock = Lock()
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def get(self, type_: MessageType, payload: bytes) -> Message | None:
        """The one answer to a request; None where the kernel has none to give. OSError: what the kernel said.

        A qdisc is told to who asked for it only with ECHO, and one that was deleted by nothing at all: it is the
        acknowledgement that ends every answer.
        """
        with self._lock:
            messages = list(self._exchange(type_, _GET, payload))
        return messages[0] if messages else None

    def change(self, type_: MessageType, payload: bytes, flags: int = 0) -> None:
        """Done on return. OSError: what the kernel said."""
        with self._lock:
            for _ in self._exchange(type_, MessageFlag.REQUEST | MessageFlag.ACK | flags, payload):
                continue

    def dump(self, type_: MessageType, payload: bytes) -> list[Message]:
        """All answers to a dump, of one moment: asked again where something changed meanwhile.

        OSError: what the kernel said; KernelError: changed meanwhile each time.
        """
        with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                messages = list(self._exchange(type_, MessageFlag.REQUEST | MessageFlag.DUMP, payload))
                if not any(message.flags & MessageFlag.DUMP_INTERRUPTED for message in messages):
                    return messages
        raise KernelError(
            f"listing by netlink ({type_.name}): the list changed during each of {_DUMP_ATTEMPTS} attempts; "
            "this passes once fewer interfaces come and go"
        )

    def _exchange(self, type_: MessageType, flags: MessageFlag, payload: bytes) -> Iterator[Message]:
        self._sequence += 1
        self._socket.send(HEADER.pack(HEADER.size + len(payload), type_, flags, self._sequence, 0) + payload)
        while True:
            for sequence, message in unpack(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if message.type == MessageType.ERROR:
                    number = -struct.unpack_from("=i", message.payload)[0]
                    if not number:
                        return
                    raise OSError(number, os.strerror(number))
                if message.type == MessageType.DONE:
                    return
                yield message


def set_receive_buffer(netlink: socket.socket, size_bytes: int) -> None:
    """As large as that, or as the system's limit where CAP_NET_ADMIN is lacking."""
    try:
        netlink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size_bytes)
    except PermissionError:
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)


def unpack(data: bytes) -> Iterator[tuple[int, Message]]:
    """The messages of one receive, with their sequence numbers."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, type_, flags, sequence, _ = HEADER.unpack_from(data, offset)
        yield sequence, Message(type_, flags, data[offset + HEADER.size : offset + length])
        offset += _aligned(length)


def attributes(payload: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from `offset` on, by type; the last one where a type comes twice."""
    found = {}
    while offset + _ATTRIBUTE.size <= len(payload):
        length, type_ = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            break
        found[type_ & ATTRIBUTE_TYPE] = payload[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return found


def attribute(type_: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, type_) + value + bytes(_aligned(length) - length)


def is_gone(error: OSError) -> bool:
    """The interface that was asked for is not there."""
    return error.errno in (errno.ENODEV, errno.ENXIO)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
