"""One kind of object kept as the API server has it: a paged list, then a watch from the list's version."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar

import msgspec

from podwire_agent.errors import ClusterError
from podwire_agent.kube.connection import Connection
from podwire_agent.kube.objects import Event, Failure, Kind, Meta
from podwire_agent.kube.stopping import Stop
from podwire_agent.ports import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")

WATCH_S = (240, 360)
"""How long a watch is asked for; spread, so that agents do not come back together."""
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 10.0
GONE_S = 2.0
"""A kind is gone if this much later it is still not there: a server that starts may not know it yet."""

_UNKNOWN_VERSION = frozenset({400, 410, 504})
"""The watch's version is too old (410), from before a restore (504: too large), or of another store (400)."""


class Store(Protocol[T]):
    """Holds the objects by uid. Called from the reflector's thread only."""

    def get(self, uid: str) -> T | None:
        """What is held."""

    def replace(self, objects: dict[str, T]) -> None:
        """These are all there are."""

    def put(self, uid: str, item: T) -> None:
        """New or changed."""

    def discard(self, uid: str) -> None:
        """Deleted."""


class Objects(Generic[T]):
    """A Store of few objects. `all` may be called from any thread."""

    def __init__(self) -> None:
        self._objects: dict[str, T] = {}

    def all(self) -> tuple[T, ...]:
        """Every object, in no order."""
        return tuple(self._objects.copy().values())

    def get(self, uid: str) -> T | None:
        """What is held."""
        return self._objects.get(uid)

    def replace(self, objects: dict[str, T]) -> None:
        """These are all there are."""
        self._objects = objects

    def put(self, uid: str, item: T) -> None:
        """New or changed."""
        self._objects[uid] = item

    def discard(self, uid: str) -> None:
        """Deleted."""
        self._objects.pop(uid, None)


class CountedObjects(Objects[T]):
    """One that tells whether anything in it has changed: what is put as it was before is no change."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        """Grows with each change."""

    def replace(self, objects: dict[str, T]) -> None:
        """These are all there are."""
        changed = objects != self._objects
        super().replace(objects)
        self.version += changed

    def put(self, uid: str, item: T) -> None:
        """New or changed."""
        if self._objects.get(uid) != item:
            super().put(uid, item)
            self.version += 1

    def discard(self, uid: str) -> None:
        """Deleted."""
        if uid in self._objects:
            super().discard(uid)
            self.version += 1


def retry_s(failures: int, spread: Callable[[], float] = random.random) -> float:
    """How long to wait after so many failures in a row (>= 1): doubled each time, less up to a half by `spread`."""
    return min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures - 1, 10)) * (1 - spread() / 2)


class Reflector(Generic[T]):
    """Runs in a thread of the caller's. The flags may be read from any thread.

    `changed` is called after each change of the store or the flags.
    """

    def __init__(
        self,
        connection: Connection,
        kind: Kind[T],
        store: Store[T],
        clock: Clock,
        stop: Stop,
        changed: Callable[[], None],
    ) -> None:
        self.name = kind.name
        self.synced = False
        """The store was complete once."""
        self.stale_since_mono_ns: int | None = None
        """Since when changes may have been missed; None while the watch is open."""
        self.gone = False
        """The server does not know the kind: nothing of it exists."""
        self.denied = False
        """The server refuses us; the store is as it was."""
        self.lists_total = 0
        """Times that everything was listed."""
        self._connection = connection
        self._kind = kind
        self._store = store
        self._clock = clock
        self._stop = stop
        self._changed = changed
        self._version: str | None = None
        self._failures = 0
        """In a row, without a watch in between that lasted or told anything."""
        self._expired = 0
        """The same, of versions that were too old."""
        self._missing_since_mono_ns: int | None = None
        self._events = msgspec.json.Decoder(Event)

    def run(self) -> None:
        """Until told to stop."""
        while not self._stop.is_set():
            try:
                if self._version is None:
                    self._version = self._list()
                self._watch(self._version)
            except ClusterError as error:
                self._failed(error)
            except (msgspec.MsgspecError, OSError) as error:
                self._version = None
                self._failed(ClusterError(None, f"{self._kind.name}: the API server's answer makes no sense: {error}"))

    def _list(self) -> str:
        """Everything there is into the store; returns the version it has. An expired page begins anew."""
        query = {"limit": str(self._kind.at_once), **self._kind.query}
        objects: dict[str, T] = {}
        while True:
            meta, items = self._kind.page(self._connection.request("GET", self._kind.path, query=query))
            for uid, item in items:
                held = self._store.get(uid)
                objects[uid] = held if held is not None and held == item else item  # two copies would cost memory
            if not meta.next_page:
                break
            query["continue"] = meta.next_page
        self._store.replace(objects)
        self.synced = True
        self.lists_total += 1
        self._fresh()
        self._changed()
        return meta.resource_version

    def _watch(self, version: str) -> None:
        seconds = random.randint(*WATCH_S)
        opened_mono_ns = self._clock.mono_ns()
        query: Mapping[str, str] = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            **self._kind.query,
        }
        try:
            with self._connection.stream(self._kind.path, query, self._stop, seconds + 30.0) as lines:
                self._fresh()
                for line in lines:
                    if line:
                        self._take(self._events.decode(line))
                        self._failures = self._expired = 0
        finally:
            lasted = self._clock.mono_ns() - opened_mono_ns >= FIRST_RETRY_S * 1e9
            if lasted:
                self._failures = self._expired = 0
        if not lasted:
            self._stop.wait(FIRST_RETRY_S)  # a server that ends watches at once is not asked in a storm

    def _take(self, event: Event) -> None:
        if event.type == "BOOKMARK":
            self._version = msgspec.json.decode(event.object, type=Meta).metadata.resource_version
            return
        if event.type == "ERROR":
            failure = msgspec.json.decode(event.object, type=Failure)
            raise ClusterError(failure.code, f"watching {self._kind.name}: {failure.message}")
        meta, item = self._kind.one(event.object)
        if event.type == "DELETED":
            self._store.discard(meta.uid)
        else:
            self._store.put(meta.uid, item)
        self._version = meta.resource_version
        self._changed()

    def _fresh(self) -> None:
        """The server answers: what is held is what it has, or will be in a moment."""
        self._missing_since_mono_ns = None
        self._set(stale=False, gone=False, denied=False)

    def _failed(self, error: ClusterError) -> None:
        """Told once an outage; then wait: only shortly where the version is too old, since the server is there."""
        if self._stop.is_set():
            return
        if error.status in _UNKNOWN_VERSION:
            self._version = None
        if error.status == HTTPStatus.GONE:
            self._expired += 1
            self._stop.wait(retry_s(self._expired))
            return
        self._failures += 1
        told = self.stale_since_mono_ns is not None or self.gone
        log.log(logging.DEBUG if told else logging.WARNING, "%s", error)
        if error.status == HTTPStatus.NOT_FOUND:
            self._missing()
        else:
            self._missing_since_mono_ns = None
            self._set(stale=True, gone=False, denied=error.denied)
        self._stop.wait(retry_s(self._failures))

    def _missing(self) -> None:
        self._version = None
        now_mono_ns = self._clock.mono_ns()
        if self._missing_since_mono_ns is None:
            self._missing_since_mono_ns = now_mono_ns
        if now_mono_ns - self._missing_since_mono_ns < GONE_S * 1e9:
            self._set(stale=True, gone=self.gone, denied=False)
            return
        if not self.gone:
            self._store.replace({})
        self.synced = True
        self._set(stale=False, gone=True, denied=False)

    def _set(self, *, stale: bool, gone: bool, denied: bool) -> None:
        since = (self.stale_since_mono_ns or self._clock.mono_ns()) if stale else None
        before = (self.stale_since_mono_ns, self.gone, self.denied)
        self.stale_since_mono_ns, self.gone, self.denied = since, gone, denied
        if before != (since, gone, denied):
            self._changed()
