"""What conntrack's netlink messages say, many at once (nf_conntrack_netlink.c: ctnetlink_conntrack_event,
ctnetlink_fill_info).

Attributes are walked in all messages side by side: the n-th of each, then the next.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from podwire_agent.kernel.rtnetlink import ATTRIBUTE_TYPE, HEADER
from podwire_agent.model import CONNECTION, TUPLE, Records

Offsets = NDArray[np.intp]
"""Shape (messages,): a place in the bytes received."""

_NFGENMSG_BYTES = 4
HEADERS_BYTES = HEADER.size + _NFGENMSG_BYTES

SUBSYSTEM = 1 << 8
"""NFNL_SUBSYS_CTNETLINK in nlmsg_type."""

MESSAGE_BYTES = 256
"""Of an event, enough for its tuples and its zone, which come first: 188 with IPv6 addresses."""

_MAPPED = np.array([0] * 10 + [255] * 2, np.uint8)
_PORTS_PROTOCOLS = np.array([6, 17, 132], np.uint8)
"""TCP, UDP, SCTP."""

_NESTED = 0x8000


class MessageType(IntEnum):
    """IPCTNL_MSG_CT_*, those in use."""

    NEW = SUBSYSTEM | 0
    GET = SUBSYSTEM | 1
    DELETE = SUBSYSTEM | 2


class ConnectionAttribute(IntEnum):
    """CTA_*, those in use."""

    TUPLE_ORIG = 1
    TUPLE_REPLY = 2
    ZONE = 18


class TupleAttribute(IntEnum):
    """CTA_TUPLE_*."""

    IP = 1
    PROTO = 2


class AddressAttribute(IntEnum):
    """CTA_IP_*."""

    V4_SRC = 1
    V4_DST = 2
    V6_SRC = 3
    V6_DST = 4


class ProtocolAttribute(IntEnum):
    """CTA_PROTO_*, those in use."""

    NUM = 1
    SRC_PORT = 2
    DST_PORT = 3


@dataclass(frozen=True, slots=True)
class _Values:
    """One attribute of each message."""

    begins: Offsets
    """Of its value; 0: there is none."""
    ends: Offsets

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which messages have it."""
        there: NDArray[np.bool_] = self.begins > 0
        return there


@dataclass(frozen=True, slots=True)
class Decoded:
    """What some messages said."""

    connections: Records
    """CONNECTION of TCP, UDP and SCTP that are translated, in order; the times are still to be set."""
    message: Offsets
    """Which message each is of."""
    unreadable: int
    """Messages about a connection without one of its tuples."""


def decode(data: NDArray[np.uint8], begins: Offsets, ends: Offsets) -> Decoded:
    """Messages of MessageType NEW and DELETE in `data`, their headers included, aligned to 4 bytes."""
    words = data.view(np.uint16)
    wanted = (ConnectionAttribute.TUPLE_ORIG, ConnectionAttribute.TUPLE_REPLY, ConnectionAttribute.ZONE)
    original, reply, zone = _find(words, begins + HEADERS_BYTES, ends, wanted)
    forth, forth_read, forth_ports = _tuples(data, words, original)
    back, back_read, back_ports = _tuples(data, words, reply)
    readable = forth_read & back_read
    connections = np.zeros(len(begins), CONNECTION)
    connections["original"] = forth
    connections["translated"] = mirrored(back)
    connections["zone"][zone.there] = words[zone.begins[zone.there] >> 1].byteswap().astype(np.uint16)
    types = words[(begins + 4) >> 1]
    connections["ended"] = types == MessageType.DELETE
    kept = np.flatnonzero(readable & forth_ports & back_ports & (connections["original"] != connections["translated"]))
    return Decoded(connections[kept], kept, len(begins) - int(np.count_nonzero(readable)))


def mirrored(tuples: Records) -> Records:
    """TUPLE of the opposite direction."""
    turned = tuples.copy()
    for part in ("address", "port"):
        turned[f"src_{part}"], turned[f"dst_{part}"] = tuples[f"dst_{part}"], tuples[f"src_{part}"]
    return turned


def translated_only() -> bytes:
    """struct sock_filter[] for the events' socket: what it is sure about that is not translated is not received.

    It does not go by the status: IPVS translates without telling there (ip_vs_update_conntrack).
    """
    steps = [step for address_bytes in (4, 16) for step in _drop_mirrored(address_bytes)]
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, _ACCEPT])


_LOAD_WORD, _LOAD_HALF, _TO_X, _EQUALS, _EQUALS_X, _RETURN = 0x20, 0x28, 0x07, 0x15, 0x1D, 0x06
"""Classic BPF: BPF_LD|BPF_ABS of 4 and of 2 bytes, BPF_MISC|BPF_TAX, BPF_JMP|BPF_JEQ with BPF_K and BPF_X, BPF_RET."""

_ACCEPT = (_RETURN, 0, 0, 0xFFFFFFFF)
_DROP = (_RETURN, 0, 0, 0)


def _drop_mirrored(address_bytes: int) -> Iterator[tuple[int, int, int, int]]:
    """Drops a message whose tuples have this shape and mirror each other; goes on behind its end with all others."""
    source = AddressAttribute.V4_SRC if address_bytes == 4 else AddressAttribute.V6_SRC
    address = 4 + address_bytes
    tuple_bytes = 4 + 4 + 2 * address + 4 + 3 * 8
    places = [HEADERS_BYTES, HEADERS_BYTES + tuple_bytes]
    checks: list[list[tuple[int, int, int]]] = []
    for place, type_ in zip(places, (ConnectionAttribute.TUPLE_ORIG, ConnectionAttribute.TUPLE_REPLY), strict=True):
        proto = place + 8 + 2 * address
        checks += [
            _header_is(place, tuple_bytes, type_ | _NESTED),
            _header_is(place + 4, 4 + 2 * address, TupleAttribute.IP | _NESTED),
            _header_is(place + 8, address, source),
            _header_is(place + 8 + address, address, source + 1),
            _header_is(proto, 4 + 3 * 8, TupleAttribute.PROTO | _NESTED),
            _header_is(proto + 4, 5, ProtocolAttribute.NUM),
            _header_is(proto + 12, 6, ProtocolAttribute.SRC_PORT),
            _header_is(proto + 20, 6, ProtocolAttribute.DST_PORT),
        ]
    here, there = (place + 12 for place in places)
    for offset in range(0, address_bytes, 4):
        checks.append(_same(_LOAD_WORD, here + offset, there + address + offset))
        checks.append(_same(_LOAD_WORD, here + address + offset, there + offset))
    here, there = (place + 8 + 2 * address + 16 for place in places)
    checks += [_same(_LOAD_HALF, here, there + 8), _same(_LOAD_HALF, here + 8, there)]
    length = sum(map(len, checks)) + 1
    done = 0
    for check in checks:
        done += len(check)
        *loads, (code, _, value) = check
        yield from ((code_, 0, 0, value_) for code_, _, value_ in loads)
        yield code, 0, length - done, value
    yield _DROP


def _header_is(offset: int, length: int, type_: int) -> list[tuple[int, int, int]]:
    """The filter reads in network order what the kernel wrote in its own."""
    return [(_LOAD_WORD, 0, offset), (_EQUALS, 0, int.from_bytes(struct.pack("=HH", length, type_), "big"))]


def _same(load: int, some: int, other: int) -> list[tuple[int, int, int]]:
    return [(load, 0, some), (_TO_X, 0, 0), (load, 0, other), (_EQUALS_X, 0, 0)]


def _find(words: NDArray[np.uint16], begins: Offsets, ends: Offsets, wanted: Sequence[int]) -> list[_Values]:
    """Of the attributes between `begins` and `ends` those of the types wanted, where they are whole."""
    found = [_Values(np.zeros(len(begins), np.intp), np.zeros(len(begins), np.intp)) for _ in wanted]
    at = begins.copy()
    asked = np.flatnonzero(at + 4 <= ends)
    while len(asked):
        here = at[asked]
        lengths, types = words[here >> 1].astype(np.intp), words[(here >> 1) + 1] & ATTRIBUTE_TYPE
        stops = here + lengths
        whole = (lengths >= 4) & (stops <= ends[asked])
        for values, type_ in zip(found, wanted, strict=True):
            of_type = np.flatnonzero(whole & (types == type_))
            values.begins[asked[of_type]] = here[of_type] + 4
            values.ends[asked[of_type]] = stops[of_type]
        at[asked] = (stops + 3) & ~3
        asked = asked[whole]
        asked = asked[at[asked] + 4 <= ends[asked]]
    return found


def _tuples(
    data: NDArray[np.uint8], words: NDArray[np.uint16], nests: _Values
) -> tuple[Records, NDArray[np.bool_], NDArray[np.bool_]]:
    """TUPLE of each message, whether it can be read, and whether it has ports."""
    ip, protocol = _find(words, nests.begins, nests.ends, tuple(TupleAttribute))
    v4_source, v4_destination, v6_source, v6_destination = _find(words, ip.begins, ip.ends, tuple(AddressAttribute))
    number, source, destination = _find(words, protocol.begins, protocol.ends, tuple(ProtocolAttribute))
    tuples = np.zeros(len(nests.begins), TUPLE)
    for name, v4, v6 in (("src_address", v4_source, v6_source), ("dst_address", v4_destination, v6_destination)):
        addresses = tuples[name]
        addresses[v4.there, :12] = _MAPPED
        addresses[v4.there, 12:] = _bytes(data, v4, 4)
        addresses[v6.there] = _bytes(data, v6, 16)
    tuples["protocol"][number.there] = data[number.begins[number.there]]
    for name, port in (("src_port", source), ("dst_port", destination)):
        tuples[name][port.there] = _bytes(data, port, 2).view(">u2").ravel()
    read = (v4_source.there & v4_destination.there) | (v6_source.there & v6_destination.there)
    read &= number.there
    with_ports = source.there & destination.there & np.isin(tuples["protocol"], _PORTS_PROTOCOLS)
    return tuples, read, with_ports


def _bytes(data: NDArray[np.uint8], values: _Values, length: int) -> NDArray[np.uint8]:
    begins = values.begins[values.there]
    taken: NDArray[np.uint8] = data[begins[:, np.newaxis] + np.arange(length)]
    return taken
