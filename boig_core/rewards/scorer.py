"""From pixels to a reward: perceive, gather evidence by BoigLLM, apply formulations, weigh, clip.

The answer stands in the frame that BoigLLM was trained in: perception measures an image at
``recipe.perception.side``, and boxes are scaled to the sample's own (width, height), as those of
the stored images were. A score that cannot be computed raises; it is never a zero. Leaves out: Ray
(`boig_core.cluster` puts a `LlmScorer` into an actor) and the formulations themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Recipe, Reward
from boig_core.errors import ScorerError
from boig_core.rewards import REWARDS
from boig_core.rewards.calibration import Calibration, Conditions
from boig_core.rewards.evidence import Part, RewardEvidence, require
from boig_core.rewards.loading import Models, load_models
from boig_core.rewards.weighted import weighted
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import build_prompt
from boig_core.vocabulary import Description, Sample

S = TypeVar("S", bound=Sized)
_Values = dict[str, NDArray[np.float64]]
TOKENS: Final = "tokens"
"""Length of an answer beside the formulations' values: a reward that merely pays for it is a known
flaw."""


class Perceives(Protocol):
    """What measures images; `boig_core.perception.describe.Perceiver` is one."""

    @property
    def side(self) -> int:
        """Side in pixels of the square that boxes are measured in, whatever the size of an
        image."""
        ...

    def describe(
        self, images: Sequence[NDArray[np.uint8]], keywords: Sequence[Sequence[str]] | None = None
    ) -> Sequence[Description]:
        """Description of each image, boxes in pixels of that square; ``keywords`` of the posts, for
        a detector that looks for them."""
        ...


class LlmScorer:
    """Rewards images by BoigLLM.

    Args:
        llm_folder: local folder of BoigLLM.
        perceiver: measures images, in training and here with the same eyes.
        recipe: `reward.weights` and `reward.chunk` are read, how prompts are worded and how long
            answers may be.
        calibration: conditions, scales and clip range, by the stage ``calibrate``.
        predictor: local folder of the engagement predictor, which `needs_predictor` asks for.

    Raises:
        ScorerError: the calibration was made for another reward, so that its clip range does not
            fit.
    """

    def __init__(
        self,
        llm_folder: Path | str,
        perceiver: Perceives,
        recipe: Recipe,
        calibration: Calibration,
        predictor: Path | str | None = None,
    ) -> None:
        # Before the models are opened, which takes long.
        must_fit(calibration, recipe.reward)
        self._models = load_models(llm_folder, recipe, predictor)
        self._perceiver = perceiver
        self._reward = recipe.reward
        self._calibration = calibration

    def score(
        self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], samples: Sequence[Sample]
    ) -> NDArray[np.float64]:
        """Clipped rewards (B,) of images (B, H, W, 3) that were made for the prompts of
        ``samples``.

        Raises:
            ScorerError: the counts differ, or a part failed to give one finite value an image.
        """
        return clipped(
            self._rate(images, samples, self._reward.weights), self._reward, self._calibration
        )

    def examine(
        self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], samples: Sequence[Sample]
    ) -> _Values:
        """``reward`` as `score` gives it, and ``engagement`` where there is a predictor that the
        reward does not take; errors as there."""
        # A predictor that the reward does not take is a witness: it shows where the policy raises
        # the reward alone.
        extra = (
            {"engagement"} - self._reward.weights.keys()
            if self._models.engagement is not None
            else set()
        )
        values = self._rate(images, samples, self._reward.weights.keys() | extra)
        return {
            "reward": clipped(values, self._reward, self._calibration),
            **{name: values[name] for name in extra},
        }

    def _rate(
        self,
        images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        samples: Sequence[Sample],
        names: Collection[str],
    ) -> _Values:
        seen = look(self._perceiver, images, samples)
        return score_formulations(
            self._models, seen, samples, self._calibration.conditions, self._reward.chunk, names
        )


def must_fit(calibration: Calibration, reward: Reward) -> None:
    """Hold a calibration against the reward that is asked for.

    Raises:
        ScorerError: it was made for another one, so that its clip range does not fit.
    """
    if calibration.reward != reward.name:
        rule = f"the calibration's clip range is that of {calibration.reward}"
        raise ScorerError(f"reward.weights = {reward.name}", rule, "calibrate again")


def clipped(
    values: Mapping[str, NDArray[np.float64]], reward: Reward, calibration: Calibration
) -> NDArray[np.float64]:
    """The reward (N,) of the formulations' values: weighed, and clipped to the calibration's
    range."""
    # The sum is clipped, not its parts: the range was taken from the sum on real images.
    return np.clip(weighted(values, reward.weights, calibration.scales), *calibration.clip)


def look(
    perceiver: Perceives,
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    samples: Sequence[Sample],
) -> list[Description]:
    """What is seen in images (B, H, W, 3) that belong to ``samples``, boxes in pixels of each
    sample's (width, height).

    Raises:
        ScorerError: the counts differ.
    """
    if len(images) != len(samples):
        raise ScorerError(
            f"{len(images)} images for {len(samples)} samples", "must be as many", "redo the chunk"
        )
    # The posts' keywords are given for generated images as for real ones: a detector that looks for
    # them would otherwise see less in one of the two.
    seen = check_count(
        len(images),
        perceiver.describe(list(images), [sample.keywords for sample in samples]),
        "perception",
    )
    side = perceiver.side
    return [
        description.scaled(sample.width / side, sample.height / side)
        for description, sample in zip(seen, samples, strict=True)
    ]


def score_formulations(
    models: Models,
    descriptions: Sequence[Description],
    samples: Sequence[Sample],
    conditions: Conditions,
    chunk: int,
    names: Collection[str],
) -> dict[str, NDArray[np.float64]]:
    """Each formulation of ``names`` for each image, (N,), and the answer's `TOKENS` where they were
    counted; else as `collect_evidence`."""
    # Once for all formulations: those that share a part share the forward passes for it.
    needs = frozenset(part for name in names for part in REWARDS[name].needs)
    evidence = collect_evidence(models, descriptions, samples, conditions, chunk, needs)
    values = {
        name: finite(np.array([REWARDS[name].of(of_image) for of_image in evidence], np.float64))
        for name in names
    }
    if "high_T" in needs:
        values[TOKENS] = np.array(
            [len(require(of_image.high_T)) for of_image in evidence], np.float64
        )
    return values


def collect_evidence(
    models: Models,
    descriptions: Sequence[Description],
    samples: Sequence[Sample],
    conditions: Conditions,
    chunk: int,
    needs: Collection[Part],
) -> list[RewardEvidence]:
    """The needed evidence of each image.

    Works in chunks of ``chunk`` images, the last one filled up. A chunk's evidence is computed
    within it alone, predictions included, so that a redone chunk gives the same bits wherever it is
    redone.

    Args:
        models: what is asked.
        descriptions: boxes in pixels of the sample's (width, height).
        samples: prompts and accounts, one per description.
        conditions: HIGH and LOW of each account.
        chunk: images at a time.
        needs: parts that are computed.

    Raises:
        ScorerError: a model gave another count, no token, or a value that is not finite.
    """
    collected: list[RewardEvidence] = []
    for start in range(0, len(samples), chunk):
        # Repeating the last image keeps every batch in one shape; what comes of the copies is cut
        # off below.
        picked = [min(index, len(samples) - 1) for index in range(start, start + chunk)]
        evidence = _gather_chunk(
            models,
            [descriptions[i] for i in picked],
            [samples[i] for i in picked],
            conditions,
            needs,
        )
        collected += evidence[: len(samples) - start]
    return collected


def _gather_chunk(
    models: Models,
    descriptions: Sequence[Description],
    samples: Sequence[Sample],
    conditions: Conditions,
    needs: Collection[Part],
) -> list[RewardEvidence]:
    count = len(samples)
    pairs = [conditions.of(sample.account) for sample in samples]
    high = [
        build_prompt(sample, pair.high_condition, models.wording)
        for sample, pair in zip(samples, pairs, strict=True)
    ]
    low = [
        build_prompt(sample, pair.low_condition, models.wording)
        for sample, pair in zip(samples, pairs, strict=True)
    ]
    high_T: Sequence[NDArray[np.float64] | None] = [None] * count
    low_T: Sequence[NDArray[np.float64] | None] = [None] * count
    predicted: Sequence[Description | None] = [None] * count
    engagement: Sequence[float | None] = [None] * count
    wanted = [prompts for part, prompts in (("high_T", high), ("low_T", low)) if part in needs]
    if wanted:  # in one call, so that HIGH and LOW are read together
        answers = [print_answer(description) for description in descriptions] * len(wanted)
        rows = check_count(
            len(answers),
            models.logprobs([prompt for prompts in wanted for prompt in prompts], answers),
            "the language model",
        )
        tokens = [finite(np.asarray(row_T, np.float64)) for row_T in rows]
        # With one of the two alone, both slices are the whole list.
        high_T = tokens[:count] if "high_T" in needs else high_T
        low_T = tokens[-count:] if "low_T" in needs else low_T
    if "predicted" in needs:
        # Generating is slow, and the images of one post all ask the same: each prompt is answered
        # once.
        prompts = list(dict.fromkeys(high))
        said = dict(
            zip(
                prompts,
                check_count(len(prompts), models.predict(prompts), "the language model"),
                strict=True,
            )
        )
        predicted = [said[prompt] or Description() for prompt in high]
    if "engagement" in needs:
        # A stage without its predictor must fail here: a default would be optimized as if it were a
        # score.
        if models.engagement is None:
            raise ScorerError(
                "engagement", "needs a predictor of engagement", "choose another formulation"
            )
        said_N = models.engagement.predict(samples, descriptions)
        engagement = finite(
            np.asarray(check_count(count, said_N, "the engagement predictor"), np.float64)
        ).tolist()
    return [
        RewardEvidence(*parts)
        for parts in zip(descriptions, high_T, low_T, predicted, engagement, strict=True)
    ]


def finite(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same values.

    Raises:
        ScorerError: there are none, or one is not finite.
    """
    # An empty answer has no evidence at all. As a sum it would give 0, which looks like a score.
    if not values_N.size or not np.isfinite(values_N).all():
        bad = values_N[~np.isfinite(values_N)]
        raise ScorerError(
            f"score {bad[0] if bad.size else 'of no token'}",
            "must be finite",
            "redo the chunk; look at its images",
        )
    return values_N


def check_count(count: int, values: S, part: str) -> S:
    """The same values.

    Raises:
        ScorerError: there are more or fewer than ``count``.
    """
    if len(values) != count:
        raise ScorerError(
            f"{len(values)} results of {part} for {count} inputs",
            "must be as many",
            "redo the chunk",
        )
    return values


def checked(values: Any, count: int) -> NDArray[np.float64]:
    """What a scorer gave for ``count`` images, as an array (N,).

    Raises:
        ScorerError: another count, or a value that is not finite.
    """
    return finite(np.asarray(check_count(count, values, "the scorer"), np.float64))
