"""One monitor's programs and maps in the kernel: made anew or adopted from its pins."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from podwire_agent.errors import LoadError, StateError
from podwire_agent.kernel.loader import Loader
from podwire_agent.kernel.objects import Map, Program, UpdateFlag, sum_over_cpus
from podwire_agent.kernel.rotation import SLOT, Frozen, Rotation
from podwire_agent.kernel.rule_maps import RULE_MAPS
from podwire_agent.kernel.rule_sets import RuleSets
from podwire_agent.layout import (
    ATTACHMENT,
    FINGERPRINT,
    LEDGER,
    LEDGER_KEY,
    FlowDirection,
)
from podwire_agent.model import HookPoint, IfIndex, Records

INDEX = np.dtype("u4")
"""Key of the attachments: an ifindex."""

PROGRAMS: Mapping[tuple[bool, HookPoint], tuple[str, FlowDirection]] = {
    (False, HookPoint.INGRESS): ("veth_ingress", FlowDirection.FROM_POD),
    (False, HookPoint.EGRESS): ("veth_egress", FlowDirection.TO_POD),
    (True, HookPoint.INGRESS): ("host_ingress", FlowDirection.TO_POD),
    (True, HookPoint.EGRESS): ("host_egress", FlowDirection.FROM_POD),
}
"""(host interface?, hook) -> the program's name and the direction that it counts."""

_PROGRAM_NAMES = {name for name, _ in PROGRAMS.values()}

COMMIT_PIN = "flow_slots"
"""Pinned last: a directory without it was never in use."""


class Datapath:
    """Context manager. The pins outlive it; `remove` ends them. One thread at a time for epochs; the
    ledger and attachment calls are single system calls and may come from any thread.
    """

    def __init__(self, directory: Path, stack: ExitStack, programs: Mapping[str, Program], maps: Mapping[str, Map]):
        self._directory = directory
        self._stack = stack
        self._programs = programs
        self._ledgers = maps["ledgers"]
        self._attachments = maps["attachments"]
        self._slots = maps["flow_slots"]
        self.rules: RuleSets
        self.rotations: dict[FlowDirection, Rotation] = {}
        self.inherited: list[Frozen] = []
        """What a former agent froze and did not drain, oldest first a direction."""
        self.adopted = False
        """A former agent's maps were taken over."""

    @classmethod
    def open(cls, home: Path, uid: str, loader: Loader, entries: int) -> Self:
        """The datapath of monitor `uid` under `home` (bpffs), with flow maps of `entries` entries.

        LoadError, KernelError, StateError.
        """
        directory = home / uid / FINGERPRINT
        adopted = (directory / COMMIT_PIN).exists()
        if not adopted:
            remove_tree(directory)  # begun and never in use
            directory.mkdir(mode=0o700, parents=True)
        with ExitStack() as stack, ExitStack() as undo:
            if not adopted:
                undo.callback(remove_tree, directory)
            pinned = {name: stack.enter_context(_pinned(directory, name)) for name in _SHAPES} if adopted else {}
            loaded = stack.enter_context(loader.load({name: item.fd for name, item in pinned.items()}))
            if lacking := (_SHAPES.keys() - loaded.maps.keys()) | (_PROGRAM_NAMES - loaded.programs.keys()):
                raise LoadError(
                    f"the object that {loader.name} loaded lacks {', '.join(sorted(lacking))}: it is of another "
                    "version, or not ours; build it with `make build`, or choose other --objects"
                )
            for name in loaded.maps.keys() - _SHAPES.keys():  # the program's own
                os.close(loaded.maps[name])
            maps = {
                name: stack.enter_context(Map(loaded.maps[name], key, value, per_cpu=per_cpu))
                for name, (key, value, per_cpu) in _SHAPES.items()
            }
            self = cls(directory, ExitStack(), loaded.programs, maps)
            self.adopted = adopted
            self.rules = stack.enter_context(RuleSets(maps, directory))
            for direction in FlowDirection:
                if adopted:
                    self.rotations[direction], frozen = Rotation.adopt(maps[COMMIT_PIN], direction, directory)
                    self.inherited += frozen
                else:
                    self.rotations[direction] = Rotation.begin(maps[COMMIT_PIN], direction, directory, entries)
            if not adopted:
                for name in sorted(maps, key=COMMIT_PIN.__eq__):
                    maps[name].pin(directory / name)
            undo.pop_all()
            self._stack = stack.pop_all()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for rotation in self.rotations.values():
            rotation.close()
        self._stack.close()

    def program(self, host: bool, hook: HookPoint) -> Program:
        """The program for a hook point of a veth, or of a host interface."""
        return self._programs[PROGRAMS[host, hook][0]]

    def open_ledger(self, index: IfIndex) -> None:
        """Make the interface's cells, before its programs are attached. KernelError where there is no room."""
        for direction in FlowDirection:
            zero = np.zeros(self._ledgers.copies, LEDGER)
            self._ledgers.update(_ledger_key(index, direction), zero, UpdateFlag.NOEXIST)

    def ledgers(self) -> dict[tuple[IfIndex, FlowDirection], np.void]:
        """Every ledger's cells: one LEDGER each, summed over the CPUs."""
        return by_account(*self._ledgers.read())

    def close_ledger(self, index: IfIndex) -> None:
        """Drop the interface's cells and what was remembered of it: after they are in a checkpoint."""
        for direction in FlowDirection:
            self._ledgers.delete(_ledger_key(index, direction))
        self._attachments.delete(np.array([index], INDEX))

    def attachments(self) -> dict[IfIndex, np.void]:
        """What is remembered of attached interfaces: one ATTACHMENT each."""
        keys, values = self._attachments.read()
        return {IfIndex(int(key)): value[0] for key, value in zip(keys, values, strict=True)}

    def attachment(self, index: IfIndex) -> Records | None:
        """What is remembered of one interface: ATTACHMENT of shape (1,)."""
        return self._attachments.lookup(np.array([index], INDEX))

    def ledger(self, index: IfIndex, direction: FlowDirection) -> np.void | None:
        """The cells of one interface and direction: a LEDGER, summed over the CPUs."""
        cells = self._ledgers.lookup(_ledger_key(index, direction))
        return None if cells is None else sum_over_cpus(cells[np.newaxis])[0]

    def remember(self, index: IfIndex, attachment: Records) -> None:
        """Store an ATTACHMENT of shape (1,). KernelError where there is no room."""
        self._attachments.update(np.array([index], INDEX), attachment)

    def remove(self) -> None:
        """Unpin everything: with the programs detached, this is the end of the maps."""
        remove_tree(self._directory.parent)


_SHAPES: Mapping[str, tuple[np.dtype[Any], np.dtype[Any], bool]] = {
    "ledgers": (LEDGER_KEY, LEDGER, True),
    "attachments": (INDEX, ATTACHMENT, False),
    COMMIT_PIN: (SLOT, SLOT, False),
    **dict.fromkeys(RULE_MAPS, (SLOT, SLOT, False)),
}


def by_account(keys: Records, values: Records) -> dict[tuple[IfIndex, FlowDirection], np.void]:
    """Entries of a map of ledgers, summed over the CPUs."""
    indexes, directions = keys["ifindex"].tolist(), keys["direction"].tolist()
    return {
        (IfIndex(index), FlowDirection(direction)): cells
        for index, direction, cells in zip(indexes, directions, sum_over_cpus(values), strict=True)
    }


def _pinned(directory: Path, name: str) -> Map:
    key, value, per_cpu = _SHAPES[name]
    return Map.pinned(directory / name, key, value, per_cpu=per_cpu)


def _ledger_key(index: IfIndex, direction: FlowDirection) -> Records:
    return np.array([(index, direction)], LEDGER_KEY)


def in_use(pins: Path) -> bool:
    """A datapath of whatever layout was left in a monitor's directory."""
    return any(pins.glob(f"*/{COMMIT_PIN}"))


def remove_tree(directory: Path) -> None:
    """Unpin all below `directory`, the commit mark first, and the directory. StateError."""
    try:
        if not directory.exists():
            return
        (directory / COMMIT_PIN).unlink(missing_ok=True)
        for path in directory.iterdir():
            if path.is_dir():
                remove_tree(path)
            else:
                path.unlink()
        directory.rmdir()
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise StateError(f"removing the pins in {directory}: {os.strerror(error.errno or 0)}") from error
