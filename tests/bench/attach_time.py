"""How soon the programs are on an interface, told by the kernel's own events (RTNLGRP_TC)."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Self

from pyroute2 import IPRoute

from podwire_agent.kernel.clsact import PARENTS
from podwire_agent.kernel.rtnetlink import MessageType, unpack
from podwire_agent.model import HookPoint
from tests.bench.agent_process import running
from tests.bench.figures import Figure, quantile
from tests.kernel.netns import Host, Namespace
from tests.kernel.running import node

STARTS = 5
START_BUDGET_S = 0.5
BIRTHS = 200
BIRTH_MEDIAN_BUDGET_MS = 20.0
BIRTH_P99_BUDGET_MS = 50.0

_RTMGRP_TC = 1 << 3
_TCMSG = struct.Struct("=BxxxiIII")
_TIMEOUT_S = 10.0


class Attachments:
    """Filters as they come into being in a namespace, from its making on."""

    def __init__(self, namespace: Namespace) -> None:
        self._socket = namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_TC))
        self._socket.settimeout(_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def first(self) -> float:
        """When the next filter was there, time.monotonic(). TimeoutError."""
        return next(self._events())[0]

    def both(self, index: int) -> float:
        """When filters were at both hooks of an interface, time.monotonic(). TimeoutError."""
        missing = {PARENTS[hook] for hook in HookPoint}
        for at, changed, parent in self._events():
            if changed == index:
                missing.discard(parent)
            if not missing:
                return at
        raise AssertionError("events end only by a timeout")

    def _events(self) -> Iterator[tuple[float, int, int]]:
        while True:
            data = self._socket.recv(1 << 16)
            now = time.monotonic()
            for _, message in unpack(data):
                if message.type == MessageType.NEWFILTER:
                    _, index, _, parent, _ = _TCMSG.unpack_from(message.payload)
                    yield now, index, parent


def start() -> list[Figure]:
    """From the start of the process to the first filter; two pods' veths are there. RuntimeError, OSError."""
    taken = []
    with Host(pods=2) as host:
        for number in range(STARTS):
            print(f"start to first attach: {number + 1} of {STARTS}", file=sys.stderr)
            with node(host.namespace) as place, Attachments(host.namespace) as attachments:
                begun = time.monotonic()
                with running(place, ready=False) as agent:
                    taken.append(attachments.first() - begun)
                    agent.ready()
    detail = f"best of {STARTS}, median {median(taken):.3f} s"
    return [Figure("start to first attach", min(taken), "s", START_BUDGET_S, detail)]


def birth() -> list[Figure]:
    """From before the request for a veth to filters at both its hooks. RuntimeError, OSError."""
    with (
        Host(pods=2) as host,
        Namespace(f"{host.namespace.name}born") as born,
        node(host.namespace, pollingPeriod="5s") as place,
        running(place),
        Attachments(host.namespace) as attachments,
        host.namespace.entered(),
        IPRoute() as route,
        _descriptor(born) as there,
    ):
        taken = []
        for number in range(BIRTHS):
            if not number % 50:
                print(f"births: {number} of {BIRTHS}", file=sys.stderr)
            name = f"born{number}"
            begun = time.monotonic()
            route.link("add", ifname=name, kind="veth", peer={"ifname": name, "net_ns_fd": there})
            index = socket.if_nametoindex(name)
            taken.append(1000 * (attachments.both(index) - begun))
            route.link("del", index=index)
    detail = f"{BIRTHS} births, best {min(taken):.1f} ms, worst {max(taken):.1f}"
    return [
        Figure("attached after birth, median", median(taken), "ms", BIRTH_MEDIAN_BUDGET_MS, detail),
        Figure("attached after birth, p99", quantile(taken, 0.99), "ms", BIRTH_P99_BUDGET_MS, detail),
    ]


@contextmanager
def _descriptor(namespace: Namespace) -> Iterator[int]:
    descriptor = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
