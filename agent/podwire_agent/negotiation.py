"""Which format and which encoding of /metrics a scraper asks for (RFC 9110 sections 12.5.1 and 12.5.3)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum


class Format(Enum):
    """What there is; the value is the content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


_VERSIONS = {
    "application/openmetrics-text": (Format.OPENMETRICS, {"", "0.0.1", "1.0.0"}),
    "text/plain": (Format.TEXT, {"", "0.0.4"}),
}


def format_of(accept: str) -> Format:
    """The one that is liked best; of two liked the same the first. Text, where none of them is named."""
    best, liked = Format.TEXT, 0.0
    for name, parameters, weight in _entries(accept):
        known = _VERSIONS.get(name)
        if known is not None and parameters.get("version", "") in known[1] and weight > liked:
            best, liked = known[0], weight
    return best


def takes_gzip(accept_encoding: str) -> bool:
    """Whether a body may be compressed so."""
    weights = {name: weight for name, _, weight in _entries(accept_encoding)}
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _entries(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for entry in header.split(","):
        name, *rest = (part.strip().lower() for part in entry.split(";"))
        parameters = {key.strip(): value.strip(' "') for key, _, value in (part.partition("=") for part in rest)}
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        if name:
            yield name, parameters, weight
