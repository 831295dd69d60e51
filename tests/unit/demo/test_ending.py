"""The end of a demo: a table of whole names, gates in words, commands that exist, and no link to a
server that is gone."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command

from boig_core.cli import app
from boig_core.config import Promotion
from boig_core.demo.ending import show_next, show_results, show_servers
from boig_core.demo.processes import Ports
from boig_core.demo.services import APPROVER, TRAINER
from boig_core.evaluation.report.verdict import findings, headline
from boig_core.orchestration.promotion.gates import Gate, in_words
from tests.unit.narrow import rendered

SHARE = "share of the base's"
GATES = {
    "reward over base: at least 0.313 (95 % interval), more than 0 asked: passed": Gate(
        "reward over base", 0.3131, ">", 0.0, True, "lower end of the 95 % interval"
    ),
    "CLIP margin 105 % of the base's, at least 90 % asked: passed": Gate(
        "CLIP margin kept", 1.049, "≥", 0.9, True, SHARE
    ),
    "diversity 45 % of the base's, at least 50 % asked: FAILED": Gate(
        "diversity kept", 0.45, "≥", 0.5, False, SHARE
    ),
    "FID 150 % of the base's, at most 200 % asked: passed": Gate("FID", 1.5, "≤", 2.0, True, SHARE),
    "FID: not measured, so not asked": Gate(
        "FID", None, "≤", 2.0, True, "not asked: fewer than evaluation.fid_min = 1000 images"
    ),
    "judge over champion: not asked, this is the first model": Gate(
        "judge over champion", None, ">", 0.0, True, "not applicable: this is the first model"
    ),
    "judge over base: not measured: evaluation.judge is not set: FAILED": Gate(
        "judge over base", None, ">", 0.0, False, "not measured: evaluation.judge is not set"
    ),
    "monitors tripped: 0, none allowed: passed": Gate(
        "monitors tripped", 0.0, "≤", 0, True, "of fall, drift"
    ),
    "monitors tripped: 1, none allowed: FAILED (drift: at epoch 3)": Gate(
        "monitors tripped", 1.0, "≤", 0, False, "drift: at epoch 3"
    ),
}


@pytest.mark.parametrize("words", GATES)
def test_a_gate_in_words(words: str) -> None:
    assert in_words(GATES[words]) == words


@pytest.fixture
def report() -> dict[str, Any]:
    row = {"reward": 0.125, "judge": 0.25, "clip_margin": 10.0, "diversity": 1.0}
    ours = {name: 2 * value for name, value in row.items()}
    gain = {"mean": 0.125, "low": 0.0625, "high": 0.1875, "clusters": 3, "n": 6}
    return {
        "generation": {
            "base": row,
            "boigsd": ours,
            "boigsd_description_rewrite": ours,
            "best_of_n": None,
        },
        "paired": {"boigsd-base": {"reward": gain, "judge": gain}},
        "reward": {"name": "contrast"},
        "reward_validity": {"contrast": {"auc_high_vs_low": 0.75, "auc_interval": [0.7, 0.8]}},
        "absent": {"generation.best_of_n": "evaluation.best_of_n is not set"},
    }


@pytest.mark.parametrize(
    "promoted", [{"model": "boigsd", "version": "1", "approved_by": "ann"}, None]
)
def test_the_results(report: dict[str, Any], promoted: dict[str, Any] | None) -> None:
    gates = [vars(gate) for gate in GATES.values()]
    text = rendered(lambda console: show_results(console, report, Promotion(), gates, promoted))
    flat = " ".join(text.split())
    assert (
        "model reward judge CLIP margin diversity base 0.125 0.250 10.000 1.000 boigsd 0.250 0.500 20.000 2.000"
        in flat
    )
    assert "boigsd_description_rewrite 0.250 0.500 20.000 2.000" in flat
    assert "best_of_n" not in flat
    assert headline(findings(report, Promotion())) in flat
    for words, gate in GATES.items():
        assert f"{'✗' if not gate.passed else '·' if gate.value is None else '✓'} {words}" in flat
    assert ("boigsd version 1 is champion (approved by ann)" in flat) == (promoted is not None)
    assert ("Not promoted: a gate failed" in flat) == (promoted is None)


@pytest.mark.parametrize("keep", [True, False])
def test_what_to_try_next_are_commands_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    # As `make` calls it, wherever the tests are.
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    home = tmp_path / ".boig"
    (home / "world").mkdir(parents=True)
    (home / "world" / "posts.jsonl").write_text(json.dumps({"account": "two words"}) + "\n{}\n")
    text = rendered(
        lambda console: show_next(console, home, str(home / "store"), "nordic", keep, True)
    )
    assert "http" not in text
    assert "Report  .boig/report.html" in text
    assert "Store   .boig/store" in text
    lines = [
        line
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip()[:2] in {"1.", "2.", "3.", "4."}
    ]
    [registry, *generate], *commands = [shlex.split(line)[1:] for line in lines]
    assert registry == "MLFLOW_TRACKING_URI=sqlite:///.boig/mlflow/mlflow.db"
    commands = [command[1:] for command in (generate, *commands)]
    assert [command[0] for command in commands] == ["generate", "report", "demo", "ingest"]
    group: Any = get_command(app)
    for name, *arguments in commands:
        group.commands[name].make_context(name, arguments)  # fails on an option that is not known
    assert generate[generate.index("--account") + 1] == "two words"
    _, report_line, demo, _ = commands
    assert report_line[1] == ".boig/report.json"
    assert ("--keep" in demo) == (not keep)
    assert demo[demo.index("--law") + 1] == "sunlit"


def test_another_home_is_named(tmp_path: Path) -> None:
    console = Console(record=True, width=300)
    show_next(console, tmp_path / "other", "s3://bucket/prefix", "sunlit", False, False)
    text = console.export_text()
    assert " generate " not in text  # a gate failed
    assert f"--home {tmp_path / 'other'}" in text
    assert "Store   s3://bucket/prefix" in text
    assert "--law nordic" in text


def test_servers_that_stay_are_named() -> None:
    passwords = {TRAINER: "secret-of-one", APPROVER: "secret-of-two"}
    text = rendered(
        lambda console: show_servers(console, Ports(8080, 6379, 8265, 5000, [1, 2]), passwords)
    )
    assert "demo --stop" in text
    assert "trainer / secret-of-one starts, approver / secret-of-two approves" in text
    for port in (8080, 8265, 5000):
        assert f"http://127.0.0.1:{port}\n" in text
