"""Takes the statements of other nodes' agents: one thread, that never waits for any one of them."""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from podwire_agent.errors import ExchangeError
from podwire_agent.exchange.identity import Identity
from podwire_agent.exchange.messages import Refusal, Refused, answer_body, read_request
from podwire_agent.exchange.requests import RequestReader, refusal, response
from podwire_agent.model import MonitorUid, Records
from podwire_agent.ports import Clock
from podwire_agent.statements import Envelope, Statuses

log = logging.getLogger(__name__)

CONNECTIONS = 1024
"""Of agents, at once; the one that was idle longest gives way to a new one."""
STRANGERS = 64
"""Connections that have not shown a certificate yet; a further one is turned away."""
BUFFERED_BYTES = 32 << 20
"""Of bodies that are not whole yet, all together."""
HANDSHAKE_S = 5.0
REQUEST_S = 10.0
"""From a request's first byte until its answer is gone."""
IDLE_S = 75.0
"""Between two requests."""
LIFE_S = 3600.0
"""Then a connection ends with the next answer: certificates are looked at again."""
LINGER_S = 2.0
"""After a refusal what still comes is read and thrown away, or the other end would not see the answer."""
LOOK_S = 0.25
"""How often deadlines are looked at."""

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Receiver(Protocol):
    """A monitor, as far as statements are made to it. Called from the server's thread."""

    @property
    def visible(self) -> bool:
        """What goes to the pods of this node can be seen."""

    def take(self, envelope: Envelope, records: Records, now_mono_ns: int) -> Statuses:
        """STATEMENT (n,) -> Status of each."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """Figures for metrics."""

    connections: int
    requests_total: int
    records_total: int
    received_bytes_total: int
    refused_total: dict[Refusal, int]
    handshakes_failed_total: int
    """No certificate, or not one of ours."""
    turned_away_total: int
    """There were too many connections."""


@dataclass(slots=True, eq=False)
class _Connection:
    stream: ssl.SSLSocket
    contexts: int
    born_s: float
    deadline_s: float
    shaken: bool = False
    reader: RequestReader = field(default_factory=RequestReader)
    out: memoryview = field(default_factory=lambda: memoryview(b""))
    closing: bool = False
    """Ends when `out` is gone."""
    lingering: bool = False
    """Was refused; only its end is waited for."""


class ExchangeServer:
    """Context manager: listens from construction, answers from entry on."""

    def __init__(
        self,
        address: tuple[str, int],
        identity: Identity,
        boot_id: str,
        receiver: Callable[[MonitorUid], Receiver | None],
        clock: Clock,
    ) -> None:
        """`address`: "" is every one of this node's. `receiver`: of a monitor, if it runs here. ExchangeError."""
        self._identity = identity
        self._boot_id = boot_id
        self._receiver = receiver
        self._clock = clock
        self._connections: dict[int, _Connection] = {}
        self._refused: Counter[Refusal] = Counter()
        self._requests = self._records = self._bytes = self._handshakes_failed = self._turned_away = 0
        self._stopping = False
        host, port = address
        try:
            dual = not host and socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=dual)
        except OSError as error:
            raise ExchangeError(
                f"listening on port {port} for other agents failed: {error.strerror}; "
                "choose another one with the AgentPool's spec.exchange.port"
            ) from error
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, _READ, None)
        self._thread = threading.Thread(target=self._run, name="exchange", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens; the one that was found where 0 was asked for."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._thread.join()
        for connection in list(self._connections.values()):
            self._close(connection)
        self._selector.close()
        self._listener.close()

    def state(self) -> ServerState:
        """Figures for metrics. From any thread."""
        return ServerState(
            connections=len(self._connections),
            requests_total=self._requests,
            records_total=self._records,
            received_bytes_total=self._bytes,
            refused_total=dict(self._refused),
            handshakes_failed_total=self._handshakes_failed,
            turned_away_total=self._turned_away,
        )

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(LOOK_S):
                if key.data is None:
                    self._accept()
                else:
                    self._step(key.data)
            now_s = time.monotonic()
            for connection in list(self._connections.values()):
                if connection.deadline_s <= now_s:
                    if connection.shaken and connection.reader.begun:
                        self._refused[Refusal.SLOW] += 1
                    elif not connection.shaken:
                        self._handshakes_failed += 1
                    self._close(connection)

    def _accept(self) -> None:
        try:
            plain, address = self._listener.accept()
        except OSError:  # it was gone again, or there is no file descriptor left
            self._turned_away += 1
            self._give_way()
            return
        try:
            contexts = self._identity.contexts()
            self._make_room()
            plain.setblocking(False)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = contexts.server.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        except (ExchangeError, OSError) as error:
            self._turned_away += 1
            log.debug("connection from %s turned away: %s", address, error)
            plain.close()
            return
        now_s = time.monotonic()
        connection = _Connection(stream, contexts.number, now_s, now_s + HANDSHAKE_S)
        self._connections[stream.fileno()] = connection
        self._selector.register(stream, _READ, connection)
        self._step(connection)

    def _make_room(self) -> None:
        """ExchangeError where there is none."""
        if sum(not connection.shaken for connection in self._connections.values()) >= STRANGERS:
            raise ExchangeError("too many connections without a certificate")
        if len(self._connections) >= CONNECTIONS and not self._give_way():
            raise ExchangeError("too many connections")

    def _give_way(self) -> bool:
        """Close the connection that was idle longest, if one is."""
        idle = [each for each in self._connections.values() if each.shaken and not each.reader.begun and not each.out]
        if idle:
            self._close(min(idle, key=lambda each: each.deadline_s))
        return bool(idle)

    def _step(self, connection: _Connection) -> None:
        """Go on as far as it goes without waiting."""
        try:
            if not connection.shaken:
                self._shake(connection)
            while not connection.out:
                self._read(connection)
            self._write(connection)
        except ssl.SSLWantReadError:
            self._await(connection, _READ)
        except ssl.SSLWantWriteError:
            self._await(connection, _READ | _WRITE)
        except OSError as error:  # SSLError is one
            if not connection.shaken:
                self._handshakes_failed += 1
            log.debug("a connection ended badly: %s", error)
            self._close(connection)

    def _shake(self, connection: _Connection) -> None:
        connection.stream.do_handshake()
        if not self._identity.is_agent(connection.stream):
            raise ssl.SSLError("the certificate is not an agent's")
        connection.shaken = True
        connection.deadline_s = time.monotonic() + IDLE_S

    def _read(self, connection: _Connection) -> None:
        """What has come; where a request is whole, its answer is under way."""
        data = connection.stream.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the other end has closed it")
        self._bytes += len(data)
        if connection.lingering:
            return
        if not connection.reader.begun:
            connection.deadline_s = time.monotonic() + REQUEST_S
        self._proceed(connection, data)

    def _proceed(self, connection: _Connection, data: bytes) -> None:
        reader = connection.reader
        try:
            reader.feed(data)
            self._check_room()
            close = reader.head is not None and reader.head.close
            body = reader.take()
            if body is not None:
                close |= connection.contexts != self._identity.contexts().number
                close |= time.monotonic() >= connection.born_s + LIFE_S
                connection.out = memoryview(response(HTTPStatus.OK, self._answer(body), close=close))
                connection.closing = close
        except Refused as refused:
            self._refused[refused.refusal] += 1
            log.debug("a request to the exchange is refused: %s", refused)
            connection.out, connection.lingering = memoryview(refusal(refused)), True
            connection.reader = RequestReader()
            connection.deadline_s = time.monotonic() + LINGER_S

    def _check_room(self) -> None:
        declared = (each.reader.head.length for each in self._connections.values() if each.reader.head is not None)
        if sum(declared) > BUFFERED_BYTES:
            raise Refused(Refusal.BUSY, "too many bodies at once; they are said again with the next cut")

    def _answer(self, body: bytes) -> bytes:
        received_mono_ns = self._clock.mono_ns()
        request = read_request(body, self._boot_id, self._clock.unix_ns(), received_mono_ns)
        receiver = self._receiver(request.monitor)
        if receiver is None:
            raise Refused(Refusal.UNKNOWN_MONITOR, f"monitor {request.monitor} does not run on this node")
        self._requests += 1
        self._records += len(request.records)
        statuses = np.empty(0, np.uint8)
        if len(request.records):
            statuses = receiver.take(request.envelope, request.records, received_mono_ns)
        visible = receiver.visible
        unix_ns, mono_ns = self._clock.unix_ns(), self._clock.mono_ns()
        return answer_body(self._boot_id, statuses, received_mono_ns, unix_ns, mono_ns, visible=visible)

    def _write(self, connection: _Connection) -> None:
        while connection.out:
            connection.out = connection.out[connection.stream.send(connection.out) :]
        if connection.closing:
            self._close(connection)
            return
        if not connection.lingering:
            connection.deadline_s = time.monotonic() + IDLE_S
        self._await(connection, _READ)

    def _await(self, connection: _Connection, events: int) -> None:
        self._selector.modify(connection.stream, events, connection)

    def _close(self, connection: _Connection) -> None:
        if self._connections.pop(connection.stream.fileno(), None) is None:
            return
        self._selector.unregister(connection.stream)
        with suppress(OSError):
            connection.stream.close()
