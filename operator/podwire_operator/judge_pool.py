"""What a pool's status says, purely: from its DaemonSet and its agents' pods to conditions and counts."""

from __future__ import annotations

from dataclasses import dataclass

from podwire_api.conditions import ConditionType, PoolReason
from podwire_operator import words
from podwire_operator.facts import PoolFacts
from podwire_operator.judge import FALSE, SEE_PODS, TRUE, Figures, Finding, Judgement
from podwire_operator.objects import DaemonSet
from podwire_operator.render import Rendered

STALLED = frozenset({PoolReason.OVERLAP, PoolReason.INVALID_SPEC, PoolReason.REFUSED})
"""Nothing changes until a person does something."""

_DONE = frozenset({PoolReason.ROLLED_OUT, PoolReason.NO_MONITORS})


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a DaemonSet's pods, by its controller."""

    desired: int = 0
    updated: int = 0
    """Made from the present template."""
    available: int = 0
    told: bool = False
    """The controller has seen the present template."""

    @property
    def ready(self) -> int:
        """Pods that run with the present template: at least so many are both."""
        return max(0, min(self.updated, self.available)) if self.told else 0


def counts(live: DaemonSet | None) -> Counts:
    """Nothing where there is no DaemonSet."""
    status = (live.document.get("status") or {}) if live is not None else {}
    if live is None or not isinstance(status.get("observedGeneration"), int):
        return Counts()
    return Counts(
        desired=status.get("desiredNumberScheduled", 0),
        updated=status.get("updatedNumberScheduled", 0),
        available=status.get("numberAvailable", 0),
        told=status["observedGeneration"] >= live.meta.generation,
    )


def judge_pool(facts: PoolFacts, rendered: Rendered | None) -> Judgement:
    """`rendered`: None where the spec is not valid."""
    counted = counts(facts.live)
    reason, message = _reason(facts, rendered, counted)
    findings = [Finding(ConditionType.READY, TRUE if reason in _DONE else FALSE, reason, message)]
    if reason not in _DONE:
        standing = ConditionType.STALLED if reason in STALLED else ConditionType.RECONCILING
        findings.append(Finding(standing, TRUE, reason, message))
    return Judgement(tuple(findings), Figures(desired=counted.desired, ready=counted.ready))


def _reason(facts: PoolFacts, rendered: Rendered | None, counted: Counts) -> tuple[PoolReason, str]:
    """The first link of the chain that holds."""
    if rendered is None:
        return PoolReason.INVALID_SPEC, f"{facts.pool.problem}. The agents stay as they are until it is put right."
    if facts.trouble.refused:
        said = words.quoted(facts.trouble.refused)
        return PoolReason.REFUSED, f"The API server does not take the agents' DaemonSet: {said}."
    if facts.contested:
        return PoolReason.OVERLAP, _overlap(facts)
    if rendered.too_many_terms:
        return PoolReason.REFUSED, (
            "The selectors of the monitors and of elder pools have more combinations than a DaemonSet should list. "
            "Use fewer labels: one label for all nodes of a pool is best."
        )
    if rendered.daemon_set is None:
        return _unmatched(facts)
    return _running(facts, counted)


def _running(facts: PoolFacts, counted: Counts) -> tuple[PoolReason, str]:
    if facts.live is None or not counted.told:
        return PoolReason.PENDING, "The DaemonSet is made; its controller has not looked at it yet."
    if facts.trouble.pods and counted.ready < counted.desired:
        return PoolReason.AGENTS_FAILING, _failing(facts)
    if counted.ready < counted.desired or counted.updated < counted.desired:
        return PoolReason.ROLLING_OUT, (
            f"{counted.ready} of {counted.desired} agents run with the present spec. If that lasts, {SEE_PODS}."
        )
    return PoolReason.ROLLED_OUT, "Every agent runs with the present spec."


def _overlap(facts: PoolFacts) -> str:
    elders = sorted({elder for _, elder in facts.contested})
    whose = f"pool {elders[0]}" if len(elders) == 1 else f"pools {', '.join(elders)}"
    chosen = words.nodes([node for node, _ in facts.contested])
    return (
        f"{whose.capitalize()} selects {chosen}, too, and is older: its agents run there, none of this pool. "
        "Change spec.nodeSelector of one of them."
    )


def _unmatched(facts: PoolFacts) -> tuple[PoolReason, str]:
    if facts.live is None:
        if facts.selectors:
            return PoolReason.NO_MONITORS, "No monitor selects a node that this pool could have, so no agent runs."
        return PoolReason.NO_MONITORS, "There is no NetworkMonitor, so no agent runs."
    if facts.occupied:
        return PoolReason.DRAINING, f"The agents are removing what is theirs from {words.nodes(facts.occupied)}."
    return PoolReason.DRAINING, "The agents have nothing left on their nodes and are being removed."


def _failing(facts: PoolFacts) -> str:
    names = sorted(facts.trouble.pods)
    problem = facts.trouble.pods[names[0]]
    said = words.quoted(problem.message)
    return (
        f"The agent on {words.nodes(names)} does not run: {problem.reason}: {said}. "
        f"The pod is {problem.pod} in podwire-system."
    )
