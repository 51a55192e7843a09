"""Sets of networks: lists of CIDRs, parsed; which of them cover an address."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from podwire_agent.layout import PREFIX_KEY
from podwire_agent.model import Records

MAPPED = b"\0" * 10 + b"\xff\xff"
"""How an IPv4 address begins among 16 bytes (RFC 4291 section 2.5.5.2)."""

MAPPED_BITS = 96

_IPV4 = re.compile(
    r"(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})(?:/(0|[1-9]\d?))?", re.ASCII
)
_LENGTH = re.compile(r"0|[1-9]\d{0,2}", re.ASCII)


class BadNetwork(ValueError):
    """What is no CIDR, in words."""


@dataclass(frozen=True, eq=False)
class Networks:
    """A set of networks, as PREFIX_KEY: each once, bits behind the prefix zero, IPv4 mapped."""

    prefixes: Records

    @classmethod
    def of(cls, cidrs: Iterable[str]) -> Networks:
        """BadNetwork where one is none."""
        return cls(_prefixes(list(map(parse_cidr, cidrs))))

    @classmethod
    def of_prefixes(cls, prefixes: Iterable[tuple[bytes, int]]) -> Networks:
        """An address, as 16 bytes, and the length of the prefix, of 128, each."""
        return cls(_prefixes(list(prefixes)))

    @classmethod
    def union(cls, parts: Iterable[Networks]) -> Networks:
        """All that is in one of them."""
        found = [part.prefixes for part in parts]
        return cls(np.unique(np.concatenate([np.zeros(0, PREFIX_KEY), *found])))

    def __len__(self) -> int:
        return len(self.prefixes)

    def hold(self, address: bytes) -> bool:
        """Whether the address (16 bytes) is in one of them. An IPv6 network holds no IPv4 address."""
        least = MAPPED_BITS if address.startswith(MAPPED) else 0
        number = int.from_bytes(address)
        return any(number >> (128 - length) in starts for length, starts in self._by_length.items() if length >= least)

    @cached_property
    def _by_length(self) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        addresses = map(bytes, self.prefixes["address"]["bytes"])
        for length, address in zip(self.prefixes["length"].tolist(), addresses, strict=True):
            found.setdefault(length, set()).add(int.from_bytes(address) >> (128 - length))
        return found


def parse_lines(text: str) -> Networks:
    """A CIDR or address a line; # begins a comment. BadNetwork names the first line that is neither."""
    return Networks(_prefixes(list(_by_line(text))))


def parse_cidr(text: str) -> tuple[bytes, int]:
    """The address, as 16 bytes, and the length of the prefix, of 128. BadNetwork.

    Takes what podwire_api.fields.parse_cidr does.
    """
    if (found := _IPV4.fullmatch(text)) is not None:
        *octets, length = found.groups()
        if max(map(int, octets)) <= 255 and int(length or 32) <= 32:
            return MAPPED + bytes(map(int, octets)), MAPPED_BITS + int(length or 32)
    address, slash, length = text.partition("/")
    try:
        if (slash and not _LENGTH.fullmatch(length)) or int(length or 128) > 128 or "%" in text:
            raise BadNetwork(f'"{text}" is not a CIDR such as 10.0.0.0/8 or fd00::/8, nor an address')
        packed = ipaddress.IPv6Address(address).packed
    except ipaddress.AddressValueError as error:
        raise BadNetwork(f'"{text}" is not a CIDR such as 10.0.0.0/8 or fd00::/8, nor an address') from error
    if packed.startswith(MAPPED):
        raise BadNetwork(f'"{text}" is IPv4 mapped into IPv6; write it as IPv4')
    return packed, int(length or 128)


def packed(address: str) -> bytes:
    """An address as 16 bytes. ValueError."""
    found = ipaddress.ip_address(address).packed
    return found if len(found) == 16 else MAPPED + found


def _by_line(text: str) -> Iterator[tuple[bytes, int]]:
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.partition("#")[0].strip():
            try:
                yield parse_cidr(words)
            except BadNetwork as error:
                raise BadNetwork(f"line {number}: {error}") from error


def _prefixes(parsed: list[tuple[bytes, int]]) -> Records:
    rows = np.zeros(len(parsed), PREFIX_KEY)
    rows["length"] = [length for _, length in parsed]
    addresses = np.frombuffer(b"".join(address for address, _ in parsed), np.uint8).reshape(-1, 16)
    rows["address"]["bytes"] = addresses & prefix_mask(rows["length"])
    flat = np.unique(rows.view(f"S{PREFIX_KEY.itemsize}"))
    unique: Records = flat.view(PREFIX_KEY)
    return unique


def prefix_mask(lengths: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The bits of prefixes of these lengths: shape (n, 16)."""
    bits = np.clip(lengths[:, np.newaxis].astype(np.int64) - np.arange(0, 128, 8), 0, 8)
    masks: NDArray[np.uint8] = (0xFF00 >> bits & 0xFF).astype(np.uint8)
    return masks
