"""One report to several sinks, in turn."""

from __future__ import annotations

from contextlib import ExitStack

from podwire_agent.model import Snapshot
from podwire_agent.ports import Sink


class Tee:
    """What one of the sinks raises ends the turn: those after it do not get that report."""

    def __init__(self, *sinks: Sink) -> None:
        self.name = "+".join(sink.name for sink in sinks)
        self._sinks = sinks

    def send(self, snapshot: Snapshot) -> None:
        """To each."""
        for sink in self._sinks:
            sink.send(snapshot)

    def close(self) -> None:
        """Each, whatever another one raises."""
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)
