"""Between a pipeline and its sink: a thread of the sink's own, so that a slow or dead one delays no drain."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from podwire_agent.errors import SinkClosed
from podwire_agent.model import Snapshot
from podwire_agent.ports import Sink

log = logging.getLogger(__name__)

CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Reports and what was in them: flow records, packets."""

    reports: int = 0
    flows: int = 0
    packets: int = 0

    def plus(self, snapshot: Snapshot) -> Tally:
        """With one more report."""
        packets = int(snapshot.flows["packets"].sum())
        return Tally(self.reports + 1, self.flows + len(snapshot.flows), self.packets + packets)


@dataclass(frozen=True, slots=True)
class OutboxCounters:
    """Where every report went that was put in: sent, failed, dropped, or still queued."""

    sent: Tally = Tally()
    failed: Tally = Tally()
    """The sink took it, and could not hand it on."""
    dropped: Tally = Tally()
    """The sink never took it: it was closed, or a later report came first."""
    queued: int = 0
    """Reports: 0 to 2, the one under way included."""
    last_error: str = ""


class Outbox:
    """A ports.Outlet: holds the report under way and at most one that waits; a further one replaces the latter.

    Whoever asks `idle` first loses nothing to that rule. A sink that raises OSError has failed with this
    report; one that raises SinkClosed takes no more, and what comes later is dropped and counted. `on_closed`
    is told of that, in the sink's thread.
    """

    def __init__(self, sink: Sink, on_closed: Callable[[SinkClosed], None] | None = None) -> None:
        self._sink = sink
        self._on_closed = on_closed
        self._changed = threading.Condition()
        self._waiting: Snapshot | None = None
        self._sending = False
        self._open = True
        self._ending = False
        self._counters = OutboxCounters()
        # A daemon: a write that blocks for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(CLOSE_S)

    @property
    def name(self) -> str:
        """The sink's."""
        return self._sink.name

    @property
    def idle(self) -> bool:
        """All that was put is handed on, or given up and counted."""
        with self._changed:
            return self._idle()

    @property
    def counters(self) -> OutboxCounters:
        """Now."""
        with self._changed:
            return replace(self._counters, queued=self._sending + (self._waiting is not None))

    def put(self, snapshot: Snapshot) -> None:
        """Take a report; never blocks."""
        with self._changed:
            if not self._open or self._ending:
                self._drop(snapshot)
                return
            if self._waiting is not None:
                self._drop(self._waiting)
            self._waiting = snapshot
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Until idle; False where that takes longer."""
        with self._changed:
            return self._changed.wait_for(self._idle, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Hand on what is waiting, then close the sink. False where that takes longer: the rest is dropped."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if not self._thread.is_alive():
            return True
        with self._changed:
            self._open = False
            self._drop_waiting()
        log.error("sink %s: closing it took more than %g s; what it still held is given up", self.name, timeout_s)
        return False

    def _run(self) -> None:
        try:
            while (snapshot := self._next()) is not None:
                self._hand_on(snapshot)
                del snapshot  # not kept until the next one comes: it may be many megabytes
            self._sink.close()
        except SinkClosed as closed:
            self._fail(str(closed))
            if self._on_closed is not None:
                self._on_closed(closed)
        except OSError as error:
            self._fail(f"sink {self.name}: closing it failed: {error}")
        finally:
            with self._changed:
                self._open = self._sending = False
                self._drop_waiting()
                self._changed.notify_all()

    def _next(self) -> Snapshot | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._ending)
            snapshot, self._waiting = self._waiting, None
            self._sending = snapshot is not None
            return snapshot

    def _hand_on(self, snapshot: Snapshot) -> None:
        handed_on = False
        try:
            self._sink.send(snapshot)
            handed_on = True
        except OSError as error:
            self._fail(f"sink {self.name}: sending a report failed: {error}")
        finally:
            with self._changed:
                counters = self._counters
                if handed_on:
                    self._counters = replace(counters, sent=counters.sent.plus(snapshot))
                else:
                    self._counters = replace(counters, failed=counters.failed.plus(snapshot))
                self._sending = False
                self._changed.notify_all()

    def _fail(self, message: str) -> None:
        with self._changed:
            self._counters = replace(self._counters, last_error=message)
        log.error("%s", message)

    def _drop(self, snapshot: Snapshot) -> None:
        self._counters = replace(self._counters, dropped=self._counters.dropped.plus(snapshot))

    def _drop_waiting(self) -> None:
        if self._waiting is not None:
            self._drop(self._waiting)
            self._waiting = None

    def _idle(self) -> bool:
        return self._waiting is None and not self._sending
