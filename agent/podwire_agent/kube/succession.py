"""At the end of an agent: will another one take over what is attached, or must nothing be left?"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec

from podwire_agent.errors import ClusterError
from podwire_agent.kube.connection import Connection
from podwire_agent.kube.monitors import node_selector
from podwire_agent.kube.objects import PAGE, Meta, Page, Pool, WireMonitor
from podwire_agent.kube.view import MONITORS_PATH, NODES_PATH, POOLS_PATH, ClusterView
from podwire_api.names import AGENT
from podwire_api.selection import selects

T = TypeVar("T")
_Object = TypeVar("_Object", bound=Meta)

REQUEST_S = 2.0
DENIED_AGAIN_S = 5.0
"""A refusal counts if it is still there so much later: a role may be replaced in between."""


def successor_expected(
    connection: Connection,
    view: ClusterView | None,
    node: str,
    namespace: str,
    pool: str,
    pause: Callable[[float], object] = time.sleep,
) -> tuple[bool, str]:
    """Whether an agent will run on `node` again, and why in words. Asks the API server anew, 6 s at most.

    Where it does not answer, the last view decides; without one a successor is expected.
    """
    refusal = ""
    for wait_s in (0.0, DENIED_AGAIN_S):
        if wait_s:
            pause(wait_s)
        try:
            why_not = _why_not(connection, node, namespace, pool)
        except ClusterError as error:
            if not error.denied:
                return _as_last_seen(view, node, error)
            refusal = str(error)
        else:
            return (False, why_not) if why_not else (True, f"monitors and the agents of pool {pool} are still there")
    return False, f"the agent may not ask any more: {refusal}"


def _as_last_seen(view: ClusterView | None, node: str, error: ClusterError) -> tuple[bool, str]:
    if view is not None and not view.selecting():
        return False, f"as last seen, no monitor and pool select node {node}, and nobody tells otherwise: {error}"
    return True, f"nobody tells otherwise: {error}"


def _why_not(connection: Connection, node: str, namespace: str, pool: str) -> str:
    """What speaks against a successor; empty where nothing does. ClusterError."""
    daemonset = f"{AGENT}-{pool}"
    for words, path in (
        (f"namespace {namespace}", f"/api/v1/namespaces/{namespace}"),
        (f"DaemonSet {daemonset}", f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{daemonset}"),
    ):
        found = _asked(connection, path, Meta)
        if found is None:
            return f"{words} is gone"
        if found.metadata.deletion_timestamp is not None:
            return f"{words} is being deleted"
    monitors = _all(connection, MONITORS_PATH, WireMonitor)
    pools = _all(connection, POOLS_PATH, Pool)
    if monitors is None or pools is None:
        return "the cluster does not know Podwire's resources any more"
    nodes = _all(connection, NODES_PATH, Meta, fieldSelector=f"metadata.name={node}")
    labels = (nodes[0].metadata.labels or {}) if nodes else None
    pool_selectors = [each.spec.node_selector or {} for each in pools]
    if labels is None:
        return f"node {node} is gone"
    if not any(selects(selector, labels) for selector in pool_selectors):
        return f"no pool selects node {node}"
    if not any(selects(node_selector(each), labels) for each in monitors):
        return f"no monitor selects node {node}"
    return ""


def _all(connection: Connection, path: str, wire: type[_Object], **query: str) -> list[_Object] | None:
    """Every object, or None where the kind is gone. ClusterError."""
    found: list[_Object] = []
    while True:
        page = _asked(connection, path, Page[wire], limit=str(PAGE), **query)  # type: ignore[valid-type]
        if page is None:
            return None
        found += page.items
        if not page.metadata.next_page:
            return found
        query["continue"] = page.metadata.next_page


def _asked(connection: Connection, path: str, wire: type[T], **query: str) -> T | None:
    """The answer, or None where it is 404. ClusterError."""
    try:
        return msgspec.json.decode(connection.request("GET", path, query=query, timeout_s=REQUEST_S), type=wire)
    except msgspec.MsgspecError as error:
        raise ClusterError(None, f"GET {path}: the API server's answer makes no sense: {error}") from error
    except ClusterError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise
