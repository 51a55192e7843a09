"""What a monitor's status says, purely: from what was observed to conditions, sentences and figures.

Each node is in one state, the first of a chain that holds. The state that says most of all nodes' speaks for the
monitor; others are told in a second sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from podwire_api.conditions import ConditionType, MonitorReason, noted
from podwire_api.names import MAX_MONITORS
from podwire_operator import words
from podwire_operator.facts import MonitorFacts, NodeFacts
from podwire_operator.objects import Monitor

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"

SEE_PODS = "see kubectl -n podwire-system get pods -o wide"


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition to be."""

    type: ConditionType
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Figures:
    """The columns."""

    desired: int = 0
    ready: int = 0
    pods: int = 0
    flows_per_second: int = 0
    lost: int | None = None
    overflowed: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """A status to be, before it is compared with the one that is."""

    findings: tuple[Finding, ...]
    figures: Figures

    @property
    def ready(self) -> Finding:
        """The one that people wait for."""
        return self.findings[0]


class NodeState(StrEnum):
    """How a monitor does on one node; those that say most come first."""

    INVALID_SPEC = MonitorReason.INVALID_SPEC
    NOT_BUILT = MonitorReason.NOT_BUILT
    KERNEL_UNSUITABLE = MonitorReason.KERNEL_UNSUITABLE
    TOO_MANY_MONITORS = MonitorReason.TOO_MANY_MONITORS
    AGENTS_FAILING = MonitorReason.AGENTS_FAILING
    ATTACH_FAILED = MonitorReason.ATTACH_FAILED
    AGENTS_STARTING = MonitorReason.AGENTS_STARTING
    ATTACHING = MonitorReason.ATTACHING
    AGENTS_SILENT = MonitorReason.AGENTS_SILENT
    NODES_NOT_READY = MonitorReason.NODES_NOT_READY
    SINKS_UNREACHABLE = MonitorReason.SINKS_UNREACHABLE
    ATTACHED = MonitorReason.ATTACHED


STALLED = frozenset(
    {
        MonitorReason.INVALID_SPEC,
        MonitorReason.NOT_BUILT,
        MonitorReason.KERNEL_UNSUITABLE,
        MonitorReason.TOO_MANY_MONITORS,
        MonitorReason.NO_POOL,
        MonitorReason.NO_NODES,
    }
)
"""Nothing changes until a person does something."""

_AGENT_DOWN = frozenset(
    {NodeState.AGENTS_FAILING, NodeState.AGENTS_STARTING, NodeState.AGENTS_SILENT, NodeState.NODES_NOT_READY}
)
_ON_THE_WAY = frozenset({"Attaching", "Detaching", MonitorReason.PAUSED})
"""An agent's reasons for not being attached that pass by themselves."""
_AGENT_REFUSES = frozenset({NodeState.INVALID_SPEC, NodeState.NOT_BUILT, NodeState.KERNEL_UNSUITABLE})


def judge(facts: MonitorFacts) -> Judgement:
    """Where nothing can come of it, the reason; else what the nodes say, taken together."""
    if (why := _impossible(facts)) is not None:
        return Judgement(_all_false(*why), Figures(desired=len(facts.nodes)))
    states: dict[NodeState, list[NodeFacts]] = {}
    for node in facts.nodes:
        states.setdefault(state_of(node, facts.monitor), []).append(node)
    present = sorted(states, key=list(NodeState).index)
    ready_nodes = [*states.get(NodeState.ATTACHED, ()), *states.get(NodeState.SINKS_UNREACHABLE, ())]
    reason, message = _overall(facts.monitor, states, present)
    status = TRUE if present == [NodeState.ATTACHED] else FALSE
    findings = [Finding(ConditionType.READY, status, reason, message)]
    if status == FALSE:
        standing = ConditionType.STALLED if reason in STALLED else ConditionType.RECONCILING
        findings.append(Finding(standing, TRUE, reason, message))
    findings += [
        _agents_ready(states, present),
        _datapath_attached(facts.monitor, states, present),
        _sinks_reachable(facts.monitor, states),
    ]
    return Judgement(tuple(findings), _figures(facts, len(ready_nodes)))


def _impossible(facts: MonitorFacts) -> tuple[MonitorReason, str] | None:
    """What keeps every node from serving the monitor, the first that holds."""
    monitor = facts.monitor
    if monitor.problem:
        return MonitorReason.INVALID_SPEC, f"{monitor.problem}."
    if not facts.pools:
        return MonitorReason.NO_POOL, (
            "There is no AgentPool, so no agent runs anywhere. "
            "Apply one, such as manifests/samples/agentpools/default.yaml."
        )
    if not facts.selected:
        wanted = words.labels(sorted(monitor.selector.items()))
        which = f"No node has the labels {wanted} of spec.nodes.nodeSelector" if wanted else "The cluster has no node"
        return MonitorReason.NO_NODES, f"{which}. Label a node, or change the selector."
    if facts.nodes:
        return None
    chosen = words.nodes(facts.selected)
    if facts.barred:
        node, pool, taint = facts.barred[0]
        mark = words.labels([(taint.key, taint.value)])
        return MonitorReason.NO_POOL, (
            f"No agent can run on {chosen}: pool {pool} does not tolerate the taint {mark}:{taint.effect} "
            f"of node {node}. Add it to the pool's spec.tolerations, or select other nodes."
        )
    return MonitorReason.NO_POOL, (
        f"No AgentPool selects {chosen}. Change a pool's spec.nodeSelector, add a pool, or select other nodes."
    )


def _all_false(reason: MonitorReason, message: str) -> tuple[Finding, ...]:
    return (
        Finding(ConditionType.READY, FALSE, reason, message),
        Finding(ConditionType.STALLED, TRUE, reason, message),
        Finding(ConditionType.AGENTS_READY, FALSE, reason, message),
        Finding(ConditionType.DATAPATH_ATTACHED, FALSE, reason, message),
        Finding(ConditionType.SINKS_REACHABLE, UNKNOWN, reason, "No agent reports."),
    )


def state_of(node: NodeFacts, monitor: Monitor) -> NodeState:
    """The first link of the chain that holds."""
    agent = node.agent
    if node.crowded:  # known without asking anybody
        return NodeState.TOO_MANY_MONITORS
    if not node.ready:  # whatever its agent said last
        return NodeState.NODES_NOT_READY
    if node.problem is not None:  # even if the programs that it left behind still count
        return NodeState.AGENTS_FAILING
    if agent is None or agent.detached or agent.pool not in {"", node.pool}:
        return NodeState.AGENTS_STARTING
    if node.silent_s is not None:
        return NodeState.AGENTS_SILENT
    return _as_the_agent_says(node, monitor)


def _as_the_agent_says(node: NodeFacts, monitor: Monitor) -> NodeState:
    entry = node.entry
    if entry is None or entry.generation != monitor.meta.generation or entry.datapath is None:
        return NodeState.ATTACHING
    verdict = entry.datapath
    if verdict.status == FALSE and verdict.reason in _AGENT_REFUSES | {NodeState.TOO_MANY_MONITORS}:
        return NodeState(verdict.reason)
    if monitor.paused:
        detached = verdict.reason == MonitorReason.PAUSED or (verdict.status == FALSE and not entry.attached)
        return NodeState.ATTACHED if detached else NodeState.ATTACHING
    if verdict.status == FALSE and verdict.reason not in _ON_THE_WAY:
        return NodeState.ATTACH_FAILED
    if verdict.status != TRUE:
        return NodeState.ATTACHING
    if entry.sinks is not None and entry.sinks.status == FALSE:
        return NodeState.SINKS_UNREACHABLE
    return NodeState.ATTACHED


def _overall(
    monitor: Monitor, states: dict[NodeState, list[NodeFacts]], present: list[NodeState]
) -> tuple[MonitorReason, str]:
    if present == [NodeState.ATTACHED]:
        count = len(states[NodeState.ATTACHED])
        place = "its one node" if count == 1 else f"all {count} nodes"
        if monitor.paused:
            return MonitorReason.PAUSED, f"Paused by spec.paused: detached on {place}; the totals are kept."
        return MonitorReason.ATTACHED, f"Attached on {place}.{_notes(states)}"
    troubled = [state for state in present if state is not NodeState.ATTACHED]
    sentences = [_SENTENCES[state](states[state]) for state in troubled[:2]]
    return MonitorReason(troubled[0].value), " ".join(sentences)


def _agents_ready(states: dict[NodeState, list[NodeFacts]], present: list[NodeState]) -> Finding:
    down = [state for state in present if state in _AGENT_DOWN]
    if not down:
        return Finding(ConditionType.AGENTS_READY, TRUE, MonitorReason.RUNNING, "Every node's agent runs.")
    message = " ".join(_SENTENCES[state](states[state]) for state in down[:2])
    return Finding(ConditionType.AGENTS_READY, FALSE, MonitorReason(down[0].value), message)


def _datapath_attached(monitor: Monitor, states: dict[NodeState, list[NodeFacts]], present: list[NodeState]) -> Finding:
    kind = ConditionType.DATAPATH_ATTACHED
    done = {NodeState.ATTACHED, NodeState.SINKS_UNREACHABLE}
    missing = [state for state in present if state not in done]
    if not missing:
        if monitor.paused:
            return Finding(kind, FALSE, MonitorReason.PAUSED, "Detached everywhere: spec.paused is true.")
        return Finding(
            kind, TRUE, MonitorReason.ATTACHED, f"Attached to every pod's interface on every node.{_notes(states)}"
        )
    if all(state in _AGENT_DOWN for state in present):
        return Finding(kind, UNKNOWN, MonitorReason(missing[0].value), "No agent tells.")
    message = " ".join(_SENTENCES[state](states[state]) for state in missing[:2])
    return Finding(kind, FALSE, MonitorReason(missing[0].value), message)


def _sinks_reachable(monitor: Monitor, states: dict[NodeState, list[NodeFacts]]) -> Finding:
    kind = ConditionType.SINKS_REACHABLE
    if not monitor.sinks:
        return Finding(kind, TRUE, MonitorReason.NO_SINKS, "There is no sink: the reports go nowhere.")
    if (unreachable := states.get(NodeState.SINKS_UNREACHABLE)) is not None:
        return Finding(kind, FALSE, MonitorReason.SINKS_UNREACHABLE, _sinks(unreachable))
    if NodeState.ATTACHED in states:
        return Finding(kind, TRUE, MonitorReason.REACHABLE, "Every sink takes the reports.")
    return Finding(kind, UNKNOWN, MonitorReason.PENDING, "No agent reports yet.")


def _figures(facts: MonitorFacts, ready: int) -> Figures:
    entries = [node.entry for node in facts.nodes if node.entry is not None]
    compared = [entry.lost for entry in entries if entry.lost is not None]
    return Figures(
        desired=len(facts.nodes),
        ready=ready,
        pods=sum(entry.pods for entry in entries),
        flows_per_second=sum(entry.flows_per_second for entry in entries),
        lost=sum(compared) if compared else None,
        overflowed=sum(entry.overflowed for entry in entries),
    )


def _names(found: Sequence[NodeFacts]) -> str:
    return words.nodes([node.name for node in found])


def _said(found: Sequence[NodeFacts]) -> str:
    """What most of these nodes' agents say; the first of them where several do."""
    messages = [node.entry.datapath.message for node in found if node.entry is not None and node.entry.datapath]
    common = max(messages, key=messages.count, default="")
    return words.quoted(common) or "they do not say why"


def _notes(states: dict[NodeState, list[NodeFacts]]) -> str:
    """What agents say that is well, and that a user should know something of: what most of them say, and where."""
    where: dict[str, list[str]] = {}
    for node in [*states.get(NodeState.ATTACHED, ()), *states.get(NodeState.SINKS_UNREACHABLE, ())]:
        if node.entry is not None and node.entry.datapath is not None and (said := noted(node.entry.datapath.message)):
            where.setdefault(words.quoted(said), []).append(node.name)
    if not where:
        return ""
    common = max(where, key=lambda said: len(where[said]))
    return f" On {words.nodes(where[common])}: {common}."


def _refused(found: Sequence[NodeFacts]) -> str:
    return f"Cannot run on {_names(found)}: {_said(found)}."


def _crowded(found: Sequence[NodeFacts]) -> str:
    return (
        f"A node serves at most {MAX_MONITORS} monitors, the oldest, and there are as many older ones on "
        f"{_names(found)}. Delete one of them, or select other nodes."
    )


def _failing(found: Sequence[NodeFacts]) -> str:
    problems = [node.problem for node in found if node.problem is not None]
    common = max(problems, key=lambda each: sum(each.reason == other.reason for other in problems))
    where = f"The pod is {common.pod} in podwire-system" if common.pod else "See kubectl describe agentpools"
    return f"The agent on {_names(found)} does not run: {common.reason}: {words.quoted(common.message)}. {where}."


def _attach_failed(found: Sequence[NodeFacts]) -> str:
    return f"Not attached everywhere on {_names(found)}: {_said(found)}."


def _starting(found: Sequence[NodeFacts]) -> str:
    return f"Waiting for the agent of {_names(found)} to start. If that lasts, {SEE_PODS}."


def _attaching(found: Sequence[NodeFacts]) -> str:
    return f"Waiting for the agent of {_names(found)} to bring the present spec into force."


def _silent(found: Sequence[NodeFacts]) -> str:
    return f"Nothing was heard lately from the agent of {_names(found)}; {SEE_PODS} and its log."


def _not_ready(found: Sequence[NodeFacts]) -> str:
    verb = "is" if len(found) == 1 else "are"
    return f"{_names(found).capitalize()} {verb} not ready: see kubectl get nodes."


def _sinks(found: Sequence[NodeFacts]) -> str:
    messages = [node.entry.sinks.message for node in found if node.entry is not None and node.entry.sinks is not None]
    said = words.quoted(max(messages, key=messages.count, default="")) or "the agent does not say why"
    return f"Reports of {_names(found)} are not taken: {said}."


_SENTENCES: dict[NodeState, Callable[[Sequence[NodeFacts]], str]] = {
    NodeState.INVALID_SPEC: _refused,
    NodeState.NOT_BUILT: _refused,
    NodeState.KERNEL_UNSUITABLE: _refused,
    NodeState.TOO_MANY_MONITORS: _crowded,
    NodeState.AGENTS_FAILING: _failing,
    NodeState.ATTACH_FAILED: _attach_failed,
    NodeState.AGENTS_STARTING: _starting,
    NodeState.ATTACHING: _attaching,
    NodeState.AGENTS_SILENT: _silent,
    NodeState.NODES_NOT_READY: _not_ready,
    NodeState.SINKS_UNREACHABLE: _sinks,
}
