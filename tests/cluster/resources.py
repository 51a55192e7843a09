"""Wrong resources and right ones, as a cluster and as a file have them."""

from __future__ import annotations

from typing import Any

from podwire_api.names import API_VERSION
from tests.unit.api.test_refused import rule

STDOUT = {"name": "lines", "stdout": {}}


def document(kind: str, spec: object, name: str = "a") -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def monitor(**spec: object) -> dict[str, Any]:
    """With a sink, where none is given."""
    return document("NetworkMonitor", {"sinks": [STDOUT], **spec})


def pool(**spec: object) -> dict[str, Any]:
    return document("AgentPool", spec)


def sinks(*those: object) -> dict[str, Any]:
    return monitor(sinks=list(those))


def selector(**requirement: object) -> dict[str, Any]:
    return monitor(**rule(podSelector={"matchExpressions": [requirement]}))


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown field": (monitor(polingPeriod="5s"), "spec.polingPeriod", "unknown field"),
    "an unknown field of a rule": (monitor(**rule(port=80)), "spec.blacklist[0].port", "unknown field"),
    "an unknown field of a sink without fields": (
        sinks({"name": "s", "stdout": {"format": "json"}}),
        "spec.sinks[0].stdout.format",
        "unknown field",
    ),
    "a duration that is none": (
        monitor(pollingPeriod="5 s"),
        "spec.pollingPeriod",
        "must be a duration from 1s to 5m, such as 1m30s",
    ),
    "a duration without a unit": (monitor(pollingPeriod="5"), "spec.pollingPeriod", "must be a duration from 1s to 5m"),
    "a duration as a number": (monitor(pollingPeriod=5), "spec.pollingPeriod", "must be of type string"),
    "a duration below its bound": (monitor(pollingPeriod="999ms"), "spec.pollingPeriod", "from 1s to 5m"),
    "a duration above its bound": (monitor(pollingPeriod="5m1s"), "spec.pollingPeriod", "from 1s to 5m"),
    "an age of latency above its bound": (monitor(latency={"maxAge": "2m"}), "spec.latency.maxAge", "from 1ms to 60s"),
    "a cache lifetime above its bound": (monitor(workloadCacheTTL="2h"), "spec.workloadCacheTTL", "from 1s to 1h"),
    "a cache lifetime shorter than a report's period": (
        monitor(pollingPeriod="1500ms", reportEvery=4, workloadCacheTTL="5999ms"),
        "spec.workloadCacheTTL",
        "must be at least pollingPeriod x reportEvery",
    ),
    "reports rarer than a cache lifetime can be": (
        monitor(pollingPeriod="5m", reportEvery=13),
        "spec.reportEvery",
        "pollingPeriod x reportEvery must be at most 1h",
    ),
    "reportEvery above its bound": (
        monitor(reportEvery=101),
        "spec.reportEvery",
        "should be less than or equal to 100",
    ),
    "maxFlows below its bound": (monitor(maxFlows=10), "spec.maxFlows", "should be greater than or equal to 1024"),
    "maxFlows as text": (monitor(maxFlows="2048"), "spec.maxFlows", "must be of type integer"),
    "a prefix longer than its address": (
        monitor(**rule(cidrs=["10.0.0.0/8", "10.0.0.0/33"])),
        "spec.blacklist[0].cidrs[1]",
        "must be a CIDR or an address, such as 10.0.0.0/8",
    ),
    "a bad CIDR of a rule's other end": (
        monitor(**rule(peer={"cidrs": ["fd00::/129"]})),
        "spec.blacklist[0].peer.cidrs[0]",
        "must be a CIDR or an address",
    ),
    "a bad CIDR of an external network": (
        monitor(externalNetworks=[{"name": "office", "cidrs": ["office"]}]),
        "spec.externalNetworks[0].cidrs[0]",
        "must be a CIDR or an address",
    ),
    "IPv4 mapped into IPv6": (
        monitor(**rule(cidrs=["::ffff:10.0.0.1"])),
        "spec.blacklist[0].cidrs[0]",
        "must be a CIDR or an address",
    ),
    "an external network without addresses": (
        monitor(externalNetworks=[{"name": "office"}]),
        "spec.externalNetworks[0].cidrs",
        "Required value",
    ),
    "port 0": (monitor(**rule(ports=[0])), "spec.blacklist[0].ports[0]", "must be a port 1-65535, or a range"),
    "port 65536": (monitor(**rule(ports=[80, 65536])), "spec.blacklist[0].ports[1]", "must be a port 1-65535"),
    "a range that ends before it begins": (
        monitor(**rule(ports=["9-8"])),
        "spec.blacklist[0].ports[0]",
        'a range such as "8000-8010" whose first is not above its last',
    ),
    "a range beyond the last port": (
        monitor(**rule(ports=["1-65536"])),
        "spec.blacklist[0].ports[0]",
        "must be a port 1-65535",
    ),
    "a port as text": (monitor(**rule(ports=["http"])), "spec.blacklist[0].ports[0]", "must be a port 1-65535"),
    "a pattern that is no regular expression": (
        monitor(interfaces={"vethPattern": "cali("}),
        "spec.interfaces.vethPattern",
        "must be a regular expression",
    ),
    "a pattern that looks ahead": (
        monitor(interfaces={"vethPattern": "(?!lo).*"}),
        "spec.interfaces.vethPattern",
        "must be a regular expression of characters",
    ),
    "a pattern too long": (
        monitor(interfaces={"vethPattern": "a" * 65}),
        "spec.interfaces.vethPattern",
        "may not be more than 64",
    ),
    "a plug-in beside a pattern": (
        monitor(interfaces={"cni": "calico", "vethPattern": "cali.*"}),
        "spec.interfaces.vethPattern",
        "cannot stand beside a cni other than auto",
    ),
    "an unknown plug-in": (monitor(interfaces={"cni": "calcio"}), "spec.interfaces.cni", '"calico"'),
    "an interface's name of 16 characters": (
        monitor(interfaces={"hostInterfaces": ["e" * 16]}),
        "spec.interfaces.hostInterfaces[0]",
        "may not be more than 15",
    ),
    "an interface's name with a slash": (
        monitor(interfaces={"hostInterfaces": ["eth0/1"]}),
        "spec.interfaces.hostInterfaces[0]",
        "must be an interface's name",
    ),
    "an interface named twice": (
        monitor(interfaces={"hostInterfaces": ["eth0", "eth0"]}),
        "spec.interfaces.hostInterfaces[1]",
        "Duplicate value",
    ),
    "a protocol in lower case": (monitor(**rule(protocols=["tcp"])), "spec.blacklist[0].protocols[0]", '"TCP"'),
    "a protocol named twice": (
        monitor(**rule(protocols=["TCP", "TCP"])),
        "spec.blacklist[0].protocols[1]",
        "Duplicate value",
    ),
    "a direction that is none": (monitor(**rule(direction="In")), "spec.blacklist[0].direction", '"Egress", "Ingress"'),
    "a service without its namespace": (
        monitor(**rule(services=["web"])),
        "spec.blacklist[0].services[0]",
        "must be a service such as shop/checkout",
    ),
    "a namespace with a capital": (
        monitor(**rule(namespaces=["Shop"])),
        "spec.blacklist[0].namespaces[0]",
        "must be a name of lower-case letters",
    ),
    "an empty list in a rule": (
        monitor(**rule(namespaces=[])),
        "spec.blacklist[0].namespaces",
        "should have at least 1 items",
    ),
    "a rule without a name": (monitor(blacklist=[{"ports": [80]}]), "spec.blacklist[0].name", "Required value"),
    "a rule's name too long": (
        monitor(blacklist=[{"name": "r" * 64}]),
        "spec.blacklist[0].name",
        "may not be more than 63",
    ),
    "two rules of one name": (
        monitor(whitelist=[{"name": "a"}, {"name": "b"}, {"name": "a"}]),
        "spec.whitelist[2]",
        'Duplicate value: {"name":"a"}',
    ),
    "too many rules": (
        monitor(whitelist=[{"name": f"r{each}"} for each in range(65)]),
        "spec.whitelist",
        "must have at most 64 items",
    ),
    "too many CIDRs": (
        monitor(**rule(cidrs=["10.0.0.1"] * 1001)),
        "spec.blacklist[0].cidrs",
        "must have at most 1000 items",
    ),
    "In without values": (
        selector(key="app", operator="In"),
        "spec.blacklist[0].podSelector.matchExpressions[0].values",
        "In and NotIn need at least one value",
    ),
    "Exists with values": (
        selector(key="app", operator="Exists", values=["a"]),
        "spec.blacklist[0].podSelector.matchExpressions[0].values",
        "Exists and DoesNotExist take none",
    ),
    "a label's key with a blank": (
        monitor(nodes={"nodeSelector": {"a b": "c"}}),
        "spec.nodes.nodeSelector",
        "each key must be a label's key such as app",
    ),
    "a label's value with a blank": (
        monitor(nodes={"nodeSelector": {"a": "b c"}}),
        "spec.nodes.nodeSelector[a]",
        "must be a label's value",
    ),
    "no sinks": (document("NetworkMonitor", {}), "spec.sinks", "needs at least one sink, such as {name: lines"),
    "an empty list of sinks": (sinks(), "spec.sinks", "needs at least one sink"),
    "no spec": (
        {"apiVersion": API_VERSION, "kind": "NetworkMonitor", "metadata": {"name": "a"}},
        "spec",
        "Required value",
    ),
    "a sink of no kind": (sinks({"name": "s"}), "spec.sinks[0]", "needs one of prometheus: {}, otlp, http, stdout: {}"),
    "a sink of two kinds": (
        sinks({"name": "s", "stdout": {}, "prometheus": {}}),
        "spec.sinks[0]",
        "has more than one of prometheus, otlp, http, stdout: give each a sink of its own",
    ),
    "two sinks of one name": (
        sinks(STDOUT, {"name": "lines", "prometheus": {}}),
        "spec.sinks[1]",
        'Duplicate value: {"name":"lines"}',
    ),
    "two sinks on one standard output": (
        sinks(STDOUT, {"name": "more", "stdout": {}}),
        "spec.sinks",
        "has a second stdout sink",
    ),
    "two sinks on one endpoint": (
        sinks({"name": "a", "prometheus": {}}, {"name": "b", "prometheus": {}}),
        "spec.sinks",
        "has a second prometheus sink",
    ),
    "too many sinks": (
        sinks(*({"name": f"s{each}", "http": {"url": "http://a"}} for each in range(17))),
        "spec.sinks",
        "must have at most 16 items",
    ),
    "a URL with a password": (
        sinks({"name": "s", "http": {"url": "https://me:secret@host/"}}),
        "spec.sinks[0].http.url",
        "with no user or password in it",
    ),
    "an OTLP transport that is none": (
        sinks({"name": "s", "otlp": {"endpoint": "http://host", "protocol": "http"}}),
        "spec.sinks[0].otlp.protocol",
        '"grpc", "http/protobuf"',
    ),
    "a monitor's name too long": (
        document("NetworkMonitor", {"sinks": [STDOUT]}, "a" * 41),
        "metadata.name",
        "may not be more than 40",
    ),
    "a pool's name too long": (document("AgentPool", {}, "a" * 41), "metadata.name", "may not be more than 40"),
    "a pool's quantity that is none": (
        pool(resources={"limits": {"memory": "1 GB"}}),
        "spec.resources.limits[memory]",
        "must be a quantity such as 500m or 128Mi",
    ),
    "a resource that is none of a pool's": (
        pool(resources={"limits": {"disk": "1Gi"}}),
        "spec.resources.limits",
        "each key must be one of cpu, memory, ephemeral-storage",
    ),
    "a pool's requests beyond its limits": (
        pool(resources={"limits": {"memory": "64Mi"}}),
        "spec.resources.requests",
        "must not exceed limits",
    ),
    "a toleration of nothing": (pool(tolerations=[{}]), "spec.tolerations[0]", "needs a key, or operator: Exists"),
    "a pool's two endpoints on one port": (
        pool(exchange={"port": 9435}),
        "spec.exchange.port",
        "must differ from metrics.port",
    ),
    "a log level that is none": (pool(logLevel="trace"), "spec.logLevel", '"debug", "info", "warning", "error"'),
}
"""The resource, the field that the API server names, and words of what is allowed."""


ACCEPTED: dict[str, dict[str, Any]] = {
    "the smallest monitor": monitor(),
    "empty fields": monitor(nodes=None, blacklist=None, maxFlows=None, whitelist=[], interfaces={}),
    "a kind of sink that is empty beside one that is not": sinks({"name": "s", "stdout": {}, "http": None}),
    "bounds from below": monitor(pollingPeriod="1s", reportEvery=1, maxFlows=1024, maxRows=10, workloadCacheTTL="1s"),
    "bounds from above": monitor(pollingPeriod="36s", reportEvery=100, maxFlows=4194304, workloadCacheTTL="1h"),
    "durations of several parts": monitor(pollingPeriod="1m1s500ms", latency={"maxAge": "1s500ms"}),
    "a cache lifetime of just a report's period": monitor(
        pollingPeriod="1500ms", reportEvery=4, workloadCacheTTL="6000ms"
    ),
    "ports and ranges": monitor(**rule(ports=[1, 65535, "1-65535", "7-7", "00080-00090"])),
    "networks and addresses": monitor(
        **rule(cidrs=["10.0.0.0/8", "10.1.2.3/8", "0.0.0.0/0", "10.0.0.1", "fd00::/8", "::", "::1/128"])
    ),
    "a pattern": monitor(interfaces={"vethPattern": r"(?:cali|tap)[0-9a-f\-]{4,15}?\.\d+|veth\w*"}),
    "a pattern beside auto": monitor(interfaces={"cni": "auto", "vethPattern": "cali.*"}),
    "interfaces with odd names": monitor(interfaces={"hostInterfaces": ["eth0", "br-lan.7", "ü" + "e" * 13]}),
    "labels with and without a prefix": monitor(
        nodes={"nodeSelector": {"kubernetes.io/os": "linux", "a_b.C": "", "zone": "A-1_b.c"}}
    ),
    "all operators of a selector": monitor(
        **rule(
            podSelector={
                "matchExpressions": [
                    {"key": "a", "operator": "In", "values": ["b"]},
                    {"key": "example.com/a", "operator": "NotIn", "values": ["", "c"]},
                    {"key": "a", "operator": "Exists"},
                    {"key": "a", "operator": "DoesNotExist", "values": []},
                ]
            }
        )
    ),
    "as many rules as there may be": monitor(whitelist=[{"name": f"r{each}"} for each in range(64)]),
    "as many CIDRs as there may be": monitor(**rule(cidrs=["10.0.0.1"] * 1000)),
    "the same name in both lists": monitor(whitelist=[{"name": "r"}], blacklist=[{"name": "r"}]),
    "URLs": sinks(
        *(
            {"name": f"s{each}", "http": {"url": url}}
            for each, url in enumerate(
                ["http://a", "https://a.example:4318/v1?x=1@2", "http://[fd00::1]:80/", "http://1.2.3.4:65535"]
            )
        )
    ),
    "a monitor's longest name": document("NetworkMonitor", {"sinks": [STDOUT]}, f"{'a' * 19}.{'b' * 20}"),
    "the smallest pool": pool(),
    "a pool without a spec": {"apiVersion": API_VERSION, "kind": "AgentPool", "metadata": {"name": "a"}},
    "quantities": pool(
        resources={"requests": {"cpu": 1, "memory": "0.5Gi"}, "limits": {"cpu": "1000m", "memory": "1G"}}
    ),
    "no resources": pool(resources={"requests": {}, "limits": {}}),
    "no tolerations": pool(tolerations=[]),
    "tolerations": pool(
        tolerations=[
            {"operator": "Exists", "effect": "NoSchedule"},
            {"key": "a", "value": "b"},
            {"key": "a", "operator": "Exists", "value": ""},
            {"key": "a", "operator": "Equal", "effect": "NoExecute", "tolerationSeconds": 0},
        ]
    ),
    "an image": pool(image="localhost:5000/podwire-agent@sha256:" + "0" * 64, priorityClassName="high"),
}
"""Of the API server and of files alike."""
