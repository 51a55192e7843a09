"""The wiring and supervision of everything on one node: from NetworkMonitors to reports, until told to stop."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from podwire_agent import __version__, checkpoint
from podwire_agent.clock import SystemClock
from podwire_agent.cutter import Cutter
from podwire_agent.endpoint import Endpoint
from podwire_agent.errors import PodwireError, SinkClosed
from podwire_agent.kernel import bpffs, capabilities, heap, probes
from podwire_agent.kernel.bcc_loader import BccLoader
from podwire_agent.kernel.claim import sole_directory, sole_name
from podwire_agent.kernel.cni import Selector
from podwire_agent.kernel.datapath import Datapath, in_use
from podwire_agent.kernel.events import InterfaceEvents
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.loader import LibbpfLoader, Loader
from podwire_agent.kernel.predecessor import LAYOUT, Predecessor, left_by_other_layouts, unreadable
from podwire_agent.kernel.tc import Owner, TrafficControl
from podwire_agent.kernel.watch import Watch
from podwire_agent.layout import FINGERPRINT, FlowDirection
from podwire_agent.model import MonitorUid
from podwire_agent.outputs import sinks_for
from podwire_agent.pipeline import Job, Pipeline
from podwire_agent.ports import Sink
from podwire_agent.rulekeeper import RuleKeeper
from podwire_agent.settings import LoaderName, Settings
from podwire_agent.sinks.outbox import Outbox
from podwire_agent.state import StateDirectory
from podwire_agent.telemetry import AgentState, Exposition, MonitorState, StepTimes, health, readiness
from podwire_api import CniName, NetworkMonitor, NetworkMonitorSpec

log = logging.getLogger(__name__)

LAST_REPORT_S = 10.0
"""How long a sink may take for the last reports before they are given up."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """A running NetworkMonitor."""

    uid: MonitorUid
    name: str
    period_ns: int
    paused: bool
    datapath: Datapath
    watch: Watch
    pipeline: Pipeline
    outbox: Outbox
    rules: RuleKeeper

    def state(self, missed_cuts: int) -> MonitorState:
        """What a scrape shows of it. KernelError."""
        pipeline = self.pipeline.state()
        watched = self.watch.watched()
        failed = sum(bool(item.failure) for item in watched)
        return MonitorState(
            name=self.name,
            period_s=self.period_ns / 1e9,
            scanned=True,
            last_drain_unix_s=pipeline.last_drain_unix_ns / 1e9,
            paused=self.paused,
            accounts=self.pipeline.accounts(),
            filtered=self.pipeline.filtered(),
            flows=pipeline.flows,
            evicted_flows_total=pipeline.evicted_flows_total,
            map_used=pipeline.map_used,
            map_capacity=pipeline.map_capacity,
            cuts_total=pipeline.cuts_total,
            missed_cuts_total=missed_cuts + pipeline.skipped_cuts_total,
            delayed_reports_total=pipeline.delayed_reports_total,
            interfaces={"attached": len(watched) - failed, "failed": failed},
            attach_failures_total=self.watch.failures_total,
            discarded=pipeline.discarded,
            outbox=(self.outbox.name, self.outbox.counters),
        )


def default_loader(settings: Settings) -> Loader:
    """The one chosen, with the programs that suit this kernel."""
    coarse_clock = probes.coarse_clock()
    if settings.loader is LoaderName.BCC:
        return BccLoader(settings.objects / "bcc", coarse_clock=coarse_clock)
    return LibbpfLoader(settings.objects / ("flow.bpf.o" if coarse_clock else "flow-compat.bpf.o"))


class Agent:
    """Context manager: attached on entry; on exit drained, reported and, unless kept, without a trace."""

    def __init__(self, resources: Sequence[NetworkMonitor], settings: Settings, stop: threading.Event) -> None:
        """`stop` is set by the agent too, once nobody reads its lines any more. ResourceError."""
        self.failed = False
        """Something went wrong that the exit code should tell."""
        self.monitors: dict[MonitorUid, Monitor] = {}
        self._step_times = StepTimes()
        self._started_unix_s = time.time()
        self._loader = ""
        self._cutter: Cutter
        self._resources = resources
        self._rules = {MonitorUid(resource.uid): RuleKeeper.of(resource.spec, settings.refs) for resource in resources}
        self._stop = stop
        self._settings = settings
        self._clock = SystemClock()
        self._state: StateDirectory
        self._events: InterfaceEvents
        self._stack = ExitStack()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch_interfaces, name="interfaces")

    def __enter__(self) -> Self:
        """StateError, KernelError, LoadError: then nothing new is left attached."""
        with ExitStack() as stack:
            undo: list[ExitStack] = []
            capabilities.require()
            self._state = stack.enter_context(StateDirectory(self._settings.state_dir))
            heap.give_back()
            probes.raise_memlock()
            home = bpffs.ensure(self._settings.bpffs)
            probes.require(probes.features())
            loader = default_loader(self._settings)
            self._loader = loader.name
            # Subscribed before the first scan: what is born in between is not missed.
            self._events = stack.enter_context(InterfaceEvents())
            endpoint = self._endpoint()
            sinks = sinks_for([resource.spec for resource in self._resources], sys.stdout, sys.stderr)
            for resource, sink in zip(self._resources, sinks, strict=True):
                undo.append(self._start(resource, sink, home, loader, stack))
            self._cutter = Cutter(
                {uid: monitor.pipeline for uid, monitor in self.monitors.items()},
                {uid: monitor.period_ns for uid, monitor in self.monitors.items()},
                self._clock,
            )
            if endpoint is not None:
                stack.enter_context(endpoint)
            for each in undo:
                each.pop_all()
            self._stack = stack.pop_all()
        self._watcher.start()
        self._cutter.start()
        watched = sum(not item.failure for monitor in self.monitors.values() for item in monitor.watch.watched())
        log.info("ready: %d monitors, %d interfaces attached, loader %s", len(self.monitors), watched, self._loader)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._events.wake()
        self._watcher.join()
        self._cutter.stop()
        with self._stack:
            for monitor in self.monitors.values():
                self._finish(monitor)

    def _start(self, resource: NetworkMonitor, sink: Sink, home: Path, loader: Loader, stack: ExitStack) -> ExitStack:
        """Bring one monitor up; the stack returned takes down what is new of it, should another one fail."""
        spec = resource.spec
        uid = MonitorUid(resource.uid)
        control = stack.enter_context(TrafficControl())
        interfaces = stack.enter_context(Interfaces())
        undo = stack.enter_context(ExitStack())
        fresh = not in_use(home / uid)
        if fresh:
            undo.callback(self._state.forget, uid)
        owner = Owner(uid, self._state.slot(uid), home / uid)
        stack.enter_context(sole_name(owner.name))
        stack.enter_context(sole_directory(owner.pins))
        predecessors = self._predecessors(home / uid, uid, stack)
        datapath = stack.enter_context(Datapath.open(home, uid, loader, spec.max_flows))
        watch = Watch(datapath, control, interfaces, selector_of(spec).select, owner)
        if fresh:
            undo.callback(datapath.remove)
        rules = self._rules[uid]
        rules.enforce(datapath.rules)
        outbox = stack.enter_context(Outbox(sink, self._nobody_reads))
        job = Job(
            uid=uid,
            name=resource.metadata.name,
            node=self._settings.node,
            boot_id=self._state.boot_id,
            max_flows=spec.max_flows,
            report_every=spec.report_every,
            checkpoint=self._state.checkpoint(uid),
            seed=secrets.randbits(63),
        )
        pipeline = Pipeline(job, datapath, watch, outbox, self._clock, self._step_times)
        pipeline.resume(None if fresh else self._saved(uid), predecessors)
        if spec.paused:
            watch.detach()
            log.info("monitor %s is paused: nothing is attached", job.name)
        else:
            if fresh:
                undo.callback(watch.detach)
            watch.scan()
        pipeline.absorb(predecessors)
        self.monitors[uid] = Monitor(
            uid, job.name, spec.polling_period_ns, spec.paused, datapath, watch, pipeline, outbox, rules
        )
        return undo

    def _predecessors(self, directory: Path, uid: MonitorUid, stack: ExitStack) -> list[Predecessor]:
        """Maps of other layouts; and a description of ours, for successors with another one."""
        mine = self._state.layout(uid, FINGERPRINT)
        if not mine.exists():
            shapes = {name: np.zeros(0, dtype) for name, dtype in LAYOUT.items()}
            checkpoint.save(mine, checkpoint.Header(self._state.boot_id, FINGERPRINT), shapes)
        found = []
        for path in left_by_other_layouts(directory):
            saved = checkpoint.load(self._state.layout(uid, path.name))
            if saved is None:
                raise unreadable(path)
            layout = {name: shape.dtype for name, shape in saved.sections.items() if isinstance(shape, np.ndarray)}
            found.append(stack.enter_context(Predecessor(path, layout)))
        return found

    def _saved(self, uid: MonitorUid) -> checkpoint.Checkpoint | None:
        """What a former agent saved, of this boot: another one's counted with maps that are gone."""
        saved = checkpoint.load(self._state.checkpoint(uid))
        return saved if saved is not None and saved.header.boot_id == self._state.boot_id else None

    def state(self) -> AgentState:
        """What a scrape or a probe shows. KernelError."""
        return AgentState(
            version=__version__,
            kernel=os.uname().release,
            loader=self._loader,
            started_unix_s=self._started_unix_s,
            monitors=tuple(
                monitor.state(self._cutter.missed_totals[monitor.uid]) for monitor in self.monitors.values()
            ),
            late_s=self._cutter.late_ns / 1e9,
            failures_total=self._cutter.failures_total,
        )

    def _endpoint(self) -> Endpoint | None:
        if self._settings.listen == "off":
            return None
        exposition = Exposition(self.state, self._step_times)
        return Endpoint(
            self._settings.listen,
            lambda: health(self.state(), time.time()),
            lambda: readiness(self.state()),
            exposition.render,
        )

    def _nobody_reads(self, _closed: SinkClosed) -> None:
        self.failed = True
        self._stop.set()

    def _watch_interfaces(self) -> None:
        """Follow births and deaths; look at everything once a period, since an event may have told too little."""
        period_ns = min(monitor.period_ns for monitor in self.monitors.values())
        scan_mono_ns = self._clock.mono_ns() + period_ns
        while not self._stopping.is_set():
            changes = self._events.wait(max(0, scan_mono_ns - self._clock.mono_ns()) / 1e9)
            due = self._clock.mono_ns() >= scan_mono_ns
            if due:
                scan_mono_ns = self._clock.mono_ns() + period_ns
            for monitor in self.monitors.values():
                if monitor.paused:
                    continue
                try:
                    if due:
                        monitor.rules.renew(monitor.datapath.rules)
                    monitor.watch.change(changes.changed, changes.removed)
                    # What is removed here may live on elsewhere: a veth's end that moved away makes the other
                    # one a pod's, and the kernel does not tell of that.
                    if due or changes.overrun or changes.removed:
                        monitor.watch.scan()
                except PodwireError as error:
                    log.error("watching interfaces for monitor %s failed, tried again: %s", monitor.name, error)

    def _finish(self, monitor: Monitor) -> None:
        """The last drain and report. What fails here stays pinned, for `podwire-agent cleanup` or a successor."""
        try:
            monitor.pipeline.drain()  # what may have waited for room: the last report comes after it
            taken = monitor.outbox.wait(LAST_REPORT_S)
            if not self._settings.keep:
                monitor.watch.detach()
            for direction in FlowDirection:
                monitor.pipeline.cut(direction)
            monitor.pipeline.drain(final=True)
            taken &= monitor.outbox.wait(LAST_REPORT_S)
            if not self._settings.keep:
                monitor.datapath.remove()
                self._state.forget(monitor.uid)
            if not taken:
                self.failed = True
                log.error(
                    "monitor %s: nobody took its last reports within %g s; %s",
                    monitor.name,
                    LAST_REPORT_S,
                    "the next run repeats them" if self._settings.keep else "what they held is lost",
                )
        except PodwireError as error:
            self.failed = True
            log.error("ending monitor %s: %s", monitor.name, error)


def selector_of(spec: NetworkMonitorSpec) -> Selector:
    """The choice of interfaces that the resource makes."""
    interfaces = spec.interfaces
    hosts = frozenset(interfaces.host_interfaces)
    if interfaces.veth_pattern is not None:
        return Selector(interfaces.veth_pattern, hosts)
    if interfaces.cni is not CniName.AUTO:
        return Selector.of_cni(interfaces.cni, hosts)
    return Selector(host_interfaces=hosts)
