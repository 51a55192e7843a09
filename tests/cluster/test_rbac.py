"""The rights of operator and agents: those that they use and no others; an AgentNode is its own node's agent's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from podwire_agent.clock import SystemClock
from podwire_agent.cluster_rules import read_config_map
from podwire_agent.errors import ClusterError
from podwire_agent.kube.access import Access, Verdict
from podwire_agent.kube.agent_node import AGENT_NODES_PATH, AgentNodeWriter
from podwire_agent.kube.connection import Connection
from podwire_agent.kube.referred import Referable, Referred
from podwire_agent.kube.succession import successor_expected
from podwire_agent.kube.view import ClusterWatch
from podwire_api.agentnode import AgentNodeStatus
from podwire_api.names import AGENT, AGENT_TLS_SECRET, API_VERSION, CA_SECRET, NAMESPACE, OPERATOR, POOLS
from tests.cluster.api_server import ApiServer
from tests.cluster.cluster import Cluster
from tests.cluster.gitops import ROOT
from tests.cluster.kubectl import Kubectl
from tests.cluster.polling import eventually
from tests.cluster.rbac import Right, called, granted, idle, missing

NODES = ("n1", "n2")
ACCOUNT = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{AGENT}"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DAEMONSET = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
MERGE = "application/merge-patch+json"

RARE = {
    Right("", "secrets", "update", NAMESPACE, CA_SECRET): "the authority is renewed after years",
    Right("", "secrets", "update", NAMESPACE, AGENT_TLS_SECRET): "the certificate is renewed after months",
}
"""Rights whose time does not come while the tests run, and why they are there."""


@dataclass(frozen=True)
class Install:
    """An API server with the manifests applied and two nodes."""

    server: ApiServer
    manifests: list[dict[str, Any]]

    def token(self, node: str = "") -> str:
        """Of the agents' account: of a pod on the node, as the kubelet gets it for the pod, else of no pod."""
        bound: dict[str, Any] = {}
        if node:
            uid = self.server.get(f"{PODS}/agent-{node}")["metadata"]["uid"]
            pod = {"apiVersion": "v1", "kind": "Pod", "name": f"agent-{node}", "uid": uid}
            bound = {"boundObjectRef": pod}
        asked = {"expirationSeconds": 3600, **bound}
        answer = self.server.make(
            f"{ACCOUNT}/token", apiVersion="authentication.k8s.io/v1", kind="TokenRequest", spec=asked
        )
        return str(answer["status"]["token"])

    def agent(self, node: str = "") -> Connection:
        """As the agent of the node."""
        return self.server.connection(self.token(node))


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Install]:
    with ApiServer(tmp_path_factory.mktemp("rbac")) as server:
        kubectl = Kubectl(server.authority.kubeconfig("admin", server.url))
        directory = str(ROOT / "manifests")
        kubectl("apply", "-k", directory)
        eventually(lambda: server.answers(AGENT_NODES_PATH), "AgentNodes are served")
        container = {"name": "agent", "image": "localhost/none:1"}
        for node in NODES:
            server.make("/api/v1/nodes", metadata={"name": node})
            spec = {"nodeName": node, "serviceAccountName": AGENT, "containers": [container]}
            server.make(PODS, metadata={"name": f"agent-{node}"}, spec=spec)
        found = Install(server, list(yaml.safe_load_all(kubectl("kustomize", directory))))
        # The API server needs a moment to learn of a policy.
        eventually(lambda: refusal(found.agent("n1"), "n2"), "the policy is in force")
        yield found


def refusal(connection: Connection, node: str) -> str:
    """Make an AgentNode, which is not kept, and say what was said against it."""
    document = {"apiVersion": API_VERSION, "kind": "AgentNode", "metadata": {"name": node}}
    query = {"dryRun": "All"}
    try:
        connection.request("POST", AGENT_NODES_PATH, query=query, body=json.dumps(document).encode())
    except ClusterError as error:
        return str(error)
    return ""


def test_an_agent_makes_and_writes_the_agentnode_of_its_own_node(install: Install) -> None:
    writer = AgentNodeWriter(install.agent("n1"), "n1", SystemClock(), 30.0)
    try:
        writer.write(AgentNodeStatus(version="0.1.0"), urgent=True)
        path = f"{AGENT_NODES_PATH}/n1"

        def version() -> str:
            return str(install.server.get(path).get("status", {}).get("version", ""))

        eventually(lambda: version() == "0.1.0", "the status is written", passing=(ClusterError,))
    finally:
        writer.close(None)
        install.server.delete(f"{AGENT_NODES_PATH}/n1")


def test_it_does_not_make_that_of_another_node(install: Install) -> None:
    said = refusal(install.agent("n1"), "n2")
    assert "AgentNode n2 is written by the agent of node n2 alone; this token is of node n1" in said
    assert refusal(install.agent("n2"), "n2") == ""


def test_it_does_not_write_that_of_another_node(install: Install) -> None:
    install.server.make(AGENT_NODES_PATH, apiVersion=API_VERSION, kind="AgentNode", metadata={"name": "n2"})
    try:
        lie = json.dumps({"status": {"version": "9"}}).encode()
        with pytest.raises(ClusterError, match="AgentNode n2 is written by the agent of node n2 alone"):
            install.agent("n1").request("PATCH", f"{AGENT_NODES_PATH}/n2/status", body=lie, content_type=MERGE)
        install.agent("n2").request("PATCH", f"{AGENT_NODES_PATH}/n2/status", body=lie, content_type=MERGE)
    finally:
        install.server.delete(f"{AGENT_NODES_PATH}/n2")


def test_a_token_of_no_pod_writes_none(install: Install) -> None:
    assert "this token is of no pod on a node" in refusal(install.agent(), "n1")


def test_an_agents_edge_uses_all_its_rights_and_needs_no_other(install: Install) -> None:
    connection = install.agent("n1")
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "x", "image": "localhost/x:1"}]}}
    install.server.make(
        DAEMONSET,
        metadata={"name": f"{AGENT}-default"},
        spec={"selector": {"matchLabels": {"app": "x"}}, "template": template},
    )
    install.server.make(
        f"/apis/{API_VERSION}/{POOLS}", apiVersion=API_VERSION, kind="AgentPool", metadata={"name": "default"}
    )
    with (
        ClusterWatch(connection, "n1", SystemClock()) as watch,
        Referred(connection, SystemClock(), read_config_map) as referred,
    ):
        referred.follow(list(Referable))
        eventually(lambda: watch.view() is not None and watch.pods_synced, "everything is listed")
        eventually(lambda: referred.synced(list(Referable)), "what rules refer to is listed")
        writer = AgentNodeWriter(connection, "n1", SystemClock(), 30.0)
        writer.write(AgentNodeStatus(version="0.1.0"), urgent=True)
        writer.close(None)
        successor_expected(connection, watch.view(), "n1", NAMESPACE, "default")
        assert Access(connection).verdict(install.token("n2")) is Verdict.FORBIDDEN
        rights = granted(install.manifests, AGENT)
        assert rights
        eventually(lambda: not idle(rights, called(install.server.audit(), AGENT)), "all rights are used")
    assert missing(rights, called(install.server.audit(), AGENT)) == []


def test_nobody_has_a_right_to_everything_or_to_secrets_at_large(install: Install) -> None:
    for account in (AGENT, OPERATOR):
        for right in granted(install.manifests, account):
            assert "*" not in (right.group, right.resource, right.verb), right
            assert right.resource != "secrets" or right.verb == "create" or right.name, right
            assert right.resource != "secrets" or right.namespace == NAMESPACE, right


def test_a_right_that_nobody_uses_and_a_call_without_one_are_found() -> None:
    everywhere = Right("", "pods", "list")
    here = Right("", "pods", "list", NAMESPACE, "agent-n1")
    assert missing({everywhere}, {here}) == []
    assert missing({here}, {everywhere}) == ["list pods in the whole cluster"]
    assert idle({everywhere}, {here}) == ["list pods in the whole cluster"]
    assert missing({Right("", "secrets", "get", NAMESPACE, "a")}, {Right("", "secrets", "get", NAMESPACE, "b")}) == [
        f"get secrets b in {NAMESPACE}"
    ]
    report = Right("podwire.dev", "agentnodes/status", "patch", name="n1")
    assert missing(set(), {report}) == ["patch agentnodes/status.podwire.dev n1 in the whole cluster"]


@pytest.mark.parametrize("account", [AGENT, OPERATOR])
def test_in_all_cluster_tests_together_an_account_used_its_rights_and_needed_no_other(
    cluster: Cluster, account: str, request: pytest.FixtureRequest
) -> None:
    rights = granted(yaml.safe_load_all(cluster.kubectl("kustomize", str(ROOT / "manifests"))), account)
    calls = called(cluster.audit(), account)
    assert missing(rights, calls) == []
    here = Path(__file__).parent
    left_out = {path.name for path in here.glob("test_*.py")} - {item.path.name for item in request.session.items}
    if left_out:
        pytest.skip(f"a right that is not used yet may be by what was not run: {', '.join(sorted(left_out))}")
    assert idle(rights - RARE.keys(), calls) == []
