from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from podwire_agent.model import FailureReason, UncomparedReason
from podwire_agent.sinks import pair_text
from podwire_agent.sinks.pair_text import FAMILIES, MONITORS_KEPT, PAIR_LABELS, PairColumns, PairText
from tests.pair_rows import COUNTS, latencies, pairs

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(text: str, *, openmetrics: bool) -> dict[Sample, float]:
    """As the client library reads them; a sample that is there twice is an error."""
    parse = parse_openmetrics if openmetrics else parse_text
    found: dict[Sample, float] = {}
    for family in parse(text + "# EOF\n" * openmetrics):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def rendered(*columns: PairColumns, openmetrics: bool = False) -> str:
    return b"".join(PairText().render(columns, (), openmetrics=openmetrics)).decode()


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "OpenMetrics"])
def test_every_value_of_every_row_is_there_once_under_its_labels(
    monkeypatch: pytest.MonkeyPatch, *, openmetrics: bool
) -> None:
    monkeypatch.setattr(pair_text, "ROWS_A_CHUNK", 20)
    made = (pairs("shop", 47), pairs("b", 3, seed=2))
    found = samples(rendered(*made, openmetrics=openmetrics), openmetrics=openmetrics)
    expected: dict[Sample, float] = {}
    for each in made:
        for labels, row in zip(each.labels, each.counts, strict=True):
            base = {("monitor", each.monitor), *zip(PAIR_LABELS, labels, strict=True)}
            for name, field in (
                ("podwire_flow_bytes_total", "bytes"),
                ("podwire_flow_packets_total", "packets"),
                ("podwire_lost_packets_total", "lost"),
                ("podwire_compared_packets_total", "compared"),
                ("podwire_tcp_connections_total", "connections"),
                ("podwire_tcp_retransmits_total", "retransmits"),
            ):
                expected[name, frozenset(base)] = float(row[field])
            for reason in UncomparedReason:
                key = frozenset(base | {("reason", reason.name.lower())})
                expected["podwire_uncompared_packets_total", key] = float(row["uncompared"][reason])
            for failure in FailureReason:
                key = frozenset(base | {("reason", failure.name.lower())})
                expected["podwire_tcp_connection_failures_total", key] = float(row["failures"][failure])
    assert found == expected


def test_of_reasons_those_are_shown_that_are_chosen() -> None:
    made = pairs("shop", 3)
    chosen = np.zeros((3, len(FailureReason)), bool)
    chosen[1, FailureReason.RESET] = chosen[2, FailureReason.REFUSED] = True
    found = samples(rendered(replace(made, shown={"failures": chosen})), openmetrics=False)
    failures = {
        (dict(labels)["server_port"], dict(labels)["reason"]): value
        for (name, labels), value in found.items()
        if name == "podwire_tcp_connection_failures_total"
    }
    assert failures == {
        ("8001", "reset"): made.counts["failures"][1, FailureReason.RESET],
        ("8002", "refused"): made.counts["failures"][2, FailureReason.REFUSED],
    }
    assert sum(name == "podwire_uncompared_packets_total" for name, _ in found) == 3 * len(UncomparedReason)


def test_every_field_of_a_row_has_a_family() -> None:
    assert {family.field for family in FAMILIES} == set(COUNTS.names or ())


def test_counts_beyond_what_floats_hold_are_written_exactly() -> None:
    made = pairs("shop", 1)
    made.counts["bytes"] = 2**64 - 1
    assert "} 18446744073709551615\n" in rendered(made)


def test_odd_names_are_escaped() -> None:
    odd = 'a "b"\\c\nd'
    found = samples(rendered(pairs("shop", 1, dst_workload=odd), openmetrics=True), openmetrics=True)
    assert {dict(labels)["dst_workload"] for _, labels in found} == {odd}


def test_a_family_is_together_and_told_once_in_each_formats_way() -> None:
    made = (pairs("shop", 3), pairs("b", 2))
    text, openmetrics = rendered(*made), rendered(*made, openmetrics=True)
    assert text.startswith(
        "# HELP podwire_flow_bytes_total Bytes on the wire, each in one series\n"
        "# TYPE podwire_flow_bytes_total counter\n"
    )
    assert openmetrics.startswith(
        "# HELP podwire_flow_bytes Bytes on the wire, each in one series\n"
        "# TYPE podwire_flow_bytes counter\n# UNIT podwire_flow_bytes bytes\n"
    )
    for page in (text, openmetrics):
        assert page.count("# TYPE") == len(FAMILIES)
        names = [line.partition("{")[0] for line in page.splitlines() if not line.startswith("#")]
        assert sum(one != other for one, other in pairwise(names)) == len(FAMILIES) - 1
    assert "_created" not in openmetrics


def test_what_has_no_rows_leaves_no_trace() -> None:
    assert rendered() == rendered(pairs("shop", 0)) == ""


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "OpenMetrics"])
def test_histograms_are_cumulative_and_whole(*, openmetrics: bool) -> None:
    made = latencies("shop", 3)
    page = b"".join(PairText().render((), made, openmetrics=openmetrics)).decode()
    found = samples(page, openmetrics=openmetrics)
    for histogram in made:
        for place, values in enumerate(histogram.labels):
            base = {("monitor", "shop"), *zip(histogram.label_names, values, strict=True)}
            running = 0
            for bound, count in zip((*histogram.bounds_s, float("inf")), histogram.counts[place].tolist(), strict=True):
                running += count
                le = "+Inf" if bound == float("inf") else repr(bound)
                assert found[f"{histogram.name}_bucket", frozenset(base | {("le", le)})] == running
            assert found[f"{histogram.name}_count", frozenset(base)] == running
            assert found[f"{histogram.name}_sum", frozenset(base)] == histogram.sums_s[place]


def test_text_of_labels_is_kept_while_a_row_is_shown_and_no_longer() -> None:
    text = PairText()
    all_of_it = pairs("shop", 10)
    first = b"".join(text.render((all_of_it,), (), openmetrics=False))
    kept = dict(text._texts["shop"])
    assert len(kept) == 10
    assert b"".join(text.render((all_of_it,), (), openmetrics=False)) == first
    assert all(text._texts["shop"][key] is value for key, value in kept.items())
    fewer = replace(all_of_it, labels=all_of_it.labels[:4], counts=all_of_it.counts[:4])
    b"".join(text.render((fewer,), (), openmetrics=False))
    assert len(text._texts["shop"]) == 4
    for number in range(2 * MONITORS_KEPT):
        b"".join(text.render((pairs(f"m-{number}", 1),), (), openmetrics=False))
    assert len(text._texts) == MONITORS_KEPT


def test_columns_are_not_changed() -> None:
    made, (latency, _) = pairs("shop", 5), latencies("shop", 5)
    before, counted = made.counts.copy(), latency.counts.copy()
    b"".join(PairText().render((made,), (latency,), openmetrics=True))
    assert np.array_equal(made.counts, before)
    assert np.array_equal(latency.counts, counted)
