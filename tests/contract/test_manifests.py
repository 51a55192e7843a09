"""The manifests agree with the code: names, versions, kinds, options, and what each part is allowed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from podwire_api.agentpool import AgentPool
from podwire_api.names import (
    AGENT,
    AGENT_NODES,
    AGENT_TLS_SECRET,
    CA_SECRET,
    GROUP,
    MONITORS,
    NAMESPACE,
    OPERATOR,
    POOLS,
)
from podwire_operator import cli, settings
from podwire_operator.certificates import TRUSTED
from podwire_operator.render import METRICS_PORT_NAME, NAME

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
BASE = MANIFESTS / "base"
KUSTOMIZATIONS = sorted([*MANIFESTS.rglob("kustomization.yaml"), ROOT / "crds" / "kustomization.yaml"])
OURS = {MONITORS, POOLS, AGENT_NODES}


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def resources(kustomization: Path) -> Iterator[Path]:
    """The files that `kubectl apply -k` of its directory applies."""
    for name in documents(kustomization)[0].get("resources", ()):
        there = kustomization.parent / name
        if there.is_dir():
            yield from resources(there / "kustomization.yaml")
        else:
            yield there


def applied(kind: str) -> list[dict[str, Any]]:
    """The objects of a kind that `kubectl apply -k manifests/` applies."""
    paths = resources(MANIFESTS / "kustomization.yaml")
    return [document for path in paths for document in documents(path) if document["kind"] == kind]


def only(kind: str) -> dict[str, Any]:
    (found,) = applied(kind)
    return found


def operators_container() -> dict[str, Any]:
    (found,) = only("Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_kustomization_names_files_that_are_there(path: Path) -> None:
    (kustomization,) = documents(path)
    for named in (*kustomization["resources"], *kustomization.get("configurations", ())):
        assert (path.parent / named).exists(), named


@pytest.mark.parametrize("directory", [BASE, ROOT / "crds"], ids=["base", "crds"])
def test_every_file_beside_a_kustomization_is_named_by_it(directory: Path) -> None:
    (kustomization,) = documents(directory / "kustomization.yaml")
    named = {*kustomization["resources"], *kustomization.get("configurations", ()), "kustomization.yaml"}
    assert {path.name for path in directory.glob("*.yaml")} <= named


def test_every_kind_is_installed_and_no_object_of_one() -> None:
    # kubectl looks every kind up before it applies the first object: a resource beside its kind fails.
    assert {each["metadata"]["name"] for each in applied("CustomResourceDefinition")} == {
        f"{plural}.{GROUP}" for plural in OURS
    }
    for path in resources(MANIFESTS / "kustomization.yaml"):
        assert not any(document["apiVersion"].startswith(f"{GROUP}/") for document in documents(path)), path


@pytest.mark.parametrize(
    "path", [BASE / "kustomization.yaml", MANIFESTS / "samples" / "registry" / "kustomization.yaml"], ids=str
)
def test_a_tag_is_the_version(path: Path) -> None:
    images = documents(path)[0]["images"]
    assert {each["name"] for each in images} == {OPERATOR, AGENT}
    assert {each["newTag"] for each in images if "newTag" in each} == {version()}


@pytest.mark.parametrize("name", ["argocd/application.yaml", "flux/podwire.yaml"])
def test_what_gitops_tools_are_given_is_there(name: str) -> None:
    sources = [each["spec"].get("source", each["spec"]) for each in documents(MANIFESTS / name)]
    (source,) = (source for source in sources if "manifests" in source.get("path", ""))
    assert (ROOT / source["path"] / "kustomization.yaml").exists()
    text = (MANIFESTS / name).read_text()
    assert f"v{version()}" in text
    assert text.count(f"{version()}\n") == 3  # of the repository and of two images


def test_argo_cds_settings_hold_the_script_for_both_kinds() -> None:
    (patch,) = documents(MANIFESTS / "argocd" / "argocd-cm.yaml")
    script = (MANIFESTS / "argocd" / "health.lua").read_text()
    assert patch["data"] == {
        f"resource.customizations.health.{GROUP}_{kind}": script for kind in ("NetworkMonitor", "AgentPool")
    }


@pytest.mark.parametrize(
    "path", sorted((MANIFESTS / "samples" / "agentpools").glob("*.yaml")), ids=lambda path: path.name
)
def test_a_sample_of_a_pool_is_valid(path: Path) -> None:
    for document in documents(path):
        AgentPool.model_validate(document)


def test_everything_lives_in_the_namespace_that_the_code_expects() -> None:
    assert only("Namespace")["metadata"]["name"] == NAMESPACE
    assert {each["metadata"]["name"] for each in applied("ServiceAccount")} == {AGENT, OPERATOR}
    for kind in ("ServiceAccount", "Deployment", "PodDisruptionBudget"):
        assert all(each["metadata"]["namespace"] == NAMESPACE for each in applied(kind))
    for binding in (*applied("ClusterRoleBinding"), *applied("RoleBinding")):
        assert all(subject["namespace"] == NAMESPACE for subject in binding["subjects"])


def test_the_operators_pods_are_found_by_all_that_look_for_them() -> None:
    spec = only("Deployment")["spec"]
    labels = spec["template"]["metadata"]["labels"]
    (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
    for selector in (spec["selector"], only("PodDisruptionBudget")["spec"]["selector"], spread["labelSelector"]):
        assert selector["matchLabels"].items() <= labels.items()


def test_the_operator_runs_with_no_privilege_at_all() -> None:
    pod, container = only("Deployment")["spec"]["template"]["spec"], operators_container()
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & pod.keys()
    user = f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert user in (ROOT / "Dockerfile.operator").read_text()


def test_the_operators_probes_ask_the_port_that_it_opens() -> None:
    container = operators_container()
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    asked = {kind: container[kind]["httpGet"] for kind in ("livenessProbe", "readinessProbe")}
    assert {kind: (probe["path"], ports[probe["port"]]) for kind, probe in asked.items()} == {
        "livenessProbe": ("/healthz", 8080),
        "readinessProbe": ("/readyz", 8080),
    }


def test_the_operators_command_takes_what_the_deployment_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    container = operators_container()
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], f"given-{variable['name']}")
    options = cli._parser().parse_args(container["args"])
    assert options.agent_image == "given-PODWIRE_AGENT_IMAGE"
    assert options.namespace == "given-POD_NAMESPACE"
    assert settings.identity() == "given-POD_NAME"
    assert settings.parse_listen(options.listen)[1] == container["ports"][0]["containerPort"]


def test_rules_are_about_things_that_there_are() -> None:
    secrets = set()
    for role in (*applied("ClusterRole"), *applied("Role")):
        for rule in role["rules"]:
            if "nonResourceURLs" in rule:
                continue
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            if rule["apiGroups"] == [GROUP]:
                assert {name.partition("/")[0] for name in rule["resources"]} <= OURS
            if "secrets" in rule["resources"] and "resourceNames" in rule:
                secrets.update(rule["resourceNames"])
    assert secrets == {CA_SECRET, AGENT_TLS_SECRET}


def test_the_policy_is_about_the_agents_account_and_agentnodes() -> None:
    policy, binding = only("ValidatingAdmissionPolicy"), only("ValidatingAdmissionPolicyBinding")
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == f"request.userInfo.username == 'system:serviceaccount:{NAMESPACE}:{AGENT}'"
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert set(rule["resources"]) == {AGENT_NODES, f"{AGENT_NODES}/status"}


def test_the_ways_to_the_metrics_lead_to_the_agents_port_and_the_readers_right() -> None:
    (service,) = applied("Service")
    selector = {NAME: AGENT}
    assert (service["spec"]["clusterIP"], service["spec"]["selector"]) == ("None", selector)
    assert service["spec"]["ports"][0]["targetPort"] == METRICS_PORT_NAME
    (monitor,) = documents(MANIFESTS / "prometheus" / "podmonitor.yaml")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert monitor["spec"]["selector"]["matchLabels"] == selector
    assert (endpoint["port"], endpoint["path"]) == (METRICS_PORT_NAME, "/metrics")
    assert endpoint["tlsConfig"]["serverName"] == AGENT
    assert endpoint["tlsConfig"]["ca"]["secret"] == {"name": AGENT_TLS_SECRET, "key": TRUSTED}
    account, token, binding = documents(MANIFESTS / "prometheus" / "reader.yaml")
    assert endpoint["authorization"]["credentials"] == {"name": token["metadata"]["name"], "key": "token"}
    reader = account["metadata"]["name"]
    assert token["metadata"]["annotations"] == {"kubernetes.io/service-account.name": reader}
    assert [(each["kind"], each["name"]) for each in binding["subjects"]] == [("ServiceAccount", reader)]
    roles = {each["metadata"]["name"]: each["rules"] for each in applied("ClusterRole")}
    (sample,) = documents(MANIFESTS / "samples" / "prometheus" / "binding.yaml")
    for bound in (binding, sample):
        assert roles[bound["roleRef"]["name"]] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    (scraped,) = documents(MANIFESTS / "samples" / "prometheus" / "scrape.yaml")
    (job,) = scraped["scrape_configs"]
    assert job["tls_config"]["server_name"] == AGENT
    assert job["relabel_configs"][0]["regex"] == f"{AGENT};{METRICS_PORT_NAME}"


def test_people_who_edit_can_change_monitors_and_not_the_agents_themselves() -> None:
    roles = {each["metadata"]["name"]: each for each in applied("ClusterRole")}
    (viewing,) = roles["podwire-view"]["rules"]
    assert set(viewing["resources"]) == OURS
    assert set(viewing["verbs"]) == {"get", "list", "watch"}
    (editing,) = roles["podwire-edit"]["rules"]
    assert editing["resources"] == [MONITORS]
