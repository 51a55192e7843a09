"""What a status is judged by and a DaemonSet is rendered from: all there is to know about one monitor or one pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from podwire_api.names import AGENT
from podwire_operator.objects import AgentNode, DaemonSet, Entry, Monitor, Pool, Taint


@dataclass(frozen=True, slots=True)
class PodProblem:
    """Why an agent's pod does not run, in the kubelet's or the scheduler's words."""

    pod: str
    """"" where there is none, since the pool cannot have any."""
    reason: str
    """ErrImagePull, CrashLoopBackOff, Unschedulable, ..."""
    message: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is known of a pool's agents beyond the view."""

    refused: str = ""
    """What the API server said to its DaemonSet; "" where it took it."""
    pods: Mapping[str, PodProblem] = field(default_factory=dict)
    """By the node that they are, or should be, on."""


NO_TROUBLE = Trouble()


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node on which a monitor should be served."""

    name: str
    pool: str
    ready: bool
    agent: AgentNode | None
    silent_s: float | None
    """For how long the agent has not been heard of, where that is too long."""
    entry: Entry | None
    """What the agent says of the monitor."""
    crowded: bool
    """As many older monitors as it can serve."""
    problem: PodProblem | None
    """Why its agent does not run."""


@dataclass(frozen=True, slots=True)
class MonitorFacts:
    """All that the status of a monitor tells of."""

    monitor: Monitor
    pools: int
    """AgentPools there are."""
    selected: tuple[str, ...]
    """Nodes the monitor selects."""
    barred: tuple[tuple[str, str, Taint], ...]
    """Those of them whose taint keeps their pool's agents off: node, pool, taint."""
    nodes: tuple[NodeFacts, ...]
    """Those on which it should be served."""


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """All that the status of a pool, and its DaemonSet, depend on."""

    pool: Pool
    elders: tuple[Pool, ...]
    """Pools that get their nodes before it."""
    selectors: frozenset[frozenset[tuple[str, str]]]
    """The distinct selectors of all monitors."""
    live: DaemonSet | None
    contested: tuple[tuple[str, str], ...]
    """Nodes it selects that an elder pool has: node and elder pool."""
    occupied: tuple[str, ...]
    """Living nodes whose agent of this pool still serves a monitor."""
    trouble: Trouble


def daemon_set_name(pool: str) -> str:
    """Of the pool's agents."""
    return f"{AGENT}-{pool}"
