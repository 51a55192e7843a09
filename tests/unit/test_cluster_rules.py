"""What the rules of a monitor refer to: seen once all is listed, again after a change, and not in between."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest

from podwire_agent.clock import SystemClock
from podwire_agent.cluster_rules import ClusterRules, needed, read_config_map
from podwire_agent.core.networks import packed
from podwire_agent.core.rules import View, selecting_nobody
from podwire_agent.kube.objects import Meta, Metadata, Pod, WireConfigMap
from podwire_agent.kube.places import (
    Endpoint,
    Namespace,
    Service,
    Slice,
    WireService,
    WireSlice,
    keep_namespace,
    keep_service,
    keep_slice,
)
from podwire_agent.kube.pods import PodStore
from podwire_agent.kube.referred import Referable
from podwire_agent.kube.reflector import CountedObjects
from podwire_agent.model import IfIndex
from podwire_agent.references import NetworkList
from podwire_agent.rulekeeper import Meaning
from podwire_agent.ruling import rules_of
from podwire_api import NetworkMonitorSpec

BY_NAMESPACE = {"blacklist": [{"name": "system", "namespaces": ["kube-system"]}]}
BY_LABEL = {"whitelist": [{"name": "web", "podSelector": {"matchLabels": {"app": "web"}}}]}
BY_TEAM = {"whitelist": [{"name": "shop", "namespaceSelector": {"matchLabels": {"team": "shop"}}}]}
BY_LIST = {"blacklist": [{"name": "office", "cidrsFrom": [{"configMapRef": {"name": "office"}}]}]}


def spec(**fields: object) -> NetworkMonitorSpec:
    return NetworkMonitorSpec.model_validate(fields)


def pod(name: str, address: str, namespace: str = "shop", *, host: bool = False, phase: str = "Running") -> Pod:
    labels = ("app", name)
    return Pod(name, namespace, name, "n1", phase, host, (packed(address),), "", "", labels, False)


class Followed:
    """Stands for Referred: what is listed when the test says so."""

    def __init__(self) -> None:
        self.namespaces = CountedObjects[Namespace]()
        self.services = CountedObjects[Service]()
        self.slices = CountedObjects[Slice]()
        self.config_maps = CountedObjects[NetworkList]()
        self.followed: set[Referable] = set()
        self.listed = True
        self.lists_total = 0

    def follow(self, kinds: Collection[Referable]) -> None:
        self.followed |= set(kinds)

    def synced(self, kinds: Collection[Referable]) -> bool:
        return self.listed or not kinds

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:  # noqa: ARG002 (as there)
        return done()


class World:
    def __init__(self) -> None:
        self.pods = PodStore("n1", SystemClock())
        self.watch = SimpleNamespace(pods=self.pods, pods_synced=True)
        self.referred = Followed()
        self.behind = SimpleNamespace(known={})
        self.renewed = self.told = 0
        self.rules = ClusterRules(
            cast(Any, self.watch), cast(Any, self.referred), cast(Any, self.behind), self._renew, self._tell
        )

    def _renew(self) -> None:
        self.renewed += 1

    def _tell(self) -> None:
        self.told += 1

    def meaning(self, **fields: object) -> Meaning:
        return self.rules.keeper(spec(**fields))._view

    def config_map(self, version: int, name: str = "office", **data: str) -> None:
        found = WireConfigMap(Metadata(name=name, resource_version=str(version)), data)
        held = self.referred.config_maps.get(name)
        self.referred.config_maps.put(name, read_config_map(found, held))


@pytest.fixture
def world() -> World:
    return World()


def notes(meaning: Meaning) -> tuple[str, ...]:
    return meaning.notes


def seen(meaning: Meaning) -> View:
    """As a keeper does."""
    view = meaning()
    assert view is not None
    rules = cast(Any, meaning)._rules
    meaning.selects_nobody(selecting_nobody(rules, view) if view.complete else ())
    return view


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({}, set()),
        ({"blacklist": [{"name": "a", "cidrs": ["10.0.0.0/8"]}]}, set()),
        (BY_LIST, {Referable.CONFIG_MAPS}),
        (BY_LABEL, {Referable.SERVICES, Referable.SLICES}),
        (BY_TEAM, {Referable.SERVICES, Referable.SLICES, Referable.NAMESPACES}),
    ],
)
def test_only_what_rules_ask_for_is_followed(world: World, fields: dict[str, Any], kinds: set[Referable]) -> None:
    assert needed(rules_of(spec(**fields))) == kinds
    world.meaning(**fields)
    assert world.referred.followed == kinds


def test_the_view_has_pods_with_addresses_of_their_own_and_whose_interfaces_are(world: World) -> None:
    web = pod("web", "10.0.0.1")
    for each in (web, pod("host", "192.0.2.1", host=True), pod("done", "10.0.0.9", phase="Succeeded")):
        world.pods.put(each.uid, each)
    world.behind.known = {IfIndex(3): web, IfIndex(4): None}
    view = seen(world.meaning(**BY_LABEL))
    assert [each.addresses for each in view.pods] == [(packed("10.0.0.1"),)]
    assert view.complete
    near = view.interfaces[IfIndex(3)]
    assert near is not None
    assert (near.namespace, near.labels) == ("shop", {"app": "web"})
    assert view.interfaces[IfIndex(4)] is None
    assert IfIndex(5) not in view.interfaces


def test_a_pod_that_is_gone_keeps_its_interface_as_it_was_last(world: World) -> None:
    web = pod("web", "10.0.0.1")
    world.behind.known = {IfIndex(3): web}
    view = seen(world.meaning(**BY_LABEL))
    assert view.interfaces[IfIndex(3)] is not None


def test_services_have_their_addresses_and_those_behind_them(world: World) -> None:
    meta = Metadata(name="dns", namespace="kube-system")
    service = WireService(meta)  # headless
    slices = [
        WireSlice(Metadata(namespace="kube-system", labels={"kubernetes.io/service-name": "dns"}), kind, ends)
        for kind, ends in (("IPv4", _ends("10.0.0.2", "10.0.0.3")), ("IPv6", _ends("fd00::2")), ("FQDN", _ends("a.b")))
    ]
    world.referred.services.put("dns", keep_service(service))
    for number, each in enumerate(slices):
        world.referred.slices.put(str(number), keep_slice(each))
    [found] = seen(world.meaning(**BY_NAMESPACE)).services
    assert (found.full_name, found.addresses) == ("kube-system/dns", ())
    assert found.backends == {packed("10.0.0.2"), packed("10.0.0.3"), packed("fd00::2")}


def _ends(*addresses: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint((each,)) for each in addresses)


def test_nothing_is_seen_again_before_something_has_changed(world: World) -> None:
    world.pods.put("web", pod("web", "10.0.0.1"))
    meaning = world.meaning(**BY_TEAM)
    seen(meaning)
    assert meaning() is None
    world.pods.put("web", pod("web", "10.0.0.1"))
    assert meaning() is None
    world.referred.namespaces.put("shop", keep_namespace(Meta(Metadata(name="shop", labels={"team": "shop"}))))
    assert seen(meaning).namespaces == {"shop": {"team": "shop"}}
    world.pods.put("db", pod("db", "10.0.0.2"))
    assert len(seen(meaning).pods) == 2
    world.behind.known = {IfIndex(3): None}
    assert seen(meaning).interfaces == {IfIndex(3): None}


def test_the_keepers_look_after_a_change_and_only_where_rules_ask(world: World) -> None:
    world.meaning()
    world.pods.put("web", pod("web", "10.0.0.1"))
    world.rules.look()
    assert world.renewed == 0
    world.meaning(**BY_LABEL)
    world.rules.look()
    before = world.renewed
    world.rules.look()
    assert world.renewed == before
    world.pods.discard("web")
    world.rules.look()
    assert world.renewed == before + 1


def test_until_all_is_listed_there_are_no_rules_and_that_is_told(world: World) -> None:
    world.referred.listed = False
    meaning = world.meaning(**BY_NAMESPACE)
    assert not seen(meaning).complete
    assert notes(meaning) == ("everything is measured until the API server has told what the rules refer to",)
    assert meaning() is None
    world.referred.listed = True
    assert seen(meaning).complete


def test_a_rule_that_selects_nothing_is_told_until_it_does(world: World) -> None:
    meaning = world.meaning(**BY_LABEL)
    seen(meaning)
    assert notes(meaning) == ("the whitelist rule web selects no pod or service",)
    assert world.told == 1
    world.pods.put("web", pod("web", "10.0.0.1"))
    seen(meaning)
    assert notes(meaning) == ()
    assert world.told == 2


def test_a_bad_line_is_told_by_its_number_and_the_last_good_state_stays(world: World) -> None:
    world.config_map(1, a="10.0.0.0/8 # all", b="192.0.2.1\n")
    meaning = world.meaning(**BY_LIST)
    good = seen(meaning).networks["office"]
    assert (len(good), notes(meaning)) == (2, ())
    world.config_map(2, a="10.0.0.0/8\n\n10.0.0.300", b="192.0.2.1\n")
    assert seen(meaning).networks["office"] is good
    [note] = notes(meaning)
    assert note.startswith("ConfigMap office, key a, line 3: ")
    assert note.endswith("what it listed before stays in force")
    world.config_map(3, a="10.0.0.0/8")
    assert len(seen(meaning).networks["office"]) == 1
    assert notes(meaning) == ()
    world.referred.config_maps.discard("office")
    assert len(seen(meaning).networks["office"]) == 1
    assert notes(meaning) == ("ConfigMap office is not there: what it listed before stays in force",)


def test_of_a_config_map_that_was_never_good_nothing_is_taken(world: World) -> None:
    world.config_map(1, a="office")
    meaning = world.meaning(**BY_LIST)
    assert seen(meaning).networks == {}
    assert meaning.notes[0].endswith("nothing is taken from it")


def test_more_networks_than_can_be_used_are_refused_by_the_config_map(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podwire_agent.cluster_rules.ADDRESS_LIMIT", 2)
    world.config_map(1, a="10.0.0.1\n10.0.0.2")
    meaning = world.meaning(**BY_LIST)
    assert len(seen(meaning).networks["office"]) == 2
    world.config_map(2, a="10.0.0.1\n10.0.0.2\n10.0.0.3")
    assert len(seen(meaning).networks["office"]) == 2
    assert "ConfigMap office has 3 networks" in notes(meaning)[0]


def test_an_object_that_is_written_again_is_no_change(world: World) -> None:
    world.config_map(1, a="10.0.0.1")
    version = world.referred.config_maps.version
    world.config_map(1, a="10.0.0.1")
    assert world.referred.config_maps.version == version
