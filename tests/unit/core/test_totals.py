from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire_agent.core.decode import before_attach, ledger_cells
from podwire_agent.core.totals import Settled, by_class, by_interface
from podwire_agent.layout import ATTACHMENT, FLOW_KEY, FLOW_STATS, LEDGER, FlowDirection, UnsupportedReason
from podwire_agent.model import Buffers, IfIndex, Ledger, Seen, Traffic

pytestmark = pytest.mark.unit

FROM_POD, TO_POD = FlowDirection


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2**58), st.integers(0, 2**58)), max_size=20))
def test_the_sums_of_an_interface_are_those_of_its_records(records: list[tuple[int, int, int]]) -> None:
    keys, stats = np.zeros(len(records), FLOW_KEY), np.zeros(len(records), FLOW_STATS)
    keys["ifindex"] = [ifindex for ifindex, _, _ in records]
    stats["packets"] = [packets for _, packets, _ in records]
    stats["bytes"] = [length for _, _, length in records]
    expected: dict[IfIndex, Traffic] = {}
    for ifindex, packets, length in records:
        index = IfIndex(ifindex)
        expected[index] = expected.get(index, Traffic()) + Traffic(packets, length)

    assert by_interface(keys, stats) == expected


def test_sums_that_a_float_would_round_are_exact() -> None:
    keys, stats = np.zeros(2, FLOW_KEY), np.zeros(2, FLOW_STATS)
    stats["packets"], stats["bytes"] = [2**63, 1], [2**53, 1]

    assert by_interface(keys, stats) == {IfIndex(0): Traffic(2**63 + 1, 2**53 + 1)}


def counted_up(cpus: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """A ledger whose n-th cell is n on the first CPU and n * 2^40 more on each further one."""
    cells = LEDGER.itemsize // 8
    per_cpu = np.arange(1, cells + 1, dtype=np.uint64) * (
        1 + (np.arange(cpus, dtype=np.uint64)[:, None] << np.uint64(40))
    )
    return per_cpu.view(LEDGER)[:, 0]


def test_the_cells_of_a_ledger_are_the_sums_over_the_cpus_each_in_its_place() -> None:
    factor = 3 + ((1 + 2) << 40)

    cells = ledger_cells(counted_up(cpus=3))

    assert cells == Seen(
        seen=Traffic(1 * factor, 2 * factor),
        filtered=Traffic(3 * factor, 4 * factor),
        overflowed=Traffic(5 * factor, 6 * factor),
        unsupported=tuple(Traffic((7 + 2 * r) * factor, (8 + 2 * r) * factor) for r in range(len(UnsupportedReason))),
        estimated=Traffic(19 * factor, 20 * factor),
        buffers=Buffers(21 * factor, 22 * factor),
        tagged_buffers=23 * factor,
    )


def test_a_cell_near_the_end_of_64_bits_is_exact() -> None:
    per_cpu = np.zeros(2, LEDGER)
    per_cpu["seen"]["bytes"] = [2**63, 2**53 + 1]

    assert ledger_cells(per_cpu).seen == Traffic(0, 2**63 + 2**53 + 1)


def test_what_was_before_attach_is_an_interval_for_each_direction() -> None:
    attachment = np.zeros(1, ATTACHMENT)
    attachment["before_low"]["buffers"], attachment["before_low"]["bytes"] = [[1, 2]], [[10, 20]]
    attachment["before_high"]["buffers"], attachment["before_high"]["bytes"] = [[3, 4]], [[30, 40]]

    assert before_attach(attachment[0], FROM_POD) == (Buffers(1, 10), Buffers(3, 30))
    assert before_attach(attachment[0], TO_POD) == (Buffers(2, 20), Buffers(4, 40))


def ledger_of(direction: FlowDirection, cells: Seen, counted: Traffic) -> Ledger:
    return Ledger("eth0", IfIndex(3), direction, cells, counted, Buffers(), (Buffers(), Buffers()))


def test_the_classes_of_a_ledger_add_up_to_what_was_seen() -> None:
    cells = ledger_cells(counted_up(cpus=1))
    unsupported = sum(cells.unsupported, Traffic())
    counted = Traffic(1000, 2000)
    seen = counted + cells.filtered + cells.overflowed + unsupported
    ledger = ledger_of(
        FROM_POD, Seen(seen, cells.filtered, cells.overflowed, cells.unsupported, cells.estimated), counted
    )

    classes = by_class(ledger)

    assert classes.pop("estimated") == cells.estimated
    assert classes.pop("seen") == sum(classes.values(), Traffic()) == seen
    assert ledger.unaccounted == Traffic()


def test_settled_interfaces_are_added_up_by_direction_and_class() -> None:
    cells = ledger_cells(counted_up(cpus=1))
    settled = Settled()
    for direction, counted in ((FROM_POD, 1), (TO_POD, 10), (FROM_POD, 100)):
        settled.add(ledger_of(direction, cells, Traffic(counted, counted)))

    assert settled.totals[FROM_POD]["counted"] == Traffic(101, 101)
    assert settled.totals[TO_POD]["counted"] == Traffic(10, 10)
    assert settled.totals[FROM_POD]["filtered"] == cells.filtered + cells.filtered
