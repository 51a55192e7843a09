from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from podwire_agent.kube.monitors import MonitorObject, reader, selecting
from podwire_agent.kube.objects import WireMonitor, kind


def read(spec: Any, generation: int = 1, held: MonitorObject | None = None) -> MonitorObject:
    document = {
        "apiVersion": "podwire.dev/v1alpha1",
        "kind": "NetworkMonitor",
        "metadata": {
            "name": "shop",
            "uid": "c0ffee00-0000-4000-8000-000000000000",
            "generation": generation,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": spec,
        "status": {"nodes": {"summary": "1/1"}},
    }
    monitors = kind("networkmonitors", "/", WireMonitor, reader(lambda _: held))
    _, [(_, monitor)] = monitors.page(json.dumps({"metadata": {}, "items": [document]}).encode())
    return monitor


def test_a_monitor_is_read() -> None:
    monitor = read({"pollingPeriod": "7s", "nodes": {"nodeSelector": {"disk": "ssd"}}})
    assert monitor.resource is not None
    assert monitor.resource.spec.polling_period == "7s"
    assert monitor.resource.uid == monitor.uid == "c0ffee00-0000-4000-8000-000000000000"
    assert (monitor.name, monitor.generation, monitor.created) == ("shop", 1, "2026-01-01T00:00:00Z")
    assert monitor.node_selector == {"disk": "ssd"}
    assert monitor.problems == ()


def test_a_monitor_that_cannot_be_read_still_tells_its_nodes() -> None:
    monitor = read({"fromTheFuture": 1, "nodes": {"nodeSelector": {"disk": "ssd"}}})
    assert monitor.resource is None
    assert monitor.node_selector == {"disk": "ssd"}
    assert len(monitor.problems) == 1
    assert "spec.fromTheFuture: unknown field" in monitor.problems[0]


@pytest.mark.parametrize("nodes", [{"nodeSelector": 5}, {"nodeSelector": None}, {}, None, "text"])
def test_a_selector_that_is_none_selects_everything(nodes: object) -> None:
    assert read({"nodes": nodes}).node_selector == {}


def test_a_generation_is_read_once() -> None:
    first = read({"pollingPeriod": "7s"})
    assert read({"pollingPeriod": "7s"}, held=first) is first
    assert read({"pollingPeriod": "8s"}, generation=2, held=first) is not first


@pytest.mark.parametrize(
    ("pools", "labels", "selected"),
    [
        pytest.param([{}], {}, True, id="empty selectors select every node"),
        pytest.param([], {"disk": "ssd"}, False, id="no pool"),
        pytest.param([{"zone": "a"}], {"disk": "ssd"}, False, id="no pool means the node"),
        pytest.param([{"zone": "a"}, {"disk": "ssd"}], {"disk": "ssd"}, True, id="one of two pools means it"),
        pytest.param([{}], None, False, id="no such node"),
    ],
)
def test_a_monitor_needs_a_pool_that_means_the_node(
    pools: list[Mapping[str, str]], labels: Mapping[str, str] | None, selected: bool
) -> None:
    assert bool(selecting([read({})], pools, labels)) is selected


def test_only_monitors_whose_selector_holds_are_selected() -> None:
    here, elsewhere = read({"nodes": {"nodeSelector": {"disk": "ssd"}}}), read({"nodes": {"nodeSelector": {"a": "b"}}})
    assert selecting([here, elsewhere], [{}], {"disk": "ssd"}) == (here,)
