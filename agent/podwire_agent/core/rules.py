"""Rules, and what they mean: the plain reading of them, a flow at a time.

The program reads the same rules as sets of bits (core/rule_entries.py), and so does core/judge.py, for many flows at
once in user space: what was drained before a pod was known. Tests hold both against this reading.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Protocol

from podwire_agent.core.networks import Networks
from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import Cause, IfIndex, RuleListName

WITH_PORTS = frozenset({6, 17, 132})
"""TCP, UDP, SCTP."""

PROTOCOLS: Mapping[str, int] = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPv6": 58}
"""What a rule can name, and its IANA number."""


class Sends(StrEnum):
    """Which end of the packet a rule's described end has to be."""

    EITHER = "either"
    SENDER = "sender"
    RECEIVER = "receiver"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition on one label, as in Kubernetes."""

    key: str
    operator: str
    """In, NotIn, Exists or DoesNotExist."""
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """NotIn and DoesNotExist hold without the label too."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case _:
                return self.key not in labels


Query = tuple[Requirement, ...]
"""A label selector: all of it must hold; the empty one holds for everything."""


@dataclass(frozen=True, slots=True)
class End:
    """A description of one end of a conversation. None: not asked for; all that is asked for must hold."""

    namespaces: frozenset[str] | None = None
    namespace_query: Query | None = None
    pod_query: Query | None = None
    services: frozenset[str] | None = None
    """As namespace/name."""
    cidrs: Networks | None = None
    cidrs_from: frozenset[str] | None = None
    """Names of sets of networks in the view; one that it has not got is empty."""

    @property
    def asks_whose(self) -> bool:
        """It asks for more than the address: for the pod or service that has it."""
        return self.services is not None or self.asks_for_a_pod

    @property
    def asks_for_a_pod(self) -> bool:
        """For a pod's namespace or labels."""
        return not (self.namespaces is None and self.namespace_query is None and self.pod_query is None)


ANYBODY = End()


@dataclass(frozen=True, slots=True)
class Rule:
    """Conversations with these ends over these ports and protocols."""

    name: str
    end: End = ANYBODY
    peer: End = ANYBODY
    ports: tuple[tuple[int, int], ...] | None = None
    """First and last of each range, 1 to 65535."""
    protocols: frozenset[int] | None = None
    sends: Sends = Sends.EITHER
    """What the described end is."""

    @property
    def asks_whose(self) -> bool:
        """One of its ends is a pod or a service."""
        return self.end.asks_whose or self.peer.asks_whose


@dataclass(frozen=True, slots=True)
class Rules:
    """Both lists of a monitor, in their order, at most 64 rules each."""

    blacklist: tuple[Rule, ...] = ()
    whitelist: tuple[Rule, ...] = ()

    @property
    def all(self) -> tuple[Rule, ...]:
        """The blacklist's first."""
        return self.blacklist + self.whitelist

    @property
    def ask_whose(self) -> bool:
        """They cannot be judged before it is known which pod is behind an interface."""
        return any(rule.asks_whose for rule in self.all)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with addresses of its own: one on the host's network is told by none."""

    namespace: str
    labels: Mapping[str, str]
    addresses: tuple[bytes, ...]
    """16 bytes each, IPv4 mapped."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service and who is behind it."""

    namespace: str
    name: str
    addresses: tuple[bytes, ...]
    """Those that clients may use, 16 bytes each."""
    backends: frozenset[bytes] = frozenset()
    """Addresses of the pods, or others, behind it."""

    @property
    def full_name(self) -> str:
        """As rules name it."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class View:
    """What rules ask about, at one time."""

    pods: Collection[Pod] = ()
    """Of the whole cluster."""
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Their labels."""
    services: Collection[Service] = ()
    interfaces: Mapping[IfIndex, Pod | None] = field(default_factory=dict)
    """The pod behind each interface; None: known to be no pod's. One that is not here may yet become a pod's."""
    networks: Mapping[str, Networks] = field(default_factory=dict)
    """The sets that rules name."""
    complete: bool = True
    """False: more is to come before anybody can say what the rules mean; until then everything is measured."""

    @cached_property
    def pods_at(self) -> Mapping[bytes, list[Pod]]:
        """By address."""
        found: dict[bytes, list[Pod]] = {}
        for pod in self.pods:
            for address in pod.addresses:
                found.setdefault(address, []).append(pod)
        return found

    @cached_property
    def services_at(self) -> Mapping[bytes, list[Service]]:
        """By an address of their own."""
        found: dict[bytes, list[Service]] = {}
        for service in self.services:
            for address in service.addresses:
                found.setdefault(address, []).append(service)
        return found

    @cached_property
    def services_behind(self) -> Mapping[bytes, frozenset[str]]:
        """The full names of the services that an address stands behind."""
        found: dict[bytes, set[str]] = {}
        for service in self.services:
            for address in service.backends:
                found.setdefault(address, set()).add(service.full_name)
        return {address: frozenset(names) for address, names in found.items()}


@dataclass(frozen=True, slots=True)
class Flow:
    """What rules are asked about: a layout.FLOW_KEY in words."""

    direction: FlowDirection
    src_address: bytes
    """16 bytes, IPv4 mapped."""
    dst_address: bytes
    protocol: int
    src_port: int = 0
    dst_port: int = 0
    kind: FlowKind = FlowKind.FLOW_WHOLE

    @property
    def ports(self) -> frozenset[int]:
        """Empty where it has none."""
        if self.kind is FlowKind.FLOW_LATER_FRAGMENT or self.protocol not in WITH_PORTS:
            return frozenset()
        return frozenset({self.src_port, self.dst_port})


class Known(Protocol):
    """What is to be known of a view, to tell who is asked for."""

    @property
    def namespaces(self) -> Mapping[str, Mapping[str, str]]:
        """Their labels."""

    @property
    def pods_at(self) -> Mapping[bytes, Sequence[Pod]]:
        """By address."""

    @property
    def services_behind(self) -> Mapping[bytes, Collection[str]]:
        """The full names of the services that an address stands behind."""


def verdict(rules: Rules, view: View, flow: Flow, near: Pod | None) -> Cause | None:
    """Why the flow is filtered; None: it is measured.

    `near`: the pod behind the interface where the flow was seen, or that a monitor would see it at; None: no pod's.
    """
    for rule in rules.blacklist:
        if holds(rule, view, flow, near):
            return Cause(RuleListName.BLACKLIST, rule.name)
    if rules.whitelist and not any(holds(rule, view, flow, near) for rule in rules.whitelist):
        return Cause(RuleListName.WHITELIST, "")
    return None


def verdict_at(rules: Rules, view: View, flow: Flow, interface: IfIndex) -> Cause | None:
    """As `verdict`, for a flow on an interface: while nobody knows whose that is, it is measured."""
    if not view.complete or (rules.ask_whose and interface not in view.interfaces):
        return None
    return verdict(rules, view, flow, view.interfaces.get(interface))


def holds(rule: Rule, view: View, flow: Flow, near: Pod | None) -> bool:
    """All that the rule asks for."""
    if rule.ports is not None and not any(first <= port <= last for port in flow.ports for first, last in rule.ports):
        return False
    if rule.protocols is not None and flow.protocol not in rule.protocols:
        return False
    sent_by_near = flow.direction is FlowDirection.FROM_POD

    def is_sender(end: End) -> bool:
        return _is_near(end, view, flow.src_address, near) if sent_by_near else _is_far(end, view, flow.src_address)

    def is_receiver(end: End) -> bool:
        return _is_far(end, view, flow.dst_address) if sent_by_near else _is_near(end, view, flow.dst_address, near)

    if rule.sends is not Sends.RECEIVER and is_sender(rule.end) and is_receiver(rule.peer):
        return True
    return rule.sends is not Sends.SENDER and is_receiver(rule.end) and is_sender(rule.peer)


def _is_near(end: End, view: View, address: bytes, pod: Pod | None) -> bool:
    """Whose it is, is told by the interface; its networks, by the packet's address."""
    return _in_networks(end, view, address) and (not end.asks_whose or (pod is not None and is_pod(end, view, pod)))


def _is_far(end: End, view: View, address: bytes) -> bool:
    """All by the packet's address."""
    if not _in_networks(end, view, address):
        return False
    return (
        not end.asks_whose
        or any(is_pod(end, view, pod, address) for pod in view.pods_at.get(address, ()))
        or any(is_service(end, view, service) for service in view.services_at.get(address, ()))
        or is_behind(end, view, address)
    )


def is_pod(end: End, view: Known, pod: Pod, address: bytes | None = None) -> bool:
    """Whether the pod (by one of its addresses, or any) is whom the end asks for; its networks left aside."""
    if end.namespaces is not None and pod.namespace not in end.namespaces:
        return False
    if end.namespace_query is not None and not _answers(end.namespace_query, view.namespaces.get(pod.namespace)):
        return False
    if end.pod_query is not None and not _answers(end.pod_query, pod.labels):
        return False
    if end.services is None:
        return True
    addresses = pod.addresses if address is None else (address,)
    return any(not end.services.isdisjoint(view.services_behind.get(each, ())) for each in addresses)


def is_service(end: End, view: Known, service: Service) -> bool:
    """A service's own address stands for those behind it: it is in their namespace, and has the labels of them all."""
    if end.services is not None and service.full_name not in end.services:
        return False
    if end.namespaces is not None and service.namespace not in end.namespaces:
        return False
    if end.namespace_query is not None and not _answers(end.namespace_query, view.namespaces.get(service.namespace)):
        return False
    if end.pod_query is None:
        return True
    behind = [pod for address in service.backends for pod in view.pods_at.get(address, ())]
    return bool(behind) and all(_answers(end.pod_query, pod.labels) for pod in behind)


def is_behind(end: End, view: Known, address: bytes) -> bool:
    """Behind a service there may be what is no pod: then the end asks for the service and nothing else."""
    if end.services is None or end.asks_for_a_pod:
        return False
    return not end.services.isdisjoint(view.services_behind.get(address, ()))


def selecting_nobody(rules: Rules, view: View) -> list[tuple[RuleListName, str]]:
    """List and name of the rules of which an end asks for pods or services, and none in view is meant."""
    return [
        (name, rule.name)
        for name, list_ in ((RuleListName.BLACKLIST, rules.blacklist), (RuleListName.WHITELIST, rules.whitelist))
        for rule in list_
        if any(end.asks_whose and not _selects_anybody(end, view) for end in (rule.end, rule.peer))
    ]


def _selects_anybody(end: End, view: View) -> bool:
    return (
        any(is_pod(end, view, pod) for pod in view.pods)
        or any(is_service(end, view, service) for service in view.services)
        or any(is_behind(end, view, address) for address in view.services_behind)
    )


def _answers(query: Query, labels: Mapping[str, str] | None) -> bool:
    """What is not in view has no labels that could be asked for."""
    return labels is not None and all(requirement.holds(labels) for requirement in query)


def _in_networks(end: End, view: View, address: bytes) -> bool:
    if end.cidrs is not None and not end.cidrs.hold(address):
        return False
    if end.cidrs_from is None:
        return True
    return any(view.networks[name].hold(address) for name in end.cidrs_from if name in view.networks)
