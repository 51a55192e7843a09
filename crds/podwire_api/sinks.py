"""Sinks: where a monitor's reports go."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from podwire_api.api_model import ApiModel
from podwire_api.cel import LIST_BY_NAME, Cel, rules
from podwire_api.fields import Name, Url, placed, unique_names
from podwire_api.rules import ObjectReference


class PrometheusSink(ApiModel):
    """The agent's /metrics endpoint shows the monitor under the label `monitor`."""


class OtlpSink(ApiModel):
    """Metrics pushed to an OpenTelemetry collector."""

    endpoint: Url
    """The collector's URL."""
    protocol: Literal["grpc", "http/protobuf"] = "grpc"
    """OTLP's transport."""


class HeadersFrom(ApiModel):
    """Where request headers that are secret come from."""

    secret_ref: ObjectReference
    """A Secret; each of its keys is a header."""


class HttpSink(ApiModel):
    """Reports posted to a REST endpoint."""

    url: Url
    """Where reports are posted."""
    headers_from: HeadersFrom | None = None
    """Further request headers, such as Authorization."""


class StdoutSink(ApiModel):
    """JSON lines on the agent's standard output."""


_SINKS_KINDS = "[has(self.prometheus), has(self.otlp), has(self.http), has(self.stdout)].filter(given, given).size()"


class Sink(ApiModel):
    """Where reports go: a name and exactly one of prometheus, otlp, http, stdout."""

    name: Name
    """Name of the sink, unique in the list."""
    prometheus: PrometheusSink | None = None
    """Metrics to be scraped."""
    otlp: OtlpSink | None = None
    """Metrics pushed by OTLP."""
    http: HttpSink | None = None
    """Reports posted to a URL."""
    stdout: StdoutSink | None = None
    """JSON lines on standard output."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The members that are set, by their field names; one, in a valid sink."""
        members = {"prometheus": self.prometheus, "otlp": self.otlp, "http": self.http, "stdout": self.stdout}
        return tuple(name for name, member in members.items() if member is not None)

    model_config = ConfigDict(
        json_schema_extra=rules(
            Cel(f"{_SINKS_KINDS} > 0", "needs one of prometheus: {}, otlp, http, stdout: {}"),
            Cel(
                f"{_SINKS_KINDS} < 2",
                "has more than one of prometheus, otlp, http, stdout: give each a sink of its own",
            ),
        )
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if not self.kinds:
            raise placed(because="needs one of prometheus: {}, otlp, http, stdout: {}")
        if len(self.kinds) > 1:
            raise placed(because=f"has {' and '.join(self.kinds)}: give each a sink of its own")
        return self


def _single_outlets(sinks: tuple[Sink, ...]) -> tuple[Sink, ...]:
    """A second sink on the one endpoint, or the one standard output, would show everything twice."""
    for kind in ("prometheus", "stdout"):
        found = [index for index, sink in enumerate(sinks) if kind in sink.kinds]
        if len(found) > 1:
            raise placed(found[1], because=f"is a second {kind} sink; one is all a monitor can have")
    return sinks


_SINGLE_PROMETHEUS, _SINGLE_STDOUT = (
    Cel(f"self.filter(sink, has(sink.{kind})).size() <= 1", f"has a second {kind} sink; one is all a monitor can have")
    for kind in ("prometheus", "stdout")
)

Sinks = Annotated[
    tuple[Sink, ...],
    Field(max_length=16),
    AfterValidator(unique_names),
    LIST_BY_NAME,
    AfterValidator(_single_outlets),
    _SINGLE_PROMETHEUS,
    _SINGLE_STDOUT,
]
