"""Nodes, pods, packets and agents, simulated: what happened is known, what the agents make of it is theirs."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from podwire_agent.core.keyed import joined
from podwire_agent.core.loss import COMPARED, Job, Loss
from podwire_agent.core.surroundings import INTERFACE, RECEIVER, InForce, Surroundings
from podwire_agent.exchange.clocks import clock_fits
from podwire_agent.layout import FLOW_KEY, FLOW_STATS, FlowDirection
from podwire_agent.model import Records, UncomparedReason
from podwire_agent.statements import WIRE, Answer, CutTimes, Envelope, Statements

FROM_POD, TO_POD = FlowDirection
MS = 10**6
S = 10**9
PERIOD_NS = 5 * S
DELAY_NS = 100 * MS
EPOCH_UNIX_NS = 1_700_000_000 * S
LIMIT = 4096


@dataclass
class Flow:
    """Times are true ones. A packet that is lost arrives never: -1."""

    number: int
    src: int
    dst: int
    sent: np.ndarray[Any, np.dtype[np.int64]]
    arrived: np.ndarray[Any, np.dtype[np.int64]]

    def __post_init__(self) -> None:
        self.arrivals = np.sort(self.arrived[self.arrived >= 0])
        self.gone = self.sent[self.arrived < 0]

    @property
    def wire(self) -> Records:
        wire = np.zeros(1, WIRE)
        wire["src_address"][0, 12:] = [10, self.src, 0, 1]
        wire["dst_address"][0, 12:] = [10, self.dst, 0, 1]
        wire["src_port"], wire["dst_port"], wire["protocol"] = 1024 + self.number, 80, 17
        return wire

    def key(self, ifindex: int) -> Records:
        key = np.zeros(1, FLOW_KEY)
        for name in ("src_address", "dst_address", "src_port", "dst_port", "protocol"):
            key[name] = self.wire[name]
        key["ifindex"] = ifindex
        return key


@dataclass
class Account:
    """What an agent has said of a flow."""

    lost: int = 0
    compared: int = 0
    uncompared: list[int] = field(default_factory=lambda: [0] * len(UncomparedReason))

    @property
    def all(self) -> int:
        return self.compared + sum(self.uncompared)


Books = dict[int, Account]


@dataclass
class Epoch:
    direction: FlowDirection
    number: int
    since: int
    until: int
    cut: CutTimes | None


@dataclass
class Saved:
    sections: dict[str, Any]
    books: Books
    folded: dict[FlowDirection, int]


class Node:
    """A node with one pod's interface (ifindex 7), its kernel and its agent."""

    IFINDEX = 7

    def __init__(self, world: World, index: int, mono_ns: int, wall_ns: int, attached: int) -> None:
        self.world, self.index = world, index
        self.mono_offset, self.wall_offset = mono_ns, wall_ns
        self.attached = attached
        self.detached: int | None = None
        self.overflowed = [0, 0]
        self.rules: list[InForce] = []
        self.exchange = True
        self.boot = f"boot-{index}"
        self.epochs: list[Epoch] = []
        self.cut_at = dict.fromkeys(FlowDirection, attached)
        self.numbers = dict.fromkeys(FlowDirection, 0)
        self.saved: Saved | None = None
        self.alive = False
        self.answers: list[Answer] = []
        self.start(attached)

    @property
    def name(self) -> str:
        return f"node-{self.index}"

    def mono(self, t: int) -> int:
        return t + self.mono_offset

    def wall(self, t: int) -> int:
        return EPOCH_UNIX_NS + t + self.wall_offset

    def job(self) -> Job:
        return Job(self.name, self.boot, LIMIT, PERIOD_NS, self.exchange, seed=self.index)

    def start(self, t: int) -> None:
        self.alive = True
        self.answers = []
        if self.saved is None:
            self.loss = Loss(self.job(), self.mono(t))
            self.books: Books = {}
            self.folded = dict.fromkeys(FlowDirection, 0)
            return
        self.loss = Loss.restore(self.saved.sections, self.job(), self.mono(t))
        self.books = {number: copied(each) for number, each in self.saved.books.items()}
        self.folded = dict(self.saved.folded)
        for epoch in self.epochs:
            epoch.cut = None  # nobody remembers
        for direction in FlowDirection:
            self.cut(direction, t)
        self.drain(t + 5 * MS)

    def kill(self) -> None:
        self.alive = False

    def killed(self, _t: int) -> None:
        self.kill()

    def revive(self, t: int) -> None:
        if not self.alive:
            self.start(t)

    def enforce(self, rules: InForce, _t: int) -> None:
        self.rules.append(rules)

    def reboot(self, t: int, down: int) -> None:
        """Everything is lost but what the world knows."""
        self.kill()
        self.saved, self.epochs = None, []
        self.boot += "'"
        self.mono_offset = -t
        self.attached = t + down
        self.cut_at = dict.fromkeys(FlowDirection, self.attached)

    def cut(self, direction: FlowDirection, t: int) -> None:
        took = int(self.world.random.integers(1 * MS, 12 * MS))
        self.numbers[direction] += 1
        until = t + took // 2
        cut = CutTimes(self.wall(t), self.mono(t), self.mono(t + took))
        self.epochs.append(Epoch(direction, self.numbers[direction], self.cut_at[direction], until, cut))
        self.cut_at[direction] = until

    def drain(self, t: int, stop: str = "") -> None:
        """`stop`: the step after which it is killed."""
        for epoch in list(self.epochs):
            if epoch.number > self.folded[epoch.direction]:
                self.fold(epoch)
                self.folded[epoch.direction] = epoch.number
        news = self.loss.settle(self.surroundings(t), self.answers, self.mono(t))
        self.answers = []
        self.enter(news)
        if stop == "settled":
            return self.kill()
        sections = {
            name: part.copy() if isinstance(part, np.ndarray) else part for name, part in self.loss.sections().items()
        }
        self.saved = Saved(sections, {n: copied(each) for n, each in self.books.items()}, dict(self.folded))
        if stop == "saved":
            return self.kill()
        self.epochs = [epoch for epoch in self.epochs if epoch.number > self.folded[epoch.direction]]
        for statements in self.loss.saved():
            self.world.post(self, statements, t + 1 * MS)
        if stop == "said":
            self.kill()
        return None

    def enter(self, news: Records) -> None:
        for row in news:
            account = self.books.setdefault(int(row["key"]["src_port"]) - 1024, Account())
            account.lost += int(row["lost"])
            account.compared += int(row["compared"])
            for reason in UncomparedReason:
                account.uncompared[reason] += int(row["uncompared"][reason])

    def surroundings(self, t: int) -> Surroundings:
        there = self.detached is None or t < self.detached
        interfaces = np.zeros(int(there), INTERFACE)
        receivers = np.zeros(int(there), RECEIVER)
        if there:
            interfaces["ifindex"] = receivers["ifindex"] = self.IFINDEX
            interfaces["since_mono_ns"] = self.mono(self.attached)
            interfaces["overflowed"] = self.overflowed
            receivers["address"][0, 12:] = [10, self.index, 0, 1]
        return Surroundings(interfaces, receivers, self.rules)

    def fold(self, epoch: Epoch) -> None:
        keys, stats, wires, nodes = [], [], [], []
        coarse = 4 * MS
        for flow in self.world.flows:
            ours, times = (flow.src, flow.sent) if epoch.direction is FROM_POD else (flow.dst, flow.arrivals)
            if ours != self.index:
                continue
            until = epoch.until if self.detached is None else min(epoch.until, self.detached)
            here = times[slice(*np.searchsorted(times, [epoch.since, until]))]
            here = here[here >= self.attached]
            if self.world.counted is not None:
                here = here[self.world.counted(flow, epoch.direction, here)]
            if not len(here):
                continue
            stat = np.zeros(1, FLOW_STATS)
            stat["packets"] = len(here)
            stat["first_mono_ns"] = self.mono(int(here[0])) // coarse * coarse
            stat["last_mono_ns"] = self.mono(int(here[-1])) // coarse * coarse
            keys.append(flow.key(self.IFINDEX))
            stats.append(stat)
            wires.append(flow.wire)
            nodes.append(flow.dst)
        if not keys:
            keys, stats, wires = [np.zeros(0, FLOW_KEY)], [np.zeros(0, FLOW_STATS)], [np.zeros(0, WIRE)]
        key, stat, wire = (joined(part, part[0].dtype) for part in (keys, stats, wires))
        if epoch.direction is FROM_POD:
            names = [node.name for node in self.world.nodes]
            reasons = np.full(len(nodes), COMPARED)
            self.loss.sent(epoch.cut, key, stat, wire, np.array(nodes, np.int64), names, reasons)
        else:
            self.loss.received(epoch.cut, key, stat, wire)


class World:
    """Runs from 0 to `end`."""

    def __init__(self, seed: int, clocks_ms: float, nodes: int = 2, attached: list[int] | None = None) -> None:
        self.random = np.random.default_rng(seed)
        self.flows: list[Flow] = []
        self.linked = True
        self.counted: Callable[[Flow, FlowDirection, Any], Any] | None = None
        """Which of these packets the kernel counts; None: all."""
        self.answer_lost = 0.0
        self.repeated = 0.0
        self.late = 0.03
        self._kills: dict[tuple[int, int], str] = {}
        self.nodes: list[Node] = []
        for index in range(nodes):
            wall = int(clocks_ms * MS) * index
            at = (attached or [0] * nodes)[index]
            self.nodes.append(Node(self, index, int(self.random.integers(1, 10**6)) * S, wall, at))
        self._events: list[tuple[int, int, Callable[[int], None]]] = []
        self._order = itertools.count()
        self.checks: list[Callable[[int], None]] = [self.never_more]

    def at(self, t: int, act: Callable[[int], None]) -> None:
        heapq.heappush(self._events, (t, next(self._order), act))

    def post(self, source: Node, statements: Statements, t: int) -> None:
        node = next(node for node in self.nodes if node.name == statements.node)
        if not (self.linked and node.alive):
            return
        error = int(self.random.integers(-MS, MS))
        envelope = Envelope(
            source.name,
            source.boot,
            statements.cut.ended_mono_ns,
            node.mono_offset - source.mono_offset + error,
            MS,
            MS,
            node.mono(t) - source.mono(t - MS),
        )
        statuses = node.loss.take(envelope, statements.records, node.mono(t))
        if self.random.random() < self.repeated:
            statuses = node.loss.take(envelope, statements.records, node.mono(t))
        if self.random.random() < self.answer_lost:
            return
        fits = clock_fits(node.wall_offset - source.wall_offset, MS)
        source.answers.append(Answer(statements, statuses, node.boot, fits))

    def run(self, end: int) -> None:
        for node in self.nodes:
            self._schedule(node, 1, end)
        while self._events and self._events[0][0] <= end:
            t, _, act = heapq.heappop(self._events)
            act(t)
            for check in self.checks:
                check(t)

    def _schedule(self, node: Node, k: int, end: int) -> None:
        nominal = k * PERIOD_NS - node.wall_offset
        if nominal > end:
            return
        late = int(abs(self.random.normal(0, 3 * MS)))
        if self.random.random() < self.late:
            late += int(self.random.uniform(0, 300 * MS))

        def from_pod(t: int) -> None:
            if node.alive:
                node.cut(FROM_POD, t)

        def to_pod(t: int) -> None:
            if node.alive:
                node.cut(TO_POD, t)

        def drain(t: int) -> None:
            if node.alive:
                node.drain(t, self._kills.pop((node.index, k), ""))
            self._schedule(node, k + 1, end)

        lag = DELAY_NS + int(abs(self.random.normal(0, 3 * MS)))
        spent = int(self.random.uniform(1 * MS, 40 * MS)) + (
            int(self.random.uniform(0, 5 * S)) if self.random.random() < self.late else 0
        )
        self.at(nominal + late, from_pod)
        self.at(max(nominal + lag, nominal + late + MS), to_pod)
        self.at(max(nominal + lag, nominal + late + MS) + spent, drain)

    def kill_after(self, node: int, k: int, step: str) -> None:
        """In the drain of the node's cut k."""
        self._kills[node, k] = step

    def account(self, flow: Flow, *, durable: bool = False) -> Account:
        total = Account()
        for node in self.nodes:
            books = node.books if node.alive and not durable else node.saved.books if node.saved else {}
            each = books.get(flow.number, Account())
            total.lost += each.lost
            total.compared += each.compared
            total.uncompared = [a + b for a, b in zip(total.uncompared, each.uncompared, strict=True)]
        return total

    def never_more(self, t: int) -> None:
        for flow in self.flows:
            account = self.account(flow)
            gone = int(np.searchsorted(flow.gone, t))
            sent = int(np.searchsorted(flow.sent, t))
            assert account.lost <= gone, (t, flow.number, account)
            assert account.lost <= account.compared, (t, flow.number, account)
            assert account.all <= sent, (t, flow.number, account)


def copied(account: Account) -> Account:
    return Account(account.lost, account.compared, list(account.uncompared))


def traffic(world: World, number: int, src: int, dst: int, begin: int, end: int, loss: float) -> Flow:
    """Bursts of some milliseconds, with pauses of all lengths between them; packets on their way up to 20 ms."""
    random = world.random
    times: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    t = begin
    while t < end:
        length = int(random.exponential(30 * MS)) + MS
        times.append(np.sort(random.integers(t, t + length, int(random.integers(1, 60)))))
        t += length + int(
            random.choice([5 * MS, 200 * MS, 3 * S, 20 * S], p=[0.4, 0.4, 0.18, 0.02]) * random.exponential()
        )
    sent = np.sort(np.concatenate(times))
    sent = sent[sent < end]
    arrived = sent + random.integers(50_000, 20 * MS, len(sent))
    arrived[random.random(len(sent)) < loss] = -1
    flow = Flow(number, src, dst, sent, arrived)
    world.flows.append(flow)
    return flow
