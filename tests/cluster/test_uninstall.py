"""The end: of a monitor, of everything, in each order; nothing hangs and nothing stays."""

from __future__ import annotations

from functools import partial

from podwire_api.names import NAMESPACE
from tests.cluster.cluster import KubectlError
from tests.cluster.installation import MANIFESTS, Installation, document, traces, untouched
from tests.cluster.polling import eventually
from tests.cluster.traffic import Pair

GONE_S = 10.0


def nothing_is_left(installed: Installation) -> None:
    for node in installed.cluster.nodes:
        eventually(partial(untouched, node), f"{node.name} is clean", 30)
        assert traces(node) == []
        assert "api.sock" not in node.exec("ls", "/run/podwire").split()
    for what in ("customresourcedefinitions", "clusterroles", "clusterrolebindings", "validatingadmissionpolicies"):
        names = installed.cluster.kubectl("get", what, "--output=name")
        assert "podwire" not in names, names


def test_a_deleted_monitor_leaves_nothing_within_seconds(installed: Installation, pods: Pair) -> None:
    cluster = installed.cluster
    cluster.apply(document("brief"))
    installed.wait_ready("brief")
    assert all(traces(node) for node in cluster.nodes)
    pods.send(1_000)
    cluster.kubectl("delete", "nmon", "brief", "--timeout=5s")
    for node in cluster.nodes:
        eventually(partial(untouched, node), f"{node.name} is clean", GONE_S, every_s=0.2)
    eventually(lambda: installed.agents() == {}, "no agent is left without a monitor", 90)


def test_everything_is_deleted_while_a_monitor_is_there(installed: Installation) -> None:
    try:
        installed.cluster.apply(document("present"))
        installed.wait_ready("present")
        installed.cluster.kubectl("delete", "-k", str(MANIFESTS), "--timeout=60s", timeout_s=70)
        nothing_is_left(installed)
    finally:
        installed.install()


def test_everything_is_deleted_when_the_operator_is_gone_already(installed: Installation) -> None:
    cluster = installed.cluster
    try:
        cluster.apply(document("orphan"))
        installed.wait_ready("orphan")
        cluster.kubectl("delete", "deployment", "podwire-operator", f"--namespace={NAMESPACE}", "--timeout=30s")
        cluster.kubectl("delete", "nmon", "orphan", "--timeout=5s")
        for node in cluster.nodes:
            eventually(partial(untouched, node), f"{node.name} is clean", GONE_S)
        cluster.apply(document("orphan"))
        for node in cluster.nodes:
            eventually(partial(traces, node), f"{node.name} is watched", 20)
        cluster.kubectl("delete", "-k", str(MANIFESTS), "--ignore-not-found", "--timeout=60s", timeout_s=70)
        nothing_is_left(installed)
    finally:
        installed.install()


def test_everything_is_deleted_while_a_node_is_dead(installed: Installation) -> None:
    cluster = installed.cluster
    try:
        cluster.apply(document("halved"))
        installed.wait_ready("halved")
        cluster.node(2).unplug()
        eventually(lambda: not cluster.node(2).ready, "node-2 is not Ready", 60)
        cluster.kubectl("delete", "nmon", "halved", "--timeout=5s")
        eventually(lambda: untouched(cluster.node(1)), "node-1 is clean", GONE_S)
        eventually(lambda: installed.agents().keys() <= {"node-2"}, "node-1 has no agent", 90)
        cluster.node(2).plug()
        eventually(lambda: untouched(cluster.node(2)), "node-2 is clean", 60, passing=(KubectlError,))
    finally:
        cluster.settle()
