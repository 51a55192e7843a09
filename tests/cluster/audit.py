"""The API server's audit log: who asked for what, and what was answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # The cluster's own parts ask all the time, and nobody asks about them.
        {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
        {
            "level": "None",
            "users": [
                "system:apiserver",
                "system:kube-controller-manager",
                "system:kube-proxy",
                "system:kube-scheduler",
            ],
        },
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*"]},
        {"level": "Metadata"},
    ],
}
READING = frozenset({"get", "list", "watch"})


@dataclass(frozen=True, slots=True)
class Request:
    """One that was answered; a watch is told when it begins (ResponseStarted) and when it ends (ResponseComplete)."""

    time: datetime
    """When it came."""
    stage: str
    user: str
    """"system:serviceaccount:NAMESPACE:NAME" for pods."""
    agent: str
    """User-Agent."""
    verb: str
    group: str
    resource: str
    """"" where the path is no resource's."""
    subresource: str
    namespace: str
    name: str
    path: str
    """With its query."""
    code: int

    @property
    def writes(self) -> bool:
        """Whether it is none that reads only."""
        return self.verb not in READING


def requests(log: Path) -> Iterator[Request]:
    """In the order in which they were answered."""
    if not log.exists():
        return
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return  # it is being written
            event = json.loads(line)
            target = event.get("objectRef", {})
            yield Request(
                time=datetime.fromisoformat(event["requestReceivedTimestamp"]),
                stage=event["stage"],
                user=event["user"].get("username", ""),  # none where the token is no good
                agent=event.get("userAgent", ""),
                verb=event["verb"],
                group=target.get("apiGroup", ""),
                resource=target.get("resource", ""),
                subresource=target.get("subresource", ""),
                namespace=target.get("namespace", ""),
                name=target.get("name", ""),
                path=event["requestURI"],
                code=event["responseStatus"]["code"],
            )
