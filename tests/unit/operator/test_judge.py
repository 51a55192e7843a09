from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from podwire_operator.facts import PodProblem, Trouble
from podwire_operator.judge import Judgement, judge
from podwire_operator.objects import Kind
from podwire_operator.observe import monitor_facts
from podwire_operator.standing import monitor_status
from podwire_operator.view import View
from tests.unit.operator.made import Clock, agent, entry, monitor, node, pool, view

N1, N2 = node("n1"), node("n2", labels={"zone": "b"})
STARTED = (agent("n1", entry()), agent("n2", entry()))


def judged(seen: View, troubles: Mapping[str, Trouble] | None = None, name: str = "shop") -> Judgement:
    facts = monitor_facts(seen, name, troubles or {})
    assert facts is not None
    return judge(facts)


def of(judgement: Judgement) -> dict[str, tuple[str, str]]:
    """Status and reason by condition."""
    return {str(each.type): (each.status, str(each.reason)) for each in judgement.findings}


PULL = PodProblem("podwire-agent-default-x", "ImagePull", "image localhost/none:1: not found")

STATES = [
    pytest.param(
        view(N1, N2, monitor(), pool(), *STARTED), {}, "Attached", "Attached on all 2 nodes.", id="attached everywhere"
    ),
    pytest.param(
        view(N1, monitor(), pool(), agent("n1", entry())),
        {},
        "Attached",
        "Attached on its one node.",
        id="attached on the one node",
    ),
    pytest.param(
        view(N1, N2, monitor()),
        {},
        "NoPool",
        "There is no AgentPool, so no agent runs anywhere.",
        id="there is no pool",
    ),
    pytest.param(
        view(N1, monitor(), pool(spec={"nodeSelector": {"zone": "x"}})),
        {},
        "NoPool",
        "No AgentPool selects node n1. Change a pool's spec.nodeSelector, add a pool, or select other nodes.",
        id="no pool selects the node",
    ),
    pytest.param(
        view(
            node("n1", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]),
            monitor(),
            pool(spec={"tolerations": [{"key": "disk", "operator": "Exists"}]}),
        ),
        {},
        "NoPool",
        "No agent can run on node n1: pool default does not tolerate the taint gpu=yes:NoSchedule of node n1.",
        id="a taint keeps the pool's agents off",
    ),
    pytest.param(
        view(N1, monitor(spec={"nodes": {"nodeSelector": {"zone": "x", "disk": "ssd"}}}), pool()),
        {},
        "NoNodes",
        "No node has the labels disk=ssd, zone=x of spec.nodes.nodeSelector. Label a node, or change the selector.",
        id="no node has the labels",
    ),
    pytest.param(view(monitor(), pool()), {}, "NoNodes", "The cluster has no node.", id="there is no node at all"),
    pytest.param(
        view(N1, monitor(spec={"nodes": {"nodeSelector": {"zone": 5}}}), pool()),
        {},
        "InvalidSpec",
        "spec.nodes.nodeSelector: is not a mapping of labels to text; write {zone: a}.",
        id="the selector is no selector",
    ),
    pytest.param(
        view(N1, N2, monitor(), pool()),
        {},
        "AgentsStarting",
        "Waiting for the agent of nodes n1, n2 to start.",
        id="no agent has written yet",
    ),
    pytest.param(
        view(N1, monitor(), pool(), agent("n1", entry(), detached=True)),
        {},
        "AgentsStarting",
        "Waiting for the agent of node n1 to start.",
        id="the agent has ended and left nothing",
    ),
    pytest.param(
        view(N1, monitor(), pool(), agent("n1", entry(), pool="former")),
        {},
        "AgentsStarting",
        "Waiting for the agent of node n1 to start.",
        id="the agent that wrote was another pool's",
    ),
    pytest.param(
        view(N1, monitor(), pool(), agent("n1")),
        {},
        "Attaching",
        "Waiting for the agent of node n1 to bring the present spec into force.",
        id="the agent does not know the monitor yet",
    ),
    pytest.param(
        view(N1, monitor(generation=2), pool(), agent("n1", entry())),
        {},
        "Attaching",
        "Waiting for the agent of node n1 to bring the present spec into force.",
        id="the agent still runs the former spec",
    ),
    pytest.param(
        view(N1, monitor(), pool(), agent("n1", entry(), monitors=[{**entry(), "uid": "former"}])),
        {},
        "Attaching",
        "Waiting for the agent of node n1",
        id="the agent tells of a former monitor of that name",
    ),
    pytest.param(
        view(N1, monitor(), pool(), agent("n1", entry(reason="AttachFailed", said="veth1: no clsact"))),
        {},
        "AttachFailed",
        "Not attached everywhere on node n1: veth1: no clsact.",
        id="an interface could not be attached to",
    ),
    pytest.param(
        view(N1, monitor(), pool(), agent("n1", entry(reason="NotBuilt", said="spec.maxRows: not built; remove it"))),
        {},
        "NotBuilt",
        "Cannot run on node n1: spec.maxRows: not built; remove it.",
        id="the agent cannot do that yet",
    ),
    pytest.param(
        view(
            N1, N2, monitor(), pool(), agent("n1", entry()), agent("n2", entry(reason="KernelUnsuitable", said="old"))
        ),
        {},
        "KernelUnsuitable",
        "Cannot run on node n2: old.",
        id="one node's kernel does not do",
    ),
    pytest.param(
        view(N1, N2, monitor(), pool(), agent("n1", entry())),
        {"default": Trouble(pods={"n2": PULL})},
        "AgentsFailing",
        "The agent on node n2 does not run: ImagePull: image localhost/none:1: not found. "
        "The pod is podwire-agent-default-x in podwire-system.",
        id="an image cannot be pulled",
    ),
    pytest.param(
        view(N1, monitor(), pool()),
        {"default": Trouble(refused="denied by policy")},
        "AgentsFailing",
        "The agent on node n1 does not run: Refused: AgentPool default: denied by policy. "
        "See kubectl describe agentpools.",
        id="the agents' DaemonSet is refused",
    ),
    pytest.param(
        view(N1, node("n2", ready=False), monitor(), pool(), *STARTED),
        {"default": Trouble(pods={"n2": PULL})},
        "NodesNotReady",
        "Node n2 is not ready: see kubectl get nodes.",
        id="a node is down, whatever its pod says",
    ),
    pytest.param(
        view(N1, N2, node("n3", ready=False), node("n4", ready=False), monitor(), pool(), agent("n1", entry())),
        {},
        "AgentsStarting",
        "Waiting for the agent of node n2 to start. If that lasts, see kubectl -n podwire-system get pods -o wide. "
        "Nodes n3, n4 are not ready: see kubectl get nodes.",
        id="one agent starts and two nodes are down: both are told",
    ),
    pytest.param(
        view(
            N1,
            monitor(),
            pool(),
            agent(
                "n1",
                {
                    **entry(),
                    "conditions": [
                        *entry()["conditions"],
                        {"type": "SinksReachable", "status": "False", "reason": "x", "message": "disk full."},
                    ],
                },
            ),
        ),
        {},
        "SinksUnreachable",
        "Reports of node n1 are not taken: disk full.",
        id="a sink does not take the reports",
    ),
    pytest.param(
        view(N1, monitor(spec={"paused": True}), pool(), agent("n1", entry(reason="Paused"))),
        {},
        "Paused",
        "Paused by spec.paused: detached on its one node; the totals are kept.",
        id="paused and detached",
    ),
    pytest.param(
        view(N1, monitor(spec={"paused": True}), pool(), agent("n1", entry())),
        {},
        "Attaching",
        "Waiting for the agent of node n1",
        id="paused and still attached",
    ),
]


@pytest.mark.parametrize(("seen", "troubles", "reason", "message"), STATES)
def test_what_is_seen_becomes_a_reason_and_a_sentence(
    seen: View, troubles: dict[str, Trouble], reason: str, message: str
) -> None:
    judgement = judged(seen, troubles)
    assert judgement.ready.reason == reason
    assert judgement.ready.message.startswith(message)
    assert judgement.ready.message.endswith(".")


@pytest.mark.parametrize(
    ("reason", "extra"),
    [
        *((reason, "Stalled") for reason in ("NoPool", "NoNodes", "InvalidSpec", "NotBuilt", "KernelUnsuitable")),
        *((reason, "Reconciling") for reason in ("AgentsStarting", "Attaching", "AttachFailed", "AgentsFailing")),
        *((reason, "Reconciling") for reason in ("NodesNotReady", "SinksUnreachable")),
        *((reason, None) for reason in ("Attached", "Paused")),
    ],
)
def test_what_tools_wait_for_goes_with_the_reason(reason: str, extra: str | None) -> None:
    for case in STATES:
        seen, troubles, wanted, _ = case.values
        if wanted != reason:
            continue
        found = of(judged(cast("View", seen), cast("dict[str, Trouble]", troubles)))
        assert found["Ready"] == ("True" if extra is None else "False", reason)
        assert {"Reconciling", "Stalled"} & found.keys() == ({extra} if extra else set())
        assert {"AgentsReady", "DatapathAttached", "SinksReachable"} <= found.keys()


def test_the_parts_of_a_status_tell_what_is_fine_and_what_is_not() -> None:
    seen = view(N1, N2, monitor(), pool(), agent("n1", entry()))
    assert of(judged(seen)) == {
        "Ready": ("False", "AgentsStarting"),
        "Reconciling": ("True", "AgentsStarting"),
        "AgentsReady": ("False", "AgentsStarting"),
        "DatapathAttached": ("False", "AgentsStarting"),
        "SinksReachable": ("True", "Reachable"),
    }
    failed = view(N1, monitor(spec={"sinks": []}), pool(), agent("n1", entry(reason="AttachFailed")))
    assert of(judged(failed)) == {
        "Ready": ("False", "AttachFailed"),
        "Reconciling": ("True", "AttachFailed"),
        "AgentsReady": ("True", "Running"),
        "DatapathAttached": ("False", "AttachFailed"),
        "SinksReachable": ("True", "NoSinks"),
    }
    paused = view(N1, monitor(spec={"paused": True}), pool(), agent("n1", entry(reason="Paused")))
    assert of(judged(paused))["DatapathAttached"] == ("False", "Paused")
    nobody = view(N1, monitor(), pool())
    assert of(judged(nobody))["DatapathAttached"] == ("Unknown", "AgentsStarting")


def test_what_an_agent_notes_of_a_monitor_that_is_attached_is_told_with_its_nodes() -> None:
    noting = entry(said="3 interfaces are watched; but the whitelist rule web selects no pod or service")
    plain = entry(said="4 interfaces are watched")
    found = judged(view(N1, N2, monitor(), pool(), agent("n1", plain), agent("n2", noting)))
    assert of(found)["Ready"] == ("True", "Attached")
    told = " On node n2: the whitelist rule web selects no pod or service."
    assert found.ready.message == f"Attached on all 2 nodes.{told}"
    [attached] = [each for each in found.findings if each.type == "DatapathAttached"]
    assert attached.message == f"Attached to every pod's interface on every node.{told}"


def test_the_ninth_monitor_of_a_node_waits_whatever_its_agent_says() -> None:
    older = [monitor(f"m{number}", created=f"2026-01-01T00:00:0{number}Z") for number in range(8)]
    ninth = monitor("late", created="2026-01-01T00:01:00Z")
    seen = view(N1, N2, pool(), *older, ninth, agent("n1", entry("late")))
    judgement = judged(seen, name="late")
    assert of(judgement)["Stalled"] == ("True", "TooManyMonitors")
    assert judgement.ready.message == (
        "A node serves at most 8 monitors, the oldest, and there are as many older ones on nodes n1, n2. "
        "Delete one of them, or select other nodes."
    )
    assert judged(seen, name="m7").ready.reason == "AgentsStarting"


def test_an_agent_that_was_not_heard_of_for_three_intervals_is_silent() -> None:
    clock = Clock()
    seen = view(N1, monitor(), pool(), agent("n1", entry(), heartbeat="t1"), clock=clock)
    clock.now += 85
    assert judged(seen).ready.reason == "Attached"
    clock.now += 10
    assert judged(seen).ready.reason == "AgentsSilent"
    assert "node n1" in judged(seen).ready.message
    seen.put(Kind.AGENT_NODE, agent("n1", entry(), heartbeat="t2"))
    assert judged(seen).ready.reason == "Attached"


def test_figures_are_summed_over_the_nodes() -> None:
    first = entry(pods=3, flowsPerSecond=1200, lost=7, overflowed=1)
    second = entry(pods=4, flowsPerSecond=34)
    seen = view(N1, N2, monitor(), pool(), agent("n1", first), agent("n2", second))
    status = monitor_status(judged(seen), {}, 1, "2026-01-01T00:00:00Z")
    assert status["nodes"] == {"desired": 2, "ready": 2, "summary": "2/2"}
    shown = {key: status[key] for key in ("pods", "flowsPerSecond", "lost", "overflowed")}
    assert shown == {"pods": 7, "flowsPerSecond": 1200, "lost": "7", "overflowed": "1"}
    nothing = monitor_status(judged(view(N1, monitor(), pool(), agent("n1", entry()))), {}, 1, "t")
    assert nothing["lost"] == "-"


def test_an_agent_of_another_version_is_understood_as_far_as_it_goes() -> None:
    newer = entry(wonders={"of": "tomorrow"}, conditions=[*entry()["conditions"], {"type": "New", "status": "True"}])
    older: dict[str, Any] = {"name": "shop", "uid": "uid-shop"}
    seen = view(N1, N2, monitor(), pool(), agent("n1", newer, unheard="of"), agent("n2", older))
    judgement = judged(seen)
    assert judgement.ready.reason == "Attaching"
    assert "node n2" in judgement.ready.message


def test_a_long_message_is_cut_and_many_nodes_are_counted() -> None:
    nodes = [node(f"n{number:03}") for number in range(200)]
    agents = [agent(each.meta.name, entry(reason="AttachFailed", said="x" * 900)) for each in nodes]
    message = judged(view(monitor(), pool(), *nodes, *agents)).ready.message
    assert "nodes n000, n001, n002 and 197 more" in message
    assert len(message) < 1000
