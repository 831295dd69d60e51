"""Ingestion by periods: a source that grows, read day by day; nothing twice, nothing for nothing,
late posts while they may be late."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from boig_core.data import dataset, tables
from boig_core.data.ingestion import NothingNewError
from boig_core.errors import InputError
from boig_core.storage import manifest, store
from boig_core.storage.period import Period, read_period, write_period

from .conftest import Archive, picture, row

IMAGES = {f"{i}.png": picture(i) for i in range(8)}


def days(first: int | None, last: int) -> Period:
    """Days of January 2026, without the last."""
    return Period(
        since=None if first is None else datetime(2026, 1, first, tzinfo=UTC),
        until=datetime(2026, 1, last, tzinfo=UTC),
    )


def post(number: int, day: str) -> dict[str, Any]:
    return row(f"p{number}", 100.0 + number, f"{number}.png", day=f"2026-01-{day}")


def ids(uri: str) -> list[str]:
    return [sample.id for sample in dataset.read_samples(uri)]


def test_each_day_adds_its_posts_and_late_ones(archive: Archive) -> None:
    rows = [post(0, "01T10:00:00Z"), post(1, "02T00:00:00Z"), post(2, "03T09:00:00+09:00")]
    source = archive.export(rows, IMAGES)
    first = archive.ingest(source, period=days(None, 2))
    assert ids(first) == ["p0"]
    assert manifest.read_manifest(first).meta["newest"] == "2026-01-01T10:00:00Z"
    second = archive.ingest(source, first, period=days(1, 3))
    assert ids(second) == ["p0", "p1"]
    late, too_late = post(3, "02T12:00:00Z"), post(4, "01T12:00:00Z")
    third = archive.ingest(
        archive.export([*rows, late, too_late], IMAGES), second, period=days(2, 4)
    )
    assert ids(third) == ["p0", "p1", "p2", "p3"]
    assert manifest.read_manifest(third).meta["newest"] == "2026-01-03T00:00:00Z"


def test_an_old_period_again_adds_nothing_twice_and_fetches_nothing(archive: Archive) -> None:
    rows = [post(0, "01"), post(1, "02"), post(2, "03")]
    source = archive.export(rows, IMAGES)
    whole = archive.ingest(source, period=days(None, 4))
    for image in IMAGES:
        (Path(source) / image).unlink()
    with pytest.raises(
        NothingNewError,
        match=r"no new post in \[2026-01-02T00:00:00\+00:00, .*: 1 are held as they are",
    ):
        archive.make(source, whole, period=days(2, 3))
    archive.export([*rows, post(3, "02T05:00:00Z")], {"3.png": IMAGES["3.png"]})
    again = archive.ingest(source, whole, period=days(2, 3))
    assert ids(again) == ["p0", "p1", "p2", "p3"]
    assert pq.read_table(Path(again) / tables.REJECTS).num_rows == 0


def test_a_count_that_moved_is_news_and_needs_no_image(archive: Archive) -> None:
    source = archive.export([post(0, "01"), post(1, "01")], IMAGES)
    first = archive.ingest(source, period=days(None, 2))
    archive.export([post(0, "01"), {**post(1, "01"), "likes": 900}], {})
    (Path(source) / "1.png").unlink()
    second = archive.ingest(source, first, period=days(1, 3))
    assert {sample.id: sample.kpi for sample in dataset.read_samples(second)} == {
        "p0": 100,
        "p1": 900,
    }
    with pytest.raises(NothingNewError):
        archive.make(source, second, period=days(1, 4))


def test_what_was_rejected_is_no_news_and_stands_there_once(archive: Archive) -> None:
    bad = [
        {**post(5, "01"), "likes": "many"},
        {**post(6, "01"), "timestamp": "yesterday"},
        row("lost", 5, "none.png", day="2026-01-01"),
    ]
    source = archive.export([post(0, "01"), *bad, post(1, "02")], IMAGES)
    first = archive.ingest(source, period=days(None, 2))
    codes = ["bad_kpi", "bad_timestamp", "image_missing"]
    assert sorted(pq.read_table(Path(first) / tables.REJECTS)["code"].to_pylist()) == codes
    second = archive.ingest(source, first, period=days(1, 3))
    assert ids(second) == ["p0", "p1"]
    assert sorted(pq.read_table(Path(second) / tables.REJECTS)["code"].to_pylist()) == codes
    with pytest.raises(NothingNewError):
        archive.make(source, second, period=days(1, 3))


def test_a_first_period_without_posts_is_no_error(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with pytest.raises(NothingNewError, match="no new post in"):
        archive.make(archive.export([post(0, "05")], IMAGES), None, period=days(None, 2))
    assert "of 0 posts in [..., 2026-01-02T00:00:00+00:00), 0 are new or changed" in caplog.text


def test_a_column_of_another_name_says_when(archive: Archive) -> None:
    rows = [
        {**post(i, "01"), "timestamp": "x", "when": {"at": f"2026-01-0{i + 1}"}} for i in range(2)
    ]
    created = archive.ingest(
        archive.export(rows, IMAGES), period=days(None, 2), columns={"timestamp": "when.at"}
    )
    assert ids(created) == ["p0"]
    assert pq.read_table(Path(created) / tables.REJECTS).num_rows == 0


def test_a_period_is_read_as_it_was_written(tmp_path: Path) -> None:
    uri = write_period(f"{tmp_path}/period.json", days(None, 2))
    assert read_period(uri) == days(None, 2)
    store.write_bytes(uri, b'{"since": null}')
    with pytest.raises(InputError, match="is no period"):
        read_period(uri)
