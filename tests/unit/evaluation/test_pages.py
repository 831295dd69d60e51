"""Pages that are opened from a disk run nothing, fetch nothing and send nothing, whatever the texts
on them say."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from boig_core.data import card_page
from boig_core.errors import CorruptError
from boig_core.evaluation.compare.comparison import read_comparison
from boig_core.evaluation.report import page as report_page
from boig_core.evaluation.report.comparison_page import VariantImages, render_comparison
from boig_core.evaluation.report.lineage import trace
from boig_core.evaluation.report.page import grid_file, render
from boig_core.evaluation.report.plots import Series, line_chart, reliability, whiskers
from boig_core.evaluation.report.report_json import read_report
from boig_core.storage import commit
from boig_core.storage.job import Job
from tests.unit.evaluation.test_comparison import both, compared

__all__ = ["both"]
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=http://evil.example/x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><style>@import url(http://evil.example/x.css)</style>",
    "</svg><svg onload=alert(1)>",
    "</title><base href=http://evil.example/><form action=http://evil.example>",
    "<meta http-equiv=refresh content='0; url=http://evil.example'>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)//\u202e",
]
EVERYTHING = " ".join(HOSTILE)
POLICY = {
    "default-src": "'none'",
    "img-src": "data:",
    "style-src": "'unsafe-inline'",
    "base-uri": "'none'",
    "form-action": "'none'",
}


class Page(HTMLParser):
    """A page as a browser reads it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.policy: dict[str, str] = {}
        self.before: list[str] = []
        self.styles: list[str] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("http-equiv", "") and tag == "meta":
            assert values["http-equiv"] == "Content-Security-Policy"
            assert not self.policy, "one policy, and none of a stranger's"
            rules = str(values["content"]).split("; ")
            self.policy = dict(rule.split(" ", 1) for rule in rules)
            self.before = list(self.tags)
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        (self.styles if self.tags and self.tags[-1] == "style" else self.said).append(data)


def is_harmless(text: str) -> Page:
    page = Page(text)
    assert page.policy == POLICY
    assert page.before == ["html", "head", "meta"], "nothing stands before it but the charset"
    active = {"script", "iframe", "object", "embed", "form", "base", "link", "a", "use", "animate"}
    assert not active & set(page.tags)
    assert page.tags.count("style") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    addresses = [
        value for name, value in page.attributes if name in {"src", "href", "srcset", "action"}
    ]
    assert all(str(value).startswith("data:image/") for value in addresses)
    assert "http://evil" not in "".join(page.styles) + "".join(
        str(value) for name, value in page.attributes if name == "style"
    )
    return page


def planted(tree: Any, keep: frozenset[str] = frozenset()) -> Any:
    """Every text, below other keys than these, is hostile."""
    if isinstance(tree, dict):
        return {key: each if key in keep else planted(each, keep) for key, each in tree.items()}
    if isinstance(tree, list):
        return [planted(each, keep) for each in tree]
    return f"{EVERYTHING} {tree}" if isinstance(tree, str) else tree


def renamed(rows: dict[str, Any]) -> dict[str, Any]:
    return {f"{EVERYTHING} {name}": row for name, row in rows.items()}


def test_a_report_of_hostile_texts_shows_them_as_texts(published: str, finished_run: Job) -> None:
    report = planted(read_report(published), frozenset({"reward", "timings", "describing"}))
    report["by"]["account"] = renamed(report["by"]["account"])
    for row in report["reward_validity"].values():
        row["accounts"] = renamed(row["accounts"])
    folder = Path(finished_run.inputs["generation"])
    generation = json.loads((folder / "generation.json").read_text())
    generation |= {
        "prompts": planted(generation["prompts"], frozenset({"grid"})),
        "settings": planted(generation["settings"]),
    }
    steps = trace(finished_run.inputs[name] for name in ("generation", "calibration"))
    page = is_harmless(
        render(report, generation, folder, steps, finished_run.recipe, f"{EVERYTHING} data")
    )
    said = " ".join(page.said)
    for text in HOSTILE:
        assert said.count(text) > 20, text


def test_a_comparison_of_hostile_texts_shows_them_as_texts(
    finished_run: Job, both: dict[str, str]
) -> None:
    code, attempt = compared(finished_run, both)
    assert code == 0
    done = commit.read_commit(attempt)
    assert done is not None
    comparison = read_comparison(done["outputs"]["report"])
    names = list(comparison["variants"])
    comparison["absent"] = renamed(planted(comparison["absent"] or {"x": "y"}))
    comparison["failed"] = {EVERYTHING: EVERYTHING}
    comparison["changes"] = {EVERYTHING: dict.fromkeys(names, EVERYTHING)}
    comparison["settings"] = planted(comparison["settings"])
    for row in comparison["variants"].values():
        row["monitors"] = {EVERYTHING: EVERYTHING}
    shown = []
    for name in names:
        folder = Path(both[name])
        generation = json.loads((folder / "generation.json").read_text())
        prompts = planted(generation["prompts"], frozenset({"grid"}))
        shown.append(VariantImages(name, folder, {**generation, "prompts": prompts}))
    page = is_harmless(render_comparison(comparison, shown, f"{EVERYTHING} data"))
    said = " ".join(page.said)
    for text in HOSTILE:
        assert said.count(text) > 10, text


@pytest.mark.parametrize("text", HOSTILE)
def test_charts_escape_names(text: str) -> None:
    span = {"mean": 0.1, "low": -0.1, "high": 0.3}
    deciles = [
        {"decile": i + 1, "share_high": 0.1, "kpi_normalized": 50.0, "n": 3} for i in range(10)
    ]
    for svg in (
        line_chart([Series(text, [0, 1], [1.0, 2.0])]),
        whiskers([(text, span)]),
        reliability(deciles),
    ):
        page = Page(svg)
        assert set(page.tags) <= {"svg", "line", "text", "polyline", "circle", "rect"}
        assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_every_page_has_the_policy_before_anything_else() -> None:
    """The data card too, and whatever page comes later."""
    pages = 0
    for module in (report_page, card_page):
        folder = Path(str(module.__file__)).parent / "templates"
        for template in folder.glob("*.html.j2"):
            text = template.read_text()
            if "<!doctype html>" in text:
                head = (folder / "head.html.j2").read_text() if "head.html.j2" in text else ""
                start = text.replace('{% include "head.html.j2" %}\n', head).partition("<title>")[0]
                page = Page(start)
                assert page.policy == POLICY, template
                assert page.before == ["html", "head", "meta"], template
                pages += 1
    assert pages == 3


@pytest.mark.parametrize("place", ["../secret.png", "/etc/hostname", "grids/../../secret.png"])
def test_a_grid_outside_its_evaluation_is_in_no_page(place: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    with pytest.raises(CorruptError, match="outside its evaluation"):
        grid_file(tmp_path / "evaluation", place)
    link = tmp_path / "evaluation" / "grid.png"
    link.symlink_to(tmp_path / "secret.png")
    with pytest.raises(CorruptError, match="outside its evaluation"):
        grid_file(tmp_path / "evaluation", "grid.png")
