"""Who may read the agents' metrics in a cluster, and that the shipped way in leads a real Prometheus there."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from podwire_api.names import AGENT, AGENT_TLS_SECRET, NAMESPACE
from podwire_operator.certificates import plan
from tests.cluster.cluster import Cluster, KubectlError
from tests.cluster.gitops import ROOT
from tests.cluster.installation import Installation
from tests.cluster.machine import MachineError
from tests.cluster.node import Node
from tests.cluster.polling import eventually
from tests.cluster.test_edits import changed_pool
from tests.cluster.traffic import UDP_PORT, Pair
from tests.cluster.workloads import SERVICE_UDP, client_of_a_service
from tests.receivers.built import PROMETHEUS
from tests.receivers.prometheus_operator import definition
from tests.receivers.prometheus_process import Prometheus, lint

PORT = 9435
READER = "podwire-metrics-reader"
CUT_S = 12.0
"""A connection lives for 10 s at most."""
STORED_S = 30.0
MANIFESTS = ROOT / "manifests" / "prometheus"
TO_THE_DOOR = (
    'monitor="shown",src_namespace="default",src_workload="ask",src_kind="Deployment",dst_namespace="default",'
    f'dst_workload="serve",dst_kind="Deployment",service="door",server_port="{SERVICE_UDP}",protocol="UDP",'
    'direction="request",locality="[a-z_]+"'
)


@dataclass(frozen=True)
class Reader:
    """Somebody on node-2 who asks the agent of node-1."""

    here: Node
    there: Node
    authority: Path

    def get(self, token: str = "", path: str = "/metrics", *options: str) -> tuple[int, str]:
        """Status and body; 0 and curl's words where there is none."""
        named = f"{AGENT}:{PORT}:{self.there.addresses[0]}"
        header = ["--header", f"Authorization: Bearer {token}"] if token else []
        return self.curl(
            "--cacert", str(self.authority), "--resolve", named, *header, *options, f"https://{AGENT}:{PORT}{path}"
        )

    def curl(self, *options: str) -> tuple[int, str]:
        """As `get`, with options of one's own."""
        command = self.here.machine.command("curl", "-sS", "-w", "\n%{http_code}", "--max-time", "20", *options)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        body, _, code = done.stdout.rpartition("\n")
        return int(code or 0), body or done.stderr


@pytest.fixture(scope="module")
def watching(installed: Installation) -> Iterator[str]:
    """A monitor that counts what `Pair.send` sends, and nothing else."""
    sent = {"name": "sent", "ports": [UDP_PORT], "protocols": ["UDP"]}
    with installed.monitor("metrics", whitelist=[sent]) as name:
        yield name


@pytest.fixture(scope="module")
def reader(cluster: Cluster, watching: str, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    assert watching
    found = Reader(cluster.node(2), cluster.node(1), tmp_path_factory.mktemp("reader") / "ca.crt")
    found.authority.write_bytes(secret(cluster, AGENT_TLS_SECRET)["ca.crt"])
    # The kubelet brings the Secret to a pod that was there before it within a minute or two.
    eventually(lambda: found.get()[0] == 401, "the agent has its certificate", 150)
    return found


@pytest.fixture(scope="module")
def shipped(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """The PodMonitor of manifests/prometheus as the API server has it, by the Prometheus Operator's own schema."""
    cluster.kubectl("apply", "--server-side", "--filename", str(definition("podmonitors")))
    cluster.kubectl("wait", "--for=condition=Established", "crd/podmonitors.monitoring.coreos.com", "--timeout=30s")
    try:
        cluster.kubectl("apply", "--validate=strict", "-k", str(MANIFESTS))
        yield cluster.get("podmonitor", "podwire-agent", f"--namespace={NAMESPACE}")
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-k", str(MANIFESTS))
        cluster.delete("crd/podmonitors.monitoring.coreos.com")


@pytest.fixture(scope="module")
def token(cluster: Cluster, shipped: dict[str, Any]) -> str:
    """That of the account by which the PodMonitor reads."""
    assert shipped
    eventually(lambda: secret(cluster, READER).get("token"), "the token is made")
    return secret(cluster, READER)["token"].decode()


def secret(cluster: Cluster, name: str) -> dict[str, bytes]:
    data = cluster.get("secret", name, f"--namespace={NAMESPACE}").get("data", {})
    return {key: base64.b64decode(value) for key, value in data.items()}


def test_without_a_token_nothing_is_shown(reader: Reader) -> None:
    status, words = reader.get()
    assert (status, "Authorization: Bearer TOKEN" in words) == (401, True)
    assert "podwire_" not in words


def test_a_token_that_the_cluster_does_not_know_shows_nothing(reader: Reader, cluster: Cluster) -> None:
    assert reader.get("wrong") == (401, "this cluster does not know the token\n")
    forged = cluster.kubectl("create", "token", "default", "--audience=somebody-else").strip()
    assert reader.get(forged)[0] == 401


def test_a_token_without_the_right_shows_nothing(reader: Reader, cluster: Cluster) -> None:
    status, words = reader.get(cluster.kubectl("create", "token", "default").strip())
    assert (status, READER in words) == (403, True)


def test_a_token_with_the_right_shows_what_promtool_takes(reader: Reader, token: str, watching: str) -> None:
    status, page = reader.get(token)
    assert status == 200
    assert lint(page.encode()) == ""
    assert re.search(rf'^podwire_ledger_packets_total\{{.*monitor="{watching}"', page, re.MULTILINE)
    assert 'podwire_agent_token_reviews_total{outcome="allowed"}' in page
    status, one = reader.get(token, f"/metrics?monitor={watching}")
    assert (status, "podwire_agent_info" in one) == (200, False)
    assert reader.get(token, "/metrics?monitor=nobody")[0] == 404
    assert reader.get(token, "/metrics", "--request", "POST")[0] == 405
    assert reader.get(token, "/healthz")[0] == 404


def test_a_new_row_is_shown_at_zero_before_it_is_shown_whole(
    installed: Installation, reader: Reader, token: str
) -> None:
    """Whoever scrapes sees what there is from the first packet on: `increase()` needs two values."""
    sinks = [{"name": "prom", "prometheus": {}}]
    with (
        client_of_a_service(installed.cluster, "node-2", "node-1") as pods,
        installed.monitor("shown", sinks=sinks) as name,
    ):
        path = f"/metrics?monitor={name}"
        eventually(lambda: reader.get(token, path)[0] == 200, "the monitor has a page", 10)
        sent = pods.send(3_000)
        values: list[int] = []

        def whole() -> bool:
            _, page = reader.get(token, path)
            if found := re.search(rf"^podwire_flow_packets_total\{{{TO_THE_DOOR}\}} (\d+)$", page, re.MULTILINE):
                values.append(int(found[1]))
                assert lint(page.encode()) == ""
            return values[-1:] == [sent.count]

        eventually(whole, "all packets are shown", 30)
        assert values[0] == 0
        assert values == sorted(values)


def test_a_right_that_is_given_counts_within_seconds(reader: Reader, cluster: Cluster) -> None:
    cluster.kubectl("create", "serviceaccount", "late-reader")
    cluster.kubectl("create", "clusterrolebinding", "late-reader", f"--clusterrole={READER}", "--user=nobody")
    try:
        late = cluster.kubectl("create", "token", "late-reader").strip()
        assert reader.get(late)[0] == 403
        account = [{"kind": "ServiceAccount", "name": "late-reader", "namespace": "default"}]
        cluster.kubectl(
            "patch", "clusterrolebinding", "late-reader", "--type=merge", "--patch", json.dumps({"subjects": account})
        )
        eventually(lambda: reader.get(late)[0] == 200, "it may read", 15, every_s=1)
    finally:
        cluster.delete("clusterrolebinding/late-reader")
        cluster.delete("serviceaccount/late-reader")


def test_the_agent_is_known_by_the_installations_authority_alone(reader: Reader, token: str, tmp_path: Path) -> None:
    another = tmp_path / "another.crt"
    another.write_bytes(plan(None, None, datetime.now(UTC)).agent["ca.crt"])
    status, words = Reader(reader.here, reader.there, another).get(token)
    assert (status, "certificate" in words) == (0, True)
    assert reader.curl(f"http://{reader.there.addresses[0]}:{PORT}/metrics")[0] == 0


def test_slow_and_endless_requests_are_cut_and_others_are_served(reader: Reader, token: str) -> None:
    client = (
        "openssl", "s_client", "-quiet", "-no_ign_eof", "-servername", AGENT,
        "-connect", f"{reader.there.addresses[0]}:{PORT}",
    )  # fmt: skip
    slow = "(printf 'GET /metrics HTTP/1.1\\r\\n'; while sleep 1; do printf 'X: y\\r\\n'; done)"
    endless = "(printf 'GET /metrics HTTP/1.1\\r\\nX: '; yes | tr -d '\\n')"
    for talk in (slow, endless):
        began_s = time.monotonic()
        script = f"{talk} 2>/dev/null | timeout 30 {' '.join(client)} 2>/dev/null"
        running = subprocess.Popen(
            reader.here.machine.command("sh", "-c", script), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        assert reader.get(token)[0] == 200
        said, _ = running.communicate(timeout=35)
        assert time.monotonic() - began_s < CUT_S, talk
        assert b"podwire_" not in said


def test_on_the_nodes_loopback_there_is_health_and_no_metric(reader: Reader) -> None:
    there = Reader(reader.there, reader.there, reader.authority)
    assert there.curl("http://127.0.0.1:9437/healthz")[0] == 200
    status, words = there.curl("http://127.0.0.1:9437/metrics")
    assert (status, "podwire_" in words) == (404, False)
    assert reader.curl(f"http://{reader.there.addresses[0]}:9437/healthz")[0] == 0


@pytest.mark.usefixtures("reader")
def test_the_service_has_every_agent(installed: Installation) -> None:
    slices = installed.cluster.get(
        "endpointslices", f"--namespace={NAMESPACE}", "--selector=kubernetes.io/service-name=podwire-agent-metrics"
    )["items"]
    found = {(each["nodeName"], port["port"]) for one in slices for each in one["endpoints"] for port in one["ports"]}
    assert found == {(node.name, PORT) for node in installed.cluster.nodes}


def scrape_config(installed: Installation, monitor: dict[str, Any], directory: Path) -> dict[str, Any]:
    """What the Prometheus Operator makes of a PodMonitor, but for finding the pods."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    files = {}
    for name, place in (
        ("ca", endpoint["tlsConfig"]["ca"]["secret"]),
        ("token", endpoint["authorization"]["credentials"]),
    ):
        files[name] = directory / name
        files[name].write_bytes(secret(installed.cluster, place["name"])[place["key"]])
    static = []
    for node, pod in installed.agents().items():
        assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        (port,) = (
            each["containerPort"]
            for container in pod["spec"]["containers"]
            for each in container["ports"]
            if each["name"] == endpoint["port"]
        )
        labels = {"namespace": NAMESPACE, "pod": pod["metadata"]["name"], "container": "agent", "endpoint": "metrics"}
        meta = {
            "__meta_kubernetes_pod_node_name": node,
            "__meta_kubernetes_pod_label_podwire_dev_pool": pod["metadata"]["labels"]["podwire.dev/pool"],
        }
        static.append({"targets": [f"{pod['status']['podIP']}:{port}"], "labels": labels | meta})
    return {
        "job_name": f"{NAMESPACE}/{monitor['metadata']['name']}",
        "scheme": endpoint["scheme"],
        "metrics_path": endpoint["path"],
        "tls_config": {"server_name": endpoint["tlsConfig"]["serverName"], "ca_file": str(files["ca"])},
        "authorization": {"type": endpoint["authorization"]["type"], "credentials_file": str(files["token"])},
        "relabel_configs": [
            {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in each.items()}
            for each in endpoint["relabelings"]
        ],
        "static_configs": static,
    }


def prometheus_on(node: Node, directory: Path, configuration: dict[str, Any]) -> Prometheus:
    """One that runs there, and is asked there."""

    def fetch(path: str) -> tuple[int, bytes]:
        url = f"http://127.0.0.1:9090{path}"
        try:
            said = node.machine.run("curl", "-s", "-w", "\n%{http_code}", url)
        except MachineError as error:
            raise OSError(str(error)) from error
        body, _, code = said.rpartition("\n")
        return int(code), body.encode()

    return Prometheus(directory, [configuration], node.machine.command, fetch)


@pytest.mark.skipif(bool(PROMETHEUS.why_not()), reason=PROMETHEUS.why_not() or "there is one")
def test_the_shipped_podmonitor_leads_a_real_prometheus_to_exact_totals_also_over_a_new_agent(
    installed: Installation,
    watching: str,
    reader: Reader,
    token: str,
    shipped: dict[str, Any],
    pods: Pair,
    tmp_path: Path,
) -> None:
    assert token
    configuration = scrape_config(installed, shipped, tmp_path)
    with prometheus_on(reader.here, tmp_path, configuration) as prometheus:
        eventually(
            lambda: [each["health"] for each in prometheus.targets()] == ["up", "up"],
            "both agents are scraped",
            STORED_S,
        )
        counted = f'podwire_ledger_packets_total{{monitor="{watching}",class="counted",direction='
        at_client, at_server = f'{counted}"from_pod",instance="node-1"}}', f'{counted}"to_pod",instance="node-2"}}'
        before = {each: prometheus.value(each) or 0 for each in (at_client, at_server)}

        def arrived(sent: int) -> bool:
            return all(prometheus.value(each) == start + sent for each, start in before.items())

        pods.send(1_000)
        eventually(lambda: arrived(1_000), "the first thousand is stored", STORED_S)
        former = installed.agent("node-1")
        installed.cluster.kubectl("delete", "pod", former, f"--namespace={NAMESPACE}", "--grace-period=0", "--force")
        pods.send(1_000)
        eventually(lambda: installed.agent("node-1") != former, "another agent", 60, passing=(KeyError, KubectlError))
        eventually(lambda: arrived(2_000), "the second thousand is stored", 60)
        (series,) = prometheus.query(at_client)
        assert series["metric"].keys() == {
            "__name__", "job", "instance", "pool", "monitor", "class", "direction",
        }  # fmt: skip
        assert prometheus.value("sum(resets(podwire_ledger_packets_total[1h]))") == 0
        for labels, values in prometheus.samples("podwire_ledger_packets_total").items():
            assert values == sorted(values), labels


def test_a_pool_with_auth_none_is_open_to_all(installed: Installation, reader: Reader) -> None:
    plain = f"http://{reader.there.addresses[0]}:{PORT}/metrics"
    with changed_pool(installed, {"metrics": None}, metrics={"auth": "none"}):
        installed.rolled_out()
        status, page = eventually(
            lambda: found if (found := reader.curl(plain))[0] == 200 else None, "it is shown", 60
        ) or (0, "")
        assert (status, "podwire_agent_info" in page) == (200, True)
    eventually(lambda: reader.get()[0] == 401, "it is closed again", 60)
