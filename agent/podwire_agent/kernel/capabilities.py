"""What this process may do."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

from podwire_agent.errors import KernelError


class Capability(IntEnum):
    """Bits of a capability set (capability.h), those in use."""

    NET_ADMIN = 12
    SYS_ADMIN = 21
    BPF = 39


NEEDED = (Capability.BPF, Capability.NET_ADMIN)


def missing(status: Path = Path("/proc/self/status")) -> list[str]:
    """The names of the needed capabilities that this process lacks. SYS_ADMIN includes BPF (Linux 5.8)."""
    line = next(line for line in status.read_text().splitlines() if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    has = {capability for capability in Capability if effective >> capability & 1}
    if Capability.SYS_ADMIN in has:
        has.add(Capability.BPF)
    return [f"CAP_{capability.name}" for capability in NEEDED if capability not in has]


def require() -> None:
    """KernelError naming what is missing."""
    if lacking := missing():
        raise KernelError(f"this process lacks {' and '.join(lacking)}; run as root, or grant what is missing")
