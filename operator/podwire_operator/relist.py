"""Puts the view right by lists of our own.

After a gap in a watch kopf lists anew, and hands on what it finds: what was deleted meanwhile it never tells. So the
view is filled by a list before anything is decided, and compared with one whenever a watch may have had a gap.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from podwire_operator.cluster import Cluster
from podwire_operator.errors import ClusterError
from podwire_operator.objects import Kind, read
from podwire_operator.view import View
from podwire_operator.work import Key

log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""A watch that lists anew hands on one object after the other: they are one gap."""
EVERY_S = 600.0
RETRY_S = 2.0
GONE_AFTER_S = 5.0
"""A kind must be unknown to the server for so long before its objects count as gone: a server that has just started
may not know it yet."""
FOREVER = 2**63


class Relister:
    """Its task runs in leaders and followers alike."""

    def __init__(
        self, cluster: Cluster, view: View, add: Callable[[Key], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`add` queues a key; `clock` in seconds."""
        self._cluster = cluster
        self._view = view
        self._add = add
        self._clock = clock
        self._doubted = asyncio.Event()
        self._unknown: dict[Kind, float] = {}
        """Kinds that the server does not know, and since when."""
        self.warm = False
        """Every kind was listed once, or is known not to be there."""
        self.lists_total = 0

    def doubt(self) -> None:
        """The view may be wrong: compare it soon."""
        self._doubted.set()

    async def first(self) -> None:
        """Until the view is filled."""
        while not self.warm:
            if not await self._all():
                await asyncio.sleep(RETRY_S)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._doubted.wait(), GONE_AFTER_S if self._unknown else EVERY_S)
            await asyncio.sleep(SETTLE_S)
            self._doubted.clear()
            if not await self._all():
                self._doubted.set()
                await asyncio.sleep(RETRY_S)

    async def _all(self) -> bool:
        """Whether all could be listed."""
        try:
            for kind in Kind:
                await self._one(kind)
        except ClusterError as error:
            log.log(logging.DEBUG if self.warm else logging.WARNING, "%s", error)
            return False
        self.lists_total += 1
        if any(self._clock() - since < GONE_AFTER_S for since in self._unknown.values()) and not self.warm:
            return False
        self.warm = True
        return True

    async def _one(self, kind: Kind) -> None:
        try:
            items, version = await self._cluster.all(kind)
        except ClusterError as error:
            if not error.missing:
                raise
            since = self._unknown.setdefault(kind, self._clock())
            if self._clock() - since < GONE_AFTER_S:
                return
            items, version = [], FOREVER
        else:
            self._unknown.pop(kind, None)
        for key in self._view.relist(kind, [read(kind, item) for item in items], version):
            self._add(key)
