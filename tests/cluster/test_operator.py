"""The operator's own process at a real API server, with the rights that the manifests give it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from podwire_agent.errors import ClusterError
from podwire_api.names import AGENT, AGENT_NODES, AGENT_TLS_SECRET, CA_SECRET, MONITORS, OPERATOR, POOLS
from tests.cluster.api_server import MERGE, ApiServer
from tests.cluster.kubectl import Kubectl
from tests.cluster.operator_process import (
    DAEMON_SETS,
    IMAGE,
    NODES,
    PODS,
    RESOURCES,
    SECRETS,
    USER,
    OperatorProcess,
    Stage,
    condition,
    daemon_set_path,
    manifests,
    monitor_path,
    pool_path,
    said,
)
from tests.cluster.polling import eventually
from tests.cluster.rbac import called, granted, missing

DEFAULT = daemon_set_path("default")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With everything installed; no kubelet will ever run it."""
    with ApiServer(tmp_path_factory.mktemp("operator")) as server:
        kubectl = Kubectl(server.authority.kubeconfig("admin", server.url))
        kubectl("apply", "-k", str(manifests()))
        eventually(lambda: server.answers(f"{RESOURCES}/{MONITORS}"), "the kinds are served")
        yield server


@pytest.fixture(scope="module")
def operator(server: ApiServer) -> Iterator[OperatorProcess]:
    with OperatorProcess(server) as process:
        eventually(process.leads, "it leads")
        yield process
        assert not process.stopped(), process.log.read_text()[-3000:]
        unexpected = [line for line in process.lines() if "traceback" in line]
        assert not unexpected, unexpected[0]


@pytest.fixture
def stage(server: ApiServer, operator: OperatorProcess) -> Iterator[Stage]:
    """Two nodes of two zones, and the pool that the operator made."""
    del operator
    stage = Stage(server)
    eventually(lambda: server.answers(pool_path("default")), "the first pool is made")
    stage.make_node("n1", zone="a")
    stage.make_node("n2", zone="b")
    yield stage
    stage.clear()


def attached(stage: Stage, monitor: str = "shop") -> None:
    """The monitor is there and Ready on both nodes."""
    stage.make_monitor(monitor)
    eventually(lambda: stage.server.answers(DEFAULT), "the DaemonSet is made")
    stage.roll_out("default", 2)
    stage.report("n1", "default", monitor)
    stage.report("n2", "default", monitor)
    stage.await_reason(monitor_path(monitor), "Attached")
    stage.await_reason(pool_path("default"), "RolledOut")


def pod_spec(stage: Stage) -> Any:
    return stage.server.get(DEFAULT)["spec"]["template"]["spec"]


def at_rest(for_s: float) -> None:
    """Nothing is expected to happen for so long."""
    until = time.monotonic() + for_s
    eventually(lambda: time.monotonic() > until, "a while has passed", for_s + 5)


def summary(stage: Stage) -> Any:
    return stage.server.get(monitor_path("shop"))["status"]["nodes"]["summary"]


def labels_of(stage: Stage) -> Any:
    return stage.server.get(DEFAULT)["metadata"]["labels"]


def selector_of(stage: Stage) -> Any:
    """None where there is no DaemonSet."""
    if not stage.server.answers(DEFAULT):
        return None
    return stage.server.get(DEFAULT)["spec"]["selector"]["matchLabels"]


def uid_of(stage: Stage, path: str) -> str:
    """Empty where there is none."""
    return str(stage.server.get(path)["metadata"]["uid"]) if stage.server.answers(path) else ""


def owner_of(stage: Stage) -> str:
    """The uid of the DaemonSet's pool; "" where there is none."""
    if not stage.server.answers(DEFAULT):
        return ""
    return str(stage.server.get(DEFAULT)["metadata"]["ownerReferences"][0]["uid"])


def told(stage: Stage) -> int:
    """Monitors with a status of the operator's."""
    looked_at = {"AgentsStarting", "TooManyMonitors"}
    monitors = stage.server.get(f"{RESOURCES}/{MONITORS}")["items"]
    return sum(condition(each, "Ready").get("reason") in looked_at for each in monitors)


def put_back(stage: Stage) -> bool:
    spec = pod_spec(stage)
    return len(spec["containers"]) == 1 and "hostPID" not in spec and len(spec["containers"][0]["env"]) == 3


def test_a_monitor_brings_agents_and_its_status_follows_them(stage: Stage) -> None:
    assert stage.await_reason(pool_path("default"), "NoMonitors")["status"] == "True"
    assert not stage.server.answers(DEFAULT)
    stage.make_monitor("shop")
    ready = stage.await_reason(monitor_path("shop"), "AgentsStarting")
    assert ready["status"] == "False"
    assert "nodes n1, n2" in ready["message"]
    eventually(lambda: stage.server.answers(DEFAULT), "the DaemonSet is made")
    made = stage.server.get(DEFAULT)
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == IMAGE
    assert made["metadata"]["ownerReferences"][0]["kind"] == "AgentPool"
    status = stage.server.get(monitor_path("shop"))
    assert condition(status, "Reconciling")["status"] == "True"
    stage.roll_out("default", 1, desired=2)
    stage.report("n1", "default", "shop", pods=3, flowsPerSecond=123)
    eventually(lambda: stage.server.get(monitor_path("shop"))["status"]["nodes"]["summary"] == "1/2", "one is ready")
    assert stage.await_reason(pool_path("default"), "RollingOut")["message"].startswith("1 of 2 agents run")
    stage.roll_out("default", 2)
    stage.report("n2", "default", "shop", pods=4, lost=1234)
    assert stage.await_reason(monitor_path("shop"), "Attached")["message"] == "Attached on all 2 nodes."
    status = stage.server.get(monitor_path("shop"))["status"]
    assert (status["nodes"]["summary"], status["pods"], status["flowsPerSecond"]) == ("2/2", 7, 120)
    assert (status["lost"], status["observedGeneration"]) == ("1200", 1)
    assert {each["type"] for each in status["conditions"]}.isdisjoint({"Reconciling", "Stalled"})


def test_a_deleted_daemonset_is_back_at_once(stage: Stage) -> None:
    attached(stage)
    uid = stage.server.get(DEFAULT)["metadata"]["uid"]
    stage.server.delete(DEFAULT)
    began = time.monotonic()
    eventually(lambda: stage.server.answers(DEFAULT) and stage.server.get(DEFAULT)["metadata"]["uid"] != uid, "back")
    assert time.monotonic() - began < 3


def test_what_others_add_or_change_is_put_back_but_the_mark_of_a_restart_stays(stage: Stage) -> None:
    attached(stage)
    restarted = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    stage.edit(DEFAULT, spec={"template": {"metadata": {"annotations": restarted}}})
    container = {"name": "agent", "env": [{"name": "EVIL", "value": "1"}]}
    sidecar = {"name": "sidecar", "image": "localhost/none:1"}
    evil = {"hostPID": True, "terminationGracePeriodSeconds": 1, "containers": [container, sidecar]}
    stage.edit(DEFAULT, metadata={"annotations": {"theirs": "1"}}, spec={"template": {"spec": evil}})
    eventually(lambda: put_back(stage), "it is put back", 5)
    live = stage.server.get(DEFAULT)
    assert live["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 30
    assert live["spec"]["template"]["metadata"]["annotations"] == restarted
    assert live["metadata"]["annotations"]["theirs"] == "1"
    version = live["metadata"]["resourceVersion"]
    stage.roll_out("default", 2)
    stage.await_reason(pool_path("default"), "RolledOut")
    live = stage.server.get(DEFAULT)
    assert live["metadata"]["generation"] == live["status"]["observedGeneration"]
    assert int(live["metadata"]["resourceVersion"]) > int(version)


def test_a_label_that_is_taken_off_the_daemonset_is_back(stage: Stage) -> None:
    attached(stage)
    stage.server.patch(DEFAULT, metadata={"labels": {"app.kubernetes.io/managed-by": None}})
    eventually(lambda: labels_of(stage).get("app.kubernetes.io/managed-by") == OPERATOR, "it is back", 5)


def test_a_daemonset_with_another_selector_is_made_anew(stage: Stage) -> None:
    labels = {"app": "mine"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "localhost/none:1"}]}}
    stage.server.make(
        DAEMON_SETS,
        metadata={"name": f"{AGENT}-default"},
        spec={"selector": {"matchLabels": labels}, "template": template},
    )
    stage.make_monitor("shop")
    wanted = {"app.kubernetes.io/name": AGENT, "podwire.dev/pool": "default"}
    eventually(lambda: selector_of(stage) == wanted, "it is another one", 5)


def test_an_edit_of_a_spec_is_one_status_write(stage: Stage) -> None:
    attached(stage)
    before = len(stage.writes())
    stage.server.patch(monitor_path("shop"), spec={"pollingPeriod": "7s"})
    stage.await_reason(monitor_path("shop"), "Attaching")
    at_rest(4)
    assert [each.path.partition("?")[0] for each in stage.writes(before)] == [f"{monitor_path('shop')}/status"]
    assert stage.server.get(monitor_path("shop"))["status"]["observedGeneration"] == 2


def test_an_edit_of_a_pool_is_rolled_out_and_its_status_waits_for_it(stage: Stage) -> None:
    attached(stage)
    stage.server.patch(pool_path("default"), spec={"resources": {"requests": {"cpu": "60m", "memory": "128Mi"}}})
    eventually(
        lambda: pod_spec(stage)["containers"][0]["resources"]["requests"]["cpu"] == "60m", "the DaemonSet has it", 5
    )
    stage.await_reason(pool_path("default"), "Pending")
    stage.roll_out("default", 2)
    stage.await_reason(pool_path("default"), "RolledOut")
    stage.server.patch(pool_path("default"), spec={"resources": None})


def test_nothing_is_written_while_nothing_happens(stage: Stage) -> None:
    attached(stage)
    at_rest(3)  # events are posted
    before = len(stage.writes())
    until = time.monotonic() + 15
    while time.monotonic() < until:
        # An agent's heartbeat and a kubelet's are no news.
        stage.report("n1", "default", "shop")
        stage.set_node_ready("n2", ready=True)
        at_rest(2)
    assert stage.writes(before) == []


def test_the_ninth_monitor_waits_until_an_older_one_goes(stage: Stage) -> None:
    names = [f"m{number}" for number in range(9)]
    for name in names:
        stage.make_monitor(name)
    by_age = sorted(
        (stage.server.get(monitor_path(name))["metadata"] for name in names),
        key=lambda metadata: (metadata["creationTimestamp"], metadata["uid"]),
    )
    last = by_age[-1]["name"]
    ready = stage.await_reason(monitor_path(last), "TooManyMonitors")
    assert "nodes n1, n2" in ready["message"]
    assert condition(stage.server.get(monitor_path(last)), "Stalled")["status"] == "True"
    stage.report("n1", "default", *(each["name"] for each in by_age[:8]))
    stage.report("n2", "default", *(each["name"] for each in by_age[:8]))
    for each in by_age[:8]:
        stage.await_reason(monitor_path(each["name"]), "Attached")
    stage.server.delete(monitor_path(by_age[0]["name"]))
    stage.await_reason(monitor_path(last), "Attaching")


def test_what_an_agent_refuses_is_stalled_in_its_words(stage: Stage) -> None:
    attached(stage)
    words = "spec.whitelist: rules are not built yet in this version; remove it"
    refusal = [said("DatapathAttached", "False", "NotBuilt", words)]
    stage.report("n1", "default", "shop", conditions=refusal, pods=0)
    ready = stage.await_reason(monitor_path("shop"), "NotBuilt")
    assert ready["message"] == f"Cannot run on node n1: {words}."
    assert condition(stage.server.get(monitor_path("shop")), "Stalled")["status"] == "True"


def test_a_paused_monitor_is_ready_once_it_is_detached(stage: Stage) -> None:
    attached(stage)
    stage.server.patch(monitor_path("shop"), spec={"paused": True})
    stage.await_reason(monitor_path("shop"), "Attaching")
    paused = [said("DatapathAttached", "False", "Paused", "spec.paused: nothing is attached")]
    for node in ("n1", "n2"):
        stage.report(node, "default", "shop", conditions=paused, interfaces={"attached": 0}, pods=0)
    ready = stage.await_reason(monitor_path("shop"), "Paused")
    assert ready["status"] == "True"


def test_a_dead_node_is_told_and_a_node_that_goes_or_leaves_is_not_waited_for(stage: Stage) -> None:
    attached(stage)
    stage.set_node_ready("n2", ready=False)
    ready = stage.await_reason(monitor_path("shop"), "NodesNotReady")
    assert ready["message"] == "Node n2 is not ready: see kubectl get nodes."
    assert summary(stage) == "1/2"
    stage.server.delete(f"{NODES}/n2")
    stage.await_reason(monitor_path("shop"), "Attached")
    assert summary(stage) == "1/1"
    stage.make_node("n3", zone="c")
    stage.await_reason(monitor_path("shop"), "AgentsStarting")
    stage.server.patch(monitor_path("shop"), spec={"nodes": {"nodeSelector": {"zone": "a"}}})
    eventually(
        lambda: '"values": ["a"]' in json.dumps(pod_spec(stage).get("affinity", {})), "agents run in zone a alone", 5
    )
    stage.report("n1", "default", "shop")
    stage.await_reason(monitor_path("shop"), "Attached")
    stage.edit(f"{NODES}/n1", spec={"unschedulable": True})  # a cordoned node keeps its agent
    stage.server.patch(f"{NODES}/n1", metadata={"labels": {"zone": "z"}})
    ready = stage.await_reason(monitor_path("shop"), "NoNodes")
    assert "No node has the labels zone=a" in ready["message"]


def test_why_an_image_cannot_be_pulled_is_in_the_status(stage: Stage) -> None:
    attached(stage)
    labels = {"app.kubernetes.io/name": AGENT, "podwire.dev/pool": "default"}
    container = {"name": "agent", "image": "localhost/none:1"}
    stage.server.make(
        PODS, metadata={"name": "agent-x", "labels": labels}, spec={"nodeName": "n2", "containers": [container]}
    )
    waiting = {"reason": "ErrImagePull", "message": 'failed to pull "localhost/none:1": not found'}
    statuses = [
        {"name": "agent", "image": container["image"], "imageID": "", "ready": False, "restartCount": 0}
        | {"state": {"waiting": waiting}}
    ]
    stage.server.patch(f"{PODS}/agent-x/status", status={"phase": "Pending", "containerStatuses": statuses})
    stage.roll_out("default", 1, desired=2)
    ready = stage.await_reason(monitor_path("shop"), "AgentsFailing")
    assert 'image localhost/none:1: failed to pull "localhost/none:1": not found' in ready["message"]
    assert "on node n2 does not run" in ready["message"]
    stage.await_reason(pool_path("default"), "AgentsFailing")
    found = eventually(
        lambda: [
            each
            for each in stage.server.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"]
            if each["regarding"]["name"] == "shop" and each["reason"] == "AgentsFailing"
        ],
        "an event is posted",
    )
    assert found[0]["type"] == "Warning"
    stage.roll_out("default", 2)
    stage.await_reason(monitor_path("shop"), "Attached")


ADMISSION = "/apis/admissionregistration.k8s.io/v1/validatingadmission"


def deny(server: ApiServer, name: str, words: str) -> None:
    """A policy against any change of a DaemonSet's spec, once it is in force."""
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["daemonsets"]}
    validation = {"expression": "object.spec == oldObject.spec", "message": words}
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [validation]}
    server.make(f"{ADMISSION}policies", metadata={"name": name}, spec=spec)
    binding = {"policyName": name, "validationActions": ["Deny"]}
    server.make(f"{ADMISSION}policybindings", metadata={"name": name}, spec=binding)
    eventually(lambda: denied(server), "the policy is in force")


def refused_tries(stage: Stage) -> int:
    return sum(
        each.name == f"{AGENT}-default" and each.code == 422 and each.user == USER for each in stage.server.audit()
    )


def denied(server: ApiServer) -> bool:
    body = json.dumps({"spec": {"minReadySeconds": 9}}).encode()
    query = {"dryRun": "All"}
    try:
        server.connection().request("PATCH", DEFAULT, query=query, body=body, content_type=MERGE)
    except ClusterError:
        return True
    return False


def test_a_daemonset_that_the_server_refuses_is_told_and_not_sent_again_and_again(stage: Stage) -> None:
    attached(stage)
    deny(stage.server, "frozen", "agents are frozen today")
    stage.server.patch(pool_path("default"), spec={"logLevel": "debug"})
    ready = stage.await_reason(pool_path("default"), "Refused")
    assert "agents are frozen today" in ready["message"]
    before = refused_tries(stage)
    at_rest(6)
    assert refused_tries(stage) == before
    assert stage.ready(monitor_path("shop"))["reason"] == "Attached"  # the agents that run go on
    for path in (f"{ADMISSION}policybindings/frozen", f"{ADMISSION}policies/frozen"):
        stage.server.delete(path)
    eventually(lambda: not denied(stage.server), "it may be changed again")
    stage.server.patch(pool_path("default"), spec={"logLevel": "info"})
    stage.await_reason(pool_path("default"), "RolledOut")


def test_the_elder_of_two_pools_has_the_nodes_that_both_select(stage: Stage) -> None:
    attached(stage)
    stage.make_pool("zone-a", nodeSelector={"zone": "a"})
    ready = stage.await_reason(pool_path("zone-a"), "Overlap")
    assert "Pool default selects node n1, too, and is older" in ready["message"]
    assert not stage.server.answers(daemon_set_path("zone-a"))
    stage.server.patch(pool_path("default"), spec={"nodeSelector": {"zone": "b"}})
    eventually(lambda: stage.server.answers(daemon_set_path("zone-a")), "the other pool has agents", 5)
    stage.await_reason(pool_path("zone-a"), "Pending")
    stage.await_reason(monitor_path("shop"), "AgentsStarting")  # n1's AgentNode is still of the other pool
    stage.report("n1", "zone-a", "shop")
    stage.await_reason(monitor_path("shop"), "Attached")
    stage.server.patch(pool_path("default"), spec={"nodeSelector": None})


def test_daemonsets_go_once_the_agents_have_removed_what_is_theirs(stage: Stage) -> None:
    attached(stage)
    stage.set_node_ready("n2", ready=False)  # nobody waits for it
    stage.await_reason(monitor_path("shop"), "NodesNotReady")
    stage.server.delete(monitor_path("shop"))
    ready = stage.await_reason(pool_path("default"), "Draining")
    assert "from node n1" in ready["message"]
    assert stage.server.answers(DEFAULT)
    stage.report("n1", "default")
    eventually(lambda: not stage.server.answers(DEFAULT), "the DaemonSet is deleted", 5)
    stage.await_reason(pool_path("default"), "NoMonitors")


def test_a_pool_that_is_deleted_takes_its_daemonset_along_and_there_is_always_one(stage: Stage) -> None:
    attached(stage)
    uid = stage.server.get(pool_path("default"))["metadata"]["uid"]
    stage.make_pool("zone-c", nodeSelector={"zone": "c"})
    stage.make_node("n3", zone="c")
    stage.server.patch(pool_path("default"), spec={"nodeSelector": {"zone": "a"}})
    eventually(lambda: stage.server.answers(daemon_set_path("zone-c")), "it has agents")
    stage.server.delete(pool_path("zone-c"))
    eventually(lambda: not stage.server.answers(daemon_set_path("zone-c")), "they are gone", 5)
    stage.server.delete(pool_path("default"))
    eventually(lambda: uid_of(stage, pool_path("default")) not in {"", uid}, "there is one again", 5)
    eventually(lambda: owner_of(stage) not in {"", uid}, "and so are its agents", 5)


def test_the_secrets_of_the_exchange_are_made(server: ApiServer, stage: Stage) -> None:
    del stage
    agent = server.get(f"{SECRETS}/{AGENT_TLS_SECRET}")
    assert agent["data"].keys() == {"ca.crt", "tls.crt", "tls.key"}
    authority = server.get(f"{SECRETS}/{CA_SECRET}")
    assert authority["data"]["tls.crt"] == agent["data"]["ca.crt"]


def test_it_answers_probes_and_scrapes(operator: OperatorProcess, stage: Stage) -> None:
    attached(stage)
    assert operator.get("/healthz") == (200, "ok\n")
    assert operator.get("/readyz") == (200, "ok, leading\n")
    status, metrics = operator.get("/metrics")
    assert status == 200
    assert 'podwire_operator_view_objects{kind="networkmonitors"} 1.0' in metrics
    assert 'podwire_operator_writes_total{resource="networkmonitors/status",verb="patch"}' in metrics
    assert operator.get("/")[0] == 404


def test_two_hundred_monitors_make_no_storm(stage: Stage) -> None:
    names = [f"m{number}" for number in range(200)]
    before = len(stage.writes())
    for name in names:
        stage.make_monitor(name)
    began = time.monotonic()
    eventually(lambda: told(stage) == 200, "all have a status", 60)
    took = time.monotonic() - began
    cold = len(stage.writes(before))
    first = sorted(
        (each["metadata"] for each in stage.server.get(f"{RESOURCES}/{MONITORS}")["items"]),
        key=lambda metadata: (metadata["creationTimestamp"], metadata["uid"]),
    )[:8]
    served = [each["name"] for each in first]
    for node in ("n1", "n2"):
        stage.report(node, "default", *served)
    for name in served:
        stage.await_reason(monitor_path(name), "Attached", 30)
    before = len(stage.writes())
    for beat in range(10):
        for node in ("n1", "n2"):
            stage.report(node, "default", *served, flowsPerSecond=100 + beat * 7)
        at_rest(2)
    busy = len(stage.writes(before))
    print(f"cold: {cold} writes for 200 monitors, {took:.1f} s; busy: {busy} writes in 20 s, 20 reports of 8 monitors")
    assert cold <= 200 * 2 + 20
    assert busy <= 8 * 2  # each of the eight at most every 20 s, and none of the others


def test_a_kind_that_is_deleted_with_everything_is_survived(server: ApiServer, stage: Stage) -> None:
    attached(stage)
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for plural in (MONITORS, POOLS, AGENT_NODES):
        server.delete(f"{crds}/{plural}.podwire.dev")
    eventually(lambda: not server.get(DAEMON_SETS)["items"], "its DaemonSets are deleted", 40)
    kubectl = Kubectl(server.directory / "admin.kubeconfig")
    eventually(lambda: not server.answers(f"{RESOURCES}/{POOLS}"), "the kinds are gone", 20)
    kubectl("apply", "-k", str(manifests()))
    eventually(lambda: server.answers(pool_path("default")), "there is a pool again", 40)
    attached(stage)


def test_it_has_every_right_that_it_uses(server: ApiServer, operator: OperatorProcess) -> None:
    """The last test: what all others made it do."""
    del operator
    rendered = Kubectl(server.directory / "admin.kubeconfig")("kustomize", str(manifests()))
    rights = granted(list(yaml.safe_load_all(rendered)), OPERATOR)
    assert missing(rights, called(server.audit(), OPERATOR)) == []


def test_the_operators_directory_is_no_package() -> None:
    assert not (Path(__file__).parents[2] / "operator" / "__init__.py").exists()
