"""What knowing who is who costs: memory of 10 000 pods, making a world of them, looking up 100 000 flows in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from podwire_agent.clock import SystemClock
from podwire_agent.core.networks import MAPPED
from podwire_agent.core.world import World
from podwire_agent.kube.objects import PAGE, Pod, WirePod, keep_pod, kind
from podwire_agent.kube.places import Node, Port, Service, Slice
from podwire_agent.kube.pods import PodStore
from podwire_agent.kube.reflector import CountedObjects
from podwire_agent.model import IfIndex
from podwire_agent.who import Who
from podwire_api import NetworkMonitorSpec
from tests.bench.figures import Figure

PODS = 10_000
NODES = 500
SERVICES = 1000
FLOWS = 100_000
ROUNDS = 9

MEMORY_BUDGET_MB = 15
GATHER_BUDGET_MS = 60
LOOK_UP_BUDGET_MS = 40

_STARTED = "2026-01-01T00:00:00Z"


def who() -> list[Figure]:
    """All figures. RuntimeError, OSError."""
    return [_memory(), *_times()]


def _memory() -> Figure:
    """In a process of its own, which has nothing else to give back."""
    command = [sys.executable, "-c", "from tests.bench.who_cost import resident; print(resident())"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    store, world = json.loads(done.stdout)
    detail = f"resident, read from pages of {PAGE}; with the tables of a world {world / 1e6:.1f} MB"
    return Figure("10 000 pods in view", store / 1e6, "MB", MEMORY_BUDGET_MB, detail)


def resident() -> list[int]:
    """Bytes that the pods take, and with a world."""
    scene = _Scene()
    before = _rss()
    scene.list_pods()
    store = _rss() - before
    scene.who.world(NetworkMonitorSpec())
    return [store, _rss() - before]


def _times() -> list[Figure]:
    scene = _Scene()
    scene.list_pods()
    scene.add_services()
    spec = NetworkMonitorSpec.model_validate({"externalNetworks": [{"name": "office", "cidrs": ["198.51.100.0/24"]}]})
    world = scene.who.world(spec)
    change_ms = []
    for number in range(ROUNDS):
        scene.clock.later_ns += 1_000_000_000
        scene.pods.put("new", scene.pod(PODS + number))
        change_ms.append(_ms(lambda: scene.who.world(spec)))
    scene.clock.later_ns += 1_000_000_000
    scene.slices.put("new", scene.slice_of(0, 1))
    services_ms = _ms(lambda: scene.who.world(spec))
    parts = _look_ups(world)
    each = ", ".join(f"{name} {ms:.1f}" for name, ms in parts.items())
    return [
        Figure(
            "world of 10 000 pods, after a change",
            min(change_ms),
            "ms",
            GATHER_BUDGET_MS,
            f"best of {ROUNDS}, worst {max(change_ms):.0f}; {services_ms:.0f} where a service's endpoints changed too",
        ),
        Figure("100 000 flows looked up", sum(parts.values()), "ms", LOOK_UP_BUDGET_MS, f"{each}; best of {ROUNDS}"),
    ]


def _look_ups(world: World) -> dict[str, float]:
    draw = np.random.default_rng(1)
    numbers = draw.integers(0, PODS, FLOWS)
    addresses = _addresses(10, numbers)
    outside, to_service = np.arange(FLOWS) < FLOWS // 10, np.arange(FLOWS) % 5 == 1
    addresses[outside, 12:] = draw.integers(0, 256, (int(outside.sum()), 4))
    addresses[to_service] = _addresses(172, numbers[to_service] % SERVICES)
    ports = np.where(to_service, 80, draw.choice((8080, 40_000), FLOWS)).astype(np.uint16)
    protocols = np.full(FLOWS, 6, np.uint8)
    first = np.full(FLOWS, SystemClock().mono_ns(), np.uint64)
    ifindexes = (draw.integers(0, 100, FLOWS) + 10).astype(np.uint32)
    calls: dict[str, Callable[[], object]] = {
        "far": lambda: world.far(addresses, ports, protocols, first, first),
        "near": lambda: world.near(ifindexes, addresses, first, first),
        "service_at": lambda: world.service_at(addresses, ports, protocols),
        "service_behind": lambda: world.service_behind(addresses, ports, protocols),
        "is_endpoint_port": lambda: world.is_endpoint_port(addresses, ports, protocols),
    }
    return {name: min(_ms(call) for _ in range(ROUNDS)) for name, call in calls.items()}


class _Clock(SystemClock):
    later_ns = 0

    def mono_ns(self) -> int:
        return super().mono_ns() + self.later_ns


class _Scene:
    """Stands for what is followed of a cluster."""

    def __init__(self) -> None:
        self.clock = _Clock()
        self.pods = PodStore("node-1", self.clock)
        self.nodes = CountedObjects[Node]()
        self.services, self.slices = CountedObjects[Service](), CountedObjects[Slice]()
        watch = SimpleNamespace(
            pods=self.pods,
            nodes=self.nodes,
            pods_synced=True,
            nodes_synced=True,
            pods_stale_since_mono_ns=None,
            nodes_stale_since_mono_ns=None,
        )
        referred = SimpleNamespace(
            services=self.services,
            slices=self.slices,
            follow=lambda _kinds: None,
            synced=lambda _kinds: True,
            stale_since_mono_ns=lambda _kinds: None,
        )
        self._behind = SimpleNamespace(known={})
        self.who = Who(cast(Any, watch), cast(Any, referred), cast(Any, self._behind), "node-1", self.clock)
        self._kind = kind("pods", "/", WirePod, keep_pod)
        for number in range(NODES):
            address = bytes(_addresses(192, np.array([number]))[0])
            cidr = f"10.{number >> 8}.{number & 255}.0/24"
            self.nodes.put(str(number), Node(str(number), f"node-{number}", f"zone-{number % 3}", (address,), (cidr,)))

    def pod(self, number: int) -> Pod:
        [(_, pod)] = self._page([number])
        return pod

    def list_pods(self) -> None:
        objects: dict[str, Pod] = {}
        for start in range(0, PODS, PAGE):
            objects.update(self._page(range(start, min(PODS, start + PAGE))))
        self.pods.replace(objects)
        here = [pod for number, pod in enumerate(objects.values()) if number < 100]
        self._behind.known = {IfIndex(10 + number): pod for number, pod in enumerate(here)}
        self.who.look()

    def add_services(self) -> None:
        for number in range(SERVICES):
            address = bytes(_addresses(172, np.array([number]))[0])
            service = Service("team-1", f"service-{number}", (address,), (), (Port("http", 6, 80, 30_000 + number),))
            self.services.put(str(number), service)
            self.slices.put(str(number), self.slice_of(number, PODS // SERVICES))

    def slice_of(self, service: int, count: int) -> Slice:
        addresses = _addresses(10, np.arange(service * count, service * count + count))
        return Slice("team-1", f"service-{service}", tuple(map(bytes, addresses)), (Port("http", 6, 8080),))

    def _page(self, numbers: Any) -> list[tuple[str, Pod]]:
        items = [_document(number) for number in numbers]
        return self._kind.page(json.dumps({"metadata": {}, "items": items}).encode())[1]


def _document(number: int) -> dict[str, Any]:
    deployment = f"service-{number % 400}"
    return {
        "metadata": {
            "name": f"{deployment}-5d4f8c7b9d-{number:05x}",
            "namespace": f"team-{number % 50}",
            "uid": f"{number:08x}-0000-4000-8000-{number:012x}",
            "creationTimestamp": _STARTED,
            "labels": {"app": deployment, "pod-template-hash": "5d4f8c7b9d", "app.kubernetes.io/name": deployment},
            "ownerReferences": [{"kind": "ReplicaSet", "name": f"{deployment}-5d4f8c7b9d", "controller": True}],
        },
        "spec": {"nodeName": f"node-{number % NODES}", "containers": [{"ports": [{"containerPort": 80}]}]},
        "status": {
            "phase": "Running",
            "startTime": _STARTED,
            "podIPs": [{"ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"}],
        },
    }


def _addresses(first: int, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    found = np.zeros((len(numbers), 16), np.uint8)
    found[:, :12] = np.frombuffer(MAPPED, np.uint8)
    found[:, 12] = first
    for byte, shift in ((13, 16), (14, 8), (15, 0)):
        found[:, byte] = numbers >> shift & 255
    return found


def _ms(call: Callable[[], object]) -> float:
    """CPU of this thread: what else runs on the machine takes it away otherwise."""
    began_s = time.thread_time()
    call()
    return (time.thread_time() - began_s) * 1e3


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
