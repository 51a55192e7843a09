"""Fields that others set in an object of ours, by its managedFields. Pure.

A forced server-side apply takes back what others changed, but leaves what they added: a sidecar, hostPID. A field goes
with the apply that no longer names it only if it was the applier's own. So first everything under `spec` is made ours.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from podwire_operator.objects import Document

RESTARTED_AT = "f:kubectl.kubernetes.io/restartedAt"
"""Set in the pod template by `kubectl rollout restart`: a person's wish, not a change to be put back."""

_ANNOTATIONS = ("f:spec", "f:template", "f:metadata", "f:annotations")
_ITSELF = "."

Fields = dict[str, Any]


def taken_over(live: Document, manager: str) -> list[dict[str, Any]] | None:
    """A JSON patch that makes everything under spec the manager's, if the object is still as seen; None: it is."""
    metadata = live.get("metadata") or {}
    entries: list[Fields] = copy.deepcopy(metadata.get("managedFields") or [])
    ours = next((entry for entry in entries if _is_apply_of(entry, manager)), None)
    gained: Fields = {}
    rest = []
    for entry in entries:
        fields = entry.get("fieldsV1") or {}
        if entry is not ours and not entry.get("subresource") and "f:spec" in fields:
            kept, taken = _split(fields)
            gained = _merged(gained, taken)
            entry["fieldsV1"] = kept
            if not kept:
                continue
        rest.append(entry)
    if not gained:
        return None
    if ours is None:
        api_version = live.get("apiVersion", "apps/v1")
        ours = {"manager": manager, "operation": "Apply", "apiVersion": api_version, "fieldsType": "FieldsV1"}
        rest.append(ours)
    ours["fieldsV1"] = _merged(ours.get("fieldsV1") or {}, gained)
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata.get("resourceVersion")},
        {"op": "replace", "path": "/metadata/managedFields", "value": rest},
    ]


def _is_apply_of(entry: Mapping[str, Any], manager: str) -> bool:
    return entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")


def _split(fields: Fields) -> tuple[Fields, Fields]:
    """What stays the other manager's, and what is taken: all under f:spec but the mark of a restart."""
    kept = {key: value for key, value in fields.items() if key != "f:spec"}
    taken = {"f:spec": copy.deepcopy(fields["f:spec"])}
    places = [taken]
    for step in _ANNOTATIONS:
        inner = places[-1].get(step)
        if not isinstance(inner, dict):
            return kept, taken
        places.append(inner)
    mark = places[-1].pop(RESTARTED_AT, None)
    if mark is None:
        return kept, taken
    annotations: Fields = {RESTARTED_AT: mark}
    if places[-1].keys() <= {_ITSELF}:
        annotations |= places[-1]
        places[-1].clear()
    for outer, step in zip(places[-2::-1], _ANNOTATIONS[::-1], strict=True):
        if not outer[step]:
            del outer[step]
    stays: Fields = annotations
    for step in _ANNOTATIONS[::-1]:
        stays = {step: stays}
    return kept | stays, taken


def _merged(one: Fields, other: Fields) -> Fields:
    result = dict(one)
    for key, value in other.items():
        result[key] = _merged(result.get(key, {}), value)
    return result
