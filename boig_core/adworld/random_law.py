"""Laws that nobody has tuned to: ``random:SEED``, drawn in the shape of those of the package.

An audience likes a few backgrounds and dislikes others, has weaker likings of tones, objects,
places and sizes, and each season and each brand has likings of its own. Which ones is drawn; how
strong they are is, too, within the ranges that the laws of the package span. Leaves out: what a law
is (see `law`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from boig_core.adworld.scene import BACKGROUNDS, BRANDS, KINDS, OBJECT_COLORS, PLACES, SEASONS
from boig_core.vocabulary import TONES

_STREAM: Final = 8_211
"""Of laws, beside those that draw posts."""
_Terms = Iterator[dict[str, Any]]


def draw_law(seed: int) -> dict[str, Any]:
    """Content of the law of a seed, as a law file has it.

    Args:
        seed: not negative.
    """
    rng = np.random.default_rng((_STREAM, seed))
    return {
        "name": f"random:{seed}",
        "about": "An audience that was drawn: nobody has tuned anything to it.",
        "base": {"median": 900, "spread": 0.5},
        "noise": {"sigma": 0.85, "tail": "student", "df": 5},
        "terms": [*_everyone(rng), *_of_seasons(rng), *_of_brands(rng)],
    }


def _everyone(rng: np.random.Generator) -> _Terms:
    # Of different colors, so that no liking takes another one back.
    grounds, objects = _drawn(rng, BACKGROUNDS, 6), _drawn(rng, OBJECT_COLORS, 4)
    kinds = _drawn(rng, KINDS, 3)
    yield _term(rng, 2.6, 3.2, color=grounds[0])
    yield _term(rng, 1.4, 2.2, color=grounds[1])
    for color in grounds[2:]:
        yield _term(rng, -1.2, -0.8, color=color)
    yield _term(rng, 0.3, 0.5, tone=_drawn(rng, TONES, 1)[0])
    yield _term(rng, 0.2, 0.2, gradient=bool(rng.integers(2)))
    yield _term(rng, 0.8, 1.0, object_color=objects[0])
    yield _term(rng, 0.5, 0.7, object_color=objects[1])
    for color in objects[2:]:
        yield _term(rng, -0.6, -0.4, object_color=color)
    for kind in kinds[:2]:
        yield _term(rng, 0.5, 0.5, kind_color=[kind, *_drawn(rng, OBJECT_COLORS, 1)])
    yield _term(rng, 0.3, 0.3, place=_drawn(rng, tuple(PLACES), 1)[0])
    yield _term(rng, 0.3, 0.3, size=_drawn(rng, ("small", "large"), 1)[0])
    yield _term(rng, 0.1, 0.1, kind=kinds[2])


def _of_seasons(rng: np.random.Generator) -> _Terms:
    for season in SEASONS:
        yield _term(rng, 0.8, 2.0, color=_drawn(rng, BACKGROUNDS, 1)[0], season=[season])
    for _ in range(2):
        pair = _drawn(rng, SEASONS, 2)
        yield _term(rng, -1.2, -0.8, color=_drawn(rng, BACKGROUNDS, 1)[0], season=pair)


def _of_brands(rng: np.random.Generator) -> _Terms:
    for brand in BRANDS:
        yield _term(rng, 0.8, 2.2, color=_drawn(rng, BACKGROUNDS, 1)[0], brand=[brand])
    for _ in range(2):
        pair = _drawn(rng, BRANDS, 2)
        yield _term(rng, 0.5, 0.5, object_color=_drawn(rng, OBJECT_COLORS, 1)[0], brand=pair)


def _drawn(rng: np.random.Generator, names: tuple[str, ...], count: int) -> list[str]:
    """So many different names."""
    return [names[i] for i in rng.permutation(len(names))[:count]]


def _term(rng: np.random.Generator, low: float, high: float, **feature: Any) -> dict[str, Any]:
    """A term with a weight in [low, high], to a tenth, as people write them."""
    return {**feature, "weight": round(float(rng.uniform(low, high)), 1)}
