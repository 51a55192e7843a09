"""The installation's own CA and the agents' certificate: what should be, from what is stored and the time. Pure.

A change of the CA goes in steps of OVERLAP, so that agents that have not read their Secret again are still understood:

1. the new CA is trusted beside the old one, which still signs;
2. the new CA signs, the old one is still trusted;
3. the old one is forgotten.

The steps follow from the new CA's age alone: nothing else has to be remembered. An old CA that is damaged or has
expired is not waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from podwire_api.names import AGENT
from podwire_operator.errors import CertificateError

CA_LIFE = timedelta(days=3650)
AGENT_LIFE = timedelta(days=90)
RENEWED_AT = 2 / 3
"""Of its life, when a certificate is replaced."""
OVERLAP = timedelta(hours=24)
"""A Secret's change reaches a pod within minutes, a pod of a node that was cut off when it is back."""
BACKDATED = timedelta(minutes=10)
"""Nodes' clocks may be behind."""
LOOK_AGAIN = timedelta(hours=1)

CERT, KEY, TRUSTED = "tls.crt", "tls.key", "ca.crt"
OLD_CERT, OLD_KEY = "previous.crt", "previous.key"

Data = Mapping[str, bytes]
"""A Secret's."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """As it is stored."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """As it is stored: PKCS 8, not encrypted."""
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        return self.key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)

    def expired(self, now: datetime) -> bool:
        """Or not valid yet."""
        return not self.certificate.not_valid_before_utc <= now < self.certificate.not_valid_after_utc

    def due(self, now: datetime) -> bool:
        """Whether it should be replaced."""
        return self.expired(now) or now >= renewal_time(self.certificate)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the two Secrets should hold."""

    ca: dict[str, bytes]
    agent: dict[str, bytes]
    ca_expires: datetime
    agent_expires: datetime
    done: tuple[str, ...]
    """What was made anew, in words."""


def renewal_time(certificate: x509.Certificate) -> datetime:
    """When it should be replaced."""
    began, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return began + (ends - began) * RENEWED_AT


def plan(ca: Data | None, agent: Data | None, now: datetime) -> Plan:
    """From the Secrets as they are; None where one is missing. The same again where nothing is due."""
    done = []
    current, problem = _stored(ca, CERT, KEY, "the CA")
    previous = _stored(ca, OLD_CERT, OLD_KEY, "the previous CA")[0]
    if current is None or current.expired(now):
        done.append(f"made a CA: {problem or 'the former one is not valid at this time'}")
        current, previous = make_ca(now), None
    elif previous is None and current.due(now):
        done.append("made a CA: two thirds of the former one's life are over")
        current, previous = make_ca(now), current
    age = now - (current.certificate.not_valid_before_utc + BACKDATED)
    if previous is not None and (previous.expired(now) or age >= 2 * OVERLAP):
        done.append("the former CA is not trusted any more")
        previous = None
    signer = previous if previous is not None and age < OVERLAP else current
    leaf, problem = _stored(agent, CERT, KEY, "the agents' certificate")
    if leaf is None or leaf.due(now) or not _signed_by(leaf, signer):
        why = problem or ("it was due" if leaf is not None and leaf.due(now) else "another CA signs now")
        done.append(f"made the agents' certificate: {why}")
        leaf = _make_leaf(signer, now)
    pairs = [current, *([previous] if previous is not None else [])]
    stored_ca = {CERT: current.certificate_pem, KEY: current.key_pem}
    if previous is not None:
        stored_ca |= {OLD_CERT: previous.certificate_pem, OLD_KEY: previous.key_pem}
    stored_agent = {
        TRUSTED: b"".join(pair.certificate_pem for pair in pairs),
        CERT: leaf.certificate_pem,
        KEY: leaf.key_pem,
    }
    return Plan(
        ca=stored_ca,
        agent=stored_agent,
        ca_expires=current.certificate.not_valid_after_utc,
        agent_expires=leaf.certificate.not_valid_after_utc,
        done=tuple(done),
    )


def make_ca(now: datetime) -> Pair:
    """A new one, by its own signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # The two of a change need two names, or a verifier may try the wrong one first.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"podwire CA {serial:040x}"[:60])])
    certificate = (
        _builder(name, name, key, serial, now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate, key)


def _make_leaf(ca: Pair, now: datetime) -> Pair:
    """For both ends of the agents' exchange; they know each other by this name, not by addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AGENT)])
    life = min(AGENT_LIFE, ca.certificate.not_valid_after_utc - now)
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    certificate = (
        _builder(name, ca.certificate.subject, key, x509.random_serial_number(), now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(both, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(AGENT)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    return Pair(certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _stored(data: Data | None, cert: str, key: str, what: str) -> tuple[Pair | None, str]:
    """The pair, or why there is none to be used."""
    if data is None or not data.get(cert) or not data.get(key):
        return None, f"{what} was not there"
    try:
        return _pair(data[cert], data[key]), ""
    except CertificateError as error:
        return None, f"{what} was damaged: {error}"


def _pair(certificate_pem: bytes, key_pem: bytes) -> Pair:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError("not PEM of a certificate and its key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertificateError("the key is another certificate's")
    return Pair(certificate, key)


def _signed_by(leaf: Pair, ca: Pair) -> bool:
    try:
        leaf.certificate.verify_directly_issued_by(ca.certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
