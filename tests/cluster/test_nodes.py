"""Nodes that are cordoned, leave a selector, or die."""

from __future__ import annotations

from tests.cluster.installation import Installation, traces, untouched
from tests.cluster.polling import eventually

LABEL = "podwire.test/watched"


def test_a_cordoned_node_is_served_all_the_same(installed: Installation) -> None:
    cluster = installed.cluster
    cluster.kubectl("cordon", "node-2")
    try:
        with installed.monitor("cordoned") as name:
            assert installed.status(name)["nodes"]["summary"] == "2/2"
    finally:
        cluster.kubectl("uncordon", "node-2")


def test_a_node_that_leaves_the_selector_is_clean(installed: Installation) -> None:
    cluster = installed.cluster
    for node in ("node-1", "node-2"):
        cluster.kubectl("label", "node", node, f"{LABEL}=yes")
    try:
        with installed.monitor("narrow", nodes={"nodeSelector": {LABEL: "yes"}}) as name:
            assert installed.status(name)["nodes"]["summary"] == "2/2"
            cluster.kubectl("label", "node", "node-2", f"{LABEL}-")
            eventually(lambda: untouched(cluster.node(2)), "node-2 is clean", 20)
            eventually(lambda: installed.status(name)["nodes"]["summary"] == "1/1", "the status says so", 20)
            assert installed.condition(name)[:2] == ("True", "Attached")
            assert traces(cluster.node(1))
            cluster.kubectl("label", "node", "node-1", f"{LABEL}-")
            message = installed.await_reason(name, "NoNodes")
            assert f"{LABEL}=yes" in message
            assert installed.condition(name, "Stalled")[0] == "True"
            cluster.kubectl("label", "node", "node-1", f"{LABEL}=yes")
            installed.await_reason(name, "Attached")
    finally:
        for node in ("node-1", "node-2"):
            cluster.kubectl("label", "node", node, f"{LABEL}-")


def test_a_node_that_dies_is_told_and_blocks_nothing(installed: Installation) -> None:
    """Its monitor is deleted while it is dead, and it is clean soon after it is back."""
    cluster = installed.cluster
    try:
        with installed.monitor("bereft") as name:
            cluster.node(2).unplug()
            message = installed.await_reason(name, "NodesNotReady", 90)
            assert "node-2" in message
            assert installed.status(name)["nodes"]["summary"] == "1/2"
            assert traces(cluster.node(2))
            cluster.kubectl("delete", "nmon", name, "--timeout=15s", timeout_s=20)
            eventually(lambda: untouched(cluster.node(1)), "node-1 is clean", 10)
        cluster.node(2).plug()
        eventually(lambda: cluster.node(2).ready, "node-2 is Ready", 60)
        eventually(lambda: untouched(cluster.node(2)), "node-2 is clean", 60)
        cluster.node(2).kill()
        eventually(lambda: not cluster.node(2).ready, "node-2 is not Ready", 60)
        cluster.kubectl("get", "nodes")
    finally:
        cluster.settle()
    with installed.monitor("revived") as name:
        assert installed.status(name)["nodes"]["summary"] == "2/2"
