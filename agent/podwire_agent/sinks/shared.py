"""One sink behind several outboxes: the standard output that all monitors of an agent write to."""

from __future__ import annotations

import threading

from podwire_agent.model import Snapshot
from podwire_agent.ports import Sink


class Shared:
    """Lets one report through at a time, and closes with the last of its users. Users come from any thread."""

    def __init__(self, sink: Sink) -> None:
        self.name = sink.name
        self._sink = sink
        self._lock = threading.Lock()
        self._counting = threading.Lock()  # apart, since a report may block for as long as its reader does
        self._users = 0

    def user(self) -> Shared:
        """One more outbox sends to it."""
        with self._counting:
            self._users += 1
        return self

    def send(self, snapshot: Snapshot) -> None:
        """Waits for those before it."""
        with self._lock:
            self._sink.send(snapshot)

    def close(self) -> None:
        """By each user; the last one closes the sink."""
        with self._lock, self._counting:
            self._users -= 1
            if not self._users:
                self._sink.close()
