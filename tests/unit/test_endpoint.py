from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from podwire_agent import bounded_http
from podwire_agent.bounded_http import HEAD_BYTES, Limits, Reply, Request
from podwire_agent.endpoint import LOCAL, Endpoint, Endpoints, _probe, parse_listen
from podwire_agent.errors import EndpointError
from podwire_agent.settings import Settings
from podwire_agent.telemetry import AgentState, Answer, StepTimes
from tests.kernel.netns import eventually

SOON_S = 5.0


class Told:
    """What is answered."""

    health = Answer(True, "ok")
    ready = Answer(True, "ok")

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Semaphore(0)
        self.sent = 0

    def metrics(self, request: Request) -> Reply:
        self.entered.release()
        self.go_on.wait(SOON_S)
        body = b"# figures for " + request.query.get("monitor", ["all"])[0].encode()
        return Reply(http.HTTPStatus.OK, (body[:5], body[5:]), len(body), sent=self._was_sent)

    def _was_sent(self) -> None:
        self.sent += 1


@pytest.fixture
def told() -> Told:
    return Told()


def listening(told: Told, listen: str = "127.0.0.1:0", limits: Limits = LOCAL) -> Endpoint:
    routes = {
        "/healthz": _probe(lambda: told.health),
        "/readyz": _probe(lambda: told.ready),
        "/metrics": told.metrics,
    }
    return Endpoint(listen, routes, limits=limits)


@pytest.fixture
def served(told: Told) -> Iterator[Endpoint]:
    with listening(told) as served:
        yield served


def asked(
    served: Endpoint, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(*served.address, timeout=SOON_S)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode(), response.headers
    finally:
        connection.close()


def said(served: Endpoint, sent: bytes) -> bytes:
    """All that is answered to these bytes."""
    with socket.create_connection(served.address, timeout=SOON_S) as connection:
        connection.sendall(sent)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
        return answer


def test_probes_answer_in_words(served: Endpoint, told: Told) -> None:
    assert asked(served, "/healthz")[:2] == (200, "ok\n")
    told.health = Answer(False, "monitor shop: the last drain was 40 s ago")
    told.ready = Answer(False, "monitor b: the first scan is not done")
    assert asked(served, "/healthz?verbose")[:2] == (503, "monitor shop: the last drain was 40 s ago\n")
    assert asked(served, "/readyz")[:2] == (503, "monitor b: the first scan is not done\n")


def test_a_query_reaches_who_answers_and_a_reply_is_told_when_it_is_sent(served: Endpoint, told: Told) -> None:
    status, body, headers = asked(served, "/metrics?monitor=shop")
    assert (status, body, headers["Content-Length"]) == (200, "# figures for shop", "18")
    eventually(lambda: told.sent == 1, "it was sent")


def test_head_has_no_body(served: Endpoint, told: Told) -> None:
    status, body, headers = asked(served, "/metrics", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", "17")
    eventually(lambda: served.server.served().replies == {200: 1}, "it is counted")
    assert told.sent == 0


def test_other_paths_are_told_what_there_is(served: Endpoint) -> None:
    status, body, _ = asked(served, "/v1/flows")
    assert (status, body) == (404, "nothing at /v1/flows: try /healthz, /readyz, /metrics\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "BREW"])
def test_other_methods_are_refused_in_words(served: Endpoint, method: str) -> None:
    status, body, headers = asked(served, "/metrics", method)
    assert (status, body, headers["Allow"]) == (405, f"{method}: only GET and HEAD\n", "GET, HEAD")


def test_an_ipv6_address_in_brackets_is_served(told: Told) -> None:
    with listening(told, "[::1]:0") as served:
        assert asked(served, "/readyz")[0] == 200


def test_a_port_in_use_is_told_with_what_to_do(served: Endpoint, told: Told) -> None:
    host, port = served.address
    with pytest.raises(EndpointError, match=rf"{host}:{port} .* failed: Address already in use; .*--listen"):
        listening(told, f"{host}:{port}")


def test_an_address_of_another_machine_is_told(told: Told) -> None:
    with pytest.raises(EndpointError, match=r"192\.0\.2\.1:9437 .* failed: Cannot assign requested address"):
        listening(told, "192.0.2.1:9437")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:9437", ("127.0.0.1", 9437)), ("[::1]:80", ("::1", 80)), ("localhost:0", ("localhost", 0))],
)
def test_a_place_to_listen_is_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text", ["", "9437", ":9437", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", "::1:80", "off"]
)
def test_what_is_no_place_to_listen_is_refused_with_examples(text: str) -> None:
    with pytest.raises(EndpointError, match=r"not ADDRESS:PORT; write 127\.0\.0\.1:9437"):
        parse_listen(text)


def test_more_connections_than_the_limit_are_turned_away_and_the_others_are_served(
    served: Endpoint, told: Told
) -> None:
    told.go_on.clear()
    answers: list[int] = []

    def scrape() -> None:
        answers.append(asked(served, "/metrics")[0])

    scrapers = [threading.Thread(target=scrape) for _ in range(LOCAL.connections)]
    for thread in scrapers:
        thread.start()
    assert all(told.entered.acquire(timeout=SOON_S) for _ in scrapers)
    with socket.create_connection(served.address, timeout=SOON_S) as one_more:
        assert one_more.recv(64).startswith(b"HTTP/1.0 503 ")
    told.go_on.set()
    for thread in scrapers:
        thread.join()
    assert answers == [200] * LOCAL.connections
    assert asked(served, "/healthz")[0] == 200


def test_a_connection_that_never_ends_its_request_is_cut(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "HEAD_S", 0.2)
    with listening(told) as served, socket.create_connection(served.address, timeout=SOON_S) as connection:
        began = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        assert connection.recv(64) == b""
        assert time.monotonic() - began < SOON_S
        assert asked(served, "/healthz")[0] == 200
        eventually(lambda: served.server.served().broken == 1, "it is counted")


def test_a_reader_that_never_reads_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "REQUEST_S", 0.3)
    endless = Reply(http.HTTPStatus.OK, iter(lambda: bytes(1 << 20), None), 1 << 40)
    with (
        Endpoint("127.0.0.1:0", {"/metrics": lambda _: endless}) as served,
        socket.create_connection(served.address, timeout=SOON_S) as connection,
    ):
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        eventually(lambda: served.server.served().broken == 1, "it is cut")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(
            b"GET /healthz HTTP/1.1\r\nX: " + bytes([65]) * HEAD_BYTES + b"\r\n\r\n", 431, id="one long header"
        ),
        pytest.param(b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 90 + b"\r\n", 200, id="many short headers"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, id="too many short headers"),
        pytest.param(b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\n\r\n", 431, id="a long path"),
        pytest.param(b"GET /metrics?" + b"a=b&" * 20 + b" HTTP/1.1\r\n\r\n", 400, id="a query of many fields"),
        pytest.param(b"nonsense\r\n\r\n", 400, id="no request"),
        pytest.param(b"GET /healthz HTTP/9.9\r\n\r\n", 505, id="a version to come"),
    ],
)
def test_a_head_is_bounded_and_what_is_wrong_with_it_is_told_in_words(
    served: Endpoint, head: bytes, status: int
) -> None:
    answer = said(served, head).decode()
    assert answer.startswith(f"HTTP/1.0 {status} ")
    assert "Content-Type: text/plain" in answer
    eventually(lambda: served.server.served().replies == {status: 1}, "it is counted")


def test_who_holds_connections_does_not_keep_others_out(told: Told) -> None:
    limits = Limits(connections=3, a_peer=2)
    with listening(told, "[::]:0", limits) as served:
        port = served.address[1]
        holding = [socket.create_connection(("127.0.0.1", port), timeout=SOON_S) for _ in range(2)]
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=SOON_S) as third:
                assert third.recv(64).startswith(b"HTTP/1.0 503 ")
            with socket.create_connection(("::1", port), timeout=SOON_S) as other:
                other.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert other.recv(64).startswith(b"HTTP/1.0 200 ")
        finally:
            for each in holding:
                each.close()
        assert served.server.served().turned_away == 1


def test_without_a_cluster_metrics_are_beside_health_and_all_requests_are_counted() -> None:
    state = AgentState("0.1.0", "6.1.0", "libbpf", 0.0, ())
    with Endpoints(Settings(listen="127.0.0.1:0"), lambda: state, StepTimes()) as endpoints:
        (served,) = endpoints._endpoints
        status, body, headers = asked(served, "/metrics", headers={"Accept": "application/openmetrics-text"})
        assert (status, body[-6:]) == (200, "# EOF\n")
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert asked(served, "/metrics?monitor=shop")[:2] == (
            404,
            "no monitor shop on this node: there is none\n",
        )
        eventually(lambda: endpoints.state().replies == {200: 1, 404: 1}, "they are counted")


def test_nothing_listens_any_more_after_the_end(told: Told) -> None:
    with listening(told) as served:
        address = served.address
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=SOON_S)
