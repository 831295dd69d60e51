"""From pixels to a reward: perceive, print as an answer, teacher-force under HIGH and LOW, apply a formulation, clip.

The answer stands in the frame that BoigLLM was trained in: perception measures an image at ``recipe.perception.side``, and boxes are
scaled to the sample's own (width, height), as those of the stored images were. A score that cannot be computed raises; it is never a zero.
Leaves out: Ray (`boig_core.cluster` puts a `Scorer` into an actor) and the formulations themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.errors import ScorerError
from boig_core.rewards import REWARDS
from boig_core.rewards.calibration import Calibration, Conditions
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import Wording, build_prompt
from boig_core.vocabulary import Description, Sample

T = TypeVar("T")
AnswerLogprobs = Callable[[Sequence[str], Sequence[str]], Sequence[NDArray[np.float64]]]
"""Prompts and answers to the log-probabilities of each answer's tokens: all that a reward needs of a language model."""


class Perceives(Protocol):
    """What measures images; `boig_core.perception.describe.Perceiver` is one."""

    @property
    def side(self) -> int:
        """Side in pixels of the square that boxes are measured in, whatever the size of an image."""
        ...

    def describe(self, images: Sequence[NDArray[np.uint8]], keywords: Sequence[Sequence[str]] | None = None) -> Sequence[Description]:
        """Description of each image, boxes in pixels of that square; ``keywords`` of the posts, for a detector that looks for them."""
        ...


class Scorer:
    """Rewards images by BoigLLM.

    Args:
        llm_folder: local folder of BoigLLM.
        perceiver: measures images, in training and here with the same eyes.
        recipe: `reward.name` and `reward.chunk` are read, and how prompts are worded.
        calibration: conditions and clip range, by the stage ``calibrate``.

    Raises:
        ScorerError: the calibration was made for another formulation, so that its clip range does not fit.
    """

    def __init__(self, llm_folder: Path | str, perceiver: Perceives, recipe: Recipe, calibration: Calibration) -> None:
        if calibration.reward != recipe.reward.name:
            raise ScorerError(
                f"reward.name = {recipe.reward.name}", f"the calibration's clip range is that of {calibration.reward}", "calibrate again"
            )
        self._logprobs = load_logprobs(llm_folder)
        self._perceiver = perceiver
        self._formulation = REWARDS[recipe.reward.name]
        self._chunk = recipe.reward.chunk
        self._wording = Wording.of(recipe)
        self._calibration = calibration

    def score(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Clipped rewards (B,) of images (B, H, W, 3) that were made for the prompts of ``samples``.

        Raises:
            ScorerError: the counts differ, or a part failed to give one finite value an image.
        """
        if len(images) != len(samples):
            raise ScorerError(f"{len(images)} images for {len(samples)} samples", "must be as many", "redo the chunk")
        seen = self._perceiver.describe(list(images), [sample.keywords for sample in samples])
        descriptions = _exactly(len(images), seen, "perception")
        placed = [
            description.scaled(sample.width / self._perceiver.side, sample.height / self._perceiver.side)
            for description, sample in zip(descriptions, samples, strict=True)
        ]
        evidence = score_tokens(self._logprobs, placed, samples, self._calibration.conditions, self._chunk, self._wording)
        rewards_B = np.array([self._formulation(high_T, low_T) for high_T, low_T in evidence], np.float64)
        return np.clip(finite(rewards_B), *self._calibration.clip)


def load_logprobs(llm_folder: Path | str) -> AnswerLogprobs:
    """Teacher forcing with a language model in a local folder."""
    from boig_core.llm.generate import load_llm
    from boig_core.llm.score import answer_logprobs

    model, tokenizer = load_llm(Path(llm_folder))
    return lambda prompts, answers: answer_logprobs(model, tokenizer, prompts, answers)


def score_tokens(
    logprobs: AnswerLogprobs,
    descriptions: Sequence[Description],
    samples: Sequence[Sample],
    conditions: Conditions,
    chunk: int,
    wording: Wording,
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Token log-probabilities of each description's answer under HIGH and under LOW of its sample's account, in nats.

    Works in chunks of ``chunk`` descriptions, the last one filled up, so that a redone chunk meets the same batch shape.

    Args:
        descriptions: boxes in pixels of the sample's (width, height).
        samples: prompts and accounts, one a description.
        wording: the one that the language model was trained in.

    Raises:
        ScorerError: the language model gave another count, no token, or a value that is not finite.
    """
    evidence: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for start in range(0, len(samples), chunk):
        picked = [min(index, len(samples) - 1) for index in range(start, start + chunk)]
        pairs = [conditions.of(samples[index].account) for index in picked]
        prompts = [build_prompt(samples[index], pair.high_condition, wording) for index, pair in zip(picked, pairs, strict=True)]
        prompts += [build_prompt(samples[index], pair.low_condition, wording) for index, pair in zip(picked, pairs, strict=True)]
        answers = [print_answer(descriptions[index]) for index in picked] * 2
        found = [finite(np.asarray(row_T, np.float64)) for row_T in _exactly(2 * chunk, logprobs(prompts, answers), "the language model")]
        evidence += list(zip(found[:chunk], found[chunk:], strict=True))[: len(samples) - start]
    return evidence


def finite(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same values.

    Raises:
        ScorerError: there are none, or one is not finite.
    """
    if not values_N.size or not np.isfinite(values_N).all():
        bad = values_N[~np.isfinite(values_N)]
        raise ScorerError(f"score {bad[0] if bad.size else 'of no token'}", "must be finite", "redo the chunk; look at its images")
    return values_N


def _exactly(count: int, values: Sequence[T], part: str) -> Sequence[T]:
    if len(values) != count:
        raise ScorerError(f"{len(values)} results of {part} for {count} inputs", "must be as many", "redo the chunk")
    return values
