"""What people change while it runs: monitors, pools, and what the operator made."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from podwire_api.names import API_VERSION, NAMESPACE
from tests.cluster.cluster import Cluster, KubectlError
from tests.cluster.installation import (
    ROLLED_OUT_S,
    Installation,
    Logs,
    condition,
    document,
    filters,
    untouched,
)
from tests.cluster.node import Node
from tests.cluster.polling import eventually
from tests.cluster.traffic import Pair

IN_FORCE_S = 2.0
DAEMON_SET = "daemonset/podwire-agent-default"


def containers(installed: Installation) -> dict[str, str]:
    """By node, what changes with every restart of an agent."""
    return {node: str(pod["status"]["containerStatuses"][0]["containerID"]) for node, pod in installed.agents().items()}


def detached(node: Node) -> bool:
    return not filters(node)


def patch(cluster: Cluster, what: str, **spec: object) -> None:
    cluster.kubectl("patch", what, "--type=merge", "--patch", json.dumps({"spec": spec}))


@contextmanager
def pool(installed: Installation, name: str, **spec: object) -> Iterator[None]:
    """One more pool."""
    document = {"apiVersion": API_VERSION, "kind": "AgentPool", "metadata": {"name": name}, "spec": spec}
    installed.cluster.apply(document)
    try:
        yield
    finally:
        installed.cluster.delete("agentpool", name)


@contextmanager
def changed_pool(installed: Installation, before: dict[str, object], **spec: object) -> Iterator[None]:
    """Pool default with another spec; put back in the end, until that is rolled out."""
    patch(installed.cluster, "agentpool/default", **spec)
    try:
        yield
    finally:
        patch(installed.cluster, "agentpool/default", **before)
        installed.rolled_out()


def test_an_edited_monitor_is_in_force_without_a_restart_and_nothing_is_lost(
    installed: Installation, pods: Pair
) -> None:
    cluster, logs = installed.cluster, Logs(installed.cluster)
    with installed.monitor("edited", pollingPeriod="2s") as name:
        uid = cluster.get("nmon", name)["metadata"]["uid"]
        before = containers(installed)
        sending = pods.sending(30_000, rate=2_000)  # for a quarter of a minute
        patch(cluster, f"nmon/{name}", pollingPeriod="1s")
        patch(cluster, f"nmon/{name}", maxFlows=131072)
        patch(cluster, f"nmon/{name}", interfaces={"vethPattern": "veth.*"})
        sent = sending.wait()
        both = {("node-1", "from_pod"): sent.counted, ("node-2", "to_pod"): sent.counted}
        logs.await_counts(both, name, src_port=sent.port)

        began_s = time.monotonic()
        patch(cluster, f"nmon/{name}", interfaces={"vethPattern": "none.*"})
        for node in cluster.nodes:
            eventually(partial(detached, node), f"{node.name} is detached", 5, every_s=0.05)
        assert time.monotonic() - began_s < IN_FORCE_S + 1  # of which half is kubectl, and tc on two nodes
        unseen = pods.send(1_000)
        patch(cluster, f"nmon/{name}", interfaces={"vethPattern": None})
        for node in cluster.nodes:
            eventually(partial(filters, node), f"{node.name} is attached", 5)
        installed.wait_ready(name)
        seen = pods.send(1_000)
        logs.await_counts(
            {("node-1", "from_pod"): seen.counted, ("node-2", "to_pod"): seen.counted}, name, src_port=seen.port
        )
        assert logs.counts(name, src_port=unseen.port) == {}
        assert containers(installed) == before
        assert uid in "".join(cluster.node(1).pins())


def test_a_paused_monitor_is_detached_and_says_so(installed: Installation, pods: Pair) -> None:
    with installed.monitor("paused") as name:
        patch(installed.cluster, f"nmon/{name}", paused=True)
        assert "detached" in installed.await_reason(name, "Paused", 15)
        assert installed.condition(name)[0] == "True"
        for node in installed.cluster.nodes:
            assert filters(node) == []
        patch(installed.cluster, f"nmon/{name}", paused=False)
        installed.await_reason(name, "Attached", 15)
        logs = Logs(installed.cluster)
        sent = pods.send(1_000)
        both = {("node-1", "from_pod"): sent.counted, ("node-2", "to_pod"): sent.counted}
        logs.await_counts(both, name, src_port=sent.port)


def test_edited_resources_of_the_pool_are_rolled_out_and_nothing_is_lost(installed: Installation, pods: Pair) -> None:
    logs = Logs(installed.cluster)
    with installed.monitor("rolled") as name:
        logs.read()
        before = containers(installed)
        sending = pods.sending(60_000, rate=3_000)
        with changed_pool(installed, {"resources": None}, resources={"requests": {"cpu": "60m", "memory": "96Mi"}}):

            def all_replaced() -> bool:
                logs.read()
                return set(containers(installed).values()).isdisjoint(before.values())

            passing = (KeyError, IndexError)  # of a pod whose container is on its way
            eventually(all_replaced, "every agent is another one", ROLLED_OUT_S, passing=passing)
            installed.rolled_out()
            logs.read()
            requests = installed.agents()["node-1"]["spec"]["containers"][0]["resources"]["requests"]
            assert requests == {"cpu": "60m", "memory": "96Mi"}
            sent = sending.wait()
            both = {("node-1", "from_pod"): sent.counted, ("node-2", "to_pod"): sent.counted}
            logs.await_counts(both, name, src_port=sent.port)


def test_a_deleted_daemonset_is_made_again(installed: Installation) -> None:
    with installed.monitor("back") as name:
        uid = installed.cluster.get(DAEMON_SET, f"--namespace={NAMESPACE}")["metadata"]["uid"]
        installed.cluster.kubectl("delete", DAEMON_SET, f"--namespace={NAMESPACE}", "--wait=false")

        def again() -> bool:
            return bool(installed.cluster.get(DAEMON_SET, f"--namespace={NAMESPACE}")["metadata"]["uid"] != uid)

        eventually(again, "there is another DaemonSet", 30, passing=(KubectlError,))
        installed.rolled_out()
        installed.wait_ready(name)


def test_what_somebody_added_to_the_daemonset_is_taken_out(installed: Installation) -> None:
    cluster = installed.cluster
    with installed.monitor("mended"):
        added = {"hostPID": True, "containers": [{"name": "sidecar", "image": "localhost/none:1"}]}
        body = json.dumps({"spec": {"template": {"spec": added}}})
        cluster.kubectl("patch", DAEMON_SET, f"--namespace={NAMESPACE}", "--type=strategic", "--patch", body)

        def mended() -> bool:
            template = cluster.get(DAEMON_SET, f"--namespace={NAMESPACE}")["spec"]["template"]["spec"]
            names = [each["name"] for each in template["containers"]]
            return names == ["agent"] and not template.get("hostPID")

        eventually(mended, "the DaemonSet is as the operator wants it", 20)
        cluster.kubectl("rollout", "restart", DAEMON_SET, f"--namespace={NAMESPACE}")
        installed.rolled_out()
        live = cluster.get(DAEMON_SET, f"--namespace={NAMESPACE}")["spec"]["template"]
        assert "kubectl.kubernetes.io/restartedAt" in live["metadata"]["annotations"]  # a person's wish, not a change


def test_a_bad_image_is_told_in_words(installed: Installation) -> None:
    with installed.monitor("pulled") as name, changed_pool(installed, {"image": None}, image="localhost/no-such:1"):
        message = installed.await_reason(name, "AgentsFailing")
        assert "localhost/no-such:1" in message
        status = installed.cluster.get("agentpool", "default")["status"]
        assert condition(status, "Ready")[:2] == ("False", "AgentsFailing")
        assert condition(status, "Reconciling")[0] == "True"


def test_a_pool_with_another_selector_has_its_own_agents(installed: Installation) -> None:
    first, second = ({"kubernetes.io/hostname": node} for node in ("node-1", "node-2"))
    with (
        installed.monitor("pooled") as name,
        changed_pool(installed, {"nodeSelector": {"kubernetes.io/hostname": None}}, nodeSelector=first),
    ):
        eventually(lambda: installed.status(name)["nodes"]["summary"] == "1/1", "one node is left", 30)
        assert installed.condition(name) == ("True", "Attached", "Attached on its one node.")
        eventually(lambda: set(installed.agents()) == {"node-1"}, "node-2 has no agent", 30)
        eventually(lambda: untouched(installed.cluster.node(2)), "node-2 is clean", 10)
        with pool(installed, "other", nodeSelector=second, logLevel="debug"):
            eventually(lambda: installed.status(name)["nodes"]["summary"] == "2/2", "both pools serve", 60)
            agents = installed.agents()
            assert {node: pod["metadata"]["labels"]["podwire.dev/pool"] for node, pod in agents.items()} == {
                "node-1": "default",
                "node-2": "other",
            }
            assert "debug" in agents["node-2"]["spec"]["containers"][0]["command"]


def test_a_pool_that_overlaps_an_older_one_is_stalled(installed: Installation) -> None:
    with installed.monitor("single"), pool(installed, "later"):

        def overlap() -> bool:
            status = installed.cluster.get("agentpool", "later").get("status", {})
            return condition(status, "Stalled")[:2] == ("True", "Overlap")

        eventually(overlap, "the later pool is stalled", 30)
        pods = installed.cluster.get("pods", f"--namespace={NAMESPACE}", "--selector=podwire.dev/pool=later")
        assert pods["items"] == []


def test_the_ninth_monitor_waits_and_the_others_run(installed: Installation, pods: Pair) -> None:
    with ExitStack() as stack:
        names = [stack.enter_context(installed.monitor(f"many-{number}")) for number in range(8)]
        installed.cluster.apply(document("ninth"))
        stack.callback(installed.remove, "ninth")
        assert "at most 8" in installed.await_reason("ninth", "TooManyMonitors")
        assert installed.condition("ninth", "Stalled")[0] == "True"
        logs = Logs(installed.cluster)
        sent = pods.send(2_000)
        for name in names:
            both = {("node-1", "from_pod"): sent.counted, ("node-2", "to_pod"): sent.counted}
            logs.await_counts(both, name, src_port=sent.port)
            assert installed.condition(name)[0] == "True"
        installed.remove(names[0])
        installed.wait_ready("ninth")


def test_nothing_is_left_of_all_these(installed: Installation) -> None:
    """Nor of the agents, which go with the last monitor."""
    for node in installed.cluster.nodes:
        eventually(partial(untouched, node), f"nothing is left on {node.name}", 90)
