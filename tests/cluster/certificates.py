"""A cluster's own authority: certificates for its parts and its people, and kubeconfigs with them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=30)
SKEW = timedelta(hours=1)

_FOR_SIGNING = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Writes ca.crt and ca.key into `directory`, and what it issues beside them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "ca.crt"
        self.key = directory / "ca.key"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("podwire-test-ca")
        made = self._builder(self._name, self._key)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        made = made.add_extension(_FOR_SIGNING, critical=True)
        _write(self.directory / "ca", self._key, made.sign(self._key, SHA256()))

    def issue(self, file: str, common_name: str, organization: str = "", hosts: Sequence[str] = ()) -> None:
        """Write `file`.crt and `file`.key, for clients and for the servers at `hosts`: names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        made = self._builder(_name(common_name, organization), key).add_extension(usages, critical=False)
        if hosts:
            made = made.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        _write(self.directory / file, key, made.sign(self._key, SHA256()))

    def kubeconfig(self, file: str, server: str) -> Path:
        """`file`.kubeconfig, complete in itself: as the certificate `file`, to the API server at an URL."""
        authority, certificate, key = (
            base64.b64encode((self.directory / name).read_bytes()).decode()
            for name in ("ca.crt", f"{file}.crt", f"{file}.key")
        )
        user = {"client-certificate-data": certificate, "client-key-data": key}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "podwire", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": file, "user": user}],
            "contexts": [{"name": "podwire", "context": {"cluster": "podwire", "user": file}}],
            "current-context": "podwire",
        }
        path = self.directory / f"{file}.kubeconfig"
        path.touch(0o600)
        path.write_text(json.dumps(document))  # JSON is YAML
        return path

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + VALID)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(authority, critical=False)
        )


def _name(common_name: str, organization: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    secret = path.with_suffix(".key")
    secret.touch(0o600)
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    path.with_suffix(".crt").write_bytes(certificate.public_bytes(Encoding.PEM))
