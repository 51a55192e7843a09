"""`AgentPool` of podwire.dev/v1alpha1: how agents run. One DaemonSet a pool."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StrictInt, model_validator

from podwire_api.api_model import ApiModel
from podwire_api.cel import Cel, Schema, rules
from podwire_api.fields import (
    ImageName,
    LabelKey,
    Labels,
    LabelValue,
    ObjectName,
    Quantity,
    placed,
    quantity,
)
from podwire_api.networkmonitor import Metadata

HostPort = Annotated[StrictInt, Field(ge=1024, le=65535)]
"""A port of every node: the agents are in its network namespace."""


class Toleration(ApiModel):
    """A taint that agents put up with, as everywhere in Kubernetes."""

    key: LabelKey | None = None
    """The taint's key; left out with operator Exists: every taint."""
    operator: Literal["Exists", "Equal"] | None = None
    """How `value` is compared; Equal where left out."""
    value: LabelValue | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The effect to put up with; left out: all."""
    toleration_seconds: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] | None = None
    """For how long, with NoExecute."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Cel(
                "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
                "needs a key, or operator: Exists, which means every taint",
            ),
            Cel(
                "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
                "must be left out with operator Exists",
                field=".value",
            ),
            Cel(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "needs effect: NoExecute",
                field=".tolerationSeconds",
            ),
        )
    )

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        exists = self.operator == "Exists"
        if self.key is None and not exists:
            raise placed(because="needs a key, or operator: Exists, which means every taint")
        if exists and self.value:
            raise placed("value", because="must be left out with operator Exists")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise placed("tolerationSeconds", because="needs effect: NoExecute")
        return self


Quantities = Annotated[
    dict[Literal["cpu", "memory", "ephemeral-storage"], Quantity],
    Field(max_length=3),
    Schema({"propertyNames": None}),
    Cel(
        "self.all(key, key in ['cpu', 'memory', 'ephemeral-storage'])",
        "each key must be one of cpu, memory, ephemeral-storage",
    ),
]


class Resources(ApiModel):
    """What an agent asks of its node, as everywhere in Kubernetes."""

    requests: Quantities = Field(default={"cpu": "50m", "memory": "128Mi"})
    """What is set aside for it."""
    limits: Quantities = Field(default={"memory": "512Mi"})
    """What it never exceeds."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Cel(
                "!has(self.requests) || !has(self.limits) || self.requests.all(key, !(key in self.limits)"
                " || !isQuantity(string(self.requests[key])) || !isQuantity(string(self.limits[key]))"
                " || !quantity(string(self.requests[key])).isGreaterThan(quantity(string(self.limits[key]))))",
                "must not exceed limits",
                field=".requests",
            )
        )
    )

    @model_validator(mode="after")
    def _requests_are_within_limits(self) -> Self:
        for key, asked in self.requests.items():
            limit = self.limits.get(key)
            if limit is not None and quantity(asked) > quantity(limit):
                raise placed("requests", because=f"must not exceed limits: {key} {asked} is more than {limit}")
        return self


class MetricsEndpoint(ApiModel):
    """The agents' /metrics."""

    port: HostPort = 9435
    """Port on every node."""
    auth: Literal["kubernetes", "none"] = "kubernetes"
    """kubernetes: TLS, and a bearer token that may `get /metrics`. none: without, open to all who reach the node."""


class ExchangeEndpoint(ApiModel):
    """Where agents of different nodes compare counts. This version of the agents does not listen there yet."""

    port: HostPort = 9436
    """Port on every node."""


class AgentPoolSpec(ApiModel):
    """How the agents of a group of nodes run."""

    node_selector: Labels = Field(default_factory=dict)
    """Labels of the pool's nodes; none: every node."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = (Toleration(operator="Exists"),)
    """Taints that the agents put up with."""
    priority_class_name: ObjectName = "system-node-critical"
    """The agents' priority."""
    image: ImageName | None = None
    """The agents' image; left out: the one that came with the operator."""
    resources: Resources = Resources()
    """What an agent asks of its node."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the agents log."""
    metrics: MetricsEndpoint = MetricsEndpoint()
    """The agents' metrics endpoint."""
    exchange: ExchangeEndpoint = ExchangeEndpoint()
    """The agents' exchange of counts."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Cel(
                "!has(self.metrics) || !has(self.exchange) || self.metrics.port != self.exchange.port",
                "must differ from metrics.port",
                field=".exchange.port",
            )
        )
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.metrics.port == self.exchange.port:
            raise placed("exchange", "port", because="must differ from metrics.port")
        return self


class AgentPool(ApiModel):
    """How agents run on a group of nodes: one DaemonSet."""

    api_version: Literal["podwire.dev/v1alpha1"]
    kind: Literal["AgentPool"]
    metadata: Metadata
    spec: AgentPoolSpec = AgentPoolSpec()
    """How the agents of a group of nodes run."""
    status: Any = Field(default=None, exclude=True)
    """What became of the pool's agents. Written by the operator; not read from a file."""
