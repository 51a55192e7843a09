"""An address that is given again belongs to each pod in its own time, and in between to nobody."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from podwire_agent.kube.objects import Pod, address_bytes
from podwire_agent.kube.pods import EARLIER_S, PodStore
from podwire_agent.kube.tenures import ALWAYS, FORMER_LIMIT, Tenures
from tests.unit.kube.clock import Clock

A = address_bytes("10.0.0.1")


def pod(name: str, *addresses: bytes, phase: str = "Running", started_unix_s: int = 0, node: str = "n1") -> Pod:
    return Pod(name, "shop", name, node, phase, False, addresses, "Pod", name, (), False, (), started_unix_s)


class Cluster:
    """A PodStore, and what it says of one address."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = PodStore("n1", self.clock)

    def at(self, now_s: float) -> PodStore:
        self.clock.now_s = now_s
        return self.store

    def spans(self) -> list[tuple[str, float, float, float]]:
        """Name, start, end and when it left, in seconds."""
        held = self.store.held()
        times = zip(held.starts_mono_ns, held.ends_mono_ns, held.lefts_mono_ns, strict=True)
        found = [
            (pod.name, _seconds(start), _seconds(end), _seconds(left))
            for pod, (start, end, left) in zip(held.pods, times, strict=True)
        ]
        return sorted(found, key=lambda each: each[1:3])

    def comes(self, name: str, seen_s: float, addressed_s: float) -> None:
        self.at(seen_s).put(name, pod(name, started_unix_s=self.clock.unix_s_at(seen_s)))
        self.at(addressed_s).put(name, pod(name, A, started_unix_s=self.clock.unix_s_at(seen_s)))

    def ends(self, name: str, at_s: float) -> None:
        held = self.store.get(name)
        assert held is not None
        self.at(at_s).put(name, pod(name, A, phase="Succeeded", started_unix_s=held.started_unix_s))


def _seconds(mono_ns: int) -> float:
    return float("inf") if mono_ns == ALWAYS else mono_ns / 1e9


NEVER = float("inf")


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_an_address_is_a_pods_from_when_its_node_took_it_on(cluster: Cluster) -> None:
    cluster.comes("x", 1000, 1003)
    assert cluster.spans() == [("x", 1000 - EARLIER_S, NEVER, NEVER)]


def test_a_pod_that_came_after_the_former_ended_follows_it_without_a_gap(cluster: Cluster) -> None:
    cluster.comes("x", 1000, 1001)
    cluster.ends("x", 1100)
    cluster.comes("y", 1110, 1112)
    assert cluster.spans() == [("x", 999, 1109, 1100), ("y", 1109, NEVER, NEVER)]


def test_while_the_next_pod_waited_and_the_former_ended_the_address_is_nobodys(cluster: Cluster) -> None:
    cluster.comes("x", 1000, 1001)
    cluster.at(1095).put("y", pod("y", started_unix_s=cluster.clock.unix_s_at(1095)))
    cluster.ends("x", 1100)
    cluster.at(1101).put("y", pod("y", A, started_unix_s=cluster.clock.unix_s_at(1095)))
    assert cluster.spans() == [("x", 999, 1094, 1100), ("y", 1100, NEVER, NEVER)]


def test_after_a_forced_deletion_the_address_is_the_next_pods_once_it_is_seen_with_it(cluster: Cluster) -> None:
    cluster.comes("x", 1000, 1001)
    cluster.at(1100).discard("x")
    cluster.comes("y", 1110, 1115)
    assert cluster.spans() == [("x", 999, 1109, 1100), ("y", 1115, NEVER, NEVER)]


def test_a_pod_whose_address_comes_late_was_there_before_it_was_told(cluster: Cluster) -> None:
    cluster.comes("x", 1000, 1001)
    cluster.ends("x", 1010)
    cluster.comes("y", 1020, 1060)
    assert cluster.spans()[1] == ("y", 1019, NEVER, NEVER)


def test_a_pod_that_is_told_of_only_when_it_is_over_has_had_its_address(cluster: Cluster) -> None:
    cluster.comes("x", 1000, 1001)
    cluster.ends("x", 1100)
    cluster.at(1110).put("job", pod("job", started_unix_s=cluster.clock.unix_s_at(1110)))
    cluster.ends("job", 1112)
    assert cluster.spans() == [("x", 999, 1109, 1100), ("job", 1109, NEVER, 1112)]
    cluster.ends("job", 1150)
    assert cluster.spans()[1] == ("job", 1109, NEVER, 1112)


def test_a_job_that_is_over_for_long_takes_no_address_from_anybody(cluster: Cluster) -> None:
    cluster.comes("x", 1000, 1001)
    old = pod("old", A, phase="Succeeded", started_unix_s=cluster.clock.unix_s_at(500))
    cluster.store.put("old", old)
    cluster.store.replace({"old": old, "x": pod("x", A, started_unix_s=cluster.clock.unix_s_at(1000))})
    assert [each[0] for each in cluster.spans()] == ["x"]
    found = cluster.store.by_address(A)
    assert found is not None
    assert found.name == "x"


def test_of_two_that_are_listed_with_one_address_the_later_one_has_it(cluster: Cluster) -> None:
    early, late = (pod(name, A, started_unix_s=cluster.clock.unix_s_at(at)) for name, at in (("e", 900), ("l", 950)))
    for listed in ({"e": early, "l": late}, {"l": late, "e": early}):
        store = PodStore("n1", cluster.clock)
        store.replace(listed)
        assert store.by_address(A) is late


def test_a_pod_that_is_changed_does_not_take_back_what_it_lost(cluster: Cluster) -> None:
    cluster.comes("x", 1000, 1001)
    cluster.comes("y", 1100, 1101)
    cluster.at(1200).put("x", with_labels(pod("x", A)))
    found = cluster.store.by_address(A)
    assert found is not None
    assert found.name == "y"


def with_labels(one: Pod) -> Pod:
    return Pod(
        one.uid, one.namespace, one.name, one.node, one.phase, False, one.addresses, "Pod", "x", ("a", "b"), False
    )


def test_after_an_outage_nobody_knows_what_changed_in_it(cluster: Cluster) -> None:
    cluster.comes("x", 1000, 1001)
    y = pod("y", A, started_unix_s=cluster.clock.unix_s_at(1200))
    cluster.at(1300).replace({"y": y})
    assert cluster.spans() == [("x", 999, 1000, 1300), ("y", 1300, NEVER, NEVER)]


def test_one_that_was_away_and_is_back_had_it_all_the_time(cluster: Cluster) -> None:
    cluster.comes("x", 1000, 1001)
    cluster.at(1100).put("x", pod("x"))
    cluster.at(1101).put("x", pod("x", A))
    assert cluster.spans() == [("x", 999, NEVER, NEVER)]


def test_former_ones_are_forgotten_after_their_time(cluster: Cluster) -> None:
    cluster.store.keep_for(60 * 10**9)
    cluster.comes("x", 1000, 1001)
    cluster.ends("x", 1100)
    cluster.at(1160).forget_former()
    assert len(cluster.spans()) == 1
    version = cluster.store.addresses_version
    cluster.at(1160.1).forget_former()
    assert cluster.spans() == []
    assert cluster.store.addresses_version > version
    assert cluster.store.forgotten_total == 0


def test_too_many_former_ones_are_forgotten_sooner_and_counted() -> None:
    tenures = Tenures()
    for number in range(FORMER_LIMIT + 10):
        key = number.to_bytes(16)
        tenures.hold(key, pod(str(number)), number, number)
        tenures.leave(key, str(number), number, over=True)
    tenures.forget(5)
    assert len(tenures) == FORMER_LIMIT
    assert tenures.forgotten_total == 5


@dataclass(frozen=True)
class Life:
    """What really happens to a pod, in seconds."""

    name: str
    address: bytes
    taken_on_s: float
    has_s: float
    had_s: float


def lives(draw: random.Random, address: bytes) -> Iterator[Life]:
    """One after another with the same address, often within a moment."""
    now_s = 1000.0
    for number in range(draw.randint(2, 6)):
        has_s = now_s + draw.choice((0.01, 0.5, 5.0))
        had_s = has_s + draw.choice((0.1, 1.0, 20.0))
        waited_s = draw.choice((0.1, 1.5, 30.0))  # some were taken on while the former still had the address
        yield Life(f"{address[-1]}-{number}", address, has_s - waited_s, has_s, had_s)
        now_s = had_s


def told(life: Life, draw: random.Random, clock: Clock) -> Iterator[tuple[float, str, Pod | None]]:
    """When the API server is told what: never sooner than it is so, but for a forced deletion."""
    started = clock.unix_s_at(life.taken_on_s + draw.uniform(-0.4, 0.4))  # by the node's clock
    bare, whole = (pod(life.name, *have, started_unix_s=started) for have in ((), (life.address,)))
    over = pod(life.name, life.address, phase="Failed", started_unix_s=started)
    yield life.taken_on_s, life.name, bare
    addressed_s = life.has_s + draw.choice((0.05, 1.0, 10.0))
    if draw.random() < 0.3:
        gone_s = max(addressed_s + 0.02, life.had_s - draw.choice((0.0, 3.0)))  # its address is told before
    else:
        gone_s = life.had_s + draw.choice((0.02, 0.5, 2.0))
        yield gone_s - 0.01, life.name, over
    if addressed_s < gone_s - 0.01:
        yield addressed_s, life.name, whole
    yield gone_s, life.name, None


def arriving(
    events: list[tuple[float, str, Pod | None]], draw: random.Random
) -> Iterator[tuple[float, str, Pod | None]]:
    """The same in the same order, some of them late."""
    now_s = 0.0
    for at_s, name, item in sorted(events, key=lambda each: each[0]):
        now_s = max(now_s, at_s + draw.choice((0.01, 0.3, 0.8)))
        yield now_s, name, item


def follow(store: PodStore, clock: Clock, events: list[tuple[float, str, Pod | None]], draw: random.Random) -> set[str]:
    """With an outage in some cases, after which everything is listed anew, or what was missed is told in its order.

    The names of pods whose address was told.
    """
    told_of: set[str] = set()
    away = draw.choice((None, (1005.0, 1012.0), (1000.5, 1001.5)))
    relist = draw.random() < 0.5
    objects: dict[str, Pod] = {}
    listed = False
    for at_s, name, item in arriving(events, draw):
        clock.now_s = at_s
        if away is not None and away[0] <= at_s < away[1]:
            if relist:
                _keep(objects, name, item)
                continue
            clock.now_s = away[1]
        if away is not None and at_s >= away[1] and relist and not listed:
            listed = True
            store.replace(objects.copy())
            told_of |= {each.name for each in objects.values() if each.addresses}
        _keep(objects, name, item)
        if item is None:
            store.discard(name)
        else:
            store.put(name, item)
            told_of |= {name} if item.addresses else set()
    return told_of


def _keep(objects: dict[str, Pod], name: str, item: Pod | None) -> None:
    if item is None:
        objects.pop(name, None)
    else:
        objects[name] = item


@pytest.mark.parametrize("seed", range(300))
def test_no_moment_of_a_pod_is_ever_another_ones(seed: int) -> None:
    """However late the API server is told, and tells: of all pods whose address it tells at all."""
    draw = random.Random(seed)
    clock = Clock(ahead_s=draw.uniform(-0.3, 0.3))
    every = [life for last in (1, 2) for life in lives(draw, address_bytes(f"10.0.0.{last}"))]
    store = PodStore("n1", clock)
    told_of = follow(store, clock, [event for life in every for event in told(life, draw, clock)], draw)
    held = store.held()
    columns = (held.keys, held.pods, held.starts_mono_ns, held.ends_mono_ns, held.lefts_mono_ns)
    spans = [
        (key, found.name, start / 1e9, min(end, left + 10**12) / 1e9)
        for key, found, start, end, left in zip(*columns, strict=True)
        if start < end
    ]
    for key, name, start_s, end_s in spans:
        for life in (each for each in every if each.name in told_of):
            overlap_s = min(end_s, life.had_s) - max(start_s, life.has_s)
            assert life.address != key or life.name == name or overlap_s <= 0, (name, start_s, end_s, life)
    for address in {life.address for life in every}:
        times = sorted((start_s, end_s) for key, _, start_s, end_s in spans if key == address)
        assert all(former[1] <= later[0] for former, later in pairwise(times))
