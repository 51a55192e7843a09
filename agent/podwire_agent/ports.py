"""What the pipeline needs of the world, as Protocols; the edges implement them, tests bring verified fakes."""

from __future__ import annotations

from typing import Protocol

from podwire_agent.model import Snapshot


class Clock(Protocol):
    """Time as an argument."""

    def unix_ns(self) -> int:
        """CLOCK_REALTIME, ns."""

    def mono_ns(self) -> int:
        """CLOCK_MONOTONIC, ns: the clock of the kernel program's times."""


class Sink(Protocol):
    """Takes snapshots. Called from its own thread; may block, may raise OSError."""

    name: str

    def send(self, snapshot: Snapshot) -> None:
        """Hand one report on; returns when it is handed on."""

    def close(self) -> None:
        """After the last snapshot."""


class Outlet(Protocol):
    """Where a pipeline puts its reports: one at a time."""

    @property
    def idle(self) -> bool:
        """What was put last is handed on, or given up and counted: another may come."""

    def put(self, snapshot: Snapshot) -> None:
        """Take a report; never blocks."""


class StepObserver(Protocol):
    """Told after each step of a tick: the agent's timings, and the place where tests kill it."""

    def step(self, name: str) -> None:
        """`name` is a member of pipeline.Step."""
