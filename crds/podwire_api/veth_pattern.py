"""`vethPattern`: regular expressions that mean the same to RE2 (the API server's) and to Python's re.

The two agree on literals, `.`, classes, groups, alternation, anchors and bounded repetition; everything else is refused
by name, since it would be accepted by one and refused, or read differently, by the other.
"""

from __future__ import annotations

import re

from podwire_api.cel import MUST_BE, Cel

MAX_REPEAT = 15
"""An interface's name has at most 15 characters; RE2 itself stops at 1000."""

_ESCAPES = frozenset("dDwWsS")
# Without leading zeros: with them RE2 takes the braces for characters.
_REPEAT = re.compile(r"\{(0|[1-9][0-9]*)(?:,(0|[1-9][0-9]*)?)?\}")
_GROUPS = (
    ("(?=", "a look-ahead"),
    ("(?!", "a look-ahead"),
    ("(?<=", "a look-behind"),
    ("(?<!", "a look-behind"),
    ("(?>", "an atomic group"),
    ("(?P=", "a backreference"),
    ("(?(", "a conditional group"),
    ("(?#", "a comment"),
    ("(?P<", "a named group"),
    ("(?<", "a named group"),
    ("(?", "a flag"),
)
_ALLOWED = r"characters, ., [a-z], \d \w \s, (), |, ^, $, *, +, ? and {2,4}"

_ANY_ESCAPE = r"\\([dDwWsS]|[^A-Za-z0-9])"
_ANY_CLASS = rf"\[\^?(\]|[^\]\[\\]|{_ANY_ESCAPE})([^\]\[\\]|{_ANY_ESCAPE})*\]"
_ANY_REPEAT = r"([*+?]|\{([0-9]|1[0-5])(,([0-9]|1[0-5])?)?\})\??"
_REPEATABLE = rf"[^\\\[(){{}}*+?|^$]|{_ANY_ESCAPE}|{_ANY_CLASS}|\)"
_SHARED = rf"(\((\?:)?|[|^$]|({_REPEATABLE})({_ANY_REPEAT})?)*"
SERVER_RULE = Cel(
    f"self.matches(r'^{_SHARED}$')"
    r" && !self.matches(r'\[[^\]]*(--|&&|[|][|]|~~)')"
    # Whether it compiles: a comparison that holds whatever the answer is.
    " && ('x'.matches(self) ? 1 : 0) >= 0",
    f"{MUST_BE}a regular expression of {_ALLOWED}",
)
"""The same, said by a regular expression for regular expressions."""


def compile_veth_pattern(pattern: str) -> re.Pattern[str]:
    """`pattern`, to be used with `fullmatch` on an interface's name.

    ValueError if it is not a regular expression or uses what RE2 and Python's re do not share; the message follows the
    quoted pattern ("has a look-ahead, which ...").
    """
    at, repeated = 0, False
    while at < len(pattern):
        if width := _repetition(pattern, at):
            if repeated:
                raise _unshared(f"two repetitions in a row at {pattern[at:]!r}")
            at += width + (pattern[at + width : at + width + 1] == "?")
            repeated = True
            continue
        repeated = False
        match pattern[at]:
            case "\\":
                at += _escape(pattern, at)
            case "[":
                at = _end_of_class(pattern, at)
            case "(":
                at += _group(pattern, at)
            case "{" | "}":
                raise ValueError(
                    r"has a brace that is not a repetition such as {2} or {2,4}; a plain one is written \{"
                )
            case _:
                at += 1
    try:
        return re.compile(pattern, re.ASCII)
    except (re.error, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from error


def _unshared(what: str) -> ValueError:
    return ValueError(f"has {what}, which RE2 and Python's re do not share; allowed are {_ALLOWED}")


def _repetition(pattern: str, at: int) -> int:
    """Length of the repetition operator at `at`, 0 if there is none."""
    if pattern[at] in "*+?":
        return 1
    found = _REPEAT.match(pattern, at)
    if not found:
        return 0
    if max(int(bound) for bound in found.groups() if bound) > MAX_REPEAT:
        raise ValueError(
            f"repeats more than {MAX_REPEAT} times in {found[0]}: a name has at most {MAX_REPEAT} characters"
        )
    return len(found[0])


def _escape(pattern: str, at: int) -> int:
    """Length of the escape at `at`."""
    escaped = pattern[at + 1 : at + 2]
    if not escaped:
        raise ValueError("is not a regular expression: it ends with a lone \\")
    if escaped.isdigit():
        raise _unshared(f"a backreference \\{escaped}")
    if escaped.isalpha() and escaped not in _ESCAPES:
        raise _unshared(f"\\{escaped}")
    return 2


def _group(pattern: str, at: int) -> int:
    """Length of the group's opening at `at`."""
    if pattern.startswith("(?:", at):
        return 3
    for opening, name in _GROUPS:
        if pattern.startswith(opening, at):
            raise _unshared(f"{name} {opening}...)")
    return 1


def _end_of_class(pattern: str, at: int) -> int:
    """Index behind the class that begins at `at`."""
    at += 1
    if pattern.startswith("^", at):
        at += 1
    first = at
    while at < len(pattern):
        if pattern[at] == "]" and at > first:
            return at + 1
        if pattern[at] == "[":
            raise _unshared(r"a [ inside a class (write \[)")
        if pattern[at : at + 2] in ("--", "&&", "||", "~~"):
            raise _unshared(f"{pattern[at : at + 2]} inside a class")
        at += _escape(pattern, at) if pattern[at] == "\\" else 1
    raise ValueError("is not a regular expression: a [ is never closed")
