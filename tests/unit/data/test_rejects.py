"""``boig dataset rejects``: what was left out of a version, by reason."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.data.dataset import read_rejects
from boig_core.data.rejects import CODES
from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from tests.unit.narrow import check_fits

from .conftest import Archive, picture, row


@pytest.fixture
def uri(archive: Archive) -> str:
    """A version with seven rejects of three reasons."""
    rows = [
        *(row(f"p{i}", 50 + i, f"{i}.png") for i in range(4)),
        *(row(f"q{i}", 50 + i, f"{i}.png", text="short \x1b[2J" + "i" * i) for i in range(4)),
        row("r", 50, "none.png"),
        *(row(f"s{i}", 50, "1.png", day="1999-01-01") for i in range(2)),
    ]
    return archive.ingest(
        archive.export(rows, {f"{i}.png": picture(i) for i in range(4)}), since="2000-01-01"
    )


def run(*args: str) -> str:
    result = CliRunner().invoke(app, ["dataset", "rejects", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_rejects_are_listed_by_reason_with_file_line_post_and_image(uri: str) -> None:
    text = run(uri)
    check_fits(re.sub(r"\S{60,}", "PATH", text))
    lines = text.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "text_too_short: 4",
        "out_of_period: 2 (a choice of the recipe)",
        "image_missing: 1",
    ]
    assert "    posts.jsonl, line 5, post q0" in lines
    assert "    posts.jsonl, line 9, post r, image none.png" in lines
    assert "the text has" in text
    assert '"likes"' not in text


def test_a_limit_says_how_many_more_and_zero_is_all(uri: str) -> None:
    assert "    and 3 more (all of them: --limit 0)" in run(uri, "--limit", "1").splitlines()
    assert sum("line" in line for line in run(uri, "--limit", "0").splitlines()) == 7


def test_one_reason_with_its_rows_whose_signs_do_not_act(uri: str) -> None:
    text = run(uri, "--code", "text_too_short", "--rows")
    assert text.splitlines()[0] == "text_too_short: 4"
    assert "out_of_period" not in text
    assert '"likes": 50' in text
    assert "\x1b" not in text


def test_as_json_each_reject_is_whole(uri: str) -> None:
    whole = json.loads(run(uri, "--json", "--limit", "0"))
    assert whole == read_rejects(uri)
    assert {code: len(rejects) for code, rejects in whole.items()} == {
        "text_too_short": 4,
        "out_of_period": 2,
        "image_missing": 1,
    }
    assert set(whole["image_missing"][0]) == {
        *("file", "line", "post", "image", "code", "reason", "row")
    }


def test_a_dataset_without_rejects_says_so(archive: Archive) -> None:
    uri = archive.ingest(archive.export([row("p", 50, "1.png")], {"1.png": picture(1)}))
    assert run(uri) == "no rejects\n"
    assert json.loads(run(uri, "--json")) == {}


def test_what_is_no_reason_or_no_dataset_or_altered_is_an_error(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"use one of {CODES[0]}"):
        read_rejects(uri, "image_mising")
    with pytest.raises(NotFoundInStoreError):
        read_rejects(str(tmp_path / "none"))
    table = Path(uri) / "rejects.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptError):
        read_rejects(uri)
