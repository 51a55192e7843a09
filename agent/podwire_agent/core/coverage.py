"""Which other interface a monitor counts packets at: those of pods that are watched, here and by other agents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.judge import Judge
from podwire_agent.core.questions import Addresses, Flags, Indexes
from podwire_agent.core.world import World
from podwire_agent.layout import FLOW_KEY, FlowDirection, RuleVerdict
from podwire_agent.model import EndKind, Records

Word = Callable[[Addresses, Indexes, Sequence[str]], Flags]
"""Addresses (n, 16), and the node of each as an index into names, -1 where it is not known -> False where that node's
agent has said that it does not count what goes there."""


class Coverage:
    """Of one monitor in one world: core.questions.Covers. Immutable."""

    def __init__(
        self,
        world: World,
        nodes: Collection[str],
        watched: Collection[str],
        judge: Judge | None,
        word: Word,
        *,
        hosts: bool,
    ) -> None:
        """`nodes`: those that the monitor means. `watched`: uids of the pods behind interfaces that are watched here.
        `judge`: of the rules in force; None: there are none.
        `word`: the agents' last ones. `hosts`: the nodes' own interfaces are watched.
        """
        self._judge = judge
        self._word = word
        self._names = world.nodes
        self._node_of = world.node_of
        meant = np.zeros(len(world.entities), np.bool_)
        for name in nodes:
            meant |= world.node_of == world.number_of(name)
        for index in np.flatnonzero(world.is_here & world.has_own_network).tolist():
            meant[index] = world.entities[index].uid in watched
        pods = meant & world.has_own_network
        self._arrives = pods | self._served(world, pods)
        in_nodes_network = (world.kind_of == EndKind.NODE) | ((world.kind_of == EndKind.POD) & ~world.has_own_network)
        self._leaves = self._arrives | (meant & in_nodes_network & hosts)

    def arrives(self, receivers: Indexes, tuples: Records, kinds: NDArray[np.uint8]) -> Flags:
        """See core.questions.Covers."""
        counted = self._arrives[receivers]
        at = np.flatnonzero(counted)
        if len(at):
            counted[at] = self._word(tuples["dst_address"][at], self._node_of[receivers[at]], self._names)
        return self._accepted(counted, tuples, kinds, FlowDirection.TO_POD, "dst_address")

    def leaves(self, senders: Indexes, tuples: Records, kinds: NDArray[np.uint8]) -> Flags:
        """See core.questions.Covers."""
        return self._accepted(self._leaves[senders], tuples, kinds, FlowDirection.FROM_POD, "src_address")

    def _accepted(
        self, counted: Flags, tuples: Records, kinds: NDArray[np.uint8], direction: FlowDirection, near: str
    ) -> Flags:
        """Those of `counted` that the rules do not filter at the pod that has the address `near`."""
        if self._judge is None or not counted.any():
            return counted
        at = np.flatnonzero(counted)
        keys = np.zeros(len(at), FLOW_KEY)
        for name in ("src_address", "dst_address", "src_port", "dst_port", "protocol"):
            keys[name] = tuples[name][at]
        keys["kind"] = kinds[at]
        directions = np.full(len(at), direction, np.uint32)
        verdicts = self._judge.at_pods(keys, directions, self._judge.pods_at(tuples[near][at]))
        counted[at] = verdicts == RuleVerdict.MEASURED
        return counted

    @staticmethod
    def _served(world: World, pods: Flags) -> Flags:
        """The services of which every backend is among `pods`."""
        served = np.zeros(len(world.entities), np.bool_)
        for index, backends in world.backends.items():
            served[index] = bool(len(backends)) and bool(pods[backends].all())
        return served
