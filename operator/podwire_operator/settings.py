"""What the command line and the environment decide; everything else is in the resources."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from podwire_api.names import AGENT, NAMESPACE
from podwire_operator import __version__
from podwire_operator.errors import SettingsError

DEFAULT_LISTEN = "0.0.0.0:8080"
"""The kubelet and Prometheus come to the pod's address."""


class LogFormat(StrEnum):
    """How a line of the log looks."""

    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run one replica of the operator."""

    agent_image: str
    """For pools that name no image of their own."""
    namespace: str
    """Where the agents, the Lease and the Secrets are."""
    identity: str
    """The replica's name in the Lease; no other living process has the same."""
    kubeconfig: Path | None
    """Credentials and server; None: those of the pod."""
    listen: str
    """Address and port of /healthz, /readyz and /metrics; "off" for none."""


def default_agent_image(environ: Mapping[str, str] = os.environ) -> str:
    """PODWIRE_AGENT_IMAGE, else the agent of the operator's own version."""
    return environ.get("PODWIRE_AGENT_IMAGE", "") or f"{AGENT}:{__version__}"


def default_namespace(environ: Mapping[str, str] = os.environ) -> str:
    """POD_NAMESPACE, else podwire-system."""
    return environ.get("POD_NAMESPACE", "") or NAMESPACE


def identity(environ: Mapping[str, str] = os.environ) -> str:
    """POD_NAME, which no two living pods share; else host, process and chance."""
    return environ.get("POD_NAME", "") or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def parse_listen(text: str) -> tuple[str, int]:
    """ADDRESS:PORT, an IPv6 address in brackets. SettingsError where it is not that."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535 or (":" in host and not bracketed):
        raise SettingsError(f"--listen {text}: not ADDRESS:PORT; write {DEFAULT_LISTEN}, [::]:8080, or off for none")
    return host.strip("[]"), int(port)
