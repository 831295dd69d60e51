"""Gates: what a candidate must show before a person is asked. Pure functions of report.json, the
candidate's own recipe, the policy's floors, and what the registry says.

A number that is missing fails its gate: no evidence, no promotion. Two gates stand aside where
there is nothing to compare, and say so: the champion where there is none, and FID where there are
too few images for it. Every gate is listed, also one that is not asked; one that asks for less than
a recipe does by default is marked. Leaves out: reading all this (see `request`) and asking a person
(see `approval`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from boig_core.config import Promotion, Recipe, Reward
from boig_core.config.policy import Gates

CANDIDATE: Final = "boigsd"
BASE: Final = "base"
CHAMPION: Final = "champion"
_SPAN: Final = "lower end of the 95 % interval over prompts, same prompts and noise"
_SHARE: Final = "share of the base's"


@dataclass(frozen=True)
class Gate:
    """One gate.

    Attributes:
        name: what is asked.
        value: what was measured; None: not measured.
        rule: how the value must stand to the limit.
        limit: the recipe's, or the policy's where that is stricter; None: not asked.
        passed: the verdict.
        note: what the value is, or why there is none.
        loosened: whether a recipe asks for more by default.
    """

    name: str
    value: float | None
    rule: Literal[">", "≥", "≤"]
    limit: float | None
    passed: bool
    note: str
    loosened: bool = False


@dataclass(frozen=True)
class PromotionEvidence:
    """What is known of a candidate beside its report.

    Attributes:
        champion: URI of the registry's champion; None: there is none yet.
        compared: URI of the champion that the evaluation has compared with; None: with none.
        candidate: URI of the candidate.
        monitors: line of each monitor that tripped in its training, by name; None: its training has
            reported none.
    """

    champion: str | None
    compared: str | None
    candidate: str
    monitors: Mapping[str, str] | None


def raise_to_floors(recipe: Recipe, floors: Gates) -> Recipe:
    """A recipe whose gates ask for no less than the policy does. Its own may: the policy may be
    newer than the model."""
    own = recipe.promotion
    names = ("min_reward_gain", "min_judge_gain", "min_champion_gain")
    update: dict[str, Any] = {
        name: _strictest(max, getattr(own, name), getattr(floors, name))
        for name in (*names, "min_clip_margin", "min_diversity")
    }
    update["max_fid"] = _strictest(min, own.max_fid, floors.max_fid)
    update["silent"] = (*own.silent, *(name for name in floors.silent if name not in own.silent))
    least = _strictest(max, recipe.reward.min_auc, floors.min_auc)
    return recipe.model_copy(
        update={
            "promotion": own.model_copy(update=update),
            "reward": recipe.reward.model_copy(update={"min_auc": least}),
        }
    )


def evaluate_gates(
    report: Mapping[str, Any], recipe: Recipe, evidence: PromotionEvidence
) -> list[Gate]:
    """Evaluate every gate, also those that are not asked.

    Args:
        report: content of report.json; ``paired`` holds differences on the same prompts and seeds,
            with intervals.
        recipe: the limits.
        evidence: of the registry and of the training.
    """
    asked, usual = recipe.promotion, Promotion()
    least_auc, usual_auc = recipe.reward.min_auc, Reward().min_auc
    judge, champion, fid = asked.min_judge_gain, asked.min_champion_gain, asked.max_fid
    # A share that need not be kept at all is not asked.
    margin, diversity = asked.min_clip_margin or None, asked.min_diversity or None
    gates = [
        _gain(report, "reward", BASE, asked.min_reward_gain),
        _gain(report, "judge", BASE, judge),
        _over_champion(report, champion, evidence),
        _kept(report, "CLIP margin kept", "clip_margin", margin),
        _kept(report, "diversity kept", "diversity", diversity),
        _fid(report, fid),
        _calibrated(report, least_auc),
        _silent(asked.silent, evidence.monitors),
    ]
    loosened = [
        asked.min_reward_gain < usual.min_reward_gain,
        _is_less(judge, usual.min_judge_gain),
        _is_less(champion, usual.min_champion_gain),
        _is_less(margin, usual.min_clip_margin),
        _is_less(diversity, usual.min_diversity),
        usual.max_fid is not None and (fid is None or fid > usual.max_fid),
        _is_less(least_auc, usual_auc),
        bool(set(usual.silent) - set(asked.silent)),
    ]
    return [replace(gate, loosened=less) for gate, less in zip(gates, loosened, strict=True)]


def table(gates: list[Gate]) -> str:
    """The gates as a Markdown table, for the approval form; one that stands aside has a dash for
    its verdict. A limit stays in one line."""
    rows = []
    for gate in gates:
        value = "–" if gate.value is None else f"{gate.value:.4g}"
        limit = "–" if gate.limit is None else f"{gate.rule}\u00a0{gate.limit:.4g}"
        less = " **loosened**" if gate.loosened else ""
        verdict = "**no**" if not gate.passed else "–" if gate.value is None else "yes"
        note = " ".join(gate.note.replace("|", "/").split())
        rows.append(f"| {gate.name} | {value} | {limit}{less} | {verdict} | {note} |")
    return "\n".join(
        ["| gate | value | limit | passed | what the value is |", "|---|---:|---:|---|---|", *rows]
    )


def in_words(gate: Gate) -> str:
    """A gate as a person would say it: what was measured, what is asked, the verdict."""
    verdict = "passed" if gate.passed else "FAILED"
    if gate.limit is None:
        return f"{gate.name}: not asked{' (loosened)' if gate.loosened else ''}"
    if gate.loosened:
        verdict += " (loosened)"
    if gate.value is None:
        if not gate.passed:
            return f"{gate.name}: {gate.note}: {verdict}"
        kind, _, reason = gate.note.partition(": ")
        return (
            f"{gate.name}: not asked, {reason}"
            if kind == "not applicable"
            else f"{gate.name}: not measured, so not asked"
        )
    if gate.name.startswith("monitors"):
        note = f" ({gate.note})" if gate.value else ""
        return f"{gate.name}: {gate.value:.0f}, none allowed: {verdict}{note}"
    bound = {">": "more than", "≥": "at least", "≤": "at most"}[gate.rule]
    if gate.note == _SHARE:
        measure, value, limit = gate.name.removesuffix(" kept"), 100 * gate.value, 100 * gate.limit
        return f"{measure} {value:.0f} % of the base's, {bound} {limit:.0f} % asked: {verdict}"
    # The lower end of an interval: what is measured is at least so much.
    return f"{gate.name}: at least {gate.value:.3g} (95 % interval), {bound} {gate.limit:.3g} asked: {verdict}"


def _gain(report: Mapping[str, Any], measure: str, over: str, limit: float | None) -> Gate:
    if limit is None:
        return _not_asked(f"{measure} over {over}", ">")
    # The interval's lower end and not the mean: chance must not pass for a gain.
    row = ((report.get("paired") or {}).get(f"{CANDIDATE}-{over}") or {}).get(measure) or {}
    value = _finite(row.get("low"))
    missing = f"not measured: {_reason(report, f'generation.{CANDIDATE}.{measure}')}"
    return Gate(
        f"{measure} over {over}",
        value,
        ">",
        limit,
        value is not None and value > limit,
        _SPAN if value is not None else missing,
    )


def _over_champion(
    report: Mapping[str, Any], limit: float | None, evidence: PromotionEvidence
) -> Gate:
    name = f"judge over {CHAMPION}"
    if limit is None:
        return _not_asked(name, ">")
    if evidence.champion is None:
        return Gate(name, None, ">", limit, True, "not applicable: this is the first model")
    if evidence.champion == evidence.candidate:
        return Gate(name, None, ">", limit, True, "not applicable: it is the champion already")
    # The champion has become another since the evaluation: a model that is no longer served is no
    # yardstick.
    if evidence.compared != evidence.champion:
        met = evidence.compared or "no champion"
        return Gate(
            name,
            None,
            ">",
            limit,
            False,
            f"not measured: evaluated beside {met}, the champion is {evidence.champion}; run boig_sd",
        )
    return _gain(report, "judge", CHAMPION, limit)


def _kept(report: Mapping[str, Any], name: str, measure: str, limit: float | None) -> Gate:
    if limit is None:
        return _not_asked(name, "≥")
    value = _share(report, measure)
    note = (
        _SHARE
        if value is not None
        else f"not measured: {_reason(report, f'generation.{CANDIDATE}.{measure}')}"
    )
    return Gate(name, value, "≥", limit, value is not None and value >= limit, note)


def _fid(report: Mapping[str, Any], limit: float | None) -> Gate:
    if limit is None:
        return _not_asked("FID", "≤")
    value = _share(report, "fid")
    if value is None:
        return Gate(
            "FID",
            None,
            "≤",
            limit,
            True,
            f"not asked: {_reason(report, f'generation.{CANDIDATE}.fid')}",
        )
    return Gate("FID", value, "≤", limit, value <= limit, _SHARE)


def _calibrated(report: Mapping[str, Any], limit: float | None) -> Gate:
    if limit is None:
        return _not_asked("reward's AUC", ">")
    reward = (report.get("reward") or {}).get("name")
    row = (report.get("reward_validity") or {}).get(reward) or {}
    value = _finite((row.get("auc_interval") or [None])[0])
    note = f"lower end of the 95 % interval: {reward} tells HIGH from LOW on real test images; 0.5 is chance"
    missing = f"not measured: {_reason(report, f'reward_validity.{reward}.auc_interval')}"
    return Gate(
        "reward's AUC",
        value,
        ">",
        limit,
        value is not None and value > limit,
        note if value is not None else missing,
    )


def _silent(names: tuple[str, ...], monitors: Mapping[str, str] | None) -> Gate:
    if not names:
        return _not_asked("monitors tripped", "≤")
    asked = ", ".join(names)
    if monitors is None:
        return Gate(
            "monitors tripped",
            None,
            "≤",
            0,
            False,
            f"not known: its training has reported none of {asked}",
        )
    tripped = [monitors[name] for name in names if name in monitors]
    return Gate(
        "monitors tripped",
        float(len(tripped)),
        "≤",
        0,
        not tripped,
        "; ".join(tripped) or f"of {asked}",
    )


def _not_asked(name: str, rule: Literal[">", "≥", "≤"]) -> Gate:
    return Gate(name, None, rule, None, True, "not asked")


def _strictest(
    choose: Callable[[float, float], float], own: float | None, floor: float | None
) -> float | None:
    """Of two limits the one that asks for more; None asks for nothing."""
    if own is None or floor is None:
        return floor if own is None else own
    return choose(own, floor)


def _is_less(least: float | None, usual: float | None) -> bool:
    """Whether a least value asks for less than it usually does."""
    return usual is not None and (least is None or least < usual)


def _share(report: Mapping[str, Any], measure: str) -> float | None:
    """The candidate's value as a share of the base's; None when either is missing or the base's is
    not positive."""
    rows = report.get("generation") or {}
    candidate, base = (_finite((rows.get(model) or {}).get(measure)) for model in (CANDIDATE, BASE))
    return candidate / base if candidate is not None and base is not None and base > 0 else None


def _reason(report: Mapping[str, Any], path: str) -> str:
    return str((report.get("absent") or {}).get(path) or "the report has no such number")


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
