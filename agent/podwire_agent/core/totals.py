"""Exact sums of flow records, by interface and direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from podwire_agent.model import IfIndex, Ledger, Records, Traffic


def by_interface(keys: Records, stats: Records) -> dict[IfIndex, Traffic]:
    """layout.FLOW_KEY and FLOW_STATS of one direction, same length -> what was counted on each interface."""
    indexes, groups = np.unique(keys["ifindex"], return_inverse=True)
    packets, bytes_ = np.zeros(len(indexes), np.uint64), np.zeros(len(indexes), np.uint64)
    np.add.at(packets, groups, stats["packets"])
    np.add.at(bytes_, groups, stats["bytes"])
    return {
        IfIndex(index): Traffic(*traffic)
        for index, *traffic in zip(indexes.tolist(), packets.tolist(), bytes_.tolist(), strict=True)
    }


NOTHING = Traffic()


@dataclass(frozen=True, slots=True)
class Accounts:
    """The ledgers of one direction, added up."""

    seen: Traffic = NOTHING
    counted: Traffic = NOTHING
    """Without what is held: it may yet be filtered, and totals never fall."""
    filtered: Traffic = NOTHING
    unsupported: Traffic = NOTHING
    overflowed: Traffic = NOTHING
    estimated: Traffic = NOTHING
    """Part of what was seen, not a class of its own."""

    def plus(self, ledger: Ledger) -> Accounts:
        """With one more interface."""
        cells = ledger.cells
        return Accounts(
            self.seen + cells.seen,
            self.counted + (ledger.counted - ledger.held),
            self.filtered + cells.filtered,
            self.unsupported + ledger.unsupported,
            self.overflowed + cells.overflowed,
            self.estimated + cells.estimated,
        )
