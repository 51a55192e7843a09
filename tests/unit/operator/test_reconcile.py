"""What is written, and when, at a cluster that remembers what it was asked."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from podwire_operator.authority import Authority
from podwire_operator.cluster import Cluster
from podwire_operator.errors import ClusterError
from podwire_operator.events import BURST, Events
from podwire_operator.objects import Document, Kind, read
from podwire_operator.reconcile import DRAIN_S, LISTEN_S, ROUND_S, WORDS_S, Reconciler
from podwire_operator.rollout import REFUSED_AGAIN_S
from podwire_operator.settings import Settings
from podwire_operator.view import View
from podwire_operator.work import Key, Task
from tests.unit.operator.made import KINDS, Clock, agent, entry, monitor, node, pool

SETTINGS = Settings("localhost/podwire-agent:1", "podwire-system", "me", None, "off")
SHOP, DEFAULT = Key(Task.MONITOR, "shop"), Key(Task.POOL, "default")


@dataclass
class Asked:
    """In a Cluster's place: takes everything, unless told what to say, and tells the view as a watch would."""

    view: View
    error: ClusterError | None = None
    calls: list[str] = field(default_factory=list)
    statuses: list[Document] = field(default_factory=list)
    events: list[Document] = field(default_factory=list)
    refuses: dict[str, ClusterError] = field(default_factory=dict)
    """By the call."""

    _versions = itertools.count(10**6)

    def say(self, what: str) -> None:
        self.calls.append(what)
        error = self.refuses.get(what, self.error)
        if error is not None:
            raise error

    async def write_status(self, kind: Kind, name: str, uid: str, status: Document) -> Document:
        self.say(f"status {name}")
        self.statuses.append(status)
        metadata = {"name": name, "uid": uid, "generation": 1, "resourceVersion": str(next(self._versions))}
        spec = {"sinks": [{"name": "lines", "stdout": {}}]} if kind is Kind.MONITOR else {}
        return {"kind": "X", "metadata": metadata, "spec": spec, "status": status}

    async def apply(self, daemon_set: Document) -> Document:
        self.say("apply")
        metadata = {**daemon_set["metadata"], "uid": "ds", "generation": 1}
        metadata["resourceVersion"] = str(next(self._versions))
        return {**daemon_set, "metadata": metadata}

    async def take_over(self, name: str, patch: Any) -> Document:
        del patch
        self.say(f"take over {name}")
        return {}

    async def delete_daemon_set(self, name: str, uid: str = "") -> None:
        self.say(f"delete {name}")
        for key in list(self.view.daemon_sets):
            self.view.drop(Kind.DAEMON_SET, key, uid or "ds", next(self._versions))

    async def agent_pods(self, name: str) -> list[Document]:
        self.say(f"pods of {name}")
        return []

    async def make_pool(self, name: str) -> None:
        self.say(f"make pool {name}")

    async def post_event(self, event: Document) -> None:
        self.say("event")
        self.events.append(event)


class Stage:
    """A reconciler, its view and its clock."""

    def __init__(self, *objects: Any) -> None:
        self.clock = Clock()
        self.view = View(self.clock)
        self.cluster = Asked(self.view)
        cluster = cast("Cluster", self.cluster)
        self.added: list[Key] = []
        self.doubts = 0
        self.sees(*objects)
        self.events = Events(cluster, "me", clock=self.clock)
        self.reconciler = Reconciler(
            cluster,
            self.view,
            self.events,
            Authority(cluster),
            SETTINGS,
            add=self.added.append,
            doubt=self.doubt,
            clock=self.clock,
            wall=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )

    def doubt(self) -> None:
        self.doubts += 1

    def sees(self, *objects: Any) -> None:
        for each in objects:
            self.view.put(KINDS[type(each)], each)

    def run(self, key: Key) -> float | None:
        return asyncio.run(self.reconciler.run(key))

    def calls(self, key: Key) -> list[str]:
        """Of one look."""
        before = len(self.cluster.calls)
        self.run(key)
        return self.cluster.calls[before:]


def rolled_out(stage: Stage, ready: int = 1) -> None:
    """The DaemonSet that was applied, as its controller leaves it."""
    (live,) = stage.view.daemon_sets.values()
    status = {"observedGeneration": 1, "desiredNumberScheduled": 1}
    counted = {"numberAvailable": ready, "updatedNumberScheduled": 1}
    metadata = {**live.document["metadata"], "resourceVersion": str(next(Asked._versions))}
    stage.sees(read(Kind.DAEMON_SET, {**live.document, "metadata": metadata, "status": status | counted}))


@pytest.fixture
def stage() -> Stage:
    """Settled: one node, its pool, a monitor, an agent."""
    made = Stage(node("n1"), pool(), monitor(), agent("n1", entry()))
    made.run(DEFAULT)
    rolled_out(made)
    made.run(DEFAULT)
    made.run(SHOP)
    return made


def test_what_is_settled_costs_no_request(stage: Stage) -> None:
    assert stage.calls(DEFAULT) == []
    assert stage.calls(SHOP) == []


def test_figures_are_written_at_a_rate_and_a_condition_at_once(stage: Stage) -> None:
    stage.sees(agent("n1", entry(pods=5)))
    wait_s = stage.run(SHOP)
    assert wait_s is not None
    assert 0 < wait_s <= WORDS_S
    assert stage.calls(SHOP) == []
    stage.clock.now += wait_s
    assert stage.calls(SHOP) == ["status shop"]
    assert stage.cluster.statuses[-1]["pods"] == 5
    stage.sees(agent("n1", entry(reason="AttachFailed", said="no")))
    assert stage.calls(SHOP) == ["status shop", "event"]


def test_with_many_monitors_figures_are_written_less_often() -> None:
    many = [monitor(f"m{number}") for number in range(400)]
    stage = Stage(node("n1"), pool(), *many, agent("n1", entry("m0")))
    stage.run(Key(Task.MONITOR, "m0"))
    stage.sees(agent("n1", entry("m0", pods=5)))
    assert stage.run(Key(Task.MONITOR, "m0")) == pytest.approx(40)


def test_a_change_of_the_reason_is_an_event_and_the_same_again_is_none(stage: Stage) -> None:
    assert [each["reason"] for each in stage.cluster.events] == ["RolledOut", "Attached"]
    stage.sees(node("n1", ready=False))
    stage.run(SHOP)
    stage.run(SHOP)
    assert [each["reason"] for each in stage.cluster.events] == ["RolledOut", "Attached", "NodesNotReady"]
    warning = stage.cluster.events[-1]
    assert (warning["type"], warning["regarding"]["name"]) == ("Warning", "shop")
    assert warning["note"] == "Node n1 is not ready: see kubectl get nodes."


def test_events_have_a_bound_and_their_failure_is_nobodys(stage: Stage) -> None:
    for turn in range(BURST + 20):
        stage.sees(node("n1", ready=bool(turn % 2)))
        stage.run(SHOP)
    assert len(stage.cluster.events) == BURST
    assert stage.events.dropped_total > 0
    stage.clock.now += 60

    stage.cluster.refuses["event"] = ClusterError("no", 403)
    stage.sees(node("n1", ready=False))
    stage.run(SHOP)
    assert stage.cluster.statuses[-1]["conditions"][0]["reason"] == "NodesNotReady"


def test_agents_are_removed_when_they_are_done_or_have_had_their_time(stage: Stage) -> None:
    gone = stage.view.monitors["shop"].meta
    stage.view.drop(Kind.MONITOR, "shop", gone.uid, 10**9)
    assert stage.calls(DEFAULT) == ["status default"]
    stage.clock.now += DRAIN_S - 1
    assert stage.run(DEFAULT) == pytest.approx(1)
    stage.clock.now += 1
    assert stage.calls(DEFAULT)[0] == "delete podwire-agent-default"
    assert stage.cluster.statuses[-1]["conditions"][0]["reason"] == "NoMonitors"


def test_agents_that_have_nothing_left_are_removed_at_once(stage: Stage) -> None:
    gone = stage.view.monitors["shop"].meta
    stage.view.drop(Kind.MONITOR, "shop", gone.uid, 10**9)
    stage.sees(agent("n1"))
    assert stage.calls(DEFAULT)[0] == "delete podwire-agent-default"


def test_a_monitor_that_comes_back_in_time_keeps_its_agents(stage: Stage) -> None:
    gone = stage.view.monitors["shop"].meta
    stage.view.drop(Kind.MONITOR, "shop", gone.uid, 10**9)
    stage.run(DEFAULT)
    stage.clock.now += DRAIN_S - 1
    stage.sees(monitor(uid="another"))
    stage.run(DEFAULT)
    stage.clock.now += DRAIN_S
    assert "delete podwire-agent-default" not in stage.calls(DEFAULT)


def test_what_was_refused_is_not_sent_again_for_a_while_unless_it_is_another_thing() -> None:
    stage = Stage(node("n1"), pool(), monitor())
    stage.cluster.error = ClusterError("no", 422, "no")
    with pytest.raises(ClusterError):  # the status cannot be written either
        stage.run(DEFAULT)
    stage.cluster.error = None

    stage.cluster.refuses["apply"] = ClusterError("apply: no", 422, "denied by policy")
    stage.clock.now += REFUSED_AGAIN_S
    assert stage.calls(DEFAULT) == ["apply", "status default", "event"]
    assert SHOP in stage.added
    assert stage.calls(DEFAULT) == []
    stage.sees(pool(spec={"logLevel": "debug"}, generation=2, resourceVersion=str(next(Asked._versions))))
    assert stage.calls(DEFAULT)[0] == "apply"
    stage.clock.now += REFUSED_AGAIN_S
    assert stage.calls(DEFAULT)[0] == "apply"
    stage.run(SHOP)
    assert "denied by policy" in stage.cluster.statuses[-1]["conditions"][0]["message"]


def test_pods_are_asked_for_only_while_agents_do_not_run(stage: Stage) -> None:
    rolled_out(stage, ready=0)
    assert "pods of default" in stage.calls(DEFAULT)
    rolled_out(stage, ready=1)
    assert "pods of default" not in stage.calls(DEFAULT)


def test_there_is_always_a_pool() -> None:
    stage = Stage(monitor())
    assert stage.calls(Key(Task.POOLS)) == ["make pool default"]
    stage.cluster.error = ClusterError("it is there", 409)
    stage.run(Key(Task.POOLS))
    assert stage.doubts == 1
    stage.cluster.error = None
    stage.sees(pool("mine"))
    assert stage.calls(Key(Task.POOLS)) == []


def test_a_status_of_an_object_that_is_gone_puts_the_view_in_doubt() -> None:
    stage = Stage(node("n1"), pool(), monitor())
    stage.cluster.error = ClusterError("gone", 404)
    with pytest.raises(ClusterError):
        stage.run(SHOP)
    assert stage.doubts == 1


def test_whoever_falls_silent_is_told_of(stage: Stage) -> None:
    assert stage.run(Key(Task.SILENCE)) == LISTEN_S
    assert SHOP not in stage.added
    stage.clock.now += 100
    stage.run(Key(Task.SILENCE))
    assert stage.added.count(SHOP) == 1
    stage.run(Key(Task.SILENCE))
    assert stage.added.count(SHOP) == 1
    stage.run(SHOP)
    assert stage.cluster.statuses[-1]["conditions"][0]["reason"] == "AgentsSilent"


def test_everything_is_looked_at_once_in_a_while(stage: Stage) -> None:
    assert stage.run(Key(Task.ROUND)) == ROUND_S
    assert {SHOP, DEFAULT} <= set(stage.added)


def test_a_daemonset_without_its_pool_is_removed(stage: Stage) -> None:
    gone = stage.view.pools["default"].meta
    stage.view.drop(Kind.POOL, "default", gone.uid, 10**9)
    assert stage.calls(DEFAULT) == ["delete podwire-agent-default"]
    assert stage.calls(DEFAULT) == []
