"""The agent as a process whose lines nobody keeps, and what the kernel says it uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kernel.running import Agent, Node

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(place: Node, *, ready: bool = True) -> Iterator[Agent]:
    """A started agent, stopped in order at the end; `ready`: it has attached everywhere. RuntimeError."""
    with Path(os.devnull).open("wb") as nowhere:
        agent = place.start(out=nowhere)
    if ready:
        agent.ready()
    yield agent
    if code := agent.stop():
        raise RuntimeError(f"the agent ended with {code}: {agent.errors.read_text()}")


def cpu_s(agent: Agent) -> tuple[float, float]:
    """Seconds of CPU in user mode and in the kernel since its start (proc(5), /proc/PID/stat)."""
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / _TICKS_A_SECOND, int(fields[12]) / _TICKS_A_SECOND


def resident_mb(agent: Agent) -> float:
    """Resident memory now, in 10^6 bytes (VmRSS)."""
    for line in Path(f"/proc/{agent.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"the agent ended: {agent.errors.read_text()}")
