"""What an AgentNode tells of a monitor, from how it stands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from podwire_agent.kernel.watch import Watched
from podwire_agent.model import IfIndex, Interface
from podwire_agent.node_status import (
    MESSAGE_CHARACTERS,
    Entries,
    Figures,
    Sinks,
    Told,
    Verdict,
    is_passing,
    refused,
    too_many,
    verdict,
    without_figures,
)
from podwire_agent.sinks.outbox import OutboxCounters, Tally
from podwire_agent.supervisor import Standing
from podwire_api.conditions import MonitorReason

NOW_UNIX_NS = 1_800_000_000 * 10**9
LATER_UNIX_NS = NOW_UNIX_NS + 60 * 10**9


def watched(name: str, failure: str = "") -> Watched:
    return Watched(Interface(IfIndex(1), name, "veth"), host=False, failure=failure)


RUNNING = Standing(running=True, generation=2, watched=(watched("veth1"), watched("veth2")))


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        pytest.param(Standing(), (False, "Attaching", "being loaded"), id="begun"),
        pytest.param(RUNNING, (True, "Attached", "2 interfaces are watched"), id="runs"),
        pytest.param(
            replace(RUNNING, watched=(watched("veth1"), watched("veth2", "no such device"))),
            (False, "AttachFailed", "veth2: no such device"),
            id="an interface failed",
        ),
        pytest.param(Standing(failure="no room"), (False, "AttachFailed", "no room"), id="cannot be begun"),
        pytest.param(replace(RUNNING, paused=True, watched=()), (False, "Paused", "totals stay"), id="paused"),
        pytest.param(replace(RUNNING, ending=True), (False, "Attaching", "taken off"), id="on its way out"),
    ],
)
def test_the_verdict_is(standing: Standing, expected: tuple[bool, str, str]) -> None:
    holds, reason, words = expected
    found = verdict(standing)
    assert (found.holds, found.reason) == (holds, reason)
    assert words in found.message


def test_what_a_user_should_know_is_told_though_all_is_well() -> None:
    note = "the whitelist rule web selects no pod or service"
    found = verdict(replace(RUNNING, notes=(note,)))
    assert (found.holds, found.message) == (True, f"2 interfaces are watched; but {note}")
    entries = Entries()
    [before] = entries.of([told(GOOD)], NOW_UNIX_NS)
    [after] = entries.of([told(found)], NOW_UNIX_NS)
    assert without_figures(before) != without_figures(after)


def test_of_many_failures_some_are_named_and_the_rest_counted() -> None:
    failing = tuple(watched(f"veth{number}", "x" * 900) for number in range(9))
    message = verdict(replace(RUNNING, watched=failing)).message
    assert message.startswith("veth0: ")
    assert message.endswith("; ... and 6 more")
    assert len(message) <= MESSAGE_CHARACTERS


def test_what_is_refused_says_why() -> None:
    assert refused(MonitorReason.NOT_BUILT, ["spec.a: no", "spec.b: no"]).message == "spec.a: no; spec.b: no"
    assert "shop, cart" in too_many(["shop", "cart"]).message


@pytest.mark.parametrize(
    ("standing", "passing"),
    [
        (Standing(), True),
        (RUNNING, False),
        (replace(RUNNING, ending=True), True),
        (Standing(failure="no room"), False),
    ],
)
def test_on_its_way_is_what_nothing_keeps(standing: Standing, passing: bool) -> None:
    assert is_passing(standing) is passing


def test_sinks_are_unreachable_from_a_lost_report_to_the_next_that_arrives() -> None:
    sinks = Sinks()
    arrived, lost = Tally(reports=5), Tally(reports=1)
    reasons = [
        sinks.verdict("u", counters).reason
        for counters in (
            OutboxCounters(),
            OutboxCounters(sent=arrived),
            OutboxCounters(sent=arrived, failed=lost, last_error="refused"),
            OutboxCounters(sent=arrived, failed=lost, last_error="refused"),
            OutboxCounters(sent=Tally(reports=6), failed=lost, last_error="refused"),
        )
    ]
    assert reasons == ["Reachable", "Reachable", "SinksUnreachable", "SinksUnreachable", "Reachable"]


def told(found: Verdict, **figures: int) -> Told:
    return Told("shop", "u", 2, found, observed=2, watched=RUNNING.watched, figures=Figures(**figures))


GOOD, BAD = Verdict(True, "Attached", "2 interfaces are watched"), Verdict(False, "AttachFailed", "no")


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    entries = Entries()
    times = [
        entries.of([told(found)], at)[0].conditions[0].last_transition_time
        for found, at in (
            (GOOD, NOW_UNIX_NS),
            (GOOD, LATER_UNIX_NS),
            (BAD, LATER_UNIX_NS),
            (BAD, LATER_UNIX_NS + 10**9),
        )
    ]
    assert times == ["2027-01-15T08:00:00Z", "2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z", "2027-01-15T08:01:00Z"]


def test_figures_are_no_news_and_a_condition_is() -> None:
    entries = Entries()
    [one] = entries.of([told(GOOD, pods=1, overflowed=3)], NOW_UNIX_NS)
    [other] = entries.of([told(replace(GOOD, message="3 interfaces are watched"), pods=2)], LATER_UNIX_NS)
    [worse] = entries.of([told(BAD, pods=2)], LATER_UNIX_NS)
    assert one != other
    assert without_figures(one) == without_figures(other) != without_figures(worse)
    assert (one.pods, one.overflowed, one.interfaces.attached, one.observed_generation) == (1, 3, 2, 2)
