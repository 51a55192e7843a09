"""The connections that the kernel translates: listed, and followed as they begin and end (ctnetlink).

CAP_NET_ADMIN only, for the connections of the network namespace in which the sockets are made. A translation never
changes while its connection lives, so that changes of a connection's state (NFNLGRP_CONNTRACK_UPDATE), of which there
are several for each TCP connection, are not asked for.
"""

from __future__ import annotations

import ctypes as ct
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from podwire_agent.errors import KernelError
from podwire_agent.kernel.conntrack_messages import MESSAGE_BYTES, Decoded, MessageType, decode, translated_only
from podwire_agent.kernel.rtnetlink import HEADER, MessageFlag, set_receive_buffer
from podwire_agent.kernel.rtnetlink import MessageType as ControlType
from podwire_agent.model import CONNECTION, Records
from podwire_agent.ports import Clock

RECEIVE_BUFFER_BYTES = 8 << 20
"""The kernel grants twice that; an event takes 1280 bytes of it: 13 000 may wait."""

STAGED = 4096
"""Events that are received before they are decoded."""

_NETLINK_NETFILTER = 12
_GROUPS = 1 << 0 | 1 << 2
"""NFNLGRP_CONNTRACK_NEW and NFNLGRP_CONNTRACK_DESTROY."""

_SO_ATTACH_FILTER = 26
_MSG_DONTWAIT = 0x40
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_NFGENMSG = struct.Struct("=BBH")
_RECEIVE_BYTES = 1 << 16
"""The kernel fills a dump's messages up to 32 KiB (netlink_dump)."""
_LISTED_BYTES = 1 << 20
"""Of a listing, decoded at once."""
_ANSWER_S = 10.0
"""The kernel answers at once; whoever waits for it holds a lock."""

_EVENTS = Path("/proc/sys/net/netfilter/nf_conntrack_events")

_FOLLOWING = "following translated connections (conntrack)"
_LISTING = "listing translated connections (conntrack)"

_libc = ct.CDLL(None, use_errno=True)


class _IoVec(ct.Structure):
    """struct iovec; pointers are numbers here, so that numpy can fill many."""

    _fields_ = [("base", ct.c_size_t), ("length", ct.c_size_t)]


class _Msghdr(ct.Structure):
    """struct msghdr."""

    _fields_ = [
        ("name", ct.c_size_t),
        ("namelen", ct.c_uint),
        ("iov", ct.c_size_t),
        ("iovlen", ct.c_size_t),
        ("control", ct.c_size_t),
        ("controllen", ct.c_size_t),
        ("flags", ct.c_int),
    ]


class _MMsghdr(ct.Structure):
    """struct mmsghdr."""

    _fields_ = [("header", _Msghdr), ("length", ct.c_uint)]


class ConntrackEvents:
    """Subscribed from its making on. One thread at a time."""

    def __init__(self, clock: Clock, receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES) -> None:
        """KernelError where this kernel, or what this process may do, does not allow it."""
        self.unreadable_total = 0
        """Events that could not be understood."""
        self._clock = clock
        self._socket = _open(_FOLLOWING)
        try:
            set_receive_buffer(self._socket, receive_buffer_bytes)
            self._filter()
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            self._socket.close()
            raise _refused(_FOLLOWING, error) from error
        self._bytes = np.empty((STAGED, MESSAGE_BYTES), np.uint8)
        self._times = np.empty((STAGED, 2), np.uint64)
        self._staged = 0
        self._emptied_mono_ns = clock.mono_ns()
        self._vectors = np.zeros(STAGED, np.dtype(_IoVec))
        self._vectors["base"] = self._bytes.ctypes.data + np.arange(STAGED) * MESSAGE_BYTES
        self._vectors["length"] = MESSAGE_BYTES
        self._headers = np.zeros(STAGED, np.dtype(_MMsghdr))
        self._headers["header"]["iov"] = self._vectors.ctypes.data + np.arange(STAGED) * ct.sizeof(_IoVec)
        self._headers["header"]["iovlen"] = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def emptied_mono_ns(self) -> int:
        """All that happened before was received, unless something was lost."""
        return self._emptied_mono_ns

    def receive(self) -> bool:
        """Everything that waits, as far as there is room until it is taken. True: some events were lost.

        Often: the time of an event is known to be after the last call, and before this one.
        """
        lost = False
        while self._staged < STAGED:
            asked_mono_ns = self._clock.mono_ns()
            count = _libc.recvmmsg(
                self._socket.fileno(),
                ct.c_void_p(self._headers[self._staged :].ctypes.data),
                STAGED - self._staged,
                _MSG_DONTWAIT,
                None,
            )
            if count < 0:
                number = ct.get_errno()
                if number == errno.EAGAIN:
                    self._emptied_mono_ns = asked_mono_ns
                    return lost
                if number == errno.ENOBUFS:
                    lost = True
                elif number != errno.EINTR:
                    raise _refused(_FOLLOWING, OSError(number, os.strerror(number)))
                continue
            self._times[self._staged : self._staged + count] = (self._emptied_mono_ns, self._clock.mono_ns())
            self._staged += count
        return lost

    @property
    def full(self) -> bool:
        """There is no room until what was received is taken."""
        return self._staged == STAGED

    def take(self) -> Records:
        """What was received, as CONNECTION in order: of TCP, UDP and SCTP, and translated."""
        count, self._staged = self._staged, 0
        if not count:
            return np.zeros(0, CONNECTION)
        begins = np.arange(count, dtype=np.intp) * MESSAGE_BYTES
        ends = begins + self._headers["length"][:count].astype(np.intp)
        decoded = decode(self._bytes[:count].reshape(-1), begins, ends)
        self.unreadable_total += decoded.unreadable
        decoded.connections["after_mono_ns"] = self._times[decoded.message, 0]
        decoded.connections["until_mono_ns"] = self._times[decoded.message, 1]
        return decoded.connections

    def _filter(self) -> None:
        program = translated_only()
        steps = ct.create_string_buffer(program, len(program))
        filter_ = struct.pack("@HP", len(program) // 8, ct.addressof(steps))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


class ConntrackList:
    """Asks for all connections; one thread at a time."""

    def __init__(self) -> None:
        """KernelError where this kernel, or what this process may do, does not allow it."""
        self._socket = _open(_LISTING)
        self._socket.settimeout(_ANSWER_S)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def all(self) -> Records:
        """Those that are translated now, as CONNECTION without times. KernelError."""
        found: list[Records] = []
        try:
            for family in _FAMILIES:
                found += [decoded.connections for decoded in self._list(family)]
        except OSError as error:
            raise _refused(_LISTING, error) from error
        # np.concatenate would turn the ports to the host's byte order.
        together = np.zeros(sum(map(len, found)), CONNECTION)
        end = 0
        for part in found:
            begin, end = end, end + len(part)
            together[begin:end] = part
        return together

    def _list(self, family: int) -> Iterator[Decoded]:
        flags = MessageFlag.REQUEST | MessageFlag.DUMP
        request = _NFGENMSG.pack(family, 0, 0)
        self._sequence += 1
        header = HEADER.pack(HEADER.size + len(request), MessageType.GET, flags, self._sequence, 0)
        self._socket.send(header + request)
        data = np.empty(_LISTED_BYTES, np.uint8)
        room = data.data
        begins: list[int] = []
        ends: list[int] = []
        filled, more = 0, True
        while more:
            received = self._socket.recv_into(room[filled : filled + _RECEIVE_BYTES])
            more = _bounds(room, (filled, filled + received), self._sequence, begins, ends)
            filled += (received + 3) & ~3
            if not more or filled > _LISTED_BYTES - _RECEIVE_BYTES:
                if begins:
                    yield decode(data, np.array(begins, np.intp), np.array(ends, np.intp))
                begins, ends, filled = [], [], 0


def require_events() -> None:
    """KernelError where this namespace's connections are not told of."""
    try:
        told = _EVENTS.read_text().strip() != "0"
    except OSError:
        return  # not in sight: whether the kernel has conntrack shows elsewhere
    if not told:
        raise KernelError(
            f"{_FOLLOWING}: net.netfilter.nf_conntrack_events is 0; set it to 1 or 2, and start the agent again"
        )


def _bounds(data: memoryview, received: tuple[int, int], sequence: int, begins: list[int], ends: list[int]) -> bool:
    """Where messages of connections begin and end; False after the last one. OSError: what the kernel said."""
    begin, end = received
    while begin + HEADER.size <= end:
        length, type_, _, answer_to, _ = HEADER.unpack_from(data, begin)
        if length < HEADER.size or begin + length > end:
            break
        if answer_to != sequence:
            pass  # to a listing that failed half way
        elif type_ in (ControlType.ERROR, ControlType.DONE):
            number = -struct.unpack_from("=i", data, begin + HEADER.size)[0]
            if number:
                raise OSError(number, os.strerror(number))
            return False
        elif type_ == MessageType.NEW:
            begins.append(begin)
            ends.append(begin + length)
        begin += (length + 3) & ~3
    return True


def _open(attempt: str) -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as error:
        raise _refused(attempt, error) from error


def _refused(attempt: str, error: OSError) -> KernelError:
    advice = {
        errno.EPERM: "grant CAP_NET_ADMIN",
        errno.EPROTONOSUPPORT: "this kernel has no netfilter netlink",
        errno.EINVAL: "the module nf_conntrack_netlink is missing",
        errno.ENOENT: "the module nf_conntrack_netlink is missing",
        errno.EOPNOTSUPP: "the module nf_conntrack_netlink is missing",
    }
    words = f"{attempt}: {error.strerror or error}"
    return KernelError(f"{words}; {advice[error.errno]}" if error.errno in advice else words)
