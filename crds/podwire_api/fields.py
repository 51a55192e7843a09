"""The scalars of the resources: what a name, a CIDR, a port, a duration may be, and how a person is told otherwise.

A validator's ValueError holds the words that follow the value: `is not a name ...`. The rule of the API server that
says the same stands beside it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from podwire_api.cel import INT_OR_STRING, MUST_BE, Cel, Schema
from podwire_api.duration import DURATION, format_duration, parse_duration
from podwire_api.veth_pattern import SERVER_RULE, compile_veth_pattern

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

PLACED = "placed"
"""Type of the pydantic errors that `placed` makes."""

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
# Short: the API server's estimate of a rule's cost grows with the length of the expression.
_LABEL_VALUE = r"([^\W_]([-\w.]*[^\W_])?)?"
_DNS_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_KEY = rf"({_DNS_SUBDOMAIN}/)?[^\W_]([-\w.]{{0,61}}[^\W_])?"
_QUANTITY = r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?"
_QUANTITY_UNITS = {"": Decimal(1), "m": Decimal("0.001")} | {
    unit: Decimal(base**power)
    for base, units in ((1000, "kMGT"), (1024, ("Ki", "Mi", "Gi", "Ti")))
    for power, unit in enumerate(units, 1)
}
_IFACE_NAME = r"[^/:\s\v]+"
_TCP_PORT = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
_URL = rf"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:{_TCP_PORT})?([/?][!-~]*)?"

MAX_LABEL_PREFIX = 253
"""Characters of what stands before the / in a label's key."""
MAX_NAME = 40
"""Characters of a NetworkMonitor's and an AgentPool's name."""


def placed(*path: str | int, because: str) -> PydanticCustomError:
    """An error about `path`, seen from the model or list whose validator raises it; `because` is the whole message."""
    return PydanticCustomError(PLACED, "{because}", {"because": because, "path": path})


@dataclass(frozen=True, slots=True)
class _Text:
    """An annotation: only text of which `holds` is true, and the API server's `cel`."""

    holds: Callable[[str], object]
    what: str
    """What the text must be: `a name of ...`."""
    cel: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return Cel(self.cel, f"{MUST_BE}{self.what}").__get_pydantic_json_schema__(core, handler)

    def _check(self, value: object) -> object:
        if isinstance(value, str) and self.holds(value):
            return value
        # YAML's numbers and booleans that would do in quotes.
        if isinstance(value, bool | int | float) and self.holds(str(value)):
            raise ValueError("is not text; put it in quotes")
        raise ValueError(f"is not {self.what}")


def _matching(pattern: str, what: str) -> _Text:
    """`pattern`: of the whole text, read alike by RE2 and Python's re, with no `|` outside of parentheses."""
    return _Text(re.compile(pattern, re.ASCII).fullmatch, what, f"self.matches(r'^{pattern}$')")


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


def quantity(text: str) -> Decimal:
    """The amount that a Quantity names, in its unit without a prefix."""
    number = text.rstrip("mkKMGTi")
    return Decimal(number) * _QUANTITY_UNITS[text.removeprefix(number)]


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_port(value: object) -> object:
    try:
        if isinstance(value, int | str) and not isinstance(value, bool):
            parse_port_range(value)
            return value
    except ValueError:
        pass
    raise ValueError(f"is not {_A_PORT}")


def _is_iface_name(text: str) -> bool:
    """As the kernel's dev_valid_name: under 16 bytes, no / : or white space, neither . nor .."""
    return bool(re.fullmatch(_IFACE_NAME, text, re.ASCII)) and len(text.encode()) < 16 and text not in {".", ".."}


def _check_pattern(pattern: str) -> str:
    compile_veth_pattern(pattern)
    return pattern


def duration_between(low: str, high: str) -> _Text:
    """Only durations from `low` to `high`, both included."""
    low_ns, high_ns = parse_duration(low), parse_duration(high)

    def holds(text: str) -> bool:
        try:
            return low_ns <= parse_duration(text) <= high_ns
        except ValueError:
            return False

    example = format_duration(min(max(low_ns, parse_duration("1m30s")), high_ns // 2))
    in_bounds = f"duration(self) >= duration('{low}') && duration(self) <= duration('{high}')"
    cel = f"self.matches('^{DURATION}$') && {in_bounds}"
    return _Text(holds, f"a duration from {low} to {high}, such as {example}", cel)


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
            raise placed(key, because=f"this is not {_A_LABEL_KEY}")
    return labels


def _is_label_key(key: str) -> bool:
    return bool(re.fullmatch(_LABEL_KEY, key, re.ASCII)) and key.find("/") <= MAX_LABEL_PREFIX


def _is_label_key_in_cel(key: str) -> str:
    # Not format.qualifiedName(): an API server of Kubernetes 1.31 would refuse the whole kind.
    return f"{key}.matches(r'^{_LABEL_KEY}$') && {key}.indexOf('/') <= {MAX_LABEL_PREFIX}"


_A_LABEL_KEY = "a label's key such as app or kubernetes.io/os"
_A_PORT = 'a port 1-65535, or a range such as "8000-8010" whose first is not above its last'

Name = Annotated[
    str, Field(max_length=63), _matching(_LABEL, "a name of lower-case letters, digits and '-', such as kube-system")
]
"""A DNS label."""

MonitorName = Annotated[
    str,
    Field(max_length=MAX_NAME),
    _matching(_DNS_SUBDOMAIN, "a name of lower-case letters, digits, '-' and '.', such as shop"),
]
"""metadata.name; short, since it becomes part of other objects' names and labels."""

ObjectName = Annotated[
    str,
    Field(max_length=253),
    _matching(_DNS_SUBDOMAIN, "an object's name of lower-case letters, digits, '-' and '.'"),
]
"""The name of a ConfigMap or Secret."""

ServiceName = Annotated[
    str,
    Field(max_length=127),
    _Text(
        re.compile(f"{_LABEL}/{_LABEL}", re.ASCII).fullmatch,
        "a service such as shop/checkout (namespace/name)",
        # In two: cheaper.
        "self.matches('^[-a-z0-9]+/[-a-z0-9]+$') && !self.matches('^-|-/|/-|-$')",
    ),
]

Uid = Annotated[
    str,
    _matching("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "a UUID in lower case; leave it out, the name makes one"),
]

LabelKey = Annotated[
    str,
    Field(max_length=317),
    _Text(_is_label_key, _A_LABEL_KEY, _is_label_key_in_cel("self")),
]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    _matching(_LABEL_VALUE, "a label's value of letters, digits, '-', '_' and '.'"),
]
Labels = Annotated[
    dict[str, LabelValue],
    Field(max_length=32),
    AfterValidator(_label_keys),
    Cel(f"self.all(key, {_is_label_key_in_cel('key')})", f"each key must be {_A_LABEL_KEY}"),
]

Quantity = Annotated[
    str,
    Field(max_length=16),
    INT_OR_STRING,
    _Text(
        re.compile(_QUANTITY, re.ASCII).fullmatch,
        "a quantity such as 500m or 128Mi",
        f"string(self).matches(r'^{_QUANTITY}$')",
    ),
    BeforeValidator(_number_as_text),
]
"""An amount of CPU, memory or storage; a plain number is read as text."""

ImageName = Annotated[
    str,
    Field(min_length=1, max_length=512),
    _matching(r"[^\s]+", "an image's name such as localhost/podwire-agent:1, without blanks"),
]

Cidr = Annotated[
    str,
    Field(max_length=43),
    _Text(_is_cidr, "a CIDR or an address, such as 10.0.0.0/8, fd00::/8 or 10.1.2.3", "isCIDR(self) || isIP(self)"),
]
Port = Annotated[
    int | str,
    BeforeValidator(_check_port),
    INT_OR_STRING,
    Schema({"maxLength": 11}),
    Cel(
        "type(self) == int ? self >= 1 && self <= 65535 : self.matches('^[0-9]{1,5}-[0-9]{1,5}$')"
        " && int(self.split('-')[0]) >= 1 && int(self.split('-')[0]) <= int(self.split('-')[1])"
        " && int(self.split('-')[1]) <= 65535",
        f"{MUST_BE}{_A_PORT}",
    ),
]
IfaceName = Annotated[
    str,
    Field(max_length=15),
    _Text(
        _is_iface_name,
        "an interface's name of at most 15 characters, such as eth0",
        f"self.matches(r'^{_IFACE_NAME}$') && bytes(self).size() < 16 && !(self in ['.', '..'])",
    ),
]
VethPattern = Annotated[
    str,
    Field(min_length=1, max_length=64),
    AfterValidator(_check_pattern),
    SERVER_RULE,
]
Url = Annotated[
    str,
    Field(max_length=2048),
    _matching(_URL, "a URL such as https://collector.example:4318, with no user or password in it"),
]
