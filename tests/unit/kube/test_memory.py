"""What an agent remembers of its monitors, for one that starts while the API server is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire_agent.kube.memory import recall, remember
from podwire_agent.kube.monitors import MonitorObject
from podwire_agent.unbuilt import refusals
from podwire_api import NetworkMonitor, uid_of_name


def monitor(name: str, **spec: object) -> MonitorObject:
    document = {
        "apiVersion": "podwire.dev/v1alpha1",
        "kind": "NetworkMonitor",
        "metadata": {"name": name, "uid": uid_of_name(name)},
        "spec": {"sinks": [{"name": "lines", "stdout": {}}], **spec},
    }
    resource = NetworkMonitor.model_validate(document)
    return MonitorObject(
        name, uid_of_name(name), 3, "2026-01-01T00:00:00Z", resource.spec.nodes.node_selector, resource, ()
    )


def test_what_was_remembered_is_recalled(tmp_path: Path) -> None:
    served = (monitor("shop", pollingPeriod="7s", nodes={"nodeSelector": {"zone": "a"}}), monitor("other"))
    remember(tmp_path / "served", served)
    assert recall(tmp_path / "served") == served
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_what_was_only_a_default_stays_one(tmp_path: Path) -> None:
    remember(tmp_path / "served", (monitor("shop"),))
    recalled = recall(tmp_path / "served")
    assert recalled is not None
    assert recalled[0].resource is not None
    assert refusals(recalled[0].resource) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param("{}", id="of no format"),
        pytest.param('{"format": 99, "monitors": []}', id="of another format"),
        pytest.param('{"format": 1, "monitors": [{"name": "a"}]}', id="incomplete"),
        pytest.param('{"format": 1, "monitors": 5}', id="no list"),
    ],
)
def test_what_cannot_be_read_is_not_recalled(content: str, tmp_path: Path) -> None:
    path = tmp_path / "served"
    path.write_text(content)
    assert recall(path) is None


def test_without_a_file_nothing_is_recalled(tmp_path: Path) -> None:
    assert recall(tmp_path / "served") is None
