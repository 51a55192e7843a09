"""Who is who, for one monitor at one moment: what is at either end of flows, and which service they use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.cluster import Cluster, Entity, Workload, external
from podwire_agent.core.key_index import ABSENT, Column, address_columns, port_column
from podwire_agent.core.longest_prefix import as_strings
from podwire_agent.core.networks import Networks
from podwire_agent.core.owners import Times
from podwire_agent.core.ranges import NONE, Ranges
from podwire_agent.core.services import SEVERAL, Backends, Ports, ServiceName
from podwire_agent.model import EndKind, NearBy

__all__ = ["SEVERAL", "Entity", "ExternalNetworks", "ServiceName", "Workload", "World"]

Addresses = NDArray[np.uint8]
"""Shape (n, 16): IPv6, or IPv4 mapped."""

Entities = NDArray[np.int32]
"""Shape (n,): indexes into a world's entities."""

_UNKNOWN, _OUTSIDE = 0, 1
_NOBODY = np.zeros(0, np.int32)
_NOW = np.uint64((1 << 64) - 1)
"""Later than all that is over."""


class ExternalNetworks:
    """The networks outside the cluster that a monitor has names for."""

    def __init__(self, networks: Iterable[tuple[str, Networks]]) -> None:
        """A network that several have belongs to the first of them."""
        named = tuple(networks)
        self.names = tuple(name for name, _ in named)
        self.ranges = Ranges([each for _, each in named])


NOWHERE = ExternalNetworks(())


class World:
    """Immutable. All arrays of one call have the same length n; times are CLOCK_MONOTONIC, ns."""

    def __init__(self, cluster: Cluster, to_live_ns: int, external_networks: ExternalNetworks = NOWHERE) -> None:
        """`to_live_ns`: how long an address still means the pod that was seen to have it last."""
        self.entities: Sequence[Entity] = (*cluster.entities, *map(external, external_networks.names))
        """[0] is Unknown."""
        self.services: Sequence[ServiceName] = cluster.services.names
        self.stale_since_mono_ns = cluster.stale_since_mono_ns
        """Since when changes may have been missed; None while the cluster is followed."""
        added = len(external_networks.names)
        none = np.full(added, -1, np.int32)
        self.kind_of = np.append(cluster.kind_of, np.full(added, EndKind.EXTERNAL, np.uint8))
        """model.EndKind, by entity."""
        first = len(cluster.workloads)
        self.workloads: Sequence[Workload] = (
            *cluster.workloads,
            *(Workload("", name, "External") for name in external_networks.names),
        )
        """[0] is Unknown's."""
        self.workload_of = np.append(cluster.workload_of, np.arange(first, first + added, dtype=np.int32))
        """By entity."""
        self.node_of = np.append(cluster.node_of, none)
        self.zone_of = np.append(cluster.zone_of, none)
        """By entity: two that are equal are one node, or one zone; -1: not known."""
        self.has_own_network = np.append(cluster.has_own_network, np.zeros(added, np.bool_))
        """By entity: a pod with an address that is not its node's."""
        self._cluster = cluster
        self._to_live_ns = to_live_ns
        self._external = external_networks.ranges
        self._first_external = len(cluster.entities)
        self._here = self.number_of(cluster.here)
        self.is_here: NDArray[np.bool_] = self.node_of == self._here
        """By entity: of this agent's node."""

    def number_of(self, node: str) -> int:
        """As `node_of` has it; -2: no such node, nor anything on it, is known."""
        return self._cluster.node_numbers.get(node, -2)

    @cached_property
    def nodes(self) -> Sequence[str]:
        """Their names, by the numbers of `node_of`."""
        return [name for name in self._cluster.node_numbers if name]

    @cached_property
    def backends(self) -> Mapping[int, Entities]:
        """Of each entity that is a service, the pods behind it now: -1 for what is no pod with a network of its own."""
        cluster = self._cluster
        return {
            cluster.first_service + index: np.concatenate([_NOBODY, *map(self._pods_of, backends)])
            for index, backends in enumerate(cluster.services.backends)
        }

    def only(self, services: NDArray[np.int32], ports: Ports, protocols: NDArray[np.uint8]) -> Entities:
        """The pod behind a service's port, by its index in `services`, where there is no other; else -1."""
        found = np.full(len(services), -1, np.int32)
        asked, which = np.unique(np.stack([services, ports, protocols]), axis=1, return_inverse=True)
        for number, (service, port, protocol) in enumerate(asked.T.tolist()):
            behind = [
                self._pods_of(each)
                for each in self._cluster.services.backends[service]
                if (each.port, each.protocol) == (port, protocol)
            ]
            pods = np.unique(np.concatenate([_NOBODY, *behind]))
            if len(pods) == 1:
                found[which == number] = pods[0]
        return found

    def far(
        self, addresses: Addresses, ports: Ports, protocols: NDArray[np.uint8], first: Times, last: Times
    ) -> Entities:
        """What has each address, and the port there (in the machine's order; 0 where there are none), all the time from
        `first` to `last`.

        In this order: a pod by its address; a service by address, port and protocol, or by a port at a node's address;
        a pod that serves that port at a node's address; a node; what is outside, by the narrowest network that has a
        name. Unknown: an address of the cluster's that is none of these, and one that went from one pod to another.
        """
        cluster = self._cluster
        halves, port = address_columns(addresses), port_column(protocols, ports)
        pods = cluster.by_address.find(halves, first, last, self._to_live_ns)
        found: Entities = np.where(pods >= 0, pods + cluster.first_pod, _UNKNOWN).astype(np.int32)
        rest = np.flatnonzero(pods == ABSENT)
        services, _ = self._service_at(_at(halves, rest), port[rest])
        rest = _put(found, rest, services + cluster.first_service, services != ABSENT)
        nodes = cluster.node_at.find(*_at(halves, rest))
        at_node = rest[nodes != ABSENT]
        found[at_node] = cluster.node_index[nodes[nodes != ABSENT]] + cluster.first_node
        there = (*_at(halves, rest), port[rest])
        pods = cluster.by_port.find(there, first[rest], last[rest], self._to_live_ns)
        rest = _put(found, rest, np.where(pods >= 0, pods + cluster.first_pod, _UNKNOWN), pods != ABSENT)
        rest = rest[found[rest] == _UNKNOWN]
        found[rest] = self._outside(addresses[rest], _at(halves, rest))
        return found

    def near(
        self, ifindexes: NDArray[np.uint32], addresses: Addresses, first: Times, last: Times
    ) -> tuple[Entities, NDArray[np.uint8]]:
        """The pod behind each interface, and model.NearBy.

        By the interface, as long as it is there. While nothing is known of it yet, by the pod's own end of the flow:
        the pod of this node that has the address. An interface that is no pod's has none.
        """
        cluster = self._cluster
        by = np.full(len(ifindexes), NearBy.NOTHING, np.uint8)
        pods = cluster.by_interface.find((ifindexes.astype(np.uint64),), first, last, self._to_live_ns)
        found: Entities = np.where(pods >= 0, pods + cluster.first_pod, _UNKNOWN).astype(np.int32)
        by[pods >= 0] = NearBy.INTERFACE
        rest = np.flatnonzero(pods == ABSENT)
        rest = rest[~np.isin(ifindexes[rest], cluster.strange_interfaces)]
        pods = cluster.by_address.find(address_columns(addresses[rest]), first[rest], last[rest], self._to_live_ns)
        rest, pods = rest[pods >= 0], pods[pods >= 0] + cluster.first_pod
        ours = self.node_of[pods] == self._here
        found[rest[ours]], by[rest[ours]] = pods[ours], NearBy.ADDRESS
        return found, by

    def service_at(
        self, addresses: Addresses, ports: Ports, protocols: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int32], Ports]:
        """The service whose address and port it is, or whose port at a node's address: an index into `services`, or -1,
        and the service's port.
        """
        return self._service_at(address_columns(addresses), port_column(protocols, ports))

    def service_behind(
        self, addresses: Addresses, ports: Ports, protocols: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int32], Ports]:
        """The only service that this address and port stand behind, -1 where there is none, SEVERAL; and the service's
        port. Where several ports of the only service lead there, that is the port that was asked for.
        """
        return self._cluster.services.behind(address_columns(addresses), port_column(protocols, ports))

    def is_endpoint_port(self, addresses: Addresses, ports: Ports, protocols: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether somebody listens there for a service."""
        return self._cluster.services.is_endpoint(address_columns(addresses), port_column(protocols, ports))

    def _pods_of(self, backends: Backends) -> Entities:
        """Each address's, now."""
        rows = np.frombuffer(b"".join(backends.addresses), np.uint8).reshape(-1, 16)
        now = np.full(len(rows), _NOW, np.uint64)
        pods = self._cluster.by_address.find(address_columns(rows), now, now, self._to_live_ns)
        return np.where(pods >= 0, pods + self._cluster.first_pod, -1).astype(np.int32)

    def _service_at(self, halves: tuple[Column, Column], port: Column) -> tuple[NDArray[np.int32], Ports]:
        services, ports = self._cluster.services.at(halves, port)
        rest = np.flatnonzero(services == ABSENT)
        rest = rest[self._cluster.node_at.find(*_at(halves, rest)) != ABSENT]
        services[rest], ports[rest] = self._cluster.services.at_node_port(port[rest])
        return services, ports

    def _outside(self, addresses: Addresses, halves: tuple[Column, Column]) -> NDArray[np.int32]:
        """Of addresses that are nobody's in the cluster: a network of the cluster's that is narrower than one with a
        name means that the address is the cluster's, and not in view.
        """
        texts = as_strings(addresses)
        names, named_bits = self._external.find(texts)
        covering, bits = self._cluster.ranges.find(texts)
        outside = np.full(len(addresses), _UNKNOWN, np.int32)
        if self._cluster.complete:
            outside[(covering == NONE) & ~self._cluster.services.has_address(halves)] = _OUTSIDE
        is_named = (names != NONE) & (named_bits >= bits)
        outside[is_named] = names[is_named] + self._first_external
        return outside


def _at(halves: tuple[Column, Column], rows: NDArray[np.intp]) -> tuple[Column, Column]:
    return halves[0][rows], halves[1][rows]


def _put(
    found: Entities, rows: NDArray[np.intp], entities: NDArray[np.int32], known: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Fill in what is known of `rows`, and return the others."""
    found[rows[known]] = entities[known]
    return rows[~known]
