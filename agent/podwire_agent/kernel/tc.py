"""Putting a monitor's programs at interfaces' hooks beside whatever else hangs there, and taking them off again.

By clsact, at priority 1 or the first free one, the monitor's slot as handle, so that programs of several monitors
stand side by side. By a TCX link where clsact cannot be had or something before it could hide the packets from us.
Nothing that is not ours is ever changed or removed; a clsact qdisc stays, since others may have come to use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

from podwire_agent.errors import AttachError, InterfaceGone
from podwire_agent.kernel import tcx
from podwire_agent.kernel.clsact import Clsact, Filter
from podwire_agent.kernel.objects import Program
from podwire_agent.kernel.tcx import TcxLink
from podwire_agent.model import Attached, AttachKind, HookPoint, IfIndex, Interface, MonitorUid

NAME_PREFIX = "podwire/"
"""The name of every filter of ours begins so."""

_ATTEMPTS = 3
"""Somebody else may take a place between our look and our move."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose programs they are."""

    uid: MonitorUid
    slot: int
    """1-8, of its own on this node: the handle of its filters."""
    pins: Path
    """The monitor's directory on bpffs, beside those of the others."""

    @property
    def name(self) -> str:
        """Of its filters."""
        return f"{NAME_PREFIX}{self.uid[:8]}"

    def link_pin(self, index: IfIndex, hook: HookPoint) -> Path:
        """Where the TCX link of an interface is pinned, if it has one."""
        return self.pins / f"link-{index}-{hook}"

    def owns(self, filter_: Filter) -> bool:
        """The filter is this monitor's, be it of a run that had another slot."""
        return filter_.name == self.name


class TrafficControl:
    """Context manager; one thread at a time.

    The calling threads stay in the network namespace it was made in: TCX works in that of the caller.
    """

    def __init__(self) -> None:
        self._clsact = Clsact()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clsact.__exit__(kind, error, trace)

    def attach(self, interface: Interface, hook: HookPoint, program: Program, owner: Owner) -> Attached:
        """Have `program` at the hook: what a former run of the same owner left there is replaced, without a gap.

        Asking again changes nothing and tells how it stands now. InterfaceGone, AttachError.
        """
        index = interface.index
        pin = owner.link_pin(index, hook)
        if self._update_link(pin, program):
            return Attached(
                hook, AttachKind.TCX, note="attached by TCX before", hidden_by=_ahead_of_link(index, hook, pin)
            )
        for _ in range(_ATTEMPTS):
            filters = self._filters(index, hook)
            mine = next((each for each in filters if owner.owns(each)), None)
            if mine and mine.program_id == program.id():
                return self._as_it_stands(index, hook, owner)
            if mine:
                self._clsact.add(index, hook, mine.priority, mine.handle, program.fd, owner.name, replace=True)
                return self._verified(interface, hook, program, owner)
            qdisc = self._clsact.qdisc(index)
            priority = _first_free(filters, owner.slot)
            reason = self._against_clsact(qdisc, index, hook, filters, priority, pin)
            if reason and tcx.programs(index, hook) is not None:
                return self._attach_link(index, hook, program, pin, reason)
            if not qdisc:
                qdisc = self._clsact.add_qdisc(index)
            if hook is HookPoint.EGRESS and qdisc != "clsact":
                continue
            if self._clsact.add(index, hook, priority, owner.slot, program.fd, owner.name, replace=False):
                return self._verified(interface, hook, program, owner)
        qdisc = self._clsact.qdisc(index)
        if hook is HookPoint.EGRESS and qdisc == "ingress":
            raise AttachError(
                f"attaching to egress of {interface.name}: it has an ingress qdisc, where filters for egress run on "
                "ingress, and this kernel has no TCX (Linux 6.6); replace that qdisc by clsact"
            )
        raise AttachError(
            f"attaching to {hook} of {interface.name}: its filters changed during each of {_ATTEMPTS} attempts; "
            "see `tc filter show` for what else manages them"
        )

    def detach(self, index: IfIndex, hook: HookPoint, owner: Owner) -> bool:
        """Take the owner's program off; False where it was not there, or the interface is gone. AttachError."""
        removed = remove_link(owner.link_pin(index, hook))
        try:
            for filter_ in self._filters(index, hook):
                if owner.owns(filter_):
                    removed |= self._clsact.delete(index, hook, filter_)
        except InterfaceGone:
            return removed
        return removed

    def standing(self, index: IfIndex, hook: HookPoint, program: Program, owner: Owner) -> Attached | None:
        """How the owner's program stands at the hook; None where it is not there any more. Changes nothing.

        InterfaceGone, AttachError.
        """
        pin = owner.link_pin(index, hook)
        if _is_on(pin, index):
            return Attached(hook, AttachKind.TCX, hidden_by=_ahead_of_link(index, hook, pin))
        filters = self._filters(index, hook)
        mine = next((each for each in filters if owner.owns(each) and each.program_id == program.id()), None)
        return self._in_its_place(index, hook, owner, filters, mine) if mine is not None else None

    def holds(self, index: IfIndex, owner: Owner) -> bool:
        """A program of the owner is on the interface, and so was put there in this life of it. AttachError."""
        if any(owner.owns(each) for hook in HookPoint for each in self._filters(index, hook)):
            return True
        return any(_is_on(owner.link_pin(index, hook), index) for hook in HookPoint)

    def ours(self, index: IfIndex) -> list[tuple[HookPoint, Filter]]:
        """The filters of every monitor on an interface, for a clean-up. InterfaceGone, AttachError."""
        return [(hook, each) for hook in HookPoint for each in self._filters(index, hook) if _is_ours(each)]

    def remove(self, index: IfIndex, hook: HookPoint, filter_: Filter) -> bool:
        """Delete a filter that `ours` found; False where it is gone. AttachError."""
        return _is_ours(filter_) and self._clsact.delete(index, hook, filter_)

    def foreign(self, index: IfIndex, hook: HookPoint, home: Path) -> list[str]:
        """What others have at a hook, in words and in the order in which it runs.

        `home` holds the monitors' directories of pins. InterfaceGone, AttachError.
        """
        ids = tcx.programs(index, hook) or []
        links = [_program_in_words(each) for each in ids if each not in _our_programs(home, index, hook)]
        return links + [str(each) for each in self._filters(index, hook) if not _is_ours(each)]

    def _filters(self, index: IfIndex, hook: HookPoint) -> list[Filter]:
        """What runs at a hook: an ingress qdisc shows its filters at egress too, where they do not run."""
        filters = self._clsact.filters(index, hook)
        if filters and hook is HookPoint.EGRESS and self._clsact.qdisc(index) != "clsact":
            return []
        return filters

    def _against_clsact(
        self, qdisc: str, index: IfIndex, hook: HookPoint, filters: list[Filter], priority: int, pin: Path
    ) -> str:
        """Why a TCX link is better, in words; "" where it is not."""
        if hook is HookPoint.EGRESS and qdisc == "ingress":
            return "an ingress qdisc is in clsact's place"
        if ahead := _foreign_links(index, hook, pin.parent.parent):
            return f"{ahead[0]} runs before clsact"
        if ahead := [
            str(each) for each in filters if not _is_ours(each) and not each.chain and each.priority < priority
        ]:
            return f"{ahead[0]} runs before ours"
        return ""

    def _update_link(self, pin: Path, program: Program) -> bool:
        """Replace the program of a link that a former run pinned; a defunct one is dropped."""
        link = TcxLink.pinned(pin)
        if link is None:
            return False
        with link:
            info = link.info()
            if not info.ifindex:
                pin.unlink(missing_ok=True)
                return False
            if info.prog_id != program.id():
                link.update(program.fd)
        return True

    def _attach_link(self, index: IfIndex, hook: HookPoint, program: Program, pin: Path, reason: str) -> Attached:
        with TcxLink.create(index, hook, program.fd) as link:
            link.pin(pin)
        return Attached(hook, AttachKind.TCX, note=reason, hidden_by=_ahead_of_link(index, hook, pin))

    def _verified(self, interface: Interface, hook: HookPoint, program: Program, owner: Owner) -> Attached:
        """Look that the program runs where it should, and there alone."""
        index, wanted = interface.index, program.id()
        if [each.program_id for each in self._filters(index, hook) if owner.owns(each)] == [wanted]:
            return self._as_it_stands(index, hook, owner)
        qdisc = self._clsact.qdisc(index)
        for each in self._clsact.filters(index, hook):
            if owner.owns(each) and each.program_id == wanted:
                self._clsact.delete(index, hook, each)
        raise AttachError(
            f"attaching to {hook} of {interface.name}: the kernel accepted the filter, but it is not there "
            f"(qdisc {qdisc or 'gone'}); see `tc filter show` for what else manages them"
        )

    def _as_it_stands(self, index: IfIndex, hook: HookPoint, owner: Owner) -> Attached:
        filters = self._filters(index, hook)
        mine = next((each for each in filters if owner.owns(each)), None)
        if mine is None:
            self._clsact.qdisc(index)  # raises where the interface is gone
            raise AttachError(f"attaching to {hook} of interface {index}: the filter was taken away at once by another")
        return self._in_its_place(index, hook, owner, filters, mine)

    @staticmethod
    def _in_its_place(index: IfIndex, hook: HookPoint, owner: Owner, filters: list[Filter], mine: Filter) -> Attached:
        earlier = takewhile(lambda each: each is not mine, filters)
        ahead = _foreign_links(index, hook, owner.pins.parent)
        ahead += [str(each) for each in earlier if not _is_ours(each) and not each.chain]
        note = "" if mine.priority == 1 else f"priority {mine.priority}: those before are taken"
        return Attached(hook, AttachKind.CLSACT, mine.priority, note, ", ".join(ahead))


def remove_link(pin: Path) -> bool:
    """Detach and unpin a TCX link, be its interface there or not; False where there is no such pin."""
    link = TcxLink.pinned(pin)
    if link is None:
        return False
    with link:
        link.detach()
        pin.unlink(missing_ok=True)
    return True


def remove_defunct_links(owner: Owner) -> int:
    """Drop the pins of links whose interfaces are gone; how many those were. StateError, AttachError."""
    removed = 0
    for pin in owner.pins.glob("link-*"):
        link = TcxLink.pinned(pin)
        if link is None:
            continue
        with link:
            if link.is_defunct():
                pin.unlink(missing_ok=True)
                removed += 1
    return removed


def _is_on(pin: Path, index: IfIndex) -> bool:
    link = TcxLink.pinned(pin)
    if link is None:
        return False
    with link:
        return bool(link.info().ifindex == index)


def _is_ours(filter_: Filter) -> bool:
    return filter_.name.startswith(NAME_PREFIX)


def _first_free(filters: list[Filter], handle: int) -> int:
    """The first priority where nobody else is, and no other agent of ours has the same handle."""
    taken = {each.priority for each in filters if not _is_ours(each) or each.handle == handle}
    return next(priority for priority in count(1) if priority not in taken)


def _program_in_words(program_id: int) -> str:
    return f"the TCX program {program_id}"


def _our_programs(home: Path, index: IfIndex, hook: HookPoint) -> set[int]:
    """The ids of the programs in the monitors' links at a hook."""
    ids = set()
    for pin in home.glob(f"*/link-{index}-{hook}"):
        if (link := TcxLink.pinned(pin)) is not None:
            with link:
                ids.add(int(link.info().prog_id))
    return ids


def _foreign_links(index: IfIndex, hook: HookPoint, home: Path) -> list[str]:
    ids = tcx.programs(index, hook)
    if not ids:
        return []
    ours = _our_programs(home, index, hook)
    return [_program_in_words(each) for each in ids if each not in ours]


def _ahead_of_link(index: IfIndex, hook: HookPoint, pin: Path) -> str:
    """The foreign programs before the link pinned at `pin`."""
    link = TcxLink.pinned(pin)
    if link is None:
        return ""
    with link:
        own = int(link.info().prog_id)
    ours = _our_programs(pin.parent.parent, index, hook)
    earlier = takewhile(lambda each: each != own, tcx.programs(index, hook) or [])
    return ", ".join(_program_in_words(each) for each in earlier if each not in ours)
