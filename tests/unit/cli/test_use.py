"""``boig generate`` and ``describe``: the words of the command line; what they do is tested beside
`boig_core.serving`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.errors import InputError
from boig_core.orchestration.promotion import registry
from boig_core.serving import describe, generate, published
from boig_core.vocabulary import Description
from tests.unit.narrow import check_fits

LOOK = Description(
    {"White": 0.25, "Yellow": 0.75}, {"warm": 1.0}, {"ball": (10.0, 20.0, 60.0, 70.0)}
)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Locations that were opened; what was opened knows every account."""
    opened: list[str] = []

    def open_published(uri: str, scratch: Path) -> Any:
        opened.append(uri)
        return SimpleNamespace(place="models/boigsd/v1", require_account=lambda account: None)

    monkeypatch.setattr(published, "open_published", open_published)
    monkeypatch.setattr(
        describe, "describe", lambda *_: (LOOK, SimpleNamespace(width=128, height=64))
    )
    return opened


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_description_as_a_table(model: list[str]) -> None:
    text = run("describe", "A ball", "--account", "a", "--model", "s/v1")
    check_fits(text)
    assert model == ["s/v1"]
    for words in ("128 x 64", "Yellow", "75%", "warm tones", "ball      10   20     60      70"):
        assert words in text


def test_a_description_as_json_and_as_a_sketch(tmp_path: Path) -> None:
    file = tmp_path / "a.svg"
    text = run("describe", "A ball", "--account", "a", "--json", "--model", "s", "--sketch", str(file))  # fmt: skip
    answer = json.loads(text)
    assert (answer["width"], answer["height"], answer["aim"]) == (128, 64, "high")
    assert answer["description"]["objects"] == {"ball": [10.0, 20.0, 60.0, 70.0]}
    assert file.read_text().startswith("<svg")


@pytest.mark.parametrize("alias", ["champion", "previous"])
def test_an_alias_is_looked_up(
    monkeypatch: pytest.MonkeyPatch, model: list[str], alias: str
) -> None:
    monkeypatch.setattr(registry, "model_of", {"champion": "s/v2", "previous": None}.get)
    if alias == "champion":
        run("describe", "A ball", "--account", "a")
        assert model == ["s/v2"]
    else:
        with pytest.raises(InputError, match="no previous yet"):
            run("describe", "A ball", "--account", "a", "--model", alias)


def test_images_are_listed_with_their_rewards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def write(model: Any, request: generate.GenerationRequest, out: Path, progress: Any) -> Any:
        asked.append(request)
        progress(request.count)
        return {
            "model": model.place,
            "images": [{"file": "1-seed-5.png", "seed": 5, "reward": 1.0}],
        }

    monkeypatch.setattr(generate, "generate", write)
    arguments = ("generate", " A ball ", "--account", "a", "--model", "s", "--out", str(tmp_path / "o"))  # fmt: skip
    text = run(*arguments, "--aim", "high", "--seed", "5", "-n", "1")
    assert asked == [generate.GenerationRequest("A ball", "a", 1, 5, True)]
    assert "1-seed-5.png  reward 1.00" in text
    assert "index.html shows them" in text
    run(*arguments)
    run(*arguments)
    assert asked[1].seed != asked[2].seed
    assert not asked[1].ranked
    assert json.loads(run(*arguments, "--json"))["model"] == "models/boigsd/v1"


def test_a_folder_that_holds_something_is_refused_before_a_model_is_opened(
    tmp_path: Path, model: list[str]
) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(InputError, match="holds something"):
        run("generate", "A ball", "--account", "a", "--out", str(tmp_path))
    assert model == []
