"""What the agent exposes is what Prometheus' own tool calls good, and what OpenMetrics' own parser takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from podwire_agent.exposition import Exposition, Rows
from podwire_agent.negotiation import Format
from podwire_agent.telemetry import AgentState, EndpointState, StepTimes
from tests.agent_states import CLUSTER, SHOP, STATE
from tests.pair_rows import latencies, pairs
from tests.receivers.prometheus_process import lint

WHOLE = replace(
    STATE,
    monitors=(SHOP, replace(SHOP, name="b")),
    cluster=CLUSTER,
    endpoint=EndpointState({200: 3, 401: 1}, 2, 1, {"allowed": 1}),
)
BARE = AgentState("0.1.0", "6.1.0", "libbpf", 0.0, ())
ROWS = Rows(
    pairs=(pairs("shop", 50), pairs("b", 3, src_workload='odd "name"\\ of\ntwo lines')),
    histograms=latencies("shop", 20),
)


def stepped() -> StepTimes:
    times = StepTimes()
    times.step("begun")
    times.step("read")
    times.step("released")
    return times


def page(state: AgentState, rows: Rows, wanted: Format, *monitors: str) -> bytes:
    exposition = Exposition(lambda: state, stepped(), lambda _scraper, _monitors: rows)
    return b"".join(exposition.page(wanted, frozenset(monitors)).chunks)


@pytest.mark.parametrize(
    ("state", "rows", "monitors"),
    [
        pytest.param(WHOLE, ROWS, (), id="everything there can be"),
        pytest.param(BARE, Rows(), (), id="an agent without monitors"),
        pytest.param(WHOLE, Rows(ROWS.pairs[:1]), ("shop",), id="one monitor"),
    ],
)
def test_the_page_passes_promtool_and_the_openmetrics_parser(
    state: AgentState, rows: Rows, monitors: tuple[str, ...]
) -> None:
    assert lint(page(state, rows, Format.TEXT, *monitors)) == ""
    families = list(parse_openmetrics(page(state, rows, Format.OPENMETRICS, *monitors).decode()))  # type: ignore[no-untyped-call]
    assert families


def test_promtool_would_say_so() -> None:
    assert "no help text" in lint(b"# TYPE a_total counter\na_total 1\n")
    assert lint(b"a{ 1\n") != ""
