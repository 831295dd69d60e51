"""The comparison of variants: its numbers against a plain computation, what must not be compared,
and the stage over a store."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.config import Recipe, load_recipe
from boig_core.errors import InputError
from boig_core.evaluation.compare.comparison import (
    MEASURES,
    Variant,
    changes,
    compare,
    headline,
    read_comparison,
)
from boig_core.evaluation.measure.image_rows import Images
from boig_core.evaluation.measure.judges import distances, diversity
from boig_core.evaluation.report.terminal import print_comparison
from boig_core.storage import commit, manifest, store
from boig_core.storage.job import Job, Stage, read_job, write_job
from boig_core.storage.stage import Workspace, run_stage
from ray_jobs.compare import work
from tests.unit.evaluation.conftest import Store, evaluate

COST = {
    "stages": {"ddpo": {"attempts": 1, "seconds": 60.0}},
    "seconds": 60.0,
    "gpu_hours": 0.0,
    "cost": None,
}
SETTINGS = {
    "judge": "law",
    "clip": "c",
    "guidance": 3.0,
    "sampling_steps": 8,
    "reward": "contrast",
    "reward_clip": [0, 1],
}


def images(shift: float, draw: int, **changed: Any) -> Images:
    rng = np.random.default_rng(draw)
    values = {measure: rng.normal(shift, 0.3, 40) for measure in MEASURES}
    created = Images(
        tuple(f"s{i // 4}" for i in range(40)),
        tuple(f"text {i // 4}" for i in range(40)),
        tuple(range(40)),
        values,
    )
    return replace(created, **changed)


def variant(name: str, shift: float, draw: int, *overrides: str, **changed: Any) -> Variant:
    recipe = load_recipe("tiny", overrides)
    inputs = {"dataset": "d" * 64, "boigllm": "l", "calibration": "c", "judge": "j"}
    created = Variant(
        name, SETTINGS, inputs, images(shift, draw), images(0.0, 99), recipe, {}, COST
    )
    return replace(created, **changed)


def plain_interval(values: Any, clusters: Any, resamples: int, seed: int) -> tuple[float, float]:
    """The bootstrap, written out: whole prompts are drawn with replacement, as often as the
    multinomial of the same seed says."""
    names = list(dict.fromkeys(clusters))
    counts = np.random.default_rng(seed).multinomial(
        len(names), [1 / len(names)] * len(names), size=resamples
    )
    means = []
    for drawn in counts:
        weight = [drawn[names.index(cluster)] for cluster in clusters]
        means.append(np.average(values, weights=weight))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def test_differences_are_those_of_a_plain_computation() -> None:
    plain, kl = variant("plain", 0.5, 1), variant("kl", 0.8, 2, "ddpo.kl=0.1")
    result = compare([plain, kl], {}, resamples=200, seed=3)
    for measure in MEASURES:
        ours, theirs = kl.boigsd.values[measure], plain.boigsd.values[measure]
        assert ours is not None
        assert theirs is not None
        row = result["variants"]["kl"]["over_reference"][measure]
        assert row["mean"] == pytest.approx(np.mean(ours) - np.mean(theirs))
        assert (row["low"], row["high"]) == pytest.approx(
            plain_interval(ours - theirs, kl.boigsd.samples, 200, 3)
        )
        assert (row["clusters"], row["n"]) == (10, 40)
        assert result["variants"]["kl"]["means"][measure] == pytest.approx(np.mean(ours))
        assert result["variants"]["kl"]["over_base"][measure]["mean"] == pytest.approx(
            np.mean(ours - kl.base.values[measure])
        )
    assert result["variants"]["plain"]["over_reference"] is None
    assert result["absent"] == dict.fromkeys(
        ("variants.plain.over_reference", "groups.plain.over_reference"),
        "is what the others are compared with",
    )
    assert result["changes"] == {"ddpo.kl": {"plain": 0.0, "kl": 0.1}}
    assert headline(result).startswith("kl is clearly better than plain by the held-out judge: +0.")


def test_seeds_of_one_variant_stand_together_and_each_is_shown() -> None:
    plain = [variant("plain", 0.5, 1), variant("plain-1", 0.4, 2, "seed=1")]
    kl = [variant(f"kl-{seed}", 0.9, 5 + seed, "ddpo.kl=0.1", f"seed={seed}") for seed in range(3)]
    result = compare([plain[0], *kl, plain[1]], {}, resamples=200, seed=0)
    assert {name: group["variants"] for name, group in result["groups"].items()} == {
        "plain": ["plain", "plain-1"],
        "kl-0": ["kl-0", "kl-1", "kl-2"],
    }
    assert [row["seed"] for row in result["variants"].values()] == [0, 0, 1, 2, 1]
    mean = {
        name: np.mean([item.boigsd.values["judge"] for item in members], axis=0)
        for name, members in (("plain", plain), ("kl", kl))
    }
    row = result["groups"]["kl-0"]["over_reference"]["judge"]
    assert row["mean"] == pytest.approx((mean["kl"] - mean["plain"]).mean())
    assert (row["low"], row["high"]) == pytest.approx(
        plain_interval(mean["kl"] - mean["plain"], plain[0].boigsd.samples, 200, 0)
    )
    item = result["variants"]["kl-2"]["over_reference"]["judge"]["mean"]
    assert item == pytest.approx((kl[2].boigsd.values["judge"] - mean["plain"]).mean())
    assert result["variants"]["plain-1"]["over_reference"] is None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"inputs": {"dataset": "e" * 64, "judge": "j"}}, "dataset differs"),
        ({"inputs": {"dataset": "d" * 64, "judge": "k"}}, "judging predictor differs (j and k)"),
        ({"settings": {**SETTINGS, "judge": None}}, "judge differs (law and None)"),
        ({"settings": {**SETTINGS, "guidance": 1.0}}, "guidance differs (3.0 and 1.0)"),
        ({"boigsd": images(0, 1, seeds=(7, *range(1, 40)))}, "seeds differs (image 0: 0 and 7)"),
        (
            {"boigsd": images(0, 1, prompts=(*(f"text {i // 4}" for i in range(39)), "other"))},
            "prompts differs (image 39: ",
        ),
    ],
)
def test_what_does_not_pair_is_refused_in_a_line_that_says_what_differs(
    changed: Any, says: str
) -> None:
    with pytest.raises(InputError) as caught:
        compare(
            [variant("plain", 0, 1), variant("kl", 0, 2, "ddpo.kl=0.1", **changed)],
            {},
            resamples=100,
            seed=0,
        )
    assert "variants plain and kl: do not pair: " in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rewards_of_two_kinds_are_not_subtracted() -> None:
    other = replace(
        variant("dsg", 0.9, 2, "reward.weights={dsg: 1}"), settings={**SETTINGS, "reward": "dsg"}
    )
    result = compare([variant("plain", 0.5, 1), other], {}, resamples=100, seed=0)
    assert result["variants"]["dsg"]["over_reference"]["reward"] is None
    assert (
        result["absent"]["variants.dsg.over_reference.reward"]
        == "the evaluations measure by different rewards"
    )
    assert result["variants"]["dsg"]["over_reference"]["judge"] is not None
    assert result["variants"]["dsg"]["over_base"]["reward"] is not None


def test_without_a_judge_the_reward_speaks_and_says_so() -> None:
    def unjudged(one: Variant) -> Variant:
        settings = {**SETTINGS, "judge": None}
        return replace(
            one,
            settings=settings,
            boigsd=replace(one.boigsd, values={**one.boigsd.values, "judge": None}),
        )

    result = compare(
        [unjudged(variant("plain", 0.5, 1)), unjudged(variant("kl", 0.5, 1, "ddpo.kl=0.1"))],
        {},
        resamples=100,
        seed=0,
    )
    assert (
        headline(result)
        == "No variant is clearly better than plain by its reward alone; nobody else judged."
    )
    assert result["absent"]["variants.kl.means.judge"] == "evaluation.judge is not set"


def test_a_single_survivor_is_still_shown_and_what_failed_is_named() -> None:
    result = compare(
        [variant("kl", 0.5, 1)], {"plain": "ddpo: InputError: no"}, resamples=100, seed=0
    )
    assert (
        headline(result)
        == "Nothing but kl was evaluated, so there is nothing to compare. 1 failed."
    )
    assert result["failed"] == {"plain": "ddpo: InputError: no"}


def test_changes_reach_into_sections_and_leave_out_what_is_the_same() -> None:
    recipes: dict[str, Recipe] = {
        "a": load_recipe("tiny"),
        "b": load_recipe("tiny", ["reward.weights={dsg: 1}", "seed=4"]),
    }
    assert changes(recipes) == {
        "seed": {"a": 0, "b": 4},
        "reward.weights.contrast": {"a": 1.0, "b": None},
        "reward.weights.dsg": {"a": None, "b": 1.0},
    }


def test_diversity_is_the_mean_of_the_images_distances() -> None:
    embedding = np.random.default_rng(0).normal(size=(3, 4, 8))
    embedding /= np.linalg.norm(embedding, axis=2, keepdims=True)
    first, *others = embedding[1]
    assert distances(embedding)[1, 0] == pytest.approx(
        np.mean([1 - first @ other for other in others])
    )
    assert diversity(embedding) == pytest.approx(distances(embedding).mean())


@pytest.fixture
def both(finished_run: Job, tmp_path: Path) -> dict[str, str]:
    """Evaluations of two variants of one run: the second has another recipe, a stronger effect, and
    a monitor that tripped."""
    first = read_job(f"{finished_run.store}/runs/dag/run/evaluate_sd/attempt-1/job.json").inputs
    shared = Store(tmp_path, finished_run.recipe, "kl")
    ddpo = finished_run.recipe.ddpo.model_copy(update={"kl": 0.1})
    trained = Store(tmp_path, finished_run.recipe.model_copy(update={"ddpo": ddpo}), "kl")
    job = trained.job(Stage.DDPO, {"dataset": first["dataset"]})
    write_job(job)
    (tmp_path / "model").mkdir()
    model = Workspace(job, tmp_path).publish("models/boigsd", tmp_path / "model", kind="sd")
    commit.write_failure(commit.attempt_uri(job.task, 2), InputError("a", "b", "c"))
    commit.commit(
        job.attempt_uri,
        {"boigsd": model},
        {"seconds": 3600.0, "monitors": {"drift": "drift: at epoch 3"}},
    )
    return {
        "plain": finished_run.inputs["generation"],
        "kl": evaluate(shared, {**first, "boigsd": model}, np.random.default_rng(7), gain=2.0),
    }


def compared(world: Job, inputs: dict[str, str]) -> tuple[int, str]:
    """Exit code of the stage, and its attempt."""
    task = f"{world.store}/runs/dag/run/compare"
    job = world.model_copy(
        update={
            "stage": Stage.COMPARE,
            "inputs": inputs,
            "task": task,
            "attempt": len(commit.attempts(task)) + 1,
        }
    )
    return run_stage(work, [write_job(job)]), job.attempt_uri


def test_the_stage_publishes_numbers_page_and_tables(
    finished_run: Job, both: dict[str, str]
) -> None:
    code, attempt = compared(finished_run, both)
    assert code == 0
    done = commit.read_commit(attempt)
    assert done is not None
    uri = done["outputs"]["report"]
    assert manifest.read_manifest(uri).kind == "comparison"
    result = read_comparison(uri)
    plain, kl = result["variants"]["plain"], result["variants"]["kl"]
    assert kl["over_reference"]["reward"]["mean"] == pytest.approx(
        kl["means"]["reward"] - plain["means"]["reward"]
    )
    assert kl["over_reference"]["reward"]["low"] > 0.5
    reported = json.loads(store.read_bytes(f"{both['kl']}/generation.json"))["generation"]["boigsd"]
    assert {name: kl["means"][name] for name in MEASURES} == pytest.approx(
        {name: reported[name] for name in MEASURES}
    )
    assert result["changes"] == {"ddpo.kl": {"plain": 0.0, "kl": 0.1}}
    assert (plain["monitors"], kl["monitors"]) == (None, {"drift": "drift: at epoch 3"})
    assert kl["cost"]["stages"]["ddpo"]["attempts"] == 2
    # A failed attempt counts by its files' times.
    assert kl["cost"]["seconds"] == pytest.approx(3612.5, abs=5)
    assert set(plain["cost"]["stages"]) == {"finetune_llm", "calibrate", "ddpo", "evaluate_sd"}
    page = store.read_bytes(store.join(uri, "report.html")).decode()
    assert done["metrics"]["verdict"] in page
    assert page.count("data:image/png;base64,") == 3 * 8
    assert "drift: at epoch 3" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)|url\(|@import|<script", page)
    shown = CliRunner().invoke(app, ["report", uri])
    assert (shown.exit_code, "kl is clearly better than plain" in shown.output) == (0, True)
    assert json.loads(CliRunner().invoke(app, ["report", uri, "--json"]).output) == result


def test_the_stage_names_what_failed_in_the_order_of_the_experiment(
    finished_run: Job, both: dict[str, str]
) -> None:
    messages = f"{finished_run.store}/experiment.json"
    store.write_bytes(
        messages,
        json.dumps(
            {"variants": ["kl", "lost", "plain"], "failed": {"lost": "ddpo: <b>no</b>"}}
        ).encode(),
    )
    code, attempt = compared(finished_run, {**both, "experiment": messages})
    done = commit.read_commit(attempt)
    assert code == 0
    assert done is not None
    result = read_comparison(done["outputs"]["report"])
    assert (result["reference"], list(result["variants"]), result["failed"]) == (
        "kl",
        ["kl", "plain"],
        {"lost": "ddpo: <b>no</b>"},
    )
    assert "&lt;b&gt;no" in store.read_bytes(f"{done['outputs']['report']}/report.html").decode()
    console = Console(record=True, width=200)
    print_comparison(result, console)
    assert "lost: ddpo: <b>no</b>" in console.export_text()


def test_evaluations_of_two_datasets_end_in_one_line(
    finished_run: Job, both: dict[str, str], tmp_path: Path
) -> None:
    other = Store(tmp_path, finished_run.recipe, "other")
    dataset = other.run(Stage.PERCEIVE, "dataset", "datasets/other", {"labels.json": {"x": 1}}, {})
    model = read_job(f"{finished_run.store}/runs/dag/kl/evaluate_sd/attempt-1/job.json").inputs[
        "boigsd"
    ]
    elsewhere = evaluate(other, {"dataset": dataset, "boigsd": model}, np.random.default_rng(7))
    code, attempt = compared(finished_run, {"plain": both["plain"], "kl": elsewhere})
    failure = commit.read_failure(attempt)
    assert code == 2
    assert failure is not None
    assert failure.message.startswith("variants plain and kl: do not pair: dataset differs (")


def test_the_stage_imports_no_torch() -> None:
    script = "import sys, ray_jobs.compare; sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
