"""The sole right to a monitor: to its filters in this network namespace, and to its pins.

Two agents with state directories of their own would otherwise take each other's filters, and fold each other's maps.
Both rights end with the process that holds them, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from podwire_agent.errors import StateError


@contextmanager
def sole_name(name: str) -> Iterator[None]:
    """Of filters, by a name in the abstract namespace of Unix sockets, which a network namespace has to itself.

    StateError where another agent has it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        try:
            held.bind(f"\0{name}")
        except OSError as error:
            raise StateError(
                f"another agent here has the filters named {name}, under another state directory; "
                "stop it, or give one of the monitors another name"
            ) from error
        yield


@contextmanager
def sole_directory(directory: Path) -> Iterator[None]:
    """Of pins; made if need be, and removed at the end if it is empty then. StateError where another agent has it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(f"opening the pins in {directory}: {error.strerror}; run as root or choose --bpffs") from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(
                f"another agent has the pins in {directory}, under another state directory; "
                "stop it, or give one of the two another --bpffs"
            ) from error
        yield
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
    finally:
        os.close(held)
