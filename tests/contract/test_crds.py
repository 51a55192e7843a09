"""The CustomResourceDefinitions: what the models say, and only what the API server's rules for schemas allow."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import yaml

from podwire_api import names
from podwire_api.agentnode import AgentNode
from podwire_api.agentpool import AgentPool
from podwire_api.cel import RULES
from podwire_api.networkmonitor import NetworkMonitor
from tools import generate_crds
from tools.generate_crds import KINDS, Kind

Schema = dict[str, Any]

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)

INTO = ("properties", "items", "additionalProperties")


def crd(kind: Kind) -> dict[str, Any]:
    """As committed."""
    found: dict[str, Any] = yaml.safe_load(generate_crds.path(kind).read_text())
    return found


def root(kind: Kind) -> Schema:
    found: Schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def schemas(schema: Schema, path: str = "", in_list: bool = False) -> Iterator[tuple[str, Schema, bool]]:
    """Every schema with its path, and whether it is of an item of a list or inside of one."""
    yield path, schema, in_list
    for name, each in schema.get("properties", {}).items():
        yield from schemas(each, f"{path}.{name}", in_list)
    if "items" in schema:
        yield from schemas(schema["items"], f"{path}[]", True)
    if "additionalProperties" in schema:
        yield from schemas(schema["additionalProperties"], f"{path}{{}}", in_list)


@every_kind
def test_the_file_is_what_the_models_say(kind: Kind) -> None:
    assert generate_crds.path(kind).read_text() == generate_crds.text(kind), "run make generate"


def test_a_stale_file_is_named_and_written(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate_crds, "CRDS", tmp_path)
    monkeypatch.setattr(generate_crds, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["generate_crds"])
    assert generate_crds.main() == 0
    (tmp_path / "agentpool.yaml").write_text("# edited\n")
    monkeypatch.setattr("sys.argv", ["generate_crds", "--check"])
    assert generate_crds.main() == 1
    assert capsys.readouterr().err == "agentpool.yaml is not what the models say: run make generate\n"
    assert (tmp_path / "agentpool.yaml").read_text() == "# edited\n"


@every_kind
def test_every_field_has_a_description(kind: Kind) -> None:
    # The server describes metadata, and lets nobody else.
    without = [
        path
        for path, schema, _ in schemas(root(kind))
        if not schema.get("description") and not path.endswith(("[]", "{}", ".metadata"))
    ]
    assert not without


@every_kind
def test_descriptions_are_sentences_of_one_line(kind: Kind) -> None:
    for path, schema, _ in schemas(root(kind)):
        text = schema.get("description", "X.")
        assert text == " ".join(text.split()), path
        assert text.endswith("."), path


@every_kind
def test_the_schema_is_structural(kind: Kind) -> None:
    allowed = {"description", "default", *INTO, *generate_crds.KEPT, RULES}
    for path, schema, _ in schemas(root(kind)):
        assert schema.keys() <= allowed, path
        assert ("type" in schema) != ("x-kubernetes-int-or-string" in schema), path
        assert not ("properties" in schema and "additionalProperties" in schema), path


@every_kind
def test_nothing_inside_a_list_has_a_default_and_no_default_is_null(kind: Kind) -> None:
    for path, schema, in_list in schemas(root(kind)):
        assert not (in_list and "default" in schema), path
        assert "null" not in yaml.safe_dump(schema.get("default", {})), path


@every_kind
def test_a_list_or_map_or_text_that_rules_look_at_has_a_bound(kind: Kind) -> None:
    spec = root(kind)["properties"].get("spec", {})
    for path, schema, _ in schemas(spec, "spec"):
        match schema.get("type"):
            case "array":
                assert "maxItems" in schema, path
            case "string":
                assert "maxLength" in schema or "enum" in schema, path
            case "integer":
                assert "maximum" in schema, path
            case "object":
                assert (
                    "properties" in schema or "maxProperties" in schema or not schema.keys() - {"type", "description"}
                )


@every_kind
def test_lists_of_named_things_are_maps_by_name(kind: Kind) -> None:
    for path, schema, _ in schemas(root(kind)["properties"].get("spec", {}), "spec"):
        if "name" in schema.get("items", {}).get("properties", {}):
            assert schema["x-kubernetes-list-map-keys"] == ["name"], path
            assert "name" in schema["items"]["required"], path


@every_kind
def test_every_rule_has_a_message_that_names_what_is_allowed(kind: Kind) -> None:
    for path, schema, _ in schemas(root(kind)):
        for rule in schema.get(RULES, ()):
            assert rule["message"], path
            assert not rule["message"].startswith("failed rule"), path


FUNCTIONS = {
    "1.25": {"all", "bytes", "duration", "filter", "getMilliseconds", "getSeconds", "has", "indexOf", "int", "matches"}
    | {"size", "split", "string", "type"},
    "1.29": {"isQuantity", "quantity", "isGreaterThan"},
    "1.30": {"isCIDR", "isIP"},
}
"""By the release of Kubernetes that brought them."""


@every_kind
def test_rules_use_only_functions_of_the_release_before_the_oldest_that_is_served(kind: Kind) -> None:
    # 1.31: an API server takes new rules only if its predecessor, to which one may have to go back, knows them too.
    for path, schema, _ in schemas(root(kind)):
        for rule in schema.get(RULES, ()):
            code = re.sub(r"r?'[^']*'", "", rule["rule"])
            assert set(re.findall(r"(\w+)\(", code)) <= set().union(*FUNCTIONS.values()), path


def test_what_agents_tell_apart_from_a_default_has_none() -> None:
    spec = root(KINDS[0])["properties"]["spec"]["properties"]
    for path in ("workloadCacheTTL", "maxRows", "latency.enabled", "latency.maxAge", "loss.exchange"):
        at: Schema = {"properties": spec}
        for name in path.split("."):
            at = at["properties"][name]
            assert "default" not in at, path
        assert "Left out: " in at["description"], path


@every_kind
def test_defaults_of_the_server_are_those_of_the_models(kind: Kind) -> None:
    if kind.model is AgentNode:
        return
    document = {"apiVersion": names.API_VERSION, "kind": kind.model.__name__, "metadata": {"name": "a"}, "spec": {}}
    spec = kind.model.model_validate(document).model_dump(mode="json", by_alias=True, exclude_none=True)["spec"]
    for path, schema, _ in schemas(root(kind)["properties"]["spec"]):
        if "default" in schema:
            value = spec
            for name in path.split(".")[1:]:
                value = value[name]
            assert schema["default"] in ({}, value), path


def test_an_agent_does_not_read_what_only_the_generator_needs() -> None:
    script = "import sys, podwire_api; print(*(name for name in sys.modules if name.startswith('podwire_api.')))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "podwire_api.networkmonitor" in loaded
    assert not loaded & {"podwire_api.descriptions", "podwire_api.agentpool", "podwire_api.status"}


@every_kind
def test_a_fresh_object_is_not_ready_yet(kind: Kind) -> None:
    status = root(kind)["properties"]["status"]
    if kind.model is AgentNode:
        assert "default" not in status
        return
    [condition] = status["default"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Ready", "Unknown", "Pending")


def test_kubectl_get_shows_what_was_designed() -> None:
    columns = crd(KINDS[0])["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [column["name"].upper() for column in columns if not column.get("priority")]
    assert shown == ["READY", "REASON", "NODES", "PODS", "FLOWS/S", "LOST", "AGE"]


@pytest.mark.parametrize(
    ("model", "kind", "plural"),
    [
        (NetworkMonitor, names.MONITOR_KIND, names.MONITORS),
        (AgentPool, names.POOL_KIND, names.POOLS),
        (AgentNode, names.AGENT_NODE_KIND, names.AGENT_NODES),
    ],
)
def test_the_models_are_of_the_version_and_kind_that_is_named_once(model: Any, kind: str, plural: str) -> None:
    assert get_args(model.model_fields["api_version"].annotation) == (names.API_VERSION,)
    assert get_args(model.model_fields["kind"].annotation) == (kind,)
    assert f"{names.GROUP}/{names.VERSION}" == names.API_VERSION
    definition = next(crd(each) for each in KINDS if each.model is model)
    assert definition["spec"]["names"]["plural"] == plural
    assert definition["spec"]["scope"] == "Cluster"
