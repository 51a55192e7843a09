"""When each direction's epoch ends.

At multiples of the polling period on the wall clock, so that the agents of two nodes cut at the same instants without
talking; TO_POD a little later, so that what left one end before its cut has reached the other before that one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from podwire_agent.layout import FlowDirection
from podwire_agent.model import MonitorUid

TO_POD_DELAY_NS = 100_000_000
"""How much later the second direction is cut: more than a packet's way and the clocks' difference."""


@dataclass(frozen=True, slots=True)
class Cut:
    """All monitors whose `direction` ends at one instant."""

    at_unix_ns: int
    direction: FlowDirection
    monitors: frozenset[MonitorUid]


def next_cut(now_unix_ns: int, periods_ns: Mapping[MonitorUid, int], last: Cut | None = None) -> Cut:
    """The cut that follows `last`. ValueError without monitors.

    So none is made twice, and none left out because the one before was a little late or at the same instant (FROM_POD
    goes first). Without `last`, and where the clock is more than half the shortest period off (a step, a stall): the
    first cut later than now.
    """
    if last is not None:
        following = _first_cut((last.at_unix_ns, last.direction), periods_ns)
        tolerance_ns = min(periods_ns.values()) // 2
        if last.at_unix_ns - tolerance_ns <= now_unix_ns <= following.at_unix_ns + tolerance_ns:
            return following
    return _first_cut((now_unix_ns, max(FlowDirection)), periods_ns)


def cut_number(at_unix_ns: int, period_ns: int) -> int:
    """Which of a monitor's cuts it is: the same on every node and for both directions.

    The difference of two that were made, less one, is how many were missed between them.
    """
    return at_unix_ns // period_ns


def _first_cut(after: tuple[int, FlowDirection], periods_ns: Mapping[MonitorUid, int]) -> Cut:
    """The first cut behind a place in the order of (instant, direction)."""
    candidates = [
        (_following(after, period_ns, direction), direction, uid)
        for uid, period_ns in periods_ns.items()
        for direction in FlowDirection
    ]
    at_unix_ns, direction, _ = min(candidates)
    return Cut(
        at_unix_ns, direction, frozenset(uid for at, which, uid in candidates if (at, which) == (at_unix_ns, direction))
    )


def _following(after: tuple[int, FlowDirection], period_ns: int, direction: FlowDirection) -> int:
    """The first k * period + delay of this direction."""
    after_unix_ns, after_direction = after
    earliest_ns = after_unix_ns + (direction <= after_direction)
    delay_ns = 0 if direction is FlowDirection.FROM_POD else min(TO_POD_DELAY_NS, period_ns // 2)
    return -((delay_ns - earliest_ns) // period_ns) * period_ns + delay_ns
