"""A request to end that also ends what blocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stop:
    """Like threading.Event, never cleared; a blocking read is cut at once, so that nobody wakes up to look."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._cuts: list[Callable[[], None]] = []

    def set(self) -> None:
        """End everything that waits for this, from any thread."""
        with self._lock:
            self._event.set()
            cuts = tuple(self._cuts)
        for cut in cuts:
            cut()

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Until set, at most `timeout_s`; whether it is set."""
        return self._event.wait(timeout_s)

    @contextmanager
    def cutting(self, cut: Callable[[], None]) -> Iterator[None]:
        """While inside, `set` calls `cut` (which must not block or raise); at once where it is set already."""
        with self._lock:
            self._cuts.append(cut)
            late = self._event.is_set()
        if late:
            cut()
        try:
            yield
        finally:
            with self._lock:
                self._cuts.remove(cut)
