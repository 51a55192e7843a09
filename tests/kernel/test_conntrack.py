"""Translated connections as the kernel tells of them: what both ends see is joined, whatever the node makes of it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest

from podwire_agent.clock import SystemClock
from podwire_agent.core.translations import Translations
from podwire_agent.kernel.conntrack import RECEIVE_BUFFER_BYTES, ConntrackEvents, ConntrackList
from podwire_agent.translating import Conntrack
from tests.kernel.netns import Host, Pod, eventually, ip
from tests.kernel.services import (
    ALL,
    HAIRPIN,
    NODE_PORT,
    PORT_TOO,
    SERVER_PORT,
    SERVICE,
    SERVICE_PORT,
    TCP,
    UDP,
    Address,
    Seen,
    Server,
    address_of,
    as_a_node,
    ask,
    connected,
    forget_connections,
    translate,
    tuple_of,
)

V4, V6 = socket.AF_INET, socket.AF_INET6
NS_PER_S = 10**9


@pytest.fixture
def node(host: Host) -> Host:
    as_a_node(host)
    return host


def made(node: Host, receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES) -> Conntrack:
    """One that is not followed by a thread until it is entered."""
    with node.namespace.entered():
        return Conntrack(SystemClock(), seed=1, receive_buffer_bytes=receive_buffer_bytes)


@pytest.fixture
def conntrack(node: Host) -> Iterator[Conntrack]:
    with node.namespace.entered(), made(node) as conntrack:
        conntrack.translations()
        yield conntrack
        assert conntrack.figures.failures_total == 0
        assert conntrack.figures.dropped_total == 0


def service(family: socket.AddressFamily = V4) -> Address:
    return SERVICE[family], SERVICE_PORT


@contextmanager
def serving(pod: Pod, family: socket.AddressFamily = V4, kind: socket.SocketKind = TCP) -> Iterator[Server]:
    with closing(Server(pod, family, kind)) as server:
        yield server


def assert_joined(translations: Translations, seen: Seen, *, dnat: bool = True, snat: bool = False) -> None:
    """Asked in any form, the answer is what the client sent and what the server received."""
    answer = seen.asked(translations)
    assert answer.found.tolist() == [True] * 4
    assert answer.is_reply.tolist() == [False, False, True, True]
    for each in range(4):
        assert answer.original[each] == seen.at_client[0]
        assert answer.translated[each] == seen.at_server[0]
    assert answer.dnat.tolist() == [dnat] * 4
    assert answer.snat.tolist() == [snat] * 4


def assert_unknown(translations: Translations, seen: Seen) -> None:
    assert not seen.asked(translations).found.any()


@pytest.mark.parametrize("kind", [pytest.param(TCP, id="TCP"), pytest.param(UDP, id="UDP")])
@pytest.mark.parametrize("family", [pytest.param(V4, id="IPv4"), pytest.param(V6, id="IPv6")])
def test_a_service_is_joined_with_its_backend(
    node: Host, conntrack: Conntrack, family: socket.AddressFamily, kind: socket.SocketKind
) -> None:
    client, backend = node.pods
    translate(node)
    with serving(backend, family, kind) as server, connected(client, server, service(family), family) as seen:
        assert_joined(conntrack.translations(), seen)


@pytest.mark.parametrize("family", [pytest.param(V4, id="IPv4"), pytest.param(V6, id="IPv6")])
@pytest.mark.parametrize("kind", [pytest.param(TCP, id="TCP"), pytest.param(UDP, id="UDP")])
def test_a_masqueraded_client_is_joined_with_itself(
    node: Host, conntrack: Conntrack, family: socket.AddressFamily, kind: socket.SocketKind
) -> None:
    client, backend = node.pods
    translate(node, ALL)
    with serving(backend, family, kind) as server, connected(client, server, service(family), family) as seen:
        assert seen.at_client["src_address"].tolist() != seen.at_server["src_address"].tolist()
        assert_joined(conntrack.translations(), seen, snat=True)


def test_a_node_port_with_masquerade_is_joined(node: Host, conntrack: Conntrack) -> None:
    client, backend = node.pods
    translate(node, ALL)
    with serving(backend) as server, connected(client, server, (node.ipv4, NODE_PORT)) as seen:
        assert_joined(conntrack.translations(), seen, snat=True)


def test_a_rewritten_client_port_is_joined(node: Host, conntrack: Conntrack) -> None:
    client, backend = node.pods
    translate(node, PORT_TOO)
    with serving(backend) as server, connected(client, server, service()) as seen:
        assert seen.at_client["src_port"] != seen.at_server["src_port"]
        assert_joined(conntrack.translations(), seen, snat=True)


def test_a_pod_that_calls_its_own_service_is_told_from_its_server(node: Host, conntrack: Conntrack) -> None:
    """Hairpin: one interface sees all four tuples."""
    backend = node.pods[1]
    ip(f"link set {backend.interface} type bridge_slave hairpin on", netns=node.namespace.name)
    translate(node, HAIRPIN)
    with serving(backend) as server, connected(backend, server, service()) as seen:
        assert_joined(conntrack.translations(), seen, snat=True)


def test_one_client_port_to_the_service_and_to_its_backend_are_two(node: Host, conntrack: Conntrack) -> None:
    client, backend = node.pods
    translate(node)
    with serving(backend) as server:
        to = (backend.ipv4, SERVER_PORT)
        with (
            connected(client, server, to, port=41000) as direct,
            connected(client, server, service(), port=41000) as seen,
        ):
            assert seen.at_server["src_port"] != 41000, "the kernel keeps them apart"
            translations = conntrack.translations()
            assert_joined(translations, seen, snat=True)
            assert_unknown(translations, direct)


def test_masquerade_alone_is_joined_too(node: Host, conntrack: Conntrack) -> None:
    client, backend = node.pods
    translate(node, ALL)
    with serving(backend) as server, connected(client, server, (backend.ipv4, SERVER_PORT)) as seen:
        assert_joined(conntrack.translations(), seen, dnat=False, snat=True)


def test_what_is_not_translated_takes_no_room(node: Host, conntrack: Conntrack) -> None:
    client, backend = node.pods
    translate(node)
    with serving(backend) as server, connected(client, server, (backend.ipv4, SERVER_PORT)) as direct:
        assert_unknown(conntrack.translations(), direct)
        with serving(backend, V6) as over_ipv6, connected(client, over_ipv6, (backend.ipv6, SERVER_PORT), V6) as other:
            assert_unknown(conntrack.translations(), other)
    forget_connections(node.namespace)
    conntrack.translations()
    assert conntrack.figures.entries == 0


@pytest.mark.parametrize("family", [pytest.param(V4, id="IPv4"), pytest.param(V6, id="IPv6")])
def test_what_is_not_translated_is_not_even_received(node: Host, family: socket.AddressFamily) -> None:
    client, backend = node.pods
    translate(node)
    with node.namespace.entered(), ConntrackEvents(SystemClock()) as events, serving(backend, family) as server:
        for to, received in (((address_of(backend, family), SERVER_PORT), 0), (service(family), 1)):
            with connected(client, server, to, family):
                assert not events.receive()
            assert (events._staged, len(events.take())) == (received, received)


def test_iptables_rules_are_seen_as_nftables_rules_are(node: Host, conntrack: Conntrack) -> None:
    client, backend = node.pods
    backend_address = f"{backend.ipv4}:{SERVER_PORT}"
    where = ["-p", "tcp", "-d", SERVICE[V4], "--dport", f"{SERVICE_PORT}"]
    node.namespace.run(
        "iptables", "-w", "-t", "nat", "-A", "PREROUTING", *where, "-j", "DNAT", "--to-destination", backend_address
    )
    with serving(backend) as server, connected(client, server, service()) as seen:
        assert_joined(conntrack.translations(), seen)


def test_connections_that_came_and_went_between_two_looks_are_found(node: Host) -> None:
    client, backend = node.pods
    translate(node, ALL)
    conntrack = made(node)
    with node.namespace.entered():
        conntrack.translations()
    gone = []
    with serving(backend) as server:
        for _ in range(20):
            with connected(client, server, service()) as seen:
                gone.append(seen)
            forget_connections(node.namespace)
    with node.namespace.entered(), ConntrackList() as listing:
        assert len(listing.all()) == 0
    with conntrack:
        for seen in gone:
            assert_joined(conntrack.translations(), seen, snat=True)
    assert conntrack.figures.overruns_total == 0


def test_connections_from_before_are_found(node: Host) -> None:
    client, backend = node.pods
    translate(node)
    with serving(backend) as server, connected(client, server, service()) as seen, made(node) as conntrack:
        assert_joined(conntrack.translations(), seen)


def test_the_thread_follows_without_being_asked(node: Host) -> None:
    client, backend = node.pods
    translate(node)
    with made(node) as conntrack, serving(backend) as server:
        conntrack.translations()
        with connected(client, server, service()):
            pass
        forget_connections(node.namespace)
        events, _ = conntrack._sockets or pytest.fail(conntrack.figures.unavailable)
        eventually(lambda: events._staged == 2, "beginning and end are received")


def test_lost_events_are_made_good_by_a_listing(node: Host) -> None:
    client, backend = node.pods
    translate(node)
    conntrack = made(node, receive_buffer_bytes=1)
    conntrack.translations()
    with serving(backend) as server, conntrack:
        with connected(client, server, service()) as before:
            assert_joined(conntrack.translations(), before)
            with conntrack._lock:  # nobody receives meanwhile
                forget_connections(node.namespace)
                seen = []
                for _ in range(40):
                    with connected(client, server, service()) as one:
                        seen.append(one)
            eventually(lambda: conntrack.translations() and conntrack.figures.overruns_total, "events were lost")
            eventually(
                lambda: all(each.asked(conntrack.translations()).found.all() for each in seen), "all is listed", 10
            )
        for each in seen:
            assert_joined(conntrack.translations(), each)
        later = time.monotonic_ns() + NS_PER_S
        known = ask(conntrack.translations(), before.at_client, before.first_mono_ns, before.last_mono_ns)
        assert known.found.all(), "what ended meanwhile is known for the time it lived"
        assert not ask(conntrack.translations(), before.at_client, later, later).found.any()


def test_a_client_port_that_is_used_again_has_two_lives(node: Host, conntrack: Conntrack) -> None:
    client, backend = node.pods
    other = node.add_pod()
    with serving(backend) as server, serving(other) as others_server:
        translate(node, backend=2)
        with connected(client, server, service(), port=42000) as former:
            pass
        forget_connections(node.namespace)
        conntrack.translations()
        wait_ns(NS_PER_S // 5)
        translate(node, backend=3)
        with connected(client, others_server, service(), port=42000) as latter:
            translations = conntrack.translations()
            assert_joined(translations, latter)
            assert_joined(translations, former)
            both = ask(translations, former.at_client, former.first_mono_ns, latter.last_mono_ns)
            assert not both.found.any(), "it may be of either"


def wait_ns(duration_ns: int) -> None:
    """Lives are told apart by time: until that much of it has passed."""
    until_mono_ns = time.monotonic_ns() + duration_ns
    eventually(lambda: time.monotonic_ns() > until_mono_ns, "time passes")


LISTING = """
import json
from podwire_agent.clock import SystemClock
from podwire_agent.translating import Conntrack
with Conntrack(SystemClock(), seed=1) as conntrack:
    found = len(conntrack.translations())
    print(json.dumps([found, conntrack.figures.unavailable]))
"""


@pytest.mark.parametrize(
    ("capabilities", "found", "reason"),
    [
        pytest.param("-all,+net_admin", 1, "", id="with NET_ADMIN alone it is all there"),
        pytest.param("-all", 0, "Operation not permitted; grant CAP_NET_ADMIN", id="without it, it says so"),
    ],
)
def test_capabilities(node: Host, capabilities: str, found: int, reason: str) -> None:
    client, backend = node.pods
    translate(node)
    narrowed = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
    with serving(backend) as server, connected(client, server, service()):
        command = node.namespace.command(*narrowed, sys.executable, "-c", LISTING)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout)
    assert answer[0] == found
    assert reason in answer[1]
    assert bool(reason) == bool(answer[1])
    assert done.stderr.count("Services are found without it") == bool(reason), "told once"


def test_without_events_it_says_so_and_goes_on(node: Host) -> None:
    node.namespace.sysctl({"netfilter/nf_conntrack_events": 0})
    client, backend = node.pods
    translate(node)
    with serving(backend) as server, connected(client, server, service()) as seen, made(node) as conntrack:
        assert_unknown(conntrack.translations(), seen)
        assert "net.netfilter.nf_conntrack_events is 0" in conntrack.figures.unavailable


def test_a_thousand_connections_are_followed_whole(node: Host, conntrack: Conntrack) -> None:
    client, backend = node.pods
    translate(node, ALL)
    with serving(backend) as server:
        seen = []
        for _ in range(1000):
            with connected(client, server, service()) as one:
                seen.append(one)
    translations = conntrack.translations()
    assert conntrack.figures.overruns_total == 0
    assert conntrack.figures.entries >= len({int(one.at_client["src_port"][0]) for one in seen})
    found = np.array([one.asked(translations).found.all() for one in seen])
    assert found.all(), f"{np.count_nonzero(~found)} are missing"


def test_a_tuple_of_nobody_is_not_found(conntrack: Conntrack) -> None:
    nobody = tuple_of(("10.80.0.1", 1), ("10.96.0.10", 80), 6)
    now_mono_ns = time.monotonic_ns()
    answer = ask(conntrack.translations(), nobody, now_mono_ns, now_mono_ns)
    assert not answer.found.any()
    assert answer.original[0] == answer.translated[0] == nobody[0]
