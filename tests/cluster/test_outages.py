"""What is killed or goes away while pods talk: operators, the API server, etcd, an agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from podwire_api.names import NAMESPACE
from tests.cluster.cluster import KubectlError
from tests.cluster.edges import Edges
from tests.cluster.installation import Installation, Logs
from tests.cluster.polling import eventually
from tests.cluster.traffic import Pair

PLANNED_S = 2.0
CRASHED_S = 20.0
OUTAGE_S = 60.0
CONVERGED_S = 180.0
"""After an outage of everything, on a machine that also runs the whole cluster; mostly it is some seconds."""


@contextmanager
def counted_throughout(installed: Installation, pods: Pair, name: str, count: int) -> Iterator[None]:
    """Datagrams are sent meanwhile, 2 000 a second, and all of them are counted at both ends, once."""
    logs = Logs(installed.cluster)
    with installed.monitor(name):
        logs.read()
        sending = pods.sending(count, rate=2_000)
        yield
        sent = sending.wait()
        both = {("node-1", "from_pod"): sent.counted, ("node-2", "to_pod"): sent.counted}
        logs.await_counts(both, name, timeout_s=40, src_port=sent.port)


def kill(installed: Installation, pod: str) -> None:
    """The pod's process, by SIGKILL; the kubelet starts it again."""
    found = installed.cluster.get("pod", pod, f"--namespace={NAMESPACE}")
    container = found["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    node = installed.cluster.node(found["spec"]["nodeName"])
    node.exec("ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container)


def another_leads(installed: Installation, former: str) -> bool:
    return installed.leader() not in {former, ""}


def test_an_agent_is_killed_under_traffic_and_nothing_is_lost_or_doubled(installed: Installation, pods: Pair) -> None:
    with counted_throughout(installed, pods, "killed", 40_000):
        for node in ("node-1", "node-2"):
            before = installed.agents()[node]
            kill(installed, before["metadata"]["name"])

            def restarted(
                node: str = node, since: int = before["status"]["containerStatuses"][0]["restartCount"]
            ) -> bool:
                status = installed.agents()[node]["status"]["containerStatuses"][0]
                return bool(status["restartCount"] > since and status["ready"])

            eventually(restarted, f"the agent of {node} is back", 60)


def test_an_agents_pod_is_deleted_under_traffic_and_nothing_is_lost_or_doubled(
    installed: Installation, pods: Pair
) -> None:
    with counted_throughout(installed, pods, "evicted", 40_000):
        for node in ("node-1", "node-2"):
            former = installed.agent(node)
            installed.cluster.kubectl("delete", "pod", former, f"--namespace={NAMESPACE}")

            def replaced(node: str = node, former: str = former) -> bool:
                return node in installed.agents() and installed.agent(node) != former

            eventually(replaced, f"{node} has another agent", 60)
        installed.rolled_out()


def test_a_leader_that_is_deleted_hands_over_at_once(installed: Installation) -> None:
    former = eventually(installed.leader, "an operator leads", 30)
    installed.cluster.kubectl("delete", "pod", former, f"--namespace={NAMESPACE}", "--wait=false")
    began_s = time.monotonic()
    eventually(lambda: another_leads(installed, former), "another operator leads", CRASHED_S, every_s=0.2)
    assert time.monotonic() - began_s < PLANNED_S + 1  # of which half is kubectl
    eventually(lambda: len(installed.operators()) == 2, "there are two operators again", 60)


def test_a_leader_that_is_killed_in_the_middle_of_its_work_is_replaced_and_all_converges(
    installed: Installation,
) -> None:
    former = eventually(installed.leader, "an operator leads", 30)
    with installed.monitor("steady") as name:
        # The roll-out that this begins is its work; what it had not done is done by the next.
        installed.cluster.kubectl("delete", "daemonset", "podwire-agent-default", f"--namespace={NAMESPACE}",
                                  "--wait=false")  # fmt: skip
        kill(installed, former)
        began_s = time.monotonic()
        eventually(lambda: leads_anew(installed, former), "an operator leads", CRASHED_S + 5, every_s=0.2)
        assert time.monotonic() - began_s < CRASHED_S + 1
        installed.rolled_out()
        installed.wait_ready(name)


def leads_anew(installed: Installation, former: str) -> bool:
    """Another one, or the former as a new process: either takes the Lease anew."""
    lease = installed.cluster.get("lease", "podwire-operator", f"--namespace={NAMESPACE}")["spec"]
    pods = installed.cluster.get("pod", former, f"--namespace={NAMESPACE}")["status"]["containerStatuses"][0]
    return bool(lease.get("holderIdentity")) and (
        lease["holderIdentity"] != former or bool(pods["restartCount"] and pods["ready"])
    )


def test_the_api_server_is_away_for_a_minute_and_agents_never_stop_counting(
    installed: Installation, pods: Pair
) -> None:
    """Nor forget who talks: the rows go on with what they knew."""
    cluster, edges = installed.cluster, Edges(installed.cluster)
    ends = {"src_workload": pods.client, "dst_workload": pods.server, "protocol": "UDP"}
    with counted_throughout(installed, pods, "alone", 140_000):
        before = {node: pod["metadata"]["uid"] for node, pod in installed.agents().items()}
        restarts = sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in installed.agents().values())
        cluster.api.server.stop()
        time.sleep(OUTAGE_S)
        cluster.api.server.start()
        cluster.settle()
        cluster.kubectl("patch", "nmon", "alone", "--type=merge", "--patch", '{"spec": {"pollingPeriod": "2s"}}')

        def converged() -> bool:
            found = cluster.get("nmon", "alone")
            ready = next(each for each in found["status"]["conditions"] if each["type"] == "Ready")
            return bool(
                found["status"]["observedGeneration"] == found["metadata"]["generation"] and ready["status"] == "True"
            )

        eventually(converged, "the edit is in force", CONVERGED_S, passing=(KubectlError,))
        assert {node: pod["metadata"]["uid"] for node, pod in installed.agents().items()} == before
        after = sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in installed.agents().values())
        assert after == restarts
    eventually(lambda: edges.read().packets("alone", **ends) == 140_000, "all of it is in its row", 20)


def test_etcd_is_restarted_and_all_converges(installed: Installation, pods: Pair) -> None:
    cluster = installed.cluster
    with counted_throughout(installed, pods, "stored", 30_000):
        cluster.api.etcd.kill()
        time.sleep(3)
        cluster.api.etcd.start()
        cluster.settle()
        cluster.kubectl("patch", "nmon", "stored", "--type=merge", "--patch", '{"spec": {"pollingPeriod": "2s"}}')
        installed.wait_ready("stored", CONVERGED_S)
