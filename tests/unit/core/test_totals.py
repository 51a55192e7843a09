from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire_agent.core.decode import before_attach, ledger_cells
from podwire_agent.core.totals import Accounts, by_interface
from podwire_agent.kernel.objects import sum_over_cpus
from podwire_agent.layout import ATTACHMENT, FLOW_KEY, FLOW_STATS, LEDGER, FlowDirection, UnsupportedReason
from podwire_agent.model import Buffers, IfIndex, Ledger, Records, Seen, Traffic

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


def counted_up(cpus: int) -> np.void:
    """A ledger whose n-th cell is n on the first CPU and n * 2^40 more on each further one."""
    cells = LEDGER.itemsize // 8
    per_cpu = np.arange(1, cells + 1, dtype=np.uint64) * (
        1 + (np.arange(cpus, dtype=np.uint64)[:, None] << np.uint64(40))
    )
    return summed(per_cpu.view(LEDGER)[:, 0])


def summed(per_cpu: Records) -> np.void:
    """As the kernel's edge hands a ledger on."""
    cells: np.void = sum_over_cpus(per_cpu[np.newaxis])[0]
    return cells


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

    assert ledger_cells(summed(per_cpu)).seen == Traffic(0, 2**63 + 2**53 + 1)


def test_what_was_before_attach_is_an_interval_for_each_direction() -> None:
    attachment = np.zeros(1, ATTACHMENT)
    attachment["before_low"]["buffers"], attachment["before_low"]["bytes"] = [[1, 2]], [[10, 20]]
    attachment["before_high"]["buffers"], attachment["before_high"]["bytes"] = [[3, 4]], [[30, 40]]

    assert before_attach(attachment[0], FROM_POD) == (Buffers(1, 10), Buffers(3, 30))
    assert before_attach(attachment[0], TO_POD) == (Buffers(2, 20), Buffers(4, 40))


def ledger_of(direction: FlowDirection, cells: Seen, counted: Traffic) -> Ledger:
    return Ledger("eth0", IfIndex(3), direction, cells, counted, Buffers(), (Buffers(), Buffers()))


def test_the_accounts_of_several_interfaces_are_their_sums_class_by_class() -> None:
    cells = ledger_cells(counted_up(cpus=1))
    accounts = Accounts()
    for counted in (1, 10, 100):
        accounts = accounts.plus(ledger_of(FROM_POD, cells, Traffic(counted, 2 * counted)))

    assert accounts == Accounts(
        seen=Traffic(3 * 1, 3 * 2),
        counted=Traffic(111, 222),
        filtered=Traffic(3 * 3, 3 * 4),
        overflowed=Traffic(3 * 5, 3 * 6),
        unsupported=Traffic(3 * (7 + 9 + 11 + 13 + 15 + 17), 3 * (8 + 10 + 12 + 14 + 16 + 18)),
        estimated=Traffic(3 * 19, 3 * 20),
    )


def test_a_ledger_that_adds_up_leaves_nothing_unaccounted_and_one_that_does_not_says_how_much() -> None:
    cells = ledger_cells(counted_up(cpus=1))
    rest = cells.filtered + cells.overflowed + sum(cells.unsupported, Traffic())
    counted = Traffic(1000, 2000)
    whole = Seen(counted + rest, cells.filtered, cells.overflowed, cells.unsupported, cells.estimated)

    assert ledger_of(TO_POD, whole, counted).unaccounted == Traffic()
    assert ledger_of(TO_POD, whole, counted - Traffic(1, 60)).unaccounted == Traffic(1, 60)
