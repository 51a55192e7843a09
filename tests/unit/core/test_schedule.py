from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire_agent.core.schedule import TO_POD_DELAY_NS, Cut, cut_number, next_cut
from podwire_agent.layout import FlowDirection
from podwire_agent.model import MonitorUid

pytestmark = pytest.mark.unit

FROM_POD, TO_POD = FlowDirection
S = 1_000_000_000
A, B = MonitorUid("a"), MonitorUid("b")

PERIODS = st.dictionaries(
    st.sampled_from([MonitorUid(uid) for uid in "abcdefgh"]),
    st.sampled_from([S // 5, S, S + S // 10, 3 * S // 2, 5 * S, 7 * S]) | st.integers(S, 60 * S),
    min_size=1,
)
INSTANTS = st.integers(0, 2**62)

Instant = tuple[int, FlowDirection, frozenset[MonitorUid]]


def delay_ns(direction: FlowDirection, period_ns: int) -> int:
    return min(TO_POD_DELAY_NS, period_ns // 2) * (direction is TO_POD)


def all_cuts(begin: int, end: int, periods: dict[MonitorUid, int]) -> list[Instant]:
    """Every cut in (begin, end], by counting k for each monitor."""
    found: dict[tuple[int, FlowDirection], set[MonitorUid]] = {}
    for uid, period in periods.items():
        for direction in FlowDirection:
            for k in range(begin // period - 1, end // period + 1):
                at = k * period + delay_ns(direction, period)
                if begin < at <= end:
                    found.setdefault((at, direction), set()).add(uid)
    return [(at, direction, frozenset(found[at, direction])) for at, direction in sorted(found)]


def instant(cut: Cut) -> Instant:
    return cut.at_unix_ns, cut.direction, cut.monitors


@given(INSTANTS, PERIODS, st.data())
def test_a_caller_a_little_early_or_late_makes_every_cut_once_in_order(
    begin: int, periods: dict[MonitorUid, int], data: st.DataObject
) -> None:
    end = begin + 5 * min(periods.values())
    slack = min(periods.values()) // 2
    made: list[Instant] = []
    cut = next_cut(begin, periods)
    while cut.at_unix_ns <= end:
        made.append(instant(cut))
        now = cut.at_unix_ns + data.draw(st.integers(-slack, slack))
        cut = next_cut(now, periods, cut)

    assert made == all_cuts(begin, end, periods)


@given(INSTANTS, INSTANTS, PERIODS)
def test_after_a_step_of_the_clock_or_a_stall_the_next_cut_is_the_first_in_the_future(
    begin: int, now: int, periods: dict[MonitorUid, int]
) -> None:
    last = next_cut(begin, periods)
    longest = 2 * max(periods.values())
    if abs(now - last.at_unix_ns) <= longest:
        now += 2 * longest

    cut = next_cut(now, periods, last)

    assert instant(cut) == all_cuts(now, cut.at_unix_ns, periods)[0]


@pytest.mark.parametrize(
    ("now", "periods", "expected"),
    [
        pytest.param(10 * S, {A: S}, (10 * S + S // 10, TO_POD, {A}), id="TO_POD follows FROM_POD by 100 ms"),
        pytest.param(10 * S - 1, {A: S}, (10 * S, FROM_POD, {A}), id="a multiple of the period on the wall clock"),
        pytest.param(
            10 * S - 1, {A: S, B: 5 * S}, (10 * S, FROM_POD, {A, B}), id="monitors that meet are cut together"
        ),
        pytest.param(11 * S - 1, {A: S, B: 5 * S}, (11 * S, FROM_POD, {A}), id="a longer period is not cut in between"),
        pytest.param(S, {A: S // 10}, (S + S // 20, TO_POD, {A}), id="of a short period the delay is half"),
    ],
)
def test_the_first_cut(
    now: int, periods: dict[MonitorUid, int], expected: tuple[int, FlowDirection, set[MonitorUid]]
) -> None:
    at, direction, monitors = expected

    assert next_cut(now, periods) == Cut(at, direction, frozenset(monitors))


def test_two_directions_that_fall_on_one_instant_are_two_cuts_the_senders_first() -> None:
    periods = {A: S, B: S + S // 10}  # at 1.1 s: A's TO_POD, B's FROM_POD
    meeting = S + S // 10

    first = next_cut(meeting - 1, periods)
    second = next_cut(meeting + 1, periods, first)

    assert first == Cut(meeting, FROM_POD, frozenset({B}))
    assert second == Cut(meeting, TO_POD, frozenset({A}))


def test_both_directions_of_a_cut_have_one_number_and_a_stall_leaves_a_gap_in_them() -> None:
    sender = next_cut(10 * S - 1, {A: S})
    receiver = next_cut(sender.at_unix_ns, {A: S}, sender)
    after_stall = next_cut(14 * S + S // 2, {A: S}, receiver)

    numbers = [cut_number(cut.at_unix_ns, S) for cut in (sender, receiver, after_stall)]

    assert numbers == [10, 10, 15]
    assert numbers[2] - numbers[1] - 1 == 4


def test_without_monitors_there_is_no_cut() -> None:
    with pytest.raises(ValueError, match="empty"):
        next_cut(0, {})
