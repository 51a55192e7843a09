"""The interfaces that one monitor watches: attached as they come, accounted for until they are settled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from podwire_agent.errors import AttachError, InterfaceGone, KernelError
from podwire_agent.kernel.cni import Role, Selection
from podwire_agent.kernel.datapath import PROGRAMS, Datapath
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.tc import Owner, TrafficControl, remove_defunct_links, remove_link
from podwire_agent.kernel.verifiable import why_not
from podwire_agent.layout import ATTACHMENT, FlowDirection
from podwire_agent.model import Attached, Buffers, HookPoint, IfIndex, Interface, InterfaceCounters, Records

log = logging.getLogger(__name__)

CHECKS_A_SCAN = 32
"""Interfaces whose programs are looked at in one scan."""

Select = Callable[[Interface], Selection]
"""Is an interface watched, and as what."""


@dataclass(frozen=True, slots=True)
class Watched:
    """An interface with our programs on it, or where they could not be put."""

    interface: Interface
    host: bool
    attached: tuple[Attached, ...] = ()
    unverifiable: Mapping[HookPoint, str] | None = None
    failure: str = ""
    """Why the programs are not there, in words; tried again at each scan."""


@dataclass(frozen=True, slots=True)
class Account:
    """All that is known of one interface and direction, raw."""

    index: IfIndex
    name: str
    direction: FlowDirection
    cells: np.void
    """One LEDGER, summed over the CPUs."""
    attachment: np.void
    """One ATTACHMENT."""
    counter: Buffers | None
    unverifiable: str


class Watch:
    """Attaches and detaches for one monitor. Methods may come from any thread: one lock."""

    def __init__(
        self, datapath: Datapath, control: TrafficControl, interfaces: Interfaces, select: Select, owner: Owner
    ) -> None:
        self.failures_total = 0
        self.changes = 0
        """Grows whenever something else is watched, or fails."""
        self._datapath = datapath
        self._control = control
        self._interfaces = interfaces
        self._select = select
        self._owner = owner
        self._lock = threading.Lock()
        self._watched: dict[IfIndex, Watched] = {}
        self._gone: set[IfIndex] = set()
        self._checked = IfIndex(0)

    def select(self, select: Select) -> None:
        """From the next scan on, another choice of interfaces."""
        with self._lock:
            self._select = select

    def recognise(self) -> None:
        """First of all: tell what a former agent attached to and is there, from what went meanwhile. KernelError."""
        left = self._datapath.attachments()
        found = {interface.index: interface for interface in self._interfaces.all()} if left else {}
        for index, memory in left.items():
            interface = found.get(index)
            if interface is not None and self._ours_is_on(interface):
                self._watched[index] = Watched(interface, bool(memory["host"]), failure="attached by a former agent")
            else:
                self._gone.add(index)
        remove_defunct_links(self._owner)

    def scan(self) -> None:
        """Look at every interface: attach to what is new, give up what is gone, put back what somebody took off.

        KernelError.
        """
        with self._lock:
            found = {interface.index: interface for interface in self._interfaces.all()}
            self._remove(self._watched.keys() - found.keys())
            for item in self._next_to_check():
                self._check(item, found[item.interface.index])
            for interface in found.values():
                self._look_at(interface)

    def change(self, changed: Iterable[IfIndex], removed: Iterable[IfIndex]) -> None:
        """What netlink told of: removals first. KernelError."""
        with self._lock:
            self._remove(removed)
            for index in changed:
                interface = self._interfaces.one(index)
                if interface is not None:
                    self._look_at(interface)

    def watched(self) -> list[Watched]:
        """What is watched now, and what could not be."""
        with self._lock:
            return list(self._watched.values())

    def gone(self) -> frozenset[IfIndex]:
        """Interfaces that went away and are not settled: their last records may still be in an active map."""
        with self._lock:
            return frozenset(self._gone)

    def settle(self, index: IfIndex) -> None:
        """An interface that is gone is fully accounted for in a checkpoint: drop its cells."""
        with self._lock:
            self._datapath.close_ledger(index)
            self._gone.discard(index)

    def accounts(self) -> list[Account]:
        """Cells and counters of every interface that has a ledger. The cells are read first."""
        with self._lock:
            cells = self._datapath.ledgers()
            attachments = self._datapath.attachments()
            counters = self._interfaces.counters_all()
            return [
                self._account(index, direction, cells[index, direction], attachments[index], counters.get(index))
                for index, direction in sorted(cells)
                if index in attachments
            ]

    def detach(self) -> None:
        """Take our programs off every interface; the ledgers stay to be read a last time. KernelError."""
        with self._lock:
            for item in self._watched.values():
                for hook in HookPoint:
                    self._control.detach(item.interface.index, hook, self._owner)

    def release(self) -> None:
        """Give up every interface: our programs off, the ledgers to be settled with the next cuts. KernelError."""
        with self._lock:
            for index in list(self._watched):
                self._give_up(index)

    def _account(
        self,
        index: IfIndex,
        direction: FlowDirection,
        cells: np.void,
        attachment: np.void,
        counters: InterfaceCounters | None,
    ) -> Account:
        item = self._watched.get(index)
        gone = item is None or index in self._gone
        hook = _hook_of(direction, host=item is not None and item.host)
        return Account(
            index=index,
            name=bytes(attachment["name"]).rstrip(b"\0").decode(errors="replace"),
            direction=direction,
            cells=cells,
            attachment=attachment,
            counter=None if gone or counters is None else counters.of(hook),
            unverifiable=(item.unverifiable or {}).get(hook, "") if item is not None else "",
        )

    def _ours_is_on(self, interface: Interface) -> bool:
        """Our filter on it proves that the interface is the one that the ledger tells of, not a later one that
        was given the same index.
        """
        return self._control.holds(interface.index, self._owner)

    def _remove(self, indexes: Iterable[IfIndex]) -> None:
        for index in indexes:
            if self._watched.pop(index, None) is not None:
                self.changes += 1
                self._gone.add(index)
                for hook in HookPoint:
                    remove_link(self._owner.link_pin(index, hook))

    def _look_at(self, interface: Interface) -> None:
        index = interface.index
        item = self._watched.get(index)
        selection = self._select(interface)
        if not selection or index in self._gone:
            if item is not None and not selection:
                self._give_up(index)
            return
        host = selection.role is Role.HOST
        if item is not None and item.host is not host:
            self._give_up(index)  # its directions change their meaning: a new account, once this one is settled
        elif item is None or item.failure:
            self._attach(interface, host)
        elif item.interface != interface:
            if item.interface.name != interface.name:
                self._rename(interface)
            self._watched[index] = Watched(
                interface, host, item.attached, why_not(interface, item.attached), item.failure
            )

    def _next_to_check(self) -> list[Watched]:
        """Some of the watched interfaces, in turn: looking at the programs of one takes a third of a millisecond."""
        items = sorted(self._watched.values(), key=lambda item: item.interface.index)
        start = next((n for n, item in enumerate(items) if item.interface.index > self._checked), 0)
        turn = (items[start:] + items[:start])[:CHECKS_A_SCAN]
        self._checked = turn[-1].interface.index if turn else IfIndex(0)
        return turn

    def _check(self, item: Watched, now: Interface) -> None:
        """Somebody may have put a program before ours, or taken ours off; or the index may be another interface's,
        of which no event told.
        """
        if item.failure:
            return
        index = now.index
        attached = []
        for each in item.attached:
            program = self._datapath.program(item.host, each.hook)
            if (found := self._control.standing(index, each.hook, program, self._owner)) is not None:
                attached.append(replace(each, hidden_by=found.hidden_by))
        if len(attached) == len(item.attached):
            if tuple(attached) != item.attached:
                self._watched[index] = replace(item, attached=tuple(attached), unverifiable=why_not(now, attached))
        elif self._is_another(item, now):
            self._give_up(index)
        else:
            log.warning(
                "%s: somebody took our programs off; they are put back, and what passed meanwhile is added to "
                "before_attach; see `tc filter show dev %s ingress` for what else manages it",
                now.name,
                now.name,
            )
            self._reopen(index)
            self._watched[index] = replace(item, attached=(), failure="taken off by somebody")

    def _is_another(self, item: Watched, now: Interface) -> bool:
        """Not the interface that was attached to, but a later one: its counters began anew."""
        old = item.interface
        if (old.kind, old.peer_index, old.peer_netns_id) != (now.kind, now.peer_index, now.peer_netns_id):
            return True
        counters, memory = self._interfaces.counters(now.index), self._datapath.attachment(now.index)
        if counters is None or memory is None:
            return True
        for direction in FlowDirection:
            seen = self._datapath.ledger(now.index, direction)
            before = int(memory["before_low"]["buffers"][0, direction])
            ours = 0 if seen is None else int(seen["buffers"])
            if counters.of(_hook_of(direction, item.host)).buffers < before + ours:
                return True
        return False

    def _rename(self, interface: Interface) -> None:
        memory = self._datapath.attachment(interface.index)
        if memory is not None:
            memory["name"] = interface.name.encode()
            self._datapath.remember(interface.index, memory)

    def _reopen(self, index: IfIndex) -> None:
        """Have the next attach bound anew what passed while our programs did not run."""
        memory = self._datapath.attachment(index)
        if memory is not None:
            memory["attached_mono_ns"] = 0
            self._datapath.remember(index, memory)

    def _give_up(self, index: IfIndex) -> None:
        for hook in HookPoint:
            self._control.detach(index, hook, self._owner)
        self._remove([index])

    def _attach(self, interface: Interface, host: bool) -> None:
        index = interface.index
        try:
            self._datapath.open_ledger(index)
            memory = self._memory_of(interface, host)
            attached = tuple(
                self._control.attach(interface, hook, self._datapath.program(host, hook), self._owner)
                for hook in HookPoint
            )
            self._complete(index, host, memory)
        except InterfaceGone:
            # Nothing passed it since: what the ledger may hold is settled with the next cut.
            self._gone.add(index)
        except (AttachError, KernelError) as error:
            self.failures_total += 1
            before = self._watched.get(index)
            if before is None or before.failure != str(error):
                self.changes += 1
                log.error("%s is not watched, tried again at each scan: %s", interface.name, error)
            self._watched[index] = Watched(interface, host, failure=str(error))
        else:
            self.changes += 1
            self._watched[index] = Watched(interface, host, attached, why_not(interface, attached))

    def _memory_of(self, interface: Interface, host: bool) -> Records:
        """The ATTACHMENT of the interface, shape (1,): as a former agent left it, or begun now."""
        known = self._datapath.attachment(interface.index)
        if known is not None:
            return known
        memory = np.zeros(1, ATTACHMENT)
        memory["name"], memory["host"] = interface.name.encode(), host
        counters = self._counters(interface.index)
        for direction in FlowDirection:
            buffers = counters.of(_hook_of(direction, host))
            memory["before_low"][0, direction] = (buffers.buffers, buffers.bytes)
        self._datapath.remember(interface.index, memory)
        return memory

    def _complete(self, index: IfIndex, host: bool, memory: Records) -> None:
        """Bound what passed before our programs ran: at most what the interface counts now, less what they saw."""
        if memory["attached_mono_ns"][0]:
            return
        cells = {direction: self._datapath.ledger(index, direction) for direction in FlowDirection}
        counters = self._counters(index)
        for direction, seen in cells.items():
            if seen is None:
                raise KernelError(f"attaching to interface {index}: its ledger was removed meanwhile; tried again")
            counter = counters.of(_hook_of(direction, host))
            memory["before_high"][0, direction] = (
                counter.buffers - int(seen["buffers"]),
                counter.bytes - int(seen["buffer_bytes"]),
            )
        memory["attached_mono_ns"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self._datapath.remember(index, memory)

    def _counters(self, index: IfIndex) -> InterfaceCounters:
        counters = self._interfaces.counters(index)
        if counters is None:
            raise InterfaceGone(f"interface {index} went away while it was attached")
        return counters


def _hook_of(direction: FlowDirection, host: bool) -> HookPoint:
    return next(hook for (is_host, hook), (_, counted) in PROGRAMS.items() if is_host == host and counted is direction)
