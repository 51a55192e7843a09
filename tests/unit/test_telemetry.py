from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from podwire_agent.errors import MonitorUnknown
from podwire_agent.exposition import Exposition
from podwire_agent.model import Traffic
from podwire_agent.negotiation import Format
from podwire_agent.telemetry import (
    AgentState,
    Answer,
    ClusterState,
    EndpointState,
    MonitorState,
    StepTimes,
    health,
    readiness,
)
from tests.agent_states import CLUSTER, SHOP, START_S, STATE


class Ticks:
    """A clock that is told what time it is."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def exposed(
    state: AgentState = STATE,
    times: StepTimes | None = None,
    wanted: Format = Format.TEXT,
    monitors: Sequence[str] = (),
) -> str:
    """The page."""
    page = Exposition(lambda: state, times or StepTimes()).page(wanted, frozenset(monitors))
    return b"".join(page.chunks).decode()


def scraped(state: AgentState = STATE, times: StepTimes | None = None) -> dict[str, float]:
    """Sample name and labels, as they are written, to value."""
    samples = (sample for family in parse_text(exposed(state, times)) for sample in family.samples)
    return {
        sample.name + ("{" + ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items())) + "}"): sample.value
        for sample in samples
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("podwire_agent_info{kernel=6.1.0,loader=libbpf,version=0.1.0}", 1),
        ("podwire_ledger_packets_total{class=seen,direction=to_pod,monitor=shop}", 5),
        ("podwire_filtered_packets_total{list=blacklist,monitor=shop,rule=scrapers}", 12),
        ("podwire_filtered_packets_total{list=whitelist,monitor=shop,rule=}", 7),
        ("podwire_ledger_packets_total{class=overflowed,direction=to_pod,monitor=shop}", 5),
        ("podwire_ledger_packets_total{class=counted,direction=from_pod,monitor=shop}", 2**40 + 10),
        ("podwire_ledger_packets_total{class=unsupported,direction=from_pod,monitor=shop}", 4),
        ("podwire_ledger_bytes_total{class=overflowed,direction=to_pod,monitor=shop}", 50),
        ("podwire_ledger_bytes_total{class=filtered,direction=to_pod,monitor=shop}", 0),
        ("podwire_agent_flows{monitor=shop}", 77),
        ("podwire_agent_map_entries{direction=to_pod,monitor=shop}", 20),
        ("podwire_agent_map_capacity{direction=from_pod,monitor=shop}", 65536),
        ("podwire_agent_cuts_total{monitor=shop}", 9),
        ("podwire_agent_missed_cuts_total{monitor=shop}", 1),
        ("podwire_agent_cut_late_seconds{}", 0.002),
        ("podwire_agent_failures_total{}", 5),
        ("podwire_agent_delayed_reports_total{monitor=shop}", 2),
        ("podwire_agent_interfaces{monitor=shop,state=attached}", 4),
        ("podwire_agent_interfaces{monitor=shop,state=failed}", 1),
        ("podwire_agent_attach_failures_total{monitor=shop}", 6),
        ("podwire_agent_evicted_flows_total{monitor=shop}", 3),
        ("podwire_agent_discarded_packets_total{monitor=shop}", 8),
        ("podwire_agent_sink_queued_reports{monitor=shop,sink=lines}", 1),
        ("podwire_agent_sink_reports_total{monitor=shop,outcome=sent,sink=lines}", 4),
        ("podwire_agent_sink_flows_total{monitor=shop,outcome=dropped,sink=lines}", 10),
        ("podwire_agent_sink_packets_total{monitor=shop,outcome=dropped,sink=lines}", 100),
        ("podwire_agent_sink_reports_total{monitor=shop,outcome=failed,sink=lines}", 0),
        ("podwire_agent_rows{monitor=shop}", 30),
        ("podwire_agent_turned_away_groups_total{monitor=shop}", 31),
        ("podwire_agent_compared_flows{end=sent,monitor=shop}", 32),
        ("podwire_agent_compared_flows{end=stated,monitor=shop}", 34),
        ("podwire_agent_late_windows_total{monitor=shop}", 35),
        ("podwire_agent_dropped_statements_total{monitor=shop}", 36),
        ("podwire_agent_given_up_packets_total{monitor=shop}", 37),
    ],
)
def test_the_state_is_shown_as(name: str, value: float) -> None:
    assert scraped()[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("podwire_agent_monitors{reason=Attached}", 2),
        ("podwire_agent_monitors{reason=NotBuilt}", 1),
        ("podwire_agent_view_stale_seconds{}", 12.5),
        ("podwire_agent_view_pods{}", 2000),
        ("podwire_agent_status_writes_total{outcome=done}", 7),
        ("podwire_agent_status_writes_total{outcome=failed}", 1),
        ("podwire_agent_api_errors_total{}", 3),
        ("podwire_agent_forgotten_addresses_total{}", 4),
        ("podwire_agent_translated_connections{}", 40),
        ("podwire_agent_dropped_connections_total{}", 41),
        ("podwire_agent_conntrack_overruns_total{}", 42),
        ("podwire_agent_conntrack_failures_total{}", 43),
        ("podwire_agent_exchange_peers{}", 50),
        ("podwire_agent_exchange_worst_offset_seconds{}", -0.051),
        ("podwire_agent_exchange_requests_total{}", 52),
        ("podwire_agent_exchange_sent_bytes_total{}", 53),
        ("podwire_agent_exchange_failures_total{reason=unreachable}", 54),
        ("podwire_agent_exchange_refused_total{reason=too_old}", 55),
    ],
)
def test_in_a_cluster_its_state_is_shown_as(name: str, value: float) -> None:
    assert scraped(replace(STATE, cluster=CLUSTER))[name] == value
    assert name not in scraped()


def test_counters_of_a_monitor_are_carried_over_an_edit() -> None:
    edited = replace(SHOP, cuts_total=1, evicted_flows_total=0, discarded=Traffic()).after(SHOP)
    assert (edited.cuts_total, edited.evicted_flows_total, edited.discarded) == (10, 3, Traffic(8, 800))
    assert edited.accounts == SHOP.accounts  # these are carried in the checkpoint


def test_the_classes_but_estimated_add_up_to_seen() -> None:
    samples = scraped()
    parts = ("counted", "filtered", "unsupported", "overflowed")
    for direction in ("from_pod", "to_pod"):
        label = f"direction={direction},monitor=shop}}"
        of = {c: samples[f"podwire_ledger_bytes_total{{class={c},{label}"] for c in (*parts, "seen")}
        assert sum(of[part] for part in parts) == of["seen"]


def test_there_is_no_created_series_and_every_counter_ends_in_total() -> None:
    for wanted, parse in ((Format.OPENMETRICS, parse_openmetrics), (Format.TEXT, parse_text)):
        families = list(parse(exposed(wanted=wanted)))
        assert not [sample.name for family in families for sample in family.samples if "_created" in sample.name]
        for family in families:
            if family.type == "counter":
                assert {sample.name for sample in family.samples} <= {f"{family.name}_total"}


def test_the_process_shows_its_cpu_and_memory() -> None:
    samples = scraped()
    assert 0 < samples["podwire_agent_process_cpu_seconds_total{}"] <= sum(os.times()[:2]) + 1
    assert samples["podwire_agent_process_resident_memory_bytes{}"] > 10_000_000


def test_openmetrics_tells_units_and_its_end() -> None:
    page = exposed(wanted=Format.OPENMETRICS)
    assert page.endswith("# EOF\n")
    assert page.count("# EOF") == 1
    units = {family.name: family.unit for family in parse_openmetrics(page)}  # type: ignore[no-untyped-call]
    assert units["podwire_ledger_bytes"] == "bytes"
    assert units["podwire_ledger_packets"] == "packets"
    assert units["podwire_agent_drain_seconds"] == "seconds"
    assert units["podwire_agent_flows"] == ""


def test_of_one_monitor_there_is_what_is_its_own_and_nothing_else() -> None:
    both = replace(STATE, monitors=(SHOP, replace(SHOP, name="b", flows=5)))
    for family in parse_text(exposed(both, monitors=["b"])):
        assert family.samples
        assert {sample.labels.get("monitor") for sample in family.samples} == {"b"}
    assert "# HELP podwire_agent_info" not in exposed(both, monitors=["b"])
    assert exposed(both, monitors=["b", "shop"]).count("podwire_agent_flows{") == 2


def test_a_monitor_that_is_not_served_is_told_with_those_that_are() -> None:
    with pytest.raises(MonitorUnknown, match="no monitor web on this node: there are shop"):
        exposed(monitors=["web", "shop"])
    with pytest.raises(MonitorUnknown, match="no monitor web on this node: there is none"):
        exposed(replace(STATE, monitors=()), monitors=["web"])


def test_what_became_of_requests_is_shown() -> None:
    state = EndpointState(replies={200: 4, 401: 2}, turned_away=3, broken=1, reviews={"allowed": 5, "skipped": 6})
    samples = scraped(replace(STATE, endpoint=state))
    assert samples["podwire_agent_http_replies_total{code=401}"] == 2
    assert samples["podwire_agent_http_unserved_total{reason=turned_away}"] == 3
    assert samples["podwire_agent_http_unserved_total{reason=broken}"] == 1
    assert samples["podwire_agent_token_reviews_total{outcome=skipped}"] == 6


def test_a_monitor_without_figures_yet_shows_none_and_breaks_nothing() -> None:
    bare = MonitorState(name="new", period_s=5.0, scanned=False)
    samples = scraped(replace(STATE, monitors=(bare,)))
    assert samples["podwire_agent_flows{monitor=new}"] == 0
    assert not [name for name in samples if name.startswith("podwire_agent_sink")]


def test_steps_are_timed_from_one_to_the_next_and_waiting_is_nobodys() -> None:
    clock = Ticks()
    times = StepTimes(clock)
    for start in (0.0, 60.0):
        for name, at in (("begun", 0.0), ("read", 0.03), ("folded", 0.04), ("released", 0.2)):
            clock.now = start + at
            times.step(name)
    samples = scraped(times=times)
    assert samples["podwire_agent_step_seconds_count{step=read}"] == 2
    assert samples["podwire_agent_step_seconds_sum{step=read}"] == pytest.approx(0.06)
    assert samples["podwire_agent_step_seconds_bucket{le=0.025,step=read}"] == 0
    assert samples["podwire_agent_step_seconds_bucket{le=0.05,step=read}"] == 2
    assert samples["podwire_agent_step_seconds_sum{step=folded}"] == pytest.approx(0.02)
    assert samples["podwire_agent_drain_seconds_count{}"] == 2
    assert samples["podwire_agent_drain_seconds_sum{}"] == pytest.approx(0.4)
    assert "podwire_agent_step_seconds_count{step=begun}" not in samples


def test_two_threads_are_timed_apart() -> None:
    clock = Ticks()
    times = StepTimes(clock)
    times.step("begun")

    def cut() -> None:
        times.step("begun")
        times.step("cut")

    cuts = threading.Thread(target=cut)
    clock.now = 5.0
    cuts.start()
    cuts.join()
    clock.now = 7.0
    times.step("read")
    samples = scraped(times=times)
    assert samples["podwire_agent_step_seconds_sum{step=cut}"] == 0
    assert samples["podwire_agent_step_seconds_sum{step=read}"] == 7


@pytest.mark.parametrize(
    ("state", "now_s", "expected"),
    [
        pytest.param(STATE, START_S + 101, Answer(True, "ok"), id="drained a second ago"),
        pytest.param(STATE, START_S + 125, Answer(True, "ok"), id="late within three periods and ten seconds"),
        pytest.param(
            STATE,
            START_S + 126,
            Answer(False, "monitor shop: the last drain was 26 s ago; expected every 5 s"),
            id="no drain for longer",
        ),
        pytest.param(
            replace(STATE, monitors=(replace(SHOP, last_drain_unix_s=0.0),)),
            START_S + 20,
            Answer(True, "ok"),
            id="just started",
        ),
        pytest.param(
            replace(STATE, monitors=(SHOP, replace(SHOP, name="b", last_drain_unix_s=0.0))),
            START_S + 110,
            Answer(False, "monitor b: no drain since the start 110 s ago; expected every 5 s"),
            id="one of two never drained",
        ),
    ],
)
def test_health_is(state: AgentState, now_s: float, expected: Answer) -> None:
    assert health(state, now_s) == expected


@pytest.mark.parametrize(
    ("monitors", "expected"),
    [
        pytest.param((SHOP,), Answer(True, "ok"), id="ready when all have scanned"),
        pytest.param((), Answer(True, "ok"), id="ready when there is nothing to do"),
        pytest.param(
            (SHOP, replace(SHOP, name="b", scanned=False)),
            Answer(False, "monitor b: the first scan of the interfaces is not done"),
            id="not ready while one has not scanned",
        ),
        pytest.param((replace(SHOP, scanned=False, paused=True),), Answer(True, "ok"), id="a paused one never scans"),
    ],
)
def test_readiness_is(monitors: tuple[MonitorState, ...], expected: Answer) -> None:
    assert readiness(replace(STATE, monitors=monitors)) == expected


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        pytest.param(CLUSTER, "ok", id="ready when all is known"),
        pytest.param(
            replace(CLUSTER, view=False),
            "the API server has not told yet which monitors there are",
            id="not ready before the monitors are known",
        ),
        pytest.param(
            replace(CLUSTER, problems=("no bpffs",)), "no bpffs", id="not ready while the node lacks something"
        ),
    ],
)
def test_readiness_in_a_cluster_is(cluster: ClusterState, words: str) -> None:
    assert readiness(replace(STATE, cluster=cluster)) == Answer(words == "ok", words)


def test_a_monitor_that_cannot_be_begun_is_not_ready_and_not_stalled() -> None:
    state = replace(STATE, monitors=(replace(SHOP, scanned=False, last_drain_unix_s=0.0),))
    assert health(state, START_S + 1000).ok
    assert not readiness(state).ok
