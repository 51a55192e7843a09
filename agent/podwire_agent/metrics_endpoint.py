"""GET /metrics: who may, of which monitors, in which format and encoding."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from podwire_agent.bounded_http import Reply, Request, in_words
from podwire_agent.errors import MonitorUnknown
from podwire_agent.kube.access import Verdict
from podwire_agent.negotiation import format_of, takes_gzip

if TYPE_CHECKING:
    from podwire_agent.exposition import Exposition

LEVEL = 1
"""Of compression: the text is so repetitive that higher ones cost more than they save."""
INFLATED_AT_ONCE = 1 << 18

_GZIP = 31
"""zlib's wbits for a gzip stream with the largest window."""
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="podwire"'}

Judge = Callable[[str], Verdict]
"""A bearer token to whether it may read."""


class MetricsPage:
    """Made for each request; one at a time, so that scrapers together need the memory of one."""

    def __init__(self, exposition: Callable[[], Exposition], judge: Judge | None = None) -> None:
        """`exposition`: made with the first request. Without `judge` everybody may read."""
        self._exposition = exposition
        self._judge = judge
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Reply:
        """For /metrics."""
        if self._judge is not None and (refusal := _refusal(request, self._judge)) is not None:
            return refusal
        wanted = format_of(request.headers.get("Accept", ""))
        monitors = frozenset(request.query.get("monitor", ()))
        try:
            with self._lock:
                page = self._exposition().page(wanted, monitors, request.peer)
                packed, length = _packed(page.chunks)
        except MonitorUnknown as error:
            return in_words(HTTPStatus.NOT_FOUND, str(error))
        vary = {"Vary": "Accept, Accept-Encoding"}
        made = partial(Reply, HTTPStatus.OK, content_type=wanted.value, sent=page.sent)
        if takes_gzip(request.headers.get("Accept-Encoding", "")):
            return made(body=packed, length=sum(map(len, packed)), headers=vary | {"Content-Encoding": "gzip"})
        return made(body=_unpacked(packed), length=length, headers=vary)


def _refusal(request: Request, judge: Judge) -> Reply | None:
    """Why the page is not shown; None where it is."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        words = "metrics are shown to who sends `Authorization: Bearer TOKEN` with a token of this cluster"
        return in_words(HTTPStatus.UNAUTHORIZED, words, **_CHALLENGE)
    match judge(token):
        case Verdict.ALLOWED:
            return None
        case Verdict.STRANGER:
            return in_words(HTTPStatus.UNAUTHORIZED, "this cluster does not know the token", **_CHALLENGE)
        case Verdict.FORBIDDEN:
            words = "the token's account may not `get` the nonResourceURL /metrics; bind it to podwire-metrics-reader"
            return in_words(HTTPStatus.FORBIDDEN, words)
        case Verdict.UNKNOWN:
            words = "the API server does not say whether this token may read; try again"
            return in_words(HTTPStatus.SERVICE_UNAVAILABLE, words, **{"Retry-After": "5"})


def _packed(chunks: Iterator[bytes]) -> tuple[list[bytes], int]:
    """As a gzip stream, and how long it was before: a page of 10 000 rows is a hundred times as large as that."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    packed, length = [], 0
    for chunk in chunks:
        length += len(chunk)
        if part := packer.compress(chunk):
            packed.append(part)
    packed.append(packer.flush())
    return packed, length


def _unpacked(packed: list[bytes]) -> Iterator[bytes]:
    """Bit by bit, while it is sent."""
    unpacker = zlib.decompressobj(_GZIP)
    for part in packed:
        rest = part
        while rest:
            yield unpacker.decompress(rest, INFLATED_AT_ONCE)
            rest = unpacker.unconsumed_tail
    yield unpacker.flush()
