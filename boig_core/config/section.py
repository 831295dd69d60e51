"""What all sections of a recipe share: frozen, no unknown keys, a docstring for each field; and
what marks a field that reaches out of the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Fraction = float

Kind = Literal["model", "endpoint", "runtime_env", "law"]
"""What a field names that lies outside of the recipe."""


@dataclass(frozen=True)
class Names:
    """Marks a field whose value names something outside of the recipe, so that the policy is asked
    whether it is allowed.

    Attributes:
        kind: what it names.
    """

    kind: Kind


class Section(BaseModel):
    """A part of the recipe; refuses unknown keys, NaN and infinity, also in its defaults."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


def references(section: Section, above: str = "") -> Iterator[tuple[str, Any, Kind]]:
    """Dotted name, value and kind of each field that names something outside, sections within
    included; a field that is null names nothing."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from references(value, f"{above}{name}.")
        for mark in field.metadata:
            if isinstance(mark, Names) and value is not None:
                yield f"{above}{name}", value, mark.kind
