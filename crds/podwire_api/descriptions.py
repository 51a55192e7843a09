"""The JSON schema of the resources with the text of every field: for generators, not for the agents.

Pydantic would read the fields' docstrings at each import (use_attribute_docstrings), which takes 40 ms: here they are
read when a schema is wanted.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from podwire_api.api_model import ApiModel


def described_schema(root: type[ApiModel]) -> dict[str, Any]:
    """The JSON schema of `root`; a field's docstring is its description."""
    schema = root.model_json_schema()
    bodies = {root.__name__: schema, **schema.get("$defs", {})}
    for model in _subclasses(ApiModel):
        properties = bodies.get(model.__name__, {}).get("properties", {})
        for base in reversed(model.__mro__):
            if issubclass(base, ApiModel):
                for name, text in _docstrings(base):
                    alias = model.model_fields[name].alias or name
                    if alias in properties:
                        properties[alias].setdefault("description", text)
    return schema


def _subclasses(model: type[ApiModel]) -> Iterator[type[ApiModel]]:
    for each in model.__subclasses__():
        yield each
        yield from _subclasses(each)


def _docstrings(model: type[ApiModel]) -> Iterator[tuple[str, str]]:
    """Each field that the class itself declares, with the string that follows it."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(model)).body if isinstance(node, ast.ClassDef))
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            words = ast.literal_eval(text.value)
            yield field.target.id, " ".join(words.split())
