"""What is measured on generated images, paired by prompt and seed: the rows and differences of
``generation.json``.

Each model samples the same prompts from the same starting noise. `reward` is clipped: it is what
DDPO maximized. `judge` took no part in training. ``named`` says whether perception, on which the
reward stands, still sees what the prompts name. A measure that was not run is None and has its
reason under ``absent``. Leaves out: what is sampled (`sampling_plan`), real images (`real_images`),
parts of the prompts (`breakdown`) and the page (`report`). Shape letters: N = P x K images, P
prompts, K images a prompt, in that order; G groups of n successive images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Evaluation, Recipe
from boig_core.evaluation.measure.aesthetic import AestheticJudge
from boig_core.evaluation.measure.intervals import paired_difference
from boig_core.evaluation.measure.judges import (
    ClipJudge,
    Judge,
    clip_scores,
    diversity,
    diversity_across,
)
from boig_core.evaluation.measure.named_objects import mean_named, named
from boig_core.evaluation.measure.real_images import Distances, Real
from boig_core.evaluation.measure.sampling_plan import CHAMPION, ROWS, Plan, reason, without_boigsd
from boig_core.rewards.scorer import Perceives
from boig_core.vocabulary import Sample

BEST: Final = {"best_of_n": "base", "boigsd_best_of_n": "boigsd"}
"""Row whose images each row of best-of-N picks from."""
MODELS: Final = tuple(
    dict.fromkeys(
        ["base", "high_kpi", "boigsd", *BEST, *(name for name in ROWS if name != CHAMPION)]
    )
)
"""Rows that are always there; one that was not measured is None with its reason."""
PAIRED: Final = ("reward", "judge", "clip_margin")
Values = Callable[[str], NDArray[np.float64] | None]
"""Name of a measure of `PAIRED` to its value for each image, or group of images; None where it was
not measured."""


class Rewards(Protocol):
    """What scores images; `boig_core.rewards.scorer.LlmScorer` is one."""

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        """One clipped reward an image."""
        ...


@dataclass(frozen=True)
class Instruments:
    """All that looks at images.

    Attributes:
        rewards: what DDPO maximized.
        judge: held-out judge of the KPI; None: there is none.
        clip: took no part in training; for CLIP score, diversity and novelty.
        features: gives the features of KID and FID; may be the same.
        aesthetic: scores looks; None: not measured.
        perceiver: sees objects.
        kinds: object names that it chooses among.
    """

    rewards: Rewards
    judge: Judge | None
    clip: ClipJudge
    features: ClipJudge
    aesthetic: AestheticJudge | None
    perceiver: Perceives
    kinds: Sequence[str]


@dataclass(frozen=True)
class ImageMeasures:
    """One row's images, one by one.

    Attributes:
        reward_N: clipped.
        judge_N: None without a judge.
        clip_N: CLIP score with the own prompt.
        mismatched_N: mean CLIP score with the other prompts.
        aesthetic_N: None where it is not measured.
        named_N: see `named`.
        embedding_ND: of unit length.
        features_NF: for KID and FID.
    """

    reward_N: NDArray[np.float64]
    judge_N: NDArray[np.float64] | None
    clip_N: NDArray[np.float64]
    mismatched_N: NDArray[np.float64]
    aesthetic_N: NDArray[np.float64] | None
    named_N: NDArray[np.float64]
    embedding_ND: NDArray[np.float64]
    features_NF: NDArray[np.float64]

    def take(self, index: NDArray[np.intp]) -> ImageMeasures:
        """Some of the images."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: column[index] for name, column in columns.items() if column is not None}
        )

    def values(self, measure: str) -> NDArray[np.float64] | None:
        """Values (N) of a measure of `PAIRED`."""
        if measure == "clip_margin":
            return self.clip_N - self.mismatched_N
        return {"reward": self.reward_N, "judge": self.judge_N}[measure]


def measure(images_NHWC: NDArray[np.uint8], plan: Plan, tools: Instruments) -> ImageMeasures:
    """Look at one row's images."""
    seen = tools.clip.see(images_NHWC)
    own_N = np.repeat(np.arange(len(plan.samples)), plan.images_per_prompt)
    matched_N, mismatched_N = clip_scores(
        seen.embedding_ND, tools.clip.read([sample.text for sample in plan.samples]), own_N
    )
    described = tools.perceiver.describe(
        list(images_NHWC), [owner.keywords for owner in plan.owners]
    )
    looks = tools.aesthetic
    return ImageMeasures(
        reward_N=tools.rewards.score(images_NHWC, plan.owners),
        judge_N=None if tools.judge is None else tools.judge.judge(images_NHWC, plan.owners),
        clip_N=matched_N,
        mismatched_N=mismatched_N,
        aesthetic_N=None
        if looks is None
        # One look serves both where they share a CLIP.
        else looks.score(seen if looks.clip is tools.clip else looks.clip.see(images_NHWC)),
        named_N=named(described, plan.owners, tools.kinds),
        embedding_ND=seen.embedding_ND,
        features_NF=seen.features_NF
        if tools.features is tools.clip
        else tools.features.see(images_NHWC).features_NF,
    )


def summarize(
    measured: Mapping[str, ImageMeasures], plan: Plan, real: Real, recipe: Recipe
) -> dict[str, Any]:
    """Rows, paired differences and reasons: the numbers of ``generation.json``.

    Args:
        measured: the rows that the plan samples, base first; the champion among them if there is
            one.
        plan: prompts and seeds that all of them share.
        real: real HIGH images.
        recipe: what is enabled, and the seed.
    """
    settings = recipe.evaluation
    absent: dict[str, str] = {
        f"generation.{model}": why for model, row in ROWS.items() if (why := reason(row, settings))
    }
    rows: dict[str, dict[str, float | int | None] | None] = {}
    distances = Distances(real, len(plan.seeds), settings.fid_min, recipe.seed)
    for model, measures in measured.items():
        rows[model] = _row(model, measures, plan, distances, settings, absent) | _cost(
            1, model, settings
        )
    # Three questions: is a row better than the base, what does BoigSD add to the same row without
    # it, and does it beat its rivals?
    pairs = [(model, "base") for model in measured if model != "base"]
    pairs += [
        (model, same)
        for model in measured
        if ROWS[model].model == "boigsd" and (same := without_boigsd(model)) != "base"
    ]
    pairs += [("boigsd", rival) for rival in ("high_kpi", CHAMPION) if rival in measured]
    # Images of one prompt are alike. As independent draws they would make an interval too narrow.
    clusters = [sample.id for sample in plan.owners]
    differences = {
        f"{ours}-{theirs}": paired(measured[ours].values, measured[theirs].values, clusters, recipe)
        for ours, theirs in pairs
    }
    # Best-of-N picks from images that are there already: it costs no sampling, and both sides have
    # sampled alike.
    if why := _no_best(plan, settings):
        absent |= {f"generation.{model}": why for model in BEST}
    elif n := settings.best_of_n:
        best = {
            model: measured[source].take(best_of_n(measured[source].reward_N, plan, n))
            for model, source in BEST.items()
        }
        for model, measures in best.items():
            rows[model] = _row(model, measures, plan, distances, settings, absent) | _cost(
                n, BEST[model], settings
            )
        differences |= _at_equal_sampling(best, measured["boigsd"], plan, n, recipe)
    return {
        # Every row has its key, measured or not: a reader finds null and a reason instead of
        # guessing.
        "generation": {model: rows.get(model) for model in dict.fromkeys([*MODELS, *rows])},
        "paired": differences,
        "floors": {**distances.floors(), "named": mean_named(real.named_H)},
        "absent": absent,
    }


def paired(
    candidate: Values, base: Values, clusters: Sequence[str], recipe: Recipe
) -> dict[str, dict[str, float | int] | None]:
    """Mean differences from ``base``, same prompt and same noise, with 95 % intervals clustered by
    prompt; None without a judge."""
    differences: dict[str, dict[str, float | int] | None] = {}
    for name in PAIRED:
        ours, theirs = candidate(name), base(name)
        options = {"resamples": recipe.evaluation.bootstrap, "seed": recipe.seed}
        differences[name] = (
            None
            if ours is None or theirs is None
            else paired_difference(ours, theirs, clusters, **options).as_json()
        )
    return differences


def best_of_n(reward_N: NDArray[np.float64], plan: Plan, n: int) -> NDArray[np.intp]:
    """Index (G) of the best of each ``n`` successive images of a prompt, by reward; a rest that is
    smaller than ``n`` is left out."""
    groups_Gn = _groups(plan, n)
    winners_G: NDArray[np.intp] = groups_Gn[
        np.arange(len(groups_Gn)), reward_N[groups_Gn].argmax(axis=1)
    ]
    return winners_G


def _groups(plan: Plan, n: int) -> NDArray[np.intp]:
    whole = plan.images_per_prompt // n * n
    return (
        np.arange(len(plan.seeds))
        .reshape(len(plan.samples), plan.images_per_prompt)[:, :whole]
        .reshape(-1, n)
    )


def _no_best(plan: Plan, settings: Evaluation) -> str | None:
    if settings.best_of_n is None:
        return "evaluation.best_of_n is not set"
    if settings.best_of_n > plan.images_per_prompt:
        return f"evaluation.images_per_prompt {plan.images_per_prompt} is below best_of_n {settings.best_of_n}"
    return None


def _at_equal_sampling(
    best: Mapping[str, ImageMeasures], boigsd: ImageMeasures, plan: Plan, n: int, recipe: Recipe
) -> dict[str, Any]:
    """BoigSD against best-of-N where both sampled as many images: all of BoigSD's by their mean,
    and the best of them, against the best."""
    # Grouped as the other side chose, so that a mean is paired with the best of the same prompt and
    # noise.
    groups_Gn = _groups(plan, n)

    def means(name: str) -> NDArray[np.float64] | None:
        values_N = boigsd.values(name)
        return None if values_N is None else values_N[groups_Gn].mean(axis=1)

    owners, theirs = plan.owners, best["best_of_n"].values
    clusters = [owners[group_n[0]].id for group_n in groups_Gn]
    return {
        "boigsd-best_of_n": paired(means, theirs, clusters, recipe),
        "boigsd_best_of_n-best_of_n": paired(
            best["boigsd_best_of_n"].values, theirs, clusters, recipe
        ),
    }


def _cost(sampled: int, model: str, settings: Evaluation) -> dict[str, float | int | None]:
    """What one image that is kept costs: images sampled for it, and forward passes of the UNet for
    them."""
    return {"sampled": sampled, "forwards": sampled * ROWS[model].forwards(settings)}


def _row(
    model: str,
    measures: ImageMeasures,
    plan: Plan,
    distances: Distances,
    settings: Evaluation,
    absent: dict[str, str],
) -> dict[str, float | int | None]:
    # For every measure that may be None: a report refuses a null without its reason.
    reasons = {
        "judge": "evaluation.judge is not set",
        "kid": "fewer than 2 images",
        "fid": f"fewer than evaluation.fid_min = {settings.fid_min} generated images, or real ones for each of two halves",
        "aesthetic": "evaluation.aesthetic is not set",
        "diversity": "one image per prompt",
        "novelty": "the training split has no HIGH image",
        "named": "no prompt names one of perception.kinds",
    }
    per_prompt = len(measures.reward_N) // len(plan.samples)
    embedding_PKD = measures.embedding_ND.reshape(-1, per_prompt, measures.embedding_ND.shape[1])
    row: dict[str, float | int | None] = {
        "reward": float(measures.reward_N.mean()),
        "judge": None if measures.judge_N is None else float(measures.judge_N.mean()),
        "kid": distances.kid(measures.features_NF),
        "fid": distances.fid(measures.features_NF),
        "clip": float(measures.clip_N.mean()),
        "aesthetic": None if measures.aesthetic_N is None else float(measures.aesthetic_N.mean()),
        "diversity": diversity(embedding_PKD) if per_prompt > 1 else None,
        "diversity_across": diversity_across(embedding_PKD),
        "novelty": distances.novelty(measures.embedding_ND),
        "n": len(measures.reward_N),
        "clip_margin": float((measures.clip_N - measures.mismatched_N).mean()),
        "named": mean_named(measures.named_N),
    }
    absent.update(
        {
            f"generation.{model}.{name}": reasons[name]
            for name, value in row.items()
            if value is None
        }
    )
    return row
