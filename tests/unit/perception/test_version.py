"""The key that results are kept under changes with whatever could change them, and with nothing
else."""

import shutil
from pathlib import Path

import pytest

from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.models import MODELS_FOLDER, model_version
from boig_core.perception import version
from boig_core.perception.version import perception_key


def test_the_key_follows_settings_models_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(*overrides: str) -> str:
        model_version.cache_clear()
        return perception_key(load_recipe("tiny", overrides).perception)

    plain = key()
    assert len(plain) == 16
    assert plain == key() == key("perception.batch=3") == key("data.name=other")
    assert plain == key("perception.clip_anyway=true")
    assert plain != key("perception.min_coverage=0.02")
    shutil.copytree(MODELS_FOLDER / "clip", tmp_path / "clip")
    copied = key(f"perception.clip={tmp_path / 'clip'}")
    weights = next((tmp_path / "clip").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert key(f"perception.clip={tmp_path / 'clip'}") != copied
    (tmp_path / "room").mkdir()
    for source in Path(version.__file__).parent.glob("*.py"):
        shutil.copy(source, tmp_path / "room")
    monkeypatch.setattr(version, "__file__", str(tmp_path / "room" / "version.py"))
    assert key() == plain
    (tmp_path / "room" / "colors.py").write_text("changed = True")
    assert key() != plain


def test_a_model_that_nobody_knows_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="does not say which commit"):
        model_version("nobody/knows-this")
