"""All that must survive the agent: what was counted, out of which epochs, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from podwire_agent.core.decode import ledger_cells
from podwire_agent.core.table import FlowTable, convert
from podwire_agent.core.totals import Accounts, by_interface
from podwire_agent.layout import FINGERPRINT, FLOW_KEY, FLOW_STATS, LEDGER, FlowDirection, RuleVerdict
from podwire_agent.model import Buffers, Cause, IfIndex, Ledger, Records, RuleListName, Seen, Traffic
from podwire_agent.statements import CutTimes

if TYPE_CHECKING:
    from podwire_agent.core.judge import Judge

NEVER = -1
"""Before the first epoch."""

CAUSES_KEPT = 1024
"""Rules whose filtered packets are remembered by name, once they are in use no more."""

FORMER_RULES = Cause(RuleListName.BLACKLIST, "")
"""Those beyond CAUSES_KEPT, together."""

HELD_PART = 2
"""Flows that are held at most: one in so many of those kept; an epoch of both directions fits."""

Account = tuple[IfIndex, FlowDirection]


@dataclass(frozen=True, slots=True)
class Offer:
    """A report on its way: what a repetition needs beside the flows."""

    sequence: int
    time_unix_ns: int
    unix_minus_mono_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Came:
    """Flows that were entered, perhaps none."""

    flows: Records
    """core.table.REPORT."""
    epoch: FlowDirection | None
    """Of the epoch that they were counted in; None: of former ones, and held until now."""
    cut: CutTimes | None = None
    """When the epoch ended; None: not known."""
    in_flows: bool = True
    """They are among those that are reported; else they are held."""


class Books:
    """Of one monitor. `sections` and `restore` carry them over a crash, in a form that JSON and npy files can hold."""

    def __init__(self, limit: int, seed: int) -> None:
        """`limit` and `seed`: the flow table's."""
        self.flows = FlowTable(limit, seed)
        self.held = FlowTable(limit // HELD_PART, seed)
        """Flows, or what was counted of them, that the rules could not be asked about yet: in no report."""
        self.came: list[Came] = []
        """What was entered since somebody took it: in no checkpoint."""
        self._counted: dict[Account, Traffic] = {}  # the sum of the flow records of each interface that is not settled
        self._held: dict[Account, Traffic] = {}  # the same of those that are held
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
        self._carried: dict[Account, Seen] = {}  # beside the cells: those of former layouts, and what was filtered here

    @classmethod
    def restore(cls, sections: Mapping[str, Any], limit: int, seed: int) -> Self:
        """The books that gave `sections()`, also where those were of another layout. LookupError, TypeError."""
        books = cls(limit, seed)
        books.flows = FlowTable.restore(sections["flows"], limit, seed)
        if "held" in sections:
            books.held = FlowTable.restore(sections["held"], limit // HELD_PART, seed)
            books._held = _by_interface(books.held.rows())
        books._counted = {account: Traffic(*traffic) for account, *traffic in _by_account(sections["counted"])}
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
            "held": self.held.rows(),
            "counted": [[*account, *astuple(traffic)] for account, traffic in self._counted.items()],
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

    def fold(
        self, direction: FlowDirection, epoch: int, keys: Records, stats: Records, cut: CutTimes | None = None
    ) -> None:
        """Enter an epoch: layout.FLOW_KEY and FLOW_STATS of its records. What is unjudged is held. `cut`: its end."""
        self._enter(direction, keys, stats, cut)
        self._epochs.setdefault(FINGERPRINT, {})[direction] = epoch

    def last_edition(self, fingerprint: str = FINGERPRINT) -> int:
        """The last edition of a layout's rules that is in here; 0: none."""
        return self._editions.get(fingerprint, 0)

    def fold_filtered(self, edition: int, filtered: Mapping[Cause, Traffic], fingerprint: str = FINGERPRINT) -> None:
        """Enter what the rules of an edition filtered, by cause, unless it is in here."""
        if edition <= self.last_edition(fingerprint):
            return
        for cause, traffic in filtered.items():
            self._charge(cause, traffic)
        self._editions[fingerprint] = edition

    def decide(
        self, judge: Judge | None, first_mono_ns: int, gone: Collection[IfIndex] = (), *, all_of_it: bool = False
    ) -> Traffic:
        """Judge what is held, as far as it can be: it is reported or filtered then. None: there are no rules any more.

        What began before `first_mono_ns`, is on an interface that is `gone` or is too much to hold is reported though
        it cannot be judged, or `all_of_it`; how much that is.
        """
        rows = self.held.rows()
        if not len(rows):
            return Traffic()
        indexes = rows["key"]["ifindex"]
        decided = np.ones(len(rows), np.bool_) if judge is None else judge.decided(indexes)
        given_up = (rows["first_mono_ns"] < first_mono_ns) | np.isin(indexes, list(gone)) | all_of_it
        waiting = np.flatnonzero(~(decided | given_up))
        excess = max(0, len(waiting) - self.held.limit)
        given_up[waiting[np.argsort(rows["first_mono_ns"][waiting], kind="stable")[:excess]]] = True
        taken = decided | given_up
        decided = decided[taken]
        rows = self.held.take(taken)
        verdicts = np.full(len(rows), RuleVerdict.MEASURED, np.uint8)
        if judge is not None:
            verdicts[decided] = judge.at_interfaces(rows["key"][decided], rows["direction"][decided])
        measured = verdicts == RuleVerdict.MEASURED
        for account, traffic in _by_interface(rows).items():
            self._held[account] -= traffic
        for account, traffic in _by_interface(rows[measured]).items():
            self._counted[account] = self._counted.get(account, Traffic()) + traffic
        for account, traffic in _by_interface(rows[~measured]).items():
            self._carried[account] = self._carried.get(account, Seen()) + Seen(filtered=traffic)
        for verdict in np.unique(verdicts[~measured]).tolist():
            if judge is not None:
                self._charge(judge.cause(verdict), _sum(rows[verdicts == verdict]))
        self.came.append(Came(self.flows.add(rows[measured]), epoch=None))
        return _sum(rows[~decided])

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

    def counted(self, account: Account) -> tuple[Traffic, Traffic]:
        """The sum of the flow records of an interface that is not settled, and the part of it that is held."""
        held = self._held.get(account, Traffic())
        return self._counted.get(account, Traffic()) + held, held

    def cells(self, account: Account, cells: np.void) -> Seen:
        """A layout.LEDGER and what belongs beside it: cells of former layouts, and what was filtered here."""
        return ledger_cells(cells) + self._carried.get(account, Seen())

    def settle(self, ledgers: Iterable[Ledger], attached_mono_ns: Mapping[IfIndex, int]) -> None:
        """Close the accounts of interfaces that are gone; all that was counted on them is in here."""
        for ledger in ledgers:
            account = (ledger.ifindex, ledger.direction)
            self.settled[ledger.direction] = self.settled[ledger.direction].plus(ledger)
            self._counted.pop(account, None)
            self._held.pop(account, None)
            self._carried.pop(account, None)
        self.leaving |= attached_mono_ns

    def _enter(self, direction: FlowDirection, keys: Records, stats: Records, cut: CutTimes | None = None) -> None:
        unjudged = stats["unjudged"] != 0
        for table, sums, which in ((self.flows, self._counted, ~unjudged), (self.held, self._held, unjudged)):
            if table is self.held and not which.any():
                continue
            came = table.fold(direction, *((keys, stats) if which.all() else (keys[which], stats[which])))
            self.came.append(Came(came, direction, cut, in_flows=table is self.flows))
            for index, traffic in by_interface(keys[which], stats[which]).items():
                account = (index, direction)
                sums[account] = sums.get(account, Traffic()) + traffic

    def _charge(self, cause: Cause, traffic: Traffic) -> None:
        known = cause if cause in self.filtered or len(self.filtered) < CAUSES_KEPT else FORMER_RULES
        self.filtered[known] = self.filtered.get(known, Traffic()) + traffic


def _by_interface(rows: Records) -> dict[Account, Traffic]:
    """Of both directions: core.table.FLOW_ROW."""
    found: dict[Account, Traffic] = {}
    for direction in FlowDirection:
        these = rows[rows["direction"] == direction]
        found |= {(index, direction): traffic for index, traffic in by_interface(these["key"], these).items()}
    return found


def _sum(rows: Records) -> Traffic:
    return Traffic(*(int(rows[name].sum(dtype=np.uint64)) for name in ("packets", "bytes")))


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
