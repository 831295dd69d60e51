"""Variants of an alignment side by side: paired differences of their images, seeds of one variant
together, what each has cost.

Every evaluation must have asked the same: then two images of one prompt and one noise differ by the
variant alone. Intervals are clustered by prompt and say nothing of how trainings differ by their
seed; where a variant has several seeds, each is shown. Imports no torch. Leaves out: evaluating
(see `generation`), the page (see `comparison_page`), and deciding anything. Shape letter: N images
of a variant.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.errors import BoigError, CorruptError, InputError
from boig_core.evaluation.measure.image_rows import Images
from boig_core.evaluation.measure.intervals import PairedDifference, paired_difference
from boig_core.storage import store

COMPARISON_FILE: Final = "comparison.json"
MEASURES: Final = ("reward", "judge", "clip_margin", "diversity")
"""What is compared: a value for each image, whose mean is the report's. Diversity: an image's
distance from the others of its prompt."""
_SAME: Final = ("judge", "clip", "guidance", "sampling_steps")
"""Settings of an evaluation that must be the same for its numbers to pair."""
_REASONS: Final = {
    "over_reference": "is what the others are compared with",
    "reward": "the evaluations measure by different rewards",
    "judge": "evaluation.judge is not set",
    "diversity": "an evaluation is older than diversity by image; run evaluate_sd again",
    "seed": "the model came without its run",
    "monitors": "its training has reported none",
}
"""Why a number is null, by its name."""

Values = NDArray[np.float64] | None


@dataclass(frozen=True)
class Variant:
    """A variant, as it was trained and evaluated.

    Attributes:
        name: what the experiment calls it.
        settings: of its evaluation.
        inputs: digest of each input of its evaluation, by name.
        boigsd: its images.
        base: those of the base model in the same evaluation.
        recipe: of its alignment; None: not known, since the model came without its run.
        monitors: line of each monitor that tripped in its training, by name; None: not known.
        cost: what it has used, as `boig_core.storage.runs.summarize` gives it.
    """

    name: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    boigsd: Images
    base: Images
    recipe: Recipe | None
    monitors: Mapping[str, str] | None
    cost: Mapping[str, Any]


def compare(
    variants: Sequence[Variant], failed: Mapping[str, str], *, resamples: int, seed: int
) -> dict[str, Any]:
    """The comparison, as ``comparison.json`` keeps it.

    Args:
        variants: those that were evaluated, at least one; the first is what the others are held
            against, with its other seeds.
        failed: reason by name of those that were not.
        resamples: draws of each interval.
        seed: of the draws.

    Returns:
        ``reference``, ``settings``, ``groups`` (variants that differ in seed alone) and
        ``variants``, each with its differences ``over_base`` and ``over_reference`` by measure,
        ``changes`` (recipe fields that are not the same for all), ``failed`` and ``absent``: the
        reason of each null, by dotted path.

    Raises:
        InputError: two evaluations do not pair; names what differs.
    """
    # First of all: below, one variant's prompts stand as the clusters of all.
    check_pairs(variants)
    groups, first = by_seed(variants), variants[0]
    reference = next(iter(groups.values()))
    clusters = first.boigsd.samples
    # Two evaluations may measure by two rewards, whose difference means nothing.
    one_reward = len({_yardstick(variant) for variant in variants}) == 1
    span = functools.partial(paired_difference, clusters=clusters, resamples=resamples, seed=seed)
    compared = tuple(name for name in MEASURES if one_reward or name != "reward")

    def differences(members: Sequence[Variant]) -> dict[str, Any]:
        return _differences(members, reference, span, compared)

    names = {variant.name: group for group, members in groups.items() for variant in members}
    measured = {
        "groups": {
            group: {"variants": [member.name for member in members], **differences(members)}
            for group, members in groups.items()
        },
        "variants": {
            member.name: {"group": names[member.name], **_about(member), **differences([member])}
            for member in variants
        },
    }
    sizes = {"images": len(clusters), "prompts": len(set(clusters)), "one_reward": one_reward}
    recipes = {variant.name: variant.recipe for variant in variants if variant.recipe is not None}
    return {
        "schema_version": 1,
        "reference": names[first.name],
        "settings": {**first.settings, **sizes},
        **measured,
        "changes": changes(recipes),
        "failed": dict(failed),
        "absent": _absent(measured),
    }


def _absent(measured: Mapping[str, Any]) -> dict[str, str]:
    """The reason of each null by its path, but for costs, which are told where they are known."""
    return {
        path: _REASONS[path.rsplit(".", 1)[-1]]
        for path, value in _leaves(measured)
        # Of ``variants.NAME.cost``: a variant may be named so, too.
        if value is None and path.split(".")[2] != "cost"
    }


def _about(variant: Variant) -> dict[str, Any]:
    means = {
        measure: None if values_N is None else float(values_N.mean())
        for measure, values_N in variant.boigsd.values.items()
    }
    return {
        "seed": variant.recipe and variant.recipe.seed,
        "means": means,
        "monitors": variant.monitors,
        "cost": variant.cost,
    }


def _differences(
    members: Sequence[Variant],
    reference: Sequence[Variant],
    span: Callable[..., PairedDifference],
    comparable: Sequence[str],
) -> dict[str, Any]:
    """Differences of the mean over some variants, which are seeds of one; none from the reference
    for those that belong to it."""

    def over(ours_N: Values, theirs_N: Values) -> dict[str, float | int] | None:
        return None if ours_N is None or theirs_N is None else span(ours_N, theirs_N).as_json()

    def mean(of: Sequence[Variant], images: str, measure: str) -> Values:
        # Image by image before the interval: seeds of one recipe share prompts and noise, and are
        # no further clusters.
        return _mean([getattr(one, images).values[measure] for one in of])

    gains = {
        measure: over(mean(members, "boigsd", measure), mean(members, "base", measure))
        for measure in MEASURES
    }
    # Held against a mean that it is part of, a seed of the reference would come out too near.
    if members[0].name in {one.name for one in reference}:
        return {"over_base": gains, "over_reference": None}
    theirs = {
        measure: mean(reference, "boigsd", measure) if measure in comparable else None
        for measure in MEASURES
    }
    return {
        "over_base": gains,
        "over_reference": {
            measure: over(mean(members, "boigsd", measure), theirs[measure]) for measure in MEASURES
        },
    }


def check_pairs(variants: Sequence[Variant]) -> None:
    """Whether each evaluation has asked what the first has asked.

    Raises:
        InputError: naming two variants, and what differs.
    """
    first = variants[0]
    for other in variants[1:]:
        theirs = _asked(other)
        for what, ours in _asked(first).items():
            if ours != theirs[what]:
                difference = _told(ours, theirs[what])
                remedy = "evaluate both by one recipe on one dataset, as boig_experiments does"
                raise InputError(
                    f"variants {first.name} and {other.name}",
                    f"do not pair: {what} differs ({difference})",
                    remedy,
                )


def by_seed(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    """Variants that differ in seed alone, under the name of the first of them, in the order of the
    first."""
    groups: dict[str, list[Variant]] = {}
    keys: dict[str, str] = {}
    for variant in variants:
        key = (
            # Without a recipe nobody knows of which variant it is a seed.
            variant.name
            if variant.recipe is None
            else json.dumps(variant.recipe.model_dump(mode="json", exclude={"name", "seed"}))
        )
        members = groups.setdefault(keys.setdefault(key, variant.name), [])
        if (
            members
            and variant.recipe is not None
            and any(other.recipe and other.recipe.seed == variant.recipe.seed for other in members)
        ):
            # The same recipe twice: another BoigLLM, or made anew.
            members = groups.setdefault(variant.name, [])
        members.append(variant)
    return groups


def changes(recipes: Mapping[str, Recipe]) -> dict[str, dict[str, Any]]:
    """Each field of the recipe that is not the same for all, by dotted path: its value by
    variant."""
    flat = {
        name: dict(_leaves(recipe.model_dump(mode="json", exclude={"name"})))
        for name, recipe in recipes.items()
    }
    # Of all recipes: a key may stand in some alone, such as a formulation's weight.
    paths = list(dict.fromkeys(path for fields in flat.values() for path in fields))
    values_of = {path: {name: fields.get(path) for name, fields in flat.items()} for path in paths}
    return {
        path: values
        for path, values in values_of.items()
        if len({json.dumps(value) for value in values.values()}) > 1
    }


def headline(comparison: Mapping[str, Any]) -> str:
    """One sentence: which variant is clearly better than the reference, by the held-out judge where
    there is one."""
    reference, groups = comparison["reference"], comparison["groups"]
    # The judge goes first, for every variant was trained on its own reward.
    judged = groups[reference]["over_base"]["judge"] is not None
    measure, witness = (
        ("judge", "the held-out judge")
        if judged
        else ("reward", "its reward alone; nobody else judged")
    )
    others = {
        name: row["over_reference"][measure] for name, row in groups.items() if name != reference
    }
    missing = f" {len(comparison['failed'])} failed." if comparison["failed"] else ""
    if not others:
        return f"Nothing but {reference} was evaluated, so there is nothing to compare.{missing}"
    if any(row is None for row in others.values()):
        return f"Neither a judge nor one common reward says which variant is best.{missing}"
    better = sorted(
        # Better means the whole interval: a mean above 0 may be noise.
        (name for name, row in others.items() if row["low"] > 0),
        key=lambda name: -others[name]["mean"],
    )
    if better:
        also = f"; so is {', '.join(better[1:])}" if len(better) > 1 else ""
        return f"{better[0]} is clearly better than {reference} by {witness}: {others[better[0]]['mean']:+.2f}{also}.{missing}"
    return f"No variant is clearly better than {reference} by {witness}.{missing}"


def read_comparison(uri: str) -> dict[str, Any]:
    """Comparison of an output of the stage compare.

    Raises:
        CorruptError: it cannot be read.
    """
    target = store.join(uri, COMPARISON_FILE)
    try:
        comparison = json.loads(store.read_bytes(target))
        # The sentence reads keys that every reader needs: a file that gives none is no comparison.
        headline(comparison)
    # Many of boig's errors are ValueErrors as well; those have said what is wrong.
    except BoigError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise CorruptError(
            target, "is not a comparison", "give the folder that the stage compare has published"
        ) from exc
    return dict(comparison)


def _asked(variant: Variant) -> dict[str, Any]:
    """What an evaluation has asked, by what a person calls it."""
    return {
        "dataset": variant.inputs.get("dataset"),
        **{name: variant.settings.get(name) for name in _SAME},
        "judging predictor": variant.inputs.get("judge"),
        "prompts": list(zip(variant.boigsd.samples, variant.boigsd.prompts, strict=True)),
        "seeds": list(variant.boigsd.seeds),
    }


def _told(ours: Any, theirs: Any) -> str:
    if not (isinstance(ours, list) and isinstance(theirs, list)):
        return f"{str(ours)[:40]} and {str(theirs)[:40]}"
    if len(ours) != len(theirs):
        return f"{len(ours)} images and {len(theirs)}"
    at = next(
        index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]
    )
    return f"image {at}: {str(ours[at])[:60]} and {str(theirs[at])[:60]}"


def _yardstick(variant: Variant) -> str:
    """By which reward an evaluation measures."""
    # One name of a reward means two numbers where BoigLLM or the calibration differ.
    made_of = {name: variant.inputs.get(name) for name in ("boigllm", "calibration", "predictor")}
    return json.dumps(
        [variant.settings.get("reward"), variant.settings.get("reward_clip"), made_of]
    )


def _mean(values: Sequence[Values]) -> Values:
    """Mean over variants, image by image (N); None where one was not measured."""
    known = [values_N for values_N in values if values_N is not None]
    # A mean over some of the seeds would be another variant's.
    return np.mean(known, axis=0) if len(known) == len(values) else None


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
