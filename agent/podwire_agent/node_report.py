"""The agent's word on its node: gathers what the AgentNode says, and has it written when it is time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from podwire_agent import __version__
from podwire_agent.behind import PodsBehind
from podwire_agent.errors import PodwireError
from podwire_agent.kube.agent_node import AgentNodeWriter
from podwire_agent.kube.monitors import MonitorObject
from podwire_agent.node_status import (
    Entries,
    Figures,
    Sinks,
    Told,
    is_passing,
    refused,
    too_many,
    unsuitable,
    verdict,
    without_figures,
)
from podwire_agent.ports import Clock
from podwire_agent.roster import Roster
from podwire_agent.settings import Membership
from podwire_agent.supervisor import Standing, Supervisor
from podwire_agent.unbuilt import refusals
from podwire_api.agentnode import MAX_ENTRIES, AgentNodeStatus, Doctor, MonitorOnNode
from podwire_api.conditions import ConditionType, MonitorReason
from podwire_api.selection import served

FIGURES_AFTER_S = 3.0
"""A change of state is followed by the figures: pods' addresses may come a little later than their interfaces."""
PASSING_S = 1.0
"""What is over after so long is not told."""
PROBLEMS_SHOWN = 16
PROBLEM_CHARACTERS = 1024


class NodeReport:
    """Called by one thread, but for `by_reason`."""

    def __init__(
        self, writer: AgentNodeWriter, membership: Membership, boot_id: str, loader: str, clock: Clock
    ) -> None:
        self.writer = writer
        self._membership = membership
        self._boot_id = boot_id
        self._loader = loader
        self._clock = clock
        self._entries = Entries()
        self._sinks = Sinks()
        self._figures: dict[str, Figures] = {}
        self._figures_mono_ns = 0
        """When they are gathered anew."""
        self._follow = False
        """They are gathered because of a change of state: told at once."""
        self._passing_mono_ns: int | None = None
        """Since when something is on its way."""
        self._last: AgentNodeStatus | None = None

    def by_reason(self) -> dict[str, int]:
        """How many monitors are told of with each reason of DatapathAttached."""
        last = self._last
        return Counter(
            condition.reason
            for entry in (last.monitors if last is not None else ())
            for condition in entry.conditions
            if condition.type == ConditionType.DATAPATH_ATTACHED
        )

    def tell(
        self,
        selecting: Sequence[MonitorObject],
        roster: Roster | None,
        behind: PodsBehind | None,
        problems: Sequence[str],
    ) -> float:
        """Have written what is news. `roster` and `behind`: None where the node is not suitable, for `problems`.

        After how many seconds to be called again.
        """
        now_mono_ns = self._clock.mono_ns()
        supervisors = {} if roster is None else roster.supervisors()
        due = now_mono_ns >= self._figures_mono_ns
        if due:
            self._gather(supervisors, behind)
            self._figures_mono_ns = now_mono_ns + int(self.writer.interval_s / 2 * 1e9)
        told = list(self._told(selecting, supervisors, problems, suitable=roster is not None))[:MAX_ENTRIES]
        if wait_s := self._wait_for_what_passes(told, now_mono_ns):
            return wait_s
        status = self._status(self._entries.of(told, self._clock.unix_ns()), problems)
        urgent = self._last is None or _state(status) != _state(self._last)
        if urgent or (due and self._follow and status != self._last):
            self.writer.write(status, urgent=True)
        elif due:
            self.writer.write(status, urgent=False)
        if due:
            self._follow = False
        if urgent:
            self._follow = True
            self._figures_mono_ns = min(self._figures_mono_ns, now_mono_ns + int(FIGURES_AFTER_S * 1e9))
        self._last = status
        return max(0.0, (self._figures_mono_ns - now_mono_ns) / 1e9)

    def _wait_for_what_passes(self, told: Sequence[Told], now_mono_ns: int) -> float:
        """For so many seconds."""
        if not any(each.passing for each in told):
            self._passing_mono_ns = None
            return 0.0
        if self._passing_mono_ns is None:
            self._passing_mono_ns = now_mono_ns
        return max(0.0, PASSING_S - (now_mono_ns - self._passing_mono_ns) / 1e9)

    def close(self, *, detached: bool) -> None:
        """The last word: `detached`, or what was said last."""
        if not detached:
            self.writer.close(None)
            return
        problems = self._last.doctor.problems if self._last is not None else ()
        self.writer.close(self._status((), problems).model_copy(update={"detached": True}))

    def _gather(self, supervisors: dict[str, Supervisor], behind: PodsBehind | None) -> None:
        self._figures = {uid: figures for uid, figures in self._figures.items() if uid in supervisors}
        self._sinks.keep(supervisors)
        for uid, supervisor in supervisors.items():
            try:
                state = supervisor.state()
                rate = supervisor.new_flows_per_s()
            except PodwireError:
                continue  # the former ones stay
            veths = [item.interface for item in supervisor.standing().watched if not (item.host or item.failure)]
            self._figures[uid] = Figures(
                pods=0 if behind is None else behind.behind(veths),
                flows_per_second=round(rate),
                overflowed=sum(each.overflowed.packets for each in state.accounts.values()),
                lost=None if state.rows is None else state.rows.lost_lately,
            )

    def _told(
        self,
        selecting: Sequence[MonitorObject],
        supervisors: dict[str, Supervisor],
        problems: Sequence[str],
        *,
        suitable: bool,
    ) -> Iterator[Told]:
        uids = served((each.created, each.uid) for each in selecting)
        names = [each.name for each in selecting if each.uid in uids]
        for each in selecting:
            if each.uid not in uids:
                found = too_many(names)
            elif each.resource is None:
                found = refused(MonitorReason.INVALID_SPEC, each.problems)
            elif lines := refusals(each.resource, in_cluster=True):
                found = refused(MonitorReason.NOT_BUILT, lines)
            elif not suitable:
                found = unsuitable(problems)
            else:
                yield self._served(each, supervisors.get(each.uid))
                continue
            yield Told(each.name, each.uid, each.generation, found, observed=each.generation)
        known = {each.uid for each in selecting}
        for uid, supervisor in supervisors.items():
            if uid not in known:  # until nothing is left of it
                standing = supervisor.standing()
                generation = standing.generation
                yield Told(
                    supervisor.name,
                    uid,
                    generation,
                    verdict(standing),
                    observed=generation,
                    passing=is_passing(standing),
                )

    def _served(self, monitor: MonitorObject, supervisor: Supervisor | None) -> Told:
        standing = Standing() if supervisor is None else supervisor.standing()
        has_sinks = monitor.resource is not None and bool(monitor.resource.spec.sinks)
        return Told(
            monitor.name,
            monitor.uid,
            monitor.generation,
            attached=verdict(standing),
            sinks=self._sinks.verdict(monitor.uid, standing.outbox) if has_sinks and standing.running else None,
            observed=standing.generation,
            watched=standing.watched,
            figures=self._figures.get(monitor.uid, Figures()),
            passing=is_passing(standing),
        )

    def _status(self, entries: tuple[MonitorOnNode, ...], problems: Sequence[str]) -> AgentNodeStatus:
        shown = tuple(problem[:PROBLEM_CHARACTERS] for problem in problems[:PROBLEMS_SHOWN])
        said = AgentNodeStatus(
            version=__version__,
            pool=self._membership.pool,
            pod=self._membership.pod,
            monitors=entries,
            doctor=Doctor(kernel=os.uname().release, loader=self._loader, problems=shown),
        )
        return said.model_copy(update={"boot_id": self._boot_id})


def _state(status: AgentNodeStatus) -> AgentNodeStatus:
    """Without what changes by itself."""
    return status.model_copy(update={"monitors": tuple(map(without_figures, status.monitors))})
