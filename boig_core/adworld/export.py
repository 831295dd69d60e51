"""Write a world the way a real export looks: ``posts.jsonl`` with some broken rows, and JPEG and
PNG image files.

`write_world` draws posts of a few accounts, lets a law decide their likes, and writes everything
into a folder that appears whole or not at all. ``world.json`` beside the posts says which world it
is; ``truth.jsonl`` (scene, boxes, law score) is for tests and judges, never for training. Reading
posts back is the work of `boig_core.data`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from boig_core.adworld.drawing import Rendering, render
from boig_core.adworld.features import of_scene
from boig_core.adworld.law import Law
from boig_core.adworld.scene import (
    SEASONS,
    VOCABULARY,
    Scene,
    post_text,
    sample_scene,
    words,
)
from boig_core.errors import InputError
from boig_core.vocabulary import Box

ACCOUNTS: Final = (
    ("solara_home", "solara"),
    ("nordwind", "nordwind"),
    ("verde_official", "verde"),
    ("lumina", "lumina"),
    ("kumo_store", "kumo"),
    ("brio", "brio"),
)
"""Account name and company; one account a company, so that every account has posts enough for its
buckets."""

BROKEN: Final = (
    "truncated_line",
    "missing_likes",
    "likes_with_comma",
    "missing_image",
    "truncated_image",
    "duplicate_id",
    "short_text",
    "not_utf8",
    "wrong_date",
)
"""The ways in which rows are broken, used in turn."""

BROKEN_SHARE: Final = 0.02
_WORDS: Final = frozenset(VOCABULARY)
_FIRST_DAY: Final = datetime(2018, 1, 1, tzinfo=UTC)
_DAYS: Final = 6 * 365 + 1  # to the end of 2023
_LINK_SHARE: Final = 0.05
_PNG_SHARE: Final = 0.25
_ID_BASE: Final = 1_000_000_000
# Apart from the posts' own streams, which are [seed, 0, index].
_WORLD_STREAM: Final = 1


@dataclass(frozen=True)
class WorldSummary:
    """What `write_world` wrote.

    Attributes:
        posts: lines in ``posts.jsonl``, broken ones included.
        images: image files, broken ones included.
        broken: way of being broken to its count of lines.
    """

    posts: int
    images: int
    broken: dict[str, int]


@dataclass(frozen=True)
class _Post:
    """One post with what is known about it."""

    record: dict[str, Any]
    scene: Scene
    rendering: Rendering
    brand: str
    season: str
    score: float


def is_own(account: str, company: str, text: str) -> bool:
    """Whether a post, as it is ingested, is an ad world's: of one of its accounts, and in its words
    alone.

    Both, since there are companies of these names; a text of some other brand holds at least one
    word that the ad world's few lack.
    """
    # A link is masked unless the recipe keeps it.
    spoken = re.sub(r"https?://\S+|<hyperlink>", " ", text)
    return (account, company) in ACCOUNTS and set(words(spoken)) <= _WORDS


def season_of(month: int) -> str:
    """The season of a month, 1 to 12, in the north."""
    return SEASONS[(month - 3) % 12 // 3]


def _draw_post(
    index: int, seed: int, law: Law, levels: np.ndarray[Any, np.dtype[np.float64]], side: int
) -> _Post:
    # A stream of its own: a post is the same however many there are and whatever was drawn for
    # others.
    rng = np.random.default_rng([seed, 0, index])
    which = int(rng.integers(len(ACCOUNTS)))
    account, brand = ACCOUNTS[which]
    moment = _FIRST_DAY + timedelta(
        days=int(rng.integers(_DAYS)), seconds=int(rng.integers(86_400))
    )
    season = season_of(moment.month)
    scene = sample_scene(rng, brand)
    text = post_text(scene, brand, season, rng)
    text = text[0].upper() + text[1:]
    if rng.random() < _LINK_SHARE:
        text += f" https://{brand}.example/{season}"
    score = law.score(of_scene(scene), brand, season)
    # The noise has heavy tails, and `int` of an infinite number raises.
    likes = int(min(1e9, np.exp(levels[which] + score + law.noise.draw(rng, 1)[0])))
    extension = "png" if rng.random() < _PNG_SHARE else "jpg"
    record = {
        "id": str(_ID_BASE + index),
        "account": account,
        "company": brand,
        "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "text": text,
        "image": f"images/{_ID_BASE + index}.{extension}",
        "likes": likes,
    }
    return _Post(record, scene, render(scene, side, rng), brand, season, score)


def _save_image(post: _Post, path: Path, way: str | None) -> None:
    picture = Image.fromarray(post.rendering.image)
    if way == "missing_image":
        return
    if path.suffix == ".png":
        picture.save(path, compress_level=3)
    else:
        # Full color resolution: the law is about colors, and halved ones would bleed over the edges
        # of small objects.
        picture.save(path, quality=92, subsampling=0)
    if way == "truncated_image":
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])


def _line(record: dict[str, Any], way: str | None, earlier: str) -> bytes:
    """The line of a post, broken in the given way; ``earlier`` is the id of a post before it."""
    broken = dict(record)
    match way:
        case "missing_likes":
            del broken["likes"]
        case "likes_with_comma":
            # As a page shows it to people: 1,234 alone would be read.
            broken["likes"] = f"over {record['likes'] + 1000:,}"
        case "duplicate_id":
            # As of an export that was taken before the likes came.
            broken |= {
                "id": earlier,
                "timestamp": _FIRST_DAY.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "likes": 0,
            }
        case "short_text":
            broken["text"] = f"New from {record['company']}"
        case "wrong_date":
            broken["timestamp"] = datetime.fromisoformat(record["timestamp"]).strftime(
                "%d/%m/%y %I:%M %p"
            )
        case _:
            pass
    line = json.dumps(broken, ensure_ascii=False).encode()
    if way == "truncated_line":
        line = line[: len(line) * 2 // 3]
    if way == "not_utf8":
        # Neither UTF-8 nor Windows-1252, in which strays of a file of UTF-8 are read.
        line = line.replace(b'"text": "', b'"text": "\x81t\x8d ')
    return line + b"\n"


def _truth(post: _Post, way: str | None) -> bytes:
    boxes: dict[str, Box] = post.rendering.boxes
    truth = {
        "id": post.record["id"],
        "image": post.record["image"],
        "brand": post.brand,
        "season": post.season,
        "score": round(post.score, 6),
        "likes": post.record["likes"],
        "scene": asdict(post.scene),
        "boxes": boxes,
        "broken": way,
    }
    return json.dumps(truth).encode() + b"\n"


def _ways(posts: int, rng: np.random.Generator) -> dict[int, str]:
    """Which post indices are broken, and how; never the first, so that there is an earlier id to
    repeat."""
    count = min(posts - 1, max(1, round(BROKEN_SHARE * posts)))
    chosen = rng.choice(np.arange(1, posts), size=count, replace=False)
    return {int(index): BROKEN[i % len(BROKEN)] for i, index in enumerate(chosen)}


def draw_posts(posts: int, seed: int, law: Law, side: int) -> Iterator[_Post]:
    """The posts of a world in their order, each from a random stream of its own."""
    # Even levels in an order that the seed draws: accounts always differ by as much, and no brand
    # is always the popular one.
    units = np.random.default_rng([seed, _WORLD_STREAM]).permutation(
        np.linspace(-1, 1, len(ACCOUNTS))
    )
    levels = np.log(law.base.median) + law.base.spread * units
    return (_draw_post(index, seed, law, levels, side) for index in range(posts))


def write_world(
    posts: int,
    seed: int,
    law: Law,
    out: Path,
    side: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> WorldSummary:
    """Write a world: ``posts.jsonl``, ``images/``, ``world.json``, ``truth.jsonl``.

    About 2 % of the lines are broken, in the ways of `BROKEN`. The same arguments give the same
    files.

    Args:
        posts: lines to write, at least 2.
        seed: of everything, at least 0.
        law: decides the likes.
        out: folder to create; may exist if it is empty.
        side: of the images, in pixels, at least 16.
        progress: called with (posts done, posts in all) after every post.

    Raises:
        InputError: a number out of range, or ``out`` is a file or a folder that is not empty, or
            its parent cannot be written.
    """
    for name, value, least in (("posts", posts, 2), ("seed", seed, 0), ("side", side, 16)):
        if value < least:
            raise InputError(
                f"{name}: {value}", f"must be at least {least}", f"pass a larger {name}"
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            str(out), "must be a new or an empty folder", "choose another folder or remove this one"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target and not in /tmp: a move within one file system is atomic.
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise InputError(
            str(out),
            f"must be in a folder that can be written ({error.strerror})",
            "choose another folder",
        ) from error
    try:
        summary = _write_into(partial, posts, seed, law, side, progress)
        # mkdtemp makes folders that nobody else may read.
        partial.chmod(0o755)
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    # An interrupt counts as a failure too: no half-written world stays behind.
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return summary


def _write_into(
    folder: Path,
    posts: int,
    seed: int,
    law: Law,
    side: int,
    progress: Callable[[int, int], None] | None,
) -> WorldSummary:
    (folder / "images").mkdir()
    ways = _ways(posts, np.random.default_rng([seed, _WORLD_STREAM, 1]))
    with (
        (folder / "posts.jsonl").open("wb") as lines,
        (folder / "truth.jsonl").open("wb") as truths,
    ):
        for index, post in enumerate(draw_posts(posts, seed, law, side)):
            way = ways.get(index)
            _save_image(post, folder / post.record["image"], way)
            lines.write(_line(post.record, way, earlier=str(_ID_BASE + index - 1)))
            truths.write(_truth(post, way))
            if progress is not None:
                progress(index + 1, posts)
    broken = dict(Counter(ways.values()))
    summary = WorldSummary(posts, posts - broken.get("missing_image", 0), broken)
    world = {
        "seed": seed,
        "side": side,
        **asdict(summary),
        "law": law.model_dump(mode="json", exclude_defaults=True),
    }
    (folder / "world.json").write_text(json.dumps(world, indent=2) + "\n", "utf-8")
    return summary
