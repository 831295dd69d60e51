"""What is measured on generated images, paired by prompt and seed: the rows and differences of ``generation.json``.

Each model samples the same prompts from the same starting noise. `reward` is clipped: it is what DDPO maximised. `judge` took no part
in training. ``named`` says whether perception, on which the reward stands, still sees what the prompts name. A measure that was not run is
None and has its reason under ``absent``. Leaves out: sampling (`boig_core.cluster.evaluation`)
and the page (`report`). Shape letters: N = P x K images, P prompts, K images a prompt, in that order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Evaluation, Recipe
from boig_core.errors import InputError
from boig_core.evaluation.distances import fid, kid
from boig_core.evaluation.intervals import paired_difference
from boig_core.evaluation.judges import ClipJudge, Judge, clip_scores, diversity, diversity_across, novelty
from boig_core.evaluation.rewriting import rewrite_by_retrieval
from boig_core.observability.logs import get_logger
from boig_core.rewards.scorer import Perceives
from boig_core.vocabulary import Description, Sample

log = get_logger(__name__)

REWRITTEN: Final = {"prompt_rewrite": "base", "boigsd_prompt_rewrite": "boigsd"}
"""Model that each row of rewritten prompts samples with."""
BEST: Final = {"best_of_n": "base", "boigsd_best_of_n": "boigsd"}
"""Model whose images each row of best-of-N picks from."""
MODELS: Final = ("base", "high_kpi", "boigsd", *BEST, *REWRITTEN)
"""Rows that are always there; one that was not measured is None with its reason."""
CHAMPION: Final = "champion"
"""Row of the model that is served now, where there is one: what a candidate must beat."""
PAIRED: Final = ("reward", "judge", "clip_margin")
_NO_AESTHETIC: Final = "no aesthetic predictor is configured"
_EVALUATION_STREAM: Final = 7_301  # keeps this noise apart from that of the rollouts


class Rewards(Protocol):
    """What scores images; `boig_core.rewards.scorer.Scorer` is one."""

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        """One clipped reward an image."""
        ...


@dataclass(frozen=True)
class Plan:
    """The images that each model makes.

    Attributes:
        samples: P samples whose texts are the prompts.
        images_per_prompt: K.
        seeds: of the starting noise of each of the N images, the same for all models.
        rewritten: P prompts for the rows of rewritten prompts, which are measured as the samples' own; none: no such rows.
    """

    samples: tuple[Sample, ...]
    images_per_prompt: int
    seeds: tuple[int, ...]
    rewritten: tuple[str, ...] | None = None

    @property
    def owners(self) -> list[Sample]:
        """Sample of each image (N)."""
        return [sample for sample in self.samples for _ in range(self.images_per_prompt)]

    @property
    def prompts(self) -> list[str]:
        """Prompt of each image (N)."""
        return [sample.text for sample in self.owners]

    @property
    def rewritten_prompts(self) -> list[str]:
        """Rewritten prompt of each image (N); empty without."""
        return [text for text in self.rewritten or () for _ in range(self.images_per_prompt)]


@dataclass(frozen=True)
class Real:
    """Real HIGH images that generated ones are held against; H held-out ones, T of the training split.

    Attributes:
        features_HF: for KID and FID.
        embedding_HD: for their own novelty.
        named_H: `named` of them.
        embedding_TD: what novelty is measured against.
    """

    features_HF: NDArray[np.float64]
    embedding_HD: NDArray[np.float64]
    named_H: NDArray[np.float64]
    embedding_TD: NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One model's images, one by one.

    ``judge_N``: None without a judge; ``mismatched_N``: CLIP score with the other prompts; ``named_N``: see `named`.
    """

    reward_N: NDArray[np.float64]
    judge_N: NDArray[np.float64] | None
    clip_N: NDArray[np.float64]
    mismatched_N: NDArray[np.float64]
    named_N: NDArray[np.float64]
    embedding_ND: NDArray[np.float64]
    features_NF: NDArray[np.float64]

    def take(self, index: NDArray[np.intp]) -> Measured:
        """Some of the images."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: column[index] for name, column in columns.items() if column is not None})

    def values(self, measure: str) -> NDArray[np.float64] | None:
        """Values (N) of ``reward``, ``judge``, ``clip`` or ``clip_margin``."""
        if measure == "clip_margin":
            return self.clip_N - self.mismatched_N
        return {"reward": self.reward_N, "judge": self.judge_N, "clip": self.clip_N}[measure]


def make_plan(samples: Sequence[Sample], recipe: Recipe) -> Plan:
    """Choose prompts: distinct texts of HIGH samples of the test split, drawn by the recipe's seed.

    Raises:
        InputError: fewer than two of them, or nothing to rewrite them with.
    """
    texts = {sample.text: sample for sample in sorted(samples, key=lambda s: s.id) if sample.split == "test" and sample.bucket == "high"}
    held = sorted(texts.values(), key=lambda sample: sample.id)
    if len(held) < 2:
        raise InputError(f"{len(held)} distinct prompts of HIGH test samples", "must be at least 2", "ingest more posts")
    settings = recipe.evaluation
    if len(held) < settings.prompts:
        log.warning("the test split has %d distinct HIGH prompts, fewer than evaluation.prompts = %d", len(held), settings.prompts)
    order = np.random.default_rng([recipe.seed, _EVALUATION_STREAM]).permutation(len(held))[: settings.prompts]
    chosen = tuple(held[index] for index in sorted(order))
    seeds = np.random.SeedSequence([recipe.seed, _EVALUATION_STREAM, 1]).generate_state(len(chosen) * settings.images_per_prompt)
    rewritten = tuple(rewrite_by_retrieval(samples, chosen)) if settings.rewrite == "retrieval" else None
    return Plan(chosen, settings.images_per_prompt, tuple(int(seed) for seed in seeds), rewritten)


def measure(
    images_NHWC: NDArray[np.uint8],
    plan: Plan,
    rewards: Rewards,
    judge: Judge | None,
    clip: ClipJudge,
    features: ClipJudge,
    perceiver: Perceives,
    kinds: Sequence[str],
) -> Measured:
    """Score one model's images; ``kinds`` are the object names that ``perceiver`` chooses among."""
    seen = clip.see(images_NHWC)
    own_N = np.repeat(np.arange(len(plan.samples)), plan.images_per_prompt)
    matched_N, mismatched_N = clip_scores(seen.embedding_ND, clip.read([sample.text for sample in plan.samples]), own_N)
    return Measured(
        reward_N=rewards.score(images_NHWC, plan.owners),
        judge_N=None if judge is None else judge.judge(images_NHWC, plan.owners),
        clip_N=matched_N,
        mismatched_N=mismatched_N,
        named_N=named(perceiver.describe(list(images_NHWC), [owner.keywords for owner in plan.owners]), plan.owners, kinds),
        embedding_ND=seen.embedding_ND,
        features_NF=seen.features_NF if features is clip else features.see(images_NHWC).features_NF,
    )


def named(descriptions: Sequence[Description], samples: Sequence[Sample], kinds: Sequence[str]) -> NDArray[np.float64]:
    """Share of the kinds that a sample's text names which perception sees in its image (N); NaN where the text names none.

    On real images it is the naming accuracy of perception; on generated ones what is lost in drawing counts too.
    """
    found = []
    for description, sample in zip(descriptions, samples, strict=True):
        asked = set(kinds) & set(re.findall(r"\w+", sample.text.lower()))
        found.append(len(asked & set(description.objects)) / len(asked) if asked else np.nan)
    return np.array(found, np.float64)


def _mean(values_N: NDArray[np.float64]) -> float | None:
    """Mean of the finite values; None without any."""
    finite_N = values_N[np.isfinite(values_N)]
    return float(finite_N.mean()) if finite_N.size else None


def summarize(measured: Mapping[str, Measured], plan: Plan, real: Real, recipe: Recipe) -> dict[str, Any]:
    """Rows, paired differences and reasons: the numbers of ``generation.json``.

    Args:
        measured: base, high_kpi, boigsd, in this order, the champion if there is one, and the rows of `REWRITTEN` if the plan has such
            prompts.
        plan: prompts and seeds that all of them share.
        real: real HIGH images.
        recipe: what is enabled, and the seed.
    """
    settings = recipe.evaluation
    absent: dict[str, str] = {}
    rows: dict[str, dict[str, float | int | None] | None] = {}
    distances = _Distances(real, len(plan.seeds), settings.fid_min, recipe.seed)
    for model, found in measured.items():
        rows[model] = _row(model, found, plan.images_per_prompt, distances, settings, absent)
    for model, source in BEST.items():
        if settings.best_of_n is None:
            absent[f"generation.{model}"] = "evaluation.best_of_n is not set"
        elif settings.best_of_n > plan.images_per_prompt:
            absent[f"generation.{model}"] = f"evaluation.images_per_prompt {plan.images_per_prompt} is below best_of_n {settings.best_of_n}"
        else:
            best = best_of_n(measured[source].reward_N, plan, settings.best_of_n)
            rows[model] = _row(model, measured[source].take(best), len(best) // len(plan.samples), distances, settings, absent)
    absent |= {f"generation.{model}": "evaluation.rewrite is none" for model in REWRITTEN if model not in measured}
    pairs = [(model, "base") for model in measured if model != "base"]
    if CHAMPION in measured:
        pairs.append(("boigsd", CHAMPION))
    if REWRITTEN.keys() <= measured.keys():
        pairs.append(("boigsd_prompt_rewrite", "prompt_rewrite"))
    return {
        "generation": {model: rows.get(model) for model in dict.fromkeys([*MODELS, *rows])},
        "paired": {f"{ours}-{theirs}": paired(measured[ours], measured[theirs], plan, recipe) for ours, theirs in pairs},
        "floors": {**distances.floors(), "named": _mean(real.named_H)},
        "absent": absent,
    }


def best_of_n(reward_N: NDArray[np.float64], plan: Plan, n: int) -> NDArray[np.intp]:
    """Index of the best of each ``n`` successive images of a prompt, by reward; a rest that is smaller than ``n`` is left out."""
    groups = plan.images_per_prompt // n
    grouped = np.arange(len(reward_N)).reshape(len(plan.samples), plan.images_per_prompt)[:, : groups * n].reshape(-1, n)
    winners: NDArray[np.intp] = grouped[np.arange(len(grouped)), reward_N[grouped].argmax(axis=1)]
    return winners


def paired(candidate: Measured, base: Measured, plan: Plan, recipe: Recipe) -> dict[str, dict[str, float | int] | None]:
    """Mean differences from ``base``, same prompt and same noise, with 95 % intervals clustered by prompt; None without a judge."""
    clusters = [sample.id for sample in plan.owners]
    found: dict[str, dict[str, float | int] | None] = {}
    for name in PAIRED:
        ours, theirs = candidate.values(name), base.values(name)
        options = {"resamples": recipe.evaluation.bootstrap, "seed": recipe.seed}
        found[name] = None if ours is None or theirs is None else paired_difference(ours, theirs, clusters, **options).as_json()
    return found


class _Distances:
    """Distances of sets of images from real ones, and what two halves of the real ones give.

    FID compares ``fid_n`` images a side: as many as are generated, at most half of the real ones; 0 where that is below ``fid_min``.
    """

    def __init__(self, real: Real, generated: int, fid_min: int, seed: int) -> None:
        real_NF = real.features_HF
        order = np.random.default_rng([seed, _EVALUATION_STREAM, 2]).permutation(len(real_NF))
        self._real = real
        self._real_NF, self._half, self._seed = real_NF[order], len(real_NF) // 2, seed
        n = min(self._half, generated)
        self._fid_n = n if n >= fid_min else 0

    def kid(self, features_NF: NDArray[np.float64]) -> float | None:
        return kid(self._real_NF, features_NF, self._seed) if min(len(self._real_NF), len(features_NF)) >= 2 else None

    def fid(self, features_NF: NDArray[np.float64]) -> float | None:
        n = self._fid_n
        if not 2 <= n <= len(features_NF):
            return None
        spread_n = np.linspace(0, len(features_NF) - 1, n).round().astype(int)  # evenly over the prompts
        return fid(self._real_NF[:n], features_NF[spread_n])

    def novelty(self, embedding_ND: NDArray[np.float64]) -> float | None:
        return novelty(embedding_ND, self._real.embedding_TD) if len(self._real.embedding_TD) else None

    def floors(self) -> dict[str, float | int | None]:
        """Real against real: KID of the two halves, FID at the n of the models' own, novelty of held-out images."""
        halves, n = (self._real_NF[: self._half], self._real_NF[self._half :]), self._fid_n
        return {
            "kid": kid(*halves, self._seed) if self._half >= 2 else None,
            "fid": fid(halves[0][:n], halves[1][:n]) if n >= 2 else None,
            "fid_n": n,
            "novelty": self.novelty(self._real.embedding_HD),
            "trained": len(self._real.embedding_TD),
            "real": len(self._real_NF),
            "features": int(self._real_NF.shape[1]),
        }


def _row(
    model: str, found: Measured, per_prompt: int, distances: _Distances, settings: Evaluation, absent: dict[str, str]
) -> dict[str, float | int | None]:
    reasons = {
        "judge": "evaluation.judge is not set",
        "kid": "fewer than 2 images",
        "fid": f"fewer than evaluation.fid_min = {settings.fid_min} generated images, or real ones for each of two halves",
        "aesthetic": _NO_AESTHETIC,
        "diversity": "one image a prompt",
        "novelty": "the training split has no HIGH image",
        "named": "no prompt names one of perception.kinds",
    }
    embedding_PKD = found.embedding_ND.reshape(-1, per_prompt, found.embedding_ND.shape[1])
    matched, margin = float(found.clip_N.mean()), float((found.clip_N - found.mismatched_N).mean())
    row: dict[str, float | int | None] = {
        "reward": float(found.reward_N.mean()),
        "judge": None if found.judge_N is None else float(found.judge_N.mean()),
        "kid": distances.kid(found.features_NF),
        "fid": distances.fid(found.features_NF),
        "clip": matched,
        "aesthetic": None,
        "diversity": diversity(embedding_PKD) if per_prompt > 1 else None,
        "diversity_across": diversity_across(embedding_PKD),
        "novelty": distances.novelty(found.embedding_ND),
        "n": len(found.reward_N),
        "clip_margin": margin,
        "named": _mean(found.named_N),
    }
    absent.update({f"generation.{model}.{name}": reasons[name] for name, value in row.items() if value is None})
    return row
