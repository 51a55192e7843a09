"""Rows for those who come and look, as Prometheus does: who looks, and what everybody has seen.

Whoever scrapes computes differences, and the first value it sees of a series makes none. So a new row is shown at 0
until everybody has seen it so; and one that has left comes back only when everybody has seen it gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from podwire_agent.model import Edges

KNOWN_NS = 5 * 60 * 10**9
"""Whoever has not looked for so long is not waited for."""

SCRAPERS_KNOWN = 8
"""More than these are not waited for."""


class Scrapers:
    """Who looks, told by address."""

    def __init__(self) -> None:
        self.not_known = 0
        """Looks of those who are not waited for, since there are too many."""
        self._last: dict[str, tuple[int, int]] = {}  # when each looked last, and the turn that it saw

    @classmethod
    def restore(cls, section: Iterable[Any]) -> Self:
        """Those that gave `section()`. TypeError, ValueError."""
        scrapers = cls()
        scrapers._last = {str(address): (int(mono_ns), int(number)) for address, mono_ns, number in section}
        return scrapers

    def section(self) -> list[Any]:
        """For a checkpoint."""
        return [[address, *last] for address, last in self._last.items()]

    def saw(self, address: str, number: int, now_mono_ns: int) -> None:
        """Somebody has seen what was shown in turn `number`."""
        self._forget(now_mono_ns)
        if address in self._last or len(self._last) < SCRAPERS_KNOWN:
            self._last[address] = now_mono_ns, number
        else:
            self.not_known += 1

    def seen(self, now_mono_ns: int) -> int | None:
        """The last turn that everybody who is known has seen, or a later one; None: nobody is known."""
        self._forget(now_mono_ns)
        return min((number for _, number in self._last.values()), default=None)

    def _forget(self, now_mono_ns: int) -> None:
        self._last = {each: last for each, last in self._last.items() if now_mono_ns - last[0] < KNOWN_NS}


class PullView:
    """What is shown now. Between a drain and those who look: whoever calls it sees to one call at a time."""

    def __init__(self, scrapers: Scrapers) -> None:
        self.scrapers = scrapers
        self._shown: tuple[int, Edges] | None = None

    def show(self, number: int, edges: Edges) -> None:
        """What RowTable.shown() gave, once it is in a checkpoint: nothing is shown that a crash could take back."""
        self._shown = number, edges

    def view(self) -> tuple[int, Edges] | None:
        """What there is to see, and its turn's number for `seen`; None: nothing is known yet."""
        return self._shown

    def seen(self, scraper: str, number: int, now_mono_ns: int) -> None:
        """`scraper`, an address, has got all of it."""
        self.scrapers.saw(scraper, number, now_mono_ns)
