"""One running NetworkMonitor: begun from what is pinned, ended with or without a trace."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from podwire_agent import checkpoint
from podwire_agent.comparison import Channel, Comparison
from podwire_agent.containment import Crashed
from podwire_agent.core import loss
from podwire_agent.core.coverage import Word
from podwire_agent.correlation import Correlation, Sight
from podwire_agent.errors import PodwireError
from podwire_agent.ground import Ground
from podwire_agent.kernel.claim import sole_directory, sole_name
from podwire_agent.kernel.cni import Selector
from podwire_agent.kernel.datapath import Datapath, in_use
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.predecessor import LAYOUT, Predecessor, left_by_other_layouts, unreadable
from podwire_agent.kernel.tc import Owner, TrafficControl
from podwire_agent.kernel.watch import Select, Watch, Watched
from podwire_agent.layout import FINGERPRINT, FlowDirection
from podwire_agent.model import Edges, IfIndex, MonitorUid, Snapshot
from podwire_agent.pipeline import Job, Pipeline
from podwire_agent.ports import Clock
from podwire_agent.rulekeeper import RuleKeeper
from podwire_agent.sinks.outbox import Outbox
from podwire_agent.telemetry import MonitorState
from podwire_api import CniName, NetworkMonitor, NetworkMonitorSpec

log = logging.getLogger(__name__)

Choose = Callable[[NetworkMonitorSpec], Select]
"""How the interfaces are chosen that a spec asks for."""

LOSS_MEMORY = 2
"""Flows between pods that are remembered to be compared, each way, in multiples of maxFlows."""


class Seer(Protocol):
    """How a monitor learns what is behind its flows."""

    @property
    def channel(self) -> Channel | None:
        """To the agents of other nodes; None: they are not asked."""

    def look(self, word: Word) -> Sight:
        """As things are now. `word`: what other agents have said that they count."""

    def receivers(self) -> Mapping[bytes, IfIndex]:
        """The addresses of the pods behind interfaces that are watched."""


Look = Callable[[NetworkMonitor, Callable[[], list[Watched]], RuleKeeper], Seer]
"""How one learns what is behind the flows of a monitor, with its interfaces and its rules."""


def selector_of(spec: NetworkMonitorSpec) -> Selector:
    """The choice of interfaces that the resource makes."""
    interfaces = spec.interfaces
    hosts = frozenset(interfaces.host_interfaces)
    if interfaces.veth_pattern is not None:
        return Selector(interfaces.veth_pattern, hosts)
    if interfaces.cni is not CniName.AUTO:
        return Selector.of_cni(interfaces.cni, hosts)
    return Selector(host_interfaces=hosts)


@dataclass(frozen=True, slots=True)
class RunningMonitor:
    """Attached, cut and drained by the ground's threads. One of `hand_over`, `finish` and `abandon` ends it."""

    uid: MonitorUid
    resource: NetworkMonitor
    fresh: bool
    """It found nothing of a former agent."""
    _ground: Ground
    _datapath: Datapath
    _watch: Watch
    _pipeline: Pipeline
    _rules: RuleKeeper
    _outbox: Outbox
    _stack: ExitStack

    @classmethod
    def start(
        cls,
        resource: NetworkMonitor,
        ground: Ground,
        outbox: Outbox,
        select: Select,
        rules: RuleKeeper,
        crashed: Crashed,
        look: Look | None,
        *,
        handed_on: bool = False,
    ) -> RunningMonitor:
        """Go on where the pins and the checkpoint say that a former one ended, else begin.

        `look`: how what is behind its flows is known; None: nobody can say.
        `handed_on`: the report that was under way then is in the outbox already. `crashed` is told of errors that
        nobody foresaw. StateError, KernelError, LoadError, ResourceError: then nothing new is left attached.
        """
        spec, uid = resource.spec, MonitorUid(resource.uid)
        with ExitStack() as stack:
            control = stack.enter_context(TrafficControl())
            interfaces = stack.enter_context(Interfaces())
            fresh = not in_use(ground.home / uid)
            if fresh:
                undo = stack.enter_context(ExitStack())
                undo.callback(ground.state.forget, uid)
            owner = Owner(uid, ground.state.slot(uid), ground.home / uid)
            stack.enter_context(sole_name(owner.name))
            stack.enter_context(sole_directory(owner.pins))
            predecessors = _predecessors(ground, uid, stack)
            datapath = stack.enter_context(Datapath.open(ground.home, uid, ground.loader, spec.max_flows))
            rules.enforce(datapath.rules)  # of whatever rules a former agent left none is in force any more
            watch = Watch(datapath, control, interfaces, select, owner)
            job = _job(resource, ground)
            seer = None if look is None else look(resource, watch.watched, rules)
            pipeline = Pipeline(
                job,
                datapath,
                watch,
                outbox,
                ground.clock,
                ground.observer,
                lambda: rules.judge,
                None if seer is None else _correlation(seer, spec, job, ground.clock),
                dict if seer is None else seer.receivers,
            )
            if seer is not None and seer.channel is not None:
                stack.callback(seer.channel.close)
            stack.callback(ground.births.remove, uid)
            stack.callback(ground.cutter.remove, uid)
            with ExitStack() as failed:
                if fresh:
                    failed.callback(datapath.remove)
                    failed.callback(watch.detach)
                    failed.callback(ground.births.remove, uid)
                pipeline.resume(None if fresh else _saved(ground, uid), predecessors, handed_on=handed_on)
                if spec.paused:
                    watch.release()
                    log.info("monitor %s is paused: nothing is attached", resource.metadata.name)
                else:
                    ground.births.add(uid, watch, partial(rules.renew, datapath.rules), spec.polling_period_ns, crashed)
                    watch.scan()
                given_up = watch.gone()
                pipeline.absorb(predecessors)
                if given_up and not spec.paused:
                    watch.scan()  # settled now: what begins a new account there can
                failed.pop_all()
            if fresh:
                undo.pop_all()
            ground.cutter.add(uid, pipeline, spec.polling_period_ns, crashed)
            return cls(uid, resource, fresh, ground, datapath, watch, pipeline, rules, outbox, stack.pop_all())

    @property
    def name(self) -> str:
        """The resource's."""
        return self.resource.metadata.name

    def watched(self) -> list[Watched]:
        """What is watched now, and what could not be; nothing while it is paused."""
        return self._watch.watched()

    def notes(self) -> tuple[str, ...]:
        """What its user should know of what its rules refer to."""
        return self._rules.notes

    def new_flows_per_s(self) -> float:
        """Over the interval of the last report."""
        return self._pipeline.state().new_flows_per_s

    def current(self) -> Snapshot | None:
        """What it has to tell now; None before the first report. KernelError."""
        return self._pipeline.current()

    def comparison(self) -> Comparison | None:
        """See Pipeline.comparison."""
        return self._pipeline.comparison

    def shown(self) -> tuple[int, Edges] | None:
        """See Pipeline.shown."""
        return self._pipeline.shown()

    def seen(self, scraper: str, number: int) -> None:
        """See Pipeline.seen."""
        self._pipeline.seen(scraper, number)

    def state(self) -> MonitorState:
        """What a scrape shows of it. KernelError."""
        pipeline = self._pipeline.state()
        watched = self._watch.watched()
        failed = sum(bool(item.failure) for item in watched)
        return MonitorState(
            name=self.name,
            period_s=self.resource.spec.polling_period_ns / 1e9,
            scanned=True,
            last_drain_unix_s=pipeline.last_drain_unix_ns / 1e9,
            paused=self.resource.spec.paused,
            accounts=self._pipeline.accounts(),
            filtered=self._pipeline.filtered(),
            flows=pipeline.flows,
            evicted_flows_total=pipeline.evicted_flows_total,
            map_used=pipeline.map_used,
            map_capacity=pipeline.map_capacity,
            cuts_total=pipeline.cuts_total,
            missed_cuts_total=self._ground.cutter.missed_total(self.uid) + pipeline.skipped_cuts_total,
            delayed_reports_total=pipeline.delayed_reports_total,
            interfaces={"attached": len(watched) - failed, "failed": failed},
            attach_failures_total=self._watch.failures_total,
            discarded=pipeline.discarded,
            held_flows=pipeline.held_flows,
            unjudged=pipeline.unjudged,
            rows=self._pipeline.rows(),
        )

    def hand_over(self) -> bool:
        """For one that goes on in this process, with another spec: the programs stay, and count on.

        Whether the report under way is in the outbox. What cannot be written now is still pinned, as after a crash.
        """
        with self._stack:
            self._leave_threads()
            try:
                for direction in FlowDirection:
                    self._pipeline.cut(direction)
                self._pipeline.drain(report=False)
            except PodwireError as error:
                log.warning("monitor %s: handing over: %s; it goes on from what is pinned", self.name, error)
                return False
        return True

    def finish(self, *, keep: bool, patience_s: float) -> bool:
        """The last drain and report; `keep` it attached for another agent, or leave nothing.

        Whether the sink took the last reports, each within `patience_s`. PodwireError: what failed stays pinned.
        """
        with self._stack:
            self._leave_threads()
            self._pipeline.drain()  # what may have waited for room: the last report comes after it
            taken = self._outbox.wait(patience_s)
            if not keep:
                self._watch.detach()
            for direction in FlowDirection:
                self._pipeline.cut(direction)
            self._pipeline.drain(final=True, followed=keep)
            taken &= self._outbox.wait(patience_s)
            if not keep:
                self._datapath.remove()
                self._ground.state.forget(self.uid)
        if not taken:
            log.error(
                "monitor %s: nobody took its last reports within %g s; %s",
                self.name,
                patience_s,
                "the next run repeats them" if keep else "what they held is lost",
            )
        return taken

    def abandon(self, *, undo: bool = False) -> None:
        """As if killed: what is pinned stays as it is. With `undo` what it began is taken away. PodwireError."""
        with self._stack:
            self._leave_threads()
            if undo and self.fresh:
                self._watch.detach()
                self._datapath.remove()
                self._ground.state.forget(self.uid)

    def _leave_threads(self) -> None:
        self._ground.births.remove(self.uid)
        self._ground.cutter.remove(self.uid)


def _correlation(seer: Seer, spec: NetworkMonitorSpec, job: Job, clock: Clock) -> Correlation:
    channel = seer.channel if spec.loss.exchange else None
    comparing = loss.Job(
        node=job.node,
        boot_id=job.boot_id,
        limit=LOSS_MEMORY * job.max_flows,
        period_ns=spec.polling_period_ns,
        exchange=channel is not None,
        seed=job.seed,
    )
    comparison = Comparison(comparing, clock, channel)
    pulled = any(sink.prometheus is not None for sink in spec.sinks)
    return Correlation(lambda: seer.look(comparison.word), spec.max_rows, clock, comparison, pulled=pulled)


def _job(resource: NetworkMonitor, ground: Ground) -> Job:
    spec, uid = resource.spec, MonitorUid(resource.uid)
    return Job(
        uid=uid,
        name=resource.metadata.name,
        node=ground.settings.node,
        boot_id=ground.state.boot_id,
        max_flows=spec.max_flows,
        report_every=spec.report_every,
        checkpoint=ground.state.checkpoint(uid),
        seed=secrets.randbits(63),
    )


def _predecessors(ground: Ground, uid: MonitorUid, stack: ExitStack) -> list[Predecessor]:
    """Maps of other layouts; and a description of ours, for successors with another one."""
    state = ground.state
    mine = state.layout(uid, FINGERPRINT)
    if not mine.exists():
        shapes = {name: np.zeros(0, dtype) for name, dtype in LAYOUT.items()}
        checkpoint.save(mine, checkpoint.Header(state.boot_id, FINGERPRINT), shapes)
    found = []
    for path in left_by_other_layouts(ground.home / uid):
        saved = checkpoint.load(state.layout(uid, path.name))
        if saved is None:
            raise unreadable(path)
        layout = {name: shape.dtype for name, shape in saved.sections.items() if isinstance(shape, np.ndarray)}
        found.append(stack.enter_context(Predecessor(path, layout)))
    return found


def _saved(ground: Ground, uid: MonitorUid) -> checkpoint.Checkpoint | None:
    """What a former agent saved, of this boot: another one's counted with maps that are gone."""
    saved = checkpoint.load(ground.state.checkpoint(uid))
    return saved if saved is not None and saved.header.boot_id == ground.state.boot_id else None
