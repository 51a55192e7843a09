"""From what is followed to the World of a monitor: when it is made anew, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from podwire_agent.core.networks import packed
from podwire_agent.core.world import Entity, World
from podwire_agent.kube.objects import Pod
from podwire_agent.kube.places import Node, Port, Service, Slice
from podwire_agent.kube.pods import PodStore
from podwire_agent.kube.referred import Referable
from podwire_agent.kube.reflector import CountedObjects
from podwire_agent.model import EndKind, IfIndex, NearBy
from podwire_agent.who import FRESH_NS, Who, Worlds
from podwire_api import NetworkMonitorSpec
from tests.unit.kube.clock import Clock

FRESH_S = FRESH_NS / 1e9
OFFICE = {"name": "office", "cidrs": ["198.51.100.0/24"]}


def spec(**fields: object) -> NetworkMonitorSpec:
    return NetworkMonitorSpec.model_validate(fields)


def pod(name: str, *addresses: str, phase: str = "Running", node: str = "n1") -> Pod:
    return Pod(name, "shop", name, node, phase, False, tuple(map(packed, addresses)), "Deployment", "web", (), False)


class Followed:
    """Stands for Referred."""

    def __init__(self) -> None:
        self.services = CountedObjects[Service]()
        self.slices = CountedObjects[Slice]()
        self.followed: set[Referable] = set()
        self.listed = True
        self.since: int | None = None

    def follow(self, kinds: Collection[Referable]) -> None:
        self.followed |= set(kinds)

    def synced(self, kinds: Collection[Referable]) -> bool:
        return self.listed and self.followed >= set(kinds)

    def stale_since_mono_ns(self, _kinds: Collection[Referable]) -> int | None:
        return self.since


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.pods = PodStore("n1", self.clock)
        self.nodes = CountedObjects[Node]()
        self.watch = SimpleNamespace(
            pods=self.pods,
            nodes=self.nodes,
            pods_synced=True,
            nodes_synced=True,
            pods_stale_since_mono_ns=None,
            nodes_stale_since_mono_ns=None,
        )
        self.referred = Followed()
        self.behind = SimpleNamespace(known={})
        self.who = Who(cast(Any, self.watch), cast(Any, self.referred), cast(Any, self.behind), "n1", self.clock)
        self.spec = spec(externalNetworks=[OFFICE])

    def know(self, known: dict[int, Pod | None]) -> None:
        self.behind.known = {IfIndex(index): each for index, each in known.items()}
        self.who.look()

    def world(self, after_s: float = FRESH_S) -> World:
        self.clock.now_s += after_s
        return self.who.world(self.spec)

    def node(self, name: str, *addresses: str, zone: str = "z1", cidr: str = "10.0.0.0/24") -> None:
        self.nodes.put(name, Node(name, name, zone, tuple(map(packed, addresses)), (cidr,)))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def at(world: World, address: str, port: int, when_s: float) -> Entity:
    when = np.array([int(when_s * 1e9)], np.uint64)
    addresses = np.frombuffer(packed(address), np.uint8).reshape(1, 16)
    [found] = world.far(addresses, np.array([port], np.uint16), np.array([6], np.uint8), when, when)
    return world.entities[int(found)]


def behind(world: World, index: int, when_s: float) -> tuple[str, NearBy]:
    when = np.array([int(when_s * 1e9)], np.uint64)
    [found], [by] = world.near(np.array([index], np.uint32), np.zeros((1, 16), np.uint8), when, when)
    return world.entities[int(found)].name, NearBy(by)


def test_services_and_slices_are_followed_without_any_rule(scene: Scene) -> None:
    assert scene.referred.followed == {Referable.SERVICES, Referable.SLICES}


def test_a_world_has_pods_with_their_zone_services_nodes_and_names(scene: Scene) -> None:
    scene.node("n1", "192.0.2.1")
    scene.pods.put("a", pod("a", "10.0.0.1", "fd00::1"))
    scene.referred.services.put("s", Service("shop", "web", (packed("10.96.0.1"),), (), (Port("http", 6, 80),)))
    scene.referred.slices.put("s", Slice("shop", "web", (packed("10.0.0.1"),), (Port("http", 6, 8080),)))
    world = scene.world()
    now_s = scene.clock.now_s
    a = at(world, "10.0.0.1", 8080, now_s)
    assert a == at(world, "fd00::1", 1, now_s)
    assert (a.name, a.workload_kind, a.workload, a.node, a.zone) == ("a", "Deployment", "web", "n1", "z1")
    assert at(world, "10.96.0.1", 80, now_s).kind is EndKind.SERVICE
    assert at(world, "192.0.2.1", 1, now_s).kind is EndKind.NODE
    assert at(world, "198.51.100.1", 1, now_s).name == "office"
    assert at(world, "8.8.8.8", 1, now_s).kind is EndKind.EXTERNAL
    assert at(world, "10.0.0.9", 1, now_s).kind is EndKind.UNKNOWN
    service, port = world.service_behind(
        np.frombuffer(packed("10.0.0.1"), np.uint8).reshape(1, 16), np.array([8080], np.uint16), np.array([6], np.uint8)
    )
    assert (world.services[int(service[0])].name, int(port[0])) == ("web", 80)


def test_it_is_made_anew_after_a_change_and_not_before(scene: Scene) -> None:
    scene.pods.put("a", pod("a", "10.0.0.1"))
    world = scene.world()
    assert scene.world() is world
    scene.pods.put("a", pod("a", "10.0.0.1"))
    assert scene.world() is world
    scene.pods.put("b", pod("b", "10.0.0.2"))
    later = scene.world()
    assert later is not world
    assert later.entities[2] is world.entities[2]  # of a pod that has not changed
    changes: tuple[Callable[[], None], ...] = (
        lambda: scene.node("n1"),
        lambda: scene.referred.services.put("s", Service("a", "b", ())),
        lambda: scene.know({3: None}),
        lambda: setattr(scene.referred, "since", 5),
    )
    for change in changes:
        before = scene.world()
        change()
        assert scene.world() is not before


def test_monitors_that_report_at_one_instant_share_what_was_gathered(scene: Scene) -> None:
    scene.world()
    scene.pods.put("a", pod("a", "10.0.0.1"))
    scene.world()
    gathered = scene.who.gathered_total
    scene.pods.put("b", pod("b", "10.0.0.2"))
    scene.who.world(spec(workloadCacheTTL="5m"))
    scene.world(after_s=FRESH_S / 2)
    assert scene.who.gathered_total == gathered
    scene.world(after_s=FRESH_S / 2)
    assert scene.who.gathered_total == gathered + 1


def test_each_monitor_has_its_own_time_to_live_and_names(scene: Scene) -> None:
    short, long = spec(workloadCacheTTL="10s"), spec(workloadCacheTTL="5m", externalNetworks=[OFFICE])
    scene.who.serve([short, long])
    scene.pods.put("a", pod("a", "10.0.0.1"))
    scene.pods.put("a", pod("a", "10.0.0.1", phase="Succeeded"))
    ended_s = scene.clock.now_s
    scene.clock.now_s += 400
    names = [at(scene.who.world(each), "10.0.0.1", 1, ended_s + 60).name for each in (short, long)]
    assert names == ["", "a"]
    assert [at(scene.who.world(each), "198.51.100.1", 1, ended_s).name for each in (short, long)] == ["", "office"]
    scene.who.serve([short])
    assert at(scene.world(), "10.0.0.1", 1, ended_s).name == ""  # forgotten: nobody wants it any more


def test_an_interface_keeps_its_pod_after_both_are_gone(scene: Scene) -> None:
    scene.know({3: pod("a", "10.0.0.1"), 4: None})
    assert behind(scene.world(), 3, 1.0) == ("a", NearBy.INTERFACE)
    scene.know({})
    gone_s = scene.clock.now_s
    world = scene.world()
    assert behind(world, 3, gone_s - 0.1) == ("a", NearBy.INTERFACE)
    assert behind(world, 3, gone_s + 61) == ("", NearBy.NOTHING)


def test_a_later_interface_with_the_same_index_is_another_pods(scene: Scene) -> None:
    scene.know({3: pod("a", "10.0.0.1")})
    scene.clock.now_s = 1010
    scene.know({})
    scene.clock.now_s = 1020
    scene.know({3: pod("b", "10.0.0.2")})
    world = scene.world()
    assert [behind(world, 3, when_s)[0] for when_s in (1005, 1015)] == ["a", "b"]


def test_between_two_looks_at_an_index_that_changed_pods_it_is_nobodys(scene: Scene) -> None:
    scene.know({3: pod("a", "10.0.0.1")})
    scene.clock.now_s = 1010
    scene.who.look()
    scene.clock.now_s = 1020
    scene.know({3: pod("b", "10.0.0.2")})
    world = scene.world()
    assert [behind(world, 3, when_s)[0] for when_s in (1005, 1015, 1021)] == ["a", "", "b"]


def test_a_node_that_is_gone_keeps_its_addresses_for_a_while(scene: Scene) -> None:
    scene.node("n1", "192.0.2.1")
    scene.node("n2", "192.0.2.2", cidr="10.0.2.0/24")
    scene.world()
    scene.nodes.discard("n2")
    world = scene.world()
    assert at(world, "192.0.2.2", 1, scene.clock.now_s).name == "n2"
    assert at(world, "10.0.2.7", 1, scene.clock.now_s).kind is EndKind.UNKNOWN
    world = scene.world(after_s=121)
    assert at(world, "192.0.2.2", 1, scene.clock.now_s).kind is EndKind.EXTERNAL


def test_until_all_is_listed_nothing_is_outside_and_the_world_is_stale(scene: Scene) -> None:
    began_ns = scene.clock.mono_ns()
    scene.referred.listed = False
    world = scene.world()
    assert at(world, "8.8.8.8", 1, scene.clock.now_s).kind is EndKind.UNKNOWN
    assert world.stale_since_mono_ns == began_ns
    assert scene.who.stale_since_mono_ns is None
    scene.referred.listed = True
    world = scene.world()
    assert at(world, "8.8.8.8", 1, scene.clock.now_s).kind is EndKind.EXTERNAL
    assert world.stale_since_mono_ns is None


def test_while_the_api_server_is_away_the_last_world_stays_and_is_stale(scene: Scene) -> None:
    scene.pods.put("a", pod("a", "10.0.0.1"))
    scene.world()
    scene.watch.pods_stale_since_mono_ns, scene.referred.since = 7, 5
    world = scene.world()
    assert (world.stale_since_mono_ns, scene.who.stale_since_mono_ns) == (5, 5)
    assert at(world, "10.0.0.1", 1, scene.clock.now_s).name == "a"


def test_without_a_cluster_names_are_known_and_nothing_else() -> None:
    worlds = Worlds()
    asked = spec(externalNetworks=[OFFICE])
    world = worlds.world(asked)
    assert worlds.world(asked) is world
    assert [at(world, each, 1, 5.0).kind for each in ("198.51.100.1", "8.8.8.8", "10.0.0.1")] == [
        EndKind.EXTERNAL,
        EndKind.UNKNOWN,
        EndKind.UNKNOWN,
    ]
