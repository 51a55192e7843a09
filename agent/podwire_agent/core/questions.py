"""What correlation asks: who is who, what was translated, and whether somebody else counts it. All by columns.

Addresses: (n, 16) u1, IPv4 mapped. Ports: (n,) u2 in the host's order. Protocols: (n,) u1. Times: (n,) u8, ns of the
monotonic clock. Entities and services are told by their index; -1 stands for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from podwire_agent.model import Entity, Records

Addresses = NDArray[np.uint8]
Ports = NDArray[np.uint16]
Protocols = NDArray[np.uint8]
Times = NDArray[np.uint64]
Indexes = NDArray[np.int32]
Flags = NDArray[np.bool_]


class WorkloadName(Protocol):
    """A workload, or what stands for one in a row."""

    @property
    def namespace(self) -> str:
        """Empty where it has none."""

    @property
    def name(self) -> str:
        """Empty where it is not known."""

    @property
    def kind(self) -> str:
        """Deployment, …, Node, Service, External, Unknown."""


class ServiceName(Protocol):
    """A service."""

    @property
    def namespace(self) -> str:
        """Its own."""

    @property
    def name(self) -> str:
        """Its own."""


class World(Protocol):
    """Who is who; immutable."""

    @property
    def entities(self) -> Sequence[Entity]:
        """The first is Unknown."""

    @property
    def workloads(self) -> Sequence[WorkloadName]:
        """The first is Unknown."""

    @property
    def workload_of(self) -> Indexes:
        """By entity."""

    @property
    def node_of(self) -> Indexes:
        """By entity; -1: not known."""

    @property
    def zone_of(self) -> Indexes:
        """By entity; -1: not known."""

    @property
    def services(self) -> Sequence[ServiceName]:
        """By their index."""

    def far(
        self, addresses: Addresses, ports: Ports, protocols: Protocols, first_mono_ns: Times, last_mono_ns: Times
    ) -> Indexes:
        """The entity at an address and port at that time; 0: Unknown."""

    def near(
        self, ifindexes: NDArray[np.uint32], addresses: Addresses, first_mono_ns: Times, last_mono_ns: Times
    ) -> tuple[Indexes, NDArray[np.uint8]]:
        """The entity behind an interface, and model.NearBy."""

    def service_at(self, addresses: Addresses, ports: Ports, protocols: Protocols) -> tuple[Indexes, Ports]:
        """The service that has the address and port, and its port: cluster and external addresses, node ports."""

    def service_behind(self, addresses: Addresses, ports: Ports, protocols: Protocols) -> tuple[Indexes, Ports]:
        """The only service that has the endpoint, and its port; -1: none, -2: several."""

    def is_endpoint_port(self, addresses: Addresses, ports: Ports, protocols: Protocols) -> Flags:
        """Some service's endpoint listens there."""


class Translated(Protocol):
    """What the kernel did to each of some tuples; all columns of their length."""

    @property
    def found(self) -> Flags:
        """The kernel has translated it. Where it has not, the rest means nothing."""

    @property
    def is_reply(self) -> Flags:
        """It runs from the server to the client."""

    @property
    def original(self) -> Records:
        """TUPLE: client to server, as the client addressed it."""

    @property
    def translated(self) -> Records:
        """TUPLE: client to server, as the server sees it."""

    @property
    def dnat(self) -> Flags:
        """The server's address or port is another."""

    @property
    def snat(self) -> Flags:
        """The client's address or port is another."""


class Translations(Protocol):
    """The kernel's translations; immutable."""

    def of(self, tuples: Records, first_mono_ns: Times, last_mono_ns: Times) -> Translated:
        """Of TUPLE as seen, in any form and either direction."""


class Covers(Protocol):
    """Which other interface the monitor counts the same packets at. `kinds`: layout.FlowKind."""

    def arrives(self, receivers: Indexes, tuples: Records, kinds: NDArray[np.uint8]) -> Flags:
        """Whether a row holds them where they arrive. `tuples`: TUPLE in the direction of travel, as they arrive.

        True for a pod with a network of its own, on this node or another, whose veth is watched and where the rules
        accept the flow. Of a service whose backend is not known: whether that holds for its backends. Never for a
        node, nor for a pod in its node's network: a node's address may stand for a pod behind it (masquerade, node
        ports), so what goes there is counted where it leaves.
        """

    def leaves(self, senders: Indexes, tuples: Records, kinds: NDArray[np.uint8]) -> Flags:
        """Whether they are counted where they leave, if they go to a node's address. `tuples`: TUPLE, as they leave.

        True for a pod with a network of its own whose veth is watched, for a service whose backends are such pods,
        and for a node or a pod in its node's network where that node's own interfaces are watched; and where the rules
        accept the flow.
        """


class Backends(Protocol):
    """What is behind the services."""

    def only(self, services: Indexes, ports: Ports, protocols: Protocols) -> Indexes:
        """The entity of the only endpoint behind a service's port; -1 where there is none, or more than one."""


@dataclass(frozen=True, slots=True)
class Vantage:
    """From where the flows are seen."""

    node: str = ""
    """This node's name."""
    host_interfaces: frozenset[int] = frozenset()
    """The ifindexes of the node's own interfaces among those that are watched."""
    backends: Backends | None = None
    """None: nobody can tell, and no service's backend is guessed."""

    def on_host(self, ifindexes: NDArray[np.uint32]) -> Flags:
        """Which of these are the node's own."""
        return np.isin(ifindexes, np.array(sorted(self.host_interfaces), np.uint32))
