"""Pages say what is there: files that they name exist, and published tables are those of their
results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boig_core.errors import InputError
from infra.evidence import published

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"`((?:[a-z_]+/)+[\w.-]+\.(?:py|yaml|yml|md|sh))`")
LINKED = re.compile(r"\]\((?!https?://)([^)#]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    named = {name for name in NAMED.findall(text) if not name.startswith("store/")}
    missing = [
        name
        for name in sorted(named)
        if not ((ROOT / name).exists() or (ROOT / "boig_core" / name).exists())
    ]
    missing += [link for link in LINKED.findall(text) if not (page.parent / link).exists()]
    assert missing == []


def test_tables_are_those_of_the_results() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    assert published.with_tables(page) == page
    names = published.MARKER.findall(page)
    assert len(names) >= 4
    assert {name for name, _ in names} <= {file.stem for file in published.RESULTS.glob("*.json")}


def test_each_result_says_how_to_repeat_it() -> None:
    for file in published.RESULTS.glob("*.json"):
        result = published.read(file.stem)
        assert result.command.startswith(("python -m infra.evidence.", "boig ")), file
        assert result.machine, file
        assert (result.commit is None) == (result.origin != "measured"), file
        assert (result.date is None) == (result.origin != "measured"), file


def test_a_table_that_differs_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    table = published.PublishedTable(columns=("law", "gain"), rows=(("sunlit", "+1.0"),))
    published.save(tmp_path / "gains.json", {"sunlit": 1.0}, table)
    page = "before\n\n<!-- results: gains -->\n| law |\n| --- |\n| old |\n\nafter\n"
    assert published.with_tables(page) == (
        "before\n\n<!-- results: gains -->\n| law | gain |\n| --- | --- |\n| sunlit | +1.0 |\n\nafter\n"
    )
    assert published.read("gains").numbers == {"sunlit": 1.0}
    with pytest.raises(InputError, match=r"results: other: .*use one of gains"):
        published.with_tables(page.replace("gains", "other"))
