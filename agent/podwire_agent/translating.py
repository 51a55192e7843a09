"""The node's translated connections, followed all the time: a service's address, and the backend behind it."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from podwire_agent.core.translation_table import KEEP_NS, LIMIT, TranslationTable
from podwire_agent.core.translations import Translations
from podwire_agent.errors import KernelError
from podwire_agent.kernel.conntrack import (
    RECEIVE_BUFFER_BYTES,
    ConntrackEvents,
    ConntrackList,
    require_events,
)
from podwire_agent.ports import Clock

log = logging.getLogger(__name__)

PACE_S = 0.1
"""Between two looks at what has happened, quiet or not: so exactly is it known when a connection began."""

RECHECK_NS = 300_000_000_000
"""Between two listings where nothing was missed: a connection that began before anybody followed ends untold
(nf_conntrack_events = 2, the default since Linux 5.19)."""

LIST_GAP_NS = 1_000_000_000
"""Between two listings at least; and they take at most a fifth of the time."""


@dataclass(frozen=True, slots=True)
class ConntrackFigures:
    """How it stands. `*_total` never falls."""

    entries: int = 0
    """Connections known: those that live, and those that ended lately."""
    dropped_total: int = 0
    """There was no room for these, or they were forgotten early."""
    overruns_total: int = 0
    """Times that events were lost, after each of which everything was listed again."""
    failures_total: int = 0
    """Listings that failed and were tried again, and events that could not be understood."""
    unavailable: str = ""
    """Why services are joined without the kernel's help, in words; "" where they are joined with it."""


class Conntrack:
    """Context manager: follows in a thread from its entry on. Any thread may ask.

    It looks at the network namespace of the thread that makes it. Where that is not possible it says so once, and
    knows of no translation.
    """

    def __init__(
        self,
        clock: Clock,
        seed: int,
        *,
        keep_ns: int = KEEP_NS,
        limit: int = LIMIT,
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
    ) -> None:
        """`seed`: a secret of this process. `keep_ns`: how long what has ended is known, at least a polling period."""
        self._clock = clock
        self._table = TranslationTable(seed, limit, keep_ns)
        self._lock = threading.Lock()
        self._held = ExitStack()
        self._unavailable = ""
        self._overruns_total = 0
        self._failures_total = 0
        self._missed = True
        """Something began or ended that nobody was told of; first of all, everything."""
        self._complete_mono_ns = 0
        self._listed_mono_ns = 0
        self._rested_mono_ns = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._sockets: tuple[ConntrackEvents, ConntrackList] | None = None
        try:
            require_events()
            events = self._held.enter_context(ConntrackEvents(clock, receive_buffer_bytes))
            self._sockets = events, self._held.enter_context(ConntrackList())
            self._thread = threading.Thread(target=self._run, args=self._sockets, name="connections")
        except KernelError as error:
            self._give_up(error)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()
        self._held.close()

    def translations(self) -> Translations:
        """All that is known, what has happened until now included. Immutable."""
        with self._lock:
            if self._sockets is None or not self._look(*self._sockets):
                return Translations.none()
            self._table.change(self._sockets[0].take())
            return self._table.snapshot(self._clock.mono_ns())

    @property
    def figures(self) -> ConntrackFigures:
        """How it stands now."""
        unreadable = self._sockets[0].unreadable_total if self._sockets is not None else 0
        return ConntrackFigures(
            len(self._table),
            self._table.dropped_total,
            self._overruns_total,
            self._failures_total + unreadable,
            self._unavailable,
        )

    def _run(self, events: ConntrackEvents, listing: ConntrackList) -> None:
        going_on = True
        while going_on and not self._stopping.wait(PACE_S):
            with self._lock:
                going_on = self._look(events, listing)

    def _look(self, events: ConntrackEvents, listing: ConntrackList) -> bool:
        """Receive what waits, and list what was missed; False where nothing can be known."""
        if self._unavailable:
            return False
        try:
            before_mono_ns = events.emptied_mono_ns
            lost = events.receive()
            while events.full:
                self._table.change(events.take())
                lost |= events.receive()
        except KernelError as error:
            self._give_up(error)
            return False
        if lost:
            self._overruns_total += 1
            if not self._missed:
                self._missed, self._complete_mono_ns = True, before_mono_ns
        now_mono_ns = self._clock.mono_ns()
        due = self._missed or now_mono_ns - self._listed_mono_ns >= RECHECK_NS
        if due and now_mono_ns >= self._rested_mono_ns:
            self._table.change(events.take())
            return self._list(listing)
        return True

    def _list(self, listing: ConntrackList) -> bool:
        began_mono_ns = self._clock.mono_ns()
        try:
            found = listing.all()
        except KernelError as error:
            if not self._listed_mono_ns:
                self._give_up(error)
                return False
            log.warning("%s; tried again", error)
            self._failures_total += 1
        else:
            after_mono_ns = self._complete_mono_ns if self._missed else self._listed_mono_ns
            self._listed_mono_ns = self._clock.mono_ns()
            self._missed = False
            self._table.replace(found, after_mono_ns, self._listed_mono_ns)
        ended_mono_ns = self._clock.mono_ns()
        self._rested_mono_ns = ended_mono_ns + max(LIST_GAP_NS, 4 * (ended_mono_ns - began_mono_ns))
        return True

    def _give_up(self, error: KernelError) -> None:
        self._unavailable = str(error)
        log.warning("%s. Services are found without it, where only one can be meant", error)
