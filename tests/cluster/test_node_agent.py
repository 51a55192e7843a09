"""The agent on a node of a cluster: real traffic, real programs, a real API server."""

from __future__ import annotations

import calendar
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.agent_process import NODES, ClusterNode, cluster_node, make_daemon_set, make_pool
from tests.cluster.api_server import KINDS, ApiServer, api_server
from tests.kernel.agent_fixtures import datagrams_between, nothing_is_left, send
from tests.kernel.netns import eventually
from tests.kernel.running import Agent
from tests.kernel.sending import sending, sent_by

IN_FORCE_S = 2.0
GONE_S = 10.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("api")) as made:
        make_pool(made)
        yield made


@pytest.fixture
def node(server: ApiServer) -> Iterator[ClusterNode]:
    """With two pods that the API server knows."""
    with cluster_node(server, zone="a") as made:
        for number, pod in enumerate(made.host.pods):
            made.make_pod(f"pod-{number}", pod)
        yield made


@pytest.fixture
def daemon_set(server: ApiServer) -> Iterator[str]:
    path = make_daemon_set(server)
    yield path
    if server.answers(path):
        server.delete(path)


def nothing_is_attached(node: ClusterNode) -> bool:
    return node.place.pins() == [] and "podwire/" not in node.place.filters()


def end(node: ClusterNode, agent: Agent) -> None:
    """Nobody follows: all is drained, reported and removed."""
    node.host.settle()
    assert agent.stop() == 0, agent.errors.read_text()
    nothing_is_left(node.place)


def test_what_the_pods_send_is_counted_and_the_status_says_so(node: ClusterNode) -> None:
    node.make_monitor("shop")
    agent = node.started()
    first, second = node.pods
    send(first, second, 40)
    entry = eventually(
        lambda: found if (found := node.entry("shop")).get("pods") == 2 else None, "both pods are told of", 10
    )
    assert entry is not None
    assert entry["interfaces"] == {"attached": 2, "failed": 0}
    assert {each["type"]: each["status"] for each in entry["conditions"]} == {
        "DatapathAttached": "True",
        "SinksReachable": "True",
    }
    assert entry["observedGeneration"] == 1
    assert node.get("/readyz")[0] == 200
    assert 'podwire_agent_monitors{reason="Attached"} 1.0' in node.get("/metrics")[1]
    end(node, agent)
    node.place.identity_holds("shop")
    assert datagrams_between(node.place, first, second) == (40, 40)
    assert node.status()["detached"] is True
    assert node.status()["monitors"] == []


def test_a_pod_that_comes_later_is_watched_and_told_of(node: ClusterNode) -> None:
    node.make_monitor("shop", interfaces={})
    agent = node.started()
    third = node.host.add_pod()
    eventually(lambda: third.interface in node.place.attached(), "its veth is watched")
    send(third, node.host.pods[0], 40)
    node.make_pod("later", third)
    end(node, agent)
    assert datagrams_between(node.place, third, node.host.pods[0]) == (40, 40)


def test_edits_are_in_force_without_a_restart_and_nothing_is_lost_or_doubled(node: ClusterNode) -> None:
    path = node.make_monitor("shop", maxFlows=8192)
    agent = node.started()
    frames, flows = 300_000, 1_000
    with sending(node.host.pods[0].namespace, frames, flows, rate=25_000) as senders:
        for change in (
            {"pollingPeriod": "2s"},
            {"maxFlows": 65536},
            {"pollingPeriod": "1s", "reportEvery": 3},
            {"interfaces": {"vethPattern": "veth[12]"}},
            {"maxFlows": 8192, "reportEvery": 1},
            {"nodes": {"nodeSelector": {"zone": "a"}}},
        ):
            edit(node, path, change)
            with pytest.raises(subprocess.TimeoutExpired):
                agent.process.wait(0.7)
        for each in senders:
            each.wait()
    end(node, agent)
    node.place.identity_holds("shop")
    assert node.place.flows_of_lines()["from_pod"] == sent_by(frames, flows)
    assert len(sequences(node)) == len(set(sequences(node)))


def test_other_sinks_take_over_where_the_former_ended(node: ClusterNode) -> None:
    path = node.make_monitor("shop")
    agent = node.started()
    frames, flows = 60_000, 500
    with sending(node.host.pods[0].namespace, frames, flows, rate=15_000) as senders:
        for name in ("other", "lines"):
            edit(node, path, {"sinks": [{"name": name, "stdout": {}}]})
        for each in senders:
            each.wait()
    end(node, agent)
    node.place.identity_holds("shop")
    assert node.place.flows_of_lines()["from_pod"] == sent_by(frames, flows)


def edit(node: ClusterNode, path: str, change: dict[str, Any]) -> None:
    """Until it is in force, which must be soon."""
    node.server.patch(path, spec=change)
    generation = node.server.get(path)["metadata"]["generation"]
    words = (f"generation {generation} is in force", f"generation {generation} changes nothing here")
    errors = node.place.agents[-1].errors
    eventually(lambda: any(each in errors.read_text() for each in words), f"{change} is in force", IN_FORCE_S)


def sequences(node: ClusterNode) -> list[int]:
    return [line["sequence"] for line in node.place.lines() if line["type"] == "flow"]


def test_what_a_pattern_leaves_out_is_given_up_with_all_it_counted_and_comes_back(node: ClusterNode) -> None:
    path = node.make_monitor("shop")
    agent = node.started()
    first, second = node.pods
    send(first, second, 40)
    node.host.settle()
    edit(node, path, {"interfaces": {"vethPattern": "veth2"}})
    assert node.place.attached() == {"veth2"}
    eventually(lambda: node.place.last_ledgers()["veth1", "from_pod"].get("gone"), "the account of veth1 is closed")
    send(first, second, 30)
    node.host.settle()
    edit(node, path, {"interfaces": {"vethPattern": "veth.*"}})
    assert node.place.attached() == {"veth1", "veth2"}
    send(first, second, 20)
    end(node, agent)
    node.place.identity_holds("shop")
    assert datagrams_between(node.place, first, second) == (60, 90)


def test_paused_all_is_detached_the_totals_stay_and_it_goes_on_after(node: ClusterNode) -> None:
    path = node.make_monitor("shop")
    agent = node.started()
    first, second = node.pods
    send(first, second, 40)
    node.host.settle()
    edit(node, path, {"paused": True})
    assert node.place.attached() == set()
    node.await_reason("shop", "Paused")
    send(first, second, 30)
    node.host.settle()
    assert seen_packets(node) >= 40
    edit(node, path, {"paused": False})
    assert node.place.attached() == {"veth1", "veth2"}
    send(first, second, 20)
    end(node, agent)
    node.place.identity_holds("shop")
    assert datagrams_between(node.place, first, second) == (60, 60)


def seen_packets(node: ClusterNode) -> float:
    _, metrics = node.get("/metrics")
    start = 'podwire_ledger_packets_total{class="seen",direction="from_pod",monitor="shop"} '
    return next(float(line.removeprefix(start)) for line in metrics.splitlines() if line.startswith(start))


def test_two_monitors_on_the_same_veths_both_count_all_and_end_apart(node: ClusterNode) -> None:
    shop, other = node.make_monitor("shop"), node.make_monitor("other", pollingPeriod="2s")
    agent = node.started()
    first, second = node.pods
    send(first, second, 40)
    node.host.settle()
    began_s = time.monotonic()
    node.delete(shop)
    eventually(lambda: len(list((node.place.bpffs / "podwire").iterdir())) == 1, "one of them is gone", GONE_S)
    assert time.monotonic() - began_s < GONE_S
    assert node.place.attached() == {"veth1", "veth2"}
    send(first, second, 30)
    node.host.settle()
    node.delete(other)
    eventually(lambda: nothing_is_attached(node), "nothing is left", GONE_S)
    eventually(lambda: node.status()["monitors"] == [], "nothing is told of", 20)
    for monitor, count in (("shop", 40), ("other", 70)):
        node.place.identity_holds(monitor, verifiable=False)  # more passed after it
        assert datagrams_between(node.place, first, second, monitor=monitor) == (count, count)
    end(node, agent)


def test_of_nine_monitors_the_last_waits_in_words_until_there_is_a_place(node: ClusterNode) -> None:
    paths = [node.make_monitor(f"shop-{number}") for number in range(8)]
    eventually(lambda: time.time() - created_s(node, paths[-1]) > 1, "another second", 3)  # what orders them
    node.make_monitor("ninth")
    agent = node.started()
    node.await_reason("ninth", "TooManyMonitors", 20)
    message = node.entry("ninth")["conditions"][0]["message"]
    for number in range(8):
        assert f"shop-{number}" in message
        assert node.reason(f"shop-{number}") == "Attached"
    node.delete(paths[3])
    node.await_reason("ninth", "Attached", 20)
    end(node, agent)


def created_s(node: ClusterNode, path: str) -> float:
    text = node.server.get(path)["metadata"]["creationTimestamp"]
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        pytest.param(
            {"sinks": [{"name": "o", "otlp": {"endpoint": "http://o:4317"}}]}, "NotBuilt", "otlp", id="a sink not built"
        ),
        pytest.param({"colour": "blue"}, "InvalidSpec", "spec.colour", id="a field of another version"),
        pytest.param({"pollingPeriod": "soon"}, "InvalidSpec", "spec.pollingPeriod", id="no duration"),
    ],
)
def test_a_spec_that_cannot_be_run_is_refused_in_words_and_the_others_run(
    change: dict[str, Any], reason: str, words: str, node: ClusterNode
) -> None:
    path = node.make_monitor("shop")
    node.make_monitor("good")
    agent = node.started()
    node.server.patch(path, spec=change)
    entry = node.await_reason("shop", reason)
    assert words in entry["conditions"][0]["message"]
    eventually(lambda: len(list((node.place.bpffs / "podwire").iterdir())) == 1, "it is detached", GONE_S)
    assert node.get("/readyz")[0] == 200
    node.server.patch(path, spec={**dict.fromkeys(change), "pollingPeriod": "1s"})
    node.await_reason("shop", "Attached", 20)
    assert node.reason("good") == "Attached"
    end(node, agent)


def test_a_node_that_leaves_the_selector_is_clean_and_comes_back(node: ClusterNode) -> None:
    node.make_monitor("shop", nodes={"nodeSelector": {"zone": "a"}})
    agent = node.started()
    send(*node.pods, 40)
    node.host.settle()
    node.server.patch(f"{NODES}/{node.name}", metadata={"labels": {"zone": "b"}})
    eventually(lambda: nothing_is_attached(node), "nothing is left", GONE_S)
    eventually(lambda: node.status()["monitors"] == [], "nothing is told of", 20)
    assert datagrams_between(node.place, *node.pods) == (40, 40)
    node.server.patch(f"{NODES}/{node.name}", metadata={"labels": {"zone": "a"}})
    eventually(lambda: node.place.attached() == {"veth1", "veth2"}, "it is watched again", 5)
    end(node, agent)


def test_while_the_api_server_is_away_nothing_stops(node: ClusterNode) -> None:
    path = node.make_monitor("shop")
    agent = node.started()
    node.server.kill()
    frames, flows = 400_000, 1_000
    with sending(node.host.pods[0].namespace, frames, flows, rate=20_000) as senders:
        for each in senders:
            each.wait()
    eventually(lambda: stale_s(node) > 15, "the view is stale", 20)
    assert node.place.flows_of_lines()["from_pod"].total() > frames // 2
    node.server.start()
    eventually(lambda: stale_s(node) == 0, "the view is followed again", 20)
    edit(node, path, {"maxFlows": 2048})
    end(node, agent)
    node.place.identity_holds("shop")
    assert node.place.flows_of_lines()["from_pod"] == sent_by(frames, flows)


def stale_s(node: ClusterNode) -> float:
    _, metrics = node.get("/metrics")
    start = "podwire_agent_view_stale_seconds "
    return next((float(each.removeprefix(start)) for each in metrics.splitlines() if each.startswith(start)), -1)


def test_an_agent_killed_and_restarted_under_traffic_loses_and_doubles_nothing(node: ClusterNode) -> None:
    node.make_monitor("shop")
    frames, flows = 300_000, 1_000
    agent = node.started()
    with sending(node.host.pods[0].namespace, frames, flows, rate=25_000) as senders:
        for _ in range(4):
            with pytest.raises(subprocess.TimeoutExpired):
                agent.process.wait(1.3)
            agent.kill()
            agent = node.started()
        for each in senders:
            each.wait()
    end(node, agent)
    node.place.identity_holds("shop")
    assert node.place.flows_of_lines()["from_pod"] == sent_by(frames, flows)


def test_an_agent_that_starts_while_the_api_server_is_away_serves_what_the_former_one_did(node: ClusterNode) -> None:
    path = node.make_monitor("shop")
    agent = node.started()
    agent.kill()
    node.server.kill()
    send(*node.pods, 40)
    agent = node.started()
    eventually(lambda: datagrams_between(node.place, *node.pods) == (40, 40), "they are reported", 10)
    assert "the API server is away" in agent.errors.read_text()
    node.server.start()
    eventually(lambda: stale_s(node) == 0, "the view is followed", 20)
    node.delete(path)
    eventually(lambda: nothing_is_attached(node), "nothing is left", GONE_S)
    end(node, agent)


def test_what_was_deleted_while_no_agent_ran_is_removed_at_the_start(node: ClusterNode) -> None:
    path, _ = node.make_monitor("shop"), node.make_monitor("other")
    agent = node.started()
    agent.kill()
    node.delete(path)
    agent = node.started()
    eventually(lambda: len(list((node.place.bpffs / "podwire").iterdir())) == 1, "what it left is gone", GONE_S)
    assert node.place.filters().count("podwire/") == 4
    end(node, agent)


def test_at_its_end_with_a_successor_it_stays_attached_and_the_next_one_goes_on(
    node: ClusterNode, daemon_set: str
) -> None:
    node.make_monitor("shop")
    agent = node.started()
    send(*node.pods, 40)
    node.host.settle()
    assert agent.stop() == 0, agent.errors.read_text()
    assert node.place.attached() == {"veth1", "veth2"}
    assert node.status()["detached"] is False
    send(*node.pods, 30)
    agent = node.started()
    node.server.delete(daemon_set)
    end(node, agent)
    node.place.identity_holds("shop")
    assert datagrams_between(node.place, *node.pods) == (70, 70)


def test_at_its_end_without_an_api_server_it_stays_attached_and_is_quick(node: ClusterNode) -> None:
    node.make_monitor("shop")
    agent = node.started()
    node.server.kill()
    began_s = time.monotonic()
    assert agent.stop() == 0, agent.errors.read_text()
    assert time.monotonic() - began_s < 12
    assert node.place.attached() == {"veth1", "veth2"}
    node.server.start()
    end(node, node.started())


def test_a_kind_that_is_deleted_leaves_nothing(node: ClusterNode) -> None:
    node.make_monitor("shop")
    agent = node.started()
    node.server.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/networkmonitors.podwire.dev")
    eventually(lambda: nothing_is_attached(node), "nothing is left", GONE_S)
    node.server.make_kind("networkmonitors", KINDS["networkmonitors"])
    end(node, agent)


def test_a_node_without_bpffs_is_told_of_and_served_once_it_has_one(node: ClusterNode, tmp_path: Path) -> None:
    """bpffs is mounted in the agent's mount namespace, as it would come in from the node."""
    node.make_monitor("shop")
    empty = tmp_path / "bpffs"
    empty.mkdir()
    agent = node.start(bpffs=empty, before=("unshare", "--mount"))
    entry = node.await_reason("shop", "KernelUnsuitable", 20)
    assert "no bpffs at" in entry["conditions"][0]["message"]
    assert "/etc/fstab" in node.status()["doctor"]["problems"][0]
    code, words = node.get("/readyz")
    assert (code, "no bpffs at" in words) == (503, True)
    assert node.get("/healthz")[0] == 200
    inside = ["nsenter", f"--target={agent.process.pid}", "--mount"]
    subprocess.run([*inside, "mount", "-t", "bpf", "bpf", str(empty)], check=True)
    node.await_reason("shop", "Attached", 45)
    assert node.status()["doctor"]["problems"] == []
    end(node, agent)


def test_a_second_agent_on_the_node_waits_until_the_first_has_ended(node: ClusterNode, daemon_set: str) -> None:
    node.make_monitor("shop")
    first = node.started()
    second = node.start()
    eventually(lambda: "another agent uses" in second.errors.read_text(), "it waits", 20)
    assert first.stop() == 0
    second.ready()
    node.server.delete(daemon_set)
    end(node, second)


def test_a_veth_that_is_no_pods_is_left_after_a_minute_and_taken_again_once_it_is_one(node: ClusterNode) -> None:
    node.make_monitor("shop", interfaces={})
    agent = node.started()
    third = node.host.add_pod()
    eventually(lambda: third.interface in node.place.attached(), "attached to at once")
    eventually(lambda: third.interface not in node.place.attached(), "detached", 70)
    assert f"{third.interface} is no pod's" in agent.errors.read_text()
    assert node.place.attached() == {"veth1", "veth2"}
    node.make_pod("late", third)
    eventually(lambda: third.interface in node.place.attached(), "attached to again", 20)
    end(node, agent)
