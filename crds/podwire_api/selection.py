"""Which nodes a monitor or a pool selects, and which monitors a node serves: one answer for operator and agents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from podwire_api.names import MAX_MONITORS


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with `labels` has all of `selector`; the empty selector selects every node."""
    return all(labels.get(key) == value for key, value in selector.items())


def served(monitors: Iterable[tuple[str, str]]) -> list[str]:
    """The UIDs that a node serves of those that select it, given as (creationTimestamp, UID): the oldest first."""
    return [uid for _, uid in sorted(monitors)[:MAX_MONITORS]]
