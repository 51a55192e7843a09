"""The kernel's records in the agent's words."""

from __future__ import annotations

import numpy as np

from podwire_agent.layout import FlowDirection
from podwire_agent.model import Buffers, Records, Seen, Traffic


def ledger_cells(per_cpu: Records) -> Seen:
    """The cells of one interface and direction: layout.LEDGER, shape (cpus,), summed over the CPUs.

    Sums are exact modulo 2^64, as the kernel's own counters are.
    """
    return Seen(
        seen=_traffic(per_cpu["seen"]),
        filtered=_traffic(per_cpu["filtered"]),
        overflowed=_traffic(per_cpu["overflowed"]),
        unsupported=tuple(_traffic(reason) for reason in per_cpu["unsupported"].T),
        estimated=_traffic(per_cpu["estimated"]),
        buffers=Buffers(_total(per_cpu["buffers"]), _total(per_cpu["buffer_bytes"])),
        tagged_buffers=_total(per_cpu["tagged_buffers"]),
    )


def before_attach(attachment: np.void, direction: FlowDirection) -> tuple[Buffers, Buffers]:
    """What the interface had counted when our program began to: at least, at most.

    `attachment`: one layout.ATTACHMENT whose attach is complete (attached_mono_ns is not 0).
    """
    low, high = attachment["before_low"][direction], attachment["before_high"][direction]
    return Buffers(int(low["buffers"]), int(low["bytes"])), Buffers(int(high["buffers"]), int(high["bytes"]))


def _traffic(cells: Records) -> Traffic:
    return Traffic(_total(cells["packets"]), _total(cells["bytes"]))


def _total(column: np.ndarray[tuple[int, ...], np.dtype[np.uint64]]) -> int:
    return int(column.sum(dtype=np.uint64))
