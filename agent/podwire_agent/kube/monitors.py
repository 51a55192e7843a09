"""NetworkMonitors as the cluster has them: read once a generation, kept even where they cannot be run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec
from pydantic import ValidationError

from podwire_agent.kube.objects import MonitorNodes, WireMonitor
from podwire_api import NetworkMonitor
from podwire_api.problems import field_name, placed_and_worded
from podwire_api.selection import selects


@dataclass(frozen=True, slots=True)
class MonitorObject:
    """A NetworkMonitor of the cluster."""

    name: str
    uid: str
    generation: int
    created: str
    """creationTimestamp."""
    node_selector: Mapping[str, str]
    """Of spec.nodes; readable even where the rest is not."""
    resource: NetworkMonitor | None
    """None where this version of the agent cannot read it."""
    problems: tuple[str, ...]
    """Why not, a line each."""


def selecting(
    monitors: Iterable[MonitorObject], pools: Iterable[Mapping[str, str]], labels: Mapping[str, str] | None
) -> tuple[MonitorObject, ...]:
    """The monitors that mean a node with `labels` (None: there is no such node), where one of the pools does too."""
    if labels is None or not any(selects(pool, labels) for pool in pools):
        return ()
    return tuple(monitor for monitor in monitors if selects(monitor.node_selector, labels))


def reader(held: Callable[[str], MonitorObject | None]) -> Callable[[WireMonitor], MonitorObject]:
    """How a monitor is kept: as `held` by its uid where the generation is the same, for a status is written often."""

    def keep(wire: WireMonitor) -> MonitorObject:
        meta = wire.metadata
        known = held(meta.uid)
        if known is not None and known.generation == meta.generation:
            return known
        resource, problems = _read(wire)
        return MonitorObject(
            name=meta.name,
            uid=meta.uid,
            generation=meta.generation,
            created=meta.creation_timestamp,
            node_selector=node_selector(wire),
            resource=resource,
            problems=problems,
        )

    return keep


def node_selector(wire: WireMonitor) -> Mapping[str, str]:
    """spec.nodes.nodeSelector; empty where it is left out, or is none."""
    try:
        nodes = msgspec.json.decode(wire.spec, type=MonitorNodes).nodes
    except msgspec.ValidationError:
        return {}
    return (nodes.node_selector if nodes is not None else None) or {}


def _read(wire: WireMonitor) -> tuple[NetworkMonitor | None, tuple[str, ...]]:
    meta = wire.metadata
    document = {
        "apiVersion": wire.api_version,
        "kind": wire.kind,
        "metadata": {"name": meta.name, "uid": meta.uid},
        "spec": msgspec.json.decode(wire.spec),
    }
    try:
        return NetworkMonitor.model_validate(document), ()
    except ValidationError as error:
        found = (placed_and_worded(each, NetworkMonitor) for each in error.errors(include_url=False))
        return None, tuple(f"{field_name(path)}: {words}" for path, words in found)
