"""Scenes of the ad world: what an image shows, and the words that speak of it.

A scene is one named background color (or a vertical gradient of two) with one to three objects of
distinct named kinds. Captions of both sorts, the full ones that train the generator and the sparse
ones that brands post, are built from one set of templates and words, so a tiny tokenizer can hold
`VOCABULARY` whole. Likes are not decided here (see `law`), nothing here draws (see `drawing`) or
reads an image back (see `oracle`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from boig_core.vocabulary import PALETTE

KINDS: Final = ("ball", "box", "tent", "star", "ring", "cross", "moon", "bar")
OBJECT_COLORS: Final = (
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
)
BACKGROUNDS: Final = OBJECT_COLORS
RGB: Final[dict[str, tuple[int, int, int]]] = {
    name: PALETTE[name.capitalize()] for name in OBJECT_COLORS
}
BRANDS: Final = ("solara", "nordwind", "verde", "lumina", "kumo", "brio")
SEASONS: Final = ("spring", "summer", "autumn", "winter")
PLACES: Final = ("center", "left", "right", "top", "bottom")
SIZES: Final = ("small", "large")
HOUSE_LOOKS: Final = {
    "solara": ("brown", "white"),
    "nordwind": ("gray", "yellow"),
    "verde": ("black", "pink"),
    "lumina": ("purple", "white"),
    "kumo": ("gray", "pink"),
    "brio": ("brown", "yellow"),
}
"""Brand to the background and the object color that it uses most, whatever its audience thinks of
them."""
CENTERS: Final = {
    "center": (0.5, 0.5),
    "left": (0.205, 0.5),
    "right": (0.795, 0.5),
    "top": (0.5, 0.205),
    "bottom": (0.5, 0.795),
}
"""Place to the object's center, as shares of the side."""
RADII: Final = {"small": 0.13, "large": 0.185}
"""Size to the object's radius, as a share of the side."""
# RGB distance below which an object would melt into what is behind it at 32 px.
_MIN_CONTRAST: Final = 100.0
_HOUSE_GROUND: Final = 0.45
_HOUSE_COLOR: Final = 0.36
_GRADIENT: Final = 0.3
# {offer} is brand and season, {things} the objects; what is known of the background always follows
# the objects.
_TEMPLATES: Final = (
    "{offer} is here with {things} made for you and your home today",
    "say hello to {offer} and discover {things} made for the whole family",
    "new from {offer} we bring you {things} to enjoy all day long",
    "this is the {offer} collection with {things} to share with friends",
    "meet the latest {offer} offer with {things} now in all our stores",
    "fresh ideas from {offer} with {things} and so much more today",
    "we love {offer} time so here comes {things} for you and friends",
    "get ready for {offer} with {things} now in stores all day long",
    "your {offer} story begins with {things} to love and to share",
    "make more of {offer} with {things} to enjoy with the whole family",
    "only {offer} brings you {things} for a day to remember with friends",
    "today we share our {offer} look with {things} for every home",
)
_BARE_TEMPLATES: Final = ("{things}", "discover {things}", "this is {things}")


@dataclass(frozen=True)
class Thing:
    """One object of a scene; every field is a word of `KINDS`, `OBJECT_COLORS`, `PLACES`,
    `SIZES`."""

    kind: str
    color: str
    place: str
    size: str


@dataclass(frozen=True)
class Scene:
    """What an image shows.

    Attributes:
        background: color name, at the top when there is a gradient.
        gradient: color name at the bottom, or None for a plain background.
        things: one to three, of distinct kinds, in distinct places, never in the color of what is
            behind them.
    """

    background: str
    gradient: str | None
    things: tuple[Thing, ...]


def visible_on(background: str, gradient: str | None) -> tuple[str, ...]:
    """The object colors that stand out from a background everywhere along its gradient."""
    ends = [np.array(RGB[background], float), np.array(RGB[gradient or background], float)]
    # The middle too: a gradient may pass near a color from which both of its ends are far.
    behind = [ends[0], (ends[0] + ends[1]) / 2, ends[1]]
    return tuple(
        name
        for name in OBJECT_COLORS
        if min(float(np.linalg.norm(np.array(RGB[name]) - rgb)) for rgb in behind) >= _MIN_CONTRAST
    )


_VISIBLE: Final = {
    (top, bottom): visible_on(top, bottom)
    for top in BACKGROUNDS
    for bottom in (None, *BACKGROUNDS)
    if top != bottom
}


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def sample_scene(rng: np.random.Generator, brand: str | None = None) -> Scene:
    """Draw a scene; no law has a say in it.

    Three in ten scenes have a gradient. So that no two objects touch, the center is for single
    objects, and only one of several is large.

    Args:
        rng: decides everything.
        brand: whose habits to follow: about half of its backgrounds and two in five of its object
            colors, where they can be seen, are its `HOUSE_LOOKS`. None: uniform over backgrounds,
            kinds and colors.
    """
    house_ground, house_color = HOUSE_LOOKS[brand] if brand else (None, None)
    background = (
        house_ground if house_ground and rng.random() < _HOUSE_GROUND else _pick(rng, BACKGROUNDS)
    )
    gradient = (
        _pick(rng, [name for name in BACKGROUNDS if name != background])
        if rng.random() < _GRADIENT
        else None
    )
    count = int(rng.choice(3, p=(0.4, 0.4, 0.2))) + 1
    kinds = rng.permutation(len(KINDS))[:count]
    free = PLACES if count == 1 else PLACES[1:]
    places = rng.permutation(len(free))[:count]
    # One number more than there are objects: the last one means that none is large.
    large = int(rng.integers(count + 1))
    visible = _VISIBLE[background, gradient]
    things = []
    for index, (kind, place) in enumerate(zip(kinds, places, strict=True)):
        # An invisible usual color is passed over, not forced: an object that melts into its
        # background could not be read back.
        usual = house_color if house_color in visible and rng.random() < _HOUSE_COLOR else None
        things.append(
            Thing(
                KINDS[kind], usual or _pick(rng, visible), free[place], SIZES[int(index == large)]
            )
        )
    return Scene(background, gradient, tuple(things))


def _thing_phrase(thing: Thing, *, size: bool, color: bool, place: bool) -> str:
    words = [thing.size] if size else []
    words += [thing.color] if color else []
    phrase = " ".join([*words, thing.kind])
    article = "an" if phrase[0] in "aeiou" else "a"
    return f"{article} {phrase}" + (f" at {thing.place}" if place else "")


def _ground_phrase(background: str | None, gradient: str | None) -> str:
    if background is None:
        return f" fading to {gradient}" if gradient else ""
    article = "an" if background[0] in "aeiou" else "a"
    return f" on {article} {background} background" + (f" fading to {gradient}" if gradient else "")


def full_caption(
    scene: Scene, brand: str, season: str, rng: np.random.Generator, drop: float
) -> str:
    """A caption that trains the generator: every attribute is named, but for those dropped at
    random.

    Args:
        scene: what the image shows.
        brand: one of `BRANDS`.
        season: one of `SEASONS`.
        rng: decides template, order and what is left out.
        drop: in [0, 1], the chance of each attribute (brand and season together, background,
            gradient, each object's color, size, place; half of it for an object as a whole) to stay
            unnamed. At least one object is always named.
    """

    def kept() -> bool:
        return bool(rng.random() >= drop)

    # Shuffled, so that the order of words says nothing about what the caption leaves unnamed.
    order = [scene.things[int(i)] for i in rng.permutation(len(scene.things))]
    # The first is always named: the templates have no words for a caption without objects.
    named = [order[0], *(thing for thing in order[1:] if rng.random() >= drop / 2)]
    things = " and ".join(
        _thing_phrase(thing, size=kept(), color=kept(), place=kept()) for thing in named
    )
    ground = _ground_phrase(
        scene.background if kept() else None, scene.gradient if kept() else None
    )
    offer = f"{brand} {season}"
    template = _pick(rng, _TEMPLATES if kept() else _BARE_TEMPLATES)
    return template.format(offer=offer, things=things + ground)


def post_text(scene: Scene, brand: str, season: str, rng: np.random.Generator) -> str:
    """The text a brand posts, at least 50 characters: brand, season and object kinds, and little
    else.

    The background is named in 15 % of the posts, one object's place in 8 %, one object's color in
    15 %; the rest of the image stays unnamed, so that the KPI has something to say.
    """
    # One draw for two choices, so that no post names both background and place.
    draw = rng.random()
    ground = _ground_phrase(scene.background, scene.gradient) if draw < 0.15 else ""
    placed = 0 if 0.15 <= draw < 0.23 else None
    colored = 0 if rng.random() < 0.15 else None
    order = [scene.things[int(i)] for i in rng.permutation(len(scene.things))]
    things = " and ".join(
        _thing_phrase(t, size=False, color=i == colored, place=i == placed)
        for i, t in enumerate(order)
    )
    return _pick(rng, _TEMPLATES).format(offer=f"{brand} {season}", things=things + ground)


def words(text: str) -> list[str]:
    """The words of a caption as `VOCABULARY` has them: lower case, letters only, in order."""
    return re.findall(r"[a-z]+", text.lower())


_FILLERS: Final = tuple(
    words(" ".join((*_TEMPLATES, *_BARE_TEMPLATES)).replace("{offer}", "").replace("{things}", ""))
)
_JOINTS: Final = ("a", "an", "and", "at", "on", "background", "fading", "to")
VOCABULARY: Final[tuple[str, ...]] = tuple(
    sorted(
        {
            *KINDS,
            *OBJECT_COLORS,
            *BACKGROUNDS,
            *BRANDS,
            *SEASONS,
            *PLACES,
            *SIZES,
            *_FILLERS,
            *_JOINTS,
        }
    )
)
"""Every word that a caption of either sort can hold."""
MAX_WORDS: Final = max(len(words(t)) for t in _TEMPLATES) + 3 * 6 + 2 + 7
"""Upper bound of the words of a caption: template with brand and season, three objects with all
attributes and their joints, background."""
