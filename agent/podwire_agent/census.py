"""What `kube` keeps of the cluster, as the tables of core/cluster.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from podwire_agent.core.cluster import Entity, Holdings, Node
from podwire_agent.core.networks import BadNetwork, Networks, parse_cidr
from podwire_agent.core.services import Backends, Service, ServiceName, ServicePort, ServiceTable
from podwire_agent.kube import places
from podwire_agent.kube.objects import Pod
from podwire_agent.kube.tenures import Held
from podwire_agent.model import EndKind

ADDRESS_BYTES, PORT_BYTES, INTERFACE_BYTES = 16, 19, 4


class PodCensus:
    """Remembers what it has made of each pod: it is made anew only where the pod or its zone is another one."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Pod, str, Entity]] = {}

    def take(self, held: Sequence[Held], zones: Mapping[str, str]) -> tuple[list[Entity], list[list[int]]]:
        """All pods that are in `held`, and for each of it the indexes of its pods. `zones`: by the node's name."""
        known: dict[str, tuple[Pod, str, Entity]] = {}
        places_of: dict[str, int] = {}
        entities: list[Entity] = []
        indexes: list[list[int]] = []
        for each in held:
            found: list[int] = []
            for pod in each.pods:
                index = places_of.get(pod.uid)
                if index is None:
                    index = places_of[pod.uid] = len(entities)
                    zone = zones.get(pod.node, "")
                    former = self._known.get(pod.uid)
                    if former is None or former[1] != zone or (former[0] is not pod and former[0] != pod):
                        former = pod, zone, _entity(pod, zone)
                    known[pod.uid] = former
                    entities.append(former[2])
                found.append(index)
            indexes.append(found)
        self._known = known
        return entities, indexes


def _entity(pod: Pod, zone: str) -> Entity:
    return Entity(EndKind.POD, pod.namespace, pod.name, pod.workload_kind, pod.workload, pod.node, zone, pod.uid)


def holdings(held: Held, pods: Sequence[int], width: int) -> Holdings:
    """Those whose keys have so many bytes."""
    rows = [row for row, key in enumerate(held.keys) if len(key) == width]
    if len(rows) == len(held.keys):
        at: slice | list[int] = slice(None)
        keys = b"".join(held.keys)
    else:
        at = rows
        keys = b"".join([held.keys[row] for row in rows])
    return Holdings(
        keys=np.frombuffer(keys, np.uint8).reshape(-1, width),
        pods=np.array(pods, np.int32)[at],
        starts=np.array(held.starts_mono_ns, np.uint64)[at],
        ends=np.array(held.ends_mono_ns, np.uint64)[at],
        lefts=np.array(held.lefts_mono_ns, np.uint64)[at],
    )


def service_table(services: Iterable[places.Service], slices: Iterable[places.Slice]) -> ServiceTable:
    """Services joined with their endpoint slices by the names of ports."""
    behind: dict[tuple[str, str], list[places.Slice]] = {}
    for each in slices:
        if each.service:
            behind.setdefault((each.namespace, each.service), []).append(each)
    return ServiceTable(
        Service(
            name=ServiceName(each.namespace, each.name),
            addresses=each.addresses + each.outer_addresses,
            ports=tuple(ServicePort(port.protocol, port.port, port.node_port) for port in each.ports),
            backends=tuple(_backends(each, behind.get((each.namespace, each.name), ()))),
        )
        for each in services
    )


def _backends(service: places.Service, slices: Iterable[places.Slice]) -> Iterator[Backends]:
    own = {(port.name, port.protocol): port.port for port in service.ports}
    for each in slices:
        for target in each.ports:
            port = own.get((target.name, target.protocol))
            if port is not None:
                yield Backends(each.addresses, target.protocol, target.port, port)


def pod_networks(nodes: Iterable[places.Node]) -> Networks:
    """All that nodes have for pods; what is no network is passed over."""
    found = []
    for cidr in {cidr for node in nodes for cidr in node.pod_cidrs}:
        try:
            found.append(parse_cidr(cidr))
        except BadNetwork:
            continue
    return Networks.of_prefixes(found)


def core_nodes(nodes: Iterable[places.Node]) -> list[Node]:
    """In their order."""
    return [Node(each.name, each.zone, each.addresses) for each in nodes]
