"""`infra/evidence/data/hostile.py` and `decoding_speed.py`: small runs of the whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from boig_core.data.imaging.images import normalize
from infra.evidence.data import decoding_speed, hostile
from infra.evidence.data.mutations import image_seeds


def test_every_mutated_item_is_accounted_for_and_a_chunk_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(images: int, rows: int) -> dict[str, dict[str, float]]:
        sizes = ["--images", str(images), "--rows", str(rows), "--chunk", "60"]
        where = ["--home", str(tmp_path), "--json", str(tmp_path / "result.json")]
        monkeypatch.setattr(sys, "argv", ["hostile", *sizes, *where])
        assert hostile.main() == 0
        numbers: dict[str, dict[str, float]] = json.loads((tmp_path / "result.json").read_text())[
            "numbers"
        ]
        return numbers

    first = run(60, 60)
    assert first["images"]["items"] == first["rows"]["accounted_for"] == 60
    second = run(80, 60)
    assert second["images"]["accounted_for"] == 80
    assert second["images"]["seconds"] >= first["images"]["seconds"]
    assert second["rows"] == first["rows"]


def test_a_line_that_stands_in_no_table_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images-0-9.json").write_text(
        json.dumps(
            {
                "items": 9,
                "accounted_for": 8,
                "outcomes": {},
                "processes_lost": 0,
                "peak_rss_mib": {},
                "longest_ms": 1.0,
                "seconds": 1.0,
            }
        )
    )
    argv = ["hostile", "--images", "9", "--rows", "0", "--home", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    assert hostile.main() == 1


def test_both_ways_decode_all_photographs(tmp_path: Path) -> None:
    (tmp_path / "a.jpeg").write_bytes(normalize(image_seeds()[0], 10_000).data)
    result = decoding_speed.measure(tmp_path, rounds=1, repeats=2, processes=1)
    assert result["images"] == 1
    assert all(len(rates) == 1 for rates in result["images_per_second"].values())
    line = decoding_speed.report(result | {"lost": 0.06, "holds": False})
    assert line.endswith("6.0% lost: at most 5% DOES NOT HOLD")
