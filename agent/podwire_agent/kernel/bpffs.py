"""The BPF file system: where pins live. One directory a monitor, one below it a layout."""

from __future__ import annotations

import ctypes as ct
import os
from pathlib import Path

from podwire_agent.errors import KernelError

DEFAULT = Path("/sys/fs/bpf")
"""Where every distribution mounts it."""

HOME = "podwire"
"""Our directory in it; monitors by UID below. bpffs refuses names with a dot."""

HOW_TO_MOUNT = (
    f"on the node run `mount -t bpf bpf {DEFAULT}`, or add `bpf {DEFAULT} bpf defaults 0 0` to its /etc/fstab, "
    "and start the agent's pod anew"
)
"""What to do where the node's is a host's directory in a container."""


def file_system_of(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that `path` is on, by the longest mount point that holds it."""
    best, kind = -1, ""
    for line in mountinfo.read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        mount_point = Path(fields.split()[4].replace("\\040", " "))
        if path.is_relative_to(mount_point) and len(mount_point.parts) >= best:
            best, kind = len(mount_point.parts), tail.split()[0]
    return kind


def is_mounted(path: Path) -> bool:
    """A BPF file system is at `path`."""
    return file_system_of(path.resolve()) == "bpf"


def ensure(path: Path, *, mount: bool = True) -> Path:
    """Podwire's directory on the bpffs at `path`, made if need be; mounts a bpffs there if there is none and `mount`.

    KernelError with the command to run where there is none.
    """
    if not is_mounted(path):
        if not mount:
            raise KernelError(f"no bpffs at {path}; {HOW_TO_MOUNT}")
        _mount(path)
    home = path / HOME
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(
            f"making {home} on bpffs: {error.strerror}; run as root, or give a writable --bpffs"
        ) from error
    return home


def _mount(path: Path) -> None:
    libc = ct.CDLL(None, use_errno=True)
    if path.is_dir() and libc.mount(b"bpf", str(path).encode(), b"bpf", 0, None) == 0:
        return
    reason = os.strerror(ct.get_errno()) if path.is_dir() else "no such directory"
    raise KernelError(f"no bpffs at {path}, and mounting one: {reason}; run `mount -t bpf bpf {path}` as root")
