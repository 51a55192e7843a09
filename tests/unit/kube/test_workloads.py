"""A pod's workload, by what the pod itself tells."""

from __future__ import annotations

import pytest

from podwire_agent.kube.workloads import workload_of

MADE_S = 29_416_320 * 60 + 7
"""A few seconds after the minute that a CronJob's job is called by."""

HASH = {"pod-template-hash": "5d4f8c7b9d"}

CASES = {
    "a deployment by the hash of its template": (("ReplicaSet", "cart-5d4f8c7b9d"), HASH, ("Deployment", "cart")),
    "a name with dashes stays whole": (("ReplicaSet", "a-b-5d4f8c7b9d"), HASH, ("Deployment", "a-b")),
    "a rollout by its own label": (
        ("ReplicaSet", "cart-7c9d"),
        {"rollouts-pod-template-hash": "7c9d"},
        ("Rollout", "cart"),
    ),
    "a ReplicaSet that no deployment made": (("ReplicaSet", "cart"), {}, ("ReplicaSet", "cart")),
    "a ReplicaSet whose name ends otherwise": (("ReplicaSet", "cart-one"), HASH, ("ReplicaSet", "cart-one")),
    "a CronJob by the minute that its job was scheduled for": (("Job", "backup-29416320"), {}, ("CronJob", "backup")),
    "a job that ran late": (("Job", "backup-29416000"), {}, ("CronJob", "backup")),
    "a job that a person called by a date": (("Job", "report-20260101"), {}, ("Job", "report-20260101")),
    "a job with a number": (("Job", "report-7"), {}, ("Job", "report-7")),
    "a job without one": (("Job", "migrate"), {}, ("Job", "migrate")),
    "a StatefulSet": (("StatefulSet", "db"), {}, ("StatefulSet", "db")),
    "a DaemonSet": (("DaemonSet", "proxy"), {}, ("DaemonSet", "proxy")),
    "a static pod without its node's name": (("Node", "n1"), {}, ("StaticPod", "thing")),
    "somebody's own kind": (("Database", "shop"), {}, ("Database", "shop")),
    "a bare pod": (None, {}, ("Pod", "thing-n1")),
}


@pytest.mark.parametrize(("owner", "labels", "expected"), CASES.values(), ids=CASES)
def test_the_workload_is(owner: tuple[str, str] | None, labels: dict[str, str], expected: tuple[str, str]) -> None:
    assert workload_of("thing-n1", "n1", owner, labels, MADE_S) == expected
