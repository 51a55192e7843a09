from __future__ import annotations

from typing import Any

import pytest

from podwire_operator.placement import keeps_off, place
from tests.unit.operator.made import monitor, node, pool

OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def test_a_node_is_the_eldest_pools_by_creation_then_uid() -> None:
    nodes = [node("n1", labels={"gpu": "yes"}), node("n2")]
    pools = [
        pool("late", created=NEW),
        pool("gpu-b", uid="b", created=OLD, spec={"nodeSelector": {"gpu": "yes"}}),
        pool("gpu-a", uid="a", created=OLD, spec={"nodeSelector": {"gpu": "yes"}}),
    ]
    found = place(nodes, pools, [])
    assert found.owner == {"n1": "gpu-a", "n2": "late"}
    assert found.contested == {"gpu-b": (("n1", "gpu-a"),), "late": (("n1", "gpu-a"),)}


def test_a_node_serves_the_eight_oldest_monitors_that_select_it() -> None:
    zone = {"nodes": {"nodeSelector": {"zone": "a"}}}
    early = [monitor(f"a{number}", spec=zone, created=OLD) for number in range(8)]
    late = monitor("late", created=NEW)
    found = place([node("n1", labels={"zone": "a"}), node("n2")], [pool()], [late, *early])
    assert found.desired("uid-late") == ("n1", "n2")
    assert found.crowded == {"uid-late": frozenset({"n1"})}
    assert found.desired("uid-a0") == ("n1",)


def test_a_monitor_is_not_wanted_where_no_pool_or_a_taint_is() -> None:
    nodes = [
        node("n1", labels={"zone": "a"}),
        node("n2"),
        node("n3", labels={"zone": "a"}, taints=[{"key": "x", "effect": "NoExecute"}]),
    ]
    found = place(nodes, [pool(spec={"nodeSelector": {"zone": "a"}, "tolerations": []})], [monitor()])
    assert found.selected["uid-shop"] == ("n1", "n2", "n3")
    assert found.desired("uid-shop") == ("n1",)


@pytest.mark.parametrize(
    ("toleration", "taint", "kept_off"),
    [
        pytest.param({"operator": "Exists"}, "gpu=yes:NoSchedule", False, id="everything is tolerated"),
        pytest.param({"key": "gpu", "operator": "Exists"}, "gpu=yes:NoSchedule", False, id="the key is tolerated"),
        pytest.param({"key": "gpu", "value": "yes"}, "gpu=yes:NoSchedule", False, id="key and value are tolerated"),
        pytest.param({"key": "gpu", "value": "no"}, "gpu=yes:NoSchedule", True, id="another value is tolerated"),
        pytest.param({"key": "disk", "operator": "Exists"}, "gpu=yes:NoSchedule", True, id="another key is tolerated"),
        pytest.param(
            {"key": "gpu", "operator": "Exists", "effect": "NoExecute"},
            "gpu=yes:NoSchedule",
            True,
            id="another effect is tolerated",
        ),
        pytest.param(None, "gpu=yes:PreferNoSchedule", False, id="a preference keeps nobody off"),
        pytest.param(None, "gpu=yes:NoSchedule", True, id="nothing is tolerated"),
        pytest.param(None, "node.kubernetes.io/unschedulable=:NoSchedule", False, id="the node is cordoned"),
        pytest.param(None, "node.kubernetes.io/unreachable=:NoExecute", False, id="the node is cut off"),
    ],
)
def test_taints_keep_agents_off_as_the_scheduler_does(toleration: Any, taint: str, kept_off: bool) -> None:
    pair, _, effect = taint.partition(":")
    key, _, value = pair.partition("=")
    given = [toleration] if toleration is not None else []
    found = keeps_off(
        pool(spec={"tolerations": given}), node("n1", taints=[{"key": key, "value": value, "effect": effect}])
    )
    assert (found is not None) is kept_off
