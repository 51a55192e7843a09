"""The status of a NetworkMonitor and of an AgentPool: written by the operator alone, read by people and tools.

Apart from the models of the specs, since agents never read it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt

from podwire_api.api_model import ApiModel
from podwire_api.conditions import Conditions

_Count = Annotated[StrictInt, Field(ge=0)]


class NodeCounts(ApiModel):
    """How many nodes take part."""

    desired: _Count = 0
    """Nodes that should."""
    ready: _Count = 0
    """Nodes that do."""
    summary: Annotated[str, Field(max_length=32)] = "0/0"
    """ready/desired, as kubectl get shows it."""


class NetworkMonitorStatus(ApiModel):
    """What became of the monitor."""

    observed_generation: _Count = 0
    """The generation of the spec that this status tells of."""
    conditions: Conditions = ()
    """Ready; while true Reconciling and Stalled; and AgentsReady, DatapathAttached, SinksReachable behind them."""
    nodes: NodeCounts = NodeCounts()
    """Nodes that the monitor and a pool select, and those of them whose agent has attached everywhere."""
    pods: _Count = 0
    """Pods behind watched interfaces, on all nodes."""
    flows_per_second: _Count = 0
    """New flows a second on all nodes, to two digits."""
    lost: Annotated[str, Field(max_length=24)] = "-"
    """Packets lost in the last five minutes, to two digits; - where nothing was compared."""
    overflowed: Annotated[str, Field(max_length=24)] = "0"
    """Packets that found no room in the flow maps, since attach, to two digits: maxFlows is too small."""


class AgentPoolStatus(ApiModel):
    """What became of the pool's agents."""

    observed_generation: _Count = 0
    """The generation of the spec that this status tells of."""
    conditions: Conditions = ()
    """Ready; while true Reconciling and Stalled."""
    nodes: NodeCounts = NodeCounts()
    """Agents that should run, and those that do with the present spec."""
    image: Annotated[str, Field(max_length=512)] = ""
    """The agents' image."""
