from __future__ import annotations

import http.client
import logging
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest

from podwire_agent import bounded_http
from podwire_agent.bounded_http import in_words
from podwire_agent.endpoint import Endpoint
from podwire_agent.tls import ServingCertificate
from podwire_api.names import AGENT
from podwire_operator.certificates import AGENT_LIFE, plan
from tests.kernel.netns import eventually

SOON_S = 5.0
NOW = datetime.now(UTC)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the Secret is mounted: empty as long as the operator has not made it."""
    return tmp_path


@pytest.fixture
def served(directory: Path) -> Iterator[Endpoint]:
    routes = {"/metrics": lambda _: in_words(HTTPStatus.OK, "figures")}
    with Endpoint("127.0.0.1:0", routes, secure=ServingCertificate(directory).secured) as made:
        yield made


def mounted(directory: Path, secret: dict[str, bytes]) -> None:
    """As the kubelet does it: all files at once."""
    for name, content in secret.items():
        fresh = directory / f"{name}.new"
        fresh.write_bytes(content)
        fresh.rename(directory / name)


def asked(served: Endpoint, authority: bytes) -> tuple[int, str, int]:
    """Status, body and the serial number of the certificate, which must be AGENT's and signed by `authority`."""
    context = ssl.create_default_context(cadata=authority.decode())
    with (
        socket.create_connection(served.address, timeout=SOON_S) as plain,
        context.wrap_socket(plain, server_hostname=AGENT) as secured,
    ):
        secured.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        response = http.client.HTTPResponse(secured)
        response.begin()
        shown = secured.getpeercert()
        assert shown is not None
        return response.status, response.read().decode(), int(str(shown["serialNumber"]), 16)


def test_the_agents_certificate_is_shown_to_who_knows_the_authority(served: Endpoint, directory: Path) -> None:
    made = plan(None, None, NOW)
    mounted(directory, made.agent)
    assert asked(served, made.agent["ca.crt"])[:2] == (200, "figures\n")
    another = plan(None, None, NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(served, another.agent["ca.crt"])


def test_before_the_certificate_is_there_connections_are_closed_and_counted(
    served: Endpoint, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = plan(None, None, NOW)
    with caplog.at_level(logging.WARNING, "podwire_agent.tls"):
        for _ in range(3):
            with pytest.raises(OSError, match=r"EOF|reset"):
                asked(served, made.agent["ca.crt"])
    assert served.server.served().broken == 3
    assert sum("reading the agents' certificate" in line for line in caplog.messages) == 1
    mounted(directory, made.agent)
    assert asked(served, made.agent["ca.crt"])[0] == 200


def test_a_renewed_certificate_is_shown_without_a_restart(served: Endpoint, directory: Path) -> None:
    first = plan(None, None, NOW - AGENT_LIFE * 0.7)
    mounted(directory, first.agent)
    _, _, before = asked(served, first.agent["ca.crt"])
    second = plan(first.ca, first.agent, NOW)
    assert second.agent["tls.crt"] != first.agent["tls.crt"]
    mounted(directory, second.agent)
    status, _, after = asked(served, second.agent["ca.crt"])
    assert (status, after != before) == (200, True)


def test_a_damaged_renewal_leaves_the_former_certificate_in_use(served: Endpoint, directory: Path) -> None:
    made = plan(None, None, NOW)
    mounted(directory, made.agent)
    _, _, before = asked(served, made.agent["ca.crt"])
    mounted(directory, {"tls.crt": b"rubbish"})
    assert asked(served, made.agent["ca.crt"])[2] == before
    (directory / "tls.key").unlink()
    assert asked(served, made.agent["ca.crt"])[2] == before


def test_old_tls_and_no_tls_get_no_answer(served: Endpoint, directory: Path) -> None:
    mounted(directory, plan(None, None, NOW + timedelta(0)).agent)
    with socket.create_connection(served.address, timeout=SOON_S) as plain:
        plain.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert b"figures" not in plain.recv(1000)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(served.address, timeout=SOON_S) as old, pytest.raises(ssl.SSLError):
        context.wrap_socket(old)
    eventually(lambda: served.server.served().broken == 2, "both are counted")


def test_a_handshake_that_never_ends_is_cut(served: Endpoint, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "HEAD_S", 0.2)
    made = plan(None, None, NOW)
    mounted(directory, made.agent)
    with socket.create_connection(served.address, timeout=SOON_S) as silent:
        assert silent.recv(1) == b""
    eventually(lambda: served.server.served().broken == 1, "it is counted")
    assert asked(served, made.agent["ca.crt"])[0] == 200
