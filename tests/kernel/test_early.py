"""What a pod sends before anybody knows whose its interface is: judged later, exactly once."""

from __future__ import annotations

import json
import re
from urllib.request import urlopen

import pytest

from tests.kernel.agent_fixtures import datagrams_between, ended, send
from tests.kernel.netns import Host, Pod, eventually
from tests.kernel.running import Agent, Node
from tests.kernel.test_rules_agent import METRICS, filtered, in_ledgers

HUSHED = ("blacklist", "hush")
KILLS = 30


class Known:
    """What the agent can know of the host's pods."""

    def __init__(self, host: Host, place: Node) -> None:
        self._host = host
        self._path = place.directory / "world"
        self._place = place
        self._pods: dict[str, tuple[str, str]] = {}
        self._interfaces: dict[int, str | None] = {}
        self._indexes = dict(host.namespace.interfaces())
        self._write()

    def tell(self, pod: Pod, namespace: str | None) -> None:
        """Whose its interface is; None: no pod's."""
        if namespace is not None:
            self._pods[pod.interface] = namespace, pod.ipv4
        self._interfaces[self._indexes[pod.interface]] = pod.interface if namespace is not None else None
        self._write()

    def forget(self) -> None:
        """As after a restart: whose addresses they are is known before whose interfaces."""
        self._interfaces.clear()
        self._write()

    def started(self, steps: int = 0, *options: str) -> Agent:
        """An agent that looks there, killed after so many steps."""
        agent = self._place.start(
            *options, module="tests.kernel.knowing_later", arguments=[str(self._path), str(steps)]
        )
        if not steps:
            agent.ready()
        return agent

    def _write(self) -> None:
        aside = self._path.with_suffix(".tmp")
        aside.write_text(json.dumps({"pods": self._pods, "interfaces": self._interfaces}))
        aside.rename(self._path)


@pytest.fixture
def third(host: Host) -> Pod:
    return host.add_pod()


@pytest.fixture
def known(host: Host, third: Pod, place: Node) -> Known:  # noqa: ARG001 (it has to be there before)
    return Known(host, place)


def counted(place: Node, pod: Pod, direction: str = "from_pod") -> int:
    """By the interface's last ledger."""
    line = place.last_ledgers().get((pod.interface, direction))
    return 0 if line is None else int(line["counted"]["packets"])


def figure(host: Host, name: str) -> float:
    """Of the monitor, as a scrape shows it."""
    with host.namespace.entered(), urlopen("http://127.0.0.1:9437/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.search(rf'^{name}{{monitor="exact"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_what_came_before_the_pod_was_known_waits_and_is_judged_once_it_is(
    host: Host, place: Node, known: Known, third: Pod
) -> None:
    first, second = host.pods[:2]
    agent = known.started(0, *METRICS)
    send(first, second, 30)
    send(second, third, 20)
    eventually(lambda: counted(place, second) == 20, "it is counted")
    cuts = figure(host, "podwire_agent_cuts_total")
    eventually(lambda: figure(host, "podwire_agent_cuts_total") >= cuts + 4, "two more drains")
    assert figure(host, "podwire_agent_held_flows") == 4
    assert place.flow_lines() == []
    assert filtered(host).get(HUSHED, 0) == 0
    for pod, namespace in ((first, "quiet"), (second, "shop"), (third, None)):
        known.tell(pod, namespace)
    eventually(lambda: filtered(host)[HUSHED] == 60, "it is filtered at both ends, under the rule's name")
    eventually(lambda: datagrams_between(place, second, third) == (20, 20), "what is wanted is reported")
    send(first, second, 3)
    send(second, third, 2)
    eventually(lambda: filtered(host)[HUSHED] == 66, "the kernel judges what comes now")
    ended(place, host, agent)
    assert datagrams_between(place, first, second) == (0, 0)
    assert datagrams_between(place, second, third) == (22, 22)
    assert in_ledgers(place) == 66
    assert [line["counted"]["packets"] for at, line in place.last_ledgers().items() if at[0] == first.interface] == [
        0,
        0,
    ]


def test_what_is_never_known_is_reported_at_the_end(host: Host, place: Node, known: Known) -> None:
    first, second = host.pods[:2]
    agent = known.started()
    send(first, second, 30)
    ended(place, host, agent)
    assert datagrams_between(place, first, second) == (30, 30)


def test_a_pod_that_is_gone_before_it_is_known_is_judged_if_it_is_known_by_then_and_else_measured(
    host: Host, place: Node, known: Known, third: Pod
) -> None:
    first, second = host.pods[:2]
    place.spec = {"pollingPeriod": "4s"}
    known.tell(second, "shop")
    agent = known.started(0, *METRICS)
    send(first, second, 30)
    send(third, second, 20)
    known.tell(first, "quiet")  # its interface goes before the records are read
    for pod in (first, third):
        host.remove_pod(pod)
    eventually(
        lambda: all(place.last_ledgers().get((pod.interface, "from_pod"), {}).get("gone") for pod in (first, third)),
        "the accounts are closed",
        15,
    )
    eventually(lambda: filtered(host).get(HUSHED) == 30, "what is known to be quiet's is filtered")
    assert figure(host, "podwire_agent_unjudged_packets_total") == 20
    ended(place, host, agent)
    assert datagrams_between(place, first, second) == (0, 30)  # the receiver was known before the sender
    assert datagrams_between(place, third, second) == (20, 20)
    place.identity_holds()


def test_killed_at_any_step_and_known_at_any_time_nothing_is_lost_or_doubled(
    host: Host, place: Node, known: Known, third: Pod
) -> None:
    first, second = host.pods[:2]
    known.started().kill()
    for steps in range(1, KILLS + 1):
        known.forget()
        killed = known.started(steps)
        send(first, second, 10)
        send(second, third, 7)
        if steps % 3:
            for pod, namespace in ((first, "quiet"), (second, "shop"), (third, "shop")):
                known.tell(pod, namespace)
        killed.process.wait(30)
        assert "killed after" in killed.errors.read_text()
    agent = known.started(0, *METRICS)
    for pod, namespace in ((first, "quiet"), (second, "shop"), (third, "shop")):
        known.tell(pod, namespace)
    eventually(lambda: filtered(host)[HUSHED] == 2 * 10 * KILLS, "all of it is filtered", 10)
    ended(place, host, agent)
    assert datagrams_between(place, second, third) == (7 * KILLS, 7 * KILLS)
    assert datagrams_between(place, first, second) == (0, 0)
    assert in_ledgers(place) == 2 * 10 * KILLS
