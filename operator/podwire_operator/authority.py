"""Keeps the two Secrets of the agents' exchange as certificates.plan says."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from podwire_api.names import AGENT_TLS_SECRET, CA_SECRET, OPERATOR
from podwire_operator.certificates import Plan, plan
from podwire_operator.cluster import Cluster
from podwire_operator.objects import Document
from podwire_operator.render import MANAGED_BY

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
"""A Secret that is deleted or damaged is back within this."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """When what is stored ceases to be valid."""

    ca: datetime
    agent: datetime


class Authority:
    """Reads and writes the Secrets; nothing of a key is ever logged."""

    def __init__(self, cluster: Cluster, wall: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`wall`: the time that certificates are compared with."""
        self._cluster = cluster
        self._wall = wall
        self.expiry: Expiry | None = None

    async def reconcile(self) -> float:
        """After how many seconds to look again. ClusterError."""
        secrets = {name: await self._cluster.read_secret(name) for name in (CA_SECRET, AGENT_TLS_SECRET)}
        stored = {name: _data(secret) for name, secret in secrets.items()}
        wanted = plan(stored[CA_SECRET], stored[AGENT_TLS_SECRET], self._wall())
        # The CA first: a certificate that nobody's CA has signed must never be seen.
        for name, data in _by_secret(wanted).items():
            if data != stored[name]:
                await self._cluster.write_secret(self._secret(name, data), secrets[name])
        for line in wanted.done:
            log.info("certificates: %s", line)
        self.expiry = Expiry(wanted.ca_expires, wanted.agent_expires)
        return LOOK_EVERY_S

    def _secret(self, name: str, data: Mapping[str, bytes]) -> Document:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": self._cluster.namespace,
                "labels": {MANAGED_BY: OPERATOR},
            },
            "type": "kubernetes.io/tls",
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }


def _by_secret(wanted: Plan) -> dict[str, dict[str, bytes]]:
    return {CA_SECRET: wanted.ca, AGENT_TLS_SECRET: wanted.agent}


def _data(secret: Document | None) -> dict[str, bytes] | None:
    """What cannot be decoded is damaged: empty."""
    if secret is None:
        return None
    data = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            data[key] = base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError):
            data[key] = b""
    return data
