"""One look at a key, whatever happened to it: observe, render, apply, judge, and one status write if it is news."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from podwire_operator import standing
from podwire_operator.authority import Authority
from podwire_operator.cluster import Cluster
from podwire_operator.errors import ClusterError
from podwire_operator.events import Events
from podwire_operator.facts import NO_TROUBLE, PodProblem, PoolFacts, Trouble
from podwire_operator.judge import Judgement, judge
from podwire_operator.judge_pool import counts, judge_pool
from podwire_operator.objects import Kind, Monitor, Pool, read
from podwire_operator.observe import monitor_facts, pool_facts
from podwire_operator.pods import problems
from podwire_operator.render import Rendered, render
from podwire_operator.rollout import REFUSED_AGAIN_S, Rollout
from podwire_operator.settings import Settings
from podwire_operator.standing import Change
from podwire_operator.view import View
from podwire_operator.work import Key, Task

FIRST_POOL = "default"
"""The pool that is made while there is none at all."""
DRAIN_S = 60.0
"""So long agents may take to remove what is theirs, once the last monitor is gone."""
WORDS_S = 10.0
"""Between two writes of a status of which only figures or sentences changed, and ..."""
WORDS_A_SECOND = 10
"""... of all statuses together, so many a second at most."""
LOOK_AT_PODS_S = 5.0
LOOK_AT_PODS_SELDOM_S = 30.0
"""Once they have not been ready for SELDOM_AFTER_S: a node that is down stays down."""
SELDOM_AFTER_S = 120.0
LISTEN_S = 10.0
"""Between two looks at who is silent."""
ROUND_S = 300.0
"""Between two looks at everything."""


class Reconciler:
    """What it remembers is about times and failures only, and can be lost."""

    def __init__(
        self,
        cluster: Cluster,
        view: View,
        events: Events,
        authority: Authority,
        settings: Settings,
        *,
        add: Callable[[Key], None],
        doubt: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`add` queues a key; `doubt`: the view may be wrong. `clock` in seconds."""
        self._cluster = cluster
        self._view = view
        self._events = events
        self._authority = authority
        self._settings = settings
        self._add = add
        self._doubt = doubt
        self._clock = clock
        self._wall = wall
        self.rollout = Rollout(cluster, view, clock)
        self._troubles: dict[str, Trouble] = {}
        self._draining: dict[str, float] = {}
        """By pool, since when."""
        self._unready: dict[str, float] = {}
        """By pool, since when."""
        self._written: dict[tuple[Kind, str], float] = {}
        self._silent: frozenset[str] = frozenset()

    def begin(self) -> None:
        """To lead: look at everything, with nothing remembered."""
        for memory in (self._troubles, self._draining, self._unready, self._written):
            memory.clear()
        self._silent = frozenset()
        self.rollout.forget()
        self._add_all([Key(Task.CERTIFICATES), Key(Task.POOLS), Key(Task.SILENCE), Key(Task.ROUND)])

    async def run(self, key: Key) -> float | None:
        """After how many seconds to look at it again, if at all. ClusterError."""
        match key.task:
            case Task.MONITOR:
                return await self._monitor(key.name)
            case Task.POOL:
                return await self._pool(key.name)
            case Task.POOLS:
                await self._first_pool()
                return None
            case Task.CERTIFICATES:
                return await self._authority.reconcile()
            case Task.SILENCE:
                return self._listen()
            case Task.ROUND:
                self._add_all(self._view.every_key())
                return ROUND_S

    async def _monitor(self, name: str) -> float | None:
        facts = monitor_facts(self._view, name, self._troubles)
        if facts is None:
            self._written.pop((Kind.MONITOR, name), None)
            return None
        judgement = judge(facts)
        monitor = facts.monitor
        wanted = standing.monitor_status(judgement, monitor.status, monitor.meta.generation, self._now())
        return await self._write_if_news(Kind.MONITOR, monitor, judgement, wanted)

    async def _pool(self, name: str) -> float | None:
        facts = self._pool_facts(name)
        if facts is None:
            await self._orphan(name)
            return None
        if facts.pool.meta.deleted:
            return None  # its DaemonSet goes with it
        rendered = None
        waits: list[float | None] = []
        if not facts.pool.problem:
            rendered = self._render(facts)
            waits.append(await self._roll_out(facts, rendered))
        waits.append(await self._look_at_pods(name))
        facts = self._pool_facts(name)  # as it is after that
        if facts is None:
            return None
        judgement = judge_pool(facts, rendered)
        image = facts.pool.spec.image if facts.pool.spec is not None else None
        pool = facts.pool
        wanted = standing.pool_status(
            judgement, pool.status, pool.meta.generation, self._now(), image or self._settings.agent_image
        )
        waits.append(await self._write_if_news(Kind.POOL, pool, judgement, wanted))
        return min((wait for wait in waits if wait is not None), default=None)

    def _pool_facts(self, name: str) -> PoolFacts | None:
        return pool_facts(self._view, name, self._troubles.get(name, NO_TROUBLE))

    def _render(self, facts: PoolFacts) -> Rendered:
        return render(
            facts.pool,
            facts.elders,
            facts.selectors,
            namespace=self._settings.namespace,
            default_image=self._settings.agent_image,
        )

    async def _orphan(self, name: str) -> None:
        """The pool is gone. Its DaemonSet goes with it, by the garbage collector; where that is slow, by us."""
        self.rollout.forget(name)
        self._troubles.pop(name, None)
        self._draining.pop(name, None)
        self._unready.pop(name, None)
        self._written.pop((Kind.POOL, name), None)
        for live in list(self._view.daemon_sets.values()):
            if live.pool == name:
                await self.rollout.remove(live)

    async def _first_pool(self) -> None:
        """The cluster has a pool, always: `kubectl apply` cannot bring one together with its kind."""
        if self._view.pools:
            return
        try:
            await self._cluster.make_pool(FIRST_POOL)
        except ClusterError as error:
            if not error.conflict:
                raise
            self._doubt()  # the view has not seen it yet

    async def _roll_out(self, facts: PoolFacts, rendered: Rendered) -> float | None:
        name = facts.pool.meta.name
        if rendered.daemon_set is None:
            self._set_trouble(name, refused="")
            return await self._drain(facts) if rendered.unmatched else None
        self._draining.pop(name, None)
        try:
            await self.rollout.ensure(name, rendered.daemon_set, facts.live)
        except ClusterError as error:
            if not error.refused:
                raise
            self._set_trouble(name, refused=error.said)
            return REFUSED_AGAIN_S
        self._set_trouble(name, refused="")
        return None

    async def _drain(self, facts: PoolFacts) -> float | None:
        """Agents go when they have removed what is theirs, or had the time for it. Dead nodes are not waited for."""
        name = facts.pool.meta.name
        if facts.live is None:
            self._draining.pop(name, None)
            return None
        waited_s = self._clock() - self._draining.setdefault(name, self._clock())
        if facts.occupied and waited_s < DRAIN_S:
            return DRAIN_S - waited_s
        await self.rollout.remove(facts.live)
        return None

    async def _look_at_pods(self, name: str) -> float | None:
        """Why agents do not run: asked only while some do not."""
        facts = self._pool_facts(name)
        counted = counts(facts.live if facts is not None else None)
        if counted.ready >= counted.desired:
            self._unready.pop(name, None)
            self._set_trouble(name, pods={})
            return None
        unready_s = self._clock() - self._unready.setdefault(name, self._clock())
        self._set_trouble(name, pods=problems(await self._cluster.agent_pods(name)))
        return LOOK_AT_PODS_S if unready_s < SELDOM_AFTER_S else LOOK_AT_PODS_SELDOM_S

    def _set_trouble(self, pool: str, refused: str | None = None, pods: dict[str, PodProblem] | None = None) -> None:
        """Monitors' statuses tell of it, too."""
        before = after = self._troubles.get(pool, NO_TROUBLE)
        if refused is not None:
            after = replace(after, refused=refused)
        if pods is not None:
            after = replace(after, pods=pods)
        if after != before:
            self._troubles[pool] = after
            self._add_all(Key(Task.MONITOR, name) for name in self._view.monitors)

    async def _write_if_news(
        self, kind: Kind, present: Monitor | Pool, judgement: Judgement, wanted: dict[str, Any]
    ) -> float | None:
        """At once where a condition changes; figures and sentences at a rate."""
        news = standing.change(present.status, wanted)
        if news is Change.NONE:
            return None
        meta = present.meta
        if news is Change.WORDS:
            every_s = max(WORDS_S, self._view.count(Kind.MONITOR) / WORDS_A_SECOND)
            wait_s = self._written.get((kind, meta.name), -every_s) + every_s - self._clock()
            if wait_s > 0:
                return wait_s
        try:
            document = await self._cluster.write_status(kind, meta.name, meta.uid, wanted)
        except ClusterError as error:
            if error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY}:
                self._doubt()  # it is gone, or another one by now
            raise
        self._written[kind, meta.name] = self._clock()
        self._view.put(kind, read(kind, document))
        before = standing.ready_reason(present.status)
        await self._events.tell(document.get("kind", ""), meta, before, judgement.ready)
        return None

    def _listen(self) -> float:
        silent = frozenset(name for name in self._view.agent_nodes if self._view.silent_s(name) is not None)
        if silent != self._silent:
            self._silent = silent
            self._add_all(Key(Task.MONITOR, name) for name in self._view.monitors)
        return LISTEN_S

    def _add_all(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._add(key)

    def _now(self) -> str:
        return self._wall().strftime("%Y-%m-%dT%H:%M:%SZ")
