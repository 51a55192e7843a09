"""Direct-action BPF filters on the clsact qdisc: reading, adding, replacing, deleting. No policy.

Changes are messages of pyroute2; reads are our own, since it leaves a filter's program id undecoded.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import NoReturn, Self

from podwire_agent.errors import AttachError, InterfaceGone
from podwire_agent.kernel.rtnetlink import MessageFlag, MessageType, RouteSocket, attributes, is_gone
from podwire_agent.kernel.tcmsg import encode
from podwire_agent.model import HookPoint, IfIndex

_TCMSG = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, ifindex, handle, parent, info."""

CLSACT = 0xFFFFFFF1
"""TC_H_CLSACT: where the qdisc sits, be it clsact or ingress."""

CLSACT_HANDLE = 0xFFFF0000
"""The only one that it takes."""

PARENTS = {HookPoint.INGRESS: 0xFFFFFFF2, HookPoint.EGRESS: 0xFFFFFFF3}

ETH_P_ALL = 3

DIRECT_ACTION = 1
"""TCA_BPF_FLAG_ACT_DIRECT: the program's return code is the action."""


class TcAttribute(IntEnum):
    """TCA_*, those in use."""

    KIND = 1
    OPTIONS = 2
    CHAIN = 11


class BpfAttribute(IntEnum):
    """TCA_BPF_*, those in use."""

    NAME = 7
    ID = 11


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter at a hook."""

    kind: str
    priority: int
    protocol: int
    handle: int
    chain: int
    name: str
    """Of a bpf filter."""
    program_id: int
    """Of a bpf filter; 0 for others."""

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"the {self.kind} filter{name} at priority {self.priority}"


class Clsact:
    """A netlink socket of this network namespace. Needs CAP_NET_ADMIN to change."""

    def __init__(self) -> None:
        self._netlink = RouteSocket()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._netlink.__exit__(kind, error, trace)

    def qdisc(self, index: IfIndex) -> str:
        """The kind of the qdisc that bears the filters: "clsact", "ingress", or "" for none. InterfaceGone."""
        try:
            message = self._netlink.get(MessageType.GETQDISC, _TCMSG.pack(0, index, 0, CLSACT, 0))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return ""
            _refuse(f"asking for the clsact qdisc of interface {index}", error)
        return _text(attributes(message.payload, _TCMSG.size)[TcAttribute.KIND]) if message is not None else ""

    def add_qdisc(self, index: IfIndex) -> str:
        """Put a clsact qdisc where none is; the kind of the one that is there then. InterfaceGone, AttachError."""
        try:
            self._netlink.change(
                MessageType.NEWQDISC,
                encode(index, CLSACT_HANDLE, CLSACT, 0, "clsact"),
                MessageFlag.CREATE | MessageFlag.EXCL,
            )
        except OSError as error:
            if error.errno != errno.EEXIST:
                _refuse(f"adding a clsact qdisc to interface {index}", error)
            return self.qdisc(index)
        return "clsact"

    def filters(self, index: IfIndex, hook: HookPoint) -> list[Filter]:
        """The filters at a hook, in the order in which they run. On an ingress qdisc both hooks show the same.

        Empty also where there is no qdisc or no interface. AttachError.
        """
        try:
            messages = self._netlink.dump(MessageType.GETFILTER, _TCMSG.pack(0, index, 0, PARENTS[hook], 0))
        except OSError as error:
            if is_gone(error):
                return []
            _refuse(f"listing the filters at {hook} of interface {index}", error)
        found = [_filter(message.payload) for message in messages if message.type == MessageType.NEWFILTER]
        return [each for each in found if each.handle]

    def add(
        self, index: IfIndex, hook: HookPoint, priority: int, handle: int, program_fd: int, name: str, *, replace: bool
    ) -> bool:
        """Put a program at a priority and handle; with `replace` in place of the one there, at once.

        False: without `replace`, where the place is taken. InterfaceGone, AttachError.
        """
        try:
            self._netlink.change(
                MessageType.NEWFILTER,
                encode(
                    index,
                    handle,
                    PARENTS[hook],
                    _info(priority, ETH_P_ALL),
                    "bpf",
                    classid=1,
                    fd=program_fd,
                    name=name,
                    flags=DIRECT_ACTION,
                ),
                MessageFlag.CREATE | (MessageFlag.REPLACE if replace else MessageFlag.EXCL),
            )
        except OSError as error:
            if error.errno == errno.EEXIST and not replace:
                return False
            _refuse(f"attaching to {hook} of interface {index} by clsact at priority {priority}", error)
        return True

    def delete(self, index: IfIndex, hook: HookPoint, filter_: Filter) -> bool:
        """Take one bpf filter away; False where it is not there. AttachError."""
        try:
            self._netlink.change(
                MessageType.DELFILTER,
                encode(index, filter_.handle, PARENTS[hook], _info(filter_.priority, filter_.protocol), "bpf"),
            )
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                return False
            _refuse(f"detaching from {hook} of interface {index}", error)
        return True


def _info(priority: int, protocol: int) -> int:
    """tcm_info of a filter."""
    return priority << 16 | socket.htons(protocol)


def _filter(payload: bytes) -> Filter:
    *_, handle, _, info = _TCMSG.unpack_from(payload)
    found = attributes(payload, _TCMSG.size)
    kind = _text(found[TcAttribute.KIND])
    options = attributes(found.get(TcAttribute.OPTIONS, b"")) if kind == "bpf" else {}
    return Filter(
        kind=kind,
        priority=info >> 16,
        protocol=socket.ntohs(info & 0xFFFF),
        handle=handle,
        chain=_number(found.get(TcAttribute.CHAIN, b"")),
        name=_text(options.get(BpfAttribute.NAME, b"")),
        program_id=_number(options.get(BpfAttribute.ID, b"")),
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes) -> int:
    return struct.unpack("=I", value)[0] if value else 0


def _refuse(attempt: str, error: OSError) -> NoReturn:
    number = error.errno or 0
    message = f"{attempt}: {os.strerror(number)}"
    if number == errno.ENODEV:
        raise InterfaceGone(message) from error
    advice = "; the agent needs CAP_NET_ADMIN" if number in (errno.EPERM, errno.EACCES) else ""
    raise AttachError(message + advice) from error
