"""Which replica works: a Lease, taken by compare-and-swap. Neither the other's clock nor the server's is ever read.

A leader that could not renew for RENEW_WITHIN_S stops by itself, before anybody may take the Lease after LEASE_S.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from podwire_operator.errors import ClusterError
from podwire_operator.logs import fields

log = logging.getLogger(__name__)

LEASE_S = 15.0
"""So long nobody else takes a Lease that is not renewed."""
RENEW_WITHIN_S = 10.0
"""So long a leader goes on without having renewed it."""
RENEW_EVERY_S = 3.0
LOOK_EVERY_S = 1.0
"""A follower, and a leader whose last renewal failed."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What the Lease says."""

    holder: str = ""
    """"" where nobody has it."""
    duration_s: int = int(LEASE_S)
    transitions: int = 0
    acquired: str = ""
    renewed: str = ""
    version: str = ""
    """resourceVersion: what a replacement is compared with."""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Lease:
        """As the API server sends it."""
        spec = document.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration_s=spec.get("leaseDurationSeconds") or int(LEASE_S),
            transitions=spec.get("leaseTransitions") or 0,
            acquired=spec.get("acquireTime") or "",
            renewed=spec.get("renewTime") or "",
            version=(document.get("metadata") or {}).get("resourceVersion") or "",
        )

    def document(self, name: str, namespace: str) -> dict[str, Any]:
        """As the API server takes it."""
        times = {"acquireTime": self.acquired, "renewTime": self.renewed}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": namespace}
            | ({"resourceVersion": self.version} if self.version else {}),
            "spec": {
                "holderIdentity": self.holder,
                "leaseDurationSeconds": self.duration_s,
                "leaseTransitions": self.transitions,
                **{key: value for key, value in times.items() if value},
            },
        }


class LeaseStore(Protocol):
    """Where the Lease is. Every method raises ClusterError."""

    async def read(self) -> Lease | None:
        """None where there is none yet."""

    async def create(self, lease: Lease) -> Lease:
        """Conflict where there is one."""

    async def replace(self, lease: Lease) -> Lease:
        """Conflict where its version is not `lease.version` any more."""


class Election:
    """One replica's part in it."""

    def __init__(
        self,
        store: LeaseStore,
        identity: str,
        *,
        lead: Callable[[], object],
        follow: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`lead` and `follow` are called when it begins and ceases to lead. `clock` in seconds."""
        self._store = store
        self._identity = identity
        self._lead = lead
        self._follow = follow
        self._clock = clock
        self._wall = wall
        self._seen = Lease()
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self._leads = False
        self._troubled = False
        self.holder = ""
        """As last seen."""
        self.looked_at = clock()
        """When `run` took its last look."""
        self.transitions_total = 0
        """How often this replica began to lead."""

    def leading(self) -> bool:
        """Whether it leads, at this very moment: also true to somebody whose process was stopped for a while."""
        return self._leads and self._clock() - self._renewed_at < RENEW_WITHIN_S

    async def run(self) -> None:
        """Until cancelled; does not give the Lease up."""
        self.looked_at = self._clock()
        while True:
            pause_s = await self.step()
            self.looked_at = self._clock()
            await asyncio.sleep(pause_s)

    async def step(self) -> float:
        """Look, take or renew; after how many seconds to come again."""
        began = self._clock()
        try:
            lease = await self._store.read()
            await self._consider(lease, began)
        except ClusterError as error:
            if not error.conflict:
                self._trouble(error)
        else:
            self._troubled = False
        if self._leads and not self.leading():
            self._stop("the Lease could not be renewed in time")
        renewed = self._leads and self._renewed_at >= began
        return RENEW_EVERY_S if renewed else LOOK_EVERY_S

    async def release(self) -> None:
        """Let the others have it at once. `run` must have ended, or it would take it back."""
        if not self._leads:
            return
        self._stop("this replica ends")
        try:
            now = self._now()
            await self._store.replace(replace(self._seen, holder="", duration_s=1, renewed=now))
        except ClusterError as error:
            log.warning("the Lease is not released, others wait for it to lapse: %s", error)

    async def _consider(self, lease: Lease | None, began: float) -> None:
        if lease is None:
            now = self._now()
            lease = await self._store.create(Lease(self._identity, int(LEASE_S), 0, now, now))
            self._hold(lease, began)
            return
        if lease.version != self._seen.version:
            self._seen, self._seen_at = lease, self._clock()
        self.holder = lease.holder
        mine = lease.holder == self._identity
        if self._leads and not mine:
            self._stop(f"{lease.holder or 'nobody'} holds the Lease")
        lapsed = self._clock() - self._seen_at > lease.duration_s
        if not (mine or not lease.holder or lapsed):
            return
        now = self._now()
        wanted = replace(
            lease,
            holder=self._identity,
            duration_s=int(LEASE_S),
            transitions=lease.transitions + (not mine),
            acquired=lease.acquired if mine and lease.acquired else now,
            renewed=now,
        )
        self._hold(await self._store.replace(wanted), began)

    def _hold(self, lease: Lease, began: float) -> None:
        """From before the request on: the time it took is time others have waited."""
        self._seen, self._seen_at, self._renewed_at = lease, self._clock(), began
        self.holder = lease.holder
        if not self._leads:
            self._leads = True
            self.transitions_total += 1
            log.info("leading", extra=fields(identity=self._identity))
            self._lead()

    def _stop(self, why: str) -> None:
        self._leads = False
        log.info("not leading any more: %s", why, extra=fields(identity=self._identity))
        self._follow()

    def _trouble(self, error: ClusterError) -> None:
        """Once an outage."""
        log.log(logging.DEBUG if self._troubled else logging.WARNING, "%s", error)
        self._troubled = True

    def _now(self) -> str:
        """As a Lease wants it; for people, nobody computes with it."""
        return self._wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
