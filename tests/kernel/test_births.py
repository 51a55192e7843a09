"""Interfaces come and go while the agent runs, or while it does not: nothing is missed, totals never fall."""

from __future__ import annotations

from typing import Any

from tests.kernel.agent_fixtures import datagrams_between, ended, send, started
from tests.kernel.netns import Host, Namespace, Pod, eventually, ip
from tests.kernel.running import Node


def lives(place: Node, interface: str, direction: str = "from_pod") -> list[dict[str, Any]]:
    return place.ledgers().get((interface, direction), [])


def gone(place: Node, interface: str) -> bool:
    """The last line of the interface's ledger is written."""
    return all(
        any(life.get("gone") for life in lives(place, interface, direction)) for direction in ("from_pod", "to_pod")
    )


def test_a_pod_born_while_the_agent_runs_is_watched_and_what_it_missed_was_before(host: Host, place: Node) -> None:
    agent = started(place)
    third = host.add_pod()
    eventually(lambda: third.interface in place.attached(), "the new veth is watched")
    send(third, host.pods[0], 40)
    send(host.pods[0], third, 30)
    ended(place, host, agent)
    assert datagrams_between(place, third, host.pods[0]) == (40, 40)
    assert datagrams_between(place, host.pods[0], third) == (30, 30)


def test_what_a_pod_sends_from_its_first_moment_on_is_seen_or_was_before_attach(host: Host, place: Node) -> None:
    """No wait: traffic runs while the agent attaches. `place` compares with the interface's counters."""
    agent = started(place)
    for _ in range(5):
        send(host.add_pod(), host.pods[0], 500)
    eventually(lambda: len(place.attached()) == 7, "all veths are watched")
    ended(place, host, agent)
    assert {at[0] for at in place.last_ledgers()} == {f"veth{number}" for number in range(1, 8)}


def test_interfaces_from_before_the_start_are_watched(host: Host, place: Node) -> None:
    send(host.pods[0], host.pods[1], 100)
    host.settle()
    agent = started(place)
    send(host.pods[0], host.pods[1], 40)
    ended(place, host, agent)
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (40, 40)
    before = place.last_ledgers()["veth1", "from_pod"]["before_attach"]
    assert before["low"] == before["high"]
    assert before["low"]["buffers"] >= 100


def test_the_last_packets_of_an_interface_that_dies_are_reported_and_its_account_closed(
    host: Host, place: Node
) -> None:
    agent = started(place)
    third = host.add_pod()
    eventually(lambda: third.interface in place.attached(), "the new veth is watched")
    send(third, host.pods[0], 40)
    host.remove_pod(third)
    eventually(lambda: gone(place, "veth3"), "the account of veth3 is closed")
    ended(place, host, agent)
    assert place.flows("veth3", "from_pod")[third.ipv4, host.pods[0].ipv4, 4000, 5000, "UDP"][0] == 40
    assert not any(line["interface"] == "veth3" for line in place.lines()[-4:])


def test_a_new_interface_with_the_index_of_a_dead_one_has_an_account_of_its_own(host: Host, place: Node) -> None:
    agent = started(place)
    first, second = host.pods
    index = host.namespace.index("veth2")
    send(first, second, 40)
    send(second, first, 25)
    host.settle()
    host.remove_pod(second)
    with Namespace(f"{host.namespace.name}n") as other:
        ip(
            f"link add name veth9 index {index} type veth peer name eth9 netns {other.name}",
            "link set veth9 master br0 up",
            netns=host.namespace.name,
        )
        ip("addr add 10.80.0.9/24 dev eth9", "link set eth9 up", netns=other.name)
        assert host.namespace.index("veth9") == index
        eventually(lambda: gone(place, "veth2") and "veth9" in place.attached(), "the new veth is watched")
        other.run("ping", "-q", "-c", "7", "-i", "0.01", host.ipv4)
        ended(place, host, agent)
        assert place.flows("veth9", "from_pod")["10.80.0.9", host.ipv4, 0, 0, "ICMP"][0] == 7
        assert not any(flow[4] == "UDP" for flow in place.flows("veth9", "from_pod"))
    ledger = place.last_ledgers()
    assert ledger["veth2", "from_pod"]["counted"]["packets"] == 25
    assert ledger["veth2", "to_pod"]["counted"]["packets"] == 40


def test_a_renamed_interface_goes_on_under_its_new_name(host: Host, bare_place: Node) -> None:
    agent = started(bare_place)
    send(host.pods[0], host.pods[1], 40)
    host.settle()
    ip("link set veth1 down", "link set veth1 name podlink", "link set podlink up", netns=host.namespace.name)
    host.namespace.run("bridge", "fdb", "replace", host.pods[0].mac, "dev", "podlink", "master", "static")
    eventually(lambda: ("podlink", "from_pod") in bare_place.last_ledgers(), "the new name is told")
    send(host.pods[0], host.pods[1], 30)
    host.pods[0] = Pod(1, host.pods[0].namespace, "podlink")
    host.settle()
    assert agent.stop() == 0, agent.errors.read_text()
    flows = bare_place.flows_of_lines()
    assert flows["from_pod"] == flows["to_pod"]
    line = bare_place.last_ledgers()["podlink", "from_pod"]
    assert line["verdict"] == "agrees exactly"
    assert line["counted"]["packets"] == line["seen"]["packets"] >= 70


def test_an_interface_that_moves_to_another_namespace_is_given_up(host: Host, place: Node) -> None:
    agent = started(place)
    send(host.pods[0], host.pods[1], 40)
    host.settle()
    with Namespace(f"{host.namespace.name}n") as other:
        moved = host.pods.pop()
        try:
            ip(f"link set veth2 netns {other.name}", netns=host.namespace.name)
            eventually(lambda: gone(place, "veth2"), "the account of veth2 is closed")
            ended(place, host, agent)
        finally:
            host.pods.append(moved)
    assert datagrams_between(place, host.pods[0], host.pods[1]) == (40, 40)


def test_a_veth_whose_peer_is_moved_into_the_pod_later_is_watched_from_then_on(host: Host, place: Node) -> None:
    agent = started(place)
    with Namespace(f"{host.namespace.name}n") as other:
        ip("link add veth9 type veth peer name eth9", "link set veth9 master br0 up", netns=host.namespace.name)
        eventually(lambda: "veth9" in host.namespace.run("ip", "link"), "the pair is there")
        assert "veth9" not in place.attached()
        ip(f"link set eth9 netns {other.name}", netns=host.namespace.name)
        ip("addr add 10.80.0.9/24 dev eth9", "link set eth9 up", netns=other.name)
        eventually(lambda: "veth9" in place.attached(), "the veth is watched")
        other.run("ping", "-q", "-c", "7", "-i", "0.01", host.ipv4)
        ended(place, host, agent)
    assert place.flows("veth9", "from_pod")["10.80.0.9", host.ipv4, 0, 0, "ICMP"][0] == 7


def test_a_hundred_births_and_deaths_under_traffic_lose_nothing(host: Host, place: Node) -> None:
    agent = started(place)
    first, second = host.pods
    with Namespace(f"{host.namespace.name}n") as other:
        traffic = first.namespace.start(lambda: send(first, second, 20_000))
        for number in range(100):
            name = f"b{number}"
            ip(
                f"link add {name} type veth peer name e{number} netns {other.name}",
                f"link set {name} up",
                netns=host.namespace.name,
            )
            ip(f"link set e{number} up", netns=other.name)
            if number % 2:
                ip(f"link del {name}", netns=host.namespace.name)
                continue
            eventually(lambda name=name: name in place.attached(), f"{name} is watched")  # type: ignore[misc]
            ip(f"link del {name}", netns=host.namespace.name)
        traffic.result(30)
        eventually(lambda: all(gone(place, f"b{number}") for number in range(0, 100, 2)), "all the accounts are closed")
        ended(place, host, agent)
    assert datagrams_between(place, first, second) == (20_000, 20_000)
    assert all(line.get("gone") for (name, _), line in place.last_ledgers().items() if name.startswith("b"))


def test_births_and_deaths_while_the_agent_is_dead_are_found_at_its_restart(host: Host, place: Node) -> None:
    agent = started(place)
    first, second = host.pods
    send(first, second, 40)
    agent.kill()
    send(first, second, 30)
    index = host.namespace.index("veth2")
    host.remove_pod(second)
    with Namespace(f"{host.namespace.name}n") as other:
        ip(
            f"link add name veth9 index {index} type veth peer name eth9 netns {other.name}",
            "link set veth9 master br0 up",
            netns=host.namespace.name,
        )
        ip("addr add 10.80.0.9/24 dev eth9", "link set eth9 up", netns=other.name)
        third = host.add_pod(3)
        send(first, third, 10)
        agent = started(place)
        eventually(lambda: {"veth1", "veth3", "veth9"} == place.attached(), "what is there is watched")
        send(third, first, 20)
        other.run("ping", "-q", "-c", "7", "-i", "0.01", host.ipv4)
        ended(place, host, agent)
    assert place.flows("veth1", "from_pod")[first.ipv4, second.ipv4, 4000, 5000, "UDP"][0] == 70
    assert place.flows("veth2", "to_pod")[first.ipv4, second.ipv4, 4000, 5000, "UDP"][0] == 70
    assert place.flows("veth1", "from_pod")[first.ipv4, third.ipv4, 4000, 5000, "UDP"][0] == 10
    assert datagrams_between(place, third, first) == (20, 20)
    assert place.flows("veth9", "from_pod")["10.80.0.9", host.ipv4, 0, 0, "ICMP"][0] == 7
    (closed,) = lives(place, "veth2", "to_pod")
    assert closed["gone"]
    assert closed["counted"]["packets"] >= 70
