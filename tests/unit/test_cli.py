"""The command line as a person meets it: real processes, exit codes, one line for each mistake, nothing heavy for ``--help``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def boig(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "BOIG_", "RAY_", "MLFLOW_"))}
    return subprocess.run(
        [sys.executable, "-m", "boig_core.cli", *args], capture_output=True, text=True, cwd=cwd, env={**plain, **env}, timeout=120
    )


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, boig_core.cli\n"
        "try: boig_core.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ['torch', 'ray', 'airflow', 'transformers', 'diffusers', 'deepspeed', 'pandas', 'pyarrow', 'boto3', 'scipy']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_recipe_commands(tmp_path: Path) -> None:
    assert "tiny" in json.loads(boig("recipe", "list", "--json", cwd=tmp_path).stdout)
    shown = boig("recipe", "show", "tiny", "--set", "ddpo.epochs=5", "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["ddpo"]["epochs"] == 5
    (tmp_path / "resolved.yaml").write_text(boig("recipe", "show", "tiny", cwd=tmp_path).stdout)
    checked = [json.loads(boig("recipe", "check", name, "--json", cwd=tmp_path).stdout) for name in ("tiny", "./resolved.yaml")]
    assert checked[0] == checked[1], "what `recipe show` prints is the same recipe"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["recipe", "check", "tiny", "--set", "ddpo.epoch=1"], "did you mean epochs?"),
        (["recipe", "check", "missing.yaml"], "cannot be read"),
        (["recipe", "show", "nope"], "is not known"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(tmp_path: Path, args: list[str], says: str) -> None:
    done = boig(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("boig: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_doctor_on_a_plain_machine(tmp_path: Path) -> None:
    done = boig("doctor", "--json", cwd=tmp_path)
    states = {finding["check"]: finding["state"] for finding in json.loads(done.stdout)}
    assert states == {"python": "ok", "packages": "ok", "models": "ok", "store": "ok", "ray": "skipped", "mlflow": "skipped"}
    assert done.returncode == 0


def test_doctor_names_what_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = boig("doctor", "--store", str(tmp_path / "file"), cwd=tmp_path, RAY_API_ADDRESS="http://127.0.0.1:9")
    assert done.returncode == 1
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert lines["store"].startswith("FAIL")
    assert "file stands where a folder belongs" in lines["store"]
    assert lines["ray"].startswith("FAIL")
    assert "RAY_API_ADDRESS" in lines["ray"] or "correct the address" in lines["ray"]
    assert lines["python"].startswith("ok")
    assert lines["mlflow"].startswith("--")
