"""What this version does not do is refused where it was asked for, and told where it is only a default."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire_agent.unbuilt import refusals, switched_off
from podwire_api import load_documents, load_file

SAMPLES = Path(__file__).parents[3] / "manifests/samples"


def lines(spec: str, *, in_cluster: bool = False) -> list[str]:
    head = "apiVersion: podwire.dev/v1alpha1\nkind: NetworkMonitor\nmetadata: {name: a}\n"
    [monitor] = load_documents(f"{head}spec: {spec}\n", "m")
    return refusals(monitor, in_cluster=in_cluster)


ASKING_THE_CLUSTER = {
    "a rule about namespaces": ("{whitelist: [{name: r}, {name: s, namespaces: [a]}]}", "spec.whitelist[1].namespaces"),
    "a rule about pods": ("{blacklist: [{name: r, podSelector: {}}]}", "spec.blacklist[0].podSelector"),
    "a rule about labels of namespaces": (
        "{blacklist: [{name: r, namespaceSelector: {}}]}",
        "spec.blacklist[0].namespaceSelector",
    ),
    "a peer that is a service": (
        "{blacklist: [{name: r, cidrs: [10.0.0.0/8], peer: {services: [a/b]}}]}",
        "spec.blacklist[0].peer.services",
    ),
}


@pytest.mark.parametrize(("spec", "field"), ASKING_THE_CLUSTER.values(), ids=ASKING_THE_CLUSTER)
def test_a_rule_about_pods_or_services_needs_a_cluster(spec: str, field: str) -> None:
    words = f"{field}: without a cluster nobody can say which pods or services are meant; use cidrs"
    assert lines(spec) == [words]
    assert lines(spec, in_cluster=True) == []


def test_rows_are_shown_to_prometheus_in_a_cluster_alone() -> None:
    spec = "{sinks: [{name: s, prometheus: {}}]}"
    assert lines(spec, in_cluster=True) == []
    [found] = lines(spec)
    assert found.startswith("spec.sinks[0].prometheus: without a cluster")


REFUSED = {
    "latency switched on": ("{latency: {enabled: true}}", "spec.latency.enabled:"),
    "an age of latency": ("{latency: {maxAge: 2s}}", "spec.latency.maxAge:"),
    "an otlp sink beside stdout": (
        "{sinks: [{name: s, stdout: {}}, {name: o, otlp: {endpoint: 'http://a'}}]}",
        "spec.sinks[1].otlp:",
    ),
    "an http sink": ("{sinks: [{name: s, http: {url: 'http://a'}}]}", "spec.sinks[0].http:"),
}


@pytest.mark.parametrize(("spec", "line"), REFUSED.values(), ids=REFUSED)
def test_what_was_set_and_is_not_built_is_refused_by_its_field(spec: str, line: str) -> None:
    [found] = lines(spec)
    assert found.startswith(line)
    assert "not built yet in this version" in found


RUNS = {
    "nothing set": "{}",
    "rules about addresses, ports and protocols": (
        "{whitelist: [{name: r, cidrs: [10.0.0.0/8], ports: [80], direction: Egress, peer: {cidrs: ['::/0']}}],"
        " blacklist: [{name: r, protocols: [UDP], cidrsFrom: [{configMapRef: {name: a}}]}]}"
    ),
    "what is built": "{interfaces: {cni: calico, hostInterfaces: [a]}, reportEvery: 3, maxFlows: 9999}",
    "a pattern and a pause": '{interfaces: {vethPattern: "cali.*"}, paused: true, sinks: [{name: s, stdout: {}}]}',
    "a selection of nodes": "{nodes: {nodeSelector: {a: b}}}",
    "empty lists": "{whitelist: [], blacklist: [], externalNetworks: [], sinks: [], nodes: {nodeSelector: {}}}",
    "latency and the exchange switched off": "{latency: {enabled: false, maxAge: 1s}, loss: {exchange: false}}",
    "names for outside networks": "{externalNetworks: [{name: o, cidrs: [10.0.0.0/8]}]}",
    "a cache lifetime": "{workloadCacheTTL: 90s}",
    "a bound of rows": "{maxRows: 10000}",
    "the exchange switched on": "{loss: {exchange: true}}",
    "empty mappings": "{latency: {}, loss: {}, nodes: {}, interfaces: {}}",
}


@pytest.mark.parametrize("spec", RUNS.values(), ids=RUNS)
def test_what_is_built_or_says_nothing_runs(spec: str) -> None:
    assert lines(spec) == []


@pytest.mark.parametrize("name", ["minimal", "demo", "lines", "rules"])
def test_a_sample_of_this_version_runs(name: str) -> None:
    [monitor] = load_file(SAMPLES / f"{name}.yaml")
    assert refusals(monitor) == []


@pytest.mark.parametrize("name", ["cluster", "namespaces"])
def test_a_sample_of_this_version_runs_in_a_cluster(name: str) -> None:
    [monitor] = load_file(SAMPLES / f"{name}.yaml")
    assert refusals(monitor, in_cluster=True) == []


def test_defaults_that_are_off_are_told() -> None:
    [monitor] = load_file(SAMPLES / "minimal.yaml")
    fields = [line.partition(":")[0] for line in switched_off(monitor)]
    assert fields == ["spec.latency"]


def test_what_was_switched_off_by_the_user_is_not_told() -> None:
    head = "apiVersion: podwire.dev/v1alpha1\nkind: NetworkMonitor\nmetadata: {name: a}\n"
    [monitor] = load_documents(head + "spec: {latency: {enabled: false}, loss: {exchange: false}}\n", "m")
    assert switched_off(monitor) == []
