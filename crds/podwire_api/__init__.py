"""The resources of podwire.dev: models, validation, and how they are read from YAML."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from podwire_api.duration import format_duration, parse_duration
from podwire_api.fields import parse_cidr, parse_port_range
from podwire_api.names import API_VERSION
from podwire_api.names import MONITOR_KIND as KIND
from podwire_api.networkmonitor import (
    CniName,
    ExternalNetwork,
    Interfaces,
    NetworkMonitor,
    NetworkMonitorSpec,
    uid_of_name,
)
from podwire_api.notes import notes
from podwire_api.problems import InvalidResource, Problem
from podwire_api.rules import CidrSource, Endpoint, LabelSelector, Rule, RuleDirection, RuleProtocol
from podwire_api.sinks import Sink
from podwire_api.veth_pattern import compile_veth_pattern

if TYPE_CHECKING:
    from podwire_api.documents import load_documents, load_file, load_resource_documents, load_resources

__all__ = [
    "API_VERSION",
    "KIND",
    "CidrSource",
    "CniName",
    "Endpoint",
    "ExternalNetwork",
    "Interfaces",
    "InvalidResource",
    "LabelSelector",
    "NetworkMonitor",
    "NetworkMonitorSpec",
    "Problem",
    "Rule",
    "RuleDirection",
    "RuleProtocol",
    "Sink",
    "compile_veth_pattern",
    "format_duration",
    "load_documents",
    "load_file",
    "load_resource_documents",
    "load_resources",
    "notes",
    "parse_cidr",
    "parse_duration",
    "parse_port_range",
    "uid_of_name",
]


def __getattr__(name: str) -> object:
    """What reads YAML, once it is asked for: PyYAML takes 2 MB, and agents in a cluster read none."""
    if name in {"load_documents", "load_file", "load_resource_documents", "load_resources"}:
        return getattr(import_module("podwire_api.documents"), name)
    raise AttributeError(f"module {__name__} has no {name}")
