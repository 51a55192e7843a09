"""Writes crds/*.yaml, the CustomResourceDefinitions, from the models of podwire_api.

    .venv/bin/python -m tools.generate_crds [--check]

Pydantic's JSON schema becomes what the API server calls a structural one: nothing is referred to, nothing may be null,
and unknown fields are refused without saying so. The rules in CEL stand in the models, beside the validators that say
the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import yaml

from podwire_api.agentnode import AgentNode
from podwire_api.agentpool import AgentPool
from podwire_api.api_model import ApiModel
from podwire_api.cel import AGENTS_DEFAULT, MUST_BE, RULES
from podwire_api.conditions import ConditionType, MonitorReason, PoolReason
from podwire_api.descriptions import described_schema
from podwire_api.names import AGENT_NODES, GROUP, MONITORS, POOLS, VERSION
from podwire_api.networkmonitor import NetworkMonitor
from podwire_api.status import AgentPoolStatus, NetworkMonitorStatus

ROOT = Path(__file__).resolve().parent.parent
CRDS = ROOT / "crds"
HEADER = "# Generated from crds/podwire_api by make generate (tools/generate_crds.py); do not edit.\n"

KEPT = (
    *("type", "format", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("maxProperties", "required"),
    *("x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
)
"""Words of a schema that mean the same to pydantic and to the API server, in the order in which they are written."""

OF_A_RULE = ("rule", "message", "fieldPath", "reason")

OF_EVERY_OBJECT = {
    "apiVersion": f"The version of this schema: {GROUP}/{VERSION}.",
    "kind": "The kind of the object.",
    "name": "The object's name.",
}

Json = dict[str, Any]


class Defaults(Enum):
    """What becomes of the models' defaults."""

    SERVERS = auto()
    """The API server fills them in."""
    TOLD = auto()
    """Only the description says them (it does, too, where the server fills them in). Filled into an item of a list they
    would break kubectl apply: the second one of the same file would change it, and one with --server-side after one
    without would be refused for ever."""
    NONE = auto()
    """A status is what somebody wrote."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What makes a CustomResourceDefinition of a model."""

    model: type[ApiModel]
    plural: str
    columns: tuple[Json, ...]
    status: type[ApiModel] | None = None
    """Where the model of the object has none: those who read the spec do not read the status."""
    pending: str | None = None
    """Reason of Ready=Unknown in the status of an object that nobody has looked at; tools would call it current if it
    had no status."""
    short_names: tuple[str, ...] = ()


def column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> Json:
    """Of kubectl get; `wide`: only with -o wide."""
    return {"name": name, "type": kind, "jsonPath": path} | ({"priority": 1} if wide else {})


READY = ".status.conditions[?(@.type=='Ready')]"
AGE = column("Age", ".metadata.creationTimestamp", "date")
KINDS = (
    Kind(
        NetworkMonitor,
        MONITORS,
        (
            column("Ready", f"{READY}.status"),
            column("Reason", f"{READY}.reason"),
            column("Nodes", ".status.nodes.summary"),
            column("Pods", ".status.pods", "integer"),
            column("Flows/s", ".status.flowsPerSecond", "integer"),
            column("Lost", ".status.lost"),
            AGE,
            column("Message", f"{READY}.message", wide=True),
        ),
        status=NetworkMonitorStatus,
        pending=MonitorReason.PENDING,
        short_names=("nmon",),
    ),
    Kind(
        AgentPool,
        POOLS,
        (
            column("Ready", f"{READY}.status"),
            column("Reason", f"{READY}.reason"),
            column("Nodes", ".status.nodes.summary"),
            AGE,
            column("Image", ".status.image", wide=True),
            column("Message", f"{READY}.message", wide=True),
        ),
        status=AgentPoolStatus,
        pending=PoolReason.PENDING,
    ),
    Kind(
        AgentNode,
        AGENT_NODES,
        (
            column("Pool", ".status.pool"),
            column("Version", ".status.version"),
            column("Written", ".status.heartbeat", "date"),
            AGE,
            column("Detached", ".status.detached", "boolean", wide=True),
            column("Loader", ".status.doctor.loader", wide=True),
            column("Kernel", ".status.doctor.kernel", wide=True),
        ),
    ),
)


def definition(kind: Kind) -> Json:
    """The CustomResourceDefinition."""
    name = kind.model.__name__
    names: Json = {"kind": name, "plural": kind.plural, "singular": name.lower(), "categories": ["podwire"]}
    if kind.short_names:
        names["shortNames"] = list(kind.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": names,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(kind.columns),
                    "schema": {"openAPIV3Schema": _root(kind)},
                }
            ],
        },
    }


def _root(kind: Kind) -> Json:
    whole = described_schema(kind.model)
    schema = structural(whole, whole["$defs"], Defaults.SERVERS)
    properties = schema["properties"]
    metadata = properties["metadata"]["properties"]["name"]
    # More than a bound on the name's length may not be said about metadata.
    metadata = {word: metadata[word] for word in ("type", "maxLength") if word in metadata}
    metadata = {"description": OF_EVERY_OBJECT["name"], **metadata}
    properties["metadata"] = {"type": "object", "properties": {"name": metadata}}
    if kind.status is None:
        status = structural(whole["properties"]["status"], whole["$defs"], Defaults.NONE)
    else:
        described = described_schema(kind.status)
        status = structural(described, described["$defs"], Defaults.NONE)
    properties["status"] = {**status, "description": properties["status"]["description"]}
    if kind.pending is not None:
        properties["status"]["default"] = {"conditions": [_pending(kind.pending)]}
    for name in ("apiVersion", "kind"):
        properties[name] = {"type": "string"}
    for name in ("apiVersion", "kind"):
        properties[name] = {"description": OF_EVERY_OBJECT[name], **properties[name]}
    schema["required"] = [name for name in schema["required"] if name not in OF_EVERY_OBJECT]
    return {word: value for word, value in schema.items() if value != []}


def _pending(reason: str) -> Json:
    return {
        "type": str(ConditionType.READY),
        "status": "Unknown",
        "reason": str(reason),
        "message": "the operator has not looked at it yet; where this stays, see whether podwire-operator runs",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }


def structural(schema: Json, definitions: Json, defaults: Defaults) -> Json:
    """A pydantic schema as the API server takes it, with everything that it refers to."""
    schema = _inlined(schema, definitions)
    found: Json = {"description": schema["description"]} if "description" in schema else {}
    found |= {word: schema[word] for word in KEPT if word in schema}
    if isinstance(schema.get("const"), str):
        found["enum"] = [schema["const"]]
    if schema.get("properties"):  # an empty one the API server would drop, and every apply would differ
        found["properties"] = {
            name: structural(each, definitions, defaults) for name, each in schema["properties"].items()
        }
    if isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = structural(schema["additionalProperties"], definitions, Defaults.TOLD)
    if "items" in schema:
        inside = Defaults.NONE if defaults is Defaults.NONE else Defaults.TOLD
        found["items"] = structural(schema["items"], definitions, inside)
    if RULES in schema:
        found[RULES] = [{word: rule[word] for word in OF_A_RULE if word in rule} for rule in schema[RULES]]
    default = _default(schema, found)
    if defaults is Defaults.NONE:
        return found
    if "description" in found and "properties" not in found:
        found["description"] = " ".join([found["description"], *_allowed(found), *_left_out(default)])
    if default is not None and defaults is Defaults.SERVERS and AGENTS_DEFAULT not in schema:
        found["default"] = default
    return found


def _allowed(schema: Json) -> Iterator[str]:
    """What kubectl explain does not show by itself."""
    if "maximum" in schema:
        yield f"From {schema['minimum']} to {schema['maximum']}."
    for rule in schema.get(RULES, ()):
        if rule["message"].startswith(MUST_BE):
            words = rule["message"].removeprefix(MUST_BE)
            yield f"{words[0].upper()}{words[1:]}."


def _left_out(default: Any) -> Iterator[str]:
    if default is not None:
        words = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
        yield f"Left out: {words}."


def _default(schema: Json, found: Json) -> Any:
    """None where it is not worth saying. Of an object: {}, where something inside it has one."""
    if "properties" in found:
        inside = any("default" in each for each in found["properties"].values())
        return {} if inside and "default" in schema else None
    default = _without_null(schema.get("default"))
    return None if default in ("", [], {}) else default


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_null(each) for name, each in value.items() if each is not None}
    return [_without_null(each) for each in value] if isinstance(value, list) else value


def _inlined(schema: Json, definitions: Json) -> Json:
    """Without $ref, and without null as an alternative: optional is what may be left out."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return _inlined({**target, **{word: value for word, value in schema.items() if word != "$ref"}}, definitions)
    if "anyOf" in schema:
        (there,) = (each for each in schema["anyOf"] if each != {"type": "null"})
        return _inlined({**there, **{word: value for word, value in schema.items() if word != "anyOf"}}, definitions)
    return schema


class _Dumper(yaml.SafeDumper):
    """Without anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def text(kind: Kind) -> str:
    """Of the kind's file."""
    return HEADER + yaml.dump(definition(kind), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def path(kind: Kind) -> Path:
    """Of the kind's file."""
    return CRDS / f"{kind.model.__name__.lower()}.yaml"


def main() -> int:
    """Writes the files; with --check only says which are not current."""
    parser = argparse.ArgumentParser(description="Generate crds/*.yaml from the models")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is not current")
    arguments = parser.parse_args()
    stale = [kind for kind in KINDS if not path(kind).exists() or path(kind).read_text() != text(kind)]
    for kind in stale:
        if arguments.check:
            print(f"{path(kind).relative_to(ROOT)} is not what the models say: run make generate", file=sys.stderr)
        else:
            path(kind).write_text(text(kind))
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
