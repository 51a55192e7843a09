"""The rules in the kernel: two halves of maps, of which a set in the rule slot names the one in use.

The half that is not in use is brought to the new state, by a few changes or by maps made anew, and then a new set is
put into the slot by one single-element update. That returns after every program that may still read the old half has
ended (the kernel waits for RCU, commit 1ae80cf31938): so no packet sees half a set, and the old half is free for the
next one.

What was filtered is counted by cause, in a map that lives as long as the names of the causes do: an *edition*. Once the
names change, the map is frozen like an epoch's: read, folded into a checkpoint, and dropped.

Pins: `rules-GENERATION`, the newest set, so that a generation is never given twice; `filtered-EDITION` and
`names-EDITION`, the counters of an edition and what they mean.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from podwire_agent.errors import StateError
from podwire_agent.kernel.objects import Map, MapType, sum_over_cpus
from podwire_agent.kernel.rotation import SLOT
from podwire_agent.kernel.rule_maps import FILTERED_SLOTS, RULE_MAPS, RULE_SLOT, WORD
from podwire_agent.layout import RULE_NAME, RULE_SET, FlowLimit, RuleVerdict
from podwire_agent.model import Cause, Records, RuleEntries, RuleListName, Table, Traffic

SLACK = 64
"""Entries that a map has room for beyond those it is made with, and a quarter of them: pods come."""

WORTHWHILE = 8
"""A half is changed in place where at most one entry in so many changes, else made anew."""

_NOTHING_LISTED = RuleVerdict.NOT_LISTED - RuleVerdict.FIRST_CAUSE
_GENERATION_BITS = 16
_PINS = re.compile(r"(rules|filtered|names)-(\d+)")

Keys = NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class Edition:
    """The counters of what was filtered, by cause, while the blacklist had these names."""

    number: int
    blacklist: tuple[str, ...]
    counters: Map
    pins: tuple[Path, Path]

    def read(self) -> dict[Cause, Traffic]:
        """What was filtered, by cause. Final once it is frozen. KernelError."""
        found = {}
        for index in [*range(len(self.blacklist)), _NOTHING_LISTED]:
            cells = self.counters.lookup(np.array([index], WORD))
            if cells is None:
                continue
            found[_cause(self.blacklist, index)] = Traffic(*sum_over_cpus(cells[np.newaxis])[0].item())
        return found

    def release(self) -> None:
        """Drop it for good: after it is in a checkpoint."""
        for pin in self.pins:
            pin.unlink(missing_ok=True)
        self.counters.close()


@dataclass(slots=True)
class _Filled:
    """A map in a slot, and what it holds. The keys are sorted."""

    map: Map
    room: int
    table: Table
    keys: Keys
    values: Keys


class RuleSets:
    """Context manager; the pins outlive it. `apply` from one thread at a time; the counters from any."""

    def __init__(self, slots: Mapping[str, Map], directory: Path) -> None:
        """Takes over what a former agent left: its rules stay in force until `apply`. StateError, KernelError."""
        self._slots = slots
        self._directory = directory
        self._lock = threading.Lock()
        self._halves: list[dict[str, _Filled]] = [{} for _ in range(FlowLimit.RULE_HALVES)]
        self._half = 0
        self._generation = 0
        self._in_force = False
        self._counting: list[Edition | None] = [None] * FlowLimit.RULE_HALVES
        self._edition: Edition | None = None
        self._retired: list[Edition] = []
        self._adopt()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for filled in (each for half in self._halves for each in half.values()):
            filled.map.close()
        for edition in [*self._retired, *([self._edition] if self._edition else [])]:
            edition.counters.close()

    @property
    def generation(self) -> int:
        """Of the newest set; 0: there was none yet."""
        return self._generation

    @property
    def in_force(self) -> bool:
        """There are rules."""
        return self._in_force

    def editions(self) -> tuple[list[Edition], Edition | None]:
        """Those that are frozen and not released, oldest first, and the one in use."""
        with self._lock:
            return list(self._retired), self._edition

    def release(self, edition: Edition) -> None:
        """A frozen one is in a checkpoint: drop it."""
        with self._lock:
            self._retired.remove(edition)
        edition.release()

    def apply(self, entries: RuleEntries | None) -> None:
        """Have these rules in force, None: none. On return no packet is judged by the former ones any more.

        KernelError: the former ones stay in force.
        """
        if entries is None:
            self._withdraw()
            return
        half = 1 - self._half
        tables = {
            "rule_interfaces": entries.interfaces,
            "rule_addresses": entries.addresses,
            "rule_prefixes": entries.prefixes,
            "rule_ports": entries.ports,
            "rule_protocols": entries.protocols,
        }
        for name, table in tables.items():
            try:
                self._bring(name, half, table)
            except BaseException:
                if (unsure := self._halves[half].pop(name, None)) is not None:
                    unsure.map.close()
                raise
        edition = self._edition
        generation = self._next_generation()
        if edition is None or edition.blacklist != entries.blacklist:
            edition = self._make_edition(generation, entries.blacklist)
        if self._counting[half] is not edition:
            self._put(FILTERED_SLOTS, half, edition.counters)
            self._counting[half] = edition
        settings = entries.settings.copy()
        settings["generation"], settings["half"], settings["edition"] = generation, half, edition.number
        with RULE_MAPS[RULE_SLOT].make("rule_set", 1) as made:
            made.update(np.zeros(1, WORD), settings)
            pin = self._directory / f"rules-{generation}"
            pin.unlink(missing_ok=True)  # of an attempt that failed
            made.pin(pin)
            self._put(RULE_SLOT, 0, made)
        self._unpin_rules(but=generation)
        with self._lock:
            if self._edition is not None and self._edition is not edition:
                self._retired.append(self._edition)
            self._edition = edition
        self._half, self._generation, self._in_force = half, generation, True

    def _withdraw(self) -> None:
        if not self._in_force:
            return
        self._slots[RULE_SLOT].delete(np.zeros(1, SLOT))  # waits for RCU, as the update does
        self._in_force = False
        with self._lock:
            if self._edition is not None:
                self._retired.append(self._edition)
                self._edition = None
        for half, filled in enumerate(self._halves):
            for name in [name for name in RULE_MAPS if name != RULE_SLOT]:
                self._slots[name].delete(np.array([half], SLOT))
            for each in filled.values():
                each.map.close()
            filled.clear()
            self._counting[half] = None

    def _bring(self, name: str, half: int, table: Table) -> None:
        """Have a slot of the idle half hold exactly `table`."""
        filled = self._halves[half].get(name)
        if filled is not None and filled.table is table:
            return
        if not len(table):
            if filled is not None:
                del self._halves[half][name]
                filled.map.close()
            self._slots[name].delete(np.array([half], SLOT))
            return
        keys, values = _as_bytes(table.keys), _as_bytes(table.values)
        if not bool((keys[:-1] < keys[1:]).all()):
            order = np.argsort(keys)
            keys, values = keys[order], values[order]
        if filled is None or not self._change(name, filled, keys, values):
            room = len(table) + len(table) // 4 + SLACK
            made = RULE_MAPS[name].make(name, room)
            self._halves[half][name] = _Filled(made, room, table, keys, values)
            if filled is not None:
                filled.map.close()
            made.fill(table.keys, table.values)
            self._put(name, half, made)
        else:
            filled.table, filled.keys, filled.values = table, keys, values

    def _change(self, name: str, filled: _Filled, keys: Keys, values: Keys) -> bool:
        """By single changes; False where the map had better be made anew."""
        at = np.minimum(np.searchsorted(filled.keys, keys), len(filled.keys) - 1)
        fresh = (filled.keys[at] != keys) | (filled.values[at] != values)
        back = np.minimum(np.searchsorted(keys, filled.keys), len(keys) - 1)
        stale = keys[back] != filled.keys
        changes = int(fresh.sum()) + int(stale.sum())
        if len(keys) > filled.room or changes > max(SLACK, len(keys) // WORTHWHILE):
            return False
        shape = RULE_MAPS[name]
        if shape.kind is not MapType.ARRAY:
            for key in _as_records(filled.keys[stale], shape.key):
                filled.map.delete(key)
        filled.map.fill(_as_records(keys[fresh], shape.key), _as_records(values[fresh], shape.value))
        return True

    def _put(self, name: str, index: int, item: Map) -> None:
        self._slots[name].update(np.array([index], SLOT), np.array([item.fd], SLOT))

    def _next_generation(self) -> int:
        """Its low bits are what a flow's record keeps, and 0 there stands for no rules."""
        following = self._generation + 1
        return following if following % (1 << _GENERATION_BITS) else following + 1

    def _make_edition(self, number: int, blacklist: tuple[str, ...]) -> Edition:
        pins = (self._directory / f"filtered-{number}", self._directory / f"names-{number}")
        for left in pins:  # of an attempt that failed
            left.unlink(missing_ok=True)
        names = np.zeros(FlowLimit.FILTER_CAUSES, RULE_NAME)
        names["name"][: len(blacklist)] = [name.encode() for name in blacklist]
        with Map.create("rule_names", WORD, RULE_NAME, len(names), MapType.ARRAY) as kept:
            kept.fill(np.arange(len(names), dtype=WORD), names)
            kept.pin(pins[1])
        counters = RULE_MAPS[FILTERED_SLOTS].make("filtered", 0)
        counters.pin(pins[0])
        return Edition(number, blacklist, counters, pins)

    def _adopt(self) -> None:
        pins: dict[str, dict[int, Path]] = {"rules": {}, "filtered": {}, "names": {}}
        for path in self._directory.iterdir():
            if found := _PINS.fullmatch(path.name):
                pins[found[1]][int(found[2])] = path
        slot = self._slots[RULE_SLOT].lookup(np.zeros(1, SLOT))
        active_id = int(slot[0]) if slot is not None else 0
        self._generation = max(pins["rules"], default=0)
        for number, path in [*pins["filtered"].items(), *pins["names"].items()]:
            if number > self._generation or number not in pins["filtered"]:
                path.unlink()  # begun, and never in use
                pins["filtered"].pop(number, None)
        editions = {number: _open_edition(number, path, pins["names"]) for number, path in pins["filtered"].items()}
        for path in pins["rules"].values():
            with Map.pinned(path, WORD, RULE_SET) as item:
                if not active_id or item.info().id != active_id:
                    continue
                settings = item.lookup(np.zeros(1, WORD))
                if settings is None:
                    continue
                self._half, self._in_force = int(settings["half"][0]), True
                self._edition = editions.pop(int(settings["edition"][0]), None)
                self._put(RULE_SLOT, 0, item)  # the same again: waits until nothing reads an older one
        if active_id and self._edition is None:
            for edition in editions.values():
                edition.counters.close()
            raise StateError(
                f"adopting {self._directory}: the rules in use are not among the pins; "
                "somebody removed them: run `podwire-agent cleanup`"
            )
        self._retired = [editions[number] for number in sorted(editions)]

    def _unpin_rules(self, but: int) -> None:
        for path in self._directory.glob("rules-*"):
            if path.name != f"rules-{but}":
                path.unlink(missing_ok=True)


def _open_edition(number: int, pin: Path, names: Mapping[int, Path]) -> Edition:
    named = names.get(number)
    if named is None:
        raise StateError(f"adopting {pin}: what its counters mean is gone; run `podwire-agent cleanup`")
    blacklist = names_of(named, RULE_NAME)
    shape = RULE_MAPS[FILTERED_SLOTS]
    return Edition(number, blacklist, Map.pinned(pin, shape.key, shape.value, per_cpu=True), (pin, named))


def names_of(pin: Path, value: np.dtype[Any]) -> tuple[str, ...]:
    """The names of a blacklist's rules from the map that keeps them, whose values have the dtype `value`."""
    with Map.pinned(pin, WORD, value) as kept:
        found = [kept.lookup(np.array([index], WORD)) for index in range(kept.info().max_entries)]
    names = [bytes(each["name"][0]).rstrip(b"\0").decode() for each in found if each is not None]
    return tuple(name for name in names if name)


def filtered_before(directory: Path, layout: Mapping[str, np.dtype[Any]]) -> dict[int, dict[Cause, Traffic]]:
    """What agents of another layout filtered, by edition, oldest first; nothing where they had no rules.

    StateError, KernelError.
    """
    found: dict[int, dict[Cause, Traffic]] = {}
    numbers = sorted(int(path.name.rpartition("-")[2]) for path in directory.glob("filtered-*"))
    for number in numbers:
        path = directory / f"filtered-{number}"
        blacklist = names_of(directory / f"names-{number}", layout["rule_name"])
        with Map.pinned(path, WORD, layout["traffic"], per_cpu=True) as counters:
            found[number] = Edition(number, blacklist, counters, (path, path)).read()
    return found


def _cause(blacklist: tuple[str, ...], index: int) -> Cause:
    if index == _NOTHING_LISTED:
        return Cause(RuleListName.WHITELIST, "")
    return Cause(RuleListName.BLACKLIST, blacklist[index])


def _as_bytes(records: NDArray[Any]) -> Keys:
    """Each record as one string of bytes, which sorts as memcmp does."""
    flat: Keys = np.ascontiguousarray(records).view(f"S{records.dtype.itemsize}")
    return flat


def _as_records(flat: Keys, dtype: np.dtype[Any]) -> Records:
    records: Records = np.ascontiguousarray(flat).view(dtype)
    return records
