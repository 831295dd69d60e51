"""The X API v2 as it comes: pages, single posts, refusals, and what other pages include."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boig_core.config import Data
from boig_core.data.reading import x_api, x_includes
from boig_core.data.reading.sources import describe_file
from boig_core.data.rejects import CHOICES
from tests.unit.data.reading import read, read_all

TEXT = "A long enough text about a green tent in a quiet forest, made for this test alone"
USER = {"id": "9", "username": "verde", "name": "Verde &amp; Co"}


def photo(key: str) -> dict[str, Any]:
    return {"media_key": key, "type": "photo", "url": f"https://pbs.example/{key}.jpg"}


def post(**fields: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "author_id": "9",
        "created_at": "2024-03-01T10:00:00.000Z",
        "text": TEXT,
        "attachments": {"media_keys": ["3_1"]},
        "public_metrics": {"like_count": 41},
        "edit_history_tweet_ids": ["1"],
    } | fields


def page(*posts: Any, media: Any = (), **fields: Any) -> dict[str, Any]:
    includes = {"users": [USER], "media": list(media) or [photo("3_1"), photo("3_2")]}
    return {
        "data": list(posts),
        "includes": includes,
        "meta": {"result_count": len(posts)},
    } | fields


def test_a_long_post_is_read_whole_and_without_entities(tmp_path: Path) -> None:
    whole = f"{TEXT}: salt &amp; pepper &lt; 20 &gt; 10, and &amp;lt; as it is &eacute;"
    [result], rejects = read(tmp_path, page(post(note_tweet={"text": whole})))
    assert result.text == f"{TEXT}: salt & pepper < 20 > 10, and &lt; as it is &eacute;"
    assert (result.company, rejects) == ("Verde & Co", [])


def test_reposts_are_left_out_by_choice_and_quotes_and_replies_are_posts(tmp_path: Path) -> None:
    def refers(kind: str, nr: str) -> dict[str, Any]:
        return post(id=nr, referenced_tweets=[{"type": kind, "id": "77"}])

    posts, [reject] = read(
        tmp_path,
        page(refers("retweeted", "2"), refers("quoted", "3"), refers("replied_to", "4")),
    )
    assert [result.id for result in posts] == ["3", "4"]
    assert (reject.post, reject.code) == ("2", "repost")
    assert reject.reason == "reposts 77, and is no post of the account"
    assert reject.code in CHOICES
    # What the recipe leaves out is no repost besides.
    _, [reject] = read(tmp_path, page(refers("retweeted", "2")), until="2020-01-01")
    assert reject.code == "out_of_period"


@pytest.mark.parametrize("layout", ["jsonl", "json", "pretty"])
def test_answers_of_one_post_and_of_none(tmp_path: Path, layout: str) -> None:
    pages: list[dict[str, Any]] = [
        page() | {"data": post()},
        {"data": post(id="2"), "includes": page()["includes"], "matching_rules": []},
        {"meta": {"result_count": 0}},
        page(post(id="3", attachments={"media_keys": ["3_1", "3_2"]})),
        {"errors": [{"title": "Not Found Error", "detail": "Could not find tweet 5", "type": "x"}]},
        {"title": "Unauthorized", "detail": "Unauthorized", "type": "about:blank", "status": 401},
    ]
    indent = 2 if layout == "pretty" else None
    content = "\n".join(json.dumps(part, indent=indent) for part in pages)
    (tmp_path / f"posts.{'json' if layout == 'json' else 'jsonl'}").write_text(
        json.dumps(pages) if layout == "json" else content
    )
    posts, rejects = read_all(tmp_path)
    assert [(result.id, len(result.images)) for _, result in posts] == [
        ("1", 1),
        ("2", 1),
        ("3", 2),
    ]
    assert [reject.reason for reject in rejects] == [
        "the X API answered with errors in place of posts: Could not find tweet 5",
        "the X API answered with errors in place of posts: Unauthorized",
    ]


WITHOUT: dict[str, tuple[dict[str, Any], str]] = {
    "counts": ({"public_metrics": None}, "likes is missing"),
    "any counts": ({}, "public_metrics is missing (tweet.fields=public_metrics)"),
    "an author": ({"author_id": "8"}, "account is missing: author_id 8 is in no includes.users (expansions=author_id)"),
    "media": ({"attachments": {"media_keys": ["3_8"]}}, "image is missing: 3_8 is in no includes.media (expansions="),
    "an image": ({"attachments": None}, "image is missing"),
    "a photograph": ({"attachments": {"media_keys": ["13_1"]}}, "image is missing: video and no photograph (preview_image_url: https://pbs.example/p.jpg)"),
}  # fmt: skip


@pytest.mark.parametrize("what", WITHOUT)
def test_what_a_post_lacks_is_told_in_terms_of_the_api(tmp_path: Path, what: str) -> None:
    fields, reason = WITHOUT[what]
    item = post(**fields)
    if what == "any counts":
        del item["public_metrics"]
    video = {"media_key": "13_1", "type": "video", "preview_image_url": "https://pbs.example/p.jpg"}
    posts, [reject] = read(tmp_path, page(item, media=[photo("3_1"), video]))
    assert (posts, reject.post, reject.code) == ([], "1", "missing_field")
    assert reject.reason.startswith(reason)


def test_one_photograph_that_is_not_included_is_lost_by_itself(tmp_path: Path) -> None:
    keys = {"attachments": {"media_keys": ["3_1", "3_8"]}}
    [result], _ = read(tmp_path, page(post(**keys)))
    assert result.images == ("https://pbs.example/3_1.jpg", "media_key:3_8")


def test_counts_for_the_author_alone_are_columns(tmp_path: Path) -> None:
    item = post(organic_metrics={"impression_count": 500}, non_public_metrics={"engagements": 5})
    [result], _ = read(
        tmp_path, page(item), kpi="non_public_metrics.engagements/organic_metrics.impression_count"
    )
    assert result.kpis == (0.01,)


@pytest.mark.parametrize("split", [False, True])
def test_authors_and_media_of_other_pages_are_found(
    tmp_path: Path, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same file or in another of the folder; read once, and only if one is missing."""
    reads: list[int] = []
    of_page = x_api.items_of
    monkeypatch.setattr(x_includes, "items_of", lambda each: reads.append(1) or of_page(each))  # type: ignore[func-returns-value]
    bare = [{"data": [post(id=str(nr))], "meta": {}} for nr in range(3)]
    pages = [*bare, page(post(id="3"))]
    if split:
        for nr, part in enumerate(pages):
            (tmp_path / f"page-{nr}.json").write_text(json.dumps(part))
    else:
        (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, pages)))
    posts, rejects = read_all(tmp_path)
    assert [(result.id, result.account) for _, result in posts] == [
        (str(nr), "verde") for nr in range(4)
    ]
    assert (rejects, len(reads)) == ([], len(pages))


def test_pages_are_shown_as_such(tmp_path: Path) -> None:
    (tmp_path / "posts.json").write_text(json.dumps(page(post())))
    shown = describe_file(str(tmp_path / "posts.json"), Data())
    assert (shown.kind, shown.encoding, shown.delimiter) == ("x_api", "utf-8", None)
    assert {"id", "account", "text", "images", "likes"} <= set(shown.columns)


@pytest.mark.parametrize(
    "fields",
    [{"errors": [{"detail": "x"}]}, {"data": {"a": 1}, "meta": {}}, {"title": "a", "type": "b"}],
)
def test_rows_of_other_exports_are_no_pages(tmp_path: Path, fields: dict[str, Any]) -> None:
    """They are told what they lack themselves."""
    _, [reject] = read(tmp_path, {"id": "7", "created": "2024-01-01", **fields})
    assert (reject.post, reject.code) == ("7", "missing_field")
