"""Networks with names, and those that are the cluster's own: which one covers an address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.longest_prefix import LongestPrefix, Strings, as_strings, places_of
from podwire_agent.core.networks import MAPPED, MAPPED_BITS, Networks, prefix_mask
from podwire_agent.layout import PREFIX_KEY

NONE = -1

LINK_SCOPED = (
    *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255"),
    *("::/127", "fe80::/10", "ff00::/8"),
)
"""Of no host at all, of this one, of one on the same link, or of several: nothing that is outside (RFC 6890)."""


class Ranges:
    """Immutable: groups of networks, of which the narrowest one around an address counts."""

    def __init__(self, groups: Sequence[Networks]) -> None:
        """A network that is in several groups belongs to the first of them."""
        self._longest = LongestPrefix(np.concatenate([np.zeros(0, PREFIX_KEY), *(each.prefixes for each in groups)]))
        places = places_of(self._longest.prefixes)
        self._groups = np.full(len(places), NONE, np.int32)
        for index in reversed(range(len(groups))):
            self._groups[np.searchsorted(places, places_of(groups[index].prefixes))] = index
        self._lengths = self._longest.prefixes["length"].astype(np.int32)

    def find(self, addresses: Strings) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """For each address the group, or NONE, and how many bits its network has, of 128; 0 for none."""
        groups, lengths = np.full(len(addresses), NONE, np.int32), np.zeros(len(addresses), np.int32)
        if len(self._groups):
            at = self._longest.find(addresses)
            known = np.flatnonzero(at >= 0)
            known = known[self._groups[at[known]] != NONE]  # all of IPv4 is there, and may be nobody's
            groups[known], lengths[known] = self._groups[at[known]], self._lengths[at[known]]
        return groups, lengths


def cluster_ranges(pod_networks: Networks, pods: NDArray[np.uint8], service_addresses: NDArray[np.uint8]) -> Networks:
    """What the cluster's own addresses are taken to be, apart from those that are known.

    The networks that nodes have for pods; for addresses of pods (shape (n, 16)) that are in none of them, the /16 or
    /64 around each; the narrowest network around all addresses of services within the cluster (the same shape), at
    least a /20 or /112, or where it were wider than a /12 or /64, the /16 or /64 around each; and LINK_SCOPED.
    """
    groups, _ = Ranges([pod_networks]).find(as_strings(pods))
    found = [pod_networks, Networks.of(LINK_SCOPED), _around(pods[groups == NONE])]
    is_ipv4 = _is_ipv4(service_addresses)
    for family, sizes in ((service_addresses[is_ipv4], _IPV4), (service_addresses[~is_ipv4], _IPV6)):
        if not len(family):
            continue
        ordered = np.sort(as_strings(family))
        lowest, highest = (bytes(each).ljust(16, b"\0") for each in (ordered[0], ordered[-1]))
        length = 128 - (int.from_bytes(lowest) ^ int.from_bytes(highest)).bit_length()
        common = Networks.of_prefixes([(lowest, min(length, sizes.narrowest))])
        found.append(common if length >= sizes.widest else _around(family))
    return Networks.union(found)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Lengths of prefixes, of 128."""

    around: int
    widest: int
    narrowest: int


_IPV4 = _Sizes(around=MAPPED_BITS + 16, widest=MAPPED_BITS + 12, narrowest=MAPPED_BITS + 20)
_IPV6 = _Sizes(around=64, widest=64, narrowest=112)


def _is_ipv4(addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (addresses[:, : len(MAPPED)] == np.frombuffer(MAPPED, np.uint8)).all(axis=1)
    return found


def _around(addresses: NDArray[np.uint8]) -> Networks:
    lengths = np.where(_is_ipv4(addresses), _IPV4.around, _IPV6.around).astype(np.uint32)
    starts = np.unique(as_strings(addresses & prefix_mask(lengths)))
    packed = [bytes(each).ljust(16, b"\0") for each in starts]
    return Networks.of_prefixes((each, _IPV4.around if each.startswith(MAPPED) else _IPV6.around) for each in packed)
