"""An agent's place in a host with two pods, and what must hold there after every test."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.kernel.netns import Host, Pod
from tests.kernel.running import Agent, Node, node


@pytest.fixture
def place(host: Host) -> Iterator[Node]:
    """Where an agent may run. At the end every packet must be accounted, and nothing be left of it."""
    with node(host.namespace) as made:
        yield made
        made.identity_holds()
        nothing_is_left(made)


@pytest.fixture
def bare_place(host: Host) -> Iterator[Node]:
    """As `place`, for tests that leave something on purpose, or where the counters cannot be compared."""
    with node(host.namespace) as made:
        yield made


def nothing_is_left(place: Node) -> None:
    """No program, filter, map, pin or checkpoint."""
    assert "podwire/" not in place.filters()
    assert place.pins() == []
    assert {path.name for path in (place.directory / "state").glob("*")} <= {"lock"}


def started(place: Node, *options: str) -> Agent:
    """An agent that has attached everywhere."""
    agent = place.start(*options)
    agent.ready()
    return agent


def ended(place: Node, host: Host, agent: Agent) -> None:
    """Once the links are quiet: SIGTERM, and a good end."""
    host.settle()
    assert agent.stop() == 0, agent.errors.read_text()
    place.identity_holds()


def send(sender: Pod, receiver: Pod, datagrams: int, port: int = 5000, payload_bytes: int = 100) -> None:
    """UDP over IPv4 from port 4000, to nobody who would answer."""
    with receiver.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((receiver.ipv4, port))
        with sender.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((sender.ipv4, 4000))
            for _ in range(datagrams):
                udp.sendto(bytes(payload_bytes), (receiver.ipv4, port))


def datagrams_between(place: Node, sender: Pod, receiver: Pod, port: int = 5000, monitor: str = "") -> tuple[int, int]:
    """How many of `send`'s were reported: as they left the one, as they reached the other."""
    flow = (sender.ipv4, receiver.ipv4, 4000, port, "UDP")
    left = place.flows(sender.interface, "from_pod", monitor).get(flow, (0, 0))
    arrived = place.flows(receiver.interface, "to_pod", monitor).get(flow, (0, 0))
    return left[0], arrived[0]
