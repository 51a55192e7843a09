"""The HTTP endpoint: /healthz, /readyz, /metrics. Read-only; for the kubelet and Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from podwire_operator.errors import EndpointError
from podwire_operator.settings import parse_listen
from podwire_operator.telemetry import Answer

REQUEST_S = 10.0


class Endpoint:
    """Context manager: listens while inside."""

    def __init__(
        self,
        listen: str,
        healthz: Callable[[], Answer],
        readyz: Callable[[], Answer],
        metrics: Callable[[str], tuple[bytes, str]],
    ) -> None:
        """`metrics`: the Accept header to text and content type. SettingsError where `listen` is no address."""
        self._listen = listen
        self._host, self._port = parse_listen(listen)
        application = web.Application(client_max_size=1024)
        application.router.add_get("/healthz", _probe(healthz))
        application.router.add_get("/readyz", _probe(readyz))

        async def show(request: web.Request) -> web.Response:
            body, content_type = metrics(request.headers.get("Accept", ""))
            return web.Response(body=body, headers={"Content-Type": content_type})

        application.router.add_get("/metrics", show)
        self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=REQUEST_S, shutdown_timeout=0.5)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port that was found where 0 was asked for."""
        host, port = self._runner.addresses[0][:2]
        return str(host), int(port)

    async def __aenter__(self) -> Self:
        """EndpointError where it cannot listen."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise EndpointError(
                f"listening on {self._listen} for health and metrics failed: {error.strerror}; "
                "choose another place with --listen ADDRESS:PORT, or --listen off"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()


def _probe(ask: Callable[[], Answer]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        given = ask()
        return web.Response(text=f"{given.words}\n", status=200 if given.ok else 503)

    return answer
