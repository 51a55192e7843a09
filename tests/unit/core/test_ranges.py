"""Which networks are taken to be the cluster's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from podwire_agent.core.longest_prefix import as_strings, places_of
from podwire_agent.core.networks import Networks, packed, parse_cidr
from podwire_agent.core.ranges import LINK_SCOPED, Ranges, cluster_ranges


def rows(addresses: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(map(packed, addresses)), np.uint8).reshape(-1, 16)


GUESSED: dict[str, tuple[list[str], list[str], list[str], list[str]]] = {
    "what nodes have for pods": (["10.0.1.0/24"], ["10.0.1.7"], [], ["10.0.1.0/24"]),
    "the /16 around pods that are in none of it": (
        ["10.0.1.0/24"],
        ["10.0.1.7", "172.16.9.9", "172.16.8.8"],
        [],
        ["10.0.1.0/24", "172.16.0.0/16"],
    ),
    "the /64 around IPv6 pods": ([], ["fd00:1::5:1"], [], ["fd00:1::/64"]),
    "the narrowest network around services": ([], [], ["10.96.0.1", "10.98.7.6"], ["10.96.0.0/14"]),
    "at least a /20": ([], [], ["34.118.224.1"], ["34.118.224.0/20"]),
    "one for IPv4 and one for IPv6": (
        [],
        [],
        ["10.96.0.1", "fd00:9::1", "fd00:9::ff01"],
        ["10.96.0.0/20", "fd00:9::/112"],
    ),
    "the /16 around each where services are far apart": (
        [],
        [],
        ["10.96.0.1", "172.20.0.1"],
        ["10.96.0.0/16", "172.20.0.0/16"],
    ),
}


@pytest.mark.parametrize(("nodes", "pods", "services", "expected"), GUESSED.values(), ids=GUESSED)
def test_the_clusters_own_are(nodes: list[str], pods: list[str], services: list[str], expected: list[str]) -> None:
    found = cluster_ranges(Networks.of(nodes), rows(pods), rows(services))
    wanted = Networks.of([*expected, *LINK_SCOPED])
    assert places_of(found.prefixes).tolist() == places_of(wanted.prefixes).tolist()


octets = st.sampled_from((0, 1, 10, 255))
cidrs = st.one_of(
    st.tuples(octets, octets, octets, octets, st.integers(0, 32)).map(lambda it: "{}.{}.{}.{}/{}".format(*it)),
    st.tuples(st.sampled_from(("::", "fd00::1", "8000::")), st.integers(0, 128)).map(lambda it: f"{it[0]}/{it[1]}"),
)
addresses = st.one_of(
    st.tuples(octets, octets, octets, octets).map(lambda it: ".".join(map(str, it))),
    st.sampled_from(("::", "fd00::1", "8000::", "fd00::2", "ffff::")),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(cidrs, max_size=4), max_size=4), st.lists(addresses, max_size=10))
def test_the_group_of_the_narrowest_network_is_found(groups: list[list[str]], asked: list[str]) -> None:
    found, bits = Ranges([Networks.of(each) for each in groups]).find(as_strings(rows(asked)))
    for address, group, length in zip(asked, found.tolist(), bits.tolist(), strict=True):
        around = [
            (parse_cidr(cidr)[1], -number)
            for number, each in enumerate(groups)
            for cidr in each
            if Networks.of([cidr]).hold(packed(address))
        ]
        expected = max(around, default=(0, 1))
        assert (length, group) == (expected[0], -expected[1])
