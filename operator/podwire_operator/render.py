"""From a pool and the monitors to the DaemonSet of its agents, purely. The whole of what the operator says of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from podwire_api.agentpool import AgentPoolSpec, Toleration
from podwire_api.names import AGENT, AGENT_TLS_SECRET, API_VERSION, OPERATOR, POOL_LABEL
from podwire_operator.facts import daemon_set_name
from podwire_operator.objects import Pool

MANAGED_BY = "app.kubernetes.io/managed-by"
NAME = "app.kubernetes.io/name"

HEALTH_PORT = 9437
STATE_DIR = "/run/podwire"
BPFFS = "/sys/fs/bpf"
BPFFS_IN_POD = "/run/podwire-bpffs"
"""Outside /sys: AppArmor's default profile denies writes below /sys/fs."""
TLS_DIR = "/etc/podwire/tls"

TLS_DIR = "/etc/podwire/tls"
METRICS_PORT_NAME = "metrics"
"""As the Service and the PodMonitor call it: pools may have ports of their own."""

MAX_TERMS = 128
"""Alternatives in a DaemonSet's node affinity."""

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rendered:
    """The DaemonSet to be applied, or why there is to be none."""

    daemon_set: dict[str, Any] | None
    unmatched: bool = False
    """No monitor selects a node that the pool could have."""
    too_many_terms: bool = False
    """The selectors of monitors and elder pools have more combinations than a DaemonSet should list."""


def render(
    pool: Pool,
    elders: Iterable[Pool],
    selectors: Iterable[frozenset[tuple[str, str]]],
    *,
    namespace: str,
    default_image: str,
) -> Rendered:
    """For a valid pool. It runs where the pool selects AND some monitor does, and no elder pool does."""
    spec = pool.spec or AgentPoolSpec()
    terms = _terms(spec.node_selector, [dict(each) for each in selectors], [each.selector for each in elders])
    if not terms:
        return Rendered(None, unmatched=True)
    if len(terms) > MAX_TERMS:
        return Rendered(None, too_many_terms=True)
    name = pool.meta.name
    selector = {NAME: AGENT, POOL_LABEL: name}
    labels = {**selector, MANAGED_BY: OPERATOR}
    image = spec.image or default_image
    return Rendered(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {
                "name": daemon_set_name(name),
                "namespace": namespace,
                "labels": labels,
                "ownerReferences": [
                    {
                        "apiVersion": API_VERSION,
                        "kind": "AgentPool",
                        "name": name,
                        "uid": pool.meta.uid,
                        "controller": True,
                        "blockOwnerDeletion": False,  # true needs a right of its own, and could hold up the pool's end
                    }
                ],
            },
            "spec": {
                "selector": {"matchLabels": selector},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
                "template": {"metadata": {"labels": labels}, "spec": _pod(name, spec, image, terms)},
            },
        }
    )


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "protocol": "TCP", "containerPort": number, "hostPort": number}


def _pod(pool: str, spec: AgentPoolSpec, image: str, terms: list[list[dict[str, Any]]]) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "serviceAccountName": AGENT,
        "hostNetwork": True,  # the veths' host ends are there
        "dnsPolicy": "ClusterFirstWithHostNet",
        "priorityClassName": spec.priority_class_name,
        "terminationGracePeriodSeconds": 30,
        "tolerations": [_toleration(each) for each in spec.tolerations],
        "containers": [_container(pool, spec, image)],
        "volumes": [
            {"name": "state", "hostPath": {"path": STATE_DIR, "type": "DirectoryOrCreate"}},
            {"name": "bpffs", "hostPath": {"path": BPFFS, "type": "Directory"}},
            # Optional: agents count from the start, and the Secret may come a moment later.
            {
                "name": AGENT_TLS_SECRET,
                "secret": {"secretName": AGENT_TLS_SECRET, "defaultMode": 0o400, "optional": True},
            },
        ],
    }
    if spec.node_selector:
        pod["nodeSelector"] = dict(sorted(spec.node_selector.items()))
    if all(terms):  # an empty term: every node of the pool
        alternatives = [{"matchExpressions": term} for term in terms]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": alternatives}}
        pod["affinity"] = {"nodeAffinity": required}
    return pod


def _container(pool: str, spec: AgentPoolSpec, image: str) -> dict[str, Any]:
    variables = {"NODE_NAME": "spec.nodeName", "POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}
    command = ["podwire-agent", "run", "--node", "$(NODE_NAME)", "--pool", pool, "--pod", "$(POD_NAME)"]
    command += ["--namespace", "$(POD_NAMESPACE)", "--bpffs", BPFFS_IN_POD, "--log-level", spec.log_level]
    command += ["--metrics", f"[::]:{spec.metrics.port}", "--metrics-auth", spec.metrics.auth]
    command += ["--exchange-port", str(spec.exchange.port)]
    return {
        "name": "agent",
        "image": image,
        "command": command,
        # The host's too: the scheduler keeps other pods that want them away.
        "ports": [_port(METRICS_PORT_NAME, spec.metrics.port), _port("exchange", spec.exchange.port)],
        "env": [
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in sorted(variables.items())
        ],
        "resources": {"requests": dict(spec.resources.requests), "limits": dict(spec.resources.limits)},
        "securityContext": {
            "runAsUser": 0,  # pins and the state directory are root's
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "livenessProbe": {**_probe("/healthz"), "initialDelaySeconds": 10, "periodSeconds": 15, "failureThreshold": 4},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 5},
        "volumeMounts": [
            {"name": "state", "mountPath": STATE_DIR},
            # So that a bpffs that the node gets later is there without a new pod.
            {"name": "bpffs", "mountPath": BPFFS_IN_POD, "mountPropagation": "HostToContainer"},
            {"name": AGENT_TLS_SECRET, "mountPath": TLS_DIR, "readOnly": True},
        ],
    }


def _probe(path: str) -> dict[str, Any]:
    """The host's network is the pod's: the agent listens on the loopback address alone."""
    return {"httpGet": {"host": "127.0.0.1", "port": HEALTH_PORT, "path": path}, "timeoutSeconds": 3}


def _toleration(toleration: Toleration) -> dict[str, Any]:
    return toleration.model_dump(by_alias=True, exclude_none=True)


def _terms(pool: Labels, monitors: list[Labels], elders: list[Labels]) -> list[list[dict[str, Any]]]:
    """Alternatives of label expressions that hold, besides the pool's own labels, where its agents run.

    An elder pool has all nodes with its labels; what is left are nodes that lack one of them. Written by selectors,
    not by names of nodes: a label given to a node later must not bring it a second agent.
    """
    wanted = _minimal([rest for selector in monitors if (rest := _beyond(selector, pool)) is not None])
    rivals = _minimal([rest for selector in elders if (rest := _beyond(selector, pool)) is not None])
    if not all(rivals):
        return []  # an elder pool has all of this one's nodes
    terms = []
    for selector in wanted:
        for lacking in itertools.islice(itertools.product(*(sorted(rival.items()) for rival in rivals)), MAX_TERMS + 1):
            if any(selector.get(key) == value for key, value in lacking):
                continue  # a node cannot both have and lack it
            term = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selector.items())]
            term += [{"key": k, "operator": "NotIn", "values": [v]} for k, v in sorted(set(lacking))]
            if term not in terms:
                terms.append(term)
    return terms


def _beyond(selector: Labels, pool: Labels) -> dict[str, str] | None:
    """What it asks beyond what the pool's nodes have anyway; None where no node of the pool can have it."""
    if any(key in pool and pool[key] != value for key, value in selector.items()):
        return None
    return {key: value for key, value in selector.items() if key not in pool}


def _minimal(selectors: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without those that ask more than another one, in an order of their own: agents roll for nothing else."""
    found: list[dict[str, str]] = []
    for selector in sorted(selectors, key=lambda each: (len(each), sorted(each.items()))):
        if not any(other.items() <= selector.items() for other in found):
            found.append(selector)
    return found
