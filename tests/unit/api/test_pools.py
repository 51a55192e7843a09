"""AgentPools: what one means, what is refused, and files that hold both kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from podwire_api import InvalidResource, NetworkMonitor, load_documents, load_resource_documents, load_resources
from podwire_api.agentpool import AgentPool
from podwire_api.fields import quantity

ROOT = Path(__file__).parents[3]
MONITOR = "apiVersion: podwire.dev/v1alpha1\nkind: NetworkMonitor\nmetadata: {name: default}\nspec: {}\n"


def document(spec: object, name: str = "default") -> str:
    resource = {"apiVersion": "podwire.dev/v1alpha1", "kind": "AgentPool", "metadata": {"name": name}, "spec": spec}
    return yaml.safe_dump(resource, sort_keys=False)


def pool(spec: object) -> AgentPool:
    [loaded] = load_resource_documents(document(spec), "p")
    assert isinstance(loaded, AgentPool)
    return loaded


def test_the_defaults_are_those_of_the_reference() -> None:
    spec = pool({}).spec
    assert [each.operator for each in spec.tolerations] == ["Exists"]
    assert (spec.node_selector, spec.priority_class_name, spec.image) == ({}, "system-node-critical", None)
    assert (spec.resources.requests, spec.resources.limits) == (
        {"cpu": "50m", "memory": "128Mi"},
        {"memory": "512Mi"},
    )
    assert (spec.log_level, spec.metrics.port, spec.metrics.auth, spec.exchange.port) == (
        "info",
        9435,
        "kubernetes",
        9436,
    )


def test_defaults_are_values_that_the_models_accept() -> None:
    spec = pool({}).spec
    assert pool(spec.model_dump(by_alias=True, exclude_none=True)).spec == spec


def test_a_plain_number_is_a_quantity() -> None:
    assert pool({"resources": {"limits": {"cpu": 2}}}).spec.resources.limits == {"cpu": "2"}


@pytest.mark.parametrize(("text", "amount"), {"500m": 0.5, "2": 2, "1.5Ki": 1536, "3M": 3e6, "1Ti": 2**40}.items())
def test_a_quantity_is_an_amount(text: str, amount: float) -> None:
    assert float(quantity(text)) == amount


WRONG_POOLS: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown field": ({"toleration": []}, "spec.toleration", "did you mean tolerations?"),
    "a taint without key or operator": ({"tolerations": [{"effect": "NoExecute"}]}, "spec.tolerations[0]", "a key"),
    "a value where any will do": (
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "spec.tolerations[0].value",
        "must be left out with operator Exists",
    ),
    "seconds without NoExecute": (
        {"tolerations": [{"key": "a", "tolerationSeconds": 9}]},
        "spec.tolerations[0].tolerationSeconds",
        "needs effect: NoExecute",
    ),
    "a toleration's operator that is none": (
        {"tolerations": [{"operator": "Exist"}]},
        "spec.tolerations[0].operator",
        "not one of Exists, Equal",
    ),
    "a quantity that is none": (
        {"resources": {"limits": {"memory": "1 GB"}}},
        "spec.resources.limits.memory",
        "a quantity such as 500m or 128Mi",
    ),
    "a negative quantity": ({"resources": {"limits": {"cpu": -1}}}, "spec.resources.limits.cpu", "a quantity such as"),
    "a quantity with a fraction that YAML takes for a number": (
        {"resources": {"limits": {"cpu": 0.5}}},
        "spec.resources.limits.cpu",
        "put it in quotes",
    ),
    "requests beyond limits": (
        {"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "512Mi"}}},
        "spec.resources.requests",
        "must not exceed limits",
    ),
    "limits below the requests' defaults": (
        {"resources": {"limits": {"memory": "64Mi"}}},
        "spec.resources.requests",
        "must not exceed limits",
    ),
    "a low port": ({"metrics": {"port": 443}}, "spec.metrics.port", "at least 1024"),
    "one port for two": ({"metrics": {"port": 9436}}, "spec.exchange.port", "must differ from metrics.port"),
    "an authentication that is none": ({"metrics": {"auth": "basic"}}, "spec.metrics.auth", "kubernetes, none"),
    "a log level that is none": ({"logLevel": "trace"}, "spec.logLevel", "debug, info, warning, error"),
    "an image with a blank": ({"image": "a b"}, "spec.image", "without blanks"),
    "an empty image": ({"image": ""}, "spec.image", ""),
    "a priority class with a capital": ({"priorityClassName": "High"}, "spec.priorityClassName", "an object's name"),
    "a label's key with a blank": ({"nodeSelector": {"a b": "c"}}, "spec.nodeSelector", "a label's key"),
}


@pytest.mark.parametrize(("spec", "field", "words"), WRONG_POOLS.values(), ids=WRONG_POOLS)
def test_a_wrong_pool_is_refused_by_one_line(spec: object, field: str, words: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        load_resource_documents(document(spec), "p")
    [problem] = refused.value.problems
    assert problem.field.startswith(field)
    assert words in problem.message


def test_a_resource_that_is_none_of_a_pools_is_refused() -> None:
    with pytest.raises(InvalidResource, match="not one of cpu, memory, ephemeral-storage"):
        pool({"resources": {"limits": {"disk": "1Gi"}}})


def test_a_file_may_hold_both_kinds_of_one_name() -> None:
    text = f"{MONITOR}---\n{document({})}"
    assert [type(each) for each in load_resource_documents(text, "f")] == [NetworkMonitor, AgentPool]
    assert [each.metadata.name for each in load_documents(text, "f")] == ["default"]


def test_pools_alone_are_no_monitor() -> None:
    with pytest.raises(InvalidResource, match="holds no NetworkMonitor"):
        load_documents(document({}), "p")


def test_a_wrong_pool_of_a_file_is_told_with_its_line() -> None:
    with pytest.raises(InvalidResource) as refused:
        load_documents(f"{MONITOR}---\n{document({'logLevel': 'loud'})}", "f")
    assert str(refused.value).startswith('f:11: spec.logLevel: "loud" is not one of debug')


def test_the_sample_loads() -> None:
    [sample] = load_resources(ROOT / "manifests/samples/agentpools/default.yaml")
    assert isinstance(sample, AgentPool)
