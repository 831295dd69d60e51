"""From rewards of real images to the decision of ``ddpo``: recommendation, gate, and both stages
over a BoigLLM of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ray_jobs.calibrate
import ray_jobs.ddpo
from boig_core.config import Recipe, load_recipe
from boig_core.errors import CorruptError, InputError
from boig_core.evaluation.report.terminal import validity_lines
from boig_core.llm.tokens import build_tokenizer
from boig_core.rewards import REWARDS, offered
from boig_core.rewards.calibration import (
    Calibration,
    Conditions,
    KpiPair,
    passes,
    read_calibration,
    recommend,
    require_worth,
)
from boig_core.storage import commit, store
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.stage import Workspace, run_stage
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import KpiCondition, build_prompt
from boig_core.vocabulary import PALETTE, Description, KpiValue, Sample, Split

BUCKETS: Any = ["low"] * 12 + ["medium"] * 5 + ["high"] * 3


def post(index: int, split: Split) -> Sample:
    """Post of one of two accounts with a description of its own."""
    place, colors = index // 2 % 20, sorted(PALETTE)[index % 7 : index % 7 + 2 + index % 3]
    return Sample(
        id=f"{split}{index}", post=f"{split}{index}", account=f"account{index % 2}", company="acme", timestamp="2021-07-01T10:00:00Z",
        text="a summer text of acme", keywords=("ball",), kpi=10.0 + place, kpi_normalized=5.0 * place, bucket=BUCKETS[place], split=split,
        image=f"{split}{index}", width=64, height=64, description=Description({name: 1 / len(colors) for name in colors}, {"warm": 1.0}),
        more_kpis={"shares": KpiValue(1.0, 50.0 + index % 40, "high" if index % 40 > 30 else "low")},
    )  # fmt: skip


def posts(split: Split, count: int = 160) -> list[Sample]:
    return [post(index, split) for index in range(count)]


def recipe(*overrides: str) -> Recipe:
    return load_recipe(
        "tiny", ["evaluation.bootstrap=200", 'data.more_kpis=["shares"]', *overrides]
    )


def calibrated(
    rewards: dict[str, Any], chosen: str = "contrast", best: str | None = None
) -> Calibration:
    """Calibration of made-up rewards of the test posts."""
    samples = posts("test")
    result = ray_jobs.calibrate.measure(
        rewards, np.arange(len(samples), dtype=float) % 11, samples, recipe()
    )
    conditions = Conditions(accounts={}, fallback=KpiPair(high=30, low=10))
    return Calibration(
        reward=chosen,
        clip=(-1, 1),
        conditions=conditions,
        recommended=best or recommend(result),
        splits=dict.fromkeys(("validation", "test"), result),
    )


def informative(noise: float = 1.0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    return np.array([sample.kpi_normalized / 30 for sample in posts("test")]) + noise * rng.normal(
        size=160
    )


def test_the_gate_lets_an_informative_reward_pass_and_blocks_it_shuffled() -> None:
    good = informative()
    require_worth(calibrated({"contrast": good}), recipe().reward)
    for seed in range(5):
        shuffled = calibrated({"contrast": np.random.default_rng(seed).permutation(good)})
        with pytest.raises(
            InputError,
            match=r"AUC 0\.\d+ \[0\.\d+, 0\.\d+\] on 160 test images: .* above 0\.5 .*; ingest more posts",
        ):
            require_worth(shuffled, recipe().reward)
        require_worth(shuffled, recipe("reward.min_auc=null").reward)
    with pytest.raises(InputError, match=r"above 0\.95"):
        require_worth(calibrated({"contrast": good}), recipe("reward.min_auc=0.95").reward)


def test_the_refusal_names_the_recommended_formulation_if_that_one_passes() -> None:
    shuffled = np.random.default_rng(0).permutation(informative())
    result = calibrated({"contrast": shuffled, "dsg": informative()})
    assert result.recommended == "dsg"
    with pytest.raises(
        InputError,
        match=r"^reward contrast: AUC .*; set reward.weights to \{dsg: 1\}, with AUC .*, and run calibrate again$",
    ) as refused:
        require_worth(result, recipe().reward)
    assert "\n" not in str(refused.value)
    lines = list(validity_lines(result, 0.5))
    assert len(lines) == 6
    assert lines[4].endswith("blocked, chosen")
    assert lines[5].endswith("passes, recommended")


def test_an_undefined_auc_is_blocked_with_its_reason() -> None:
    result = calibrated({"contrast": informative()})
    row = result.splits["test"]["contrast"]
    for changes, words in (
        (
            {"auc_interval": None, "undefined": {"auc_interval": "fewer than ten"}},
            r"without an interval .*\(fewer than ten\)",
        ),
        (
            {
                "auc_high_vs_low": None,
                "auc_interval": None,
                "undefined": {"auc_high_vs_low": "one bucket"},
            },
            r"no AUC .*\(one bucket\)",
        ),
    ):
        with pytest.raises(InputError, match=words):
            require_worth(
                result.model_copy(update={"splits": {"test": {"contrast": {**row, **changes}}}}),
                recipe().reward,
            )
        assert not passes({**row, **changes}, 0.0)


def test_a_calibration_of_another_formulation_is_refused_first() -> None:
    with pytest.raises(InputError, match="the calibration was made for dsg"):
        require_worth(
            calibrated({"contrast": informative(), "dsg": informative()}, chosen="dsg"),
            recipe().reward,
        )


def test_recommendation_goes_by_auc_then_spearman_then_name() -> None:
    def row(auc: float | None, spearman: float | None) -> dict[str, float | None]:
        return {"auc_high_vs_low": auc, "spearman": spearman}

    assert recommend({"a": row(0.7, 0.9), "b": row(0.8, 0.1), "c": row(None, None)}) == "b"
    assert recommend({"a": row(0.8, None), "b": row(0.8, 0.1), "c": row(0.8, 0.2)}) == "c"
    assert recommend({"b": row(0.8, 0.2), "a": row(0.8, 0.2)}) == "a"
    assert recommend({"a": row(0.2, None)}) == "a"
    assert recommend({"a": row(None, None)}) is None


@pytest.fixture
def untrained(tmp_path: Path, save_llama: Callable[..., None]) -> Path:
    """Folder of a BoigLLM of random weights."""
    folder = tmp_path / "llm"
    sample = posts("test")[1]
    text = build_prompt(sample, KpiCondition(90, "high")) + print_answer(
        sample.description or Description()
    )
    tokenizer = build_tokenizer([text, " ".join(PALETTE)], 512)
    save_llama(folder, tokenizer, hidden=16)
    return folder


def job(root: str, stage: Stage, inputs: dict[str, str], made: Recipe) -> Job:
    task = store.join(root, "runs", "dag", "run", stage.value)
    return Job(
        stage=stage, recipe=made, inputs=inputs, store=root, root="dag/run", task=task, attempt=1
    )


def published(root: str, stage: Stage, kind: str, folder: Path, made: Recipe) -> str:
    """A committed output."""
    maker = job(root, stage, {}, made)
    uri = Workspace(maker, folder).publish(
        f"made/{kind}", folder, kind=kind, meta={"perception": "of a test"}
    )
    commit.commit(maker.attempt_uri, {kind: uri}, {})
    return uri


def test_calibrate_measures_an_untrained_model_and_ddpo_refuses_it_before_ray(
    tmp_path: Path,
    untrained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, created = str(tmp_path / "store"), recipe("reward.posts=120")
    boigllm = published(root, Stage.FINETUNE_LLM, "boigllm", untrained, created)
    (tmp_path / "dataset").mkdir()
    dataset = published(root, Stage.PERCEIVE, "dataset", tmp_path / "dataset", created)
    every = [*posts("train"), *posts("validation"), *posts("test")]
    monkeypatch.setattr(
        ray_jobs.calibrate,
        "read_samples",
        lambda uri: [*every, replace(every[-1], id="unseen", description=None)],
    )
    calibrate = job(root, Stage.CALIBRATE, {"dataset": dataset, "boigllm": boigllm}, created)
    assert run_stage(ray_jobs.calibrate.work, [write_job(calibrate)]) == 0
    assert "ddpo will not start: reward contrast" in capsys.readouterr().out
    done = commit.read_commit(calibrate.attempt_uri)
    assert done is not None
    result = Calibration.model_validate_json(
        store.read_bytes(store.join(done["outputs"]["calibration"], "calibration.json"))
    )
    assert set(result.splits) == {"validation", "test"}
    for rows in result.splits.values():
        assert set(rows) == set(offered(predictor=False)) == set(REWARDS) - {"engagement"}
        for row in rows.values():
            assert (row["n"], row["more_kpis"]["shares"]["n"]) == (120, 120)
            assert set(row["accounts"]) == {"account0", "account1"}
            assert sum(decile["n"] for decile in row["reliability"]) == 120
    assert result.splits["test"]["dsg"]["length_correlation"] > 0.5
    assert done["metrics"]["passes"] is False
    assert (
        done["metrics"]["recommended"]
        == result.recommended
        == recommend(result.splits["validation"])
    )

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr(ray_jobs.ddpo, "connect", never)
    ddpo = job(
        root,
        Stage.DDPO,
        {"dataset": dataset, "boigllm": boigllm, "calibration": done["outputs"]["calibration"]},
        created,
    )
    assert run_stage(ray_jobs.ddpo.work, [write_job(ddpo)]) == 2
    reason = json.loads(store.read_bytes(store.join(ddpo.attempt_uri, "error.json")))
    assert reason["type"] == "InputError"
    assert "the 95 % interval must lie above 0.5 (reward.min_auc)" in json.dumps(reason)


def test_a_calibration_of_an_older_version_asks_for_another_run(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(
        json.dumps({"schema_version": 1, "best_on_validation": "dsg"})
    )
    with pytest.raises(
        CorruptError,
        match="of schema version 1: must be of version 2; run the stage calibrate again",
    ):
        read_calibration(tmp_path)
