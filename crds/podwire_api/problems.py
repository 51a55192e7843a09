"""What is wrong with a resource, a line a problem, in words that name the field and what would be right."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from podwire_api.fields import PLACED

Path = tuple[str | int, ...]
"""From a resource's root to a field: names and list positions."""

_SHOWN_LENGTH = 60
_CONTAINERS = (_MAPPING, _LIST) = ("a mapping", "a list")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. As text it is one line: `monitor.yaml:12: spec.maxFlows: ...`."""

    source: str
    """The file's name, or whatever the text came from."""
    line: int | None
    """Counted from 1; None where there is none."""
    field: str
    """`spec.blacklist[0].cidrs[1]`; "" for the document itself."""
    message: str

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return ": ".join(part for part in (where, self.field, self.message) if part)


class InvalidResource(Exception):
    """A text holds no valid resources; `problems` (at least one) says why. As text: a line a problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def summary(self, limit: int = 3) -> str:
        """At most `limit` (>= 1) lines: the problems, or the first of them and how to see the others."""
        if len(self.problems) <= limit:
            return str(self)
        shown = [str(problem) for problem in self.problems[: limit - 1]]
        hidden = len(self.problems) - len(shown)
        return "\n".join([*shown, f"... and {hidden} more; podwire-agent validate {self.problems[0].source} shows all"])


def shown(value: object) -> str:
    """`value` as a person would write it, on one line, cut at 60 characters."""
    if isinstance(value, Mapping):
        return _MAPPING
    if isinstance(value, list | tuple):
        return _LIST
    printable = isinstance(value, str) and value.isprintable()
    text = json.dumps(value, ensure_ascii=not printable, default=str)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."


def field_name(path: Path) -> str:
    """`path` as people write it: spec.nodes.nodeSelector["kubernetes.io/os"]."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch("[A-Za-z_][A-Za-z0-9_-]*", step):
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


def placed_and_worded(error: ErrorDetails, root: type[BaseModel]) -> tuple[Path, str]:
    """Where a pydantic error of a `root` is, and what it means in our words."""
    path = error["loc"]
    context: dict[str, Any] = error.get("ctx", {})
    kind = error["type"]
    if path[-1:] == ("[key]",):
        if kind == "literal_error":
            return path[:-1], _WORDS[kind](shown(error["input"]), context)
        return path[:-2], "has a key that is not text; put it in quotes"
    if kind == "invalid_key":
        return path[:-1], f"has a key that is not text, {path[-1]}; put it in quotes"
    if kind == PLACED:
        return (*path, *context["path"]), context["because"]
    if kind == "extra_forbidden":
        return path, _unknown_field(str(path[-1]), _model_at(root, path[:-1]))
    word = _WORDS.get(kind, _cannot_stand)
    return path, word(shown(error["input"]), context)


def _cannot_stand(value: str, _: dict[str, Any]) -> str:
    return f"{value} cannot stand here"


_WORDS: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "missing": lambda _, __: "is missing or empty",
    "value_error": lambda value, c: f"{value} {c['error']}",
    "string_type": lambda value, _: (
        f"is {value}, not text" if value in _CONTAINERS else f"{value} is not text; put it in quotes"
    ),
    "bool_type": lambda value, _: f"{value} is neither true nor false",
    "int_type": lambda value, _: f"{value} is not a whole number",
    "greater_than_equal": lambda value, c: f"{value} is too small: at least {c['ge']}",
    "less_than_equal": lambda value, c: f"{value} is too large: at most {c['le']}",
    "string_too_short": lambda _, __: "is empty; leave it out or give it a value",
    "string_too_long": lambda value, c: f"{value} is too long: at most {c['max_length']} characters",
    "too_short": lambda _, __: "is empty; list at least one or leave it out",
    "too_long": lambda _, c: f"has {c['actual_length']} entries: at most {c['max_length']}",
    "enum": lambda value, c: _not_one_of(value, c["expected"]),
    "literal_error": lambda value, c: _not_one_of(value, c["expected"]),
    "tuple_type": lambda value, _: f"is {value}, not a list (entries that begin with - )",
    "dict_type": lambda value, _: f"is {value}, not a mapping (key: value)",
    "model_type": lambda value, _: f"is {value}, not a mapping (field: value)",
}
"""By pydantic's error type: the words, from the value as shown and the error's context."""


def _not_one_of(value: str, expected: str) -> str:
    allowed = re.findall("'([^']*)'", expected)
    if len(allowed) == 1:
        return f"{value} is not {allowed[0]}"
    return f"{value} is not one of {', '.join(allowed)}{_suggestion(value.strip(chr(34)), allowed)}"


def _unknown_field(name: str, model: type[BaseModel]) -> str:
    allowed = [field.alias or name for name, field in model.model_fields.items()]
    if not allowed:
        return "unknown field; nothing can be set here: write {}"
    return f"unknown field{_suggestion(name, allowed)}; known here: {', '.join(allowed)}"


def _suggestion(given: str, allowed: Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""


def _model_at(root: type[BaseModel], path: Path) -> type[BaseModel]:
    """The model of the object at `path`."""
    model = root
    for step in path:
        if isinstance(step, str):
            field = next(field for field in model.model_fields.values() if field.alias == step)
            model = _model_in(field.annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The one model that an annotation such as `tuple[Rule, ...]` or `Endpoint | None` mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
