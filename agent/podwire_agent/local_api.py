"""The local API: who talks to whom on this node, over a Unix socket that only its owner may open. Read-only."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlencode

import msgspec
import numpy as np
from numpy.typing import NDArray

from podwire_agent.bounded_http import Limits, Reply, Request, Server, in_words
from podwire_agent.errors import EndpointError, PodwireError, StateError
from podwire_agent.model import Labels, Snapshot
from podwire_agent.sinks.edges import EdgeLine, edge_lines
from podwire_agent.sinks.lines import FlowLine, LedgerLine, flow_lines, ledger_line
from podwire_agent.sinks.naming import AddressTexts

LIMITS = Limits(connections=4, a_peer=4)

LINES = 1000
"""In an answer, where nothing else is asked for."""

LINES_LIMIT = 10_000
"""In any answer: some 6 MB."""

ASK_S = 10.0
"""For an answer."""

CONTENT_TYPE = "application/x-ndjson"
LEFT_OFF = "Podwire-Left-Off"
"""The header that says how many lines more there are."""

_BY_END = ("namespace", "workload")
_FIELDS = {
    "flows": ("monitor", "limit", *_BY_END),
    "edges": ("monitor", "limit", *_BY_END),
    "interfaces": ("monitor", "limit"),
}

Line = FlowLine | EdgeLine | LedgerLine


class Current(Protocol):
    """What the agent knows now. Asked from the API's threads, several at once."""

    def monitors(self) -> Sequence[str]:
        """Their names."""

    def snapshot(self, monitor: str) -> Snapshot | None:
        """What there is to tell of one of them; None: nothing yet, or it has just gone. PodwireError.

        Flows are those of the last report; rows either of that, too, or since they began; ledgers are of now.
        """


class _BadQuery(Exception):
    """The request asks for what there is not, in words."""


@dataclass(frozen=True, slots=True)
class _Query:
    monitors: Sequence[str]
    limit: int
    namespace: str | None
    workload: str | None

    def holds(self, namespace: str, workload: str) -> bool:
        """Of one end."""
        return self.namespace in {None, namespace} and self.workload in {None, workload}

    @property
    def everybody(self) -> bool:
        """It asks for no end."""
        return self.namespace is None and self.workload is None


class LocalApi:
    """Context manager: listens from construction, answers from entry on, in threads of its own."""

    def __init__(self, path: Path, current: Current) -> None:
        """`path`: of the socket; one that is there is of an agent that was killed. EndpointError."""
        self._path = path
        self._current = current
        try:
            path.unlink(missing_ok=True)
            self._server = Server(path, self.answer, LIMITS)
        except OSError as error:
            raise EndpointError(
                f"listening on {path} for the local API failed: {error.strerror or error}; "
                "choose a place with a shorter path, on a local file system, with --state-dir"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="local API", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.cut_connections()
        self._server.server_close()
        with suppress(OSError):
            self._path.unlink()

    def answer(self, request: Request) -> Reply:
        """To one request."""
        what = request.path.removeprefix("/v1/")
        told = _TOLD.get(what) if request.path.startswith("/v1/") else None
        if told is None:
            return in_words(HTTPStatus.NOT_FOUND, f"nothing at {request.path}: try /v1/{', /v1/'.join(_TOLD)}")
        try:
            query = self._query(request.query, _FIELDS[what])
            snapshots = [self._current.snapshot(monitor) for monitor in query.monitors]
        except _BadQuery as error:
            return in_words(HTTPStatus.BAD_REQUEST, str(error))
        except PodwireError as error:
            return in_words(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        return _lines([told(snapshot, query) for snapshot in snapshots if snapshot is not None], query.limit)

    def _query(self, asked: Mapping[str, Sequence[str]], fields: Sequence[str]) -> _Query:
        for name, values in asked.items():
            if name not in fields:
                raise _BadQuery(f"no parameter {name}: there are {', '.join(fields)}")
            if len(values) > 1:
                raise _BadQuery(f"{name}: given more than once")
        given = {name: value for name, (value,) in asked.items()}
        limit = given.get("limit", str(LINES))
        if not limit.isdecimal() or not limit.isascii() or not 0 < int(limit[:9]) <= LINES_LIMIT or len(limit) > 9:
            raise _BadQuery(f"limit: {limit} is no number from 1 to {LINES_LIMIT}")
        monitors = self._current.monitors()
        monitor = given.get("monitor")
        if monitor is not None and monitor not in monitors:
            raise _BadQuery(f"monitor: no {monitor} here; there are: {', '.join(monitors) or 'none'}")
        return _Query(
            monitors if monitor is None else [monitor], int(limit), given.get("namespace"), given.get("workload")
        )


@dataclass(frozen=True, slots=True)
class _Told:
    """What there is to tell of one monitor; lines are made only of what fits."""

    number: int
    lines: Callable[[int], Iterator[Line]]
    """At most so many."""


def _flows(snapshot: Snapshot, query: _Query) -> _Told:
    """The largest first."""
    flows, ends = snapshot.flows, snapshot.ends
    if query.everybody:
        found = np.arange(len(flows))
    elif ends is None:
        found = np.arange(0)
    else:
        wanted = np.array([query.holds(each.namespace, each.workload) for each in snapshot.entities], np.bool_)
        found = np.flatnonzero(wanted[ends["src"]] | wanted[ends["dst"]])
    largest = _largest(found, flows["bytes"][found])

    def lines(limit: int) -> Iterator[Line]:
        for some in flow_lines(snapshot, AddressTexts(), largest[:limit]):
            yield from some

    return _Told(len(largest), lines)


def _edges(snapshot: Snapshot, query: _Query) -> _Told:
    """The largest first."""
    edges = snapshot.edges
    if edges is None:
        return _Told(0, lambda _: iter(()))
    found = np.array([i for i, labels in enumerate(edges.labels) if query.everybody or _has(labels, query)], np.intp)
    largest = _largest(found, edges.counts["bytes"][found]).tolist()
    return _Told(len(largest), lambda limit: edge_lines(snapshot, largest[:limit]))


def _interfaces(snapshot: Snapshot, _: _Query) -> _Told:
    ledgers = snapshot.ledgers
    return _Told(len(ledgers), lambda limit: (ledger_line(ledger, snapshot) for ledger in ledgers[:limit]))


_TOLD: dict[str, Callable[[Snapshot, _Query], _Told]] = {"flows": _flows, "edges": _edges, "interfaces": _interfaces}


def _has(labels: Labels, query: _Query) -> bool:
    return query.holds(labels.src_namespace, labels.src_workload) or query.holds(
        labels.dst_namespace, labels.dst_workload
    )


def _largest(numbers: NDArray[np.intp], sizes: NDArray[np.uint64]) -> NDArray[np.intp]:
    return numbers[np.argsort(~sizes, kind="stable")]  # the complement, since there is no minus here


def _lines(told: Sequence[_Told], limit: int) -> Reply:
    encoder = msgspec.json.Encoder()
    body: list[bytes] = []
    room = limit
    for each in told:
        if room:
            body.append(encoder.encode_lines(list(each.lines(room))))
        room -= min(room, each.number)
    left_off = sum(each.number for each in told) - (limit - room)
    return Reply(HTTPStatus.OK, body, sum(map(len, body)), CONTENT_TYPE, {LEFT_OFF: str(left_off)})


class _Connection(HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("local", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, what: str, query: Mapping[str, str]) -> tuple[bytes, int]:
    """The lines that the agent behind the socket at `path` has of `what`, and how many more there are. StateError."""
    connection = _Connection(path, ASK_S)
    try:
        connection.request("GET", f"/v1/{what}?{urlencode(query)}")
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise StateError(
            f"asking the agent at {path}: {reason}; is one running here, under the same --state-dir, "
            "and are you the user that it runs as?"
        ) from error
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        words = body.decode(errors="replace").strip() or response.reason
        raise StateError(f"asking the agent at {path} for {what}: {words}")
    return body, int(response.headers.get(LEFT_OFF, "0"))
