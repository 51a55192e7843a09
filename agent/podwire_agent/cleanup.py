"""Removing what Podwire left on this node, and only that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from podwire_agent.errors import InterfaceGone, StateError
from podwire_agent.kernel import bpffs
from podwire_agent.kernel.datapath import remove_tree
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.tc import NAME_PREFIX, TrafficControl, remove_link
from podwire_agent.model import MonitorUid
from podwire_agent.state import StateDirectory


def clean(state_dir: Path, bpffs_path: Path, uid: MonitorUid | None = None) -> Iterator[str]:
    """Remove filters, links, pins and state of one monitor, or of all; yields a line for each thing removed.

    StateError where an agent is running, or where a monitor is named that left nothing; KernelError.
    """
    home = bpffs_path / bpffs.HOME
    with ExitStack() as stack:
        state = stack.enter_context(StateDirectory(state_dir, any_namespace=True))
        control = stack.enter_context(TrafficControl())
        interfaces = stack.enter_context(Interfaces())
        pinned = [MonitorUid(path.name) for path in sorted(home.iterdir())] if home.is_dir() else []
        known = sorted({*pinned, *state.known()})
        if uid is not None and uid not in known:
            raise StateError(f"nothing is left of monitor {uid}; known here: {', '.join(known) or 'none'}")
        for interface in interfaces.all():
            try:
                for hook, filter_ in control.ours(interface.index):
                    if uid is None or filter_.name == f"{NAME_PREFIX}{uid[:8]}":
                        control.remove(interface.index, hook, filter_)
                        yield f"filter {filter_.name} from {hook} of {interface.name}"
            except InterfaceGone:
                continue
        for monitor in known if uid is None else [uid]:
            for link in sorted((home / monitor).glob("link-*")):
                remove_link(link)
                yield f"link {link.name} of monitor {monitor}"
            if (home / monitor).exists():
                remove_tree(home / monitor)
                yield f"pins of monitor {monitor}"
            state.forget(monitor)
        if uid is None and home.is_dir() and not any(home.iterdir()):
            home.rmdir()
