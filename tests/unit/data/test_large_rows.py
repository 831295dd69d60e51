"""Rows that are larger than a post can be: each is a reject of its own, small and with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from boig_core.config import Data
from boig_core.data import dataset, selection, tables
from boig_core.data.cells.image_cells import MAX_IMAGES
from boig_core.data.posts import MAX_ROW, MAX_TEXT, Reject, accept, accept_again
from tests.unit.data.conftest import Archive, picture, row
from tests.unit.data.reading import GOOD

LARGE: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"text": "x " * (10 * 2**20)}, "row_too_large"),
    "text that fits its row": ({"text": "x" * (MAX_TEXT + 1)}, "text_too_long"),
    "images": ({"images": [f"{i}.png" for i in range(3000)]}, "row_too_large"),
    "a name of an image": ({"images": ["x" * 10_000]}, "row_too_large"),
    "id": ({"id": "x" * 100_000}, "row_too_large"),
    "account": ({"account": "x" * 100_000}, "row_too_large"),
    "company": ({"company": "x" * 100_000}, "row_too_large"),
    "licence": ({"licence": "x" * 100_000}, "row_too_large"),
    "another column": ({"notes": "x" * MAX_ROW}, "row_too_large"),
    "a KPI": ({"likes": "9" * 500_000}, "bad_kpi"),
    "a time": ({"timestamp": "9" * 500_000}, "bad_timestamp"),
    "keywords": ({"keywords": ["x" * MAX_ROW]}, "row_too_large"),
}


@pytest.mark.parametrize("what", LARGE)
def test_a_reject_is_small_however_large_its_row(what: str) -> None:
    change, code = LARGE[what]
    [result] = accept("f", [(1, {**GOOD, "image": None, "images": ["1.png"], **change})], Data())
    assert isinstance(result, Reject)
    assert result.code == code
    assert len(result.reason) <= 600
    assert len(result.post or "") <= 1000
    assert len(result.row or "") <= MAX_ROW
    if result.row:
        again = accept_again("f", 1, result.row, Data())
        assert isinstance(again, Reject)
        assert again.code == code


def test_the_largest_row_is_still_a_post() -> None:
    images = [f"{i}.png" for i in range(MAX_IMAGES)]
    [result] = accept("f", [(1, {**GOOD, "text": "x" * MAX_TEXT, "images": images})], Data())
    assert not isinstance(result, Reject)


def test_large_rows_do_not_end_an_ingestion(archive: Archive) -> None:
    rows = [
        row("good", 50, "0.png"),
        *(row(f"r{i}", 60, "1.png") | change for i, (change, _) in enumerate(LARGE.values())),
    ]
    uri = archive.ingest(archive.export(rows, {"0.png": picture(0)}))
    assert {sample.id for sample in dataset.read_samples(uri)} == {"good"}
    table = pq.read_table(Path(uri) / tables.REJECTS).to_pylist()
    assert sorted(item["code"] for item in table) == sorted(code for _, code in LARGE.values())


def test_a_post_that_loses_all_its_images_is_kept_once_and_can_be_tried_again(
    archive: Archive,
) -> None:
    names = [f"{i}.png" for i in range(MAX_IMAGES)]
    location = archive.export([row("good", 50, "0.png"), row("many", 60, *names[1:])], {})
    (Path(location) / "0.png").write_bytes(picture(0))
    first = archive.ingest(location)
    table = pq.read_table(Path(first) / tables.REJECTS).to_pylist()
    assert len(table) == len(names) - 1
    assert [item["image"] for item in table if item["row"]] == ["1.png"]
    for name in names[1:4]:
        (Path(location) / name).write_bytes(picture(int(name[:-4])))
    second = archive.ingest(None, first, retry=True)
    assert {sample.id for sample in dataset.read_samples(second)} == {
        "good",
        "many",
        "many-2",
        "many-3",
    }
    table = pq.read_table(Path(second) / tables.REJECTS).to_pylist()
    assert len(table) == len(names) - 4
    # And once more, since what is still lost has its row with another image by now.
    (Path(location) / "9.png").write_bytes(picture(9))
    third = archive.ingest(None, second, retry=True)
    assert "many-9" in {sample.id for sample in dataset.read_samples(third)}


def test_rows_reach_the_tables_in_batches_of_bounded_size(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    flush = selection._flush

    def counting(con: Any, accepted: list[Any], rejected: list[Any]) -> None:
        batches.append(len(accepted) + len(rejected))
        flush(con, accepted, rejected)

    monkeypatch.setattr(selection, "_flush", counting)
    monkeypatch.setattr(selection, "_BATCH_CHARACTERS", 10_000)
    rows = [row(f"{i}", 50, "0.png", notes="x" * 4000) for i in range(12)]
    archive.ingest(archive.export(rows, {"0.png": picture(0)}))
    assert max(batches) == 3
    assert sum(batches) == 12
