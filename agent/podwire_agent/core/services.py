"""Services by the addresses and ports that clients use, and by those of what is behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.key_index import ABSENT, Column, KeyIndex, address_columns, grouped

SEVERAL = -2
"""More than one service."""

Ports = NDArray[np.uint16]
"""In the machine's order."""


@dataclass(frozen=True, slots=True)
class ServiceName:
    """What a row calls a service by."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a service."""

    protocol: int
    """IANA's number."""
    port: int
    node_port: int = 0
    """At every node's addresses; 0: none."""


@dataclass(frozen=True, slots=True)
class Backends:
    """What stands behind one port of a service."""

    addresses: tuple[bytes, ...]
    """16 bytes each, IPv4 mapped."""
    protocol: int
    target_port: int
    """Where they listen."""
    port: int
    """The service's."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service, and who is behind it."""

    name: ServiceName
    addresses: tuple[bytes, ...] = ()
    """Those that clients may use, 16 bytes each: of the cluster, of load balancers, and external ones."""
    ports: tuple[ServicePort, ...] = ()
    backends: tuple[Backends, ...] = ()


class ServiceTable:
    """Immutable. Answers are an index into `names` with the service's port; ABSENT and port 0 where there is none."""

    def __init__(self, services: Iterable[Service]) -> None:
        """Where two claim one address and port, the first by namespace and name has it."""
        ordered = sorted(services, key=lambda each: (each.name.namespace, each.name.name))
        self.names: Sequence[ServiceName] = tuple(each.name for each in ordered)
        self.backends: Sequence[tuple[Backends, ...]] = tuple(each.backends for each in ordered)
        """Of each."""
        at, behind, node_ports = _Rows(), _Rows(), _Rows()
        for index, service in enumerate(ordered):
            for port in service.ports:
                at.add(service.addresses, port.protocol, port.port, index, port.port)
                if port.node_port:
                    node_ports.add((bytes(16),), port.protocol, port.node_port, index, port.port)
            for each in service.backends:
                behind.add(each.addresses, each.protocol, each.target_port, index, each.port)
        self._at = _Table(at)
        self._node_ports = _Table(node_ports)
        self._behind = _Table(behind)
        every = b"".join(address for service in ordered for address in service.addresses)
        unique = np.unique(np.frombuffer(every, np.uint8).reshape(-1, 16), axis=0)
        self._addresses = KeyIndex(*address_columns(unique))

    def at(self, halves: tuple[Column, Column], port: Column) -> tuple[NDArray[np.int32], Ports]:
        """By an address of the service's own; `port`: see key_index.port_column."""
        services, ports = self._at.first(halves, port)
        return services, ports

    def at_node_port(self, port: Column) -> tuple[NDArray[np.int32], Ports]:
        """By the port at a node's address."""
        nowhere = np.zeros(len(port), np.uint64)
        return self._node_ports.first((nowhere, nowhere), port)

    def behind(self, halves: tuple[Column, Column], port: Column) -> tuple[NDArray[np.int32], Ports]:
        """By the address and port of one that is behind it: the only service, or SEVERAL.

        Where several ports of the only service lead there, the port is the one that was asked for.
        """
        return self._behind.only(halves, port)

    def is_endpoint(self, halves: tuple[Column, Column], port: Column) -> NDArray[np.bool_]:
        """Somebody listens there for a service."""
        return self._behind.has(halves, port)

    def has_address(self, halves: tuple[Column, Column]) -> NDArray[np.bool_]:
        """It is a service's, whatever the port."""
        found: NDArray[np.bool_] = self._addresses.find(*halves) != ABSENT
        return found


@dataclass(slots=True)
class _Rows:
    """Columns under construction: a row for each address and port."""

    addresses: list[bytes] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    said: list[tuple[int, int, int]] = field(default_factory=list)
    """Protocol and port as in port_column, the service, and its port."""

    def add(self, addresses: tuple[bytes, ...], protocol: int, port: int, service: int, service_port: int) -> None:
        self.addresses += addresses
        self.counts.append(len(addresses))
        self.said.append((protocol << 16 | port, service, service_port))


class _Table:
    """The rows by address, protocol and port: the first service of each, and whether there are more."""

    def __init__(self, rows: _Rows) -> None:
        addresses = np.frombuffer(b"".join(rows.addresses), np.uint8).reshape(-1, 16)
        said = np.repeat(np.array(rows.said, np.int64).reshape(-1, 3), rows.counts, axis=0)
        keys = (*address_columns(addresses), said[:, 0].astype(np.uint64))
        order, first, group = grouped(keys, said[:, 1])
        self._index = KeyIndex(*(column[order][first] for column in keys))
        services, ports = said[order, 1].astype(np.int32), said[order, 2].astype(np.uint16)
        self._services, self._ports = services[first], ports[first]
        self._several, self._various = np.zeros(len(first), np.bool_), np.zeros(len(first), np.bool_)
        self._several[group[services != self._services[group]]] = True
        self._various[group[ports != self._ports[group]]] = True

    def has(self, halves: tuple[Column, Column], port: Column) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self._index.find(*halves, port) != ABSENT
        return found

    def first(self, halves: tuple[Column, Column], port: Column) -> tuple[NDArray[np.int32], Ports]:
        services, ports = np.full(len(port), ABSENT, np.int32), np.zeros(len(port), np.uint16)
        rows = self._index.find(*halves, port)
        known = np.flatnonzero(rows != ABSENT)
        services[known], ports[known] = self._services[rows[known]], self._ports[rows[known]]
        return services, ports

    def only(self, halves: tuple[Column, Column], port: Column) -> tuple[NDArray[np.int32], Ports]:
        services, ports = np.full(len(port), ABSENT, np.int32), np.zeros(len(port), np.uint16)
        rows = self._index.find(*halves, port)
        known = np.flatnonzero(rows != ABSENT)
        at = rows[known]
        services[known] = np.where(self._several[at], SEVERAL, self._services[at])
        own = np.where(self._various[at], port[known].astype(np.uint16), self._ports[at])  # the port's part of it
        ports[known] = np.where(self._several[at], 0, own)
        return services, ports
