"""What the comparison is given of its node, what it gives, and its constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podwire_agent.layout import FLOW_KEY
from podwire_agent.model import Records, UncomparedReason
from podwire_agent.statements import Status

LOSS = np.dtype(
    [
        ("key", FLOW_KEY),
        ("direction", "u4"),
        ("lost", "u8"),
        ("compared", "u8"),
        ("uncompared", "u8", (len(UncomparedReason),)),
    ]
)
"""What came to be known of a flow since the last time. TO_POD: said by the destination. FROM_POD: by the source."""

INTERFACE = np.dtype([("ifindex", "u4"), ("zero", "u4"), ("since_mono_ns", "u8"), ("overflowed", "u8", (2,))])
"""A watched interface: since when without a gap, and the packets of each direction that found no room in the map."""

RECEIVER = np.dtype([("address", "u1", (16,)), ("ifindex", "u4")])
"""An address of a pod whose TO_POD is counted, and the interface it is behind."""

LATE_NS = 20_000_000
"""A source's cut that came later than this is not stated: the next one says the same and more."""
ARRIVAL_NS = 60_000_000
"""After so long what was sent is there, or lost; more where the path's delay was found to be long. With the margins
below it is less than DELTA_NS, so that a flow that never pauses is compared at every cut."""
COARSE_NS = 10_000_000
"""How far a packet's time may be behind: the kernel's coarse clock ticks at 100 Hz or more."""
PAUSE_NS = 1_000_000_000
"""Silence from which both ends may begin to compare."""
START_NS = 20_000_000
"""A flow that is first seen so soon after the attach may have begun before it, unless its SYN was seen."""
SOURCE_IDLE_NS = 60_000_000_000
"""The source forgets a settled flow without packets for so long."""
DESTINATION_IDLE_NS = 150_000_000_000
"""The destination forgets later, so that it is never asked about what it has forgotten."""
UNSETTLED_NS = 3600_000_000_000
"""How long the destination remembers what it and the source do not agree on yet."""
GIVEN_UP_NS = 3000_000_000_000
"""A source that has had no answer for so long takes it that what it handed over is accounted for: it must not tell
the destination again once that has forgotten."""

REASON_OF = {
    Status.UNWATCHED: UncomparedReason.UNWATCHED,
    Status.OVERFLOW: UncomparedReason.OVERFLOW,
    Status.AMBIGUOUS: UncomparedReason.NO_START,
}
"""Of the statuses that are a refusal: why the source counts the packets as uncompared."""


@dataclass(frozen=True, slots=True)
class InForce:
    """A set of rules."""

    since_mono_ns: int
    """When the kernel had it."""
    accepts: Callable[[Records], NDArray[np.bool_]]
    """FLOW_KEY (n,) as seen TO_POD -> measured or not."""


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What the node is like at a drain."""

    interfaces: Records
    """INTERFACE (n,), of all that are watched; read after the cuts."""
    receivers: Records
    """RECEIVER (n,)."""
    rules: Sequence[InForce] = ()
    """Those in force now, last, and those before, of at least two periods. None: all is measured."""
    visible: bool = True
    """What goes to the pods here can be seen."""
