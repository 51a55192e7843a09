"""The agents of other nodes: one server for them, one client of them, and a channel for each monitor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from podwire_agent.containment import Crashed, contained
from podwire_agent.exchange.client import Address, ExchangeClient
from podwire_agent.exchange.identity import Identity
from podwire_agent.exchange.messages import Sender
from podwire_agent.exchange.server import ExchangeServer, Receiver
from podwire_agent.model import MonitorUid, Records
from podwire_agent.ports import Clock
from podwire_agent.statements import Answer, Envelope, Statements, Status, Statuses
from podwire_agent.telemetry import ExchangeState
from podwire_api import NetworkMonitor
from podwire_api.names import AGENT


class Peers:
    """Context manager: answers from entry on."""

    def __init__(
        self,
        port: int,
        tls_dir: Path,
        node: str,
        boot_id: str,
        clock: Clock,
        address: Callable[[str], Address | None],
        receiver: Callable[[MonitorUid], tuple[Receiver, Crashed] | None],
    ) -> None:
        """`node`: this one. `address`: of the agent of a node; None: not known. `receiver`: of a monitor here, and who
        is told where it fails in a way that nobody foresaw.

        ExchangeError where the port is taken.
        """
        self._node = node
        self._boot_id = boot_id
        self._find = receiver
        self._stack = ExitStack()
        identity = Identity(tls_dir, AGENT, time.monotonic)
        self._client = ExchangeClient(identity, address, clock)
        self._server = ExchangeServer(("", port), identity, boot_id, self._receiver, clock)

    def __enter__(self) -> Self:
        self._stack.enter_context(self._client)
        self._stack.enter_context(self._server)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def channel(self, resource: NetworkMonitor) -> MonitorChannel:
        """Of one monitor."""
        sender = Sender(MonitorUid(resource.uid), self._node, self._boot_id, resource.spec.polling_period_ns)
        return MonitorChannel(self._client, sender)

    def state(self) -> ExchangeState:
        """Figures for metrics."""
        heard, said = self._server.state(), self._client.state()
        offsets_ns = [each.offset_ns for each in said.peers.values()]
        return ExchangeState(
            peers=len(said.peers),
            worst_offset_s=max(offsets_ns, key=abs, default=0) / 1e9,
            requests_total=said.requests_total,
            sent_bytes_total=said.sent_bytes_total,
            failures_total=said.failures_total,
            refused_total={each.name.lower(): number for each, number in heard.refused_total.items()}
            | {"no_certificate": heard.handshakes_failed_total, "turned_away": heard.turned_away_total},
        )

    def _receiver(self, uid: MonitorUid) -> Receiver | None:
        found = self._find(uid)
        return None if found is None else ContainedReceiver(*found)


class MonitorChannel:
    """comparison.Channel."""

    def __init__(self, client: ExchangeClient, sender: Sender) -> None:
        self._client = client
        self._sender = sender

    def post(self, statements: Sequence[Statements]) -> None:
        """Say these."""
        self._client.post(self._sender, statements)

    def answers(self) -> Sequence[Answer]:
        """That have come since the last time."""
        return self._client.answers(self._sender.monitor)

    def close(self) -> None:
        """There is no more to say."""
        self._client.forget(self._sender.monitor)


class ContainedReceiver:
    """What nobody foresaw in one monitor ends in its supervisor, and not the server of them all."""

    def __init__(self, receiver: Receiver, crashed: Crashed) -> None:
        self._receiver = receiver
        self._crashed = crashed

    @property
    def visible(self) -> bool:
        """Whether what goes to the pods of this node can be seen."""
        return self._receiver.visible

    def take(self, envelope: Envelope, records: Records, now_mono_ns: int) -> Statuses:
        """As the receiver says; if it cannot, the other agent is to ask again."""
        statuses = np.full(len(records), Status.LATER, np.uint8)
        with contained(f"taking what the agent of {envelope.node} states", self._crashed):
            statuses[:] = self._receiver.take(envelope, records, now_mono_ns)
        return statuses
