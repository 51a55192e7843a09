"""From a judgement to the status that is stored, and whether writing it is worth it. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Any

from podwire_api.status import AgentPoolStatus, NetworkMonitorStatus
from podwire_operator import words
from podwire_operator.judge import Figures, Judgement
from podwire_operator.objects import Document

MAX_MESSAGE = 2048


class Change(Enum):
    """What a status to be has that the present one has not."""

    NONE = 0
    WORDS = 1
    """Figures or sentences."""
    STATE = 2
    """A condition, its reason, or the generation that is told of."""


def monitor_status(judgement: Judgement, present: Document, generation: int, now: str) -> dict[str, Any]:
    """`now`: RFC 3339, for conditions whose status changes."""
    figures = judgement.figures
    status = {
        "observedGeneration": generation,
        "conditions": _conditions(judgement, present, generation, now),
        "nodes": _nodes(figures),
        "pods": figures.pods,
        "flowsPerSecond": words.two_digits(figures.flows_per_second),
        "lost": "-" if figures.lost is None else str(words.two_digits(figures.lost)),
        "overflowed": str(words.two_digits(figures.overflowed)),
    }
    return NetworkMonitorStatus.model_validate(status).model_dump(by_alias=True, exclude_none=True, mode="json")


def pool_status(judgement: Judgement, present: Document, generation: int, now: str, image: str) -> dict[str, Any]:
    """As monitor_status; `image`: that of the agents."""
    status = {
        "observedGeneration": generation,
        "conditions": _conditions(judgement, present, generation, now),
        "nodes": _nodes(judgement.figures),
        "image": image,
    }
    return AgentPoolStatus.model_validate(status).model_dump(by_alias=True, exclude_none=True, mode="json")


def change(present: Document, wanted: Document) -> Change:
    """How much of it is news."""
    if _state(present) != _state(wanted):
        return Change.STATE
    return Change.NONE if present == wanted else Change.WORDS


def ready_reason(status: Document) -> str:
    """Of the Ready condition; "" where there is none."""
    return next((reason for kind, _, reason, _ in _state(status)[1] if kind == "Ready"), "")


def _state(status: Document) -> tuple[object, list[tuple[str, str, str, object]]]:
    conditions = status.get("conditions") or []
    told = sorted(
        (str(c.get("type")), str(c.get("status")), str(c.get("reason")), c.get("observedGeneration"))
        for c in conditions
    )
    return status.get("observedGeneration"), told


def _conditions(judgement: Judgement, present: Document, generation: int, now: str) -> list[dict[str, object]]:
    since = {(c.get("type"), c.get("status")): c.get("lastTransitionTime") for c in present.get("conditions") or []}
    return [
        {
            "type": str(finding.type),
            "status": finding.status,
            "observedGeneration": generation,
            "lastTransitionTime": since.get((finding.type, finding.status)) or now,
            "reason": str(finding.reason),
            "message": finding.message[:MAX_MESSAGE],
        }
        for finding in judgement.findings
    ]


def _nodes(figures: Figures) -> dict[str, object]:
    return {"desired": figures.desired, "ready": figures.ready, "summary": f"{figures.ready}/{figures.desired}"}
