from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire_agent.core.schedule import TO_POD_DELAY_NS
from podwire_agent.exchange.clocks import DELTA_NS, SAMPLES, ClockFilter, Sample, clock_fits

pytestmark = pytest.mark.unit

MS = 10**6


def sample(at: int, offset: int, there: int, answering: int, back: int) -> Sample:
    return Sample(at, at + there + offset, at + there + answering + offset, at + there + answering + back)


@given(
    st.integers(-(10**15), 10**15),
    st.lists(st.tuples(*[st.integers(0, 200 * MS)] * 3), min_size=1, max_size=40),
)
def test_the_truth_is_within_the_error(offset: int, ways: list[tuple[int, int, int]]) -> None:
    clocks = ClockFilter()
    at = 10**15
    estimate = None
    for there, answering, back in ways:
        clocks.add(sample(at, offset, there, answering, back))
        at += 5 * 10**9
        estimate = clocks.estimate(at)
        assert estimate is not None
        assert abs(estimate.offset_ns - offset) <= estimate.error_ns + 1
    assert estimate is not None
    assert estimate.delay_ns == min(there + back for there, _, back in ways[-SAMPLES:])


def test_a_clock_that_jumped_is_measured_anew() -> None:
    clocks = ClockFilter()
    clocks.add(sample(0, 0, MS, MS, MS))
    clocks.add(sample(5 * 10**9, 2 * 10**9, 3 * MS, MS, 3 * MS))
    estimate = clocks.estimate(5 * 10**9)
    assert estimate is not None
    assert estimate.offset_ns == 2 * 10**9


def test_nothing_is_known_before_the_first_answer() -> None:
    assert ClockFilter().estimate(0) is None


@pytest.mark.parametrize(
    ("offset_ms", "delay_ms", "fits"), [(0, 1, True), (99, 1, True), (100, 1, False), (-100, 1, False), (0, 101, False)]
)
def test_offset_and_delay_together_must_be_small(offset_ms: int, delay_ms: int, fits: bool) -> None:
    assert clock_fits(offset_ms * MS, delay_ms * MS) is fits


def test_what_arrives_is_cut_later_by_as_much_as_clocks_may_differ() -> None:
    assert DELTA_NS == TO_POD_DELAY_NS
