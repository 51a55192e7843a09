from __future__ import annotations

from typing import Any

import pytest

from podwire_operator.facts import NO_TROUBLE, PodProblem, Trouble
from podwire_operator.judge import Judgement
from podwire_operator.judge_pool import judge_pool
from podwire_operator.observe import pool_facts
from podwire_operator.render import Rendered, render
from podwire_operator.view import View
from tests.unit.operator.made import agent, daemon_set, entry, monitor, node, pool, view

N1 = node("n1")
LATER = "2026-02-01T00:00:00Z"


def judged(seen: View, trouble: Trouble = NO_TROUBLE, name: str = "default") -> Judgement:
    facts = pool_facts(seen, name, trouble)
    assert facts is not None
    made: Rendered | None = None
    if not facts.pool.problem:
        made = render(facts.pool, facts.elders, facts.selectors, namespace="n", default_image="i")
    return judge_pool(facts, made)


def rolled(ready: int, desired: int, updated: int | None = None, seen: int = 1) -> dict[str, int]:
    return {
        "observedGeneration": seen,
        "desiredNumberScheduled": desired,
        "numberAvailable": ready,
        "updatedNumberScheduled": desired if updated is None else updated,
    }


CRASH = PodProblem("podwire-agent-default-x", "CrashLoop", "it ended with Error, exit code 1: its log tells why")


@pytest.mark.parametrize(
    ("seen", "trouble", "reason", "words"),
    [
        pytest.param(view(N1, pool()), NO_TROUBLE, "NoMonitors", "There is no NetworkMonitor", id="no monitor"),
        pytest.param(
            view(N1, pool(spec={"nodeSelector": {"z": "a"}}), monitor(spec={"nodes": {"nodeSelector": {"z": "b"}}})),
            NO_TROUBLE,
            "NoMonitors",
            "No monitor selects a node that this pool could have",
            id="monitors of other nodes",
        ),
        pytest.param(view(N1, pool(), monitor()), NO_TROUBLE, "Pending", "DaemonSet is made", id="just made"),
        pytest.param(
            view(N1, pool(), monitor(), daemon_set(status=rolled(1, 1), generation=2)),
            NO_TROUBLE,
            "Pending",
            "has not looked at it yet",
            id="the controller has not seen the latest change",
        ),
        pytest.param(
            view(N1, pool(), monitor(), daemon_set(status=rolled(1, 3))),
            NO_TROUBLE,
            "RollingOut",
            "1 of 3 agents run with the present spec",
            id="agents start",
        ),
        pytest.param(
            view(N1, pool(), monitor(), daemon_set(status=rolled(3, 3, updated=1))),
            NO_TROUBLE,
            "RollingOut",
            "1 of 3 agents run with the present spec",
            id="old agents are replaced",
        ),
        pytest.param(
            view(N1, pool(), monitor(), daemon_set(status=rolled(3, 3))),
            NO_TROUBLE,
            "RolledOut",
            "Every agent runs",
            id="all agents run",
        ),
        pytest.param(
            view(N1, pool(), monitor(), daemon_set(status=rolled(0, 1))),
            Trouble(pods={"n1": CRASH}),
            "AgentsFailing",
            "The agent on node n1 does not run: CrashLoop: it ended with Error",
            id="an agent crashes",
        ),
        pytest.param(
            view(N1, pool(), monitor(), daemon_set(status=rolled(1, 1))),
            Trouble(refused="quota exceeded."),
            "Refused",
            "The API server does not take the agents' DaemonSet: quota exceeded.",
            id="the DaemonSet is refused",
        ),
        pytest.param(
            view(N1, pool(spec={"logLevel": "loud"}), monitor()),
            NO_TROUBLE,
            "InvalidSpec",
            "spec.logLevel: ",
            id="the spec is wrong",
        ),
        pytest.param(
            view(N1, pool(), daemon_set(), agent("n1", entry())),
            NO_TROUBLE,
            "Draining",
            "The agents are removing what is theirs from node n1.",
            id="the last monitor is gone",
        ),
        pytest.param(
            view(node("n1", ready=False), pool(), daemon_set(), agent("n1", entry())),
            NO_TROUBLE,
            "Draining",
            "nothing left on their nodes",
            id="the last monitor is gone and the node is dead",
        ),
    ],
)
def test_what_is_seen_becomes_a_reason_and_a_sentence(seen: View, trouble: Trouble, reason: str, words: str) -> None:
    ready = judged(seen, trouble).ready
    assert ready.reason == reason
    assert words in ready.message
    assert ready.status == ("True" if reason in {"RolledOut", "NoMonitors"} else "False")


def test_the_younger_of_two_pools_on_a_node_is_stalled_and_the_elder_is_not() -> None:
    young = pool("young", created=LATER)
    seen = view(N1, pool(), young, monitor(), daemon_set(status=rolled(1, 1)))
    found = {str(each.type): str(each.reason) for each in judged(seen, name="young").findings}
    assert found == {"Ready": "Overlap", "Stalled": "Overlap"}
    assert judged(seen, name="young").ready.message == (
        "Pool default selects node n1, too, and is older: its agents run there, none of this pool. "
        "Change spec.nodeSelector of one of them."
    )
    assert judged(seen).ready.reason == "RolledOut"


@pytest.mark.parametrize(
    ("status", "counted"),
    [
        pytest.param({}, (0, 0), id="no status yet"),
        pytest.param(rolled(2, 3), (2, 3), id="two of three"),
        pytest.param(rolled(3, 3, updated=2), (2, 3), id="one still runs the former spec"),
        pytest.param(rolled(3, 3, seen=0), (0, 3), id="all run the former spec"),
    ],
)
def test_agents_are_ready_if_they_run_with_the_present_spec(status: Any, counted: tuple[int, int]) -> None:
    figures = judged(view(N1, pool(), monitor(), daemon_set(status=status))).figures
    assert (figures.ready, figures.desired) == counted
