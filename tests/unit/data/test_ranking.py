"""What is said about ranks and buckets: floors of 0, posts without a bucket, accounts of one value,
ties, and popular posts among the rejects."""

from typing import Any

import pytest

from boig_core.data import dataset, glance
from boig_core.data.ranking import rough_number
from boig_core.data.summary import summary_lines
from boig_core.storage import manifest
from tests.unit.narrow import check_fits

from .conftest import Archive, picture, row

IMAGES = {f"{i}.png": picture(i) for i in range(40)}


def posts(likes: list[Any], account: str = "a", **more: Any) -> list[dict[str, Any]]:
    return [
        row(f"{account}{i:02}", like, f"{i}.png", account=account, **more)
        for i, like in enumerate(likes)
    ]


def ingested(
    archive: Archive, rows: list[dict[str, Any]], **rules: Any
) -> tuple[str, dict[str, Any]]:
    uri = archive.ingest(archive.export(rows, IMAGES), **rules)
    return uri, manifest.read_manifest(uri, kind="dataset").meta


def about(meta: dict[str, Any], word: str) -> list[str]:
    return [warning for warning in meta["warnings"] if word in warning]


@pytest.mark.parametrize("floors", [(0, 0, 0), (-1, -1, -1), (0, 30, 40)])
def test_a_floor_of_0_keeps_posts_of_0(archive: Archive, floors: tuple[float, ...]) -> None:
    uri, meta = ingested(archive, posts([0] * 18 + [50, 60]), floors=floors)
    assert {sample.bucket for sample in dataset.read_samples(uri) if sample.kpi == 0} == {"low"}
    assert meta["without_bucket"] == 0
    assert not about(meta, "without a bucket")


def test_posts_at_their_floor_are_in_no_bucket_and_it_is_said(archive: Archive) -> None:
    _, meta = ingested(archive, posts([20, 21, *range(50, 68)]))
    assert meta["without_bucket"] == 1
    [warning] = about(meta, "without a bucket")
    assert "1 sample of 20 (5 %)" in warning
    assert "data.floors" in warning


def test_an_account_of_one_value_is_named(archive: Archive) -> None:
    rows = [*posts(list(range(50, 70))), *posts([70] * 3, "even"), *posts([80], "lone")]
    _, meta = ingested(archive, rows)
    [warning] = about(meta, "one value")
    assert "2 accounts with 4 posts, the first even" in warning
    assert "data.min_posts" in warning


def test_ties_across_a_percentile_are_told_with_the_largest(archive: Archive) -> None:
    # Of 20 posts 12 should be low; 18 are.
    _, meta = ingested(archive, posts([0] * 18 + [50, 60]), floors=(0, 0, 0))
    [warning] = about(meta, "Equal values")
    assert "6 posts of 20" in warning
    assert "18 posts of a have 0" in warning
    assert not about(ingested(archive, posts(list(range(50, 70))))[1], "Equal values")


@pytest.mark.parametrize(("shown", "told"), [("{:,}", True), ("~{}", False)])
def test_unread_kpis_and_popular_posts_among_the_rejects(
    archive: Archive, shown: str, told: bool
) -> None:
    rows = posts([100 * (i + 1) for i in range(30)])
    scored = [
        {**item, "score": shown.format(item["likes"]) if item["likes"] > 2000 else item["likes"]}
        for item in rows
    ]
    _, meta = ingested(archive, scored, kpi="score")
    assert meta["rejected_by_reason"] == {"bad_kpi": 10}
    [warning] = about(meta, "could not be read")
    assert "10 rows" in warning
    assert "data.numbers" in warning
    # What is no number in any reading has no size that anybody could tell.
    assert bool(about(meta, "Popular posts are lost: 10 of the 10")) == told


def test_popular_posts_whose_images_are_missing_are_told_and_chance_is_not(
    archive: Archive,
) -> None:
    rows = posts(list(range(50, 80)))
    lost = [{**item, "images": ["none.png"]} for item in rows[26:]]
    _, meta = ingested(archive, [*rows[:26], *lost])
    assert about(meta, "Popular posts are lost: 4 of the 4")
    lost = [{**item, "images": ["none.png"]} for item in rows[::6]]
    _, meta = ingested(
        archive, [*lost, *(item for item in rows if item["id"] not in {i["id"] for i in lost})]
    )
    assert not about(meta, "Popular")


@pytest.mark.parametrize(
    ("written", "about_value"),
    [
        *(("1,234", 1234), ("1.234", 1234), ("1.2K", 1200), ("1,25 M", 1.25e6), ("12 345", 12345)),
        *((17, 17), (2.5, 2.5), ("3.5", 3.5), ("1.234.567", 1234567), ("1,234.5", 1234.5)),
        *(
            (None, None),
            (True, None),
            ("many", None),
            ([3], None),
            (float("nan"), None),
            (-3, None),
        ),
    ],
)
def test_a_rough_number_is_as_large_as_it_looks(written: Any, about_value: float | None) -> None:
    assert rough_number(written) == (None if about_value is None else pytest.approx(about_value))


def test_the_summary_fits_and_tells_choices_from_faults(archive: Archive) -> None:
    rows = [
        *posts([*range(50, 80), "?"]),
        *posts(list(range(50, 60)), "b", kind="other"),
    ]
    _, meta = ingested(archive, rows, where={"id": tuple(r["id"] for r in rows if "kind" not in r)})
    text = "\n".join(summary_lines("d", meta))
    check_fits(text)
    assert text.splitlines()[:6] == [
        "dataset d: 30 posts kept, of 41 rows read",
        "  rejected    bad_kpi 1",
        "  left out    filtered_out 10 (choices of the recipe)",
        "  images      30 in 30 samples of 1 account",
        "  buckets     low 18, medium 9, high 3",
        f"  splits      {', '.join(f'{k} {n}' for k, n in sorted(meta['splits'].items(), key=lambda i: -i[1]))}",
    ]
    flat = " ".join(text.split())
    assert meta["warnings"]
    assert all(f"warning: {warning}" in flat for warning in meta["warnings"])
    assert glance.many(1, "post") == "1 post"
