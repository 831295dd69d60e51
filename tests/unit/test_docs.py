"""Pages say what is there: files, recipe fields, commands and options that they name exist, what
they show as runnable runs. `make check` asks whether made pages are those of code and results."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image

from boig_core.cli import app
from boig_core.config import Recipe, load_recipe
from boig_core.errors import InputError
from infra.docs import reference
from infra.evidence import published

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "tests" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
GUIDES = [page for page in PAGES if page.parent.name != "decisions"]
NAMED = re.compile(r"`((?:[a-z_]+/)+[\w.-]+\.(?:py|yaml|yml|md|sh))`")
LINKED = re.compile(r"\]\((?!https?://|#)([^)#]+)")
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
RUNS = re.compile(r"<!-- runs -->\n```sh\n(.*?)```", re.DOTALL)


def blocks(page: Path, language: str) -> Iterator[str]:
    """Code blocks of a language."""
    for _, each, text in BLOCK.findall(page.read_text("utf-8")):
        if each == language:
            yield text


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    named = {name for name in NAMED.findall(text) if not name.startswith("store/")}
    rooms = (ROOT, ROOT / "boig_core", ROOT / "tests", ROOT / "tests" / "unit")
    missing = [name for name in sorted(named) if not any((room / name).exists() for room in rooms)]
    missing += [link for link in LINKED.findall(text) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_recipes_of_a_page_load(page: Path, tmp_path: Path) -> None:
    """Each YAML block whose keys are those of a recipe holds one, or a part of one."""
    for text in blocks(page, "yaml"):
        content = yaml.safe_load(text)
        keys = set(content) if isinstance(content, dict) else set()
        if keys & ({*Recipe.model_fields, "extends"} - {"name", "seed"}):
            file = tmp_path / "recipe.yaml"
            file.write_text(text, "utf-8")
            load_recipe(str(file))


def commands_of(page: Path) -> Iterator[list[str]]:
    """Words of the lines that call ``boig``, joined where a line goes on."""
    for text in blocks(page, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            line = line.partition(" #")[0].strip()
            line = re.sub(r"^(export \S+ && |[A-Z_]+=\S+ )+", "", line)
            if re.match(r"(\S*/)?boig ", line):
                yield shlex.split(re.split(r" [|>] ?| && ", line)[0])[1:]


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_commands_and_options_that_a_page_shows_exist(page: Path) -> None:
    unknown = []
    for words in commands_of(page):
        command: Any = typer.main.get_command(app)
        rest = list(words)
        while rest and isinstance(getattr(command, "commands", None), dict):
            command = command.commands.get(rest[0])
            if command is None:
                break
            rest = rest[1:]
        known = {name for each in getattr(command, "params", []) for name in each.opts}
        options = {word.partition("=")[0] for word in rest if word.startswith("--")}
        if command is None or not options <= {*known, "--help"}:
            unknown.append(" ".join(words))
    assert unknown == []


def run_script(script: str, folder: Path) -> str:
    """Run a page's commands as a reader would, in an empty folder; returns what they print."""
    (folder / ".venv").symlink_to(sys.prefix)
    env = {name: value for name, value in os.environ.items() if not name.startswith("BOIG_")}
    env |= {"HOME": str(folder / "home"), "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_post_of_ones_own_gets_in_as_the_readme_says(tmp_path: Path) -> None:
    pictures = tmp_path / "home" / "Pictures"
    pictures.mkdir(parents=True)
    Image.new("RGB", (320, 240), (200, 120, 40)).save(pictures / "shoe.jpg")
    [script] = [text for text in blocks(ROOT / "README.md", "sh") if "acme" in text]
    assert '"accepted": 1,' in run_script(script, tmp_path)


@pytest.mark.slow
def test_the_tutorial_on_ones_own_dataset_runs_as_written(tmp_path: Path) -> None:
    scripts = RUNS.findall((ROOT / "docs" / "tutorial" / "own-dataset.md").read_text("utf-8"))
    assert len(scripts) >= 5
    printed = run_script("\n".join(scripts), tmp_path)
    assert "card.html" in printed


def test_each_result_with_a_table_is_published() -> None:
    names = {
        name for page in PAGES for name, _ in published.MARKER.findall(page.read_text("utf-8"))
    }
    results = {file.stem for file in published.RESULTS.glob("*.json")}
    assert names == {name for name in results if published.read(name).table is not None}


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


def test_the_reference_leaves_nothing_without_a_meaning() -> None:
    page = reference.recipe_page()
    rows = re.findall(r'^\| <a id="(.+?)"></a>.*\| (.*?) \|$', page, re.MULTILINE)
    assert {"ddpo.window", "ddpo.monitors.plateau.action", "data.min_text"} <= {
        path for path, _ in rows
    }
    assert [path for path, meaning in rows if len(meaning) < 8] == []
    errors = reference.errors_page()
    assert errors.count("**Remedy.** ") == errors.count("\n## ")
    assert "**Remedy.** \n" not in errors


def test_each_test_that_the_security_page_names_exists() -> None:
    page = (ROOT / "docs" / "operate" / "security.md").read_text("utf-8")
    rows = re.findall(r"`((?:unit|faults|fuzz|integration)/[^`]+)` \|$", page, re.MULTILINE)
    assert len(rows) > 60
    for row in rows:
        file, _, name = row.partition("::")
        assert not name or f"def {name}(" in (ROOT / "tests" / file).read_text(), row
