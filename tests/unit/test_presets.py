"""Presets: nothing but defaults, under which an export gets in as it comes."""

import csv
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from boig_core.config import Column, Data, load_recipe, parse_recipe
from boig_core.config.presets import PRESETS, Preset
from tests.unit.data.reading import read_all

TEXT = "A long enough text about a green tent in a quiet forest, with a view of the lake"
# First lines as the exports have them, and a row of each.
EXPORTS: dict[str, dict[str, Any]] = {
    "instagram": {
        "Post ID": "18011", "Account ID": "1784", "Account username": "acme", "Account name": "Acme",
        "Description": TEXT, "Duration (sec)": "0", "Publish time": "05/06/2023 08:31", "Permalink": "https://x",
        "Post type": "IG image", "Views": "12,400", "Reach": "9100", "Likes": "1,610", "Saves": "3",
    },
    "facebook": {
        "Post ID": "122158", "Page ID": "6.1571E+13", "Page name": "acme", "Title": TEXT, "Description": "",
        "Publish time": "05/06/2023 21:00", "Permalink": "https://x", "Post type": "Photos", "Reactions": "1610",
    },
    "linkedin": {
        "Post title": TEXT, "Post link": "https://www.linkedin.com/feed/update/urn:li:activity:7", "Post type": "Organic",
        "Posted by": "A. Person", "Created date": "05/06/2023", "Impressions": 716, "Likes": "1610", "Engagement rate": "6.14%",
    },
    "tiktok": {
        "Video title": TEXT, "Video link": "https://www.tiktok.com/@acme/video/7400000000000000001",
        "Post time": "2023-05-06 09:10", "Total likes": "1,610", "Total comments": "22", "Total views": "1.2K",
    },
    "x-api": {
        "id": "1", "account": "acme", "timestamp": "2023-05-06T10:00:00Z", "text": TEXT, "likes": 1610,
    },
    "adobe-stock": {
        "Filename": "1.png", "Title": TEXT, "Keywords": "tent, forest", "Category": 8, "Releases": "",
        "timestamp": "2023-05-06", "downloads": 1610,
    },
    "shutterstock": {
        "Filename": "1.png", "Description": TEXT, "Keywords": "tent,forest", "Categories": "Nature", "Editorial": "no",
        "timestamp": "2023-05-06", "downloads": 1610,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", get_args(Preset))
def test_an_export_gets_in_as_it_comes_with_an_image_beside_it(tmp_path: Path, name: str) -> None:
    row = EXPORTS[name] if "Filename" in EXPORTS[name] else {**EXPORTS[name], "image": "1.png"}
    with (tmp_path / "posts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    [(_, post)], rejects = read_all(tmp_path, preset=name)
    assert rejects == []
    assert (post.timestamp[:10], post.text, post.kpis) == ("2023-05-06", TEXT, (1610.0,))
    assert post.account in {"acme", name}
    assert post.images == ("1.png",)


@pytest.mark.parametrize("name", get_args(Preset))
def test_a_resolved_recipe_reads_back_the_same(name: str) -> None:
    recipe = parse_recipe(
        {"name": "mine", "data": {"preset": name, "columns": {"text": "other"}, "kpi": "Saves"}}
    )
    assert recipe.data.columns == {**PRESETS[name]["columns"], "text": "other"}  # type: ignore[index]
    assert recipe.data.kpi == "Saves"
    tree = yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert parse_recipe(tree) == recipe
    assert set(PRESETS[name]) <= {"columns", "kpi", "dates", "numbers", "dialect"}  # type: ignore[index]
    assert set(PRESETS[name]["columns"]) <= set(get_args(Column))  # type: ignore[index]


def test_what_a_recipe_says_itself_counts(tmp_path: Path) -> None:
    assert Data(preset="instagram").dates == "month-first"
    assert Data(preset="instagram", dates="day-first").dates == "day-first"
    assert Data(preset="instagram", dates=None).dates is None
    (tmp_path / "mine.yaml").write_text("extends: tiny\ndata: {preset: tiktok}\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"), ["data.columns={account: =acme}"])
    assert (recipe.data.columns["account"], recipe.data.columns["id"]) == ("=acme", "Video link")
    with pytest.raises(ValueError, match="preset"):
        Data(preset="myspace")
    wrong: list[Any] = [["instagram"], 7, {"preset": {}}, {"preset": "instagram", "columns": 7}]
    for bad in wrong:
        with pytest.raises(ValueError, match="data"):
            parse_recipe({"name": "mine", "data": bad})
