"""What monitors' rules refer to in a cluster: pods, services, namespaces and ConfigMaps, as a view for each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from podwire_agent.behind import PodsBehind
from podwire_agent.core.networks import Networks
from podwire_agent.core.rules import Pod, Rules, Service, View
from podwire_agent.kube import objects, places
from podwire_agent.kube.pods import reachable_at
from podwire_agent.kube.referred import Referable, Referred
from podwire_agent.kube.view import ClusterWatch
from podwire_agent.model import IfIndex, RuleListName
from podwire_agent.references import ADDRESS_LIMIT, NetworkList, read_list
from podwire_agent.rulekeeper import NoMeaning, RuleKeeper
from podwire_agent.ruling import config_maps_of, rules_of
from podwire_api import NetworkMonitorSpec

log = logging.getLogger(__name__)

LISTED_S = 3.0
"""How long a monitor's start waits for what its rules refer to; after that everything is measured until it is known."""


def read_config_map(found: objects.WireConfigMap, held: NetworkList | None) -> NetworkList:
    """What is kept of a ConfigMap."""
    meta = found.metadata
    return read_list(meta.name, meta.resource_version, found.data or {}, held)


def needed(rules: Rules) -> frozenset[Referable]:
    """What has to be followed for these rules, beside the pods."""
    ends = [end for rule in rules.all for end in (rule.end, rule.peer)]
    wanted = {
        Referable.NAMESPACES: any(end.namespace_query is not None for end in ends),
        Referable.SERVICES: rules.ask_whose,  # a service's address stands for the pods behind it
        Referable.SLICES: rules.ask_whose,
        Referable.CONFIG_MAPS: any(end.cidrs_from is not None for end in ends),
    }
    return frozenset(kind for kind, is_wanted in wanted.items() if is_wanted)


class ClusterRules:
    """For all monitors of an agent. To be called from any thread."""

    def __init__(
        self,
        watch: ClusterWatch,
        referred: Referred[NetworkList],
        behind: PodsBehind,
        renew: Callable[[], None],
        told: Callable[[], None],
    ) -> None:
        """`renew` has the keepers look soon; `told` is called after what there is to say of the rules has changed."""
        self.told = told
        self._watch = watch
        self._referred = referred
        self._behind = behind
        self._renew = renew
        self._lock = threading.Lock()
        self._in_use = False
        self._stamp: object = None
        self._pods: tuple[object, dict[str, tuple[objects.Pod, Pod]]] = (None, {})  # by uid, with what each was made of
        self._services: tuple[object, dict[tuple[str, str], tuple[object, Service]]] = (None, {})  # the same, by name
        self._namespaces: tuple[object, Mapping[str, Mapping[str, str]]] = (None, {})

    def keeper(self, spec: NetworkMonitorSpec) -> RuleKeeper:
        """Of a monitor."""
        if not spec.whitelist and not spec.blacklist:
            return RuleKeeper(None, NoMeaning())
        rules = rules_of(spec)
        kinds = needed(rules)
        if kinds:
            self._in_use = True
            self._referred.follow(kinds)
        return RuleKeeper(rules, _Meaning(self, rules, kinds, config_maps_of(spec)))

    def look(self) -> None:
        """Something may have changed: if so, and rules ask for it, have them renewed."""
        if not self._in_use:
            return
        referred = self._referred
        others = referred.namespaces.version, referred.config_maps.version, referred.lists_total
        stamp = self._pods_stamp(), self._services_stamp(), others
        with self._lock:
            before, self._stamp = self._stamp, stamp
        if before != stamp:
            self._renew()

    def wait(self, done: Callable[[], bool]) -> None:
        """At the start of a monitor."""
        self._referred.wait(done, LISTED_S)

    def stamp(self, rules: Rules, kinds: frozenset[Referable], names: Iterable[str]) -> object:
        """Another one after a change of what these rules ask for."""
        whose = (self._pods_stamp(), self._services_stamp()) if rules.ask_whose else ()
        namespaces = self._referred.namespaces.version if Referable.NAMESPACES in kinds else 0
        lists = self.lists(names)
        return self.synced(rules, kinds), whose, namespaces, lists

    def synced(self, rules: Rules, kinds: frozenset[Referable]) -> bool:
        """All that these rules ask for was listed once."""
        return self._referred.synced(kinds) and (self._watch.pods_synced or not rules.ask_whose)

    def lists(self, names: Iterable[str]) -> dict[str, NetworkList]:
        """Of the ConfigMaps with these names, those that are there."""
        wanted = set(names)
        return {each.name: each for each in self._referred.config_maps.all() if each.name in wanted} if wanted else {}

    def view(self, rules: Rules, kinds: frozenset[Referable], networks: Mapping[str, Networks]) -> View:
        """As of now."""
        if not rules.ask_whose:
            return View(networks=networks)
        pods = self._known_pods()
        return View(
            pods=[pod for _, pod in pods.values()],
            namespaces=self._labels_of_namespaces() if Referable.NAMESPACES in kinds else {},
            services=self._known_services(),
            interfaces=dict(self._whose(pods)),
            networks=networks,
        )

    def _whose(self, pods: Mapping[str, tuple[objects.Pod, Pod]]) -> Iterator[tuple[IfIndex, Pod | None]]:
        for index, known in self._behind.known.items():
            if known is None:
                yield index, None
            else:
                now = self._watch.pods.get(known.uid) or known
                yield index, pods[known.uid][1] if known.uid in pods else _pod(now)

    def _known_pods(self) -> Mapping[str, tuple[objects.Pod, Pod]]:
        """What has not changed is the same object as the last time: whoever compares views need not look into it."""
        stamp = self._watch.pods.version
        with self._lock:
            if self._pods[0] != stamp:
                held = self._pods[1]
                pods: dict[str, tuple[objects.Pod, Pod]] = {}
                for each in self._watch.pods.all():
                    known = held.get(each.uid)
                    if known is not None and known[0] is each:
                        pods[each.uid] = known
                    elif reachable_at(each):
                        pods[each.uid] = each, _pod(each)
                self._pods = stamp, pods
            return self._pods[1]

    def _known_services(self) -> list[Service]:
        """The same of services."""
        stamp = self._services_stamp()
        with self._lock:
            if self._services[0] != stamp:
                held = self._services[1]
                slices: dict[tuple[str, str], list[places.Slice]] = {}
                for each in self._referred.slices.all():
                    slices.setdefault((each.namespace, each.service), []).append(each)
                services: dict[tuple[str, str], tuple[object, Service]] = {}
                for service in self._referred.services.all():
                    name = service.namespace, service.name
                    made_of = service, slices.get(name, [])
                    known = held.get(name)
                    services[name] = known if known and known[0] == made_of else (made_of, _service(*made_of))
                self._services = stamp, services
            return [service for _, service in self._services[1].values()]

    def _labels_of_namespaces(self) -> Mapping[str, Mapping[str, str]]:
        stamp = self._referred.namespaces.version
        with self._lock:
            if self._namespaces[0] != stamp:
                self._namespaces = stamp, {each.name: each.label_map() for each in self._referred.namespaces.all()}
            return self._namespaces[1]

    def _pods_stamp(self) -> object:
        return self._watch.pods_synced, self._watch.pods.version, self._behind.known

    def _services_stamp(self) -> object:
        return self._referred.services.version, self._referred.slices.version


class _Meaning:
    """What the rules of one monitor refer to: see rulekeeper.Meaning."""

    def __init__(self, world: ClusterRules, rules: Rules, kinds: frozenset[Referable], names: frozenset[str]) -> None:
        self.notes: tuple[str, ...] = ()
        self._world = world
        self._rules = rules
        self._kinds = kinds
        self._names = sorted(names)
        self._networks: dict[str, Networks] = {}
        self._stamp: object = None
        self._problems: list[str] = []  # with what ConfigMaps list

    def __call__(self) -> View | None:
        world, rules, kinds = self._world, self._rules, self._kinds
        if self._stamp is None:
            world.wait(lambda: world.synced(rules, kinds))
        stamp = world.stamp(rules, kinds, self._names)  # before the view: what changes meanwhile is seen again
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        if not world.synced(rules, kinds):
            self._problems = ["everything is measured until the API server has told what the rules refer to"]
            return View(complete=False)
        self._problems = self._take(world.lists(self._names))
        return world.view(rules, kinds, dict(self._networks))

    def selects_nobody(self, rules: Sequence[tuple[RuleListName, str]]) -> None:
        """See rulekeeper.Meaning."""
        self._note([*self._problems, *(f"the {list_} rule {name} selects no pod or service" for list_, name in rules)])

    def _take(self, lists: Mapping[str, NetworkList]) -> list[str]:
        """Of each ConfigMap its last good state, as long as all together are not too many; what is wrong, in words."""
        problems = []
        for name in self._names:
            found = lists.get(name)
            problem = f"ConfigMap {name} is not there" if found is None else found.problem
            if found is not None and found.networks is not None:
                others = sum(len(networks) for other, networks in self._networks.items() if other != name)
                if others + len(found.networks) <= ADDRESS_LIMIT:
                    self._networks[name] = found.networks
                else:
                    many = f"{len(found.networks)} networks, with the others more than {ADDRESS_LIMIT}"
                    problem = problem or f"ConfigMap {name} has {many}"
            if problem:
                stays = "what it listed before stays in force" if name in self._networks else "nothing is taken from it"
                problems.append(f"{problem}: {stays}")
        return problems

    def _note(self, notes: list[str]) -> None:
        for each in notes:
            if each not in self.notes:
                log.warning("%s", each)
        if tuple(notes) != self.notes:
            self.notes = tuple(notes)
            self._world.told()


def _pod(pod: objects.Pod) -> Pod:
    return Pod(pod.namespace, pod.label_map(), pod.addresses)


def _service(service: places.Service, slices: Iterable[places.Slice]) -> Service:
    backends = frozenset(address for each in slices for address in each.addresses)
    return Service(service.namespace, service.name, service.addresses, backends)
