"""An interface's offloads, by name, as `ethtool -k` shows them (SIOCETHTOOL, ETHTOOL_GFEATURES; no privilege)."""

from __future__ import annotations

import ctypes as ct
import fcntl
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

_SIOCETHTOOL = 0x8946
_ETH_SS_FEATURES = 4
_STRING_BYTES = 32
"""ETH_GSTRING_LEN."""

_COMMAND = struct.Struct("=II")
_STRINGS_HEADER = struct.Struct("=III")
_BLOCK = struct.Struct("=IIII")
"""struct ethtool_get_features_block: available, requested, active, never changed; 32 features."""


class Command(IntEnum):
    """ETHTOOL_*, those in use."""

    GSTRINGS = 0x1B
    GSSET_INFO = 0x37
    GFEATURES = 0x3A


@dataclass(frozen=True, slots=True)
class Offloads:
    """Names as the kernel has them, e.g. "rx-gro", "tx-tcp-segmentation"."""

    on: frozenset[str]
    off: frozenset[str]
    """The interface could do it."""


def offloads(interface: str) -> Offloads:
    """Of an interface of the calling thread's namespace. OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        names = _names(any_socket.fileno(), interface)
        blocks = (len(names) + 31) // 32
        request = _COMMAND.pack(Command.GFEATURES, blocks) + bytes(blocks * _BLOCK.size)
        answer = _ask(any_socket.fileno(), interface, request)
    available, active = 0, 0
    for block in range(blocks):
        could, _, does, _ = _BLOCK.unpack_from(answer, _COMMAND.size + block * _BLOCK.size)
        available |= could << (32 * block)
        active |= does << (32 * block)
    return Offloads(
        on=frozenset(name for bit, name in enumerate(names) if active >> bit & 1),
        off=frozenset(name for bit, name in enumerate(names) if (available & ~active) >> bit & 1),
    )


def _names(fd: int, interface: str) -> tuple[str, ...]:
    """Of all features, by their bits."""
    count = struct.unpack_from(
        "=I", _ask(fd, interface, struct.pack("=IIQI", Command.GSSET_INFO, 0, 1 << _ETH_SS_FEATURES, 0)), 16
    )[0]
    header = _STRINGS_HEADER.pack(Command.GSTRINGS, _ETH_SS_FEATURES, count)
    strings = _ask(fd, interface, header + bytes(count * _STRING_BYTES))[_STRINGS_HEADER.size :]
    return _split(strings)


@lru_cache(maxsize=1)
def _split(strings: bytes) -> tuple[str, ...]:
    return tuple(
        strings[start : start + _STRING_BYTES].rstrip(b"\0").decode() for start in range(0, len(strings), _STRING_BYTES)
    )


def _ask(fd: int, interface: str, request: bytes) -> bytes:
    data = ct.create_string_buffer(request, len(request))
    ifreq = struct.pack("=16sQ16x", interface.encode(), ct.addressof(data))
    fcntl.ioctl(fd, _SIOCETHTOOL, ifreq)
    return data.raw
