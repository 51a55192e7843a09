"""Epochs of one direction: a map is active, then frozen for ever, read, and dropped.

The slot of the outer map is set by one single-element update, which returns after every program that may
still write to the old map has ended (the kernel waits for RCU, commit 1ae80cf31938). So a frozen map never
changes, reading it can be repeated, and a crash between any two steps is mended by `adopt`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from podwire_agent.errors import StateError
from podwire_agent.kernel.objects import Map
from podwire_agent.layout import FLOW_KEY, FLOW_STATS, FlowDirection

SLOT = np.dtype("u4")
"""Key (a FlowDirection) and value (a map's descriptor to write, its id to read) of the outer map."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """An epoch's map that nothing writes to any more."""

    direction: FlowDirection
    epoch: int
    map: Map
    pin: Path


class Rotation:
    """The active epoch of one direction and the map made ahead for the next. Not safe for threads."""

    def __init__(self, slots: Map, direction: FlowDirection, directory: Path, epoch: int, active: Map) -> None:
        self.epoch = epoch
        """Of the active map."""
        self._slots = slots
        self._direction = direction
        self._directory = directory
        self._active = active
        self._next: Map | None = None

    @classmethod
    def begin(cls, slots: Map, direction: FlowDirection, directory: Path, entries: int) -> Self:
        """Epoch 0 of a new datapath."""
        rotation = cls(slots, direction, directory, 0, _make(direction, entries))
        rotation._active.pin(rotation._pin(0))
        rotation._put(rotation._active)
        return rotation

    @classmethod
    def adopt(cls, slots: Map, direction: FlowDirection, directory: Path) -> tuple[Self, list[Frozen]]:
        """What a former agent left: the active epoch, and the frozen ones that it did not drop, oldest first.

        StateError where the pins do not hold the active map.
        """
        pinned = _pinned_epochs(direction, directory)
        value = slots.lookup(np.array([direction], SLOT))
        active_id = int(value[0]) if value is not None else 0
        maps = {epoch: Map.pinned(path, FLOW_KEY, FLOW_STATS) for epoch, path in pinned.items()}
        active = next((epoch for epoch, item in maps.items() if item.info().id == active_id), None)
        if active is None:
            for item in maps.values():
                item.close()
            raise StateError(
                f"adopting {directory}: the active {direction.name} map is not among the pins; "
                "somebody removed them: run `podwire-agent cleanup`"
            )
        rotation = cls(slots, direction, directory, active, maps.pop(active))
        rotation._put(rotation._active)  # the same map again: waits until the older ones are surely frozen
        frozen = []
        for epoch in sorted(maps):
            if epoch < active:
                frozen.append(Frozen(direction, epoch, maps[epoch], pinned[epoch]))
            else:  # made ahead and never active: empty
                pinned[epoch].unlink()
                maps[epoch].close()
        return rotation, frozen

    @property
    def capacity(self) -> int:
        """Entries of the active map."""
        return int(self._active.info().max_entries)

    def prepare(self, entries: int) -> Map:
        """Make the next epoch's map ahead of the cut, if it is not there: at the cut only the swap is left."""
        if self._next is None:
            self._next = _make(self._direction, entries)
            self._next.pin(self._pin(self.epoch + 1))
        return self._next

    def cut(self, entries: int) -> Frozen:
        """Swap the next map in; returns once the old one is frozen."""
        following = self.prepare(entries)
        self._put(following)
        frozen = Frozen(self._direction, self.epoch, self._active, self._pin(self.epoch))
        self._active, self._next, self.epoch = following, None, self.epoch + 1
        return frozen

    def close(self) -> None:
        """Close the descriptors; the pins stay."""
        self._active.close()
        if self._next is not None:
            self._next.close()

    def _pin(self, epoch: int) -> Path:
        return self._directory / f"{self._direction.name.lower()}-{epoch}"

    def _put(self, item: Map) -> None:
        self._slots.update(np.array([self._direction], SLOT), np.array([item.fd], SLOT))


def release(frozen: Frozen) -> None:
    """Drop a frozen map for good: after its records are in a checkpoint."""
    frozen.pin.unlink(missing_ok=True)
    frozen.map.close()


def _make(direction: FlowDirection, entries: int) -> Map:
    return Map.create(direction.name.lower(), FLOW_KEY, FLOW_STATS, entries)


def _pinned_epochs(direction: FlowDirection, directory: Path) -> dict[int, Path]:
    pattern = re.compile(rf"{direction.name.lower()}-(\d+)")
    found = ((pattern.fullmatch(path.name), path) for path in directory.iterdir())
    return {int(match[1]): path for match, path in found if match}
