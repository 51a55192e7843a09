"""The resources of podwire.dev: models, validation, and how they are read from YAML."""

from podwire_api.documents import load_documents, load_file
from podwire_api.duration import format_duration, parse_duration
from podwire_api.fields import parse_cidr, parse_port_range
from podwire_api.networkmonitor import (
    API_VERSION,
    KIND,
    CniName,
    ExternalNetwork,
    Interfaces,
    NetworkMonitor,
    NetworkMonitorSpec,
    Sink,
    uid_of_name,
)
from podwire_api.notes import notes
from podwire_api.problems import InvalidResource, Problem
from podwire_api.rules import CidrSource, Endpoint, LabelSelector, Rule, RuleDirection, RuleProtocol
from podwire_api.veth_pattern import compile_veth_pattern

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
    "notes",
    "parse_cidr",
    "parse_duration",
    "parse_port_range",
    "uid_of_name",
]
