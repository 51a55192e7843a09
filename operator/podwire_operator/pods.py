"""Why agents' pods do not run, from what the kubelet and the scheduler say of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from podwire_operator.facts import PodProblem
from podwire_operator.objects import Document

_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"})
_ON_THE_WAY = frozenset({"ContainerCreating", "PodInitializing", ""})


def problems(pods: Iterable[Document]) -> dict[str, PodProblem]:
    """By the node that the pod is, or should be, on. Pods that start, run or end in order have none."""
    found: dict[str, PodProblem] = {}
    for pod in pods:
        if (pod.get("metadata") or {}).get("deletionTimestamp"):
            continue
        reason_and_message = _problem(pod)
        if reason_and_message is not None and (node := _node(pod)):
            found[node] = PodProblem(str((pod.get("metadata") or {}).get("name", "")), *reason_and_message)
    return found


def _problem(pod: Document) -> tuple[str, str] | None:
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return str(status.get("reason") or "Failed"), str(status.get("message") or "the pod has failed")
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or "Unschedulable"), str(condition.get("message", ""))
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if (problem := _container_problem(container)) is not None:
            return problem
    return None


def _container_problem(container: Mapping[str, Any]) -> tuple[str, str] | None:
    """The same words while a container goes back and forth between failing and waiting for the next try."""
    if container.get("ready"):
        return None
    state, last = container.get("state") or {}, container.get("lastState") or {}
    waiting = state.get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    message = str(waiting.get("message") or "")
    if reason in _IMAGE:
        # "Back-off pulling image ...: ErrImagePull: rpc error ...", then "rpc error ..." again.
        said = message.partition("ErrImagePull: ")[2] or message
        return "ImagePull", f"image {container.get('image', '')}: {said}"
    ended = state.get("terminated") or last.get("terminated")
    if ended and (ended.get("exitCode") or ended.get("signal")):
        how = str(ended.get("reason") or "Error")
        words = str(ended.get("message") or "").strip() or "its log tells why"
        return "CrashLoop", f"it ended with {how}, exit code {ended.get('exitCode')}: {words}"
    if reason not in _ON_THE_WAY:
        return reason, message
    return None


def _node(pod: Document) -> str:
    """Where it is, or, while it is not scheduled, where its DaemonSet's controller wants it."""
    spec = pod.get("spec") or {}
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or []:
        for wanted in term.get("matchFields") or []:
            if wanted.get("key") == "metadata.name" and wanted.get("values"):
                return str(wanted["values"][0])
    return ""
