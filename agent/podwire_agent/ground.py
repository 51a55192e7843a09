"""What all monitors of an agent stand on: the node's lock and pins, the programs, the threads that serve everybody."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from podwire_agent.births import Births
from podwire_agent.cutter import Cutter
from podwire_agent.kernel import bpffs, capabilities, heap, probes
from podwire_agent.kernel.loader import LibbpfLoader, Loader
from podwire_agent.ports import Clock, StepObserver
from podwire_agent.settings import LoaderName, Settings
from podwire_agent.state import StateDirectory


def default_loader(settings: Settings) -> Loader:
    """The one chosen, with the programs that suit this kernel."""
    coarse_clock = probes.coarse_clock()
    if settings.loader is LoaderName.BCC:
        from podwire_agent.kernel.bcc_loader import BccLoader  # noqa: PLC0415 (starts a child: what that takes is rare)

        return BccLoader(settings.objects / "bcc", coarse_clock=coarse_clock)
    return LibbpfLoader(settings.objects / ("flow.bpf.o" if coarse_clock else "flow-compat.bpf.o"))


class Ground:
    """Context manager. Made only on a node that has all that is needed; `start` begins the threads."""

    def __init__(
        self, settings: Settings, state: StateDirectory, clock: Clock, observer: StepObserver, *, mount: bool = True
    ) -> None:
        """`state`: locked, and longer than this. `mount`: a bpffs where there is none. KernelError, LoadError."""
        capabilities.require()
        heap.give_back()
        probes.raise_memlock()
        self.home: Path = bpffs.ensure(settings.bpffs, mount=mount)
        probes.require(probes.features())
        self.settings = settings
        self.state = state
        self.clock = clock
        self.observer = observer
        self.loader = default_loader(settings)
        self.births = Births(clock)
        self.cutter = Cutter(clock)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.births)
            stack.callback(self.cutter.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def start(self) -> None:
        """Follow interfaces and cut from now on."""
        self.births.start()
        self.cutter.start()
