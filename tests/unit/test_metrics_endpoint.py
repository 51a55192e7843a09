from __future__ import annotations

import gzip
from email.message import Message

import pytest

from podwire_agent.bounded_http import Reply, Request
from podwire_agent.exposition import Exposition, Rows
from podwire_agent.kube.access import Verdict
from podwire_agent.metrics_endpoint import MetricsPage
from podwire_agent.negotiation import Format
from podwire_agent.telemetry import StepTimes
from tests.agent_states import STATE
from tests.pair_rows import pairs


class Shown:
    """Rows, and to whom they were shown."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, frozenset[str]]] = []
        self.sent = 0

    def rows(self, scraper: str, monitors: frozenset[str]) -> Rows:
        self.asked.append((scraper, monitors))
        return Rows((pairs("shop", 3000),), sent=self._was_sent)

    def _was_sent(self) -> None:
        self.sent += 1


def request(headers: dict[str, str] | None = None, *monitors: str) -> Request:
    message = Message()
    for name, value in (headers or {}).items():
        message[name] = value
    return Request("/metrics", {"monitor": [*monitors]}, message, "192.0.2.7")


def page(shown: Shown | None = None, verdict: Verdict | None = None) -> MetricsPage:
    exposition = Exposition(lambda: STATE, StepTimes(), (shown or Shown()).rows)
    judge = None if verdict is None else {"good": verdict}.__getitem__
    return MetricsPage(lambda: exposition, judge)


def body(reply: Reply) -> bytes:
    found = b"".join(reply.body)
    assert len(found) == reply.length
    return found


def rows_of(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines() if line.startswith(b"podwire_flow_bytes_total{")]


def test_a_page_is_the_same_compressed_or_not() -> None:
    made = page()
    plain = made.answer(request({"Accept": "application/openmetrics-text"}))
    packed = made.answer(request({"Accept": "application/openmetrics-text", "Accept-Encoding": "gzip"}))
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert plain.content_type == packed.content_type == Format.OPENMETRICS.value
    text = body(plain)
    assert rows_of(text) == rows_of(gzip.decompress(body(packed)))
    assert len(rows_of(text)) == 3000
    assert text.endswith(b"# EOF\n")
    assert packed.length < plain.length / 5


def test_who_scrapes_which_monitors_is_told_to_the_rows_and_when_it_was_sent() -> None:
    shown = Shown()
    reply = page(shown).answer(request({}, "shop"))
    assert shown.asked == [("192.0.2.7", frozenset({"shop"}))]
    assert shown.sent == 0
    assert reply.sent is not None
    reply.sent()
    assert shown.sent == 1


def test_a_monitor_that_is_not_served_here_is_not_found() -> None:
    reply = page().answer(request({}, "web"))
    assert (reply.status, body(reply)) == (404, b"no monitor web on this node: there are shop\n")


@pytest.mark.parametrize(
    ("headers", "verdict", "status", "words"),
    [
        pytest.param({}, Verdict.ALLOWED, 401, "Bearer TOKEN", id="no token"),
        pytest.param({"Authorization": "Basic good"}, Verdict.ALLOWED, 401, "Bearer TOKEN", id="another scheme"),
        pytest.param({"Authorization": "Bearer  "}, Verdict.ALLOWED, 401, "Bearer TOKEN", id="an empty token"),
        pytest.param({"Authorization": "Bearer good"}, Verdict.STRANGER, 401, "does not know", id="a wrong token"),
        pytest.param(
            {"Authorization": "Bearer good"}, Verdict.FORBIDDEN, 403, "podwire-metrics-reader", id="without the right"
        ),
        pytest.param({"Authorization": "Bearer good"}, Verdict.UNKNOWN, 503, "API server", id="nobody can say"),
        pytest.param({"Authorization": "bearer good"}, Verdict.ALLOWED, 200, "podwire_agent_info", id="with the right"),
    ],
)
def test_with_a_guard_the_answer_is(headers: dict[str, str], verdict: Verdict, status: int, words: str) -> None:
    reply = page(verdict=verdict).answer(request(headers))
    assert reply.status == status
    assert words in body(reply).decode()
    assert ("WWW-Authenticate" in reply.headers) is (status == 401)
    assert ("Retry-After" in reply.headers) is (status == 503)
