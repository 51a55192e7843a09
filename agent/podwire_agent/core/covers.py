"""Whether the agent at the other end counts what arrives there: its last word, which counts while it is away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.keyed import NOWHERE, KeyedRows
from podwire_agent.model import Records

WORD = np.dtype([("address", "u1", (16,)), ("node", "u4")])
"""An address of a pod that is not watched, and the node (an index) whose agent said so."""

WORDS_KEPT = 4096
"""Addresses whose agent said that they are not watched; of a further one it is asked again."""


class Covers:
    """Immutable."""

    def __init__(self, denied: KeyedRows, invisible: frozenset[str], nodes: Mapping[str, int]) -> None:
        """`denied`: WORD. `invisible`: nodes where nothing that goes to pods can be seen."""
        self._denied = denied
        self._invisible = invisible
        self._nodes = nodes

    @classmethod
    def everything(cls) -> Covers:
        """Nobody has said otherwise."""
        return cls(_empty(0), frozenset(), {})

    def of(self, addresses: NDArray[np.uint8], nodes: NDArray[np.integer], names: Sequence[str]) -> NDArray[np.bool_]:
        """(n, 16), and the node of each as an index into `names`, -1 where that is not known: False where its agent
        has said that it does not count what goes to that address.
        """
        covered = np.ones(len(addresses), np.bool_)
        if self._invisible:
            hidden = np.array([*(name in self._invisible for name in names), False], np.bool_)
            covered &= ~hidden[nodes]  # the last one is for -1
        if len(self._denied):
            slots = self._denied.find(_words(addresses))
            said = np.flatnonzero(slots != NOWHERE)
            ours = np.array([*(self._nodes.get(name, NOWHERE) for name in names), NOWHERE], np.int64)
            covered[said] &= self._denied.rows["node"][slots[said]] != ours[nodes[said]]
        return covered


class Words:
    """What the agents have said, to make a Covers of."""

    def __init__(self) -> None:
        self.covers = Covers.everything()
        self._denied = _empty(0)
        self._invisible: frozenset[str] = frozenset()
        self._nodes: dict[str, int] = {}

    def restore(self, denied: Records, invisible: Sequence[str], nodes: Sequence[str]) -> None:
        """As `sections` gave them."""
        self._denied.replace(denied)
        self._invisible = frozenset(invisible)
        self._nodes = {name: index for index, name in enumerate(nodes)}
        self._publish()

    def sections(self) -> tuple[Records, list[str], list[str]]:
        """WORD, the invisible, the nodes that WORD has as indexes."""
        return self._denied.rows, sorted(self._invisible), list(self._nodes)

    def hear(self, node: str, *, visible: bool, watched: NDArray[np.uint8], unwatched: NDArray[np.uint8]) -> None:
        """The word of a node's agent, on itself and on addresses of its pods (n, 16)."""
        before = (self._invisible, len(self._denied))
        self._invisible = self._invisible - {node} if visible else self._invisible | {node}
        changed = self._invisible != before[0]
        if len(self._denied) and len(watched):
            slots = self._denied.find(_words(watched))
            slots = slots[slots != NOWHERE]
            dropped = np.zeros(len(self._denied), np.bool_)
            dropped[slots] = self._denied.rows["node"][slots] == self._nodes.get(node, NOWHERE)
            changed |= self._denied.drop(dropped) > 0
        if len(unwatched):
            index = self._nodes.setdefault(node, len(self._nodes))
            slots, _ = self._denied.ensure(_words(unwatched))
            slots = slots[slots != NOWHERE]
            changed |= len(self._denied) != before[1] or bool((self._denied.rows["node"][slots] != index).any())
            self._denied.rows["node"][slots] = index
        if changed:
            self._publish()

    def _publish(self) -> None:
        copy = _empty(0)
        copy.replace(self._denied.rows)
        self.covers = Covers(copy, self._invisible, dict(self._nodes))


def _empty(seed: int) -> KeyedRows:
    return KeyedRows(WORD, 4, WORDS_KEPT, seed)


def _words(addresses: NDArray[np.uint8]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(addresses).view(np.uint32).reshape(len(addresses), 4)
