from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from boig_core.config import Recipe, load_recipe
from boig_core.evaluation.measure.breakdown import by_bucket_and_account
from boig_core.evaluation.measure.distances import fid, kid
from boig_core.evaluation.measure.files import make_grid, write_generation
from boig_core.evaluation.measure.generation import (
    BEST,
    MODELS,
    ImageMeasures,
    best_of_n,
    summarize,
)
from boig_core.evaluation.measure.judges import clip_scores, diversity, diversity_across, novelty
from boig_core.evaluation.measure.named_objects import named
from boig_core.evaluation.measure.real_images import Real
from boig_core.evaluation.measure.sampling_plan import CHAMPION, ROWS, Plan, make_plan
from boig_core.vocabulary import Description, Sample

REAL_NAMED = np.array([1.0, np.nan, 0.5])


def sample(index: int, **changes: Any) -> Sample:
    created = Sample(
        f"{index:03d}",
        str(index),
        "a",
        "acme",
        "2021-07-01T10:00:00Z",
        f"text {index}",
        (),
        9,
        99,
        "high",
        "test",
        "0" * 64,
        32,
        32,
    )
    return replace(created, **changes)


def recipe(*overrides: str) -> Recipe:
    return load_recipe(
        "tiny",
        [
            "evaluation.unguided=true",
            "evaluation.bootstrap=100",
            "evaluation.images_per_prompt=4",
            "evaluation.guidance=1",
            *overrides,
        ],
    )


def measured(plan: Plan, shift: float, seed: int, judge: bool = True) -> ImageMeasures:
    rng = np.random.default_rng(seed)
    n = len(plan.seeds)
    shared = np.random.default_rng(99).normal(size=n)
    embedding = rng.normal(size=(n, 8))
    return ImageMeasures(
        shared + shift, shared + shift if judge else None, np.full(n, 30.0), np.full(n, 20.0) - shift, None,
        np.where(np.arange(n) % 2, 0.5, np.nan),
        embedding / np.linalg.norm(embedding, axis=1, keepdims=True), rng.normal(shift, 1, size=(n, 6)),
    )  # fmt: skip


def real(count: int) -> Real:
    rng = np.random.default_rng(5)
    features, seen = rng.normal(size=(count, 6)), rng.normal(size=(count, 8))
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    return Real(features, seen, REAL_NAMED, seen[::2])


def test_summary_pairs_models_and_gives_a_reason_for_every_null() -> None:
    plan = make_plan([sample(i) for i in range(10)], recipe())
    models = {
        name: measured(plan, shift, i)
        for i, (name, shift) in enumerate([("base", 0.0), ("high_kpi", 0.5), ("boigsd", 1.0)])
    }
    result = summarize(models, plan, real(30), recipe())
    assert list(result["generation"]) == list(MODELS)
    assert {*BEST, *ROWS} - set(MODELS) == {CHAMPION}
    row = result["generation"]["boigsd"]
    assert row["n"] == 40
    assert row["clip_margin"] == pytest.approx(11.0)
    assert row["named"] == 0.5
    assert result["floors"]["named"] == 0.75
    assert 0 < result["floors"]["novelty"] < row["novelty"] < row["diversity_across"]
    assert row["reward"] - result["generation"]["base"]["reward"] == pytest.approx(1.0)
    # The noise is shared, so the paired interval is as sharp as the shift.
    assert result["paired"]["boigsd-base"]["reward"]["low"] == pytest.approx(1.0)
    assert result["paired"]["high_kpi-base"]["judge"]["high"] == pytest.approx(0.5)
    assert result["paired"]["boigsd-high_kpi"]["judge"]["low"] == pytest.approx(0.5)
    assert result["paired"]["boigsd-base"]["clip_margin"]["mean"] == pytest.approx(1.0)
    assert row["kid"] > result["generation"]["base"]["kid"]
    nulls = {
        f"generation.{m}.{k}"
        for m, r in result["generation"].items()
        if r
        for k, v in r.items()
        if v is None
    }
    nulls |= {f"generation.{m}" for m, r in result["generation"].items() if r is None}
    assert nulls == set(result["absent"])
    assert "fid_min" in result["absent"]["generation.base.fid"]
    json.dumps(result, allow_nan=False)


def test_the_champion_is_one_more_row_and_the_candidate_is_paired_with_it() -> None:
    plan = make_plan([sample(i) for i in range(10)], recipe())
    shifts = {"base": 0.0, "high_kpi": 0.5, "boigsd": 1.0, "champion": 0.75}
    result = summarize(
        {name: measured(plan, shift, i) for i, (name, shift) in enumerate(shifts.items())},
        plan,
        real(30),
        recipe(),
    )
    assert result["generation"]["champion"]["n"] == 40
    assert result["paired"]["boigsd-champion"]["judge"]["low"] == pytest.approx(0.25)
    assert result["paired"]["champion-base"]["reward"]["mean"] == pytest.approx(0.75)


def test_without_a_judge_its_column_is_null_with_a_reason() -> None:
    plan = make_plan([sample(i) for i in range(4)], recipe())
    models = {name: measured(plan, 0.0, 0, judge=False) for name in ("base", "high_kpi", "boigsd")}
    result = summarize(models, plan, real(30), recipe())
    assert result["generation"]["boigsd"]["judge"] is None
    assert result["paired"]["boigsd-base"]["judge"] is None
    assert "evaluation.judge" in result["absent"]["generation.boigsd.judge"]


def test_fid_stands_beside_its_floor_at_the_same_n() -> None:
    settings = recipe("evaluation.fid_min=20")
    plan = make_plan([sample(i) for i in range(20)], settings)
    models = {
        name: measured(plan, shift, i)
        for i, (name, shift) in enumerate([("base", 0.0), ("high_kpi", 0.0), ("boigsd", 3.0)])
    }
    result = summarize(models, plan, real(120), settings)
    assert result["floors"]["fid_n"] == 60
    assert result["generation"]["boigsd"]["fid"] > 40
    assert result["generation"]["base"]["fid"] < 2 * result["floors"]["fid"] + 1
    assert "generation.base.fid" not in result["absent"]
    result = summarize(models, plan, real(120), recipe("evaluation.fid_min=61"))
    assert (
        result["floors"]["fid_n"],
        result["floors"]["fid"],
        result["generation"]["boigsd"]["fid"],
    ) == (0, None, None)


def test_clip_margin_is_zero_for_images_that_show_no_prompt() -> None:
    texts = np.eye(3)
    own = np.array([0, 1, 2])
    matched, mismatched = clip_scores(np.eye(3), texts, own)
    assert matched.tolist() == [100.0] * 3
    assert mismatched.tolist() == [0.0] * 3
    same = np.full((3, 3), 3**-0.5)
    matched, mismatched = clip_scores(same, texts, own)
    np.testing.assert_allclose(matched, mismatched)


def test_diversity_is_zero_for_copies_and_one_for_orthogonal_images() -> None:
    assert diversity(np.tile(np.eye(4)[0], (2, 3, 1))) == pytest.approx(0.0)
    assert diversity(np.eye(4)[None]) == pytest.approx(1.0)


def test_diversity_across_prompts_ignores_what_differs_within_one() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(3, 4, 5))
    seen /= np.linalg.norm(seen, axis=2, keepdims=True)
    pairs = [
        1 - a @ b for i in range(3) for j in range(3) if i != j for a in seen[i] for b in seen[j]
    ]
    assert diversity_across(seen) == pytest.approx(np.mean(pairs))
    assert diversity_across(np.tile(np.eye(4)[None], (2, 1, 1))) == pytest.approx(0.75)


def test_novelty_is_zero_for_copies_and_counts_the_most_similar_training_image() -> None:
    train = np.eye(4)[:2]
    assert novelty(train[[0, 1, 0]], train) == pytest.approx(0.0)
    assert novelty(np.eye(4)[2:], train) == pytest.approx(1.0)
    assert novelty(np.array([[0.8, 0.6, 0, 0], [0, 0, 1, 0]]), train) == pytest.approx(
        (0.2 + 1.0) / 2
    )


def test_kid_and_fid_grow_with_the_distance_and_kid_is_seeded() -> None:
    rng = np.random.default_rng(0)
    real, near, far = (
        rng.normal(size=(80, 5)),
        rng.normal(size=(60, 5)),
        rng.normal(2, 1, size=(60, 5)),
    )
    assert abs(kid(real, near, 0)) < 0.2 < kid(real, far, 0)
    assert kid(real, far, 0) == kid(real, far, 0)
    # Two Gaussians with the same covariance: the squared distance of their means, here 5 * 2^2.
    big = rng.normal(size=(4000, 5))
    assert fid(big, rng.normal(2, 1, size=(4000, 5))) == pytest.approx(20, rel=0.05)


def test_files_hold_every_image_once_and_grids_show_them_in_order(tmp_path: Path) -> None:
    settings = recipe()
    plan = make_plan([sample(i) for i in range(3)], settings)
    models = {name: measured(plan, 0.0, i) for i, name in enumerate(("base", "boigsd"))}
    images = {
        name: np.random.default_rng(i).integers(0, 255, size=(12, 8, 8, 3), dtype=np.uint8)
        for i, name in enumerate(models)
    }
    write_generation(tmp_path, {"generation": {}}, plan, images, models)
    body = json.loads((tmp_path / "generation.json").read_text())
    assert body["grid_rows"] == ["base", "boigsd"]
    assert [prompt["text"] for prompt in body["prompts"]] == [s.text for s in plan.samples]
    grid = np.asarray(Image.open(tmp_path / body["prompts"][1]["grid"]))
    np.testing.assert_array_equal(grid[0, 28, :3], images["base"][5][0, 0])
    np.testing.assert_array_equal(grid[28 + 23, 23, :3], images["boigsd"][4][7, 7])
    rows = pq.read_table(tmp_path / "images.parquet").to_pylist()
    assert len(rows) == 24
    assert rows[13]["model"] == "boigsd"
    assert rows[13]["seed"] == rows[1]["seed"] == plan.seeds[1]
    assert rows[13]["reward"] == models["boigsd"].reward_N[1]


def test_grid_is_enlarged_without_smoothing() -> None:
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[0, 0, 0] = 255
    grid = np.asarray(make_grid([image]))
    assert grid.shape == (6, 6, 4)
    assert (grid[:3, :3, :3] == 255).all()
    assert (grid[3:, :, :3] == 0).all()


def test_named_is_the_share_of_the_prompts_kinds_that_perception_sees() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    seen = [
        Description(objects={"ball": box, "star": box}),
        Description(objects={"unknown": box}),
        Description(objects={"ball": box}),
    ]
    asked = [
        sample(0, text="A Ball, and a box"),
        sample(1, text="one star"),
        sample(2, text="a football alone"),
    ]
    np.testing.assert_array_equal(named(seen, asked, ("ball", "box", "star")), [0.5, 0.0, np.nan])


def test_best_of_n_stands_beside_boigsd_at_the_same_number_of_sampled_images() -> None:
    plan = make_plan([sample(i) for i in range(2)], recipe("evaluation.images_per_prompt=5"))
    reward = np.array([0.0, 3, 1, 2, 9, 5, 4, 6, 7, 0])
    assert best_of_n(reward, plan, 2).tolist() == [1, 3, 5, 8]
    settings = recipe(
        "evaluation.best_of_n=4", "evaluation.sampling_steps=7", "evaluation.guidance=2"
    )
    plan = make_plan([sample(i) for i in range(5)], settings)
    models = {
        name: measured(plan, shift, i)
        for i, (name, shift) in enumerate([("base", 0.0), ("high_kpi", 0.0), ("boigsd", 0.25)])
    }
    models["base_unguided"] = measured(plan, -1.0, 7)
    result = summarize(models, plan, real(30), settings)
    rows = result["generation"]
    assert rows["best_of_n"]["n"] == 5
    assert rows["best_of_n"]["reward"] > rows["base"]["reward"] + 0.5
    assert result["absent"]["generation.best_of_n.diversity"] == "one image per prompt"
    cost = {name: (row["sampled"], row["forwards"]) for name, row in rows.items() if row}
    assert cost == {
        "base": (1, 14), "high_kpi": (1, 14), "boigsd": (1, 14), "best_of_n": (4, 56), "boigsd_best_of_n": (4, 56),
        "base_unguided": (1, 7),
    }  # fmt: skip
    # All four images of BoigSD count against the best of the base's four; the winners of both
    # differ by the shift alone.
    whole = result["paired"]["boigsd-best_of_n"]["reward"]
    assert whole["mean"] == pytest.approx(rows["boigsd"]["reward"] - rows["best_of_n"]["reward"])
    assert (whole["n"], whole["clusters"]) == (5, 5)
    assert result["paired"]["boigsd_best_of_n-best_of_n"]["judge"]["low"] == pytest.approx(0.25)
    result = summarize(models, plan, real(30), recipe("evaluation.best_of_n=9"))
    assert "best_of_n 9" in result["absent"]["generation.best_of_n"]


def test_rows_of_boigsd_are_paired_with_the_base_and_with_what_they_add_to() -> None:
    settings = recipe("evaluation.rewrite=[retrieval, boigllm]", "evaluation.guidance=3")
    plan = make_plan([sample(i) for i in range(10)], settings)
    shifts = {
        "prompt_rewrite": 0.25,
        "boigsd_prompt_rewrite": 1.5,
        "description_rewrite": 0.5,
        "boigsd_description_rewrite": 2.5,
    }
    shifts |= {"base_unguided": -0.5, "boigsd_unguided": 0.25}
    shifts = {"base": 0.0, "high_kpi": 0.5, "boigsd": 1.0} | shifts
    result = summarize(
        {name: measured(plan, shift, i) for i, (name, shift) in enumerate(shifts.items())},
        plan,
        real(30),
        settings,
    )
    assert result["generation"]["prompt_rewrite"]["n"] == 40
    for pair, gain in {
        "prompt_rewrite-base": 0.25, "boigsd_prompt_rewrite-prompt_rewrite": 1.25, "description_rewrite-base": 0.5,
        "boigsd_description_rewrite-description_rewrite": 2.0, "boigsd_unguided-base_unguided": 0.75,
    }.items():  # fmt: skip
        assert result["paired"][pair]["judge"]["low"] == pytest.approx(gain)
    assert {path for path in result["absent"] if path.count(".") == 1} == {
        "generation.best_of_n",
        "generation.boigsd_best_of_n",
    }


def test_slices_say_where_a_gain_comes_from() -> None:
    settings = recipe("evaluation.prompts=12")
    posts = [
        sample(i, bucket="high" if i % 2 else "low", account=f"{'few' if i < 2 else 'many'}")
        for i in range(12)
    ]
    plan = make_plan(posts, settings)
    base, ours = measured(plan, 0.0, 0), measured(plan, 0.0, 1)
    low_N = np.array([owner.bucket == "low" for owner in plan.owners])
    ours = replace(ours, reward_N=ours.reward_N + 2.0 * low_N)
    result = by_bucket_and_account({"base": base, "boigsd": ours}, plan, settings)
    assert {name: (part["prompts"], part["n"]) for name, part in result["bucket"].items()} == {
        "high": (6, 24),
        "low": (6, 24),
    }
    assert result["bucket"]["low"]["gain"]["reward"]["low"] == pytest.approx(2.0)
    assert result["bucket"]["high"]["gain"]["reward"]["high"] == pytest.approx(0.0)
    assert result["bucket"]["low"]["rows"]["base"]["reward"] == pytest.approx(
        base.reward_N[low_N].mean()
    )
    assert (result["account"]["many"]["prompts"], result["account"]["few"]["n"]) == (10, 8)
    assert result["account"]["few"]["gain"] == {}
    assert "judge" not in by_bucket_and_account({"base": measured(plan, 0.0, 0, judge=False), "boigsd": ours}, plan, settings)[
        "bucket"]["low"]["rows"]["base"]  # fmt: skip


def test_aesthetic_score_is_the_mean_over_the_images_and_its_absence_is_named() -> None:
    plan = make_plan([sample(i) for i in range(4)], recipe())
    models = {name: measured(plan, 0.0, i) for i, name in enumerate(("base", "high_kpi", "boigsd"))}
    models["boigsd"] = replace(models["boigsd"], aesthetic_N=np.arange(16.0))
    result = summarize(models, plan, real(30), recipe())
    assert result["generation"]["boigsd"]["aesthetic"] == 7.5
    assert "generation.boigsd.aesthetic" not in result["absent"]
    assert result["absent"]["generation.base.aesthetic"] == "evaluation.aesthetic is not set"
