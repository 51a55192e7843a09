"""The maps of the rules: slots that stay, and in them maps that are made, filled and replaced (bpf/maps.bpf.h)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from podwire_agent.kernel.objects import Map, MapFlag, MapType
from podwire_agent.kernel.rotation import SLOT
from podwire_agent.layout import (
    ADDRESS,
    ADDRESS_BITS,
    END_BITS,
    PREFIX_KEY,
    RULE_BITS,
    RULE_SET,
    TRAFFIC,
    FlowLimit,
)

WORD = np.dtype("u4")

RULE_SLOT = "rule_slot"
FILTERED_SLOTS = "filtered_slots"


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the maps in a slot."""

    kind: MapType
    key: np.dtype[Any]
    value: np.dtype[Any]
    entries: int = 0
    """0: as many as are needed."""
    flags: MapFlag = MapFlag.NONE
    slots: int = FlowLimit.RULE_HALVES

    def make(self, name: str, entries: int) -> Map:
        """A map of this shape. KernelError."""
        return Map.create(name, self.key, self.value, self.entries or entries, self.kind, flags=self.flags)


RULE_MAPS: Mapping[str, Shape] = {
    RULE_SLOT: Shape(MapType.ARRAY, WORD, RULE_SET, 1, slots=1),
    "rule_interfaces": Shape(MapType.HASH, WORD, END_BITS),
    "rule_addresses": Shape(MapType.HASH, ADDRESS, ADDRESS_BITS),
    "rule_prefixes": Shape(MapType.LPM_TRIE, PREFIX_KEY, ADDRESS_BITS, flags=MapFlag.NO_PREALLOC),
    "rule_ports": Shape(MapType.ARRAY, WORD, RULE_BITS, FlowLimit.PORTS),
    "rule_protocols": Shape(MapType.ARRAY, WORD, RULE_BITS, FlowLimit.PROTOCOLS),
    FILTERED_SLOTS: Shape(MapType.PERCPU_ARRAY, WORD, TRAFFIC, FlowLimit.FILTER_CAUSES),
}
"""By the name of the slots."""


def make_slots(name: str) -> Map:
    """The slots of that name, empty, as libbpf makes them. KernelError."""
    shape = RULE_MAPS[name]
    with shape.make(name, 1) as inner:
        return Map.create(name, SLOT, SLOT, shape.slots, MapType.ARRAY_OF_MAPS, inner=inner)
