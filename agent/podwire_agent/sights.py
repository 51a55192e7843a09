"""What a monitor's flows are looked at with in a cluster: who is who, what was translated, who else counts them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address

from podwire_agent.behind import PodsBehind
from podwire_agent.comparison import Channel
from podwire_agent.core.coverage import Coverage, Word
from podwire_agent.core.questions import Vantage
from podwire_agent.core.translations import Translations
from podwire_agent.core.world import World
from podwire_agent.correlation import Sight
from podwire_agent.kernel.watch import Watched
from podwire_agent.kube.objects import Pod
from podwire_agent.kube.view import ClusterWatch
from podwire_agent.model import IfIndex
from podwire_agent.rulekeeper import RuleKeeper
from podwire_agent.who import Who
from podwire_api import NetworkMonitor, NetworkMonitorSpec
from podwire_api.selection import selects

COMPLETE_S = 3.0
"""How long the first drain waits for the cluster to be listed: what a former agent left is told with names then."""


class Sights:
    """Of all monitors of an agent. To be called from any thread."""

    def __init__(
        self,
        watch: ClusterWatch,
        who: Who,
        behind: PodsBehind,
        translations: Callable[[], Translations],
        node: str,
        stopping: threading.Event,
        channel: Callable[[NetworkMonitor], Channel] | None,
    ) -> None:
        """`node`: this agent's. `stopping`: nothing is waited for any more. `channel`: of a monitor to the
        agents of other nodes.
        """
        self.behind = behind
        self.translations = translations
        self.node = node
        self._watch = watch
        self._who = who
        self._channel = channel
        self._stopping = stopping
        self._waited = False
        self._meant: tuple[object, dict[tuple[tuple[str, str], ...], frozenset[str]]] = (None, {})

    def of(self, resource: NetworkMonitor, watched: Callable[[], list[Watched]], rules: RuleKeeper) -> Seer:
        """Of one monitor. `watched`: its interfaces."""
        return Seer(self, resource, watched, rules, None if self._channel is None else self._channel(resource))

    def world(self, spec: NetworkMonitorSpec) -> World:
        """Who is who, once the cluster was listed, or that took too long."""
        self._wait()
        return self._who.world(spec)

    def nodes(self, spec: NetworkMonitorSpec) -> frozenset[str]:
        """Those that the monitor means, where a pool means them too."""
        view = self._watch.view()
        pools = () if view is None else tuple(view.pools.values())
        stamp = self._watch.nodes.version, pools
        wanted = spec.nodes.node_selector or {}
        key = tuple(sorted(wanted.items()))
        if self._meant[0] != stamp:
            self._meant = stamp, {}
        meant = self._meant[1]
        if key not in meant:
            labels = {each.name: each.label_map() for each in self._watch.nodes.all()}
            meant[key] = frozenset(
                name
                for name, each in labels.items()
                if selects(wanted, each) and any(selects(pool, each) for pool in pools)
            )
        return meant[key]

    def agent_of(self, node: str) -> tuple[str, int] | None:
        """Where the agent of a node listens to others; None: not known."""
        view, found = self._watch.view(), next((each for each in self._watch.nodes.all() if each.name == node), None)
        if view is None or found is None or not found.addresses:
            return None
        labels = found.label_map()
        port = next((view.exchange_ports[name] for name, pool in view.pools.items() if selects(pool, labels)), 0)
        address = ip_address(found.addresses[0])
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return (str(mapped or address), port) if port else None

    def _wait(self) -> None:
        if self._waited:
            return
        self._waited = True
        for _ in range(int(COMPLETE_S / 0.05)):
            if self._who.complete or self._stopping.wait(0.05):
                return


class Seer:
    """How one monitor sees. One thread at a time, but for `receivers`."""

    def __init__(
        self,
        sights: Sights,
        resource: NetworkMonitor,
        watched: Callable[[], list[Watched]],
        rules: RuleKeeper,
        channel: Channel | None,
    ) -> None:
        self.channel = channel
        self._sights = sights
        self._spec = resource.spec
        self._watched = watched
        self._rules = rules
        self._covers: tuple[object, Coverage] | None = None

    def look(self, word: Word) -> Sight:
        """As things are now. `word`: what other agents have said that they count."""
        sights, spec = self._sights, self._spec
        world, judge, nodes = sights.world(spec), self._rules.judge, sights.nodes(spec)
        hosts = frozenset(int(each.interface.index) for each in self._watched() if each.host)
        here = frozenset(pod.uid for _, pod in self._pods())
        stamp = (world, nodes, here, judge, word)
        if self._covers is None or self._covers[0] != stamp:
            of_hosts = bool(spec.interfaces.host_interfaces)
            self._covers = stamp, Coverage(world, nodes, here, judge, word, hosts=of_hosts)
        return Sight(world, sights.translations(), self._covers[1], Vantage(sights.node, hosts, world))

    def receivers(self) -> dict[bytes, IfIndex]:
        """The addresses of the pods behind interfaces that are watched."""
        return {address: index for index, pod in self._pods() for address in pod.addresses}

    def _pods(self) -> Iterator[tuple[IfIndex, Pod]]:
        known = self._sights.behind.known
        for each in self._watched():
            pod = None if each.host or each.failure else known.get(each.interface.index)
            if pod is not None:
                yield each.interface.index, pod
