"""What all sections of a recipe share: frozen, no unknown keys, a docstring for each field."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Fraction = float


class Section(BaseModel):
    """A part of the recipe; refuses unknown keys, NaN and infinity, also in its defaults."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )
