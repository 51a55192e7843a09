"""All that must survive the agent: what was counted, out of which epochs, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any, Self

import numpy as np

from podwire_agent.core.decode import ledger_cells
from podwire_agent.core.table import FlowTable, convert
from podwire_agent.core.totals import Accounts, by_interface
from podwire_agent.layout import FINGERPRINT, FLOW_KEY, FLOW_STATS, LEDGER, FlowDirection
from podwire_agent.model import Buffers, Cause, IfIndex, Ledger, Records, RuleListName, Seen, Traffic

NEVER = -1
"""Before the first epoch."""

CAUSES_KEPT = 1024
"""Rules whose filtered packets are remembered by name, once they are in use no more."""

FORMER_RULES = Cause(RuleListName.BLACKLIST, "")
"""Those beyond CAUSES_KEPT, together."""

Account = tuple[IfIndex, FlowDirection]


@dataclass(frozen=True, slots=True)
class Offer:
    """A report on its way: what a repetition needs beside the flows."""

    sequence: int
    time_unix_ns: int
    unix_minus_mono_ns: int


class Books:
    """Of one monitor. `sections` and `restore` carry them over a crash, in a form that JSON and npy files can hold."""

    def __init__(self, limit: int, seed: int) -> None:
        """`limit` and `seed`: the flow table's."""
        self.flows = FlowTable(limit, seed)
        self.counted: dict[Account, Traffic] = {}
        """The sum of the flow records of each interface that is not settled."""
        self.settled = dict.fromkeys(FlowDirection, Accounts())
        """The sums of the interfaces that are gone: totals never fall."""
        self.leaving: dict[IfIndex, int] = {}
        """Settled, its cells still in the kernel: attached_mono_ns of each, since an index may be given again."""
        self.sequence = 0
        """Of the next flow that is reported."""
        self.polls = 0
        """Since the last report."""
        self.offer: Offer | None = None
        """The report under way."""
        self.filtered: dict[Cause, Traffic] = {}
        """By the rules of the editions that were folded."""
        self._editions: dict[str, int] = {}  # the last that was folded, by layout
        self._epochs: dict[str, dict[FlowDirection, int]] = {}  # the last that was folded, by layout
        self._absorbed: set[str] = set()  # former layouts that are in here, and may not be removed yet
        self._carried: dict[Account, Seen] = {}  # cells of former layouts

    @classmethod
    def restore(cls, sections: Mapping[str, Any], limit: int, seed: int) -> Self:
        """The books that gave `sections()`, also where those were of another layout. LookupError, TypeError."""
        books = cls(limit, seed)
        books.flows = FlowTable.restore(sections["flows"], limit, seed)
        books.counted = {account: Traffic(*traffic) for account, *traffic in _by_account(sections["counted"])}
        books.settled |= {
            FlowDirection[name]: Accounts(**{each: Traffic(**traffic) for each, traffic in accounts.items()})
            for name, accounts in sections["settled"].items()
        }
        books.leaving = {IfIndex(index): mono_ns for index, mono_ns in sections["leaving"]}
        report = sections["report"]
        books.sequence, books.polls = report["sequence"], report["polls"]
        books.offer = None if report["offer"] is None else Offer(*report["offer"])
        for fingerprint, name, epoch in sections["epochs"]:
            books._epochs.setdefault(fingerprint, {})[FlowDirection[name]] = epoch
        rules = sections.get("rules", {"filtered": [], "editions": {}})
        books.filtered = {Cause(RuleListName(name), rule): Traffic(*rest) for name, rule, *rest in rules["filtered"]}
        books._editions = dict(rules["editions"])
        books._absorbed = set(sections["absorbed"])
        books._carried = {account: _seen(cells) for account, cells in _by_account(sections["carried"])}
        return books

    def sections(self) -> dict[str, Any]:
        """A copy of everything, for a checkpoint."""
        return {
            "flows": self.flows.rows(),
            "counted": [[*account, *astuple(traffic)] for account, traffic in self.counted.items()],
            "settled": {direction.name: asdict(accounts) for direction, accounts in self.settled.items()},
            "leaving": [[index, mono_ns] for index, mono_ns in self.leaving.items()],
            "report": {
                "sequence": self.sequence,
                "polls": self.polls,
                "offer": None if self.offer is None else astuple(self.offer),
            },
            "epochs": [
                [fingerprint, direction.name, epoch]
                for fingerprint, epochs in self._epochs.items()
                for direction, epoch in epochs.items()
            ],
            "absorbed": sorted(self._absorbed),
            "rules": {
                "filtered": [[cause.list, cause.rule, *astuple(sum_)] for cause, sum_ in self.filtered.items()],
                "editions": dict(self._editions),
            },
            "carried": [[*account, asdict(cells)] for account, cells in self._carried.items()],
        }

    def last_epoch(self, direction: FlowDirection, fingerprint: str = FINGERPRINT) -> int:
        """The last epoch of a layout that is in here."""
        return self._epochs.get(fingerprint, {}).get(direction, NEVER)

    def fold(self, direction: FlowDirection, epoch: int, keys: Records, stats: Records) -> None:
        """Enter an epoch: layout.FLOW_KEY and FLOW_STATS of its records."""
        self._enter(direction, keys, stats)
        self._epochs.setdefault(FINGERPRINT, {})[direction] = epoch

    def last_edition(self, fingerprint: str = FINGERPRINT) -> int:
        """The last edition of a layout's rules that is in here; 0: none."""
        return self._editions.get(fingerprint, 0)

    def fold_filtered(self, edition: int, filtered: Mapping[Cause, Traffic], fingerprint: str = FINGERPRINT) -> None:
        """Enter what the rules of an edition filtered, by cause, unless it is in here."""
        if edition <= self.last_edition(fingerprint):
            return
        for cause, traffic in filtered.items():
            known = cause if cause in self.filtered or len(self.filtered) < CAUSES_KEPT else FORMER_RULES
            self.filtered[known] = self.filtered.get(known, Traffic()) + traffic
        self._editions[fingerprint] = edition

    def has_absorbed(self, fingerprint: str) -> bool:
        """What agents of that layout left is in here."""
        return fingerprint in self._absorbed

    def absorb(
        self,
        fingerprint: str,
        flows: Iterable[tuple[FlowDirection, Records, Records]],
        ledgers: Mapping[Account, np.void],
    ) -> None:
        """Enter what agents of another layout left: flow keys and statistics, and the ledgers' cells."""
        for direction, keys, stats in flows:
            self._enter(direction, convert(keys, FLOW_KEY), convert(stats, FLOW_STATS))
        for account, cells in ledgers.items():
            ours = convert(np.array([cells], cells.dtype), LEDGER)[0]
            self._carried[account] = self.cells(account, ours)
        self._absorbed.add(fingerprint)

    def forget_layout(self, fingerprint: str) -> None:
        """Nothing of that layout is left on the node."""
        self._absorbed.discard(fingerprint)
        self._epochs.pop(fingerprint, None)
        self._editions.pop(fingerprint, None)

    def cells(self, account: Account, cells: np.void) -> Seen:
        """A layout.LEDGER and what was carried over from former layouts."""
        return ledger_cells(cells) + self._carried.get(account, Seen())

    def settle(self, ledgers: Iterable[Ledger], attached_mono_ns: Mapping[IfIndex, int]) -> None:
        """Close the accounts of interfaces that are gone; all that was counted on them is in here."""
        for ledger in ledgers:
            account = (ledger.ifindex, ledger.direction)
            self.settled[ledger.direction] = self.settled[ledger.direction].plus(ledger)
            self.counted.pop(account, None)
            self._carried.pop(account, None)
        self.leaving |= attached_mono_ns

    def _enter(self, direction: FlowDirection, keys: Records, stats: Records) -> None:
        self.flows.fold(direction, keys, stats)
        for index, traffic in by_interface(keys, stats).items():
            account = (index, direction)
            self.counted[account] = self.counted.get(account, Traffic()) + traffic


def _by_account(entries: Iterable[Any]) -> Iterable[Any]:
    for index, direction, *rest in entries:
        yield (IfIndex(index), FlowDirection(direction)), *rest


def _seen(cells: Mapping[str, Any]) -> Seen:
    """What dataclasses.asdict made of a Seen."""
    traffic = {name: Traffic(**cells[name]) for name in ("seen", "filtered", "overflowed", "estimated")}
    unsupported = tuple(Traffic(**each) for each in cells["unsupported"])
    return Seen(
        **traffic,
        unsupported=unsupported,
        buffers=Buffers(**cells["buffers"]),
        tagged_buffers=cells["tagged_buffers"],
    )
