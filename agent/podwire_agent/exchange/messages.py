"""The bodies: a header, then records of one size, packed by zlib. docs/reference/exchange.md is the protocol.

All numbers are little endian, but for the ports, which are as on the wire.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

import numpy as np

from podwire_agent.exchange.clocks import Estimate
from podwire_agent.model import MonitorUid, Records
from podwire_agent.statements import STATEMENT, UNREACHABLE_NS, CutTimes, Envelope, Statuses

VERSION = 1
PATH = "/v1/statements"
CONTENT_TYPE = "application/vnd.podwire.statements"

RECORDS_LIMIT = 16384
"""Statements in one body; more go into several."""

HEADER = np.dtype(
    [
        ("magic", "S4"),
        ("version", "<u2"),
        ("record_bytes", "<u2"),
        ("records", "<u4"),
        ("zero", "<u4"),
        ("monitor", "S64"),
        ("boot_id", "S64"),
        ("to_boot_id", "S64"),
        ("node", "S256"),
        ("period_ns", "<u8"),
        ("cut_number", "<u8"),
        ("cut_unix_ns", "<u8"),
        ("cut_mono_ns", "<u8"),
        ("sent_unix_ns", "<u8"),
        ("sent_mono_ns", "<u8"),
        ("offset_ns", "<i8"),
        ("error_ns", "<u8"),
        ("delay_ns", "<u8"),
    ]
)
"""Of a request. monitor: UID; boot_id, node: the source's; to_boot_id: whose clock `offset` is about; cut_mono: when
the source's cut was over; offset: the destination's monotonic clock less the source's, error: how far that may be off,
delay: there and back at best."""

ANSWER = np.dtype(
    [
        ("magic", "S4"),
        ("version", "<u2"),
        ("flags", "<u2"),
        ("records", "<u4"),
        ("zero", "<u4"),
        ("boot_id", "S64"),
        ("received_mono_ns", "<u8"),
        ("answered_mono_ns", "<u8"),
        ("answered_unix_ns", "<u8"),
    ]
)
"""Of an answer; then a byte a record (statements.Status)."""

INVISIBLE = 1
"""In ANSWER.flags: what goes to the pods of the node cannot be seen there."""

_ASKS, _SAYS = b"PWLS", b"PWLA"

_LEVEL = 1
"""Of packing: a seventh of the size for a microsecond a record; more would cost more than it saves."""

BODY_LIMIT = HEADER.itemsize + RECORDS_LIMIT * STATEMENT.itemsize


class Refusal(Enum):
    """Why a request is refused; the value is the HTTP status."""

    MALFORMED = HTTPStatus.BAD_REQUEST
    NOT_FOUND = HTTPStatus.NOT_FOUND
    METHOD = HTTPStatus.METHOD_NOT_ALLOWED
    SLOW = HTTPStatus.REQUEST_TIMEOUT
    UNKNOWN_MONITOR = HTTPStatus.CONFLICT
    OTHER_BOOT = HTTPStatus.MISDIRECTED_REQUEST
    TOO_OLD = HTTPStatus.GONE
    NO_LENGTH = HTTPStatus.LENGTH_REQUIRED
    TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    LONG_HEAD = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    BUSY = HTTPStatus.SERVICE_UNAVAILABLE


class Refused(Exception):
    """A request is not taken; the message is for the person who looks at it."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A body that was read."""

    monitor: MonitorUid
    envelope: Envelope
    records: Records
    """STATEMENT (n,)."""


@dataclass(frozen=True, slots=True)
class PeerClock:
    """What is known of the other one's clock."""

    boot_id: str
    """Its clock ends with its boot."""
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Sender:
    """Who speaks, for which monitor."""

    monitor: MonitorUid
    node: str
    boot_id: str
    period_ns: int


def request_body(
    sender: Sender, cut: CutTimes | None, records: Records, clock: PeerClock | None, unix_ns: int, mono_ns: int
) -> bytes:
    """Statements of one cut; none at all, without a cut and a clock, only asks for the time."""
    header = np.zeros(1, HEADER)
    header["magic"], header["version"], header["record_bytes"] = _ASKS, VERSION, STATEMENT.itemsize
    header["records"] = len(records)
    header["monitor"], header["node"] = sender.monitor.encode(), sender.node.encode()
    header["boot_id"], header["period_ns"] = sender.boot_id.encode(), sender.period_ns
    if cut is not None:
        header["cut_number"] = cut.begun_unix_ns // sender.period_ns
        header["cut_unix_ns"], header["cut_mono_ns"] = cut.begun_unix_ns, cut.ended_mono_ns
    if clock is not None:
        header["to_boot_id"] = clock.boot_id.encode()
        for name in ("offset_ns", "error_ns", "delay_ns"):
            header[name] = getattr(clock.estimate, name)
    header["sent_unix_ns"], header["sent_mono_ns"] = unix_ns, mono_ns
    return header.tobytes() + zlib.compress(records.tobytes(), _LEVEL)


def read_request(body: bytes, boot_id: str, unix_ns: int, mono_ns: int) -> Request:
    """Refused where it is not whole, of another version, or of another time. `boot_id`, and when it came: ours."""
    if len(body) < HEADER.itemsize:
        raise Refused(Refusal.MALFORMED, f"{len(body)} bytes are less than a header's {HEADER.itemsize}")
    header = np.frombuffer(body, HEADER, count=1)[0]
    if header["magic"] != _ASKS or header["version"] != VERSION or header["record_bytes"] != STATEMENT.itemsize:
        raise Refused(
            Refusal.MALFORMED,
            f"not statements of version {VERSION} with records of {STATEMENT.itemsize} bytes; "
            "are the two agents of versions that go together?",
        )
    count = int(header["records"])
    if count > RECORDS_LIMIT:
        raise Refused(Refusal.TOO_LARGE, f"{count} records; at most {RECORDS_LIMIT} are taken")
    try:
        monitor, node, source = (bytes(header[name]).decode() for name in ("monitor", "node", "boot_id"))
    except UnicodeDecodeError as error:
        raise Refused(Refusal.MALFORMED, f"a name is not UTF-8: {error.reason}") from error
    records = np.frombuffer(_unpacked(body[HEADER.itemsize :], count * STATEMENT.itemsize), STATEMENT)
    if count:
        if bytes(header["to_boot_id"]) != boot_id.encode():
            raise Refused(Refusal.OTHER_BOOT, "the clock that this speaks of ended with a boot; ask for the time again")
        _check(header, records, unix_ns)
    envelope = Envelope(
        node=node,
        boot_id=source,
        cut_mono_ns=int(header["cut_mono_ns"]),
        offset_ns=int(header["offset_ns"]),
        error_ns=int(header["error_ns"]),
        delay_ns=int(header["delay_ns"]),
        latest_offset_ns=mono_ns - int(header["sent_mono_ns"]),
    )
    return Request(MonitorUid(monitor), envelope, records)


def answer_body(
    boot_id: str, statuses: Statuses, received_mono_ns: int, unix_ns: int, mono_ns: int, *, visible: bool
) -> bytes:
    """What becomes of each record."""
    answer = np.zeros(1, ANSWER)
    answer["magic"], answer["version"], answer["records"] = _SAYS, VERSION, len(statuses)
    answer["boot_id"], answer["flags"] = boot_id.encode(), 0 if visible else INVISIBLE
    answer["received_mono_ns"], answer["answered_mono_ns"] = received_mono_ns, mono_ns
    answer["answered_unix_ns"] = unix_ns
    return answer.tobytes() + statuses.tobytes()


def read_answer(body: bytes, records: int) -> tuple[np.void, Statuses]:
    """One ANSWER, and the status of each of so many records. Refused where it is not that."""
    if len(body) != ANSWER.itemsize + records:
        raise Refused(Refusal.MALFORMED, f"{len(body)} bytes are not an answer to {records} records")
    answer = np.frombuffer(body, ANSWER, count=1)[0]
    if answer["magic"] != _SAYS or answer["version"] != VERSION or answer["records"] != records:
        raise Refused(Refusal.MALFORMED, f"not an answer of version {VERSION} to {records} records")
    return answer, np.frombuffer(body, np.uint8, offset=ANSWER.itemsize)


def _unpacked(packed: bytes, size: int) -> bytes:
    """Never more than `size`, whatever was packed."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise Refused(Refusal.MALFORMED, f"the records cannot be unpacked: {error}") from error
    if len(content) != size or not unpacker.eof or unpacker.unused_data:
        raise Refused(Refusal.MALFORMED, f"what was packed is not {size} bytes")
    return content


def _check(header: np.void, records: Records, now_unix_ns: int) -> None:
    """What must hold of statements; times that are out of all bounds would overflow when they are compared."""
    age_ns = now_unix_ns - int(header["cut_unix_ns"])
    if abs(age_ns) > UNREACHABLE_NS:
        words = "old" if age_ns > 0 else "in the future"
        raise Refused(
            Refusal.TOO_OLD,
            f"the cut is {abs(age_ns) / 1e9:.0f} s {words}, at most {UNREACHABLE_NS // 10**9} s are taken; "
            "are both nodes' clocks right?",
        )
    limit = 2**60
    times = [header[name] for name in ("cut_mono_ns", "sent_mono_ns", "error_ns", "delay_ns")]
    times += [records[name].max() for name in STATEMENT.names or () if name.endswith("_mono_ns")]
    if max(int(each) for each in times) > limit or abs(int(header["offset_ns"])) > limit:
        raise Refused(Refusal.MALFORMED, "a time is out of bounds")
    done = records["uncompared"]
    if (done > records["packets"]).any() or (records["handed"] > records["packets"] - done).any():
        raise Refused(Refusal.MALFORMED, "more is accounted for than was sent")
    if (records["settled"] > records["handed"]).any() or (records["pause_packets"] > records["packets"]).any():
        raise Refused(Refusal.MALFORMED, "a count is larger than what it is a part of")
