"""Rules and a view of the cluster, as the entries of the maps that the program reads (bpf/match.bpf.h)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.networks import Networks
from podwire_agent.core.prefix_index import EXACT, ROW_WORDS, PrefixIndex, Source, as_strings
from podwire_agent.core.rules import End, Pod, Rule, Rules, Sends, View, is_behind, is_pod, is_service
from podwire_agent.layout import ADDRESS, ADDRESS_BITS, END_BITS, RULE_BITS, RULE_SET, FlowLimit
from podwire_agent.model import Records, RuleEntries, Table

Row = tuple[int, ...]
"""See core/prefix_index.py."""

LISTS = int(FlowLimit.RULE_LISTS)
NO_RULE: Row = (0,) * ROW_WORDS


@dataclass(frozen=True, slots=True)
class _Asked:
    """One end of one rule, and its place in a row."""

    end: End
    word: int
    bit: int


class RuleCompiler:
    """For one pair of lists. What depends on networks is worked out once for each state of those that the view has."""

    def __init__(self, rules: Rules) -> None:
        """At most RULE_LIMIT rules a list."""
        self._rules = rules
        self._lists = (rules.blacklist, rules.whitelist)
        self._asked = list(_ends(self._lists))
        self._anybody = _row(each for each in self._asked if not each.end.asks_whose)
        self._ports = _by_port(self._lists)
        self._protocols = _by_protocol(self._lists)
        self._named = {name for each in self._asked for name in each.end.cidrs_from or ()}
        self._networks: dict[str, Networks] = {}
        self._prefixes: tuple[PrefixIndex, Table] | None = None

    def compile(self, view: View) -> RuleEntries | None:
        """None: there are no rules, or nobody can say yet what they mean."""
        if not self._rules.all or not view.complete:
            return None
        index, prefixes = self._index(view)
        return RuleEntries(
            blacklist=tuple(rule.name for rule in self._rules.blacklist),
            settings=self._settings(index),
            interfaces=self._interfaces(view),
            addresses=self._addresses(view, index),
            prefixes=prefixes,
            ports=self._ports,
            protocols=self._protocols,
        )

    def _index(self, view: View) -> tuple[PrefixIndex, Table]:
        networks = {name: view.networks[name] for name in self._named if name in view.networks}
        if self._prefixes is None or networks != self._networks:
            index = PrefixIndex([self._inline(), self._referred(networks)])
            wide = index.prefixes["length"] < EXACT
            table = _table(
                index.prefixes[wide], self._address_bits(np.array(self._anybody, np.uint64), index.rows[wide])
            )
            self._networks, self._prefixes = networks, (index, table)
        return self._prefixes

    def _inline(self) -> tuple[list[Source], Row]:
        listing = [(each.end.cidrs, each) for each in self._asked if each.end.cidrs is not None]
        sources = [Source(networks.prefixes, _row([each])) for networks, each in listing]
        return sources, _row(each for each in self._asked if each.end.cidrs is None)

    def _referred(self, networks: Mapping[str, Networks]) -> tuple[list[Source], Row]:
        sources = [
            Source(found.prefixes, _row(each for each in self._asked if name in (each.end.cidrs_from or ())))
            for name, found in networks.items()
        ]
        return sources, _row(each for each in self._asked if each.end.cidrs_from is None)

    def _settings(self, index: PrefixIndex) -> Records:
        settings = np.zeros(1, RULE_SET)
        settings["hold"] = self._rules.ask_whose
        settings["rules"]["of"] = _both_lists(self._lists, lambda _: True)
        settings["egress"]["of"] = _both_lists(self._lists, lambda rule: rule.sends is not Sends.RECEIVER)
        settings["ingress"]["of"] = _both_lists(self._lists, lambda rule: rule.sends is not Sends.SENDER)
        settings["stranger"] = _end_bits([self._anybody])
        settings["elsewhere"] = self._address_bits(np.array([self._anybody], np.uint64), index.elsewhere[np.newaxis])
        return settings

    def _interfaces(self, view: View) -> Table:
        """Whose each interface is, where a rule asks."""
        if not self._rules.ask_whose:
            return Table(np.zeros(0, np.uint32), np.zeros(0, END_BITS))
        whose = _PodRows(self._asked, view)
        rows = [self._anybody if pod is None else whose.of(pod, pod.addresses) for pod in view.interfaces.values()]
        return _table(np.fromiter(view.interfaces, np.uint32, len(rows)), _end_bits(rows))

    def _addresses(self, view: View, index: PrefixIndex) -> Table:
        """The networks of one address, and the addresses of those whom a rule selects."""
        selected = self._selected(view) if self._rules.ask_whose else {}
        known = np.frombuffer(b"".join(selected), np.uint8).reshape(-1, 16)
        exact = index.prefixes["address"]["bytes"][index.prefixes["length"] == EXACT]
        addresses, first = np.unique(as_strings(np.concatenate([known, exact])), return_index=True)
        whose = np.full((len(addresses), ROW_WORDS), self._anybody, np.uint64)
        is_known = first < len(known)  # np.unique tells where each came first, and the known ones are in front
        whose[is_known] = np.array([*selected.values(), NO_RULE], np.uint64)[first[is_known]]
        return Table(addresses.view(ADDRESS), self._address_bits(whose, index.covering(addresses)))

    def _selected(self, view: View) -> dict[bytes, Row]:
        """Of addresses whose pod or service a rule asks for: the rules that ask for it, or for nobody."""
        found: dict[bytes, Row] = {}

        def add(address: bytes, row: Row) -> None:
            if row != self._anybody:
                found[address] = tuple(a | b for a, b in zip(found.get(address, NO_RULE), row, strict=True))

        whose = _PodRows(self._asked, view)
        for pod in view.pods:
            for address in pod.addresses:
                add(address, whose.of(pod, (address,)))
        for service in view.services:
            row = _row(each for each in self._asked if is_service(each.end, view, service))
            for address in service.addresses:
                add(address, row)
        for address in view.services_behind:
            behind = {
                each for each in self._asked if each.end.services is not None and is_behind(each.end, view, address)
            }
            if behind:
                add(address, tuple(a | b for a, b in zip(_row(behind), self._anybody, strict=True)))
        return found

    @staticmethod
    def _address_bits(whose: NDArray[np.uint64], within: NDArray[np.uint64]) -> Records:
        bits = np.zeros(len(within), ADDRESS_BITS)
        bits["far"], bits["near"] = _end_bits(whose & within), _end_bits(within)
        return bits


class _PodRows:
    """The rules that ask for a pod, or for nobody: worked out once for all pods that rules cannot tell apart."""

    def __init__(self, asked: Iterable[_Asked], view: View) -> None:
        self._asked = list(asked)
        self._view = view
        self._known: dict[tuple[str, frozenset[tuple[str, str]], frozenset[str]], Row] = {}

    def of(self, pod: Pod, addresses: tuple[bytes, ...]) -> Row:
        """By these of its addresses."""
        behind = self._view.services_behind
        services = frozenset().union(*(behind.get(address, frozenset()) for address in addresses))
        key = (pod.namespace, frozenset(pod.labels.items()), services)
        if key not in self._known:
            alike = Pod(pod.namespace, pod.labels, addresses)
            self._known[key] = _row(each for each in self._asked if is_pod(each.end, self._view, alike))
        return self._known[key]


def _ends(lists: tuple[tuple[Rule, ...], ...]) -> Iterator[_Asked]:
    for number, rules in enumerate(lists):
        for bit, rule in enumerate(rules):
            yield _Asked(rule.end, number, bit)
            yield _Asked(rule.peer, LISTS + number, bit)


def _row(asked: Iterable[_Asked]) -> Row:
    row = [0] * ROW_WORDS
    for each in asked:
        row[each.word] |= 1 << each.bit
    return tuple(row)


def _by_port(lists: tuple[tuple[Rule, ...], ...]) -> Table:
    """Index 0 is that of packets without ports."""
    if all(rule.ports is None for rules in lists for rule in rules):
        return Table(np.zeros(0, np.uint32), np.zeros(0, RULE_BITS))
    values = np.zeros(FlowLimit.PORTS, RULE_BITS)
    values["of"] = _both_lists(lists, lambda rule: rule.ports is None)
    for number, rules in enumerate(lists):
        for bit, rule in enumerate(rules):
            for first, last in rule.ports or ():
                values["of"][first : last + 1, number] |= np.uint64(1 << bit)
    return Table(np.arange(len(values), dtype=np.uint32), values)


def _by_protocol(lists: tuple[tuple[Rule, ...], ...]) -> Table:
    if all(rule.protocols is None for rules in lists for rule in rules):
        return Table(np.zeros(0, np.uint32), np.zeros(0, RULE_BITS))
    values = np.zeros(FlowLimit.PROTOCOLS, RULE_BITS)
    values["of"] = _both_lists(lists, lambda rule: rule.protocols is None)
    for number, rules in enumerate(lists):
        for bit, rule in enumerate(rules):
            values["of"][list(rule.protocols or ()), number] |= np.uint64(1 << bit)
    return Table(np.arange(len(values), dtype=np.uint32), values)


def _both_lists(lists: tuple[tuple[Rule, ...], ...], wanted: Callable[[Rule], bool]) -> list[int]:
    return [sum(1 << bit for bit, rule in enumerate(rules) if wanted(rule)) for rules in lists]


def _end_bits(rows: NDArray[np.uint64] | list[Row]) -> Records:
    bits: Records = np.array(rows, np.uint64).reshape(-1, ROW_WORDS).view(END_BITS).reshape(len(rows))
    return bits


def _table(keys: Records | NDArray[np.uint32], values: Records) -> Table:
    """In the order of the keys' bytes: whoever compares tables need not sort them."""
    order = np.argsort(np.ascontiguousarray(keys).view(f"S{keys.dtype.itemsize}"))
    return Table(keys[order], values[order])
