from __future__ import annotations

from dataclasses import replace

import pytest

from podwire_agent.model import Buffers, Ledger
from podwire_agent.sinks.verdict import Agreement, judge
from tests.unit.sinks.snapshots import ledger

LOW, HIGH = Buffers(2, 200), Buffers(5, 500)


def counting(buffers: int, octets: int, **changes: object) -> Ledger:
    """The account with 12 buffers of 1084 bytes seen and this counter."""
    return replace(ledger(), counter=Buffers(buffers, octets), **changes)  # type: ignore[arg-type]


def tagged(account: Ledger, buffers: int) -> Ledger:
    return replace(account, cells=replace(account.cells, tagged_buffers=buffers))


@pytest.mark.parametrize(
    ("account", "agreement", "words"),
    [
        pytest.param(counting(14, 1284), Agreement.EXACT, "agrees exactly", id="what moved is what was seen"),
        pytest.param(counting(15, 1384), Agreement.DIFFERS, "differs by +1 buffers, +100 bytes", id="one was missed"),
        pytest.param(counting(13, 1184), Agreement.DIFFERS, "differs by -1 buffers, -100 bytes", id="one too many"),
        pytest.param(counting(14, 1283), Agreement.DIFFERS, "differs by +0 buffers, -1 bytes", id="a byte is missing"),
        pytest.param(
            counting(16, 1400, before_attach=(LOW, HIGH)),
            Agreement.WITHIN,
            "agrees (traffic ran during the attach)",
            id="inside the interval of the attach",
        ),
        pytest.param(
            counting(18, 1600, before_attach=(LOW, HIGH)),
            Agreement.DIFFERS,
            "differs by +1 buffers, +16 bytes",
            id="outside the interval of the attach",
        ),
        pytest.param(
            tagged(counting(14, 1292), 2), Agreement.WITHIN, "agrees (2 buffers had a VLAN tag)", id="the tags counted"
        ),
        pytest.param(
            tagged(counting(14, 1293), 2), Agreement.DIFFERS, "differs by +0 buffers, +1 bytes", id="and more"
        ),
        pytest.param(
            counting(99, 99, unverifiable="GRO is on"),
            Agreement.UNVERIFIABLE,
            "not verifiable: GRO is on",
            id="a reason comes before any figure",
        ),
        pytest.param(
            replace(ledger(), counter=None, gone=True),
            Agreement.UNVERIFIABLE,
            "not verifiable: the interface is gone and its counter with it",
            id="an interface that is gone",
        ),
    ],
)
def test_the_comparison_is_told_in_words(account: Ledger, agreement: Agreement, words: str) -> None:
    verdict = judge(account)
    assert (verdict.agreement, verdict.words) == (agreement, words)
