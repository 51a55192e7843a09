"""The kernel's records in the agent's words."""

from __future__ import annotations

import numpy as np

from podwire_agent.layout import LEDGER, FlowDirection
from podwire_agent.model import Buffers, Seen, Traffic


def ledger_cells(cells: np.void) -> Seen:
    """The cells of one interface and direction: a layout.LEDGER, already summed over the CPUs."""
    field = dict(zip(LEDGER.names or (), cells.item(), strict=True))
    return Seen(
        seen=Traffic(*field["seen"]),
        filtered=Traffic(*field["filtered"]),
        overflowed=Traffic(*field["overflowed"]),
        unsupported=tuple(Traffic(*map(int, reason)) for reason in field["unsupported"]),
        estimated=Traffic(*field["estimated"]),
        buffers=Buffers(field["buffers"], field["buffer_bytes"]),
        tagged_buffers=field["tagged_buffers"],
    )


def before_attach(attachment: np.void, direction: FlowDirection) -> tuple[Buffers, Buffers]:
    """What the interface had counted when our program began to: at least, at most.

    `attachment`: one layout.ATTACHMENT whose attach is complete (attached_mono_ns is not 0).
    """
    low, high = attachment["before_low"][direction], attachment["before_high"][direction]
    return Buffers(int(low["buffers"]), int(low["bytes"])), Buffers(int(high["buffers"]), int(high["bytes"]))
