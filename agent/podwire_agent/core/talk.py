"""Who really talks in each flow: the ends before the client's translation and after the server's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.questions import (
    Addresses,
    Flags,
    Indexes,
    Ports,
    Protocols,
    Times,
    Translated,
    Translations,
    World,
)
from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import TUPLE, Records

WITH_PORTS = np.array([6, 17, 132], np.uint8)
"""TCP, UDP, SCTP."""


@dataclass(frozen=True, slots=True)
class Talk:
    """Columns of the flows' length. The near end is the one behind the interface."""

    seen: Records
    """TUPLE as the packets are on the interface."""
    translated: Translated
    """Of `seen`."""
    to_pod: Flags
    """The near end receives."""
    kinds: NDArray[np.uint8]
    """layout.FlowKind."""
    near_address: Addresses
    far_address: Addresses
    near_port: Ports
    far_port: Ports
    protocol: Protocols
    has_ports: Flags
    first_mono_ns: Times
    last_mono_ns: Times

    @classmethod
    def of(cls, flows: Records, translations: Translations) -> Self:
        """core.table.REPORT."""
        key = flows["key"]
        seen = np.zeros(len(flows), TUPLE)
        for name in ("src_address", "dst_address", "src_port", "dst_port", "protocol"):
            seen[name] = key[name]
        times = np.ascontiguousarray(flows["first_mono_ns"]), np.ascontiguousarray(flows["last_mono_ns"])
        translated = translations.of(seen, *times)
        to_pod: Flags = flows["direction"] == FlowDirection.TO_POD
        near_address, far_address, near_port, far_port = _ends(seen, translated, to_pod)
        protocol = np.ascontiguousarray(key["protocol"])
        return cls(
            seen=seen,
            translated=translated,
            to_pod=to_pod,
            kinds=np.ascontiguousarray(key["kind"]),
            near_address=near_address,
            far_address=far_address,
            near_port=near_port,
            far_port=far_port,
            protocol=protocol,
            has_ports=np.isin(protocol, WITH_PORTS) & (key["kind"] == FlowKind.FLOW_WHOLE),
            first_mono_ns=times[0],
            last_mono_ns=times[1],
        )

    @property
    def dnat(self) -> Flags:
        """The client has addressed another one than the server."""
        return self.translated.found & self.translated.dnat

    @property
    def src_port(self) -> Ports:
        """Of who sends."""
        return np.where(self.to_pod, self.far_port, self.near_port)

    @property
    def dst_port(self) -> Ports:
        """Of who receives."""
        return np.where(self.to_pod, self.near_port, self.far_port)

    def one_end(self, at: NDArray[np.intp], near: Flags) -> tuple[Addresses, Ports, Protocols]:
        """Of the flows `at`; `near`: which end of each."""
        addresses = _chosen(near, self.near_address[at], self.far_address[at])
        return addresses, np.where(near, self.near_port[at], self.far_port[at]), self.protocol[at]

    def times(self, at: NDArray[np.intp]) -> tuple[Times, Times]:
        """First and last of the flows `at`."""
        return self.first_mono_ns[at], self.last_mono_ns[at]

    def as_it_arrives(self, at: NDArray[np.intp]) -> Records:
        """TUPLE of the flows `at`, which leave here, after all translation."""
        translated, wire = self.translated, taken(self.seen, at)
        for is_reply, told, name in ((False, translated.translated, "src"), (True, translated.original, "dst")):
            changed = np.flatnonzero(translated.found[at] & (translated.is_reply[at] == is_reply))
            for part, of_dst in (("address", self.far_address), ("port", self.far_port)):
                wire[f"src_{part}"][changed] = told[f"{name}_{part}"][at[changed]]
                wire[f"dst_{part}"][changed] = of_dst[at[changed]]
        return wire


def without_port(world: World, addresses: Addresses, times: tuple[Times, Times]) -> Indexes:
    """By the address alone: a node, or who has the address for itself."""
    number = len(addresses)
    return world.far(addresses, np.zeros(number, np.uint16), np.zeros(number, np.uint8), *times)


def kinds_of(world: World) -> NDArray[np.uint8]:
    """model.EndKind by entity."""
    return np.fromiter((each.kind for each in world.entities), np.uint8, len(world.entities))


def _ends(seen: Records, translated: Translated, to_pod: Flags) -> tuple[Addresses, Addresses, Ports, Ports]:
    """Addresses and ports, near and far: the client's before the translation, the server's after it."""
    src, dst = np.ascontiguousarray(seen["src_address"]), np.ascontiguousarray(seen["dst_address"])
    addresses = {True: _chosen(to_pod, dst, src), False: _chosen(to_pod, src, dst)}
    src_port, dst_port = (seen[name].astype(np.uint16) for name in ("src_port", "dst_port"))
    ports = {True: np.where(to_pod, dst_port, src_port), False: np.where(to_pod, src_port, dst_port)}
    client_is_near = translated.is_reply == to_pod
    for near in (True, False):
        for told, name, changed in (
            (translated.original, "src", client_is_near == near),
            (translated.translated, "dst", client_is_near != near),
        ):
            at = np.flatnonzero(translated.found & changed)
            addresses[near][at] = told[f"{name}_address"][at]
            ports[near][at] = told[f"{name}_port"][at]
    return addresses[True], addresses[False], ports[True], ports[False]


def _chosen(which: Flags, first: Addresses, second: Addresses) -> Addresses:
    """np.where on contiguous addresses, eight bytes at a time."""
    chosen = np.where(which[:, None], first.view(np.uint64), second.view(np.uint64))
    return chosen.view(np.uint8)


def taken(tuples: Records, at: NDArray[np.intp]) -> Records:
    """tuples[at], as plain bytes, which numpy does several times faster than field by field."""
    return tuples.view(f"V{TUPLE.itemsize}")[at].view(TUPLE)
