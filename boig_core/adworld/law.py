"""The KPI law of the ad world: a small declarative file that says what an audience likes, and the
likes that follow from it.

A law is a sum of weighted terms, in units of log-likes. A term names one feature of the image and
may hold for some brands or seasons only. ``score`` takes `Features`, so the truth and the oracle go
through the same code. Which posts exist is decided elsewhere (`export`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from boig_core.adworld.features import Features
from boig_core.adworld.random_law import draw_law
from boig_core.errors import InputError

Color = Literal[
    "red",
    "orange",
    "yellow",
    "pink",
    "brown",
    "green",
    "cyan",
    "blue",
    "purple",
    "black",
    "gray",
    "white",
]
Kind = Literal["ball", "box", "tent", "star", "ring", "cross", "moon", "bar"]
Brand = Literal["solara", "nordwind", "verde", "lumina", "kumo", "brio"]
Season = Literal["spring", "summer", "autumn", "winter"]

_FEATURES = (
    "tone",
    "color",
    "gradient",
    "object_color",
    "kind",
    "kind_color",
    "place",
    "size",
    "count",
)
_REMEDY = "mend the law file; the laws in boig_core/adworld/laws show every key"


def _as_tuple(value: object) -> object:
    # A law file may say `brand: kumo` as well as a list.
    return (value,) if isinstance(value, str) else value


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Term(_Model):
    """One liking or disliking: exactly one feature, a weight, and where it holds."""

    weight: float
    """Log-likes added per unit of the feature; negative for a disliking."""
    brand: Annotated[tuple[Brand, ...], BeforeValidator(_as_tuple)] = ()
    """Brands for which the term holds; empty: all."""
    season: Annotated[tuple[Season, ...], BeforeValidator(_as_tuple)] = ()
    """Seasons in which the term holds; empty: all."""
    tone: Literal["warm", "neutral", "cool"] | None = None
    """Share of the image in this tone."""
    color: Color | None = None
    """Share of the background in this color."""
    gradient: bool | None = None
    """1 if the background has a gradient (true) or is plain (false)."""
    object_color: Color | None = None
    """Share of the objects in this color."""
    kind: Kind | None = None
    """1 if an object of this kind is there."""
    kind_color: tuple[Kind, Color] | None = None
    """1 if an object of this kind is there in this color."""
    place: Literal["center", "left", "right", "top", "bottom"] | None = None
    """Share of the objects at this place."""
    size: Literal["small", "large"] | None = None
    """Share of the objects of this size."""
    count: Literal[1, 2, 3] | None = None
    """1 if there are so many objects."""

    @model_validator(mode="after")
    def _one_feature(self) -> Self:
        named = [name for name in _FEATURES if getattr(self, name) is not None]
        # With two features it would be open whether they add up or must meet; a term without any
        # would silently weigh nothing.
        if len(named) != 1:
            raise ValueError(f"must name exactly one of {', '.join(_FEATURES)}, not {len(named)}")
        return self

    def holds(self, brand: str, season: str) -> bool:
        """Whether the term speaks about a post of this brand in this season."""
        return (not self.brand or brand in self.brand) and (
            not self.season or season in self.season
        )

    def amount(self, features: Features) -> float:
        """How much of the term's feature an image has, in [0, 1]."""
        things = features.things
        # The oracle reads images without any object; scenes always have one.
        each = 1 / len(things) if things else 0.0
        if self.tone is not None:
            return features.tones.get(self.tone, 0.0)
        if self.color is not None:
            return features.background.get(self.color, 0.0)
        if self.gradient is not None:
            # By identity, so both sources must give Python's bool: numpy's would never match.
            return float(features.gradient is self.gradient)
        if self.object_color is not None:
            return each * sum(thing.color == self.object_color for thing in things)
        if self.kind is not None:
            return float(any(thing.kind == self.kind for thing in things))
        if self.kind_color is not None:
            return float(any((thing.kind, thing.color) == self.kind_color for thing in things))
        if self.place is not None:
            return each * sum(thing.place == self.place for thing in things)
        if self.size is not None:
            return each * sum(thing.size == self.size for thing in things)
        return float(len(things) == self.count)


class Noise(_Model):
    """What the audience does for no visible reason."""

    sigma: float = Field(gt=0, le=5)
    """Standard deviation, in log-likes."""
    tail: Literal["lognormal", "student"] = "student"
    """Shape of the noise on log-likes: normal, so that likes are lognormal, or Student t, heavier
    still."""
    df: float = Field(default=5, gt=2, le=100)
    """Degrees of freedom of the Student t."""

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        """``size`` draws of the noise, in log-likes."""
        if self.tail == "lognormal":
            return rng.normal(0, self.sigma, size)
        # A Student t has variance df / (df - 2): this makes `sigma` its standard deviation,
        # whatever the tail.
        unit = np.sqrt((self.df - 2) / self.df)
        return np.asarray(rng.standard_t(self.df, size) * unit * self.sigma, np.float64)


class Base(_Model):
    """How popular the accounts are before any image is seen."""

    median: float = Field(gt=0)
    """Likes of a typical post of a typical account."""
    spread: float = Field(default=0.5, ge=0, le=3)
    """The accounts' levels lie evenly within so many log-likes on either side of the median."""


class Law(_Model):
    """What makes likes in one world."""

    name: str = Field(min_length=1)
    """How reports call it."""
    about: str = ""
    """One line for people."""
    base: Base
    """Level of the accounts."""
    noise: Noise
    """Unexplained part of the likes."""
    terms: tuple[Term, ...] = Field(min_length=1)
    """Likings and dislikings; their contributions add up."""
    off_topic: float = 0.0
    """Log-likes added to an image that shows none of the kinds which its post's text names. No post
    of an ad world is such an image, so a model that learns from posts can't know."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> Law:
        """Read a law that comes with the package, by name, or anyone's own, by path; or draw the
        one of ``random:SEED``.

        Raises:
            InputError: no such law, not YAML, or a key or value that a law cannot have.
        """
        if match := re.fullmatch(r"random:(\d{1,9})", str(name_or_path)):
            return cls.model_validate(draw_law(int(match[1])))
        path = Path(name_or_path)
        try:
            text = (
                # Names of the package count first: a file of the same name in the working folder
                # shadows none.
                packaged_laws()[str(name_or_path)]
                if str(name_or_path) in packaged_laws()
                else path.read_text("utf-8")
            )
        except (OSError, UnicodeDecodeError) as error:
            rule = (
                f"must be a readable law file, random:SEED or one of {', '.join(packaged_laws())}"
            )
            raise InputError(f"law {name_or_path}", rule, "check the name or the path") from error
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            where = getattr(error, "problem_mark", None)
            line = f", line {where.line + 1}" if where is not None else ""
            raise InputError(f"law {name_or_path}{line}", "must be YAML", _REMEDY) from error
        if not isinstance(content, dict):
            raise InputError(
                f"law {name_or_path}", "must be a mapping with name, base, noise and terms", _REMEDY
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise _as_input_error(str(name_or_path), error) from error

    def score(self, features: Features, brand: str, season: str) -> float:
        """Expected log-likes above the account's level, of an image posted by a brand in a
        season."""
        return sum(term.weight * term.amount(features) for term in self._terms_for(brand, season))

    def _terms_for(self, brand: str, season: str) -> tuple[Term, ...]:
        return tuple(term for term in self.terms if term.holds(brand, season))


def _as_input_error(source: str, error: ValidationError) -> InputError:
    # The first error alone: people mend a file line by line, and a report must fit one line.
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "law"
    value = first["input"]
    shown = f" = {value!r}" if isinstance(value, (str, int, float, bool)) else ""
    return InputError(
        f"law {source}, {key}{shown}", first["msg"].removeprefix("Value error, "), _REMEDY
    )


@cache
def packaged_laws() -> Mapping[str, str]:
    """The text of each law that comes with the package, by name."""
    folder = resources.files("boig_core.adworld") / "laws"
    files = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".yaml")),
        key=lambda entry: entry.name,
    )
    return {entry.name.removesuffix(".yaml"): entry.read_text("utf-8") for entry in files}
