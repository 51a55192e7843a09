"""What comparing both ends costs: CPU a flow of each step, and bytes. `python -m tests.bench.loss_cost 6000`."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from podwire_agent.core.loss import COMPARED, Job, Loss
from podwire_agent.core.surroundings import INTERFACE, RECEIVER, Surroundings
from podwire_agent.exchange.messages import HEADER, Sender, request_body
from podwire_agent.layout import FLOW_KEY, FLOW_STATS
from podwire_agent.model import MonitorUid, Records
from podwire_agent.statements import WIRE, Answer, CutTimes, Envelope

S = 10**9
ROUNDS = 9
WARM = 2
"""Rounds that are not counted: the tables are made in them."""


def _epoch(flows: int, at: int, random: np.random.Generator) -> tuple[Records, Records, Records]:
    keys, wires, stats = np.zeros(flows, FLOW_KEY), np.zeros(flows, WIRE), np.zeros(flows, FLOW_STATS)
    for tuples in (keys, wires):
        tuples["src_address"][:, 12:] = [10, 1, 0, 1]
        tuples["dst_address"][:, 12:] = [10, 2, 0, 1]
        tuples["src_address"][:, 13] = np.arange(flows) // 60000
        tuples["src_port"] = np.random.default_rng(1).permutation(np.arange(flows) % 60000)
        tuples["dst_port"], tuples["protocol"] = 80, 6
    keys["ifindex"] = 7
    stats["packets"] = random.integers(1, 1000, flows)
    stats["first_mono_ns"] = at - random.integers(S, 4 * S, flows)
    stats["last_mono_ns"] = at - random.integers(0, S, flows)
    return keys, stats, wires


def _surroundings(node: int) -> Surroundings:
    interfaces, receivers = np.zeros(1, INTERFACE), np.zeros(1, RECEIVER)
    interfaces["ifindex"] = receivers["ifindex"] = 7
    interfaces["since_mono_ns"] = 1
    receivers["address"][0, 12:] = [10, node, 0, 1]
    return Surroundings(interfaces, receivers)


def measure(flows: int) -> tuple[dict[str, float], float]:
    """Microseconds a flow of each step, and bytes a flow on the wire."""
    source, destination = (
        Loss(Job(name, name, 2 * flows, 5 * S, exchange=True, seed=1), 0) for name in ("source", "destination")
    )
    random = np.random.default_rng(2)
    spent: dict[str, list[float]] = defaultdict(list)
    answers: list[Answer] = []
    sizes = []

    def timed(step: str, act: Callable[..., Any], *arguments: Any) -> Any:
        began = time.thread_time()
        result = act(*arguments)
        spent[step].append((time.thread_time() - began) / flows * 1e6)
        return result

    sender = Sender(MonitorUid("monitor"), "source", "source", 5 * S)
    for number in range(1, ROUNDS + 1):
        at = 1000 * S + number * 5 * S
        cut, later = CutTimes(at, at, at + S // 200), CutTimes(at + S // 10, at + S // 10, at + S // 8)
        keys, stats, wires = _epoch(flows, at, random)
        nodes, reasons = np.zeros(flows, np.int64), np.full(flows, COMPARED)
        timed("source: fold", source.sent, cut, keys, stats, wires, nodes, ["destination"], reasons)
        timed("source: settle", source.settle, _surroundings(1), answers, at + S // 5)
        statements = timed("source: state", source.saved)
        timed("destination: fold", destination.received, later, keys, stats, wires)
        timed("destination: settle", destination.settle, _surroundings(2), [], at + S // 5)
        destination.saved()
        answers = []
        for each in statements:
            sizes.append(len(timed("source: pack", request_body, sender, cut, each.records, None, at, at)))
            envelope = Envelope("source", "source", each.cut.ended_mono_ns)
            answers.append(
                Answer(each, timed("destination: take", destination.take, envelope, each.records, at + S // 4), "")
            )
    return {step: median(each[WARM:]) for step, each in spent.items()}, (sizes[-1] - HEADER.itemsize) / flows


def main() -> None:
    """Print the figures."""
    flows = int(sys.argv[1]) if len(sys.argv) > 1 else 6000
    steps, size = measure(flows)
    for step, microseconds in steps.items():
        print(f"{step:22} {microseconds:6.3f} us a flow")
    print(f"{'both ends':22} {sum(steps.values()):6.3f} us a flow; {size:.1f} bytes a flow on the wire")


if __name__ == "__main__":
    main()
