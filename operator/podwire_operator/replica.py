"""One replica of the operator: the wiring of all, from the start until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

from podwire_operator import __version__
from podwire_operator.authority import Authority
from podwire_operator.cluster import Cluster
from podwire_operator.election import Election
from podwire_operator.endpoint import Endpoint
from podwire_operator.errors import ClusterError, OperatorError
from podwire_operator.events import Events
from podwire_operator.handlers import RESTART_S, Watches
from podwire_operator.logs import fields
from podwire_operator.objects import Document, Kind, read
from podwire_operator.reconcile import Reconciler
from podwire_operator.relist import Relister
from podwire_operator.settings import Settings
from podwire_operator.telemetry import Exposition, OperatorState, health, readiness
from podwire_operator.view import View
from podwire_operator.work import Key, WorkQueue

log = logging.getLogger(__name__)

SERVED_AGAIN_S = 2.0
"""Between two looks whether the kinds are there."""
GIVE_UP_S = 1.0
"""For work under way at the end, and again for the Lease."""


class Replica:
    """Leads or follows; keeps its view warm in both."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        """`cluster` is entered."""
        self._settings = settings
        self._cluster = cluster
        self._view = View()
        self._events = Events(cluster, settings.identity)
        self._authority = Authority(cluster)
        self._queue = WorkQueue(self._run_key)
        self._relister = Relister(cluster, self._view, self._add)
        self._reconciler = Reconciler(
            cluster,
            self._view,
            self._events,
            self._authority,
            settings,
            add=self._add,
            doubt=self._relister.doubt,
        )
        self._election = Election(cluster, settings.identity, lead=self._lead, follow=self._follow)
        self._watches = Watches(settings.namespace, cluster.credentials, self._take)
        self._work: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None
        cluster.may_write = self._election.leading

    def stop(self) -> None:
        """End, soon."""
        self._ended.set()

    async def run(self) -> None:
        """Until told to stop. OperatorError where something that must not end has ended."""
        async with AsyncExitStack() as stack:
            if self._settings.listen != "off":
                exposition = Exposition(self.state)
                endpoint = Endpoint(
                    self._settings.listen,
                    lambda: health(self.state()),
                    lambda: readiness(self.state()),
                    exposition,
                )
                await stack.enter_async_context(endpoint)
                host, port = endpoint.address
                log.info("listening", extra=fields(address=host, port=port))
            background = [self._begin(self._watch(), "watch"), self._begin(self._prepare(), "elect")]
            await self._ended.wait()
            await self._end_work()
            for task in background:
                task.cancel()
            # The election has to be over, or it would take the Lease back.
            await asyncio.wait([background[1]])
            with suppress(TimeoutError):
                await asyncio.wait_for(self._election.release(), GIVE_UP_S)
            await asyncio.wait(background)
        if self._failure is not None:
            raise OperatorError(f"a part of the operator failed: {self._failure}") from self._failure

    def state(self) -> OperatorState:
        """For a scrape or a probe."""
        expiry = self._authority.expiry
        return OperatorState(
            version=__version__,
            leading=self._election.leading(),
            led_total=self._election.transitions_total,
            warm=self._relister.warm,
            watching=self._watches.running,
            watch_starts_total=self._watches.starts_total,
            lists_total=self._relister.lists_total,
            objects={kind.value: self._view.count(kind) for kind in Kind},
            waiting=len(self._queue),
            failing=self._queue.failing,
            dropped_keys_total=self._queue.dropped_total,
            reconciles_total={task.value: count for task, count in self._queue.runs_total.items()},
            errors_total={task.value: count for task, count in self._queue.errors_total.items()},
            requests_total=self._cluster.requests_total,
            writes_total=self._cluster.writes_total,
            put_back_total=self._reconciler.rollout.put_back_total,
            dropped_events_total=self._events.dropped_total,
            expiry_unix_s={"ca": expiry.ca.timestamp(), "agent": expiry.agent.timestamp()} if expiry else {},
            election_idle_s=time.monotonic() - self._election.looked_at if self._relister.warm else 0.0,
        )

    async def _prepare(self) -> None:
        """Nothing is decided before the view is filled."""
        await self._relister.first()
        log.info("the view is filled", extra=fields(**{kind.value: self._view.count(kind) for kind in Kind}))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relister.run())
            group.create_task(self._election.run())

    async def _watch(self) -> None:
        """Again and again: kopf ends with a kind that is deleted, and has to wait for it to be there."""
        while True:
            while not await self._kinds_are_served():
                await asyncio.sleep(SERVED_AGAIN_S)
            self._queue.relax()  # what failed since the kinds were gone
            await self._watches.run()
            log.warning("the watches have ended and are started again")
            self._relister.doubt()
            await asyncio.sleep(RESTART_S)

    async def _kinds_are_served(self) -> bool:
        try:
            return await self._cluster.served()
        except ClusterError as error:
            log.debug("%s", error)
            return False

    def _take(self, kind: Kind, event: str | None, document: Document) -> None:
        """An event of a watch."""
        item = read(kind, document)
        if event is None:
            self._relister.doubt()  # a list: what is not in it, nobody tells
        meta = item.meta
        gone = event == "DELETED"
        keys = self._view.drop(kind, meta.name, meta.uid, meta.version) if gone else self._view.put(kind, item)
        for key in keys:
            self._add(key)

    def _add(self, key: Key) -> None:
        if self._work is not None:
            self._queue.add(key)

    async def _run_key(self, key: Key) -> float | None:
        return await self._reconciler.run(key) if self._election.leading() else None

    def _lead(self) -> None:
        self._queue.clear()
        self._work = self._begin(self._queue.serve(), "work")
        self._reconciler.begin()

    def _follow(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None

    async def _end_work(self) -> None:
        """What is under way may be cut off anywhere: the next leader looks at everything anew."""
        work = self._work
        self._work = None
        if work is not None:
            work.cancel()
            await asyncio.wait([work], timeout=GIVE_UP_S)

    def _begin(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task whose failure is the end of the process: the kubelet starts it anew."""
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._noticed)
        return task

    def _noticed(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        self._failure = task.exception()
        if self._failure is not None:
            log.error("%s failed", task.get_name(), exc_info=self._failure)
        self._ended.set()


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. OperatorError."""
    async with Cluster(settings.namespace, settings.kubeconfig) as cluster:
        replica = Replica(settings, cluster)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, replica.stop)
        log.info("podwire-operator %s begins", __version__, extra=fields(identity=settings.identity))
        await replica.run()
        log.info("podwire-operator ends")
