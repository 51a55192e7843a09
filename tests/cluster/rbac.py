"""What a service account may do, by the manifests, beside what it was seen to do, by the API server's audit log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from podwire_api.names import NAMESPACE
from tests.cluster.audit import Request

GIVEN_TO_ALL = re.compile(r"/(api|apis|openapi|version)([/?].*)?$")
"""Paths that are no resource's and that Kubernetes itself lets every account read: its role system:discovery."""


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One verb on one kind of thing; also a call, as the right that it needs."""

    group: str
    resource: str
    """With its subresource: "agentnodes/status"."""
    verb: str
    namespace: str = ""
    """"" means all of them, or that the resource is in none."""
    name: str = ""
    """"" means any."""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        named = f" {self.name}" if self.name else ""
        return f"{self.verb} {kind}{named} in {self.namespace or 'the whole cluster'}"

    def covers(self, call: Right) -> bool:
        """Whether this right allows the call."""
        return (
            (self.group, self.resource, self.verb) == (call.group, call.resource, call.verb)
            and self.namespace in ("", call.namespace)
            and self.name in ("", call.name)
        )


def granted(documents: Iterable[dict[str, Any]], account: str) -> set[Right]:
    """The rights that the roles among the documents, by their bindings, give to a service account of Podwire's."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        by_kind.setdefault(document["kind"], []).append(document)
    roles = {
        (role["kind"], role["metadata"].get("namespace", ""), role["metadata"]["name"]): role["rules"]
        for role in (*by_kind.get("ClusterRole", ()), *by_kind.get("Role", ()))
    }
    subject = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
    rights: set[Right] = set()
    for binding in (*by_kind.get("ClusterRoleBinding", ()), *by_kind.get("RoleBinding", ())):
        if subject not in binding["subjects"]:
            continue
        namespace = binding["metadata"].get("namespace", "")
        kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
        for rule in roles[kind, namespace if kind == "Role" else "", name]:
            rights.update(_expanded(rule, namespace))
    return rights


def _expanded(rule: dict[str, Any], namespace: str) -> Iterator[Right]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames", [""]):
                    yield Right(group, resource, verb, namespace, name)


def called(requests: Iterable[Request], account: str) -> set[Right]:
    """What the account asked for, whatever was answered; without what every account may do."""
    user = f"system:serviceaccount:{NAMESPACE}:{account}"
    return {
        right
        for request in requests
        if request.user == user and not _given_to_all(request)
        for right in _needed(request)
    }


def _given_to_all(request: Request) -> bool:
    return not request.resource and bool(GIVEN_TO_ALL.match(request.path))


def _needed(request: Request) -> Iterator[Right]:
    if not request.resource:
        yield Right("", request.path.partition("?")[0], request.verb)
        return
    resource = f"{request.resource}/{request.subresource}" if request.subresource else request.resource
    # The log says of a Namespace that it is in itself; for RBAC it is in none.
    namespace = "" if (request.group, request.resource) == ("", "namespaces") else request.namespace
    yield Right(request.group, resource, request.verb, namespace, request.name)
    if request.verb == "patch" and request.code == HTTPStatus.CREATED:
        # A server-side apply of what was not there; the API server asks for both rights and logs one verb.
        yield Right(request.group, resource, "create", namespace, request.name)


def missing(rights: set[Right], calls: set[Right]) -> list[str]:
    """The calls that no right allows, in words."""
    return sorted(str(call) for call in calls if not any(right.covers(call) for right in rights))


def idle(rights: set[Right], calls: set[Right]) -> list[str]:
    """The rights that no call needed as wide as they are, in words.

    A right in the whole cluster is not needed for calls in one namespace.
    """
    return sorted(
        str(right)
        for right in rights
        if not any(right.covers(call) and right.namespace == call.namespace for call in calls)
    )
