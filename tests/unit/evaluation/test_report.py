from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.config import Promotion
from boig_core.errors import CorruptError
from boig_core.evaluation.report.lineage import trace
from boig_core.evaluation.report.report_json import check_report, read_report
from boig_core.evaluation.report.verdict import Finding, findings, headline
from boig_core.storage import commit, store
from boig_core.storage.job import Job, write_job
from boig_core.storage.stage import run_stage
from ray_jobs.report import work


def test_report_holds_the_schema_with_a_reason_for_each_null(published: str) -> None:
    report = read_report(published)
    assert report["dataset"] == {
        "posts": 3920,
        "rejected": 80,
        "images": 3920,
        "buckets": {"high": 390, "medium": 1170, "low": 2360},
    }
    assert report["description"]["boigllm"]["colors_iou"]["high"] == 0.4
    assert report["description"]["few_shot"] is None
    assert report["reward_validity"]["contrast"]["auc_high_vs_low"] > 0.8
    assert report["generation"]["boigsd"]["n"] == 72
    assert report["by"]["bucket"]["low"]["prompts"] == 6
    assert report["by"]["bucket"]["low"]["gain"]["reward"]["low"] > 0.5
    assert sum(part["prompts"] for part in report["by"]["account"].values()) == 18
    assert {
        "description.few_shot",
        "generation.best_of_n.diversity",
        "generation.base.aesthetic",
        "generation.base.fid",
    } <= set(report["absent"])
    assert report["description"]["most_frequent"]["objects_iou"]["all"] == 0.38
    assert report["paired"]["boigllm-no_kpi"]["colors_iou"]["high"]["low"] == 0.03
    assert report["timings"]["ddpo"] == 12.5
    assert report["timings"]["ingest"] == 12.5
    assert report["timings"]["report"] > 0


def test_page_shows_verdict_images_and_curves_and_fetches_nothing(published: str) -> None:
    page = store.read_bytes(store.join(published, "report.html")).decode()
    assert (
        "BoigSD beats the base model on its reward and on the held-out judge, and it keeps to its prompts."
        in page
    )
    assert page.count("data:image/png;base64,") == 18
    assert len(re.findall(r"<polyline", page)) == 6  # three curves, each raw and smoothed
    assert "Made-up post number" in page
    assert "the most similar of 9 real training images" in page
    report = read_report(published)
    over = report["paired"]["boigsd_description_rewrite-description_rewrite"]["reward"]
    assert (
        f'<td>{over["mean"]:+.2f}<small class="span">{over["low"]:+.2f} to {over["high"]:+.2f}</small></td>'
        in page
    )
    best = report["generation"]["best_of_n"]
    assert f"<td>{best['n']}</td><td>4</td><td>{best['forwards']}</td>" in page
    assert page.count("Base, best of 4") > 1
    for bucket, part in report["by"]["bucket"].items():
        assert (
            f"<td>{bucket}</td><td>{part['prompts']}</td><td>{part['rows']['base']['reward']:.2f}</td>"
            in page
        )
    assert not re.findall(r"(?:src|href)=\"(?!data:)|url\(|@import|<script", page)


def test_reward_validity_has_both_splits_the_gate_and_every_reason(published: str) -> None:
    report = read_report(published)
    rows = report["reward_validity"]
    assert report["reward"] == {
        "name": "contrast",
        "clip": [-4.0, 6.0],
        "recommended": "contrast",
        "min_auc": 0.5,
    }
    assert rows["contrast"]["validation"]["auc_high_vs_low"] != rows["contrast"]["auc_high_vs_low"]
    assert [rows[name]["passes"] for name in ("contrast", "mean_logprob", "dsg")] == [
        True,
        False,
        False,
    ]
    assert rows["dsg"]["length_interval"][0] > 0.5 > rows["contrast"]["length_interval"][1]
    assert rows["contrast"]["accounts"]["account0"]["n"] == 200
    assert rows["contrast"]["more_kpis"]["shares"]["auc_high_vs_low"] is None
    assert (
        report["absent"]["reward_validity.dsg.more_kpis.shares.auc_high_vs_low"]
        == "no account has both a HIGH and a LOW image"
    )
    page = store.read_bytes(store.join(published, "report.html")).decode()
    assert page.count(
        'aria-label="share of HIGH images and mean KPI by decile of the reward"'
    ) == len(rows)
    assert page.count('<rect class="share"') == 10 * len(rows)
    assert page.count("<td>blocked</td>") == len(rows) - 1
    assert "contrast against each KPI" in page


def test_a_reward_whose_auc_is_undefined_is_said_to_be_so(published: str) -> None:
    report = _set(read_report(published), "reward_validity.contrast.auc_interval", None)
    for value, shown in ((0.9, "0.90"), (None, "undefined")):
        report = _set(report, "reward_validity.contrast.auc_high_vs_low", value)
        missing = "auc_interval" if value else "auc_high_vs_low"
        report["absent"][f"reward_validity.contrast.{missing}"] = "too few"
        assert findings(report, Promotion())[4] == Finding("Reward's AUC", shown, "too few", "bad")


def test_page_shows_descriptions_with_intervals_beside_the_published_figures(
    published: str,
) -> None:
    report = read_report(published)
    assert report["describing"]["vectors"] == "hashed character n-grams, the offline fallback"
    assert report["describing"]["parse_rate_unconstrained"] == {"boigllm": 0.95, "texts": 60}
    assert (
        report["absent"]["description.boigllm.colors_iou.medium"]
        == "undefined for every sample of this bucket"
    )
    page = re.sub(
        r"<[^>]+>|\s+", " ", store.read_bytes(store.join(published, "report.html")).decode()
    )
    page = re.sub(r"\s+", " ", page)
    assert "Names are compared by hashed character n-grams, the offline fallback." in page
    assert "Published, on another dataset" in page
    assert "0.407 / 0.453" in page
    assert "0.400 .37–.43 0.350 .31–.39" in page
    assert "without it, BoigLLM's parsed in 95.0 % of 60 cases" in page
    assert "2 × HTTP 500, 7 × the text is no answer" in page
    assert page.count("BoigLLM minus …") == 3
    assert "Retrieval, high" in page
    assert "0 · 2 · 1" in page


def test_seconds_given_with_the_job_count_first(finished_run: Job, tmp_path: Path) -> None:
    runs = tmp_path / "runs.json"
    runs.write_text(json.dumps({"ddpo": 99.0, "boig_promote": 3.0}))
    job = finished_run.model_copy(
        update={"inputs": {**finished_run.inputs, "runs": str(runs)}, "attempt": 2}
    )
    assert run_stage(work, [write_job(job)]) == 0
    committed = commit.read_commit(job.attempt_uri)
    assert committed is not None
    assert read_report(committed["outputs"]["report"])["timings"]["ddpo"] == 99.0


def test_lineage_reaches_the_first_run(finished_run: Job) -> None:
    steps = trace(finished_run.inputs.values())
    assert set(steps) == {
        "ingest", "perceive", "finetune_llm", "evaluate_llm", "calibrate", "finetune_sd", "ddpo", "evaluate_sd",
    }  # fmt: skip
    assert [row["step"] for row in steps["ddpo"].metrics()] == list(range(30))
    assert steps["ingest"].metrics() == []


def test_a_resumed_attempt_continues_the_curve_of_the_older_one(finished_run: Job) -> None:
    step = trace(finished_run.inputs.values())["ddpo"]
    resumed = step.job.model_copy(update={"attempt": 2})
    rows = [{"step": s, "time": 1.0, "reward": 7.0} for s in range(25, 35)]
    store.write_bytes(
        store.join(resumed.attempt_uri, "metrics.jsonl"),
        "".join(json.dumps(row) + "\n" for row in rows).encode(),
    )
    merged = type(step)(resumed, None, {}).metrics()
    assert [row["step"] for row in merged] == list(range(35))
    assert [row["reward"] for row in merged[24:27]] != [7.0] * 3
    assert [row["reward"] for row in merged[25:]] == [7.0] * 10


def _set(report: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = deepcopy(report)
    *parents, leaf = path.split(".")
    node = changed
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    return changed


def test_check_refuses_what_the_schema_forbids(published: str) -> None:
    report = read_report(published)
    for path, value, rule in (
        ("generation.boigsd.reward", float("nan"), "must be finite"),
        ("paired.boigsd-base.reward.low", float("inf"), "must be finite"),
        ("generation.boigsd.kid", None, "no reason"),
        ("absent", {}, "no reason"),
        ("absent", {**report["absent"], "generation.base.reward": "why"}, "not null"),
        ("timings", {}, "is missing"),
        ("generation.base", {}, "is missing"),
    ):
        with pytest.raises(CorruptError, match=rule):
            check_report(_set(report, path, value))


def test_verdict_follows_the_evidence(published: str) -> None:
    report = read_report(published)
    cases = (
        (report, "beats the base model on its reward and on the held-out judge, and it keeps"),
        (_set(report, "paired.boigsd-base.judge.low", -0.1), "does not confirm"),
        (_set(report, "paired.boigsd-base.judge", None), "nobody else judged"),
        (
            _set(report, "paired.boigsd-base.reward.low", -0.1),
            "its own reward did not clearly rise",
        ),
        (_set(report, "generation.boigsd.clip_margin", 1.0), "drifts from its prompts"),
    )
    for case, words in cases:
        assert words in headline(findings(case, Promotion()))
    worse = _set(
        _set(report, "paired.boigsd-champion.judge.low", -0.3),
        "paired.boigsd-champion.judge.mean",
        -0.2,
    )
    champion = findings(worse, Promotion())[-1]
    assert (champion.title, champion.value, champion.state) == ("Over the champion", "-0.20", "bad")
    first = {
        **report,
        "paired": {pair: row for pair, row in report["paired"].items() if "champion" not in pair},
    }
    assert "Over the champion" not in [item.title for item in findings(first, Promotion())]


def test_command_prints_tables_or_json_and_one_line_for_bad_input(
    published: str, tmp_path: Path
) -> None:
    shown = CliRunner().invoke(app, ["report", published])
    assert shown.exit_code == 0
    assert "boigsd" in shown.output
    machine = CliRunner().invoke(app, ["report", published, "--json"])
    assert json.loads(machine.output) == read_report(published)
    torn = tmp_path / "report.json"
    torn.write_text("{")
    for bad in (str(torn), str(tmp_path / "nowhere")):
        failed = CliRunner().invoke(app, ["report", bad])
        assert getattr(failed.exception, "is_user_error", False)
