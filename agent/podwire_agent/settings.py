"""What the command line and the environment decide; everything else is in the resource."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from podwire_agent import state, tls
from podwire_agent.kernel import bpffs
from podwire_api.names import NAMESPACE

DEFAULT_LISTEN = "127.0.0.1:9437"
DEFAULT_METRICS = "[::]:9435"
"""In a cluster: every address of the node, of both families."""
DEFAULT_POOL = "default"


class LoaderName(StrEnum):
    """Who brings the programs into the kernel."""

    LIBBPF = "libbpf"
    BCC = "bcc"


class MetricsAuth(StrEnum):
    """Who may read /metrics in a cluster."""

    KUBERNETES = "kubernetes"
    """By TLS, who has a token that may `get /metrics`."""
    NONE = "none"
    """Whoever reaches the node, without TLS."""


def default_loader_name(environ: Mapping[str, str] = os.environ) -> str:
    """PODWIRE_LOADER, which may be no LoaderName; else libbpf."""
    return environ.get("PODWIRE_LOADER", "") or LoaderName.LIBBPF


def default_objects(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the compiled programs are: PODWIRE_OBJECTS, else beside the package."""
    return Path(environ.get("PODWIRE_OBJECTS", "") or str(Path(__file__).parent / "objects"))


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run the agent on this machine."""

    state_dir: Path = state.DEFAULT
    bpffs: Path = bpffs.DEFAULT
    objects: Path = field(default_factory=default_objects)
    """The directory of the compiled programs, and below bcc/ of their sources."""
    loader: LoaderName = LoaderName.LIBBPF
    listen: str = DEFAULT_LISTEN
    """Address and port of /healthz and /readyz, and without a cluster of /metrics; "off" for none."""
    metrics: str = DEFAULT_METRICS
    """Address and port of /metrics in a cluster; "off" for none."""
    metrics_auth: MetricsAuth = MetricsAuth.KUBERNETES
    tls_dir: Path = tls.DEFAULT
    """Where the agents' certificate, its key and their CA are mounted."""
    node: str = field(default_factory=lambda: os.uname().nodename)
    refs: Path | None = None
    """Where ConfigMaps and Secrets are that the resources name."""
    keep: bool = False
    """Stay attached at the end, for a successor."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The agent's place in its cluster."""

    pool: str = DEFAULT_POOL
    """The AgentPool whose agent it is."""
    pod: str = ""
    """Its pod; "" where it runs in none."""
    namespace: str = NAMESPACE
    """The agents'."""
    exchange_port: int | None = None
    """Where the agents of other nodes are listened to; None: nowhere, and none is asked."""
