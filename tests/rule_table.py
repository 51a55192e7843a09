"""The specification of rules: lists as the resource has them, a packet, and what becomes of it.

All packets are seen at the interface of the pod `web`. The rows of docs/concepts/rules.md are read by the same words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from podwire_agent.core.networks import Networks, packed
from podwire_agent.core.rules import PROTOCOLS, Flow, Pod, Rules, Service, View
from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import Cause, IfIndex, RuleListName
from podwire_agent.ruling import rules_of
from podwire_api import load_documents

ADDRESSES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "web": ("10.1.0.1", "fd00::1"),
        "db": ("10.1.0.2", "fd00::2"),
        "cache": ("10.1.0.4", "fd00::4"),
        "dns": ("10.1.0.3", "fd00::3"),
        "web-service": ("10.96.0.1", "fd00:96::1"),
        "data-service": ("10.96.0.2", "fd00:96::2"),
        "dns-service": ("10.96.0.10", "fd00:96::10"),
        "api-service": ("10.96.0.3", "fd00:96::3"),
        "control-plane": ("192.0.2.10", "2001:db8:1::10"),
        "outside": ("198.51.100.7", "2001:db8::7"),
    }
)
"""Of everybody in the packets: IPv4 and IPv6."""

INTERFACE = IfIndex(1)


def _at(name: str) -> tuple[bytes, ...]:
    return tuple(map(packed, ADDRESSES[name]))


WEB = Pod("shop", {"app": "web", "tier": "front"}, _at("web"))
DB = Pod("data", {"app": "db"}, _at("db"))
CACHE = Pod("data", {"app": "cache"}, _at("cache"))
DNS = Pod("kube-system", {"app": "dns"}, _at("dns"))

VIEW = View(
    pods=(WEB, DB, CACHE, DNS),
    namespaces={"shop": {"team": "shop"}, "data": {"team": "shop", "kind": "storage"}, "kube-system": {}},
    services=(
        Service("shop", "web", _at("web-service"), frozenset(_at("web"))),
        Service("data", "all", _at("data-service"), frozenset(_at("db") + _at("cache"))),
        Service("kube-system", "dns", _at("dns-service"), frozenset(_at("dns"))),
        Service("default", "kubernetes", _at("api-service"), frozenset(_at("control-plane"))),
    ),
    interfaces={INTERFACE: WEB},
    networks={
        "offices": Networks.of(["198.51.100.0/24", "2001:db8::/64"]),
        "cluster": Networks.of(["10.0.0.0/8", "fd00::/8"]),
        "nothing": Networks.of([]),
    },
)

UNKNOWN = View(VIEW.pods, VIEW.namespaces, VIEW.services, {}, VIEW.networks)
"""Before it is known whose the interface is."""

NO_POD = View(VIEW.pods, VIEW.namespaces, VIEW.services, {INTERFACE: None}, VIEW.networks)
"""The interface is known to be no pod's."""


@dataclass(frozen=True, slots=True)
class Case:
    """A row."""

    sentence: str
    lists: str
    """As in a resource's spec."""
    packet: str
    """`web:40000 > db:5432 TCP`, `web > db ICMP`, `web > db TCP later fragment`, each with `over IPv6` or not."""
    expected: str
    """`measured`, `blacklist NAME`, or `not listed`."""
    view: View = VIEW

    @property
    def rules(self) -> Rules:
        return rules(self.lists)

    @property
    def flow(self) -> Flow:
        return flow(self.packet)

    @property
    def verdict(self) -> Cause | None:
        return verdict(self.expected)


def rules(lists: str) -> Rules:
    """Both lists, through the resource's own validation."""
    head = "apiVersion: podwire.dev/v1alpha1\nkind: NetworkMonitor\nmetadata: {name: table}\n"
    [monitor] = load_documents(f"{head}spec: {{{lists}}}\n", "table")
    return rules_of(monitor.spec)


_PACKET = re.compile(
    r"([\w-]+)(?::(\d+))? > ([\w-]+)(?::(\d+))? ([A-Za-z0-9]+)( later fragment)?( over IPv6)?", re.ASCII
)
_NUMBERS = {**PROTOCOLS, "GRE": 47}


def flow(packet: str) -> Flow:
    """What the words say."""
    found = _PACKET.fullmatch(packet)
    assert found, packet
    source, src_port, target, dst_port, protocol, later, ipv6 = found.groups()
    assert "web" in {source, target}, packet
    return Flow(
        direction=FlowDirection.FROM_POD if source == "web" else FlowDirection.TO_POD,
        src_address=packed(ADDRESSES[source][bool(ipv6)]),
        dst_address=packed(ADDRESSES[target][bool(ipv6)]),
        protocol=_NUMBERS[protocol],
        src_port=int(src_port or 0),
        dst_port=int(dst_port or 0),
        kind=FlowKind.FLOW_LATER_FRAGMENT if later else FlowKind.FLOW_WHOLE,
    )


def verdict(words: str) -> Cause | None:
    """What the words say."""
    if words == "measured":
        return None
    if words == "not listed":
        return Cause(RuleListName.WHITELIST, "")
    name, _, rule = words.partition(" ")
    assert name == "blacklist", words
    return Cause(RuleListName.BLACKLIST, rule)


QUERY = "web:40000 > db:5432 TCP"
ANSWER = "db:5432 > web:40000 TCP"
LOOKUP = "web:41000 > dns-service:53 UDP"
CALL = "outside:50000 > web:443 TCP"
PAGE = "web:443 > outside:50000 TCP"


def black(rule: str) -> str:
    """A blacklist of one rule, named r."""
    return f"blacklist: [{{name: r, {rule}}}]"


def white(rule: str) -> str:
    """A whitelist of one rule, named r."""
    return f"whitelist: [{{name: r, {rule}}}]"


def both(sentence: str, rule: str, packet: str, *, holds: bool, view: View = VIEW) -> list[Case]:
    """What a rule does in either list, when it holds for the packet and when not."""
    return [
        Case(f"{sentence}, blacklisted", black(rule), packet, "blacklist r" if holds else "measured", view),
        Case(f"{sentence}, whitelisted", white(rule), packet, "measured" if holds else "not listed", view),
    ]


LISTS = [
    Case("without rules everything is measured", "", QUERY, "measured"),
    Case("an empty whitelist is everything", "whitelist: []", QUERY, "measured"),
    Case("a rule that asks for nothing holds for everything", "blacklist: [{name: all}]", QUERY, "blacklist all"),
    Case("so does one in the whitelist", "whitelist: [{name: all}]", QUERY, "measured"),
    Case("the blacklist wins", "whitelist: [{name: w}], blacklist: [{name: b}]", QUERY, "blacklist b"),
    Case("the first rule that holds is charged", "blacklist: [{name: a, ports: [1]}, {name: b}, {name: c}]", QUERY,
         "blacklist b"),
    Case("any rule of the whitelist will do", "whitelist: [{name: a, ports: [1]}, {name: b, ports: [5432]}]", QUERY,
         "measured"),
    Case("none of them holds", "whitelist: [{name: a, ports: [1]}, {name: b, ports: [2]}]", QUERY, "not listed"),
    Case("a blacklist that does not hold leaves the whitelist to decide",
         "whitelist: [{name: w, ports: [1]}], blacklist: [{name: b, ports: [2]}]", QUERY, "not listed"),
]  # fmt: skip

FIELDS = [
    *both("a port of the receiver", "ports: [5432]", QUERY, holds=True),
    *both("a port of the sender", "ports: [5432]", ANSWER, holds=True),
    *both("another port", "ports: [5433]", QUERY, holds=False),
    *both("a range, its first", 'ports: ["5432-6000"]', QUERY, holds=True),
    *both("a range, its last", 'ports: ["5000-5432"]', QUERY, holds=True),
    *both("a range, just beside", 'ports: ["5433-6000"]', QUERY, holds=False),
    *both("one of several ports", 'ports: [1, "2-3", 5432]', QUERY, holds=True),
    *both("a port of ICMP is none", 'ports: ["1-65535"]', "web > db ICMP", holds=False),
    *both("a later fragment has no ports", 'ports: ["1-65535"]', "web > db UDP later fragment", holds=False),
    *both(
        "a later fragment without a question for ports", "protocols: [UDP]", "web > db UDP later fragment", holds=True
    ),
    *both("port 0 is none that a rule lists", 'ports: ["1-65535"]', "web:0 > db:0 UDP", holds=False),
    *both("a protocol", "protocols: [TCP]", QUERY, holds=True),
    *both("another protocol", "protocols: [UDP, SCTP, ICMP, ICMPv6]", QUERY, holds=False),
    *both("ICMPv6 is not ICMP", "protocols: [ICMP]", "web > db ICMPv6 over IPv6", holds=False),
    *both("a protocol that rules have no name for", "protocols: [TCP, UDP]", "web > db GRE", holds=False),
    *both("all fields together", "protocols: [TCP], ports: [5432], cidrs: [10.1.0.2]", QUERY, holds=True),
    *both("all fields but one", "protocols: [UDP], ports: [5432], cidrs: [10.1.0.2]", QUERY, holds=False),
]

ENDS = [
    *both("a network of the sender", "cidrs: [198.51.100.0/24]", CALL, holds=True),
    *both("a network of the receiver", "cidrs: [198.51.100.0/24]", PAGE, holds=True),
    *both("a network of neither", "cidrs: [203.0.113.0/24]", CALL, holds=False),
    *both("a network of the near end", "cidrs: [10.1.0.0/30]", CALL, holds=True),
    *both("an address", "cidrs: [198.51.100.7]", CALL, holds=True),
    *both("its neighbour", "cidrs: [198.51.100.6]", CALL, holds=False),
    *both("bits behind a prefix do not count", "cidrs: [198.51.100.99/24]", CALL, holds=True),
    *both("all of IPv4", "cidrs: [0.0.0.0/0]", CALL, holds=True),
    *both("all of IPv4 is not IPv6", "cidrs: [0.0.0.0/0]", f"{CALL} over IPv6", holds=False),
    *both("all of IPv6 is not IPv4", 'cidrs: ["::/0"]', CALL, holds=False),
    *both("all of IPv6", 'cidrs: ["::/0"]', f"{CALL} over IPv6", holds=True),
    *both("a network of IPv6", 'cidrs: ["2001:db8::/64"]', f"{CALL} over IPv6", holds=True),
    Case("every network that covers an address counts, not the longest alone",
         "whitelist: [{name: wide, cidrs: [198.51.0.0/16]}, {name: narrow, cidrs: [198.51.100.7], ports: [1]}]", CALL,
         "measured"),
    Case("also of a wide and a narrow one in the blacklist",
         "blacklist: [{name: narrow, cidrs: [198.51.100.0/28], ports: [1]}, {name: wide, cidrs: [198.51.0.0/16]}]",
         CALL, "blacklist wide"),
    *both("networks from a ConfigMap", "cidrsFrom: [{configMapRef: {name: offices}}]", CALL, holds=True),
    *both("one of several ConfigMaps",
          "cidrsFrom: [{configMapRef: {name: nothing}}, {configMapRef: {name: offices}}]", CALL, holds=True),
    *both("an empty ConfigMap holds nobody", "cidrsFrom: [{configMapRef: {name: nothing}}]", CALL, holds=False),
    *both("a ConfigMap that is not there holds nobody", "cidrsFrom: [{configMapRef: {name: absent}}]", CALL,
          holds=False),
    *both("networks given twice must both hold the address",
          "cidrs: [198.51.100.0/28], cidrsFrom: [{configMapRef: {name: offices}}]", CALL, holds=True),
    *both("a ConfigMap does not add to cidrs",
          "cidrs: [203.0.113.0/24], cidrsFrom: [{configMapRef: {name: offices}}]", CALL, holds=False),
    *both("both ends", "cidrs: [10.1.0.0/30], peer: {cidrs: [198.51.100.0/24]}", CALL, holds=True),
    *both("both ends the other way round", "cidrs: [198.51.100.0/24], peer: {cidrs: [10.1.0.0/30]}", CALL, holds=True),
    *both("both ends, and one is another", "cidrs: [10.1.0.0/30], peer: {cidrs: [203.0.113.0/24]}", CALL, holds=False),
    *both("one end cannot be both", "cidrs: [198.51.100.0/24], peer: {cidrs: [198.51.100.0/24]}", CALL, holds=False),
    *both("within one network both ends hold", "cidrs: [10.0.0.0/8], peer: {cidrs: [10.0.0.0/8]}", QUERY, holds=True),
    *both("a peer alone", "peer: {cidrs: [198.51.100.0/24]}", PAGE, holds=True),
]  # fmt: skip

DIRECTIONS = [
    *both("egress: the end sends", "cidrs: [10.1.0.1], direction: Egress", QUERY, holds=True),
    *both("egress: not the answer", "cidrs: [10.1.0.1], direction: Egress", ANSWER, holds=False),
    *both("ingress: the end receives", "cidrs: [10.1.0.1], direction: Ingress", ANSWER, holds=True),
    *both("ingress: not what it sends", "cidrs: [10.1.0.1], direction: Ingress", QUERY, holds=False),
    *both("egress of the far end", "cidrs: [10.1.0.2], direction: Egress", ANSWER, holds=True),
    *both("egress of the far end: not what it receives", "cidrs: [10.1.0.2], direction: Egress", QUERY, holds=False),
    *both("egress to a peer", "cidrs: [10.1.0.1], direction: Egress, peer: {cidrs: [10.1.0.2]}", QUERY, holds=True),
    *both("egress to a peer: not from it", "cidrs: [10.1.0.1], direction: Egress, peer: {cidrs: [10.1.0.2]}", ANSWER,
          holds=False),
    *both("ingress from a peer", "cidrs: [10.1.0.1], direction: Ingress, peer: {cidrs: [10.1.0.2]}", ANSWER,
          holds=True),
    *both("a direction without an end holds for every packet", "direction: Ingress", QUERY, holds=True),
]  # fmt: skip

PODS = [
    *both("pods of a namespace, at the near end", "namespaces: [shop]", CALL, holds=True),
    *both("pods of a namespace, at the far end", "namespaces: [data]", QUERY, holds=True),
    *both("one of several namespaces", "namespaces: [a, b, data]", ANSWER, holds=True),
    *both("pods of another namespace", "namespaces: [kube-system]", QUERY, holds=False),
    *both("namespaces by label", "namespaceSelector: {matchLabels: {kind: storage}}", QUERY, holds=True),
    *both("namespaces by another label", "namespaceSelector: {matchLabels: {kind: other}}", QUERY, holds=False),
    *both("pods by label", "podSelector: {matchLabels: {app: db}}", QUERY, holds=True),
    *both("pods by what they have not got",
          "podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}, namespaces: [data]", QUERY,
          holds=True),
    *both("pods by a value that they have not got",
          "podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [db]}]}, namespaces: [data]", QUERY,
          holds=False),
    *both("every pod", "podSelector: {}, peer: {podSelector: {}}", QUERY, holds=True),
    *both("every pod is not everybody", "podSelector: {}, peer: {podSelector: {}}", CALL, holds=False),
    *both("a namespace and a label that no pod has both", "namespaces: [shop], podSelector: {matchLabels: {app: db}}",
          QUERY, holds=False),
    *both("a pod in a network", "namespaces: [data], cidrs: [10.1.0.2]", QUERY, holds=True),
    *both("a pod outside of the network", "namespaces: [data], cidrs: [10.1.0.4]", QUERY, holds=False),
    *both("a near pod by a network of its packet's address", "namespaces: [shop], cidrs: [10.1.0.0/16]", CALL,
          holds=True),
    *both("from pod to pod", "namespaces: [shop], peer: {namespaces: [data]}, direction: Egress", QUERY, holds=True),
    *both("from pod to pod: not back", "namespaces: [shop], peer: {namespaces: [data]}, direction: Egress", ANSWER,
          holds=False),
    *both("pods over IPv6", "namespaces: [data]", f"{QUERY} over IPv6", holds=True),
]  # fmt: skip

SERVICES = [
    *both("a service's address", "services: [kube-system/dns]", LOOKUP, holds=True),
    *both("a pod behind it", "services: [kube-system/dns]", "web:41000 > dns:53 UDP", holds=True),
    *both("the near end behind it", "services: [shop/web]", CALL, holds=True),
    *both("another service", "services: [data/all]", LOOKUP, holds=False),
    *both("a service that is not there", "services: [data/absent]", LOOKUP, holds=False),
    *both("what is behind a service and no pod", "services: [default/kubernetes]", "web:1 > control-plane:6443 TCP",
          holds=True),
    *both("the same, where a pod is asked for", "services: [default/kubernetes], namespaces: [default]",
          "web:1 > control-plane:6443 TCP", holds=False),
    *both("a service's address is of its namespace", "namespaces: [kube-system]", LOOKUP, holds=True),
    *both("by the namespace's labels too", "namespaceSelector: {matchLabels: {kind: storage}}",
          "web:1 > data-service:5432 TCP", holds=True),
    *both("a service's address has the labels of all behind it", "podSelector: {matchLabels: {app: dns}}", LOOKUP,
          holds=True),
    *both("but not those of some", "podSelector: {matchLabels: {app: db}}", "web:1 > data-service:5432 TCP",
          holds=False),
    *both("nobody's labels where no pod is behind it", "podSelector: {}, peer: {namespaces: [shop]}",
          "web:1 > api-service:443 TCP", holds=False),
    *both("a service over IPv6", "services: [kube-system/dns]", f"{LOOKUP} over IPv6", holds=True),
]  # fmt: skip

NEAR_ENDS = [
    Case("while nobody knows whose an interface is, it is measured", white("namespaces: [data]"), CALL, "measured",
         UNKNOWN),
    Case("also what a blacklist names", black("namespaces: [data]"), QUERY, "measured", UNKNOWN),
    *both("rules about addresses alone need not wait", "cidrs: [198.51.100.0/24]", CALL, holds=True, view=UNKNOWN),
    *both("an interface of no pod is none, whatever the address", "namespaces: [shop]", CALL, holds=False, view=NO_POD),
    *both("its far ends are known as ever", "namespaces: [data]", QUERY, holds=True, view=NO_POD),
    *both("and its networks", "cidrs: [10.1.0.1]", CALL, holds=True, view=NO_POD),
]  # fmt: skip

DOCUMENT = Path(__file__).parents[1] / "docs" / "concepts" / "rules.md"


def documented() -> list[Case]:
    """The rows of the page about rules."""
    rows = re.findall(r"^\| `(\w+list: .*?)` \| `(.*?)` \| ([\w -]+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    return [Case(f"documented: {lists}, {packet}", lists, packet, words) for lists, packet, words in rows]


CASES = [*LISTS, *FIELDS, *ENDS, *DIRECTIONS, *PODS, *SERVICES, *NEAR_ENDS, *documented()]
