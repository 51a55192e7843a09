"""Brings a pool's DaemonSet to what is rendered, with as few requests as that takes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from podwire_api.names import OPERATOR
from podwire_operator.cluster import Cluster
from podwire_operator.errors import ClusterError
from podwire_operator.objects import DaemonSet, Document, Kind, read
from podwire_operator.takeover import taken_over
from podwire_operator.view import View

REFUSED_AGAIN_S = 60.0
"""What the API server refused is not sent again before, unless it is another thing."""


@dataclass(frozen=True, slots=True)
class _Settled:
    digest: str
    generation: int
    uid: str


@dataclass(frozen=True, slots=True)
class _Refused:
    digest: str
    version: int
    at: float
    error: ClusterError


class Rollout:
    """Remembers what it applied and what came of it: a settled DaemonSet costs no request."""

    def __init__(self, cluster: Cluster, view: View, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        self._cluster = cluster
        self._view = view
        self._clock = clock
        self._settled: dict[str, _Settled] = {}
        self._refused: dict[str, _Refused] = {}
        self.put_back_total = 0
        """Changes of others that were undone."""

    def forget(self, pool: str | None = None) -> None:
        """What is known of a pool that is gone, or of all."""
        for memory in (self._settled, self._refused):
            for name in list(memory) if pool is None else [pool]:
                memory.pop(name, None)

    async def ensure(self, pool: str, wanted: Document, live: DaemonSet | None) -> None:
        """ClusterError; the same one for a while where the server refused, without asking it."""
        if live is not None and live.meta.deleted:
            return  # its end is an event, and makes room for a new one
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        version = live.meta.version if live is not None else 0
        before = self._refused.get(pool)
        same = before is not None and (before.digest, before.version) == (digest, version)
        if before is not None and same and self._clock() - before.at < REFUSED_AGAIN_S:
            raise before.error
        try:
            await self._ensure(pool, wanted, live, digest)
        except ClusterError as error:
            if error.refused:
                self._refused[pool] = _Refused(digest, version, self._clock(), error)
            raise
        self._refused.pop(pool, None)

    async def remove(self, live: DaemonSet) -> None:
        """ClusterError."""
        if not live.meta.deleted:
            await self._cluster.delete_daemon_set(live.meta.name, live.meta.uid)

    async def _ensure(self, pool: str, wanted: Document, live: DaemonSet | None, digest: str) -> None:
        if live is not None and live.document["spec"].get("selector") != wanted["spec"]["selector"]:
            await self._cluster.delete_daemon_set(live.meta.name, live.meta.uid)  # it cannot be changed
            live = None
        if live is not None:
            settled = self._settled.get(pool)
            if (patch := taken_over(live.document, OPERATOR)) is not None:
                await self._take_over(live, patch)
                self.put_back_total += 1
            elif settled == _Settled(digest, live.meta.generation, live.meta.uid) and _labelled(live, wanted):
                return
        applied = read(Kind.DAEMON_SET, await self._apply(wanted))
        self._settled[pool] = _Settled(digest, applied.meta.generation, applied.meta.uid)
        self._view.put(Kind.DAEMON_SET, applied)

    async def _apply(self, wanted: Document) -> Document:
        try:
            return await self._cluster.apply(wanted)
        except ClusterError as error:
            if error.status != HTTPStatus.UNPROCESSABLE_ENTITY or "field is immutable" not in error.said:
                raise
        # Of that name, but another's: without our label it is in no view.
        await self._cluster.delete_daemon_set(wanted["metadata"]["name"])
        return await self._cluster.apply(wanted)

    async def _take_over(self, live: DaemonSet, patch: list[dict[str, object]]) -> None:
        try:
            await self._cluster.take_over(live.meta.name, patch)
        except ClusterError as error:
            if error.status != HTTPStatus.UNPROCESSABLE_ENTITY:
                raise
            # The test of resourceVersion failed: somebody was faster.
            raise ClusterError(str(error), HTTPStatus.CONFLICT, error.said) from error


def _labelled(live: DaemonSet, wanted: Document) -> bool:
    """Labels and owners are no part of the generation."""
    have, want = live.document["metadata"], wanted["metadata"]
    labels = (have.get("labels") or {}).items()
    owners = [owner.get("uid") for owner in have.get("ownerReferences") or []]
    return bool(want["labels"].items() <= labels) and all(each["uid"] in owners for each in want["ownerReferences"])
