"""Later fragments and the flows that their first fragments are in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from podwire_agent.layout import FlowKind
from podwire_agent.model import Records

_ODD = tuple(
    np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
)
_ODD_REST = np.uint64(0xFF51AFD7ED558CCD)


def siblings(flows: Records) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """REPORT -> the flows of later fragments, and for each the largest whole flow between the same two addresses.

    On the same interface, in the same direction, of the same protocol. Those that have none are left out.
    """
    nothing = np.zeros(0, np.intp)
    kinds = flows["key"]["kind"]
    later = np.flatnonzero(kinds == FlowKind.FLOW_LATER_FRAGMENT)
    if not len(later):
        return nothing, nothing
    words = _words(flows)
    mixed = words[:, 4] * _ODD_REST
    for column, odd in enumerate(_ODD):
        mixed += words[:, column] * odd
    whole = np.flatnonzero((kinds == FlowKind.FLOW_WHOLE) & np.isin(mixed, mixed[later]))
    if not len(whole):
        return nothing, nothing
    whole = whole[np.lexsort((flows["bytes"][whole], mixed[whole]))]
    last = np.searchsorted(mixed[whole], mixed[later], side="right") - 1
    largest = whole[np.maximum(last, 0)]
    # Two pairs of addresses may mix to the same number; then these fragments have no sibling.
    same = (words[later] == words[largest]).all(axis=1)
    return later[same], largest[same]


def _words(flows: Records) -> NDArray[np.uint64]:
    """(n, 5): both addresses, and all else that has to be the same."""
    key = flows["key"]
    words = np.empty((len(flows), 5), np.uint64)
    for column, name in ((0, "src_address"), (2, "dst_address")):
        words[:, column : column + 2] = np.ascontiguousarray(key[name]).view(np.uint64)
    rest = key["ifindex"].astype(np.uint64) << np.uint64(32)
    rest |= key["protocol"].astype(np.uint64) << np.uint64(8)
    words[:, 4] = rest | flows["direction"].astype(np.uint64)
    return words
