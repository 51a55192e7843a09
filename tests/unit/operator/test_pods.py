from __future__ import annotations

from typing import Any

import pytest

from podwire_operator.pods import problems


def pod(*, status: Any = None, container: Any = None, node: str = "n1", **meta: Any) -> dict[str, Any]:
    given = {"name": "agent", "image": "localhost/none:1", "ready": False, **(container or {})}
    return {
        "metadata": {"name": "agent-x", **meta},
        "spec": {"nodeName": node},
        "status": {"phase": "Pending", "containerStatuses": [given], **(status or {})},
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


ENDED = {"terminated": {"reason": "Error", "exitCode": 1}}


@pytest.mark.parametrize(
    ("made", "reason", "message"),
    [
        pytest.param(
            pod(container=waiting("ErrImagePull", "rpc error: not found")),
            "ImagePull",
            "image localhost/none:1: rpc error: not found",
            id="an image is not there",
        ),
        pytest.param(
            pod(
                container=waiting("ImagePullBackOff", 'Back-off pulling image "x": ErrImagePull: rpc error: not found')
            ),
            "ImagePull",
            "image localhost/none:1: rpc error: not found",
            id="the same while the kubelet waits for the next try",
        ),
        pytest.param(
            pod(container={**waiting("CrashLoopBackOff", "back-off 10s"), "lastState": ENDED}),
            "CrashLoop",
            "it ended with Error, exit code 1: its log tells why",
            id="it crashes and waits",
        ),
        pytest.param(
            pod(container={"state": {"running": {}}, "lastState": ENDED}),
            "CrashLoop",
            "it ended with Error, exit code 1: its log tells why",
            id="the same while it runs for a moment",
        ),
        pytest.param(
            pod(container={"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}),
            "CrashLoop",
            "it ended with OOMKilled, exit code 137: its log tells why",
            id="it takes too much memory",
        ),
        pytest.param(
            pod(container=waiting("CreateContainerConfigError", 'secret "x" not found')),
            "CreateContainerConfigError",
            'secret "x" not found',
            id="its container cannot be made",
        ),
        pytest.param(
            pod(status={"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory"}),
            "Evicted",
            "The node was low on memory",
            id="it was evicted",
        ),
        pytest.param(
            pod(
                status={
                    "conditions": [
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
                    ]
                }
            ),
            "Unschedulable",
            "0/1 nodes",
            id="it fits nowhere",
        ),
    ],
)
def test_why_a_pod_does_not_run(made: dict[str, Any], reason: str, message: str) -> None:
    found = problems([made])["n1"]
    assert (found.pod, found.reason, found.message) == ("agent-x", reason, message)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(pod(container=waiting("ContainerCreating")), id="it is being made"),
        pytest.param(pod(container={"ready": True, "state": {"running": {}}, "lastState": ENDED}), id="it runs again"),
        pytest.param(pod(container={"state": {"running": {}}}), id="it is not ready yet"),
        pytest.param(
            pod(container=waiting("ErrImagePull"), deletionTimestamp="2026-01-01T00:00:00Z"), id="it is being deleted"
        ),
        pytest.param({"metadata": {}, "spec": {}, "status": {}}, id="nothing is known of it"),
    ],
)
def test_what_passes_by_itself_is_no_problem(made: dict[str, Any]) -> None:
    assert problems([made]) == {}


def test_a_pod_without_a_node_is_told_at_the_node_that_it_is_meant_for() -> None:
    made = pod(container=waiting("ErrImagePull"), node="")
    required = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "values": ["n7"]}]}]}
    made["spec"]["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    assert problems([made]).keys() == {"n7"}
