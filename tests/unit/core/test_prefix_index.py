"""What is said of an address is the union of what is said of every network that it is in."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire_agent.core.longest_prefix import as_strings
from podwire_agent.core.networks import MAPPED, BadNetwork, Networks, packed, parse_cidr, parse_lines
from podwire_agent.core.prefix_index import ROW_WORDS, PrefixIndex, Source
from podwire_api import parse_cidr as parse_by_api
from tests.rule_worlds import ADDRESSES, CIDRS

UNUSED = (0b1000,) * ROW_WORDS

octets = st.sampled_from((0, 1, 10, 128, 255))
ipv4 = st.tuples(octets, octets, octets, octets, st.integers(0, 32)).map(lambda it: "{}.{}.{}.{}/{}".format(*it))
ipv6 = st.tuples(st.sampled_from(("::", "fd00::1", "8000::", "::fffe:0:0", "fd00:0:0:1::")), st.integers(0, 128)).map(
    lambda it: f"{it[0]}/{it[1]}"
)
sets_of_cidrs = st.lists(st.lists(st.one_of(ipv4, ipv6), max_size=8), max_size=3)
addresses = st.one_of(
    st.sampled_from(ADDRESSES),
    st.binary(min_size=4, max_size=4).map(MAPPED.__add__),
    st.binary(min_size=16, max_size=16),
)


def index_of(sets: Sequence[Networks]) -> PrefixIndex:
    sources = [Source(networks.prefixes, (1 << number,) * ROW_WORDS) for number, networks in enumerate(sets)]
    return PrefixIndex([(sources, UNUSED)])


def expected(sets: Sequence[Networks], address: bytes) -> int:
    return UNUSED[0] | sum(1 << number for number, networks in enumerate(sets) if networks.hold(address))


@settings(max_examples=300, deadline=None)
@given(sets_of_cidrs, st.lists(addresses, max_size=20))
def test_of_an_address_all_networks_that_hold_it_are_told(cidrs: list[list[str]], asked: list[bytes]) -> None:
    sets = [Networks.of(each) for each in cidrs]
    asked += [bytes(each) for networks in sets for each in networks.prefixes["address"]["bytes"]]
    index = index_of(sets)
    found = index.covering(as_strings(np.frombuffer(b"".join(asked), np.uint8).reshape(-1, 16)))
    assert found.tolist() == [[expected(sets, address)] * ROW_WORDS for address in asked]


@settings(max_examples=300, deadline=None)
@given(sets_of_cidrs, st.lists(addresses, max_size=20))
def test_the_longest_network_alone_tells_of_all(cidrs: list[list[str]], asked: list[bytes]) -> None:
    sets = [Networks.of(each) for each in cidrs]
    index = index_of(sets)
    for address in asked:
        longest, row = -1, index.elsewhere
        for prefix, words in zip(index.prefixes, index.rows, strict=True):
            shift = 128 - int(prefix["length"])
            start = int.from_bytes(bytes(prefix["address"]["bytes"]))
            if int.from_bytes(address) >> shift == start >> shift and prefix["length"] > longest:
                longest, row = int(prefix["length"]), words
        assert row.tolist() == [expected(sets, address)] * ROW_WORDS


def test_fields_are_joined_by_and() -> None:
    sets = [Networks.of(["10.0.0.0/8"]), Networks.of(["10.1.0.0/16"])]
    fields = [([Source(each.prefixes, (1,) * ROW_WORDS)], (0,) * ROW_WORDS) for each in sets]
    asked = [packed(text) for text in ("10.1.2.3", "10.2.2.3", "11.1.1.1")]
    found = PrefixIndex(fields).covering(as_strings(np.frombuffer(b"".join(asked), np.uint8).reshape(-1, 16)))
    assert found[:, 0].tolist() == [1, 0, 0]


GOOD = [
    *CIDRS,
    "1.2.3.4",
    "255.255.255.255/32",
    "0.0.0.0/0",
    "10.1.2.3/8",
    "::",
    "fe80::1/10",
    "1::/128",
    "::1.2.3.4/64",
]
BAD = [
    "", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/08", "10.0.0.0/255.0.0.0", "256.0.0.1", "01.2.3.4", "1.2.3.4/", "/8", "a",
    "fd00::/129", "::ffff:10.0.0.1", "::ffff:0:0/96", "fe80::1%eth0", "1.2.3.4/-1", "1.2.3.4 /8", "1.2.3.4.5", "::/a",
    "\u0661.2.3.4", "1.2.3.4/\u0668",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_a_network_is_what_the_resource_takes_for_one(text: str) -> None:
    address, length = parse_cidr(text)
    network = parse_by_api(text)
    assert int(length) == network.prefixlen + (96 if network.version == 4 else 0)
    [prefix] = Networks.of([text]).prefixes
    assert bytes(prefix["address"]["bytes"]) == packed(str(network.network_address))
    assert len(address) == 16


@pytest.mark.parametrize("text", BAD)
def test_what_the_resource_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_by_api(text)
    with pytest.raises(BadNetwork):
        parse_cidr(text)


def test_lines_may_be_empty_and_have_comments() -> None:
    found = parse_lines("# offices\n\n10.0.0.0/8  # all\n  10.0.0.0/8\nfd00::1\r\n")
    assert len(found) == 2


def test_a_bad_line_is_named_by_its_number() -> None:
    with pytest.raises(BadNetwork, match=r'^line 3: "10.0.0.0/33" is not a CIDR'):
        parse_lines("10.0.0.0/8\n#\n10.0.0.0/33 # no\n10.0.0.0/34\n")


def test_a_hundred_thousand_lines_are_what_they_are_one_by_one() -> None:
    chance = random.Random(1)
    lines = [f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)}" for _ in range(100_000)]
    found = parse_lines("\n".join(lines))
    assert {bytes(each) for each in found.prefixes["address"]["bytes"]} == set(map(packed, lines))
