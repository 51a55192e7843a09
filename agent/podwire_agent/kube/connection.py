"""Requests to the API server, and the lines of its watches."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

import msgspec
from urllib3 import BaseHTTPResponse, HTTPSConnectionPool, Timeout
from urllib3.exceptions import HTTPError, SSLError

from podwire_agent import __version__
from podwire_agent.errors import ClusterError
from podwire_agent.kube import credentials
from podwire_agent.kube.credentials import Credentials
from podwire_agent.kube.stopping import Stop

CONNECT_S = 5.0
IDLE_CONNECTIONS = 8
"""At most; as many as were ever busy at once."""
SILENT_S = 30.0
"""A peer's host that does not answer the kernel's probes this long is given up: a watch may be quiet for minutes."""

_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENT_S * 1000)),
]


class _Status(msgspec.Struct, gc=False):
    """meta/v1 Status, as the server answers errors."""

    message: str = ""
    reason: str = ""


class Connection:
    """To one API server. May be used by several threads."""

    def __init__(self, who: Credentials) -> None:
        self.errors_total = 0
        """Requests and watches that were refused, not answered or broken off."""
        self._credentials = who
        self._pool: HTTPSConnectionPool | None = None

    @classmethod
    def in_cluster(cls) -> Self:
        """As the service account of the pod that this runs in. ClusterError where it is none."""
        return cls(credentials.in_cluster())

    @classmethod
    def from_kubeconfig(cls, path: Path) -> Self:
        """As the current context of a kubeconfig says. ClusterError where it cannot be used."""
        return cls(credentials.from_kubeconfig(path))

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout_s: float = 10.0,
    ) -> bytes:
        """The answer's body. ClusterError for every status but 2xx, and where there is no answer."""
        timeout = Timeout(connect=min(timeout_s, CONNECT_S), read=timeout_s)
        try:
            response = self._send(method, path, query, body, content_type, timeout, whole=True)
        except HTTPError as error:
            raise self._unanswered(method, path, error) from error
        return response.data

    @contextmanager
    def stream(self, path: str, query: Mapping[str, str], stop: Stop, quiet_s: float) -> Iterator[Iterator[bytes]]:
        """A watch: entered once the server has taken it, then its lines, until the server or `stop` ends them.

        `quiet_s`: longer silence is a failure. ClusterError, on entry and from the lines.
        """
        timeout = Timeout(connect=CONNECT_S, read=quiet_s)
        try:
            response = self._send("GET", path, query, None, "", timeout, whole=False)
        except HTTPError as error:
            raise self._unanswered("GET", path, error) from error
        try:
            with stop.cutting(_cut(response)):
                yield self._lines(path, response, stop)
        finally:
            response.close()

    def close(self) -> None:
        """Idle connections are closed; the next request opens one."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _lines(self, path: str, response: BaseHTTPResponse, stop: Stop) -> Iterator[bytes]:
        rest = b""
        try:
            for chunk in response.stream(1 << 16):
                *lines, rest = (rest + chunk if rest else chunk).split(b"\n")
                yield from lines
        except (HTTPError, OSError) as error:
            if not stop.is_set():
                raise self._unanswered("GET", path, error) from error

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        timeout: Timeout,
        *,
        whole: bool,
    ) -> BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": f"podwire-agent/{__version__}"}
        headers |= self._credentials.authorization()
        if body is not None:
            headers["Content-Type"] = content_type
        response = self._opened().urlopen(
            method,
            f"{path}?{urlencode(query)}" if query else path,
            body=body,
            headers=headers,
            retries=False,
            redirect=False,
            timeout=timeout,
            preload_content=whole,
        )
        if not 200 <= response.status < 300:
            said = _said(response.data)  # the rest of it is small
            response.close()
            self.errors_total += 1
            raise ClusterError(response.status, f"{method} {path}: the API server says {response.status}: {said}")
        return response

    def _opened(self) -> HTTPSConnectionPool:
        pool = self._pool
        if pool is None:
            who = self._credentials
            pool = self._pool = HTTPSConnectionPool(
                who.host,
                who.port,
                maxsize=IDLE_CONNECTIONS,
                ssl_context=who.context(),
                socket_options=_SOCKET_OPTIONS,
                server_hostname=who.server_name,
                assert_hostname=None if who.verify else False,
            )
        return pool

    def _unanswered(self, method: str, path: str, error: Exception) -> ClusterError:
        if isinstance(error, SSLError):
            self._pool = None  # its CAs may have been renewed: the next request reads them anew
        self.errors_total += 1
        who = self._credentials
        return ClusterError(
            None,
            f"{method} {path}: no answer from the API server at {who.host}:{who.port}: {error}; "
            "it is tried again, check that the server runs and that this node reaches it",
        )


def _cut(response: BaseHTTPResponse) -> Callable[[], None]:
    """What ends a read of the response in another thread: it sees the end of the stream."""
    stream: socket.socket | None = getattr(response.connection, "sock", None)

    def cut() -> None:
        if stream is not None:
            with suppress(OSError):  # it may have ended by itself
                # Not the TLS socket's own: that takes away the state the reader is using.
                socket.socket.shutdown(stream, socket.SHUT_RDWR)

    return cut


def _said(body: bytes) -> str:
    """The message of a Status, or the beginning of whatever it is."""
    try:
        status = msgspec.json.decode(body, type=_Status)
    except msgspec.MsgspecError:
        return body[:200].decode(errors="backslashreplace").strip()
    return status.message or status.reason or "nothing"
