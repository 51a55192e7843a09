"""Which rules ask for whom: kept from view to view, and worked out anew for what has changed between two."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.prefix_index import ROW_WORDS, Words
from podwire_agent.core.rules import End, Known, Pod, Service, View, is_pod, is_service

Row = tuple[int, ...]
"""See core/prefix_index.py."""

NO_RULE: Row = (0,) * ROW_WORDS

T = TypeVar("T", Pod, Service)


@dataclass(frozen=True, slots=True)
class Asked:
    """One end of one rule, and its place in a row."""

    end: End
    word: int
    bit: int


def row_of(asked: Iterable[Asked]) -> Row:
    """The row with these."""
    row = [0] * ROW_WORDS
    for each in asked:
        row[each.word] |= 1 << each.bit
    return tuple(row)


def union(*rows: Row) -> Row:
    """What is in one of them."""
    blacklist, whitelist, *peers = NO_RULE
    found = [blacklist, whitelist, *peers]
    for row in rows:
        found = [one | other for one, other in zip(found, row, strict=True)]
    return tuple(found)


class PodRows:
    """The rules that ask for a pod, or for nobody: worked out once for all pods that rules cannot tell apart."""

    def __init__(self, asked: Sequence[Asked], known: Known) -> None:
        ends = [each.end for each in asked]
        self._asked = asked
        self._known = known
        self._labels = sorted({each.key for end in ends for each in end.pod_query or ()})
        self._services = frozenset[str]().union(*(end.services for end in ends if end.services is not None))
        self._rows: dict[tuple[str, tuple[str | None, ...], frozenset[str]], Row] = {}

    def of(self, pod: Pod, addresses: tuple[bytes, ...]) -> Row:
        """By these of its addresses."""
        services = frozenset[str]()
        if self._services:
            behind = self._known.services_behind
            services = self._services.intersection(*[set().union(*(behind.get(each, ()) for each in addresses))])
        key = (pod.namespace, tuple(map(pod.labels.get, self._labels)), services)
        row = self._rows.get(key)
        if row is None:
            alike = Pod(pod.namespace, pod.labels, addresses)
            row = self._rows[key] = row_of(each for each in self._asked if is_pod(each.end, self._known, alike))
        return row


@dataclass(slots=True)
class _Kept:
    """As rules.View, of the view followed last; changed in place."""

    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pods_at: dict[bytes, tuple[Pod, ...]] = field(default_factory=dict)
    services_behind: dict[bytes, frozenset[str]] = field(default_factory=dict)


class _Differences(Generic[T]):
    """Of collections whose items are never changed: which objects came and went. None is copied."""

    def __init__(self) -> None:
        self._items: dict[int, T] = {}

    def follow(self, items: Collection[T]) -> tuple[list[T], list[T]]:
        """What is new since the last time, and what is gone."""
        before, self._items = self._items, {id(item): item for item in items}
        come = [self._items[each] for each in self._items.keys() - before.keys()]
        return come, [before[each] for each in before.keys() - self._items.keys()]


class Selection:
    """One thread at a time."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self._asked = asked
        self._anybody = row_of(each for each in asked if not each.end.asks_whose)
        self._behind: dict[str, Row] = {}  # of a service: the ends that ask for what is behind it, pod or not
        for each in asked:
            if each.end.services is not None and not each.end.asks_for_a_pod:
                for name in each.end.services:
                    self._behind[name] = union(self._behind.get(name, NO_RULE), row_of([each]))
        self._begin({})

    def _begin(self, namespaces: Mapping[str, Mapping[str, str]]) -> None:
        self._kept = _Kept(namespaces)
        self.whose = PodRows(self._asked, self._kept)
        """Of a pod in the view followed last."""
        self._pods, self._services = _Differences[Pod](), _Differences[Service]()
        self._services_at: dict[bytes, tuple[Service, ...]] = {}
        self._named: dict[str, tuple[Service, ...]] = {}
        self._of_service: dict[int, Row] = {}  # by id
        self._numbers: dict[Row, int] = {}
        self._selected: dict[bytes, int] = {}  # the number of an address' row, where a rule asks for it

    def follow(self, view: View) -> None:
        """Go on to this view."""
        if view.namespaces is not self._kept.namespaces and view.namespaces != self._kept.namespaces:
            self._begin(view.namespaces)
        touched: set[bytes] = set()
        come, gone = self._pods.follow(view.pods)
        for pod in gone:
            touched.update(pod.addresses)
            for address in pod.addresses:
                _discard(self._kept.pods_at, address, pod)
        for pod in come:
            touched.update(pod.addresses)
            for address in pod.addresses:
                self._kept.pods_at[address] = (*self._kept.pods_at.get(address, ()), pod)
        touched |= self._follow_services(view.services)
        for name in {name for address in touched for name in self._kept.services_behind.get(address, ())}:
            for service in self._named[name]:  # what it stands for may have changed with those behind it
                self._of_service.pop(id(service), None)
                touched.update(service.addresses)
        for address in touched:
            row = self._row_at(address)
            if row == self._anybody:
                self._selected.pop(address, None)
            else:
                self._selected[address] = self._numbers.setdefault(row, len(self._numbers))

    def selected(self) -> tuple[NDArray[np.uint8], Words]:
        """The addresses that a rule asks for, shape (n, 16), in no order; and their rows."""
        addresses = np.frombuffer(b"".join(self._selected), np.uint8).reshape(-1, 16)
        numbers = np.fromiter(self._selected.values(), np.intp, len(self._selected))
        return addresses, np.array([*self._numbers, NO_RULE], np.uint64)[numbers]

    def anybody_asked_for(self) -> Row:
        """The ends of rules for which there is somebody in view."""
        rows = self.selected()[1]
        services = (self._service_row(service) for each in self._named.values() for service in each)
        return union(*set(services), tuple(np.bitwise_or.reduce(rows, axis=0).tolist()) if len(rows) else NO_RULE)

    def _follow_services(self, services: Collection[Service]) -> set[bytes]:
        """The addresses that are concerned."""
        come, gone = self._services.follow(services)
        touched: set[bytes] = set()
        behind = self._kept.services_behind
        for service in gone:
            self._of_service.pop(id(service), None)
            _discard(self._named, service.full_name, service)
            for address in service.addresses:
                _discard(self._services_at, address, service)
            for address in service.backends:
                names = behind[address] - {service.full_name}
                behind[address] = names
                if not names:
                    del behind[address]
            touched |= service.backends.union(service.addresses)
        for service in come:
            self._named[service.full_name] = (*self._named.get(service.full_name, ()), service)
            for address in service.addresses:
                self._services_at[address] = (*self._services_at.get(address, ()), service)
            for address in service.backends:
                behind[address] = behind.get(address, frozenset()) | {service.full_name}
            touched |= service.backends.union(service.addresses)
        return touched

    def _row_at(self, address: bytes) -> Row:
        rows = [self._anybody]
        rows += [self.whose.of(pod, (address,)) for pod in self._kept.pods_at.get(address, ())]
        rows += [self._service_row(service) for service in self._services_at.get(address, ())]
        rows += [self._behind.get(name, NO_RULE) for name in self._kept.services_behind.get(address, ())]
        return union(*rows)

    def _service_row(self, service: Service) -> Row:
        row = self._of_service.get(id(service))
        if row is None:
            row = row_of(each for each in self._asked if is_service(each.end, self._kept, service))
            self._of_service[id(service)] = row
        return row


K = TypeVar("K", bytes, str)


def _discard(held: dict[K, tuple[T, ...]], key: K, item: T) -> None:
    """Of the items at a key, this one."""
    left = tuple(each for each in held[key] if each is not item)
    if left:
        held[key] = left
    else:
        del held[key]
