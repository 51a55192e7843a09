"""Interfaces come and go: told to every monitor at once, and looked at in full once a period."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from podwire_agent.containment import Crashed, contained
from podwire_agent.errors import PodwireError
from podwire_agent.kernel.events import InterfaceChanges, InterfaceEvents
from podwire_agent.kernel.watch import Watch
from podwire_agent.model import MonitorUid
from podwire_agent.ports import Clock

log = logging.getLogger(__name__)

RENEW_GAP_S = 0.3
"""Between two renewals, since what rules refer to changes in storms."""
LONGEST_GAP_S = 1.0
"""A change has to be in force within 2 s: it may come while one renewal is under way, and waits for the next."""
RESTS = 24
"""A renewal is followed by a rest of so many times its duration, so that a storm takes 4 % of the time; where that
were more than LONGEST_GAP_S, at most a third."""
NEVER_NS = 1 << 63

IDLE_S = 60.0
"""Between two looks at the clock where there is no monitor."""


def rest_s(took_s: float) -> float:
    """Before the next renewal, after one that took so long."""
    return max(2 * took_s, min(max(RENEW_GAP_S, RESTS * took_s), LONGEST_GAP_S))


@dataclass(slots=True)
class _Entry:
    """One monitor."""

    uid: MonitorUid
    watch: Watch
    renew: Callable[[], None]
    """Has what the rules refer to and has changed in force."""
    period_ns: int
    crashed: Crashed
    scan_mono_ns: int
    """When it looks at everything next, since an event may have told too little."""
    renew_mono_ns: int
    """When `renew` is called, if not with a scan before."""
    rested_mono_ns: int = 0
    """When it may be called again."""
    busy: threading.Lock = field(default_factory=threading.Lock)
    leaving: bool = False

    def renew_now(self, clock: Clock) -> None:
        """KernelError: with the next scan it is tried again."""
        began_mono_ns = clock.mono_ns()
        self.renew_mono_ns = NEVER_NS
        try:
            self.renew()
        finally:
            ended_mono_ns = clock.mono_ns()
            self.rested_mono_ns = ended_mono_ns + int(1e9 * rest_s((ended_mono_ns - began_mono_ns) / 1e9))

    def end(self, error: Exception) -> None:
        """Its supervisor begins it anew."""
        self.leaving = True
        self.crashed(error)


class Births:
    """Context manager: subscribed from its making on, so that what is born before the first scan is not missed.

    `start` begins a thread; before it, events wait.
    """

    def __init__(self, clock: Clock) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Called after something else is watched, or fails; in the thread."""
        self._clock = clock
        self._events = InterfaceEvents()
        self._lock = threading.Lock()
        self._entries: dict[MonitorUid, _Entry] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="interfaces")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._events.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._events.__exit__(kind, error, trace)

    def start(self) -> None:
        """Follow what happens from now on, and what has happened since the making."""
        self._thread.start()

    def add(self, uid: MonitorUid, watch: Watch, renew: Callable[[], None], period_ns: int, crashed: Crashed) -> None:
        """Tell this one too. It makes its first scan itself, after this; `renew` is called before each later one."""
        now_mono_ns = self._clock.mono_ns()
        soon_mono_ns = now_mono_ns + int(RENEW_GAP_S * 1e9)  # for what has changed before this
        with self._lock:
            self._entries[uid] = _Entry(
                uid, watch, renew, period_ns, crashed, now_mono_ns + period_ns, renew_mono_ns=soon_mono_ns
            )
        self._events.wake()

    def remove(self, uid: MonitorUid) -> None:
        """Leave it alone; on return nothing of it is under way. Not from the thread itself."""
        with self._lock:
            entry = self._entries.pop(uid, None)
        if entry is not None:
            entry.leaving = True
            with entry.busy:
                pass

    def rescan(self) -> None:
        """Look at everything soon: what a monitor chooses may have changed."""
        with self._lock:
            for entry in self._entries.values():
                entry.scan_mono_ns = 0
        self._events.wake()

    def renew_soon(self) -> None:
        """Something that rules refer to has changed: have them renewed, at once but for RENEW_GAP_S."""
        now_mono_ns = self._clock.mono_ns()
        waiting = True
        with self._lock:
            for entry in self._entries.values():
                if entry.renew_mono_ns == NEVER_NS:
                    entry.renew_mono_ns = max(now_mono_ns, entry.rested_mono_ns)
                    waiting = False
        if not waiting:
            self._events.wake()

    def _run(self) -> None:
        while not self._stopping:
            with self._lock:
                soonest = min(
                    (min(entry.scan_mono_ns, entry.renew_mono_ns) for entry in self._entries.values()), default=None
                )
            wait_s = IDLE_S if soonest is None else max(0, soonest - self._clock.mono_ns()) / 1e9
            happened = self._events.wait(wait_s)
            with self._lock:
                entries = list(self._entries.values())
            before = sum(entry.watch.changes for entry in entries)
            for entry in entries:
                with entry.busy:
                    if not (entry.leaving or self._stopping):
                        self._tell(entry, happened)
            if sum(entry.watch.changes for entry in entries) != before:
                self.changed()

    def _tell(self, entry: _Entry, happened: InterfaceChanges) -> None:
        now_mono_ns = self._clock.mono_ns()
        due = now_mono_ns >= entry.scan_mono_ns
        if due:
            entry.scan_mono_ns = now_mono_ns + entry.period_ns
        try:
            with contained(f"watching interfaces for monitor {entry.uid}", entry.end):
                if due or now_mono_ns >= entry.renew_mono_ns:
                    entry.renew_now(self._clock)
                entry.watch.change(happened.changed, happened.removed)
                # What is removed here may live on elsewhere: a veth's end that moved away makes the other
                # one a pod's, and the kernel does not tell of that.
                if due or happened.overrun or happened.removed:
                    entry.watch.scan()
        except PodwireError as error:
            log.error("watching interfaces for monitor %s failed, tried again: %s", entry.uid, error)
