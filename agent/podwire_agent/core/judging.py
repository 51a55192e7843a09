"""Whether a flow's two ends can be compared, and from where on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from podwire_agent.core import bases
from podwire_agent.core.bases import NO_TIME, Ends, Mask, Times
from podwire_agent.core.surroundings import COARSE_NS, InForce
from podwire_agent.core.watched import NEVER_NS, Span
from podwire_agent.model import Records, UncomparedReason

UNJUDGED, COMPARABLE, BROKEN = range(3)
"""HELD.state: nothing is known yet; counts can be compared; they cannot, for `reason`, until a pause."""


def judge(rows: Records, ends: Ends, keys: Records, span: Span, rules: Sequence[InForce]) -> None:
    """Bring state, reason and base of HELD rows up to date. `keys`: FLOW_KEY of each as seen TO_POD."""
    take_back(rows, ends, keys, span, rules)
    find_bases(rows, ends, keys, span, rules)


def take_back(rows: Records, ends: Ends, keys: Records, span: Span, rules: Sequence[InForce]) -> None:
    """Take back that a flow can be compared, where something was missed since its base, at either end."""
    # A packet that came later tells that the interface was there.
    there = np.maximum(span.until, ends.received_last)
    gone = (span.until < NEVER_NS) & (ends.last + ends.error + COARSE_NS > there)
    comparable = rows["state"] == COMPARABLE
    missed_here = comparable & (rows["base_mono_ns"] < ends.floor)
    overflowed = missed_here & (span.overflowed >= span.since)
    missed_there = comparable & (rows["base_mono_ns"] + 2 * ends.error + COARSE_NS < ends.valid_from)
    rejected = comparable & ~_accepted(rules, keys, rows["checked_mono_ns"], comparable)
    for which, reason in (
        (missed_there, UncomparedReason.NO_START),
        (missed_here, UncomparedReason.NO_START),
        (overflowed, UncomparedReason.OVERFLOW),
        (rejected, UncomparedReason.FILTERED),
        (gone, UncomparedReason.UNWATCHED),
    ):
        rows["state"][which], rows["reason"][which] = BROKEN, reason


def find_bases(rows: Records, ends: Ends, keys: Records, span: Span, rules: Sequence[InForce]) -> None:
    """Find where flows can be compared from, that cannot yet."""
    unjudged = rows["state"] == UNJUDGED
    gone = (rows["state"] == BROKEN) & (rows["reason"] == UncomparedReason.UNWATCHED)
    overflowed = unjudged & (span.overflowed >= np.maximum(span.since, ends.first))
    rows["state"][unjudged], rows["reason"][unjudged] = BROKEN, UncomparedReason.NO_START
    rows["reason"][overflowed] = UncomparedReason.OVERFLOW
    for found, eligible in ((bases.start(ends), unjudged), (bases.pause(ends), ~gone)):
        at = np.flatnonzero(found.found & eligible & (rows["state"] == BROKEN))
        measured = found.at[at] >= _accepted_since(rules, keys[at])
        rows["reason"][at[~measured]] = UncomparedReason.FILTERED
        at = at[measured]
        rows["state"][at] = COMPARABLE
        rows["base_packets"][at] = found.packets[at]
        rows["base_received"][at] = found.received[at]
        rows["base_mono_ns"][at] = found.at[at]
        rows["lost_before"][at] = rows["lost"][at]


def _accepted(rules: Sequence[InForce], keys: Records, since: Times, which: Mask) -> Mask:
    """Whether every set of rules that came into force after an instant measures the flow; asked of some of them."""
    accepted = np.ones(len(keys), np.bool_)
    for each in rules:
        asked = np.flatnonzero(which & (since < each.since_mono_ns))
        if len(asked):
            accepted[asked] &= each.accepts(keys[asked])
    return accepted


def _accepted_since(rules: Sequence[InForce], keys: Records) -> Times:
    """From when on every set of rules measures the flow; NEVER_NS where the present one does not."""
    since = np.full(len(keys), NEVER_NS if rules else NO_TIME, np.int64)
    still = np.arange(len(keys))
    for each in reversed(rules):
        if not len(still):
            break
        still = still[each.accepts(keys[still])]
        since[still] = each.since_mono_ns
    return since
