"""A monitor that fails in a way that nobody foresaw: its supervisor is told, and other agents are to ask again."""

from __future__ import annotations

import numpy as np

from podwire_agent.model import Records
from podwire_agent.peers import ContainedReceiver
from podwire_agent.statements import STATEMENT, Envelope, Status, Statuses

ENVELOPE = Envelope("n2", "boot", 1)


class Receiver:
    """Takes everything, or fails."""

    visible = False

    def __init__(self, *, broken: bool) -> None:
        self._broken = broken

    def take(self, envelope: Envelope, records: Records, now_mono_ns: int) -> Statuses:
        if self._broken:
            raise IndexError(envelope.node, now_mono_ns)
        return np.full(len(records), Status.TAKEN, np.uint8)


def test_what_is_taken_is_answered_as_ever() -> None:
    told: list[Exception] = []
    receiver = ContainedReceiver(Receiver(broken=False), told.append)
    assert receiver.take(ENVELOPE, np.zeros(3, STATEMENT), 1).tolist() == [Status.TAKEN] * 3
    assert (told, receiver.visible) == ([], False)


def test_what_nobody_foresaw_reaches_the_supervisor_and_nobody_else() -> None:
    told: list[Exception] = []
    receiver = ContainedReceiver(Receiver(broken=True), told.append)
    assert receiver.take(ENVELOPE, np.zeros(2, STATEMENT), 1).tolist() == [Status.LATER] * 2
    assert [type(error) for error in told] == [IndexError]
