"""Who is who: what the agent knows of its cluster and its interfaces, made into a World for each monitor."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from podwire_agent.behind import PodsBehind
from podwire_agent.census import (
    ADDRESS_BYTES,
    INTERFACE_BYTES,
    PORT_BYTES,
    PodCensus,
    core_nodes,
    holdings,
    pod_networks,
    service_table,
)
from podwire_agent.core.cluster import Cluster
from podwire_agent.core.networks import Networks
from podwire_agent.core.services import ServiceTable
from podwire_agent.core.world import ExternalNetworks, World
from podwire_agent.kube.objects import Pod
from podwire_agent.kube.places import Node
from podwire_agent.kube.referred import Referable, Referred
from podwire_agent.kube.tenures import Tenures
from podwire_agent.kube.view import ClusterWatch
from podwire_agent.model import IfIndex
from podwire_agent.ports import Clock
from podwire_api import NetworkMonitorSpec

FRESH_NS = 500_000_000
"""What is known is not gathered anew sooner than this: monitors that report at one instant share it."""
KEPT_NS = 120_000_000_000
"""How long what pods had is remembered before it is known what monitors want."""
FOLLOWED = (Referable.SERVICES, Referable.SLICES)
"""In a cluster always, beside pods and nodes."""

_Said: TypeAlias = tuple[int, tuple[object, ...]]
"""What of a monitor's spec a World depends on."""


class Worlds:
    """Without a cluster: nothing is known but the names of outside networks."""

    def __init__(self) -> None:
        self._named: dict[_Said, ExternalNetworks] = {}
        self._worlds: dict[_Said, tuple[Cluster, World]] = {}
        self._cluster = Cluster()

    def world(self, spec: NetworkMonitorSpec) -> World:
        """As of now; the same object as long as nothing has changed."""
        return self._world(spec, self._cluster)

    def _world(self, spec: NetworkMonitorSpec, cluster: Cluster) -> World:
        said = _said(spec)
        known = self._worlds.get(said)
        if known is not None and known[0] is cluster:
            return known[1]
        if said not in self._named:
            self._named[said] = ExternalNetworks(
                (each.name, Networks.of(each.cidrs)) for each in spec.external_networks
            )
        world = World(cluster, spec.workload_cache_ttl_ns, self._named[said])
        self._worlds[said] = cluster, world
        return world

    def _keep(self, specs: Iterable[NetworkMonitorSpec]) -> None:
        """Forget what was made for any other."""
        wanted = {_said(each) for each in specs}
        for said in self._named.keys() - wanted:
            del self._named[said]
            self._worlds.pop(said, None)


class Who(Worlds):
    """In a cluster. To be called from any thread."""

    def __init__(
        self, watch: ClusterWatch, referred: Referred[Any], behind: PodsBehind, node: str, clock: Clock
    ) -> None:
        """`node`: this agent's."""
        super().__init__()
        self.gathered_total = 0
        """Times that what is known was made into tables."""
        self._watch = watch
        self._referred = referred
        self._behind = behind
        self._node = node
        self._clock = clock
        self._began_mono_ns = self._looked_mono_ns = clock.mono_ns()
        self._lock = threading.Lock()
        self._kept_ns = KEPT_NS
        self._stamp: object = None
        self._gathered_mono_ns = 0
        self._census = PodCensus()
        self._services: tuple[object, ServiceTable] = None, ServiceTable(())
        self._former_nodes: dict[str, tuple[Node, int]] = {}
        """Those that are gone, and since when."""
        self._nodes: dict[str, Node] = {}
        self._nodes_seen = 0
        """The version of the nodes that was looked at."""
        self._known: Mapping[IfIndex, Pod | None] = {}
        self._met = 0
        """Changes of it."""
        self._interfaces = Tenures()
        referred.follow(FOLLOWED)

    @property
    def complete(self) -> bool:
        """All that is followed was listed once."""
        watch = self._watch
        return watch.pods_synced and watch.nodes_synced and self._referred.synced(FOLLOWED)

    @property
    def stale_since_mono_ns(self) -> int | None:
        """Since when changes of what was listed may have been missed; None while all of it is followed."""
        watch, referred = self._watch, self._referred.stale_since_mono_ns(FOLLOWED)
        since = (watch.pods_stale_since_mono_ns, watch.nodes_stale_since_mono_ns, referred)
        return min((each for each in since if each is not None), default=None)

    @property
    def forgotten_total(self) -> int:
        """Addresses and interfaces of former pods that were forgotten too soon, since there were too many."""
        return self._watch.pods.forgotten_total + self._interfaces.forgotten_total

    def serve(self, specs: Iterable[NetworkMonitorSpec]) -> None:
        """These are the monitors from now on: what pods had is remembered as long as the longest of them wants.

        That is its time to live, and once more: what was counted at the end of it may be reported a period later.
        """
        served = tuple(specs)
        with self._lock:
            self._keep(served)
            self._kept_ns = max((2 * each.workload_cache_ttl_ns for each in served), default=KEPT_NS)
            self._watch.pods.keep_for(self._kept_ns)

    def look(self) -> None:
        """To be called after each look at the interfaces: which pod is behind which may have changed."""
        with self._lock:
            now_mono_ns = self._clock.mono_ns()
            known = self._behind.known
            if known is not self._known:
                self._meet(known, now_mono_ns)
                self._known = known
                self._met += 1
            self._looked_mono_ns = now_mono_ns

    def world(self, spec: NetworkMonitorSpec) -> World:
        """As of now, or a moment ago; the same object as long as nothing has changed."""
        with self._lock:
            now_mono_ns = self._clock.mono_ns()
            self._look_at_nodes(now_mono_ns)
            self._forget(now_mono_ns)
            stamp = self._stamp_now()
            if stamp != self._stamp and (self._stamp is None or now_mono_ns - self._gathered_mono_ns >= FRESH_NS):
                self._stamp, self._gathered_mono_ns = stamp, now_mono_ns
                self._cluster = self._gather()
                self.gathered_total += 1
            return self._world(spec, self._cluster)

    def _meet(self, known: Mapping[IfIndex, Pod | None], now_mono_ns: int) -> None:
        interfaces = self._interfaces
        for index, former in self._known.items():
            pod = known.get(index)
            if former is not None and (pod is None or pod.uid != former.uid):
                interfaces.leave(_key(index), former.uid, now_mono_ns, over=index not in known)
        for index, pod in known.items():
            if pod is None:
                continue
            holder = interfaces.holder(_key(index))
            if holder is not None and holder.uid == pod.uid:
                interfaces.renew(_key(index), pod)
                continue
            last = interfaces.last(_key(index))
            # Without a former one it was this pod's from its birth on, which was before anybody looked.
            since = 0 if last is None else last.left_mono_ns if last.over else self._looked_mono_ns
            interfaces.hold(_key(index), pod, now_mono_ns, since)

    def _forget(self, now_mono_ns: int) -> None:
        self._watch.pods.forget_former()
        self._interfaces.forget(now_mono_ns - self._kept_ns)
        for name, (_, gone_mono_ns) in tuple(self._former_nodes.items()):
            if gone_mono_ns < now_mono_ns - self._kept_ns:
                del self._former_nodes[name]

    def _stamp_now(self) -> object:
        referred, watch = self._referred, self._watch
        return (
            (watch.pods.addresses_version, self._interfaces.version, self._met),
            (referred.services.version, referred.slices.version, self._nodes_seen, len(self._former_nodes)),
            (self.complete, self.stale_since_mono_ns),
        )

    def _gather(self) -> Cluster:
        # What a node had that went a while ago is nobody else's yet.
        nodes = [*self._nodes.values(), *(node for node, _ in self._former_nodes.values())]
        held, stays = self._watch.pods.held(), self._interfaces.held()
        pods, (holders, behind) = self._census.take((held, stays), {each.name: each.zone for each in nodes})
        complete, stale_since = self.complete, self.stale_since_mono_ns
        return Cluster(
            pods=pods,
            addresses=holdings(held, holders, ADDRESS_BYTES),
            ports=holdings(held, holders, PORT_BYTES),
            interfaces=holdings(stays, behind, INTERFACE_BYTES),
            strange_interfaces=[index for index, pod in self._known.items() if pod is None],
            services=self._service_table(),
            service_networks=[address for each in self._referred.services.all() for address in each.addresses],
            nodes=core_nodes(nodes),
            pod_networks=pod_networks(nodes),
            here=self._node,
            complete=complete,
            stale_since_mono_ns=stale_since if complete else self._began_mono_ns,
        )

    def _service_table(self) -> ServiceTable:
        referred = self._referred
        stamp = referred.services.version, referred.slices.version
        if self._services[0] != stamp:
            self._services = stamp, service_table(referred.services.all(), referred.slices.all())
        return self._services[1]

    def _look_at_nodes(self, now_mono_ns: int) -> None:
        version = self._watch.nodes.version
        if version == self._nodes_seen:
            return
        self._nodes_seen = version
        nodes = {each.name: each for each in self._watch.nodes.all()}
        for name in self._nodes.keys() - nodes.keys():
            self._former_nodes[name] = self._nodes[name], now_mono_ns
        for name in nodes:
            self._former_nodes.pop(name, None)
        self._nodes = nodes


def _said(spec: NetworkMonitorSpec) -> _Said:
    return spec.workload_cache_ttl_ns, spec.external_networks


def _key(index: IfIndex) -> bytes:
    return index.to_bytes(INTERFACE_BYTES, sys.byteorder)
