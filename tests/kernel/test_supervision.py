"""A bug in one monitor's tick drops that monitor and begins it anew: nothing is lost or doubled, the others go on."""

from __future__ import annotations

import pytest

from tests.kernel.agent_fixtures import datagrams_between, ended, send
from tests.kernel.netns import Host, eventually
from tests.kernel.running import Node
from tests.kernel.sending import sending, sent_by

START_STEPS = 13
"""Those of one monitor until it is ready."""


@pytest.mark.parametrize("step", range(START_STEPS + 1, START_STEPS + 14))
def test_a_bug_after_any_step_of_a_tick_costs_no_packet(step: int, host: Host, place: Node) -> None:
    frames, flows = 30_000, 200
    agent = place.start(module="tests.kernel.crash_at", arguments=[str(step)])
    agent.ready()
    with sending(host.pods[0].namespace, frames, flows, rate=10_000) as senders:
        for each in senders:
            each.wait()
    eventually(lambda: "tried again in 1 s" in agent.errors.read_text(), "the bug has struck", 10)
    eventually(lambda: place.flows_of_lines()["from_pod"].total() >= frames, "it goes on", 10)
    ended(place, host, agent)
    assert place.flows_of_lines()["from_pod"] == sent_by(frames, flows)


def test_the_other_monitor_goes_on_and_the_end_reports_both(host: Host, place: Node) -> None:
    agent = place.start(
        "--file", str(place.write("other")), module="tests.kernel.crash_at", arguments=[str(2 * START_STEPS + 5)]
    )
    agent.ready()
    first, second = host.pods
    send(first, second, 40)
    eventually(lambda: "tried again in 1 s" in agent.errors.read_text(), "the bug has struck", 10)
    send(first, second, 30)
    ended(place, host, agent)
    place.identity_holds("other")
    for monitor in ("exact", "other"):
        assert datagrams_between(place, first, second, monitor=monitor) == (70, 70)
