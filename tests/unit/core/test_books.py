"""What the books take in comes out again, whatever happens in between; and nothing is lost by writing them down."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire_agent.core.books import CAUSES_KEPT, FORMER_RULES, NEVER, Books, Offer
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
    flows = sections.pop("flows")
    return Books.restore({**json.loads(json.dumps(sections)), "flows": flows}, books.flows.limit, seed=9)


folds = st.lists(
    st.tuples(
        st.sampled_from(FlowDirection), st.lists(st.tuples(st.sampled_from([ETH0, ETH1]), st.integers(1, 2**40)))
    ),
    max_size=8,
)


@given(epochs=folds, cut=st.integers(0, 8))
def test_what_is_entered_is_counted_once_by_flow_and_by_interface_also_over_a_crash(
    epochs: list[tuple[FlowDirection, list[tuple[IfIndex, int]]]], cut: int
) -> None:
    books = Books(limit=100, seed=1)
    expected = dict.fromkeys(((index, direction) for index in (ETH0, ETH1) for direction in FlowDirection), 0)
    for number, (direction, counts) in enumerate(epochs):
        if number == cut:
            books = written_down_and_read(books)
        books.fold(direction, number, *records(*counts))
        for index, packets in counts:
            expected[index, direction] += packets

    books = written_down_and_read(books)

    assert {account: books.counted.get(account, Traffic()).packets for account in expected} == expected
    assert int(books.flows.rows()["packets"].sum(dtype=np.uint64)) == sum(expected.values())


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
    assert books.counted == {(ETH1, FROM_POD): Traffic(5, 500)}


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
    assert books.counted == {(ETH0, FROM_POD): Traffic(40, 4000)}
    summed = books.cells((ETH0, FROM_POD), ours[0])
    assert (summed.seen.packets, summed.buffers.buffers) == (42, 5)
    books.forget_layout("0123")
    assert not written_down_and_read(books).has_absorbed("0123")


def test_sections_that_are_not_there_are_told_apart_from_others() -> None:
    with pytest.raises(LookupError):
        Books.restore({}, limit=10, seed=1)
