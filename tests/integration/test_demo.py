"""The whole loop, small: ad world, real Airflow, real Ray, every stage, an approval, the report;
and no secret in any file it leaves."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from tests.planted import found_in, make_secrets, values_in
from tests.unit.narrow import check_fits

SMALL = [
    "llm.workers=1",
    "llm.steps=30",
    "llm.hidden=64",
    "llm.layers=2",
    "llm.eval_posts=8",
    "llm.max_new_tokens=160",
    "reward.posts=24",
    "reward.min_auc=null",
    "sd.workers=1",
    "sd.steps=10",
    "ddpo.rollout_actors=1",
    "ddpo.epochs=2",
    "ddpo.prompts=4",
    "ddpo.sampling_steps=5",
    "evaluation.prompts=3",
    "evaluation.images_per_prompt=2",
    "evaluation.sampling_steps=5",
    "evaluation.bootstrap=100",
    "promotion.min_reward_gain=-1e9",
    "promotion.min_judge_gain=null",
    "promotion.min_clip_margin=0",
    "promotion.min_diversity=0",
]
"""Everything shrunk, and gates that let any model through: what is tested is the way, not the
models."""

POLICY = str(Path(__file__).parents[1] / "policy.yaml")
"""It lets these gates through, and names no approver but the demo's."""

CLEAN = {
    key: value
    for key, value in os.environ.items()
    if not key.startswith(("AIRFLOW", "BOIG_", "RAY_", "MLFLOW_", "AWS_"))
}


def members_of(home: Path) -> list[psutil.Process]:
    """Processes whose command line names the demo's folder."""
    result = []
    for process in psutil.process_iter():
        try:
            if any(str(home) in part for part in process.cmdline()):
                result.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return result


def people(home: Path) -> dict[str, list[str]]:
    """DAGs of the runs that each of Airflow's users has started or approved; an asset's runs have
    no user."""
    with closing(sqlite3.connect(home / "airflow" / "airflow.db")) as database:
        started = "SELECT triggering_user_name, dag_id FROM dag_run WHERE triggering_user_name IS NOT NULL"
        result: dict[str, list[str]] = {}
        for user, dag in database.execute(started):
            result.setdefault(user, []).append(dag)
    for decision in (home / "store" / "runs" / "boig_promote").glob("*/decision.json"):
        result.setdefault(json.loads(decision.read_text())["by"], []).append("boig_promote")
    return result


def test_one_command_takes_posts_to_a_promoted_model(tmp_path: Path) -> None:
    home = tmp_path / "boig"
    argv = [sys.executable, "-m", "boig_core.cli", "demo", "--home", str(home)]
    argv += ["--posts", "400", "--minutes", "20"]
    argv += [part for override in SMALL for part in ("--set", override)]
    # The demo has its own.
    planted = {
        name: value for name, value in make_secrets().items() if name != "MLFLOW_TRACKING_URI"
    }
    env = CLEAN | planted | {"BOIG_POLICY": POLICY}
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    report: dict[str, Any] = json.loads((home / "report.json").read_text())
    assert set(report) >= {
        "dataset",
        "description",
        "reward_validity",
        "generation",
        "timings",
        "absent",
    }
    assert report["generation"]["boigsd"]["n"] == report["generation"]["base"]["n"] == 6
    assert report["description"]["boigllm"]["colors_iou"]["all"] is not None
    stages = {
        "ingest",
        "perceive",
        "finetune_llm",
        "evaluate_llm",
        "calibrate",
        "finetune_sd",
        "ddpo",
        "evaluate_sd",
    }
    assert stages <= {stage for stage, seconds in report["timings"].items() if seconds is not None}
    assert (home / "report.html").stat().st_size > 10_000
    assert "is champion" in done.stdout
    assert "approved by approver" in done.stdout
    assert people(home) == {"trainer": ["boig_ingest"], "approver": ["boig_promote"]}
    for line in (
        "  perceive      done",
        "  promote       done",
        "validation loss boigllm ",
        "FID: not measured, so not asked",
    ):
        assert line in done.stdout, done.stdout
    assert re.search(
        r"^ +\d+:\d\d  (boigllm|no_kpi) [12](/| of )2 · step ", done.stdout, re.MULTILINE
    ), done.stdout
    assert "gpu_hours" not in done.stdout
    assert "http://" not in done.stdout.partition("From posts to a decision")[2]
    check_fits("".join(line + "\n" for line in done.stdout.splitlines() if "/" not in line))
    task_log = "".join(
        path.read_text("utf-8", "replace")
        for path in home.glob("**/dag_id=*/**/task_id=*ddpo*/*.log*")
    )
    # What the learner says of itself, in Airflow.
    assert task_log.count("epoch 2 of 2 · reward") == 1
    assert found_in(home, values_in(planted)) == {}
    assert members_of(home) == []
    assert not (home / "pids.json").exists()
