"""kopf, for its watches alone: each event becomes an object of the view. It decides nothing and stores nothing.

It runs in a thread with a loop of its own: when it ends, it cancels every task of its loop that it does not know, and
it takes the process's signals.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import kopf

from podwire_api.names import GROUP, OPERATOR, VERSION
from podwire_operator.cluster import Credentials
from podwire_operator.objects import Document, Kind
from podwire_operator.render import MANAGED_BY

log = logging.getLogger(__name__)

RESTART_S = 1.0
STOP_S = 3.0
"""So long kopf may take to end; it is a daemon's thread."""
OUTAGE_BACKOFFS_S = (1, 1, 2, 3, 5)
"""Between tries of a request that is not answered; the last one again and again."""
CONNECT_S = 5.0

RESOURCES = {
    Kind.MONITOR: (GROUP, VERSION),
    Kind.POOL: (GROUP, VERSION),
    Kind.AGENT_NODE: (GROUP, VERSION),
    Kind.DAEMON_SET: ("apps", "v1"),
    Kind.NODE: ("", "v1"),
}

Sink = Callable[[Kind, str | None, Document], None]
"""Takes a kind, an event's type (None: of a list) and the object; called in the caller's loop."""


class _Endless:
    """kopf gives up where its list of backoffs ends, and with it all watches."""

    def __iter__(self) -> Iterator[float]:
        yield from OUTAGE_BACKOFFS_S
        while True:
            yield OUTAGE_BACKOFFS_S[-1]


class Watches:
    """Runs kopf, and runs it again where it ends by itself: it does when a kind is deleted."""

    def __init__(
        self,
        namespace: str,
        credentials: Callable[[], Awaitable[Credentials]],
        sink: Sink,
    ) -> None:
        """`credentials` is asked in the loop that calls `run`, whenever kopf wants to log in."""
        self._namespace = namespace
        self._credentials = credentials
        self._sink = sink
        self.running = False
        self.starts_total = 0

    async def run(self) -> None:
        """Until kopf ends, or this is cancelled."""
        home = asyncio.get_running_loop()
        ended = asyncio.Event()
        stop: list[Callable[[], None]] = []

        def work() -> None:
            try:
                asyncio.run(self._survive_kopf(home, stop))
            finally:
                with suppress(RuntimeError):  # the process is at its end
                    home.call_soon_threadsafe(ended.set)

        self.starts_total += 1
        self.running = True
        thread = threading.Thread(target=work, name="kopf", daemon=True)
        thread.start()
        try:
            await ended.wait()
        except asyncio.CancelledError:
            for each in stop:
                each()
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), STOP_S)
            raise
        finally:
            self.running = False

    async def _survive_kopf(self, home: asyncio.AbstractEventLoop, stop: list[Callable[[], None]]) -> None:
        """Whatever kopf dies of, it is told, and watched again."""
        kopfs = asyncio.create_task(self._kopf(home, stop))
        await asyncio.wait([kopfs])
        if not kopfs.cancelled() and (error := kopfs.exception()) is not None:
            log.warning("kopf has ended: %s", error)

    async def _kopf(self, home: asyncio.AbstractEventLoop, stop: list[Callable[[], None]]) -> None:
        loop, flag = asyncio.get_running_loop(), asyncio.Event()

        def request_stop() -> None:
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(flag.set)

        stop.append(request_stop)
        await kopf.operator(
            registry=self._registry(home),
            settings=_settings(),
            standalone=True,
            namespaces=[self._namespace],
            stop_flag=flag,
        )

    def _registry(self, home: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            asked = asyncio.run_coroutine_threadsafe(_awaited(self._credentials), home)
            return _connection(await asyncio.wrap_future(asked))

        for kind, (group, version) in RESOURCES.items():
            self._watch(registry, home, kind, group, version)
        return registry

    def _watch(
        self, registry: kopf.OperatorRegistry, home: asyncio.AbstractEventLoop, kind: Kind, group: str, version: str
    ) -> None:
        @kopf.on.event(group, version, kind.value, id=kind.value, registry=registry)
        async def hand_on(event: Any, **_: Any) -> None:
            home.call_soon_threadsafe(self._sink, kind, event["type"], event["object"])


async def _awaited(ask: Callable[[], Awaitable[Credentials]]) -> Credentials:
    return await ask()


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.networking.error_backoffs = _Endless()
    settings.networking.connect_timeout = CONNECT_S
    settings.scanning.disabled = True  # no watches of CRDs and namespaces, and no rights for them
    settings.posting.enabled = False
    settings.watching.initial_streaming = False
    settings.watching.chunk_size = 250
    settings.watching.label_selectors["apps", "v1", Kind.DAEMON_SET.value] = f"{MANAGED_BY}={OPERATOR}"
    return settings


def _connection(credentials: Credentials) -> kopf.ConnectionInfo:
    scheme, _, token = (credentials.authorization or "").partition(" ")
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.authority,
        certificate_path=credentials.certificate,
        private_key_path=credentials.key,
        scheme=scheme or None,
        token=token or None,
    )
