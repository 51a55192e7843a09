"""Regular expressions of interfaces' names: what RE2 and Python's re share is accepted, everything else is named."""

from __future__ import annotations

import pytest

from podwire_api import compile_veth_pattern

MATCHES = {
    "a prefix": (r"cali.*", "cali12ab", True),
    "the whole name counts, not its beginning": (r"cali", "cali12ab", False),
    "the whole name counts, not its end": (r"12ab", "cali12ab", False),
    "alternatives stay whole": (r"cali.+|tunl0", "tunl0x", False),
    "a class that begins with a bracket": (r"[]a]+", "]a]", True),
    "a negated class": (r"[^\]a]+", "bcd", True),
    "digits are ASCII's": (r"eth\d", "eth٣", False),
    "a counted repetition": (r"veth[0-9a-f]{2,8}", "veth12345678", True),
    "a lazy repetition": (r"a+?b{2}?", "aabb", True),
    "an escaped brace": (r"a\{b\.c", "a{b.c", True),
    "a group that is not captured": (r"(?:lxc|veth)_?\w*", "lxc_health", True),
    "anchors may be there": (r"^eth0$", "eth0", True),
}


@pytest.mark.parametrize(("pattern", "name", "matches"), MATCHES.values(), ids=MATCHES)
def test_a_pattern_is_matched_against_the_whole_name(pattern: str, name: str, matches: bool) -> None:
    assert bool(compile_veth_pattern(pattern).fullmatch(name)) is matches


REFUSED = {
    "a look-ahead": (r"(?=a)b", "a look-ahead"),
    "a negative look-ahead": (r"(?!lo).*", "a look-ahead"),
    "a look-behind": (r"a(?<=a)", "a look-behind"),
    "a backreference": (r"(a)\1", r"a backreference \1"),
    "a named backreference": (r"(?P<x>a)(?P=x)", "a named group"),
    "a conditional": (r"(a)?(?(1)b|c)", "a conditional group"),
    "an atomic group": (r"(?>a+)b", "an atomic group"),
    "a possessive star": (r"a*+", "two repetitions in a row"),
    "a possessive count": (r"a{2}+", "two repetitions in a row"),
    "a repetition of a repetition": (r"a**", "two repetitions in a row"),
    "a flag": (r"(?i)ETH0", "a flag"),
    "a comment": (r"a(?#b)", "a comment"),
    "an escape of RE2's alone": (r"\pL", r"\p"),
    "an escape of Python's alone": (r"a\Z", r"\Z"),
    "a named class of RE2's": (r"[[:alpha:]]", "inside a class"),
    "a set operation": (r"[a-z&&b]", "&& inside a class"),
    "a count without its beginning": (r"a{,3}", "a brace that is not a repetition"),
    "more repetitions than a name is long": (r"a{16}", "repeats more than 15 times"),
    "a group that never closes": (r"(a", "is not a regular expression"),
    "a class that never closes": (r"[a", "a [ is never closed"),
    "a lone escape": ("a\\", "lone \\"),
    "a repetition of nothing": (r"*a", "is not a regular expression"),
    "a range that runs backwards": (r"[z-a]", "is not a regular expression"),
}


@pytest.mark.parametrize(("pattern", "words"), REFUSED.values(), ids=REFUSED)
def test_what_the_two_engines_do_not_share_is_refused_by_name(pattern: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 # its words are compared below, without a pattern's escapes
        compile_veth_pattern(pattern)
    assert words in str(refused.value)
