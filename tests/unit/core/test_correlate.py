from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from podwire_agent.core.correlate import ENDS, correlate
from podwire_agent.core.questions import Vantage
from podwire_agent.layout import FlowKind
from podwire_agent.model import JoinedBy, NearBy, Placed, Records, Role, RoleBy
from tests.correlation import (
    ETH0,
    FROM_POD,
    ICMP,
    SHOP,
    TCP,
    TO_POD,
    UDP,
    Crossing,
    MadeCovers,
    MadeTranslations,
    MadeWorld,
    Network,
    Tuple,
    report,
    vantage,
)

pytestmark = pytest.mark.unit

PODS = frozenset(pod.name for pod in SHOP.pods if pod.ifindex)
WEB, DB1, DB2, CACHE = (SHOP.pod(name).address for name in ("web-1", "db-1", "db-2", "cache-1"))
N1, N2, N3 = (address for address, _ in SHOP.nodes.values())
OUTSIDE = "198.51.100.7"
DB_SERVICE, CACHE_SERVICE, WEB_SERVICE = ("10.96.0.1", 5432), ("10.96.0.2", 6379), ("10.96.0.3", 80)
TO_DB = Tuple(WEB, 40000, *DB_SERVICE), Tuple(WEB, 40000, DB1, 15432)
"""As the client addresses the service, and as the backend sees it."""


@dataclass(frozen=True)
class Told:
    """What correlate says of a flow, in words."""

    src: str
    dst: str
    service: str = ""
    server_port: int = 0
    role: Role = Role.UNKNOWN
    role_by: RoleBy = RoleBy.NOTHING
    joined_by: JoinedBy = JoinedBy.NOTHING
    placed: Placed = Placed.ROW


def ends_of(
    crossings: Sequence[Crossing],
    translations: MadeTranslations | None = None,
    *,
    node: str = "n1",
    backends: bool = True,
    watched: frozenset[str] = PODS,
    host: bool = False,
) -> tuple[Records, MadeWorld]:
    world = MadeWorld(SHOP, node)
    covers = MadeCovers(world, watched, frozenset(SHOP.nodes) if host else frozenset())
    here = vantage(node, world if backends else None, host=host)
    return correlate(report(crossings), world, translations or MadeTranslations(), covers, here), world


def told(
    crossing: Crossing,
    translations: MadeTranslations | None = None,
    *,
    node: str = "n1",
    backends: bool = True,
    watched: frozenset[str] = PODS,
    host: bool = False,
) -> Told:
    (end,), world = ends_of([crossing], translations, node=node, backends=backends, watched=watched, host=host)
    names = [each.name or each.kind.name.capitalize() for each in world.entities]
    return Told(
        names[end["src"]],
        names[end["dst"]],
        world.services[end["service"]].name if end["service"] >= 0 else "",
        int(end["server_port"]),
        Role(end["role"]),
        RoleBy(end["role_by"]),
        JoinedBy(end["joined_by"]),
        Placed(end["placed"]),
    )


def on_veth(pod: str, direction: object, seen: Tuple, **more: object) -> Crossing:
    there = SHOP.pod(pod)
    return Crossing(there.node, there.ifindex, direction, seen, **more)  # type: ignore[arg-type]


REQUEST, RESPONSE = Role.REQUEST, Role.RESPONSE
BY_CONNTRACK = MadeTranslations([TO_DB])


@pytest.mark.parametrize(
    ("crossing", "node", "expected"),
    [
        pytest.param(
            on_veth("web-1", FROM_POD, TO_DB[0], syn=True), "n1",
            Told("web-1", "db-1", "db", 5432, REQUEST, RoleBy.SYN, JoinedBy.CONNTRACK, Placed.ELSEWHERE),
            id="the client's request, addressed to the service, goes to the backend and is counted there",
        ),
        pytest.param(
            on_veth("web-1", TO_POD, TO_DB[0].back, syn_ack=True), "n1",
            Told("db-1", "web-1", "db", 5432, RESPONSE, RoleBy.SYN, JoinedBy.CONNTRACK),
            id="the answer comes from the backend",
        ),
        pytest.param(
            on_veth("db-1", TO_POD, TO_DB[1]), "n2",
            Told("web-1", "db-1", "db", 5432, REQUEST, RoleBy.SERVICE_PORT, JoinedBy.CONNTRACK),
            id="at the server's veth the same, where its node has the translation",
        ),
        pytest.param(
            on_veth("db-1", FROM_POD, TO_DB[1].back), "n2",
            Told("db-1", "web-1", "db", 5432, RESPONSE, RoleBy.SERVICE_PORT, JoinedBy.CONNTRACK, Placed.ELSEWHERE),
            id="and back",
        ),
    ],
)  # fmt: skip
def test_conntrack_gives_the_backend_and_the_service(crossing: Crossing, node: str, expected: Told) -> None:
    assert told(crossing, BY_CONNTRACK, node=node) == expected


@pytest.mark.parametrize(
    ("crossing", "node", "expected"),
    [
        pytest.param(
            on_veth("db-1", TO_POD, TO_DB[1]), "n2",
            Told("web-1", "db-1", "db", 5432, REQUEST, RoleBy.SERVICE_PORT, JoinedBy.GUESS),
            id="a server that is behind one service only is taken to be addressed by it",
        ),
        pytest.param(
            on_veth("web-1", FROM_POD, Tuple(WEB, 40000, *CACHE_SERVICE)), "n1",
            Told("web-1", "cache-1", "cache", 6379, REQUEST, RoleBy.SERVICE_PORT, JoinedBy.GUESS, Placed.ELSEWHERE),
            id="a service with one endpoint stands for that",
        ),
        pytest.param(
            on_veth("web-1", FROM_POD, TO_DB[0]), "n1",
            Told("web-1", "db", "db", 5432, REQUEST, RoleBy.SERVICE_PORT, JoinedBy.ADDRESS, Placed.ELSEWHERE),
            id="a service with several endpoints stands for itself",
        ),
        pytest.param(
            on_veth("web-1", TO_POD, TO_DB[0].back), "n1",
            Told("db", "web-1", "db", 5432, RESPONSE, RoleBy.SERVICE_PORT, JoinedBy.ADDRESS),
            id="and back",
        ),
        pytest.param(
            on_veth("web-1", FROM_POD, Tuple(WEB, 40000, N3, 30379)), "n1",
            Told("web-1", "cache-1", "cache", 6379, REQUEST, RoleBy.SERVICE_PORT, JoinedBy.GUESS, Placed.ELSEWHERE),
            id="a node port is its service's, with the service's port",
        ),
    ],
)  # fmt: skip
def test_without_conntrack_a_service_is_guessed_only_where_there_is_one_candidate(
    crossing: Crossing, node: str, expected: Told
) -> None:
    assert told(crossing, node=node) == expected


def test_two_services_with_the_same_backend_are_not_guessed() -> None:
    twin = replace(SHOP.services[0], name="db-legacy", address="10.96.0.9")
    world = MadeWorld(replace(SHOP, services=(*SHOP.services, twin)), "n2")
    flows = report([on_veth("db-1", TO_POD, TO_DB[1])])
    (end,) = correlate(flows, world, MadeTranslations(), MadeCovers(world, PODS))
    assert (end["service"], end["server_port"], end["joined_by"]) == (-1, 15432, JoinedBy.NOTHING)


def test_nobody_guesses_a_backend_where_nobody_knows_the_backends() -> None:
    crossing = on_veth("web-1", FROM_POD, Tuple(WEB, 40000, *CACHE_SERVICE))
    assert told(crossing, backends=False).dst == "cache"


def test_a_masqueraded_client_is_the_original_one_where_conntrack_knows_it_and_else_a_node() -> None:
    hidden = Tuple(N1, 61000, DB1, 15432)
    translations = MadeTranslations([(TO_DB[0], hidden)])
    assert told(on_veth("db-1", TO_POD, hidden), translations, node="n2").src == "web-1"
    assert told(on_veth("db-1", TO_POD, hidden), node="n2").src == "n1"


def test_a_rewritten_client_port_changes_nothing() -> None:
    translations = MadeTranslations([(TO_DB[0], replace(TO_DB[1], src_port=1025))])
    seen = on_veth("db-1", TO_POD, replace(TO_DB[1], src_port=1025))
    assert told(seen, translations, node="n2") == told(on_veth("db-1", TO_POD, TO_DB[1]), BY_CONNTRACK, node="n2")


def test_a_pod_that_reaches_itself_through_its_service_is_counted_once_each_way() -> None:
    original, hidden = Tuple(WEB, 40000, *WEB_SERVICE), Tuple(N1, 61000, WEB, 8080)
    translations = MadeTranslations([(original, hidden)])
    forms = [
        told(on_veth("web-1", FROM_POD, original), translations),
        told(on_veth("web-1", TO_POD, hidden), translations),
        told(on_veth("web-1", FROM_POD, hidden.back), translations),
        told(on_veth("web-1", TO_POD, original.back), translations),
    ]
    assert {(form.src, form.dst, form.service, form.server_port) for form in forms} == {("web-1", "web-1", "web", 80)}
    assert [(form.role, form.placed) for form in forms] == [
        (REQUEST, Placed.ELSEWHERE),
        (REQUEST, Placed.ROW),
        (RESPONSE, Placed.ELSEWHERE),
        (RESPONSE, Placed.ROW),
    ]


@pytest.mark.parametrize(
    ("crossing", "role", "by", "port"),
    [
        pytest.param(Tuple(WEB, 80, OUTSIDE, 40000), RESPONSE, RoleBy.LOWER_PORT, 80, id="the lower port serves"),
        pytest.param(Tuple(WEB, 40000, OUTSIDE, 443), REQUEST, RoleBy.LOWER_PORT, 443, id="as a receiver, too"),
        pytest.param(Tuple(WEB, 500, OUTSIDE, 500, UDP), Role.UNKNOWN, RoleBy.NOTHING, 500, id="nobody: the same port"),
        pytest.param(Tuple(WEB, 0, OUTSIDE, 0, ICMP), Role.UNKNOWN, RoleBy.NOTHING, 0, id="nobody: no ports"),
        pytest.param(
            Tuple(WEB, 443, DB1, 15432), REQUEST, RoleBy.SERVICE_PORT, 5432, id="an endpoint's port before a lower one"
        ),
    ],
)
def test_the_server_is_found_by_ports(crossing: Tuple, role: Role, by: RoleBy, port: int) -> None:
    found = told(on_veth("web-1", FROM_POD, crossing))
    assert (found.role, found.role_by, found.server_port) == (role, by, port)


def test_the_syn_says_more_than_any_port() -> None:
    backwards = Tuple(WEB, 80, DB1, 15432)
    assert told(on_veth("web-1", FROM_POD, backwards, syn_ack=True)).role is RESPONSE
    assert told(on_veth("web-1", TO_POD, backwards.back, syn=True)).server_port == 80
    both = told(on_veth("web-1", FROM_POD, backwards, syn=True, syn_ack=True))
    assert both.role_by is RoleBy.SERVICE_PORT


def test_ports_of_a_protocol_without_any_mean_nothing() -> None:
    sent = told(on_veth("web-1", FROM_POD, Tuple(WEB, 8, DB1, 15432, ICMP)))
    assert (sent.role, sent.server_port, sent.service) == (Role.UNKNOWN, 0, "")


def test_later_fragments_go_where_their_packets_go() -> None:
    original = Tuple(WEB, 40000, "10.96.0.4", 53, UDP)
    translations = MadeTranslations([(original, Tuple(WEB, 40000, DB2, 5353, UDP))])
    rest = Tuple(WEB, 0, "10.96.0.4", 0, UDP)
    crossings = [
        on_veth("web-1", FROM_POD, rest, kind=FlowKind.FLOW_LATER_FRAGMENT),
        on_veth("web-1", FROM_POD, original),
        on_veth("web-1", TO_POD, rest.back, kind=FlowKind.FLOW_LATER_FRAGMENT),
    ]
    (fragment, first, other_way), world = ends_of(crossings, translations)
    assert fragment["dst"] == first["dst"] == world.index["db-2"]
    assert fragment["placed"] == first["placed"] == Placed.ELSEWHERE
    assert (fragment["server_port"], fragment["role"], fragment["service"]) == (0, Role.UNKNOWN, -1)
    assert (other_way["src"], other_way["placed"]) == (0, Placed.ROW)


def test_later_fragments_follow_the_larger_of_two_flows() -> None:
    rest = Tuple(WEB, 0, "10.96.0.1", 0)
    other = Tuple(WEB, 40001, *DB_SERVICE)
    translations = MadeTranslations([TO_DB, (other, Tuple(WEB, 40001, DB2, 15432))])
    crossings = [
        on_veth("web-1", FROM_POD, other, bytes=70),
        on_veth("web-1", FROM_POD, rest, kind=FlowKind.FLOW_LATER_FRAGMENT),
        on_veth("web-1", FROM_POD, TO_DB[0], bytes=900),
    ]
    ends, world = ends_of(crossings, translations)
    assert ends["dst"].tolist() == [world.index["db-2"], world.index["db-1"], world.index["db-1"]]


def test_traffic_with_the_outside_is_counted_at_its_one_end() -> None:
    sent, got = (told(on_veth("web-1", *way)) for way in ((FROM_POD, Tuple(WEB, 40000, OUTSIDE, 443)),
                                                          (TO_POD, Tuple(OUTSIDE, 443, WEB, 40000))))  # fmt: skip
    assert (sent.dst, sent.placed, got.src, got.placed) == ("External", Placed.ROW, "External", Placed.ROW)


def test_what_goes_to_a_receiver_that_is_not_watched_is_counted_where_it_leaves() -> None:
    sent = on_veth("web-1", FROM_POD, TO_DB[1])
    assert told(sent).placed is Placed.ELSEWHERE
    assert told(sent, watched=PODS - {"db-1"}).placed is Placed.ROW


def test_connections_are_told_of_at_the_client_if_that_is_watched_else_at_the_server() -> None:
    at_client, at_server = on_veth("web-1", FROM_POD, TO_DB[1]), on_veth("db-1", TO_POD, TO_DB[1])
    assert ends_of([at_client])[0]["tells_tcp"] == ends_of([at_server], watched=PODS - {"web-1"})[0]["tells_tcp"] == 1
    assert ends_of([at_server])[0]["tells_tcp"] == 0


def test_the_near_end_is_told_by_the_interface_and_says_so() -> None:
    (end, unknown), world = ends_of(
        [
            on_veth("web-1", FROM_POD, Tuple("10.9.9.9", 1, OUTSIDE, 2)),
            Crossing("n1", 99, FROM_POD, Tuple("10.9.9.9", 1, OUTSIDE, 2)),
        ]
    )
    assert (end["src"], end["near_by"]) == (world.index["web-1"], NearBy.INTERFACE)
    assert (unknown["src"], unknown["near_by"]) == (0, NearBy.NOTHING)


def on_eth0(node: str, direction: object, seen: Tuple) -> Crossing:
    return Crossing(node, ETH0, direction, seen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("crossing", "expected"),
    [
        pytest.param(
            on_eth0("n2", TO_POD, Tuple(OUTSIDE, 40000, N2, 9100)),
            Told("External", "exporter-1", "", 9100, REQUEST, RoleBy.LOWER_PORT),
            id="a host-network pod by its declared port",
        ),
        pytest.param(
            on_eth0("n2", FROM_POD, Tuple(N2, 41000, OUTSIDE, 443)),
            Told("n2", "External", "", 443, REQUEST, RoleBy.LOWER_PORT),
            id="the node's own processes",
        ),
        pytest.param(
            on_eth0("n2", FROM_POD, Tuple(N2, 41000, N1, 10250)),
            Told("n2", "n1", "", 10250, REQUEST, RoleBy.LOWER_PORT),
            id="to another node it is counted where it leaves",
        ),
        pytest.param(
            on_eth0("n2", FROM_POD, Tuple(N2, 41000, WEB, 8080)),
            Told("n2", "web-1", "web", 80, REQUEST, RoleBy.SERVICE_PORT, JoinedBy.GUESS, Placed.ELSEWHERE),
            id="to a watched pod it is counted at its veth",
        ),
    ],
)
def test_on_host_interfaces_what_the_node_itself_says_is_told(crossing: Crossing, expected: Told) -> None:
    assert told(crossing, node="n2", host=True) == expected


@pytest.mark.parametrize(
    "crossing",
    [
        pytest.param(on_eth0("n2", FROM_POD, Tuple(DB1, 15432, WEB, 40000)), id="a pod's, seen at its veth"),
        pytest.param(on_eth0("n2", TO_POD, Tuple(WEB, 40000, DB1, 15432)), id="to a pod, seen at its veth"),
        pytest.param(on_eth0("n2", TO_POD, Tuple(WEB, 40000, N2, 9100)), id="a pod's that counted it on its own node"),
        pytest.param(on_eth0("n2", TO_POD, Tuple(N1, 40000, N2, 9100)), id="another node's that counted it itself"),
        pytest.param(on_eth0("n2", FROM_POD, Tuple(N2, 47000, N1, 8472, UDP)), id="a tunnel between nodes by its port"),
        pytest.param(on_eth0("n2", FROM_POD, Tuple(N2, 0, N1, 0, 4)), id="a tunnel between nodes by its protocol"),
        pytest.param(on_eth0("n2", TO_POD, Tuple(OUTSIDE, 1, N1, 2)), id="what is for another node"),
        pytest.param(on_eth0("n2", TO_POD, Tuple(OUTSIDE, 1, "224.0.0.251", 5353, UDP)), id="what is for everybody"),
        pytest.param(on_eth0("n2", TO_POD, Tuple(OUTSIDE, 1, N2, 30379)), id="what a node port hands on"),
        pytest.param(on_eth0("n2", FROM_POD, Tuple("10.2.9.9", 1, OUTSIDE, 2)), id="a pod's that nobody knows"),
    ],
)
def test_on_host_interfaces_what_is_counted_elsewhere_or_cannot_be_told_is_left_out(crossing: Crossing) -> None:
    assert told(crossing, node="n2", host=True).placed is Placed.LEFT_OUT


def test_a_masqueraded_pod_is_not_taken_for_its_node() -> None:
    original, hidden = Tuple(DB1, 40000, OUTSIDE, 443), Tuple(N2, 61000, OUTSIDE, 443)
    translations = MadeTranslations([(original, hidden)])
    for crossing in (on_eth0("n2", FROM_POD, hidden), on_eth0("n2", TO_POD, hidden.back)):
        assert told(crossing, translations, node="n2", host=True).placed is Placed.LEFT_OUT


def test_without_the_node_in_view_its_own_interfaces_are_left_out() -> None:
    world = MadeWorld(SHOP, "n2")
    flows = report([on_eth0("n2", FROM_POD, Tuple(N2, 41000, OUTSIDE, 443))])
    for here in (Vantage("n9", frozenset({ETH0})), Vantage("", frozenset({ETH0}))):
        (end,) = correlate(flows, world, MadeTranslations(), MadeCovers(world, PODS), here)
        assert end["placed"] == Placed.LEFT_OUT


def test_no_flows_have_no_ends() -> None:
    ends, _ = ends_of([])
    assert (len(ends), ends.dtype) == (0, ENDS)


@dataclass(frozen=True)
class Conversation:
    client_port: int
    ends: tuple[tuple[str, bool], tuple[str, bool]]
    """The node of client and server, and whether it is a pod; the node is empty outside."""
    sizes: tuple[int, int]
    protocol: int

    def watched(self, pods_of: frozenset[str], nodes: frozenset[str]) -> bool:
        """One end of it is."""
        stays = self.ends[0] == self.ends[1] and not self.ends[0][1]
        return not stays and any(node in (pods_of if is_pod else nodes) for node, is_pod in self.ends)


def converse(chance: random.Random, network: Network, port: int) -> Conversation:
    """Anybody talks to anybody, over whatever translation."""
    veths = [pod for pod in SHOP.pods if pod.ifindex]
    nodes = [*SHOP.nodes]
    kind = chance.choice(["pod", "pod", "pod", "node", "outside"])
    pod, node = chance.choice(veths), chance.choice(nodes)
    client = {"pod": (pod.node, pod.ifindex), "node": (node, 0), "outside": ("", 0)}[kind]
    address = {"pod": pod.address, "node": SHOP.nodes[node][0], "outside": OUTSIDE}[kind]
    target = chance.choice(
        ["pod", "service", "service", "node port", "node", "outside"] if client[0] else ["node port"]
    )
    sizes = chance.randint(1, 90) * 100, chance.randint(1, 90) * 100
    protocol = TCP
    at, translated = "", None
    if target in {"service", "node port"}:
        service = chance.choice(SHOP.services if target == "service" else [SHOP.services[1]])
        protocol = service.protocol
        backend = SHOP.pod(chance.choice(service.backends))
        server = (backend.node, backend.ifindex)
        at = client[0] if target == "service" else chance.choice(nodes)
        place = (service.address, service.port) if target == "service" else (SHOP.nodes[at][0], service.node_port)
        original = Tuple(address, port, *place, protocol)
        hides = at not in {client[0], server[0]} or backend.address == address or chance.random() < 0.3
        client_seen = (SHOP.nodes[at][0], port + 20000) if hides else (address, port)
        translated = Tuple(*client_seen, backend.address, service.target, protocol)
    else:
        peer, other = chance.choice([each for each in veths if each is not pod]), chance.choice(nodes)
        server = {"pod": (peer.node, peer.ifindex), "node": (other, 0), "outside": ("", 0)}[target]
        place = {"pod": (peer.address, chance.choice([15432, 16379, 9999])), "outside": (OUTSIDE, 443),
                 "node": (SHOP.nodes[other][0], chance.choice([9100, 10250]))}[target]  # fmt: skip
        original = Tuple(address, port, *place)
        if kind == "pod" and target != "pod" and chance.random() < 0.6:
            at, translated = client[0], replace(original, src=SHOP.nodes[client[0]][0], src_port=port + 20000)
    network.talk(original, translated, at=at, client=client, server=server, sizes=sizes, syn=chance.random() < 0.5)
    return Conversation(port, ((client[0], client[1] > 0), (server[0], server[1] > 0)), sizes, protocol)


@pytest.mark.parametrize("seed", range(150))
def test_every_byte_is_in_exactly_one_row_of_all_agents(seed: int) -> None:
    """Whoever talks to whom, over whatever translation: once, if an end of it is watched, and else never."""
    chance = random.Random(seed)
    selected = frozenset(node for node in SHOP.nodes if chance.random() < 0.8)
    host = frozenset(selected) if chance.random() < 0.6 else frozenset()
    watched = frozenset(pod.name for pod in SHOP.pods if pod.ifindex and pod.node in selected)
    network = Network(SHOP)
    conversations = [converse(chance, network, 33000 + number) for number in range(25)]
    expected = {each.client_port: each.sizes if each.watched(selected, host) else (0, 0) for each in conversations}
    counted: Counter[tuple[int, bool]] = Counter()
    told_of: Counter[int] = Counter()
    for node in selected:
        world = MadeWorld(SHOP, node)
        interfaces = {pod.ifindex for pod in SHOP.pods if pod.node == node} - {0} | ({ETH0} if node in host else set())
        crossings = network.seen_on(node, frozenset(interfaces))
        translations = MadeTranslations(network.translations.get(node, []))
        covers = MadeCovers(world, watched, host)
        ends_here = correlate(report(crossings), world, translations, covers, vantage(node, world, host=node in host))
        for crossing, placed, tells in zip(
            crossings, ends_here["placed"].tolist(), ends_here["tells_tcp"].tolist(), strict=True
        ):
            ports = {
                each - 20000 if each >= 53000 else each for each in (crossing.seen.src_port, crossing.seen.dst_port)
            }
            (conversation,) = ports & expected.keys()
            answers = crossing.seen.dst_port in {conversation, conversation + 20000}
            if placed == Placed.ROW:
                counted[conversation, answers] += crossing.bytes
            told_of[conversation] += tells and not answers
    found = {each: (counted[each, False], counted[each, True]) for each in expected}
    assert found == expected
    # A server cannot know that a pod is behind a node's address: it tells of a hidden client's connections once more.
    hidden = {original.src_port for pairs in network.translations.values() for original, other in pairs
              if original.src != other.src}  # fmt: skip
    hidden |= {each.client_port for each in conversations if each.protocol != TCP}
    plain = {each: sum(sizes) > 0 for each, sizes in expected.items() if each not in hidden}
    assert {each: told_of[each] for each in plain} == plain


def test_it_judges_each_flow_for_itself() -> None:
    network = Network(SHOP)
    chance = random.Random(5)
    for number in range(40):
        converse(chance, network, 33000 + number)
    crossings = network.seen_on("n1", frozenset({11, 12, ETH0}))
    translations = MadeTranslations(network.translations["n1"])
    together, _ = ends_of(crossings, translations, host=True)
    apart = np.concatenate([ends_of([each], translations, host=True)[0] for each in crossings])
    assert (together == apart).all()
