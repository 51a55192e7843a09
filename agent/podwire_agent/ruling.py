"""From a resource's whitelist and blacklist to rules, and to what the kernel's maps have to hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import podwire_api as api
from podwire_agent.core.networks import Networks
from podwire_agent.core.rule_entries import RuleCompiler
from podwire_agent.core.rules import PROTOCOLS, End, Query, Requirement, Rule, Rules, Sends, View
from podwire_agent.model import RuleEntries

T = TypeVar("T")

_SENDS = {
    None: Sends.EITHER,
    api.RuleDirection.EGRESS: Sends.SENDER,
    api.RuleDirection.INGRESS: Sends.RECEIVER,
}


def rules_of(spec: api.NetworkMonitorSpec) -> Rules:
    """Both lists."""
    return Rules(tuple(map(_rule, spec.blacklist)), tuple(map(_rule, spec.whitelist)))


def rules_for(spec: api.NetworkMonitorSpec, view: View) -> RuleEntries | None:
    """What the kernel's maps have to hold; None: there are no rules.

    Whoever asks again and again for one spec keeps a RuleCompiler of its `rules_of`: that works out networks once.
    """
    return RuleCompiler(rules_of(spec)).compile(view)


def config_maps_of(spec: api.NetworkMonitorSpec) -> frozenset[str]:
    """The names of the ConfigMaps whose networks the rules use: keys of View.networks."""
    return frozenset(
        source.config_map_ref.name
        for rule in (*spec.blacklist, *spec.whitelist)
        for end in _ends(rule)
        for source in end.cidrs_from
    )


def _ends(rule: api.Rule) -> Iterator[api.Endpoint]:
    yield rule
    if rule.peer is not None:
        yield rule.peer


def _rule(rule: api.Rule) -> Rule:
    return Rule(
        name=rule.name,
        end=_end(rule),
        peer=_end(rule.peer) if rule.peer is not None else End(),
        ports=tuple(map(api.parse_port_range, rule.ports)) or None,
        protocols=_given(PROTOCOLS[protocol] for protocol in rule.protocols),
        sends=_SENDS[rule.direction],
    )


def _end(end: api.Endpoint) -> End:
    return End(
        namespaces=_given(end.namespaces),
        namespace_query=_query(end.namespace_selector),
        pod_query=_query(end.pod_selector),
        services=_given(end.services),
        cidrs=Networks.of(end.cidrs) if end.cidrs else None,
        cidrs_from=_given(source.config_map_ref.name for source in end.cidrs_from),
    )


def _query(selector: api.LabelSelector | None) -> Query | None:
    if selector is None:
        return None
    exact = [Requirement(key, "In", frozenset({value})) for key, value in selector.match_labels.items()]
    others = [Requirement(each.key, each.operator, frozenset(each.values)) for each in selector.match_expressions]
    return (*exact, *others)


def _given(items: Iterable[T]) -> frozenset[T] | None:
    """A field that is left out is an empty list here, and asks for nothing."""
    return frozenset(items) or None
