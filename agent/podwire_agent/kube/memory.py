"""The monitors that a node serves, kept in a file: an agent that starts while the API server is away goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from podwire_agent.kube.monitors import MonitorObject
from podwire_api import NetworkMonitor

log = logging.getLogger(__name__)

FORMAT = 1


def remember(path: Path, monitors: Sequence[MonitorObject]) -> None:
    """Write them aside and rename: those that can be read. Without room the former ones stay, and the log says so."""
    known = [
        {
            "name": each.name,
            "uid": each.uid,
            "generation": each.generation,
            "created": each.created,
            "resource": each.resource.model_dump(mode="json", by_alias=True, exclude_unset=True),
        }
        for each in monitors
        if each.resource is not None
    ]
    aside = path.with_name(f"{path.name}.new")
    try:
        aside.write_text(json.dumps({"format": FORMAT, "monitors": known}))
        aside.rename(path)
    except OSError as error:
        log.warning("writing %s: %s; an agent that starts while the API server is away waits for it", path, error)


def recall(path: Path) -> tuple[MonitorObject, ...] | None:
    """What a former agent remembered; None where that is nothing that can be used."""
    try:
        document = json.loads(path.read_text())
        if document["format"] != FORMAT:
            return None
        return tuple(_monitor(each) for each in document["monitors"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, ValidationError) as error:
        log.warning("reading %s: %s; it waits for the API server", path, error)
        return None


def _monitor(known: dict[str, Any]) -> MonitorObject:
    resource = NetworkMonitor.model_validate(known["resource"])
    return MonitorObject(
        name=known["name"],
        uid=known["uid"],
        generation=known["generation"],
        created=known["created"],
        node_selector=resource.spec.nodes.node_selector,
        resource=resource,
        problems=(),
    )
