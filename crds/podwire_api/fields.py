"""The scalars of the resources: what a name, a CIDR, a port, a duration may be, and how a person is told otherwise.

A validator's ValueError holds the words that follow the value: `is not a name ...`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from podwire_api.duration import format_duration, parse_duration
from podwire_api.veth_pattern import compile_veth_pattern

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

PLACED = "placed"
"""Type of the pydantic errors that `placed` makes."""

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_DNS_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"


def placed(*path: str | int, because: str) -> PydanticCustomError:
    """An error about `path`, seen from the model or list whose validator raises it; `because` is the whole message."""
    return PydanticCustomError(PLACED, "{because}", {"because": because, "path": path})


def _text(holds: Callable[[str], object], words: str) -> BeforeValidator:
    """Only text for which `holds` is true; YAML's numbers and booleans that would do in quotes are told so."""

    def check(value: object) -> object:
        if isinstance(value, str) and holds(value):
            return value
        if isinstance(value, bool | int | float) and holds(str(value)):
            raise ValueError("is not text; put it in quotes")
        raise ValueError(words)

    return BeforeValidator(check)


def _matching(pattern: str, words: str) -> BeforeValidator:
    return _text(re.compile(pattern, re.ASCII).fullmatch, words)


def parse_cidr(text: str) -> IpNetwork:
    """The network `text` names; bits behind the prefix are dropped, an address is a network of one. ValueError if none.

    Netmasks, zones and IPv4 mapped into IPv6 are refused, as the API server's isCIDR and isIP do.
    """
    address, slash, prefix = text.partition("/")
    if "%" in address or (slash and not re.fullmatch("0|[1-9][0-9]{0,2}", prefix, re.ASCII)):
        raise ValueError(f"{text!r} is not a CIDR")
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and ipaddress.IPv6Address(address).ipv4_mapped:
        raise ValueError(f"{text!r} is IPv4 mapped into IPv6")
    return network


def parse_port_range(port: int | str) -> tuple[int, int]:
    """First and last port of `80` or `"8000-8010"`. ValueError unless 1 <= first <= last <= 65535."""
    if isinstance(port, str):
        found = re.fullmatch("([0-9]{1,5})-([0-9]{1,5})", port, re.ASCII)
        first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    else:
        first = last = port
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"{port!r} is not a port or range")
    return first, last


def _is_cidr(text: str) -> bool:
    try:
        parse_cidr(text)
    except ValueError:
        return False
    return True


def _check_port(value: object) -> object:
    try:
        if isinstance(value, int | str) and not isinstance(value, bool):
            parse_port_range(value)
            return value
    except ValueError:
        pass
    raise ValueError('is not a port 1-65535, nor a range such as "8000-8010" whose first is not above its last')


def _is_iface_name(text: str) -> bool:
    """As the kernel's dev_valid_name: under 16 bytes, no / : or white space, neither . nor .."""
    return bool(re.fullmatch(r"[^/:\s]+", text)) and len(text.encode()) < 16 and text not in {".", ".."}


def _is_url(text: str) -> bool:
    if not text.isprintable() or " " in text:
        return False
    try:
        url = urlsplit(text)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.username is None and url.port != 0
    except ValueError:
        return False


def _check_pattern(pattern: str) -> str:
    compile_veth_pattern(pattern)
    return pattern


def duration_between(low: str, high: str) -> BeforeValidator:
    """Only durations from `low` to `high`, both included."""
    low_ns, high_ns = parse_duration(low), parse_duration(high)

    def holds(text: str) -> bool:
        try:
            return low_ns <= parse_duration(text) <= high_ns
        except ValueError:
            return False

    example = format_duration(min(max(low_ns, parse_duration("1m30s")), high_ns // 2))
    return _text(holds, f"is not a duration from {low} to {high}, such as {example}")


class Named(Protocol):
    """What `unique_names` looks at."""

    @property
    def name(self) -> str:
        """Told apart from others by it."""


N = TypeVar("N", bound=Named)
T = TypeVar("T")


def unique_names(items: tuple[N, ...]) -> tuple[N, ...]:
    """Refuses the second item of one name."""
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        if item.name in first:
            raise placed(index, "name", because=f'"{item.name}" is the name of entry [{first[item.name]}] already')
        first[item.name] = index
    return items


def unique(items: tuple[T, ...]) -> tuple[T, ...]:
    """Refuses an item that is in the list already."""
    for index, item in enumerate(items):
        if item in items[:index]:
            raise placed(index, because=f'"{item}" is in the list already')
    return items


def _label_keys(labels: Mapping[str, str]) -> Mapping[str, str]:
    for key in labels:
        if not _is_label_key(key):
            raise placed(key, because=f"this {_LABEL_KEY_WORDS}")
    return labels


def _is_label_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    return (
        bool(re.fullmatch(_LABEL_VALUE, name, re.ASCII))
        and 0 < len(name) <= 63
        and (not slash or (bool(re.fullmatch(_DNS_SUBDOMAIN, prefix, re.ASCII)) and len(prefix) <= 253))
    )


_NAME_WORDS = "is not a name of lower-case letters, digits and '-', such as kube-system"
_LABEL_KEY_WORDS = "is not a label's key such as app or kubernetes.io/os"

Name = Annotated[str, Field(max_length=63), _matching(_LABEL, _NAME_WORDS)]
"""A DNS label."""

MonitorName = Annotated[
    str,
    Field(max_length=40),
    _matching(_DNS_SUBDOMAIN, "is not a name of lower-case letters, digits, '-' and '.', such as shop"),
]
"""metadata.name; short, since it becomes part of other objects' names and labels."""

ObjectName = Annotated[
    str,
    Field(max_length=253),
    _matching(_DNS_SUBDOMAIN, "is not an object's name of lower-case letters, digits, '-' and '.'"),
]
"""The name of a ConfigMap or Secret."""

ServiceName = Annotated[
    str,
    Field(max_length=127),
    _matching(f"{_LABEL}/{_LABEL}", "is not a service such as shop/checkout (namespace/name)"),
]

Uid = Annotated[
    str,
    _matching(
        "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "is not a UUID in lower case; leave it out, the name makes one"
    ),
]

LabelKey = Annotated[str, Field(max_length=317), _text(_is_label_key, _LABEL_KEY_WORDS)]
LabelValue = Annotated[
    str, Field(max_length=63), _matching(_LABEL_VALUE, "is not a label's value of letters, digits, '-', '_' and '.'")
]
Labels = Annotated[dict[str, LabelValue], Field(max_length=32), AfterValidator(_label_keys)]

Cidr = Annotated[
    str, Field(max_length=43), _text(_is_cidr, "is not a CIDR such as 10.0.0.0/8 or fd00::/8, nor an address")
]
Port = Annotated[int | str, BeforeValidator(_check_port)]
IfaceName = Annotated[
    str,
    Field(max_length=15),
    _text(_is_iface_name, "is not an interface's name of at most 15 characters, such as eth0"),
]
VethPattern = Annotated[
    str,
    Field(min_length=1, max_length=64),
    AfterValidator(_check_pattern),
]
Url = Annotated[
    str,
    Field(max_length=2048),
    _text(_is_url, "is not a URL such as https://collector.example:4318, with no user or password in it"),
]
