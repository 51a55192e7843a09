"""Agents as far as their exchange goes: certificates of the operator's making, statements, and who takes them."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from podwire_agent.clock import SystemClock
from podwire_agent.exchange.clocks import Estimate
from podwire_agent.exchange.identity import Identity
from podwire_agent.exchange.messages import PATH, PeerClock, Sender, request_body
from podwire_agent.exchange.server import ExchangeServer, Receiver
from podwire_agent.model import MonitorUid, Records
from podwire_agent.statements import STATEMENT, Answer, CutTimes, Envelope, Statements, Status, Statuses
from podwire_api.names import AGENT
from podwire_operator.certificates import Data, plan

SOON_S = 5.0
SHOP = MonitorUid("5b3c6c5e-0000-0000-0000-000000000001")
PERIOD_NS = 5 * 10**9


class Secret:
    """The agents' Secret as a pod sees it: files that are links into a directory which is exchanged whole."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._states = 0

    def write(self, data: Data) -> None:
        self._states += 1
        state = self.directory / f"..{self._states}"
        state.mkdir()
        for name, content in data.items():
            (state / name).write_bytes(content)
        aside = self.directory / "..aside"
        aside.symlink_to(state.name)
        aside.rename(self.directory / "..data")

    def identity(self) -> Identity:
        return Identity(self.directory, AGENT, time.monotonic)


@dataclass
class Installation:
    """Its CA and its agents' certificate, at a time."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    ca: Data | None = None
    agent: Data | None = None

    def reconcile(self, later: timedelta = timedelta()) -> Data:
        """What the agents' Secret holds `later` than the last time."""
        self.now += later
        made = plan(self.ca, self.agent, self.now)
        self.ca, self.agent = made.ca, made.agent
        return made.agent


class Taker:
    """Takes statements as a monitor does."""

    def __init__(self) -> None:
        self.visible = True
        self.taken: list[tuple[Envelope, Records]] = []
        self.before: Callable[[], None] = lambda: None

    def take(self, envelope: Envelope, records: Records, now_mono_ns: int) -> Statuses:  # noqa: ARG002
        self.before()
        self.taken.append((envelope, records.copy()))
        return np.full(len(records), Status.TAKEN, np.uint8)


class Shifted(SystemClock):
    """A machine whose clocks are others."""

    def __init__(self, mono_s: float = 0.0, wall_s: float = 0.0) -> None:
        self.mono_shift_ns, self.wall_shift_ns = int(mono_s * 1e9), int(wall_s * 1e9)

    def unix_ns(self) -> int:
        return super().unix_ns() + self.wall_shift_ns

    def mono_ns(self) -> int:
        return super().mono_ns() + self.mono_shift_ns


def serving(
    secret: Secret, taker: Receiver | None, boot_id: str = "boot-b", clock: Shifted | None = None
) -> ExchangeServer:
    def receiver(monitor: MonitorUid) -> Receiver | None:
        return taker if monitor == SHOP else None

    return ExchangeServer(("127.0.0.1", 0), secret.identity(), boot_id, receiver, clock or Shifted())


def sender(monitor: MonitorUid = SHOP) -> Sender:
    return Sender(monitor, "node-a", "boot-a", PERIOD_NS)


def cut(clock: SystemClock | None = None, age_s: float = 0.0) -> CutTimes:
    clock = clock or SystemClock()
    ago = int(age_s * 1e9)
    return CutTimes(clock.unix_ns() - ago, clock.mono_ns() - ago, clock.mono_ns() - ago)


def records(count: int) -> Records:
    made = np.zeros(count, STATEMENT)
    made["wire"]["src_port"] = np.arange(count) % 65536
    made["packets"] = 2**63 + np.arange(count, dtype=np.uint64)
    made["first_mono_ns"] = made["last_mono_ns"] = SystemClock().mono_ns() - 10**9
    return made


def statements(count: int, node: str = "node-b", age_s: float = 0.0) -> Statements:
    return Statements(node, cut(age_s=age_s), np.zeros((count, 11), np.uint32), records(count))


def body(count: int, monitor: MonitorUid = SHOP, boot_id: str = "boot-b", age_s: float = 0.0) -> bytes:
    clock = SystemClock()
    known = PeerClock(boot_id, Estimate(0, 10**6, 10**6))
    return request_body(sender(monitor), cut(age_s=age_s), records(count), known, clock.unix_ns(), clock.mono_ns())


def asked(
    port: int, context: ssl.SSLContext, content: bytes, path: str = PATH, method: str = "POST"
) -> tuple[int, bytes]:
    """Status and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON_S)
    try:
        connection.sock = shaken(port, context)
        connection.request(method, path, content)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def shaken(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), SOON_S), server_hostname=AGENT)


def until(met: Callable[[], bool], words: str) -> None:
    deadline = time.monotonic() + SOON_S
    while not met():
        assert time.monotonic() < deadline, words
        os.sched_yield()
        time.sleep(0.01)


def answered(answers: Callable[[MonitorUid], list[Answer]]) -> Answer:
    found: list[Answer] = []

    def met() -> bool:
        found.extend(answers(SHOP))
        return bool(found)

    until(met, "no answer")
    return found[-1]
