"""Does an interface's own counter agree with what we saw? The judgement that all sinks share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from podwire_agent.model import Ledger

VLAN_TAG_BYTES = 4


class Agreement(StrEnum):
    """The outcome of the comparison."""

    EXACT = "agrees exactly"
    WITHIN = "agrees"
    DIFFERS = "differs"
    UNVERIFIABLE = "not verifiable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`words` is the whole sentence for people."""

    agreement: Agreement
    words: str


def judge(ledger: Ledger) -> Verdict:
    """Compare the counter's movement since attach with the buffers and their bytes we saw.

    Only exact where no packet was under way while both were read. The movement is an interval where
    traffic ran during the attach. Four bytes a buffer are open where the kernel took an 802.1Q tag
    out of the frame before our hook: the counter may have the tag's bytes or not.
    """
    if ledger.unverifiable:
        return Verdict(Agreement.UNVERIFIABLE, f"not verifiable: {ledger.unverifiable}")
    if ledger.counter is None:
        return Verdict(Agreement.UNVERIFIABLE, "not verifiable: the interface is gone and its counter with it")
    low, high = ledger.before_attach
    cells = ledger.cells
    tags = cells.tagged_buffers * VLAN_TAG_BYTES
    buffers = _outside(
        ledger.counter.buffers, low.buffers + cells.buffers.buffers, high.buffers + cells.buffers.buffers
    )
    octets = _outside(ledger.counter.bytes, low.bytes + cells.buffers.bytes, high.bytes + cells.buffers.bytes + tags)
    if buffers or octets:
        return Verdict(Agreement.DIFFERS, f"differs by {buffers:+,} buffers, {octets:+,} bytes")
    if low != high:
        return Verdict(Agreement.WITHIN, "agrees (traffic ran during the attach)")
    if tags:
        return Verdict(Agreement.WITHIN, f"agrees ({cells.tagged_buffers:,} buffers had a VLAN tag)")
    return Verdict(Agreement.EXACT, "agrees exactly")


def _outside(value: int, low: int, high: int) -> int:
    """How far `value` lies outside [low, high]; 0 inside. Positive: the counter has more than we saw."""
    return value - high if value > high else min(value - low, 0)
