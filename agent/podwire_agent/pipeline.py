"""One monitor's tick: cut, read, fold, checkpoint, drop, hand on. In that order, so that a crash between any two
steps neither loses nor doubles a packet:

- a frozen map is dropped only once a checkpoint holds what was in it;
- a checkpoint tells the last epoch of each direction that it holds, so that a map that was folded and not yet
  dropped is not folded again;
- a report is in the checkpoint before it is handed on, and is given again, under the same sequence numbers, until
  it is known to have arrived.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podwire_agent import checkpoint
from podwire_agent.comparison import Comparison, Here
from podwire_agent.core.books import Books, Offer
from podwire_agent.core.decode import before_attach
from podwire_agent.core.table import convert
from podwire_agent.core.totals import Accounts
from podwire_agent.errors import StateError
from podwire_agent.kernel.datapath import Datapath
from podwire_agent.kernel.predecessor import Predecessor
from podwire_agent.kernel.rotation import Frozen, release
from podwire_agent.kernel.rule_sets import Edition
from podwire_agent.kernel.watch import Account, Watch
from podwire_agent.layout import ATTACHMENT, FINGERPRINT, FlowDirection
from podwire_agent.model import Cause, Edges, IfIndex, Ledger, MonitorUid, Snapshot, Traffic
from podwire_agent.ports import Clock, Outlet, StepObserver
from podwire_agent.statements import CutTimes

if TYPE_CHECKING:
    from podwire_agent.core.judge import Judge
    from podwire_agent.correlation import Correlation, RowsState

FLOW_MEMORY = 4
"""Flows kept in user space, in multiples of maxFlows: two directions, and those of the epoch before."""

IDLE_NS = 120 * 10**9
"""A flow without packets for so long is forgotten; its next packet begins it anew."""

HELD_NS = 75 * 10**9
"""So long after its first packet a flow waits for the rules to be asked: within a minute, and some seconds to have it
in force, an interface is known as a pod's or as no pod's. After that it is reported as it is."""

FROZEN_LIMIT = 8
"""Cut maps that may wait for a slow reader; then the active map goes on, and says so when it overflows."""


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
    held_flows: int
    """Not reported yet, since the rules cannot be asked about them."""
    unjudged: Traffic
    """Reported though the rules could not be asked."""
    last_drain_unix_ns: int
    new_flows_per_s: float
    """Over the interval of the last report."""


class Pipeline:
    """`cut` may be called by one thread while another is in `drain`; nothing else may overlap."""

    def __init__(
        self,
        job: Job,
        datapath: Datapath,
        watch: Watch,
        outlet: Outlet,
        clock: Clock,
        observer: StepObserver,
        judge: Callable[[], Judge | None] = lambda: None,
        correlation: Correlation | None = None,
        receivers: Callable[[], Mapping[bytes, IfIndex]] = dict,
    ) -> None:
        """`judge` gives that of the rules in force; None: there are no rules. `correlation`: None where nobody can say
        who is behind the flows. `receivers`: the addresses of the pods behind interfaces that are watched.
        """
        self._job = job
        self._datapath = datapath
        self._watch = watch
        self._outlet = outlet
        self._clock = clock
        self._observer = observer
        self._frozen: deque[Frozen] = deque()
        self._cuts: dict[tuple[FlowDirection, int], CutTimes] = {}  # of what is frozen, by epoch
        self._closing: frozenset[IfIndex] = frozenset()  # gone before the first of the last pair of cuts
        self._books = Books(job.max_flows * FLOW_MEMORY, job.seed)
        self._judge = judge
        self._correlation = correlation
        self._receivers = receivers
        self._settling = threading.RLock()  # an interface is settled or among the ledgers, never both or neither
        self._farewells: list[Ledger] = []
        self._reported: Snapshot | None = None  # the last report, without its rows
        self._outgoing: Snapshot | None = None  # a report that waits for its checkpoint
        self._map_used = dict.fromkeys(FlowDirection, 0)
        self._cuts_total = self._skipped_cuts_total = self._delayed_reports_total = 0
        self._discarded = self._unjudged = Traffic()
        self._last_drain_unix_ns = 0
        self._new_flows_per_s = 0.0
        self._rated = (clock.mono_ns(), 0)  # when the last report was made, and how many flows had come by then

    def resume(
        self, saved: checkpoint.Checkpoint | None, predecessors: Iterable[Predecessor], *, handed_on: bool = False
    ) -> None:
        """Go on where a former agent ended, before anything is attached.

        `saved`: its checkpoint. `predecessors`: maps of other layouts. `handed_on`: the report that was under way is
        in this very outlet, which knows what becomes of it. KernelError.
        """
        for predecessor in predecessors:
            for index, attachment in predecessor.attachments().items():
                if self._datapath.attachment(index) is None:
                    self._datapath.open_ledger(index)
                    self._datapath.remember(index, convert(attachment, ATTACHMENT))
        if saved is not None:
            self._restore(saved)
        else:
            # Above every number of a monitor that was here before, left, and is back: what came under one of those
            # would be taken for a repeat. Flows are reported more slowly than one a microsecond.
            self._books.sequence = self._clock.unix_ns() // 1000
        self._watch.recognise()
        for index, attached_mono_ns in self._books.leaving.items():
            memory = self._datapath.attachment(index)
            if memory is not None and int(memory["attached_mono_ns"][0]) == attached_mono_ns:
                self._watch.settle(index)
        self._books.leaving.clear()
        self._frozen.extend(self._datapath.inherited)
        if self._books.offer is not None and not handed_on:
            self._outlet.put(self._snapshot(self._books.offer, self._ledgers(), final=False))

    def absorb(self, predecessors: Sequence[Predecessor]) -> None:
        """Drain what former agents counted, once no program of theirs is attached any more. KernelError, StateError."""
        for direction in FlowDirection:
            self.cut(direction)  # waits for every program that was still running
        for predecessor in predecessors:
            if not self._books.has_absorbed(predecessor.fingerprint):
                self._absorb(predecessor)
        self.drain()
        for predecessor in predecessors:
            predecessor.remove()
            self._books.forget_layout(predecessor.fingerprint)

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
        begun = self._clock.unix_ns(), self._clock.mono_ns()
        frozen = self._datapath.rotations[direction].cut(self._job.max_flows)
        self._cuts[direction, frozen.epoch] = CutTimes(*begun, self._clock.mono_ns())
        if direction is FlowDirection.FROM_POD:
            self._closing = gone
        self._frozen.append(frozen)
        self._cuts_total += 1
        self._observer.step(Step.CUT)

    def drain(self, *, final: bool = False, report: bool = True, followed: bool = True) -> None:
        """Fold what was cut, checkpoint it, and report when it is time. KernelError, StateError: call again.

        Without `report`, all that is unreported is left to the one who goes on from the checkpoint. `followed`: some
        later drain may know more of what the rules cannot be asked about yet.
        """
        self._observer.step(Step.BEGUN)
        closing = self._closing
        cut = list(self._frozen)
        for item in cut:
            self._fold(item)
        if self._books.offer is not None and self._outgoing is None and self._outlet.idle:
            self._confirm()
        former = self._fold_filtered()
        # What is judged now is not shown before it is in the checkpoint: a successor may judge it again, and later.
        with self._settling if len(self._books.held) else nullcontext():
            now_mono_ns = self._clock.mono_ns()
            self._unjudged += self._books.decide(
                self._judge(), max(0, now_mono_ns - HELD_NS), closing, all_of_it=not followed
            )
            came, self._books.came = self._books.came, []
            if self._correlation is not None:
                self._correlation.enter(came, self._here())
            self._books.flows.expire(now_mono_ns, IDLE_NS)
            self._settle(closing)
            if report:
                self._report(final=final)
            header = checkpoint.Header(self._job.boot_id, FINGERPRINT)
            checkpoint.save(self._job.checkpoint, header, self._sections())
        if self._correlation is not None:
            self._correlation.saved()
        self._observer.step(Step.SAVED)
        for item in cut:
            release(item)
            self._frozen.popleft()
        for edition in former:
            self._datapath.rules.release(edition)
        with self._settling:
            for index in self._books.leaving:
                self._watch.settle(index)
            self._books.leaving.clear()
        self._observer.step(Step.RELEASED)
        if self._outgoing is not None:
            self._outlet.put(self._outgoing)
            self._reported, self._outgoing = replace(self._outgoing, edges=None, ledgers=()), None
            self._observer.step(Step.HANDED_ON)
        self._last_drain_unix_ns = self._clock.unix_ns()

    def current(self) -> Snapshot | None:
        """The flows of the last report, the rows since they began, the ledgers now; None before the first report.

        From any thread. KernelError.
        """
        last = self._reported
        if last is None:
            return None
        with self._settling:
            ledgers = tuple(self._ledgers())
        edges = None if self._correlation is None else self._correlation.totals()
        return replace(last, ledgers=ledgers, edges=edges, time_unix_ns=self._clock.unix_ns())

    @property
    def comparison(self) -> Comparison | None:
        """Where agents of other nodes are heard; None: nowhere."""
        return None if self._correlation is None else self._correlation.comparison

    def shown(self) -> tuple[int, Edges] | None:
        """The rows that whoever pulls sees, and a number for `seen`; None: nothing. From any thread."""
        return None if self._correlation is None else self._correlation.shown()

    def seen(self, scraper: str, number: int) -> None:
        """`scraper` has got all that `shown` gave with the number. From any thread."""
        if self._correlation is not None:
            self._correlation.seen(scraper, number)

    def rows(self) -> RowsState | None:
        """Figures of the rows; None where there are none. From any thread."""
        return None if self._correlation is None else self._correlation.state()

    def accounts(self) -> dict[FlowDirection, Accounts]:
        """The ledgers of all interfaces ever watched, added up, now. From any thread. KernelError."""
        with self._settling:
            accounts = dict(self._books.settled)
            for ledger in self._ledgers():
                accounts[ledger.direction] = accounts[ledger.direction].plus(ledger)
            return accounts

    def filtered(self) -> dict[Cause, Traffic]:
        """By each rule that is in use or was, what it filtered until now. From any thread. KernelError."""
        with self._settling:
            totals = dict(self._books.filtered)
            former, current = self._datapath.rules.editions()
            for edition in [*former, *([current] if current else [])]:
                if edition.number > self._books.last_edition():
                    for cause, traffic in edition.read().items():
                        totals[cause] = totals.get(cause, Traffic()) + traffic
            return totals

    def state(self) -> PipelineState:
        """Figures for metrics and status."""
        rotations = self._datapath.rotations
        return PipelineState(
            flows=len(self._books.flows),
            evicted_flows_total=self._books.flows.evicted,
            map_used=dict(self._map_used),
            map_capacity={direction: rotations[direction].capacity for direction in FlowDirection},
            cuts_total=self._cuts_total,
            skipped_cuts_total=self._skipped_cuts_total,
            delayed_reports_total=self._delayed_reports_total,
            discarded=self._discarded,
            held_flows=len(self._books.held),
            unjudged=self._unjudged,
            last_drain_unix_ns=self._last_drain_unix_ns,
            new_flows_per_s=self._new_flows_per_s,
        )

    def _fold(self, frozen: Frozen) -> None:
        cut = self._cuts.pop((frozen.direction, frozen.epoch), None)
        if frozen.epoch <= self._books.last_epoch(frozen.direction):
            return  # in the checkpoint already: it was only not dropped
        keys, stats = frozen.map.read()
        self._observer.step(Step.READ)
        self._books.fold(frozen.direction, frozen.epoch, keys, stats[:, 0], cut)
        self._map_used[frozen.direction] = len(keys)
        self._observer.step(Step.FOLDED)

    def _fold_filtered(self) -> list[Edition]:
        """What the rules filtered whose names are in use no more; release them once it is in a checkpoint."""
        former, _ = self._datapath.rules.editions()
        for edition in former:
            filtered = edition.read()
            with self._settling:
                self._books.fold_filtered(edition.number, filtered)
        return former

    def _absorb(self, predecessor: Predecessor) -> None:
        fingerprint = predecessor.fingerprint
        flows = [
            (direction, keys, stats)
            for direction in FlowDirection
            for keys, stats in predecessor.flows(direction, self._books.last_epoch(direction, fingerprint))
        ]
        self._books.absorb(fingerprint, flows, predecessor.ledgers())
        for edition, filtered in predecessor.filtered().items():
            self._books.fold_filtered(edition, filtered, fingerprint)

    def _settle(self, indexes: frozenset[IfIndex]) -> None:
        """Interfaces that were gone before both cuts: their records are all folded."""
        if not indexes:
            return
        ledgers = [replace(ledger, gone=True) for ledger in self._ledgers() if ledger.ifindex in indexes]
        memories = {index: self._datapath.attachment(index) for index in indexes}
        with self._settling:
            self._books.settle(
                ledgers,
                {index: 0 if each is None else int(each["attached_mono_ns"][0]) for index, each in memories.items()},
            )
        self._farewells += ledgers
        self._closing = frozenset()

    def _report(self, *, final: bool) -> None:
        """Offer what is unreported when it is time, one report at a time: while one is under way, the next grows."""
        books = self._books
        books.polls += 1
        books.flows.evict()
        crowded = books.flows.over_limit()
        if not (final or crowded or books.polls >= self._job.report_every):
            return
        if books.offer is not None:
            self._delayed_reports_total += 1
            if crowded:
                self._discarded += books.flows.discard()
                books.flows.evict()
            return
        self._rate()
        now_unix_ns = self._clock.unix_ns()
        books.offer = Offer(books.sequence, now_unix_ns, now_unix_ns - self._clock.mono_ns())
        books.sequence += books.flows.offer()
        if self._correlation is not None:
            books.sequence += self._correlation.offer()
        books.polls = 0
        ledgers = [*self._farewells, *self._ledgers()]
        self._farewells = []
        self._outgoing = self._snapshot(books.offer, ledgers, final=final)

    def _rate(self) -> None:
        then_mono_ns, then_added = self._rated
        now_mono_ns, added = self._clock.mono_ns(), self._books.flows.added
        self._new_flows_per_s = (added - then_added) * 1e9 / max(1, now_mono_ns - then_mono_ns)
        self._rated = (now_mono_ns, added)

    def _here(self) -> Here:
        """After the cuts."""
        interfaces: dict[IfIndex, tuple[int, tuple[int, int]]] = {}
        for account in self._watch.accounts():
            attached_mono_ns = int(account.attachment["attached_mono_ns"])
            if account.attachment["host"] or account.index in self._books.leaving or not attached_mono_ns:
                continue
            overflowed = int(account.cells["overflowed"]["packets"])
            since_mono_ns, both = interfaces.get(account.index, (attached_mono_ns, (0, 0)))
            sent, received = both
            both = (overflowed, received) if account.direction is FlowDirection.FROM_POD else (sent, overflowed)
            interfaces[account.index] = since_mono_ns, both
        return Here(interfaces, self._receivers(), self._judge())

    def _confirm(self) -> None:
        self._books.flows.confirm()
        if self._correlation is not None:
            self._correlation.confirm()
        self._books.offer = None

    def _sections(self) -> dict[str, Any]:
        return self._books.sections() | ({} if self._correlation is None else self._correlation.sections())

    def _snapshot(self, offer: Offer, ledgers: list[Ledger], *, final: bool) -> Snapshot:
        flows = self._books.flows.offered()
        correlation = self._correlation
        ends, entities = (None, ()) if correlation is None else correlation.ends(flows)
        return Snapshot(
            node=self._job.node,
            monitor=self._job.name,
            monitor_uid=self._job.uid,
            boot_id=self._job.boot_id,
            sequence=offer.sequence,
            time_unix_ns=offer.time_unix_ns,
            unix_minus_mono_ns=offer.unix_minus_mono_ns,
            flows=flows,
            interface_names={ledger.ifindex: ledger.interface for ledger in ledgers},
            ledgers=tuple(ledgers),
            final=final,
            ends=ends,
            entities=entities,
            edges=None if correlation is None else correlation.offered(offer.sequence + len(flows)),
        )

    def _ledgers(self) -> list[Ledger]:
        leaving = self._books.leaving
        return [self._ledger(account) for account in self._watch.accounts() if account.index not in leaving]

    def _ledger(self, account: Account) -> Ledger:
        key = (account.index, account.direction)
        counted, held = self._books.counted(key)
        return Ledger(
            interface=account.name,
            ifindex=account.index,
            direction=account.direction,
            cells=self._books.cells(key, account.cells),
            counted=counted,
            counter=account.counter,
            before_attach=before_attach(account.attachment, account.direction),
            unverifiable=account.unverifiable,
            held=held,
        )

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        try:
            self._books = Books.restore(saved.sections, self._job.max_flows * FLOW_MEMORY, self._job.seed)
            if self._correlation is not None:
                self._correlation.restore(saved.sections)
        except (LookupError, TypeError, ValueError) as error:
            raise StateError(
                f"the checkpoint {self._job.checkpoint} holds not what this version expects ({error}); "
                "run `podwire-agent cleanup` to start anew"
            ) from error
