"""Rules in the agent: what is filtered, how they change, and what outlives the agent."""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from urllib.request import urlopen

import pytest

from tests.kernel.agent_fixtures import datagrams_between, ended, send, started
from tests.kernel.netns import Host, eventually
from tests.kernel.running import Node
from tests.kernel.sending import sending

METRICS = ("--listen", "127.0.0.1:9437")
EVERYTHING = [{"name": "everything"}]


def black(**rule: Any) -> dict[str, Any]:
    """A spec with one rule in its blacklist."""
    return {"blacklist": [{"name": "unwanted", **rule}]}


def filtered(host: Host) -> dict[tuple[str, str], int]:
    """List and rule -> packets, as a scrape shows them."""
    with host.namespace.entered(), urlopen("http://127.0.0.1:9437/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.findall(
        r'^podwire_filtered_packets_total\{list="(\w+)",monitor="exact",rule="([\w-]*)"\} (\S+)$', text, re.MULTILINE
    )
    return {(name, rule): int(float(packets)) for name, rule, packets in found}


def filtered_are(host: Host, expected: dict[tuple[str, str], int]) -> bool:
    """Those counts are there, whatever else is."""
    return expected.items() <= filtered(host).items()


def filtered_since(host: Host, before: dict[tuple[str, str], int]) -> bool:
    """More is filtered than was before."""
    return filtered(host)["blacklist", "unwanted"] > before["blacklist", "unwanted"]


def in_ledgers(place: Node) -> int:
    """Packets filtered, on all interfaces, by the last ledger of each."""
    return sum(line["filtered"]["packets"] for lives in place.ledgers().values() for line in lives)


def write_networks(place: Node, *lines: str) -> list[str]:
    """The ConfigMap `networks`, and the option that tells where it is."""
    directory = place.directory / "refs" / "configmaps" / "networks"
    directory.mkdir(parents=True, exist_ok=True)
    aside = place.directory / "aside"
    aside.write_text("".join(f"{line}\n" for line in lines))
    aside.rename(directory / "list")
    return ["--refs", str(place.directory / "refs")]


FROM_NETWORKS = {"cidrsFrom": [{"configMapRef": {"name": "networks"}}]}


def test_what_the_blacklist_names_is_filtered_at_both_ends(host: Host, place: Node, agents_loader: str) -> None:
    first, second = host.pods
    place.spec = black(ports=[53])
    agent = started(place, *METRICS)
    send(first, second, 30, port=53)
    send(first, second, 20, port=5000)
    eventually(lambda: filtered(host) == {("blacklist", "unwanted"): 60, ("whitelist", ""): 0}, "they are filtered")
    ended(place, host, agent)
    assert datagrams_between(place, first, second, port=53) == (0, 0)
    assert datagrams_between(place, first, second, port=5000) == (20, 20)
    assert in_ledgers(place) == 60
    assert agents_loader in agent.errors.read_text()


def test_what_the_whitelist_does_not_name_is_filtered(host: Host, place: Node) -> None:
    first, second = host.pods
    place.spec = {"whitelist": [{"name": "wanted", "cidrs": [first.ipv4], "direction": "Egress", "protocols": ["UDP"]}]}
    agent = started(place, *METRICS)
    send(first, second, 30)
    send(second, first, 20)
    eventually(lambda: filtered(host)["whitelist", ""] == 40, "the way back is filtered")
    ended(place, host, agent)
    assert datagrams_between(place, first, second) == (30, 30)
    assert datagrams_between(place, second, first) == (0, 0)


def test_an_edit_takes_effect_in_the_next_run_and_counts_go_on(host: Host, place: Node) -> None:
    first, second = host.pods
    place.spec = black(ports=[5000])
    agent = started(place, "--keep")
    send(first, second, 30)
    host.settle()
    assert agent.stop() == 0, agent.errors.read_text()
    send(first, second, 5)  # nobody is there: the rules stay in force
    place.spec = {
        "blacklist": [{"name": "other", "ports": [53]}],
        "whitelist": [{"name": "wanted", "cidrs": ["0.0.0.0/0"]}],
    }
    agent = started(place, "--keep", *METRICS)
    send(first, second, 20)
    send(first, second, 10, port=53)
    former, other = ("blacklist", "unwanted"), ("blacklist", "other")
    eventually(lambda: (filtered(host).get(former), filtered(host).get(other)) == (70, 20), "each has its own")
    host.settle()
    assert agent.stop() == 0, agent.errors.read_text()
    place.spec = {}
    agent = started(place, *METRICS)
    send(first, second, 7, port=53)
    host.settle()
    assert (filtered(host)[former], filtered(host)[other]) == (70, 20)
    ended(place, host, agent)
    assert datagrams_between(place, first, second) == (20, 20)
    assert datagrams_between(place, first, second, port=53) == (7, 7)


def test_killed_and_started_again_with_other_rules_nothing_is_lost_or_doubled(host: Host, place: Node) -> None:
    first, second = host.pods
    names = [f"rule-{number}" for number in range(4)]
    options: tuple[str, ...] = METRICS
    for number, name in enumerate(names):
        place.spec = {"blacklist": [{"name": name, "ports": [5000]}]}
        agent = started(place, *options)
        send(first, second, 10 + number)
        expected = {("blacklist", name): 20 + 2 * number}
        eventually(partial(filtered_are, host, expected), "it is counted")
        agent.kill()
    place.spec = {}
    agent = started(place, *options)
    assert {rule: packets for (_, rule), packets in filtered(host).items() if rule} == {
        name: 20 + 2 * number for number, name in enumerate(names)
    }
    ended(place, host, agent)
    assert in_ledgers(place) == sum(20 + 2 * number for number in range(4))


def test_networks_in_files_are_followed_while_traffic_runs(host: Host, place: Node) -> None:
    first, second = host.pods
    place.spec = {"blacklist": [{"name": "unwanted", **FROM_NETWORKS}]}
    agent = started(place, *write_networks(place, "# none yet"), *METRICS)
    with sending(first.namespace, 120_000, 100, rate=20_000, destination=second.mac) as senders:
        for _ in range(2):
            before = filtered(host)
            write_networks(place, "10.0.0.0/24 # the first sender's", "fd00::/8")
            eventually(partial(filtered_since, host, before), "in force", 2.0)
            write_networks(place, "192.0.2.0/24")

            def quiet() -> bool:
                shown = filtered(host)
                return shown == filtered(host)

            eventually(quiet, "out of force", 2.0)
        write_networks(place, "10.0.0.0/24", "10.0.0.0/33")
        eventually(lambda: "line 2" in agent.errors.read_text(), "the bad line is told")
        assert "what was read before stays in force" in agent.errors.read_text()
        for each in senders:
            each.wait()
    ended(place, host, agent)
    assert in_ledgers(place) == filtered_at_the_end(place)


def filtered_at_the_end(place: Node) -> int:
    """Seen less counted less the rest, on all interfaces."""
    total = 0
    for line in place.last_ledgers().values():
        rest = ("counted", "unsupported", "overflowed")
        total += line["seen"]["packets"] - sum(line[name]["packets"] for name in rest)
    return total


def test_a_flood_of_filtered_flows_takes_no_room_of_measured_ones(host: Host, place: Node) -> None:
    first, second = host.pods
    place.spec = {**black(cidrs=["10.200.0.1"]), "maxFlows": 1024}
    agent = started(place, *METRICS)
    flood, senders = 1_000_000, 16
    with sending(first.namespace, flood, flood // senders, senders=senders, destination=second.mac) as processes:
        while any(process.poll() is None for process in processes):
            send(first, second, 10)
    ended(place, host, agent)
    ledgers = place.last_ledgers().values()
    assert [line["overflowed"]["packets"] for line in ledgers] == [0] * len(ledgers)
    assert in_ledgers(place) == 2 * flood
    left, arrived = datagrams_between(place, first, second)
    assert left == arrived > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(
            [], "cidrsFrom names the ConfigMap networks: without a cluster, give --refs DIR", id="no directory"
        ),
        pytest.param(["--refs", "/nonexistent"], "reading the ConfigMap networks from /nonexistent", id="no ConfigMap"),
        pytest.param(None, 'configmaps/networks/list, line 2: "here" is not a CIDR', id="a bad line"),
    ],
)
def test_what_a_rule_refers_to_has_to_be_there(options: list[str] | None, words: str, place: Node) -> None:
    place.spec = {"whitelist": [{"name": "wanted", **FROM_NETWORKS}]}
    given = write_networks(place, "10.0.0.0/8", "here") if options is None else options
    agent = place.start(*given)
    assert agent.process.wait(20) == 2
    assert words in agent.words()
    assert not (place.directory / "state").exists()


def test_rules_work_under_two_capabilities(host: Host, place: Node) -> None:
    first, second = host.pods
    place.spec = {
        **black(ports=["53-54"], protocols=["UDP"]),
        "whitelist": [{"name": "wanted", "cidrs": ["10.0.0.0/8"]}],
    }
    agent = place.start(capabilities="-all,+bpf,+net_admin")
    agent.ready()
    send(first, second, 30, port=53)
    send(first, second, 20)
    ended(place, host, agent)
    assert datagrams_between(place, first, second) == (20, 20)
    assert in_ledgers(place) == 60


def test_ended_for_good_nothing_is_left(host: Host, place: Node) -> None:
    place.spec = {**black(ports=[53]), "whitelist": EVERYTHING}
    agent = started(place, "--keep")
    pins = {path.name for path in place.pins()}
    assert {"rules-1", "filtered-1", "names-1"} <= pins
    agent.kill()
    cleaned = place.run("cleanup", *place.places)
    assert cleaned.returncode == 0, cleaned.stderr
    assert place.pins() == []
    agent = started(place)
    ended(place, host, agent)
