"""Stage perceive before Ray is met: the package's CLIP is refused on posts that it does not know.
And what stands on the card afterwards."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import pytest

from boig_core.adworld.export import write_world
from boig_core.adworld.law import Law
from boig_core.cluster import session
from boig_core.config import load_recipe
from boig_core.data import card, dataset
from boig_core.errors import InputError
from boig_core.evaluation.measure import doubts
from boig_core.models import MODELS_FOLDER
from boig_core.storage import manifest
from boig_core.storage.job import Job, Stage
from boig_core.storage.stage import Workspace
from ray_jobs import perceive

from .conftest import Archive, picture, row

OWN = [row(f"p{i}", i, f"{i}.png") for i in range(4)]
IMAGES = {f"{i}.png": picture(i) for i in range(4)}


HOSTILE = [
    "<script>alert('x')</script> & \"more\"",
    "</bdi><img src=x onerror=y>",
    "<!-- /seen -->",
]


class RayIsMetError(Exception):
    """The stage has gone on to its work."""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise RayIsMetError

    monkeypatch.setattr(session, "connect", connect)


def start(archive: Archive, uri: str, *settings: str) -> None:
    """Run the stage up to its first paid step."""
    recipe = load_recipe("tiny", ["data.name=d", *settings])
    job = Job(
        stage=Stage.PERCEIVE,
        recipe=recipe,
        inputs={"dataset": uri},
        store=archive.store,
        root="test",
        task=f"{archive.store}/runs/d/r/perceive",
        attempt=1,
    )
    scratch = archive.folder / "perceive"
    scratch.mkdir(exist_ok=True)
    perceive.work(Workspace(job, scratch))


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("perception.clip=package:clip-judge", "evaluation.clip=package:clip"),
        (f"perception.clip={MODELS_FOLDER / 'clip'}",),
        ("perception.kinds=[]", "perception.keywords=tags", "perception.tags=[a, b]"),
        ("data.name=d", "perception.kinds=[shoe, bag]"),
    ],
)
def test_drawings_clip_is_refused_on_posts_of_others_before_anything_is_paid_for(
    settings: tuple[str, ...], archive: Archive
) -> None:
    uri = archive.ingest(archive.export(OWN, IMAGES))
    with pytest.raises(InputError, match=r"^perception\.clip = .*perception\.clip_anyway: true"):
        start(archive, uri, *settings)


@pytest.mark.parametrize(
    "settings",
    [
        ("perception.clip_anyway=true",),
        # Nothing is named by a CLIP.
        ("perception.kinds=[]",),
        ("perception.detector=owlv2", "perception.detector_model=package:clip"),
        # Another CLIP, whatever it is worth.
        ("perception.clip={copy}",),
    ],
)
def test_it_is_taken_when_told_to_and_others_are_taken_unasked(
    settings: tuple[str, ...], archive: Archive, tmp_path: Path
) -> None:
    uri = archive.ingest(archive.export(OWN, IMAGES))
    copy = tmp_path / "grown-clip"
    copy.mkdir()
    (copy / "config.json").write_text("{}")
    with pytest.raises(RayIsMetError):
        start(archive, uri, *(setting.format(copy=copy) for setting in settings))


def test_it_is_taken_on_the_ad_world_until_one_post_is_of_another(
    archive: Archive, tmp_path: Path
) -> None:
    write_world(40, 3, Law.load("sunlit"), tmp_path / "world", side=32)
    world = archive.ingest(str(tmp_path / "world"))
    with pytest.raises(RayIsMetError):
        start(archive, world)
    mixed = archive.ingest(archive.export(OWN[:1], IMAGES), world)
    with pytest.raises(InputError, match="post p0 of a is none of the ad world's"):
        start(archive, mixed)


def test_a_match_that_cannot_be_measured_says_why_and_stops_nothing(archive: Archive) -> None:
    rows = [row(f"p{i}", i, f"{i}.png") for i in range(24)]
    uri = archive.ingest(archive.export(rows, {f"{i}.png": picture(i) for i in range(24)}))
    parts = manifest.read_manifest(uri)
    words = dataset.images_with_words(uri, parts, doubts.IMAGES)
    measured = doubts.measure_match(uri, words, "package:clip")
    assert measured.auc is not None
    assert (measured.images, measured.absent) == (24, None)
    no_clip = doubts.measure_match(uri, words, str(archive.folder))
    assert (no_clip.auc, no_clip.images) == (None, 0)
    assert "holds no model: there is no config.json" in str(no_clip.absent)
    few = doubts.measure_match(uri, dataset.images_with_words(uri, parts, 5), "package:clip")
    assert few.absent == "5 texts that differ, 20 are needed"


def copied(uri: str, folder: Path) -> Path:
    """Card and page of a version as `perceive` gets them."""
    folder.mkdir()
    for name in (card.CARD, manifest.PAGE):
        (folder / name).write_bytes((Path(uri) / name).read_bytes())
    return folder


def test_what_perception_is_doubted_for_stands_on_the_card_until_it_is_looked_at_again(
    archive: Archive, tmp_path: Path
) -> None:
    uri = archive.ingest(archive.export(OWN, IMAGES))
    folder = copied(uri, tmp_path / "copy")
    before = (folder / manifest.PAGE).read_text("utf-8")
    for lines in (HOSTILE, [r"\1 \g<0> takes most"], []):
        card.add_seen(folder, {"named": 7, "warnings": lines})
        numbers = json.loads((folder / card.CARD).read_text("utf-8"))
        assert numbers == {
            **json.loads((Path(uri) / card.CARD).read_text("utf-8")),
            "seen": {"named": 7, "warnings": lines},
        }
        text = (folder / manifest.PAGE).read_text("utf-8")
        assert "<script" not in text
        assert "<img src=x" not in text
        assert text.count("<li><bdi>") == before.count("<li><bdi>") + len(lines)
        for line in lines:
            assert f"<li><bdi>{escape(line)}</bdi></li>" in text
    assert (folder / manifest.PAGE).read_text("utf-8") == before


def test_a_page_of_an_earlier_release_stays_as_it_is(archive: Archive, tmp_path: Path) -> None:
    folder = copied(archive.ingest(archive.export(OWN, IMAGES)), tmp_path / "copy")
    old = (folder / manifest.PAGE).read_text("utf-8").replace("<!-- seen -->", "")
    (folder / manifest.PAGE).write_text(old, "utf-8")
    card.add_seen(folder, {"warnings": ["something"]})
    assert (folder / manifest.PAGE).read_text("utf-8") == old
    assert json.loads((folder / card.CARD).read_text("utf-8"))["seen"]["warnings"] == ["something"]
    empty = tmp_path / "without"
    empty.mkdir()
    card.add_seen(empty, {"warnings": ["something"]})
    assert list(empty.iterdir()) == []
