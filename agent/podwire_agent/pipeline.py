"""One monitor's tick: cut, read, fold, checkpoint, drop, hand on. In that order, so that a crash between any two
steps neither loses nor doubles a packet:

- a frozen map is dropped only once a checkpoint holds what was in it;
- a checkpoint tells the last epoch of each direction that it holds, so that a map that was folded and not yet
  dropped is not folded again;
- a report is in the checkpoint before it is handed on, and is given again, under the same sequence numbers, until
  it is known to have arrived.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from podwire_agent import checkpoint
from podwire_agent.core.decode import before_attach, ledger_cells
from podwire_agent.core.table import FlowTable, convert
from podwire_agent.core.totals import Accounts, by_interface
from podwire_agent.kernel.datapath import Datapath
from podwire_agent.kernel.predecessor import Predecessor
from podwire_agent.kernel.rotation import Frozen, release
from podwire_agent.kernel.watch import Account, Watch
from podwire_agent.layout import ATTACHMENT, FINGERPRINT, FLOW_KEY, FLOW_STATS, LEDGER, FlowDirection
from podwire_agent.model import Buffers, IfIndex, Ledger, MonitorUid, Records, Seen, Snapshot, Traffic
from podwire_agent.ports import Clock, Outlet, StepObserver

log = logging.getLogger(__name__)

FLOW_MEMORY = 4
"""Flows kept in user space, in multiples of maxFlows: two directions, and those of the epoch before."""

IDLE_NS = 120 * 10**9
"""A flow without packets for so long is forgotten; its next packet begins it anew."""

FROZEN_LIMIT = 8
"""Cut maps that may wait for a slow reader; then the active map goes on, and says so when it overflows."""


NEVER = -1
"""Before the first epoch."""


class Step(StrEnum):
    """The steps of a tick, in their order."""

    BEGUN = "begun"
    PREPARED = "prepared"
    CUT = "cut"
    READ = "read"
    FOLDED = "folded"
    SAVED = "saved"
    RELEASED = "released"
    HANDED_ON = "handed_on"


@dataclass(frozen=True, slots=True)
class Job:
    """What the pipeline has to know of its monitor."""

    uid: MonitorUid
    name: str
    node: str
    boot_id: str
    max_flows: int
    report_every: int
    checkpoint: Path
    seed: int
    """Of the flow table's hash: a secret of this process."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A report on its way: what a repetition needs beside the flows."""

    sequence: int
    time_unix_ns: int
    unix_minus_mono_ns: int


@dataclass(frozen=True, slots=True)
class PipelineState:
    """Figures for metrics and status."""

    flows: int
    evicted_flows_total: int
    map_used: dict[FlowDirection, int]
    """Entries of the last drained epoch."""
    map_capacity: dict[FlowDirection, int]
    cuts_total: int
    skipped_cuts_total: int
    delayed_reports_total: int
    discarded: Traffic
    """Counted in the ledger but never reported: the outlet was dead and memory ran out."""
    last_drain_unix_ns: int


class Pipeline:
    """`cut` may be called by one thread while another is in `drain`; nothing else may overlap."""

    def __init__(
        self, job: Job, datapath: Datapath, watch: Watch, outlet: Outlet, clock: Clock, observer: StepObserver
    ) -> None:
        self._job = job
        self._datapath = datapath
        self._watch = watch
        self._outlet = outlet
        self._clock = clock
        self._observer = observer
        self._frozen: deque[Frozen] = deque()
        self._closing: frozenset[IfIndex] = frozenset()  # gone before the first of the last pair of cuts
        self._table = FlowTable(job.max_flows * FLOW_MEMORY, job.seed)
        self._epochs = {FINGERPRINT: dict.fromkeys(FlowDirection, NEVER)}  # the last that was folded, by layout
        self._absorbed: set[str] = set()  # former layouts whose maps are folded, and may not be removed yet
        self._carried: dict[tuple[IfIndex, FlowDirection], Seen] = {}  # cells of former layouts
        self._counted: dict[tuple[IfIndex, FlowDirection], Traffic] = {}
        self._settled = dict.fromkeys(FlowDirection, Accounts())  # of interfaces that are gone: totals never fall
        self._settling = threading.Lock()  # an interface is in _settled or among the ledgers, never both or neither
        self._leaving: dict[IfIndex, int] = {}  # settled, entry still in the kernel: attached_mono_ns
        self._farewells: list[Ledger] = []
        self._sequence = 0
        self._offer: Offer | None = None
        self._polls = 0
        self._map_used = dict.fromkeys(FlowDirection, 0)
        self._cuts_total = self._skipped_cuts_total = self._delayed_reports_total = 0
        self._discarded = Traffic()
        self._last_drain_unix_ns = 0

    def resume(self, saved: checkpoint.Checkpoint | None, predecessors: Iterable[Predecessor]) -> None:
        """Go on where a former agent ended, before anything is attached.

        `saved`: its checkpoint. `predecessors`: maps of other layouts. KernelError.
        """
        for predecessor in predecessors:
            for index, attachment in predecessor.attachments().items():
                if self._datapath.attachment(index) is None:
                    self._datapath.open_ledger(index)
                    self._datapath.remember(index, convert(attachment, ATTACHMENT))
        if saved is not None:
            self._restore(saved)
        self._watch.recognise()
        for index, attached_mono_ns in self._leaving.items():
            memory = self._datapath.attachment(index)
            if memory is not None and int(memory["attached_mono_ns"][0]) == attached_mono_ns:
                self._watch.settle(index)
        self._leaving = {}
        self._frozen.extend(self._datapath.inherited)
        if self._offer is not None:
            self._outlet.put(self._snapshot(self._offer, self._ledgers(), final=False))

    def absorb(self, predecessors: Sequence[Predecessor]) -> None:
        """Drain what former agents counted, once no program of theirs is attached any more. KernelError, StateError."""
        for direction in FlowDirection:
            self.cut(direction)  # waits for every program that was still running
        for predecessor in predecessors:
            if predecessor.fingerprint not in self._absorbed:
                self._absorb(predecessor)
        self.drain()
        for predecessor in predecessors:
            predecessor.remove()
            self._absorbed.discard(predecessor.fingerprint)
            self._epochs.pop(predecessor.fingerprint, None)

    def prepare(self, direction: FlowDirection) -> None:
        """Ahead of a cut: make what it needs. KernelError."""
        self._observer.step(Step.BEGUN)
        self._datapath.rotations[direction].prepare(self._job.max_flows)
        self._observer.step(Step.PREPARED)

    def cut(self, direction: FlowDirection) -> None:
        """End the direction's epoch. FROM_POD comes first, then TO_POD, then drain. KernelError."""
        if len(self._frozen) >= FROZEN_LIMIT:
            self._skipped_cuts_total += 1
            return
        self._observer.step(Step.BEGUN)
        gone = self._watch.gone()
        frozen = self._datapath.rotations[direction].cut(self._job.max_flows)
        if direction is FlowDirection.FROM_POD:
            self._closing = gone
        self._frozen.append(frozen)
        self._cuts_total += 1
        self._observer.step(Step.CUT)

    def drain(self, *, final: bool = False) -> None:
        """Fold what was cut, checkpoint it, and report when it is time. KernelError, StateError: call again."""
        self._observer.step(Step.BEGUN)
        closing = self._closing
        cut = list(self._frozen)
        for item in cut:
            self._fold(item)
        if self._offer is not None and self._outlet.idle:
            self._table.confirm()
            self._offer = None
        now_mono_ns = self._clock.mono_ns()
        self._table.expire(now_mono_ns, IDLE_NS)
        self._settle(closing)
        snapshot = self._report(final=final)
        self._save()
        self._observer.step(Step.SAVED)
        for item in cut:
            release(item)
            self._frozen.popleft()
        with self._settling:
            for index in self._leaving:
                self._watch.settle(index)
            self._leaving = {}
        self._observer.step(Step.RELEASED)
        if snapshot is not None:
            self._outlet.put(snapshot)
            self._observer.step(Step.HANDED_ON)
        self._last_drain_unix_ns = self._clock.unix_ns()

    def accounts(self) -> dict[FlowDirection, Accounts]:
        """The ledgers of all interfaces ever watched, added up, now. From any thread. KernelError."""
        with self._settling:
            accounts = dict(self._settled)
            for ledger in self._ledgers():
                accounts[ledger.direction] = accounts[ledger.direction].plus(ledger)
            return accounts

    def state(self) -> PipelineState:
        """Figures for metrics and status."""
        rotations = self._datapath.rotations
        return PipelineState(
            flows=len(self._table),
            evicted_flows_total=self._table.evicted,
            map_used=dict(self._map_used),
            map_capacity={direction: rotations[direction].capacity for direction in FlowDirection},
            cuts_total=self._cuts_total,
            skipped_cuts_total=self._skipped_cuts_total,
            delayed_reports_total=self._delayed_reports_total,
            discarded=self._discarded,
            last_drain_unix_ns=self._last_drain_unix_ns,
        )

    def _fold(self, frozen: Frozen) -> None:
        epochs = self._epochs[FINGERPRINT]
        if frozen.epoch <= epochs[frozen.direction]:
            return  # in the checkpoint already: it was only not dropped
        keys, stats = frozen.map.read()
        self._observer.step(Step.READ)
        self._add(frozen.direction, keys, stats[:, 0])
        epochs[frozen.direction] = frozen.epoch
        self._map_used[frozen.direction] = len(keys)
        self._observer.step(Step.FOLDED)

    def _absorb(self, predecessor: Predecessor) -> None:
        epochs = self._epochs.get(predecessor.fingerprint, dict.fromkeys(FlowDirection, NEVER))
        for direction in FlowDirection:
            for _, keys, stats in predecessor.flows(direction, epochs[direction]):
                self._add(direction, convert(keys, FLOW_KEY), convert(stats, FLOW_STATS))
        for account, cells in predecessor.ledgers().items():
            self._carried[account] = self._carried.get(account, Seen()) + ledger_cells(convert(cells, LEDGER))
        self._absorbed.add(predecessor.fingerprint)

    def _add(self, direction: FlowDirection, keys: Records, stats: Records) -> None:
        self._table.fold(direction, keys, stats)
        for index, traffic in by_interface(keys, stats).items():
            account = (index, direction)
            self._counted[account] = self._counted.get(account, Traffic()) + traffic

    def _settle(self, indexes: Iterable[IfIndex]) -> None:
        """Interfaces that were gone before both cuts: their records are all folded."""
        if not indexes:
            return
        ledgers = [ledger for ledger in self._ledgers() if ledger.ifindex in indexes]
        with self._settling:
            for ledger in ledgers:
                self._settled[ledger.direction] = self._settled[ledger.direction].plus(ledger)
                self._counted.pop((ledger.ifindex, ledger.direction), None)
                self._carried.pop((ledger.ifindex, ledger.direction), None)
            for index in indexes:
                attachment = self._datapath.attachment(index)
                self._leaving[index] = 0 if attachment is None else int(attachment["attached_mono_ns"][0])
        self._farewells += ledgers
        self._closing = frozenset()

    def _report(self, *, final: bool) -> Snapshot | None:
        self._polls += 1
        self._table.evict()
        crowded = self._table.over_limit()
        if not (final or crowded or self._polls >= self._job.report_every):
            return None
        if self._offer is not None:
            self._delayed_reports_total += 1
            if crowded:
                self._discarded += self._table.discard()
                self._table.evict()
            return None
        now_unix_ns = self._clock.unix_ns()
        self._offer = Offer(self._sequence, now_unix_ns, now_unix_ns - self._clock.mono_ns())
        self._sequence += self._table.offer()
        self._polls = 0
        ledgers = [*self._farewells, *self._ledgers()]
        self._farewells = []
        return self._snapshot(self._offer, ledgers, final=final)

    def _snapshot(self, offer: Offer, ledgers: list[Ledger], *, final: bool) -> Snapshot:
        return Snapshot(
            node=self._job.node,
            monitor=self._job.name,
            monitor_uid=self._job.uid,
            boot_id=self._job.boot_id,
            sequence=offer.sequence,
            time_unix_ns=offer.time_unix_ns,
            unix_minus_mono_ns=offer.unix_minus_mono_ns,
            flows=self._table.offered(),
            interface_names={ledger.ifindex: ledger.interface for ledger in ledgers},
            ledgers=tuple(ledgers),
            final=final,
        )

    def _ledgers(self) -> list[Ledger]:
        return [self._ledger(account) for account in self._watch.accounts() if account.index not in self._leaving]

    def _ledger(self, account: Account) -> Ledger:
        return Ledger(
            interface=account.name,
            ifindex=account.index,
            direction=account.direction,
            cells=ledger_cells(account.cells) + self._carried.get((account.index, account.direction), Seen()),
            counted=self._counted.get((account.index, account.direction), Traffic()),
            counter=account.counter,
            before_attach=before_attach(account.attachment, account.direction),
            unverifiable=account.unverifiable,
            gone=account.gone,
        )

    def _save(self) -> None:
        header = checkpoint.Header(boot_id=self._job.boot_id, fingerprint=FINGERPRINT)
        checkpoint.save(
            self._job.checkpoint,
            header,
            {
                "epochs": [
                    [fingerprint, direction.name, epoch]
                    for fingerprint, epochs in self._epochs.items()
                    for direction, epoch in epochs.items()
                ],
                "absorbed": list(self._absorbed),
                "carried": [
                    [index, int(direction), asdict(cells)] for (index, direction), cells in self._carried.items()
                ],
                "counted": [
                    [index, int(direction), traffic.packets, traffic.bytes]
                    for (index, direction), traffic in self._counted.items()
                ],
                "leaving": [[index, mono_ns] for index, mono_ns in self._leaving.items()],
                "settled": {direction.name: asdict(accounts) for direction, accounts in self._settled.items()},
                "report": {
                    "sequence": self._sequence,
                    "polls": self._polls,
                    "offer": None if self._offer is None else astuple(self._offer),
                },
                "flows": self._table.rows(),
            },
        )

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        sections: Mapping[str, Any] = saved.sections
        for fingerprint, name, epoch in sections["epochs"]:
            self._epochs.setdefault(fingerprint, {})[FlowDirection[name]] = epoch
        self._absorbed = set(sections["absorbed"])
        self._carried = {
            (IfIndex(index), FlowDirection(direction)): _seen(cells) for index, direction, cells in sections["carried"]
        }
        self._counted = {
            (IfIndex(index), FlowDirection(direction)): Traffic(*traffic)
            for index, direction, *traffic in sections["counted"]
        }
        self._leaving = {IfIndex(index): mono_ns for index, mono_ns in sections["leaving"]}
        for name, accounts in sections["settled"].items():
            self._settled[FlowDirection[name]] = Accounts(**{key: Traffic(**value) for key, value in accounts.items()})
        report = sections["report"]
        self._sequence, self._polls = report["sequence"], report["polls"]
        self._offer = None if report["offer"] is None else Offer(*report["offer"])
        self._table = FlowTable.restore(sections["flows"], self._job.max_flows * FLOW_MEMORY, self._job.seed)


def _seen(cells: Mapping[str, Any]) -> Seen:
    """What dataclasses.asdict made of a Seen."""
    traffic = {name: Traffic(**cells[name]) for name in ("seen", "filtered", "overflowed", "estimated")}
    unsupported = tuple(Traffic(**each) for each in cells["unsupported"])
    buffers = Buffers(**cells["buffers"])
    return Seen(**traffic, unsupported=unsupported, buffers=buffers, tagged_buffers=cells["tagged_buffers"])
