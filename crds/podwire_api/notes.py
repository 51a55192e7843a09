"""What a person should know of a monitor that is valid."""

from __future__ import annotations

from podwire_api.fields import parse_cidr
from podwire_api.networkmonitor import NetworkMonitor
from podwire_api.rules import Endpoint, RuleProtocol

_WITH_PORTS = {RuleProtocol.TCP, RuleProtocol.UDP, RuleProtocol.SCTP}


def notes(monitor: NetworkMonitor) -> list[str]:
    """A line each, `FIELD: words`, for what is allowed and may not be what was meant."""
    spec = monitor.spec
    found = []
    if not spec.sinks:
        found.append("spec.sinks: none: the terminal shows the table and the report; a cluster wants at least one sink")
    for name, rules in (("whitelist", spec.whitelist), ("blacklist", spec.blacklist)):
        for index, rule in enumerate(rules):
            field = f"spec.{name}[{index}]"
            if rule.ports and rule.protocols and not _WITH_PORTS.intersection(rule.protocols):
                protocols = " and ".join(rule.protocols)
                found.append(f"{field}: never holds, since {protocols} has no ports; remove ports or protocols")
            found += _host_bits(rule, field)
            if rule.peer is not None:
                found += _host_bits(rule.peer, f"{field}.peer")
    return found


def _host_bits(endpoint: Endpoint, field: str) -> list[str]:
    return [
        f"{field}.cidrs[{index}]: {cidr} means {parse_cidr(cidr)}"
        for index, cidr in enumerate(endpoint.cidrs)
        if "/" in cidr and parse_cidr(cidr).network_address != parse_cidr(cidr.partition("/")[0]).network_address
    ]
