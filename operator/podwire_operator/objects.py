"""The cluster's objects as far as the operator uses them, and how they are read from what the API server sends.

Read leniently: an AgentNode of an older or a newer agent, or an object that an older schema let in, must not stop the
operator. What is not understood reads as not said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from podwire_api.agentpool import AgentPoolSpec
from podwire_api.conditions import ConditionType
from podwire_api.names import AGENT_NODES, MONITORS, POOL_LABEL, POOLS
from podwire_api.problems import field_name, placed_and_worded

Document = Mapping[str, Any]


class Kind(StrEnum):
    """What is watched, by its plural."""

    MONITOR = MONITORS
    POOL = POOLS
    AGENT_NODE = AGENT_NODES
    DAEMON_SET = "daemonsets"
    NODE = "nodes"


@dataclass(frozen=True, slots=True)
class Meta:
    """Of any object."""

    name: str
    uid: str
    version: int
    """resourceVersion: later is greater, also from object to object."""
    generation: int
    created: str
    """RFC 3339 in UTC: sorts as text."""
    deleted: bool
    """It is being deleted."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """A NetworkMonitor."""

    meta: Meta
    selector: Mapping[str, str]
    paused: bool
    sinks: int
    """How many."""
    problem: str
    """Why its spec cannot be read; "" where it can."""
    status: Document


@dataclass(frozen=True, slots=True)
class Pool:
    """An AgentPool."""

    meta: Meta
    selector: Mapping[str, str]
    spec: AgentPoolSpec | None
    """None where it is not valid."""
    problem: str
    status: Document


@dataclass(frozen=True, slots=True)
class DaemonSet:
    """A DaemonSet of ours."""

    meta: Meta
    pool: str
    """By its label."""
    document: Document


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition's state, in an agent's words."""

    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A monitor, as the agent of one node tells of it."""

    generation: int
    datapath: Verdict | None
    sinks: Verdict | None
    attached: int
    pods: int
    flows_per_second: int
    lost: int | None
    overflowed: int

    @property
    def words(self) -> tuple[object, ...]:
        """What conditions are made of, as against figures."""
        return self.generation, self.datapath, self.sinks, self.attached > 0


@dataclass(frozen=True, slots=True)
class AgentNode:
    """What a node's agent tells of itself."""

    meta: Meta
    pool: str
    version: str
    heartbeat: str
    detached: bool
    entries: Mapping[str, Entry]
    """By the monitor's uid."""


@dataclass(frozen=True, slots=True)
class Taint:
    """Of a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Node:
    """A Node."""

    meta: Meta
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    ready: bool

    @property
    def place(self) -> tuple[object, ...]:
        """What decides who runs there."""
        return self.labels, self.taints, self.meta.deleted


Object = Monitor | Pool | DaemonSet | AgentNode | Node


def read(kind: Kind, document: Document) -> Object:
    """The object of a list or an event."""
    return _READERS[kind](_meta(document), document)


def _meta(document: Document) -> Meta:
    metadata = _mapping(document, "metadata")
    return Meta(
        name=_text(metadata, "name"),
        uid=_text(metadata, "uid"),
        version=int(_text(metadata, "resourceVersion") or 0),
        generation=_number(metadata, "generation"),
        created=_text(metadata, "creationTimestamp"),
        deleted=bool(metadata.get("deletionTimestamp")),
    )


def _monitor(meta: Meta, document: Document) -> Monitor:
    spec = _mapping(document, "spec")
    selector, problem = _selector(_mapping(spec, "nodes"), "spec.nodes.nodeSelector")
    return Monitor(
        meta=meta,
        selector=selector,
        paused=spec.get("paused") is True,
        sinks=len(_items(spec, "sinks")),
        problem=problem,
        status=_mapping(document, "status"),
    )


def _pool(meta: Meta, document: Document) -> Pool:
    given = _mapping(document, "spec")
    selector, problem = _selector(given, "spec.nodeSelector")
    spec = None
    try:
        spec = AgentPoolSpec.model_validate(dict(given))
    except ValidationError as error:
        path, words = placed_and_worded(error.errors(include_url=False)[0], AgentPoolSpec)
        problem = f"{field_name(('spec', *path))}: {words}"
    return Pool(meta=meta, selector=selector, spec=spec, problem=problem, status=_mapping(document, "status"))


def _daemon_set(meta: Meta, document: Document) -> DaemonSet:
    labels = _mapping(_mapping(document, "metadata"), "labels")
    return DaemonSet(meta=meta, pool=_text(labels, POOL_LABEL), document=document)


def _agent_node(meta: Meta, document: Document) -> AgentNode:
    status = _mapping(document, "status")
    entries = (each for each in _items(status, "monitors") if isinstance(each, Mapping))
    return AgentNode(
        meta=meta,
        pool=_text(status, "pool"),
        version=_text(status, "version"),
        heartbeat=_text(status, "heartbeat"),
        detached=status.get("detached") is True,
        entries={_text(each, "uid"): _entry(each) for each in entries},
    )


def _entry(given: Document) -> Entry:
    verdicts = {
        _text(each, "type"): Verdict(_text(each, "status"), _text(each, "reason"), _text(each, "message"))
        for each in _items(given, "conditions")
        if isinstance(each, Mapping)
    }
    lost = given.get("lost")
    return Entry(
        generation=_number(given, "observedGeneration"),
        datapath=verdicts.get(ConditionType.DATAPATH_ATTACHED),
        sinks=verdicts.get(ConditionType.SINKS_REACHABLE),
        attached=_number(_mapping(given, "interfaces"), "attached"),
        pods=_number(given, "pods"),
        flows_per_second=_number(given, "flowsPerSecond"),
        lost=lost if isinstance(lost, int) else None,
        overflowed=_number(given, "overflowed"),
    )


def _node(meta: Meta, document: Document) -> Node:
    spec = _mapping(document, "spec")
    conditions = _items(_mapping(document, "status"), "conditions")
    taints = tuple(Taint(_text(t, "key"), _text(t, "value"), _text(t, "effect")) for t in _items(spec, "taints"))
    return Node(
        meta=meta,
        labels=dict(_mapping(_mapping(document, "metadata"), "labels")),
        taints=taints,
        ready=any(_text(each, "type") == "Ready" and _text(each, "status") == "True" for each in conditions),
    )


_READERS: Mapping[Kind, Callable[[Meta, Document], Object]] = {
    Kind.MONITOR: _monitor,
    Kind.POOL: _pool,
    Kind.DAEMON_SET: _daemon_set,
    Kind.AGENT_NODE: _agent_node,
    Kind.NODE: _node,
}


def _selector(where: Document, path: str) -> tuple[Mapping[str, str], str]:
    """The labels under nodeSelector, and what is wrong with them."""
    given = where.get("nodeSelector") or {}
    if isinstance(given, Mapping) and all(isinstance(value, str) for value in given.values()):
        return dict(given), ""
    return {}, f"{path}: is not a mapping of labels to text; write {{zone: a}}"


def _mapping(where: Document, key: str) -> Document:
    found = where.get(key)
    return found if isinstance(found, Mapping) else _NOTHING


def _items(where: Document, key: str) -> list[Any]:
    found = where.get(key)
    return found if isinstance(found, list) else []


def _text(where: Document, key: str) -> str:
    found = where.get(key)
    return found if isinstance(found, str) else ""


def _number(where: Document, key: str) -> int:
    found = where.get(key)
    return found if isinstance(found, int) else 0


_NOTHING: Document = {}
