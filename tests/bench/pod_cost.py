"""What a large cluster costs where rules ask for its pods: until a change is in force, and CPU while pods come and go.

10 000 pods in 100 namespaces, 1000 services before them, 64 rules a list that select by namespace, label and service,
and 100 000 networks in a ConfigMap; from what the watches keep to what the kernel holds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from podwire_agent.births import rest_s
from podwire_agent.core.networks import packed
from podwire_agent.kernel.rule_sets import RuleSets
from podwire_agent.kube.objects import Pod
from podwire_agent.kube.places import Service, Slice
from podwire_agent.layout import FLOW_KEY, FlowDirection
from podwire_agent.model import IfIndex
from podwire_agent.rulekeeper import RuleKeeper
from tests.bench.figures import Figure
from tests.bench.kernel_time import links
from tests.bench.rule_cost import CHANGE_BUDGET_S, listed_networks
from tests.unit.test_cluster_rules import World, spec

ROUNDS = 5
EVENTS = 30
PODS = 10_000
NAMESPACES = 100
APPS = 400
SERVICES = 1000
HERE = 110
"""Pods of the node itself."""
EVENTS_A_SECOND = 10
FLOWS = 40_000
CPU_BUDGET_S = 0.05
"""A second."""


def pods() -> list[Figure]:
    """RuntimeError, OSError."""
    text = listed_networks()
    world = _world(text)
    lists, events, passed = [], [], []
    with links() as held:
        sets = held.datapath.rules
        starts = [_timed(partial(world.rules.keeper(_spec()).enforce, sets))[0] for _ in range(ROUNDS)]
        keeper = world.rules.keeper(_spec())
        keeper.enforce(sets)
        for number in range(ROUNDS):
            print(f"pods: round {number + 1} of {ROUNDS}", file=sys.stderr)
            lists.append(_timed(partial(_change_list, world, keeper, sets, f"{text}\n192.0.2.{number}", number))[0])
            _change_pod(world, keeper, sets, number)  # into the other half too
        for number in range(EVENTS):
            wall_s, cpu_s = _timed(partial(_change_pod, world, keeper, sets, ROUNDS + number))
            events.append(cpu_s)
            passed.append(wall_s)
    cpu_s = median(events)
    renewals = min(EVENTS_A_SECOND, 1 / (rest_s(cpu_s) + cpu_s))
    how = f"{PODS} pods, {SERVICES} services, 64 rules a list, 100 000 addresses"
    return [
        _in_force("another set of them", starts, f"viewed, compiled, pushed; {how}"),
        _in_force("another list", lists, f"read, viewed, compiled, pushed; {how}"),
        _in_force("another pod", passed, f"viewed, compiled, pushed; {how}"),
        Figure(
            f"rules about pods, CPU at {EVENTS_A_SECOND} pod events a second",
            cpu_s * renewals,
            "s a second",
            CPU_BUDGET_S,
            f"{1000 * cpu_s:.0f} ms a renewal (median of {EVENTS}), {renewals:.1f} of them a second",
        ),
        *_judging(keeper),
    ]


def _judging(keeper: RuleKeeper) -> list[Figure]:
    """Many flows at once, in user space. RuntimeError."""
    judge = keeper.judge
    if judge is None:
        raise RuntimeError("there are no rules in force")
    chance = np.random.default_rng(6)
    keys = np.zeros(FLOWS, FLOW_KEY)
    for name in ("src_address", "dst_address"):
        keys[name] = np.frombuffer(b"".join(map(_address, range(PODS))), "u1").reshape(PODS, 16)[
            chance.integers(PODS, size=FLOWS)
        ]
    keys["src_port"], keys["dst_port"], keys["protocol"] = chance.integers(1, 65536, FLOWS), 443, 6
    keys["ifindex"] = 10 + chance.integers(HERE, size=FLOWS)
    directions = chance.integers(2, size=FLOWS).astype(np.uint32)
    here = min(_timed(partial(judge.at_interfaces, keys, directions))[1] for _ in range(ROUNDS))

    def elsewhere() -> None:
        near = np.where(directions[:, np.newaxis] == FlowDirection.FROM_POD, keys["src_address"], keys["dst_address"])
        judge.at_pods(keys, directions, judge.pods_at(near))

    elsewhere()  # who has which address is worked out once for a view
    there = min(_timed(elsewhere)[1] for _ in range(ROUNDS))
    how = f"best of {ROUNDS} times {FLOWS} flows between {PODS} pods, none asked about twice"
    return [
        Figure("rules about pods, judging a flow by its interface", 1e6 * here / FLOWS, "us", None, how),
        Figure("rules about pods, judging a flow by its pod's address", 1e6 * there / FLOWS, "us", None, how),
    ]


def _in_force(name: str, seconds: list[float], how: str) -> Figure:
    detail = f"{how}; worst of {len(seconds)}: {max(seconds):.2f} s"
    return Figure(f"rules about pods in force, {name}", min(seconds), "s", CHANGE_BUDGET_S, detail)


def _change_list(world: World, keeper: RuleKeeper, sets: RuleSets, text: str, version: int) -> None:
    world.config_map(version + 2, a=text)
    keeper.renew(sets)


def _change_pod(world: World, keeper: RuleKeeper, sets: RuleSets, number: int) -> None:
    """One goes, another comes, and the slice of its service tells so."""
    gone, come, service = number, PODS + number, number % SERVICES
    world.pods.discard(f"pod-{gone}")
    world.pods.put(f"pod-{come}", _pod(come))
    addresses = [_address(each) for each in (*range(service, PODS, SERVICES), come) if each != gone]
    world.referred.slices.put(str(service), _slice(service, addresses))
    keeper.renew(sets)


def _timed(step: Callable[[], object]) -> tuple[float, float]:
    """Seconds passed, and seconds of this thread's CPU."""
    wall, cpu = time.perf_counter(), time.thread_time()
    step()
    return time.perf_counter() - wall, time.thread_time() - cpu


def _world(text: str) -> World:
    world = World()
    world.pods.replace({f"pod-{number}": _pod(number) for number in range(PODS)})
    for number in range(SERVICES):
        name = packed(f"10.96.{number >> 8}.{number & 255}")
        world.referred.services.put(str(number), Service(f"ns-{number % NAMESPACES}", f"s{number}", (name,)))
        addresses = [_address(each) for each in range(number, PODS, SERVICES)]
        world.referred.slices.put(str(number), _slice(number, addresses))
    step = PODS // HERE
    world.behind.known = {IfIndex(index + 10): _pod(index * step) for index in range(HERE)}
    world.config_map(1, a=text)
    return world


def _slice(service: int, addresses: list[bytes]) -> Slice:
    return Slice(f"ns-{service % NAMESPACES}", f"s{service}", tuple(sorted(addresses)))


def _pod(number: int) -> Pod:
    labels = ("app", f"app-{number % APPS}", "pod-template-hash", f"{number % (2 * APPS)}", "index", f"{number}")
    name, node = f"pod-{number}", f"n{number % 100}"
    namespace = f"ns-{number % NAMESPACES}"
    return Pod(name, namespace, name, node, "Running", False, (_address(number),), "ReplicaSet", "", labels, False)


def _address(number: int) -> bytes:
    return packed(f"10.99.{number >> 8}.{number & 255}")


def _spec() -> Any:
    """Every second rule of the blacklist wants an address of the list too."""
    listed = [{"configMapRef": {"name": "office"}}]
    black = [
        {"name": f"b{n}", "cidrsFrom": listed, "peer": {"podSelector": {"matchLabels": {"app": f"app-{n}"}}}}
        if n % 2
        else {"name": f"b{n}", "namespaces": [f"ns-{n}"], "ports": [7000 + n]}
        for n in range(64)
    ]
    white = [
        {"name": f"w{n}", "services": [f"ns-{n}/s{n}"]}
        if n % 2
        else {"name": f"w{n}", "podSelector": {"matchLabels": {"app": f"app-{n}"}}, "peer": {"namespaces": [f"ns-{n}"]}}
        for n in range(63)
    ]
    return spec(blacklist=black, whitelist=[*white, {"name": "all"}])
