"""The agent on a node of a cluster: serves every monitor that selects the node, and tells of them in its AgentNode."""

from __future__ import annotations

import logging
import math
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from podwire_agent import __version__, doctor
from podwire_agent.behind import PodsBehind
from podwire_agent.clock import SystemClock
from podwire_agent.cluster_rules import ClusterRules, read_config_map
from podwire_agent.comparison import Comparison
from podwire_agent.containment import Crashed, contained
from podwire_agent.endpoint import Endpoints
from podwire_agent.errors import EndpointError, ExchangeError, PodwireError, SinkClosed, StateError
from podwire_agent.ground import Ground
from podwire_agent.kernel import bpffs, heap
from podwire_agent.kernel.addresses import Addresses
from podwire_agent.kernel.cni import Role, Selection
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.watch import Select
from podwire_agent.kube.access import Access
from podwire_agent.kube.agent_node import AgentNodeWriter
from podwire_agent.kube.connection import Connection
from podwire_agent.kube.memory import recall, remember
from podwire_agent.kube.monitors import MonitorObject
from podwire_agent.kube.referred import Referred
from podwire_agent.kube.succession import successor_expected
from podwire_agent.kube.view import ClusterView, ClusterWatch
from podwire_agent.local_api import LocalApi
from podwire_agent.model import Interface, MonitorUid
from podwire_agent.monitor import selector_of
from podwire_agent.node_report import NodeReport
from podwire_agent.outputs import ContainerOutput
from podwire_agent.peers import Peers
from podwire_agent.roster import Roster
from podwire_agent.settings import Membership, Settings
from podwire_agent.sights import Sights
from podwire_agent.state import StateDirectory
from podwire_agent.supervisor import Currently, Ending, Supervised, Supervisor
from podwire_agent.telemetry import (
    NOBODY_ASKED,
    AgentState,
    ClusterState,
    ExchangeState,
    StepTimes,
    TranslationsState,
    readiness,
)
from podwire_agent.translating import Conntrack, ConntrackFigures
from podwire_agent.unbuilt import refusals
from podwire_agent.who import Who
from podwire_api import NetworkMonitorSpec
from podwire_api.selection import served

log = logging.getLogger(__name__)

LAST_REPORT_S = 3.0
"""How long a sink may take for the last reports; a pod has 30 s for its end, and others wait for their turn."""
END_S = 14.0
"""For all monitors to end."""
MEMORY_S = 3.0
"""How long the API server may be away at the start before the monitors of the former agent are served."""
LOCK_AGAIN_S = 1.0
AFTER_FAILURE_S = 5.0
TRIM_S = 5.0
"""After a list, the heap is trimmed."""
GROUND_AGAIN_S = 30.0
"""After the node was found to lack something."""


@dataclass(frozen=True, slots=True)
class _Serving:
    """What there is once the node is known to be suitable."""

    ground: Ground
    behind: PodsBehind
    rules: ClusterRules
    conntrack: Conntrack
    who: Who
    roster: Roster


class ClusterAgent:
    """Context manager: on exit it stays attached if another agent will follow on this node, else it leaves no trace."""

    def __init__(
        self, settings: Settings, membership: Membership, connection: Connection, stop: threading.Event
    ) -> None:
        """`stop` is set by the agent too, once nobody reads its lines any more, or it cannot listen."""
        self.failed = False
        """Something went wrong that the exit code should tell."""
        self._settings = settings
        self._membership = membership
        self._connection = connection
        self._stop = stop
        self._clock = SystemClock()
        self._step_times = StepTimes()
        self._started_unix_s = time.time()
        self._started_s = time.monotonic()
        self._stack = ExitStack()
        self._bell = threading.Event()
        self._halt = threading.Event()
        self._output = ContainerOutput(sys.stdout)
        self._watch = ClusterWatch(connection, settings.node, self._clock, self._bell.set)
        self._referred = Referred(connection, self._clock, read_config_map)
        self._pods_here = 0
        """The version of this node's pods that was looked at."""
        self._state: StateDirectory | None = None
        self._serving: _Serving | None = None
        self._peers: Peers | None = None
        self._sights: Sights | None = None
        self._again_s = 0.0
        self._report: NodeReport | None = None
        self._endpoints: Endpoints | None = None
        self._served: tuple[MonitorObject, ...] | None = None
        self._current = False
        """The last view was complete, and followed."""
        self._lists = 0
        """That there were when `_trim_s` was set."""
        self._trim_s = math.inf
        self._was_ready = False
        self._problems: tuple[str, ...] = ()
        self._thread = threading.Thread(target=self._run, name="cluster")

    def __enter__(self) -> Self:
        heap.give_back()  # before the first thread: later ones would have heaps of their own
        with ExitStack() as stack:
            stack.enter_context(self._watch)
            stack.enter_context(self._referred)
            self._stack = stack.pop_all()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._halt.set()
        self._bell.set()
        self._thread.join()
        with self._stack:
            self._end()

    def state(self) -> AgentState:
        """What a scrape or a probe shows. KernelError."""
        serving, view = self._serving, self._watch.view()
        stale_since = None if view is None else self._stale_since_mono_ns(view)
        report = self._report
        writer = None if report is None else report.writer
        return AgentState(
            version=__version__,
            kernel=os.uname().release,
            loader=self._settings.loader,
            started_unix_s=self._started_unix_s,
            monitors=() if serving is None else tuple(each.state() for each in serving.roster.supervisors().values()),
            late_s=0.0 if serving is None else serving.ground.cutter.late_ns / 1e9,
            failures_total=0 if serving is None else serving.ground.cutter.failures_total,
            cluster=ClusterState(
                view=self._served is not None,
                stale_s=0.0 if stale_since is None else (self._clock.mono_ns() - stale_since) / 1e9,
                pods=len(self._watch.pods),
                monitors={} if report is None else report.by_reason(),
                problems=self._problems,
                status_writes_total=0 if writer is None else writer.writes_total,
                status_failures_total=0 if writer is None else writer.failures_total,
                api_errors_total=self._connection.errors_total,
                forgotten_addresses_total=0 if serving is None else serving.who.forgotten_total,
                translations=TranslationsState() if serving is None else _translations(serving.conntrack.figures),
                exchange=ExchangeState() if self._peers is None else self._peers.state(),
            ),
            endpoint=NOBODY_ASKED if self._endpoints is None else self._endpoints.state(),
        )

    def _stale_since_mono_ns(self, view: ClusterView) -> int | None:
        """Of what decides what is measured, and of whose addresses are which."""
        who = None if self._serving is None else self._serving.who.stale_since_mono_ns
        return min((each for each in (view.stale_since_mono_ns, who) if each is not None), default=None)

    def _run(self) -> None:
        while not self._halt.is_set():
            wait_s = None
            try:
                with contained("serving the cluster's monitors", lambda _error: None):
                    wait_s = self._step()
            except (EndpointError, ExchangeError) as error:
                log.error("%s", error)
                self.failed = True
                self._stop.set()
                return
            except PodwireError as error:
                log.error("serving the cluster's monitors failed, tried again: %s", error)
            if wait_s is None:
                self._halt.wait(AFTER_FAILURE_S)  # whatever rings meanwhile
            else:
                self._bell.wait(wait_s)
            self._bell.clear()

    def _step(self) -> float:
        """Bring everything nearer to what the cluster wants; after how many seconds to look again at the latest."""
        if self._state is None:
            self._state = self._locked()
        if self._state is None:
            return LOCK_AGAIN_S
        if self._report is None:
            self._report = self._listening(self._state)
        if self._serving is None and time.monotonic() >= self._again_s:
            self._serving = self._prepared(self._state)
        view, serving = self._watch.view(), self._serving
        selecting = self._selecting(view, self._state)
        if selecting is None:
            return MEMORY_S / 10
        waits = [GROUND_AGAIN_S]
        runnable = _runnable(selecting)
        if view is not None:
            self._remember(runnable, self._state)
        self._trim()
        problems = self._problems
        if serving is not None:
            serving.roster.match(runnable)
            serving.who.serve([each.resource.spec for each in runnable if each.resource is not None])
            if self._has_become_current(view):
                serving.roster.sweep_soon()
            if self._current:
                waits.append(serving.roster.sweep())
            waits.append(self._look_behind(serving))
            problems += serving.roster.left
        self._served = runnable
        roster, behind = (None, None) if serving is None else (serving.roster, serving.behind)
        waits.append(self._report.tell(selecting, roster, behind, problems))
        self._tell_when_ready()
        return min(waits)

    def _locked(self) -> StateDirectory | None:
        """The state directory; None while another agent has it, as in the moment of a succession."""
        try:
            return self._stack.enter_context(StateDirectory(self._settings.state_dir))
        except StateError as error:
            if str(error) not in self._problems:
                log.warning("waiting: %s", error)
            self._problems = (str(error),)
            return None

    def _listening(self, state: StateDirectory) -> NodeReport:
        """Whoever has the lock answers for the node. EndpointError."""
        access = Access(self._connection)
        endpoints = Endpoints(self._settings, self.state, self._step_times, access, self._supervisors)
        self._endpoints = self._stack.enter_context(endpoints)
        if self._membership.exchange_port is not None:
            peers = Peers(
                self._membership.exchange_port,
                self._settings.tls_dir,
                self._settings.node,
                state.boot_id,
                self._clock,
                lambda node: None if self._sights is None else self._sights.agent_of(node),
                self._receiver,
            )
            self._peers = self._stack.enter_context(peers)
        writer = AgentNodeWriter(self._connection, self._settings.node, self._clock)
        return NodeReport(writer, self._membership, state.boot_id, self._settings.loader, self._clock)

    def _receiver(self, uid: MonitorUid) -> tuple[Comparison, Crashed] | None:
        found = None if self._serving is None else self._serving.roster.supervisors().get(uid)
        comparison = None if found is None else found.comparison()
        return None if found is None or comparison is None else (comparison, found.crashed)

    def _supervisors(self) -> Iterable[Supervisor]:
        return () if self._serving is None else self._serving.roster.supervisors().values()

    def _prepared(self, state: StateDirectory) -> _Serving | None:
        """What monitors stand on; None where the node lacks something for it, to be tried again."""
        try:
            ground = Ground(self._settings, state, self._clock, self._step_times, mount=False)
        except PodwireError as error:
            missing, _ = doctor.what_is_missing(self._settings, bpffs.HOW_TO_MOUNT)
            problems = tuple(missing) or (str(error),)
            if problems != self._problems:
                log.error("this node is not suitable, looked at again every %g s: %s", GROUND_AGAIN_S, error)
            self._problems = problems
            self._again_s = time.monotonic() + GROUND_AGAIN_S
            return None
        self._problems = ()
        self._stack.enter_context(ground)
        interfaces = self._stack.enter_context(Interfaces())
        addresses = self._stack.enter_context(Addresses())
        behind = PodsBehind(self._watch.pods, self._settings.node, self._clock, interfaces, addresses)
        rules = ClusterRules(self._watch, self._referred, behind, ground.births.renew_soon, self._bell.set)
        who = Who(self._watch, self._referred, behind, self._settings.node, self._clock)
        conntrack = self._stack.enter_context(Conntrack(self._clock, secrets.randbits(63)))
        channel = None if self._peers is None else self._peers.channel
        sights = Sights(self._watch, who, behind, conntrack.translations, self._settings.node, self._halt, channel)
        self._sights = sights
        common = Supervised(
            ground=ground,
            choose=partial(_choose, behind),
            rules=rules.keeper,
            sink=lambda resource: self._output.sink(resource.spec),
            nobody_reads=self._nobody_reads,
            changed=self._bell.set,
            patience_s=LAST_REPORT_S,
            look=sights.of,
        )
        ground.births.changed = self._bell.set
        self._referred.changed = rules.look
        self._watch.pods_changed = partial(self._pods_changed, rules)
        ground.start()
        self._stack.enter_context(LocalApi(state.socket, Currently(self._supervisors)))
        return _Serving(ground, behind, rules, conntrack, who, Roster(common))

    def _pods_changed(self, rules: ClusterRules) -> None:
        """In the thread that follows the pods, at each event."""
        here = self._watch.pods.version_here
        if here != self._pods_here:  # one may be behind an interface of which nothing was known
            self._pods_here = here
            self._bell.set()
        rules.look()

    def _selecting(self, view: ClusterView | None, state: StateDirectory) -> tuple[MonitorObject, ...] | None:
        """The monitors that mean this node, the oldest first; None where that is not known (yet)."""
        if view is not None:
            return view.selecting()
        if self._served is not None:
            return self._served
        if time.monotonic() - self._started_s < MEMORY_S:
            return None
        recalled = recall(state.remembered)
        if recalled:
            log.warning("the API server is away: serving the %d monitors that the former agent served", len(recalled))
        return recalled

    def _remember(self, runnable: tuple[MonitorObject, ...], state: StateDirectory) -> None:
        if runnable == self._served and state.remembered.exists() == bool(runnable):
            return
        if runnable:
            remember(state.remembered, runnable)
        else:
            state.remembered.unlink(missing_ok=True)

    def _has_become_current(self, view: ClusterView | None) -> bool:
        """The view is complete and followed, as it was not before: what is not in it is not."""
        before = self._current
        self._current = view is not None and view.stale_since_mono_ns is None and not view.denied
        return self._current and not before

    def _trim(self) -> None:
        """Some time after everything was listed: what came in pages, and the start, leave 5 MB in holes."""
        lists = self._watch.lists_total + self._referred.lists_total
        if lists != self._lists:
            self._lists, self._trim_s = lists, time.monotonic() + TRIM_S
        elif time.monotonic() >= self._trim_s:
            self._trim_s = math.inf
            heap.trim()

    def _look_behind(self, serving: _Serving) -> float:
        """Which pods are behind what is watched. After how many seconds to look again."""
        watched = [item for each in serving.roster.supervisors().values() for item in each.standing().watched]
        veths = [item.interface for item in watched if not item.host]
        hosts = [item.interface for item in watched if item.host]
        known = self._watch.pods_synced and self._watch.pods_stale_since_mono_ns is None
        changed, wait_s = serving.behind.look(veths, pods_known=known, hosts=hosts)
        serving.who.look()
        serving.rules.look()
        if changed:
            serving.ground.births.rescan()
        return wait_s

    def _tell_when_ready(self) -> None:
        if self._was_ready or self._serving is None or not readiness(self.state()).ok:
            return
        self._was_ready = True
        standings = [each.standing() for each in self._serving.roster.supervisors().values()]
        watched = sum(not item.failure for each in standings for item in each.watched)
        loader = self._settings.loader
        log.info("ready: %d monitors, %d interfaces attached, loader %s", len(standings), watched, loader)

    def _nobody_reads(self, _closed: SinkClosed) -> None:
        self.failed = True
        self._stop.set()

    def _end(self) -> None:
        """Find out whether another agent follows, and end so."""
        if self._state is None or self._report is None:
            return
        membership = self._membership
        keep, why = successor_expected(
            self._connection, self._watch.view(), self._settings.node, membership.namespace, membership.pool
        )
        log.info("ending: %s", f"a successor is expected, all stays attached: {why}" if keep else f"for good: {why}")
        well = True
        if self._serving is not None:
            well = self._serving.roster.end(Ending.KEEP if keep else Ending.REMOVE, END_S)
            self.failed |= not well
        if not keep and well:
            self._state.remembered.unlink(missing_ok=True)
        self._report.close(detached=not keep and well)


def _runnable(selecting: Sequence[MonitorObject]) -> tuple[MonitorObject, ...]:
    """Those that are served and can be."""
    uids = served((each.created, each.uid) for each in selecting)
    return tuple(
        each
        for each in selecting
        if each.uid in uids and each.resource is not None and not refusals(each.resource, in_cluster=True)
    )


def _choose(behind: PodsBehind, spec: NetworkMonitorSpec) -> Select:
    """By name, if the spec names any; else every pod's."""
    selector = selector_of(spec)
    if selector.pattern:
        return selector.select

    def select(interface: Interface) -> Selection:
        selection = selector.select(interface)
        if selection.role is Role.VETH and behind.is_strange(interface):
            return Selection(Role.NONE, "no pod of this node is behind it")
        return selection

    return select


def _translations(known: ConntrackFigures) -> TranslationsState:
    return TranslationsState(known.entries, known.dropped_total, known.overruns_total, known.failures_total)
