"""Rules and a view of the cluster, as the entries of the maps that the program reads (bpf/match.bpf.h)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.longest_prefix import Strings, as_strings
from podwire_agent.core.networks import Networks
from podwire_agent.core.prefix_index import EXACT, ROW_WORDS, PrefixIndex, Source
from podwire_agent.core.rules import Rule, Rules, Sends, View
from podwire_agent.core.selection import Asked, PodRows, Row, Selection, row_of
from podwire_agent.layout import ADDRESS, ADDRESS_BITS, END_BITS, RULE_BITS, RULE_SET, FlowLimit
from podwire_agent.model import Records, RuleEntries, RuleListName, Table

LISTS = int(FlowLimit.RULE_LISTS)


class RuleCompiler:
    """For one pair of lists. What depends on networks is worked out once for each state of those that the view has."""

    def __init__(self, rules: Rules) -> None:
        """At most RULE_LIMIT rules a list."""
        self._rules = rules
        self._lists = (rules.blacklist, rules.whitelist)
        self._asked = list(_ends(self._lists))
        self._anybody = row_of(each for each in self._asked if not each.end.asks_whose)
        self._ports = _by_port(self._lists)
        self._protocols = _by_protocol(self._lists)
        self._named = {name for each in self._asked for name in each.end.cidrs_from or ()}
        self._networks: dict[str, Networks] = {}
        self._listed: tuple[PrefixIndex, Table, Table] | None = None
        self._selection = Selection(self._asked)

    def compile(self, view: View) -> RuleEntries | None:
        """None: there are no rules. Of a view that is not complete, entries by which nothing is judged."""
        if not self._rules.all:
            return None
        if not view.complete:
            view = View(complete=False)
        if self._rules.ask_whose:
            self._selection.follow(view)
        index, prefixes, exact = self._index(view)
        return RuleEntries(
            blacklist=tuple(rule.name for rule in self._rules.blacklist),
            settings=self._settings(index, hold=self._rules.ask_whose or not view.complete),
            interfaces=self._interfaces(view),
            addresses=self._addresses(index, exact),
            prefixes=prefixes,
            ports=self._ports,
            protocols=self._protocols,
        )

    def _index(self, view: View) -> tuple[PrefixIndex, Table, Table]:
        """What the rules say of networks: of any address, of those with more than one, and of those with one."""
        networks = {name: view.networks[name] for name in self._named if name in view.networks}
        if self._listed is None or networks != self._networks:
            index = PrefixIndex([self._inline(), self._referred(networks)])
            wide = index.prefixes["length"] < EXACT
            bits = self._address_bits(np.array(self._anybody, np.uint64), index.rows)
            addresses = as_strings(index.prefixes["address"]["bytes"][~wide]).view(ADDRESS)
            tables = _table(index.prefixes[wide], bits[wide]), Table(addresses, bits[~wide])
            self._networks, self._listed = networks, (index, *tables)
        return self._listed

    def _inline(self) -> tuple[list[Source], Row]:
        listing = [(each.end.cidrs, each) for each in self._asked if each.end.cidrs is not None]
        sources = [Source(networks.prefixes, row_of([each])) for networks, each in listing]
        return sources, row_of(each for each in self._asked if each.end.cidrs is None)

    def _referred(self, networks: Mapping[str, Networks]) -> tuple[list[Source], Row]:
        sources = [
            Source(found.prefixes, row_of(each for each in self._asked if name in (each.end.cidrs_from or ())))
            for name, found in networks.items()
        ]
        return sources, row_of(each for each in self._asked if each.end.cidrs_from is None)

    def networks(self, view: View) -> PrefixIndex:
        """What the rules say of an address by its networks alone."""
        return self._index(view)[0]

    def whose(self, view: View) -> PodRows:
        """What they say of a pod."""
        return PodRows(self._asked, view)

    def selecting_nobody(self) -> list[tuple[RuleListName, str]]:
        """As rules.selecting_nobody, of the view compiled last."""
        if not self._rules.ask_whose:
            return []
        found = self._selection.anybody_asked_for()
        vain = {
            (each.word % LISTS, each.bit)
            for each in self._asked
            if each.end.asks_whose and not found[each.word] >> each.bit & 1
        }
        names = (RuleListName.BLACKLIST, RuleListName.WHITELIST)
        return [(names[number], self._lists[number][bit].name) for number, bit in sorted(vain)]

    def _settings(self, index: PrefixIndex, *, hold: bool) -> Records:
        settings = np.zeros(1, RULE_SET)
        settings["hold"] = hold
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
        whose = self._selection.whose
        rows = [self._anybody if pod is None else whose.of(pod, pod.addresses) for pod in view.interfaces.values()]
        return _table(np.fromiter(view.interfaces, np.uint32, len(rows)), _end_bits(rows))

    def _addresses(self, index: PrefixIndex, exact: Table) -> Table:
        """The networks of one address, and the addresses of those whom a rule selects."""
        addresses, whose = self._selection.selected()
        keys = as_strings(addresses)
        order = np.argsort(keys)
        keys, whose = keys[order], whose[order]
        bits = self._address_bits(whose, index.covering(keys))
        listed = as_strings(exact.keys.view(np.uint8).reshape(-1, 16))
        at, is_listed = find(listed, keys)
        values = exact.values
        if is_listed.any():
            values = values.copy()
            values[at[is_listed]] = bits[is_listed]
        fresh = ~is_listed
        return Table(np.insert(listed, at[fresh], keys[fresh]).view(ADDRESS), np.insert(values, at[fresh], bits[fresh]))

    @staticmethod
    def _address_bits(whose: NDArray[np.uint64], within: NDArray[np.uint64]) -> Records:
        bits = np.zeros(len(within), ADDRESS_BITS)
        bits["far"], bits["near"] = _end_bits(whose & within), _end_bits(within)
        return bits


def _ends(lists: tuple[tuple[Rule, ...], ...]) -> Iterator[Asked]:
    for number, rules in enumerate(lists):
        for bit, rule in enumerate(rules):
            yield Asked(rule.end, number, bit)
            yield Asked(rule.peer, LISTS + number, bit)


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


def find(
    known: NDArray[np.uint32] | Strings, wanted: NDArray[np.uint32] | Strings
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where each is among `known`, which is sorted, or would be; and whether it is there."""
    at = np.searchsorted(known, wanted)
    found = at < len(known)
    found[found] = known[at[found]] == wanted[found]
    return at, found
