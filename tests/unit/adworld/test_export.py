from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boig_core.adworld.export import ACCOUNTS, BROKEN, is_own, season_of, write_world
from boig_core.adworld.law import Law
from boig_core.errors import InputError

POSTS = 500


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "sunlit"
    write_world(POSTS, 7, Law.load("sunlit"), out, side=32)
    return out


def truths(world: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (world / "truth.jsonl").read_text().splitlines()]


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    law = Law.load("nordic")
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        write_world(60, seed, law, folder, side=32)
    contents = [
        {p.relative_to(f): p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()}
        for f in folders
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_every_way_of_being_broken_is_there_and_the_rest_is_sound(world: Path) -> None:
    lines = (world / "posts.jsonl").read_bytes().splitlines()
    known = truths(world)
    assert len(lines) == len(known) == POSTS
    assert {truth["broken"] for truth in known} == {None, *BROKEN}
    assert sum(truth["broken"] is not None for truth in known) == round(0.02 * POSTS)
    ids = [
        json.loads(line)["id"]
        for line, truth in zip(lines, known, strict=True)
        if truth["broken"] not in ("truncated_line", "not_utf8")
    ]
    assert len(ids) - len(set(ids)) == sum(truth["broken"] == "duplicate_id" for truth in known)
    for line, truth in zip(lines, known, strict=True):
        way = truth["broken"]
        image = world / str(truth["image"])
        assert image.exists() == (way != "missing_image")
        if way is None:
            post = json.loads(line)
            assert set(post) == {"id", "account", "company", "timestamp", "text", "image", "likes"}
            assert post["likes"] == truth["likes"]
            assert len(post["text"]) >= 50
            assert "2018" <= post["timestamp"][:4] <= "2023"
            assert season_of(int(post["timestamp"][5:7])) == truth["season"]
            with Image.open(image) as picture:
                assert np.asarray(picture.convert("RGB")).shape == (32, 32, 3)
        elif way == "truncated_line":
            with pytest.raises(json.JSONDecodeError):
                json.loads(line)
        elif way == "not_utf8":
            with pytest.raises(UnicodeDecodeError):
                line.decode()
        elif way == "missing_likes":
            assert "likes" not in json.loads(line)
        elif way == "likes_with_comma":
            assert "," in json.loads(line)["likes"]
        elif way == "truncated_image":
            with pytest.raises(OSError, match=r"truncated|broken"), Image.open(image) as picture:
                picture.load()


def test_likes_follow_the_law_and_fill_the_buckets(world: Path) -> None:
    known = truths(world)
    by_brand = {str(truth["brand"]) for truth in known}
    assert len(by_brand) == 6
    for brand in by_brand:
        likes = np.array([truth["likes"] for truth in known if truth["brand"] == brand], float)
        scores = np.array([truth["score"] for truth in known if truth["brand"] == brand], float)
        assert np.corrcoef(np.log1p(likes), scores)[0, 1] > 0.65
        assert np.mean(likes > 20) > 0.9
        assert np.quantile(likes, 0.9) > 40
        assert likes.max() > 10 * np.median(likes)


def test_world_json_says_which_world_and_formats_are_mixed(world: Path) -> None:
    about = json.loads((world / "world.json").read_text())
    assert Law.model_validate(about["law"]) == Law.load("sunlit")
    assert (about["seed"], about["posts"]) == (7, POSTS)
    suffixes = [path.suffix for path in (world / "images").iterdir()]
    assert suffixes.count(".png") > 50
    assert suffixes.count(".jpg") > 200


def test_a_folder_in_use_is_left_alone_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("keep")
    law = Law.load("sunlit")
    with pytest.raises(InputError, match="empty folder"):
        write_world(10, 0, law, used)
    with pytest.raises(InputError, match="posts: 1"):
        write_world(1, 0, law, tmp_path / "none")

    def stop(done: int, posts: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(10, 0, law, tmp_path / "half", side=32, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
    assert (used / "mine.txt").read_text() == "keep"


def test_an_empty_folder_is_taken_and_progress_is_told(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    summary = write_world(
        5,
        0,
        Law.load("sunlit"),
        tmp_path,
        side=32,
        progress=lambda done, posts: seen.append((done, posts)),
    )
    assert seen == [(i, 5) for i in range(1, 6)]
    assert summary.posts == 5
    assert len((tmp_path / "posts.jsonl").read_bytes().splitlines()) == 5


def test_posts_of_the_ad_world_are_known_as_its_own_with_and_without_their_links(
    world: Path,
) -> None:
    sound = [
        json.loads(line)
        for line, truth in zip(
            (world / "posts.jsonl").read_bytes().splitlines(), truths(world), strict=True
        )
        if truth["broken"] is None
    ]
    assert any("https://" in post["text"] for post in sound)
    for post in sound:
        masked = re.sub(r"https?://\S+", "<hyperlink>", post["text"])
        assert is_own(post["account"], post["company"], post["text"])
        assert is_own(post["account"], post["company"], masked)


@pytest.mark.parametrize(
    ("account", "company", "text"),
    [
        ("acme", "acme", "Fresh ideas from kumo summer with a moon and so much more today"),
        ("brio", "acme", "Fresh ideas from kumo summer with a moon and so much more today"),
        ("brio", "brio", "Fresh ideas from brio summer with a shoe and so much more today"),
        ("brio", "brio", "Our wooden train is back in all stores, for children from three years"),
    ],
)
def test_posts_of_others_are_not_the_ad_worlds_even_under_its_names(
    account: str, company: str, text: str
) -> None:
    assert ("brio", "brio") in ACCOUNTS
    assert not is_own(account, company, text)
