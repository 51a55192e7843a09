"""A small HTTP server for few readers: read-only; each request is bounded in size and time, and so is their number."""

from __future__ import annotations

import io
import logging
import socket
import socketserver
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from podwire_agent.errors import EndpointError

log = logging.getLogger(__name__)

HEAD_BYTES = 16 << 10
"""Request line and headers together; a service account's token is about 1 KiB."""
HEAD_S = 5.0
"""Until they are there, TLS included."""
REQUEST_S = 10.0
"""A connection's whole life; then it is cut, however slowly it still talks or reads."""

TEXT = "text/plain; charset=utf-8"
METHODS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Request:
    """One that is whole, and of one of METHODS."""

    path: str
    query: Mapping[str, list[str]]
    headers: Message
    peer: str
    """The address that it came from; "" over a Unix socket."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. `length` is that of the body, in bytes."""

    status: HTTPStatus
    body: Iterable[bytes]
    length: int
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: Callable[[], None] | None = None
    """Called when all of it has been handed to the network."""


def in_words(status: HTTPStatus, words: str, **headers: str) -> Reply:
    """A line for people."""
    body = f"{words}\n".encode(errors="backslashreplace")
    return Reply(status, (body,), len(body), headers=headers)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections there may be at once; further ones are turned away."""

    connections: int
    a_peer: int
    """Of one address: one that keeps connections open does not keep the others out."""


@dataclass(frozen=True, slots=True)
class Served:
    """What became of requests and connections since the start."""

    replies: Mapping[int, int]
    """By HTTP status."""
    turned_away: int
    """Connections beyond the limits."""
    broken: int
    """Connections that ended before their reply: cut, given up by the other end, or no TLS."""


@dataclass(slots=True)
class _Connection:
    peer: str
    deadline_s: float
    replied: bool = False


class Server(socketserver.ThreadingTCPServer):
    """Listens from construction; `serve_forever` answers, each connection in a thread of its own."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int] | Path,
        answer: Callable[[Request], Reply],
        limits: Limits,
        secure: Callable[[socket.socket], socket.socket] | None = None,
    ) -> None:
        """`address`: "::" is every one, of IPv4 too; a path is that of a Unix socket for its owner alone. `secure`: a
        connection in TLS, before the handshake.

        OSError where it cannot listen.
        """
        self.answer = answer
        self._limits = limits
        self._secure = secure
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, _Connection] = {}
        self._replies: Counter[int] = Counter()
        self._turned_away = 0
        self._broken = 0
        self._everywhere = not isinstance(address, Path) and address[0] == "::"
        if isinstance(address, Path):
            self.address_family = socket.AF_UNIX
            super().__init__(str(address), _Handler)  # type: ignore[arg-type] # a path, in this family
            return
        if self._everywhere and not socket.has_dualstack_ipv6():
            address, self._everywhere = ("0.0.0.0", address[1]), False  # noqa: S104 (what was asked for)
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Of both families, where that was asked for."""
        if self._everywhere:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
        if self.address_family == socket.AF_UNIX:
            Path(self.socket.getsockname()).chmod(0o600)  # before it listens: nobody can have connected

    def served(self) -> Served:
        """The counters."""
        with self._lock:
            return Served(dict(self._replies), self._turned_away, self._broken)

    def get_request(self) -> tuple[socket.socket, Any]:
        """OSError, which the base class takes for no connection."""
        connection, address = super().get_request()
        if self._secure is None:
            return connection, address
        try:
            return self._secure(connection), address
        except (OSError, EndpointError) as error:
            log.debug("connection from %s cannot be secured: %s", address, error)
            connection.close()
            with self._lock:
                self._broken += 1
            raise OSError(str(error)) from error

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins a thread where there is room."""
        peer = _peer(client_address)
        with self._lock:
            of_peer = sum(each.peer == peer for each in self._connections.values())
            full = len(self._connections) >= self._limits.connections or of_peer >= self._limits.a_peer
            if full:
                self._turned_away += 1
            else:
                self._connections[request] = _Connection(peer, time.monotonic() + min(HEAD_S, REQUEST_S))
        if full:
            if self._secure is None:
                request.settimeout(0)
                with suppress(OSError):
                    request.send(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The connection has ended."""
        with self._lock:
            ended = self._connections.pop(request, None)
            if ended is not None and not ended.replied:
                self._broken += 1
        super().shutdown_request(request)

    def begin_reply(self, request: socket.socket, began_s: float) -> None:
        """The request is whole: it has the rest of its time."""
        with self._lock:
            if request in self._connections:
                self._connections[request].deadline_s = began_s + REQUEST_S

    def end_reply(self, request: socket.socket, status: int) -> None:
        """All of it has been handed to the network."""
        with self._lock:
            self._replies[status] += 1
            if request in self._connections:
                self._connections[request].replied = True

    def service_actions(self) -> None:
        """Between two connections, and several times a second."""
        self.cut_connections(before=time.monotonic())

    def cut_connections(self, before: float = float("inf")) -> None:
        """End those whose deadline has passed; their threads see the end of the stream."""
        with self._lock:
            for stream, connection in self._connections.items():
                if connection.deadline_s <= before:
                    with suppress(OSError):  # it may have ended by itself
                        # Not the TLS socket's own: that takes away the state the reader is using.
                        socket.socket.shutdown(stream, socket.SHUT_RDWR)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """In the connection's thread."""
        error = sys.exception()
        if isinstance(error, OSError):
            log.debug("connection from %s ended badly: %s", client_address, error)
        else:
            log.error("answering %s failed", client_address, exc_info=error)


class _HeadTooLarge(Exception):
    """Request line and headers go on beyond HEAD_BYTES."""


class _Head(io.BufferedIOBase):
    """The lines of a request's head, and no more of them than is allowed."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._left = HEAD_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        """_HeadTooLarge."""
        limit = self._left + 1 if size is None or size < 0 else min(size, self._left + 1)
        line = self._stream.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise _HeadTooLarge
        return line

    def close(self) -> None:
        self._stream.close()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "podwire-agent"
    sys_version = ""
    timeout = REQUEST_S
    command = ""
    requestline = ""

    def setup(self) -> None:
        self._began_s = time.monotonic()
        super().setup()
        self.rfile = _Head(self.rfile)

    def handle(self) -> None:
        try:
            super().handle()
        except _HeadTooLarge:
            self.send_error(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"request line and headers are longer than {HEAD_BYTES} bytes",
            )

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self.server.begin_reply(self.request, self._began_s)
        if self.command not in METHODS:
            words = f"{self.command}: only {' and '.join(METHODS)}"
            self._send(in_words(HTTPStatus.METHOD_NOT_ALLOWED, words, Allow=", ".join(METHODS)))
            return False
        return True

    def do_GET(self) -> None:
        """All there is."""
        path, _, query = self.path.partition("?")
        try:
            asked = parse_qs(query, keep_blank_values=True, max_num_fields=16)
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST, "more than 16 fields in the query")
            return
        self._send(self.server.answer(Request(path, asked, self.headers, _peer(self.client_address))))

    def do_HEAD(self) -> None:
        """The same without the body."""
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """For what the base class finds wrong with a request: in words, not in HTML."""
        status = HTTPStatus(code)
        self.request_version = self.protocol_version  # else it would be answered as in 1991, without a status
        self._send(in_words(status, message or explain or status.phrase))

    def address_string(self) -> str:
        return _peer(self.client_address)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        log.debug("%s %s: %s, %s bytes", self.address_string(), self.requestline, code, size)

    def log_error(self, format: str, *args: object) -> None:  # noqa: A002 the name is the base class's
        log.debug(format, *args)

    def _send(self, reply: Reply) -> None:
        self.close_connection = True
        self.send_response(reply.status)
        fixed = {"Content-Type": reply.content_type, "Content-Length": str(reply.length)}
        for name, value in {**fixed, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        whole = self.command != "HEAD"
        if whole:
            for part in reply.body:
                self.wfile.write(part)
        self.server.end_reply(self.request, reply.status)
        if whole and reply.sent is not None:
            reply.sent()


def _peer(client_address: Any) -> str:
    """The address of an IP socket's other end; "" of a Unix socket's, which has none."""
    return str(client_address[0]) if client_address else ""
