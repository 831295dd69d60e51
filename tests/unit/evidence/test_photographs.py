"""`infra/evidence/data/photographs.py`: posts out of a few pictures, and the verdict on its
numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from boig_core.vocabulary import Description, Sample
from infra.evidence.data import photographs
from infra.evidence.data.npm import licence

BOX = (0.0, 0.0, 1.0, 1.0)


def pictures(folder: Path) -> Path:
    """Four foods, two of them the same file, half of each red."""
    folder.mkdir()
    for code, color in (("A001", "blue"), ("E002", "white"), ("O003", "gray"), ("O004", "gray")):
        image = Image.new("RGB", (40, 40), "red")
        image.paste(color, (0, 0, 40, 20))
        image.save(folder / f"{code}.jpeg", quality=95)
    return folder


def test_pictures_become_posts_with_names_and_a_measured_kpi_the_same_each_time(
    tmp_path: Path,
) -> None:
    names = tmp_path / "index.csv"
    names.write_text('code,name,scie\n"A001","Amaranth seed, black",""\nE002,Apple,\n', "utf-8")
    source = pictures(tmp_path / "pictures")
    for name in ("one", "two"):
        photographs.write_export(source, names, tmp_path / name)
    one, two = ((tmp_path / name / "posts.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    posts = [json.loads(line) for line in one.splitlines()]
    assert [post["text"] for post in posts] == ["Amaranth seed, black", "Apple", "O003", "O004"]
    assert {post["account"] for post in posts} <= set(photographs.ACCOUNTS)
    assert all(post["warmth"] == pytest.approx(500, abs=30) for post in posts)
    assert all((tmp_path / "one" / post["image"]).exists() for post in posts)


def sample(post: str, split: str, *names: str, group: str | None = None) -> Sample:
    return Sample(
        id=post, post=post, account="a", company="a", timestamp="2024-01-01T00:00:00Z", text=post,
        keywords=(), kpi=1.0, kpi_normalized=50.0, bucket="high", split=split, image=post,  # type: ignore[arg-type]
        width=40, height=40, group=group, description=Description({}, {}, dict.fromkeys(names, BOX)),
    )  # fmt: skip


def test_the_largest_named_object_is_held_against_the_truth() -> None:
    samples = [
        sample("A001", "train", "unknown", "cereal"),
        sample("A002", "train", "fish", "cereal"),
        sample("P003", "train", "fish"),
        sample("P004", "train", "unknown"),
        sample("P005", "train"),
    ]
    truth = {item.id: {photographs.GROUPS[item.post[0]]} for item in samples}
    assert photographs.names_right(samples, truth) == {
        "images": 3,
        "right": 2,
        "share_right": 0.6667,
        "share_of_commonest_truth": 0.6667,
        "commonest_truth": "cereal",
    }
    assert photographs.names_right(samples[3:], truth)["share_right"] is None


def test_equal_files_in_several_splits_are_counted(tmp_path: Path) -> None:
    source = pictures(tmp_path / "pictures")
    samples = [sample("O003", "train", group="g"), sample("O004", "test", group="g")]
    result = photographs.duplicates(source, samples)
    assert result["distinct_files"] == 3
    assert (result["groups"], result["groups_across_splits"]) == (1, 1)
    assert (result["near_duplicate_groups"], result["samples_in_them"]) == (1, 2)


def numbers(**seen: Any) -> dict[str, Any]:
    return {
        "posts": 5,
        "ingest": {"posts": 5, "accepted": 4, "rejected": 1, "near_duplicate_groups": 2},
        "duplicates": {"groups_across_splits": 0},
        "refusal": "perception.clip = package:clip: knows drawings",
        "names": {
            "images": 4,
            "right": 1,
            "share_right": 0.25,
            "share_of_commonest_truth": 0.5,
            "commonest_truth": "fish",
        },
        "perceive": {
            "most_frequent": "fish",
            "most_frequent_share": 0.8,
            "named": 9,
            "unknown": 1,
            "clip_auc": 0.55,
            "clip_auc_error": 0.01,
            "plain_share": 0.6,
            "warnings": ["a", "b", "c"],
            **seen,
        },
    }


def test_what_must_hold_is_told_and_the_table_has_both_worlds() -> None:
    drawings = numbers(warnings=[])
    assert photographs.failures(numbers(), drawings) == []
    assert photographs.failures(numbers() | {"refusal": None}, drawings) == [
        "perceive takes the package's CLIP for photographs unasked"
    ]
    assert photographs.failures(numbers() | {"posts": 6}, drawings) == [
        "a post is neither in the dataset nor among the rejects"
    ]
    assert photographs.failures(numbers(clip_auc=0.9), numbers()) == [
        "the CLIP is not warned of on photographs",
        "the ad world is warned of",
    ]
    table = photographs.table_of(numbers(), drawings).markdown()
    assert "| most frequent name, of named objects | fish, 80 % of 9 | fish, 80 % of 9 |" in table


def test_every_group_has_a_kind_and_licences_are_those_that_packages_state(
    tmp_path: Path,
) -> None:
    assert "".join(photographs.GROUPS) == "ABCDEFGHIJKLMNOPQRST"
    stated = {"name": "@a/b", "version": "1.2.3", "license": "MIT"}
    (tmp_path / "package.json").write_text(json.dumps(stated))
    assert licence(tmp_path) == "@a/b 1.2.3: MIT"
