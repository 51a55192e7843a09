from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from podwire_operator.certificates import AGENT_LIFE, CA_LIFE, OVERLAP, Plan, make_ca, plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def leaf(made: Plan) -> x509.Certificate:
    return x509.load_pem_x509_certificate(made.agent["tls.crt"])


def trusted(made: Plan) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(made.agent["ca.crt"])


def signer(made: Plan) -> x509.Certificate:
    """Which of the trusted CAs has signed the agents' certificate."""
    (found,) = [each for each in trusted(made) if each.subject == leaf(made).issuer]
    leaf(made).verify_directly_issued_by(found)
    return found


def authority(made: Plan) -> x509.Certificate:
    return x509.load_pem_x509_certificate(made.ca["tls.crt"])


def again(made: Plan, now: datetime) -> Plan:
    return plan(made.ca, made.agent, now)


@pytest.fixture(scope="module")
def first() -> Plan:
    return plan(None, None, NOW)


def test_a_new_installation_gets_both(first: Plan) -> None:
    assert first.done == (
        "made a CA: the CA was not there",
        "made the agents' certificate: the agents' certificate was not there",
    )
    assert trusted(first) == [authority(first)]
    assert signer(first) == authority(first)
    assert first.ca_expires == NOW + CA_LIFE
    assert first.agent_expires == NOW + AGENT_LIFE
    assert "tls.key" not in first.agent["ca.crt"].decode()


def test_the_agents_certificate_is_for_both_ends_and_signs_nothing(first: Plan) -> None:
    extensions = leaf(first).extensions
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["podwire-agent"]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    constraints = authority(first).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_openssl_takes_them(first: Plan, tmp_path: Path) -> None:
    made = plan(None, None, datetime.now(UTC))
    del first
    for name, value in made.agent.items():
        (tmp_path / name).write_bytes(value)
    server, client = (ssl.SSLContext(side) for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    for context in (server, client):
        context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
        context.load_verify_locations(tmp_path / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
    towards_server, towards_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(towards_server, towards_client, server_side=True),
        client.wrap_bio(towards_client, towards_server, server_hostname="podwire-agent"),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert all(end.getpeercert() for end in ends)


def test_nothing_is_made_anew_while_nothing_is_due(first: Plan) -> None:
    for days in (0, 1, 30, 59):
        later = again(first, NOW + days * DAY)
        assert (later.ca, later.agent, later.done) == (first.ca, first.agent, ())


def test_the_agents_certificate_is_renewed_after_two_thirds_of_its_life(first: Plan) -> None:
    later = again(first, NOW + 61 * DAY)
    assert later.done == ("made the agents' certificate: it was due",)
    assert later.ca == first.ca
    assert later.agent_expires == NOW + 61 * DAY + AGENT_LIFE
    assert signer(later) == authority(first)


def test_a_change_of_the_ca_goes_in_steps_and_both_are_trusted_meanwhile() -> None:
    begun = NOW + CA_LIFE * 2 / 3
    old = plan(None, None, NOW)
    ready = again(old, begun - DAY)  # the leaf is renewed by then
    trusting = again(ready, begun)
    assert authority(trusting) != authority(old)
    assert set(trusted(trusting)) == {authority(old), authority(trusting)}
    assert signer(trusting) == authority(old)
    assert trusting.agent["tls.crt"] == ready.agent["tls.crt"]
    assert again(trusting, begun + OVERLAP / 2).done == ()

    signing = again(trusting, begun + OVERLAP)
    assert signing.done == ("made the agents' certificate: another CA signs now",)
    assert set(trusted(signing)) == {authority(old), authority(trusting)}
    assert signer(signing) == authority(trusting)
    assert again(signing, begun + OVERLAP * 3 / 2).done == ()

    over = again(signing, begun + 2 * OVERLAP)
    assert over.done == ("the former CA is not trusted any more",)
    assert trusted(over) == [authority(trusting)]
    assert over.agent["tls.crt"] == signing.agent["tls.crt"]
    assert set(over.ca) == {"tls.crt", "tls.key"}
    assert again(over, begun + 3 * OVERLAP).done == ()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param({"tls.crt": b"no certificate"}, "the CA was damaged: not PEM", id="the certificate is none"),
        pytest.param({"tls.key": b"no key"}, "the CA was damaged: not PEM", id="the key is none"),
        pytest.param({"tls.key": b""}, "the CA was not there", id="the key is empty"),
        pytest.param({"tls.key": make_ca(NOW).key_pem}, "the CA was damaged: the key is another", id="another's key"),
    ],
)
def test_a_damaged_ca_is_made_anew_and_signs_at_once(first: Plan, damage: dict[str, bytes], words: str) -> None:
    made = plan({**first.ca, **damage}, first.agent, NOW + DAY)
    assert made.done[0].startswith(f"made a CA: {words}")
    assert made.done[1] == "made the agents' certificate: another CA signs now"
    assert signer(made) == authority(made) != authority(first)


def test_a_ca_that_has_expired_is_replaced_and_not_trusted_any_more(first: Plan) -> None:
    made = again(first, NOW + CA_LIFE + DAY)
    assert trusted(made) == [authority(made)]
    assert signer(made) == authority(made)


@pytest.mark.parametrize("lost", [None, {}, {"tls.crt": b"x", "tls.key": b"y", "ca.crt": b"z"}])
def test_a_lost_or_damaged_certificate_of_the_agents_is_made_by_the_same_ca(
    first: Plan, lost: dict[str, bytes] | None
) -> None:
    made = plan(first.ca, lost, NOW + DAY)
    assert made.ca == first.ca
    assert signer(made) == authority(first)


def test_a_certificate_of_another_ca_is_replaced(first: Plan) -> None:
    stranger = plan(None, None, NOW)
    made = plan(first.ca, stranger.agent, NOW + DAY)
    assert made.done == ("made the agents' certificate: another CA signs now",)
    assert trusted(made) == [authority(first)]


def test_a_clock_that_was_set_back_before_the_cas_time_is_survived(first: Plan) -> None:
    made = again(first, NOW - 30 * DAY)
    assert signer(made) == authority(made)


def test_a_certificate_never_outlives_its_ca() -> None:
    old = plan(None, None, NOW)
    # Nobody ran for years: the CA is due, the old one still signs for a day.
    made = again(old, NOW + CA_LIFE - 10 * DAY)
    assert made.agent_expires <= NOW + CA_LIFE
    assert signer(made) == authority(old)
