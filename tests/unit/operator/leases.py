"""A Lease in memory, and what any store of a Lease must do: the fake and the API server pass the same."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable
from dataclasses import replace

from podwire_operator.election import Lease, LeaseStore
from podwire_operator.errors import ClusterError

TIME = "2026-01-01T00:00:00.000000Z"


class FakeLeases:
    """A LeaseStore. `broken`: it does not answer."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.broken = False
        self.writes = 0
        self._versions = itertools.count(1)

    async def read(self) -> Lease | None:
        """The Lease, or None."""
        self._answer()
        return self.lease

    async def create(self, lease: Lease) -> Lease:
        """Conflict where there is one."""
        self._answer()
        if self.lease is not None:
            raise ClusterError("it is there already", 409)
        return self._store(lease)

    async def replace(self, lease: Lease) -> Lease:
        """Conflict where it is not the one that was read; missing where there is none."""
        self._answer()
        if self.lease is None:
            raise ClusterError("there is none", 404)
        if self.lease.version != lease.version:
            raise ClusterError("it has been changed", 409)
        return self._store(lease)

    def _answer(self) -> None:
        if self.broken:
            raise ClusterError("no answer")

    def _store(self, lease: Lease) -> Lease:
        self.writes += 1
        self.lease = replace(lease, version=str(next(self._versions)))
        return self.lease


async def verify(store: LeaseStore) -> None:
    """With a store that has no Lease yet."""
    assert await store.read() is None
    made = await store.create(Lease("a", 15, 0, TIME, TIME))
    assert made == replace(Lease("a", 15, 0, TIME, TIME), version=made.version)
    assert await store.read() == made
    assert await refused(store.create(Lease("b", 15, 0, TIME, TIME))) == 409
    renewed = await store.replace(replace(made, renewed="2026-01-01T00:00:03.000000Z"))
    assert renewed.version != made.version
    assert await store.read() == renewed
    assert await refused(store.replace(replace(made, holder="b"))) == 409
    assert await store.read() == renewed
    released = await store.replace(replace(renewed, holder="", duration_s=1))
    assert (released.holder, released.duration_s) == ("", 1)
    taken = await store.replace(replace(released, holder="b", duration_s=15, transitions=1))
    assert await store.read() == taken


async def refused(request: Awaitable[Lease]) -> int | None:
    """The status of an error; None where there is none."""
    try:
        await request
    except ClusterError as error:
        return error.status
    return None
