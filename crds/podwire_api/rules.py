"""Rules: which conversations a monitor measures or leaves out."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from podwire_api.api_model import ApiModel
from podwire_api.cel import LIST_BY_NAME, LIST_OF_DIFFERENT, Cel, rules
from podwire_api.fields import (
    Cidr,
    LabelKey,
    Labels,
    LabelValue,
    Name,
    ObjectName,
    Port,
    ServiceName,
    placed,
    unique,
    unique_names,
)


class RuleProtocol(StrEnum):
    """What a rule can tell apart."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"
    ICMP = "ICMP"
    ICMPV6 = "ICMPv6"


class RuleDirection(StrEnum):
    """Which end sends, seen from the end that the rule describes."""

    EGRESS = "Egress"
    INGRESS = "Ingress"


class LabelRequirement(ApiModel):
    """One condition on a label."""

    key: LabelKey
    """The label's key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How `values` and the label's value are compared."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=16)] = ()
    """For In and NotIn: the values to compare with."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Cel(
                "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0"
                " : !has(self.values) || size(self.values) == 0",
                "operators In and NotIn need at least one value, Exists and DoesNotExist take none",
                field=".values",
            )
        )
    )

    @model_validator(mode="after")
    def _values_suit_operator(self) -> Self:
        wants_values = self.operator in {"In", "NotIn"}
        if wants_values != bool(self.values):
            because = f"operator {self.operator} needs at least one" if wants_values else f"{self.operator} takes none"
            raise placed("values", because=because)
        return self


class LabelSelector(ApiModel):
    """A label query as everywhere in Kubernetes: all of it must hold, the empty one selects everything."""

    match_labels: Labels = Field(default_factory=dict)
    """Labels that must be there with exactly these values."""
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=8)] = ()
    """Conditions that must all hold."""


class ObjectReference(ApiModel):
    """An object in the namespace of Podwire's agents."""

    name: ObjectName
    """The object's name."""


class CidrSource(ApiModel):
    """Where a large set of CIDRs is kept."""

    config_map_ref: ObjectReference
    """A ConfigMap; each of its keys holds a CIDR a line, # begins a comment."""


class Endpoint(ApiModel):
    """One end of a conversation. All fields that are given must hold; the entries of a list are alternatives."""

    namespaces: Annotated[tuple[Name, ...], Field(min_length=1, max_length=256)] = ()
    """Pods of these namespaces."""
    namespace_selector: LabelSelector | None = None
    """Pods of the namespaces with these labels."""
    pod_selector: LabelSelector | None = None
    """Pods with these labels."""
    services: Annotated[tuple[ServiceName, ...], Field(min_length=1, max_length=128)] = ()
    """These services and the pods behind them, as namespace/name."""
    cidrs: Annotated[tuple[Cidr, ...], Field(min_length=1, max_length=1000)] = ()
    """Addresses in these networks."""
    cidrs_from: Annotated[tuple[CidrSource, ...], Field(min_length=1, max_length=16)] = ()
    """Addresses in the networks that ConfigMaps list."""


class Rule(Endpoint):
    """Which conversations are meant: those with this end, with `peer` at the other, over these ports and protocols."""

    name: Name
    """Name of the rule, unique in its list; what it filtered is counted under it."""
    ports: Annotated[tuple[Port, ...], Field(min_length=1, max_length=64)] = ()
    """Ports, as 80 or "8000-8010", of either end; packets without ports never match a rule that names some."""
    protocols: Annotated[
        tuple[RuleProtocol, ...], Field(min_length=1, max_length=5), AfterValidator(unique), LIST_OF_DIFFERENT
    ] = ()
    """Protocols."""
    direction: RuleDirection | None = None
    """Egress: the described end sends. Ingress: it receives. Left out: both."""
    peer: Endpoint | None = None
    """The other end; left out: anybody."""


Rules = Annotated[tuple[Rule, ...], Field(max_length=64), AfterValidator(unique_names), LIST_BY_NAME]
