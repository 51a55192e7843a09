"""Which workload a pod belongs to, told by the pod alone: no ReplicaSet and no Job is followed for it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

STATIC_POD = "StaticPod"
"""The kind of what a node runs by a file of its own: its pods are owned by the Node."""
BARE_POD = "Pod"

_BY_TEMPLATE_HASH = {"pod-template-hash": "Deployment", "rollouts-pod-template-hash": "Rollout"}
"""The label that a controller puts on its ReplicaSets and their pods; it ends the ReplicaSet's name too."""

_BEFORE_S = 30 * 86400
_AFTER_S = 86400
"""A job's pod is made after the time that the job was scheduled for, unless clocks are apart; retries come late."""


def workload_of(
    pod: str, node: str, owner: tuple[str, str] | None, labels: Mapping[str, str], created_unix_s: int
) -> tuple[str, str]:
    """The workload's kind and name. `owner`: the kind and name of the pod's controller, None where it has none."""
    if owner is None:
        return BARE_POD, pod
    kind, name = owner
    match kind:
        case "ReplicaSet":
            for label, above in _BY_TEMPLATE_HASH.items():
                stem = name.removesuffix(f"-{labels.get(label, '')}")
                if stem != name and stem:
                    return above, sys.intern(stem)
        case "Job":
            stem, _, minutes = name.rpartition("-")
            if stem and _is_schedule(minutes, created_unix_s):
                return "CronJob", sys.intern(stem)
        case "Node":
            return STATIC_POD, sys.intern(pod.removesuffix(f"-{node or name}"))
    return sys.intern(kind), sys.intern(name)


def _is_schedule(text: str, created_unix_s: int) -> bool:
    """Whether it is the minute, since 1970, that a CronJob made a job for (Kubernetes 1.21, batch/v1): a date in as
    many digits, as people put at the end of a name, is some 16 years ago when read so.
    """
    if not (text.isascii() and text.isdecimal() and text[0] != "0" and len(text) <= 10):
        return False
    return -_AFTER_S <= created_unix_s - 60 * int(text) <= _BEFORE_S
