"""What correlation and rows cost: 100 000 flows against 10 000 pods, on generated data."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core import covers as covering
from podwire_agent.core.cluster import Cluster, Entity, Holdings, Node
from podwire_agent.core.correlate import correlate
from podwire_agent.core.coverage import Coverage
from podwire_agent.core.networks import packed
from podwire_agent.core.questions import Vantage
from podwire_agent.core.rows import RowTable
from podwire_agent.core.services import Backends, Service, ServiceName, ServicePort, ServiceTable
from podwire_agent.core.table import REPORT
from podwire_agent.core.translation_table import TranslationTable
from podwire_agent.core.world import World
from podwire_agent.layout import FlowDirection
from podwire_agent.model import CONNECTION, EndKind, Records
from tests.bench.figures import Figure

PODS = 10_000
NODES = 100
WORKLOADS = 500
SERVICES = 500
FLOWS = 100_000
OWN_PODS = PODS // NODES
ROUNDS = 7
WHOLE_MS = 150.0
OWN_MS = 50.0
"""Of the part beside the answers of world and conntrack."""

TCP = 6
FIRST_MONO_NS, LAST_MONO_NS = 10**12, 2 * 10**12
NEVER = (1 << 64) - 1


def cluster() -> Cluster:
    """Pod i is on node i % NODES, of workload i % WORKLOADS, behind service i % SERVICES, at 10.1.x.y of i."""
    pods = [
        Entity(
            EndKind.POD, f"ns{i % 50}", f"w{i % WORKLOADS}-{i}", "Deployment", f"w{i % WORKLOADS}",
            f"n{i % NODES}", f"z{i % NODES % 3}", f"uid{i}",
        )
        for i in range(PODS)
    ]  # fmt: skip
    nodes = [Node(f"n{i}", f"z{i % 3}", (packed(f"192.168.0.{i + 1}"),)) for i in range(NODES)]
    services = [
        Service(
            ServiceName(f"ns{i % 50}", f"s{i}"),
            (_address(96, i),),
            (ServicePort(TCP, 80),),
            (Backends(tuple(_address(1, pod) for pod in range(i, PODS, SERVICES)), TCP, 8080, 80),),
        )
        for i in range(SERVICES)
    ]
    own = np.arange(0, PODS, NODES, dtype=np.int32)
    ifindexes = np.arange(1, OWN_PODS + 1, dtype=np.uint32).view(np.uint8).reshape(-1, 4)
    return Cluster(
        pods=pods,
        addresses=_held(b"".join(_address(1, i) for i in range(PODS)), 16, np.arange(PODS, dtype=np.int32)),
        interfaces=_held(ifindexes.tobytes(), 4, own),
        services=ServiceTable(services),
        service_networks=[_address(96, i) for i in range(SERVICES)],
        nodes=nodes,
        here="n0",
        complete=True,
    )


def _address(second: int, number: int) -> bytes:
    return packed(f"10.{second}.{number // 256}.{number % 256}")


def _held(keys: bytes, width: int, pods: NDArray[np.int32]) -> Holdings:
    """All the time."""
    starts, ends = np.zeros(len(pods), np.uint64), np.full(len(pods), NEVER, np.uint64)
    return Holdings(np.frombuffer(keys, np.uint8).reshape(-1, width), pods, starts, ends, ends)


def flows(number: int = FLOWS) -> Records:
    """core.table.REPORT of a node's pods with all others: half through services, both directions."""
    draw = np.random.default_rng(1)
    made = np.zeros(number, REPORT)
    key = made["key"]
    own = draw.integers(0, OWN_PODS, number)
    near, far = own * NODES, draw.integers(0, PODS, number)
    through_service = draw.random(number) < 0.5
    to_pod = draw.random(number) < 0.5
    for column, of_near in (("src_address", ~to_pod), ("dst_address", to_pod)):
        ours = np.where(of_near, near, np.where(through_service, far % SERVICES, far))
        addresses = key[column]
        addresses[:, 10:12] = 0xFF
        addresses[:, 12] = 10
        addresses[:, 13] = np.where(~of_near & through_service, 96, 1)
        addresses[:, 14], addresses[:, 15] = ours // 256, ours % 256
    service_port = np.where(through_service, 80, 8080)
    ephemeral = draw.integers(32768, 61000, number)
    key["src_port"] = np.where(to_pod, service_port, ephemeral)
    key["dst_port"] = np.where(to_pod, ephemeral, service_port)
    key["ifindex"], key["protocol"] = 1 + own, TCP
    made["direction"] = np.where(to_pod, FlowDirection.TO_POD, FlowDirection.FROM_POD)
    made["packets"], made["bytes"] = draw.integers(1, 1000, number), draw.integers(60, 10**6, number)
    made["first_mono_ns"], made["last_mono_ns"] = FIRST_MONO_NS, LAST_MONO_NS
    made["seen_syn"] = ~to_pod & (draw.random(number) < 0.5)
    return made


def connections(report: Records) -> Records:
    """CONNECTION of every flow that has a service's address: to a pod behind it."""
    key = report["key"]
    forth, back = key["dst_address"][:, 13] == 96, key["src_address"][:, 13] == 96
    made = np.zeros(int((forth | back).sum()), CONNECTION)
    original, translated = made["original"], made["translated"]
    turned = {"src": "dst", "dst": "src"}
    for end in turned:
        for part in ("address", "port"):
            original[f"{end}_{part}"] = np.concatenate(
                [
                    key[f"{end}_{part}"][forth],
                    key[f"{turned[end]}_{part}"][back],
                ]
            )
    original["protocol"] = TCP
    translated[:] = original
    translated["dst_address"][:, 13], translated["dst_port"] = 1, 8080
    made["until_mono_ns"] = FIRST_MONO_NS // 2
    return made


class Timed:
    """Whatever it stands for, and how long that took."""

    def __init__(self, inner: object) -> None:
        self.inner = inner
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return self._timed(found) if callable(found) else found

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def timed(*arguments: Any) -> Any:
            began = time.process_time()
            try:
                return method(*arguments)
            finally:
                self.seconds += time.process_time() - began

        return timed


def cost() -> list[Figure]:
    """CPU of one core for one drain; and without what world, conntrack and coverage take to answer."""
    report = flows()
    world = World(cluster(), 60 * 10**9)
    table = TranslationTable(1)
    table.change(connections(report))
    nodes, here = [f"n{i}" for i in range(NODES)], [f"uid{i}" for i in range(0, PODS, NODES)]
    covers = Coverage(world, nodes, here, None, covering.Covers.everything().of, hosts=False)
    asked: tuple[Any, Any, Any] = Timed(world), Timed(table.snapshot(LAST_MONO_NS)), Timed(covers)
    rows = RowTable(10_000, 0, 0)
    rounds = []
    for number in range(ROUNDS):
        for each in asked:
            each.seconds = 0.0
        began = time.process_time()
        ends = correlate(report, *asked, Vantage("n0", backends=world))
        answers = [each.seconds for each in asked]
        correlated = time.process_time()
        rows.turn(number, None)
        rows.add(ends, report, asked[0], number, number)
        added = time.process_time()
        rounds.append((correlated - began - sum(answers), added - correlated, *answers))
    correlating, adding, *answers = (1e3 * part for part in min(rounds, key=sum))
    told = "world {:.1f}, conntrack {:.1f}, coverage {:.1f}".format(*answers)
    return [
        Figure(
            "100 000 flows to rows",
            correlating + adding + sum(answers),
            "ms",
            WHOLE_MS,
            f"{PODS} pods, {len(rows)} rows, {len(table)} translated connections; best of {ROUNDS}: {told}",
        ),
        Figure(
            "the same without who answers",
            correlating + adding,
            "ms",
            OWN_MS,
            f"ends {correlating:.1f}, rows {adding:.1f}",
        ),
    ]
