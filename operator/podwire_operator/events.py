"""Kubernetes events about monitors and pools: what a person should know, once, and never in the way of anything."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

from podwire_api.conditions import MonitorReason, PoolReason
from podwire_api.names import API_VERSION, OPERATOR
from podwire_operator.cluster import EVENTS_NAMESPACE, Cluster
from podwire_operator.errors import ClusterError
from podwire_operator.judge import Finding
from podwire_operator.objects import Document, Meta

log = logging.getLogger(__name__)

GOOD: frozenset[str] = frozenset({MonitorReason.ATTACHED, MonitorReason.PAUSED, PoolReason.ROLLED_OUT})
PASSING: frozenset[str] = frozenset(
    {
        MonitorReason.PENDING,
        MonitorReason.AGENTS_STARTING,
        MonitorReason.ATTACHING,
        PoolReason.ROLLING_OUT,
        PoolReason.DRAINING,
        PoolReason.NO_MONITORS,
    }
)
"""On the way to somewhere: the status shows them, an event would be noise."""

BURST = 50
REFILL_S = 1.0
"""One more event each; what exceeds it is counted and not posted."""
MAX_NOTE = 1024
"""The API server's limit."""


class Events:
    """Posts, and forgets: the status is what counts."""

    def __init__(
        self,
        cluster: Cluster,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`clock` in seconds."""
        self._cluster = cluster
        self._identity = identity
        self._clock = clock
        self._wall = wall
        self._room = float(BURST)
        self._filled = clock()
        self.dropped_total = 0

    async def tell(self, kind: str, meta: Meta, before: str, ready: Finding) -> None:
        """If the reason of Ready is another one than `before` and worth it."""
        if ready.reason == before or ready.reason in PASSING:
            return
        if not self._allowed():
            self.dropped_total += 1
            return
        try:
            await self._cluster.post_event(self._event(kind, meta, ready))
        except ClusterError as error:
            self.dropped_total += 1
            log.debug("%s", error)

    def _allowed(self) -> bool:
        now = self._clock()
        self._room = min(float(BURST), self._room + (now - self._filled) / REFILL_S)
        self._filled = now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def _event(self, kind: str, meta: Meta, ready: Finding) -> Document:
        note = ready.message.encode()[:MAX_NOTE].decode(errors="ignore")
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{meta.name}.{secrets.token_hex(8)}", "namespace": EVENTS_NAMESPACE},
            "eventTime": self._wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": OPERATOR,
            "reportingInstance": self._identity[:128],
            "regarding": {"apiVersion": API_VERSION, "kind": kind, "name": meta.name, "uid": meta.uid},
            "type": "Normal" if ready.reason in GOOD else "Warning",
            "reason": ready.reason,
            "action": "Reconcile",
            "note": note,
        }
