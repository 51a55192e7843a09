"""Conditions and their reasons: what a status says, in the words of the Kubernetes API conventions."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StrictInt

from podwire_api.api_model import ApiModel
from podwire_api.cel import DATE_TIME, LIST_BY_TYPE


class ConditionType(StrEnum):
    """What a condition is about. Reconciling and Stalled are there only while they are true."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    AGENTS_READY = "AgentsReady"
    DATAPATH_ATTACHED = "DatapathAttached"
    SINKS_REACHABLE = "SinksReachable"


class Condition(ApiModel):
    """One aspect of an object's state."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    """What the condition is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Annotated[StrictInt, Field(ge=0)] = 0
    """The generation of the object that the condition tells of."""
    last_transition_time: Annotated[str, DATE_TIME]
    """When `status` last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=64)]
    """Why, in one CamelCase word."""
    message: Annotated[str, Field(max_length=2048)]
    """Why, in a sentence for people, and what to do."""


NOTED = "; but "
"""In an agent's message of what is well: behind it is what a user should know all the same."""


def noted(message: str) -> str:
    """What is behind NOTED; "" where nothing is."""
    return message.partition(NOTED)[2]


Conditions = Annotated[tuple[Condition, ...], Field(max_length=16), LIST_BY_TYPE]


class MonitorReason(StrEnum):
    """Reasons in the status of a NetworkMonitor, and, where an agent gives them, of its entry in an AgentNode."""

    ATTACHED = "Attached"
    """Every selected node's agent watches every pod's interface, by the present spec."""
    PAUSED = "Paused"
    """spec.paused is true, and every agent has detached; the totals are kept."""

    PENDING = "Pending"
    """Nobody has looked at it yet."""
    AGENTS_STARTING = "AgentsStarting"
    """A node's agent has not started yet, or is being replaced."""
    AGENTS_FAILING = "AgentsFailing"
    """A node's agent cannot be started, or ends again and again."""
    NODES_NOT_READY = "NodesNotReady"
    """A selected node is down, or cut off."""
    AGENTS_SILENT = "AgentsSilent"
    """A node's agent should run, and has not written its AgentNode for three of its intervals."""
    ATTACHING = "Attaching"
    """A node's agent has not brought the present spec into force yet."""
    ATTACH_FAILED = "AttachFailed"
    """On a node the programs could not be put on every interface."""
    SINKS_UNREACHABLE = "SinksUnreachable"
    """Counting works; a sink does not take the reports."""

    INVALID_SPEC = "InvalidSpec"
    """The spec is not valid, or has fields that the agents of this version do not know."""
    NOT_BUILT = "NotBuilt"
    """The spec asks for what this version does not do yet."""
    TOO_MANY_MONITORS = "TooManyMonitors"
    """A node serves eight older monitors already."""
    NO_NODES = "NoNodes"
    """No node has the labels of spec.nodes.nodeSelector."""
    NO_POOL = "NoPool"
    """No agent can run on any of the selected nodes: no AgentPool has them, or a taint keeps its agents off."""
    KERNEL_UNSUITABLE = "KernelUnsuitable"
    """A node's kernel, or how it is set up, does not let the programs run."""

    RUNNING = "Running"
    """Of AgentsReady: every node's agent runs."""
    REACHABLE = "Reachable"
    """Of SinksReachable: every sink takes the reports."""
    NO_SINKS = "NoSinks"
    """Of SinksReachable: the spec names no sink."""


class PoolReason(StrEnum):
    """Reasons in the status of an AgentPool."""

    ROLLED_OUT = "RolledOut"
    """Every node's agent runs with the present spec."""
    NO_MONITORS = "NoMonitors"
    """No NetworkMonitor selects a node of the pool, so no agent runs."""

    PENDING = "Pending"
    """Nobody has looked at it yet."""
    ROLLING_OUT = "RollingOut"
    """Agents are being started, or replaced by such with the present spec."""
    DRAINING = "Draining"
    """The last monitor is gone: the agents remove what is theirs from their nodes, and are then removed themselves."""
    AGENTS_FAILING = "AgentsFailing"
    """An agent cannot be started, or ends again and again."""

    OVERLAP = "Overlap"
    """An elder pool selects nodes of this one, too; it runs their agents."""
    INVALID_SPEC = "InvalidSpec"
    """The spec is not valid; the agents stay as they are."""
    REFUSED = "Refused"
    """The API server does not take the DaemonSet."""
