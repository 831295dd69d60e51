"""`boig recipe check` and the task ``plan`` look at a base that lies on their machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from boig_core.cli.recipe import recipe_app
from boig_core.errors import InputError
from boig_core.models import MODELS_FOLDER
from boig_core.orchestration.planning.assets import make_plan


def check(base: str) -> None:
    arguments = ["check", "tiny", "--set", f"sd.base={base}"]
    CliRunner().invoke(recipe_app, arguments, catch_exceptions=False)


def plan(base: str) -> None:
    allowed = {"params": {"overrides": [f"sd.base={base}"]}}
    make_plan({**allowed, "ti": SimpleNamespace(dag_id="d", run_id="r")}, {}, {}, "tiny")


@pytest.mark.parametrize("look", [check, plan])
def test_a_base_that_cannot_be_trained_is_told_before_anything_is_paid_for(
    look: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOIG_STORE", str(tmp_path / "store"))
    base = Path(shutil.copytree(MODELS_FOLDER / "tiny-sd", tmp_path / "base"))
    look(str(base))
    look("package:tiny-sd")
    path = base / "unet/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "in_channels": 9}))
    with pytest.raises(InputError, match=r"^sd\.base = '.*base': is an inpainting model"):
        look(str(base))


@pytest.mark.parametrize("look", [check, plan])
@pytest.mark.parametrize("base", ["org/name", "/on/the/ray/nodes/alone", "s3://models/sd"])
def test_a_base_that_lies_elsewhere_is_let_pass(
    look: Callable[[str], None], base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOIG_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(
        "boig_core.config.policy.Policy.refusals", lambda *_: iter(())
    )  # of models: not asked here
    look(base)
