"""What the agents of a flow's two ends say to each other about it. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from podwire_agent.model import Records

WIRE = np.dtype(
    [
        ("src_address", "u1", (16,)),
        ("dst_address", "u1", (16,)),
        ("src_port", ">u2"),
        ("dst_port", ">u2"),
        ("protocol", "u1"),
        ("zero", "u1", (3,)),
    ]
)
"""A flow as both ends know it: the tuple after translation, in the direction of the packets. The layout is that of
the translations' tuples."""

STATEMENT = np.dtype(
    [
        ("wire", WIRE),
        ("first_mono_ns", "u8"),
        ("packets", "u8"),
        ("uncompared", "u8"),
        ("handed", "u8"),
        ("settled", "u8"),
        ("last_mono_ns", "u8"),
        ("valid_from_mono_ns", "u8"),
        ("pause_packets", "u8"),
        ("pause_from_mono_ns", "u8"),
        ("pause_to_mono_ns", "u8"),
    ]
)
"""What the source says of a flow, on the wire as in memory (little endian). Counts are cumulative since
`first_mono_ns`, which together with the tuple names the flow's incarnation; times are of the source's monotonic clock.

packets: left the source until the cut. uncompared: of these, the source has counted as uncompared by itself.
handed: of these, the destination is to account for. settled: of these, it has said that its checkpoint has them.
last: of the newest packet. valid_from: before this the source may have missed packets; 0: it has seen the start.
pause_*: the last time the flow was silent for a PAUSE_NS or more: packets before it, its begin and its end; end 0:
there was none."""

UNREACHABLE_NS = 60_000_000_000
"""What nobody answered for is uncompared after this; and how old a statement may be."""


class Status(IntEnum):
    """What the destination answers for a statement; with SETTLED added where its checkpoint has all that was said."""

    TAKEN = 0
    """It will account for every packet stated, once it is told that these are handed over."""
    LATER = 1
    """Ask again: it does not know the receiver yet."""
    UNWATCHED = 2
    """It does not watch the receiver."""
    OVERFLOW = 3
    """It has no room for another flow."""
    AMBIGUOUS = 4
    """Two statements of one body name the same flow."""


SETTLED = 0x80

Statuses = NDArray[np.uint8]
"""Status, with SETTLED or without."""


@dataclass(frozen=True, slots=True)
class CutTimes:
    """When one direction's epoch ended: the swap began and returned; in between the kernel may count on either side."""

    begun_unix_ns: int
    begun_mono_ns: int
    ended_mono_ns: int

    def late_ns(self, period_ns: int) -> int:
        """Behind the multiple of the period that it belongs to."""
        return self.begun_unix_ns % period_ns


@dataclass(frozen=True, slots=True)
class Envelope:
    """What holds for all statements of one message."""

    node: str
    """The source's."""
    boot_id: str
    cut_mono_ns: int
    """When the source's cut was over, by its clock."""
    offset_ns: int = 0
    """The destination's monotonic clock less the source's."""
    error_ns: int = 0
    """How far `offset_ns` may be off."""
    delay_ns: int = 0
    """There and back, at best."""
    latest_offset_ns: int = 0
    """`offset_ns` is not more than this, whatever the clocks did: the message arrived after it was sent."""


@dataclass(frozen=True, slots=True, eq=False)
class Statements:
    """From one source to one destination, of one cut."""

    node: str
    """The destination's."""
    cut: CutTimes
    identities: NDArray[np.uint32]
    """(n, words): which of the source's flows each is; it does not travel."""
    records: Records
    """STATEMENT (n,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What became of Statements, at the source."""

    statements: Statements
    statuses: Statuses
    boot_id: str
    """The destination's."""
    clock_fits: bool = True
    """Clocks' difference and delay are small enough."""
    visible: bool = True
    """What goes to its pods can be seen at that node."""
