"""``boig run`` and the demo's checks end a bad input in one line and exit code 2, before anything
is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from boig_core.cli.stage import parse_inputs, run_one_stage
from boig_core.errors import InputError, RecipeError, UserError
from boig_core.storage import commit


def test_inputs_read_name_and_uri(tmp_path: Path) -> None:
    assert parse_inputs([f"dataset={tmp_path}/a=b", "posts=s3://bucket/p"]) == {
        "dataset": f"{tmp_path}/a=b",
        "posts": "s3://bucket/p",
    }
    with pytest.raises(InputError, match="name=URI"):
        parse_inputs(["dataset"])


def test_a_wrong_stage_or_recipe_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use one of ingest, perceive"):
        run_one_stage("ingets", "tiny", [], {}, str(tmp_path), "r")
    with pytest.raises(RecipeError):
        run_one_stage("ingest", "tiny", ["data.namee=x"], {}, str(tmp_path), "r")
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_fails_on_its_input_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"report: (InputError|NotFoundInStoreError|CorruptError)"):
        run_one_stage(
            "report", "tiny", [], {"dataset": str(tmp_path / "none")}, str(tmp_path / "store"), "r"
        )
    task = f"{tmp_path}/store/runs/manual/r/report"
    assert commit.attempts(task) == [1]
    failure = commit.read_failure(f"{task}/attempt-1")
    assert failure is not None
    assert failure.user


@pytest.mark.parametrize(
    "argv",
    [
        ["demo", "--recipe", "nope"],
        ["demo", "--set", "llm.stepz=3"],
        ["demo", "--law", "/no/law.yaml"],
    ],
)
def test_the_command_line_ends_bad_input_in_one_line_and_exit_code_2(
    tmp_path: Path, argv: list[str]
) -> None:
    home = ["--home", str(tmp_path / "home")]
    done = subprocess.run(
        [sys.executable, "-m", "boig_core.cli", *argv, *home], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "home").exists()
