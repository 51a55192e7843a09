from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podwire_agent.core.table import FLOW_ROW, IDENTITY_WORDS, REPORT, FlowTable, WordHash, Words, convert, hash_words
from podwire_agent.layout import FLOW_KEY, FLOW_STATS, FlowDirection
from podwire_agent.model import Records, Traffic

pytestmark = pytest.mark.unit

FROM_POD, TO_POD = FlowDirection
HUGE = 2**63

Flow = tuple[int, int]
"""(source port, ifindex): enough to tell the flows of a test apart."""


def keys_of(flows: Iterable[Flow]) -> Records:
    flows = list(flows)
    keys = np.zeros(len(flows), FLOW_KEY)
    keys["src_port"] = [port for port, _ in flows]
    keys["ifindex"] = [ifindex for _, ifindex in flows]
    keys["src_address"][:, 12:] = [10, 0, 0, 1]
    return keys


def stats_of(counts: Iterable[tuple[int, int]], mono_ns: int = 1) -> Records:
    counts = list(counts)
    stats = np.zeros(len(counts), FLOW_STATS)
    stats["packets"] = [packets for packets, _ in counts]
    stats["bytes"] = [length for _, length in counts]
    stats["first_mono_ns"] = stats["last_mono_ns"] = mono_ns
    return stats


def flows_of(records: Records) -> list[tuple[FlowDirection, Flow]]:
    return [
        (FlowDirection(int(record["direction"])), (int(record["key"]["src_port"]), int(record["key"]["ifindex"])))
        for record in records
    ]


def traffic_of(records: Records) -> list[tuple[int, int]]:
    return list(zip(records["packets"].tolist(), records["bytes"].tolist(), strict=True))


def report_of(table: FlowTable) -> Records:
    table.offer()
    report = table.offered()
    table.confirm()
    return report


def weak_for(seeds: int, values: int) -> WordHash:
    """Only so many different hashes under the first seeds, whatever the flows."""

    def word_hash(words: Words, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        hashes = hash_words(words, seed)
        return hashes % np.uint64(values) if seed < seeds else hashes

    return word_hash


class WhatGoesInComesOut(RuleBasedStateMachine):
    """Any order of the table's operations against plain sums, with flows whose hashes collide."""

    def __init__(self) -> None:
        super().__init__()
        self.table = FlowTable(limit=6, seed=0, word_hash=weak_for(3, 5))
        self.folded: Counter[tuple[FlowDirection, Flow, str]] = Counter()
        self.arrived: Counter[tuple[FlowDirection, Flow, str]] = Counter()
        self.discarded = Traffic()
        self.offer: Records | None = None
        self.now = 1

    @rule(
        direction=st.sampled_from(FlowDirection),
        records=st.lists(
            st.tuples(
                st.tuples(st.integers(0, 4), st.integers(1, 3)), st.tuples(st.integers(1, 2**53), st.integers(1, 2**55))
            )
        ),
    )
    def fold(self, direction: FlowDirection, records: list[tuple[Flow, tuple[int, int]]]) -> None:
        self.now += 1
        self.table.fold(
            direction, keys_of(flow for flow, _ in records), stats_of((count for _, count in records), self.now)
        )
        for flow, (packets, length) in records:
            self.folded[direction, flow, "packets"] += packets
            self.folded[direction, flow, "bytes"] += length

    @precondition(lambda self: self.offer is None)
    @rule()
    def make_offer(self) -> None:
        count = self.table.offer()
        self.offer = self.table.offered()
        assert len(self.offer) == count

    @precondition(lambda self: self.offer is not None)
    @rule()
    def confirm(self) -> None:
        assert self.offer is not None
        for (direction, flow), (packets, length) in zip(flows_of(self.offer), traffic_of(self.offer), strict=True):
            assert packets > 0
            self.arrived[direction, flow, "packets"] += packets
            self.arrived[direction, flow, "bytes"] += length
        self.table.confirm()
        self.offer = None

    @rule(weak=st.booleans())
    def restart(self, weak: bool) -> None:
        self.table = FlowTable.restore(
            self.table.rows(), limit=6, seed=0 if weak else 99, word_hash=weak_for(3, 5) if weak else hash_words
        )

    @rule(idle_ns=st.integers(0, 3))
    def expire(self, idle_ns: int) -> None:
        before = len(self.table)
        assert self.table.expire(self.now, idle_ns) == before - len(self.table)

    @rule()
    def evict(self) -> None:
        before = len(self.table)
        assert self.table.evict() == before - len(self.table)
        assert len(self.table) >= min(before, 6)

    @rule()
    def discard(self) -> None:
        self.discarded += self.table.discard()

    @invariant()
    def an_offer_stays_as_it_was_given(self) -> None:
        given = self.table.offered()
        if self.offer is None:
            assert not len(given)
        else:
            assert flows_of(given) == flows_of(self.offer)
            assert traffic_of(given) == traffic_of(self.offer)

    @invariant()
    def every_count_is_pending_arrived_or_discarded(self) -> None:
        rest = FlowTable.restore(self.table.rows(), limit=6, seed=5)
        rest.confirm()
        later = report_of(rest)
        now = self.table.offered()
        for name in ("packets", "bytes"):
            arrived = sum(count for (_, _, which), count in self.arrived.items() if which == name)
            pending = int(now[name].sum(dtype=np.uint64)) + int(later[name].sum(dtype=np.uint64))
            assert arrived + pending + getattr(self.discarded, name) == sum(
                count for (_, _, which), count in self.folded.items() if which == name
            )

    def teardown(self) -> None:
        """Once all is handed on, each flow has what was folded into it."""
        if self.offer is not None:
            self.confirm()
        self.make_offer()
        self.confirm()
        if self.discarded == Traffic():
            assert self.arrived == self.folded
        else:
            assert self.arrived <= self.folded


WhatGoesInComesOut.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestWhatGoesInComesOut = WhatGoesInComesOut.TestCase


def test_counts_near_the_end_of_64_bits_are_exact() -> None:
    table = FlowTable(limit=10, seed=1)
    flow = keys_of([(1, 1)])
    table.fold(FROM_POD, flow, stats_of([(HUGE - 3, HUGE + 1)]))
    first = report_of(table)
    table.fold(FROM_POD, flow, stats_of([(7, HUGE - 2)]))
    second = report_of(table)

    assert traffic_of(first) == [(HUGE - 3, HUGE + 1)]
    assert traffic_of(second) == [(7, HUGE - 2)]


def test_a_key_that_comes_twice_is_one_flow() -> None:
    table = FlowTable(limit=10, seed=1)
    table.fold(FROM_POD, keys_of([(1, 1), (2, 1), (1, 1)]), stats_of([(1, 10), (2, 20), (4, 40)]))

    report = report_of(table)

    assert flows_of(report) == [(FROM_POD, (1, 1)), (FROM_POD, (2, 1))]
    assert traffic_of(report) == [(5, 50), (2, 20)]


def test_flows_that_come_again_and_again_keep_the_order_in_which_they_first_came() -> None:
    flows = [(port, 1) for port in range(3000, 1000, -1)]
    table = FlowTable(limit=10_000, seed=1)
    table.fold(FROM_POD, keys_of(flows * 3), stats_of([(1, 1), (2, 2)] * 3000))

    report = report_of(table)

    assert flows_of(report) == [(FROM_POD, flow) for flow in flows]
    assert traffic_of(report) == [(3, 3), (6, 6)] * 1000


def test_the_two_directions_of_a_key_are_two_flows() -> None:
    table = FlowTable(limit=10, seed=1)
    for direction, count in ((FROM_POD, (1, 10)), (TO_POD, (2, 20))):
        table.fold(direction, keys_of([(1, 1)]), stats_of([count]))

    report = report_of(table)

    assert list(zip(flows_of(report), traffic_of(report), strict=True)) == [
        ((FROM_POD, (1, 1)), (1, 10)),
        ((TO_POD, (1, 1)), (2, 20)),
    ]


def test_every_byte_of_a_key_is_kept_and_tells_flows_apart() -> None:
    keys = np.zeros(FLOW_KEY.itemsize + 1, FLOW_KEY)
    keys.view(np.uint8).reshape(len(keys), FLOW_KEY.itemsize)[:-1] = np.eye(FLOW_KEY.itemsize, dtype=np.uint8)
    table = FlowTable(limit=100, seed=1)
    table.fold(FROM_POD, keys[:20], stats_of([(1, 1)] * 20))
    table.fold(FROM_POD, keys, stats_of([(1, 1)] * len(keys)))

    report = report_of(table)

    assert report["key"].tobytes() == keys.tobytes()
    assert report["packets"].tolist() == [2] * 20 + [1] * (len(keys) - 20)


def test_a_flow_keeps_its_first_time_its_latest_and_every_flag_once_seen() -> None:
    table = FlowTable(limit=10, seed=1)
    flags = ("seen_syn", "seen_syn_ack", "seen_fin", "seen_rst", "estimated")
    for mono_ns, flag in zip((50, 40, 70, 60, 55), flags, strict=True):
        stats = stats_of([(1, 1)], mono_ns)
        stats[flag] = 1
        table.fold(FROM_POD, keys_of([(1, 1)]), stats)

    report = report_of(table)

    assert (report["first_mono_ns"].item(), report["last_mono_ns"].item()) == (40, 70)
    assert [report[flag].item() for flag in flags] == [1] * 5


@given(st.integers(0, 2**64), st.integers(0, 2**64))
def test_the_same_epochs_give_the_same_report_under_any_seed(one: int, other: int) -> None:
    flows = [(port, ifindex) for ifindex in (3, 1, 2) for port in (9, 4, 7)]
    reports = []
    for seed in (one, other):
        table = FlowTable(limit=10, seed=seed)
        table.fold(TO_POD, keys_of(flows[2:5]), stats_of([(1, 1)] * 3))
        table = FlowTable.restore(table.rows(), limit=10, seed=seed + 1)
        table.fold(TO_POD, keys_of(flows), stats_of([(1, 1)] * 9))
        reports.append(report_of(table))

    assert reports[0].tobytes() == reports[1].tobytes()
    assert flows_of(reports[0])[:3] == [(TO_POD, flow) for flow in flows[2:5]]


def test_collisions_among_new_flows_between_new_and_old_and_under_several_seeds_are_told_apart() -> None:
    table = FlowTable(limit=1000, seed=0, word_hash=weak_for(20, 64))
    for begin in range(0, 300, 30):
        flows = [(port, 1) for port in range(begin, begin + 60)]
        table.fold(FROM_POD, keys_of(flows), stats_of((port, 1) for port, _ in flows))

    report = report_of(table)

    assert flows_of(report) == [(FROM_POD, (port, 1)) for port in range(330)]
    assert report["packets"].tolist() == [port * (1 if port < 30 or port >= 300 else 2) for port in range(330)]


def test_no_pair_of_flows_collides_under_every_seed() -> None:
    """The top bit of one word and what it becomes in the next: a multiplication keeps it whatever the factor."""
    words = np.zeros((4, IDENTITY_WORDS), np.uint32)
    words[1:3, 0] = 2**31
    words[2:4, 1] = 2**31
    collisions = [len(np.unique(hash_words(words, seed))) < len(words) for seed in range(200)]

    assert not any(collisions)


def test_what_is_dropped_is_what_is_reported_and_idle_longest() -> None:
    table = FlowTable(limit=2, seed=1)
    for port in (1, 2, 3, 4):
        table.fold(FROM_POD, keys_of([(port, 1)]), stats_of([(1, 1)], mono_ns=100 - port))
    report_of(table)
    table.fold(FROM_POD, keys_of([(4, 1)]), stats_of([(1, 1)], mono_ns=90))

    assert table.over_limit()
    assert table.evict() == 2
    assert [flow for _, flow in flows_of(table.rows())] == [(1, 1), (4, 1)]
    assert table.evicted == 2


def test_a_table_full_of_unreported_flows_drops_none_and_says_that_it_is_too_full() -> None:
    table = FlowTable(limit=2, seed=1)
    table.fold(FROM_POD, keys_of([(port, 1) for port in range(5)]), stats_of([(1, 1)] * 5))

    assert table.evict() == 0
    assert table.expire(now_mono_ns=10**18, idle_ns=0) == 0
    assert table.over_limit()
    assert len(report_of(table)) == 5


def test_nothing_is_idle_on_a_machine_that_runs_for_less_than_the_idle_time() -> None:
    table = FlowTable(limit=2, seed=1)
    table.fold(FROM_POD, keys_of([(1, 1)]), stats_of([(1, 1)], mono_ns=5))
    report_of(table)

    assert table.expire(now_mono_ns=10, idle_ns=100) == 0


def test_rows_of_an_older_layout_are_taken_over_by_name() -> None:
    table = FlowTable(limit=10, seed=1)
    table.fold(TO_POD, keys_of([(80, 7)]), stats_of([(3, 300)], mono_ns=11))
    older_key = np.dtype([("zero", "u1", (2,)), ("ifindex", "<u4"), ("src_port", ">u2"), ("src_address", "u1", (16,))])
    older = np.dtype(
        [("packets", "u4"), ("dropped_since", "u8"), ("key", older_key), ("direction", "u1"), ("bytes", "u8")]
    )

    restored = report_of(FlowTable.restore(convert(table.rows(), older), limit=10, seed=2))

    assert flows_of(restored) == [(TO_POD, (80, 7))]
    assert traffic_of(restored) == [(3, 300)]
    assert restored["key"]["src_address"].tolist() == [[0] * 12 + [10, 0, 0, 1]]
    assert restored["key"]["dst_address"].tolist() == [[0] * 16]
    assert restored["last_mono_ns"].tolist() == [0]


def test_flows_that_an_older_layout_cannot_tell_apart_are_added_up() -> None:
    table = FlowTable(limit=10, seed=1)
    table.fold(FROM_POD, keys_of([(80, 7), (81, 7)]), stats_of([(3, 300), (4, 400)]))
    older = np.dtype([("key", [("ifindex", "<u4")]), ("packets", "u8"), ("bytes", "u8")])

    assert traffic_of(report_of(FlowTable.restore(convert(table.rows(), older), limit=10, seed=2))) == [(7, 700)]


def test_of_a_list_that_grew_the_common_part_is_taken_over() -> None:
    cell = [("packets", "u8"), ("bytes", "u8")]
    older = np.zeros(2, [("cells", cell, (2,)), ("name", "S4")])
    older["cells"]["bytes"] = [[1, 2], [3, 4]]
    older["name"] = b"eth0"

    newer = convert(older, np.dtype([("name", "S8"), ("cells", [("errors", "u8"), *cell], (3,))]))

    assert newer["cells"]["bytes"].tolist() == [[1, 2, 0], [3, 4, 0]]
    assert newer["cells"]["errors"].sum() == 0
    assert newer["name"].tolist() == [b"eth0"] * 2


@pytest.mark.parametrize("dtype", [REPORT, FLOW_ROW], ids=["a flow in a report", "a flow in the table"])
def test_a_record_has_no_unnamed_padding_and_aligned_counters(dtype: np.dtype[np.void]) -> None:
    fields = [(name, *dtype.fields[name][:2]) for name in dtype.names or ()] if dtype.fields else []
    assert sum(field.itemsize for _, field, _ in fields) == dtype.itemsize
    assert [name for name, field, offset in fields if field == np.uint64 and offset % 8] == []
    assert dtype.itemsize % 8 == 0


def test_an_empty_epoch_changes_nothing() -> None:
    table = FlowTable(limit=10, seed=1)
    table.fold(FROM_POD, keys_of([]), stats_of([]))

    assert len(table) == table.offer() == len(table.offered()) == table.evict() == table.expire(10, 1) == 0
    assert len(FlowTable.restore(table.rows(), limit=10, seed=1)) == 0


def test_a_fold_tells_what_came_with_the_flags_of_the_whole_flow() -> None:
    table = FlowTable(limit=10, seed=1)
    opening = stats_of([(1, 60)], mono_ns=100)
    opening["seen_syn"] = 1
    table.fold(FROM_POD, keys_of([(1, 7)]), opening)
    came = table.fold(
        FROM_POD, keys_of([(1, 7), (2, 7), (1, 7)]), stats_of([(5, 500), (3, 300), (2, 200)], mono_ns=900)
    )
    told = dict(zip(flows_of(came), zip(traffic_of(came), came["seen_syn"].tolist(), strict=True), strict=True))
    assert told == {(FROM_POD, (1, 7)): ((7, 700), 1), (FROM_POD, (2, 7)): ((3, 300), 0)}
    assert set(came["first_mono_ns"].tolist()) == set(came["last_mono_ns"].tolist()) == {900}


def test_a_fold_of_nothing_tells_nothing() -> None:
    assert len(FlowTable(limit=10, seed=1).fold(TO_POD, keys_of([]), stats_of([]))) == 0
