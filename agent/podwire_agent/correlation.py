"""What one monitor's flows become: who talks to whom, row by row. Saved and restored with the monitor's books."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from podwire_agent.comparison import Comparison, Here
from podwire_agent.core.between_pods import between_pods
from podwire_agent.core.books import Came
from podwire_agent.core.correlate import correlate, ends_of
from podwire_agent.core.pull import PullView, Scrapers
from podwire_agent.core.questions import Covers, Translations, Vantage
from podwire_agent.core.rows import RowTable
from podwire_agent.core.table import REPORT
from podwire_agent.core.talk import Talk
from podwire_agent.core.world import World
from podwire_agent.model import Edges, Entity, Records
from podwire_agent.ports import Clock


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known at one moment of who is behind the flows."""

    world: World
    translations: Translations
    covers: Covers
    vantage: Vantage


@dataclass(frozen=True, slots=True)
class RowsState:
    """What a monitor's rows, and the comparison of both ends, take. `*_total` begins anew with an edit."""

    rows: int
    turned_away_total: int
    """Groups of flows that went to `other` for want of room."""
    compared_flows: Mapping[str, int]
    """Remembered to be compared: `sent`, `received`, and `stated` by other agents of what has not been seen here."""
    late_windows_total: int
    """Cuts that were not compared, since they came too late."""
    dropped_statements_total: int
    """Of other agents, for want of room."""
    given_up_packets_total: int
    """Handed over to another agent, which has not said that it counts them."""
    lost_lately: int | None
    """Packets, in the last five minutes; None: nothing was compared."""


class Correlation:
    """One thread at a time, the one that drains, but for `totals`, `shown`, `seen` and `state`."""

    def __init__(
        self,
        look: Callable[[], Sight],
        max_rows: int,
        clock: Clock,
        comparison: Comparison,
        *,
        pulled: bool = False,
    ) -> None:
        """`look` is asked once a drain. `pulled`: rows are shown to whoever comes for them."""
        self.comparison = comparison
        self._look = look
        self._max_rows = max_rows
        self._clock = clock
        self._rows = RowTable(max_rows, clock.mono_ns(), clock.unix_ns())
        self._view = PullView(Scrapers()) if pulled else None
        self._adding = threading.Lock()

    def restore(self, sections: Mapping[str, Any]) -> None:
        """Go on from what `sections` gave; from nothing where a former agent kept no rows.

        LookupError, TypeError, ValueError.
        """
        if "rows" in sections:
            self._rows = RowTable.restore(sections, self._max_rows)
        if self._view is not None:
            self._view.scrapers = Scrapers.restore(sections.get("scrapers", ()))
        self.comparison.restore(sections)

    def sections(self) -> dict[str, Any]:
        """A copy of everything, for a checkpoint."""
        with self._adding:
            scrapers = {} if self._view is None else {"scrapers": self._view.scrapers.section()}
        return self._rows.sections() | scrapers | self.comparison.sections()

    def saved(self) -> None:
        """What `sections` gave is in a checkpoint."""
        if self._view is not None:
            with self._adding:
                self._view.show(*self._rows.shown())
        self.comparison.saved()

    def shown(self) -> tuple[int, Edges] | None:
        """What whoever pulls sees, and a number for `seen`. From any thread. None: nothing, or nothing yet."""
        with self._adding:
            return None if self._view is None else self._view.view()

    def seen(self, scraper: str, number: int) -> None:
        """`scraper`, an address, has got all that `shown` gave with the number. From any thread."""
        with self._adding:
            if self._view is not None:
                self._view.seen(scraper, number, self._clock.mono_ns())

    def enter(self, came: Sequence[Came], here: Here) -> None:
        """A drain: what was folded in it, and how this node is after its cuts."""
        now_mono_ns, now_unix_ns = self._clock.mono_ns(), self._clock.unix_ns()
        sight = self._look()
        found = [(each, self._ends(each, sight)) for each in came]
        counted = [(ends, each.flows) for each, ends in found if each.in_flows and len(ends)]
        compared = self.comparison.settle(here)
        if len(compared):
            counted.append((correlate(_as_report(compared, now_mono_ns), *_asked(sight)), compared))
        with self._adding:
            self._rows.turn(now_mono_ns, None if self._view is None else self._view.scrapers.seen(now_mono_ns))
            for ends, counts in counted:
                self._rows.add(ends, counts, sight.world, now_mono_ns, now_unix_ns)

    def offer(self) -> int:
        """Put every row's unreported counts into a report, until confirm(); how many rows it has."""
        return self._rows.offer()

    def confirm(self) -> None:
        """The report under way has arrived."""
        self._rows.confirm()

    def offered(self, sequence: int) -> Edges:
        """The rows of the report under way; `sequence`: of the first."""
        return self._rows.offered(sequence)

    def totals(self) -> Edges:
        """Every row since it began. From any thread."""
        with self._adding:
            return self._rows.totals()

    def ends(self, flows: Records) -> tuple[Records, Sequence[Entity]]:
        """core.correlate.ENDS of core.table.REPORT, as far as they are known now; and what they count by."""
        sight = self._look()
        return correlate(flows, *_asked(sight)), sight.world.entities

    def state(self) -> RowsState:
        """Figures for metrics and status. From any thread."""
        compared = self.comparison.state()
        return RowsState(
            rows=len(self._rows),
            turned_away_total=self._rows.turned_away,
            compared_flows={
                "sent": compared.sent_flows,
                "received": compared.received_flows,
                "stated": compared.held_flows,
            },
            late_windows_total=compared.skipped_windows_total,
            dropped_statements_total=compared.dropped_statements_total,
            given_up_packets_total=compared.given_up_packets_total,
            lost_lately=self.comparison.lost_lately(),
        )

    def _ends(self, came: Came, sight: Sight) -> Records:
        """And have the comparison know of them."""
        talk = Talk.of(came.flows, sight.translations)
        ends = ends_of(talk, came.flows, sight.world, sight.covers, sight.vantage)
        if came.epoch is not None:
            host = sight.vantage.on_host(np.ascontiguousarray(came.flows["key"]["ifindex"]))
            between = between_pods(talk, ends, host, sight.world)
            self.comparison.enter(came.epoch, came.flows, between, sight.world, came.cut)
        return ends


def _asked(sight: Sight) -> tuple[World, Translations, Covers, Vantage]:
    return sight.world, sight.translations, sight.covers, sight.vantage


def _as_report(compared: Records, now_mono_ns: int) -> Records:
    """core.surroundings.LOSS as flows of this moment, without packets of their own."""
    flows = np.zeros(len(compared), REPORT)
    flows["key"], flows["direction"] = compared["key"], compared["direction"]
    flows["first_mono_ns"] = flows["last_mono_ns"] = now_mono_ns
    return flows
