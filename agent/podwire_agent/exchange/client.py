"""Makes statements to other nodes' agents: a few threads, one connection a peer that stays open between two cuts."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Self

import numpy as np
from urllib3 import HTTPSConnectionPool, Timeout
from urllib3.exceptions import HTTPError

from podwire_agent.errors import ExchangeError
from podwire_agent.exchange.clocks import ClockFilter, Sample, clock_fits
from podwire_agent.exchange.identity import Contexts, Identity
from podwire_agent.exchange.messages import (
    CONTENT_TYPE,
    INVISIBLE,
    PATH,
    RECORDS_LIMIT,
    PeerClock,
    Refusal,
    Refused,
    Sender,
    read_answer,
    request_body,
)
from podwire_agent.model import MonitorUid, Records
from podwire_agent.ports import Clock
from podwire_agent.statements import STATEMENT, Answer, CutTimes, Statements, Statuses

log = logging.getLogger(__name__)

THREADS = 8
"""Peers that are spoken to at once; each thread is made when it is needed."""
CONNECT_S, ANSWER_S = 2.0, 4.0
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
"""After a failure, then twice as long each time: what is not said is said with a later cut."""
CONNECTIONS_KEPT = 128
"""Open to peers that are not spoken to; the one that was used longest ago is closed."""
PEERS_KEPT = 1024
"""Whose clocks are remembered."""
PROBES = 3
"""Questions for the time before the first statement: the first opens the connection, so its delay says little."""

Address = tuple[str, int]


class _Unanswered(Exception):
    """In words; the peer is tried again later."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """Figures of one peer for metrics."""

    offset_ns: int
    """Its wall clock less ours."""
    delay_ns: int


@dataclass(frozen=True, slots=True)
class ClientState:
    """Figures for metrics."""

    peers: dict[str, PeerState]
    """By node; those that have answered."""
    requests_total: int
    records_total: int
    sent_bytes_total: int
    failures_total: dict[str, int]
    """`unreachable`, or the HTTP status of a refusal."""


@dataclass(slots=True)
class _Peer:
    node: str
    address: Address | None = None
    pool: HTTPSConnectionPool | None = None
    contexts: int = -1
    """Which certificates the connection was made with."""
    clocks: ClockFilter = field(default_factory=ClockFilter)
    boot_id: str = ""
    wall_offset_ns: int = 0
    delay_ns: int = 0
    retry_s: float = 0.0
    """How long it is left alone after the next failure; 0: it has answered."""
    not_before_s: float = 0.0


class ExchangeClient:
    """Context manager. Its methods may be called from any thread and never wait for a peer."""

    def __init__(self, identity: Identity, address: Callable[[str], Address | None], clock: Clock) -> None:
        """`address`: of the agent of a node, None where it is not known."""
        self._identity = identity
        self._address = address
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, dict[MonitorUid, tuple[Sender, Statements]]] = OrderedDict()
        self._peers: OrderedDict[str, _Peer] = OrderedDict()  # the one that was used last is last
        self._busy: set[str] = set()
        self._answers: dict[MonitorUid, dict[str, Answer]] = {}
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._stopping = False
        self._requests = self._records = self._bytes = 0
        self._failures: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for peer in self._peers.values():
            _disconnect(peer)

    def post(self, sender: Sender, statements: Iterable[Statements]) -> None:
        """Say these, in the place of those of the same monitor that are not said yet."""
        with self._changed:
            for each in statements:
                self._waiting.setdefault(each.node, {})[sender.monitor] = (sender, each)
            wanted = min(len(self._waiting), THREADS) - len(self._threads)
            for _ in range(max(0, wanted - self._idle)):
                thread = threading.Thread(target=self._work, name=f"exchange {len(self._threads) + 1}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def answers(self, monitor: MonitorUid) -> list[Answer]:
        """What came since the last time: of each node the newest."""
        with self._changed:
            return list(self._answers.pop(monitor, {}).values())

    def forget(self, monitor: MonitorUid) -> None:
        """It does not run here any more."""
        with self._changed:
            self._answers.pop(monitor, None)
            for node in list(self._waiting):
                self._waiting[node].pop(monitor, None)
                if not self._waiting[node]:
                    del self._waiting[node]

    def state(self) -> ClientState:
        """Figures for metrics."""
        with self._changed:
            return ClientState(
                peers={
                    peer.node: PeerState(peer.wall_offset_ns, peer.delay_ns)
                    for peer in self._peers.values()
                    if peer.boot_id
                },
                requests_total=self._requests,
                records_total=self._records,
                sent_bytes_total=self._bytes,
                failures_total=dict(self._failures),
            )

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._stopping or self._next() is not None)
                self._idle -= 1
                node = self._next()
                if self._stopping or node is None:
                    return
                said = list(self._waiting.pop(node).values())
                peer = self._known(node)
                self._busy.add(node)
            try:
                for sender, statements in said:
                    self._speak(peer, sender, statements)
            finally:
                with self._changed:
                    self._busy.discard(node)
                    self._trim()
                    self._changed.notify_all()

    def _next(self) -> str | None:
        return next((node for node in self._waiting if node not in self._busy), None)

    def _known(self, node: str) -> _Peer:
        peer = self._peers.setdefault(node, _Peer(node))
        self._peers.move_to_end(node)
        return peer

    def _trim(self) -> None:
        """Close and forget what was not used for long."""
        spare = [peer for peer in self._peers.values() if peer.node not in self._busy]
        connected = [peer for peer in spare if peer.pool is not None]
        for peer in connected[: max(0, len(connected) - CONNECTIONS_KEPT)]:
            _disconnect(peer)
        for peer in spare[: max(0, len(self._peers) - PEERS_KEPT)]:
            _disconnect(peer)
            del self._peers[peer.node]

    def _speak(self, peer: _Peer, sender: Sender, statements: Statements) -> None:
        if time.monotonic() < peer.not_before_s:
            return
        try:
            answer = self._exchange(peer, sender, statements)
        except (_Unanswered, ExchangeError) as error:
            self._failures["unreachable"] += 1
            level = logging.DEBUG if peer.retry_s else logging.INFO  # said once
            peer.retry_s = min(LAST_RETRY_S, max(FIRST_RETRY_S, peer.retry_s * 2))
            peer.not_before_s = time.monotonic() + peer.retry_s
            _disconnect(peer)
            log.log(level, "the agent of node %s does not answer, it is tried again: %s", peer.node, error)
        except Refused as refused:
            self._failures[str(refused.refusal.value.value)] += 1
            if refused.refusal is Refusal.OTHER_BOOT:
                peer.clocks.clear()
            log.info("the agent of node %s refuses statements: %s", peer.node, refused)
        else:
            peer.retry_s = 0.0
            with self._changed:
                self._answers.setdefault(sender.monitor, {})[peer.node] = answer

    def _exchange(self, peer: _Peer, sender: Sender, statements: Statements) -> Answer:
        for _ in range(PROBES if not len(peer.clocks) else 0):
            self._request(peer, sender, None, np.empty(0, STATEMENT))
        statuses = np.empty(len(statements.records), np.uint8)
        visible = True
        for begin in range(0, len(statements.records), RECORDS_LIMIT):
            part = slice(begin, begin + RECORDS_LIMIT)
            statuses[part], visible = self._request(peer, sender, statements.cut, statements.records[part])
        fits = clock_fits(peer.wall_offset_ns, peer.delay_ns)
        return Answer(statements, statuses, peer.boot_id, fits, visible)

    def _request(self, peer: _Peer, sender: Sender, cut: CutTimes | None, records: Records) -> tuple[Statuses, bool]:
        """One body there and its answer back. _Unanswered, Refused, ExchangeError."""
        pool = self._connected(peer)
        estimate = peer.clocks.estimate(self._clock.mono_ns()) if len(records) else None
        clock = PeerClock(peer.boot_id, estimate) if estimate is not None else None
        sent_mono_ns = self._clock.mono_ns()
        body = request_body(sender, cut, records, clock, self._clock.unix_ns(), sent_mono_ns)
        try:
            response = pool.urlopen(
                "POST",
                PATH,
                body=body,
                headers={"Content-Type": CONTENT_TYPE},
                retries=False,
                redirect=False,
                timeout=Timeout(connect=CONNECT_S, read=ANSWER_S),
            )
        except HTTPError as error:
            raise _Unanswered(str(error)) from error
        returned_mono_ns = self._clock.mono_ns()
        self._requests += 1
        self._records += len(records)
        self._bytes += len(body)
        if response.status != HTTPStatus.OK:
            raise _refused(response.status, response.data)
        answer, statuses = read_answer(response.data, len(records))
        self._hear(peer, answer, sent_mono_ns, returned_mono_ns)
        return statuses, not answer["flags"] & INVISIBLE

    def _hear(self, peer: _Peer, answer: np.void, sent_mono_ns: int, returned_mono_ns: int) -> None:
        """What an answer says of the peer's clock."""
        boot_id = bytes(answer["boot_id"]).decode(errors="backslashreplace")
        if boot_id != peer.boot_id:
            peer.clocks.clear()
            peer.boot_id = boot_id
        received, answered = int(answer["received_mono_ns"]), int(answer["answered_mono_ns"])
        peer.clocks.add(Sample(sent_mono_ns, received, answered, returned_mono_ns))
        estimate = peer.clocks.estimate(returned_mono_ns)
        if estimate is not None:
            theirs = int(answer["answered_unix_ns"]) - answered
            ours = self._clock.unix_ns() - self._clock.mono_ns()
            peer.wall_offset_ns, peer.delay_ns = theirs - ours + estimate.offset_ns, estimate.delay_ns

    def _connected(self, peer: _Peer) -> HTTPSConnectionPool:
        contexts = self._identity.contexts()
        address = self._address(peer.node)
        if address is None:
            raise _Unanswered("its address is not known")
        if peer.pool is None or peer.address != address or peer.contexts != contexts.number:
            _disconnect(peer)
            peer.pool = self._pool(address, contexts)
            peer.address, peer.contexts = address, contexts.number
        return peer.pool

    def _pool(self, address: Address, contexts: Contexts) -> HTTPSConnectionPool:
        host, port = address
        return HTTPSConnectionPool(
            f"[{host}]" if ":" in host else host,
            port,
            maxsize=1,
            ssl_context=contexts.client,
            server_hostname=self._identity.name,
        )


def _disconnect(peer: _Peer) -> None:
    if peer.pool is not None:
        peer.pool.close()
        peer.pool = None


def _refused(status: int, body: bytes) -> Refused | _Unanswered:
    words = body[:300].decode(errors="backslashreplace").strip()
    for refusal in Refusal:
        if refusal.value == status:
            return Refused(refusal, words)
    return _Unanswered(f"HTTP status {status}: {words}")
