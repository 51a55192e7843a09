"""From `kubectl apply` to counts, as a person does it."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import Cluster
from tests.cluster.installation import READY_S, Installation, Logs, document
from tests.cluster.polling import eventually
from tests.cluster.traffic import TCP_PORT, UDP_PORT, Pair

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "manifests" / "samples" / "cluster.yaml"
COLUMNS = ["NAME", "READY", "REASON", "NODES", "PODS", "FLOWS/S", "LOST", "AGE"]


@pytest.mark.usefixtures("pods")
def test_the_sample_is_ready_on_both_nodes_within_a_minute(installed: Installation) -> None:
    cluster, name = installed.cluster, yaml.safe_load(SAMPLE.read_text())["metadata"]["name"]
    began_s = time.monotonic()
    cluster.kubectl("apply", "-f", str(SAMPLE))
    try:
        cluster.kubectl("wait", "--for=condition=Ready", f"nmon/{name}", f"--timeout={READY_S:g}s", timeout_s=READY_S)
        assert time.monotonic() - began_s < READY_S
        status = installed.status(name)
        assert status["nodes"] == {"desired": 2, "ready": 2, "summary": "2/2"}
        eventually(lambda: installed.status(name)["pods"] == pods_on_veths(cluster), "every pod is counted", 45)
        described = cluster.kubectl("describe", "nmon", name)
        assert "Attached on all 2 nodes." in described
        assert "podwire-operator" in described.partition("Events:")[2]
    finally:
        installed.remove(name)


def test_both_agents_count_what_was_sent(installed: Installation, pods: Pair) -> None:
    logs = Logs(installed.cluster)
    with installed.monitor("exact") as name:
        for family in (0, 1):
            to_server: dict[str, Any] = {
                "src_address": pods.client_addresses[family],
                "dst_address": pods.server_addresses[family],
            }
            to_client: dict[str, Any] = {
                "dst_address": pods.client_addresses[family],
                "src_address": pods.server_addresses[family],
            }
            sent = pods.send(20_000, size=300, rate=10_000, family=family)
            both = {("node-1", "from_pod"): sent.counted, ("node-2", "to_pod"): sent.counted}
            logs.await_counts(both, name, src_port=sent.port, dst_port=UDP_PORT, **to_server)
            segments = pods.connect(10_000_000, family)
            there: dict[str, Any] = {"src_port": segments.port, "dst_port": TCP_PORT, **to_server}
            back: dict[str, Any] = {"dst_port": segments.port, "src_port": TCP_PORT, **to_client}
            counted = eventually(partial(settled, logs, name, **there), "the connection is reported")
            assert counted["node-1", "from_pod"] == counted["node-2", "to_pod"]
            assert counted["node-1", "from_pod"][0] == segments.sent
            answered = eventually(partial(settled, logs, name, **back), "the answers are reported")
            assert answered["node-1", "to_pod"] == answered["node-2", "from_pod"]
            assert answered["node-1", "to_pod"][0] == segments.received


def test_two_monitors_on_the_same_interfaces_are_both_right(installed: Installation, pods: Pair) -> None:
    logs = Logs(installed.cluster)
    with installed.monitor("left") as left, installed.monitor("right", interfaces={"vethPattern": "veth.+"}) as right:
        sent = pods.send(10_000)
        for name in (left, right):
            both = {("node-1", "from_pod"): sent.counted, ("node-2", "to_pod"): sent.counted}
            logs.await_counts(both, name, src_port=sent.port)


def test_the_columns_are_those_that_people_read(installed: Installation) -> None:
    with installed.monitor("read") as name:
        head, line = installed.cluster.kubectl("get", "nmon", name).splitlines()
        assert head.split() == COLUMNS
        assert line.split()[:4] == [name, "True", "Attached", "2/2"]
        assert installed.cluster.kubectl("get", "podwire").count("/") > 2  # the category has all three kinds


def test_what_is_not_built_is_refused_in_words(installed: Installation) -> None:
    sinks = [{"name": "collector", "otlp": {"endpoint": "http://collector:4317"}}]
    installed.cluster.apply(document("unbuilt", sinks=sinks))
    try:
        message = installed.await_reason("unbuilt", "NotBuilt")
        assert "spec.sinks[0].otlp" in message
        status, reason, _ = installed.condition("unbuilt", "Stalled")
        assert (status, reason) == ("True", "NotBuilt")
        installed.cluster.apply(document("unbuilt"))
        installed.wait_ready("unbuilt", 20)
    finally:
        installed.remove("unbuilt")


def pods_on_veths(cluster: Cluster) -> int:
    """Pods that have an interface of their own."""
    return sum(
        "hostNetwork" not in each["spec"] and each["status"]["phase"] == "Running"
        for each in cluster.get("pods", "--all-namespaces")["items"]
    )


def settled(logs: Logs, monitor: str, **fields: object) -> dict[tuple[str, str], tuple[int, int]]:
    """What both ends counted, once two reports in a row say the same; empty before."""
    logs.read()
    before = logs.counts(monitor, **fields)
    if len(before) < 2:
        return {}
    time.sleep(2.2)  # two reports, in which nothing may come
    logs.read()
    return before if logs.counts(monitor, **fields) == before else {}
