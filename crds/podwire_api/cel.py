"""Rules of the API server (CEL) beside the validators that say the same: annotations of types, extras of models.

They are read when a schema is made (tools/generate_crds.py) and cost an agent nothing but the strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic.config import JsonDict

if TYPE_CHECKING:  # an agent makes no JSON schema
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

RULES: Final = "x-kubernetes-validations"
MUST_BE: Final = "must be "
"""How the message of a rule about a type begins."""
AGENTS_DEFAULT: Final = "x-podwire-agents-default"
"""Marks a field for the generator alone; no CRD has it."""


@dataclass(frozen=True, slots=True)
class Cel:
    """What must hold of a value, in the API server's language. As an annotation it is a rule of the type's schema."""

    rule: str
    message: str
    field: str = ""
    """Seen from the value, such as `.values`: what the message is about, where it is not the whole value."""
    missing: bool = False
    """The message is about a value that should be there."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        return {**schema, RULES: [*schema.get(RULES, ()), self.as_json()]}

    def as_json(self) -> dict[str, Any]:
        """An entry of x-kubernetes-validations."""
        entry = {"rule": self.rule, "message": self.message}
        if self.field:
            entry["fieldPath"] = self.field
        if self.missing:
            entry["reason"] = "FieldValueRequired"
        return entry


def rules(*those: Cel) -> JsonDict:
    """For a model's json_schema_extra: what must hold of the object as a whole."""
    return {RULES: [rule.as_json() for rule in those]}


@dataclass(frozen=True, slots=True, eq=False)  # by identity: what annotates a type is hashed
class Schema:
    """An annotation: further words of the type's schema; a word that is None goes."""

    words: Mapping[str, Any]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = {**handler(core), **self.words}
        return {word: value for word, value in schema.items() if value is not None}


LIST_BY_NAME = Schema({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]})
"""Entries are told apart by their name: the API server refuses a second one of it."""
LIST_BY_TYPE = Schema({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})
"""Conditions."""
LIST_OF_DIFFERENT = Schema({"x-kubernetes-list-type": "set"})
"""The API server refuses what is in the list already."""
INT_OR_STRING = Schema({"anyOf": None, "type": None, "x-kubernetes-int-or-string": True})
"""A whole number, or text; it needs a maxLength, without which the API server cannot estimate the cost of rules."""
DATE_TIME = Schema({"format": "date-time"})
DEFAULT_OF_AGENTS = Schema({AGENTS_DEFAULT: True})
"""The field's default is filled in by agents, never by the API server: whether it was set stays visible."""
