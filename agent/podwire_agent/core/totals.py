"""Exact sums of flow records, by interface and direction."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from podwire_agent.layout import FlowDirection, UnsupportedReason
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


def by_class(ledger: Ledger) -> dict[str, Traffic]:
    """What became of everything seen: counted, filtered, overflowed, unsupported by reason.

    And what of it is estimated, which is no class of its own.
    """
    unsupported = {
        reason.name.lower(): traffic
        for reason, traffic in zip(UnsupportedReason, ledger.cells.unsupported, strict=True)
    }
    return {
        "seen": ledger.cells.seen,
        "counted": ledger.counted,
        "filtered": ledger.cells.filtered,
        "overflowed": ledger.cells.overflowed,
        **unsupported,
        "estimated": ledger.cells.estimated,
    }


@dataclass(slots=True)
class Settled:
    """The sums of interfaces that are gone, so that totals never fall."""

    totals: dict[FlowDirection, dict[str, Traffic]] = field(default_factory=dict)

    def add(self, ledger: Ledger) -> None:
        """Take in the last account of an interface."""
        totals = self.totals.setdefault(ledger.direction, {})
        for name, traffic in by_class(ledger).items():
            totals[name] = totals.get(name, Traffic()) + traffic
