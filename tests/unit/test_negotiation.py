from __future__ import annotations

import pytest

from podwire_agent.negotiation import Format, format_of, takes_gzip

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        pytest.param("", Format.TEXT, id="nothing said"),
        pytest.param("*/*", Format.TEXT, id="anything"),
        pytest.param("text/html", Format.TEXT, id="a browser"),
        pytest.param("application/openmetrics-text", Format.OPENMETRICS, id="OpenMetrics of any version"),
        pytest.param('Application/OpenMetrics-Text; Version="1.0.0"', Format.OPENMETRICS, id="quoted, in capitals"),
        pytest.param(PROMETHEUS, Format.OPENMETRICS, id="Prometheus 3"),
        pytest.param("application/openmetrics-text;version=2.0.0", Format.TEXT, id="a version to come"),
        pytest.param("application/openmetrics-text;q=0", Format.TEXT, id="expressly not"),
        pytest.param("text/plain;q=0.9,application/openmetrics-text;q=0.5", Format.TEXT, id="text is liked better"),
        pytest.param("application/openmetrics-text;q=much", Format.TEXT, id="a weight that is none"),
        pytest.param(",;,=,application/openmetrics-text", Format.OPENMETRICS, id="rubbish around it"),
    ],
)
def test_the_format_is(accept: str, expected: Format) -> None:
    assert format_of(accept) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("*", True),
        ("*, gzip;q=0", False),
        ("br", False),
    ],
)
def test_gzip_is_taken(header: str, expected: bool) -> None:
    assert takes_gzip(header) is expected
