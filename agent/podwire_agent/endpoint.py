"""The local HTTP endpoint: /healthz, /readyz, /metrics. Small, read-only, bounded."""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from podwire_agent.errors import EndpointError
from podwire_agent.telemetry import AgentState, Answer, StepTimes, health, readiness

if TYPE_CHECKING:
    from podwire_agent.exposition import Exposition

log = logging.getLogger(__name__)

CONNECTIONS = 8
"""At once; a further one is turned away with 503."""

REQUEST_S = 10.0
"""A connection's whole life; then it is cut, however slowly it still talks."""

TEXT = "text/plain; charset=utf-8"


def parse_listen(text: str) -> tuple[str, int]:
    """ADDRESS:PORT, an IPv6 address in brackets. EndpointError where it is not that."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535 or (":" in host and not bracketed):
        raise EndpointError(
            f"--listen {text}: not ADDRESS:PORT; write 127.0.0.1:9437, [::1]:9437, or off for no endpoint"
        )
    return host.strip("[]"), int(port)


def endpoint_of(listen: str, state: Callable[[], AgentState], step_times: StepTimes) -> Endpoint | None:
    """Health, readiness and metrics of an agent; None where `listen` is "off". EndpointError."""
    if listen == "off":
        return None

    @cache
    def exposition() -> Exposition:
        from podwire_agent.exposition import Exposition  # noqa: PLC0415 (3 MB and 30 ms, if anybody scrapes)

        return Exposition(state, step_times)

    return Endpoint(
        listen,
        lambda: health(state(), time.time()),
        lambda: readiness(state()),
        lambda accept: exposition().render(accept),
    )


class Endpoint:
    """Context manager: listens from construction, answers from entry on, in threads of its own."""

    def __init__(
        self,
        listen: str,
        healthz: Callable[[], Answer],
        readyz: Callable[[], Answer],
        metrics: Callable[[str], tuple[bytes, str]],
    ) -> None:
        """`metrics`: the Accept header to text and content type. EndpointError where it cannot listen."""
        host, port = parse_listen(listen)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self._server = _Server(found[0][0], (host, port), {"/healthz": healthz, "/readyz": readyz}, metrics)
        except OSError as error:
            raise EndpointError(
                f"listening on {listen} for health and metrics failed: {error.strerror}; "
                "choose another place with --listen ADDRESS:PORT, or --listen off"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="endpoint", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port that was found where 0 was asked for."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.cut_connections()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(
        self,
        family: int,
        address: tuple[str, int],
        probes: dict[str, Callable[[], Answer]],
        metrics: Callable[[str], tuple[bytes, str]],
    ) -> None:
        self.address_family = family
        self.probes = probes
        self.metrics = metrics
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            full = len(self._deadlines) >= CONNECTIONS
            if not full:
                self._deadlines[request] = time.monotonic() + REQUEST_S
        if full:
            request.settimeout(0)
            request.send(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Between two connections, and several times a second."""
        self.cut_connections(before=time.monotonic())

    def cut_connections(self, before: float = float("inf")) -> None:
        """End those whose deadline has passed; their threads see the end of the stream."""
        with self._lock:
            for connection, deadline in self._deadlines.items():
                if deadline <= before:
                    with suppress(OSError):  # it may have ended by itself
                        connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            log.debug("connection from %s ended badly: %s", client_address, error)
        else:
            log.error("answering %s failed", client_address, exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "podwire-agent"
    sys_version = ""
    timeout = REQUEST_S

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if self.command not in {"GET", "HEAD"}:
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command}: only GET and HEAD\n", Allow="GET, HEAD")
            return False
        return True

    def do_GET(self) -> None:
        """All there is."""
        path = self.path.partition("?")[0]
        probe = self.server.probes.get(path)
        if probe is not None:
            answer = probe()
            self._answer(HTTPStatus.OK if answer.ok else HTTPStatus.SERVICE_UNAVAILABLE, answer.words + "\n")
        elif path == "/metrics":
            body, content_type = self.server.metrics(self.headers.get("Accept", ""))
            self._send(HTTPStatus.OK, body, content_type)
        else:
            self._answer(HTTPStatus.NOT_FOUND, f"nothing at {path}: try /healthz, /readyz, /metrics\n")

    def do_HEAD(self) -> None:
        """The same without the body."""
        self.do_GET()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        log.debug("%s %s: %s, %s bytes", self.address_string(), self.requestline, code, size)

    def log_error(self, format: str, *args: object) -> None:  # noqa: A002 the name is the base class's
        log.debug(format, *args)

    def _answer(self, status: HTTPStatus, words: str, **headers: str) -> None:
        self._send(status, words.encode(errors="backslashreplace"), TEXT, **headers)

    def _send(self, status: HTTPStatus, body: bytes, content_type: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
