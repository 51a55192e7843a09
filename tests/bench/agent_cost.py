"""What the agent itself uses: CPU a flow record, and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from podwire_agent.clock import SystemClock
from podwire_agent.kernel.cni import Selector
from podwire_agent.kernel.datapath import Datapath
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.loader import LibbpfLoader
from podwire_agent.kernel.tc import Owner, TrafficControl
from podwire_agent.kernel.watch import Watch
from podwire_agent.layout import FlowDirection
from podwire_agent.model import MonitorUid, Snapshot
from podwire_agent.pipeline import Job, Pipeline
from podwire_agent.settings import default_objects
from podwire_agent.sinks.lines import LinesSink
from podwire_agent.telemetry import StepTimes
from tests.bench.agent_process import cpu_s, resident_mb, running
from tests.bench.figures import Figure
from tests.kernel.netns import Host
from tests.kernel.running import Agent, node
from tests.kernel.sending import sending

CPU_BUDGET_US = 2.0
MEMORY_BUDGETS_MB = {0: 60.0, 20_000: 75.0, 100_000: 110.0}
"""By flows."""

FLOWS = 20_000
RECORDS = 2 * FLOWS
"""Each flow is seen at the sender's veth and at the receiver's."""
ENTRIES = 65_536
TICKS = 6
PERIODS = 5
WARM_UP_PERIODS = 2
SENDERS = 2
FRAMES_A_SECOND = 120_000


@dataclass(slots=True)
class _Desk:
    """A ports.Outlet that keeps the last report."""

    idle: bool = True
    last: Snapshot | None = None

    def put(self, snapshot: Snapshot) -> None:
        self.last = snapshot


def cpu() -> list[Figure]:
    """The pipeline's and the sink's share, each by itself in this process; then the agent's as a whole.

    RuntimeError, OSError.
    """
    uid = MonitorUid("bench")
    drained, written = [], []
    with (
        Host(pods=2) as host,
        node(host.namespace) as place,
        host.namespace.entered(),
        Datapath.open(place.bpffs, uid, LibbpfLoader(default_objects() / "flow.bpf.o"), ENTRIES) as datapath,
        TrafficControl() as control,
        Interfaces() as interfaces,
        Path(os.devnull).open("wb") as nowhere,
    ):
        host.settle()
        watch = Watch(datapath, control, interfaces, Selector().select, Owner(uid, 1, place.bpffs / uid))
        desk, sink = _Desk(), LinesSink(nowhere.fileno())
        state = place.directory / "bench.checkpoint"
        job = Job(uid, "bench", "bench", "boot", ENTRIES, 1, state, seed=1)
        pipeline = Pipeline(job, datapath, watch, desk, SystemClock(), StepTimes())
        pipeline.resume(None, ())
        watch.scan()

        def tick() -> None:
            for direction in FlowDirection:
                pipeline.prepare(direction)
            for direction in FlowDirection:
                pipeline.cut(direction)
            pipeline.drain()

        print(f"CPU a record: {TICKS} ticks", file=sys.stderr)
        for _ in range(TICKS):
            with _sending(host, FLOWS, frames=FLOWS) as senders:
                for each in senders:
                    each.wait()
            host.settle()
            drained.append(_thread_us(tick) / RECORDS)
            report = desk.last
            if report is None or len(report.flows) < RECORDS:
                raise RuntimeError(f"a drain reported {report and len(report.flows)} records of {RECORDS}")
            written.append(_thread_us(partial(sink.send, report)) / RECORDS)
        watch.detach()
    how = f"best of {TICKS} ticks of {RECORDS} records"
    return [
        Figure(
            "agent CPU a record, drain to report",
            min(drained),
            "us",
            CPU_BUDGET_US,
            f"{how}, with a checkpoint; {drained[0]:.2f} us when all are new",
        ),
        Figure("agent CPU a record, JSON lines", min(written), "us", None, f"{how}, to /dev/null"),
        _whole_agent(),
    ]


def memory() -> list[Figure]:
    """The agent's resident memory, with nothing to count and with many flows. RuntimeError, OSError."""
    figures = []
    for flows, budget in MEMORY_BUDGETS_MB.items():
        print(f"memory: {flows} flows", file=sys.stderr)
        with (
            Host(pods=2) as host,
            node(host.namespace, maxFlows=max(ENTRIES, flows * 4 // 3)) as place,
            running(place) as agent,
            _sending(host, flows, rate=FRAMES_A_SECOND) if flows else nullcontext(),
        ):
            _pass_periods(WARM_UP_PERIODS)
            usual, highest = _memory_of_periods(agent)
        records = f", {2 * flows} records in each" if flows else ""
        detail = f"median of looks at {PERIODS} periods of 1 s{records}; highest {highest:.1f} MB"
        figures.append(Figure(f"agent RSS, {flows:_} flows".replace("_", " "), usual, "MB", budget, detail))
    return figures


def _whole_agent() -> Figure:
    """Threads, sink and all, less what it uses while idle."""
    with Host(pods=2) as host, node(host.namespace) as place, running(place) as agent:
        print("CPU a record: the whole agent", file=sys.stderr)
        idle = _cpu_of_periods(agent)
        with _sending(host, FLOWS, rate=FRAMES_A_SECOND):
            _pass_periods(WARM_UP_PERIODS)
            busy = _cpu_of_periods(agent)
    user, kernel = (
        1e6 * (of_busy - of_idle) / (PERIODS * RECORDS) for of_busy, of_idle in zip(busy, idle, strict=True)
    )
    detail = (
        f"{user:.2f} us user, {kernel:.2f} us kernel, lines to /dev/null; "
        f"{PERIODS} periods of {RECORDS} records, less {1000 * sum(idle) / PERIODS:.0f} ms idle a period"
    )
    return Figure("agent CPU a record, whole process", user + kernel, "us", None, detail)


def _sending(
    host: Host, flows: int, frames: int = 10**9, rate: int = 0
) -> AbstractContextManager[list[subprocess.Popen[str]]]:
    """Frames of `flows` UDP flows in turn, from the first pod to the second."""
    first, second = host.pods
    return sending(first.namespace, frames, flows // SENDERS, senders=SENDERS, rate=rate, destination=second.mac)


def _thread_us(step: Callable[[], object]) -> float:
    """CPU of the calling thread."""
    before = time.thread_time_ns()
    step()
    return (time.thread_time_ns() - before) / 1000


def _pass_periods(count: int) -> None:
    """Until `count` periods of a second have passed, to a moment when no drain is under way."""
    into = time.time() % 1
    time.sleep(0.7 - into + count if into < 0.7 else 0.7 - into + count + 1)


def _cpu_of_periods(agent: Agent) -> tuple[float, float]:
    """Seconds in user mode and in the kernel that PERIODS periods took."""
    _pass_periods(0)
    before = cpu_s(agent)
    _pass_periods(PERIODS)
    after = cpu_s(agent)
    return after[0] - before[0], after[1] - before[1]


def _memory_of_periods(agent: Agent) -> tuple[float, float]:
    """MB, the median and the highest of many looks within PERIODS periods."""
    looks = []
    end = time.monotonic() + PERIODS
    while time.monotonic() < end:
        looks.append(resident_mb(agent))
        time.sleep(0.01)
    return median(looks), max(looks)
