"""What the books take in comes out again, whatever happens in between; and nothing is lost by writing them down."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire_agent.core.books import CAUSES_KEPT, FORMER_RULES, HELD_PART, NEVER, Books, Offer
from podwire_agent.core.judge import Judge
from podwire_agent.core.rule_entries import RuleCompiler
from podwire_agent.core.rules import End, Pod, Rule, Rules, View
from podwire_agent.core.totals import Accounts
from podwire_agent.layout import FLOW_KEY, FLOW_STATS, LEDGER, FlowDirection
from podwire_agent.model import Buffers, Cause, IfIndex, Ledger, Records, RuleListName, Seen, Traffic

FROM_POD, TO_POD = FlowDirection
ETH0, ETH1 = IfIndex(7), IfIndex(8)


def records(*counts: tuple[IfIndex, int]) -> tuple[Records, Records]:
    """One flow an entry: the interface, packets; a hundred bytes a packet."""
    keys, stats = np.zeros(len(counts), FLOW_KEY), np.zeros(len(counts), FLOW_STATS)
    keys["ifindex"], stats["packets"] = [index for index, _ in counts], [packets for _, packets in counts]
    keys["src_port"] = np.arange(len(counts))
    stats["bytes"] = stats["packets"] * 100
    return keys, stats


def ledger(index: IfIndex, direction: FlowDirection, packets: int) -> Ledger:
    traffic = Traffic(packets, packets * 100)
    return Ledger("eth0", index, direction, Seen(seen=traffic), traffic, None, (Buffers(), Buffers()), gone=True)


def written_down_and_read(books: Books) -> Books:
    """Through what a checkpoint can hold."""
    sections: dict[str, Any] = books.sections()
    arrays = {name: sections.pop(name) for name in ("flows", "held")}
    return Books.restore({**json.loads(json.dumps(sections)), **arrays}, books.flows.limit, seed=9)


def held(*counts: tuple[IfIndex, int], first_mono_ns: int = 0) -> tuple[Records, Records]:
    """As records, of interfaces that nobody knows yet."""
    keys, stats = records(*counts)
    stats["unjudged"], stats["first_mono_ns"] = 1, first_mono_ns
    return keys, stats


def judging(**namespaces: str | None) -> Judge:
    """Whose the interfaces are; what is in the namespace `quiet` is filtered."""
    pods = {
        IfIndex(int(name[3:])): None if namespace is None else Pod(namespace, {}, ())
        for name, namespace in namespaces.items()
    }
    compiler, view = RuleCompiler(Rules((Rule("hush", End(namespaces=frozenset({"quiet"}))),))), View(interfaces=pods)
    entries = compiler.compile(view)
    assert entries is not None
    return Judge(compiler, view, entries)


HUSHED = Cause(RuleListName.BLACKLIST, "hush")


def unreported(books: Books) -> int:
    books.flows.offer()
    return int(books.flows.offered()["packets"].sum())


folds = st.lists(
    st.tuples(
        st.sampled_from(FlowDirection), st.lists(st.tuples(st.sampled_from([ETH0, ETH1]), st.integers(1, 2**40)))
    ),
    max_size=8,
)


@given(epochs=folds, cut=st.integers(0, 8), waits=st.sets(st.integers(0, 8)))
def test_what_is_entered_is_counted_once_by_flow_and_by_interface_also_over_a_crash(
    epochs: list[tuple[FlowDirection, list[tuple[IfIndex, int]]]], cut: int, waits: set[int]
) -> None:
    books = Books(limit=100, seed=1)
    expected = dict.fromkeys(((index, direction) for index in (ETH0, ETH1) for direction in FlowDirection), 0)
    for number, (direction, counts) in enumerate(epochs):
        if number == cut:
            books = written_down_and_read(books)
        books.fold(direction, number, *(held if number in waits else records)(*counts))
        for index, packets in counts:
            expected[index, direction] += packets

    books = written_down_and_read(books)

    assert {account: books.counted(account)[0].packets for account in expected} == expected
    tables = (books.flows.rows(), books.held.rows())
    assert sum(int(rows["packets"].sum(dtype=np.uint64)) for rows in tables) == sum(expected.values())


def test_the_last_epoch_of_each_direction_survives() -> None:
    books = Books(limit=10, seed=1)
    books.fold(FROM_POD, 4, *records((ETH0, 1)))

    books = written_down_and_read(books)

    assert (books.last_epoch(FROM_POD), books.last_epoch(TO_POD)) == (4, NEVER)


def test_a_report_under_way_is_the_same_after_a_crash() -> None:
    books = Books(limit=10, seed=1)
    books.fold(FROM_POD, 0, *records((ETH0, 3), (ETH1, 5)))
    books.offer = Offer(0, 11, 22)
    books.sequence += books.flows.offer()
    books.fold(FROM_POD, 1, *records((ETH0, 100)))

    again = written_down_and_read(books)

    assert again.offer == Offer(0, 11, 22)
    assert again.sequence == 2
    assert again.flows.offered()["packets"].tolist() == [3, 5]


def test_what_rules_filtered_is_entered_once_by_edition_also_over_a_crash() -> None:
    first, none = Cause(RuleListName.BLACKLIST, "first"), Cause(RuleListName.WHITELIST, "")
    books = Books(limit=10, seed=1)
    books.fold_filtered(1, {first: Traffic(3, 300), none: Traffic(1, 100)})
    books = written_down_and_read(books)
    books.fold_filtered(1, {first: Traffic(3, 300)})
    books.fold_filtered(4, {first: Traffic(2, 200)})
    assert books.filtered == {first: Traffic(5, 500), none: Traffic(1, 100)}
    assert books.last_edition() == 4
    books.fold_filtered(1, {first: Traffic(1, 100)}, "another layout")
    books.fold_filtered(1, {first: Traffic(1, 100)}, "another layout")
    assert books.filtered[first] == Traffic(6, 600)
    books.forget_layout("another layout")
    assert books.last_edition("another layout") == 0


def test_rules_beyond_the_bound_are_added_up_without_a_name() -> None:
    books = Books(limit=10, seed=1)
    for number in range(CAUSES_KEPT + 5):
        books.fold_filtered(number + 1, {Cause(RuleListName.BLACKLIST, f"rule-{number}"): Traffic(1, 100)})
    assert len(books.filtered) == CAUSES_KEPT + 1
    assert books.filtered[FORMER_RULES] == Traffic(5, 500)


def test_a_checkpoint_of_before_there_were_rules_is_read() -> None:
    sections = Books(limit=10, seed=1).sections()
    del sections["rules"]
    assert Books.restore(sections, limit=10, seed=1).filtered == {}


def test_a_settled_interface_moves_to_the_totals_and_its_cells_are_remembered_until_they_are_gone() -> None:
    books = Books(limit=10, seed=1)
    books.fold(FROM_POD, 0, *records((ETH0, 3), (ETH1, 5)))

    books.settle([ledger(ETH0, FROM_POD, 3)], {ETH0: 1234})
    books = written_down_and_read(books)

    assert books.settled[FROM_POD].counted == Traffic(3, 300)
    assert books.leaving == {ETH0: 1234}
    assert [books.counted((index, FROM_POD))[0] for index in (ETH0, ETH1)] == [Traffic(), Traffic(5, 500)]


def test_cells_of_a_former_layout_are_carried_beside_ours_and_taken_in_once() -> None:
    other = np.dtype([("other", "u8"), *LEDGER.descr])
    cells = np.zeros(1, other)
    cells["other"], cells["seen"]["packets"], cells["buffers"] = 99, 40, 4
    ours = np.zeros(1, LEDGER)
    ours["seen"]["packets"], ours["buffers"] = 2, 1
    books = Books(limit=10, seed=1)

    books.absorb("0123", [(FROM_POD, *records((ETH0, 40)))], {(ETH0, FROM_POD): cells[0]})
    books = written_down_and_read(books)

    assert books.has_absorbed("0123")
    assert books.counted((ETH0, FROM_POD)) == (Traffic(40, 4000), Traffic())
    summed = books.cells((ETH0, FROM_POD), ours[0])
    assert (summed.seen.packets, summed.buffers.buffers) == (42, 5)
    books.forget_layout("0123")
    assert not written_down_and_read(books).has_absorbed("0123")


def test_sections_that_are_not_there_are_told_apart_from_others() -> None:
    with pytest.raises(LookupError):
        Books.restore({}, limit=10, seed=1)


def test_what_cannot_be_judged_waits_and_is_reported_or_filtered_once_it_can() -> None:
    books = Books(limit=100, seed=1)
    books.fold(FROM_POD, 0, *held((ETH0, 3), (ETH0, 4), (ETH1, 5)))
    books.fold(TO_POD, 0, *held((ETH1, 7)))
    assert books.decide(judging(), 0) == Traffic()
    assert unreported(books) == 0
    assert books.counted((ETH0, FROM_POD)) == (Traffic(7, 700), Traffic(7, 700))
    books = written_down_and_read(books)
    assert books.decide(judging(eth7="quiet"), 0) == Traffic()
    assert (unreported(books), len(books.held)) == (0, 2)
    assert books.counted((ETH0, FROM_POD)) == (Traffic(), Traffic())
    assert books.cells((ETH0, FROM_POD), np.zeros(1, LEDGER)[0]).filtered == Traffic(7, 700)
    assert books.filtered == {HUSHED: Traffic(7, 700)}
    books = written_down_and_read(books)
    assert books.decide(judging(eth7="quiet", eth8=None), 0) == Traffic()
    assert (unreported(books), len(books.held)) == (12, 0)
    assert books.counted((ETH1, FROM_POD)) == (Traffic(5, 500), Traffic())
    assert books.counted((ETH1, TO_POD)) == (Traffic(7, 700), Traffic())
    assert books.filtered == {HUSHED: Traffic(7, 700)}


def test_what_was_judged_late_joins_its_flow_and_leaves_the_report_under_way_as_it_is() -> None:
    books = Books(limit=100, seed=1)
    books.fold(FROM_POD, 0, *records((ETH0, 3)))
    books.sequence += books.flows.offer()
    books.fold(FROM_POD, 1, *held((ETH0, 4)))
    books.decide(judging(eth7="shop"), 0)
    books = written_down_and_read(books)
    assert books.flows.offered()["packets"].tolist() == [3]
    books.flows.confirm()
    assert books.flows.offer() == 1
    assert books.flows.offered()["packets"].tolist() == [4]


@pytest.mark.parametrize(
    ("judge", "how", "unjudged"),
    [
        pytest.param(judging(), {"first_mono_ns": 51}, 7, id="it has waited too long"),
        pytest.param(judging(), {"first_mono_ns": 50}, 0, id="it may wait a little longer"),
        pytest.param(judging(), {"first_mono_ns": 0, "gone": {ETH0}}, 7, id="its interface is gone"),
        pytest.param(judging(), {"first_mono_ns": 0, "gone": {ETH1}}, 0, id="another interface is gone"),
        pytest.param(judging(), {"first_mono_ns": 0, "all_of_it": True}, 7, id="nobody will know more"),
        pytest.param(None, {"first_mono_ns": 0}, 0, id="there are no rules any more"),
        pytest.param(
            judging(eth7="shop"), {"first_mono_ns": 51, "gone": {ETH0}, "all_of_it": True}, 0, id="it is known in time"
        ),
    ],
)
def test_what_cannot_wait_is_reported_and_told(judge: Judge | None, how: dict[str, Any], unjudged: int) -> None:
    books = Books(limit=100, seed=1)
    books.fold(FROM_POD, 0, *held((ETH0, 3), (ETH0, 4), first_mono_ns=50))
    assert books.decide(judge, **how) == Traffic(unjudged, 100 * unjudged)
    waits = not unjudged and judge is not None and not judge.decided(np.array([ETH0], np.uint32)).all()
    assert (unreported(books), len(books.held)) == ((0, 2) if waits else (7, 0))
    assert books.counted((ETH0, FROM_POD)) == (Traffic(7, 700), Traffic(7, 700) if waits else Traffic())


def test_a_pod_that_is_gone_by_the_time_it_is_known_is_judged_all_the_same() -> None:
    books = Books(limit=100, seed=1)
    books.fold(FROM_POD, 0, *held((ETH0, 3)))
    assert books.decide(judging(eth7="quiet"), 0, gone={ETH0}) == Traffic()
    assert (unreported(books), books.filtered) == (0, {HUSHED: Traffic(3, 300)})


def test_of_more_than_can_be_held_the_oldest_is_reported() -> None:
    books = Books(limit=3 * HELD_PART, seed=1)
    keys, stats = held(*((ETH0, packets) for packets in (1, 2, 4, 8, 16)))
    stats["first_mono_ns"] = [5, 3, 1, 2, 4]
    books.fold(FROM_POD, 0, keys, stats)
    assert books.decide(judging(), 0) == Traffic(12, 1200)
    assert sorted(books.held.rows()["packets"].tolist()) == [1, 2, 16]


def test_totals_of_what_is_counted_never_fall_when_it_is_filtered_later() -> None:
    books = Books(limit=100, seed=1)
    shown = []

    def show() -> None:
        counted, waiting = books.counted((ETH0, FROM_POD))
        of_ledger = Ledger("eth0", ETH0, FROM_POD, Seen(), counted, None, (Buffers(), Buffers()), held=waiting)
        shown.append(Accounts().plus(of_ledger).counted.packets)

    books.fold(FROM_POD, 0, *records((ETH0, 3)))
    show()
    books.fold(FROM_POD, 1, *held((ETH0, 4)))
    show()
    books.decide(judging(eth7="quiet"), 0)
    show()
    assert shown == [3, 3, 3]


def test_a_checkpoint_of_before_anything_was_held_is_read() -> None:
    sections = Books(limit=10, seed=1).sections()
    del sections["held"]
    assert len(Books.restore(sections, limit=10, seed=1).held) == 0
