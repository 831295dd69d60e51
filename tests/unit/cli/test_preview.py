"""``boig ingest --preview``: three whole ingestions at the first attempt, what is shown, and the
recipe that is written."""

from __future__ import annotations

import csv
import json
import re
import threading
from collections import Counter
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from boig_core.cli import app
from boig_core.cli.preview_recipe import flow
from boig_core.config import load_recipe
from boig_core.config.loading import parse_yaml
from boig_core.storage import manifest
from tests.unit.data.conftest import Archive, picture, row
from tests.unit.narrow import check_fits

TEXT = "Fresh from the workshop this morning, made by hand and ready for a long weekend, number"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An empty archive."""
    return Archive(tmp_path)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A folder with 40 images."""
    images = tmp_path / "acme" / "images"
    images.mkdir(parents=True)
    for i in range(40):
        (images / f"{i}.png").write_bytes(picture(i))
    return tmp_path / "acme"


def preview(*args: Path | str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["ingest", "--preview", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def as_json(*args: Path | str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(preview(*args, "--json").stdout)
    return tree


def fields(tree: dict[str, Any]) -> dict[str, Any]:
    return {line["field"]: line["value"] for line in tree["suggestions"]}


def check_first_attempt(archive: Archive, export: Path, posts: int) -> str:
    """Preview and write a recipe, then ingest with it: no post is lost; returns the recipe's
    text."""
    recipe = export.parent / "mine.yaml"
    shown = preview(export, "--write", recipe).stdout
    check_fits(re.sub(r"\S{60,}", "PATH", shown))
    assert f"boig ingest {export} --recipe {recipe}" in " ".join(shown.split())
    assert f"{posts} posts" in shown
    rules = load_recipe(str(recipe)).data.model_dump()
    meta = manifest.read_manifest(archive.ingest(str(export), **rules), kind="dataset").meta
    assert (meta["accepted"], meta["rejected"], meta["without_bucket"]) == (posts, 0, 0)
    after = as_json(export, "--recipe", recipe)
    assert (after["suggestions"], after["after"]["lost"]) == ([], 0)
    assert after["after"]["splits"] == meta["splits"]
    buckets = {name: sum(counts.values()) for name, counts in meta["buckets"].items()}
    assert after["after"]["buckets"] == buckets | {"none": 0}
    assert (after["images"]["tried"], after["images"]["read"]) == (12, 12)
    return recipe.read_text(encoding="utf-8")


def write_csv(path: Path, rows: Sequence[dict[str, Any]], delimiter: str, encoding: str) -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def instagram(i: int, **other: Any) -> dict[str, Any]:
    likes = 150 * (i + 1)
    return {
        "Post ID": f"1789000000000{i:04}",
        "Account username": "acme",
        "Account name": "Acme Schuhe",
        "Description": f'Größer; "schöner" {TEXT} {i}',
        "Publish time": f"{i % 28 + 1:02}.05.2023 18:30",
        "Permalink": f"https://www.instagram.com/p/C{i:010}/",
        "Media": f"images/{i}.png",
        "Likes": f"{likes / 1000:.1f}K" if likes >= 1000 else likes,
        "Reach": likes * 9,
        **other,
    }


def test_an_instagram_csv_gets_in_at_the_first_attempt(archive: Archive, export: Path) -> None:
    rows = [instagram(i) for i in range(40)]
    write_csv(export / "export.csv", rows, ";", "cp1252")
    text = check_first_attempt(archive, export, 40)
    assert "  preset: instagram\n" in text
    assert "    image: Media\n" in text
    # The preset says the rest.
    assert "Publish time" not in text


GERMAN = {
    "Post ID": "Beitrags-ID", "Account username": "Konto", "Description": "Beschreibung",
    "Publish time": "Zeit der Freigabe", "Media": "Bild", "Likes": "Gefällt mir",
}  # fmt: skip


def test_what_no_name_tells_is_told_by_values_or_asked(export: Path) -> None:
    rows = [instagram(i) for i in range(20)]
    named = [{GERMAN.get(name, name): value for name, value in row.items()} for row in rows]
    write_csv(export / "export.csv", named, ";", "utf-8")
    tree, recipe = as_json(export), export.parent / "mine.yaml"
    told = fields(tree)
    assert told["data.columns.image"] == "Bild"
    assert told["data.columns.timestamp"] == "Zeit der Freigabe"
    asked = [name for name, value in told.items() if value is None]
    assert asked == ["data.columns.text", "data.kpi"]
    shown = preview(export, "--write", recipe).stdout
    check_fits(re.sub(r"\S{60,}", "PATH", shown))
    assert "which column is text? The file has Beitrags-ID, Konto," in " ".join(shown.split())
    # What is asked stands in the recipe as a comment, beside what is known.
    text = recipe.read_text(encoding="utf-8")
    text = text.replace("# text:", "text: Beschreibung").replace("# kpi:", "kpi: Gefällt mir")
    recipe.write_text(text, encoding="utf-8")
    assert as_json(export, "--recipe", recipe)["after"]["kept"] == 20


def test_a_column_of_images_is_known_whatever_else_is_called_so(export: Path) -> None:
    rows = [{"url": f"https://example.org/{i}", **instagram(i)} for i in range(20)]
    named = [{"Bild": row.pop("Media"), **row} for row in rows]
    write_csv(export / "export.csv", named, ",", "utf-8")
    assert fields(as_json(export))["data.columns.image"] == "Bild"


def test_ids_that_a_spreadsheet_has_cut_are_taken_from_another_column(export: Path) -> None:
    # 16 of 17 digits: all ids of a day become one.
    rows = [instagram(i, **{"Post ID": "1,789E+16"}) for i in range(40)]
    write_csv(export / "export.csv", rows, ";", "utf-8")
    tree = as_json(export)
    assert fields(tree)["data.columns.id"] == "Permalink"
    assert tree["after"]["kept"] == 40


def test_what_the_file_settles_and_what_is_mended_is_shown(export: Path) -> None:
    rows = [
        instagram(i, Likes="1.234,5" if not i else 50 + i, **{"Publish time": f"{28 - i}/05/2023"})
        for i in range(20)
    ]
    rows[3]["Description"] = TEXT + " für Füße".encode().decode("cp1252")
    write_csv(export / "export.csv", rows, ";", "utf-8")
    tree = as_json(export)
    assert fields(tree)["data.dates"] == "day-first"
    assert tree["after"]["conventions"] == {"dates": "day-first", "Likes": "comma"}
    assert (tree["after"]["kept"], tree["after"]["mended"]) == (20, 1)
    assert "1 text mended" in preview(export).stdout


def test_pages_of_x_in_a_folder_get_in_at_the_first_attempt(archive: Archive, export: Path) -> None:
    for page in range(4):
        posts = [
            {
                "id": str(10**18 + i),
                "text": f"Short &amp; new: {i}",
                "author_id": "7",
                "created_at": f"2023-05-{i % 28 + 1:02}T10:00:00.000Z",
                "attachments": {"media_keys": [f"3_{i}"]},
                "public_metrics": {"like_count": i % 9, "retweet_count": 1},
            }
            for i in range(10 * page, 10 * page + 10)
        ]
        media = [
            {"media_key": f"3_{i}", "type": "photo", "url": f"file://{export}/images/{i}.png"}
            for i in range(10 * page, 10 * page + 10)
        ]
        includes = {"media": media}
        # The author stands in the first page alone.
        if not page:
            includes["users"] = [{"id": "7", "username": "acme", "name": "Acme"}]
        body = {"data": posts, "includes": includes, "meta": {"result_count": 10}}
        (export / f"page-{page}.json").write_text(json.dumps(body))
    text = check_first_attempt(archive, export, 40)
    assert "  min_text: " in text
    assert "  floors: [0, 0, 0]\n" in text
    assert "columns:" not in text


def test_a_stock_parquet_gets_in_at_the_first_attempt(archive: Archive, export: Path) -> None:
    table: dict[str, Any] = {
        "asset_id": [900000 + i for i in range(40)],
        "title": [f"Sofa {i}" for i in range(40)],
        "keywords": [["sofa", f"room {i}"] for i in range(40)],
        "release_date": pa.array(
            [1_680_000_000 + 86_400 * i for i in range(40)], pa.timestamp("s")
        ),
        "filename": [f"images/{i}.png" for i in range(40)],
        "downloads": [i // 2 for i in range(40)],
    }
    pq.write_table(pa.table(table), export / "assets.parquet")
    text = check_first_attempt(archive, export, 40)
    recipe = parse_yaml(text)["data"]
    columns = {"id": "asset_id", "account": "=acme", "timestamp": "release_date"}
    columns |= {"text": "title", "image": "filename"}
    rest = {"kpi": "downloads", "min_text": 6, "floors": [0, 0, 0]}
    assert recipe == {"name": "acme", "columns": columns, **rest}


def test_nothing_is_suggested_where_nothing_is_lost_and_faults_stay_shown(
    archive: Archive, export: Path
) -> None:
    rows = [row(f"p{i}", 50 + i, f"images/{i}.png") for i in range(39)]
    faults = [{**rows[0], "id": "x\x1b[2J", "likes": "many"}, row("gone", 99, "images/none.png")]
    archive.export([*rows, *faults], {}, "acme")
    shown = preview(export).stdout
    check_fits(re.sub(r"\S{60,}", "PATH", shown))
    assert "Lines for the recipe" not in shown
    assert "Lost: 1 of 41 rows" in shown
    assert "posts.jsonl, line 40: likes = 'many'" in shown
    assert "1 of 40 on this disk do not exist" in " ".join(shown.split())
    tree = as_json(export)
    assert tree["suggestions"] == []
    assert tree["columns"]["text"]["column"] == "text"
    assert len(tree["columns"]["likes"]["values"]) == 2
    assert [problem["code"] for problem in tree["before"]["problems"]] == ["bad_kpi"]
    assert not list(export.parent.glob(".boig*"))


def test_signs_of_strangers_do_not_act(archive: Archive, export: Path) -> None:
    odd = "Likes \x1b[\x07"
    rows = [
        {**row(f"p{i}", 50, f"images/{i}.png", account="a\x1b[31m"), odd: 50 + i} for i in range(9)
    ]
    for item in rows:
        del item["likes"]
    archive.export(rows, {}, "acme")
    recipe = export.parent / "mine.yaml"
    shown = preview(export, "--write", recipe).stdout
    assert "\x1b" not in shown + recipe.read_text()
    assert fields(as_json(export))["data.kpi"] == odd
    assert load_recipe(str(recipe)).data.kpi == odd


@pytest.mark.parametrize(
    ("dates", "value"),
    [
        (["05/06/2023", "31/05/2023"], None),
        (["05/06/2023", "04/03/2023"], "?"),
    ],
)
def test_what_the_file_leaves_open_is_asked_and_not_guessed(
    archive: Archive, export: Path, dates: list[str], value: str | None
) -> None:
    rows = [row(f"p{i}", 50 + i, f"images/{i}.png", day=dates[i % 2]) for i in range(20)]
    archive.export(rows, {}, "acme")
    recipe = export.parent / "mine.yaml"
    shown = preview(export, "--write", recipe).stdout
    assert ("data.dates: ?" in shown) == (value == "?")
    if value:
        assert "saves 20 of 20 lost rows" in " ".join(shown.split())
        assert "day-first, month-first" in recipe.read_text()
    assert load_recipe(str(recipe)).data.dates is None


def test_each_line_says_what_it_saves_alone(archive: Archive, export: Path) -> None:
    rows = [
        row(f"p{i}", 50 + i, f"images/{i}.png", text="Short" if i % 4 else TEXT) for i in range(20)
    ]
    archive.export(rows, {}, "acme")
    [line] = as_json(export)["suggestions"]
    assert (line["field"], line["value"], line["saves"], line["of"]) == ("data.min_text", 5, 15, 15)
    shown = " ".join(preview(export).stdout.split())
    assert "data.min_text: 5 saves 15 of 15 lost rows" in shown
    assert "to come" not in shown.lower() or "With these lines: 20 posts" in shown


def test_a_recipe_of_ones_own_is_kept_with_its_settings(archive: Archive, export: Path) -> None:
    rows = [row(f"p{i}", 50, f"images/{i}.png", Shares=50 + i, text="Short") for i in range(20)]
    archive.export(rows, {}, "acme")
    own = export.parent / "own.yaml"
    own.write_text(
        "extends: stock\nseed: 7\ndata: {name: mine, kpi: Shares, columns: {account: =x}}\n"
    )
    new = export.parent / "new.yaml"
    preview(
        export,
        "--recipe",
        own,
        "--set",
        "data.max_posts=9",
        "--set",
        "data.min_text=20",
        "--write",
        new,
    )
    before, after = load_recipe(str(own)), load_recipe(str(new))
    assert (after.seed, after.data.name, after.data.kpi, after.data.max_posts) == (
        7,
        "mine",
        "Shares",
        9,
    )
    assert after.data.columns == before.data.columns
    assert after.data.min_text == 5
    assert after.llm == before.llm


def test_a_file_is_never_overwritten_and_preview_goes_with_posts_alone(
    archive: Archive, export: Path
) -> None:
    archive.export([row("p", 50, "images/0.png")], {}, "acme")
    recipe = export.parent / "mine.yaml"
    recipe.write_text("mine")
    result = CliRunner().invoke(app, ["ingest", "--preview", str(export), "--write", str(recipe)])
    assert "exists, and is never overwritten" in str(result.exception)
    assert recipe.read_text() == "mine"
    for args in (["--preview"], ["--preview", "x", "--previous", "y"], ["x", "--write", "z.yaml"]):
        result = CliRunner().invoke(app, ["ingest", *args])
        assert result.exit_code != 0
        assert "--preview" in str(result.exception)


def test_a_long_export_is_looked_at_in_part_and_it_is_said(
    archive: Archive, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boig_core.data import preview as room

    archive.export([row(f"p{i}", 50 + i, "images/0.png") for i in range(30)], {}, "acme")
    monkeypatch.setattr(room, "MOST_ROWS", 20)
    assert "20 rows, the first of the export" in preview(export).stdout
    assert not as_json(export)["whole"]
    monkeypatch.setattr(room, "MOST_ROWS", 30)
    assert as_json(export)["whole"]


class Counting(SimpleHTTPRequestHandler):
    """Serves a folder, and counts what is asked for."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


def test_of_the_web_posts_are_fetched_once_and_a_few_images(archive: Archive, export: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(export))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{http.server_port}"
        rows = [row(f"p{i}", 50 + i, f"{root}/images/{i}.png", text="Short") for i in range(40)]
        archive.export(rows, {}, "acme")
        Counting.asked.clear()
        tree = as_json(f"{root}/posts.jsonl", "--set", "data.allow_private_hosts=true")
        refused = CliRunner().invoke(app, ["ingest", "--preview", f"{root}/posts.jsonl"])
        http.shutdown()
    assert Counting.asked.pop("/posts.jsonl") == 1
    assert len(Counting.asked) == tree["images"]["read"] == 12
    assert fields(tree) == {"data.min_text": 5}
    assert "data.allow_private_hosts" in str(refused.exception)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "plain",
            "a: b",
            "#x",
            "=acme",
            "31",
            "null",
            "...",
            "x...",
            "two\nlines",
            "\x1b[2J",
            "é\u2028x",
        ),
        *(33, 0.5, True, [0, 0, 0], {"a": ["b"]}),
    ],
)
def test_a_value_of_the_recipe_reads_as_it_was(value: Any) -> None:
    text = flow(value)
    assert len(text.splitlines()) == 1
    assert parse_yaml(f"k: {text}") == {"k": value}
