"""Removing what Podwire left on this node, and only that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from podwire_agent.errors import InterfaceGone, StateError
from podwire_agent.kernel import bpffs
from podwire_agent.kernel.claim import sole_directory, sole_name
from podwire_agent.kernel.clsact import Filter
from podwire_agent.kernel.datapath import remove_tree
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.tc import Owner, TrafficControl, remove_link
from podwire_agent.model import HookPoint, Interface, MonitorUid
from podwire_agent.state import StateDirectory
from podwire_api import uid_of_name

_Found = tuple[Interface, HookPoint, Filter]


def clean(state_dir: Path, bpffs_path: Path, monitor: str | None = None) -> Iterator[str]:
    """Remove filters, links, pins and state of the monitor of a file, or of all; yields a line for each thing removed.

    StateError where an agent is running, or where a monitor is named that left nothing; KernelError.
    """
    home = bpffs_path / bpffs.HOME
    with ExitStack() as stack:
        state = stack.enter_context(StateDirectory(state_dir, any_namespace=True))
        control = stack.enter_context(TrafficControl())
        interfaces = stack.enter_context(Interfaces())
        left = left_behind(state, home)
        filters = list(_filters(interfaces, control))
        if monitor is not None:
            wanted = _owner(MonitorUid(uid_of_name(monitor)), home)
            left = [uid for uid in left if uid == wanted.uid]
            filters = [found for found in filters if wanted.owns(found[2])]
            if not left and not filters:
                raise StateError(f"nothing is left of a monitor {monitor} of a file; leave --monitor out to remove all")
        names = {filter_.name for _, _, filter_ in filters} | {_owner(uid, home).name for uid in left}
        for name in sorted(names):
            stack.enter_context(sole_name(name))
        for uid in left:
            if (home / uid).exists():
                stack.enter_context(sole_directory(home / uid))
        yield from _take_off(control, filters)
        for uid in left:
            yield from _unpin(uid, home / uid)
        state.forget_all(None if monitor is None else left)
        _remove_if_empty(home)


def left_behind(state: StateDirectory, home: Path) -> list[MonitorUid]:
    """The monitors, running or not, that have something pinned below `home` or in the state directory."""
    return sorted({*(MonitorUid(path.name) for path in home.glob("*")), *state.known()})


def remove_left(state: StateDirectory, home: Path, uid: MonitorUid) -> Iterator[str]:
    """Remove what a monitor left that does not run; a line for each thing removed. StateError, KernelError.

    StateError too where an agent with another state directory runs it.
    """
    owner = _owner(uid, home)
    with sole_name(owner.name), sole_directory(owner.pins), TrafficControl() as control, Interfaces() as interfaces:
        yield from _take_off(control, [found for found in _filters(interfaces, control) if owner.owns(found[2])])
        yield from _unpin(uid, owner.pins)
        state.forget(uid)


def remove_nameless(home: Path, belonging: Collection[MonitorUid]) -> Iterator[str]:
    """Remove filters of ours whose monitors have neither pins nor state; a line for each. KernelError.

    `belonging`: whose filters stay. Those of an agent with another state directory stay too.
    """
    known = {_owner(uid, home).name for uid in belonging}
    with TrafficControl() as control, Interfaces() as interfaces:
        strangers: dict[str, list[_Found]] = {}
        for found in _filters(interfaces, control):
            if found[2].name not in known:
                strangers.setdefault(found[2].name, []).append(found)
        for name, filters in strangers.items():
            with suppress(StateError), sole_name(name):
                yield from _take_off(control, filters)


def _owner(uid: MonitorUid, home: Path) -> Owner:
    return Owner(uid, 0, home / uid)


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def _unpin(uid: MonitorUid, pins: Path) -> Iterator[str]:
    for link in sorted(pins.glob("link-*")):
        remove_link(link)
        yield f"link {link.name} of monitor {uid}"
    if pins.exists():
        remove_tree(pins)
        yield f"pins of monitor {uid}"


def _take_off(control: TrafficControl, filters: Iterable[_Found]) -> Iterator[str]:
    for interface, hook, filter_ in filters:
        if control.remove(interface.index, hook, filter_):
            yield f"filter {filter_.name} from {hook} of {interface.name}"


def _filters(interfaces: Interfaces, control: TrafficControl) -> Iterator[_Found]:
    """Those of every monitor."""
    for interface in interfaces.all():
        try:
            found = control.ours(interface.index)
        except InterfaceGone:
            continue
        for hook, filter_ in found:
            yield interface, hook, filter_
