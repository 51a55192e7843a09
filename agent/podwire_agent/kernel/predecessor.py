"""The maps of a former agent whose layout was another: read once, after our programs have taken its programs' place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from podwire_agent.errors import StateError
from podwire_agent.kernel.datapath import COMMIT_PIN, by_account, remove_tree
from podwire_agent.kernel.objects import Map
from podwire_agent.kernel.rule_sets import filtered_before
from podwire_agent.layout import (
    ATTACHMENT,
    FINGERPRINT,
    FLOW_KEY,
    FLOW_STATS,
    LEDGER,
    LEDGER_KEY,
    RULE_NAME,
    TRAFFIC,
    FlowDirection,
)
from podwire_agent.model import Cause, IfIndex, Records, Traffic

LAYOUT: Mapping[str, np.dtype[Any]] = {
    "flow_key": FLOW_KEY,
    "flow_stats": FLOW_STATS,
    "ledger_key": LEDGER_KEY,
    "ledger": LEDGER,
    "attachment": ATTACHMENT,
    "traffic": TRAFFIC,
    "rule_name": RULE_NAME,
}
"""What a successor must know of our maps."""


class Predecessor:
    """Context manager over the pins in one directory, whose name is the layout's fingerprint."""

    def __init__(self, directory: Path, layout: Mapping[str, np.dtype[Any]]) -> None:
        """`layout`: as LAYOUT was when the maps were made. StateError where the maps do not fit it."""
        self.fingerprint = directory.name
        self._directory = directory
        self._layout = layout
        self._stack = ExitStack()
        self._ledgers = self._map("ledgers", "ledger_key", "ledger", per_cpu=True)
        self._attachments = self._map("attachments", None, "attachment")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def attachments(self) -> dict[IfIndex, Records]:
        """What it remembered of its interfaces: its ATTACHMENT, shape (1,) each."""
        keys, values = self._attachments.read()
        return {IfIndex(int(key)): value for key, value in zip(keys, values, strict=True)}

    def ledgers(self) -> dict[tuple[IfIndex, FlowDirection], np.void]:
        """Its cells: one of its LEDGER each, summed. Final once no program of its is attached."""
        return by_account(*self._ledgers.read())

    def flows(self, direction: FlowDirection, after_epoch: int) -> list[tuple[Records, Records]]:
        """The epochs later than `after_epoch`, oldest first: its FLOW_KEY and FLOW_STATS, flat."""
        pattern = re.compile(rf"{direction.name.lower()}-(\d+)")
        pinned = sorted(
            int(match[1]) for path in self._directory.iterdir() if (match := pattern.fullmatch(path.name)) is not None
        )
        found = []
        for epoch in pinned:
            if epoch > after_epoch:
                keys, stats = self._map(f"{direction.name.lower()}-{epoch}", "flow_key", "flow_stats").read()
                found.append((keys, stats[:, 0]))
        return found

    def filtered(self) -> dict[int, dict[Cause, Traffic]]:
        """What its rules filtered, by edition and cause."""
        return filtered_before(self._directory, self._layout)

    def remove(self) -> None:
        """Unpin its maps: after all that was in them is in a checkpoint. StateError."""
        remove_tree(self._directory)

    def _map(self, pin: str, key: str | None, value: str, *, per_cpu: bool = False) -> Map:
        key_dtype = np.dtype("u4") if key is None else self._layout[key]
        opened = Map.pinned(self._directory / pin, key_dtype, self._layout[value], per_cpu=per_cpu)
        return self._stack.enter_context(opened)


def left_by_other_layouts(directory: Path) -> list[Path]:
    """The directories below a monitor's that hold maps of other layouts than ours; those never in use are removed."""
    others = [path for path in sorted(directory.glob("*/")) if path.name != FINGERPRINT] if directory.exists() else []
    for path in others:
        if not (path / COMMIT_PIN).exists():
            remove_tree(path)
    return [path for path in others if path.exists()]


def unreadable(path: Path) -> StateError:
    """The error where nothing tells the layout of the maps in `path`."""
    return StateError(
        f"the pins in {path} were made by another version, and what described them is gone from the state "
        "directory; run `podwire-agent cleanup` to start anew"
    )
