from __future__ import annotations

import socket
import ssl
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from podwire_agent.errors import ExchangeError
from podwire_agent.exchange import identity, server
from podwire_agent.exchange.messages import ANSWER, BODY_LIMIT, HEADER, RECORDS_LIMIT, Refusal, read_answer
from podwire_agent.exchange.server import ExchangeServer
from podwire_agent.model import MonitorUid
from podwire_agent.statements import STATEMENT, Status
from tests.unit.exchange.agents import SOON_S, Installation, Secret, Taker, asked, body, serving, shaken, until

pytestmark = pytest.mark.unit


@pytest.fixture
def context(secret: Secret) -> ssl.SSLContext:
    return secret.identity().contexts().client


def test_statements_arrive_as_they_were_sent(served: ExchangeServer, context: ssl.SSLContext, taker: Taker) -> None:
    status, answer = asked(served.port, context, body(1000))
    assert status == 200
    _, statuses = read_answer(answer, 1000)
    assert (statuses == Status.TAKEN).all()
    [(envelope, taken)] = taker.taken
    assert (envelope.node, envelope.boot_id) == ("node-a", "boot-a")
    assert taken["packets"].tolist() == [2**63 + number for number in range(1000)]
    assert taken["wire"]["src_port"].tolist() == list(range(1000))
    assert 0 <= envelope.latest_offset_ns < SOON_S * 1e9


def damaged(content: bytes, name: str, value: object) -> bytes:
    header = np.frombuffer(content, HEADER, count=1).copy()
    header[name] = value
    return header.tobytes() + content[HEADER.itemsize :]


def with_record(name: str, value: int) -> bytes:
    content = body(1)
    record = np.frombuffer(zlib.decompress(content[HEADER.itemsize :]), STATEMENT).copy()
    record[name] = value
    return content[: HEADER.itemsize] + zlib.compress(record.tobytes())


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        pytest.param(lambda: b"", Refusal.MALFORMED, id="nothing"),
        pytest.param(lambda: b"PWLS", Refusal.MALFORMED, id="a beginning"),
        pytest.param(lambda: body(3)[:-1], Refusal.MALFORMED, id="a byte too few"),
        pytest.param(lambda: body(3) + b"x", Refusal.MALFORMED, id="a byte too many"),
        pytest.param(lambda: damaged(body(1), "magic", b"HTTP"), Refusal.MALFORMED, id="something else"),
        pytest.param(lambda: damaged(body(1), "version", 2), Refusal.MALFORMED, id="another version"),
        pytest.param(lambda: damaged(body(1), "record_bytes", 64), Refusal.MALFORMED, id="another size of records"),
        pytest.param(lambda: damaged(body(1), "records", 2), Refusal.MALFORMED, id="another number of records"),
        pytest.param(lambda: damaged(body(1), "records", 2**32 - 1), Refusal.TOO_LARGE, id="too many records"),
        pytest.param(
            lambda: damaged(body(1), "records", 1)[: HEADER.itemsize] + zlib.compress(bytes(10**8)),
            Refusal.MALFORMED,
            id="what unpacks to far more",
        ),
        pytest.param(lambda: body(3)[: HEADER.itemsize] + b"x" * 360, Refusal.MALFORMED, id="not packed"),
        pytest.param(lambda: damaged(body(1), "node", b"\xff"), Refusal.MALFORMED, id="a name that is not UTF-8"),
        pytest.param(lambda: damaged(body(1), "cut_mono_ns", 2**63), Refusal.MALFORMED, id="a time out of bounds"),
        pytest.param(lambda: damaged(body(1), "offset_ns", -(2**63)), Refusal.MALFORMED, id="an offset out of bounds"),
        pytest.param(
            lambda: with_record("last_mono_ns", 2**64 - 1), Refusal.MALFORMED, id="a packet's time out of bounds"
        ),
        pytest.param(lambda: with_record("handed", 2**64 - 1), Refusal.MALFORMED, id="more handed over than sent"),
        pytest.param(lambda: with_record("uncompared", 2**64 - 1), Refusal.MALFORMED, id="more uncompared than sent"),
        pytest.param(lambda: with_record("settled", 1), Refusal.MALFORMED, id="more settled than handed over"),
        pytest.param(lambda: body(1, age_s=61), Refusal.TOO_OLD, id="older than 60 s"),
        pytest.param(lambda: body(1, age_s=-70), Refusal.TOO_OLD, id="of the future"),
        pytest.param(
            lambda: body(1, MonitorUid("another")), Refusal.UNKNOWN_MONITOR, id="a monitor that does not run here"
        ),
        pytest.param(lambda: body(1, boot_id="boot-z"), Refusal.OTHER_BOOT, id="a clock that ended with a boot"),
    ],
)
def test_what_cannot_be_taken_is_refused_and_counted(
    served: ExchangeServer, context: ssl.SSLContext, taker: Taker, content: Callable[[], bytes], refusal: Refusal
) -> None:
    status, words = asked(served.port, context, content())
    assert status == refusal.value
    assert words.decode().strip()
    assert taker.taken == []
    assert served.state().refused_total == {refusal: 1}
    assert asked(served.port, context, body(1))[0] == 200


@pytest.mark.parametrize(
    ("head", "refusal"),
    [
        pytest.param("POST /v1/statements HTTP/1.1\r\n\r\n", Refusal.NO_LENGTH, id="no length"),
        pytest.param(
            "POST /v1/statements HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal.NO_LENGTH, id="chunks"
        ),
        pytest.param(
            f"POST /v1/statements HTTP/1.1\r\nContent-Length: {BODY_LIMIT + 1}\r\n\r\n",
            Refusal.TOO_LARGE,
            id="too much",
        ),
        pytest.param(
            "POST /v1/statements HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            Refusal.MALFORMED,
            id="two lengths",
        ),
        pytest.param("GET /v1/statements HTTP/1.1\r\n\r\n", Refusal.METHOD, id="another method"),
        pytest.param("POST / HTTP/1.1\r\n\r\n", Refusal.NOT_FOUND, id="another place"),
        pytest.param("\x16\x03\x01 what\r\n\r\n", Refusal.MALFORMED, id="not HTTP"),
        pytest.param("POST /v1/statements HTTP/1.1\r\nX: " + "x" * 5000, Refusal.LONG_HEAD, id="a long header"),
    ],
)
def test_requests_that_are_no_statements_are_refused(
    served: ExchangeServer, context: ssl.SSLContext, head: str, refusal: Refusal
) -> None:
    with shaken(served.port, context) as stream:
        stream.sendall(head.encode())
        answer = stream.recv(4096)
    assert answer.startswith(f"HTTP/1.1 {refusal.value.value} ".encode())
    assert served.state().refused_total == {refusal: 1}


def test_the_largest_body_is_taken(served: ExchangeServer, context: ssl.SSLContext) -> None:
    status, answer = asked(served.port, context, body(RECORDS_LIMIT))
    assert (status, len(answer)) == (200, ANSWER.itemsize + RECORDS_LIMIT)


def test_a_plain_connection_gets_nothing(served: ExchangeServer, taker: Taker) -> None:
    with socket.create_connection(("127.0.0.1", served.port), SOON_S) as plain:
        plain.sendall(b"POST /v1/statements HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        with suppress(ConnectionResetError):
            assert not plain.recv(100).startswith(b"HTTP")
    until(lambda: served.state().handshakes_failed_total == 1, "not counted")
    assert taker.taken == []


def no_certificate(secret: Secret) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(secret.directory / "..data" / identity.AUTHORITIES)
    return context


@pytest.mark.parametrize("how", ["no certificate", "another CA", "expired", "not an agent's", "TLS 1.1"])
def test_who_cannot_prove_to_be_an_agent_is_refused(
    served: ExchangeServer,
    secret: Secret,
    installation: Installation,
    taker: Taker,
    tmp_path: Path,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Secret(tmp_path / "other")
    if how == "no certificate":
        context = no_certificate(secret)
    elif how == "another CA":
        other.write({**Installation().reconcile(), identity.AUTHORITIES: (installation.agent or {})["ca.crt"]})
        context = other.identity().contexts().client
    elif how == "expired":
        past = Installation(installation.now - timedelta(days=100), installation.ca)
        other.write(past.reconcile())
        context = other.identity().contexts().client
    elif how == "not an agent's":
        monkeypatch.setattr("podwire_operator.certificates.AGENT", "somebody")
        other.write(Installation(installation.now, installation.ca).reconcile())
        context = other.identity().contexts().client
    else:
        context = secret.identity().contexts().client
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = ssl.TLSVersion.TLSv1_1
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):  # noqa: PT011 (how the other end says it is the library's)
        asked(served.port, context, body(1))
    until(lambda: served.state().handshakes_failed_total == 1, "not counted")
    assert taker.taken == []
    with pytest.raises(OSError):  # noqa: PT011
        asked(served.port, no_certificate(secret), body(1))


def test_slow_ones_are_cut_and_hold_up_nobody(
    secret: Secret, context: ssl.SSLContext, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 0.5)
    monkeypatch.setattr(server, "HANDSHAKE_S", 0.5)
    with serving(secret, taker) as served, shaken(served.port, context) as slow:
        slow.sendall(b"POST /v1/statements HTTP/1.1\r\n")
        assert asked(served.port, context, body(10))[0] == 200
        began = time.monotonic()
        with suppress(OSError):
            while True:
                slow.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - began < SOON_S
        assert served.state().refused_total == {Refusal.SLOW: 1}


def test_connections_beyond_the_bound_are_turned_away_or_idle_ones_give_way(
    secret: Secret, context: ssl.SSLContext, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 4)
    with serving(secret, taker) as served:
        streams = [shaken(served.port, context) for _ in range(8)]
        until(lambda: served.state().connections <= 4, "more than the bound")
        assert asked(served.port, context, body(1))[0] == 200
        for stream in streams:
            stream.close()


def test_strangers_beyond_the_bound_are_turned_away(
    secret: Secret, context: ssl.SSLContext, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STRANGERS", 2)
    with serving(secret, taker) as served:
        strangers = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(4)]
        until(lambda: served.state().turned_away_total == 2, "not turned away")
        for stranger in strangers:
            stranger.close()
        until(lambda: served.state().connections == 0, "still there")
        assert asked(served.port, context, body(1))[0] == 200


def test_bodies_beyond_the_room_are_put_off(
    secret: Secret, context: ssl.SSLContext, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BUFFERED_BYTES", 5_000)
    with serving(secret, taker) as served:
        status, _ = asked(served.port, context, body(1000))
        assert status == Refusal.BUSY.value
        assert asked(served.port, context, body(100))[0] == 200


def test_a_port_that_is_taken_is_told(served: ExchangeServer, secret: Secret) -> None:
    with pytest.raises(ExchangeError, match=rf"port {served.port}.*exchange\.port"):
        ExchangeServer(("127.0.0.1", served.port), secret.identity(), "b", lambda _: None, served._clock)


def test_without_certificates_it_turns_everybody_away_until_there_are_some(tmp_path: Path, taker: Taker) -> None:
    secret = Secret(tmp_path / "tls")
    installation = Installation()
    elsewhere = Secret(tmp_path / "elsewhere")
    elsewhere.write(installation.reconcile())
    context = elsewhere.identity().contexts().client
    with serving(secret, taker) as served:
        with pytest.raises(OSError):  # noqa: PT011
            asked(served.port, context, body(1))
        secret.write(installation.reconcile())
        time.sleep(identity.LOOK_S)
        assert asked(served.port, context, body(1))[0] == 200
