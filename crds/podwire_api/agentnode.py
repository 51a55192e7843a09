"""`AgentNode` of podwire.dev/v1alpha1: what the agent of one node tells of itself and of the monitors it serves.

Named as its Node and owned by it; written by the node's agent alone, read by the operator and by people.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt

from podwire_api.api_model import ApiModel
from podwire_api.cel import DATE_TIME
from podwire_api.conditions import Conditions
from podwire_api.names import AGENT_NODE_KIND, API_VERSION

MAX_ENTRIES = 256
"""Monitors an AgentNode tells of."""

_Count = Annotated[StrictInt, Field(ge=0)]


class InterfaceCounts(ApiModel):
    """A monitor's interfaces on the node."""

    attached: _Count = 0
    """Watched."""
    failed: _Count = 0
    """Chosen, but the program could not be attached."""


class MonitorOnNode(ApiModel):
    """One monitor, as one node serves it."""

    name: str
    """The NetworkMonitor's name."""
    uid: str
    """Its metadata.uid."""
    observed_generation: _Count = 0
    """Its generation that is in force on the node."""
    conditions: Conditions = ()
    """DatapathAttached and SinksReachable."""
    interfaces: InterfaceCounts = InterfaceCounts()
    """How many interfaces are watched."""
    pods: _Count = 0
    """Pods behind them."""
    flows_per_second: _Count = 0
    """New flows a second, over the last report."""
    lost: _Count | None = None
    """Packets lost in the last five minutes; left out where nothing was compared."""
    overflowed: _Count = 0
    """Packets that found no room in the flow map, since attach: maxFlows is too small."""
    rows: _Count = 0
    """Label sets in use."""


class Doctor(ApiModel):
    """What the agent found of its node."""

    kernel: str = ""
    """The kernel's release."""
    loader: str = ""
    """Who loads the programs: libbpf or bcc."""
    problems: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """What keeps the agent from working here, each with what to do."""


class AgentNodeStatus(ApiModel):
    """Written by the node's agent."""

    version: str = ""
    """The agent's version."""
    pool: str = ""
    """The AgentPool whose agent wrote this."""
    pod: str = ""
    """The agent's pod."""
    boot_id: str = ""
    """The node's boot; counters begin anew with another one."""
    heartbeat: Annotated[str, DATE_TIME] | None = None
    """When the agent wrote this."""
    detached: StrictBool = False
    """The agent has ended and left nothing on the node."""
    monitors: Annotated[tuple[MonitorOnNode, ...], Field(max_length=MAX_ENTRIES)] = ()
    """The monitors that select this node."""
    doctor: Doctor = Doctor()
    """What the agent found of its node."""


class AgentNodeMetadata(ApiModel):
    """What Podwire reads of an AgentNode's metadata."""

    model_config = ConfigDict(extra="ignore")

    name: str


class AgentNode(ApiModel):
    """What the agent of one node tells of itself and of the monitors it serves."""

    api_version: Literal["podwire.dev/v1alpha1"] = API_VERSION
    kind: Literal["AgentNode"] = AGENT_NODE_KIND
    metadata: AgentNodeMetadata
    status: AgentNodeStatus = AgentNodeStatus()
    """Written by the node's agent."""
