"""The manifests and the resources under GitOps: read in each state, applied twice, installed and removed at one go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from podwire_api.conditions import Condition, ConditionType, MonitorReason, PoolReason
from podwire_api.names import API_VERSION, GROUP, MONITORS, POOLS
from tests.cluster.api_server import ApiServer
from tests.cluster.gitops import HEALTH, ROOT, argocd, kstatus
from tests.cluster.kubectl import Kubectl
from tests.cluster.polling import eventually

MANIFESTS = ROOT / "manifests"
SAMPLES = MANIFESTS / "samples"
FOR_CLUSTERS = [SAMPLES / "cluster.yaml", SAMPLES / "lines.yaml", SAMPLES / "agentpools" / "default.yaml"]
PART_OF = "--selector=app.kubernetes.io/part-of=podwire"
KINDS = {
    MONITORS: {"sinks": [{"name": "lines", "stdout": {}}]},
    POOLS: {},
}
"""Plural -> the smallest spec."""
HOLD = "podwire.dev/test"
"""A finalizer, to look at an object that is being deleted."""


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Kubectl]:
    """A cluster's API server that has never heard of Podwire."""
    with ApiServer(tmp_path) as server:
        yield Kubectl(server.authority.kubeconfig("admin", server.url))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One with the manifests applied."""
    with ApiServer(tmp_path_factory.mktemp("gitops")) as server:
        Kubectl(server.authority.kubeconfig("admin", server.url))("apply", "-k", str(MANIFESTS))
        served = [f"/apis/{API_VERSION}/{plural}" for plural in KINDS]
        eventually(lambda: all(map(server.answers, served)), "the kinds are served")
        yield server


@pytest.fixture(scope="module")
def kubectl(server: ApiServer) -> Kubectl:
    return Kubectl(server.directory / "admin.kubeconfig")


@dataclass(frozen=True)
class State:
    """A status as the operator writes it, and what is to be read from it."""

    conditions: tuple[tuple[ConditionType, str, str], ...]
    """Type, status, reason."""
    kstatus: str
    argocd: str
    behind: int = 0
    """Edits of the spec that the operator has not seen."""
    deleting: bool = False


READY = ((ConditionType.READY, "True", MonitorReason.ATTACHED),)
RECONCILING = (
    (ConditionType.READY, "False", MonitorReason.AGENTS_STARTING),
    (ConditionType.RECONCILING, "True", MonitorReason.AGENTS_STARTING),
)
STALLED = (
    (ConditionType.READY, "False", MonitorReason.NOT_BUILT),
    (ConditionType.STALLED, "True", MonitorReason.NOT_BUILT),
)
AT_REST = ((ConditionType.READY, "True", PoolReason.NO_MONITORS),)
ROLLING_OUT = (
    (ConditionType.READY, "True", PoolReason.ROLLED_OUT),
    (ConditionType.RECONCILING, "True", PoolReason.ROLLING_OUT),
)

STATES = [
    pytest.param(State((), "InProgress", "Progressing"), id="nobody has looked at it yet"),
    pytest.param(State(READY, "Current", "Healthy"), id="attached on every node"),
    pytest.param(State(AT_REST, "Current", "Healthy"), id="a pool without monitors"),
    pytest.param(State(RECONCILING, "InProgress", "Progressing"), id="agents are starting"),
    pytest.param(State(ROLLING_OUT, "InProgress", "Progressing"), id="ready, and being rolled out"),
    pytest.param(State(STALLED, "Failed", "Degraded"), id="asks for what nobody can do"),
    pytest.param(State(((ConditionType.READY, "True", MonitorReason.PAUSED),), "Current", "Suspended"), id="paused"),
    pytest.param(State(READY, "InProgress", "Progressing", behind=1), id="edited since it was ready"),
    pytest.param(State(STALLED, "InProgress", "Progressing", behind=1), id="mended since it was stalled"),
    pytest.param(State(READY, "Terminating", "Progressing", deleting=True), id="being deleted"),
]


def sentence(reason: str) -> str:
    return f'{reason}: what a person reads, with "quotes" and two\nlines.'


def put(server: ApiServer, plural: str, state: State) -> dict[str, Any]:
    """An object in that state, as the API server stores it; any other of this name is gone."""
    path = f"/apis/{API_VERSION}/{plural}/seen"
    kind = {MONITORS: "NetworkMonitor", POOLS: "AgentPool"}[plural]
    server.make(
        path.rpartition("/")[0],
        apiVersion=API_VERSION,
        kind=kind,
        metadata={"name": "seen", "finalizers": [HOLD] if state.deleting else []},
        spec=KINDS[plural],
    )
    if state.conditions:
        conditions = [
            Condition.model_validate(
                {
                    "type": about,
                    "status": status,
                    "observedGeneration": 1,
                    "lastTransitionTime": "2026-01-02T03:04:05Z",
                    "reason": reason,
                    "message": sentence(reason),
                }
            ).model_dump(mode="json", by_alias=True)
            for about, status, reason in state.conditions
        ]
        server.patch(f"{path}/status", status={"observedGeneration": 1, "conditions": conditions})
    for edit in range(state.behind):
        labels = {"edit": f"n{edit}"}
        nodes: dict[str, Any] = {"nodeSelector": labels}
        server.patch(path, spec={"nodes": nodes} if plural == MONITORS else nodes)
    if state.deleting:
        server.delete(path)
    stored: dict[str, Any] = server.get(path)
    assert stored["metadata"]["generation"] == 1 + state.behind + state.deleting
    return stored


@pytest.mark.parametrize("plural", KINDS)
@pytest.mark.parametrize("state", STATES)
def test_gitops_tools_understand_an_object_that_is(server: ApiServer, plural: str, state: State) -> None:
    path = f"/apis/{API_VERSION}/{plural}/seen"
    try:
        stored = put(server, plural, state)
    finally:
        if server.answers(path):
            server.patch(path, metadata={"finalizers": []})
        if server.answers(path):
            server.delete(path)
    ((flux, _),) = kstatus([stored])
    argo, message = argocd(stored)
    assert (flux, argo) == (state.kstatus, state.argocd)
    if state.conditions and not state.behind and not state.deleting:
        assert message in {sentence(reason) for _, _, reason in state.conditions}
    else:
        assert message


def versions(kubectl: Kubectl) -> dict[str, str]:
    """Of everything that the manifests bring."""
    kinds = "namespaces,services,customresourcedefinitions,serviceaccounts,roles,rolebindings,clusterroles"
    more = "clusterrolebindings,deployments,poddisruptionbudgets,validatingadmissionpolicies"
    found = kubectl.get(f"{kinds},{more},validatingadmissionpolicybindings", "--all-namespaces", PART_OF)["items"]
    return {
        "/".join((each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])): (
            each["metadata"]["resourceVersion"]
        )
        for each in found
    }


def settled(kubectl: Kubectl) -> None:
    """The API server itself has written what it writes after an apply: the conditions of kinds."""
    for condition in ("NamesAccepted", "Established"):
        kubectl("wait", f"--for=condition={condition}", "customresourcedefinitions", PART_OF, "--timeout=30s")


def test_one_apply_installs_and_one_delete_removes_even_with_a_monitor_still_there(fresh: Kubectl) -> None:
    first = fresh.tried("apply", "-k", str(MANIFESTS))
    assert (first.code, first.err) == (0, "")
    settled(fresh)
    fresh("apply", "-f", str(SAMPLES / "cluster.yaml"))
    # Without its controller a namespace is never quite gone; of the rest kubectl waits for each.
    fresh("delete", "namespace", "podwire-system", "--wait=false")
    gone = fresh.tried("delete", "-k", str(MANIFESTS), "--ignore-not-found", "--wait=false")
    assert (gone.code, gone.err) == (0, "")

    def left() -> list[str]:
        return [name for name in versions(fresh) if "/podwire-system" not in name]

    eventually(lambda: not left(), "nothing is left outside the namespace", 30)
    assert GROUP not in fresh("api-resources", "--output=name", "--cached=false")


@pytest.mark.parametrize("how", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_a_second_apply_of_the_manifests_changes_nothing(fresh: Kubectl, how: tuple[str, ...]) -> None:
    fresh("apply", "-k", str(MANIFESTS), *how)
    settled(fresh)
    before = versions(fresh)
    assert len(before) == fresh("kustomize", str(MANIFESTS)).count("\nkind: ")
    fresh("apply", "-k", str(MANIFESTS), *how)
    assert versions(fresh) == before


def lost(sent: Any, stored: Any, at: str = "") -> Iterator[str]:
    """Where the API server keeps something else than it was sent; what it adds does not count."""
    if isinstance(sent, dict) and isinstance(stored, dict):
        for key, value in sent.items():
            if key in stored:
                yield from lost(value, stored[key], f"{at}.{key}")
            else:
                yield f"{at}.{key}"
    elif isinstance(sent, list) and isinstance(stored, list) and len(sent) == len(stored):
        for index, pair in enumerate(zip(sent, stored, strict=True)):
            yield from lost(*pair, f"{at}[{index}]")
    elif sent != stored:
        yield at


def test_the_manifests_are_stored_as_they_are_written_so_that_no_tool_sees_a_difference(kubectl: Kubectl) -> None:
    rendered = kubectl("kustomize", str(MANIFESTS))
    for sent in yaml.safe_load_all(rendered):
        namespace = sent["metadata"].get("namespace", "default")
        stored = kubectl.get(f"--namespace={namespace}", sent["kind"], sent["metadata"]["name"])
        assert list(lost(sent, stored)) == [], sent["metadata"]["name"]


@pytest.mark.parametrize("how", [(), ("--server-side",)], ids=["client-side", "server-side"])
@pytest.mark.parametrize("sample", FOR_CLUSTERS, ids=lambda path: str(path.relative_to(SAMPLES)))
def test_a_second_apply_of_a_sample_changes_nothing(kubectl: Kubectl, sample: Path, how: tuple[str, ...]) -> None:
    apply = ("apply", "-f", str(sample), *how)
    try:
        kubectl(*apply)
        # As the operator does within a second. The API server keeps no status of a new object, and stores the
        # schema's default with the first write after that, whatever it is.
        seen = json.dumps({"status": {"observedGeneration": 1}})
        kubectl("patch", "-f", str(sample), "--subresource=status", "--type=merge", f"--patch={seen}")
        before = kubectl.get("-f", str(sample))["metadata"]["resourceVersion"]
        said = kubectl(*apply)
        assert kubectl.get("-f", str(sample))["metadata"]["resourceVersion"] == before
        assert how or "unchanged" in said
    finally:
        kubectl("delete", "-f", str(sample))


@pytest.mark.parametrize("sample", FOR_CLUSTERS, ids=lambda path: str(path.relative_to(SAMPLES)))
def test_who_began_client_side_may_go_on_server_side_and_back(kubectl: Kubectl, sample: Path) -> None:
    try:
        for how in ((), ("--server-side",), ("--server-side",), ()):
            said = kubectl.tried("apply", "-f", str(sample), *how)
            assert (said.code, said.err) == (0, "")
    finally:
        kubectl("delete", "-f", str(sample))


def images(kubectl: Kubectl, directory: Path) -> tuple[str, str]:
    """The operator's and the agents', as the operator's Deployment has them."""
    documents = list(yaml.safe_load_all(kubectl("kustomize", str(directory))))
    (deployment,) = (each for each in documents if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (agent,) = (each["value"] for each in container["env"] if each["name"] == "PODWIRE_AGENT_IMAGE")
    return container["image"], agent


def test_an_overlay_replaces_both_images_by_their_names(kubectl: Kubectl) -> None:
    operator, agent = images(kubectl, SAMPLES / "registry")
    assert operator.startswith("registry.example.com/podwire/operator:")
    assert agent.startswith("registry.example.com/podwire/agent:")


def test_images_set_in_the_base_itself_as_argo_cd_and_flux_do_replace_both(kubectl: Kubectl, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "crds", tmp_path / "crds", ignore=shutil.ignore_patterns("podwire_api"))
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    base = tmp_path / "manifests" / "base"
    edited = yaml.safe_load((base / "kustomization.yaml").read_text())
    (flux,) = (
        each["spec"]["images"]
        for each in yaml.safe_load_all((MANIFESTS / "flux" / "podwire.yaml").read_text())
        if each["kind"] == "Kustomization" and "images" in each["spec"]
    )
    edited["images"] = flux
    (base / "kustomization.yaml").write_text(json.dumps(edited))
    assert images(kubectl, base) == tuple(f"{each['newName']}:{each['newTag']}" for each in flux)


def test_the_health_script_is_added_to_argo_cds_settings_without_touching_others(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "argocd")
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm", "namespace": "argocd"}}
    kubectl("apply", "-f", "-", stdin=json.dumps({**theirs, "data": {"url": "https://argocd.example.com"}}))
    patch = MANIFESTS / "argocd" / "argocd-cm.yaml"
    kubectl("patch", "configmap", "argocd-cm", "--namespace=argocd", f"--patch-file={patch}")
    found = kubectl.get("configmap", "--namespace=argocd", "argocd-cm")
    script = HEALTH.read_text()
    ours = {f"resource.customizations.health.{GROUP}_{kind}": script for kind in ("NetworkMonitor", "AgentPool")}
    assert found["data"] == {"url": "https://argocd.example.com", **ours}
