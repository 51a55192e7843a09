"""Statements as their destination keeps them until it can compare: in its own clock."""

from __future__ import annotations

import numpy as np

from podwire_agent.core.bases import NO_TIME
from podwire_agent.core.surroundings import ARRIVAL_NS, COARSE_NS
from podwire_agent.model import Records
from podwire_agent.statements import WIRE, Envelope

NOTE = np.dtype(
    [
        ("wire", WIRE),
        ("first_mono_ns", "u8"),
        ("packets", "u8"),
        ("pause_packets", "u8"),
        ("first_here_ns", "i8"),
        ("last_mono_ns", "i8"),
        ("cut_mono_ns", "i8"),
        ("valid_from_mono_ns", "i8"),
        ("pause_from_mono_ns", "i8"),
        ("pause_to_mono_ns", "i8"),
        ("error_ns", "i8"),
        ("arrival_ns", "i8"),
        ("due_mono_ns", "i8"),
    ]
)
"""A statement: first_mono_ns identifies, as in STATEMENT; the other times are of the destination's clock, NO_TIME where
the statement had none. arrival: how long a packet may take. due: a cut that began then has all that was sent."""


def notes_of(records: Records, envelope: Envelope) -> Records:
    """STATEMENT (n,) -> NOTE (n,)."""
    notes = np.empty(len(records), NOTE)
    for name in ("wire", "first_mono_ns", "packets", "pause_packets"):
        notes[name] = records[name]
    offset_ns = np.int64(envelope.offset_ns)
    notes["first_here_ns"] = records["first_mono_ns"].astype(np.int64) + offset_ns
    # After these a flow may be silent: rather too late than too early.
    latest_ns = np.int64(envelope.latest_offset_ns)
    for name, shift_ns in (
        ("last_mono_ns", latest_ns),
        ("valid_from_mono_ns", latest_ns),
        ("pause_from_mono_ns", latest_ns),
        ("pause_to_mono_ns", offset_ns),
    ):
        theirs = records[name].astype(np.int64)
        notes[name] = np.where(theirs > 0, theirs + shift_ns, NO_TIME)
    notes["pause_from_mono_ns"][records["pause_to_mono_ns"] == 0] = NO_TIME
    notes["cut_mono_ns"] = envelope.cut_mono_ns + envelope.offset_ns
    notes["error_ns"] = envelope.error_ns
    notes["arrival_ns"] = max(ARRIVAL_NS, 2 * envelope.delay_ns)
    # The newest packet may have left a tick later than its time says, but not after the cut.
    cut = envelope.cut_mono_ns + latest_ns
    last = np.minimum(notes["last_mono_ns"] + COARSE_NS, np.maximum(notes["last_mono_ns"], cut))
    notes["due_mono_ns"] = last + notes["arrival_ns"]
    return notes
