"""The agent without a cluster: the monitors of files, from start to end."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from podwire_agent import __version__
from podwire_agent.clock import SystemClock
from podwire_agent.endpoint import Endpoints
from podwire_agent.errors import SinkClosed
from podwire_agent.ground import Ground
from podwire_agent.kernel import capabilities
from podwire_agent.local_api import LocalApi
from podwire_agent.monitor import selector_of
from podwire_agent.outputs import sinks_for
from podwire_agent.rulekeeper import RuleKeeper
from podwire_agent.settings import Settings
from podwire_agent.state import StateDirectory
from podwire_agent.supervisor import Currently, Ending, Supervised, Supervisor
from podwire_agent.telemetry import AgentState, StepTimes
from podwire_api import NetworkMonitor

log = logging.getLogger(__name__)

LAST_REPORT_S = 10.0
"""How long a sink may take for the last reports before they are given up."""


class Agent:
    """Context manager: attached on entry; on exit drained, reported and, unless kept, without a trace."""

    def __init__(self, resources: Sequence[NetworkMonitor], settings: Settings, stop: threading.Event) -> None:
        """`stop` is set by the agent too, once nobody reads its lines any more."""
        self.failed = False
        """Something went wrong that the exit code should tell."""
        for resource in resources:
            RuleKeeper.of(resource.spec, settings.refs)  # what its rules refer to is there: told before all else
        self._resources = resources
        self._settings = settings
        self._stop = stop
        self._step_times = StepTimes()
        self._started_unix_s = time.time()
        self._supervisors: list[Supervisor] = []
        self._ground: Ground
        self._endpoints: Endpoints
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """StateError, KernelError, LoadError: then nothing new is left attached."""
        with ExitStack() as stack:
            capabilities.require()
            state = stack.enter_context(StateDirectory(self._settings.state_dir))
            self._ground = stack.enter_context(Ground(self._settings, state, SystemClock(), self._step_times))
            self._endpoints = Endpoints(self._settings, self.state, self._step_times)
            common = self._common()
            stack.callback(self._end, Ending.UNDO)
            for resource in self._resources:
                supervisor = Supervisor(resource, 0, common)
                self._supervisors.append(supervisor)
                supervisor.attempted()
            stack.enter_context(LocalApi(state.socket, Currently(lambda: self._supervisors)))
            stack.enter_context(self._endpoints)
            self._stack = stack.pop_all()
        self._ground.start()
        watched = sum(not item.failure for each in self._supervisors for item in each.standing().watched)
        loader = self._ground.loader.name
        log.info("ready: %d monitors, %d interfaces attached, loader %s", len(self._supervisors), watched, loader)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self._end(Ending.KEEP if self._settings.keep else Ending.REMOVE)

    def state(self) -> AgentState:
        """What a scrape or a probe shows. KernelError."""
        return AgentState(
            version=__version__,
            kernel=os.uname().release,
            loader=self._ground.loader.name,
            started_unix_s=self._started_unix_s,
            monitors=tuple(each.state() for each in self._supervisors),
            late_s=self._ground.cutter.late_ns / 1e9,
            failures_total=self._ground.cutter.failures_total,
            endpoint=self._endpoints.state(),
        )

    def _common(self) -> Supervised:
        sinks = sinks_for([resource.spec for resource in self._resources], sys.stdout, sys.stderr)
        by_uid = {resource.uid: sink for resource, sink in zip(self._resources, sinks, strict=True)}
        return Supervised(
            ground=self._ground,
            choose=lambda spec: selector_of(spec).select,
            rules=lambda spec: RuleKeeper.of(spec, self._settings.refs),
            sink=lambda resource: by_uid[resource.uid],
            nobody_reads=self._nobody_reads,
            changed=lambda: None,
            patience_s=LAST_REPORT_S,
            first_decides=True,
        )

    def _end(self, ending: Ending) -> None:
        for each in self._supervisors:
            each.end(ending)
        for each in self._supervisors:
            each.join()
            self.failed |= not each.taken

    def _nobody_reads(self, _closed: SinkClosed) -> None:
        self.failed = True
        self._stop.set()
