"""What one reconcile judges by: everything about one monitor or one pool, taken from the view at one moment."""

from __future__ import annotations

from collections.abc import Mapping

from podwire_api.conditions import PoolReason
from podwire_operator.facts import NO_TROUBLE, MonitorFacts, NodeFacts, PodProblem, PoolFacts, Trouble, daemon_set_name
from podwire_operator.objects import AgentNode, Pool
from podwire_operator.placement import elders_first
from podwire_operator.view import View


def monitor_facts(view: View, name: str, troubles: Mapping[str, Trouble]) -> MonitorFacts | None:
    """None where there is no such monitor."""
    monitor = view.monitors.get(name)
    if monitor is None:
        return None
    placement = view.placement
    uid = monitor.meta.uid
    selected = placement.selected.get(uid, ())
    crowded = placement.crowded.get(uid, frozenset())
    nodes = []
    for node in placement.desired(uid):
        agent = view.agent_nodes.get(node)
        pool = placement.owner[node]
        nodes.append(
            NodeFacts(
                name=node,
                pool=pool,
                ready=view.nodes[node].ready,
                agent=agent,
                silent_s=view.silent_s(node),
                entry=agent.entries.get(uid) if agent is not None else None,
                crowded=node in crowded,
                problem=_problem(view.pools[pool], node, agent, troubles.get(pool, NO_TROUBLE)),
            )
        )
    barred = placement.barred
    return MonitorFacts(
        monitor=monitor,
        pools=len(view.pools),
        selected=selected,
        barred=tuple((node, placement.owner[node], barred[node]) for node in selected if node in barred),
        nodes=tuple(nodes),
    )


def _problem(pool: Pool, node: str, agent: AgentNode | None, trouble: Trouble) -> PodProblem | None:
    """Why the node's agent does not run; a pool that cannot have new agents is none for those that run already."""
    if (problem := trouble.pods.get(node)) is not None:
        return problem
    if agent is not None and not agent.detached:
        return None
    if pool.problem:
        return PodProblem("", PoolReason.INVALID_SPEC, f"AgentPool {pool.meta.name}: {pool.problem}")
    if trouble.refused:
        return PodProblem("", PoolReason.REFUSED, f"AgentPool {pool.meta.name}: {trouble.refused}")
    return None


def pool_facts(view: View, name: str, trouble: Trouble) -> PoolFacts | None:
    """None where there is no such pool."""
    pool = view.pools.get(name)
    if pool is None:
        return None
    by_age = [each for each in elders_first(view.pools.values()) if not each.meta.deleted or each is pool]
    return PoolFacts(
        pool=pool,
        elders=tuple(by_age[: by_age.index(pool)]),
        selectors=frozenset(frozenset(monitor.selector.items()) for monitor in view.monitors.values()),
        live=view.daemon_sets.get(daemon_set_name(name)),
        contested=view.placement.contested.get(name, ()),
        occupied=occupied(view, name),
        trouble=trouble,
    )


def occupied(view: View, pool: str) -> tuple[str, ...]:
    """Living nodes whose agent of that pool still serves a monitor, or has not said that it stopped."""
    return tuple(
        sorted(
            name
            for name, agent in view.agent_nodes.items()
            if agent.pool == pool
            and agent.entries
            and not agent.detached
            and (node := view.nodes.get(name)) is not None
            and node.ready
        )
    )
