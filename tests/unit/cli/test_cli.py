"""The command line as a person meets it: exit codes, one line for each mistake, nothing heavy for
``--help``."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from boig_core.cli import app, main


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def boig(*args: str, cwd: Path, **env: str) -> Done:
    """The command in this process, with the imports that it has."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        for key in os.environ:
            if key.startswith(("AWS_", "BOIG_", "RAY_", "MLFLOW_")):
                patch.delenv(key)
        for key, value in env.items():
            patch.setenv(key, value)
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["boig", *args])
        try:
            main()
        except SystemExit as exc:
            code = int(exc.code or 0)
    return Done(code, stdout.getvalue(), stderr.getvalue())


def test_a_process_ends_as_the_command_does(tmp_path: Path) -> None:
    mistake = ["recipe", "check", "tiny", "--set", "ddpo.epoch=1"]
    done = subprocess.run(
        [sys.executable, "-m", "boig_core.cli", *mistake],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert Done(done.returncode, done.stdout, done.stderr) == boig(*mistake, cwd=tmp_path)
    assert done.returncode == 2


def test_help_says_what_a_command_does_in_one_paragraph() -> None:
    shown = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["--help"]).stdout
    for command in app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__ is not None
        assert " ".join(command.callback.__doc__.split("\n\n")[0].split()) in shown


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, boig_core.cli\n"
        "try: boig_core.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ['torch', 'ray', 'airflow', 'transformers', 'diffusers', 'deepspeed', 'pandas', 'pyarrow', 'boto3', 'scipy']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.slow
def test_bench_runs_the_whole_recipe_and_prints_its_phases(tmp_path: Path) -> None:
    small = [
        "epochs=1",
        "prompts=2",
        "images_per_prompt=2",
        "sampling_steps=3",
        "window=1",
        "chunk=4",
        "micro_batch=2",
        "updates=1",
    ]
    settings = [part for setting in small for part in ("--set", f"ddpo.{setting}")] + [
        "--set",
        "llm.hidden=32",
    ]
    done = boig(
        "bench",
        "ddpo",
        "tiny",
        "--epochs",
        "1",
        "--json",
        *settings,
        cwd=tmp_path,
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr[-500:]
    speed = json.loads(done.stdout)  # nothing else stands there
    assert speed["images"] == 4
    assert all(
        speed[f"{phase}_s"] > 0
        for phase in (
            "rollouts",
            "sampling",
            "update",
            "epoch",
            "forward",
            "backward",
            "decode",
            "floor",
        )
    )
    assert list(tmp_path.iterdir()) == []


def test_recipe_commands(tmp_path: Path) -> None:
    assert "tiny" in json.loads(boig("recipe", "list", "--json", cwd=tmp_path).stdout)
    shown = boig("recipe", "show", "tiny", "--set", "ddpo.epochs=5", "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["ddpo"]["epochs"] == 5
    (tmp_path / "resolved.yaml").write_text(boig("recipe", "show", "tiny", cwd=tmp_path).stdout)
    checked = [
        json.loads(boig("recipe", "check", name, "--json", cwd=tmp_path).stdout)
        for name in ("tiny", "./resolved.yaml")
    ]
    assert checked[0] == checked[1], "what `recipe show` prints is the same recipe"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["recipe", "check", "tiny", "--set", "ddpo.epoch=1"], "did you mean epochs?"),
        (["recipe", "check", "missing.yaml"], "cannot be read"),
        (["recipe", "show", "nope"], "is not known"),
        (["run", "ingest", "--set", "sd.base=someone/model"], "sd.base = 'someone/model'"),
        (
            [
                "bench",
                "ddpo",
                "tiny",
                "--set",
                "llm.predictor=head",
                "--set",
                "reward.weights={engagement: 1}",
            ],
            "engagement predictor",
        ),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(
    tmp_path: Path, args: list[str], says: str
) -> None:
    done = boig(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("boig: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_recipe_check_looks_at_a_base_that_lies_here(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(
        '{"quantization_config": {"quant_method": "awq"}}'
    )
    done = boig("recipe", "check", "tiny", "--set", f"llm.base={tmp_path / 'base'}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is quantized (awq)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_doctor_on_a_plain_machine(tmp_path: Path) -> None:
    done = boig("doctor", "--json", cwd=tmp_path)
    states = {finding["check"]: finding["state"] for finding in json.loads(done.stdout)}
    assert states == {
        "python": "ok",
        "packages": "ok",
        "models": "ok",
        "store": "ok",
        "ray": "skipped",
        "mlflow": "skipped",
    }
    assert done.returncode == 0


def test_doctor_names_what_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = boig(
        "doctor",
        "--store",
        str(tmp_path / "file"),
        cwd=tmp_path,
        RAY_API_ADDRESS="http://127.0.0.1:9",
    )
    assert done.returncode == 1
    lines: dict[str, str] = {}
    for line in done.stdout.splitlines():  # what is long goes on below, indented
        check = [*lines][-1] if line.startswith("     ") else line.split()[1]
        lines[check] = " ".join([*lines.get(check, "").split(), *line.split()])
    assert lines["store"].startswith("FAIL")
    assert "file stands where a folder belongs" in lines["store"]
    assert lines["ray"].startswith("FAIL")
    assert "RAY_API_ADDRESS" in lines["ray"] or "correct the address" in lines["ray"]
    assert lines["python"].startswith("ok")
    assert lines["mlflow"].startswith("--")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """URIs of a dataset and of a later version of it, in which one post is new, one is gone and one
    has more likes."""
    folder = tmp_path_factory.mktemp("versions")
    (folder / "export").mkdir()
    for i in range(5):
        Image.new("RGB", (16 + i, 16), (50 * i, 250 - 50 * i, 99)).save(
            folder / "export" / f"{i}.png"
        )
    v1, v2 = {0: 50, 1: 60, 2: 70, 3: 80}, {0: 50, 1: 65, 2: 70, 4: 90}
    return publish_version(folder, "v1", v1), publish_version(folder, "v2", v2)


def publish_version(folder: Path, version: str, posts: dict[int, int]) -> str:
    """URI of a dataset whose posts have so many likes."""
    from boig_core.config import Data
    from boig_core.data import ingestion
    from boig_core.storage import commit, manifest

    text = "A text that is long enough for every rule of the recipe, whatever it says"
    rows = [
        {
            "id": f"p{i}",
            "account": "a",
            "timestamp": "2020-01-01",
            "text": text,
            "image": f"{i}.png",
            "likes": n,
        }
        for i, n in posts.items()
    ]
    (folder / "export" / "posts.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"id": "bad"}])
    )
    scratch, root, attempt = (
        folder / f"scratch-{version}",
        f"{folder}/store/datasets/posts",
        f"{folder}/store/runs/{version}",
    )
    scratch.mkdir()
    created = ingestion.ingest(
        str(folder / "export"),
        None,
        Data(near_duplicates=None),
        0,
        root=root,
        scratch=scratch,
        crew=ingestion.OneProcess(),
    )
    lineage = manifest.Lineage(inputs={"posts": "p"}, recipe="r", code="c")
    where = f"{attempt}/{commit.COMMIT}"
    manifest.publish_folder(
        created.folder,
        f"{root}/{version}",
        kind="dataset",
        lineage=lineage,
        commit=where,
        meta=created.meta,
        blobs=created.blobs,
    )
    commit.commit(attempt, {"dataset": f"{root}/{version}"}, {})
    return f"{root}/{version}"


def test_dataset_show_prints_the_numbers(versions: tuple[str, str], tmp_path: Path) -> None:
    shown = boig("dataset", "show", versions[0], cwd=tmp_path)
    result = json.loads(boig("dataset", "show", versions[0], "--json", cwd=tmp_path).stdout)
    assert yaml.safe_load(shown.stdout) == result
    assert (result["posts"], result["accepted"], result["rejected_by_reason"]) == (
        5,
        4,
        {"missing_field": 1},
    )
    assert result["lineage"] == {"inputs": {"posts": "p"}, "recipe": "r", "code": "c"}
    assert len(result["digest"]) == 64
    assert shown.stderr == ""


def test_dataset_verify_says_whole_or_names_the_file(
    versions: tuple[str, str], tmp_path: Path
) -> None:
    done = boig("dataset", "verify", versions[0], cwd=tmp_path)
    assert done.returncode == 0
    assert re.fullmatch(r"whole: 7 files of 0\.\d MiB, 4 samples of 4 images\n", done.stdout)
    assert (
        json.loads(boig("dataset", "verify", versions[0], "--json", cwd=tmp_path).stdout)["samples"]
        == 4
    )
    torn = tmp_path / "store"
    shutil.copytree(Path(versions[0]).parents[2], torn)
    for path in torn.rglob("*.json"):  # commits name the store that they are in
        path.write_text(path.read_text().replace(str(Path(versions[0]).parents[2]), str(torn)))
    file = torn / "datasets" / "posts" / "v1" / "rejects.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    done = boig("dataset", "verify", str(file.parent), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"boig: {file}: differs from its manifest; make the output again\n"


def test_dataset_diff_prints_counts_and_a_few_ids(
    versions: tuple[str, str], tmp_path: Path
) -> None:
    done = boig("dataset", "diff", *versions, cwd=tmp_path)
    assert done.stdout.splitlines()[:4] == ["added: 1", "    p4", "removed: 1", "    p3"]
    assert "changed kpi: 1\n    p1\n" in done.stdout
    result = json.loads(boig("dataset", "diff", *versions, "--json", cwd=tmp_path).stdout)
    assert (result["added"], result["removed"], result["changed"]["kpi"]) == (
        ["p4"],
        ["p3"],
        ["p1"],
    )
    assert (
        boig("dataset", "diff", versions[0], versions[0], cwd=tmp_path).stdout
        == "added: 0\nremoved: 0\n"
    )


def test_dataset_card_saves_the_page_or_prints_the_numbers(
    versions: tuple[str, str], tmp_path: Path
) -> None:
    done = boig("dataset", "card", versions[0], cwd=tmp_path)
    assert done.stdout == f"{tmp_path / 'card.html'}\n"
    assert (tmp_path / "card.html").read_bytes() == (Path(versions[0]) / "card.html").read_bytes()
    done = boig("dataset", "card", versions[0], "--out", "other.html", cwd=tmp_path)
    assert done.stdout == f"{tmp_path / 'other.html'}\n"
    done = boig("dataset", "card", versions[0], "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["headline"].startswith("4 samples of 1 account, ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.html", "other.html"]
    done = boig("dataset", "card", versions[0], "--out", "no/such/folder.html", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--out no/such/folder.html: cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("command", "count"), [("show", 1), ("verify", 1), ("diff", 2), ("card", 1)]
)
@pytest.mark.parametrize(
    ("uri", "says"), [("/nowhere", "/nowhere/manifest.json"), ("ftp://x/y", "is no store")]
)
def test_a_dataset_that_is_none_ends_in_one_line(
    command: str, count: int, uri: str, says: str, tmp_path: Path
) -> None:
    done = boig("dataset", command, *[uri] * count, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_without_a_card_says_so(versions: tuple[str, str], tmp_path: Path) -> None:
    from boig_core.storage import commit, manifest

    uri, attempt = str(tmp_path / "d" / "v"), str(tmp_path / "runs" / "a")
    (tmp_path / "made").mkdir()
    lineage = manifest.Lineage(inputs={}, recipe="r", code="c")
    manifest.publish_folder(
        tmp_path / "made", uri, kind="dataset", lineage=lineage, commit=f"{attempt}/{commit.COMMIT}"
    )
    commit.commit(attempt, {"dataset": uri}, {})
    done = boig("dataset", "card", uri, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        f"boig: {uri}: has no card.html; make the output again\n",
    )
