"""The data card: its numbers against a plain count, texts of strangers on its page, what it warns
of, what it does not depend on."""

import base64
import io
import json
import random
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from PIL import Image

from boig_core.data import card, card_page, dataset, tables
from boig_core.data.inspect import verify_dataset
from boig_core.storage import manifest
from boig_core.vocabulary import BUCKETS, Sample

from .conftest import Archive, picture, row

IMAGES = {f"{i}.png": picture(i, side=200) for i in range(90)}
ROWS = [
    row(
        f"p{i:02}",
        45.0 + i,
        f"{i}.png",
        account="abc"[i % 3],
        day=f"2021-{i % 6 + 1:02}-03",
        keywords=["sun", f"w{i % 4}"],
        shares=None if i % 10 == 0 else 3 * i,
        licence="CC0" if i % 5 == 0 else None,
    )
    for i in range(90)
]
HOSTILE = [
    "<script>alert('x')</script> & \"quotes\" & 'more' of a text that is long enough",
    "</p></bdi><img src=http://example.com/x.png onerror=alert(1)> a text that is long enough",
    "مرحبا بالعالم \u202e drawkcab a text that is long enough for every rule of the recipe",
    "🌞👩‍👩‍👧 {{ 7 * 7 }} {% raw %} a text that is long enough for every rule of the recipe",
]


class Page(HTMLParser):
    """What a browser would do with a page: its elements, where they point, and the text that is
    seen."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.sources: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []
        self.said: list[str] = []
        self.feed(page)
        self.close()
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.sources += [
            str(value) for name, value in attrs if name in {"src", "href", "srcset", "action"}
        ]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)


def read(uri: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((Path(uri) / card.CARD).read_bytes())
    return result


def open_page(uri: str) -> Page:
    result = Page((Path(uri) / manifest.PAGE).read_text())
    assert result.open == []
    return result


def test_the_numbers_are_those_of_a_plain_count(archive: Archive) -> None:
    broken = [
        {**ROWS[0], "id": "x", "likes": "?"},
        row("y", 70, "none.png"),
        row("z", 80, "none.png"),
    ]
    location = archive.export(
        [*ROWS, row("more", 60, "1.png", "2.png", account="a"), *broken], IMAGES
    )
    uri = archive.ingest(location, more_kpis=("shares",), negatives=0.3, floors=(50, 50, 50))
    result, samples, meta = read(uri), dataset.read_samples(uri), manifest.read_manifest(uri).meta
    assert {name: result[name] for name in meta} == meta
    assert verify_dataset(uri)["samples"] == result["samples"] == len(samples)
    posts = {sample.post: sample for sample in samples if not sample.negative}

    check_accounts_and_months(result, samples, posts)
    check_kpis(result, posts)
    check_words_and_images(result, samples, posts)
    assert result["rows"] == {"read": 94, "rejected": 3, "left_out": 0}
    assert [
        (item["code"], item["count"], item["example"]["line"]) for item in result["rejects"]
    ] == [
        ("image_missing", 2, 93),
        ("bad_kpi", 1, 92),
    ]
    assert result["rejects"][1]["example"] == {
        "file": "posts.jsonl",
        "line": 92,
        "reason": "likes = '?' is not a number of at least 0",
    }


def check_accounts_and_months(
    result: dict[str, Any], samples: list[Sample], posts: dict[str, Sample]
) -> None:
    by_account = Counter((sample.account, sample.bucket or "none") for sample in samples)
    assert [item["account"] for item in result["by_account"]] == ["a", "b", "c"]
    for item in result["by_account"]:
        own = [sample for sample in posts.values() if sample.account == item["account"]]
        assert (item["posts"], item["median_kpi"]) == (
            len(own),
            median(sample.kpi for sample in own),
        )
        assert {name: item[name] for name in card_page.NAMES} == {
            name: by_account[item["account"], name] for name in card_page.NAMES
        }
    by_month = Counter(sample.timestamp[:7] for sample in samples)
    assert {item["month"]: item["samples"] for item in result["by_month"]} == by_month
    assert sum(item["high"] for item in result["by_month"]) == sum(
        sample.bucket == "high" for sample in samples
    )


def check_kpis(result: dict[str, Any], posts: dict[str, Sample]) -> None:
    likes, shares = result["kpis"]
    kpis = sorted(sample.kpi for sample in posts.values())
    assert (likes["name"], likes["posts"], likes["missing"]) == ("likes", len(posts), 0)
    assert (likes["histogram"]["quantiles"]["0"], likes["histogram"]["quantiles"]["100"]) == (
        kpis[0],
        kpis[-1],
    )
    buckets = Counter(sample.bucket or "none" for sample in posts.values())
    assert {name: sum(counts) for name, counts in likes["histogram"]["counts"].items()} == {
        n: buckets[n] for n in card_page.NAMES
    }
    assert buckets["none"] == result["without_bucket"] == 6
    with_shares = [sample for sample in posts.values() if "shares" in sample.more_kpis]
    assert (
        (shares["posts"], shares["missing"])
        == (len(with_shares), len(posts) - len(with_shares))
        == (81, 10)
    )


def check_words_and_images(
    result: dict[str, Any], samples: list[Sample], posts: dict[str, Sample]
) -> None:
    words = Counter(word for sample in posts.values() for word in set(sample.keywords))
    assert [(item["keyword"], item["posts"]) for item in result["keywords"][:5]] == sorted(
        words.items(), key=lambda p: (-p[1], p[0])
    )[:5]
    lengths = sorted(len(sample.text) for sample in posts.values())
    assert (result["text_length"]["quantiles"]["0"], result["text_length"]["quantiles"]["100"]) == (
        lengths[0],
        lengths[-1],
    )
    assert result["sizes"]["most_common"] == [{"width": 200, "height": 200, "images": 90}]
    assert {item["licence"]: item["samples"] for item in result["licences"]} == {
        "CC0": 18,
        None: 74,
    }
    assert result["opt_out"] == [{"opt_out": "not asked", "samples": 92}]
    groups = Counter(sample.group for sample in samples if sample.group)
    assert result["near_duplicates"] == {
        "groups": len(groups),
        "largest": max(groups.values()),
        "samples": groups.total(),
    }


def test_the_grid_shows_training_samples_of_every_bucket_and_account_small(
    archive: Archive,
) -> None:
    uri = archive.ingest(archive.export(ROWS, IMAGES), shard_mb=0.2)
    samples = {sample.id: sample for sample in dataset.read_samples(uri)}
    result = read(uri)["grid"]
    assert list(result) == list(BUCKETS)
    shards = {item["image_shard"] for rows in result.values() for item in rows}
    assert 1 <= len(shards) <= 3 < len(dataset.shards(manifest.read_manifest(uri), tables.IMAGES))
    for bucket, rows in result.items():
        assert 0 < len(rows) <= 8
        for item in rows:
            sample = samples[item["id"]]
            assert (sample.split, sample.bucket, sample.image, sample.text) == (
                "train",
                bucket,
                item["image"],
                item["text"],
            )
            assert (sample.kpi, sample.kpi_normalized) == (item["kpi"], item["percentile"])
    assert {item["account"] for item in result["low"]} == {"a", "b", "c"}
    page = open_page(uri)
    assert len(page.sources) == sum(map(len, result.values()))
    for source in page.sources:
        head, data = source.split(",")
        assert head == "data:image/jpeg;base64"
        assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 160


def test_texts_of_strangers_are_texts(archive: Archive) -> None:
    names = ["<b>a</b>", 'b" onload="x', "c'; --", "</title><script>d</script>"]
    rows = [
        {
            **item,
            "text": HOSTILE[i % 4] + f" {i}",
            "account": names[i % 4],
            "keywords": [HOSTILE[i % 4]],
            "licence": HOSTILE[i % 4],
        }
        for i, item in enumerate(ROWS)
    ]
    bad = [{**rows[i], "id": f"bad{i}", "likes": "<script>alert(2)</script>"} for i in range(2)]
    uri = archive.ingest(archive.export([*rows, *bad], IMAGES))
    page = open_page(uri)
    assert page.tags["script"] == 0
    assert page.handlers == []
    assert all(source.startswith("data:") for source in page.sources)
    for text in HOSTILE:
        assert " ".join(text.split()) in page.text
    for name in names:
        assert name in page.text
    assert "likes = '<script>alert(2)</script>'" in page.text


def test_the_page_says_what_the_card_says(archive: Archive) -> None:
    uri = archive.ingest(archive.export([*ROWS, {"id": 1}], IMAGES), more_kpis=("shares",))
    page, result = open_page(uri), read(uri)
    assert (
        result["headline"]
        == "90 samples of 3 accounts, 9 high; 1 % of the rows were rejected, most often missing_field"
    )
    assert result["headline"] in page.text.replace("\u00a0", " ")
    for answers in (
        *(f"{bucket} KPI" for bucket in BUCKETS),
        "shares",
        "81 posts, 9 without it",
        "missing_field",
        "posts.jsonl",
        ", line 91)",
        "CC0",
    ):
        assert answers in page.text
    assert page.tags["link"] == page.tags["iframe"] == page.tags["script"] == 0


def test_neither_order_nor_place_change_the_card(archive: Archive) -> None:
    order = random.Random(1).sample(ROWS, len(ROWS))
    uris = [
        archive.ingest(archive.export(rows, IMAGES, name))
        for rows, name in ((ROWS, "one"), (ROWS, "two"), (order, "three"))
    ]
    for name in (card.CARD, manifest.PAGE):
        assert len({(Path(uri) / name).read_bytes() for uri in uris}) == 1
    # With rejects, all but their examples.
    bad = [{**item, "id": f"bad{i}", "likes": None} for i, item in enumerate(ROWS[:9])]
    cards = [
        read(archive.ingest(archive.export(rows, IMAGES, f"bad{i}")))
        for i, rows in enumerate(([*ROWS, *bad], [*bad[::-1], *order]))
    ]
    for item in cards:
        assert item["rejects"][0].pop("example")["line"] == (91 if item is cards[0] else 1)
    assert cards[0] == cards[1]


def test_the_card_of_a_version_that_was_built_on_is_that_of_all_at_once(archive: Archive) -> None:
    first = archive.ingest(archive.export(ROWS[:60], IMAGES))
    second = read(archive.ingest(archive.export(ROWS[60:], IMAGES, "day-2"), first))
    at_once = read(archive.ingest(archive.export(ROWS, IMAGES, "all")))
    # The images of the two lie in other shards, so that the grid is drawn from others.
    second.pop("grid"), at_once.pop("grid")
    assert second == at_once


def warnings(archive: Archive, rows: list[dict[str, Any]], **rules: Any) -> list[str]:
    uri = archive.ingest(archive.export(rows, IMAGES), **{"percentiles": (40, 70), **rules})
    result: list[str] = read(uri)["warnings"]
    text = open_page(uri).text
    assert all(item in text for item in result)
    return result


def test_nothing_is_wrong_with_a_plain_dataset(archive: Archive) -> None:
    assert warnings(archive, ROWS) == []


def test_one_account_alone_is_no_account_that_makes_too_much(archive: Archive) -> None:
    assert warnings(archive, [{**item, "account": "a"} for item in ROWS]) == []


def test_it_warns_of_what_looks_wrong(archive: Archive) -> None:
    assert warnings(
        archive, [{**item, "account": "a" if i % 10 else "b"} for i, item in enumerate(ROWS)]
    ) == ["Account a makes 90 % of all posts."]
    late = [
        {
            **item,
            "timestamp": item["timestamp"]
            .replace("2021-06", "2021-09")
            .replace("2021-01", "2020-11"),
        }
        for item in ROWS
    ]
    assert warnings(archive, late) == ["5 months without posts, the first 2020-12."]
    bad = [{**item, "id": f"bad{i}", "likes": None} for i, item in enumerate(ROWS[:30])]
    assert warnings(archive, [*ROWS, *bad]) == ["25 % of the rows were rejected (30 of 120)."]
    alike = [
        {**item, "images": [f"{i // 4}.png" if i < 12 else f"{i}.png"]}
        for i, item in enumerate(ROWS)
    ]
    assert (
        warnings(archive, alike)[-1]
        == "13 % of the samples look nearly like another: 3 groups, the largest of 4."
    )
    assert "Split train has no high sample." in warnings(archive, ROWS, floors=(20, 30, 1000))


def test_rows_that_the_recipe_leaves_out_are_no_rejects(archive: Archive) -> None:
    uri = archive.ingest(archive.export(ROWS, IMAGES), max_posts=15)
    result = read(uri)
    assert result["rows"] == {"read": 90, "rejected": 0, "left_out": 45}
    assert result["headline"].endswith(
        "; no row was rejected; 50 % were left out by the recipe's rules"
    )
    assert not any("rejected" in item for item in result["warnings"])


@pytest.mark.parametrize(
    ("months", "unit", "bars"),
    [
        (["2020-11", "2021-02"], "month", 4),
        (["2000-01", "2024-12"], "year", 25),
        (["0001-01", "9999-12"], "century", 100),
    ],
)
def test_any_span_of_time_is_a_chart(months: list[str], unit: str, bars: int) -> None:
    result = card_page.over_time(
        [{"month": item, "high": 1, "medium": 0, "low": 2, "none": 0} for item in months]
    )
    assert (result["unit"], len(result["bars"])) == (unit, bars)
    assert (result["bars"][0]["total"], result["bars"][-1]["total"]) == (3, 3)
    assert len(result["ticks"]) <= 6


def test_a_post_of_the_year_999_has_a_card(archive: Archive) -> None:
    uri = archive.ingest(
        archive.export([*ROWS[:5], row("old", 99, "7.png", day="0999-05-01")], IMAGES)
    )
    assert read(uri)["by_month"][0]["month"] == "0999-05"
    assert "without posts, the first 0999-06." in " ".join(read(uri)["warnings"])
    open_page(uri)
