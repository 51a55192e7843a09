"""The cluster at one moment, as tables: pods by address, port and interface in time, services, nodes, its networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.key_index import Column, KeyIndex, address_columns, port_column
from podwire_agent.core.networks import Networks
from podwire_agent.core.owners import Owners, Times
from podwire_agent.core.ranges import Ranges, cluster_ranges
from podwire_agent.core.services import ServiceTable
from podwire_agent.model import EndKind, IfIndex


@dataclass(frozen=True, slots=True)
class Entity:
    """What can be at an end of a flow. Empty: not known, or none."""

    kind: EndKind
    namespace: str = ""
    name: str = ""
    workload_kind: str = ""
    workload: str = ""
    node: str = ""
    zone: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a row calls an end by."""

    namespace: str
    name: str
    kind: str


UNKNOWN = Entity(EndKind.UNKNOWN, workload_kind="Unknown")


def external(name: str) -> Entity:
    """An outside network; "": an address in none that has a name."""
    return Entity(EndKind.EXTERNAL, name=name, workload_kind="External", workload=name)


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster."""

    name: str
    zone: str
    addresses: tuple[bytes, ...]
    """16 bytes each, IPv4 mapped."""


@dataclass(frozen=True, slots=True, eq=False)
class Holdings:
    """Which pod had what, and when: see owners.Owners."""

    keys: NDArray[np.uint8]
    """Shape (n, bytes)."""
    pods: NDArray[np.int32]
    """Indexes into the pods."""
    starts: Times
    ends: Times
    lefts: Times

    @classmethod
    def none(cls, width: int) -> Holdings:
        """Of keys of so many bytes."""
        times = np.zeros(0, np.uint64)
        return cls(np.zeros((0, width), np.uint8), np.zeros(0, np.int32), times, times, times)

    def owners(self, keys: tuple[Column, ...]) -> Owners:
        """The same, found by `keys`."""
        return Owners(keys, self.pods, self.starts, self.ends, self.lefts)


class Cluster:
    """Immutable; shared by the worlds of all monitors. Entities: UNKNOWN, External "", services, nodes, pods."""

    def __init__(
        self,
        pods: Sequence[Entity] = (),
        addresses: Holdings | None = None,
        ports: Holdings | None = None,
        interfaces: Holdings | None = None,
        strange_interfaces: Iterable[IfIndex] = (),
        services: ServiceTable | None = None,
        service_networks: Iterable[bytes] = (),
        nodes: Sequence[Node] = (),
        pod_networks: Networks | None = None,
        here: str = "",
        complete: bool = False,
        stale_since_mono_ns: int | None = None,
    ) -> None:
        """`addresses` has keys of 16 bytes, `ports` of 19 (address, protocol, port in network order), `interfaces` of
        4 (in the machine's order). `strange_interfaces`: known to be no pod's. `service_networks`: the services'
        addresses within the cluster. `here`: this agent's node. `complete`: nothing is missing, so that what is not
        here is outside.
        """
        self.services = services or ServiceTable(())
        self.here = here
        self.complete = complete
        self.stale_since_mono_ns = stale_since_mono_ns
        self.first_service = 2
        self.first_node = self.first_service + len(self.services.names)
        self.first_pod = self.first_node + len(nodes)
        self.entities: Sequence[Entity] = (
            UNKNOWN,
            external(""),
            *(Entity(EndKind.SERVICE, each.namespace, each.name, "Service", each.name) for each in self.services.names),
            *(Entity(EndKind.NODE, "", each.name, "Node", each.name, each.name, each.zone) for each in nodes),
            *pods,
        )
        workloads: dict[tuple[str, str, str], int] = {}
        self.workload_of = np.array(
            [
                workloads.setdefault((each.namespace, each.workload, each.workload_kind), len(workloads))
                for each in self.entities
            ],
            np.int32,
        )
        """By entity, as the next two."""
        self.workloads: Sequence[Workload] = tuple(Workload(*each) for each in workloads)
        self.node_of, self.node_numbers = _numbered(each.node for each in self.entities)
        self.zone_of, _ = _numbered(each.zone for each in self.entities)
        self.kind_of = np.array([int(each.kind) for each in self.entities], np.uint8)
        addresses = addresses or Holdings.none(16)
        self.by_address = addresses.owners(address_columns(addresses.keys))
        self.has_own_network = np.zeros(len(self.entities), np.bool_)
        """By entity: a pod with an address that is not its node's."""
        self.has_own_network[self.first_pod + addresses.pods] = True
        self.by_port = _by_port(ports or Holdings.none(19))
        interfaces = interfaces or Holdings.none(4)
        indexes = np.ascontiguousarray(interfaces.keys).view(np.uint32).reshape(-1)
        self.by_interface = interfaces.owners((indexes.astype(np.uint64),))
        self.strange_interfaces = np.array(sorted(strange_interfaces), np.uint32)
        self.node_at, self.node_index = _node_addresses(nodes)
        self.ranges = Ranges([cluster_ranges(pod_networks or Networks.of(()), addresses.keys, _rows(service_networks))])


def _numbered(names: Iterable[str]) -> tuple[NDArray[np.int32], dict[str, int]]:
    """A number for each, equal for equal names, -1 for none; and the names' numbers."""
    numbers = {"": -1}
    found = [numbers.setdefault(each, len(numbers) - 1) for each in names]
    return np.array(found, np.int32), numbers


def _by_port(ports: Holdings) -> Owners:
    high, low = address_columns(ports.keys[:, :16])
    words = ports.keys[:, 16:].astype(np.uint64)
    numbers = words[:, 1] << np.uint64(8) | words[:, 2]
    return ports.owners((high, low, port_column(words[:, 0], numbers)))


def _node_addresses(nodes: Sequence[Node]) -> tuple[KeyIndex, NDArray[np.int32]]:
    """Where each address is found, and whose it is: where two claim one, the first one's."""
    owners: dict[bytes, int] = {}
    for index, node in enumerate(nodes):
        for address in node.addresses:
            owners.setdefault(address, index)
    return KeyIndex(*address_columns(_rows(owners))), np.array(list(owners.values()), np.int32)


def _rows(addresses: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(addresses), np.uint8).reshape(-1, 16)
