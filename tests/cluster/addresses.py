"""Addresses of a test cluster. Its machines have namespaces of their own, so all but the uplink can be fixed."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from itertools import count

CONTROL_PLANE = ("10.64.0.1", "fd00:64::1")
MACHINES = ("10.64.0.0/24", "fd00:64::/64")
PODS = ("10.244.0.0/16", "fd00:244::/48")
SERVICES = ("10.96.0.0/16", "fd00:96::/112")
SERVICE_OF_API = "10.96.0.1"

_UPLINKS = IPv4Network("10.200.0.0/13")
_serial = count()


def of_node(number: int) -> tuple[str, str]:
    """A node's own addresses, 1 <= `number` < 100."""
    return f"10.64.0.{100 + number}", f"fd00:64::{100 + number:x}"


def of_interface(number: int) -> str:
    """The MAC address of a node, the same when it comes back: nobody has to find out."""
    return f"02:00:0a:40:00:{number:02x}"


def of_pods(number: int) -> tuple[str, str]:
    """The ranges of the pods on a node."""
    return f"10.244.{number}.0/24", f"fd00:244:0:{number:x}::/64"


@dataclass(frozen=True, slots=True)
class Uplink:
    """The link between this host and a control plane: the only part of a cluster that this host sees."""

    interface: str
    """Of this host."""
    here: str
    there: str
    bits: int


def free_uplink() -> Uplink:
    """A name and addresses that nothing on this host has, and no other run is about to take."""
    serial = next(_serial)
    shown = subprocess.run(["ip", "-json", "-4", "address"], check=True, capture_output=True, text=True)
    taken = [ip_address(each["local"]) for link in json.loads(shown.stdout) for each in link["addr_info"]]
    networks = 1 << 28 - _UPLINKS.prefixlen
    for number in count(os.getpid() * 8 + serial):
        network = IPv4Network((int(_UPLINKS.network_address) + number % networks * 16, 28))
        if not any(address in network for address in taken):
            return Uplink(f"pw{os.getpid()}-{serial}", str(network[2]), str(network[1]), 28)
    raise AssertionError("count() does not end")
