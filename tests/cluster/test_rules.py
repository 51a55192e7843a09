"""Rules about namespaces, pods, services and ConfigMaps, on a real cluster: what is measured, and how soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from podwire_api.names import NAMESPACE
from tests.cluster.cluster import Cluster, KubectlError
from tests.cluster.installation import Installation, Logs
from tests.cluster.polling import eventually
from tests.cluster.test_edits import containers, patch
from tests.cluster.traffic import RECEIVE, UDP_PORT, Datagrams, Pair
from tools.images import image

IN_FORCE_S = 2.0
RATE = 1_000
FROM, TO = ("node-1", "from_pod"), ("node-2", "to_pod")
TOLD_S = 25.0
"""An agent writes its AgentNode at most every 10 s, and the operator the status after it."""


SEND_AT_ONCE = f"""
import socket, sys, time
address, port, count = sys.argv[1], *map(int, sys.argv[2:])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", port))
for number in range(count):
    udp.sendto(bytes(100), (address, {UDP_PORT}))
    time.sleep(0.005)
time.sleep(3600)
"""


class Audited(Logs):
    """Each ledger is looked at as it is read: while traffic runs, no more has its place than was seen."""

    def _keep(self, line: dict[str, Any]) -> None:
        if line["type"] == "ledger":
            classes = ("counted", "filtered", "unsupported", "overflowed")
            for unit in ("packets", "bytes"):
                assert sum(line[each][unit] for each in classes) <= line["seen"][unit], line
        super()._keep(line)


@contextmanager
def made(cluster: Cluster, *documents: dict[str, Any]) -> Iterator[None]:
    """Objects that are there as long as this."""
    cluster.apply(*documents)
    try:
        yield
    finally:
        for each in documents:
            place = f"--namespace={each['metadata'].get('namespace', 'default')}"
            cluster.delete(each["kind"].lower(), each["metadata"]["name"], place)


def receiving(**metadata: Any) -> dict[str, Any]:
    """The template of a pod on node-2 that takes datagrams."""
    container = {"name": "main", "image": image("agent"), "command": ["python3", "-c", RECEIVE]}
    return {
        "metadata": metadata,
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "node-2"},
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
        },
    }


def towards(pods: Pair, *addresses: str) -> Pair:
    """From the same client to another place."""
    client = {"metadata": {"name": pods.client}, "status": {"podIPs": [{"ip": each} for each in pods.client_addresses]}}
    server = {"metadata": {"name": "there"}, "status": {"podIPs": [{"ip": each} for each in addresses]}}
    return Pair(pods.cluster, client, server)


def await_measured(logs: Logs, monitor: str, sent: Datagrams, *, at_both_ends: bool = True) -> None:
    places = {FROM: sent.counted, TO: sent.counted} if at_both_ends else {FROM: sent.counted}
    logs.await_counts(places, monitor, src_port=sent.port)


def await_filtered(logs: Logs, monitor: str, before: dict[tuple[str, str], int], sent: Datagrams) -> None:
    """Until its packets are among those that were filtered at both ends; then no line tells of it."""

    def told() -> bool:
        logs.read()
        now = logs.filtered(monitor)
        return all(now.get(place, 0) - before.get(place, 0) >= sent.count for place in (FROM, TO))

    eventually(told, f"{sent} is filtered", 15)
    assert logs.counts(monitor, src_port=sent.port) == {}


def filtered(logs: Logs, monitor: str) -> dict[tuple[str, str], int]:
    logs.read()
    return logs.filtered(monitor)


def await_note(installed: Installation, name: str, words: str) -> None:
    """Until the status tells so; it is Ready all the same."""

    def told() -> bool:
        ready, attached = (installed.condition(name, kind) for kind in ("Ready", "DatapathAttached"))
        return ready[0] == attached[0] == "True" and words in ready[2] and words in attached[2]

    eventually(told, f"{name} tells: {words}", TOLD_S, every_s=0.3, passing=(KubectlError,))


def in_force(cluster: Cluster, name: str) -> bool:
    """Both agents have said so of the present generation."""
    wanted = cluster.get("nmon", name)["metadata"]["generation"]
    entries = [
        each
        for node in cluster.get("agentnodes")["items"]
        for each in node.get("status", {}).get("monitors", ())
        if each["name"] == name
    ]
    return len(entries) == len(cluster.nodes) and all(each["observedGeneration"] == wanted for each in entries)


def test_a_namespace_on_the_blacklist_is_not_measured_and_all_else_is(installed: Installation, pods: Pair) -> None:
    cluster, logs = installed.cluster, Audited(installed.cluster)
    server = {"apiVersion": "v1", "kind": "Pod", **receiving(name="server", namespace="kube-system")}
    with made(cluster, server):
        cluster.kubectl("wait", "--for=condition=Ready", "pod/server", "--namespace=kube-system", "--timeout=60s")
        address = cluster.get("pod", "server", "--namespace=kube-system")["status"]["podIP"]
        with installed.monitor("hushed", blacklist=[{"name": "system", "namespaces": ["kube-system"]}]) as name:
            before = filtered(logs, name)
            hushed = towards(pods, address).send(1_000)
            heard = pods.send(1_000)
            await_measured(logs, name, heard)
            await_filtered(logs, name, before, hushed)
            selector = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
            patch(cluster, f"nmon/{name}", blacklist=[{"name": "system", "namespaceSelector": selector}])
            eventually(lambda: in_force(cluster, name), "the other rule is in force", 15)
            before = filtered(logs, name)
            await_filtered(logs, name, before, towards(pods, address).send(1_000))
            await_measured(logs, name, pods.send(1_000))
            logs.await_identity(name)


def test_what_a_pod_sends_before_it_is_known_is_judged_by_its_rules_too(installed: Installation, pods: Pair) -> None:
    """Two pods that send from their first moment on: one in a namespace that is not wanted, one that is."""
    cluster, logs = installed.cluster, Audited(installed.cluster)
    quiet = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "quiet"}}
    count, attach = 600, 60
    ports = {"quiet": 47001, "default": 47002}
    with (
        made(cluster, quiet),
        installed.monitor("early", blacklist=[{"name": "quiet", "namespaces": ["quiet"]}]) as name,
    ):
        eventually(lambda: in_force(cluster, name), "the rule is in force", 15)
        before = filtered(logs, name).get(FROM, 0)
        talkers = [talking(namespace, pods.server_addresses[0], port, count) for namespace, port in ports.items()]
        with made(cluster, *talkers):

            def told() -> bool:
                measured = logs.counts(name, src_port=ports["default"]).get(FROM, (0, 0))[0]
                return filtered(logs, name).get(FROM, 0) - before > count - attach < measured

            eventually(told, "what both have sent has its place", 60)
            assert FROM not in logs.counts(name, src_port=ports["quiet"])
            logs.await_identity(name)
            assert FROM not in logs.counts(name, src_port=ports["quiet"])


def talking(namespace: str, address: str, port: int, count: int) -> dict[str, Any]:
    """A pod on node-1 that sends so many datagrams from a port, at once."""
    container = {
        "name": "main",
        "image": image("agent"),
        "command": ["python3", "-c", SEND_AT_ONCE, address, str(port), str(count)],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "talker", "namespace": namespace},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "node-1"},
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
        },
    }


def test_a_whitelisted_deployment_is_measured_as_it_is_scaled_up_and_down(installed: Installation, pods: Pair) -> None:
    cluster, logs = installed.cluster, Audited(installed.cluster)
    labels = {"app": "web"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": receiving(labels=labels)},
    }

    def running(count: int) -> list[str]:
        """The addresses of its pods, once there are so many."""

        def found() -> list[str]:
            items = cluster.get("pods", "--selector=app=web")["items"]
            here = [each["status"].get("podIP", "") for each in items if each["status"]["phase"] == "Running"]
            return here if len(items) == len(here) == count and all(here) else []

        return eventually(found, f"{count} pods run", 60)

    with made(cluster, deployment):
        [first] = running(1)
        whitelist = [{"name": "web", "podSelector": {"matchLabels": labels}}]
        with installed.monitor("scaled", whitelist=whitelist) as name:
            before = filtered(logs, name)
            await_measured(logs, name, towards(pods, first).send(1_000))
            await_filtered(logs, name, before, pods.send(1_000))

            cluster.kubectl("scale", "deployment/web", "--replicas=3")
            added = [each for each in running(3) if each != first]
            sendings = [towards(pods, each).sending(3 * RATE, rate=RATE) for each in added]
            for each in sendings:
                sent = each.wait()
                await_almost_all(logs, name, sent)

            cluster.kubectl("scale", "deployment/web", "--replicas=1")
            [last] = running(1)
            await_measured(logs, name, towards(pods, last).send(1_000))
            before = filtered(logs, name)
            await_filtered(logs, name, before, pods.send(1_000))
            logs.await_identity(name)


def measured(logs: Logs, monitor: str, sent: Datagrams) -> tuple[int, int]:
    """Packets at the sender's end and at the receiver's."""
    logs.read()
    found = logs.counts(monitor, src_port=sent.port)
    return found.get(FROM, (0, 0))[0], found.get(TO, (0, 0))[0]


def await_told(logs: Logs, monitor: str, before: dict[tuple[str, str], int], sent: Datagrams) -> None:
    """Until at both ends each packet is measured or filtered."""

    def told() -> bool:
        counted, now = measured(logs, monitor, sent), logs.filtered(monitor)
        return all(
            packets + now.get(place, 0) - before.get(place, 0) >= sent.count
            for place, packets in zip((FROM, TO), counted, strict=True)
        )

    eventually(told, f"every packet of {sent} has its place", 15)


def await_almost_all(logs: Logs, monitor: str, sent: Datagrams) -> None:
    """Until it is measured at both ends, but for what was sent before it had to be."""
    wanted = sent.count - int(IN_FORCE_S * RATE)
    eventually(lambda: min(measured(logs, monitor, sent)) >= wanted, f"{wanted} of {sent} are measured", 15)


def test_a_service_is_measured_at_its_address_and_at_those_behind_it(installed: Installation, pods: Pair) -> None:
    cluster, logs = installed.cluster, Audited(installed.cluster)
    ports = [{"name": "udp", "port": UDP_PORT, "protocol": "UDP"}]
    spec = {"selector": {"app": pods.server}, "ports": ports}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "talk"}, "spec": spec}
    with made(cluster, service):
        address = cluster.get("service", "talk")["spec"]["clusterIP"]
        slices = "--selector=kubernetes.io/service-name=talk"
        eventually(
            lambda: any(each.get("endpoints") for each in cluster.get("endpointslices", slices)["items"]),
            "the service has somebody behind it",
        )
        with installed.monitor("served", whitelist=[{"name": "talk", "services": ["default/talk"]}]) as name:
            await_measured(logs, name, towards(pods, address).send(1_000))
            await_measured(logs, name, pods.send(1_000))
            patch(cluster, "service/talk", selector={"app": "nobody"})
            eventually(
                lambda: not any(each.get("endpoints") for each in cluster.get("endpointslices", slices)["items"]),
                "the service has nobody behind it",
            )
            before = filtered(logs, name)
            sent = pods.send(4 * RATE, rate=RATE)
            await_told(logs, name, before, sent)
            logs.await_identity(name)
            assert max(measured(logs, name, sent)) <= IN_FORCE_S * RATE


def test_edited_rules_are_in_force_at_once_without_a_restart_and_the_ledger_adds_up(
    installed: Installation, pods: Pair
) -> None:
    cluster, logs = installed.cluster, Audited(installed.cluster)
    with installed.monitor("ruled") as name:
        before = containers(installed)
        seconds = 10
        began_s = time.monotonic()
        sending = pods.sending(seconds * RATE, rate=RATE)
        patch(cluster, f"nmon/{name}", blacklist=[{"name": "db", "podSelector": {"matchLabels": {"app": "db"}}}])
        patch(
            cluster, f"nmon/{name}", blacklist=[{"name": "talk", "podSelector": {"matchLabels": {"app": pods.server}}}]
        )
        allowed = int((time.monotonic() - began_s + IN_FORCE_S) * RATE)
        sent = sending.wait()
        assert allowed < sent.count, "kubectl was too slow for this to say anything"
        await_told(logs, name, {}, sent)
        logs.await_identity(name)
        assert 0 < max(measured(logs, name, sent)) <= allowed

        patch(cluster, f"nmon/{name}", blacklist=[])
        installed.wait_ready(name)
        await_measured(logs, name, pods.send(1_000))
        assert containers(installed) == before


def test_a_selector_that_matches_nothing_is_told(installed: Installation, pods: Pair) -> None:
    whitelist = [{"name": "nobody", "podSelector": {"matchLabels": {"app": "nobody"}}}]
    with installed.monitor("vain", whitelist=whitelist) as name:
        await_note(installed, name, "the whitelist rule nobody selects no pod or service")
        chosen = [{"name": "nobody", "podSelector": {"matchLabels": {"app": pods.client}}}]
        patch(installed.cluster, f"nmon/{name}", whitelist=chosen)
        eventually(lambda: "selects" not in installed.condition(name)[2], "it is told no more", TOLD_S)


def test_a_config_map_is_followed_and_a_bad_line_leaves_the_last_good_state(
    installed: Installation, pods: Pair
) -> None:
    cluster, logs = installed.cluster, Audited(installed.cluster)

    def listing(text: str) -> dict[str, Any]:
        metadata = {"name": "partners", "namespace": NAMESPACE}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"list": text}}

    blacklist = [{"name": "partners", "cidrsFrom": [{"configMapRef": {"name": "partners"}}]}]
    with (
        made(cluster, listing("203.0.113.0/24  # nobody here\n")),
        installed.monitor("listed", blacklist=blacklist) as name,
    ):
        await_measured(logs, name, pods.send(1_000))
        before = filtered(logs, name)
        began_s = time.monotonic()
        sending = pods.sending(8 * RATE, rate=RATE)
        cluster.apply(listing(f"203.0.113.0/24\n{pods.server_addresses[0]}\n"))
        allowed = int((time.monotonic() - began_s + IN_FORCE_S) * RATE)
        sent = sending.wait()
        assert allowed < sent.count
        await_told(logs, name, before, sent)
        logs.await_identity(name)
        assert max(measured(logs, name, sent)) <= allowed

        cluster.apply(listing("203.0.113.0/24\n10.0.0.300\n"))
        await_note(installed, name, "ConfigMap partners, key list, line 2:")
        before = filtered(logs, name)
        await_filtered(logs, name, before, pods.send(1_000))


@pytest.fixture(autouse=True)
def _nothing_is_left(installed: Installation) -> Iterator[None]:
    """Whatever a test began."""
    yield
    for each in installed.cluster.get("nmon")["items"]:
        installed.remove(each["metadata"]["name"])
