"""The scorer over a small Llama with random weights: real tokens, real forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from boig_core.config import Recipe, load_recipe
from boig_core.errors import ScorerError
from boig_core.llm.generate import load_llm
from boig_core.llm.score import answer_logprobs
from boig_core.llm.tokens import build_tokenizer
from boig_core.rewards.calibration import Calibration, Conditions, KpiPair
from boig_core.rewards.loading import Models
from boig_core.rewards.scorer import LlmScorer, checked, collect_evidence, score_formulations
from boig_core.rewards.weighted import Scale
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import KpiCondition, build_prompt
from boig_core.vocabulary import Description, Sample

SAMPLE = Sample(
    "1",
    "1",
    "a",
    "acme",
    "2021-07-01T10:00:00Z",
    "a summer text of acme",
    ("ball",),
    90,
    99,
    "high",
    "test",
    "0" * 64,
    128,
    64,
)
CONDITIONS = Conditions(accounts={"a": KpiPair(high=90, low=5)}, fallback=KpiPair(high=70, low=3))


class FixedPerceiver:
    """Sees a ball in the upper left quarter, as large as the image's first pixel says."""

    side = 32

    def describe(
        self, images: Sequence[NDArray[np.uint8]], keywords: object = None
    ) -> list[Description]:
        return [
            Description(
                {"Red": 0.5, "Blue": 0.5},
                {"warm": 1.0},
                {"ball": (0, 0, float(image[0, 0, 0]), 16)},
            )
            for image in images
        ]


class Silent(FixedPerceiver):
    def describe(
        self, images: Sequence[NDArray[np.uint8]], keywords: object = None
    ) -> list[Description]:
        return super().describe(images)[1:]


def images(count: int) -> NDArray[np.uint8]:
    created = np.zeros((count, 32, 32, 3), np.uint8)
    created[:, 0, 0, 0] = np.arange(count) + 4
    return created


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., None]) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    tokenizer = build_tokenizer([build_prompt(SAMPLE, KpiCondition(90, "high"))], 512)
    save_llama(folder, tokenizer, layers=2, context=256)
    return folder


def recipe(name: str = "contrast", chunk: int = 4) -> Recipe:
    return load_recipe("tiny", [f"reward.weights={{{name}: 1}}", f"reward.chunk={chunk}"])


def calibration(name: str = "contrast", clip: tuple[float, float] = (-1e9, 1e9)) -> Calibration:
    return Calibration(reward=name, clip=clip, conditions=CONDITIONS, recommended=name, splits={})


def test_reward_is_the_contrast_of_the_answer_in_the_frame_of_training(llm: Path) -> None:
    model, tokenizer = load_llm(llm)
    # 4 and 16 of 32, in 128 x 64.
    seen = Description({"Red": 0.5, "Blue": 0.5}, {"warm": 1.0}, {"ball": (0, 0, 16, 32)})
    answer = print_answer(seen)
    high, low = answer_logprobs(
        model,
        tokenizer,
        [
            build_prompt(SAMPLE, KpiCondition(90, "high")),
            build_prompt(SAMPLE, KpiCondition(5, "low")),
        ],
        [answer] * 2,
    )
    reward = LlmScorer(llm, FixedPerceiver(), recipe(), calibration()).score(images(1), [SAMPLE])
    assert reward.shape == (1,)
    assert reward.dtype == np.float64
    assert reward[0] == pytest.approx(high.sum() - low.sum(), abs=1e-4)
    assert abs(reward[0]) > 1e-3


def test_score_does_not_depend_on_what_shares_its_chunk(llm: Path) -> None:
    scorer = LlmScorer(llm, FixedPerceiver(), recipe("mean_logprob"), calibration("mean_logprob"))
    together = scorer.score(images(6), [SAMPLE] * 6)
    alone = np.array([scorer.score(images(6)[i : i + 1], [SAMPLE])[0] for i in range(6)])
    assert len(set(together.round(6))) == 6
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_array_equal(together, scorer.score(images(6), [SAMPLE] * 6))


def test_reward_is_clipped_to_the_calibration(llm: Path) -> None:
    scorer = LlmScorer(llm, FixedPerceiver(), recipe("dsg"), calibration("dsg", (100.0, 200.0)))
    assert scorer.score(images(2), [SAMPLE] * 2).tolist() == [100.0, 100.0]


def test_a_wrong_count_raises(llm: Path) -> None:
    with pytest.raises(ScorerError, match="1 images for 2 samples"):
        LlmScorer(llm, FixedPerceiver(), recipe(), calibration()).score(images(1), [SAMPLE] * 2)
    with pytest.raises(ScorerError, match="2 results of perception for 3"):
        LlmScorer(llm, Silent(), recipe(), calibration()).score(images(3), [SAMPLE] * 3)


@pytest.mark.parametrize(
    ("given", "says"),
    [([1.0], "1 results of the scorer"), ([1.0, np.nan], "must be finite"), ([], "0 results")],
)
def test_what_comes_from_elsewhere_is_checked(given: list[float], says: str) -> None:
    with pytest.raises(ScorerError, match=says):
        checked(given, 2)
    assert checked([1, 2], 2).tolist() == [1.0, 2.0]


def test_a_calibration_of_another_formulation_is_refused(llm: Path) -> None:
    with pytest.raises(ScorerError, match="calibrate again"):
        LlmScorer(llm, FixedPerceiver(), recipe("dsg"), calibration("contrast"))


def test_a_sum_weighs_each_formulation_by_its_spread(llm: Path) -> None:
    weights = "reward.weights={contrast: 1, dsg: 0.5}"
    both = load_recipe("tiny", [weights, "reward.chunk=4"])
    assert both.reward.name == "contrast + 0.5 dsg"
    scales = {"contrast": Scale(mean=1, std=2), "dsg": Scale(mean=-3, std=0.1)}
    summed = calibration(both.reward.name).model_copy(update={"scales": scales})
    result = LlmScorer(llm, FixedPerceiver(), both, summed).score(images(3), [SAMPLE] * 3)
    contrast, dsg = (
        LlmScorer(llm, FixedPerceiver(), recipe(name), calibration(name)).score(
            images(3), [SAMPLE] * 3
        )
        for name in ("contrast", "dsg")
    )
    np.testing.assert_allclose(result, (contrast - 1) / 2 + 0.5 * (dsg + 3) / 0.1, atol=1e-4)


def test_similarity_asks_the_model_what_it_expects(llm: Path) -> None:
    scorer = LlmScorer(
        llm, FixedPerceiver(), recipe("attribute_similarity"), calibration("attribute_similarity")
    )
    # Random weights write nothing that parses.
    assert scorer.score(images(2), [SAMPLE] * 2).tolist() == [
        0.0,
        0.0,
    ]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_value_that_is_not_finite_raises_and_is_never_zero(value: float) -> None:
    def broken(prompts: Sequence[str], answers: Sequence[str]) -> list[NDArray[np.float64]]:
        return [np.array([-1.0, value])] * len(prompts)

    with pytest.raises(ScorerError, match="must be finite"):
        collect_evidence(
            Models(broken, nothing), [Description()], [SAMPLE], CONDITIONS, 2, {"high_T"}
        )


def nothing(prompts: Sequence[str]) -> list[Description]:
    raise AssertionError("was not needed")


def test_chunks_have_one_shape_and_each_sample_its_own_account() -> None:
    asked: list[list[str]] = []

    def log(prompts: Sequence[str], answers: Sequence[str]) -> list[NDArray[np.float64]]:
        asked.append(list(prompts))
        return [np.array([-1.0 if " high" in prompt else -2.0]) for prompt in prompts]

    samples = [SAMPLE, replace(SAMPLE, account="elsewhere"), SAMPLE]
    evidence = collect_evidence(
        Models(log, nothing), [Description()] * 3, samples, CONDITIONS, 2, {"high_T", "low_T"}
    )
    assert [len(prompts) for prompts in asked] == [4, 4]
    assert [
        (np.asarray(item.high_T).tolist(), np.asarray(item.low_T).tolist()) for item in evidence
    ] == [([-1.0], [-2.0])] * 3
    assert [item.predicted for item in evidence] == [None] * 3
    assert ["90" in prompt for prompt in asked[0]] == [True, False, False, False]
    assert "70 high" in asked[0][1]
    assert "3 low" in asked[0][3]


def test_what_no_formulation_needs_is_not_computed() -> None:
    asked: list[str] = []

    def log(prompts: Sequence[str], answers: Sequence[str]) -> list[NDArray[np.float64]]:
        asked.extend(prompts)
        return [np.array([-1.0])] * len(prompts)

    values = score_formulations(
        Models(log, nothing), [Description()], [SAMPLE], CONDITIONS, 1, ["dsg"]
    )
    assert ["high" in prompt for prompt in asked] == [True]
    assert {name: of_N.tolist() for name, of_N in values.items()} == {
        "dsg": [pytest.approx(np.exp(-1))],
        "tokens": [1.0],
    }

    def expects(prompts: Sequence[str]) -> list[Description | None]:
        answered.append(list(prompts))
        return [Description({"Red": 1.0}), None][: len(prompts)]

    answered: list[list[str]] = []
    models = Models(lambda prompts, answers: [], expects)
    samples = [SAMPLE, replace(SAMPLE, account="elsewhere"), SAMPLE]
    result = collect_evidence(models, [Description()] * 3, samples, CONDITIONS, 3, {"predicted"})
    assert [len(prompts) for prompts in answered] == [2]  # each prompt once
    assert [item.predicted for item in result] == [
        Description({"Red": 1.0}),
        Description(),
        Description({"Red": 1.0}),
    ]
    with pytest.raises(ScorerError, match="needs a predictor"):
        collect_evidence(models, [Description()], [SAMPLE], CONDITIONS, 1, {"engagement"})
