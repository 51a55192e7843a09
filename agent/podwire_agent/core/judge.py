"""What rules say of many flows at once, by the sets of bits that the program joins (bpf/match.bpf.h)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.longest_prefix import Strings, as_strings
from podwire_agent.core.prefix_index import ROW_WORDS, Words
from podwire_agent.core.rule_entries import LISTS, RuleCompiler, find
from podwire_agent.core.rules import Pod, View
from podwire_agent.layout import FlowDirection, RuleVerdict
from podwire_agent.model import Cause, Records, RuleEntries, RuleListName, Table

Verdicts = NDArray[np.uint8]
"""A layout.RuleVerdict a flow: MEASURED, or why it is filtered."""


class Judge:
    """Of rules and a view of one time. Says what core/rules.py: `verdict` says."""

    def __init__(self, compiler: RuleCompiler, view: View, entries: RuleEntries) -> None:
        """`entries`: what `compiler` has made of `view`."""
        self._view = view
        self._blacklist = entries.blacklist
        self._set = entries.settings[0]
        self._networks = compiler.networks(view)
        self._whose = compiler.whose(view)
        self._anybody = _words(entries.settings["stranger"])[0]
        self._interfaces = _sorted(entries.interfaces)
        self._addresses = as_strings(entries.addresses.keys.view(np.uint8).reshape(-1, 16))
        self._far = _words(entries.addresses.values["far"])
        self._ports, self._protocols = entries.ports, entries.protocols

    def decided(self, ifindexes: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Of each interface, whether what is seen there can be judged."""
        if not self._set["hold"]:
            return np.ones(len(ifindexes), np.bool_)
        return find(self._interfaces[0], ifindexes)[1]

    def at_interfaces(self, keys: Records, directions: NDArray[np.uint32]) -> Verdicts:
        """Of flows (layout.FLOW_KEY) on interfaces that are `decided`."""
        at, found = find(self._interfaces[0], keys["ifindex"])
        near = np.where(found[:, np.newaxis], self._interfaces[1][at], self._anybody)
        return self._judge(keys, directions, near)

    def at_pods(self, keys: Records, directions: NDArray[np.uint32], near: Sequence[Pod | None]) -> Verdicts:
        """Of flows (layout.FLOW_KEY, whatever the interface) as they are seen at these pods; None: no pod's."""
        rows = {
            id(pod): self._anybody if pod is None else np.array(self._whose.of(pod, pod.addresses), np.uint64)
            for pod in {id(pod): pod for pod in near}.values()
        }
        words = np.array([rows[id(pod)] for pod in near], np.uint64).reshape(len(near), ROW_WORDS)
        return self._judge(keys, directions, words)

    def pods_at(self, addresses: NDArray[np.uint8]) -> list[Pod | None]:
        """The pod in view that has each address, shape (n, 16); None where there is none."""
        found = self._view.pods_at
        return [found.get(each.tobytes(), (None,))[-1] for each in addresses]

    def cause(self, verdict: int) -> Cause:
        """What a verdict other than MEASURED says."""
        if verdict == RuleVerdict.NOT_LISTED:
            return Cause(RuleListName.WHITELIST, "")
        return Cause(RuleListName.BLACKLIST, self._blacklist[verdict - RuleVerdict.FIRST_CAUSE])

    def _judge(self, keys: Records, directions: NDArray[np.uint32], near: Words) -> Verdicts:
        sent = directions == FlowDirection.FROM_POD
        source, destination = as_strings(keys["src_address"]), as_strings(keys["dst_address"])
        near = near & self._networks.covering(np.where(sent, source, destination))
        far = self._far_end(np.where(sent, destination, source))
        egress, ingress = self._set["egress"]["of"], self._set["ingress"]["of"]
        forth, back = (
            np.where(sent[:, np.newaxis], one, other) for one, other in ((egress, ingress), (ingress, egress))
        )
        near_to_far, far_to_near = near[:, :LISTS] & far[:, LISTS:], far[:, :LISTS] & near[:, LISTS:]
        black, white = (((near_to_far & forth) | (far_to_near & back)) & self._fields(keys)).T
        verdicts = np.full(len(keys), RuleVerdict.MEASURED, np.uint8)
        if self._set["rules"]["of"][1]:
            verdicts[white == 0] = RuleVerdict.NOT_LISTED
        listed = black != 0
        lowest = black[listed] & (~black[listed] + np.uint64(1))
        verdicts[listed] = RuleVerdict.FIRST_CAUSE + np.log2(lowest.astype(np.float64)).astype(np.uint8)
        return verdicts

    def _far_end(self, addresses: Strings) -> Words:
        at, found = find(self._addresses, addresses)
        far: Words = self._anybody & self._networks.covering(addresses)
        far[found] = self._far[at[found]]
        return far

    def _fields(self, keys: Records) -> Words:
        """The rules of each list that protocol and ports leave."""
        fields = np.tile(self._set["rules"]["of"], (len(keys), 1))
        if len(self._protocols):
            fields &= self._protocols.values["of"][keys["protocol"]]
        if len(self._ports):
            of_port = self._ports.values["of"]
            fields &= of_port[keys["src_port"]] | of_port[keys["dst_port"]]
        return fields


def _words(bits: Records) -> Words:
    """layout.END_BITS -> rows of core/prefix_index.py."""
    words: Words = np.ascontiguousarray(bits).view(np.uint64).reshape(-1, ROW_WORDS)
    return words


def _sorted(table: Table) -> tuple[NDArray[np.uint32], Words]:
    """Interfaces in the order of their indexes, with their rows; one more at the end, for a place to point to."""
    order = np.argsort(table.keys)
    keys: NDArray[np.uint32] = table.keys[order].astype(np.uint32)
    return keys, np.concatenate([_words(table.values)[order], np.zeros((1, ROW_WORDS), np.uint64)])
