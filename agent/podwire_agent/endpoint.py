"""What the agent answers over HTTP: health and readiness on the loopback address, and /metrics.

Without a cluster both are one endpoint. In a cluster the metrics have one of their own, for the node's network: with
TLS and for bearers of a token that may read them, unless the pool leaves that out.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import cache
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Self

from podwire_agent.bounded_http import Limits, Reply, Request, Server, in_words
from podwire_agent.errors import EndpointError
from podwire_agent.metrics_endpoint import Judge, MetricsPage
from podwire_agent.settings import MetricsAuth, Settings
from podwire_agent.telemetry import AgentState, Answer, EndpointState, StepTimes, health, readiness
from podwire_agent.tls import ServingCertificate

if TYPE_CHECKING:
    from podwire_agent.exposition import Exposition
    from podwire_agent.kube.access import Access
    from podwire_agent.pair_rows import Shown

log = logging.getLogger(__name__)

OFF = "off"
LOCAL = Limits(connections=8, a_peer=8)
"""Whoever asks is on this node, and has its loopback address."""
OF_THE_NETWORK = Limits(connections=16, a_peer=4)

Route = Callable[[Request], Reply]


def parse_listen(text: str, option: str = "--listen") -> tuple[str, int]:
    """ADDRESS:PORT, an IPv6 address in brackets. EndpointError where it is not that."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535 or (":" in host and not bracketed):
        raise EndpointError(
            f"{option} {text}: not ADDRESS:PORT; write 127.0.0.1:9437, [::1]:9437, or {OFF} for no endpoint"
        )
    return host.strip("[]"), int(port)


class Endpoint:
    """Context manager: listens from construction, answers from entry on, in threads of its own."""

    def __init__(
        self,
        listen: str,
        routes: Mapping[str, Route],
        *,
        option: str = "--listen",
        limits: Limits = LOCAL,
        secure: Callable[[socket.socket], socket.socket] | None = None,
    ) -> None:
        """`routes`: by path. `option`: what to change where that is no place to listen. EndpointError."""
        self._routes = routes
        address = parse_listen(listen, option)
        try:
            self.server = Server(address, self._answer, limits, secure)
        except OSError as error:
            raise EndpointError(
                f"listening on {listen} for {' '.join(routes)} failed: {error.strerror}; "
                f"choose another place with {option} ADDRESS:PORT, or {option} {OFF}"
            ) from error
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.2,), name="endpoint", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port that was found where 0 was asked for."""
        host, port = self.server.server_address[:2]
        return str(host), int(port)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.cut_connections()
        self.server.server_close()

    def _answer(self, request: Request) -> Reply:
        route = self._routes.get(request.path)
        if route is None:
            return in_words(HTTPStatus.NOT_FOUND, f"nothing at {request.path}: try {', '.join(self._routes)}")
        return route(request)


class Endpoints:
    """Context manager: all that an agent listens on. EndpointError on construction, where it cannot."""

    def __init__(
        self,
        settings: Settings,
        state: Callable[[], AgentState],
        step_times: StepTimes,
        access: Access | None = None,
        shown: Callable[[], Iterable[Shown]] = tuple,
    ) -> None:
        """`access`: in a cluster, whom it lets read. `shown`: the monitors, for the rows of
        those that have any to show.
        """
        self._access = access
        self._stack = ExitStack()
        self._endpoints: list[Endpoint] = []

        @cache
        def exposition() -> Exposition:
            from podwire_agent.exposition import Exposition  # noqa: PLC0415 (3 MB, if anybody scrapes)
            from podwire_agent.pair_rows import PairRows  # noqa: PLC0415 (the same)

            return Exposition(state, step_times, PairRows(shown))

        def page(judge: Judge | None) -> dict[str, Route]:
            return {"/metrics": MetricsPage(exposition, judge).answer}

        local: dict[str, Route] = {
            "/healthz": _probe(lambda: health(state(), time.time())),
            "/readyz": _probe(lambda: readiness(state())),
        }
        if access is None:
            local |= page(None)
        elif settings.metrics != OFF:
            guarded = settings.metrics_auth is MetricsAuth.KUBERNETES
            self._endpoints.append(
                Endpoint(
                    settings.metrics,
                    page(access.verdict if guarded else None),
                    option="--metrics",
                    limits=OF_THE_NETWORK,
                    secure=ServingCertificate(settings.tls_dir).secured if guarded else None,
                )
            )
        if settings.listen != OFF:
            self._endpoints.append(Endpoint(settings.listen, local))

    def __enter__(self) -> Self:
        for endpoint in self._endpoints:
            self._stack.enter_context(endpoint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def state(self) -> EndpointState:
        """What became of those who asked."""
        served = [each.server.served() for each in self._endpoints]
        replies: Counter[int] = Counter()
        for each in served:
            replies.update(each.replies)
        return EndpointState(
            replies=replies,
            turned_away=sum(each.turned_away for each in served),
            broken=sum(each.broken for each in served),
            reviews={} if self._access is None else self._access.reviews(),
        )


def _probe(ask: Callable[[], Answer]) -> Route:
    def answer(_: Request) -> Reply:
        given = ask()
        return in_words(HTTPStatus.OK if given.ok else HTTPStatus.SERVICE_UNAVAILABLE, given.words)

    return answer
