from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from podwire_agent import endpoint
from podwire_agent.endpoint import CONNECTIONS, Endpoint, parse_listen
from podwire_agent.errors import EndpointError
from podwire_agent.telemetry import Answer

SOON_S = 5.0


class Told:
    """What the probes answer."""

    health = Answer(True, "ok")
    ready = Answer(True, "ok")

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Semaphore(0)

    def metrics(self, accept: str) -> tuple[bytes, str]:
        self.entered.release()
        self.go_on.wait(SOON_S)
        return b"# figures\n", "application/openmetrics-text" if "openmetrics" in accept else "text/plain"


@pytest.fixture
def told() -> Told:
    return Told()


def listening(told: Told, listen: str = "127.0.0.1:0") -> Endpoint:
    return Endpoint(listen, lambda: told.health, lambda: told.ready, told.metrics)


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


def test_probes_answer_in_words(served: Endpoint, told: Told) -> None:
    assert asked(served, "/healthz")[:2] == (200, "ok\n")
    told.health = Answer(False, "monitor shop: the last drain was 40 s ago")
    told.ready = Answer(False, "monitor b: the first scan is not done")
    assert asked(served, "/healthz?verbose")[:2] == (503, "monitor shop: the last drain was 40 s ago\n")
    assert asked(served, "/readyz")[:2] == (503, "monitor b: the first scan is not done\n")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [({}, "text/plain"), ({"Accept": "application/openmetrics-text"}, "application/openmetrics-text")],
)
def test_metrics_come_in_the_format_asked_for(served: Endpoint, accept: dict[str, str], content_type: str) -> None:
    status, body, headers = asked(served, "/metrics", headers=accept)
    assert (status, body, headers["Content-Type"]) == (200, "# figures\n", content_type)


def test_head_has_no_body(served: Endpoint) -> None:
    status, body, headers = asked(served, "/metrics", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", "10")


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

    scrapers = [threading.Thread(target=scrape) for _ in range(CONNECTIONS)]
    for thread in scrapers:
        thread.start()
    assert all(told.entered.acquire(timeout=SOON_S) for _ in scrapers)
    with socket.create_connection(served.address, timeout=SOON_S) as one_more:
        assert one_more.recv(64).startswith(b"HTTP/1.0 503 ")
    told.go_on.set()
    for thread in scrapers:
        thread.join()
    assert answers == [200] * CONNECTIONS
    assert asked(served, "/healthz")[0] == 200


def test_a_connection_that_never_ends_its_request_is_cut(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "REQUEST_S", 0.2)
    with listening(told) as served, socket.create_connection(served.address, timeout=SOON_S) as connection:
        began = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        assert connection.recv(64) == b""
        assert time.monotonic() - began < SOON_S
        assert asked(served, "/healthz")[0] == 200


def test_nothing_listens_any_more_after_the_end(told: Told) -> None:
    with listening(told) as served:
        address = served.address
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=SOON_S)
