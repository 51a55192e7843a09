from __future__ import annotations

import socket
import struct

import numpy as np
import pytest

from podwire_agent.kernel.conntrack_messages import HEADERS_BYTES, Decoded, MessageType, decode, mirrored
from podwire_agent.kernel.rtnetlink import HEADER, attribute
from tests.unit.core.translated_worlds import Tuple, packed, turned

pytestmark = pytest.mark.unit

NESTED = 0x8000
TCP, UDP, SCTP, ICMP = 6, 17, 132, 1
REQUEST: Tuple = ("10.1.0.1", 40000, "10.96.0.10", 80)
RECEIVED: Tuple = ("10.1.0.1", 40000, "10.1.0.2", 8080)


def side(type_: int, each: Tuple, protocol: int = TCP, *inside: bytes) -> bytes:
    """CTA_TUPLE_ORIG or CTA_TUPLE_REPLY."""
    v6 = ":" in each[0]
    family, first = (socket.AF_INET6, 3) if v6 else (socket.AF_INET, 1)
    addresses = attribute(first, socket.inet_pton(family, each[0])) + attribute(
        first + 1, socket.inet_pton(family, each[2])
    )
    ports = attribute(2, struct.pack(">H", each[1])) + attribute(3, struct.pack(">H", each[3]))
    if protocol == ICMP:
        ports = attribute(4, struct.pack(">H", 7)) + attribute(5, b"\x08") + attribute(6, b"\0")
    return attribute(
        type_ | NESTED,
        attribute(1 | NESTED, addresses)
        + attribute(2 | NESTED, attribute(1, bytes([protocol])) + ports)
        + b"".join(inside),
    )


def message(*attributes: bytes, type_: int = MessageType.NEW) -> bytes:
    payload = struct.pack("=BBH", socket.AF_INET, 0, 0) + b"".join(attributes)
    return HEADER.pack(HEADER.size + len(payload), type_, 0, 0, 0) + payload


def both(original: Tuple, received: Tuple, protocol: int = TCP) -> bytes:
    return side(1, original, protocol) + side(2, turned(received), protocol)


def decoded(*messages: bytes) -> Decoded:
    sizes = np.array([len(each) for each in messages], np.intp)
    ends = np.cumsum(sizes)
    return decode(np.frombuffer(b"".join(messages), np.uint8), ends - sizes, ends)


ID, STATUS, TIMEOUT = (attribute(type_, bytes(4)) for type_ in (12, 3, 7))
ZONE = attribute(18, struct.pack(">H", 0x0102))


def test_begun_and_ended_connections_are_told_with_both_tuples() -> None:
    found = decoded(
        message(both(REQUEST, RECEIVED), ID, STATUS, TIMEOUT),
        message(both(REQUEST, RECEIVED), ZONE, ID, type_=MessageType.DELETE),
    )
    assert found.message.tolist() == [0, 1]
    assert found.unreadable == 0
    for connection in found.connections:
        assert connection["original"] == packed(REQUEST)
        assert connection["translated"] == packed(RECEIVED)
    assert found.connections["ended"].tolist() == [0, 1]
    assert found.connections["zone"].tolist() == [0, 0x0102]


@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
def test_a_protocol_with_ports_is_told(protocol: int) -> None:
    found = decoded(message(both(REQUEST, RECEIVED, protocol)))
    assert found.connections["original"]["protocol"].tolist() == [protocol]
    assert found.connections["translated"]["protocol"].tolist() == [protocol]


def test_ipv6_is_told() -> None:
    request, received = ("fd00::1", 1, "fd00:96::a", 80), ("fd00::2", 2, "fd00::b", 8080)
    (connection,) = decoded(message(both(request, received))).connections
    assert bytes(connection["original"]["dst_address"]) == socket.inet_pton(socket.AF_INET6, "fd00:96::a")
    assert bytes(connection["translated"]["src_address"]) == socket.inet_pton(socket.AF_INET6, "fd00::2")
    assert connection["translated"]["dst_port"] == 8080


@pytest.mark.parametrize(
    ("attributes", "unreadable"),
    [
        pytest.param(both(REQUEST, REQUEST), 0, id="what is not translated is left out"),
        pytest.param(both(REQUEST, RECEIVED, ICMP), 0, id="ICMP is left out"),
        pytest.param(side(1, REQUEST), 1, id="without a reply it is unreadable"),
        pytest.param(b"", 1, id="without anything it is unreadable"),
        pytest.param(side(1, REQUEST) + attribute(2 | NESTED, b"\0" * 8), 1, id="with an empty reply it is unreadable"),
    ],
)
def test_what_is_of_no_use(attributes: bytes, unreadable: int) -> None:
    found = decoded(message(both(REQUEST, RECEIVED)), message(attributes))
    assert found.message.tolist() == [0]
    assert found.unreadable == unreadable


def test_a_zone_of_one_direction_inside_a_tuple_is_no_obstacle() -> None:
    inside = attribute(3, struct.pack(">H", 7))
    found = decoded(message(side(1, REQUEST, TCP, inside) + side(2, turned(RECEIVED))))
    assert found.connections["translated"][0] == packed(RECEIVED)


def test_a_message_cut_off_anywhere_is_read_or_counted() -> None:
    whole = message(both(REQUEST, RECEIVED), ID, STATUS)
    needed = HEADERS_BYTES + len(both(REQUEST, RECEIVED))
    data = np.frombuffer(whole, np.uint8)
    for length in range(HEADERS_BYTES, len(whole) + 1):
        found = decode(data, np.zeros(1, np.intp), np.full(1, length, np.intp))
        assert len(found.connections) == (length >= needed)
        assert found.unreadable == (length < needed)


def test_arbitrary_bytes_are_survived() -> None:
    chance = np.random.default_rng(1)
    for _ in range(200):
        data = chance.integers(0, 256, 64 * 256, np.uint8)
        data[chance.random(len(data)) < 0.6] = 0
        begins = np.arange(64, dtype=np.intp) * 256
        found = decode(data, begins, begins + 256)
        assert len(found.connections) <= 64


def test_mirrored_twice_is_as_before() -> None:
    one = np.array([packed(REQUEST)])
    assert (mirrored(mirrored(one)) == one).all()
    assert (mirrored(one) == np.array([packed(turned(REQUEST))])).all()
