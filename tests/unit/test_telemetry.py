from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from podwire_agent.core.totals import Accounts
from podwire_agent.exposition import Exposition
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Cause, RuleListName, Traffic
from podwire_agent.sinks.outbox import OutboxCounters, Tally
from podwire_agent.telemetry import (
    AgentState,
    Answer,
    ClusterState,
    MonitorState,
    StepTimes,
    health,
    readiness,
)
from tests.unit.sinks.snapshots import ledger

START_S = 1000.0

SHOP = MonitorState(
    name="shop",
    period_s=5.0,
    scanned=True,
    last_drain_unix_s=START_S + 100,
    accounts={
        FlowDirection.FROM_POD: Accounts().plus(ledger()).plus(ledger(packets=2**40, bytes_=2**41)),
        FlowDirection.TO_POD: Accounts(seen=Traffic(5, 50), overflowed=Traffic(5, 50)),
    },
    filtered={
        Cause(RuleListName.BLACKLIST, "scrapers"): Traffic(12, 1200),
        Cause(RuleListName.WHITELIST, ""): Traffic(7, 700),
    },
    flows=77,
    evicted_flows_total=3,
    map_used={FlowDirection.FROM_POD: 10, FlowDirection.TO_POD: 20},
    map_capacity={FlowDirection.FROM_POD: 65536, FlowDirection.TO_POD: 65536},
    cuts_total=9,
    missed_cuts_total=1,
    delayed_reports_total=2,
    interfaces={"attached": 4, "failed": 1},
    attach_failures_total=6,
    discarded=Traffic(8, 800),
    outbox=("lines", OutboxCounters(sent=Tally(4, 40, 400), dropped=Tally(1, 10, 100), queued=1)),
)
STATE = AgentState(
    version="0.1.0",
    kernel="6.1.0",
    loader="libbpf",
    started_unix_s=START_S,
    monitors=(SHOP,),
    late_s=0.002,
    failures_total=5,
)


class Ticks:
    """A clock that is told what time it is."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def scraped(state: AgentState = STATE, times: StepTimes | None = None) -> dict[str, float]:
    """Sample name and labels, as they are written, to value."""
    body, _ = Exposition(lambda: state, times or StepTimes()).render("")
    samples = (sample for family in parse_text(body.decode()) for sample in family.samples)
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
    ],
)
def test_the_state_is_shown_as(name: str, value: float) -> None:
    assert scraped()[name] == value


CLUSTER = ClusterState(
    view=True,
    stale_s=12.5,
    pods=2000,
    monitors={"Attached": 2, "NotBuilt": 1},
    status_writes_total=7,
    status_failures_total=1,
    api_errors_total=3,
)


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
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        body, content_type = Exposition(lambda: STATE, StepTimes()).render(accept)
        parse = parse_openmetrics if "openmetrics" in content_type else parse_text
        families = list(parse(body.decode()))
        assert not [sample.name for family in families for sample in family.samples if "_created" in sample.name]
        for family in families:
            if family.type == "counter":
                assert {sample.name for sample in family.samples} <= {f"{family.name}_total"}


def test_the_process_shows_its_cpu_and_memory() -> None:
    samples = scraped()
    assert 0 < samples["podwire_agent_process_cpu_seconds_total{}"] <= sum(os.times()[:2]) + 1
    assert samples["podwire_agent_process_resident_memory_bytes{}"] > 10_000_000


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
