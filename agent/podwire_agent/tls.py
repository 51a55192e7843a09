"""The agents' certificate, as the operator keeps it in a Secret that is mounted here: read again when it changes."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from pathlib import Path

from podwire_agent.errors import EndpointError

log = logging.getLogger(__name__)

DEFAULT = Path("/etc/podwire/tls")
CERTIFICATE, KEY = "tls.crt", "tls.key"

_Version = tuple[tuple[int, int, int], ...]


class ServingCertificate:
    """For servers. Safe for threads."""

    def __init__(self, directory: Path = DEFAULT) -> None:
        """Nothing is read yet: the Secret may come later than the agent."""
        self._directory = directory
        self._lock = threading.Lock()
        self._version: _Version = ()
        self._context: ssl.SSLContext | None = None
        self._said = ""

    def secured(self, connection: socket.socket) -> socket.socket:
        """The server's end in TLS; the handshake comes with the first read. EndpointError where there is none yet."""
        return self._current().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def _current(self) -> ssl.SSLContext:
        with self._lock:
            problem = self._renew()
            if problem and problem != self._said:
                log.warning("%s", problem)
            self._said = problem
            if self._context is None:
                raise EndpointError(problem)
            return self._context

    def _renew(self) -> str:
        """Read the files where they are others than those in use; what is wrong with them, in words.

        What was read last stays in use as long as nothing better is there.
        """
        certificate, key = self._directory / CERTIFICATE, self._directory / KEY
        try:
            stats = [path.stat() for path in (certificate, key)]
            version = tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in stats)
            if version == self._version:
                return ""
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(certificate, key)
        except (OSError, ValueError) as error:
            return (
                f"reading the agents' certificate {certificate} and its key failed: {error}; "
                "the operator makes them, in a Secret of the agents' namespace"
            )
        if self._context is not None:
            log.info("the agents' certificate was renewed")
        self._version, self._context = version, context
        return ""
