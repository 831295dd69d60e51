"""What a team lead asks first: is the aligned model better, by how much, how sure are we, and did
it keep to its prompts?

Read off ``report.json`` alone, so that the page, the terminal and people's own scripts say the
same. Decides nothing: promotion has its own gates. Leaves out: layout (see `page`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from boig_core.config import Promotion

State = Literal["good", "bad", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One answer.

    Attributes:
        title: what was asked.
        value: the number, for display.
        detail: interval and what it is about, in a few words.
        state: whether that is good; ``unknown`` when it was not measured.
    """

    title: str
    value: str
    detail: str
    state: State


def findings(report: Mapping[str, Any], promotion: Promotion) -> list[Finding]:
    """Reward, judge, prompt, diversity, whether the reward means anything, and the judge's word on
    the champion where there is one."""
    answers = [
        _gain(
            report,
            "reward",
            "Reward gain",
            "over base, in nats" if report["reward"]["name"] == "contrast" else "over base",
        ),
        _gain(report, "judge", "Judge gain", "over base, by a judge that took no part in training"),
        _kept(
            report,
            "clip_margin",
            "Prompt kept",
            "of the base's CLIP margin",
            promotion.min_clip_margin,
        ),
        _kept(report, "diversity", "Diversity kept", "of the base's", promotion.min_diversity),
        _validity(report),
    ]
    if "boigsd-champion" in report["paired"]:
        answers.append(_gain(report, "judge", "Over the champion", "by the same judge", "champion"))
    return answers


def headline(answers: list[Finding]) -> str:
    """One sentence that says whether BoigSD is better than the base."""
    reward, judge, prompt = answers[0].state, answers[1].state, answers[2].state
    # The reward alone proves little, since it was trained on: a judge that disagrees outweighs it.
    if reward == "good" and judge in {"good", "unknown"}:
        start = "BoigSD beats the base model on its reward" + (
            " and on the held-out judge" if judge == "good" else "; nobody else judged"
        )
    elif reward == "good":
        start = "BoigSD raised its own reward, but the held-out judge does not confirm it"
    elif judge == "good":
        start = "The held-out judge prefers BoigSD, though its own reward did not clearly rise"
    else:
        start = "BoigSD is not clearly better than the base model"
    return (
        start
        + {
            "good": ", and it keeps to its prompts.",
            "bad": ", but it drifts from its prompts.",
            "unknown": ".",
        }[prompt]
    )


def _gain(
    report: Mapping[str, Any], measure: str, title: str, detail: str, over: str = "base"
) -> Finding:
    row = (report["paired"].get(f"boigsd-{over}") or {}).get(measure)
    if row is None:
        return Finding(
            title,
            "not measured",
            report["absent"].get(f"generation.boigsd.{measure}", ""),
            "unknown",
        )
    span = f"95 % interval {row['low']:+.2f} to {row['high']:+.2f}"
    return Finding(
        title, f"{row['mean']:+.2f}", f"{span}, {detail}", "good" if row["low"] > 0 else "bad"
    )


def _kept(
    report: Mapping[str, Any], measure: str, title: str, detail: str, least: float
) -> Finding:
    ours, base = (
        (report["generation"].get(model) or {}).get(measure) for model in ("boigsd", "base")
    )
    # A share of nothing, or of a negative margin, has no meaning.
    if ours is None or base is None or base <= 0:
        return Finding(title, "not measured", detail, "unknown")
    share = ours / base
    return Finding(
        title,
        f"{share:.0%}",
        f"{detail}; at least {least:.0%} is asked",
        "good" if share >= least else "bad",
    )


def _validity(report: Mapping[str, Any]) -> Finding:
    name = report["reward"]["name"]
    row = report["reward_validity"][name]
    title, auc, span = "Reward's AUC", row["auc_high_vs_low"], row["auc_interval"]
    # No interval is no evidence that the reward means anything, so nothing good is said of it.
    if span is None:
        missing = "auc_high_vs_low" if auc is None else "auc_interval"
        return Finding(
            title,
            "undefined" if auc is None else f"{auc:.2f}",
            report["absent"][f"reward_validity.{name}.{missing}"],
            "bad",
        )
    detail = f"95 % interval {span[0]:.2f} to {span[1]:.2f}: {name} tells high from low on real test images; 0.5 is chance"
    return Finding(title, f"{auc:.2f}", detail, "good" if span[0] > 0.5 else "bad")
