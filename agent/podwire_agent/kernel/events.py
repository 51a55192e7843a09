"""Births, changes and deaths of interfaces, as the kernel tells them (RTNLGRP_LINK)."""

from __future__ import annotations

import errno
import os
import select
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from podwire_agent.kernel.interfaces import IFINFOMSG
from podwire_agent.kernel.rtnetlink import MessageType, set_receive_buffer, unpack
from podwire_agent.model import IfIndex

_RTMGRP_LINK = 1
_RECEIVE_BYTES = 1 << 16
RECEIVE_BUFFER_BYTES = 8 << 20
"""An event takes about 2 KiB of it: some thousand events may wait."""


@dataclass(frozen=True, slots=True)
class InterfaceChanges:
    """What happened since the last wait."""

    changed: frozenset[IfIndex] = frozenset()
    """Born or changed, and there when the last event was sent."""
    removed: frozenset[IfIndex] = frozenset()
    """Gone. An index may be in both: removed, then given again."""
    overrun: bool = False
    """Events were lost: look at all interfaces."""


class InterfaceEvents:
    """Subscribed from its making on. One thread waits; `wake` may be called from any."""

    def __init__(self, receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        set_receive_buffer(self._socket, receive_buffer_bytes)
        self._socket.bind((0, _RTMGRP_LINK))
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        os.close(self._wake)

    def wake(self) -> None:
        """The wait under way, or the next one, returns at once."""
        os.eventfd_write(self._wake, 1)

    def wait(self, timeout_s: float) -> InterfaceChanges:
        """All that is there once something is, in one value; empty after `timeout_s` or a wake."""
        ready = dict(self._poll.poll(max(0.0, timeout_s) * 1000))
        if self._wake in ready:
            os.eventfd_read(self._wake)
        changed: set[IfIndex] = set()
        removed: set[IfIndex] = set()
        overrun = False
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return InterfaceChanges(frozenset(changed), frozenset(removed), overrun)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                overrun = True
                continue
            for _, message in unpack(data):
                # A bridge tells of its ports by the same types: leaving a bridge is not dying.
                if message.type not in (MessageType.NEWLINK, MessageType.DELLINK) or message.payload[0] != 0:
                    continue
                index = IfIndex(IFINFOMSG.unpack_from(message.payload)[2])
                if message.type == MessageType.NEWLINK:
                    changed.add(index)
                else:
                    changed.discard(index)
                    removed.add(index)
