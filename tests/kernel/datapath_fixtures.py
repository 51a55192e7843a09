"""The real program in the kernel, with its maps and without the agent: for test runs, or to be put on a hook."""

from __future__ import annotations

import ctypes as ct
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from podwire_agent import layout
from podwire_agent.kernel.loader import Loaded, Loader
from podwire_agent.kernel.objects import Map
from podwire_agent.kernel.rule_maps import RULE_MAPS
from podwire_agent.kernel.rule_sets import RuleSets
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Records
from tools.compile_bpf import BPF, VARIANTS, compile_object

SLOT = np.dtype("u4")
LOOPBACK = 1
"""The ifindex of a test run's buffer."""

Counts = tuple[int, int]
"""Packets and bytes on the wire."""


class SkBuff(ct.Structure):
    """struct __sk_buff up to gso_size: what a test run takes from its context."""

    _fields_ = [
        ("before_wire_len", ct.c_uint32 * 40),
        ("wire_len", ct.c_uint32),
        ("gso_segs", ct.c_uint32),
        ("sk", ct.c_uint64),
        ("gso_size", ct.c_uint32),
        ("padding", ct.c_uint32 * 3),
    ]


@dataclass(frozen=True, slots=True)
class Account:
    """struct ledger of one interface and direction, summed over the CPUs; only what is not zero."""

    seen: Counts = (0, 0)
    filtered: Counts = (0, 0)
    overflowed: Counts = (0, 0)
    estimated: Counts = (0, 0)
    unsupported: dict[layout.UnsupportedReason, Counts] = field(default_factory=dict)
    buffers: int = 0
    buffer_bytes: int = 0
    tagged_buffers: int = 0


def counts(cells: Records) -> Counts:
    """The sum of an array of struct traffic, or of struct flow_stats."""
    return int(cells["packets"].sum()), int(cells["bytes"].sum())


class Datapath:
    """The loaded program with a flow map a direction."""

    def __init__(self, loaded: Loaded, flow_entries: int = 4096, pins: Path | None = None) -> None:
        """`pins`: a directory on bpffs, where there are to be rules."""
        self.programs = loaded.programs
        self.verdicts = Map(loaded.maps["known_verdicts"], layout.FLOW_KEY, layout.KNOWN_VERDICT)
        self._rule_slots = {name: Map(loaded.maps[name], SLOT, SLOT) for name in RULE_MAPS}
        if pins is not None:
            self.rules = RuleSets(self._rule_slots, pins)
        self.ledgers = Map(loaded.maps["ledgers"], layout.LEDGER_KEY, layout.LEDGER, per_cpu=True)
        self.slots = Map(loaded.maps["flow_slots"], SLOT, SLOT)
        for unused in ("attachments", "packets"):
            os.close(loaded.maps[unused])
        self.flow_maps = {
            direction: Map.create(direction.name.lower(), layout.FLOW_KEY, layout.FLOW_STATS, flow_entries)
            for direction in FlowDirection
        }
        for direction, flow_map in self.flow_maps.items():
            self.slots.update(np.array(direction, SLOT), np.array(flow_map.fd, SLOT))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        maps = (self.ledgers, self.slots, self.verdicts, *self._rule_slots.values(), *self.flow_maps.values())
        for owned in (*maps, *self.programs.values()):
            owned.close()
        if hasattr(self, "rules"):
            self.rules.__exit__(None, None, None)

    def watch(self, ifindex: int) -> None:
        """Make the interface's two ledgers, or clear them."""
        for direction in FlowDirection:
            self.ledgers.update(_ledger_key(ifindex, direction), np.zeros(self.ledgers.copies, layout.LEDGER))

    def forget(self) -> None:
        """Drop all flows, ledgers and rules."""
        if hasattr(self, "rules"):
            self.rules.apply(None)
        for direction in self.flow_maps.values():
            for key in direction.read()[0]:
                direction.delete(key)
        for key in self.ledgers.read()[0]:
            self.ledgers.delete(key)

    def flows(self, ifindex: int, direction: FlowDirection) -> tuple[Records, Records]:
        """Keys and values of what was counted, both of shape (n,)."""
        keys, values = self.flow_maps[direction].read()
        here = keys["ifindex"] == ifindex
        return keys[here], values[here, 0]

    def account(self, ifindex: int, direction: FlowDirection) -> Account:
        """The ledger; KeyError where there is none."""
        cells = self.ledgers.lookup(_ledger_key(ifindex, direction))
        if cells is None:
            raise KeyError(f"no ledger of interface {ifindex}, {direction.name}")
        by_reason = {reason: counts(cells["unsupported"][:, reason]) for reason in layout.UnsupportedReason}
        return Account(
            seen=counts(cells["seen"]),
            filtered=counts(cells["filtered"]),
            overflowed=counts(cells["overflowed"]),
            estimated=counts(cells["estimated"]),
            unsupported={reason: found for reason, found in by_reason.items() if found != (0, 0)},
            buffers=int(cells["buffers"].sum()),
            buffer_bytes=int(cells["buffer_bytes"].sum()),
            tagged_buffers=int(cells["tagged_buffers"].sum()),
        )

    def unaccounted(self, ifindex: int, direction: FlowDirection) -> Counts:
        """Seen - (flow records + filtered + unsupported + overflowed): (0, 0), or something is lost."""
        account = self.account(ifindex, direction)
        classes = [account.filtered, account.overflowed, *account.unsupported.values()]
        classes.append(counts(self.flows(ifindex, direction)[1]))
        packets, wire_bytes = (sum(column) for column in zip(*classes, strict=True))
        return account.seen[0] - packets, account.seen[1] - wire_bytes


def _ledger_key(ifindex: int, direction: FlowDirection) -> Records:
    return np.array((ifindex, direction), layout.LEDGER_KEY)


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every variant of the object, compiled from the sources as they are now."""
    directory = tmp_path_factory.mktemp("objects")
    for name, options in VARIANTS.items():
        compile_object(BPF / "flow.bpf.c", directory / name, options)
    return {name: directory / name for name in VARIANTS}


@pytest.fixture(scope="session")
def loaded_datapath(loader: Loader) -> Iterator[Datapath]:
    """Loaded once by each loader; use `datapath`."""
    pins = Path("/sys/fs/bpf") / f"pw-test-{os.getpid()}-datapath"
    pins.mkdir(exist_ok=True)
    try:
        with Datapath(loader.load({}), pins=pins) as made:
            yield made
    finally:
        for pin in pins.iterdir():
            pin.unlink()
        pins.rmdir()


@pytest.fixture
def datapath(loaded_datapath: Datapath) -> Datapath:
    """The program with nothing counted yet and no interface watched."""
    loaded_datapath.forget()
    return loaded_datapath
