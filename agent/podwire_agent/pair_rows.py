"""Rows for a page of metrics: of the monitors that have a prometheus sink, to whom they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from podwire_agent.exposition import Rows
from podwire_agent.model import Edges, Labels
from podwire_agent.sinks.edges import DIRECTION, LOCALITY
from podwire_agent.sinks.naming import protocol_name
from podwire_agent.sinks.pair_text import PairColumns

MEASURED = ["packets", "bytes", "lost", "compared", "uncompared"]
"""Of core.rows.COUNTS, what somebody counts: a series of zeros would say that there is nothing to be seen."""

_NO_PODS = frozenset({"Node", "External", "Unknown", "Service"})
"""Kinds of an end that is no pod: what goes to it is not compared."""


class Shown(Protocol):
    """A monitor, as far as its rows are shown."""

    @property
    def name(self) -> str:
        """Of the resource."""

    def shown(self) -> tuple[int, Edges] | None:
        """Its rows and a number for `seen`; None: nothing is shown of it, or nothing yet."""

    def seen(self, scraper: str, number: int) -> None:
        """`scraper` has got all of it."""


class PairRows:
    """exposition.RowSource. One call at a time."""

    def __init__(self, monitors: Callable[[], Iterable[Shown]]) -> None:
        self._monitors = monitors
        self._words: dict[Labels, tuple[str, ...]] = {}

    def __call__(self, scraper: str, wanted: frozenset[str]) -> Rows:
        """`wanted`: names of monitors; none: all of them."""
        found = [
            (monitor, *shown)
            for monitor in self._monitors()
            if (not wanted or monitor.name in wanted) and (shown := monitor.shown()) is not None
        ]
        former, self._words = self._words, {}
        pairs = [self._columns(monitor.name, edges, former) for monitor, _, edges in found]
        return Rows(pairs, sent=partial(_sent, [(monitor, number) for monitor, number, _ in found], scraper))

    def _columns(self, monitor: str, edges: Edges, former: Mapping[Labels, tuple[str, ...]]) -> PairColumns:
        for labels in edges.labels:
            self._words[labels] = former.get(labels) or _words(labels)
        return PairColumns(
            monitor,
            [self._words[labels] for labels in edges.labels],
            edges.counts[MEASURED],
            {"uncompared": _wherever(edges, lambda labels: {labels.src_kind, labels.dst_kind}.isdisjoint(_NO_PODS))},
        )


def _wherever(edges: Edges, holds: Callable[[Labels], bool]) -> NDArray[np.bool_]:
    """Every reason of the rows that can have any: a series is there from its row's birth on, or never."""
    rows = np.fromiter(map(holds, edges.labels), np.bool_, len(edges.labels))
    return np.broadcast_to(rows[:, np.newaxis], (len(rows), np.iinfo(np.uint8).max))


def _words(labels: Labels) -> tuple[str, ...]:
    return (
        *labels[:7],
        str(labels.server_port),
        protocol_name(labels.protocol) if labels.protocol else "",
        DIRECTION[labels.direction],
        LOCALITY[labels.locality],
    )


def _sent(shown: Iterable[tuple[Shown, int]], scraper: str) -> None:
    for monitor, number in shown:
        monitor.seen(scraper, number)
