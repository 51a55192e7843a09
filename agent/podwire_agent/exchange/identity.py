"""Who this agent is to others, and by which CAs it knows them: three files that are renewed in place."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from podwire_agent.errors import ExchangeError

log = logging.getLogger(__name__)

CERTIFICATE, KEY, AUTHORITIES = "tls.crt", "tls.key", "ca.crt"
"""As in the Secret; `ca.crt` has every CA that is trusted, two during a change."""

LOOK_S = 1.0
"""How often the files are looked at."""

_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Contexts:
    """For one state of the files."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    number: int
    """Another one for each state."""


class Identity:
    """Read anew when the files change; as long as what is there cannot be used, the former state stays in use."""

    def __init__(self, directory: Path, name: str, now_s: Callable[[], float]) -> None:
        """`name`: of every agent's certificate, as DNS name."""
        self.name = name
        self.failures_total = 0
        """States of the files that could not be used."""
        self.renewals_total = 0
        self._directory = directory
        self._now_s = now_s
        self._lock = threading.Lock()
        self._contexts: Contexts | None = None
        self._stamp: _Stamp | None = None
        self._looked_s = float("-inf")

    def contexts(self) -> Contexts:
        """Of the files as they are. ExchangeError where there never were any that could be used."""
        with self._lock:
            if self._now_s() >= self._looked_s + LOOK_S:
                self._looked_s = self._now_s()
                self._look()
            if self._contexts is None:
                raise ExchangeError(
                    f"no certificate to be used in {self._directory} ({CERTIFICATE}, {KEY}, {AUTHORITIES}); "
                    "the operator makes them, see its log"
                )
            return self._contexts

    def is_agent(self, connection: ssl.SSLSocket) -> bool:
        """Whether the other end's certificate, which a trusted CA has signed, is an agent's."""
        certificate = connection.getpeercert() or {}
        return ("DNS", self.name) in certificate.get("subjectAltName", ())

    def _look(self) -> None:
        # A Secret's files are links into a directory that is exchanged whole: read all three from one.
        directory = self._directory / "..data"
        try:
            directory = (directory if directory.exists() else self._directory).resolve(strict=True)
            paths = [directory / name for name in (CERTIFICATE, KEY, AUTHORITIES)]
            stats = [path.stat() for path in paths]
            stamp = tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in stats)
        except OSError:
            return  # not there yet, or just being exchanged
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            server, client = _contexts(*paths)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            self.failures_total += 1
            log.warning("certificates in %s cannot be used, the former ones stay: %s", self._directory, error)
            return
        number = self._contexts.number + 1 if self._contexts else 0
        self.renewals_total += number > 0
        self._contexts = Contexts(server, client, number)


def _contexts(certificate: Path, key: Path, authorities: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authorities)
    server.num_tickets = 0  # connections stay open, and none is resumed without the certificates
    return server, client
