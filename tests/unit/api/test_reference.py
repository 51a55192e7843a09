"""The pages of the kinds: their examples are valid, and they name every field of spec and status."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from podwire_api import load_resources
from podwire_api.agentnode import AgentNode, AgentNodeStatus
from podwire_api.agentpool import AgentPool, AgentPoolSpec
from podwire_api.networkmonitor import NetworkMonitorSpec
from podwire_api.status import AgentPoolStatus, NetworkMonitorStatus

ROOT = Path(__file__).parents[3]
FULL_POOL = ROOT / "manifests/samples/agentpools/full.yaml"

OF_A_CONDITION = {"type", "status", "lastTransitionTime", "reason", "message"}
"""As everywhere in Kubernetes."""


def page(kind: str) -> str:
    return (ROOT / "docs/reference" / f"{kind}.md").read_text()


def fields(model: type[BaseModel]) -> Iterator[str]:
    schema = model.model_json_schema()
    for each in (schema, *schema.get("$defs", {}).values()):
        yield from each.get("properties", {})


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("networkmonitor", NetworkMonitorSpec),
        ("networkmonitor", NetworkMonitorStatus),
        ("agentpool", AgentPoolSpec),
        ("agentpool", AgentPoolStatus),
        ("agentnode", AgentNodeStatus),
    ],
)
def test_a_page_names_every_field(kind: str, model: type[BaseModel]) -> None:
    named = set(re.findall(r"[`.](\w+)(?=[`.[])", page(kind)))
    assert not set(fields(model)) - named - OF_A_CONDITION


def test_the_page_of_a_pool_shows_the_full_sample() -> None:
    assert f"```yaml\n{FULL_POOL.read_text()}```" in page("agentpool")


def test_the_full_sample_of_a_pool_sets_every_field() -> None:
    [full] = load_resources(FULL_POOL)
    assert isinstance(full, AgentPool)
    spec = full.spec
    assert spec.model_fields_set == set(AgentPoolSpec.model_fields)
    for part in (spec.resources, spec.metrics, spec.exchange):
        assert part.model_fields_set == set(type(part).model_fields)


def test_the_page_of_a_node_shows_a_valid_one() -> None:
    [shown] = re.findall(r"--output=yaml\n(.*?)```", page("agentnode"), re.DOTALL)
    node = AgentNode.model_validate(yaml.safe_load(shown))
    assert node.status.model_fields_set == set(AgentNodeStatus.model_fields)
