"""What a NetworkMonitor may say and this version does not do: refused where it is set, told where it is a default.

When a part is built its lines go from here.
"""

from __future__ import annotations

from collections.abc import Iterator

from podwire_api import NetworkMonitor, NetworkMonitorSpec

_BUILT_SINKS = frozenset({"prometheus", "stdout"})
_SHOWING_ROWS = frozenset({"prometheus"})
_ASKS_THE_CLUSTER = {
    "namespaces": "namespaces",
    "namespace_selector": "namespaceSelector",
    "pod_selector": "podSelector",
    "services": "services",
}


def refusals(monitor: NetworkMonitor, *, in_cluster: bool = False) -> list[str]:
    """A line each, `FIELD: words`, for what was set explicitly and cannot be done; the monitor cannot run with any.

    `in_cluster`: there is an API server that knows pods and services.
    """
    spec = monitor.spec
    set_here = {
        **_latency(spec),
    }
    lines = [f"{subject} not built yet in this version; remove it" for subject, is_set in set_here.items() if is_set]
    if not in_cluster:
        lines += [
            f"{field}: without a cluster nobody can say which pods or services are meant; use cidrs"
            for field in _asking_the_cluster(spec)
        ]
    for index, sink in enumerate(spec.sinks):
        lines += [
            f"spec.sinks[{index}].{kind}: this sink is not built yet in this version; use stdout: {{}} or no sink"
            for kind in sink.kinds
            if kind not in _BUILT_SINKS
        ]
        lines += [
            f"spec.sinks[{index}].{kind}: without a cluster nobody can say which workloads talk; use stdout: {{}}"
            for kind in sink.kinds
            if kind in _SHOWING_ROWS and not in_cluster
        ]
    return lines


def _asking_the_cluster(spec: NetworkMonitorSpec) -> Iterator[str]:
    """Where rules ask for pods or services."""
    lists = {"whitelist": spec.whitelist, "blacklist": spec.blacklist}
    for name, rules in lists.items():
        for index, rule in enumerate(rules):
            for end, place in ((rule, ""), (rule.peer, "peer.")):
                for field, words in _ASKS_THE_CLUSTER.items():
                    if end is not None and field in end.model_fields_set:
                        yield f"spec.{name}[{index}].{place}{words}"


def _latency(spec: NetworkMonitorSpec) -> dict[str, bool]:
    given = spec.latency.model_fields_set if spec.latency.enabled else frozenset()
    return {
        "spec.latency.enabled: measuring latency is": "enabled" in given,
        "spec.latency.maxAge: measuring latency is": "max_age" in given,
    }


def switched_off(monitor: NetworkMonitor) -> list[str]:
    """A line each, `FIELD: words`, for what the monitor would do by default and this version does not."""
    spec = monitor.spec
    lines = []
    if spec.latency.enabled:
        lines.append("spec.latency: off in this version: latency is not measured")
    return lines


def without_cluster(monitor: NetworkMonitor) -> list[str]:
    """A line each, `FIELD: words`, for what means nothing where a file is run."""
    lines = []
    if monitor.spec.nodes.node_selector:
        lines.append("spec.nodes.nodeSelector: not looked at without a cluster: the monitor runs here")
    if "workload_cache_ttl" in monitor.spec.model_fields_set:
        lines.append("spec.workloadCacheTTL: not looked at without a cluster: there are no pods to remember")
    if monitor.spec.external_networks:
        lines.append("spec.externalNetworks: not looked at without a cluster: reports have addresses, and no names")
    if monitor.spec.loss.exchange and "exchange" in monitor.spec.loss.model_fields_set:
        lines.append("spec.loss.exchange: not looked at without a cluster: there are no other agents")
    if "max_rows" in monitor.spec.model_fields_set:
        lines.append("spec.maxRows: not looked at without a cluster: there are no workloads to tell apart")
    return lines
