"""Services and what is behind them, namespaces, ConfigMaps: each kind is followed from when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from enum import StrEnum
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from podwire_agent.kube.connection import Connection
from podwire_agent.kube.objects import Kind, Meta, WireConfigMap, kind
from podwire_agent.kube.places import (
    Namespace,
    Service,
    Slice,
    WireService,
    WireSlice,
    keep_namespace,
    keep_service,
    keep_slice,
)
from podwire_agent.kube.reflector import CountedObjects, Reflector
from podwire_agent.kube.stopping import Stop
from podwire_agent.ports import Clock
from podwire_api.names import NAMESPACE

T = TypeVar("T")

END_S = 3.0
"""For the watches to end: they are cut, but an answer under way may be slow."""


class Referable(StrEnum):
    """The kinds, as messages call them."""

    NAMESPACES = "namespaces"
    SERVICES = "services"
    SLICES = "endpointslices"
    CONFIG_MAPS = "configmaps"


PATHS = {
    Referable.NAMESPACES: "/api/v1/namespaces",
    Referable.SERVICES: "/api/v1/services",
    Referable.SLICES: "/apis/discovery.k8s.io/v1/endpointslices",
    Referable.CONFIG_MAPS: f"/api/v1/namespaces/{NAMESPACE}/configmaps",
}


class Referred(Generic[T]):
    """Context manager: follows what it was asked for while inside, a thread a kind. To be asked from any thread."""

    def __init__(self, connection: Connection, clock: Clock, read: Callable[[WireConfigMap, T | None], T]) -> None:
        """`read` makes of a ConfigMap what is kept of it, given what is kept of a former state."""
        self.changed: Callable[[], None] = lambda: None
        """Called after each change, in a thread of the watches'."""
        self.namespaces = CountedObjects[Namespace]()
        self.services = CountedObjects[Service]()
        self.slices = CountedObjects[Slice]()
        self.config_maps = CountedObjects[T]()
        self._connection = connection
        self._clock = clock
        self._read = read
        self._stop = Stop()
        self._moved = threading.Condition()
        self._ended = False
        self._followed: dict[Referable, tuple[Reflector[Any], threading.Thread]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._moved:
            self._ended = True
            followed = list(self._followed.values())
        self._stop.set()
        deadline_mono_ns = self._clock.mono_ns() + int(END_S * 1e9)
        for _, thread in followed:
            thread.join(max(0.0, (deadline_mono_ns - self._clock.mono_ns()) / 1e9))

    @property
    def lists_total(self) -> int:
        """Times that a kind was listed."""
        with self._moved:
            return sum(reflector.lists_total for reflector, _ in self._followed.values())

    def follow(self, kinds: Collection[Referable]) -> None:
        """From now on, those of `kinds` that are not followed yet."""
        with self._moved:
            for each in kinds:
                if each in self._followed or self._ended:
                    continue
                wanted, store = self._kind(each)
                reflector = Reflector(self._connection, wanted, store, self._clock, self._stop, self._told)
                thread = threading.Thread(target=reflector.run, name=f"watch {each}", daemon=True)
                self._followed[each] = reflector, thread
                thread.start()

    def synced(self, kinds: Collection[Referable]) -> bool:
        """All of each kind was listed once."""
        with self._moved:
            return all(each in self._followed and self._followed[each][0].synced for each in kinds)

    def stale_since_mono_ns(self, kinds: Collection[Referable]) -> int | None:
        """Since when changes of one of them may have been missed; None while all that are followed are current."""
        with self._moved:
            found = (self._followed[each][0].stale_since_mono_ns for each in kinds if each in self._followed)
            return min((each for each in found if each is not None), default=None)

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Until `done`, looked at after each change; False where that takes longer."""
        deadline_mono_ns = self._clock.mono_ns() + int(timeout_s * 1e9)
        while not done():
            left_s = (deadline_mono_ns - self._clock.mono_ns()) / 1e9
            if left_s <= 0:
                return False
            with self._moved:
                self._moved.wait(min(left_s, 0.1))  # pods are followed elsewhere
        return True

    def _told(self) -> None:
        with self._moved:
            self._moved.notify_all()
        self.changed()

    def _kind(self, wanted: Referable) -> tuple[Kind[Any], CountedObjects[Any]]:
        path = PATHS[wanted]
        match wanted:
            case Referable.NAMESPACES:
                return kind(wanted, path, Meta, keep_namespace), self.namespaces
            case Referable.SERVICES:
                return kind(wanted, path, WireService, keep_service), self.services
            case Referable.SLICES:
                return kind(wanted, path, WireSlice, keep_slice), self.slices
            case Referable.CONFIG_MAPS:
                return kind(wanted, path, WireConfigMap, self._keep_config_map), self.config_maps

    def _keep_config_map(self, found: WireConfigMap) -> T:
        return self._read(found, self.config_maps.get(found.metadata.uid))
