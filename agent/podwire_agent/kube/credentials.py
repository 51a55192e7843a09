"""Who we are to the API server, and by which authority we know it: a pod's service account, or a kubeconfig."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from podwire_agent.errors import ClusterError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the API server is and how to talk to it. Files are read when they are used: they are renewed in place."""

    host: str
    port: int
    authority: Path | str | None = None
    """CAs that vouch for the server: a file, or PEM text; None: the system's."""
    token: Path | str | None = None
    """Bearer token: a file, or the token itself."""
    certificate: Path | bytes | None = None
    """Client certificate: a file, or PEM."""
    key: Path | bytes | None = None
    """The certificate's key: a file, or PEM."""
    server_name: str | None = None
    """Whose certificate the server shows, where that is not `host`."""
    verify: bool = True
    """Whether the server must prove who it is."""

    def context(self) -> ssl.SSLContext:
        """As the files are now. ClusterError where they cannot be used."""
        try:
            context = ssl.create_default_context(
                cafile=str(self.authority) if isinstance(self.authority, Path) else None,
                cadata=self.authority if isinstance(self.authority, str) else None,
            )
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate is not None and self.key is not None:
                _load(context, self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise ClusterError(
                None,
                f"reading the certificates for the API server ({self.authority}, {_shown(self.certificate)}) failed: "
                f"{error}; check the files",
            ) from error
        return context

    def authorization(self) -> dict[str, str]:
        """The request header that tells who we are; a token file's present content. ClusterError."""
        if self.token is None:
            return {}
        try:
            token = self.token.read_text().strip() if isinstance(self.token, Path) else self.token
        except (OSError, UnicodeDecodeError) as error:
            raise ClusterError(
                None, f"reading the token {self.token} failed: {error}; is a service account's token mounted there?"
            ) from error
        return {"Authorization": f"Bearer {token}"}


def in_cluster(environ: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT) -> Credentials:
    """Those of the pod that this runs in. ClusterError where it is none."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    token, authority = directory / "token", directory / "ca.crt"
    if not host or not port.isdecimal() or not token.exists() or not authority.exists():
        raise ClusterError(
            None,
            "this is no pod with a service account (KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT, "
            f"{token} and {authority} are expected); outside a cluster give --kubeconfig FILE, or --file MONITOR",
        )
    return Credentials(host, int(port), authority, token)


def from_kubeconfig(path: Path) -> Credentials:
    """Those of the file's current context. ClusterError where it has none that can be used here."""
    import yaml  # noqa: PLC0415  # for people and tests; an agent in a pod does without

    try:
        document = yaml.safe_load(path.read_bytes())
        context = _named(document, "contexts", document["current-context"])["context"]
        cluster = _named(document, "clusters", context["cluster"])["cluster"]
        user = _named(document, "users", context["user"])["user"]
        host, port = _place(cluster["server"])
        _refuse_programs(user)
        authority = _data_or_file(cluster, "certificate-authority", path)
        token: Path | str | None = user.get("token")
        if token is None and "tokenFile" in user:
            token = path.parent / user["tokenFile"]
        return Credentials(
            host=host,
            port=port,
            authority=authority.decode() if isinstance(authority, bytes) else authority,
            token=token,
            certificate=_data_or_file(user, "client-certificate", path),
            key=_data_or_file(user, "client-key", path),
            server_name=cluster.get("tls-server-name"),
            verify=not cluster.get("insecure-skip-tls-verify", False),
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        words = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise ClusterError(None, f"kubeconfig {path}: {words}; check the file with kubectl config view") from error


def _place(server: str) -> tuple[str, int]:
    url = urlsplit(server)
    if url.scheme != "https" or not url.hostname or url.path.strip("/"):
        raise ValueError(f"server {server!r} is not https://HOST:PORT")
    return url.hostname, url.port or 443


def _refuse_programs(user: Mapping[str, object]) -> None:
    if "exec" in user or "auth-provider" in user:
        raise ValueError("the user's credentials come from a program; only certificates and tokens are read")


def _named(document: Any, kind: str, name: str) -> Any:
    for entry in document[kind]:
        if entry["name"] == name:
            return entry
    raise ValueError(f"none of its {kind} is called {name!r}")


def _data_or_file(entry: Any, name: str, path: Path) -> Path | bytes | None:
    if f"{name}-data" in entry:
        return base64.b64decode(entry[f"{name}-data"], validate=True)
    return path.parent / entry[name] if name in entry else None


def _load(context: ssl.SSLContext, certificate: Path | bytes, key: Path | bytes) -> None:
    """Into the context, which reads files only."""
    if isinstance(certificate, Path) and isinstance(key, Path):
        context.load_cert_chain(certificate, key)
        return
    with tempfile.NamedTemporaryFile() as both:  # mode 0600
        for part in (certificate, key):
            both.write(part.read_bytes() if isinstance(part, Path) else part)
            both.write(b"\n")
        both.flush()
        context.load_cert_chain(both.name)


def _shown(certificate: Path | bytes | None) -> str:
    return f"client certificate {certificate}" if isinstance(certificate, Path) else "client certificate in place"
