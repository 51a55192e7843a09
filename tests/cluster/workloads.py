"""Deployments that serve and ask, services before them, and what one connection of theirs amounts to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.polling import eventually
from tests.cluster.traffic import RECEIVE, TCP_PORT, UDP_PORT, Pair
from tools.images import image

SERVICE_TCP, SERVICE_UDP = 80, 53
"""Other ports than the pods have, so that nobody takes one for the other."""


def deployment(name: str, node: str, *command: str, replicas: int = 1) -> dict[str, Any]:
    """Of pods on one node."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": node},
                    "containers": [{"name": "main", "image": image("agent"), "command": list(command)}],
                    "terminationGracePeriodSeconds": 0,
                },
            },
        },
    }


def service(name: str, app: str, **spec: Any) -> dict[str, Any]:
    """Of both families, before the pods of a deployment that receives."""
    ports = [
        {"name": "tcp", "protocol": "TCP", "port": SERVICE_TCP, "targetPort": TCP_PORT},
        {"name": "udp", "protocol": "UDP", "port": SERVICE_UDP, "targetPort": UDP_PORT},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": app}, "ports": ports, "ipFamilyPolicy": "RequireDualStack", **spec},
    }


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


def pods_of(cluster: Cluster, app: str, count: int = 1) -> list[dict[str, Any]]:
    """Of a deployment, once so many run and no other is left."""

    def running() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = cluster.get("pods", f"--selector=app={app}")["items"]
        ready = [each for each in items if each["status"]["phase"] == "Running" and each["status"].get("podIPs")]
        return ready if len(items) == len(ready) == count else []

    return eventually(running, f"{count} pods of {app} run", 60)


@contextmanager
def client_of_a_service(cluster: Cluster, client_node: str = "node-1", server_node: str = "node-2") -> Iterator[Pair]:
    """Deployment `ask` that talks to service `door` of deployment `serve`: a Pair whose server is the service."""
    ask = deployment("ask", client_node, "sleep", "infinity")
    serve = deployment("serve", server_node, "python3", "-c", RECEIVE)
    with made(cluster, ask, serve, service("door", "serve")):
        [client], [server] = pods_of(cluster, "ask"), pods_of(cluster, "serve")
        eventually(lambda: endpoints(cluster, "door"), "the service has endpoints", 30)
        addresses = cluster.get("service", "door")["spec"]["clusterIPs"]
        behind = {"metadata": server["metadata"], "status": {"podIPs": [{"ip": each} for each in addresses]}}
        yield Pair(cluster, client, behind, SERVICE_UDP, SERVICE_TCP)


def endpoints(cluster: Cluster, name: str) -> bool:
    """Whether there is one that is ready in each family."""
    slices = cluster.get("endpointslices", f"--selector=kubernetes.io/service-name={name}")["items"]
    return len(slices) == 2 and all(
        any(each.get("conditions", {}).get("ready") for each in item["endpoints"] or ()) for item in slices
    )
