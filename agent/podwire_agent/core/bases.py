"""From where on two ends of a flow can be compared: an instant at which both have counted the same packets, or none.

That is the flow's start, where both were watching before it; or a silence that both saw. Any instant within such a
silence will do: what was sent before it has arrived or is lost, and nothing was sent yet that comes after. All times
are of the destination's clock; what the source said is off by `error` at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.surroundings import COARSE_NS, PAUSE_NS

Counts = NDArray[np.uint64]
Times = NDArray[np.int64]
Mask = NDArray[np.bool_]

NO_TIME = np.iinfo(np.int64).min // 4
"""Earlier than all that happens."""


@dataclass(frozen=True, slots=True, eq=False)
class Ends:
    """Of n flows, what each end knows."""

    # The source's.
    first: Times
    last: Times
    cut: Times
    valid_from: Times
    """The source may have missed packets before this; NO_TIME: it saw the start."""
    packets: Counts
    pause_packets: Counts
    pause_from: Times
    pause_to: Times
    """NO_TIME: there was no pause."""
    error: Times
    arrival: Times
    """How long a packet may take."""
    # The destination's.
    received: Counts
    received_first: Times
    """The destination's first packet; of a flow without any its cut."""
    received_last: Times
    """NO_TIME: there was none."""
    gap_packets: Counts
    gap_from: Times
    gap_to: Times
    """NO_TIME: there was no gap."""
    rest_packets: Counts
    rest_from: Times
    rest_to: Times
    received_cut: Times
    floor: Times
    """The destination may have missed packets before this."""
    forgotten: Times
    """What the destination has forgotten of any flow came before this."""


@dataclass(frozen=True, slots=True, eq=False)
class Bases:
    """Where each flow's comparison begins."""

    found: Mask
    packets: Counts
    """Of the source until then."""
    received: Counts
    at: Times
    """The instant."""


def start(ends: Ends) -> Bases:
    """Both saw the flow's first packet."""
    watched = (ends.valid_from == NO_TIME) & (ends.first - ends.error >= ends.floor)
    watched &= ends.first - ends.error > ends.forgotten
    early = ends.first - ends.error - COARSE_NS  # what comes later belongs to this flow
    silent = ends.first - PAUSE_NS // 2  # what came before does not, if there was nothing for so long
    unborn = ends.received_first >= early
    quiet = ends.received_last <= silent
    found = unborn | quiet
    received = np.where(unborn, np.uint64(0), ends.received)
    for packets, begin, end in (
        (ends.gap_packets, ends.gap_from, ends.gap_to),
        (ends.rest_packets, ends.rest_from, ends.rest_to),
    ):
        resumed = ~found & (end >= early) & (begin <= silent)
        found |= resumed
        received[resumed] = packets[resumed]
    return Bases(watched & found, np.zeros_like(ends.packets), received, ends.first)


def pause(ends: Ends) -> Bases:
    """Both saw the same silence; the latest there is."""
    idle = ends.cut - ends.last >= PAUSE_NS
    silences_sent = [
        (ends.packets, ends.last + COARSE_NS, np.where(idle, ends.cut, NO_TIME)),
        (ends.pause_packets, ends.pause_from + COARSE_NS, ends.pause_to),
    ]
    after_all = np.maximum(ends.received_last + COARSE_NS, ends.forgotten)
    silences_received = [
        (ends.received, after_all, ends.received_cut),
        (ends.gap_packets, ends.gap_from + COARSE_NS, ends.gap_to),
        (np.zeros_like(ends.received), ends.forgotten, ends.received_first),
    ]
    found = np.zeros(len(ends.packets), np.bool_)
    packets, received = np.zeros_like(ends.packets), np.zeros_like(ends.received)
    at = np.full(len(found), NO_TIME, np.int64)
    earliest = np.maximum(ends.floor, ends.valid_from + ends.error)
    for sent, sent_from, sent_to in silences_sent:
        for arrived, arrived_from, arrived_to in silences_received:
            begin = np.maximum(np.maximum(sent_from + ends.arrival, arrived_from), earliest)
            fits = ~found & (begin <= np.minimum(sent_to - ends.error, arrived_to) - COARSE_NS)
            found |= fits
            packets[fits], received[fits], at[fits] = sent[fits], arrived[fits], begin[fits]
    return Bases(found, packets, received, at)
