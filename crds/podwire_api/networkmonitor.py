"""`NetworkMonitor` of podwire.dev/v1alpha1: what to measure and where to send it.

Attributes are in snake_case, the resource's fields in camelCase; both name the same field. Absent and null are one, as
for the API server. The docstring under a field is its description for people.
"""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, StrictInt, model_validator

from podwire_api.api_model import ApiModel
from podwire_api.cel import DEFAULT_OF_AGENTS, LIST_BY_NAME, LIST_OF_DIFFERENT, Cel, rules
from podwire_api.duration import DURATION, NS_PER_MS, format_duration, parse_duration
from podwire_api.fields import (
    Cidr,
    IfaceName,
    Labels,
    MonitorName,
    Name,
    Uid,
    VethPattern,
    duration_between,
    placed,
    unique,
    unique_names,
)
from podwire_api.rules import Rules
from podwire_api.sinks import Sinks

FILE_UID_NAMESPACE = uuid.UUID("ddd66874-4b55-4b67-b391-308184637231")
"""Namespace of the UUIDv5 by which a monitor without metadata.uid is known: stable from run to run."""

DEFAULT_WORKLOAD_CACHE_TTL = "60s"
MAX_WORKLOAD_CACHE_TTL = "1h"


class CniName(StrEnum):
    """Network plug-ins whose host interfaces the agent knows by name; `auto` goes by what is behind the interface."""

    AUTO = "auto"
    ANTREA = "antrea"
    AWS_VPC_CNI = "aws-vpc-cni"
    AZURE = "azure"
    BRIDGE = "bridge"
    CALICO = "calico"
    CANAL = "canal"
    CILIUM = "cilium"
    FLANNEL = "flannel"
    GKE = "gke"
    KINDNET = "kindnet"
    KUBE_OVN = "kube-ovn"
    KUBE_ROUTER = "kube-router"
    OVN_KUBERNETES = "ovn-kubernetes"
    WEAVE = "weave"


class Interfaces(ApiModel):
    """Which interfaces of a node are watched. Nothing set: every pod's, found by what is behind it."""

    cni: CniName = CniName.AUTO
    """Only interfaces named as this network plug-in names them."""
    veth_pattern: VethPattern | None = None
    """Only interfaces whose whole name matches this regular expression."""
    host_interfaces: Annotated[
        tuple[IfaceName, ...], Field(max_length=32), AfterValidator(unique), LIST_OF_DIFFERENT
    ] = ()
    """Interfaces of the node itself, watched besides the pods'."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Cel(
                "!has(self.vethPattern) || !has(self.cni) || self.cni == 'auto'",
                "cannot stand beside a cni other than auto; remove one of the two",
                field=".vethPattern",
            )
        )
    )

    @model_validator(mode="after")
    def _one_way_to_narrow(self) -> Self:
        if self.cni is not CniName.AUTO and self.veth_pattern is not None:
            raise placed("vethPattern", because=f"cannot stand beside cni: {self.cni}; remove one of the two")
        return self


class Nodes(ApiModel):
    """Which nodes take part."""

    node_selector: Labels = Field(default_factory=dict)
    """Labels a node must have; none: every node."""


class Latency(ApiModel):
    """Response and handshake times."""

    enabled: Annotated[StrictBool, DEFAULT_OF_AGENTS] = True
    """Whether latency is measured."""
    max_age: Annotated[str, Field(max_length=16), duration_between("1ms", "60s"), DEFAULT_OF_AGENTS] = "2s"
    """A response later than this after its request is no response."""

    @property
    def max_age_ns(self) -> int:
        """How late a response may be, in ns."""
        return parse_duration(self.max_age)


class Loss(ApiModel):
    """Packets that left a pod and did not reach another."""

    exchange: Annotated[StrictBool, DEFAULT_OF_AGENTS] = True
    """Whether agents of different nodes compare their counts."""


class ExternalNetwork(ApiModel):
    """A name for addresses outside the cluster."""

    name: Name
    """Name by which reports call the network, unique in the list."""
    cidrs: Annotated[tuple[Cidr, ...], Field(min_length=1, max_length=1000)]
    """The network's addresses."""


def _milliseconds(field: str) -> str:
    """In CEL: how long a spec's duration is."""
    return f"(duration(self.{field}).getSeconds() * 1000 + duration(self.{field}).getMilliseconds() % 1000)"


_UNREADABLE_PERIOD = f"!self.pollingPeriod.matches('^{DURATION}$')"
"""It has a message of its own."""
_REPORT_PERIOD_MS = f"{_milliseconds('pollingPeriod')} * self.reportEvery"


class NetworkMonitorSpec(ApiModel):
    """What to measure and where to send it."""

    interfaces: Interfaces = Interfaces()
    """Which interfaces are watched."""
    nodes: Nodes = Nodes()
    """The nodes that take part."""
    whitelist: Rules = ()
    """What is measured; none: everything."""
    blacklist: Rules = ()
    """What is never measured, even where the whitelist names it."""
    polling_period: Annotated[str, Field(max_length=16), duration_between("1s", "5m")] = "5s"
    """How often counts are read from the kernel and interfaces are looked for."""
    report_every: Annotated[StrictInt, Field(ge=1, le=100)] = 1
    """A report every so many polls."""
    max_flows: Annotated[StrictInt, Field(ge=1024, le=4_194_304)] = 65536
    """Flows the kernel's map of a direction has room for in one polling period; what exceeds it is counted as such."""
    workload_cache_ttl: Annotated[
        Annotated[str, Field(max_length=16), duration_between("1s", MAX_WORKLOAD_CACHE_TTL)] | None,
        Field(alias="workloadCacheTTL"),
    ] = None
    """How long a deleted pod's address still means that pod; at least pollingPeriod x reportEvery.

    Left out: 60s, or pollingPeriod x reportEvery where that is longer.
    """
    latency: Latency = Latency()
    """How response and handshake times are measured."""
    loss: Loss = Loss()
    """How packets that did not arrive are found."""
    max_rows: Annotated[StrictInt, Field(ge=10, le=1_000_000), DEFAULT_OF_AGENTS] = 10_000
    """Label sets of this monitor on one agent; the traffic of further ones is added up as `other`."""
    external_networks: Annotated[
        tuple[ExternalNetwork, ...], Field(max_length=64), AfterValidator(unique_names), LIST_BY_NAME
    ] = ()
    """Names for addresses outside the cluster."""
    sinks: Sinks = ()
    """Where reports go; in a cluster at least one sink."""
    paused: StrictBool = False
    """Detaches everywhere and keeps the totals."""

    @property
    def polling_period_ns(self) -> int:
        """From one reading of the kernel's counts to the next, in ns."""
        return parse_duration(self.polling_period)

    @property
    def report_period_ns(self) -> int:
        """From one report to the next, in ns: pollingPeriod x reportEvery."""
        return self.polling_period_ns * self.report_every

    @property
    def workload_cache_ttl_ns(self) -> int:
        """How long a deleted pod's address still means that pod, in ns, with the default filled in."""
        if self.workload_cache_ttl is None:
            return max(parse_duration(DEFAULT_WORKLOAD_CACHE_TTL), self.report_period_ns)
        return parse_duration(self.workload_cache_ttl)

    model_config = ConfigDict(
        json_schema_extra=rules(
            Cel(
                # A file may do without: its agent has a terminal.
                "has(self.sinks) && size(self.sinks) > 0",
                "needs at least one sink, such as {name: lines, stdout: {}}",
                field=".sinks",
                missing=True,
            ),
            Cel(
                f"{_UNREADABLE_PERIOD} || {_REPORT_PERIOD_MS} <= {parse_duration(MAX_WORKLOAD_CACHE_TTL) // NS_PER_MS}",
                f"pollingPeriod x reportEvery must be at most {MAX_WORKLOAD_CACHE_TTL}; report more often",
                field=".reportEvery",
            ),
            Cel(
                f"{_UNREADABLE_PERIOD} || !has(self.workloadCacheTTL)"
                f" || !self.workloadCacheTTL.matches('^{DURATION}$')"
                f" || {_REPORT_PERIOD_MS} <= {_milliseconds('workloadCacheTTL')}",
                "must be at least pollingPeriod x reportEvery",
                field=".workloadCacheTTL",
            ),
        )
    )

    @model_validator(mode="after")
    def _addresses_outlive_reports(self) -> Self:
        product = f"pollingPeriod x reportEvery = {format_duration(self.report_period_ns)}"
        if self.report_period_ns > parse_duration(MAX_WORKLOAD_CACHE_TTL):
            raise placed("reportEvery", because=f"{product} is longer than {MAX_WORKLOAD_CACHE_TTL}; report more often")
        if self.workload_cache_ttl_ns < self.report_period_ns:
            raise placed("workloadCacheTTL", because=f"{self.workload_cache_ttl} is shorter than {product}")
        return self


class Metadata(ApiModel):
    """What Podwire reads of an object's metadata; the rest is the cluster's."""

    model_config = ConfigDict(extra="ignore")

    name: MonitorName
    uid: Uid | None = None


class NetworkMonitor(ApiModel):
    """What to measure and where to send it."""

    api_version: Literal["podwire.dev/v1alpha1"]
    kind: Literal["NetworkMonitor"]
    metadata: Metadata
    spec: NetworkMonitorSpec
    """What to measure and where to send it."""
    status: Any = Field(default=None, exclude=True)
    """What became of the monitor. Written by the operator; not read from a file."""

    @property
    def uid(self) -> str:
        """metadata.uid, or the UUIDv5 of the name where there is none."""
        return self.metadata.uid or uid_of_name(self.metadata.name)


def uid_of_name(name: str) -> str:
    """The uid of a file's monitor called `name`: a UUIDv5."""
    return str(uuid.uuid5(FILE_UID_NAMESPACE, name))
